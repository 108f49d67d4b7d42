"""Prices that are changed while the gateway runs, at this node or another one, hold for the next calls (R12, R53)."""

from __future__ import annotations

import pytest

from fiscus.core.commands import PutPrice, RemovePrice, Request
from fiscus.core.outcomes import PriceAnswer
from fiscus.pricing import own_prices
from tests.gateway import wire
from tests.gateway.gate import providers, standing


async def state(gate, command):
    answer = await gate.treasury.execute(Request(command=command))
    assert isinstance(answer, PriceAnswer), answer


def price(input, **fields):
    return PutPrice(
        **{"price": "p", "provider": "*", "model": "test-*", "rates": {"input": input, "output": 2 * input}, **fields}
    )


# covers R12
async def test_the_next_call_costs_what_was_stated_and_what_is_booked_stays(upstream, monkeypatch):
    monkeypatch.setattr(own_prices, "FRESH_S", 0.0)
    upstream.answers_by(lambda asked: wire.chat_answer(model=asked.json["model"]))
    async with standing(providers(upstream)) as gate:
        for command in (None, price(100_000_000), price(300_000_000), RemovePrice(price="p")):
            if command is not None:
                await state(gate, command)
            assert (await gate.chat(wire.chat(model="test-model"))).status == 200
        costs = [booked.amounts["cost"] for booked in await gate.usage()]
    assert costs[2] == 3 * costs[1]
    assert costs[3] == costs[0]


async def test_it_is_asked_once_a_second_and_no_call_is_made_without_an_answer(upstream, monkeypatch):
    upstream.answers_by(lambda asked: wire.chat_answer(model=asked.json["model"]))
    async with standing(providers(upstream), prices=()) as gate:
        assert (await gate.chat(wire.chat(model="nobody-knows"))).status == 404
        await state(gate, price(100_000_000, model="nobody-*"))
        assert (await gate.chat(wire.chat(model="nobody-knows"))).status == 404, "within the same second"
        monkeypatch.setattr(own_prices, "FRESH_S", 0.0)
        assert (await gate.chat(wire.chat(model="nobody-knows"))).status == 200
        assert len(await gate.usage()) == 1


@pytest.mark.parametrize("rates", [{"input": 0, "output": 0}])
async def test_a_price_of_nothing_is_a_price(upstream, rates):
    upstream.answers_by(lambda asked: wire.chat_answer(model=asked.json["model"]))
    async with standing(providers(upstream), prices=()) as gate:
        await state(gate, price(0, model="free", rates=rates))
        assert (await gate.chat(wire.chat(model="free"))).status == 200
        [booked] = await gate.usage()
    assert booked.amounts.get("cost", 0) == 0
    assert booked.record.cost_nanousd == 0
