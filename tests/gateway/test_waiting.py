"""Calls without room wait in the ledger's line: one for all nodes and for callers of the ledger itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from fiscus.contract.queries import HoldView, ReadHold
from fiscus.core.commands import Release, Request, Reserve
from fiscus.core.outcomes import HoldAnswer
from fiscus.gateway.application import Gateway
from fiscus.stores.sqlite.journal import SqliteJournal
from tests.gateway import wire
from tests.gateway.gate import PAYER, providers, standing

LIMIT = 1_000
SOON_S = 2.0


class Slow:
    """A ledger whose word that somebody's turn has come does not arrive."""

    def __init__(self, treasury):
        self.treasury = treasury
        self.decided = asyncio.Event()

    async def execute(self, request):
        outcome = await self.treasury.execute(request)
        if request.may_wait:
            self.decided.set()
            await asyncio.Event().wait()
        return outcome

    def __getattr__(self, name):
        return getattr(self.treasury, name)


@pytest.fixture
async def gate(upstream):
    """A gateway whose payer has ``LIMIT`` tokens, all of them held by a call of somebody else."""
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=LIMIT)
        await gate.do(reserve("first", LIMIT))
        yield gate


def reserve(id, tokens, wait_s=0):
    return Reserve(id=id, account=PAYER, amounts={"tokens": tokens}, wait_s=wait_s)


async def queued(gate, count):
    """The ids of those that wait or have waited, in the order in which they came, once there are so many."""
    async with asyncio.timeout(SOON_S):
        while len(ids := [one.data["id"] for one in await gate.entries() if one.kind == "queued"]) < count:
            await asyncio.sleep(0.005)
    return ids


async def state(gate, id):
    view = await gate.treasury.read(ReadHold(id=id))
    assert isinstance(view, HoldView), view
    return view.hold.state


async def within(call, seconds=SOON_S):
    return await asyncio.wait_for(call, seconds)


# covers E2
async def test_calls_of_a_gateway_stand_in_one_line_with_those_of_the_ledger_itself(gate):
    first = asyncio.create_task(gate.chat(wire.chat()))
    await queued(gate, 1)
    large = asyncio.create_task(gate.treasury.execute(Request(command=reserve("large", LIMIT - 18, 60))))
    await queued(gate, 2)
    last = asyncio.create_task(gate.chat(wire.chat()))
    ids = await queued(gate, 3)
    await gate.do(Release(id="first"))
    assert (await within(first)).status == 200
    assert isinstance(await within(large), HoldAnswer)
    assert not last.done(), "it is small enough, but nobody overtakes"
    await gate.do(Release(id="large"))
    assert (await within(last)).status == 200
    assert [one.data["id"] for one in await gate.entries() if one.kind == "held"] == ["first", *ids]


async def test_room_is_had_as_soon_as_it_is_there(gate):
    call = asyncio.create_task(gate.chat(wire.chat()))
    await queued(gate, 1)
    began_s = time.monotonic()
    await gate.do(Release(id="first"))
    assert (await within(call)).status == 200
    assert time.monotonic() - began_s < 0.5


@pytest.mark.parametrize(("free", "least", "most"), [(130, 17, 99), (400, 100, 100)])
async def test_who_makes_do_with_little_takes_all_that_there_is_when_the_turn_comes(gate, upstream, free, least, most):
    await gate.do(Release(id="first"))
    await gate.do(reserve("most", LIMIT - free))
    await gate.do(reserve("rest", free))
    call = asyncio.create_task(gate.chat(wire.chat()))
    await queued(gate, 1)
    await gate.do(Release(id="rest"))
    assert (await within(call)).status == 200
    assert least <= upstream.asked[0].json["max_tokens"] <= most
    await gate.do(Release(id="most"))


async def test_it_is_refused_as_busy_when_its_time_is_over(upstream):
    async with standing(providers(upstream), budget=False, busy_wait_s_max=1) as gate:
        await gate.account(PAYER, tokens=LIMIT)
        await gate.do(reserve("first", LIMIT))
        answer = await gate.chat(wire.chat())
        assert (answer.status, answer.json["error"]["code"]) == (429, "budget_busy")
        [id] = await queued(gate, 1)
        assert await state(gate, id) == "refused"
        await gate.do(Release(id="first"))
        assert upstream.asked == []


async def test_who_has_left_waits_no_more_and_who_comes_next_has_the_room(gate, upstream):
    gone = asyncio.create_task(gate.chat(wire.chat()))
    await queued(gate, 1)
    stays = asyncio.create_task(gate.chat(wire.chat()))
    ids = await queued(gate, 2)
    gone.cancel()
    async with asyncio.timeout(SOON_S):
        while await state(gate, ids[0]) == "waiting":
            await asyncio.sleep(0.005)
    await gate.do(Release(id="first"))
    assert (await within(stays)).status == 200
    assert len(upstream.asked) == 1


async def test_who_leaves_just_when_the_turn_comes_holds_nothing(upstream, monkeypatch):
    between = []
    made = Gateway.__init__

    def over(self, treasury, options, **more):
        between.append(Slow(treasury))
        made(self, between[0], options, **more)

    monkeypatch.setattr(Gateway, "__init__", over)
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=LIMIT)
        await gate.do(reserve("first", LIMIT))
        gone = asyncio.create_task(gate.chat(wire.chat()))
        [id] = await queued(gate, 1)
        await gate.do(Release(id="first"))
        await within(between[0].decided.wait())
        assert await state(gate, id) == "held"
        gone.cancel()
        async with asyncio.timeout(SOON_S):
            while await state(gate, id) != "released":
                await asyncio.sleep(0.005)
        assert upstream.asked == []


async def test_more_than_may_wait_are_busy_at_once(gate):
    many = [
        asyncio.create_task(gate.treasury.execute(Request(command=reserve(f"w{number}", 1, 60))))
        for number in range(100)
    ]
    await queued(gate, 100)
    began_s = time.monotonic()
    assert (await gate.chat(wire.chat())).status == 429
    assert time.monotonic() - began_s < 1
    for call in many:
        call.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    await gate.do(Release(id="first"))


async def test_nobody_asks_in_vain_for_less_while_others_wait_for_the_room_that_there_is(gate, monkeypatch):
    """The first in line wants more than there is; who comes behind would fit, and asks twice: now, and in line."""
    await gate.do(Release(id="first"))
    await gate.do(reserve("most", LIMIT - 500))
    large = asyncio.create_task(gate.treasury.execute(Request(command=reserve("large", LIMIT, 60))))
    await queued(gate, 1)
    asked = []
    execute = gate.treasury.engine.submit

    def counted(answers, future, request):
        if type(getattr(request, "command", None)) is Reserve:
            asked.append(request.command)
        execute(answers, future, request)

    monkeypatch.setattr(gate.treasury.engine, "submit", counted)
    call = asyncio.create_task(gate.chat(wire.chat()))
    await queued(gate, 2)
    assert len(asked) == 2
    large.cancel()
    assert (await within(call)).status == 200
    await gate.do(Release(id="most"))


async def test_while_nodes_run_that_know_of_no_lines_it_looks_again(upstream, monkeypatch):
    monkeypatch.setattr(SqliteJournal, "min_format", lambda self: 1)
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=LIMIT)
        await gate.do(reserve("first", LIMIT))
        call = asyncio.create_task(gate.chat(wire.chat()))
        await asyncio.sleep(0.3)
        assert not call.done()
        await gate.do(Release(id="first"))
        assert (await within(call)).status == 200
        assert "queued" not in [entry.kind for entry in await gate.entries()]


async def test_nothing_is_written_where_there_is_room(gate):
    await gate.do(Release(id="first"))
    assert (await gate.chat(wire.chat())).status == 200
    await gate.booked()
    assert [entry.kind for entry in await gate.entries()][-2:] == ["held", "settled"]
