from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.client.sse import EVENT_BYTES_MAX, EventParser
from fiscus.contract.errors import TreasuryError

STREAM = (
    b": alive\n\n"
    b'id: 7\nevent: held\ndata: {"a": 1}\n\n'
    b"data: one\r\ndata: two\r\n\r\n"
    b"retry: 5\nunknown\ndata\n\n"
    b"id: 9\ndata:no space\n\n" + "data: ü€\n\n".encode()
)
EVENTS = [
    ("7", "held", '{"a": 1}'),
    ("7", "message", "one\ntwo"),
    ("7", "message", ""),
    ("9", "message", "no space"),
    ("9", "message", "ü€"),
]


def parsed(pieces):
    parser = EventParser()
    return [(event.id, event.kind, event.data) for piece in pieces for event in parser.feed(piece)]


def test_a_stream_is_read_as_the_standard_says():
    assert parsed([STREAM]) == EVENTS


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12).map(sorted))
def test_it_does_not_matter_how_a_stream_is_cut(cuts):
    edges = [0, *cuts, len(STREAM)]
    assert parsed([STREAM[a:b] for a, b in pairwise(edges)]) == EVENTS


def test_an_unfinished_event_is_not_given():
    assert parsed([b"data: half\n"]) == []


def test_an_event_without_end_is_refused_and_keep_alives_are_not():
    parser = EventParser()
    for _ in range(2_000):
        assert list(parser.feed(b": " + b"x" * 4_096 + b"\n\n")) == []
    endless = b"data: " + b"x" * EVENT_BYTES_MAX + b"\n"
    with pytest.raises(TreasuryError, match="longer than"):
        list(parser.feed(endless + b"data: x"))
