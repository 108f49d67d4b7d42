"""Usage is found by the request that it belongs to."""

from __future__ import annotations

from fiscus.stores.postgres.migrations import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the indexes."""
    run_file("0006_lineage.sql")
