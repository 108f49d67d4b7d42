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


KNOWN = {
    "prices": (
        PriceOverride(provider="*", model="gpt-5.5", input="10", output="20"),
        PriceOverride(provider="*", model="gpt-3.5-turbo", input="1", output="2"),
        PriceOverride(provider="*", model="llama", input="1", output="2"),
        PriceOverride(provider="*", model="claude-opus-5", input="10", output="20"),
        PriceOverride(provider="*", model="claude-3-haiku", input="1", output="2"),
        PriceOverride(provider="*", model="gemini-3-pro", input="10", output="20"),
        PriceOverride(provider="*", model="gemini-2.0-flash", input="1", output="2"),
    ),
    "downgrade": {
        "gpt-5.5": ("gpt-3.5-turbo",),
        "claude-opus-5": ("claude-3-haiku",),
        "gemini-3-pro": ("gemini-2.0-flash",),
    },
}


async def test_a_bound_is_lowered_to_what_the_cheaper_model_gives(upstream):
    """Its provider would take a larger one for an error."""
    upstream.answers_by(lambda asked: wire.gemini_answer() if "models/" in asked.target else wire.chat_answer())
    for given in ({}, {"renames": {"gpt-3.5-turbo": "llama"}}):
        async with standing(providers(upstream, **given), budget=False, **KNOWN) as gate:
            await gate.account(PAYER, cost=19_000_000)
            thinking = {"thinking": {"type": "enabled", "budget_tokens": 16_000}}
            bodies = [
                ("/openai/v1/chat/completions", wire.chat(model="gpt-5.5", max_tokens=32_000)),
                ("/openai/v1/chat/completions", wire.chat(model="gpt-5.5", max_tokens=2_000)),
                ("/anthropic/v1/messages", wire.messages(model="claude-opus-5", max_tokens=32_000, **thinking)),
                (
                    "/gemini/v1beta/models/gemini-3-pro:generateContent",
                    wire.contents(generationConfig={"maxOutputTokens": 32_000}),
                ),
            ]
            for path, body in bodies:
                answer = await gate.post(path, body)
                assert answer.status == 200, answer
        one, two, three, four = upstream.asked[-4:]
        if given:
            assert one.json["model"] == "llama"
            assert one.json["max_tokens"] > 4_096, "nobody knows the longest answer of it"
        else:
            assert (one.json["model"], one.json["max_tokens"]) == ("gpt-3.5-turbo", 4_096)
        assert two.json["max_tokens"] == 2_000
        assert (three.json["model"], three.json["max_tokens"]) == ("claude-3-haiku", 4_096)
        assert three.json["thinking"]["budget_tokens"] == 16_000 * 4_096 // 32_000
        assert four.target.endswith("/gemini-2.0-flash:generateContent")
        assert four.json["generationConfig"]["maxOutputTokens"] == 8_192


def refusing(upstream, statuses):
    """Models answer with an error of this status, the others as they should."""

    def reply(asked):
        status = statuses.get(asked.json["model"], 200)
        error = f'{{"error":{{"message":"{asked.json["model"]} cannot","code":"unsupported"}}}}'.encode()
        return wire.chat_answer(model=asked.json["model"]) if status == 200 else Reply(status=status, body=error)

    upstream.answers_by(reply)


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_cheaper_model_that_cannot_do_it_is_passed_over(upstream, status):
    refusing(upstream, {"middle": status})
    async with standing(providers(upstream), budget=False, **OPTIONS) as gate:
        await gate.account(PAYER, cost=1_000_000 + INPUT_MAX * 5_000, tokens=PLENTY)
        for stream in (False, True):
            answer = await gate.chat(wire.chat(model="large", stream=stream))
            assert (answer.status, answer.json["model"]) == (200, "small")
            assert answer.headers["x-fiscus-model"] == "small"
        assert [asked.json["model"] for asked in upstream.asked] == ["middle", "small"] * 2
        assert [booked.record.model for booked in await gate.usage()] == ["small"] * 2


async def test_when_no_cheaper_model_can_the_refusal_stands(upstream):
    refusing(upstream, {"middle": 400, "small": 400})
    async with standing(providers(upstream), budget=False, **OPTIONS) as gate:
        await gate.account(PAYER, cost=200_000 + INPUT_MAX * 1_000, tokens=PLENTY)
        answer = await gate.chat(wire.chat(model="large"))
        assert answer.status == 402
        assert answer.json["error"]["fiscus"]["unit"] == "cost"
        assert await gate.usage() == []
        assert [asked.json["model"] for asked in upstream.asked] == ["small"]


@pytest.mark.parametrize("status", [401, 403, 413])
async def test_another_error_of_a_cheaper_model_is_the_callers(upstream, status):
    refusing(upstream, {"middle": status})
    async with standing(providers(upstream), budget=False, **OPTIONS) as gate:
        await gate.account(PAYER, cost=1_000_000 + INPUT_MAX * 5_000, tokens=PLENTY)
        answer = await gate.chat(wire.chat(model="large"))
        assert (answer.status, answer.json["error"]["message"]) == (status, "middle cannot")


async def test_an_error_that_was_billed_is_booked_and_the_callers(upstream):
    body = b'{"error":{"message":"no"},"usage":{"prompt_tokens":11,"completion_tokens":7}}'
    upstream.answers(Reply(status=400, body=body))
    async with standing(providers(upstream), budget=False, **OPTIONS) as gate:
        await gate.account(PAYER, cost=1_000_000 + INPUT_MAX * 5_000, tokens=PLENTY)
        answer = await gate.chat(wire.chat(model="large"))
        assert (answer.status, answer.body, len(upstream.asked)) == (400, body, 1)
        assert [booked.amounts["tokens"] for booked in await gate.usage()] == [18]


def test_examples():
    assert doctest.testmod(downgrade).failed == 0
