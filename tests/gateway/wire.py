"""Small answers of the providers, in bytes of the kind that they send."""

from __future__ import annotations

import json
from typing import Any

from tests.gateway.upstream import EVENTS, Reply, named_events, sse

MODEL = "test-model"
MESSAGES = [{"role": "user", "content": "Say hello."}]


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


# -- requests -------------------------------------------------------------------------------------------------------


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": MESSAGES, "max_tokens": 100, **more}


def messages(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": MESSAGES, "max_tokens": 100, **more}


def contents(**more: Any) -> dict[str, Any]:
    given = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}
    return {**given, "generationConfig": {"maxOutputTokens": 100}, **more}


# -- answers --------------------------------------------------------------------------------------------------------

CHAT_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def chat_answer(**more: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    return Reply(body=encoded({**head, "choices": [choice], "usage": CHAT_USAGE, **more}))


def chat_chunk(content: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more}


def chat_stop(reason: str = "stop") -> dict[str, Any]:
    return chat_chunk(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])


def chat_stream(*texts: str, usage: Any = CHAT_USAGE, done: bool = True, nulls: bool = False) -> bytes:
    """A stream with its usage at the end, as one that was asked for it; None: without."""
    more = {"usage": None} if nulls else {}
    chunks = [{**chat_chunk(text), **more} for text in texts or ("Hel", "lo", "!")] + [{**chat_stop(), **more}]
    last = [chat_chunk(choices=[], usage=usage)] if usage is not None else []
    return sse(*chunks, *last, done=done)


def streamed(body: bytes, **more: Any) -> Reply:
    return Reply(headers=EVENTS, body=body, **more)


ANTHROPIC_USAGE = {"input_tokens": 9, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}


def anthropic_answer(**more: Any) -> Reply:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_sequence": None}
    body = {"content": [{"type": "text", "text": "Hello!"}], "stop_reason": "end_turn"}
    return Reply(body=encoded({**head, **body, "usage": {**ANTHROPIC_USAGE, "output_tokens": 7}, **more}))


def anthropic_stream(*texts: str, output_tokens: int = 7, whole: bool = True) -> bytes:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
    begun = {**head, "stop_reason": None, "stop_sequence": None, "usage": {**ANTHROPIC_USAGE, "output_tokens": 1}}
    chunks: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]
    for text in texts or ("Hel", "lo", "!"):
        chunks.append({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
    ending: list[dict[str, Any]] = [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {**ANTHROPIC_USAGE, "output_tokens": output_tokens},
        },
        {"type": "message_stop"},
    ]
    return named_events(*chunks, *(ending if whole else []))


GEMINI_USAGE = {"promptTokenCount": 8, "candidatesTokenCount": 4, "thoughtsTokenCount": 3, "totalTokenCount": 15}


def gemini_chunk(text: str, usage: Any = GEMINI_USAGE, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    told = {"usageMetadata": usage} if usage is not None else {}
    return {"candidates": [candidate], **told, "modelVersion": MODEL, "responseId": "r1"}


def gemini_answer() -> Reply:
    return Reply(body=encoded(gemini_chunk("Hello!", finishReason="STOP")))


def gemini_stream(*texts: str) -> bytes:
    said = list(texts or ("Hel", "lo!"))
    early = {"promptTokenCount": 8, "candidatesTokenCount": 1, "totalTokenCount": 9}
    chunks = [gemini_chunk(text, early) for text in said[:-1]]
    return sse(*chunks, gemini_chunk(said[-1], finishReason="STOP"), done=False)


RESPONSES_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 6,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 16,
}


def response_object(status: str = "completed", **more: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": "Hello!", "annotations": []}
    item = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "status": status}
    output = [item] if status == "completed" else []
    usage = RESPONSES_USAGE if status == "completed" else None
    settings = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**head, "output": output, "usage": usage, **settings, **more}


def responses_answer() -> Reply:
    return Reply(body=encoded(response_object()))


def responses_stream() -> bytes:
    item = {"type": "message", "id": "m1", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    at = {"item_id": "m1", "output_index": 0, "content_index": 0}
    chunks: list[dict[str, Any]] = [
        {"type": "response.created", "response": response_object("in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **at, "part": part},
        {"type": "response.output_text.delta", **at, "delta": "Hel", "logprobs": []},
        {"type": "response.output_text.delta", **at, "delta": "lo!", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "Hello!", "logprobs": []},
        {"type": "response.content_part.done", **at, "part": {**part, "text": "Hello!"}},
        {"type": "response.output_item.done", "output_index": 0, "item": response_object()["output"][0]},
        {"type": "response.completed", "response": response_object()},
    ]
    return named_events(*({**chunk, "sequence_number": number} for number, chunk in enumerate(chunks)))


def completion_answer() -> Reply:
    choice = {"index": 0, "text": "Hello!", "finish_reason": "stop", "logprobs": None}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL}
    return Reply(body=encoded({**head, "choices": [choice], "usage": CHAT_USAGE}))


def completion_stream() -> bytes:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL}
    pieces = [{"index": 0, "text": text, "finish_reason": None, "logprobs": None} for text in ("Hel", "lo!")]
    ended = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}
    chunks = [{**head, "choices": [one]} for one in (*pieces, ended)]
    return sse(*chunks, {**head, "choices": [], "usage": CHAT_USAGE})


def embeddings_answer() -> Reply:
    vectors = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return Reply(body=encoded({"object": "list", "data": vectors, "model": MODEL, "usage": usage}))
