"""Calls of the providers' wire as bytes: what the load sends, and what the upstream answers."""

from __future__ import annotations

from typing import Any

import msgspec

MODEL = "gpt-4o-mini"
SECRET = "fk_bench_0123456789abcdef0123456789abcdef"  # of a ledger that lives as long as a measure
OUTPUT_TOKENS = 20
"""What the upstream answers at once has so many tokens, as in hardcap's own measure of its overhead."""

PROMPT = (
    "You review changes of a program. Say in two sentences what the change does, name the most likely mistake in it, "
    "and how a test would show it. The change: the service keeps balances of accounts in memory, folds each entry of "
    "the journal in order, and answers from what it has folded; reads wait until the entry that they ask for is in."
)
WORDS = (
    " the",
    " budget",
    " is",
    " kept",
    " by",
    " a",
    " ledger",
    " that",
    " hold",
    "s",
    " what",
    " may",
    " be",
    " spent",
    ",",
)
"""Tokens as they come: 1 to 7 bytes, 4 on the average, as in English."""

CREATED = 1_780_000_000
DONE = b"data: [DONE]\n\n"


def chat_body(*, stream: bool = False, prompt: str = PROMPT, output_tokens_max: int = 64, user: str = "bench") -> bytes:
    """The body of a chat completion."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "system", "content": prompt}, {"role": "user", "content": "Go on, please."}],
        "max_tokens": output_tokens_max,
        "temperature": 0.2,
        "user": user,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(body)


def post(port: int, path: str, body: bytes, account: str) -> bytes:
    """A request as bytes. Everybody is sent the same headers; who pays is the gateway's affair."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        f"User-Agent: bench\r\nAuthorization: Bearer {SECRET}\r\nX-Fiscus-Charge-To: {account}\r\n"
        f"X-Bench-Account: {account}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def response(content: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    """A whole response."""
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(content)}\r\n\r\n".encode()
        + content
    )


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunked(content: bytes) -> bytes:
    """A piece of a response of unknown length."""
    return b"%x\r\n%s\r\n" % (len(content), content)


def usage(output: int, prompt: int = 110) -> dict[str, int]:
    """What a call used."""
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def completion(output: int) -> bytes:
    """An answer that is not streamed."""
    text = "".join(WORDS[index % len(WORDS)] for index in range(output))
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return msgspec.json.encode(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": CREATED,
            "model": MODEL,
            "choices": [choice],
            "usage": usage(output),
        }
    )


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    """An event of a stream."""
    return _event([{"index": 0, "delta": delta, "finish_reason": finish}], None)


def usage_event(output: int) -> bytes:
    """The event that ends a stream whose caller asked for its usage."""
    return _event([], usage(output))


def _event(choices: list[dict[str, Any]], used: dict[str, int] | None) -> bytes:
    content: dict[str, Any] = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "choices": choices,
        "usage": used,
    }
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


FIRST_EVENT = event({"role": "assistant", "content": ""})
TOKEN_EVENTS = tuple(event({"content": word}) for word in WORDS)
