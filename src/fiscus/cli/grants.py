"""``fiscus grants``: what the journal's grants would have been by another strategy. Nothing is granted."""

from __future__ import annotations

from typing import Literal

from fiscus.api.economy.bodies import ACCOUNT_PREFIX
from fiscus.api.economy.rehearsal import Rehearsal, Rehearsed
from fiscus.cli.connection import Connection
from fiscus.cli.invocation import Invocation
from fiscus.contract.queries import PAGE_LENGTH_MAX, AccountsPage, EntriesPage, ListAccounts, ListEntries
from fiscus.core.commands import GrantStrategy

Rehearsable = GrantStrategy | Literal["configured"]
"""``configured``: what counts for each agent now, by its account, its template, one above it, or the setting."""

COLUMNS = ("agent", "strategy", "grants>", "asked>", "granted>", "rehearsed>", "difference>")


async def rehearse(invocation: Invocation, connection: Connection, strategy: Rehearsable, after: int) -> None:
    """Read the journal once and write one row for each agent."""
    if strategy == "configured":
        configured = await _configured(connection)
        rehearsal = Rehearsal(invocation.settings().economy_strategy, configured)
    else:
        rehearsal = Rehearsal(strategy)
    position: int | None = after
    while position is not None:
        query = ListEntries(tenant=connection.tenant, after=position, limit=PAGE_LENGTH_MAX)
        page = await connection.read(EntriesPage, query)
        rehearsal.fold(page.entries)
        position = page.next
    rows = rehearsal.rows()
    invocation.output.rows(rows, COLUMNS, map(_row, rows))


async def _configured(connection: Connection) -> dict[str, GrantStrategy]:
    """The strategy of each agent for which the ledger says one."""
    found: dict[str, GrantStrategy] = {}
    position: int | None = 0
    while position is not None:
        query = ListAccounts(tenant=connection.tenant, after=position, limit=PAGE_LENGTH_MAX, prefix=ACCOUNT_PREFIX)
        page = await connection.read(AccountsPage, query)
        for account in page.accounts:
            if account.grant_strategy_effective is not None:
                found[account.account.removeprefix(ACCOUNT_PREFIX)] = account.grant_strategy_effective
        position = page.next
    return found


def _row(one: Rehearsed) -> tuple[str, ...]:
    difference = one.rehearsed_tokens - one.granted_tokens
    figures = (one.grants, one.requested_tokens, one.granted_tokens, one.rehearsed_tokens)
    return (one.agent_id, one.strategy, *(f"{figure:,}" for figure in figures), f"{difference:+,}")
