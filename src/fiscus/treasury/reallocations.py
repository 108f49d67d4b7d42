"""Answers about loans: one of them, and what a reallocation would move."""

from __future__ import annotations

from fiscus.contract.queries import (
    LoanView,
    MoveView,
    PassedOverView,
    ReadLoan,
    ReadReallocation,
    ReallocationView,
)
from fiscus.core.answers import loan_answer
from fiscus.core.checks import UNIT_NAMES, check_amount, check_id, check_name, invalid
from fiscus.core.lending import SeatFigures, seats
from fiscus.core.outcomes import Refused
from fiscus.core.routes import chain
from fiscus.core.scopes import find_account, in_scope
from fiscus.core.state import Draft
from fiscus.core.units import UNITS, Unit
from fiscus.policy.reallocation import Seat, reallocate


def loan_view(draft: Draft, as_of_seq: int, query: ReadLoan) -> LoanView | Refused:
    """One loan, for who may see its borrower."""
    wrong = check_id("id", query.id)
    if wrong is not None:
        return wrong
    loan = draft.loans.find(query.id)
    if loan is None or not in_scope(draft, draft.accounts[loan.account], query.scope):
        return Refused(code="unknown_loan", detail=f"there is no loan {query.id!r}", field="id")
    return LoanView(as_of_seq=as_of_seq, loan=loan_answer(draft, loan))


def reallocation_view(draft: Draft, as_of_seq: int, query: ReadReallocation, now: int) -> ReallocationView | Refused:
    """What would move to the allocation that an account draws on, seen by who may see the lenders."""
    wrong = check_name("account", query.account) or check_amount("amount", query.amount, least=1)
    if wrong is None and query.unit not in UNIT_NAMES:
        wrong = invalid("unit", f"unknown unit; units are {', '.join(UNITS)}")
    account = wrong or find_account(draft, query.account, query.scope)
    if isinstance(account, Refused):
        return account
    above = chain(draft, account)
    target = next((one for one in above if query.unit in one.allocations), None)
    if target is None or not in_scope(draft, target, query.scope):
        return Refused(
            code="unknown_allocation", detail=f"{query.account} draws on no allocation in {query.unit}", field="unit"
        )
    mark = draft.mark()
    draft.isolate()
    draft.now = now
    found = [seat for seat in seats(draft, target, query.unit, now) if in_scope(draft, seat.account, query.scope)]
    figures = [as_seat(draft, seat, query.unit) for seat in found]
    draft.rollback(mark)
    needy = figures[0]
    shortfall = max(0, query.amount - needy.available)
    plan = reallocate(figures, needy=needy.account, shortfall=shortfall)
    return ReallocationView(
        as_of_seq=as_of_seq,
        account=query.account,
        unit=query.unit,
        target=needy.account,
        available=needy.available,
        shortfall=shortfall,
        recovered=plan.recovered,
        moves=tuple(
            MoveView(
                source=move.donor,
                amount=move.amount,
                priority=move.priority,
                left=move.left,
                min_reserve=move.min_reserve,
            )
            for move in plan.moves
        ),
        passed_over=tuple(PassedOverView(account=one.account, reason=one.reason) for one in plan.passed_over),
    )


def as_seat(draft: Draft, seat: SeatFigures, unit: Unit) -> Seat:
    """An account as the policy looks at it."""
    return Seat(
        account=seat.account.display_name,
        priority=seat.account.priority,
        allocation=seat.cell.granted,
        available=seat.cell.free,
        min_reserve=seat.account.min_reserve.get(unit, 0),
        borrowed=seat.borrowed,
        lenders=frozenset(draft.accounts[number].display_name for number in seat.owed),
    )
