"""A real model behind the gateway: streams, a cache, callers that leave, and books that equal its own counters."""

import asyncio
import json

import aiohttp
import anthropic
import openai
import pytest

from scripts.llm_server import MODEL, Counters, counters
from tests.gateway.gate import PAYER

pytestmark = pytest.mark.slow

QUESTION = "Tell me a story about a treasurer."
SYSTEM = "You are a careful treasurer who writes down whatever is spent. " * 12
IN, CACHED, OUT = 1_000, 100, 2_000
"""Nano-USD a token."""


def asking(question=QUESTION, *, system=None, **more):
    said = [{"role": "system", "content": system}] if system else []
    body = {"model": MODEL, "messages": [*said, {"role": "user", "content": question}], "temperature": 0}
    return {**body, "max_tokens": 24, **more}


async def books(gate, calls):
    """The sum of what was booked, in the shape of the server's own counters."""
    async with asyncio.timeout(5):
        while len(usage := await gate.usage()) < calls:
            await asyncio.sleep(0.01)
    tokens = [one.record.tokens for one in usage]
    for one, used in zip(usage, tokens, strict=True):
        plain = used.input - used.cache_read
        assert one.amounts["cost"] == plain * IN + used.cache_read * CACHED + used.output * OUT
        assert not any(one.uncovered.values()), "what was used had been held"
    into, cached, out = ("input", "cache_read", "output")
    return Counters(*(sum(getattr(one, name) for one in tokens) for name in (into, cached, out)), busy=0)


async def at_rest(model):
    async with asyncio.timeout(5):
        while (found := await counters(model)).busy:
            await asyncio.sleep(0.02)
    return found


async def test_whole_answers_are_booked_as_the_server_counted_them(gate, model):
    for body in (asking(), asking("What is a budget?", max_tokens=8), asking(n=1, max_tokens=40)):
        answer = await gate.chat(body)
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"]
    counted = await counters(model)
    assert counted.output > 40
    assert await books(gate, 3) == counted


async def test_a_stream_comes_piece_by_piece_and_is_booked_as_the_server_counted_it(gate, model):
    async with openai.AsyncOpenAI(base_url=f"{gate.url}/openai/v1", api_key="none") as client:
        stream = await client.chat.completions.create(**asking(stream=True, max_tokens=30))
        chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(texts) > 10
    assert all(chunk.usage is None for chunk in chunks), "the caller did not ask for it"
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert await books(gate, 1) == await counters(model)


async def test_the_other_wires_of_the_server_are_booked_as_well(gate, model):
    async with anthropic.AsyncAnthropic(base_url=f"{gate.url}/anthropic", api_key="none") as client:
        asked = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": QUESTION}]}
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            text = "".join([piece async for piece in stream.text_stream])
    assert whole.content[0].text
    assert text
    responded = await gate.post("/openai/v1/responses", {"model": MODEL, "input": QUESTION, "max_output_tokens": 8})
    assert responded.status == 200
    assert await books(gate, 3) == await counters(model)


async def test_what_came_from_the_prefix_cache_costs_less(gate, model):
    for _ in range(3):
        assert (await gate.chat(asking(system=SYSTEM, max_tokens=4))).status == 200
    first, *later = [one.record.tokens for one in await gate.usage()]
    assert first.cache_read < 50 < 100 < first.input
    assert all(one.cache_read >= first.input - 50 for one in later)
    found = await books(gate, 3)
    assert found == await counters(model)
    assert found.cached > 200


# covers E14
@pytest.mark.parametrize("path", ["/openai/v1/chat/completions", "/anthropic/v1/messages"])
async def test_who_leaves_stops_the_model_and_pays_for_no_less_than_was_produced(gate, model, path):
    body = asking(stream=True, max_tokens=1_500, ignore_eos=True)
    async with aiohttp.ClientSession() as session:
        answer = await session.post(
            gate.url + path, data=json.dumps(body), headers={"content-type": "application/json"}
        )
        await answer.content.readexactly(4_000)
        answer.close()
    counted = await at_rest(model)
    found = await books(gate, 1)
    assert counted.output < 500, "it did not go on to the end"
    assert found.output >= counted.output > 8
    assert found.output <= 3 * counted.output + 8
    [booked] = await gate.usage()
    assert booked.record.tokens_estimated
    assert booked.record.outcome == "cancelled"


# covers E15
async def test_a_stream_ends_validly_when_its_budget_does(gate, model):
    await gate.account("agent:poor", PAYER, tokens=200)
    async with openai.AsyncOpenAI(base_url=f"{gate.url}/openai/v1", api_key="none", max_retries=0) as client:
        more = {"extra_headers": {"x-fiscus-agent": "poor"}, "extra_body": {"ignore_eos": True}}
        stream = await client.chat.completions.create(**asking(stream=True, max_tokens=1_000), **more)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(**asking("And then? " * 60), **more)
    assert refused.value.status_code == 402
    counted = await counters(model)
    assert await books(gate, 1) == counted, "who is refused is not counted, since the model was not asked"
    balance = await gate.balance("agent:poor")
    assert 100 < balance.spent <= 200
    assert balance.uncovered == 0


# covers E2, E14
async def test_a_fleet_never_spends_more_than_its_budget_and_the_books_equal_the_counters(gate, model):
    await gate.account("team:fleet", tokens=1_500)

    async def agent(number):
        bodies = [
            asking(f"Agent {number}, step {step}: {QUESTION}", stream=bool(step % 2), max_tokens=60)
            for step in range(8)
        ]
        return {(await gate.chat(body, x_fiscus_charge_to="team:fleet")).status for body in bodies}

    statuses = set[int]().union(*await asyncio.gather(*(agent(number) for number in range(4))))
    assert {200} < statuses <= {200, 402, 429}
    balance = await gate.balance("team:fleet")
    assert balance.spent + balance.held <= balance.limit
    assert balance.uncovered == 0
    counted = await at_rest(model)
    assert await books(gate, len(await gate.usage())) == counted
    assert balance.spent == counted.input + counted.output
