"""SQL by name, from the file beside the code that runs it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def queries(file_name: str) -> dict[str, str]:
    """The named statements of a file: each begins with a line ``-- name: NAME``."""
    found: dict[str, str] = {}
    name = ""
    for line in (files(__package__) / file_name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-- name: "):
            name = line.removeprefix("-- name: ").strip()
            found[name] = ""
        elif name:
            found[name] += line + "\n"
    return found
