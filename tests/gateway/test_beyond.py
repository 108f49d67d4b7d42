"""Providers that do not keep to the bound that they were told: what they produce is held, or the stream ends."""

import asyncio
import doctest
import json

import pytest

from fiscus.gateway import produced
from tests.gateway import wire
from tests.gateway.gate import PAYER, PLENTY, providers, standing
from tests.gateway.upstream import sse
from tests.gateway.wire import MODEL

GENERATE = "/gemini/v1beta/models/test-model:streamGenerateContent?alt=sse"
WORD = "ab "
LONG = 600


def gemini_stream(pieces):
    text = "word and " * 20  # some forty tokens
    chunks = [wire.gemini_chunk(text, None) for _ in range(pieces)]
    return sse(*chunks, wire.gemini_chunk("", finishReason="STOP"), done=False)


USAGE = {"prompt_tokens": 11, "completion_tokens": LONG}
STREAMS = {
    "openai.chat": (
        "/openai/v1/chat/completions",
        wire.chat(stream=True),
        wire.chat_stream(*[WORD] * LONG, usage=USAGE),
        b'"finish_reason":"length"',
    ),
    "anthropic": (
        "/anthropic/v1/messages",
        wire.messages(stream=True),
        wire.anthropic_stream(*[WORD] * LONG, output_tokens=LONG),
        b'"stop_reason":"max_tokens"',
    ),
    "gemini": (GENERATE, wire.contents(), gemini_stream(60), b'"finishReason":"MAX_TOKENS"'),
}


# covers E2, E15
@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("dialect", STREAMS)
async def test_a_stream_beyond_its_bound_ends_when_no_more_can_be_held(upstream, dialect, grows):
    """It was told 100; there is room for some more, and not for all of it."""
    path, body, stream, cut = STREAMS[dialect]
    upstream.answers(wire.streamed(stream, pieces=600, pause_s=0.003))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=300)
        if grows:
            gate.knows(40)
        answer = await gate.post(path, body)
        assert answer.status == 200
        assert cut in answer.body
        asked = upstream.asked[0]
        async with asyncio.timeout(1):
            await asked.ended.wait()
        assert asked.was_left
        booked = await gate.last()
        assert booked.record.metadata["cut"] == "budget"
        if dialect != "gemini":
            assert 100 < answer.body.count(WORD.encode()) <= 300
            assert bytes(asked.sent).count(WORD.encode()) <= booked.amounts["output_tokens"] + 8


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("dialect", STREAMS)
async def test_a_stream_beyond_its_bound_goes_on_while_it_can_be_held(upstream, dialect, grows):
    path, body, stream, cut = STREAMS[dialect]
    upstream.answers(wire.streamed(stream, pieces=3_000, pause_s=0.001))
    async with standing(providers(upstream)) as gate:
        if grows:
            gate.knows(40)
        answer = await gate.post(path, body)
        assert cut not in answer.body
        booked = await gate.last()
        assert (booked.record.tokens_estimated, booked.uncovered) == (False, {})
        assert booked.amounts["output_tokens"] == (7 if dialect == "gemini" else LONG)
        kinds = [entry.kind for entry in await gate.entries()]
        assert 1 <= kinds.count("extended") <= 12


@pytest.mark.parametrize("split", [{}, {"pieces": 300}])
async def test_a_stream_that_keeps_to_its_bound_asks_for_no_more(upstream, split):
    """Of 100 words it says exactly 100, and has the very last of the budget."""
    usage = {"prompt_tokens": 11, "completion_tokens": 100}
    stream = wire.chat_stream(*[WORD] * 100, usage=usage)
    upstream.answers(wire.streamed(stream, **split))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=100)
        answer = await gate.chat(wire.chat(stream=True, stream_options={"include_usage": True}))
        assert answer.body == stream
        assert "extended" not in [entry.kind for entry in await gate.entries()]
        assert (await gate.balance(unit="output_tokens")).spent == 100


async def test_few_large_pieces_within_the_bound_are_not_taken_for_more(upstream):
    """Some 4 bytes to a token, far more than 100 by the bound of 3 bytes."""
    text = "the quick brown fox jumps over the lazy dog " * 9  # 81 words
    stream = wire.chat_stream(text, usage={"prompt_tokens": 11, "completion_tokens": 90})
    upstream.answers(wire.streamed(stream, pieces=100))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=100)
        answer = await gate.chat(wire.chat(stream=True))
        assert b'"length"' not in answer.body
        assert (await gate.balance(unit="output_tokens")).spent == 90


async def test_the_usage_of_a_stream_that_has_ended_beyond_its_bound_is_waited_for(upstream):
    usage = {"prompt_tokens": 11, "completion_tokens": 130}
    stream = wire.chat_stream(*[WORD] * 130, usage=usage)
    at = stream.index(b'{"id"', stream.index(b'"finish_reason":"stop"'))
    upstream.answers(wire.streamed(stream, cuts=(stream.index(b'"finish_reason":"stop"') + 40, at), pause_s=0.02))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=PLENTY, tokens=PLENTY)
        await gate.limit(PAYER, "output_tokens", 105)
        await gate.chat(wire.chat(stream=True))
        booked = await gate.last()
        assert (booked.amounts["output_tokens"], booked.record.tokens_estimated) == (130, False)
        await gate.limit(PAYER, "output_tokens", PLENTY)


async def test_the_choices_of_a_stream_have_its_bound_each(upstream):
    chunks = [
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "model": MODEL,
            "choices": [{"index": index, "delta": {"content": WORD}}],
        }
        for _ in range(100)
        for index in range(2)
    ]
    stream = sse(*chunks, wire.chat_chunk(choices=[], usage={"prompt_tokens": 11, "completion_tokens": 200}))
    upstream.answers(wire.streamed(stream, pieces=400))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=200)
        answer = await gate.chat(wire.chat(stream=True, n=2))
        assert answer.body.count(WORD.encode()) == 200
        assert b'"length"' not in answer.body


# covers E2
@pytest.mark.parametrize("more", [{"n_predict": -1}, {"Max_Tokens": 100_000}, {"max_tokens": 0}])
async def test_a_bound_that_servers_read_otherwise_is_refused(gate, upstream, more):
    answer = await gate.chat(wire.chat(**more))
    assert (answer.status, answer.json["error"]["param"]) == (400, next(iter(more)))
    assert upstream.asked == []
    answer = await gate.generate(json.dumps({**wire.contents(), "GenerationConfig": {}}).encode())
    assert answer.status == 400
    assert "GenerationConfig" in answer.json["error"]["message"]


def test_examples():
    assert doctest.testmod(produced).failed == 0
