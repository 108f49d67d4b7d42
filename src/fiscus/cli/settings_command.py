"""``fiscus settings``: every setting, its value, and where that comes from."""

from __future__ import annotations

from typing import Any

from fiscus.cli.invocation import Invocation
from fiscus.cli.output import write_line

COLUMNS = ("setting", "value", "from", "default", "range", "meaning")


def list_all(invocation: Invocation) -> None:
    """List all settings, secrets masked."""
    from fiscus.settings import file_path, list_settings

    views = list_settings(invocation.settings(), **invocation.options())
    rows = (
        (view.name, _text(view.value), view.source, _text(view.default), view.range, view.description) for view in views
    )
    invocation.output.rows(views, COLUMNS, rows)
    if not invocation.json:
        found = "" if file_path().is_file() else " (there is none)"
        write_line(f"\nEach is set by FISCUS_<NAME> in the environment, or by its name in {file_path()}{found}.")


def _text(value: Any) -> str:
    """A value as text; nothing for none."""
    if value is None or value == []:
        return ""
    return ", ".join(value) if isinstance(value, list) else str(value).lower() if value in (True, False) else str(value)
