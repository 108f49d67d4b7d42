"""How every fault ends: all nodes are well again, stop cleanly, and what they leave is judged."""

from __future__ import annotations

from tests.faults.books import judge
from tests.faults.finding import Finding
from tests.faults.load import Told
from tests.faults.nodes import Ground


def conclude(found: Finding, place: Ground, *tolds: Told, others: tuple[str, ...] = ("probe-",)) -> None:
    """Judge the ledger by what all callers were told."""
    place.settle()
    found.faults += place.stop()
    for told in tolds:
        found.faults += told.wrong[:5]
    found.take(judge(place.url, [call for told in tolds for call in told.calls], others=others))
