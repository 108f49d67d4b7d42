"""Where values stand in the bytes of a JSON text, and edits of them that leave every other byte as it was.

The text has been read before, so it is known to be JSON. Strings between two brackets are skipped by one match of a
regular expression: the cost is one step per bracket, not per byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]} \t\n\r]++")
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
_OPENS, _BRACKETED = b"{[", b'"{['
_COUNTED_BYTES_MAX = 65_536
_LARGE_BYTES = 256
"""From here on one pass outside Python, that finds how long the values are, is cheaper than looking for their ends."""


class Edit(NamedTuple):
    """Bytes ``start`` to ``end`` become ``new``."""

    start: int
    end: int
    new: bytes


class Member(NamedTuple):
    """One member of an object: its key, and where its value stands."""

    key: str
    start: int
    end: int


class Element(NamedTuple):
    """Where one value of an array stands."""

    start: int
    end: int


def members(body: bytes, start: int = 0) -> list[Member]:
    """The members of the object that begins at ``start``, in order, duplicates included.

    >>> members(b' {"a": [1, "]"], "b":2}')
    [Member(key='a', start=7, end=15), Member(key='b', start=21, end=22)]
    """
    found: list[Member] = []
    lengths = _lengths(body) if start == 0 and len(body) > _LARGE_BYTES else {}
    at = _skip(body, _skip(body, start) + 1)
    while body[at] != 0x7D:
        key_end = _matched(_STRING, body, at)
        key = _key(body[at:key_end])
        value = _skip(body, _skip(body, key_end) + 1)
        known = lengths.get(key)
        # No string, array or object is the beginning of another one: where this one stands, it also ends.
        if known is not None and body[value] in _BRACKETED and memoryview(body)[value : value + len(known)] == known:
            end = value + len(known)
        else:
            end = value_end(body, value)
        found.append(Member(key, value, end))
        at = _skip(body, end)
        if body[at] == 0x2C:
            at = _skip(body, at + 1)
    return found


def last_element(body: bytes, start: int, end: int) -> Element | None:
    """The last value of the array that stands at ``start`` to ``end``; None: it is empty.

    >>> last_element(b'[ 1, {"a": "]"} ]', 0, 17)
    Element(start=5, end=15)
    """
    values = msgspec.json.decode(memoryview(body)[start:end], type=list[msgspec.Raw])
    if not values:
        return None
    stop = len(body[start : end - 1].rstrip(b" \t\n\r")) + start
    return Element(stop - len(memoryview(values[-1])), stop)


def value_end(body: bytes, start: int) -> int:
    """Where the value that begins at ``start`` ends.

    >>> value_end(b'{"a": "}"} ', 0)
    10
    """
    first = body[start]
    if first == 0x22:
        return _matched(_STRING, body, start)
    if first not in _OPENS:
        return _matched(_SCALAR, body, start)
    depth, at = 1, start + 1
    while depth:
        at = _matched(_TO_BRACKET, body, at)
        depth += 1 if body[at] in _OPENS else -1
        at += 1
    return at


def put_members(
    body: bytes, start: int, values: Mapping[str, bytes], present: Sequence[Member] | None = None
) -> list[Edit]:
    """Edits that give an object's members these values: all of that name are replaced, missing ones come last.

    >>> applied(b'{"a": 1, "b": 2 }', put_members(b'{"a": 1, "b": 2 }', 0, {"a": b"7", "c": b"null"}))
    b'{"a": 7, "b": 2,"c":null }'
    """
    present = members(body, start) if present is None else present
    edits = [Edit(member.start, member.end, values[member.key]) for member in present if member.key in values]
    names = {member.key for member in present}
    missing = [msgspec.json.encode(key) + b":" + value for key, value in values.items() if key not in names]
    if missing:
        at = present[-1].end if present else _skip(body, start) + 1
        edits.append(Edit(at, at, (b"," if present else b"") + b",".join(missing)))
    return edits


def append_element(body: bytes, start: int, end: int, element: bytes) -> Edit:
    """The edit that makes ``element`` the last value of the array that stands at ``start`` to ``end``.

    >>> applied(b'[1, 2 ]', [append_element(b'[1, 2 ]', 0, 7, b'3')])
    b'[1, 2,3 ]'
    """
    last = last_element(body, start, end)
    at = last.end if last is not None else start + 1
    return Edit(at, at, b"," + element if last is not None else element)


def append_text(end: int, text: str) -> Edit:
    """The edit that appends a paragraph to the string that ends at ``end``.

    >>> applied(b'"Hi"', [append_text(4, 'a "b"')])
    b'"Hi\\\\n\\\\na \\\\"b\\\\""'
    """
    return Edit(end - 1, end - 1, msgspec.json.encode("\n\n" + text)[1:-1])


def applied(body: bytes, edits: Sequence[Edit]) -> bytes:
    """The text with edits that do not overlap; without any the same object."""
    if not edits:
        return body
    pieces: list[bytes] = []
    at = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        assert edit.start >= at, "edits do not overlap"
        pieces += (body[at : edit.start], edit.new)
        at = edit.end
    pieces.append(body[at:])
    return b"".join(pieces)


def repeated(body: bytes, keys: Collection[str], inside: Collection[str] = ()) -> str | None:
    """The first of ``keys`` that the object has twice: readers differ in which of the two they take.

    Args:
        body: an object.
        keys: names of its members, or of the members of those named ``inside``.
        inside: names of members that are objects and are looked into.

    >>> repeated(b'{"n": 1, "\\\\u006e": 2}', {"n"})
    'n'
    """
    if len(body) <= _COUNTED_BYTES_MAX and not _ESCAPED_LETTER.search(body):
        often = max(map(body.count, _quoted(tuple(keys), tuple(inside))))
        if often < 2:
            return None
    seen: set[str] = set()
    for member in members(body):
        if member.key in seen:
            return member.key
        if member.key in keys or member.key in inside:
            seen.add(member.key)
        if member.key in inside and body[member.start] == 0x7B:
            inner = [one.key for one in members(body, member.start) if one.key in keys]
            twice = next((name for name in inner if inner.count(name) > 1), None)
            if twice is not None:
                return f"{member.key}.{twice}"
    return None


@lru_cache(maxsize=64)
def _quoted(keys: tuple[str, ...], inside: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(b'"%s"' % name.encode() for name in (*keys, *inside))


def _lengths(body: bytes) -> dict[str, memoryview]:
    """The values of an object, of repeated ones the last: found in one pass outside Python."""
    try:
        return {key: memoryview(raw) for key, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}
    except msgspec.DecodeError:
        return {}


def _skip(body: bytes, at: int) -> int:
    return _matched(_SPACE, body, at)


def _matched(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    match = pattern.match(body, at)
    assert match is not None, "the text is JSON"
    return match.end()


def _key(raw: bytes) -> str:
    if b"\\" not in raw:
        return raw[1:-1].decode("utf-8", "replace")
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return raw.decode("utf-8", "replace")
