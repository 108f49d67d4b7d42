"""``hold(wait_s=…)``, in process and of a service, with and without ``await``."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import fiscus
from fiscus.contract.errors import BudgetBusy, Invalid, Unknown
from fiscus.contract.queries import ListEntries
from fiscus.sdk import Treasury

SOON_S = 10


async def founded(treasury: Treasury) -> None:
    await treasury.put_account("a")
    await treasury.put_budget("a", "tokens", 100)


async def test_a_hold_waits_for_room(treasury: Treasury) -> None:
    await founded(treasury)
    async with treasury.hold("a", tokens=90) as first:
        waiting = asyncio.create_task(treasury.reserve("a", tokens=50, wait_s=60, id="x"))
        async with asyncio.timeout(SOON_S):
            while (await _state(treasury, "x")) != "waiting":
                await asyncio.sleep(0.005)
        first.settle({"total_tokens": 20})
    answer = await asyncio.wait_for(waiting, SOON_S)
    assert (answer.state, answer.reserved["tokens"]) == ("held", 50)


async def _state(treasury: Treasury, id: str) -> str:
    try:
        return (await treasury.hold_answer(id)).state
    except Unknown:
        return "unknown"


async def test_many_take_turns_and_all_get_through(treasury: Treasury) -> None:
    await founded(treasury)
    done: list[int] = []

    async def call(index: int) -> None:
        async with treasury.hold("a", tokens=60, wait_s=60) as hold:
            hold.settle({"total_tokens": 1})
            done.append(index)

    async with asyncio.timeout(SOON_S):
        await asyncio.gather(*(call(index) for index in range(20)))
    assert sorted(done) == list(range(20))


async def test_the_end_of_waiting_is_raised(treasury: Treasury) -> None:
    await founded(treasury)
    await treasury.reserve("a", tokens=100)
    with pytest.raises(BudgetBusy) as raised:
        async with asyncio.timeout(SOON_S):
            await treasury.reserve("a", tokens=50, wait_s=1)
    assert raised.value.refused.requested == 50


async def test_wait_s_is_checked(treasury: Treasury) -> None:
    await founded(treasury)
    with pytest.raises(Invalid, match="wait_s"):
        await treasury.reserve("a", tokens=50, wait_s=4_000)


async def test_a_cancelled_hold_waits_no_longer_and_holds_nothing(treasury: Treasury) -> None:
    await founded(treasury)
    await treasury.reserve("a", tokens=100, id="first")

    async def enter() -> None:
        async with treasury.hold("a", tokens=50, wait_s=60):
            raise AssertionError("there is no room")

    waiting = asyncio.create_task(enter())
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await treasury.release("first")
    async with asyncio.timeout(SOON_S):
        while (await treasury.balance("a"))[0].held:
            await asyncio.sleep(0.005)


def test_without_await(tmp_path: Path) -> None:
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        treasury.put_account("a")
        treasury.put_budget("a", "tokens", 100)
        treasury.reserve("a", tokens=100, id="first")
        threading.Timer(0.1, lambda: treasury.release("first")).start()
        with treasury.hold("a", tokens=50, wait_s=60) as hold:
            assert hold.amounts["tokens"] == 50
            hold.settle({"total_tokens": 5})


async def test_waiting_is_a_step_of_a_list_and_the_answer_says_so(treasury: Treasury) -> None:
    await founded(treasury)
    await treasury.put_account("a", shortage=["clamp", "wait"])
    await treasury.reserve("a", tokens=100, id="first")
    with pytest.raises(BudgetBusy) as raised:
        await treasury.reserve("a", tokens=50, least={"tokens": 10})
    assert raised.value.refused.steps == ("clamp", "wait")
    waiting = asyncio.create_task(treasury.reserve("a", tokens=50, least={"tokens": 10}, wait_s=60, id="x"))
    async with asyncio.timeout(SOON_S):
        while (await _state(treasury, "x")) != "waiting":
            await asyncio.sleep(0.005)
    await treasury.release("first")
    answer = await asyncio.wait_for(waiting, SOON_S)
    assert (answer.state, answer.steps) == ("held", ("clamp", "wait"))
    kinds = [entry.kind for entry in (await treasury.read(ListEntries(limit=1_000))).entries]
    assert kinds[-4:] == ["released", "held", "shortage_met", "extended"]


async def test_a_list_without_waiting_does_not_wait(treasury: Treasury) -> None:
    await founded(treasury)
    await treasury.put_account("a", shortage=["clamp", "deny"])
    await treasury.reserve("a", tokens=100, id="first")
    with pytest.raises(BudgetBusy):
        async with asyncio.timeout(SOON_S):
            await treasury.reserve("a", tokens=50, wait_s=3_600)


async def test_who_would_do_with_less_is_admitted_with_what_fits(treasury: Treasury) -> None:
    await founded(treasury)
    for steps in ((), ("clamp", "wait")):
        await treasury.put_account("a", shortage=steps)
        first = await treasury.reserve("a", tokens=60)
        second = await treasury.reserve("a", tokens=40)
        id = f"x-{len(steps)}"
        waiting = asyncio.create_task(treasury.reserve("a", tokens=90, least={"tokens": 50}, wait_s=60, id=id))
        async with asyncio.timeout(SOON_S):
            while (await _state(treasury, id)) != "waiting":
                await asyncio.sleep(0.005)
        await treasury.release(first.id)
        answer = await asyncio.wait_for(waiting, SOON_S)
        assert (answer.state, answer.reserved["tokens"], answer.steps[-1]) == ("held", 60, "clamp")
        for held in (answer, second):
            await treasury.release(held.id)
