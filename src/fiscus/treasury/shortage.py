"""Runs an account's list for a reserve that lacks room: each step in turn until one makes the hold.

The ledger refuses with the list (``Refused.shortage``); what the caller's key may not see or move is done by the list's
authority, which is the operator's who has set it. Every step is one decision (``reallocate``: loans and hold as one
compound), so a step that fails has changed nothing. The last refusal is decided anew: what an exhausted budget's policy
does, it does then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from fiscus.contract.queries import AnyQuery, ReadReallocation, ReallocationView, View
from fiscus.core.commands import (
    OVERRIDE_OPEN_S_DEFAULT,
    Compound,
    Lend,
    LoanPart,
    Request,
    RequestOverride,
    Reserve,
    ShortageStep,
)
from fiscus.core.outcomes import AnyOutcome, CompoundAnswer, Refused
from fiscus.core.units import Unit, completed

LOOKS_MAX = 16
"""How often it is looked anew who can lend, because somebody else's command came in between."""

LACKING_ROOM = frozenset({"budget_exceeded", "budget_busy"})
CHANGED = LACKING_ROOM | {"conflict", "lower_priority", "other_windows", "unknown_allocation", "unknown_account"}
"""Refusals of a reallocation after which it is worth looking again."""


NO_TURN: AbstractAsyncContextManager[Any] = nullcontext()


class Ledger(Protocol):
    """What decides and answers, such as the treasury in this process."""

    def execute(self, request: Request, /) -> Awaitable[AnyOutcome]:
        """See ``Treasury``."""
        ...

    async def read(self, query: AnyQuery, /) -> View | Refused:
        """See ``Treasury``."""
        ...


Step = Callable[[Ledger, Request, Reserve, Refused], Awaitable[AnyOutcome]]


async def run_list(
    ledger: Ledger, request: Request, refused: Refused, turn: AbstractAsyncContextManager[Any] = NO_TURN
) -> AnyOutcome:
    """Try what the list of a refused reserve says, in its order.

    Args:
        ledger: decides.
        request: the reserve that was refused.
        refused: why, with the list.
        turn: held while it is looked who can lend and lent: who looks at the same time would find the same lenders.

    Returns:
        The hold, with the steps that were taken; or the last refusal, with those that were tried in vain.

    Raises:
        TreasuryError: the ledger cannot be asked.
    """
    command = request.command
    assert isinstance(command, Reserve), "only reserves are refused with a list"
    tried: tuple[ShortageStep, ...] = ()
    for name in refused.shortage:
        if name == "deny":
            break
        tried = (*tried, name)
        async with turn if name == "reallocate" else NO_TURN:
            outcome = await STEPS[name](ledger, msgspec.structs.replace(request, steps=tried), command, refused)
        if not isinstance(outcome, Refused) or outcome.code not in LACKING_ROOM:
            return outcome
    last = await ledger.execute(msgspec.structs.replace(request, steps=(*tried, "deny")))
    return msgspec.structs.replace(last, steps=tried) if isinstance(last, Refused) else last


async def _ask_again(ledger: Ledger, request: Request, command: Reserve, refused: Refused) -> AnyOutcome:
    """The ledger does this step within its decision; who waits is answered when that has ended."""
    return await ledger.execute(request)


async def _reallocate(ledger: Ledger, request: Request, command: Reserve, refused: Refused) -> AnyOutcome:
    """Borrow what is short from others, with the hold in one compound; on conflict look again."""
    last = refused
    for _ in range(LOOKS_MAX):
        loans = await _loans(ledger, request, command, last)
        if not loans:
            return last
        held = msgspec.structs.replace(command, loans=(*command.loans, *(loan.id for loan in loans)))
        compound = Compound(commands=(*loans, held))
        outcome = await ledger.execute(
            msgspec.structs.replace(request, command=compound, scope=None, idempotency_key=None)
        )
        if isinstance(outcome, CompoundAnswer):
            return await _told(ledger, request, outcome.answers[-1])
        assert isinstance(outcome, Refused), "a compound is answered as one, or refused"
        if outcome.code not in CHANGED:
            return await _told(ledger, request, outcome)
    return last


async def _told(ledger: Ledger, request: Request, outcome: AnyOutcome) -> AnyOutcome:
    """What the list's authority was answered, as the caller's own key is: a bound one is told nothing of others."""
    return outcome if request.scope is None else await ledger.execute(request)


async def _loans(ledger: Ledger, request: Request, command: Reserve, refused: Refused) -> list[Lend]:
    """The loans that make room for all units; none where they would not be enough, or where nothing is short."""
    names = [command.account, command.parent, refused.binding.account if refused.binding is not None else None]
    loans: list[Lend] = []
    for unit, amount in completed(command.amounts).items():
        needed = amount + command.leave.get(unit, 0) if amount else 0
        view = await _reallocation(ledger, request.tenant, names, unit, needed) if needed else None
        if view is None or not view.shortfall:
            continue
        if view.recovered < view.shortfall:
            return []
        parts = tuple(LoanPart(source=move.source, amount=move.amount) for move in view.moves)
        reason = f"{command.account} lacked {view.shortfall} {unit}"
        loans.append(Lend(id=loan_id(command.id, unit), account=view.target, unit=unit, parts=parts, reason=reason))
    return loans


async def _reallocation(
    ledger: Ledger, tenant: str, names: list[str | None], unit: Unit, amount: int
) -> ReallocationView | None:
    """What would move in a unit for the first of these accounts that there is; the payer may not be open yet."""
    for name in names:
        if name is None:
            continue
        view = await ledger.read(ReadReallocation(account=name, unit=unit, amount=amount, tenant=tenant))
        if isinstance(view, ReallocationView):
            return view
        if isinstance(view, Refused) and view.code != "unknown_account":
            return None
    return None


async def _ask(ledger: Ledger, request: Request, command: Reserve, refused: Refused) -> AnyOutcome:
    """Ask for an override of the budget that binds, for what is missing, and wait for the decision (``wait_s``).

    An allocation has no overrides. Asking again with the same hold asks nobody twice.
    """
    plain = msgspec.structs.replace(command, wait_s=0)
    seen = await ledger.execute(msgspec.structs.replace(request, command=plain, scope=None))
    if not isinstance(seen, Refused) or seen.code not in LACKING_ROOM:
        return await _told(ledger, request, seen)
    binding = seen.binding
    if binding is None or binding.allocated or seen.requested is None:
        return seen
    wish = RequestOverride(
        id=f"ask-{sha256(command.id.encode()).hexdigest()[:32]}",
        account=binding.account,
        budget=binding.budget,
        amount=seen.requested - binding.available,
        reason=f"{command.account} asked {seen.requested} {binding.unit} and {max(0, binding.available)} were left",
        open_s=command.wait_s or OVERRIDE_OPEN_S_DEFAULT,
    )
    asking = msgspec.structs.replace(request, command=wish, scope=None, idempotency_key=None, steps=())
    asked = await ledger.execute(asking)
    return seen if isinstance(asked, Refused) else await ledger.execute(request)


def loan_id(hold: str, unit: Unit) -> str:
    """The id of the loan that a hold is made with: the same each time it is tried."""
    return f"loan-{sha256(hold.encode()).hexdigest()[:32]}-{unit}"


STEPS: Mapping[ShortageStep, Step] = {
    "reallocate": _reallocate,
    "clamp": _ask_again,
    "downgrade": _ask_again,
    "wait": _ask_again,
    "ask": _ask,
}
