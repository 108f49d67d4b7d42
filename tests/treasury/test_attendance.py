"""Callers whose reserves wait: each is answered once its ticket has ended; who goes is waited for no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fiscus.contract.errors import BudgetUnavailable, LedgerDrift
from fiscus.contract.queries import ListEntries, ReadAccount, ReadHold
from fiscus.core.commands import Adjust, PutAccount, PutBudget, Release, Request, Reserve, SetStatus, Settle
from fiscus.core.fold import RANK_TICKET
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.treasury import attendance
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.sealing import last_seal, sealed_snapshot
from fiscus.treasury.verify import verify
from tests.treasury.faults import Faults, watched_store

SOON_S = 10


class Desk:
    """A treasury with an account of 100 tokens, asked in few words."""

    def __init__(self, treasury: LocalTreasury) -> None:
        self.treasury = treasury

    async def do(self, command: Any, **context: Any) -> Any:
        return await self.treasury.execute(Request(command=command, **context))

    async def found(self) -> None:
        await self.do(PutAccount(account="a"))
        await self.do(PutBudget(account="a", unit="tokens", limit=100))
        await self.do(reserve("first", 100))

    def wait(self, id: str, amount: int, wait_s: int = 60, **context: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(self.do(reserve(id, amount, wait_s), **context))

    async def state(self, id: str) -> Any:
        view = await self.treasury.read(ReadHold(id=id))
        return view if isinstance(view, Refused) else view.hold

    async def until(self, id: str, state: str) -> Any:
        async with asyncio.timeout(SOON_S):
            while True:
                seen = await self.state(id)
                if isinstance(seen, HoldAnswer) and seen.state == state:
                    return seen
                await asyncio.sleep(0.005)

    async def kinds(self) -> list[str]:
        page = await self.treasury.read(ListEntries(after=0, limit=1_000))
        return [entry.kind for entry in page.entries]


def reserve(id: str, amount: int, wait_s: int = 0) -> Reserve:
    return Reserve(id=id, account="a", amounts={"tokens": amount}, wait_s=wait_s)


def opened(path: Any) -> LocalTreasury:
    return LocalTreasury(Engine(watched_store(path, Faults())))


@pytest.fixture
async def desk(tmp_path):
    treasury = opened(tmp_path / "fiscus.db")
    made = Desk(treasury)
    await made.found()
    yield made
    await treasury.close()
    store = watched_store(tmp_path / "fiscus.db", Faults())
    assert verify(store).faults == ()
    store.close()


async def test_who_waits_is_answered_when_room_comes(desk: Desk) -> None:
    waiting = desk.wait("x", 30)
    seen = await desk.until("x", "waiting")
    assert (seen.place, seen.reserved) == (1, {})
    await desk.do(Settle(id="first", total={"tokens": 10}))
    answer = await asyncio.wait_for(waiting, SOON_S)
    assert (answer.state, answer.reserved["tokens"]) == ("held", 30)
    assert (await desk.kinds())[-4:] == ["queued", "settled", "held", "extended"]
    await desk.do(Settle(id="x", total={"tokens": 5}))
    balance = (await desk.treasury.read(ReadAccount(account="a"))).account.budgets[0].balance
    assert (balance.spent, balance.held) == (15, 0)


async def test_what_becomes_of_it_in_the_same_batch_is_not_missed(desk: Desk) -> None:
    """The reserve, and the settlement that frees room for it, are decided in one batch."""
    answers = await asyncio.wait_for(
        desk.treasury.execute_many(
            [
                Request(command=reserve("x", 30, 60)),
                Request(command=reserve("y", 30, 60)),
                Request(command=Release(id="first")),
            ]
        ),
        SOON_S,
    )
    assert [answer.state for answer in answers] == ["held", "held", "released"]


async def test_the_end_of_waiting_is_a_refusal(desk: Desk) -> None:
    refused = await asyncio.wait_for(desk.wait("x", 30, 1), SOON_S)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.requested) == ("budget_busy", 30)


async def test_who_is_cancelled_waits_no_longer_and_lets_the_next_one_pass(desk: Desk) -> None:
    first, second = desk.wait("x", 80), None
    await desk.until("x", "waiting")
    second = desk.wait("y", 40)
    await desk.until("y", "waiting")
    first.cancel()
    await desk.until("x", "refused")
    await desk.do(Adjust(id="more", account="a", budget="tokens-lifetime", amount=50, reason="more"))
    answer = await asyncio.wait_for(second, SOON_S)
    assert answer.state == "held"


async def test_who_asks_again_waits_on_in_its_place_and_the_first_caller_may_go(desk: Desk) -> None:
    first = desk.wait("x", 30)
    await desk.until("x", "waiting")
    again = desk.wait("x", 30)
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.sleep(0.05)
    await desk.do(Release(id="first"))
    assert (await asyncio.wait_for(again, SOON_S)).state == "held"


async def test_who_stays_for_a_while_only_is_told_that_it_waits(desk: Desk) -> None:
    answer = await asyncio.wait_for(desk.wait("x", 30, stay_s=0.05), SOON_S)
    assert (answer.state, answer.place) == ("waiting", 1)
    await desk.do(Release(id="first"))
    assert (await asyncio.wait_for(desk.wait("x", 30), SOON_S)).state == "held"


async def test_a_release_by_somebody_else_ends_it(desk: Desk) -> None:
    waiting = desk.wait("x", 30)
    await desk.until("x", "waiting")
    await desk.do(Release(id="x"))
    assert (await asyncio.wait_for(waiting, SOON_S)).state == "released"


async def test_an_account_that_is_stopped_ends_it(desk: Desk) -> None:
    waiting = desk.wait("x", 30)
    await desk.until("x", "waiting")
    await desk.do(SetStatus(account="a", status="terminated"))
    assert (await asyncio.wait_for(waiting, SOON_S)).code == "account_terminated"


async def test_callers_who_stay_keep_their_tickets_alive(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "SAY_S", 0.02)
    waiting = desk.wait("x", 30)
    await desk.until("x", "waiting")
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await desk.do(Release(id="first"))
    assert (await asyncio.wait_for(waiting, SOON_S)).state == "held"


async def test_a_treasury_that_closes_tells_who_waits(tmp_path) -> None:
    treasury = opened(tmp_path / "fiscus.db")
    desk = Desk(treasury)
    await desk.found()
    waiting = desk.wait("x", 30)
    await desk.until("x", "waiting")
    await treasury.close()
    with pytest.raises(BudgetUnavailable):
        await asyncio.wait_for(waiting, SOON_S)


async def test_a_line_outlives_its_process(tmp_path) -> None:
    """Who waited when the process ended is admitted in the same order by the next one, with the same ids."""
    treasury = opened(tmp_path / "fiscus.db")
    desk = Desk(treasury)
    await desk.found()
    waiting = [desk.wait(id, 60) for id in ("x", "y")]
    for id in ("x", "y"):
        await desk.until(id, "waiting")
    await treasury.close()
    await asyncio.gather(*waiting, return_exceptions=True)
    treasury = opened(tmp_path / "fiscus.db")
    desk = Desk(treasury)
    try:
        again = [desk.wait(id, 60) for id in ("y", "x")]
        await asyncio.sleep(0.05)
        await desk.do(Release(id="first"))
        assert (await asyncio.wait_for(again[1], SOON_S)).state == "held"
        assert (await desk.state("y")).place == 1
        await desk.do(Release(id="x"))
        assert (await asyncio.wait_for(again[0], SOON_S)).state == "held"
    finally:
        await treasury.close()
    store = watched_store(tmp_path / "fiscus.db", Faults())
    assert verify(store).faults == ()
    store.close()


async def test_a_line_is_sealed_with_the_state(desk: Desk) -> None:
    """The fixture verifies from the last checkpoint on, which is made while somebody waits."""
    waiting = desk.wait("x", 30)
    await desk.until("x", "waiting")
    await asyncio.to_thread(desk.treasury.engine.checkpoint)
    await desk.do(Release(id="first"))
    assert (await asyncio.wait_for(waiting, SOON_S)).state == "held"
    number = desk.treasury.engine.tenants["default"]
    seal = last_seal(desk.treasury.engine.store.journal, number)
    assert seal is not None
    snapshot = sealed_snapshot(desk.treasury.engine.store.journal, number, seal)
    due = {row.key: (row.due_at, row.due_rank) for row in snapshot.entities if row.kind == "hold"}
    assert due["x"][1] == RANK_TICKET
    assert due["x"][0] is not None


async def test_while_a_tenant_is_in_doubt_nobody_who_waits_is_admitted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "SAY_S", 0.02)
    waiting = desk.wait("x", 30)
    await desk.until("x", "waiting")
    engine = desk.treasury.engine
    engine.doubt("default", LedgerDrift("a cell differs", 1))
    await desk.do(Release(id="first"))
    await asyncio.sleep(0.1)
    assert (await desk.state("x")).state == "waiting"
    await asyncio.to_thread(engine.repair, "default")
    assert (await asyncio.wait_for(waiting, SOON_S)).state == "held"
