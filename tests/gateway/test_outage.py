"""The ledger away: nothing is admitted, and what runs is settled to the spool."""

import asyncio

import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.commands import Reserve, Settle
from fiscus.gateway.application import Gateway
from tests.gateway import wire
from tests.gateway.gate import providers, standing
from tests.gateway.test_failures import settled


class Away:
    """A treasury that can be away for some commands."""

    def __init__(self, treasury):
        self.treasury = treasury
        self.kinds = ()
        self.refused = 0

    async def execute(self, request):
        if isinstance(request.command, self.kinds):
            self.refused += 1
            raise StoreUnavailable("the database is away")
        return await self.treasury.execute(request)

    async def execute_many(self, requests):
        return [await self.execute(request) for request in requests]

    def __getattr__(self, name):
        return getattr(self.treasury, name)


@pytest.fixture
async def cut(upstream, monkeypatch):
    """A gateway, and what stands between it and its ledger."""
    between = []
    made = Gateway.__init__

    def over(self, treasury, options, **more):
        between.append(Away(treasury))
        made(self, between[0], options, **more)

    monkeypatch.setattr(Gateway, "__init__", over)
    async with standing(providers(upstream)) as gate:
        yield gate, between[0]


async def test_without_the_ledger_nothing_is_admitted(cut, upstream):
    gate, away = cut
    away.kinds = (Reserve,)
    for answer in (await gate.chat(wire.chat()), await gate.messages(wire.messages())):
        assert (answer.status, answer.headers["x-fiscus-code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    assert upstream.asked == []
    away.kinds = ()
    upstream.answers(wire.chat_answer())
    assert (await gate.chat(wire.chat())).status == 200


async def test_a_settlement_is_tried_again(cut, upstream):
    gate, away = cut
    away.kinds = (Settle,)
    upstream.answers(wire.chat_answer())
    call = asyncio.create_task(gate.chat(wire.chat()))
    async with asyncio.timeout(2):
        while not away.refused:
            await asyncio.sleep(0.01)
    away.kinds = ()
    assert (await call).status == 200
    assert (await settled(gate)).amounts["tokens"] == 18
