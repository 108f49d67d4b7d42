"""``fiscus spool``: what waits on this machine's disk for the ledger, and what the ledger has refused of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from fiscus.cli.invocation import Invocation
from fiscus.cli.output import time_text, write_line
from fiscus.contract import AnyCommand, Compound, Request

COLUMNS = ("state", "since", "tenant", "command", "id", "account", "total", "reason")


class Spooled(msgspec.Struct, frozen=True, kw_only=True):
    """One request. ``at``: since when it waits, or when it was refused; ``reason``: of the refusal."""

    state: Literal["waiting", "refused"]
    at: datetime | None
    request: Request
    code: str | None = None
    reason: str | None = None


def list_spool(invocation: Invocation) -> None:
    """List the spool of the settings, the oldest first; nothing is taken out of it."""
    from fiscus.app import spool_directory
    from fiscus.cli.options import service_options

    directory = spool_directory(service_options(invocation.settings()))
    found = list(_spooled(directory))
    invocation.output.rows(found, COLUMNS, map(_cells, found))
    if not invocation.json:
        refused = sum(one.state == "refused" for one in found)
        write_line(f"\n{directory}: {len(found) - refused:,} wait, {refused:,} were refused")


def _spooled(directory: Path) -> Iterator[Spooled]:
    from fiscus.spool.spool import read_set_aside, read_waiting

    for _, waiting in read_waiting(directory):
        yield Spooled(state="waiting", at=_time(waiting.spooled_at_ms), request=_plain(waiting))
    for path in sorted(directory.glob("*.refused")):
        for kept in read_set_aside(path):
            yield Spooled(
                state="refused",
                at=_time(kept.at_ms),
                request=kept.request,
                code=kept.refused.code,
                reason=kept.refused.detail,
            )


def _plain(request: Request) -> Request:
    """Only what was asked, without what the spool knows of it."""
    return Request(**{name: getattr(request, name) for name in Request.__struct_fields__})


def _time(at_ms: int) -> datetime | None:
    return datetime.fromtimestamp(at_ms / 1_000, UTC) if at_ms else None


def _cells(one: Spooled) -> tuple[str, ...]:
    command = one.request.command
    return (
        one.state,
        time_text(one.at) if one.at is not None else "",
        one.request.tenant,
        str(command.__struct_config__.tag),
        _ids(command),
        getattr(command, "account", None) or "",
        " ".join(f"{unit}={amount}" for unit, amount in getattr(command, "total", {}).items()),
        f"{one.code}: {one.reason}" if one.code is not None else "",
    )


def _ids(command: AnyCommand) -> str:
    parts = command.commands if isinstance(command, Compound) else (command,)
    return ", ".join(str(getattr(part, "id", "")) for part in parts)
