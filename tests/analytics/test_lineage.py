"""Lineage of any graph of requests ends, looks at each once, and agrees with a plain walk."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from fiscus.analytics.lineage import ascend, descend
from fiscus.contract.analysis import RequestView, Totals
from fiscus.core.records import Provenance

AT = datetime(2026, 1, 1, tzinfo=UTC)


def request(id: str, parent: str | None) -> RequestView:
    provenance = Provenance(request_id=id, parent_request_id=parent)
    return RequestView(request_id=id, at=AT, account="a", model=None, totals=Totals(calls=1), provenance=provenance)


# covers R13
@given(st.lists(st.integers(-1, 14), min_size=1, max_size=12))
def test_any_parents_end(parents):
    """Known fault 10: parents that are missing (12 … 14), oneself, or a circle."""
    requests = {
        str(number): request(str(number), None if parent < 0 else str(parent)) for number, parent in enumerate(parents)
    }
    for one in requests.values():
        ascent = ascend(one, lambda ids: {id: requests[id] for id in ids if id in requests})
        walked, seen, parent = [], {one.request_id}, one.provenance.parent_request_id
        while parent is not None and parent in requests and parent not in seen:
            walked.append(parent)
            seen.add(parent)
            parent = requests[parent].provenance.parent_request_id
        assert list(ascent.above) == walked
        assert ascent.in_cycle == (parent in seen)
        assert ascent.missing == (parent if parent is not None and parent not in requests else None)
        nodes, cycles, is_whole = descend(
            one, lambda ids: [found for found in requests.values() if found.provenance.parent_request_id in ids]
        )
        ids = [node.request.request_id for node in nodes]
        assert len(set(ids)) == len(ids)
        assert is_whole
        assert all(node.depth == (0 if node is nodes[0] else node.depth) for node in nodes)
        below = {one.request_id}
        while True:
            more = {found.request_id for found in requests.values() if found.provenance.parent_request_id in below}
            if more <= below:
                break
            below |= more
        assert set(ids) == below
        assert set(cycles) <= below
        assert sorted(child for node in nodes for child in node.children) == sorted(set(ids) - {one.request_id})
