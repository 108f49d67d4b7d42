"""Streams are cut into events the same way however their bytes arrive."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fiscus.dialects.facts import Event
from fiscus.dialects.stream import ArrayStream, EventStream

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
LINES = st.sampled_from(
    ["data: 1", "data:", "data:  x", ": comment", "event: ping", "id: 7", "retry", "data: é\\n", ""]
)


@st.composite
def streams(draw):
    end = draw(ENDS)
    return "".join(line + end for line in draw(st.lists(LINES, max_size=12))).encode()


def plain(body):
    """What a reader that has the whole stream makes of it, by the rules of the HTML standard."""
    found, data, name = [], [], None
    for line in body.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if data:
                found.append(("\n".join(data), name))
            data, name = [], None
        elif line.startswith("data"):
            data.append(line.partition(":")[2].removeprefix(" "))
        elif line.startswith("event"):
            name = line.partition(":")[2].removeprefix(" ")
    return found


def split(body, cuts):
    ends = [0, *sorted(cut for cut in cuts if cut <= len(body)), len(body)]
    return [body[start:end] for start, end in pairwise(ends)]


def read(stream, pieces):
    events = []
    for piece in pieces:
        events += stream.feed(piece)
    return events + stream.flush()


def told(events):
    return [(event.data.decode(), event.name) for event in events if event.data is not None]


@given(streams(), st.lists(st.integers(0, 80), max_size=8))
@example(b"data: 1\r\n\r\ndata: 2\r\n\r\n", [8, 9, 10, 11])
@example(b"data: 1\r\rdata: 2\r\r", [8, 9])
def test_events_are_the_same_however_the_bytes_are_split_and_all_bytes_are_kept(body, cuts):
    body += b"\n\n"
    whole = read(EventStream(), [body])
    again = read(EventStream(), split(body, cuts))
    assert again == whole == read(EventStream(), [body[at : at + 1] for at in range(len(body))])
    assert b"".join(event.raw for event in whole) == body
    assert told(whole) == plain(body)


def test_a_byte_order_mark_is_passed_on_and_not_read():
    events = read(EventStream(), [b"\xef\xbb\xbfdata: 1\n\n", b"\xef\xbb\xbfdata: 2\n\n"])
    assert [event.data for event in events] == [b"1", None]
    assert events[0].raw == b"\xef\xbb\xbfdata: 1\n\n"


def test_an_event_that_never_ended_is_kept():
    assert read(EventStream(), [b"data: 1\n\ndata: 2"])[-1] == Event(raw=b"data: 2", data=b"2")


@given(st.integers(1, 40), st.integers(0, 60))
def test_an_event_that_is_too_large_is_passed_on_and_not_read(step, size):
    body = b"data: 1\n\n" + b"data: " + b"x" * 400 + b"y" * size + b"\n\ndata: 3\n\n"
    stream = EventStream(event_bytes_max=100)
    events = read(stream, [body[at : at + step] for at in range(0, len(body), step)])
    assert b"".join(event.raw for event in events) == body
    assert [event.data for event in events if event.data] == [b"1", b"3"]
    assert any(event.oversized for event in events)
    assert max(len(event.raw) for event in events) <= 100 + step


def test_a_long_event_in_small_pieces_takes_time_in_proportion_to_its_length():
    stream = EventStream()
    for _ in range(20_000):
        stream.feed(b"x" * 100)
    assert len(stream.flush()[0].raw) == 2_000_000


CHUNKS = st.lists(
    st.dictionaries(st.text(max_size=5), st.text('{}[]"\\,aé', max_size=9) | st.lists(st.integers(), max_size=2)),
    max_size=5,
)


@given(CHUNKS, st.lists(st.integers(0, 120), max_size=8))
def test_an_array_is_cut_into_its_objects_however_the_bytes_are_split(chunks, cuts):
    body = ("[" + ",\r\n".join(json.dumps(chunk, ensure_ascii=False) for chunk in chunks) + "\n]\n").encode()
    whole = read(ArrayStream(), [body])
    assert whole == read(ArrayStream(), split(body, cuts))
    assert whole == read(ArrayStream(), [body[at : at + 1] for at in range(len(body))])
    assert b"".join(event.raw for event in whole) == body
    assert [json.loads(event.data) for event in whole if event.data] == chunks


def test_an_error_without_an_array_is_one_event():
    body = b'{\n "error": {"code": 400, "details": [{"a": 1}]}\n}\n'
    events = read(ArrayStream(), [body])
    assert [json.loads(event.data) for event in events if event.data] == [json.loads(body)]


@pytest.mark.parametrize("step", [7, 64])
def test_an_object_that_is_too_large_is_passed_on_and_not_read(step):
    body = b'[{"a": 1},\n{"b": "' + b"x{" * 300 + b'"},\n{"c": 3}]'
    stream = ArrayStream(event_bytes_max=100)
    events = read(stream, [body[at : at + step] for at in range(0, len(body), step)])
    assert b"".join(event.raw for event in events) == body
    assert [event.data for event in events if event.data] == [b'{"a": 1}', b'{"c": 3}']
    assert any(event.oversized for event in events)
