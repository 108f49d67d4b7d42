"""``fiscus grants``: what the journal's grants would have been by another strategy. Nothing is granted."""

from __future__ import annotations

from fiscus.api.economy.rehearsal import Rehearsal, Rehearsed
from fiscus.cli.connection import Connection
from fiscus.cli.invocation import Invocation
from fiscus.contract.queries import PAGE_LENGTH_MAX, EntriesPage, ListEntries
from fiscus.policy.grants import Strategy

COLUMNS = ("agent", "grants>", "asked>", "granted>", "rehearsed>", "difference>")


async def rehearse(invocation: Invocation, connection: Connection, strategy: Strategy, after: int) -> None:
    """Read the journal once and write one row for each agent."""
    rehearsal = Rehearsal(strategy)
    position: int | None = after
    while position is not None:
        query = ListEntries(tenant=connection.tenant, after=position, limit=PAGE_LENGTH_MAX)
        page = await connection.read(EntriesPage, query)
        rehearsal.fold(page.entries)
        position = page.next
    rows = rehearsal.rows()
    invocation.output.rows(rows, COLUMNS, map(_row, rows))


def _row(one: Rehearsed) -> tuple[str, ...]:
    difference = one.rehearsed_tokens - one.granted_tokens
    figures = (one.grants, one.requested_tokens, one.granted_tokens, one.rehearsed_tokens)
    return (one.agent_id, *(f"{figure:,}" for figure in figures), f"{difference:+,}")
