"""Bodies of requests, in the parts in which they came: a large one is never copied into one piece on the event loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fiscus.dialects import Edit, Problem
from fiscus.gateway.asgi import Receive
from fiscus.gateway.connection import Part


class Body:
    """The bytes of a request. They never change.

    Attributes:
        parts: them, in order.
        length: of all parts, in bytes.

    >>> body = Body((b'{"a":', b'1, "b": 2}'))
    >>> body.edited([Edit(4, 6, b":[]"), Edit(14, 14, b" ")]).whole()
    b'{"a":[], "b": 2 }'
    """

    __slots__ = ("length", "parts")

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.length = sum(map(len, parts))

    def whole(self) -> bytes:
        """All of it in one piece, which is made once."""
        if len(self.parts) != 1 or not isinstance(self.parts[0], bytes):
            self.parts = (b"".join(self.parts),)
        whole = self.parts[0]
        assert isinstance(whole, bytes)
        return whole

    def edited(self, edits: Sequence[Edit]) -> Body:
        """With edits that do not overlap; without any the same object. What stays as it was is not copied."""
        if not edits:
            return self
        parts: list[Part] = []
        at = 0
        for edit in sorted(edits, key=lambda edit: edit.start):
            assert edit.start >= at, "edits do not overlap"
            parts += self._slices(at, edit.start)
            parts.append(edit.new)
            at = edit.end
        parts += self._slices(at, self.length)
        return Body(parts)

    def _slices(self, start: int, end: int) -> Iterator[Part]:
        begin = 0
        for part in self.parts:
            stop = begin + len(part)
            if begin < end and start < stop:
                yield memoryview(part)[max(0, start - begin) : end - begin]
            begin = stop


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], bytes_max: int) -> Body | Problem | None:
    """The whole body; None when the caller has left."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > bytes_max:
        return _too_large(bytes_max)
    parts: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        total += len(part)
        if total > bytes_max:
            return _too_large(bytes_max)
        parts.append(part)
        if not message.get("more_body", False):
            return Body(parts)


def _too_large(bytes_max: int) -> Problem:
    return Problem(code="too_large", message=f"the body may be {bytes_max} bytes long")
