"""When money is short a cheaper model is asked, if the gateway's file says which."""

import doctest

import pytest

from fiscus.gateway import downgrade
from fiscus.pricing import PriceOverride
from tests.gateway import wire
from tests.gateway.gate import PAYER, PLENTY, providers, standing
from tests.gateway.upstream import Reply

PRICES = (
    PriceOverride(provider="*", model="large", input="10", output="20"),
    PriceOverride(provider="*", model="middle", input="5", output="10"),
    PriceOverride(provider="*", model="small", input="1", output="2"),
)
CHAIN = {"large": ("middle", "small")}
OPTIONS = {"prices": PRICES, "downgrade": CHAIN, "downgrade_below_tokens": 80}
OUT = {"large": 20_000, "middle": 10_000, "small": 2_000}
INPUT_MAX = 90
"""An upper bound of the input of ``wire.chat()``."""


def answering(upstream):
    """Every model answers under its own name."""

    def reply(asked):
        path = asked.target.partition("models/")[2].partition(":")[0]
        return wire.gemini_answer() if path else wire.chat_answer(model=asked.json["model"])

    upstream.answers_by(reply)


async def asked_with(upstream, nanousd, body=None, **more):
    """The answer, and what was booked, when so much money is left."""
    answering(upstream)
    async with standing(providers(upstream), budget=False, **{**OPTIONS, **more}) as gate:
        await gate.account(PAYER, cost=nanousd, tokens=PLENTY)
        answer = await gate.chat(body or wire.chat(model="large"))
        return answer, await gate.usage()


@pytest.mark.parametrize(
    ("nanousd", "model"),
    [
        (PLENTY, "large"),
        (2_000_000 + INPUT_MAX * 10_000, "large"),
        (1_000_000 + INPUT_MAX * 5_000, "middle"),
        (200_000 + INPUT_MAX * 1_000, "small"),
    ],
)
async def test_the_first_model_is_asked_that_there_is_money_for(upstream, nanousd, model):
    answer, [booked] = await asked_with(upstream, nanousd)
    assert answer.status == 200
    assert answer.headers.get("x-fiscus-model") == (None if model == "large" else model)
    [asked] = upstream.asked
    assert asked.json == {**wire.chat(model=model), **asked.json, "model": model}
    assert (booked.record.requested_model, booked.record.model) == ("large", model)
    assert booked.amounts["cost"] == 11 * OUT[model] // 2 + 7 * OUT[model]


async def test_the_last_model_is_clamped_and_then_the_call_is_refused_as_the_one_that_was_asked_for(upstream):
    answer, _ = await asked_with(upstream, 40 * OUT["small"] + INPUT_MAX * 1_000)
    assert answer.headers["x-fiscus-model"] == "small"
    assert 40 <= upstream.asked[0].json["max_tokens"] < 100
    answer, usage = await asked_with(upstream, 20_000)
    assert (answer.status, usage, len(upstream.asked)) == (402, [], 1)
    assert answer.json["error"]["fiscus"]["unit"] == "cost"
    assert answer.json["error"]["fiscus"]["requested"] > 11 * 10_000, "what the large one would have cost"


async def test_a_budget_of_tokens_is_no_reason_for_another_model(upstream):
    answering(upstream)
    async with standing(providers(upstream), budget=False, **OPTIONS) as gate:
        await gate.account(PAYER, cost=PLENTY, tokens=INPUT_MAX + 40)
        answer = await gate.chat(wire.chat(model="large"))
        assert answer.status == 200
        assert "x-fiscus-model" not in answer.headers
        assert upstream.asked[0].json["model"] == "large"
        assert upstream.asked[0].json["max_tokens"] < 100, "it is clamped, as far as it is of use at all"


async def test_a_budget_for_one_model_is_one(upstream):
    answering(upstream)
    async with standing(providers(upstream), **OPTIONS) as gate:
        await gate.limit(PAYER, "calls", 1, match={"model": "large"})
        models = [(await gate.chat(wire.chat(model="large"))).json["model"] for _ in range(3)]
        assert models == ["large", "middle", "middle"]


async def test_a_cheaper_model_that_nobody_serves_or_prices_is_passed_over(upstream):
    chain = {"large": ("unpriced", "small", "unpriced-too")}
    answer, _ = await asked_with(upstream, 200_000 + INPUT_MAX * 1_000, downgrade=chain)
    assert answer.headers["x-fiscus-model"] == "small"
    answer, _ = await asked_with(upstream, 40 * OUT["large"] + INPUT_MAX * 10_000, downgrade={"large": ("unpriced",)})
    assert (answer.status, answer.json["model"]) == (200, "large"), "clamped, as without a chain"
    assert upstream.asked[-1].json["max_tokens"] < 100


async def test_it_is_off_unless_the_file_says_so(upstream):
    answer, usage = await asked_with(upstream, 200_000 + INPUT_MAX * 1_000, downgrade={})
    assert answer.status == 402
    assert usage == []
    assert upstream.asked == []


async def test_a_model_that_the_path_names_is_exchanged_there(upstream):
    answering(upstream)
    async with standing(providers(upstream), budget=False, **OPTIONS) as gate:
        await gate.account(PAYER, cost=200_000 + INPUT_MAX * 1_000)
        answer = await gate.generate(wire.contents(), model="large")
        assert answer.status == 200
        assert answer.headers["x-fiscus-model"] == "small"
    assert upstream.asked[0].target.endswith("/models/small:generateContent")


async def test_an_error_of_the_provider_is_no_reason(upstream):
    upstream.answers(Reply(status=400, body=b'{"error":{"message":"no"}}'))
    async with standing(providers(upstream), **OPTIONS) as gate:
        assert (await gate.chat(wire.chat(model="large"))).status == 400
        assert len(upstream.asked) == 1


def test_examples():
    assert doctest.testmod(downgrade).failed == 0
