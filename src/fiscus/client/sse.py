"""Server-Sent Events, without a socket: bytes in, events out."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fiscus.contract.errors import TreasuryError

EVENT_BYTES_MAX = 4 * 1024 * 1024


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. ``id`` is the last one seen on the stream, as the standard says."""

    id: str
    kind: str
    data: str


class EventParser:
    """Reads a stream of events from pieces of any size.

    Source: the WHATWG HTML standard, "Interpreting an event stream".
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._data_length = 0
        self._kind = ""
        self._id = ""

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Take the next piece; give every event that it completes.

        Raises:
            TreasuryError: an event is longer than ``EVENT_BYTES_MAX``.
        """
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                yield event
        if self._data_length + len(self._rest) > EVENT_BYTES_MAX:
            raise TreasuryError(f"the service sent an event longer than {EVENT_BYTES_MAX} bytes")

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._end_of_event()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._data_length += len(value)
        elif field == "event":
            self._kind = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None  # also for a comment, a keep-alive, or a field that we do not know

    def _end_of_event(self) -> ServerEvent | None:
        data, kind = self._data, self._kind
        self._data, self._data_length, self._kind = [], 0, ""
        return ServerEvent(id=self._id, kind=kind or "message", data="\n".join(data)) if data else None
