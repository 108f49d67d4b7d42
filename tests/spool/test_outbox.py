from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import pytest

from fiscus.client.backoff import Backoff
from fiscus.contract import PutAccount, PutBudget, Refused, Request, Reserve
from fiscus.contract.errors import Conflict, SpoolUnavailable, Unknown
from fiscus.contract.queries import ListUsage, ReadAccount, ReadHold
from fiscus.sdk import Treasury
from fiscus.spool.spool import Spool
from fiscus.treasury.local import LocalTreasury
from tests.sdk.conftest import patient


@pytest.fixture
async def books(local: LocalTreasury) -> LocalTreasury:
    """``agent:x`` with 1,000 tokens, and holds ``h0`` … ``h9`` of 50 each."""
    commands = [
        PutAccount(account="agent:x"),
        PutBudget(account="agent:x", unit="tokens", limit=1_000),
        *(Reserve(id=f"h{n}", account="agent:x", amounts={"tokens": 50}) for n in range(10)),
    ]
    outcomes = await local.execute_many([Request(command=command) for command in commands])
    assert not [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    return local


async def balance(local: LocalTreasury) -> tuple[int, int]:
    """Spent and held."""
    view = await local.read(ReadAccount(account="agent:x"))
    found = view.account.budgets[0].balance
    return found.spent, found.held


async def booked(local: LocalTreasury) -> list[tuple[str, int]]:
    """Calls in the order in which they were booked, each once."""
    page = await local.read(ListUsage(limit=1_000, min_seq=(await local.readiness()).head_seq))
    return [(usage.hold, usage.amounts["tokens"]) for usage in page.usage if usage.amounts.get("calls")]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def emptied(treasury: Treasury) -> None:
    async def is_empty() -> bool:
        return treasury.spooled == 0

    await until(is_empty)


async def test_what_cannot_be_delivered_waits_and_is_booked_in_order_when_the_service_is_back(books, proxy, distant):
    # covers R53, R49, E11, E14
    proxy.is_down = True
    proxy.cut()
    for n in range(5):
        assert await distant.settle(f"h{n}", {"tokens": n + 1}) is None
    assert await distant.release("h5") is None
    assert await distant.usage("agent:x", {"tokens": 100}, id="after the fact") is None
    assert distant.spooled == 7
    assert await balance(books) == (0, 500)

    proxy.is_down = False
    await emptied(distant)
    assert await balance(books) == (115, 200)
    assert await booked(books) == [*((f"h{n}", n + 1) for n in range(5)), ("after the fact", 100)]


async def test_what_is_new_waits_behind_what_waits_already(books, proxy, tmp_path):
    proxy.is_down = True
    treasury = patient(proxy.url, tmp_path, redelivery=Backoff(first_s=60, delay_s_max=60))
    assert await treasury.settle("h0", {"tokens": 1}) is None
    proxy.is_down = False
    assert await treasury.settle("h1", {"tokens": 2}) is None
    assert treasury.spooled == 2
    await treasury.close()
    assert await booked(books) == [("h0", 1), ("h1", 2)]


async def test_once_all_is_delivered_settlements_go_straight_to_the_ledger_again(books, proxy, distant):
    proxy.is_down = True
    proxy.cut()
    await distant.settle("h0", {"tokens": 1})
    proxy.is_down = False
    await emptied(distant)
    assert (await distant.settle("h2", {"tokens": 3})).state == "settled"


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
async def test_a_delivery_whose_reply_was_lost_is_repeated_with_the_same_ids_and_has_one_effect(
    books, proxy, distant, lost
):
    # covers E7, R50
    proxy.drop_replies = lost
    await distant.settle("h0", {"tokens": 7})
    await distant.usage("agent:x", {"tokens": 100}, id="once")
    await emptied(distant)
    assert await balance(books) == (107, 450)
    assert await booked(books) == [("h0", 7), ("once", 100)]


async def test_the_next_start_delivers_what_the_last_one_could_not(books, proxy, tmp_path):
    proxy.is_down = True
    first = patient(proxy.url, tmp_path)
    await first.settle("h0", {"tokens": 7})
    await first.close()
    assert await balance(books) == (0, 500)
    proxy.is_down = False
    async with patient(proxy.url, tmp_path) as second:
        await emptied(second)
    assert await balance(books) == (7, 450)
    assert list(tmp_path.glob("*.spool")) == []


async def test_closing_delivers_what_can_be_delivered(books, proxy, tmp_path):
    proxy.is_down = True
    treasury = patient(proxy.url, tmp_path)
    await treasury.settle("h0", {"tokens": 7})
    proxy.is_down = False
    await treasury.close()
    assert await balance(books) == (7, 450)


KILLED = """
import asyncio, os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.sdk.conftest import patient

async def main():
    treasury = patient({url!r}, Path({directory!r}))
    for n in range(5):
        await treasury.settle(f"h{{n}}", {{"tokens": n + 1}})
    await treasury.usage("agent:x", {{"tokens": 100}}, id="once")
    print("kept", treasury.spooled, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_after_kill_9_between_the_disk_and_the_delivery_all_is_booked_once(books, proxy, tmp_path):
    # covers R53, E11, E7
    proxy.is_down = True
    script = KILLED.format(path=sys.path, url=proxy.url, directory=str(tmp_path))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    said = b""
    async with asyncio.timeout(30):
        while not said.startswith(b"kept"):
            said = await process.stdout.readline()
    assert said == b"kept 6\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await balance(books) == (0, 500)

    proxy.is_down = False
    proxy.drop_replies = 1
    async with patient(proxy.url, tmp_path) as treasury:
        await emptied(treasury)
    assert await balance(books) == (115, 250)
    assert await booked(books) == [*((f"h{n}", n + 1) for n in range(5)), ("once", 100)]


async def test_a_full_spool_is_told_and_what_it_holds_is_still_delivered(books, proxy, tmp_path):
    proxy.is_down = True
    treasury = patient(proxy.url, tmp_path)
    treasury._outbox._spool._records_max = 2
    await treasury.settle("h0", {"tokens": 1})
    await treasury.settle("h1", {"tokens": 2})
    with pytest.raises(SpoolUnavailable, match="no more fit"):
        await treasury.settle("h2", {"tokens": 3})
    proxy.is_down = False
    await emptied(treasury)
    assert (await treasury.settle("h2", {"tokens": 3})).state == "settled"
    await treasury.close()
    assert await balance(books) == (6, 350)


async def test_a_refusal_of_what_was_spooled_is_kept_for_people_and_holds_nothing_up(books, proxy, distant, tmp_path):
    proxy.is_down = True
    proxy.cut()
    await distant.settle("unknown", {"tokens": 1})
    await distant.settle("h0", {"tokens": 2})
    proxy.is_down = False
    await emptied(distant)
    assert await balance(books) == (2, 450)
    (refused,) = (tmp_path / "spool").glob("*.refused")
    assert b'"unknown"' in refused.read_bytes()


async def test_a_refusal_is_raised_when_it_comes_at_once(books, distant):
    with pytest.raises(Unknown):
        await distant.settle("unknown", {"tokens": 1})
    await distant.settle("h0", {"tokens": 1})
    with pytest.raises(Conflict):
        await distant.release("h0")
    assert distant.spooled == 0


async def test_a_cancelled_settlement_is_booked_all_the_same(books, proxy, distant):
    # covers E14
    proxy.stall_replies = 1
    proxy.arrived.clear()
    task = asyncio.create_task(distant.settle("h0", {"tokens": 7}))
    await proxy.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await distant.close()
    assert await balance(books) == (7, 450)


@pytest.mark.filterwarnings("ignore")  # the program below ends without closing anything
async def test_a_settlement_that_is_cancelled_with_its_loop_is_on_the_disk(books, proxy, tmp_path):
    # covers E11, E14
    proxy.is_down = True

    def program() -> None:
        async def main() -> None:
            treasury = patient(proxy.url, tmp_path)
            task = asyncio.create_task(treasury.settle("h0", {"tokens": 7}))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()

        asyncio.run(main())

    await asyncio.to_thread(program)
    (file,) = tmp_path.glob("*.spool")
    assert b'"h0"' in file.read_bytes()


async def test_many_settlements_at_once_share_the_waits_for_the_disk(books, proxy, tmp_path):
    synced = 0

    def fsync(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        os.fsync(descriptor)

    proxy.is_down = True
    treasury = patient(proxy.url, tmp_path)
    treasury._outbox._spool._fsync = fsync
    await asyncio.gather(*(treasury.usage("agent:x", {"tokens": 1}, id=f"u{n}") for n in range(300)))
    assert treasury.spooled == 300
    assert synced < 100
    proxy.is_down = False
    await emptied(treasury)
    await treasury.close()
    assert (await balance(books))[0] == 300
    assert len(await booked(books)) == 300


async def test_a_ledger_in_this_process_that_cannot_take_a_settlement_gets_it_later(tmp_path):
    """The queue of the engine is full; the settlement is not lost, and not booked twice."""
    # covers R53
    from fiscus.stores import open_store
    from fiscus.treasury.engine import Engine

    engine = Engine(open_store(f"sqlite:///{tmp_path}/fiscus.db"), queue_max=1)
    async with Treasury(LocalTreasury(engine), Spool(tmp_path / "spool", "ledger")) as treasury:
        await treasury.put_account("agent:x")
        await treasury.put_budget("agent:x", "tokens", 1_000)
        results = await asyncio.gather(*(treasury.usage("agent:x", {"tokens": 1}, id=f"u{n}") for n in range(50)))
        assert None in results
        engine._queue_max = 10_000
        await emptied(treasury)
        (found,) = await treasury.balance("agent:x")
        assert found.spent == 50


async def test_the_state_of_a_hold_can_be_asked_for(books, distant):
    assert (await distant.hold_answer("h3")).state == "held"
    assert (await books.read(ReadHold(id="h3"))).hold == await distant.hold_answer("h3")
