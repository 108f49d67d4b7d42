"""Deciding on budgets and adjustments."""

from __future__ import annotations

from fiscus.core.allocations import live_below
from fiscus.core.answers import adjustment_answer, balance, budget_view, no_room
from fiscus.core.checks import check, invalid, to_ms
from fiscus.core.commands import Adjust, EndAdjustment, PutBudget, RemoveBudget, Request
from fiscus.core.events import Adjusted, AdjustmentEnded, AllocationsPinned, BudgetPut, BudgetRemoved, Private
from fiscus.core.outcomes import AdjustmentAnswer, BudgetAnswer, Refused
from fiscus.core.routes import open_window, running_cell
from fiscus.core.scopes import find_account
from fiscus.core.state import Account, Budget, Cell, Draft
from fiscus.core.units import AMOUNT_MAX
from fiscus.core.windows import parse_period


def find_budget(draft: Draft, account: Account, name: str) -> Budget | Refused:
    """The account's budget with this name."""
    for number in account.budgets:
        budget = draft.budgets[number]
        if budget.name == name:
            return budget
    return Refused(code="unknown_budget", detail=f"{account.display_name} has no budget {name!r}", field="budget")


def _version_differs(wanted: int | None, version: int) -> Refused | None:
    if wanted is not None and wanted != version:
        return Refused(code="precondition_failed", detail=f"the version is {version}, not {wanted}", field="if_version")
    return None


def put_budget(draft: Draft, request: Request, command: PutBudget, now: int) -> BudgetAnswer | Refused:
    """Make or change a budget; see ``PutBudget``. Putting what is there already changes nothing."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    period = parse_period(command.period).text
    name = command.budget or f"{command.unit}-{period}"
    known = find_budget(draft, account, name)
    if isinstance(known, Refused):
        return _make(draft, request, command, account, name, period, now)
    return _change(draft, request, command, known, period, now)


def _make(
    draft: Draft, request: Request, command: PutBudget, account: Account, name: str, period: str, now: int
) -> BudgetAnswer | Refused:
    differs = _version_differs(command.if_version, 0)
    if differs is not None:
        return differs
    number = draft.budgets_made + 1
    mark = draft.mark()
    draft.isolate()
    draft.emit(_event(command, request, account.number, number, name, period, 1, anchor=now))
    refused = None if command.match else _pin_live_allocations(draft, account, draft.budgets[number], now)
    if refused is not None:
        draft.rollback(mark)
        return refused
    return BudgetAnswer(budget=budget_view(draft, draft.budgets[number]))


def _pin_live_allocations(draft: Draft, account: Account, budget: Budget, now: int) -> Refused | None:
    """A budget made above live allocations holds them from its start, or is refused for lack of room."""
    direct, nested = live_below(draft, account, budget.unit)
    if not direct:
        return None
    cell = open_window(draft, budget, now)
    needed = sum(below.shown_covered + below.shown_held + below.shown_uncovered for below in direct)
    if cell.enforce and needed > cell.free:
        return no_room(draft, [(cell, needed)])
    draft.emit(
        AllocationsPinned(
            cell=cell.number,
            allocations=tuple(below.number for below in direct),
            shortened=tuple(below.number for below in (*direct, *nested) if below.end > cell.end),
        )
    )
    return None


def _change(
    draft: Draft, request: Request, command: PutBudget, budget: Budget, period: str, now: int
) -> BudgetAnswer | Refused:
    differs = _version_differs(command.if_version, budget.version)
    if differs is not None:
        return differs
    if budget.allocated:
        return Refused(code="conflict", detail="budget: is an allocation; change it with allocate", field="budget")
    if budget.unit != command.unit:
        return Refused(code="conflict", detail=f"unit: the budget counts {budget.unit}", field="unit")
    if budget.match != command.match:  # allocations below are held on budgets without one, and on no other
        detail = "match: a budget does not change the calls that it is for; make another"
        return Refused(code="conflict", detail=detail, field="match")
    period_now, zone_now = budget.next_period or budget.period, budget.next_zone or budget.zone
    if "lifetime" in (period, period_now) and period != period_now:
        return Refused(
            code="conflict",
            detail="period: a lifetime budget does not change its period, nor does one become lifetime; make another",
            field="period",
        )
    if _is_same(command, budget, period, period_now, zone_now):
        if budget.cell:
            running_cell(draft, budget, now)
        return BudgetAnswer(budget=budget_view(draft, budget))
    cell = running_cell(draft, budget, now)
    forced = False
    if command.mode == "enforce":
        limit = max(0, command.limit + cell.carried + cell.raised - cell.lowered) + cell.lapsing
        if (limit < cell.used and limit < cell.limit) or (limit < cell.used and budget.mode != "enforce"):
            if not command.force:
                return below_use(draft, cell, limit)
            forced = True
    deferred = (period, command.zone) != (budget.period, budget.zone)
    draft.emit(
        _event(
            command,
            request,
            budget.account,
            budget.number,
            budget.name,
            period,
            budget.version + 1,
            anchor=budget.anchor,
            cell=cell.number,
            deferred=deferred,
            forced=forced,
        )
    )
    return BudgetAnswer(budget=budget_view(draft, draft.budgets[budget.number]))


def _is_same(command: PutBudget, budget: Budget, period: str, period_now: str, zone_now: str) -> bool:
    return (
        budget.limit == command.limit
        and period == period_now
        and command.zone == zone_now
        and all(getattr(command, field) == getattr(budget, field) for field in BUDGET_FIELDS)
    )


BUDGET_FIELDS = ("thresholds", "mode", "on_exhaustion", "carry_over", "carry_max", "carry_debt", "override")


def _event(
    command: PutBudget,
    request: Request,
    account: int,
    number: int,
    name: str,
    period: str,
    version: int,
    *,
    anchor: int,
    cell: int | None = None,
    deferred: bool = False,
    forced: bool = False,
) -> BudgetPut:
    return BudgetPut(
        budget=number,
        account=account,
        name=name,
        unit=command.unit,
        version=version,
        limit=command.limit,
        period=period,
        zone=command.zone,
        anchor=anchor,
        thresholds=command.thresholds,
        mode=command.mode,
        match=command.match,
        on_exhaustion=command.on_exhaustion,
        carry_over=command.carry_over,
        carry_max=command.carry_max,
        carry_debt=command.carry_debt,
        override=command.override,
        cell=cell,
        deferred=deferred,
        forced=forced,
        actor=request.actor,
    )


def below_use(draft: Draft, cell: Cell, limit: int) -> Refused:
    """A limit may not be cut below what is in use, unless it is forced."""
    seen = balance(draft, cell)
    return Refused(
        code="below_use",
        detail=f"{seen.account}: {cell.used} {seen.unit} of {seen.budget} are in use, more than {limit}",
        binding=seen,
        requested=limit,
    )


def remove_budget(draft: Draft, request: Request, command: RemoveBudget, now: int) -> BudgetAnswer | Refused:
    """End a budget."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    budget = find_budget(draft, account, command.budget)
    if isinstance(budget, Refused):
        return budget
    differs = _version_differs(command.if_version, budget.version)
    if differs is not None:
        return differs
    if budget.allocated:
        return Refused(code="conflict", detail="budget: is an allocation; end it with deallocate", field="budget")
    view = budget_view(draft, budget)
    draft.emit(BudgetRemoved(budget=budget.number, actor=request.actor))
    return BudgetAnswer(budget=view)


def adjust(draft: Draft, request: Request, command: Adjust, now: int) -> AdjustmentAnswer | Refused:
    """Raise or lower the running window of a budget, by a recorded adjustment."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    valid_until = to_ms(command.valid_until) if command.valid_until is not None else None
    known = draft.adjustments.find(command.id)
    if known is not None:
        same = (
            known.account == account.number
            and draft.budgets[known.budget].name == command.budget
            and known.amount == command.amount
            and known.valid_until == valid_until
        )
        if not same:
            return Refused(code="conflict", detail="id: is in use for another adjustment", field="id")
        return adjustment_answer(draft, known)
    if draft.overrides.find(command.id) is not None:
        return Refused(code="conflict", detail="id: is in use for an override", field="id")
    budget = find_budget(draft, account, command.budget)
    if isinstance(budget, Refused):
        return budget
    if budget.allocated:
        return Refused(code="conflict", detail="budget: is an allocation; change it with allocate", field="budget")
    if valid_until is not None and valid_until <= now:
        return invalid("valid_until", "has passed already")
    cell = running_cell(draft, budget, now)
    forced = False
    if command.amount < 0:
        rest = cell.base + cell.carried + cell.raised - cell.lowered + command.amount
        if rest < 0:
            return invalid("amount", "would make the limit negative")
        if cell.enforce and rest + cell.lapsing < cell.used:
            if not command.force:
                return below_use(draft, cell, rest + cell.lapsing)
            forced = True
    elif cell.limit + command.amount > AMOUNT_MAX:
        return invalid("amount", f"would raise the limit beyond {AMOUNT_MAX}")
    draft.emit(
        Adjusted(
            id=command.id,
            account=account.number,
            budget=budget.number,
            cell=cell.number,
            amount=command.amount,
            valid_until=valid_until,
            forced=forced,
            actor=request.actor,
            private=Private(reason=command.reason),
        )
    )
    return adjustment_answer(draft, draft.adjustments[command.id])


def end_adjustment(draft: Draft, request: Request, command: EndAdjustment, now: int) -> AdjustmentAnswer | Refused:
    """End an adjustment before its time; what is in use of it stays covered."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    adjustment = draft.adjustments.find(command.id)
    if adjustment is None or adjustment.account != account.number:
        return Refused(
            code="unknown_adjustment", detail=f"{account.display_name} has no adjustment {command.id!r}", field="id"
        )
    cell = draft.cells[adjustment.cell]
    if adjustment.active and now < cell.end:
        draft.emit(AdjustmentEnded(id=command.id, actor=request.actor))
    return adjustment_answer(draft, draft.adjustments[command.id])
