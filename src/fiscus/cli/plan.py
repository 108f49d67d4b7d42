"""The steps of a plan as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from fiscus.cli.output import amount_text, pairs_text
from fiscus.contract.declaration import budget_name
from fiscus.core.commands import Allocate, Deallocate, PutBudget, SingleCommand, TemplateBudget
from fiscus.core.units import Unit
from fiscus.policy.plan import Action, Change, Step

SIGNS: dict[Action, str] = {"add": "+", "change": "~", "remove": "-"}


def step_text(step: Step) -> str:
    """One line: ``~ budget global / tokens-month: limit 1,000 → 2,000``."""
    said = ", ".join(filter(None, (_change_text(change, step) for change in step.changes)))
    return f"{SIGNS[step.action]} {step.subject} {step.name}" + (f": {said}" if said else "")


def summary(steps: Sequence[Step], *, done: bool = False) -> str:
    """``2 to add, 1 to change, 0 to remove``; when they are done, ``2 added, 1 changed, 0 removed``."""
    past: dict[Action, str] = {"add": "added", "change": "changed", "remove": "removed"}
    counts = {action: sum(step.action == action for step in steps) for action in SIGNS}
    return ", ".join(f"{count} {past[action] if done else f'to {action}'}" for action, count in counts.items())


def _change_text(change: Change, step: Step) -> str:
    """``limit 1,000 → 2,000``; of something new only the value, and no default; of what goes what it was."""
    command = step.command
    unit = command.unit if isinstance(command, PutBudget | Allocate | Deallocate) else "calls"
    before, after = (_value_text(value, unit) for value in (change.before, change.after))
    if change.before is None:
        return "" if change.after == _default(change.field, command) else f"{change.field} {after}"
    return f"{change.field} {before}" + ("" if step.action == "remove" else f" → {after}")


def _default(field: str, command: SingleCommand) -> Any:
    """The default of a command's field, which is not worth a word."""
    for known in msgspec.structs.fields(type(command)):
        if known.name == field:
            if known.default_factory is not msgspec.NODEFAULT:
                return known.default_factory()
            return known.default
    return msgspec.NODEFAULT


def _value_text(value: Any, unit: Unit) -> str:
    """A value for people."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, int):
        return amount_text(unit, value)
    if isinstance(value, dict):
        return f"({pairs_text(value)})"
    if isinstance(value, tuple):
        return "(" + "; ".join(_value_text(item, unit) for item in value) + ")"
    if isinstance(value, TemplateBudget):
        return f"{budget_name(value)} {amount_text(value.unit, value.limit)}"
    return str(value)
