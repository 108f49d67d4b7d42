"""Views of the state for people and programs: names for numbers, instants for milliseconds."""

from __future__ import annotations

from fiscus.core.checks import to_datetime
from fiscus.core.commands import Status
from fiscus.core.granting import granting_of
from fiscus.core.outcomes import (
    AccountAnswer,
    AdjustmentAnswer,
    AllocationAnswer,
    Balance,
    BudgetView,
    GateView,
    HoldAnswer,
    KeyAnswer,
    LoanAnswer,
    LoanShare,
    OverrideAnswer,
    PriceAnswer,
    PriceTermsAnswer,
    Refused,
)
from fiscus.core.state import LIVE, NEVER, Account, Adjustment, Budget, Cell, Draft, Hold, Key, Loan, Override, Price
from fiscus.core.units import Amounts, Unit
from fiscus.core.windows import LIFETIME_END_MS

RETRY_AFTER_S = 1
STATUS_RANK: dict[Status, int] = {"active": 0, "suspended": 1, "closed": 2, "terminated": 3}


def balance(draft: Draft, cell: Cell) -> Balance:
    """A cell as people see it; an allocation that is parked or has ended has what it still covers as its limit."""
    budget = draft.budgets[cell.budget]
    limit = cell.granted
    used = cell.used
    return Balance(
        account=draft.accounts[cell.account].display_name,
        budget=budget.name,
        unit=cell.unit,
        mode=budget.mode,
        limit=limit,
        covered=cell.covered,
        held=cell.held,
        quarantined=cell.quarantined,
        uncovered=cell.uncovered,
        spent=cell.covered + cell.uncovered,
        available=limit - used,
        overdrawn=max(0, used - limit),
        window_start=to_datetime(cell.start),
        window_end=to_datetime(cell.end) if cell.end < LIFETIME_END_MS else None,
        allocated=budget.allocated,
        match=budget.match,
    )


def no_room(draft: Draft, lacking: list[tuple[Cell, int]], own: Amounts | None = None) -> Refused:
    """The refusal for cells that lack room for an amount, given in cell order (leaf first).

    *Exceeded* if it would not fit even with no call in flight, and that outranks *busy*; then the first in order.
    ``own`` is what the asking hold itself holds already: it does not go away.
    """
    for cell, amount in lacking:
        if is_exceeded(cell, amount + (own or {}).get(cell.unit, 0)):
            seen = balance(draft, cell)
            return Refused(
                code="budget_exceeded",
                detail=f"{seen.account}: {amount} {seen.unit} asked, {max(0, seen.available)} of {seen.limit} left "
                f"in {seen.budget}",
                binding=seen,
                requested=amount,
                resets_at=seen.window_end,
            )
    cell, amount = lacking[0]
    seen = balance(draft, cell)
    return Refused(
        code="budget_busy",
        detail=f"{seen.account}: {amount} {seen.unit} asked, {max(0, seen.available)} of {seen.limit} left in "
        f"{seen.budget} while calls in flight hold {seen.held}",
        binding=seen,
        requested=amount,
        retry_after_s=RETRY_AFTER_S,
    )


def is_exceeded(cell: Cell, amount: int) -> bool:
    """Whether an amount would not fit even if no call were in flight. A live allocation is not a call."""
    return amount > cell.granted - cell.covered - cell.quarantined - cell.uncovered - cell.standing


def positive(amounts: Amounts) -> Amounts:
    """Amounts without zeros."""
    return {unit: amount for unit, amount in amounts.items() if amount}


def hold_answer(draft: Draft, hold: Hold) -> HoldAnswer:
    """A hold as it is now."""
    booked, covered = hold.booked, hold.covered
    uncovered: Amounts = {}
    if booked != covered:
        uncovered = {unit: rest for unit, amount in booked.items() if (rest := amount - covered.get(unit, 0)) > 0}
    if hold.ticket is not None and hold.state == "waiting":
        return HoldAnswer(
            id=hold.id,
            account=draft.accounts[hold.account].display_name,
            state="waiting",
            reserved={},
            place=1 + draft.waiting[hold.ticket.cell].index(hold.id),
            waits_until=to_datetime(hold.ticket.until),
        )
    return HoldAnswer(
        id=hold.id,
        account=draft.accounts[hold.account].display_name,
        state=hold.state,
        reserved=hold.reserved,
        booked=booked,
        uncovered=uncovered,
        expires_at=to_datetime(hold.expires_at) if hold.state == "held" else None,
        warnings=warnings(draft, hold.warned) if hold.warned else (),
        steps=hold.steps,
        loans=loans_of(draft, hold) if hold.loans else (),
        model=hold.model,
    )


def loans_of(draft: Draft, hold: Hold, *, as_lent: bool = False) -> tuple[LoanAnswer, ...]:
    """The loans that a hold was made with; those that ended long ago are not kept."""
    found = (draft.loans.find(id) for id in hold.loans)
    return tuple(loan_answer(draft, loan, as_lent=as_lent) for loan in found if loan is not None)


def loan_answer(draft: Draft, loan: Loan, *, as_lent: bool = False) -> LoanAnswer:
    """A loan as it is now, or (``as_lent``) as it was when it was made."""
    returned = {} if as_lent else dict(loan.returned)
    active = loan.active or as_lent
    amount = sum(lent for _, lent in loan.parts)
    back = sum(returned.values())
    return LoanAnswer(
        id=loan.id,
        account=draft.accounts[loan.account].display_name,
        unit=loan.unit,
        amount=amount,
        returned=back,
        used=0 if active else amount - back,
        active=active,
        parts=tuple(
            LoanShare(account=draft.accounts[number].display_name, amount=lent, returned=returned.get(number, 0))
            for number, lent in loan.parts
        ),
        hold=loan.hold,
        valid_until=to_datetime(loan.ends_at) if loan.ends_at is not None else None,
    )


def warnings(draft: Draft, cells: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the budgets in mode ``warn`` that would have refused: ``account/budget``."""
    return tuple(
        f"{draft.accounts[cell.account].display_name}/{draft.budgets[cell.budget].name}"
        for cell in (draft.cells[number] for number in cells)
    )


def budget_view(draft: Draft, budget: Budget) -> BudgetView:
    """A budget with the window that it has open; the caller rolls it over first."""
    cell = draft.cells.find(budget.cell) if budget.cell else None
    return BudgetView(
        budget=budget.name,
        account=draft.accounts[budget.account].display_name,
        unit=budget.unit,
        version=budget.version,
        limit=budget.limit,
        period=budget.next_period or budget.period,
        zone=budget.next_zone or budget.zone,
        thresholds=budget.thresholds,
        mode=budget.mode,
        match=budget.match,
        on_exhaustion=budget.on_exhaustion,
        carry_over=budget.carry_over,
        carry_max=budget.carry_max,
        carry_debt=budget.carry_debt,
        allocated=budget.allocated,
        balance=balance(draft, cell) if cell is not None else None,
        override=budget.override,
        number=budget.number,
        valid_until=to_datetime(budget.valid_until) if budget.valid_until is not None else None,
        lapsed=budget.for_good,
    )


def effective_status(draft: Draft, account: Account) -> Status:
    """The gravest status on the way to the root."""
    gravest = account.status
    while account.parent is not None:
        account = draft.accounts[account.parent]
        if STATUS_RANK[account.status] > STATUS_RANK[gravest]:
            gravest = account.status
    return gravest


def account_answer(draft: Draft, account: Account) -> AccountAnswer:
    """An account with its budgets; the caller rolls them over first."""
    granting = granting_of(draft, account)
    return AccountAnswer(
        account=account.display_name,
        number=account.number,
        parent=draft.accounts[account.parent].display_name if account.parent is not None else None,
        status=account.status,
        status_effective=effective_status(draft, account),
        labels=account.labels,
        priority=account.priority,
        min_reserve=account.min_reserve,
        budgets=tuple(budget_view(draft, draft.budgets[number]) for number in account.budgets),
        confidence_threshold=account.gate.confidence_threshold if account.gate is not None else None,
        gate_s=account.gate.closed_s if account.gate is not None else None,
        gates=closed_gates(draft, account) if account.gates else (),
        shortage=account.shortage,
        loans=tuple(loan_answer(draft, draft.loans[id]) for id in account.loans),
        grant_strategy=account.grant_strategy,
        grant_strategy_effective=granting.strategy,
        grant_strategy_from=granting.source,
    )


def closed_gates(draft: Draft, account: Account) -> tuple[GateView, ...]:
    """The confidence gates of an account that are closed now, in the order of their closing."""
    return tuple(
        GateView(
            task=account.tasks.get(key) if key else "",
            key=key,
            opens_at=to_datetime(until) if until < NEVER else None,
        )
        for key, until in account.gates.items()
        if until > draft.now
    )


def allocation_answer(draft: Draft, account: Account, unit: Unit, cell: Cell) -> AllocationAnswer:
    """An allocation by its cell."""
    return AllocationAnswer(
        account=account.display_name,
        unit=unit,
        size=cell.base if cell.phase == LIVE else cell.cover,
        balance=balance(draft, cell),
    )


def adjustment_answer(draft: Draft, adjustment: Adjustment) -> AdjustmentAnswer:
    """An adjustment with the window that it changes."""
    return AdjustmentAnswer(
        id=adjustment.id,
        account=draft.accounts[adjustment.account].display_name,
        budget=draft.budgets[adjustment.budget].name,
        amount=adjustment.amount,
        active=adjustment.active,
        valid_until=to_datetime(adjustment.valid_until) if adjustment.valid_until is not None else None,
        balance=balance(draft, draft.cells[adjustment.cell]),
    )


def override_answer(draft: Draft, override: Override) -> OverrideAnswer:
    """An override with the window that it is for."""
    account = draft.accounts[override.account]
    budget = draft.budgets[override.budget]
    valid_until = override.wanted_until if override.valid_until is None else override.valid_until
    return OverrideAnswer(
        id=override.id,
        account=account.display_name,
        budget=budget.name,
        unit=budget.unit,
        state=override.state,
        asked=override.asked,
        amount=override.amount,
        requested_by=override.requested_by,
        requested_at=to_datetime(override.at),
        closes_at=to_datetime(override.closes_at),
        decided_by=override.decided_by,
        decided_at=to_datetime(override.decided_at) if override.decided_at is not None else None,
        valid_until=to_datetime(valid_until) if valid_until is not None else None,
        reason=account.asked.get(override.id),
        decision=account.decided.get(override.id),
        balance=balance(draft, draft.cells[override.cell]),
    )


def price_answer(price: Price) -> PriceAnswer:
    """A price with its terms."""
    return PriceAnswer(
        price=price.price,
        provider=price.provider,
        model=price.model,
        service_tier=price.service_tier,
        active=not price.removed,
        terms=tuple(
            PriceTermsAnswer(
                valid_from=to_datetime(one.start),
                valid_to=to_datetime(one.end) if one.end is not None else None,
                rates=one.rates,
                fees=one.fees,
                tiers=one.tiers,
            )
            for one in price.terms
        ),
    )


def key_answer(draft: Draft, key: Key) -> KeyAnswer:
    """A key without anything secret."""
    return KeyAnswer(
        key=key.key,
        role=key.role,
        account=draft.accounts[key.account].display_name if key.account is not None else None,
        active=not key.revoked,
        may_open=key.may_open,
        expires_at=to_datetime(key.expires_at) if key.expires_at is not None else None,
        requests_per_minute=key.requests_per_minute,
        label=key.label,
    )
