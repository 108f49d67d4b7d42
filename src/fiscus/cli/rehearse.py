"""``fiscus rehearse``: what would have become of the recorded calls under another declaration. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from fiscus.cli.connection import Connection, connected
from fiscus.cli.declaration import read_declaration
from fiscus.cli.invocation import Invocation
from fiscus.cli.output import (
    amount_text,
    pairs_text,
    progress,
    time_text,
    write_json,
    write_line,
    write_note,
    write_table,
)
from fiscus.contract.declaration import Declaration, field_path
from fiscus.contract.errors import Refusal, refusal
from fiscus.contract.rehearsal import RehearsalView, Rehearse, RehearsedBudget, RehearsedCalls, RehearsedRefusal

ACCOUNT_COLUMNS = (
    "account",
    "calls>",
    "admitted>",
    "refused>",
    "waited>",
    "eased",
    "tokens used>",
    "rehearsed>",
    "cost used>",
    "rehearsed>",
)
BUDGET_COLUMNS = ("account", "budget", "mode", "refused>", "spared>", "highest use>", "of>", "thresholds")
REFUSAL_COLUMNS = ("time", "account", "by", "why")


async def rehearse_file(
    invocation: Invocation, file: Path, *, since: datetime | None, until: datetime | None, limit: int, refusals: int
) -> None:
    """Show what would have become of the recorded calls if the file had been in force."""
    declaration = read_declaration(file)
    query = Rehearse(
        accounts=declaration.accounts,
        templates=declaration.templates,
        since=since,
        until=until,
        limit=limit,
        refusals=refusals,
    )
    async with connected(invocation) as connection:
        with progress("rehearsing"):
            view = await _rehearsed(connection, declaration, query)
    if invocation.json:
        write_json(view)
        return
    write_table(ACCOUNT_COLUMNS, [*_account_rows(view), ("all", *_calls_row(view.totals))])
    if view.budgets:
        write_table(BUDGET_COLUMNS, map(_budget_row, view.budgets))
    if view.refusals:
        write_table(REFUSAL_COLUMNS, map(_refusal_row, view.refusals))
    write_line(_summary(view))
    for note in _notes(view):
        write_note(note)


async def _rehearsed(connection: Connection, declaration: Declaration, query: Rehearse) -> RehearsalView:
    """The answer; a refusal of the declaration names the place in the file.

    Raises:
        Refusal: the declaration contradicts the ledger, or a bound is wrong.
    """
    try:
        return await connection.read(RehearsalView, msgspec.structs.replace(query, tenant=connection.tenant))
    except Refusal as error:
        field = error.refused.field
        if field is None or not field.startswith(("accounts", "templates")):
            raise
        place = declaration.origin.place(field_path(field))
        detail = f"{place}: {error.refused.detail.removeprefix(f'{field}: ')}"
        raise refusal(msgspec.structs.replace(error.refused, detail=detail)) from error


def _account_rows(view: RehearsalView) -> Iterator[tuple[str, ...]]:
    return ((one.account, *_calls_row(one)) for one in view.accounts)


def _calls_row(one: RehearsedCalls) -> tuple[str, ...]:
    costs = (amount_text("cost", booked.get("cost", 0)) for booked in (one.recorded, one.rehearsed))
    tokens = (f"{booked.get('tokens', 0):,}" for booked in (one.recorded, one.rehearsed))
    counts = (one.calls, one.admitted, one.refused, one.waited)
    return (*(f"{count:,}" for count in counts), pairs_text(one.eased), *tokens, *costs)


def _budget_row(one: RehearsedBudget) -> tuple[str, ...]:
    name = f"{one.budget} ({pairs_text(one.match)})" if one.match else one.budget
    crossed = " ".join(f"{percent}%×{times}" for percent, times in one.thresholds.items())
    used, limit = (amount_text(one.unit, amount) for amount in (one.peak_used, one.peak_limit))
    return one.account, name, one.mode, f"{one.refused:,}", f"{one.spared:,}", used, limit, crossed


def _refusal_row(one: RehearsedRefusal) -> tuple[str, ...]:
    by = f"{one.budget_account} / {one.budget}" if one.budget is not None else one.code
    return time_text(one.at), one.account, by, one.detail


def _summary(view: RehearsalView) -> str:
    totals = view.totals
    calls = "call" if totals.calls == 1 else "calls"
    parts = [f"{totals.calls:,} {calls}: {totals.admitted:,} would have been admitted, {totals.refused:,} refused"]
    if totals.would_wait:
        parts.append(f"of these {totals.would_wait:,} would have waited")
    if totals.would_ask:
        parts.append(f"{totals.would_ask:,} would have asked for an override")
    if totals.extensions_refused:
        parts.append(f"{totals.extensions_refused:,} extensions would not have fitted")
    if view.codes:
        parts.append(f"by code: {pairs_text(view.codes)}")
    return "; ".join(parts)


def _notes(view: RehearsalView) -> Iterator[str]:
    yield "calls that were refused are not in the journal, so they are not rehearsed"
    if view.spared_recorded:
        yield f"{view.spared_recorded:,} recorded calls would have been refused by budgets that warn or observe"
    if view.left_out:
        yield f"not repeated: {pairs_text(view.left_out)}"
    if view.next is not None:
        yield f"calls behind entry {view.next} were not looked at: raise --limit, or begin later with --since"
