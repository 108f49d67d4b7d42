"""Bodies in parts."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fiscus.dialects import Edit
from fiscus.dialects.scan import applied
from fiscus.gateway.bodies import Body

places = st.lists(st.integers(0, 60), max_size=8)


@given(text=st.binary(max_size=60), cuts=places, edges=places, new=st.lists(st.binary(max_size=5), min_size=8))
def test_edits_of_a_body_in_parts_are_those_of_its_bytes(text, cuts, edges, new):
    edges_in = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    body = Body([text[begin:end] for begin, end in itertools.pairwise(edges_in)])
    ordered = sorted(min(edge, len(text)) for edge in edges)
    edits = [Edit(*pair, word) for *pair, word in zip(ordered[::2], ordered[1::2], new, strict=False)]
    changed = body.edited(edits)
    assert changed.length == len(applied(text, edits))
    assert changed.edited([Edit(0, 0, b"x")]).whole() == b"x" + applied(text, edits)
    assert changed.whole() == applied(text, edits)
    assert body.whole() == text


def test_what_stays_as_it_was_is_not_copied():
    text = b"x" * 1_000
    body = Body([text])
    assert body.edited([]) is body
    assert body.whole() is text
    before, new, after = body.edited([Edit(500, 500, b"new")]).parts
    assert (before.obj, new, after.obj) == (text, b"new", text)
    assert before.obj is after.obj is text
