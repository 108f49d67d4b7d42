"""The one decision function of the ledger: a command and the time in, an outcome out, events on the draft.

Pure: no I/O, no clock, no randomness. A refusal leaves the draft as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fiscus.core.accounts import (
    erase_name,
    put_account,
    put_key,
    put_template,
    remove_template,
    revoke_key,
    set_status,
)
from fiscus.core.allocations import allocate, deallocate, transfer
from fiscus.core.answers import balance
from fiscus.core.budgets import adjust, end_adjustment, put_budget, remove_budget
from fiscus.core.checks import check_compound
from fiscus.core.commands import (
    Adjust,
    Allocate,
    ApproveOverride,
    Attend,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    EraseName,
    Extend,
    GiveBack,
    Lend,
    PutAccount,
    PutBudget,
    PutKey,
    PutPrice,
    PutTemplate,
    Release,
    RemoveBudget,
    RemovePrice,
    RemoveTemplate,
    Request,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeKey,
    RevokeOverride,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.events import (
    FORMAT,
    AdjustmentEnded,
    AllocationEnded,
    Expired,
    OverrideExpired,
    QuarantineClosed,
    ThresholdCrossed,
)
from fiscus.core.fold import (
    RANK_ADJUSTMENT,
    RANK_ALLOCATION,
    RANK_EXPIRY,
    RANK_LOAN,
    RANK_OVERRIDE,
    RANK_QUARANTINE,
    RANK_TICKET,
    fold,
)
from fiscus.core.formats import too_new
from fiscus.core.gates import reset_gate
from fiscus.core.holds import extend, release, reserve, settle
from fiscus.core.lending import end_loan, end_loans, give_back, lend
from fiscus.core.outcomes import AnyOutcome, CompoundAnswer, Refused
from fiscus.core.overrides import approve_override, deny_override, request_override, revoke_override
from fiscus.core.prices import put_price, remove_price
from fiscus.core.routes import close_ended_windows, has_lapsed, running_cell
from fiscus.core.sight import within_sight
from fiscus.core.state import ENDED, Budget, Cell, Deadline, Draft, Hold, Rules
from fiscus.core.waiting import admit_waiting, attend, end_or_move, give_up

LEDGER_ACTOR = "fiscus"
DUE_MAX = 100_000
"""How many due things one call of ``bring_due`` may do; more wait for the next."""

__all__ = ["DUE_MAX", "bring_due", "decide", "is_valid", "new_draft"]


def new_draft(rules: Rules | None = None) -> Draft:
    """An empty ledger, ready to decide.

    >>> draft = new_draft()
    >>> decide(draft, Request(command=PutAccount(account="global")), now=0).account
    'global'
    """
    draft = Draft(rules)
    draft.use_fold(fold)
    return draft


def decide(draft: Draft, request: Request, now: int) -> AnyOutcome:
    """Decide one command at ``now`` (ms), after all that is due by then.

    The events are in ``draft.events``. A refusal changes nothing; what an exhausted budget's policy then does is a
    recorded command of its own, which follows here.
    """
    draft.now = now
    if draft.deadlines and draft.deadlines[0][0] <= now:
        bring_due(draft, now)
    mark = draft.mark()
    command = request.command
    if draft.waiting:
        draft.isolate()  # what changes is looked at
    outcome: AnyOutcome
    if draft.format < FORMAT or type(command) not in ISOLATES_ITSELF:
        draft.isolate()
    if type(command) is Compound:
        outcome = _compound(draft, request, command, now)
    else:
        outcome = DECISIONS[type(command)](draft, request, command, now)
        if draft.format < FORMAT:
            outcome = too_new(draft, mark[1]) or outcome
    if type(outcome) is Refused:
        if outcome.code == "budget_exceeded" or len(draft.events) > mark[1]:
            _after_refusal(draft, request, outcome, mark, now)
    elif draft.alerts:
        _raise_alerts(draft, now)
    if draft.waiting and len(draft.events) > mark[1]:
        admit_waiting(draft, mark, now)
    return outcome if request.scope is None else within_sight(draft, outcome, request.scope)


def _after_refusal(draft: Draft, request: Request, refused: Refused, mark: Any, now: int) -> None:
    """Undo what a refused command did on its way, and act by the policy of the budget that is exhausted."""
    if not isinstance(request.command, Compound):
        draft.rollback(mark)
    binding = refused.binding
    if refused.code != "budget_exceeded" or binding is None or not refused.requested or refused.shortage:
        return  # what the account's list is to try comes first
    if binding.covered + binding.quarantined + binding.uncovered < binding.limit or binding.mode != "enforce":
        return
    number = draft.names.find(binding.account)
    if number is None:
        return
    account = draft.accounts[number]
    for budget in (draft.budgets[found] for found in account.budgets):
        if budget.name != binding.budget or budget.on_exhaustion == "deny" or account.status != "active":
            continue
        if budget.allocated and has_lapsed(budget, now):
            continue  # what is over is not exhausted
        seen = binding
        if isinstance(request.command, Compound):
            cell = _exhausted(draft, budget, now)
            if cell is None:
                continue  # it was, but for what the compound would have done before
            seen = balance(draft, cell)
        status = "suspended" if budget.on_exhaustion == "suspend" else "terminated"
        reason = f"Budget {seen.budget} exhausted: {seen.spent} of {seen.limit} {seen.unit}"
        command = SetStatus(account=binding.account, status=status, reason=reason)  # type: ignore[arg-type]
        set_status(draft, Request(tenant=request.tenant, command=command, actor=LEDGER_ACTOR), command, now)
        return


def _exhausted(draft: Draft, budget: Budget, now: int) -> Cell | None:
    """The running window of a budget that enforces and has nothing left, holds aside; None: it has, or does not."""
    if budget.allocated:
        cell = draft.cells[budget.cell]
        return cell if cell.phase != ENDED and cell.counted >= cell.granted else None
    mark = draft.mark()
    draft.isolate()
    cell = running_cell(draft, budget, now)
    if cell.enforce and cell.counted >= cell.granted:
        return cell
    draft.rollback(mark)
    return None


def _raise_alerts(draft: Draft, now: int) -> None:
    """Record the thresholds that a rise of P + Q + O has crossed in running windows, each once, in order."""
    alerts = sorted(set(draft.alerts))
    draft.alerts.clear()
    for number in alerts:
        cell = draft.cells[number]
        budget = draft.budgets[cell.budget]
        if cell.end <= now or budget.removed:
            continue
        while (counted := cell.covered + cell.quarantined + cell.uncovered) >= cell.alert_at:
            percent = min((percent for percent in budget.thresholds if percent > cell.fired), default=0)
            if not percent:
                break
            draft.emit(
                ThresholdCrossed(
                    cell=number,
                    account=cell.account,
                    budget=cell.budget,
                    percent=percent,
                    severity=budget.thresholds[percent],
                    used=counted,
                    limit=cell.limit,
                )
            )
            cell = draft.cells[number]


def _compound(draft: Draft, request: Request, compound: Compound, now: int) -> CompoundAnswer | Refused:
    """All or none; but settlements are booked by themselves and never undone with others."""
    wrong = check_compound(compound)
    if wrong is not None:
        return wrong
    mark = draft.mark()
    draft.isolate()
    answers: list[Any] = []
    refused: Refused | None = None
    for index, command in enumerate(compound.commands):
        first = len(draft.events)
        outcome = DECISIONS[type(command)](draft, request, command, now)
        if draft.format < FORMAT:
            outcome = too_new(draft, first) or outcome
        if isinstance(outcome, Refused):
            refused = msgspec.structs.replace(
                outcome, index=index, field=f"commands[{index}].{outcome.field}" if outcome.field else None
            )
            break
        answers.append(outcome)
    if refused is None:
        return CompoundAnswer(answers=tuple(answers))
    draft.rollback(mark)
    for command in compound.commands:
        if isinstance(command, Settle):
            part = draft.mark()
            draft.isolate()
            if isinstance(settle(draft, request, command, now), Refused):
                draft.rollback(part)
            elif draft.alerts:
                _raise_alerts(draft, now)
    return refused


def bring_due(draft: Draft, now: int) -> int:
    """Do what is due by ``now``, in the order of design.md §3; returns how many things were due."""
    draft.now = now
    done = 0
    while draft.deadlines and draft.deadlines[0][0] <= now and done < DUE_MAX:
        deadline = draft.pop_deadline()
        if is_valid(draft, deadline):
            if draft.waiting:
                draft.isolate()
            mark = draft.mark()
            _do_due(draft, deadline, now)
            done += 1
            if draft.alerts:
                _raise_alerts(draft, now)
            if draft.waiting:
                admit_waiting(draft, mark, now)
    return done


def is_valid(draft: Draft, deadline: Deadline) -> bool:
    """Whether a remembered deadline still stands: holds are extended, allocations resized, things end early."""
    at, rank, depth, kind, key = deadline
    if kind == "hold":
        hold = draft.holds.find(str(key))
        if hold is None:
            return False
        if rank == RANK_EXPIRY:
            return hold.state == "held" and hold.expires_at == at
        if rank == RANK_TICKET:
            return hold.state == "waiting" and hold.ticket_due == at
        return hold.state == "expired" and hold.open and hold.closes_at == at
    if rank == RANK_ADJUSTMENT:
        adjustment = draft.adjustments.find(str(key))
        return adjustment is not None and adjustment.active and adjustment.ends_at == at
    if rank == RANK_OVERRIDE:
        override = draft.overrides.find(str(key))
        return override is not None and override.state == "pending" and override.closes_at == at
    if rank == RANK_LOAN:
        loan = draft.loans.find(str(key))
        return loan is not None and loan.active and loan.ends_at == at
    cell = draft.cells.find(int(key))
    return (
        cell is not None
        and cell.phase != ENDED
        and cell.end == at
        and draft.accounts[cell.account].depth == -depth
        and draft.budgets[cell.budget].allocated
    )


def _do_due(draft: Draft, deadline: Deadline, now: int) -> None:
    at, rank, _, _, key = deadline
    if rank in (RANK_EXPIRY, RANK_QUARANTINE):
        hold: Hold = draft.holds[str(key)]
        if hold.unclaimed and rank == RANK_EXPIRY and not hold.booked:
            give_up(draft, hold, now, ended_by=at - 1)
            return
        # What was lent goes back in the windows of that time, so later ones must not be open yet.
        looked_at = at - 1 if rank == RANK_QUARANTINE and hold.loans else now
        for numbers in hold.cells.values():
            close_ended_windows(draft, numbers, looked_at, ended_by=at - 1)
        if rank == RANK_EXPIRY:
            draft.emit(Expired(id=hold.id, closes_at=at + draft.rules.quarantine_ms))
        else:
            draft.emit(QuarantineClosed(id=hold.id, charge=draft.rules.quarantine == "charge"))
            end_loans(draft, hold.loans, at - 1)  # what ends at the very end of a window belongs to it
    elif rank == RANK_ADJUSTMENT:
        adjustment = draft.adjustments[str(key)]
        close_ended_windows(draft, (adjustment.cell,), now, ended_by=at - 1)
        draft.emit(AdjustmentEnded(id=adjustment.id))
    elif rank == RANK_ALLOCATION:
        cell = draft.cells[int(key)]
        close_ended_windows(draft, cell.pins, now, ended_by=at - 1)
        budget = draft.budgets[cell.budget]
        for_good = budget.valid_until is not None and budget.valid_until <= at
        draft.emit(AllocationEnded(cell=cell.number, for_good=for_good))
    elif rank == RANK_TICKET:
        end_or_move(draft, draft.holds[str(key)], at, now)
    elif rank == RANK_OVERRIDE:
        override = draft.overrides[str(key)]
        draft.emit(OverrideExpired(id=override.id, account=override.account, budget=override.budget))
    elif rank == RANK_LOAN:
        end_loan(draft, draft.loans[str(key)], at)  # windows that ended later are still to be closed


ISOLATES_ITSELF = frozenset({Reserve, Settle, Extend, Release})
"""The frequent commands: they isolate only what they may have to undo."""

DECISIONS: dict[type[Any], Callable[[Draft, Request, Any, int], AnyOutcome]] = {
    Reserve: reserve,
    Settle: settle,
    Extend: extend,
    Release: release,
    Attend: attend,
    PutAccount: put_account,
    SetStatus: set_status,
    PutBudget: put_budget,
    RemoveBudget: remove_budget,
    Allocate: allocate,
    Deallocate: deallocate,
    Transfer: transfer,
    Lend: lend,
    GiveBack: give_back,
    Adjust: adjust,
    EndAdjustment: end_adjustment,
    RequestOverride: request_override,
    ApproveOverride: approve_override,
    DenyOverride: deny_override,
    RevokeOverride: revoke_override,
    ResetGate: reset_gate,
    PutTemplate: put_template,
    RemoveTemplate: remove_template,
    PutPrice: put_price,
    RemovePrice: remove_price,
    PutKey: put_key,
    RevokeKey: revoke_key,
    EraseName: erase_name,
}
