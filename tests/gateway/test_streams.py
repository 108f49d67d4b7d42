"""Streams: bytes pass as they come, the hold grows ahead of them, and what cannot grow ends validly and is booked."""

import asyncio
import json
import time

import pytest

from fiscus.core.commands import PutBudget, Release, Request, Reserve, Settle
from fiscus.gateway.produced import IMAGE_TOKENS
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, PAYER, PLENTY, providers, standing
from tests.gateway.upstream import EVENTS, Reply, sse

GENERATE = "/gemini/v1beta/models/test-model:streamGenerateContent"
STREAMS = {
    "openai.chat": (
        "/openai/v1/chat/completions",
        wire.chat(stream=True, stream_options={"include_usage": True}),
        wire.chat_stream("Hé", "llo", "!"),
        (11, 7),
    ),
    "openai.completions": (
        "/openai/v1/completions",
        {"model": wire.MODEL, "prompt": "Hi.", "stream": True, "stream_options": {"include_usage": True}},
        wire.completion_stream(),
        (11, 7),
    ),
    "openai.responses": (
        "/openai/v1/responses",
        {"model": wire.MODEL, "input": "Hi.", "stream": True},
        wire.responses_stream(),
        (10, 6),
    ),
    "anthropic": ("/anthropic/v1/messages", wire.messages(stream=True), wire.anthropic_stream("Hé", "llo"), (14, 7)),
    "gemini": (f"{GENERATE}?alt=sse", wire.contents(), wire.gemini_stream(), (8, 7)),
}
SPLITS = [{"pieces": 1}, {"pieces": 2}, {"pieces": 7}, {"pieces": 61}, {}]
WORDS = [f"word{number} " for number in range(400)]


def events_of(body):
    """What the events of OpenAI say."""
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]


async def learned(gate, upstream, output_tokens, dialect="openai.chat"):
    """Let the gateway learn that answers have so many tokens; then its holds are for no more."""
    usage = {"prompt_tokens": 11, "completion_tokens": output_tokens}
    for _ in range(8):
        if dialect == "openai.chat":
            upstream.answers(wire.streamed(wire.chat_stream("Hi", usage=usage)))
            assert (await gate.chat(wire.chat(stream=True, max_tokens=5_000))).status == 200
        elif dialect == "anthropic":
            upstream.answers(wire.streamed(wire.anthropic_stream("Hi", output_tokens=output_tokens)))
            assert (await gate.messages(wire.messages(stream=True, max_tokens=5_000))).status == 200
    return len(upstream.asked)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("dialect", STREAMS)
async def test_a_stream_passes_byte_for_byte_however_it_is_split(gate, upstream, dialect, split):
    path, body, stream, (into, out) = STREAMS[dialect]
    upstream.answers(wire.streamed(stream, **split))
    answer = await gate.post(path, body)
    assert answer.status == 200
    assert answer.body == stream
    assert answer.headers["content-type"] == EVENTS[0][1]
    booked = await gate.last()
    assert (booked.amounts["input_tokens"], booked.amounts["output_tokens"]) == (into, out)
    assert booked.amounts["cost"] == into * IN + out * OUT
    assert (booked.record.action, booked.record.outcome) == ("stream", "success")
    assert not booked.record.tokens_estimated


@pytest.mark.parametrize("nulls", [False, True])
async def test_usage_that_only_the_gateway_asked_for_is_taken_out_again(gate, upstream, nulls):
    upstream.answers(wire.streamed(wire.chat_stream(nulls=nulls), pieces=5))
    answer = await gate.chat(wire.chat(stream=True))
    assert upstream.asked[0].json["stream_options"] == {"include_usage": True}
    assert answer.body == wire.chat_stream(usage=None)
    assert (await gate.last()).amounts["tokens"] == 18


async def test_an_array_that_grows_passes_as_it_is(gate, upstream):
    chunks = [wire.gemini_chunk("Hel", {"promptTokenCount": 8}), wire.gemini_chunk("lo", finishReason="STOP")]
    body = json.dumps(chunks, indent=2).encode()
    for pieces in (1, 10, 0):
        upstream.answers(Reply(body=body, pieces=pieces, is_chunked=True))
        answer = await gate.post(GENERATE, wire.contents())
        assert (answer.status, answer.body) == (200, body)
    assert [(one.amounts["input_tokens"], one.amounts["output_tokens"]) for one in await gate.usage()] == [(8, 7)] * 3


async def test_pieces_come_as_soon_as_they_are_there(gate, upstream):
    upstream.answers(wire.streamed(wire.chat_stream("a", "b", "c"), pieces=170, pause_s=0.15))
    body = json.dumps(wire.chat(stream=True)).encode()
    headers = {"content-type": "application/json"}
    url = f"{gate.url}/openai/v1/chat/completions"
    began_s = time.monotonic()
    async with gate.session.post(url, data=body, headers=headers) as answer:
        await answer.content.readany()
        first_s = time.monotonic() - began_s
        await answer.read()
    assert first_s < 0.3 < time.monotonic() - began_s


async def test_usage_that_is_told_twice_counts_once(gate, upstream):
    twice = wire.chat_stream(done=False) + wire.chat_stream("x", usage={**wire.CHAT_USAGE, "completion_tokens": 9})
    upstream.answers(wire.streamed(twice))
    answer = await gate.chat(wire.chat(stream=True, stream_options={"include_usage": True}))
    assert answer.body == twice
    assert (await gate.last()).amounts["tokens"] == 11 + 9


async def test_a_stream_without_usage_is_booked_as_counted_and_says_so(gate, upstream):
    upstream.answers(wire.streamed(wire.chat_stream(*WORDS[:50], usage=None)))
    assert (await gate.chat(wire.chat(stream=True, max_tokens=500))).status == 200
    booked = await gate.last()
    assert booked.record.tokens_estimated
    assert booked.amounts["output_tokens"] >= 50
    assert booked.amounts["input_tokens"] > 0
    assert booked.amounts["cost"] == booked.amounts["input_tokens"] * IN + booked.amounts["output_tokens"] * OUT


@pytest.mark.parametrize(
    ("said", "booked_tokens"), [((0, 0), "counted"), ((9, 0), "output counted"), ((0, 3), "as said")]
)
async def test_an_output_of_zero_is_not_believed_of_an_answer_that_shows_something(gate, upstream, said, booked_tokens):
    """What the provider says beside it stands."""
    usage = dict(zip(("prompt_tokens", "completion_tokens"), said, strict=True))
    upstream.answers(wire.streamed(wire.chat_stream(usage=usage)))
    assert (await gate.chat(wire.chat(stream=True))).status == 200
    booked = await gate.last()
    into, out = booked.amounts["input_tokens"], booked.amounts["output_tokens"]
    assert booked.record.tokens_estimated == (booked_tokens != "as said")
    assert (into == said[0], out == said[1]) == {
        "counted": (False, False),
        "output counted": (True, False),
        "as said": (True, True),
    }[booked_tokens]
    assert booked.amounts["cost"] == into * IN + out * OUT


async def test_a_prompt_that_is_scored_is_no_output(gate, upstream):
    """``echo`` with a bound of 0: what is shown is the prompt."""
    answer = {"id": "c", "object": "text_completion", "created": 1, "model": wire.MODEL}
    answer |= {"choices": [{"index": 0, "text": "Say hello.", "finish_reason": "length"}]}
    answer |= {"usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}}
    upstream.answers(Reply(body=wire.encoded(answer)))
    body = {"model": wire.MODEL, "prompt": "Say hello.", "echo": True, "max_tokens": 0, "logprobs": 1}
    assert (await gate.post("/openai/v1/completions", body)).status == 200
    booked = await gate.last()
    assert (booked.amounts["input_tokens"], booked.amounts["output_tokens"]) == (9, 0)
    assert not booked.record.tokens_estimated


async def test_usage_of_zero_of_an_answer_that_shows_nothing_is_what_the_provider_said(gate, upstream):
    upstream.answers(wire.streamed(wire.chat_stream("", usage={"prompt_tokens": 0, "completion_tokens": 0})))
    assert (await gate.chat(wire.chat(stream=True))).status == 200
    booked = await gate.last()
    assert (booked.amounts["tokens"], booked.record.tokens_estimated) == (0, False)
    assert booked.record.outcome == "success"


# -- holds that grow ------------------------------------------------------------------------------------------------


async def test_a_learned_hold_is_small_and_grows_ahead_of_the_stream(gate, upstream):
    count = await learned(gate, upstream, 20)
    usage = {"prompt_tokens": 11, "completion_tokens": 400}
    upstream.answers(wire.streamed(wire.chat_stream(*WORDS, usage=usage), pieces=3_000, pause_s=0.02))
    call = asyncio.create_task(gate.chat(wire.chat(stream=True, max_tokens=5_000)))
    await upstream.request(count + 1)
    first = (await gate.balance()).held
    assert first < 300, "the worst case is 5,000"
    most = first
    while not call.done():
        most = max(most, (await gate.balance()).held)
        await asyncio.sleep(0.01)
    assert most > 2 * first
    answer = await call
    assert len(events_of(answer.body)) == 401
    assert upstream.asked[-1].json["max_tokens"] == 5_000
    booked = (await gate.usage())[-1]
    assert booked.amounts["output_tokens"] == 400
    assert booked.uncovered == {}


def ended_validly(dialect, body):
    """The text that came, and that the stream ended as one that reached its bound."""
    if dialect == "openai.chat":
        assert body.endswith(b"data: [DONE]\n\n")
        chunks = events_of(body)
        reasons = [one["choices"][0]["finish_reason"] for one in chunks if one["choices"]]
        assert reasons == [None] * (len(reasons) - 1) + ["length"]
        return "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if one["choices"])
    chunks = events_of(body)
    assert [one["type"] for one in chunks[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert chunks[-2]["delta"]["stop_reason"] == "max_tokens"
    return "".join(one["delta"].get("text", "") for one in chunks if one["type"] == "content_block_delta")


# covers E15
@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic"])
async def test_a_stream_that_cannot_grow_ends_validly_and_the_provider_is_left(upstream, dialect):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=PLENTY)
        count = await learned(gate, upstream, 20, dialect)
        spent = (await gate.balance()).spent
        await gate.limit(PAYER, "tokens", spent + 400)
        if dialect == "openai.chat":
            stream, path = wire.chat_stream(*WORDS), "/openai/v1/chat/completions"
            body = wire.chat(stream=True, max_tokens=5_000)
        else:
            stream, path = wire.anthropic_stream(*WORDS), "/anthropic/v1/messages"
            body = wire.messages(stream=True, max_tokens=5_000)
        upstream.answers(wire.streamed(stream, pieces=200, pause_s=0.002))
        before = upstream.asked[-1]
        answer = await gate.post(path, body)
        assert answer.status == 200
        said = ended_validly(dialect, answer.body)
        assert "".join(WORDS).startswith(said)
        assert 5 < said.count("word") < 400
        asked = upstream.asked[count]
        assert asked is not before
        async with asyncio.timeout(1):
            await asked.ended.wait()
        booked = (await gate.usage())[-1]
        assert booked.record.metadata["cut"] == "budget" or asked.json["max_tokens"] < 5_000
        assert asked.was_left
        produced = bytes(asked.sent).count(b"word")
        assert said.count("word") <= produced <= booked.amounts["output_tokens"], "what it sent in vain is booked, too"
        assert booked.uncovered == {}
        balance = await gate.balance()
        assert (balance.held, balance.overdrawn) == (0, 0)


# covers E14, E15
async def test_what_was_on_its_way_when_a_stream_was_cut_is_booked(upstream):
    """The provider sends 65 tokens at once, and the stream is cut after some of them."""
    event = sse(wire.chat_chunk("ab "), done=False)
    cuts = [20 * number * len(event) for number in range(1, 12)]
    upstream.answers(wire.streamed(event * 285, cuts=tuple(cuts), pause_s=0.02))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=300)
        gate.knows(20)
        answer = await gate.chat(wire.chat(stream=True, max_tokens=1_000))
        passed = len(events_of(answer.body)) - 1
        booked = await gate.last()
        assert booked.record.metadata["cut"] == "budget"
        assert passed < bytes(upstream.asked[0].sent).count(b'"ab "') == 285 <= booked.amounts["output_tokens"]
        assert booked.uncovered == {}


async def test_what_has_come_is_booked_by_its_pieces_where_each_is_known_to_be_a_token(gate, upstream):
    """By its bytes it would be twice as much. What is not streamed comes at once, and says nothing of pieces."""
    usage = {"prompt_tokens": 11, "completion_tokens": 60}
    for _ in range(8):
        upstream.answers(wire.streamed(wire.chat_stream(*WORDS[:60], usage=usage)))
        assert (await gate.chat(wire.chat(stream=True))).status == 200
        whole = {"index": 0, "message": {"role": "assistant", "content": "".join(WORDS[:60])}, "finish_reason": "stop"}
        upstream.answers(wire.chat_answer(choices=[whole], usage=usage))
        assert (await gate.chat(wire.chat())).status == 200
    upstream.answers(wire.streamed(wire.chat_stream(*WORDS[:200], usage=None)))
    assert (await gate.chat(wire.chat(stream=True))).status == 200
    booked = (await gate.usage())[-1]
    assert (booked.amounts["output_tokens"], booked.record.tokens_estimated) == (200, True)


async def test_a_cut_stream_tells_its_usage_where_the_caller_wants_it(upstream):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=PLENTY)
        await learned(gate, upstream, 20)
        await gate.limit(PAYER, "tokens", (await gate.balance()).spent + 400)
        upstream.answers(wire.streamed(wire.chat_stream(*WORDS), pieces=200, pause_s=0.002))
        body = wire.chat(stream=True, max_tokens=5_000, stream_options={"include_usage": True})
        chunks = events_of((await gate.chat(body)).body)
        assert chunks[-1]["choices"] == []
        told, booked = chunks[-1]["usage"], (await gate.usage())[-1].amounts
        assert (told["prompt_tokens"], told["completion_tokens"]) == (booked["input_tokens"], booked["output_tokens"])


async def test_a_stream_goes_on_when_a_limit_is_raised_meanwhile(upstream):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=PLENTY)
        count = await learned(gate, upstream, 20)
        spent = (await gate.balance()).spent
        await gate.limit(PAYER, "tokens", spent + 300)
        usage = {"prompt_tokens": 11, "completion_tokens": 400}
        upstream.answers(wire.streamed(wire.chat_stream(*WORDS, usage=usage), pieces=300, pause_s=0.003))
        call = asyncio.create_task(gate.chat(wire.chat(stream=True, max_tokens=5_000)))
        await upstream.request(count + 1)
        await gate.do(PutBudget(account=PAYER, unit="tokens", limit=PLENTY, budget="tokens"))
        assert len(events_of((await call).body)) == 401


async def test_a_stream_grows_into_what_was_given_back_a_moment_ago(upstream, monkeypatch):
    """What waits to be booked goes before it, also when nobody else asks for anything."""
    monkeypatch.setattr("fiscus.gateway.settlements.LINGER_S", 60.0)
    usage = {"prompt_tokens": 11, "completion_tokens": 180}
    upstream.answers(wire.streamed(wire.chat_stream(*["ab "] * 180, usage=usage), pieces=300, pause_s=0.004))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=1_000)
        gate.knows(40)
        call = asyncio.create_task(gate.chat(wire.chat(stream=True, max_tokens=200)))
        await upstream.request()
        rest = (await gate.balance(unit="output_tokens")).available
        await gate.do(Reserve(id="rest", account=PAYER, amounts={"output_tokens": rest}))
        giving_back = gate.gateway._tools.settlements.book(Request(command=Release(id="rest")))
        given_back = asyncio.create_task(giving_back)
        answer = await call
        await gate.booked()
        assert len(events_of(answer.body)) == 181
        await given_back


async def test_what_is_cut_or_clamped_would_have_been_longer(upstream):
    def answering(asked):
        tokens = min(180, asked.json["max_tokens"])
        usage = {"prompt_tokens": 11, "completion_tokens": tokens}
        stream = wire.chat_stream(*["ab "] * tokens, usage=usage)
        return wire.streamed(stream, pieces=300, pause_s=0.004)

    upstream.answers_by(answering)
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=400)
        gate.knows(40)
        lengths = gate.gateway._tools.lengths
        assert lengths.longer(PAYER, wire.MODEL, 40) is None
        call = asyncio.create_task(gate.chat(wire.chat(stream=True, max_tokens=200)))
        await upstream.request()
        rest = (await gate.balance(unit="output_tokens")).available
        await gate.do(Reserve(id="rest", account=PAYER, amounts={"output_tokens": rest}))
        cut = len(events_of((await call).body))
        await gate.booked()
        assert 60 < cut < 128
        assert lengths.expected(PAYER, wire.MODEL).known == 20
        assert lengths.longer(PAYER, wire.MODEL, 40) >= 60
        await gate.do(Release(id="rest"))
        left = (await gate.balance(unit="output_tokens")).available
        await gate.do(Reserve(id="rest again", account=PAYER, amounts={"output_tokens": left - 30}))
        gate.knows(20, answers=1)
        before = lengths.longer(PAYER, wire.MODEL, 24)
        await gate.do(Settle(id="rest again", total={"output_tokens": left - 30}))
        answer = await gate.chat(wire.chat(stream=True, max_tokens=200))
        assert (answer.status, upstream.asked[-1].json["max_tokens"]) == (200, 30)
        await gate.booked()
        assert lengths.expected(PAYER, wire.MODEL).known == 21, "an answer that was clamped to 30 is none of 30"
        assert lengths.longer(PAYER, wire.MODEL, 24) >= before


async def test_a_stream_whose_provider_tells_no_usage_is_as_long_as_it_came(upstream):
    async with standing(providers(upstream)) as gate:
        gate.knows(60, answers=8)
        upstream.answers(wire.streamed(wire.chat_stream(*WORDS[:150], usage=None)))
        for _ in range(40):
            assert (await gate.chat(wire.chat(stream=True, max_tokens=5_000))).status == 200
        await gate.booked()
        lengths = gate.gateway._tools.lengths
        assert lengths.expected(PAYER, wire.MODEL).known == 48
        assert lengths.longer(PAYER, wire.MODEL, 5_000 // 4) is None, "none ran on"
        assert 150 <= lengths.longer(PAYER, wire.MODEL, 60) < 5_000 // 4


@pytest.mark.parametrize("stream", [False, True])
async def test_an_absurd_usage_says_no_more_than_that_an_answer_was_as_long_as_it_might_be(upstream, stream):
    usage = {"prompt_tokens": 11, "completion_tokens": 10**9}
    upstream.answers(wire.streamed(wire.chat_stream("Hi", usage=usage)) if stream else wire.chat_answer(usage=usage))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, calls=PLENTY)
        gate.knows(60)
        assert (await gate.chat(wire.chat(stream=stream, max_tokens=200))).status == 200
        await gate.booked()
        assert gate.gateway._tools.lengths.longer(PAYER, wire.MODEL, 60) == 200


# covers E2
@pytest.mark.parametrize("limit", [450, 500])
async def test_a_stream_that_runs_comes_before_a_new_one_which_waits(upstream, limit):
    """Of 450 less is left than the second one leaves, and yet all that it asks for."""
    usage = {"prompt_tokens": 11, "completion_tokens": 180}
    found_whole = []

    def answering(asked):
        found_whole.extend(one.is_whole for one in upstream.asked if one is not asked)
        stream = wire.chat_stream(*["ab "] * 180, usage=usage)
        return wire.streamed(stream, pieces=300, pause_s=0.004)

    upstream.answers_by(answering)
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=limit)
        gate.knows(40)
        gate.knows(160)
        first = asyncio.create_task(gate.chat(wire.chat(stream=True, max_tokens=200)))
        await upstream.request()
        assert (await gate.balance(unit="output_tokens")).available > 200, (
            "another one would fit, but not both to the end"
        )
        second = asyncio.create_task(gate.chat(wire.chat(stream=True, max_tokens=200)))
        for answer in (await first, await second):
            assert len(events_of(answer.body)) == 181
        assert found_whole == [True]


# covers E2, E15
async def test_of_many_streams_on_a_small_budget_one_is_cut_at_most_and_all_of_it_is_used(upstream):
    """Callers ask until the budget is spent; the provider produces a token a piece, and no more than it was told."""
    lengths = [40 + 37 * (number * 7 % 11) for number in range(11)]

    def answering(asked):
        wanted, bound = lengths[len(upstream.asked) % len(lengths)], asked.json["max_tokens"]
        tokens = min(wanted, bound)
        usage = {"prompt_tokens": 11, "completion_tokens": tokens}
        end = [wire.chat_stop("length" if wanted > bound else "stop"), wire.chat_chunk(choices=[], usage=usage)]
        return wire.streamed(sse(*[wire.chat_chunk("ab ")] * tokens, *end), pieces=300, pause_s=0.004)

    upstream.answers_by(answering)
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, output_tokens=PLENTY)
        for length in lengths:
            gate.knows(length, answers=3)
        await gate.limit(PAYER, "output_tokens", 5_000)
        ends = []

        async def caller():
            while (answer := await gate.chat(wire.chat(stream=True, max_tokens=1_000))).status != 402:
                if answer.status == 200:
                    ends.append(b'"length"' in answer.body)

        async with asyncio.timeout(30):
            await asyncio.gather(*(caller() for _ in range(8)))
        balance = await gate.balance(unit="output_tokens")
        produced = sum(bytes(asked.sent).count(b'"ab "') for asked in upstream.asked)
        assert 0.99 * 5_000 <= produced <= balance.spent <= 5_000
        assert sum(ends) <= 1
        assert len(ends) > 15


async def test_a_hold_lasts_as_long_as_its_stream(upstream, monkeypatch):
    monkeypatch.setattr("fiscus.gateway.application.LEASE_S", 1)
    async with standing(providers(upstream, answer_s_max=0.25, silence_s_max=0.25)) as gate:
        upstream.answers(wire.streamed(wire.chat_stream(*WORDS[:20]), pieces=100, pause_s=0.1))
        assert (await gate.chat(wire.chat(stream=True))).status == 200
        kinds = [entry.kind for entry in await gate.entries()]
        assert kinds.count("extended") >= 2
        assert "expired" not in kinds


async def test_a_picture_in_a_stream_without_usage_is_booked(gate, upstream):
    part = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    chunk = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}], "modelVersion": wire.MODEL}
    upstream.answers(wire.streamed(sse(chunk, done=False)))
    assert (await gate.post(f"{GENERATE}?alt=sse", wire.contents())).status == 200
    assert (await gate.last()).amounts["output_tokens"] == IMAGE_TOKENS


async def test_a_call_of_a_tool_without_usage_is_booked(gate, upstream):
    call = {"index": 0, "id": "c", "function": {"name": "look_up", "arguments": '{"where": "here and there"}'}}
    stream = sse(wire.chat_chunk(choices=[{"index": 0, "delta": {"tool_calls": [call]}}]), wire.chat_stop("tool_calls"))
    upstream.answers(wire.streamed(stream))
    assert (await gate.chat(wire.chat(stream=True))).status == 200
    assert (await gate.last()).amounts["output_tokens"] == -(-len('look_up{"where": "here and there"}') // 3)
