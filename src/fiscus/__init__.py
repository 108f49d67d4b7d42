"""Fiscus: a treasury for AI agents. Budgets that hold before the money is spent."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name → the module that defines it, imported on first use so that `import fiscus` costs nothing.
_HOMES = {
    "agent_budget_tool": "fiscus.sdk",
    "connect": "fiscus.sdk",
    "connect_sync": "fiscus.sdk",
    "govern": "fiscus.sdk",
    "open": "fiscus.sdk",
    "open_sync": "fiscus.sdk",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  (every key is a name that __getattr__ resolves)


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time that it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fiscus' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, those not yet imported included."""
    return sorted(__all__)
