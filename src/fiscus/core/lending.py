"""Deciding on loans: allocation that is moved for a time, remembers its lenders and goes back as far as it is unused.

A loan is one transfer per lender and a record of them. It ends with the hold that it was made for, at its time, when
its borrower is terminated or closed, or by ``GiveBack``. What of it is free then goes back, the most important lender
first; what was used stays. Nothing can go back and forth for ever: an account lends an equal neither what it has
borrowed nor anything that it owes him, so what equals lend each other is never more than what is their own, and each
loan ends once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from fiscus.core.allocations import find_paths, lacking_to_move, live_below, move
from fiscus.core.answers import loan_answer
from fiscus.core.checks import check, invalid, to_ms
from fiscus.core.commands import GiveBack, Lend, LoanPart, Request
from fiscus.core.events import Lent, LoanEnded, Private
from fiscus.core.formats import not_yet
from fiscus.core.outcomes import LoanAnswer, Refused
from fiscus.core.routes import chain, inactive
from fiscus.core.scopes import find_account, in_scope
from fiscus.core.state import LIVE, Account, Cell, Draft, Loan
from fiscus.core.units import Unit

SEATS_MAX = 1_000
"""Lenders that are looked at for one reallocation; more are left out, those opened last first."""


def lend(draft: Draft, request: Request, command: Lend, now: int) -> LoanAnswer | Refused:
    """Move every part to the borrower and remember from whom, or move nothing."""
    wrong = check(command) or not_yet(draft, Lent)
    if wrong is not None:
        return wrong
    borrower = find_account(draft, command.account, request.scope)
    if isinstance(borrower, Refused):
        return borrower
    ends_at = to_ms(command.valid_until) if command.valid_until is not None else None
    known = draft.loans.find(command.id)
    if known is not None:
        return _repeated(draft, command, known, borrower, ends_at)
    if ends_at is not None and ends_at <= now:
        return invalid("valid_until", "has passed already")
    parts: list[tuple[int, int]] = []
    for index, part in enumerate(command.parts):
        lender = _move_part(draft, request, command, borrower, part, now)
        if isinstance(lender, Refused):
            return lender if lender.field is None else msgspec.structs.replace(lender, field=f"parts[{index}].source")
        parts.append((lender.number, part.amount))
    draft.emit(
        Lent(
            id=command.id,
            account=borrower.number,
            unit=command.unit,
            parts=tuple(parts),
            ends_at=ends_at,
            actor=request.actor,
            private=Private(reason=command.reason) if command.reason else None,
        )
    )
    return loan_answer(draft, draft.loans[command.id])


def _repeated(draft: Draft, command: Lend, known: Loan, borrower: Account, ends_at: int | None) -> LoanAnswer | Refused:
    """The same id again: the loan as it is now for the same body, else a conflict."""
    parts = tuple((draft.accounts[number].name, amount) for number, amount in known.parts)
    same = (known.account, known.unit, known.ends_at) == (borrower.number, command.unit, ends_at)
    if not same or parts != tuple((part.source, part.amount) for part in command.parts):
        return Refused(code="conflict", detail="id: is in use for another loan", field="id")
    return loan_answer(draft, known)


def _move_part(
    draft: Draft, request: Request, command: Lend, borrower: Account, part: LoanPart, now: int
) -> Account | Refused:
    """Move what one lender gives; its account."""
    lender = find_account(draft, part.source, request.scope, "source")
    if isinstance(lender, Refused):
        return lender
    paths = find_paths(draft, lender, borrower, command.unit, now, never_uphill=True)
    if isinstance(paths, Refused):
        return paths
    kept = lender.min_reserve.get(command.unit, 0)
    if lender.priority == borrower.priority and lender.loans:
        borrowed, owed = debts(draft, lender, command.unit)
        if borrower.number in owed:
            return Refused(
                code="conflict",
                detail=f"{lender.display_name} owes {borrower.display_name}, an equal, and lends it none",
                field="source",
            )
        kept += borrowed
    refused = lacking_to_move(draft, paths, part.amount, kept)
    if refused is not None:
        return refused
    move(draft, paths, lender, borrower, part.amount, actor=request.actor, reason=command.reason)
    return lender


def debts(draft: Draft, account: Account, unit: Unit) -> tuple[int, set[int]]:
    """What an account has borrowed in a unit and not given back, and from whom."""
    loans = [draft.loans[id] for id in account.loans]
    borrowed = [loan for loan in loans if loan.account == account.number and loan.unit == unit]
    return (
        sum(amount for loan in borrowed for _, amount in loan.parts),
        {lender for loan in borrowed for lender, _ in loan.parts},
    )


def give_back(draft: Draft, request: Request, command: GiveBack, now: int) -> LoanAnswer | Refused:
    """End a loan before its time; one that has ended is answered as it is."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    loan = draft.loans.find(command.id)
    if loan is None or not in_scope(draft, draft.accounts[loan.account], request.scope):
        return Refused(code="unknown_loan", detail=f"there is no loan {command.id!r}", field="id")
    if loan.active:
        refused = end_loan(draft, loan, now, actor=request.actor)
        if refused is not None:
            return refused
    return loan_answer(draft, draft.loans[command.id])


def end_loan(draft: Draft, loan: Loan, now: int, actor: str = "") -> Refused | None:
    """Give back what is free of a loan; a lender that cannot take it any more gets nothing, and it stays.

    Where one of the accounts is suspended nothing is done: the loan stands until it is resumed.

    Returns:
        The refusal by the account that is suspended, or None.
    """
    borrower = draft.accounts[loan.account]
    lenders = [(draft.accounts[number], amount) for number, amount in loan.parts]
    for account in (borrower, *(lender for lender, _ in lenders)):
        refused = inactive(draft, chain(draft, account))
        if refused is not None and refused.code == "account_suspended":
            return refused
    returned: list[tuple[int, int]] = []
    for lender, amount in reversed(lenders):
        back = _move_back(draft, borrower, lender, loan.unit, amount, now, actor)
        if back:
            returned.append((lender.number, back))
    draft.emit(LoanEnded(id=loan.id, account=loan.account, returned=tuple(returned), actor=actor))
    return None


def _move_back(draft: Draft, borrower: Account, lender: Account, unit: Unit, amount: int, now: int, actor: str) -> int:
    """Move what is free of ``amount`` back to a lender; how much that is."""
    mark, alerts = draft.mark(), list(draft.alerts)
    draft.isolate()
    paths = find_paths(draft, borrower, lender, unit, now)
    if not isinstance(paths, Refused):
        back = min(amount, paths.source_cells[0].free)
        if back > 0 and lacking_to_move(draft, paths, back, 0) is None:
            move(draft, paths, borrower, lender, back, actor=actor)
            return back
    draft.rollback(mark)
    draft.alerts += alerts
    return 0


def end_loans(draft: Draft, ids: Iterable[str], now: int) -> None:
    """End those of the loans that stand."""
    for id in ids:
        loan = draft.loans.find(id)
        if loan is not None and loan.active:  # one that ended long ago is not kept
            end_loan(draft, loan, now)


def overdue(draft: Draft, account: Account, now: int) -> list[str]:
    """Loans in which an account borrows or lends whose time or hold is over, and that could not be given back then."""
    found: list[str] = []
    for loan in (draft.loans[id] for id in account.loans):
        hold = draft.holds.find(loan.hold) if loan.hold is not None else None
        ended = loan.hold is not None and (hold is None or not hold.open)
        if ended or (loan.ends_at is not None and loan.ends_at <= now):
            found.append(loan.id)
    return found


# -- who could lend --------------------------------------------------------------------------------------------------


class SeatFigures(NamedTuple):
    """An account that may lend or borrow: what ``policy.reallocation`` looks at."""

    account: Account
    cell: Cell
    borrowed: int
    owed: set[int]


def seats(draft: Draft, account: Account, unit: Unit, now: int) -> list[SeatFigures]:
    """An account and those below the same parent whose allocation in the unit could go to it, at most ``SEATS_MAX``.

    Only the account itself where it has no live allocation, or nothing above it.
    """
    number = account.allocations.get(unit)
    if number is None:
        return []
    own = SeatFigures(account, draft.cells[draft.budgets[number].cell], *debts(draft, account, unit))
    if account.parent is None:
        return [own]
    found = [own]
    above = {one.number for one in chain(draft, account)}
    direct, _ = live_below(draft, draft.accounts[account.parent], unit)
    for cell in sorted(direct, key=lambda cell: cell.account):
        other = draft.accounts[cell.account]
        if len(found) > SEATS_MAX:
            break
        if cell.phase != LIVE or other.number in above:
            continue
        giving: Cell | None = cell
        if not _is_peer(other, cell, own, now):
            paths = find_paths(draft, other, account, unit, now)
            usable = not isinstance(paths, Refused) and all(upper.free >= 0 for upper in paths.source_cells[1:])
            giving = paths.source_cells[0] if usable and not isinstance(paths, Refused) else None
        if giving is not None:
            found.append(SeatFigures(other, giving, *(debts(draft, other, unit) if other.loans else (0, set()))))
    return found


def _is_peer(other: Account, cell: Cell, own: SeatFigures, now: int) -> bool:
    """Whether what an account has could move by the change of two cells: it needs no closer look."""
    is_alive = other.status == "active" and now < cell.end and own.cell.phase == LIVE and now < own.cell.end
    return is_alive and other.parent == own.account.parent and set(cell.pins) == set(own.cell.pins)
