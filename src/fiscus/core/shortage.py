"""What a reserve that lacks room is held for instead, within one decision: less of the same, or an alternative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from fiscus.core.commands import Request, Reserve, ShortageStep
from fiscus.core.events import Held, ShortageMet
from fiscus.core.formats import not_yet
from fiscus.core.outcomes import Refused
from fiscus.core.routes import chain, resolve
from fiscus.core.state import NEVER, Account, Draft, Route
from fiscus.core.units import Amounts, Unit, completed

LACKING_ROOM = frozenset({"budget_exceeded", "budget_busy"})
"""Refusals for which something can be tried."""

OWN_STEPS: tuple[ShortageStep, ...] = ("clamp", "downgrade")
"""What is tried where no list says otherwise: only what the caller itself has offered."""

WAITING: tuple[tuple[ShortageStep], ...] = (("wait",), ("ask",))
"""Last steps with which a reserve waits: what was tried before them may help by now, and does while it waits."""

PARTS: tuple[Unit, Unit] = ("output_tokens", "input_tokens")

Admit = Callable[[Reserve], Held | Refused]


class Eased(NamedTuple):
    """What is held instead, by which step, and the alternative that was taken."""

    held: Held
    step: ShortageStep
    model: str | None = None


def shortage_of(draft: Draft, account: Account) -> tuple[ShortageStep, ...]:
    """The list of the nearest account up the chain that has one, by itself or by its template."""
    for above in chain(draft, account):
        if above.shortage:
            return above.shortage
        template = draft.templates.find(above.template) if above.template is not None else None
        if template is not None and template.shortage and not template.removed:
            return template.shortage
    return ()


def ease(draft: Draft, request: Request, command: Reserve, refused: Refused, now: int, admit: Admit) -> Eased | Refused:
    """Try the step that is taken now (``Request.steps``), or what the caller offers where there is no list.

    Args:
        draft: where the payer is open by now.
        request, command: the reserve that was refused.
        refused: why.
        now: ms.
        admit: decides on another reserve in its place.

    Returns:
        What is held instead, as if it had been asked for; or the refusal, with the list that is to be tried where there
        is one.
    """
    draft.isolate()
    payer = draft.accounts[draft.names[command.account]]
    listed: tuple[ShortageStep, ...] = () if request.steps else shortage_of(draft, payer)
    if listed[:1] == ("deny",) or not_yet(draft, ShortageMet) is not None:
        return refused
    if listed:
        return msgspec.structs.replace(refused, shortage=listed)
    taken = request.steps if request.steps[-1:] in WAITING else request.steps[-1:]
    return eased_by(draft, taken or OWN_STEPS, command, refused, now, admit)


def eased_by(
    draft: Draft, steps: Sequence[ShortageStep], command: Reserve, refused: Refused, now: int, admit: Admit
) -> Eased | Refused:
    """Try these of the steps that are taken within one decision, in their order; arguments as in ``ease``."""
    payer = draft.accounts[draft.names[command.account]]
    for step in steps:
        if step == "clamp" and command.least:
            eased = _clamped(draft, command, payer, now, admit)
        elif step == "downgrade" and command.alternatives:
            eased = _downgraded(command, admit)
        else:
            continue
        if eased is not None:
            return eased
    return refused


def offered(command: Reserve, steps: Sequence[ShortageStep]) -> Reserve:
    """The reserve with what it offers to be held instead, as far as the steps so far (or no list at all) allow it."""
    allowed = steps or OWN_STEPS
    return msgspec.structs.replace(
        command,
        least=command.least if "clamp" in allowed else {},
        alternatives=command.alternatives if "downgrade" in allowed else (),
    )


def smallest(command: Reserve) -> Reserve:
    """The least that a reserve which waits would do with: what it waits for."""
    if command.least:
        amounts: Amounts = {
            unit: min(amount, command.least.get(unit, amount)) for unit, amount in command.amounts.items()
        }
        return msgspec.structs.replace(command, amounts=amounts)
    if command.alternatives:
        other = command.alternatives[-1]
        attributes = {**command.attributes, "model": other.model}
        return msgspec.structs.replace(command, amounts=other.amounts, attributes=attributes)
    return command


def _clamped(draft: Draft, command: Reserve, payer: Account, now: int, admit: Admit) -> Eased | None:
    also = [draft.accounts[draft.names[name]] for name in command.also]
    route = resolve(draft, payer, also, command.attributes, now)
    amounts = fitting(draft, route, command) if not isinstance(route, Refused) else None
    held = admit(msgspec.structs.replace(command, amounts=amounts)) if amounts is not None else None
    return Eased(held, "clamp") if isinstance(held, Held) else None


def _downgraded(command: Reserve, admit: Admit) -> Eased | None:
    """The first of the alternatives that fits; budgets that look at the model see the alternative's."""
    for other in command.alternatives:
        attributes = {**command.attributes, "model": other.model}
        held = admit(msgspec.structs.replace(command, amounts=other.amounts, attributes=attributes))
        if isinstance(held, Held):
            return Eased(held, "downgrade", other.model)
    return None


def fitting(draft: Draft, route: Route, command: Reserve) -> Amounts | None:
    """As much of what is asked as fits, if that is at least ``least``; None: it is not.

    Where the bound on ``tokens`` follows from input and output, output is lowered first.
    """
    asked = completed(command.amounts)
    fits = {unit: max(0, room(draft, route, unit) - command.leave.get(unit, 0)) for unit in asked}
    granted: Amounts = {unit: min(amount, fits[unit]) for unit, amount in asked.items()}
    follows = "tokens" in asked and "tokens" not in command.amounts
    if follows:
        excess = granted["input_tokens"] + granted["output_tokens"] - fits["tokens"]
        for part in PARTS:
            cut = min(max(0, excess), granted[part])
            granted[part] -= cut
            excess -= cut
        granted["tokens"] = granted["input_tokens"] + granted["output_tokens"]
    for unit, amount in granted.items():
        is_free = follows and unit == "tokens" and unit not in command.least
        if amount < asked[unit] and not is_free and amount < command.least.get(unit, asked[unit]):
            return None
    return granted


def room(draft: Draft, route: Route, unit: Unit) -> int:
    """What is free of a unit in all cells that limit it; 0 where an allocation cannot be carved again."""
    blocked = {number for number, _ in route.blocked}
    numbers = route.cells.get(unit, ())
    if blocked.intersection(numbers):
        return 0
    return min((max(0, draft.cells[number].free) for number in numbers if draft.cells[number].enforce), default=NEVER)
