"""What drops months that were archived."""

from __future__ import annotations

from fiscus.stores.postgres.migrations import run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the function."""
    run_file("0003_archiving.sql")
