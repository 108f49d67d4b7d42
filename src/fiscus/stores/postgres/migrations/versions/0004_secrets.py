"""Where the secret stands that keys are hashed with, unless a setting names one."""

from __future__ import annotations

from fiscus.stores.postgres.migrations import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    run_file("0004_secrets.sql")
