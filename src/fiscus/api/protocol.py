"""uvicorn's HTTP protocol, with one write for the head and the body of an answer instead of two.

Each write is a system call that wakes the client; on small answers the second one costs as much as the routing.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoiningTransport:
    """A transport that keeps a write until the next one, at most until the loop turns, and sends both together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._kept: bytes = b""
        # The rest goes straight to the transport.
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.set_write_buffer_limits = transport.set_write_buffer_limits
        self.get_write_buffer_size = transport.get_write_buffer_size

    def write(self, data: bytes) -> None:
        """Send what is kept and ``data``, or keep ``data``."""
        if self._kept:
            kept, self._kept = self._kept, b""
            self._transport.write(kept + data)
        elif data:
            self._kept = data
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._kept:
            kept, self._kept = self._kept, b""
            self._transport.write(kept)

    def close(self) -> None:
        """Send what is kept, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._kept = b""
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        self._flush()
        return getattr(self._transport, name)


class JoiningProtocol(HttpToolsProtocol):
    """To be given to uvicorn as ``http``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        joining: Any = JoiningTransport(cast("asyncio.Transport", transport), self.loop)  # uvloop's are not subclasses
        super().connection_made(joining)
