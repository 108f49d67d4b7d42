"""Each value of an answer becomes each type of JSON: no meter raises, and a usage that is whole is still read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fiscus.core.records import Tokens
from fiscus.dialects import DIALECTS, Event
from tests.gateway import wire

OTHERS: tuple[Any, ...] = (None, True, False, 0, 5, -1, 2**70, 1.5, "", "x", "\x00", [], [5], [None], {}, {"x": 5})
USAGES = ("usage", "usageMetadata")
DECIDING = ("type", "response", "message")
"""Members without which nobody knows that the usage beside them is one."""

CALLS = [
    {"index": 0, "id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"at": 1}'}},
    {"index": 1, "id": "d", "type": "custom", "custom": {"name": "write", "input": "all"}},
    {"index": 2, "id": "e", "type": "function", "function": {"name": "look_up", "arguments": {"at": 1}}},
]
MESSAGE = {
    "role": "assistant",
    "content": [{"type": "text", "text": "Hi"}, {"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}],
    "refusal": "no",
    "reasoning_content": "well",
    "reasoning": "well",
    "tool_calls": CALLS,
    "function_call": {"name": "look_up", "arguments": "{}"},
    "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}],
    "audio": {"id": "a", "transcript": "heard"},
}
CHAT_USAGE = {
    **wire.CHAT_USAGE,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1},
    "cost": 0.5,
    "cost_details": {"upstream_inference_cost": 0.25},
    "server_tool_use_details": {"web_search_requests": 2},
}
HEAD = {"id": "c1", "created": 1, "model": "m", "service_tier": "default", "error": None}


def chat(place: str) -> dict[str, Any]:
    choice = {"index": 0, place: MESSAGE, "finish_reason": "tool_calls", "logprobs": None}
    return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": CHAT_USAGE, "x_groq": {"id": "g"}}


def completion() -> dict[str, Any]:
    choice = {"index": 0, "text": "Hello!", "finish_reason": "stop", "logprobs": None}
    return {**HEAD, "object": "text_completion", "choices": [choice], "usage": CHAT_USAGE}


def responses() -> dict[str, Any]:
    part = {"type": "output_text", "text": "Hi", "refusal": "no", "annotations": []}
    items = [
        {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]},
        {
            "type": "reasoning",
            "id": "r1",
            "summary": [{"type": "summary_text", "text": "so"}],
            "encrypted_content": "e",
        },
        {"type": "function_call", "id": "f1", "name": "look_up", "arguments": "{}", "input": "i", "code": "c"},
        {"type": "web_search_call", "id": "w1", "action": {"type": "search", "query": "q"}},
    ]
    more = {"tool_usage": {"web_search": {"num_requests": 1}}, "incomplete_details": {"reason": "max_output_tokens"}}
    return {**wire.response_object(), "service_tier": "default", "output": items, **more}


def responses_stream() -> list[dict[str, Any]]:
    at = {"item_id": "m1", "output_index": 0, "content_index": 0}
    of = {"item_id": "r1", "output_index": 1, "summary_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    output = responses()["output"]
    chunks: list[dict[str, Any]] = [
        {"type": "response.created", "response": wire.response_object("in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": {**output[0], "content": []}},
        {"type": "response.content_part.added", **at, "part": part},
        {"type": "response.output_text.delta", **at, "delta": "Hi"},
        {"type": "response.output_text.done", **at, "text": "Hi"},
        {"type": "response.content_part.done", **at, "part": {**part, "text": "Hi"}},
        {"type": "response.output_item.added", "output_index": 1, "item": output[1]},
        {"type": "response.reasoning_summary_part.added", **of, "part": {"type": "summary_text", "text": ""}},
        {"type": "response.reasoning_summary_text.delta", **of, "delta": "so"},
        {"type": "response.output_item.added", "output_index": 2, "item": output[2]},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{}"},
        {"type": "response.output_item.done", "output_index": 2, "item": output[2]},
        {"type": "response.output_item.added", "output_index": 3, "item": output[3]},
        {"type": "response.output_item.done", "output_index": 3, "item": output[3]},
        {"type": "response.completed", "response": responses()},
    ]
    return [{**chunk, "sequence_number": number} for number, chunk in enumerate(chunks)]


ANTHROPIC_USAGE = {
    **wire.ANTHROPIC_USAGE,
    "output_tokens": 7,
    "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1},
    "output_tokens_details": {"thinking_tokens": 2},
    "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 1},
    "service_tier": "standard",
    "speed": "standard",
    "inference_geo": "us",
    "iterations": [{"type": "compaction", "input_tokens": 5, "output_tokens": 2}, {"type": "advisor", "model": "a"}],
}
BLOCKS = [
    {"type": "text", "text": "Hi"},
    {"type": "thinking", "thinking": "so", "signature": "s"},
    {"type": "redacted_thinking", "data": "d"},
    {"type": "tool_use", "id": "t", "name": "look_up", "input": {"at": [1]}},
]
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": BLOCKS,
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": ANTHROPIC_USAGE,
}


def anthropic_stream() -> list[dict[str, Any]]:
    deltas = [
        {"type": "text_delta", "text": "Hi"},
        {"type": "thinking_delta", "thinking": "so"},
        {"type": "input_json_delta", "partial_json": "{}"},
        {"type": "signature_delta", "signature": "s"},
    ]
    return [
        {"type": "message_start", "message": {**ANTHROPIC, "content": [], "stop_reason": None}},
        *({"type": "content_block_start", "index": index, "content_block": one} for index, one in enumerate(BLOCKS)),
        *({"type": "content_block_delta", "index": index, "delta": one} for index, one in enumerate(deltas)),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": ANTHROPIC_USAGE},
        {"type": "message_stop"},
    ]


def gemini() -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"text": "Hi", "thought": True, "thoughtSignature": "s"},
        {"functionCall": {"name": "look_up", "args": {"at": 1}}},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
    ]
    more = {"index": 0, "finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["q"]}}
    details = [{"modality": "TEXT", "tokenCount": 3}, {"modality": "IMAGE", "tokenCount": 1}]
    usage = {**wire.GEMINI_USAGE, "candidatesTokensDetails": details, "promptTokensDetails": details}
    return {
        "candidates": [{"content": {"role": "model", "parts": parts}, **more}],
        "modelVersion": "m",
        "responseId": "r",
        "promptFeedback": {"blockReason": "OTHER"},
        "error": None,
        "usageMetadata": {**usage, "serviceTier": "standard", "trafficType": "ON_DEMAND"},
    }


EMBEDDINGS = {"object": "list", "model": "m", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 5}}
WHOLE: dict[str, dict[str, Any]] = {
    "openai.chat": chat("message"),
    "openai.completions": completion(),
    "openai.embeddings": EMBEDDINGS,
    "openai.responses": responses(),
    "anthropic.messages": ANTHROPIC,
    "gemini.generate": gemini(),
}
STREAMS: dict[str, list[dict[str, Any]]] = {
    "openai.chat": [chat("delta"), {**chat("delta"), "choices": []}],
    "openai.completions": [completion(), {**completion(), "choices": []}],
    "openai.responses": responses_stream(),
    "anthropic.messages": anthropic_stream(),
    "gemini.generate": [gemini(), gemini()],
}

Path = tuple[str | int, ...]


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where every value stands."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*at, key))


def changed(value: Any, path: Path, other: Any) -> Any:
    """A copy with another value at a place."""
    if not path:
        return other
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], other)
    return copied


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def read(name: str, answer: Any) -> Any:
    meter = DIALECTS[name].meter("application/json")
    meter.read(written(answer))
    return meter


def fed(name: str, events: list[Any]) -> Any:
    meter = DIALECTS[name].meter("text/event-stream")
    for one in events:
        data = written(one)
        meter.feed(Event(raw=b"data: " + data + b"\n\n", data=data))
        meter.usage()
    return meter


def leaves_the_usage(path: Path) -> bool:
    """Whether what stands at a place says nothing of the usage, and does not contain it."""
    keys = [key for key in path if isinstance(key, str)]
    return bool(keys) and not {*USAGES} & {*keys} and keys != ["error"] and keys[-1] not in DECIDING


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_whole_answer_is_read_whatever_type_a_value_has(name: str) -> None:
    answer = WHOLE[name]
    tokens = read(name, answer).usage().tokens
    for path in places(answer):
        for other in OTHERS:
            usage = read(name, changed(answer, path, other)).usage()
            if leaves_the_usage(path):
                assert usage is not None, (path, other)
                assert usage.tokens == tokens, (path, other)


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_a_stream_is_read_and_can_be_ended_whatever_type_a_value_has(name: str) -> None:
    events, dialect = STREAMS[name], DIALECTS[name]
    tokens = fed(name, events).usage().tokens
    for path in places(events):
        if path:
            for other in OTHERS:
                meter = fed(name, changed(events, path, other))
                usage = meter.usage()
                dialect.ending(meter, include_usage=True, tokens=Tokens(input=1, output=1))
                if leaves_the_usage(path):
                    assert usage is not None, (path, other)
                    assert usage.tokens == tokens, (path, other)


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_a_stream_that_begins_with_a_wrong_type_can_be_ended(name: str) -> None:
    """Its first event alone, before anything else has put it right."""
    events, dialect = STREAMS[name], DIALECTS[name]
    for number, event in enumerate(events[:-1]):
        for path in places(event):
            for other in OTHERS:
                meter = fed(name, [*events[:number], changed(event, path, other)])
                dialect.ending(meter, include_usage=True, tokens=Tokens(input=1, output=1))


RAW = {
    "bytes that are no text": b'{"id":"\xff","NAME":USAGE}',
    "half a character": b'{"id":"\\ud800","NAME":USAGE}',
    "a number that no decimal can be": b'{"id":1e99999999999999999999,"NAME":USAGE}',
    "the same, and half a character": b'{"id":1e99999999999999999999,"x":"\\ud800","NAME":USAGE}',
    "a number of 5,000 digits": b'{"id":1' + b"0" * 5_000 + b',"NAME":USAGE}',
    "a mark of the order of bytes": b'\xef\xbb\xbf{"id":null,"NAME":USAGE}',
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
@pytest.mark.parametrize("name", ["openai.chat", "openai.responses", "anthropic.messages", "gemini.generate"])
def test_what_is_hardly_json_is_read_all_the_same(name: str, raw: bytes) -> None:
    place = USAGES[name == "gemini.generate"].encode()
    usage = WHOLE[name][place.decode()]
    body = raw.replace(b"NAME", place).replace(b"USAGE", written(usage))
    for feeds in (False, True):
        meter = DIALECTS[name].meter("text/event-stream" if feeds else "application/json")
        if feeds:
            meter.feed(Event(raw=body, data=body))
        else:
            meter.read(body)
            told = meter.usage()
            assert told is not None
            assert told.tokens == read(name, WHOLE[name]).usage().tokens
        assert DIALECTS[name].strip_usage(Event(raw=body, data=body)) == body
        meter.usage()


def test_embeddings_that_are_hardly_json_are_read_or_not() -> None:
    for raw in RAW.values():
        body = raw.replace(b"NAME", b"usage").replace(b"USAGE", b'{"prompt_tokens":5}')
        meter = DIALECTS["openai.embeddings"].meter("application/json")
        meter.read(body)
        meter.usage()


@pytest.mark.parametrize("cost", ["1e999999", "1e999999999999999999", "1e99999999999999999999"])
def test_a_cost_that_nobody_can_have_told_is_none(cost: str) -> None:
    meter = DIALECTS["openai.chat"].meter("application/json")
    meter.read(b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"cost":%s}}' % cost.encode())
    usage = meter.usage()
    assert usage is not None
    assert (usage.tokens.input, usage.tokens.output) == (1, 2)
    assert usage.cost_nanousd is None


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_request_with_a_number_that_no_decimal_can_be_is_malformed(name: str) -> None:
    body = b'{"model":"m","service_tier":1e99999999999999999999,"user":1e99999999999999999999,"cachedContent":1e9999}'
    assert DIALECTS[name].read_request(body, "m") is not None
