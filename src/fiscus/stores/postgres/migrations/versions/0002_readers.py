"""Views for other programs; what an erasure looks for in sealed states."""

from __future__ import annotations

from fiscus.stores.postgres.migrations import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the views."""
    run_file("0002_readers.sql")
