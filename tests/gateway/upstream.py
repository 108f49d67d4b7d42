"""A provider of our own: a real HTTP server that answers given bytes, in given pieces, and counts what it was asked."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

JSON = (("content-type", "application/json"),)
EVENTS = (("content-type", "text/event-stream; charset=utf-8"),)
WAIT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is answered.

    Attributes:
        pieces: how many bytes are sent at once; 0: all of them.
        cuts: where else the body is split.
        pause_s: between two pieces.
        broken_after: after so many bytes of the body the connection is broken off.
        is_chunked: without a length; what comes in events always is.
        never: nothing is answered at all.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = JSON
    body: bytes = b""
    pieces: int = 0
    cuts: tuple[int, ...] = ()
    pause_s: float = 0
    broken_after: int | None = None
    is_chunked: bool = False
    never: bool = False

    def parts(self) -> Iterable[bytes]:
        """The body as it is sent."""
        body = self.body if self.broken_after is None else self.body[: self.broken_after]
        step = self.pieces or max(1, len(body))
        edges = sorted({*range(0, len(body), step), *(cut for cut in self.cuts if cut < len(body)), len(body)})
        return [body[begin:end] for begin, end in itertools.pairwise(edges)]


@dataclass(kw_only=True)
class Asked:
    """One request, and what became of it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    began_s: float
    sent: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    left_s: float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def was_left(self) -> bool:
        """Whether who asked went away before the answer was whole."""
        return self.left_s is not None and not self.is_whole


Answering = Callable[[Asked], Reply]


class Upstream:
    """The server. ``answers``: one after another, the last one again and again; or a function."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.port = 0
        self._answers: list[Reply] = [Reply(status=500, body=b'{"error": {"message": "no answer was given"}}')]
        self._by: Answering | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._came = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self, *replies: Reply) -> None:
        self._answers, self._by = list(replies), None

    def answers_by(self, answering: Answering) -> None:
        self._by = answering

    def reply_to(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        self._came.set()
        if self._by is not None:
            return self._by(asked)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def request(self, count: int = 1) -> Asked:
        """The request with this number, when it has come."""
        async with asyncio.timeout(WAIT_S):
            while len(self.asked) < count:
                self._came.clear()
                await self._came.wait()
        return self.asked[count - 1]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.drop()
            await self._server.wait_closed()
            self._server = None


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._working: asyncio.Task[None] | None = None
        self._asked: Asked | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstream._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream._connections.discard(self)
        asked = self._asked
        if asked is not None and not asked.ended.is_set():
            asked.left_s = asyncio.get_running_loop().time()
            asked.ended.set()
        if self._working is not None:
            self._working.cancel()

    def drop(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = bytearray(rest[length:])
        method, target, _ = first.split(" ")
        now_s = asyncio.get_running_loop().time()
        self._asked = Asked(method=method, target=target, headers=headers, body=rest[:length], began_s=now_s)
        self._working = asyncio.ensure_future(self._answer(self._asked, self._upstream.reply_to(self._asked)))

    async def _answer(self, asked: Asked, reply: Reply) -> None:
        if reply.never:
            await asked.ended.wait()
            return
        is_chunked = reply.is_chunked or reply.headers == EVENTS
        length = ("transfer-encoding", "chunked") if is_chunked else ("content-length", str(len(reply.body)))
        lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in (*reply.headers, length))]
        self._write("\r\n".join((*lines, "", "")).encode("latin-1"))
        for part in reply.parts():
            self._write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
            asked.sent += part
            await asyncio.sleep(reply.pause_s)
        if reply.broken_after is not None:
            self.drop()
            return
        asked.is_whole = True
        asked.ended.set()
        if is_chunked:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """A running one."""
    server = Upstream()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def sse(*chunks: Any, done: bool = True) -> bytes:
    """Events of OpenAI: each value as JSON."""
    lines = [b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in chunks]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def named_events(*chunks: dict[str, Any]) -> bytes:
    """Events of Anthropic and of OpenAI's responses: with the type as their name."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in chunks)
