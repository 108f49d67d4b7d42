"""Streams of events, cut where the provider cut them: Server-Sent Events, and Gemini's array that grows."""

from __future__ import annotations

import re

from fiscus.dialects.facts import Event

EVENT_BYTES_MAX = 16 * 2**20
"""An event that is larger is passed on in pieces, and not read. The largest ones carry images."""

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["{}\[\]]')


class EventStream:
    """Cuts a stream of Server-Sent Events at its blank lines.

    A last CR waits for the byte after it, which may be the LF that belongs to it.

    >>> EventStream().feed(b"data: 1\\n\\ndata: 2")
    [Event(raw=b'data: 1\\n\\n', data=b'1', name=None, oversized=False)]
    """

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._buffer = bytearray()
        self._searched = 0
        self._oversized = False
        self._first = True

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes."""
        buffer = self._buffer
        buffer += chunk
        events: list[Event] = []
        begin = 0
        # A blank line has at most four bytes, and what looked like none may have been one that was not whole yet.
        search = max(0, self._searched - 3)
        while (match := _BLANK_LINE.search(buffer, search)) is not None:
            events.append(self._event(bytes(buffer[begin : match.end()])))
            self._oversized = False
            begin = search = match.end()
        del buffer[:begin]
        if len(buffer) > self._event_bytes_max:
            kept = 3
            self._oversized = True
            events.append(self._event(bytes(buffer[:-kept])))
            del buffer[:-kept]
        self._searched = len(buffer)
        return events

    def flush(self) -> list[Event]:
        """What is left at the end of the stream: at most one event, the blank line of which never came."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return [self._event(rest)] if rest else []

    def _event(self, raw: bytes) -> Event:
        first, self._first = self._first, False
        if self._oversized:
            return Event(raw=raw, oversized=True)
        if raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.count(b"\n") == 2 and b"\r" not in raw:
            return Event(raw=raw, data=raw[6:-2])  # nearly all of them
        name: str | None = None
        data: list[bytes] = []
        for line in _LINE.split(raw.removeprefix(_BOM) if first else raw):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ").decode("utf-8", "replace")
        return Event(raw=raw, data=b"\n".join(data) if data else None, name=name)


class ArrayStream:
    """Cuts a JSON array that grows into its objects; brackets and commas go with the object that they stand before.

    >>> [event.data for event in ArrayStream().feed(b'[{"a": "}"},\\r\\n{"b": 1}')]
    [b'{"a": "}"}', b'{"b": 1}']
    """

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._buffer = bytearray()
        self._searched = 0
        self._depth = 0
        self._in_string = False
        self._begin = -1
        self._oversized = False
        self._bare = True

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes."""
        self._buffer += chunk
        events: list[Event] = []
        while (match := (_IN_STRING if self._in_string else _OUTSIDE).search(self._buffer, self._searched)) is not None:
            at = match.start()
            self._searched = at + 1
            byte = self._buffer[at]
            if byte == 0x5C:
                if at + 1 == len(self._buffer):
                    self._searched = at
                    break
                self._searched = at + 2
            elif byte == 0x22:
                self._in_string = not self._in_string
            elif self._bracket(byte, at):
                events.append(self._cut())
        else:
            self._searched = len(self._buffer)
        if len(self._buffer) > self._event_bytes_max:
            self._oversized = True
            events.append(Event(raw=bytes(self._buffer[: self._searched]), oversized=True))
            del self._buffer[: self._searched]
            self._searched = 0
        return events

    def flush(self) -> list[Event]:
        """What is left at the end of the stream: white space, or an object that never ended."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return [Event(raw=rest)] if rest else []

    def _bracket(self, byte: int, at: int) -> bool:
        """Follow one bracket; whether an event ends with it: an object of the array, or the array."""
        if self._bare:
            # An error comes as an object without an array around it.
            self._bare = False
            self._depth = 1 if byte == 0x7B else 0
        if byte in b"{[":
            self._depth += 1
            if self._depth == 2 and byte == 0x7B:
                self._begin = at
            return False
        self._depth -= 1
        return self._depth <= 1

    def _cut(self) -> Event:
        raw = bytes(self._buffer[: self._searched])
        data = raw[self._begin :] if self._begin >= 0 and not self._oversized else None
        event = Event(raw=raw, data=data, oversized=self._oversized)
        del self._buffer[: self._searched]
        self._searched, self._begin, self._oversized = 0, -1, False
        return event
