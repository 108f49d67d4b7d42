"""Faults that a production system meets, done on purpose; see ``docs/reliability.md``."""

from __future__ import annotations

from tests.faults import (
    clocks,
    commits,
    disk,
    edge,
    kills,
    live_state,
    network,
    outages,
    replies,
    snapshot,
    soak,
    standstills,
    windows,
)

_IN_ORDER = (
    kills,
    outages,
    commits,
    disk,
    live_state,
    replies,
    network,
    standstills,
    clocks,
    windows,
    edge,
    snapshot,
    soak,
)

FAULTS = {module.finding().fault: module for module in _IN_ORDER}
"""By the names that ``--only`` takes, in the order of the table of the page."""
