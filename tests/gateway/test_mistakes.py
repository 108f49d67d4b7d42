"""A mistake of the gateway's own: the caller has an error of its dialect, and what is known is on the books."""

import json
import logging

import pytest

from fiscus.dialects.anthropic import AnthropicMeter
from fiscus.dialects.completions_meter import CompletionsMeter
from fiscus.gateway.settling import booked
from tests.gateway import wire
from tests.gateway.gate import IN, OUT
from tests.gateway.upstream import sse

WRONG = [{"index": 0, "delta": {"tool_calls": 5}, "message": {"tool_calls": 5}, "finish_reason": "stop"}]


# covers E14
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_with_a_value_of_a_wrong_type_passes_and_is_booked_as_told(gate, upstream, stream):
    body = sse(wire.chat_chunk(choices=WRONG), wire.chat_chunk(choices=[], usage=wire.CHAT_USAGE))
    upstream.answers(wire.streamed(body) if stream else wire.chat_answer(choices=WRONG))
    answer = await gate.chat(wire.chat(stream=stream, stream_options={"include_usage": True}))
    assert (answer.status, b'"tool_calls":' in answer.body) == (200, True)
    booked = await gate.last()
    assert booked.amounts["cost"] == 11 * IN + 7 * OUT
    assert (booked.record.outcome, booked.record.tokens_estimated) == ("success", False)


def breaks_after(monkeypatch, meter, number):
    """A meter that makes a mistake with the event after so many."""
    feed, seen = meter.feed, []

    def feeding(self, event):
        seen.append(event)
        if len(seen) > number:
            raise TypeError("a mistake")
        return feed(self, event)

    monkeypatch.setattr(meter, "feed", feeding)


# covers E14
@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_a_mistake_within_a_stream_ends_it_with_an_error_and_what_came_is_booked(
    gate, upstream, monkeypatch, caplog, family
):
    texts = [f"word{number} " for number in range(30)]
    if family == "openai":
        breaks_after(monkeypatch, CompletionsMeter, 20)
        upstream.answers(wire.streamed(wire.chat_stream(*texts), pieces=200, pause_s=0.005))
        answer = await gate.chat(wire.chat(stream=True))
    else:
        breaks_after(monkeypatch, AnthropicMeter, 23)
        upstream.answers(wire.streamed(wire.anthropic_stream(*texts), pieces=200, pause_s=0.005))
        answer = await gate.messages(wire.messages(stream=True))
    last = answer.body.rstrip().rpartition(b"\n\n")[2]
    assert "mistake" in json.loads(last[last.index(b"data: ") + 6 :])["error"]["message"]
    booked = await gate.last()
    assert (booked.record.outcome, booked.record.error_code) == ("error", "gateway_failed")
    assert booked.record.tokens_estimated
    assert booked.amounts["output_tokens"] >= 20
    assert booked.amounts["input_tokens"] >= (14 if family == "anthropic" else 1)
    assert "call_failed" in caplog.text
    assert upstream.asked[0].was_left


# covers E14
async def test_a_mistake_with_a_whole_answer_is_an_error_and_its_usage_is_booked(gate, upstream, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    read = CompletionsMeter.read

    def reading(self, body):
        read(self, body)
        raise TypeError("a mistake")

    monkeypatch.setattr(CompletionsMeter, "read", reading)
    upstream.answers(wire.chat_answer())
    answer = await gate.chat(wire.chat())
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_error")
    assert "retry-after" not in answer.headers
    assert (await gate.last()).amounts["cost"] == 11 * IN + 7 * OUT


# covers E14
async def test_a_mistake_after_an_answer_adds_nothing_to_it(gate, upstream, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    tries = []

    def booking(**given):
        tries.append(given)
        if len(tries) == 1:
            raise TypeError("a mistake")
        return booked(**given)

    monkeypatch.setattr("fiscus.gateway.books.booked", booking)
    upstream.answers(wire.chat_answer())
    answer = await gate.chat(wire.chat())
    assert (answer.status, answer.body) == (200, wire.chat_answer().body)
    assert (await gate.last()).amounts["tokens"] == 18
