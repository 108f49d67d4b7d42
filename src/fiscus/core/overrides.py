"""Deciding on overrides: more than a budget's limit for a while, asked for by one key and granted by another (R8, R31).

What is granted is an ordinary adjustment with the override's id, so that there is one mechanism by which limits rise
(design.md §3 "raise / override", E13). Who asks and who decides are the public ids of their keys, as the caller was
recognised, never what somebody says of himself.
"""

from __future__ import annotations

from fiscus.core.answers import override_answer
from fiscus.core.budgets import find_budget
from fiscus.core.checks import check, invalid, to_ms
from fiscus.core.commands import (
    OVERRIDE_POLICY_DEFAULT,
    ApproveOverride,
    DenyOverride,
    OverridePolicy,
    Request,
    RequestOverride,
    RevokeOverride,
)
from fiscus.core.events import (
    Adjusted,
    AdjustmentEnded,
    OverrideApproved,
    OverrideDenied,
    OverrideRequested,
    OverrideRevoked,
    OverrideWithdrawn,
    Private,
)
from fiscus.core.outcomes import OverrideAnswer, Refused
from fiscus.core.routes import chain, inactive, running_cell
from fiscus.core.scopes import find_account, in_scope
from fiscus.core.state import Budget, Cell, Draft, Override
from fiscus.core.units import AMOUNT_MAX

PENDING_MAX = 16
"""Requests that may be open for one budget at once."""

POLICY_ACTOR = "fiscus"
"""Who grants what the policy of a budget grants at once."""


def is_pending(budget: Budget) -> bool:
    """Whether somebody may still raise this budget: what does not fit it may be worth waiting for."""
    return budget.asking > 0


def policy_of(budget: Budget) -> OverridePolicy:
    """The budget's own policy, or the default one."""
    return budget.override or OVERRIDE_POLICY_DEFAULT


def bound_of(cell: Cell, policy: OverridePolicy) -> int:
    """How much overrides may add to a window in all: a share of its base limit, rounded down."""
    return cell.base * policy.max_percent // 100


def room_in(cell: Cell, policy: OverridePolicy) -> int:
    """How much they may add now, besides those that are active.

    What an ended one still covers is in use, and a new one covers that first: asking again raises no limit further.
    """
    return max(0, bound_of(cell, policy) - cell.overridden)


def find_override(draft: Draft, id: str, scope: str | None) -> Override | Refused:
    """The override with this id; one outside the scope is as unknown as one that is not there."""
    override = draft.overrides.find(id)
    if override is None or (scope is not None and not in_scope(draft, draft.accounts[override.account], scope)):
        return Refused(code="unknown_override", detail=f"there is no override {id!r}", field="id")
    return override


# -- asking --------------------------------------------------------------------------------------------------------


def request_override(draft: Draft, request: Request, command: RequestOverride, now: int) -> OverrideAnswer | Refused:
    """Ask for more in the running window of a budget; granted at once where its policy says so.

    The request is open for ``open_s``, but not beyond the window's end: the next window has a limit of its own.
    """
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    known = draft.overrides.find(command.id)
    if known is not None:
        return _repeated(draft, request, command, known)
    if draft.adjustments.find(command.id) is not None:
        return Refused(code="conflict", detail="id: is in use for an adjustment", field="id")
    refused = inactive(draft, [above for above in chain(draft, account) if above.status != "suspended"])
    if refused is not None:
        return refused
    budget = find_budget(draft, account, command.budget)
    if isinstance(budget, Refused):
        return budget
    if budget.allocated:
        return Refused(code="conflict", detail="budget: is an allocation; change it with allocate", field="budget")
    policy = policy_of(budget)
    valid_until = to_ms(command.valid_until) if command.valid_until is not None else None
    refused = _beyond_time(command, policy, valid_until, now)
    if refused is not None:
        return refused
    if budget.asking >= PENDING_MAX:
        return Refused(
            code="too_many_overrides",
            detail=f"{account.display_name}: {budget.asking} requests for {budget.name} wait already, as many as may",
            retry_after_s=60,
        )
    cell = running_cell(draft, budget, now)
    bound = bound_of(cell, policy) if policy.requires_approval else room_in(cell, policy)
    if command.amount > bound:
        return _beyond_amount(draft, cell, policy, command.amount, bound)
    closes_at = min(now + command.open_s * 1000, cell.end)
    draft.emit(
        OverrideRequested(
            id=command.id,
            account=account.number,
            budget=budget.number,
            cell=cell.number,
            unit=cell.unit,
            amount=command.amount,
            limit=cell.limit,
            used=cell.used,
            closes_at=closes_at if valid_until is None else min(closes_at, valid_until),
            open_s=command.open_s,
            valid_until=valid_until,
            valid_s=command.valid_s,
            actor=request.actor,
            private=Private(reason=command.reason),
        )
    )
    if not policy.requires_approval:
        _grant(draft, draft.overrides[command.id], command.amount, policy, POLICY_ACTOR, "", now)
    return override_answer(draft, draft.overrides[command.id])


def _beyond_time(command: RequestOverride, policy: OverridePolicy, valid_until: int | None, now: int) -> Refused | None:
    """Refuse what is to be valid for longer than the policy allows, or no longer at all."""
    if valid_until is not None and valid_until <= now:
        return invalid("valid_until", "has passed already")
    field = "valid_s" if command.valid_s is not None else "valid_until"
    longest_s = policy.max_duration_s
    if (command.valid_s or 0) > longest_s or (valid_until is not None and valid_until - now > longest_s * 1000):
        return Refused(
            code="beyond_policy", detail=f"{field}: an override of it lasts {longest_s} seconds at most", field=field
        )
    return None


def _beyond_amount(draft: Draft, cell: Cell, policy: OverridePolicy, amount: int, bound: int) -> Refused:
    budget = draft.budgets[cell.budget]
    return Refused(
        code="beyond_policy",
        detail=f"amount: {amount} {cell.unit} asked; overrides of {budget.name} add {bound} at most now "
        f"({policy.max_percent} % of {cell.base}, {cell.overridden} of it taken)",
        field="amount",
        requested=amount,
    )


def _repeated(draft: Draft, request: Request, command: RequestOverride, known: Override) -> OverrideAnswer | Refused:
    """The same id again: what has become of it, for the same body by the same key; else a conflict."""
    valid_until = to_ms(command.valid_until) if command.valid_until is not None else None
    same = (
        draft.accounts[known.account].name == command.account
        and draft.budgets[known.budget].name == command.budget
        and known.asked == command.amount
        and known.wanted_until == valid_until
        and known.valid_s == command.valid_s
        and known.open_s == command.open_s
        and known.requested_by == request.actor
    )
    if not same:
        return Refused(code="conflict", detail="id: is in use for another override", field="id")
    return override_answer(draft, known)


# -- deciding ------------------------------------------------------------------------------------------------------


def approve_override(draft: Draft, request: Request, command: ApproveOverride, now: int) -> OverrideAnswer | Refused:
    """Grant what was asked, or less, within the policy as it is now."""
    override = _to_be_decided(draft, request, command, now)
    if isinstance(override, Refused):
        return override
    budget = draft.budgets[override.budget]
    if budget.removed:
        return Refused(code="unknown_budget", detail=f"{budget.name} was removed", field="id")
    amount = override.asked if command.amount is None else command.amount
    if amount > override.asked:
        return invalid("amount", f"is more than the {override.asked} that were asked")
    policy = policy_of(budget)
    cell = draft.cells[override.cell]
    room = room_in(cell, policy)
    if amount > room:
        return _beyond_amount(draft, cell, policy, amount, room)
    if cell.limit + amount > AMOUNT_MAX:
        return invalid("amount", f"would raise the limit beyond {AMOUNT_MAX}")
    _grant(draft, override, amount, policy, request.actor, command.reason, now)
    return override_answer(draft, draft.overrides[override.id])


def deny_override(draft: Draft, request: Request, command: DenyOverride, now: int) -> OverrideAnswer | Refused:
    """Say no."""
    override = _to_be_decided(draft, request, command, now)
    if isinstance(override, Refused):
        return override
    draft.emit(
        OverrideDenied(
            id=override.id,
            account=override.account,
            budget=override.budget,
            actor=request.actor,
            private=_because(command.reason),
        )
    )
    return override_answer(draft, draft.overrides[override.id])


def _to_be_decided(
    draft: Draft, request: Request, command: ApproveOverride | DenyOverride, now: int
) -> Override | Refused:
    """The override, if it is pending and this key may decide on it."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    override = find_override(draft, command.id, request.scope)
    if isinstance(override, Refused):
        return override
    refused = _may_not_decide(draft, request, override, now)
    if refused is not None:
        return refused
    if override.state != "pending" or override.closes_at <= now:
        state = "expired" if override.state == "pending" else override.state
        return Refused(code="conflict", detail=f"id: the override is {state} already", field="id")
    return override


def _may_not_decide(draft: Draft, request: Request, override: Override, now: int) -> Refused | None:
    """Why who asks may not decide on an override, or None.

    It takes a key that is known to the ledger, that is not the requester's, whose role or id the policy names, and
    which, if it is bound to an account, stands above the one whose limit it raises.
    """
    key = draft.keys.find(request.actor) if request.actor else None
    if key is None or key.revoked or (key.expires_at is not None and key.expires_at <= now):
        return _forbidden("an override is decided on with a key, and none was given that is known")
    if key.key == override.requested_by:
        return _forbidden("who asked for an override does not decide on it")
    policy = policy_of(draft.budgets[override.budget])
    if key.role not in policy.approvers and key.key not in policy.approver_keys:
        names = ", ".join((*policy.approvers, *policy.approver_keys)) or "nobody"
        return _forbidden(f"this key ({key.role}) may not decide on it; who may: {names}")
    if key.account is not None:
        account = draft.accounts[override.account]
        above = {upper.number for upper in chain(draft, account)} - {account.number}
        if key.account not in above:
            return _forbidden("this key is bound to an account that does not stand above the override's")
    return None


def _forbidden(detail: str) -> Refused:
    return Refused(code="forbidden", detail=detail, field="id")


def _grant(
    draft: Draft, override: Override, amount: int, policy: OverridePolicy, actor: str, reason: str, now: int
) -> None:
    """Record the decision, and raise the window's limit until the validity ends."""
    valid_until = now + policy.max_duration_s * 1000
    if override.valid_s is not None:
        valid_until = min(valid_until, now + override.valid_s * 1000)
    if override.wanted_until is not None:
        valid_until = min(valid_until, override.wanted_until)
    cell = draft.cells[override.cell]
    draft.emit(
        OverrideApproved(
            id=override.id,
            account=override.account,
            budget=override.budget,
            cell=cell.number,
            unit=cell.unit,
            asked=override.asked,
            amount=amount,
            limit=cell.limit + amount,
            used=cell.used,
            valid_until=valid_until,
            actor=actor,
            private=_because(reason),
        )
    )
    draft.emit(
        Adjusted(
            id=override.id,
            account=override.account,
            budget=override.budget,
            cell=cell.number,
            amount=amount,
            valid_until=valid_until,
            override=True,
            actor=actor,
        )
    )


# -- ending --------------------------------------------------------------------------------------------------------


def revoke_override(draft: Draft, request: Request, command: RevokeOverride, now: int) -> OverrideAnswer | Refused:
    """End what was granted; what is in use of it stays covered. Who asked may also withdraw the request."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    override = find_override(draft, command.id, request.scope)
    if isinstance(override, Refused):
        return override
    if override.requested_by != request.actor:
        refused = _may_not_decide(draft, request, override, now)
        if refused is not None:
            return refused
        if override.state == "pending":
            return Refused(code="conflict", detail="id: the override is pending; deny it", field="id")
    if override.state in ("denied", "expired"):
        return Refused(code="conflict", detail=f"id: the override is {override.state} already", field="id")
    if override.state == "pending":
        draft.emit(
            OverrideWithdrawn(
                id=override.id,
                account=override.account,
                budget=override.budget,
                actor=request.actor,
                private=_because(command.reason),
            )
        )
    elif override.state == "approved":
        _end(draft, override, request, command)
    return override_answer(draft, draft.overrides[override.id])


def _end(draft: Draft, override: Override, request: Request, command: RevokeOverride) -> None:
    cell = draft.cells[override.cell]
    draft.emit(
        OverrideRevoked(
            id=override.id,
            account=override.account,
            budget=override.budget,
            cell=cell.number,
            unit=cell.unit,
            amount=override.amount,
            actor=request.actor,
            private=_because(command.reason),
        )
    )
    draft.emit(AdjustmentEnded(id=override.id, actor=request.actor))


def _because(reason: str) -> Private | None:
    return Private(reason=reason) if reason else None


__all__ = [
    "PENDING_MAX",
    "approve_override",
    "deny_override",
    "find_override",
    "is_pending",
    "policy_of",
    "request_override",
    "revoke_override",
    "room_in",
]
