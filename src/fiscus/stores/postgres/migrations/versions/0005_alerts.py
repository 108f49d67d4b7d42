"""The outbox of alerts, which all nodes share."""

from __future__ import annotations

from fiscus.stores.postgres.migrations import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables."""
    run_file("0005_alerts.sql")
