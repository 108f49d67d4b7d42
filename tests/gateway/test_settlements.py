"""Settlements wait a moment for a hold that they can go to the ledger with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.commands import Release, Request, Reserve
from fiscus.core.outcomes import AnyOutcome, Refused
from fiscus.gateway.settlements import LINGER_S, TOGETHER_MAX, Settlements

HOLD = Request(command=Reserve(id="hold", account="agent:a", amounts={"tokens": 1}))


class Ledger:
    """Says what it was asked together, and refuses everything."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def execute(self, request: Request) -> AnyOutcome:
        return (await self.execute_many([request]))[0]

    async def execute_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        ids = [str(request.command.id) for request in requests]  # type: ignore[union-attr]
        self.asked.append(ids)
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return [Refused(code="invalid", detail=one) for one in ids]


def release(name: str) -> Request:
    return Request(command=Release(id=name))


def settlements(ledger: Ledger) -> Settlements:
    made: Any = Settlements
    waiting: Settlements = made(ledger)
    return waiting


async def test_a_settlement_goes_with_the_next_hold_and_before_it():
    ledger = Ledger()
    waiting = settlements(ledger)
    first, second = (asyncio.create_task(waiting.book(release(name))) for name in ("a", "b"))
    await asyncio.sleep(0)
    assert ledger.asked == []
    held = await waiting.execute(HOLD)
    assert ledger.asked == [["a", "b", "hold"]]
    assert [one.detail for one in (await first, await second, held)] == ["a", "b", "hold"]  # type: ignore[union-attr]


async def test_without_a_hold_it_waits_only_a_moment():
    ledger = Ledger()
    waiting = settlements(ledger)
    async with asyncio.timeout(100 * LINGER_S):
        await asyncio.gather(*(waiting.book(release(name)) for name in ("a", "b")))
    assert ledger.asked == [["a", "b"]]


async def test_it_does_not_wait_with_a_hold_that_waits_for_room():
    ledger = Ledger()
    waiting = settlements(ledger)
    settling = asyncio.create_task(waiting.book(release("a")))
    await asyncio.sleep(0)
    await waiting.execute(Request(command=Reserve(id="hold", account="agent:a", amounts={"tokens": 1}, wait_s=5)))
    await settling
    assert sorted(ledger.asked) == [["a"], ["hold"]]


async def test_no_more_wait_than_may():
    ledger = Ledger()
    waiting = settlements(ledger)
    await asyncio.gather(*(waiting.book(release(str(number))) for number in range(TOGETHER_MAX + 1)))
    assert [len(together) for together in ledger.asked] == [TOGETHER_MAX, 1]


async def test_a_hold_without_settlements_goes_alone():
    ledger = Ledger()
    await settlements(ledger).execute(HOLD)
    assert ledger.asked == [["hold"]]


async def test_who_settles_and_who_holds_are_told_that_the_ledger_is_away():
    ledger = Ledger()
    ledger.error = StoreUnavailable("away")
    waiting = settlements(ledger)
    settling = asyncio.create_task(waiting.book(release("a")))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await waiting.execute(HOLD)
    with pytest.raises(StoreUnavailable):
        await settling
    with pytest.raises(StoreUnavailable):
        await waiting.book(release("b"))


async def test_what_went_with_a_hold_whose_caller_left_is_booked_all_the_same():
    ledger = Ledger()
    ledger.answers.clear()
    waiting = settlements(ledger)
    settling = asyncio.create_task(waiting.book(release("a")))
    await asyncio.sleep(0)
    holding = asyncio.create_task(waiting.execute(HOLD))
    await asyncio.sleep(0)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    ledger.answers.set()
    await waiting.booked()
    assert ledger.asked == [["a", "hold"], ["a"]]
    assert (await settling).detail == "a"  # type: ignore[union-attr]
