"""SQL by name, from files beside the code that runs it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def queries(package: str, file_name: str) -> dict[str, str]:
    """The named statements of a file of a package, in order: each begins with a line ``-- name: NAME``."""
    found: dict[str, str] = {}
    name = ""
    for line in (files(package) / file_name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-- name: "):
            name = line.removeprefix("-- name: ").strip()
            found[name] = ""
        elif name:
            found[name] += line + "\n"
    return found
