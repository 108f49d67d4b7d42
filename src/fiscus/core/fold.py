"""Apply facts to the state. No decision, calendar or price is made here; replaying the journal gives the same state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fiscus.core.cells import (
    NOTHING_MOVED,
    lapse,
    post,
    resize,
    set_alert,
    set_limit,
    set_phase,
    show,
    threshold_at,
    unpin,
)
from fiscus.core.events import (
    AccountChanged,
    AccountOpened,
    Adjusted,
    AdjustmentEnded,
    AllocationEnded,
    AllocationParked,
    AllocationPut,
    AllocationResized,
    AllocationResumed,
    AllocationsPinned,
    AnyEvent,
    BudgetPut,
    BudgetRemoved,
    CellsByUnit,
    Checkpoint,
    Expired,
    Extended,
    GateClosed,
    GateReset,
    GrantStrategySet,
    Held,
    KeyPut,
    KeyRevoked,
    Lent,
    LoanEnded,
    NameErased,
    OverrideApproved,
    OverrideDenied,
    OverrideExpired,
    OverrideRequested,
    OverrideRevoked,
    OverrideWithdrawn,
    PricePut,
    PriceRemoved,
    QuarantineClosed,
    Queued,
    Released,
    Settled,
    ShortageMet,
    ShortageSet,
    StatusChanged,
    TemplatePut,
    TemplateRemoved,
    ThresholdCrossed,
    TicketChanged,
    TicketEnded,
    Transferred,
    WindowOpened,
)
from fiscus.core.outcomes import OverrideState
from fiscus.core.state import (
    ENDED,
    LIVE,
    NEVER,
    PARKED,
    PRICE_TERMS_MAX,
    Account,
    Adjustment,
    Booking,
    Budget,
    Cell,
    Draft,
    Hold,
    Key,
    Loan,
    Override,
    Price,
    Template,
    Ticket,
)
from fiscus.core.units import Amounts
from fiscus.core.windows import LIFETIME_END_MS

MINUTE_MS = 60_000

RANK_EXPIRY, RANK_QUARANTINE, RANK_ADJUSTMENT, RANK_ALLOCATION, RANK_OVERRIDE = 0, 1, 2, 3, 4
RANK_LOAN, RANK_TICKET = 5, 6
"""Last of what is due at one instant: what others free then is still for who waits."""

REASONS_MAX = 32
"""Overrides of an account of which it is known why they were asked for and decided so; GATES_MAX bounds the tasks."""


def fold(draft: Draft, event: AnyEvent, at: int) -> None:
    """Apply one event that happened at ``at`` (ms)."""
    FOLDS[type(event)](draft, event, at)


# -- holds ---------------------------------------------------------------------------------------------------------


def _held(draft: Draft, event: Held, at: int) -> None:
    cells = draft.cells
    stamp = draft.stamp
    amounts = event.amounts
    if event.again:
        _leave_line(draft, event.id)
    for unit, numbers in event.cells.items():
        amount = amounts.get(unit, 0)
        for number in numbers:
            cell = cells[number]
            if cell.stamp != stamp:
                cell = draft.edit(cells, number)
            cell.held += amount
            cell.free -= amount
            cell.open += 1
    if event.spared:
        for number, lacking in event.spared.items():
            cell = draft.edit(cells, number)
            cell.spared += 1
            cell.spared_amount += lacking
    draft.add(
        draft.holds,
        event.id,
        Hold(
            id=event.id,
            account=event.account,
            also=event.also,
            cells=event.cells,
            asked=event.asked,
            attributes_check=event.attributes_check,
            lease_s=event.lease_s,
            at=at,
            first_expires_at=event.expires_at,
            expires_at=event.expires_at,
            state="held",
            open=True,
            reserved=amounts,
            warned=event.warned,
            task=event.task,
            unclaimed=event.unclaimed,
        ),
    )
    draft.due(event.expires_at, RANK_EXPIRY, 0, "hold", event.id)


def _leave_line(draft: Draft, id: str) -> None:
    hold = draft.holds.find(id)
    if hold is not None and hold.state == "waiting":
        draft.leave_line(hold)


def _window_end(draft: Draft, number: int) -> int:
    cell = draft.cells[number]
    return NEVER if cell.allocated else cell.end


def _queued(draft: Draft, event: Queued, at: int) -> None:
    ticket = Ticket(
        cell=event.cell,
        window_end=_window_end(draft, event.cell),
        needed=event.needed,
        turn=event.turn,
        order=event.order,
        until=event.until,
        leave=event.leave,
        least=event.least,
        alternatives=event.alternatives,
        steps=event.steps,
        attributes=(event.private.attributes or {}) if event.private is not None else {},
    )
    hold = Hold(
        id=event.id,
        account=event.account,
        also=event.also,
        asked=event.asked,
        attributes_check=event.attributes_check,
        lease_s=event.lease_s,
        at=at,
        first_expires_at=event.expires_at,
        expires_at=event.expires_at,
        state="waiting",
        open=True,
        ticket=ticket,
    )
    draft.enter_line(draft.add(draft.holds, event.id, hold))
    draft.due(hold.ticket_due, RANK_TICKET, 0, "hold", event.id)


def _ticket_changed(draft: Draft, event: TicketChanged, at: int) -> None:
    hold = draft.edit(draft.holds, event.id)
    assert hold.ticket is not None, "it waits"
    if event.cell != hold.ticket.cell:
        draft.leave_line(hold)
        window_end = _window_end(draft, event.cell)
        hold.ticket = msgspec.structs.replace(hold.ticket, cell=event.cell, window_end=window_end, needed=event.needed)
        draft.enter_line(hold)
    else:
        hold.ticket = msgspec.structs.replace(hold.ticket, needed=event.needed)
    hold.expires_at = event.expires_at
    draft.due(hold.ticket_due, RANK_TICKET, 0, "hold", event.id)


def _ticket_ended(draft: Draft, event: TicketEnded, at: int) -> None:
    hold = draft.edit(draft.holds, event.id)
    hold.ended = event.code
    if hold.ticket is not None:
        draft.leave_line(hold)
        hold.ticket = msgspec.structs.replace(hold.ticket, attributes={})
        hold.open = False
    else:
        _free_rest(draft, hold, to_covered=False, to_quarantined=False, quarantined=False)
        _close(draft, hold)
    hold.state = "refused"
    hold.unclaimed = False


def _extended(draft: Draft, event: Extended, at: int) -> None:
    """The bound rises; what was booked beyond the old one is covered by the new one as far as it goes."""
    hold = draft.edit(draft.holds, event.id)
    covered = dict(hold.covered)
    for unit, bound in event.to.items():
        rise = bound - hold.reserved.get(unit, 0)
        if rise <= 0:
            continue
        covered_before = covered.get(unit, 0)
        covered[unit] = min(bound, max(covered_before, hold.booked.get(unit, 0)))
        newly_covered = covered[unit] - covered_before
        post(draft, hold.cells.get(unit, ()), newly_covered, rise - newly_covered, 0, -newly_covered)
    hold.covered = covered
    hold.reserved = event.to
    hold.expires_at = event.expires_at
    if hold.unclaimed:
        hold.unclaimed = False
        hold.first_expires_at = event.expires_at
    draft.due(event.expires_at, RANK_EXPIRY, 0, "hold", event.id)


def _settled(draft: Draft, event: Settled, at: int) -> None:
    if event.account is not None:
        _booked(draft, event, at)
        return
    hold = draft.edit(draft.holds, event.id)
    was_open, was_held = hold.open, hold.state == "held"
    exact = was_open or hold.estimated
    final = event.final
    total, moves = event.total, event.moves
    cells, all_reserved, kept = hold.cells, hold.reserved, hold.kept
    booked, covered = hold.booked.copy(), hold.covered.copy()
    closes = final and was_open
    leaving = closes and not moves
    added: Amounts = {}
    added_uncovered: Amounts = {}
    for unit in total if cells.keys() <= total.keys() else {**total, **cells}:
        reserved = all_reserved.get(unit, 0)
        booked_before, covered_before = booked.get(unit, 0), covered.get(unit, 0)
        reading = total.get(unit, booked_before)
        booked_now = reading if reading > booked_before or (exact and final) else booked_before
        covered_now = covered_before
        if exact:
            covered_now = booked_now if booked_now < reserved else reserved
        booked[unit] = booked_now
        covered[unit] = covered_now
        covered_rise = covered_now - covered_before
        added[unit] = booked_now - booked_before
        uncovered_rise = booked_now - booked_before - covered_rise
        if uncovered_rise:
            added_uncovered[unit] = uncovered_rise
        numbers = cells.get(unit)
        if not numbers:
            continue
        remaining = (0 if final else reserved - covered_now) - (reserved - covered_before) if was_open else 0
        held, quarantined = (remaining, 0) if was_held else (0, remaining)
        if not moves:
            post(draft, numbers, covered_rise, held, quarantined, uncovered_rise, leaving=leaving)
            continue
        rise = max(0, booked_now - max(booked_before, kept.get(unit, 0)))
        if booked_now < booked_before and any(number in moves for number in numbers):
            hold.kept = {**hold.kept, unit: max(booked_before, kept.get(unit, 0))}
        for number in numbers:
            if number not in moves:
                post(draft, (number,), covered_rise, held, quarantined, uncovered_rise, moves)
            elif rise:
                post(draft, (moves[number],), 0, 0, 0, rise, moves)
    hold.booked = booked
    hold.covered = covered
    hold.recorded = hold.recorded or event.recorded
    draft.bookings.append(Booking(len(draft.events), hold.id, hold.account, hold.also, added, added_uncovered))
    if final and exact:
        hold.state = "settled"
        hold.estimated = False
    if leaving:
        hold.open = False
    elif closes:
        _close(draft, hold)


def _booked(draft: Draft, event: Settled, at: int) -> None:
    """Usage without a hold: a first reading, all of it uncovered."""
    assert event.account is not None
    if event.again:
        _leave_line(draft, event.id)
    draft.bookings.append(Booking(len(draft.events), event.id, event.account, event.also, event.total, event.total))
    for unit, numbers in event.cells.items():
        amount = event.total.get(unit, 0)
        post(draft, [event.moves.get(number, number) for number in numbers], 0, 0, 0, amount, event.moves)
    draft.add(
        draft.holds,
        event.id,
        Hold(
            id=event.id,
            account=event.account,
            also=event.also,
            cells=event.cells,
            at=at,
            first_expires_at=at,
            expires_at=at,
            state="settled",
            tombstone=True,
            recorded=event.recorded,
            booked=event.total,
        ),
    )


def _close(draft: Draft, hold: Hold) -> None:
    """The hold pins its cells no longer."""
    hold.open = False
    cells = draft.cells
    stamp = draft.stamp
    for numbers in hold.cells.values():
        for number in numbers:
            cell = cells[number]
            if cell.phase == ENDED:
                unpin(draft, number)
                continue
            if cell.stamp != stamp:
                cell = draft.edit(cells, number)
            cell.open -= 1


def _remaining(hold: Hold) -> Amounts:
    """What is still held (or quarantined) of an open hold, per unit."""
    return {unit: amount - hold.covered.get(unit, 0) for unit, amount in hold.reserved.items()}


def _free_rest(draft: Draft, hold: Hold, to_covered: bool, to_quarantined: bool, quarantined: bool) -> None:
    """Move the rest of an open hold out of H (or Q) of its cells, into P, into Q, or back to what is free."""
    for unit, rest in _remaining(hold).items():
        if rest:
            post(
                draft,
                hold.cells.get(unit, ()),
                rest if to_covered else 0,
                0 if quarantined else -rest,
                (rest if to_quarantined else 0) - (rest if quarantined else 0),
                0,
            )


def _released(draft: Draft, event: Released, at: int) -> None:
    if event.account is not None and not event.again:
        hold = Hold(
            id=event.id,
            account=event.account,
            at=at,
            first_expires_at=at,
            expires_at=at,
            state="released",
            tombstone=True,
            cells=event.cells,
        )
        draft.add(draft.holds, event.id, hold)
        return
    hold = draft.edit(draft.holds, event.id)
    if hold.state in ("waiting", "refused"):
        hold.cells = event.cells if event.again else hold.cells
        _given_up(draft, hold)
        return
    _free_rest(draft, hold, to_covered=False, to_quarantined=False, quarantined=hold.state == "expired")
    hold.state = "released"
    _close(draft, hold)


def _given_up(draft: Draft, hold: Hold) -> None:
    """Nothing is held for it now: if its reserve comes again, it comes too late."""
    if hold.state == "waiting":
        draft.leave_line(hold)
        hold.open = False
    hold.state = "released"
    hold.tombstone = True
    hold.ticket = None


def _expired(draft: Draft, event: Expired, at: int) -> None:
    hold = draft.edit(draft.holds, event.id)
    _free_rest(draft, hold, to_covered=False, to_quarantined=True, quarantined=False)
    hold.state = "expired"
    hold.closes_at = event.closes_at
    draft.due(event.closes_at, RANK_QUARANTINE, 0, "hold", event.id)


def _quarantine_closed(draft: Draft, event: QuarantineClosed, at: int) -> None:
    hold = draft.edit(draft.holds, event.id)
    _free_rest(draft, hold, to_covered=event.charge, to_quarantined=False, quarantined=True)
    if event.charge:
        booked = dict(hold.booked)
        for unit, amount in hold.reserved.items():
            booked[unit] = max(booked.get(unit, 0), amount)
        added = {unit: amount - hold.booked.get(unit, 0) for unit, amount in booked.items()}
        draft.bookings.append(Booking(len(draft.events), hold.id, hold.account, hold.also, added, {}, estimated=True))
        hold.booked = booked
        hold.covered = hold.reserved
        hold.estimated = True
    _close(draft, hold)


# -- accounts ------------------------------------------------------------------------------------------------------


def _account_opened(draft: Draft, event: AccountOpened, at: int) -> None:
    private = event.private
    name = private.name if private is not None else None
    draft.accounts_opened = max(draft.accounts_opened, event.account)
    account = Account(
        number=event.account,
        name=name,
        parent=event.parent,
        depth=event.depth,
        labels=(private.labels or {}) if private is not None else {},
        priority=event.priority,
        min_reserve=event.min_reserve,
        template=event.template,
        opened_at=at,
        gate=event.gate,
    )
    draft.add(draft.accounts, event.account, account)
    if name is not None:
        draft.name(name, event.account)
    if event.parent is not None:
        draft.edit(draft.accounts, event.parent).open_children += 1
    if event.template is not None:
        template = draft.templates.find(event.template)
        if template is not None:
            template = draft.edit(draft.templates, event.template)
            minute = at // MINUTE_MS
            template.opened_in_minute = template.opened_in_minute + 1 if template.minute == minute else 1
            template.minute = minute


def _account_changed(draft: Draft, event: AccountChanged, at: int) -> None:
    account = draft.edit(draft.accounts, event.account)
    if event.priority is not None:
        account.priority = event.priority
    if event.min_reserve is not None:
        account.min_reserve = event.min_reserve
    if event.gate is not None:
        account.gate = event.gate
    if event.gate_removed:
        account.gate = None
        account.gates, account.tasks = {}, {}
    if event.private is not None and event.private.labels is not None:
        account.labels = event.private.labels


def _status_changed(draft: Draft, event: StatusChanged, at: int) -> None:
    account = draft.edit(draft.accounts, event.account)
    was_open = account.status in ("active", "suspended")
    account.status = event.status
    if was_open and event.status in ("terminated", "closed"):
        account.gates, account.tasks = {}, {}
        if account.parent is not None:
            draft.edit(draft.accounts, account.parent).open_children -= 1
    draft.routes.clear()


def _name_erased(draft: Draft, event: NameErased, at: int) -> None:
    account = draft.edit(draft.accounts, event.account)
    if account.name is not None:
        draft.name(account.name, None)
    account.name = None
    account.labels, account.tasks, account.asked, account.decided = {}, {}, {}, {}
    for key in [key for key in draft.keys.values() if key.account == event.account and key.label]:
        draft.edit(draft.keys, key.key).label = ""


# -- gates ---------------------------------------------------------------------------------------------------------


def _gate_closed(draft: Draft, event: GateClosed, at: int) -> None:
    account = draft.edit(draft.accounts, event.account)
    gone = {event.task, *event.opened}
    account.gates = {task: until for task, until in account.gates.items() if task not in gone}
    account.gates[event.task] = NEVER if event.until is None else event.until
    name = event.private.attributes.get("task") if event.private is not None and event.private.attributes else None
    account.tasks = {task: known for task, known in account.tasks.items() if task not in gone}
    if name is not None:
        account.tasks[event.task] = name


def _gate_reset(draft: Draft, event: GateReset, at: int) -> None:
    account = draft.edit(draft.accounts, event.account)
    account.gates = {task: until for task, until in account.gates.items() if event.task not in (None, task)}
    account.tasks = {task: name for task, name in account.tasks.items() if task in account.gates}


# -- budgets and windows -------------------------------------------------------------------------------------------


def _budget_put(draft: Draft, event: BudgetPut, at: int) -> None:
    draft.budgets_made = max(draft.budgets_made, event.budget)
    budget = draft.budgets.find(event.budget)
    if budget is None:
        account = draft.edit(draft.accounts, event.account)
        account.budgets = (*account.budgets, event.budget)
        budget = Budget(
            number=event.budget,
            account=event.account,
            name=event.name,
            unit=event.unit,
            period=event.period,
            zone=event.zone,
        )
        draft.add(draft.budgets, event.budget, budget)
    else:
        budget = draft.edit(draft.budgets, event.budget)
    budget.version = event.version
    budget.limit = event.limit
    budget.thresholds = event.thresholds
    budget.mode = event.mode
    budget.match = event.match
    budget.on_exhaustion = event.on_exhaustion
    budget.carry_over = event.carry_over
    budget.carry_max = event.carry_max
    budget.carry_debt = event.carry_debt
    budget.override = event.override
    budget.removed = False
    if event.deferred:
        budget.next_period, budget.next_zone = event.period, event.zone
    else:
        budget.period, budget.zone, budget.anchor = event.period, event.zone, event.anchor
        budget.next_period = budget.next_zone = None
    if event.cell is not None:
        cell = draft.edit(draft.cells, event.cell)
        limit_before = cell.limit
        cell.base = event.limit
        cell.enforce = event.mode == "enforce"
        cell.forced = cell.forced or event.forced
        if cell.lapsing:
            lapse(cell)
        set_limit(draft, cell, limit_before)
    draft.routes.clear()


def _budget_removed(draft: Draft, event: BudgetRemoved, at: int) -> None:
    budget = draft.edit(draft.budgets, event.budget)
    budget.removed = True
    if budget.cell:
        draft.edit(draft.cells, budget.cell).enforce = False
    account = draft.edit(draft.accounts, budget.account)
    account.budgets = tuple(number for number in account.budgets if number != event.budget)
    draft.routes.clear()


def _window_opened(draft: Draft, event: WindowOpened, at: int) -> None:
    draft.cells_opened = max(draft.cells_opened, event.cell)
    budget = draft.edit(draft.budgets, event.budget)
    if event.previous is not None and (event.carried_out or event.debt_out):
        previous = draft.edit(draft.cells, event.previous)
        previous.carried -= event.carried_out
        previous.uncovered -= event.debt_out
        previous.heir = event.cell
        previous.free = previous.limit - previous.used
    if event.period == budget.next_period and event.zone == budget.next_zone:
        budget.period, budget.zone, budget.anchor = event.period, event.zone, event.start
        budget.next_period = budget.next_zone = None
    budget.cell = event.cell
    cell = Cell(
        number=event.cell,
        budget=event.budget,
        account=budget.account,
        unit=budget.unit,
        start=event.start,
        end=event.end,
        base=event.base,
        alert_at=NEVER,
        enforce=budget.mode == "enforce",
        carried=event.carried,
        uncovered=event.debt,
        debt=event.debt,
    )
    cell.free = cell.limit - cell.used
    set_alert(cell, budget)
    draft.add(draft.cells, event.cell, cell)
    draft.routes.clear()


def _threshold_crossed(draft: Draft, event: ThresholdCrossed, at: int) -> None:
    cell = draft.edit(draft.cells, event.cell)
    cell.fired = event.percent
    set_alert(cell, draft.budgets[event.budget])


def _adjusted(draft: Draft, event: Adjusted, at: int) -> None:
    cell = draft.edit(draft.cells, event.cell)
    limit_before = cell.limit
    if event.amount > 0:
        cell.raised += event.amount
        if event.override:
            cell.overridden += event.amount
    else:
        cell.lowered -= event.amount
    cell.forced = cell.forced or event.forced
    if cell.lapsing:
        lapse(cell)
    set_limit(draft, cell, limit_before)
    ends_at: int | None = None
    if event.valid_until is not None and event.valid_until < cell.end:
        ends_at = event.valid_until
    elif event.amount > 0 and cell.end < LIFETIME_END_MS:
        ends_at = cell.end
    adjustment = Adjustment(
        id=event.id,
        account=event.account,
        budget=event.budget,
        cell=event.cell,
        amount=event.amount,
        valid_until=event.valid_until,
        ends_at=ends_at,
        override=event.override,
    )
    draft.add(draft.adjustments, event.id, adjustment)
    if ends_at is not None:
        draft.due(ends_at, RANK_ADJUSTMENT, 0, "adjustment", event.id)


def _adjustment_ended(draft: Draft, event: AdjustmentEnded, at: int) -> None:
    adjustment = draft.edit(draft.adjustments, event.id)
    adjustment.active = False
    cell = draft.edit(draft.cells, adjustment.cell)
    limit_before = cell.limit
    if adjustment.amount > 0:
        cell.raised -= adjustment.amount
        cell.lapsing += limit_before - cell.limit
        if adjustment.override:
            cell.overridden -= adjustment.amount
            override = draft.edit(draft.overrides, event.id)
            if override.state == "approved":
                override.state = "ended"
    else:
        cell.lowered += adjustment.amount
    lapse(cell)
    set_limit(draft, cell, limit_before)


# -- overrides -----------------------------------------------------------------------------------------------------


def _override_requested(draft: Draft, event: OverrideRequested, at: int) -> None:
    override = Override(
        id=event.id,
        account=event.account,
        budget=event.budget,
        cell=event.cell,
        asked=event.amount,
        closes_at=event.closes_at,
        open_s=event.open_s,
        at=at,
        wanted_until=event.valid_until,
        valid_s=event.valid_s,
        requested_by=event.actor,
    )
    draft.add(draft.overrides, event.id, override)
    draft.edit(draft.budgets, event.budget).asking += 1
    if event.private is not None and event.private.reason is not None:
        account = draft.edit(draft.accounts, event.account)
        account.asked = _with_newest(account.asked, event.id, event.private.reason)
    draft.due(event.closes_at, RANK_OVERRIDE, 0, "override", event.id)


def _override_approved(draft: Draft, event: OverrideApproved, at: int) -> None:
    override = _decided(draft, event, "approved", at)
    override.amount = event.amount
    override.valid_until = event.valid_until


def _override_denied(draft: Draft, event: OverrideDenied, at: int) -> None:
    _decided(draft, event, "denied", at)


def _override_expired(draft: Draft, event: OverrideExpired, at: int) -> None:
    draft.edit(draft.overrides, event.id).state = "expired"
    draft.edit(draft.budgets, event.budget).asking -= 1


def _override_withdrawn(draft: Draft, event: OverrideWithdrawn, at: int) -> None:
    _decided(draft, event, "withdrawn", at)


def _override_revoked(draft: Draft, event: OverrideRevoked, at: int) -> None:
    draft.edit(draft.overrides, event.id).state = "revoked"
    _remember_decision(draft, event)


def _decided(
    draft: Draft, event: OverrideApproved | OverrideDenied | OverrideWithdrawn, state: OverrideState, at: int
) -> Override:
    """A pending override is pending no longer."""
    override = draft.edit(draft.overrides, event.id)
    override.state = state
    override.decided_by = event.actor
    override.decided_at = at
    draft.edit(draft.budgets, event.budget).asking -= 1
    _remember_decision(draft, event)
    return override


def _remember_decision(
    draft: Draft, event: OverrideApproved | OverrideDenied | OverrideWithdrawn | OverrideRevoked
) -> None:
    if event.private is not None and event.private.reason is not None:
        account = draft.edit(draft.accounts, event.account)
        account.decided = _with_newest(account.decided, event.id, event.private.reason)


def _with_newest(texts: dict[str, str], id: str, text: str) -> dict[str, str]:
    """With one more text, and without the oldest beyond the bound."""
    newest = {known: said for known, said in texts.items() if known != id}
    newest[id] = text
    return dict(list(newest.items())[-REASONS_MAX:])


# -- allocations ---------------------------------------------------------------------------------------------------


def _allocation_put(draft: Draft, event: AllocationPut, at: int) -> None:
    draft.budgets_made = max(draft.budgets_made, event.budget)
    draft.cells_opened = max(draft.cells_opened, event.cell)
    account = draft.edit(draft.accounts, event.account)
    budget = draft.budgets.find(event.budget)
    if budget is None:
        budget = Budget(
            number=event.budget,
            account=event.account,
            name=f"allocation-{event.unit}",
            unit=event.unit,
            period="lifetime",
            zone="UTC",
            allocated=True,
            thresholds=ALLOCATION_THRESHOLDS,
        )
        draft.add(draft.budgets, event.budget, budget)
    else:
        budget = draft.edit(draft.budgets, event.budget)
    if event.budget not in account.budgets:
        account.budgets = (*account.budgets, event.budget)
    account.allocations = {**account.allocations, event.unit: event.budget}
    draft.remember_carved(account)
    budget.version = event.version
    budget.limit = event.size
    budget.valid_until = event.valid_until
    budget.on_exhaustion = event.on_exhaustion
    budget.for_good = budget.for_good and event.parked
    budget.removed = False
    budget.cell = event.cell
    cell = Cell(
        number=event.cell,
        budget=event.budget,
        account=event.account,
        unit=event.unit,
        start=event.start,
        end=event.end,
        base=event.size,
        alert_at=NEVER,
        free=event.size,
        cover=0 if event.parked else event.size,
        phase=PARKED if event.parked else LIVE,
        allocated=True,
        pins=event.pins,
    )
    set_alert(cell, budget)
    draft.add(draft.cells, event.cell, cell)
    for pin in event.pins:
        draft.edit(draft.cells, pin).open += 1
    show(draft, cell)
    draft.due(event.end, RANK_ALLOCATION, account.depth, "cell", event.cell)
    draft.routes.clear()


ALLOCATION_THRESHOLDS: Any = {50: "info", 75: "warning", 90: "critical", 95: "final", 100: "exhausted"}


def _allocation_resized(draft: Draft, event: AllocationResized, at: int) -> None:
    cell = draft.edit(draft.cells, event.cell)
    budget = draft.edit(draft.budgets, cell.budget)
    budget.limit = event.size
    budget.version += 1
    if event.on_exhaustion is not None:
        budget.on_exhaustion = event.on_exhaustion
        budget.valid_until = event.valid_until
    if event.end is not None:
        for number in (event.cell, *event.shortened):
            ending = draft.edit(draft.cells, number)
            ending.end = event.end
            draft.due(event.end, RANK_ALLOCATION, draft.accounts[ending.account].depth, "cell", number)
    resize(draft, cell, event.size)
    draft.routes.clear()


def _allocation_parked(draft: Draft, event: AllocationParked, at: int) -> None:
    set_phase(draft, draft.edit(draft.cells, event.cell), PARKED)
    draft.routes.clear()


def _allocation_resumed(draft: Draft, event: AllocationResumed, at: int) -> None:
    set_phase(draft, draft.edit(draft.cells, event.cell), LIVE)
    draft.routes.clear()


def _allocation_ended(draft: Draft, event: AllocationEnded, at: int) -> None:
    cell = draft.edit(draft.cells, event.cell)
    budget = draft.edit(draft.budgets, cell.budget)
    cell.end = min(cell.end, at)
    if event.for_good:
        budget.for_good = True
    if event.shared:
        budget.removed = True
        account = draft.edit(draft.accounts, cell.account)
        account.allocations = {unit: n for unit, n in account.allocations.items() if n != cell.budget}
        account.budgets = tuple(number for number in account.budgets if number != cell.budget)
    set_phase(draft, cell, ENDED)
    draft.routes.clear()


def _allocations_pinned(draft: Draft, event: AllocationsPinned, at: int) -> None:
    pin = draft.edit(draft.cells, event.cell)
    for number in event.allocations:
        cell = draft.edit(draft.cells, number)
        cell.pins = (*cell.pins, event.cell)
        pin.open += 1
        post(draft, (event.cell,), cell.shown_covered, cell.shown_held, 0, cell.shown_uncovered)
        if cell.phase == LIVE:
            pin.standing += cell.shown_held
    for number in event.shortened:
        cell = draft.edit(draft.cells, number)
        cell.end = pin.end
        draft.due(pin.end, RANK_ALLOCATION, draft.accounts[cell.account].depth, "cell", number)


def _transferred(draft: Draft, event: Transferred, at: int) -> None:
    for number, size in event.sizes:
        cell = draft.edit(draft.cells, number)
        draft.edit(draft.budgets, cell.budget).limit = size
        resize(draft, cell, size)


# -- loans and shortage --------------------------------------------------------------------------------------------


def _lent(draft: Draft, event: Lent, at: int) -> None:
    loan = Loan(id=event.id, account=event.account, unit=event.unit, parts=event.parts, ends_at=event.ends_at)
    draft.add(draft.loans, event.id, loan)
    for number in _of_loan(loan):
        account = draft.edit(draft.accounts, number)
        account.loans = (*account.loans, event.id)
    if event.ends_at is not None:
        draft.due(event.ends_at, RANK_LOAN, 0, "loan", event.id)


def _loan_ended(draft: Draft, event: LoanEnded, at: int) -> None:
    loan = draft.edit(draft.loans, event.id)
    loan.active = False
    loan.returned = event.returned
    for number in _of_loan(loan):
        account = draft.edit(draft.accounts, number)
        account.loans = tuple(id for id in account.loans if id != event.id)


def _of_loan(loan: Loan) -> tuple[int, ...]:
    """The borrower and the lenders."""
    return (loan.account, *(number for number, _ in loan.parts))


def _shortage_met(draft: Draft, event: ShortageMet, at: int) -> None:
    hold = draft.edit(draft.holds, event.id)
    hold.steps, hold.loans, hold.granted, hold.model = event.steps, event.loans, event.granted, event.model
    for id in event.loans:
        draft.edit(draft.loans, id).hold = event.id


def _shortage_set(draft: Draft, event: ShortageSet, at: int) -> None:
    if event.account is not None:
        draft.edit(draft.accounts, event.account).shortage = event.steps
    if event.pattern is not None:
        draft.edit(draft.templates, event.pattern).shortage = event.steps


def _grant_strategy_set(draft: Draft, event: GrantStrategySet, at: int) -> None:
    if event.account is not None:
        draft.edit(draft.accounts, event.account).grant_strategy = event.strategy
    if event.pattern is not None:
        draft.edit(draft.templates, event.pattern).grant_strategy = event.strategy


# -- templates and keys --------------------------------------------------------------------------------------------


def _template_put(draft: Draft, event: TemplatePut, at: int) -> None:
    before = draft.templates.find(event.pattern)
    template = Template(
        pattern=event.pattern,
        parent=event.parent,
        budgets=event.budgets,
        allocations=event.allocations,
        priority=event.priority,
        max_children=event.max_children,
        max_new_per_minute=event.max_new_per_minute,
        idle_close_s=event.idle_close_s,
        gate=event.gate,
        minute=before.minute if before is not None else 0,
        opened_in_minute=before.opened_in_minute if before is not None else 0,
        shortage=before.shortage if before is not None else (),
        grant_strategy=before.grant_strategy if before is not None else None,
    )
    draft.add(draft.templates, event.pattern, template)


def _template_removed(draft: Draft, event: TemplateRemoved, at: int) -> None:
    draft.edit(draft.templates, event.pattern).removed = True


def _price_put(draft: Draft, event: PricePut, at: int) -> None:
    known = draft.prices.find(event.price)
    earlier = tuple(one for one in known.terms if one.start < event.terms.start) if known is not None else ()
    price = Price(
        price=event.price,
        provider=event.provider,
        model=event.model,
        service_tier=event.service_tier,
        terms=(*earlier, event.terms)[-PRICE_TERMS_MAX:],
        order=event.order,
    )
    draft.add(draft.prices, event.price, price)


def _price_removed(draft: Draft, event: PriceRemoved, at: int) -> None:
    price = draft.edit(draft.prices, event.price)
    terms = [one for one in price.terms if one.start < event.end]
    if terms and (terms[-1].end is None or terms[-1].end > event.end):
        terms[-1] = msgspec.structs.replace(terms[-1], end=event.end)
    price.terms, price.removed, price.order = tuple(terms), True, event.order


def _key_put(draft: Draft, event: KeyPut, at: int) -> None:
    key = Key(
        key=event.key,
        digest=event.digest,
        role=event.role,
        account=event.account,
        may_open=event.may_open,
        expires_at=event.expires_at,
        requests_per_minute=event.requests_per_minute,
        label=(event.private.name or "") if event.private is not None else "",
    )
    draft.add(draft.keys, event.key, key)


def _key_revoked(draft: Draft, event: KeyRevoked, at: int) -> None:
    draft.edit(draft.keys, event.key).revoked = True


def _checkpoint(draft: Draft, event: Checkpoint, at: int) -> None:
    """Nothing changes."""


FOLDS: dict[type[Any], Callable[[Draft, Any, int], None]] = {
    Held: _held,
    Queued: _queued,
    TicketChanged: _ticket_changed,
    TicketEnded: _ticket_ended,
    Settled: _settled,
    Extended: _extended,
    Released: _released,
    Expired: _expired,
    QuarantineClosed: _quarantine_closed,
    AccountOpened: _account_opened,
    AccountChanged: _account_changed,
    StatusChanged: _status_changed,
    NameErased: _name_erased,
    BudgetPut: _budget_put,
    BudgetRemoved: _budget_removed,
    WindowOpened: _window_opened,
    ThresholdCrossed: _threshold_crossed,
    Adjusted: _adjusted,
    AdjustmentEnded: _adjustment_ended,
    OverrideRequested: _override_requested,
    OverrideApproved: _override_approved,
    OverrideDenied: _override_denied,
    OverrideExpired: _override_expired,
    OverrideWithdrawn: _override_withdrawn,
    OverrideRevoked: _override_revoked,
    GateClosed: _gate_closed,
    GateReset: _gate_reset,
    AllocationPut: _allocation_put,
    AllocationResized: _allocation_resized,
    AllocationParked: _allocation_parked,
    AllocationResumed: _allocation_resumed,
    AllocationEnded: _allocation_ended,
    AllocationsPinned: _allocations_pinned,
    Transferred: _transferred,
    Lent: _lent,
    LoanEnded: _loan_ended,
    ShortageMet: _shortage_met,
    ShortageSet: _shortage_set,
    GrantStrategySet: _grant_strategy_set,
    TemplatePut: _template_put,
    TemplateRemoved: _template_removed,
    PricePut: _price_put,
    PriceRemoved: _price_removed,
    KeyPut: _key_put,
    KeyRevoked: _key_revoked,
    Checkpoint: _checkpoint,
}
__all__ = ["NOTHING_MOVED", "CellsByUnit", "fold", "threshold_at"]
