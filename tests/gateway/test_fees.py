"""What tools of a provider cost beside their tokens: what it bills, and nothing else."""

import asyncio
import json

import pytest

from fiscus.pricing import PriceOverride
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, providers, standing
from tests.gateway.upstream import Reply, sse

FEE = 10_000_000
"""Nano-USD that a search costs here."""

PRICES = (PriceOverride(provider="*", model="test-*", input="1", output="2", web_searches="10"),)


async def booked_for(upstream, path, body, reply, prices=PRICES):
    """What is booked when tools may run."""
    upstream.answers(reply)
    async with standing(providers(upstream), unseen_input_tokens_max=50_000, prices=prices) as gate:
        answer = await gate.post(path, body)
        assert answer.status == 200, answer
        return await gate.last()


def fees_of(booked):
    """Nano-USD beside the tokens."""
    tokens = booked.record.tokens
    return booked.amounts["cost"] - tokens.input * IN - tokens.output * OUT


@pytest.mark.parametrize(
    ("used", "searches"),
    [({"web_search_requests": 2, "web_fetch_requests": 0}, 2), ({"web_fetch_requests": 3}, 0), ({}, 0)],
)
async def test_anthropic_bills_searches_and_no_fetches(upstream, used, searches):
    usage = {"input_tokens": 400, "output_tokens": 9, "server_tool_use": used}
    body = wire.messages(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}])
    booked = await booked_for(upstream, "/anthropic/v1/messages", body, wire.anthropic_answer(usage=usage))
    assert fees_of(booked) == searches * FEE


async def test_a_search_of_responses_is_billed_once(upstream):
    call = {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}}
    looked = {**call, "action": {"type": "open_page", "url": "u"}}
    answer = wire.response_object(output=[call, looked], tool_usage={"web_search": {"num_requests": 1}})
    body = {"model": wire.MODEL, "input": "Hi.", "tools": [{"type": "web_search"}]}
    booked = await booked_for(upstream, "/openai/v1/responses", body, Reply(body=json.dumps(answer).encode()))
    assert fees_of(booked) == FEE


@pytest.mark.parametrize(("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3-pro-preview", 2)])
@pytest.mark.parametrize("stream", [False, True])
async def test_gemini_bills_answers_or_searches_by_the_model(upstream, model, searches, stream):
    chunk = wire.gemini_chunk("Hello!", finishReason="STOP", groundingMetadata={"webSearchQueries": ["a", "b"]})
    chunk["modelVersion"] = model
    body = sse(chunk, done=False) if stream else json.dumps(chunk).encode()
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    path = f"/gemini/v1beta/models/{model}:{method}"
    prices = (PriceOverride(provider="*", model="*", input="1", output="2", web_searches="10"),)
    reply = wire.streamed(body) if stream else Reply(body=body)
    booked = await booked_for(upstream, path, wire.contents(tools=[{"googleSearch": {}}]), reply, prices)
    assert fees_of(booked) == searches * FEE


async def test_searches_of_a_stream_that_broke_off_are_billed_as_far_as_they_are_known(upstream):
    chunk = wire.gemini_chunk("Hello!", groundingMetadata={"webSearchQueries": ["a", "b"]})
    chunk["modelVersion"] = model = "gemini-3-pro-preview"
    path = f"/gemini/v1beta/models/{model}:streamGenerateContent?alt=sse"
    prices = (PriceOverride(provider="*", model="*", input="1", output="2", web_searches="10"),)
    body = wire.contents(tools=[{"googleSearch": {}}])
    booked = await booked_for(upstream, path, body, wire.streamed(sse(chunk, done=False)), prices)
    assert (booked.record.outcome, booked.record.tokens_estimated) == ("error", True)
    assert fees_of(booked) == 2 * FEE


CLAUDE = "claude-opus-4-6"


@pytest.mark.parametrize(
    ("asked", "told", "permille"),
    [("us", "us", 1_100), (None, "us", 1_100), ("us", "global", 1_000), ("us", None, 1_100), (None, None, 1_000)],
)
async def test_anthropic_bills_inference_that_is_kept_to_the_us_higher(upstream, asked, told, permille):
    """All tokens, and not the searches."""
    usage = {"input_tokens": 4_000, "output_tokens": 900, "server_tool_use": {"web_search_requests": 1}}
    usage |= {} if told is None else {"inference_geo": told}
    upstream.answers(wire.anthropic_answer(usage=usage, model=CLAUDE))
    body = wire.messages(model=CLAUDE, **({} if asked is None else {"inference_geo": asked}))
    async with standing(providers(upstream), prices=()) as gate:
        assert (await gate.messages(body)).status == 200
        booked = await gate.last()
    tokens = (4_000 * 5_000 + 900 * 25_000) * permille // 1_000
    assert booked.amounts["cost"] == tokens + 10_000_000
    assert ("+us@" in booked.record.price_id) == (permille > 1_000)


async def test_what_it_costs_more_is_held(upstream):
    upstream.answers(Reply(never=True))
    held = []
    for more in ({}, {"inference_geo": "us"}, {"inference_geo": "global"}):
        async with standing(providers(upstream, answer_s_max=0.3), prices=()) as gate:
            call = asyncio.create_task(gate.messages(wire.messages(model=CLAUDE, **more)))
            await upstream.request(len(held) + 1)
            held.append((await gate.balance(unit="cost")).held)
            await call
    assert held[1] == -(-held[0] * 11 // 10)
    assert held[2] == held[0]


async def test_an_own_price_holds_wherever_it_is_inferred(upstream):
    usage = {"input_tokens": 400, "output_tokens": 9, "inference_geo": "us"}
    booked = await booked_for(upstream, "/anthropic/v1/messages", wire.messages(), wire.anthropic_answer(usage=usage))
    assert fees_of(booked) == 0
