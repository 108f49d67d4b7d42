"""Where requests came from: up to the root and down to all that followed, whatever the records say.

The parents that records name may be missing, may be the request itself, or may lead round in a circle. Every walk looks
at a request once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from fiscus.contract.analysis import LINEAGE_LENGTH_MAX, LineageNode, Relationship, RequestView, Totals

ANCESTORS_MAX = 10_000
RELATIONSHIP = "triggered_by"
"""Where a record names a parent and does not say how."""

Find = Callable[[Sequence[str]], Mapping[str, RequestView]]
"""The requests with these ids that there are."""

Children = Callable[[Sequence[str]], Iterable[RequestView]]
"""The requests that name one of these as their parent."""


class Ascent(msgspec.Struct, frozen=True, kw_only=True):
    """The way from a request to its root.

    Attributes:
        above: ids of those above it, the nearest first.
        missing: a parent that is named and not known.
        in_cycle: whether the way came back to where it had been.
    """

    above: tuple[str, ...]
    missing: str | None
    in_cycle: bool


def parent_of(request: RequestView) -> str | None:
    """The parent that a request names."""
    return request.provenance.parent_request_id


def ascend(request: RequestView, find: Find) -> Ascent:
    """Go up as far as parents are known."""
    above: list[str] = []
    seen = {request.request_id}
    parent = parent_of(request)
    while parent is not None and len(above) < ANCESTORS_MAX:
        if parent in seen:
            return Ascent(above=tuple(above), missing=None, in_cycle=True)
        found = find([parent]).get(parent)
        if found is None:
            return Ascent(above=tuple(above), missing=parent, in_cycle=False)
        above.append(parent)
        seen.add(parent)
        parent = parent_of(found)
    return Ascent(above=tuple(above), missing=None, in_cycle=False)


def descend(root: RequestView, children: Children) -> tuple[list[LineageNode], tuple[str, ...], bool]:
    """All that follows a root, level by level.

    Returns:
        The nodes, the requests at which parents lead back to themselves, and whether these are all.
    """
    nodes: dict[str, LineageNode] = {root.request_id: LineageNode(request=root, depth=0, children=())}
    below: dict[str, list[str]] = {}
    cycles: set[str] = set()
    level, depth, is_whole = [root.request_id], 0, True
    while level and is_whole:
        depth += 1
        found = sorted(children(level), key=lambda request: (request.at, request.request_id))
        level = []
        for request in found:
            if request.request_id in nodes:
                cycles.add(request.request_id)
                continue
            if len(nodes) == LINEAGE_LENGTH_MAX:
                is_whole = False
                break
            nodes[request.request_id] = LineageNode(request=request, depth=depth, children=())
            below.setdefault(parent_of(request) or "", []).append(request.request_id)
            level.append(request.request_id)
    shown = [
        msgspec.structs.replace(node, children=tuple(below.get(node.request.request_id, ()))) for node in nodes.values()
    ]
    return shown, tuple(sorted(cycles)), is_whole


def relationships(request: RequestView) -> tuple[Relationship, ...]:
    """How a request came from its parent."""
    parent = parent_of(request)
    if parent is None:
        return ()
    how = request.provenance.relationship or RELATIONSHIP
    return (Relationship(request_id=request.request_id, parent_request_id=parent, relationship=how),)


def total(nodes: Iterable[LineageNode]) -> Totals:
    """What all requests of a tree used."""
    return sum((node.request.totals for node in nodes), start=Totals())
