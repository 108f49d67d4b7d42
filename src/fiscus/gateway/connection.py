"""One connection to a provider: HTTP/1.1, one exchange at a time, over any transport of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import httptools

HEAD_BYTES_MAX = 262_144
"""Longest head of an answer."""

BUFFER_BYTES_MAX = 262_144
"""So much of an answer is kept for a caller that is slow to take it; then the provider has to wait."""

PIECE_BYTES = 262_144
"""A longer request is sent piece by piece, so that others have their turn between."""

IDLE_S_MAX = 60.0
"""How long a connection is kept that nobody uses."""

Headers = list[tuple[bytes, bytes]]
Part = bytes | memoryview


class UpstreamFailed(Exception):
    """There is no answer, or not all of it. Internal to the gateway.

    Attributes:
        was_sent: whether the provider may have begun to work, and to bill.
        is_timeout: whether it took too long.
    """

    def __init__(self, detail: str, *, was_sent: bool, is_timeout: bool = False) -> None:
        super().__init__(detail)
        self.was_sent = was_sent
        self.is_timeout = is_timeout


class Answer:
    """What a provider answers; its body comes while it is read. Read it to its end, or ``close`` it.

    Attributes:
        status: of HTTP.
        headers: as they came, names in lower case.
        is_whole: whether the end of the body has come.
    """

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: Headers = []
        self.is_whole = False
        self._connection = connection
        self._pieces: list[bytes] = []
        self._length = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamFailed | None = None

    def header(self, name: bytes) -> str:
        """The value of the first header of this name; empty when there is none."""
        return next((value.decode("latin-1") for known, value in self.headers if known == name), "")

    async def piece(self) -> bytes:
        """What has come since the last one, as soon as there is something; empty at the end.

        Raises:
            UpstreamFailed: the rest does not come.
        """
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self.is_whole:
                return b""
            await self._wait()
        pieces = self._pieces
        self._pieces, self._length = [], 0
        if not self.is_whole:
            self._connection.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self, bytes_max: int) -> bytes:
        """All of the body.

        Raises:
            UpstreamFailed: not all of it comes, or it is longer than that; then the connection is closed.
        """
        parts: list[bytes] = []
        total = 0
        while piece := await self.piece():
            parts.append(piece)
            total += len(piece)
            if total > bytes_max:
                self.close()
                raise UpstreamFailed("sent an answer that is too long", was_sent=True)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Want no more of it: the provider is left, unless all of it has come. Who reads gets ``UpstreamFailed``."""
        if not self.is_whole and self._failure is None:
            self._connection.fail(UpstreamFailed("was left", was_sent=True))

    # -- the connection's side ------------------------------------------------------------------------------------

    async def begun(self) -> None:
        """Return when the head has come."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    def came(self, data: bytes) -> int:
        """A part of the body has come; returns how much waits to be read."""
        self._pieces.append(data)
        self._length += len(data)
        self.wake()
        return self._length

    def failed(self, failure: UpstreamFailed) -> None:
        """No more will come."""
        self._failure = failure
        self.wake()

    def wake(self) -> None:
        """Tell who waits that something has changed."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = waiter = self._connection.loop.create_future()
        await waiter


class Connection(asyncio.Protocol):
    """See the module.

    Attributes:
        loop: that it belongs to.
        uses: how many exchanges have begun on it.
        is_open: whether it can be asked.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, freed: Callable[[Connection], None], lost: Callable[[Connection], None]
    ) -> None:
        """Make one.

        Args:
            loop: the running one.
            freed: called when an exchange is over and another one may follow.
            lost: called once, when the connection is closed or is about to be.
        """
        self.loop = loop
        self.uses = 0
        self.is_open = False
        self._freed = freed
        self._lost = lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        self._is_framed = False
        self._is_over = False
        self._is_kept = False
        self._is_sending = False
        self._is_reading_paused = False
        self._room: asyncio.Future[None] | None = None
        self._is_full = False
        self._silence_s = IDLE_S_MAX
        self._idle_s = IDLE_S_MAX
        self._due_s = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    # -- asking ---------------------------------------------------------------------------------------------------

    @property
    def is_stale(self) -> bool:
        """Whether it was used before, and was closed before a byte of the last answer came."""
        return self.uses > 1 and not self.is_open and not self._head_bytes

    async def ask(self, head: bytes, body: Sequence[Part], *, answer_s: float, silence_s: float) -> Answer:
        """Send a request; returns when the head of its answer has come.

        Args:
            head: with its empty line.
            body: as its head says, in parts.
            answer_s: how long the answer may take to begin, in seconds, from the last byte that was sent.
            silence_s: how long the answer may pause, in seconds.

        Raises:
            UpstreamFailed: there is no answer. The connection is closed.
        """
        assert self._answer is None, "one exchange at a time"
        transport = self._transport
        if transport is None or transport.is_closing():
            raise UpstreamFailed("cannot be reached", was_sent=False)
        self.uses += 1
        self._answer = answer = Answer(self)
        self._silence_s, self._is_over, self._head_bytes = silence_s, False, 0
        self._wait_for(answer_s)
        try:
            if sum(map(len, body)) <= PIECE_BYTES:
                transport.write(b"".join((head, *body)))
            else:
                await self._send_pieces(transport, answer, head, body, answer_s)
            await answer.begun()
        except BaseException:
            self.abort()
            raise
        return answer

    async def _send_pieces(
        self, transport: asyncio.Transport, answer: Answer, head: bytes, body: Sequence[Part], answer_s: float
    ) -> None:
        """Send a long request; not the rest of it when the provider answers before, which ends the connection."""
        self._is_sending = True
        transport.write(head)
        for part in body:
            view = memoryview(part)
            for begin in range(0, len(part), PIECE_BYTES):
                await self._until_room()
                if answer.status or not self.is_open:
                    return
                transport.write(view[begin : begin + PIECE_BYTES])
                self._wait_for(answer_s)
        await self._until_room()
        self._is_sending = False

    async def _until_room(self) -> None:
        """Let others have their turn, and the provider take what was sent."""
        await asyncio.sleep(0)
        if self._is_full:
            self._room = self.loop.create_future()
            await self._room

    def resume(self) -> None:
        """Whoever reads has taken what had come."""
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._wait_for(self._silence_s)
            if self.is_open:
                self._transport.resume_reading()

    def fail(self, failure: UpstreamFailed) -> None:
        """Close it at once; who waits for its answer is told."""
        answer, self._answer = self._answer, None
        self.abort()
        if answer is not None:
            answer.failed(failure)

    def abort(self) -> None:
        """Close it at once."""
        if self.is_open:
            self.is_open = False
            self._lost(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        self._give_room()

    # -- time -----------------------------------------------------------------------------------------------------

    def _wait_for(self, seconds: float) -> None:
        """It is over if nothing comes within this time. One timer serves all: it is set again when it is early."""
        self._due_s = self.loop.time() + seconds
        timer = self._timer
        if timer is None or timer.when() > self._due_s:
            if timer is not None:
                timer.cancel()
            self._timer = self.loop.call_at(self._due_s, self._is_due)

    def _is_due(self) -> None:
        self._timer = None
        if self.loop.time() < self._due_s or self._is_reading_paused:
            self._timer = self.loop.call_at(max(self._due_s, self.loop.time() + 1), self._is_due)
        elif self._answer is not None and not self._is_over:
            self.fail(UpstreamFailed("did not answer", was_sent=True, is_timeout=True))
        else:
            self.abort()

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone: an answer that has no other end is whole with that, any other one is broken off."""
        answer = self._answer
        if answer is not None and answer.status and not self._is_framed and exc is None and not self._is_over:
            self._is_over, self._is_kept = True, False
            self._finish()
        self.fail(UpstreamFailed("broke off", was_sent=True))

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        answer = self._answer
        if answer is None:
            self.abort()  # nobody has asked
            return
        if not answer.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._is_kept = False
            if not self._is_over:
                self.fail(UpstreamFailed("sent what is no HTTP", was_sent=True))
        if self._is_over:
            self._finish()
        elif answer.status:
            self._wait_for(self._silence_s)
        elif self._head_bytes > HEAD_BYTES_MAX:
            self.fail(UpstreamFailed("sent a head that is too long", was_sent=True))

    def eof_received(self) -> None:
        """Its other end closes it; ``connection_lost`` follows."""
        if self._answer is None:
            self.abort()

    def pause_writing(self) -> None:
        """The provider is slow to take what is sent."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It has taken it."""
        self._is_full = False
        self._give_room()

    def _give_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _finish(self) -> None:
        """The answer is whole."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        self.resume()
        if self._is_kept and not self._is_sending and self.is_open:
            self._wait_for(self._idle_s)
            self._freed(self)
        else:
            self.abort()
        answer.is_whole = True
        answer.wake()

    # -- httptools ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins, an interim one perhaps; one that nobody has asked for is none."""
        if self._is_over:
            raise ValueError("there is one answer to a request")
        self._headers = []
        self._is_framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        name = name.lower()
        self._headers.append((name, value))
        if name in (b"content-length", b"transfer-encoding"):
            self._is_framed = True
        elif name == b"keep-alive":
            self._idle_s = idle_s(value)

    def on_headers_complete(self) -> None:
        """The head has come."""
        status = self._parser.get_status_code()
        if status < 200 or self._answer is None:
            return
        self._answer.headers = self._headers
        self._answer.status = status
        self._answer.wake()
        self._give_room()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        answer, transport = self._answer, self._transport
        if answer is None or transport is None:
            return
        if answer.came(body) > BUFFER_BYTES_MAX and not self._is_reading_paused and self.is_open:
            self._is_reading_paused = True
            transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer has come, or an interim one."""
        if self._answer is not None and self._answer.status:
            self._is_over = True
            self._is_kept = self._parser.should_keep_alive()


def idle_s(keep_alive: bytes) -> float:
    """How long a connection is kept by what ``Keep-Alive`` says: it is given up before its other end does.

    >>> idle_s(b"timeout=5, max=100"), idle_s(b"max=100")
    (4.0, 60.0)
    """
    for part in keep_alive.split(b","):
        name, _, value = part.strip().partition(b"=")
        if name.lower() == b"timeout" and value.isdigit():
            return min(IDLE_S_MAX, max(0.0, float(value[:9]) - 1))
    return IDLE_S_MAX
