"""From the bytes of an address to the row of the table of routes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fiscus.api.calls import Prepared


class _Node(msgspec.Struct, kw_only=True):
    """One place in the tree of addresses: named parts first, then the part in braces."""

    children: dict[bytes, _Node]
    any_child: _Node | None = None
    routes: dict[str, Prepared] | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at an address: a route per method, and the parts in braces, still percent-encoded."""

    routes: dict[str, Prepared]
    values: tuple[bytes, ...]


class Matcher:
    """Finds routes. Addresses without braces take one look-up."""

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        self._root = _Node(children={})
        self._fixed: dict[bytes, Found] = {}
        for row in prepared:
            self._add(row)

    def _add(self, row: Prepared) -> None:
        node = self._root
        parts = row.route.path.encode().split(b"/")[1:]
        for part in parts:
            if part.startswith(b"{"):
                node.any_child = node.any_child or _Node(children={})
                node = node.any_child
            else:
                node = node.children.setdefault(part, _Node(children={}))
        node.routes = node.routes or {}
        node.routes[row.route.method] = row
        if b"{" not in row.route.path.encode():
            self._fixed[row.route.path.encode()] = Found(routes=node.routes, values=())

    def find(self, raw_path: bytes) -> Found | None:
        """What stands at an address; None: nothing. An empty part never stands for a name."""
        found = self._fixed.get(raw_path)
        if found is not None:
            return found
        node: _Node | None = self._root
        values: list[bytes] = []
        for part in raw_path.split(b"/")[1:]:
            assert node is not None
            child = node.children.get(part)
            if child is None:
                child = node.any_child
                if child is None or not part:
                    return None
                values.append(part)
            node = child
        if node is None or node.routes is None:
            return None
        return Found(routes=node.routes, values=tuple(values))
