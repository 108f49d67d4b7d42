"""However a stream ends, in each dialect: books show what was billed, no hold stays, and who waits gets the room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.contract.queries import HoldView, ReadHold
from fiscus.core.commands import Extend, Release, Reserve, Settle
from fiscus.gateway.application import Gateway
from fiscus.spool import Spool, SpoolingTreasury
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, PAYER, providers, standing
from tests.gateway.test_failures import left_after
from tests.gateway.wire import named_events, sse

LIMIT = 10_000
SOON_S = 1.0
WORDS = [f"word{number} " for number in range(20)]
GENERATE = "/gemini/v1beta/models/test-model:streamGenerateContent?alt=sse"


# -- streams in each dialect, with as many usages as are wanted at their end -----------------------------------------


def chat(outputs: Sequence[int]) -> bytes:
    usages = [wire.chat_chunk(choices=[], usage={"prompt_tokens": 11, "completion_tokens": one}) for one in outputs]
    return sse(*map(wire.chat_chunk, WORDS), wire.chat_stop(), *usages)


def completions(outputs: Sequence[int]) -> bytes:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": wire.MODEL}
    pieces = [{"index": 0, "text": text, "finish_reason": None, "logprobs": None} for text in WORDS]
    choices = [*pieces, {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]
    usages = [{**head, "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": one}} for one in outputs]
    return sse(*({**head, "choices": [one]} for one in choices), *usages)


def responses(outputs: Sequence[int]) -> bytes:
    at = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
    deltas = [{"type": "response.output_text.delta", **at, "delta": text} for text in WORDS]
    usages = [{"input_tokens": 11, "output_tokens": one, "total_tokens": 11 + one} for one in outputs] or [None]
    ends = [{"type": "response.completed", "response": wire.response_object(usage=one)} for one in usages]
    begun = {"type": "response.created", "response": wire.response_object("in_progress")}
    chunks = [begun, *deltas, *ends]
    return named_events(*({**chunk, "sequence_number": number} for number, chunk in enumerate(chunks)))


def anthropic(outputs: Sequence[int]) -> bytes:
    told = {"input_tokens": 11, "output_tokens": 1}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": wire.MODEL, "content": []}
    begun = {**head, "stop_reason": None, "stop_sequence": None, **({"usage": told} if outputs else {})}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}}
    return named_events(
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in WORDS),
        {"type": "content_block_stop", "index": 0},
        *({**end, "usage": {"output_tokens": one}} for one in outputs),
        *([] if outputs else [end]),
        {"type": "message_stop"},
    )


def gemini(outputs: Sequence[int]) -> bytes:
    usages = [
        {"promptTokenCount": 11, "candidatesTokenCount": one, "totalTokenCount": 11 + one} for one in outputs
    ] or [None]
    ends = [wire.gemini_chunk("", one, finishReason="STOP") for one in usages]
    return sse(*(wire.gemini_chunk(text, None) for text in WORDS), *ends, done=False)


STREAMS: dict[str, tuple[str, Any, Any]] = {
    "openai.chat": ("/openai/v1/chat/completions", wire.chat(stream=True, max_tokens=300), chat),
    "openai.completions": (
        "/openai/v1/completions",
        {"model": wire.MODEL, "prompt": "Hi.", "stream": True, "max_tokens": 300},
        completions,
    ),
    "openai.responses": (
        "/openai/v1/responses",
        {"model": wire.MODEL, "input": "Hi.", "stream": True, "max_output_tokens": 300},
        responses,
    ),
    "anthropic": ("/anthropic/v1/messages", wire.messages(stream=True, max_tokens=300), anthropic),
    "gemini": (GENERATE, wire.contents(), gemini),
}


@pytest.fixture(params=STREAMS)
def dialect(request) -> str:
    return str(request.param)


class Stage:
    """A stream that is under way, and another call that waits for the room that it holds: all the rest is held."""

    def __init__(self, gate, upstream, dialect):
        self.gate = gate
        self.upstream = upstream
        self.path, self.body, self.stream = STREAMS[dialect]
        self.waiting = None

    async def wait_behind(self):
        """All else is held from now on, and one waits."""
        await self.upstream.request()
        await self.gate.do(Reserve(id="rest", account=PAYER, amounts=dict.fromkeys(("tokens",), await self.free())))
        self.waiting = asyncio.create_task(self.gate.chat(wire.chat(max_tokens=20)))
        async with asyncio.timeout(2):
            while "queued" not in [entry.kind for entry in await self.gate.entries()]:
                await asyncio.sleep(0.005)

    async def free(self):
        return (await self.gate.balance()).available

    async def until_left(self):
        """What was booked for the stream, and that the one who waited had the room within a second of its end."""
        async with asyncio.timeout(5):
            while not (await self.gate.usage()):
                await asyncio.sleep(0.005)
        ended_s = time.monotonic()
        answer = await self.waiting
        assert time.monotonic() - ended_s < SOON_S
        assert answer.status == 200
        await self.gate.do(Release(id="rest"))
        booked = (await self.gate.usage())[0]
        view = await self.gate.treasury.read(ReadHold(id=booked.hold))
        assert isinstance(view, HoldView)
        assert view.hold.state == "settled"
        amounts = booked.amounts
        assert amounts["tokens"] == amounts["input_tokens"] + amounts["output_tokens"]
        assert amounts["cost"] == amounts["input_tokens"] * IN + amounts["output_tokens"] * OUT
        return booked


@pytest.fixture(params=[False, True], ids=["bound held", "hold grows"])
async def stage(request, upstream, dialect):
    async with standing(providers(upstream, silence_s_max=0.4), budget=False) as gate:
        await gate.account(PAYER, tokens=LIMIT)
        if request.param:
            gate.knows(40)
        yield Stage(gate, upstream, dialect)


def answering(stage, reply):
    """The stream first, then an answer that is whole."""
    stage.upstream.answers_by(lambda asked: reply if len(stage.upstream.asked) == 1 else wire.chat_answer())


# covers E14
@pytest.mark.parametrize("outputs", [[7], [5, 9], [55]], ids=["less than metered", "told twice", "more than metered"])
async def test_what_the_provider_says_is_booked(stage, outputs):
    answering(stage, wire.streamed(stage.stream(outputs), pieces=400, pause_s=0.02))
    call = asyncio.create_task(stage.gate.post(stage.path, stage.body))
    await stage.wait_behind()
    assert (await call).status == 200
    booked = await stage.until_left()
    assert (booked.amounts["input_tokens"], booked.amounts["output_tokens"]) == (11, outputs[-1])
    assert (booked.record.outcome, booked.record.tokens_estimated) == ("success", False)


# covers E14
async def test_without_usage_what_came_is_booked_and_marked(stage):
    answering(stage, wire.streamed(stage.stream([]), pieces=400, pause_s=0.02))
    call = asyncio.create_task(stage.gate.post(stage.path, stage.body))
    await stage.wait_behind()
    assert (await call).status == 200
    booked = await stage.until_left()
    assert booked.record.tokens_estimated
    assert len(WORDS) <= booked.amounts["output_tokens"] <= 3 * len(WORDS)
    assert booked.amounts["input_tokens"] > 0


# covers E14
@pytest.mark.parametrize("how", ["hangs", "breaks"])
async def test_when_the_provider_hangs_or_breaks_off_what_came_is_booked_and_the_caller_told(stage, how):
    stream = stage.stream([30])
    middle = stream.index(WORDS[10].encode()) + 3
    reply = wire.streamed(stream, pieces=200, pause_s=0.01, broken_after=middle)
    if how == "hangs":
        reply = wire.streamed(stream, pieces=middle, pause_s=5)
    answering(stage, reply)
    call = asyncio.create_task(stage.gate.post(stage.path, stage.body))
    await stage.wait_behind()
    answer = await call
    assert answer.status == 200
    assert b"broke off" in answer.body
    assert WORDS[9].encode() in answer.body
    booked = await stage.until_left()
    assert (booked.record.outcome, booked.record.error_code) == ("error", "upstream_broke_off")
    assert booked.record.tokens_estimated
    assert 10 <= booked.amounts["output_tokens"] <= 3 * len(WORDS)


# covers E14
async def test_when_the_caller_leaves_the_provider_is_left_and_what_came_is_booked(stage):
    stream = stage.stream([30])
    answering(stage, wire.streamed(stream, pieces=len(stream) // 40, pause_s=0.03))
    call = asyncio.create_task(left_after(stage.gate, stage.path, stage.body, len(stream) // 2))
    await stage.wait_behind()
    came = await call
    async with asyncio.timeout(1):
        await stage.upstream.asked[0].ended.wait()
    assert stage.upstream.asked[0].was_left
    booked = await stage.until_left()
    assert (booked.record.outcome, booked.record.error_code) == ("cancelled", "client_left")
    assert came.count(b"word") <= booked.amounts["output_tokens"] <= 3 * len(WORDS)


class Away:
    """A ledger that is away for a while."""

    def __init__(self, treasury):
        self.treasury = treasury
        self.is_away = False
        self.asked = 0

    async def execute(self, request):
        self._refuse(request)
        return await self.treasury.execute(request)

    async def execute_many(self, requests):
        for request in requests:
            self._refuse(request)
        return await self.treasury.execute_many(requests)

    async def read(self, query):
        self._refuse(None)
        return await self.treasury.read(query)

    def _refuse(self, request):
        if self.is_away:
            self.asked += request is None or isinstance(request.command, Settle | Extend)
            raise StoreUnavailable("the database is away")

    def __getattr__(self, name):
        return getattr(self.treasury, name)


# covers E11, E14
@pytest.mark.parametrize("outputs", [[7], []], ids=["usage", "no usage"])
async def test_when_the_ledger_is_away_in_between_it_is_booked_when_it_is_back(
    upstream, dialect, outputs, tmp_path, monkeypatch
):
    spooling = []
    made = Gateway.__init__

    def over(self, treasury, options, **more):
        away = Away(treasury)
        spooling.append((away, SpoolingTreasury(away, Spool(tmp_path, "ledger"))))
        spooling[0][1].start()
        made(self, spooling[0][1], options, **more)

    monkeypatch.setattr(Gateway, "__init__", over)
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=LIMIT)
        gate.knows(40)
        [(away, treasury)] = spooling
        stage = Stage(gate, upstream, dialect)
        answering(stage, wire.streamed(stage.stream(outputs), pieces=400, pause_s=0.02))
        call = asyncio.create_task(gate.post(stage.path, stage.body))
        await upstream.request()
        away.is_away = True
        assert (await call).status == 200
        async with asyncio.timeout(2):
            while not len(treasury.spool):
                await asyncio.sleep(0.005)
        assert (await gate.chat(wire.chat())).status == 503
        assert len(upstream.asked) == 1
        assert (await gate.balance()).held > 0
        away.is_away = False
        async with asyncio.timeout(3):
            while treasury.is_away or len(treasury.spool) or (await gate.balance()).held:
                await asyncio.sleep(0.01)
        booked = await gate.last()
        assert booked.record.tokens_estimated is not bool(outputs)
        if outputs:
            assert (booked.amounts["input_tokens"], booked.amounts["output_tokens"]) == (11, 7)
        else:
            assert booked.amounts["output_tokens"] >= len(WORDS)
        await treasury.outbox.close()
