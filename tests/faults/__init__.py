"""Faults that a production system meets, done on purpose; see ``docs/reliability.md``."""

from __future__ import annotations

from tests.faults import commits, disk, edge, kills, live_state, network, outages, replies, standstills

_IN_ORDER = (kills, outages, commits, disk, live_state, replies, network, standstills, edge)

FAULTS = {module.finding().fault: module for module in _IN_ORDER}
"""By the names that ``--only`` takes, in the order of the table of the page."""
