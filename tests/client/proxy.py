"""A TCP proxy that loses what it is told to lose, so that outcomes become unknown on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    """Forwards connections to a server.

    Attributes:
        upstream: URL of the server; may be changed for new connections.
        drop_replies: how many of the next replies are thrown away, with their connection, after the server has sent
            them: the request was decided, and the client does not learn how.
        stall_replies: how many of the next replies are never passed on, while the connection stays open.
        drop_requests: how many of the next requests are thrown away before the server sees them.
        is_down: refuse to talk at all.
        requests: what was forwarded, in order: the first line of each request.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.drop_replies = 0
        self.stall_replies = 0
        self.drop_requests = 0
        self.is_down = False
        self.requests: list[str] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    def cut(self) -> None:
        """Break every connection that is open now."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.is_down:
            writer.transport.abort()
            return
        target = urlsplit(self.upstream)
        try:
            up_reader, up_writer = await asyncio.open_connection(target.hostname, target.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}

        def abort() -> None:
            writer.transport.abort()
            up_writer.transport.abort()

        async def requests(piece: bytes) -> bool:
            first_line = piece.split(b"\r\n", 1)[0].decode("latin-1")
            if first_line.endswith("HTTP/1.1"):
                self.requests.append(first_line.removesuffix(" HTTP/1.1"))
                self.arrived.set()
                if self.drop_requests:
                    self.drop_requests -= 1
                    return False
            up_writer.write(piece)
            await up_writer.drain()
            return True

        async def replies(piece: bytes) -> bool:
            if self.drop_replies:
                self.drop_replies -= 1
                return False
            if self.stall_replies:
                self.stall_replies -= 1
                return True
            writer.write(piece)
            await writer.drain()
            return True

        try:
            await asyncio.gather(pump(reader, requests, abort), pump(up_reader, replies, abort))
        finally:
            self._writers -= {writer, up_writer}


async def pump(reader: asyncio.StreamReader, forward: Callable[[bytes], Awaitable[bool]], abort: Callable[[], None]):
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            if not await forward(piece):
                break
    abort()


@asynccontextmanager
async def proxied(upstream: str) -> AsyncIterator[Proxy]:
    """A proxy on a free port."""
    proxy = Proxy(upstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()
        await server.wait_closed()
