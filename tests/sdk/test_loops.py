"""A treasury goes from one event loop to the next, and never serves two at a time."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fiscus
from fiscus.contract.errors import TreasuryError
from fiscus.contract.loops import ELSEWHERE
from fiscus.sdk import Treasury
from fiscus.treasury.engine import Errand
from tests.sdk.test_sync import Served


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


# Connections whose loop was closed before they were.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

Make = Callable[[], Treasury]


@pytest.fixture(params=["in process", "of a service"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    if request.param == "in process":
        yield lambda: fiscus.open(f"sqlite:///{tmp_path}/fiscus.db")
        return
    served = Served()
    yield lambda: fiscus.connect(served.url, spool_directory=tmp_path / "spool", timeout_s=20)
    served.stop()


async def use(treasury: Treasury) -> int:
    await treasury.put_account("a")
    await treasury.put_budget("a", "tokens", 1_000)
    async with treasury.hold("a", tokens=10) as hold:
        hold.settle({"tokens": 1})
    await asyncio.gather(*(treasury.usage("a", {"tokens": 1}) for _ in range(4)))
    (balance,) = await treasury.balance("a")
    assert (await treasury.readiness()).ready
    return balance.spent


def test_it_is_used_by_one_run_after_the_other(make):
    treasury = make()
    assert [asyncio.run(use(treasury)) for _ in range(3)] == [5, 10, 15]
    asyncio.run(treasury.close())


def test_a_loop_beside_another_one_that_is_open_is_told_so(make):
    treasury = make()
    first = asyncio.new_event_loop()
    assert first.run_until_complete(use(treasury)) == 5
    with pytest.raises(TreasuryError) as raised:
        asyncio.run(use(treasury))
    assert str(raised.value) == ELSEWHERE
    assert first.run_until_complete(use(treasury)) == 10
    first.run_until_complete(treasury.close())
    first.close()


def test_what_was_asked_in_a_loop_that_is_closed_holds_nobody_up_in_the_next(tmp_path):
    treasury = fiscus.open(f"sqlite:///{tmp_path}/fiscus.db")
    first = asyncio.new_event_loop()
    first.run_until_complete(use(treasury))
    may_decide = threading.Event()
    treasury._ledger.engine._enter(Errand(may_decide.wait))
    left = first.create_task(treasury.usage("a", {"tokens": 1}))
    for _ in range(3):
        first.run_until_complete(asyncio.sleep(0))
    first.close()

    async def use_beside_it() -> int:
        here = asyncio.create_task(use(treasury))
        for _ in range(5):
            await asyncio.sleep(0)
        may_decide.set()  # both in one batch, whose answers come to this loop
        return await asyncio.wait_for(here, 20)

    assert asyncio.run(use_beside_it()) == 11
    assert not left.done()
    left._log_destroy_pending = False
    asyncio.run(treasury.close())


def test_waiting_for_room_works_in_the_next_loop(tmp_path):
    treasury = fiscus.open(f"sqlite:///{tmp_path}/fiscus.db")

    async def wait_in_turn() -> None:
        await treasury.put_account("b")
        await treasury.put_budget("b", "tokens", 10)
        first = await treasury.reserve("b", tokens=10)
        second = asyncio.create_task(treasury.reserve("b", tokens=10, wait_s=20))
        await asyncio.sleep(0.05)
        await treasury.release(first.id)
        await treasury.release((await second).id)

    for _ in range(2):
        asyncio.run(asyncio.wait_for(wait_in_turn(), 10))
    asyncio.run(treasury.close())


def test_what_is_spooled_in_two_loops_stands_in_one_file(tmp_path):
    served = Served()
    url, directory = served.url, tmp_path / "spool"
    treasury = fiscus.connect(url, spool_directory=directory, timeout_s=0.5)
    asyncio.run(use(treasury))
    served.stop()

    async def report(treasury: Treasury) -> None:
        await treasury.usage("a", {"tokens": 1})

    asyncio.run(report(treasury))
    asyncio.run(report(treasury))
    (file,) = directory.glob("*.spool")
    assert file.read_text().count('"usage"') + file.read_text().count('"settle"') == 2
    asyncio.run(treasury.close())
