"""Edits of JSON change what they are meant to, and no other byte."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.dialects.scan import (
    append_element,
    append_text,
    applied,
    last_element,
    members,
    put_members,
    repeated,
    value_end,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
KEYS = st.sampled_from(["model", "max_tokens", "a", 'q"', "ключ", "\\", "{"]) | st.text(max_size=4)
SPACES = st.text(" \t\n\r", max_size=3)


@st.composite
def written(draw, value):
    """A value as JSON that somebody else wrote: with any white space, escapes and spellings of numbers."""
    if isinstance(value, dict):
        pairs = [
            f"{draw(SPACES)}{draw(text_of(key))}{draw(SPACES)}:{draw(SPACES)}{draw(written(inner))}{draw(SPACES)}"
            for key, inner in value.items()
        ]
        return "{" + (",".join(pairs) if pairs else draw(SPACES)) + "}"
    if isinstance(value, list):
        items = [f"{draw(SPACES)}{draw(written(inner))}{draw(SPACES)}" for inner in value]
        return "[" + (",".join(items) if items else draw(SPACES)) + "]"
    return draw(text_of(value)) if isinstance(value, str) else json.dumps(value)


@st.composite
def text_of(draw, text):
    plain = json.dumps(text, ensure_ascii=False) if draw(st.booleans()) else json.dumps(text)
    if text and ord(text[0]) < 128 and draw(st.booleans()):
        return '"' + f"\\u{ord(text[0]):04x}" + json.dumps(text[1:])[1:]
    return plain


@st.composite
def objects(draw):
    value = draw(st.dictionaries(KEYS, VALUES, max_size=6))
    return value, (draw(SPACES) + draw(written(value)) + draw(SPACES)).encode()


def shown(edits, body):
    """That the result is the body outside the edits, told without ``applied``."""
    edits = sorted(edits)
    kept = [body[before.end : after.start] for before, after in pairwise(edits)]
    return [body[: edits[0].start], *kept, body[edits[-1].end :]]


@given(objects(), st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_the_result_is_the_object_with_its_edits_and_every_other_byte_as_it_was(given_object, changes):
    value, body = given_object
    edits = put_members(body, 0, {key: json.dumps(change).encode() for key, change in changes.items()})
    edited = applied(body, edits)
    assert json.loads(edited) == {**value, **changes}
    assert list(json.loads(edited)) == [*value, *(key for key in changes if key not in value)]
    at = 0
    for piece, edit in zip(shown(edits, body), [*sorted(edits), None], strict=True):
        assert edited[at : at + len(piece)] == piece
        at += len(piece) + (len(edit.new) if edit is not None else 0)
    assert at == len(edited)


@given(objects())
def test_members_are_found_where_they_stand(given_object):
    value, body = given_object
    assert [(member.key, json.loads(body[member.start : member.end])) for member in members(body)] == list(
        value.items()
    )


@pytest.mark.parametrize("size", [0, 70_000])
@given(objects())
def test_a_large_body_is_read_alike(size, given_object):
    value, body = given_object
    large = body.rstrip().removesuffix(b"}") + (b"," if value else b"") + b'"pad pad":["' + b"x" * size + b'"]}'
    found = [(member.key, json.loads(large[member.start : member.end])) for member in members(large)]
    assert found == [*value.items(), ("pad pad", ["x" * size])]


def test_of_repeated_members_every_one_is_found_and_edited_however_large():
    body = b'{"a": [1], "pad": "' + b"x" * 70_000 + b'", "a": [1, 2], "a": "3"}'
    assert [body[member.start : member.end] for member in members(body) if member.key == "a"] == [
        b"[1]",
        b"[1, 2]",
        b'"3"',
    ]
    edited = applied(body, put_members(body, 0, {"a": b"0"}))
    assert edited == b'{"a": 0, "pad": "' + b"x" * 70_000 + b'", "a": 0, "a": 0}'


@given(st.lists(VALUES, max_size=5).flatmap(lambda value: st.tuples(st.just(value), written(value))), VALUES)
def test_an_element_is_appended(given_array, element):
    value, text = given_array
    body = b"  " + text.encode() + b" "
    end = value_end(body, 2)
    assert end == len(body) - 1
    edited = applied(body, [append_element(body, 2, end, json.dumps(element).encode())])
    assert json.loads(edited) == [*value, element]
    last = last_element(body, 2, end)
    assert (json.loads(body[last.start : last.end]) if last else None) == (value[-1] if value else None)


@given(st.text(), st.text())
def test_a_text_is_appended_to_a_string(text, note):
    body = json.dumps(text).encode()
    assert json.loads(applied(body, [append_text(len(body), note)])) == f"{text}\n\n{note}"


def test_without_an_edit_it_is_the_same_object():
    body = b'{"a": 1}'
    assert applied(body, []) is body


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"model": "a", "n": 1}', None),
        (b'{"model": "a", "model": "b"}', "model"),
        (b'{"model": "a", "mod\\u0065l": "b"}', "model"),
        (b'{"messages": [{"model": 1}, {"model": 2}], "model": "b"}', None),
        (b'{"config": {"n": 1, "n": 2}}', "config.n"),
        (b'{"config": {"n": 1}, "config": {}}', "config"),
        (b'{"other": 1, "other": 2}', None),
        (b'{"\\u0041": 1}', None),
    ],
)
def test_what_decides_must_stand_only_once(body, found):
    assert repeated(body, ("model", "n"), ("config",)) == found


def test_twenty_megabytes_are_not_walked_through_byte_by_byte():
    body = (
        b'{"messages": ['
        + b",".join([b'{"role": "user", "content": "' + b"\\n x" * 1_000 + b'"}'] * 5_000)
        + b'], "n": 1}'
    )
    assert len(body) > 20_000_000
    assert [member.key for member in members(body)] == ["messages", "n"]
    assert json.loads(body[members(body)[1].start : members(body)[1].end]) == 1
    start, end = members(body)[0][1:]
    assert msgspec.json.decode(body[slice(*last_element(body, start, end))])["role"] == "user"
