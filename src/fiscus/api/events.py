"""The journal as Server-Sent Events: what was, then what happens, with the sequence number as the cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from typing import Any, cast

import msgspec
import structlog

from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import Entry

QUEUE_LENGTH_MAX = 1_000
CHUNK_EVENTS_MAX = 100
HEARTBEAT = b": alive\n\n"

log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


def event_bytes(entry: Entry) -> bytes:
    """One entry on the wire. JSON has no line breaks of its own, so one ``data`` line holds it."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.seq, entry.kind.encode(), _encode(entry))


class Streams:
    """The streams that are open: how many there may be, and the end of all of them."""

    def __init__(self, *, count_max: int, heartbeat_s: float) -> None:
        self._count_max = count_max
        self._heartbeat_s = heartbeat_s
        self._ends: set[asyncio.Future[None]] = set()
        self._audience: dict[asyncio.Queue[bytes | None], str | None] = {}

    @property
    def count(self) -> int:
        """Streams that are open now."""
        return len(self._ends)

    @property
    def is_full(self) -> bool:
        """Whether the next one has to wait."""
        return len(self._ends) >= self._count_max

    def end_all(self) -> None:
        """Let every stream end after what it is sending."""
        for end in list(self._ends):
            if not end.done():
                end.set_result(None)

    @property
    def is_there(self) -> bool:
        """Whether somebody wants to see what runs, too."""
        return bool(self._audience)

    def tell(self, kind: str, data: bytes, accounts: Collection[str]) -> None:
        """Show something that is in no journal; it has no id, so a client that comes back is not shown it again.

        Who is behind with what is in the journal misses it.
        """
        event = b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
        for queue, scope in self._audience.items():
            if (scope is None or scope in accounts) and not queue.full():
                queue.put_nowait(event)

    async def chunks(
        self,
        entries: AsyncIterator[Entry],
        gone: asyncio.Future[None],
        *,
        scope: str | None = None,
        shows_progress: bool = False,
    ) -> AsyncIterator[bytes]:
        """Events in chunks of at most ``CHUNK_EVENTS_MAX``, and a comment after each silence of ``heartbeat_s``.

        Args:
            entries: is closed at the end.
            gone: done when the client has left.
            scope: of the account whose events these are, and of all below it; None: of all.
            shows_progress: whether to show what runs, too.
        """
        self._ends.add(gone)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_LENGTH_MAX)
        if shows_progress:
            self._audience[queue] = scope
        pump = asyncio.create_task(_pump(entries, queue))
        pending = asyncio.ensure_future(queue.get())
        try:
            yield HEARTBEAT  # so that the client knows at once that it is connected
            while not gone.done():
                await asyncio.wait((pending, gone), timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
                if not pending.done():
                    if not gone.done():
                        yield HEARTBEAT
                    continue
                chunk, ended = _drain(pending.result(), queue)
                if chunk:
                    yield chunk
                if ended:
                    return
                pending = asyncio.ensure_future(queue.get())
        finally:
            self._ends.discard(gone)
            self._audience.pop(queue, None)
            pending.cancel()
            pump.cancel()
            await asyncio.gather(pump, pending, return_exceptions=True)


def _drain(first: bytes | None, queue: asyncio.Queue[bytes | None]) -> tuple[bytes, bool]:
    """What waits in the queue, joined, and whether it was the end."""
    events: list[bytes] = []
    event = first
    while event is not None:
        events.append(event)
        if len(events) >= CHUNK_EVENTS_MAX or queue.empty():
            return b"".join(events), False
        event = queue.get_nowait()
    return b"".join(events), True


async def _pump(entries: AsyncIterator[Entry], queue: asyncio.Queue[bytes | None]) -> None:
    """Move entries into the queue; when it is full, the journal waits for the client."""
    async with aclosing(cast("Any", entries)):
        try:
            async for entry in entries:
                await queue.put(event_bytes(entry))
        except TreasuryError as error:
            log.warning("event_stream_ended", code=error.code, detail=str(error))  # the client comes back by its cursor
    await queue.put(None)
