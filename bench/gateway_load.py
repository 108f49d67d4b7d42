"""Load on a gateway, from a process of its own: closed loop, open loop, or large bodies one after the other.

    python -m bench.gateway_load        one JSON order a line on stdin, one JSON result a line on stdout

Of a response only status, head and end are looked at; its bytes are made once. In the open loop a request is due every
``1 / rate`` seconds whatever became of the one before, and its latency counts from when it was due.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

from bench.gateway_wire import LAST_CHUNK, PROMPT, chat_body, post
from bench.ledgers import agent

CONTENT_LENGTH = b"content-length:"
DRAIN_S_MAX = 120.0
Answered = Callable[["Connection"], None]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. ``rate``: requests a second in the open loop, 0: the closed one; ``body_bytes``: at least so long."""

    port: int
    path: str
    seconds: float
    connections: int
    rate: float = 0
    stream: bool = False
    body_bytes: int = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection; ``answered`` is called when a response is whole.

    Attributes:
        due_s: when the request was due; ``first_s``, ``done_s``: when its first content and its end came.
        kept: the response, for who asks for it.
    """

    def __init__(self, answered: Answered, *, keeps: bool = False) -> None:
        self.due_s = self.first_s = self.done_s = 0.0
        self.status = b""
        self.kept = b""
        self.is_lost = False
        self.transport: asyncio.Transport
        self._answered = answered
        self._keeps = keeps
        self._head = b""
        self._left: int | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes, due_s: float) -> None:
        """Send a request."""
        self.due_s, self.first_s = due_s, 0.0
        self.status = self.kept = self._head = self._tail = b""
        self._left = None
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._keeps:
            self.kept += data
        if not self.status:
            data = self._head + data
            end_of_head = data.find(b"\r\n\r\n")
            if end_of_head < 0:
                self._head = data
                return
            self.status = data[9:12]
            head, data = data[:end_of_head].lower(), data[end_of_head + 4 :]
            at = head.find(CONTENT_LENGTH)
            if at >= 0:
                self._left = int(head[at + len(CONTENT_LENGTH) :].split(b"\r", 1)[0])
        if data and not self.first_s:
            self.first_s = time.perf_counter()
        if self._left is not None:
            self._left -= len(data)
            is_over = self._left <= 0
        else:
            self._tail = (self._tail + data)[-len(LAST_CHUNK) :] if len(data) < len(LAST_CHUNK) else data[-5:]
            is_over = self._tail == LAST_CHUNK
        if is_over:
            self.done_s = time.perf_counter()
            self._answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        if self.due_s and self.done_s < self.due_s:
            self.status = b"-"
            self.done_s = time.perf_counter()
            self._answered(self)


class Round:
    """One order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        body = chat_body(stream=order.stream, prompt=_prompt(order.body_bytes))
        self._requests = [post(order.port, order.path, body, agent(index)) for index in range(order.connections)]
        self._latencies_s: list[float] = []
        self._firsts_s: list[float] = []
        self._unexpected: dict[str, int] = {}
        self._free: list[tuple[Connection, bytes]] = []
        self._due: deque[float] = deque()
        self._outstanding = 0
        self._is_ending = False
        self._request_of: dict[Connection, bytes] = {}

    async def run(self) -> dict[str, Any]:
        """Do it; returns its figures."""
        order, loop = self._order, asyncio.get_running_loop()
        answered = self._answered_open if order.rate else self._answered_closed
        for request in self._requests:
            _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", order.port)
            self._request_of[connection] = request
            self._free.append((connection, request))
        started_cpu, started_s = time.process_time(), time.perf_counter()
        if order.rate:
            await self._paced(started_s)
        else:
            self._outstanding = len(self._free)
            for connection, request in self._free:
                connection.ask(request, time.perf_counter())
            await asyncio.sleep(order.seconds)
            self._is_ending = True
        seconds = time.perf_counter() - started_s
        count = len(self._latencies_s)
        cpu_s = time.process_time() - started_cpu
        deadline_s = time.perf_counter() + DRAIN_S_MAX
        while self._outstanding and time.perf_counter() < deadline_s:
            await asyncio.sleep(0.01)
        for connection in self._request_of:
            connection.transport.abort()
        return self._figures(count, seconds, cpu_s)

    def _figures(self, count: int, seconds: float, cpu_s: float) -> dict[str, Any]:
        latencies_s, firsts_s = sorted(self._latencies_s), sorted(self._firsts_s)
        return {
            "requests": len(latencies_s),
            "rate": count / seconds,
            "seconds": seconds,
            "load_cpu_s": cpu_s,
            "unexpected": self._unexpected,
            "unanswered": self._outstanding,
            "p50_ms": _at(latencies_s, 0.5),
            "p99_ms": _at(latencies_s, 0.99),
            "first_p50_ms": _at(firsts_s, 0.5),
            "first_p99_ms": _at(firsts_s, 0.99),
        }

    def _note(self, connection: Connection) -> None:
        self._outstanding -= 1
        self._latencies_s.append(connection.done_s - connection.due_s)
        self._firsts_s.append(connection.first_s - connection.due_s)
        if connection.status != b"200":
            status = connection.status.decode()
            self._unexpected[status] = self._unexpected.get(status, 0) + 1

    def _answered_closed(self, connection: Connection) -> None:
        self._note(connection)
        if not self._is_ending and not connection.is_lost:
            self._outstanding += 1
            connection.ask(self._request_of[connection], connection.done_s)

    def _answered_open(self, connection: Connection) -> None:
        self._note(connection)
        if connection.is_lost:
            return
        if self._due:
            connection.ask(self._request_of[connection], self._due.popleft())
        else:
            self._free.append((connection, self._request_of[connection]))

    def _send(self, due_s: float) -> None:
        self._outstanding += 1
        if self._free:
            connection, request = self._free.pop()
            connection.ask(request, due_s)
        else:
            self._due.append(due_s)

    async def _paced(self, started_s: float) -> None:
        """Requests when they are due. A thread keeps the time: an event loop rounds its timers to milliseconds."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        order = self._order

        def keep_time() -> None:
            for number in itertools.count():
                due_s = started_s + number / order.rate
                if due_s > started_s + order.seconds:
                    break
                time.sleep(max(0.0, due_s - time.perf_counter()))
                loop.call_soon_threadsafe(self._send, due_s)
            loop.call_soon_threadsafe(over.set)

        threading.Thread(target=keep_time, daemon=True).start()
        await over.wait()


def _prompt(body_bytes: int) -> str:
    return PROMPT * max(1, -(-body_bytes // len(PROMPT)))


def _at(ordered: list[float], share: float) -> float:
    """Milliseconds at a share of ordered seconds."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 if ordered else 0.0


def main() -> None:
    """Take orders until stdin ends."""
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        print(msgspec.json.encode(uvloop.run(Round(order).run())).decode(), flush=True)


if __name__ == "__main__":
    main()
