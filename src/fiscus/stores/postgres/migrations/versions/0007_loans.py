"""Loans that have ended leave the views as ended holds do."""

from __future__ import annotations

from fiscus.stores.postgres.migrations import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the index."""
    run_file("0007_loans.sql")
