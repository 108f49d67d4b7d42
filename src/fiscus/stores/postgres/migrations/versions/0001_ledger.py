"""The ledger: journal, what stands beside it, and the views."""

from __future__ import annotations

from fiscus.stores.postgres.migrations import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    run_file("0001_ledger.sql")
