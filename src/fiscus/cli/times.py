"""Times on the command line, which are in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

FORMATS = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d"]

Until = Annotated[datetime | None, typer.Option("--until", help="When it ends, in UTC.", formats=FORMATS)]


def in_utc(time: datetime | None) -> datetime | None:
    """The same time, said to be in UTC."""
    return time.replace(tzinfo=UTC) if time else None
