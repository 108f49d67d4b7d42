"""``fiscus loans``: who would lend to an account that is short, lending, and giving back."""

from __future__ import annotations

from typing import Annotated

import typer

from fiscus.cli.accounts import Account, Reason
from fiscus.cli.budgets import AmountGiven, UnitGiven
from fiscus.cli.connection import connected
from fiscus.cli.invocation import Invocation, command
from fiscus.cli.output import amount_text, read_amount, read_pairs, write_table
from fiscus.cli.times import Until, in_utc
from fiscus.contract.queries import (
    LoanView,
    MoveView,
    PassedOverView,
    ReadLoan,
    ReadReallocation,
    ReallocationView,
)
from fiscus.core.commands import GiveBack, Lend, LoanPart
from fiscus.core.outcomes import LoanAnswer
from fiscus.core.units import Unit

loans = typer.Typer(help="Allocation that is lent, and goes back as far as it is not used.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="Of the loan.", metavar="ID")]
COLUMNS = ("account", "gives>", "priority>", "left>", "reserve>", "why not")


@command(loans, "plan")
async def plan(invocation: Invocation, account: Account, unit: UnitGiven, amount: AmountGiven) -> None:
    """Show what would move so that an amount is free for a call of an account, and why. Nothing moves."""
    query = ReadReallocation(account=account, unit=unit, amount=read_amount(unit, amount))
    async with connected(invocation) as connection:
        view = await connection.read(ReallocationView, query)
    available, shortfall, recovered = (
        amount_text(unit, figure) for figure in (view.available, view.shortfall, view.recovered)
    )
    text = f"{view.target}: {available} {unit} available, {shortfall} short, {recovered} can be lent"
    invocation.output.answer(view, text)
    if not invocation.json:
        write_table(COLUMNS, [*(_move_row(unit, move) for move in view.moves), *map(_why_not, view.passed_over)])


def _move_row(unit: Unit, move: MoveView) -> tuple[str, ...]:
    left, reserve = amount_text(unit, move.left), amount_text(unit, move.min_reserve)
    return (move.source, amount_text(unit, move.amount), str(move.priority), left, reserve, "")


def _why_not(one: PassedOverView) -> tuple[str, ...]:
    return (one.account, "", "", "", "", one.reason)


@command(loans, "lend")
async def lend(
    invocation: Invocation,
    account: Account,
    unit: UnitGiven,
    lenders: Annotated[list[str], typer.Option("--from", help="LENDER=AMOUNT. Repeatable.")],
    until: Until = None,
    reason: Reason = "",
    id: Annotated[str | None, typer.Option(help="Of the loan; the same again does nothing.")] = None,
) -> None:
    """Move unused allocation from others to an account for a time."""
    parts = tuple(
        LoanPart(source=source, amount=read_amount(unit, amount)) for source, amount in read_pairs(lenders).items()
    )
    wanted = Lend(id=id or _new_id(), account=account, unit=unit, parts=parts, valid_until=in_utc(until), reason=reason)
    async with connected(invocation) as connection:
        answer = await connection.ask(LoanAnswer, wanted)
    _write(invocation, answer)


@command(loans, "give-back")
async def give_back(invocation: Invocation, loan: Id) -> None:
    """End a loan now: what is free of it goes back. So a reallocation is undone."""
    async with connected(invocation) as connection:
        answer = await connection.ask(LoanAnswer, GiveBack(id=loan))
    _write(invocation, answer)


@command(loans, "show")
async def show(invocation: Invocation, loan: Id) -> None:
    """Show a loan: what was lent by whom, what came back, what was used."""
    async with connected(invocation) as connection:
        view = await connection.read(LoanView, ReadLoan(id=loan))
    _write(invocation, view.loan)


def _write(invocation: Invocation, answer: LoanAnswer) -> None:
    """One loan on one line."""
    amount, returned, used = (
        amount_text(answer.unit, figure) for figure in (answer.amount, answer.returned, answer.used)
    )
    lenders = ", ".join(f"{part.account} {amount_text(answer.unit, part.amount)}" for part in answer.parts)
    state = "lent" if answer.active else f"ended: {returned} came back, {used} used"
    text = f"{answer.account}: {amount} {answer.unit} of {lenders}; {state} (id {answer.id})"
    invocation.output.answer(answer, text)


def _new_id() -> str:
    """A new UUIDv7."""
    from uuid_utils import uuid7

    return str(uuid7())
