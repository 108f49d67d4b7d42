"""Loans in the independent model: moves that are remembered, and undone as far as they are unused."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fiscus.core import commands


@dataclass
class Loan:
    """``tried``: its time has come, and nothing more happens by time alone."""

    id: str
    account: str
    unit: Any
    parts: tuple[tuple[str, int], ...]
    ends_at: int | None = None
    hold: str | None = None
    active: bool = True
    tried: bool = False
    returned: dict[str, int] = field(default_factory=dict)


def lend(model: Any, command: commands.Lend, scope: str | None, refuse: Any) -> Loan:
    """All parts or none, each a transfer of what the lender has besides its reserve and, to an equal, its debts."""
    sources = [part.source for part in command.parts]
    if command.account in sources or len(set(sources)) != len(sources):
        raise refuse("invalid")
    borrower = model._known(command.account, scope)
    ends_at = None if command.valid_until is None else milliseconds(command.valid_until)
    parts = tuple((part.source, part.amount) for part in command.parts)
    known = model.loans.get(command.id)
    if known is not None:
        if (known.account, known.unit, known.parts, known.ends_at) != (command.account, command.unit, parts, ends_at):
            raise refuse("conflict")
        return known
    if ends_at is not None and ends_at <= model.now:
        raise refuse("invalid")
    for source, amount in parts:
        lender = model._known(source, scope)
        ways = model._between(source, command.account, command.unit, uphill=False)
        kept = lender.min_reserve.get(command.unit, 0)
        if lender.priority == borrower.priority:
            owed = [
                loan
                for loan in model.loans.values()
                if loan.active and (loan.account, loan.unit) == (source, command.unit)
            ]
            if any(name == command.account for loan in owed for name, _ in loan.parts):
                raise refuse("conflict")
            kept += sum(its for loan in owed for _, its in loan.parts)
        model._shift(ways, amount, kept)
    model.loans[command.id] = Loan(command.id, command.account, command.unit, parts, ends_at)
    return model.loans[command.id]


def take(model: Any, command: commands.Reserve, refuse: Any) -> None:
    """A hold takes loans that are free and were made for somebody on its payer's chain."""
    names = [account.name for account in model.chain(command.account)]
    for id in command.loans:
        loan = model.loans.get(id)
        if loan is None or not loan.active or loan.hold is not None or loan.account not in names:
            raise refuse("unknown_loan")
    for id in command.loans:
        model.loans[id].hold = command.id


def suspended(model: Any, loan: Loan) -> bool:
    """Whether one of those that it concerns sleeps, and nothing above it is worse."""
    for name in (loan.account, *(source for source, _ in loan.parts)):
        grave = next((account.status for account in model.chain(name) if account.status != "active"), None)
        if grave == "suspended":
            return True
    return False


def end(model: Any, id: str, refuse: Any) -> None:
    """Give back what is free, to the last of the lenders first; nothing while somebody is suspended."""
    if suspended(model, model.loans[id]):
        return
    for source, amount in reversed(model.loans[id].parts):
        saved = model._saved()
        back = 0
        try:
            loan = model.loans[id]
            ways = model._between(loan.account, source, loan.unit, uphill=True)
            back = min(amount, model.figures(ways[0][0].key).available)
            if back > 0:
                model._shift(ways, back, 0)
        except refuse:
            back = 0
        if back <= 0:
            model.__dict__.update(saved)
        else:
            model.loans[id].returned[source] = back
    model.loans[id].active = False


def end_of_hold(model: Any, hold: str, refuse: Any) -> None:
    """What was lent for a hold that is over."""
    for id in [loan.id for loan in model.loans.values() if loan.hold == hold and loan.active]:
        end(model, id, refuse)


def end_due(model: Any, instant: int, refuse: Any) -> None:
    """Loans whose time is over."""
    for id in [loan.id for loan in model.loans.values() if is_due(loan) and loan.ends_at <= instant]:
        model.loans[id].tried = True
        end(model, id, refuse)


def is_due(loan: Loan) -> bool:
    return loan.active and loan.ends_at is not None and not loan.tried


def end_overdue(model: Any, name: str, refuse: Any) -> None:
    """An account is back: what could not be given back while it slept is, now."""
    for loan in list(model.loans.values()):
        concerned = name == loan.account or any(name == source for source, _ in loan.parts)
        hold = model.holds.get(loan.hold) if loan.hold is not None else None
        over = hold is not None and hold.state != "held" and not hold.quarantine_open
        late = loan.ends_at is not None and loan.ends_at <= model.now
        if loan.active and concerned and (over or late):
            end(model, loan.id, refuse)


def milliseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
