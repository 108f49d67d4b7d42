"""An upstream without a model: it answers at once, or produces a token an event at a pace and counts what it produced.

    python -m bench.gateway_upstream

Prints its port. ``POST …/chat/completions`` is answered at once, ``POST /paced/…`` at the pace of ``POST /plan``, which
forgets all counts. ``GET /produced`` says what was really produced, and how many streams ran, by account.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
from typing import Any

import msgspec
import uvloop

from bench.gateway_wire import (
    DONE,
    FIRST_EVENT,
    LAST_CHUNK,
    OUTPUT_TOKENS,
    STREAM_HEAD,
    TOKEN_EVENTS,
    chunked,
    completion,
    event,
    response,
    usage_event,
)
from fiscus.app import listen

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ACCOUNT = re.compile(rb"\r\nx-bench-account: *([^\r]+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream": *true')
ANSWER = response(completion(OUTPUT_TOKENS))
STREAMED = (
    STREAM_HEAD
    + chunked(FIRST_EVENT)
    + b"".join(chunked(TOKEN_EVENTS[index % len(TOKEN_EVENTS)]) for index in range(OUTPUT_TOKENS))
    + chunked(event({}, "stop"))
    + chunked(usage_event(OUTPUT_TOKENS))
    + chunked(DONE)
    + LAST_CHUNK
)
KEPT_BYTES_MAX, END_BYTES = 1 << 20, 4_096
"""Of a request that is longer only its end is kept: what the upstream does with it is not what others wait for."""

TOKENS = tuple(chunked(one) for one in TOKEN_EVENTS)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How answers come: a token every ``pace_s``, lengths log-normal, spent to so many tokens an account."""

    pace_s: float
    length_median: float
    length_sigma: float
    budget: int
    seed: int


class Produced(msgspec.Struct, kw_only=True):
    """What was really produced for an account.

    Attributes:
        tokens: all. ``streams``: begun.
        left: ended because the caller went away. ``clamped``: at a bound below what was asked and would have come.
        running: now; ``stream_s``: the integral of it over the time until 90 % of the budget were produced.
        first_s, most_s: when the first stream began, and when it was 90 %.
    """

    tokens: int = 0
    streams: int = 0
    left: int = 0
    clamped: int = 0
    running: int = 0
    stream_s: float = 0.0
    first_s: float | None = None
    most_s: float | None = None
    changed_s: float = 0.0

    def moved(self, now_s: float, by: int) -> None:
        """Streams began or ended."""
        if self.first_s is None:
            self.first_s = self.changed_s = now_s
        if self.most_s is None:
            self.stream_s += self.running * (now_s - self.changed_s)
        self.changed_s = now_s
        self.running += by


class Upstream:
    """What all connections share."""

    def __init__(self, plan: Plan) -> None:
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Begin anew."""
        self.plan = plan
        self.produced: dict[str, Produced] = {}
        self._random = random.Random(plan.seed)

    def length(self) -> int:
        """The length that an answer would have."""
        plan = self.plan
        return max(1, round(math.exp(self._random.gauss(math.log(plan.length_median), plan.length_sigma))))

    def phase_s(self) -> float:
        """When the first token comes: streams that begin together do not go in step."""
        return self.plan.pace_s * self._random.random()


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = bytearray()
        self._head = b""
        self._left = 0
        self._stream: Stream | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        if self._stream is not None:
            self._stream.leave()

    def data_received(self, data: bytes) -> None:
        received, came = self._received, len(data)
        received += data
        if not self._head:
            end_of_head = received.find(b"\r\n\r\n")
            if end_of_head < 0:
                return
            self._head = bytes(received[:end_of_head])
            del received[: end_of_head + 4]
            length = LENGTH.search(self._head)
            self._left, came = int(length[1]) if length else 0, len(received)
        self._left -= came
        if self._left > 0:
            if len(received) > KEPT_BYTES_MAX:
                del received[:-END_BYTES]
            return
        head, body = self._head, bytes(received)
        self._head = b""
        received.clear()
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /paced"):
            account = ACCOUNT.search(head)
            assert account is not None
            self._stream = Stream(self._upstream, self._transport, account[1].decode(), msgspec.json.decode(body))
        elif head.startswith(b"POST /plan"):
            self._upstream.replan(msgspec.json.decode(body, type=Plan))
            self._transport.write(response(b"{}"))
        elif head.startswith(b"GET"):
            self._transport.write(response(msgspec.json.encode(self._upstream.produced)))
        else:
            self._transport.write(STREAMED if STREAM.search(body, max(0, len(body) - END_BYTES)) else ANSWER)


class Stream:
    """An answer that comes a token at a time, until it is whole, has reached its bound, or nobody reads it any more."""

    def __init__(self, upstream: Upstream, transport: asyncio.Transport, account: str, body: dict[str, Any]) -> None:
        self._plan = upstream.plan
        self._transport = transport
        self._produced = upstream.produced.setdefault(account, Produced())
        wanted = upstream.length()
        self._asked = int(body["user"])
        bound = int(body.get("max_completion_tokens") or body.get("max_tokens") or self._asked)
        self._length = min(wanted, bound)
        self._finish = "length" if wanted > bound else "stop"
        self._is_clamped = min(wanted, self._asked) > bound
        self._sent = 0
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._produced.streams += 1
        self._produced.moved(self._loop.time(), 1)
        self._next_s = self._loop.time() + upstream.phase_s()
        transport.write(STREAM_HEAD + chunked(FIRST_EVENT))
        self._timer = self._loop.call_at(self._next_s, self._token)

    def _token(self) -> None:
        produced, now_s = self._produced, self._loop.time()
        produced.tokens += 1
        if produced.most_s is None and produced.tokens >= 0.9 * self._plan.budget:
            produced.moved(now_s, 0)
            produced.most_s = now_s
        self._transport.write(TOKENS[self._sent % len(TOKENS)])
        self._sent += 1
        if self._sent < self._length:
            self._next_s = max(self._next_s + self._plan.pace_s, now_s)
            self._timer = self._loop.call_at(self._next_s, self._token)
            return
        self._over()
        produced.clamped += self._is_clamped
        end = chunked(event({}, self._finish)) + chunked(usage_event(self._length)) + chunked(DONE) + LAST_CHUNK
        self._transport.write(end)

    def leave(self) -> None:
        """Nobody reads it any more."""
        if not self._is_over:
            self._timer.cancel()
            self._over()
            self._produced.left += 1

    def _over(self) -> None:
        self._is_over = True
        self._produced.moved(self._loop.time(), -1)


async def serve() -> None:
    """Serve until SIGTERM."""
    upstream = Upstream(Plan(pace_s=0.005, length_median=150, length_sigma=0.8, budget=1 << 40, seed=0))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(upstream), sock=listen("127.0.0.1", 0))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(uvloop.run(serve()))
