"""The client of a provider: connections that are kept, to one address, one exchange at a time on each.

Its own, since a general one costs as much as the rest of a call: ``docs/decisions/0007-own-http-client.md``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from fiscus.gateway.connection import Answer, Connection, Part, UpstreamFailed

CONNECTIONS_MAX = 4_096
IDLE_MAX = 512
PORTS = {"http": 80, "https": 443}


class Client:
    """See the module. Belongs to one event loop; ``close`` it.

    >>> Client("https://api.example.com/v1", connect_s=10, answer_s=600, silence_s=300).host
    b'api.example.com'
    """

    def __init__(
        self,
        url: str,
        *,
        connect_s: float,
        answer_s: float,
        silence_s: float,
        connections_max: int = CONNECTIONS_MAX,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Make one; nothing is opened yet.

        Args:
            url: any at that address; what follows host and port is not looked at.
            connect_s, answer_s, silence_s: seconds that a connection, the beginning of an answer and a pause within one
                may take.
            connections_max: open at once; more are refused.
            tls: for ``https``; the system's authorities unless said.
        """
        address = urlsplit(url)
        assert address.hostname is not None
        self._name = address.hostname
        self._port = address.port or PORTS[address.scheme]
        self.host = address.netloc.rpartition("@")[2].encode("idna" if not address.netloc.isascii() else "ascii")
        self._tls = (tls or ssl.create_default_context()) if address.scheme == "https" else None
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._silence_s = silence_s
        self._connections_max = connections_max
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._is_closed = False

    async def ask(
        self,
        head: bytes,
        body: Sequence[Part] = (),
        *,
        is_repeatable: bool = False,
        sending: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Send a request; returns when the head of its answer has come. Cancelled, it closes the connection.

        ``sending`` is called when there is a connection, before the first byte.

        A provider may close a connection that was idle at the very moment it is used. Whether it has read the request
        nobody can tell then, so only one that is repeatable is sent again, once.

        Raises:
            UpstreamFailed: there is no answer.
        """
        connection = self._idle.pop() if self._idle else await self._connect()
        sending()
        try:
            return await connection.ask(head, body, answer_s=self._answer_s, silence_s=self._silence_s)
        except UpstreamFailed:
            if not (is_repeatable and connection.is_stale):
                raise
        connection = await self._connect()
        return await connection.ask(head, body, answer_s=self._answer_s, silence_s=self._silence_s)

    async def _connect(self) -> Connection:
        if len(self._open) >= self._connections_max or self._is_closed:
            raise UpstreamFailed("has as many connections as it may", was_sent=False)
        loop = asyncio.get_running_loop()
        connection = Connection(loop, self._freed, self._lost)
        self._open.add(connection)
        try:
            async with asyncio.timeout(self._connect_s):
                await loop.create_connection(lambda: connection, self._name, self._port, ssl=self._tls)
        except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
            raise UpstreamFailed("cannot be reached", was_sent=False) from error
        finally:
            if not connection.is_open:
                self._open.discard(connection)
        return connection

    def _freed(self, connection: Connection) -> None:
        if len(self._idle) < IDLE_MAX and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def close(self) -> None:
        """Close all connections; who waits for an answer is told."""
        self._is_closed = True
        for connection in list(self._open):
            connection.fail(UpstreamFailed("was left", was_sent=True))
        await asyncio.sleep(0)
