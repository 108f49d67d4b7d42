"""Faults that a production system meets, done on purpose; see ``docs/reliability.md``."""

from __future__ import annotations

from tests.faults import commits, edge, kills, live_state, outages, replies

FAULTS = {module.finding().fault: module for module in (kills, outages, commits, live_state, replies, edge)}
"""By the names that ``--only`` takes, in the order of the table of the page."""
