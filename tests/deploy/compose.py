"""Reads the compose file as the engine does: variables interpolated, merged keys resolved."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.deploy.tools import ROOT

FILE = ROOT / "docker-compose.token_economy.yml"
EXAMPLE = ROOT / "deploy" / "token_economy.env.example"

VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<kind>:?[-?+])(?P<text>[^}]*))?\}|(?P<bare>\w+))")


class Missing(Exception):
    """A required variable has no value."""


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """Replace variables in all values, as the specification says; keys stay as they are."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    return VARIABLE.sub(lambda match: _replaced(match, variables), value) if isinstance(value, str) else value


def _replaced(match: re.Match[str], variables: dict[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    name, kind, text = match["name"] or match["bare"], match["kind"] or "", match["text"] or ""
    value = variables.get(name)
    is_there = bool(value) if kind.startswith(":") else value is not None
    if kind.endswith("?") and not is_there:
        raise Missing(f"{name}: {text}")
    if kind.endswith("-") and not is_there:
        return text
    if kind.endswith("+"):
        return text if is_there else ""
    return value or ""


def raw() -> dict[str, Any]:
    """The file with its anchors and merges resolved."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def project(**variables: str) -> dict[str, Any]:
    """The whole project as it would be started."""
    resolved: dict[str, Any] = interpolate(raw(), variables)
    return resolved


def required() -> set[str]:
    """Names of the variables that must be given."""
    return {match["name"] for match in VARIABLE.finditer(FILE.read_text(encoding="utf-8")) if match["kind"] == ":?"}


def example() -> dict[str, str]:
    """What the example of .env sets."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def secrets() -> dict[str, str]:
    """A value for each required variable."""
    return {name: f"{name.lower().replace('_', '')}0123456789" for name in required()}
