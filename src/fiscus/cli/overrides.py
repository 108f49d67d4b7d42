"""``fiscus overrides``: more than a budget's limit for a while, asked for and decided on."""

from __future__ import annotations

from typing import Annotated

import typer

from fiscus.cli.accounts import Account
from fiscus.cli.budgets import Budget, new_id
from fiscus.cli.connection import connected
from fiscus.cli.invocation import Invocation, command
from fiscus.cli.output import amount_text, read_amount, time_text
from fiscus.cli.times import Until, in_utc
from fiscus.contract.queries import (
    PAGE_LENGTH_MAX,
    AccountView,
    ListOverrides,
    OverridesPage,
    OverrideView,
    ReadAccount,
    ReadOverride,
)
from fiscus.core.commands import (
    OVERRIDE_OPEN_S_DEFAULT,
    ApproveOverride,
    DenyOverride,
    RequestOverride,
    RevokeOverride,
)
from fiscus.core.outcomes import OverrideAnswer, OverrideState
from fiscus.core.units import Unit

overrides = typer.Typer(
    help="More than a budget's limit for a while: asked for, decided on, ended.", no_args_is_help=True
)

Override = Annotated[str, typer.Argument(help="Its id.", metavar="OVERRIDE")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept in the journal's private part.")]

COLUMNS = ("override", "account", "budget", "state", "asked", "granted", "asked by", "decided by", "until", "reason")


@command(overrides, "list")
async def list_overrides(
    invocation: Invocation,
    state: Annotated[OverrideState | None, typer.Option(help="Only those in this state.")] = None,
    account: Annotated[str | None, typer.Option(help="Only for this account or one below it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1_000,
) -> None:
    """List overrides, pending and past ones, in the order of their ids (at most a second behind)."""
    found: list[OverrideAnswer] = []
    async with connected(invocation) as connection:
        after: str | None = ""
        while after is not None and len(found) < limit:
            query = ListOverrides(
                tenant=connection.tenant,
                after=after,
                limit=min(limit - len(found), PAGE_LENGTH_MAX),
                state=state,
                account=account,
            )
            page = await connection.read(OverridesPage, query)
            found += page.overrides
            after = page.next
    invocation.output.rows(found, COLUMNS, map(_row, found))
    if after is not None:
        typer.echo(f"there are more than {limit}; ask for them with --limit", err=True)


@command(overrides, "show")
async def show_override(invocation: Invocation, override: Override) -> None:
    """Show one override, exact now."""
    async with connected(invocation) as connection:
        view = await connection.read(OverrideView, ReadOverride(tenant=connection.tenant, id=override))
    _write(invocation, view.override)


@command(overrides, "request")
async def request_override(
    invocation: Invocation,
    account: Account,
    budget: Budget,
    by: Annotated[str, typer.Option("--by", help="How much more; dollars as '$1.25'.")],
    reason: Annotated[str, typer.Option(help="Why; required. Who decides sees it.")],
    valid_s: Annotated[int | None, typer.Option("--for", min=1, help="Seconds from the decision on.")] = None,
    until: Until = None,
    open_s: Annotated[int, typer.Option(min=1, help="Seconds for which the request waits.")] = OVERRIDE_OPEN_S_DEFAULT,
    override: Annotated[str | None, typer.Option("--id", help="Its id; made unless given.")] = None,
) -> None:
    """Ask for more in the running window of a budget. Somebody else decides."""
    async with connected(invocation) as connection:
        view = await connection.read(AccountView, ReadAccount(tenant=connection.tenant, account=account))
        unit: Unit = next((found.unit for found in view.account.budgets if found.budget == budget), "calls")
        wanted = RequestOverride(
            id=override or new_id(),
            account=account,
            budget=budget,
            amount=read_amount(unit, by),
            reason=reason,
            valid_s=valid_s,
            valid_until=in_utc(until),
            open_s=open_s,
        )
        answer = await connection.ask(OverrideAnswer, wanted)
    _write(invocation, answer)


@command(overrides, "approve")
async def approve_override(
    invocation: Invocation,
    override: Override,
    by: Annotated[str | None, typer.Option("--by", help="Only so much of it; dollars as '$1.25'.")] = None,
    reason: Why = "",
) -> None:
    """Grant what was asked, or less. It takes another key than the one that asked."""
    async with connected(invocation) as connection:
        amount: int | None = None
        if by is not None:
            view = await connection.read(OverrideView, ReadOverride(tenant=connection.tenant, id=override))
            amount = read_amount(view.override.unit, by)
        answer = await connection.ask(OverrideAnswer, ApproveOverride(id=override, amount=amount, reason=reason))
    _write(invocation, answer)


@command(overrides, "deny")
async def deny_override(invocation: Invocation, override: Override, reason: Why = "") -> None:
    """Refuse what was asked. It takes another key than the one that asked."""
    async with connected(invocation) as connection:
        answer = await connection.ask(OverrideAnswer, DenyOverride(id=override, reason=reason))
    _write(invocation, answer)


@command(overrides, "revoke")
async def revoke_override(invocation: Invocation, override: Override, reason: Why = "") -> None:
    """End an override now, what is in use stays covered; or withdraw a request of one's own."""
    async with connected(invocation) as connection:
        answer = await connection.ask(OverrideAnswer, RevokeOverride(id=override, reason=reason))
    _write(invocation, answer)


def _row(override: OverrideAnswer) -> tuple[str, ...]:
    """One override of a list."""
    is_pending = override.state == "pending"
    until = override.closes_at if is_pending else override.valid_until
    return (
        override.id,
        override.account,
        override.budget,
        override.state,
        f"{amount_text(override.unit, override.asked)} {override.unit}",
        amount_text(override.unit, override.amount) if override.amount else "",
        override.requested_by or "no key",
        override.decided_by or "",
        time_text(until),
        override.reason or "",
    )


def _write(invocation: Invocation, override: OverrideAnswer) -> None:
    """Write one override: what was asked, what became of it, and the window."""
    unit, balance = override.unit, override.balance
    amounts = f"{amount_text(unit, override.asked)} {unit} asked"
    if override.amount:
        amounts += f", {amount_text(unit, override.amount)} granted until {time_text(override.valid_until)}"
    elif override.state == "pending":
        amounts += f", open until {time_text(override.closes_at)}"
    decided = f" by {override.decided_by or 'no key'}" if override.decided_by is not None else ""
    text = (
        f"{override.account} / {override.budget}: {override.state}{decided}; {amounts} (id {override.id}); "
        f"limit {amount_text(unit, balance.limit)}, available {amount_text(unit, balance.available)}"
    )
    invocation.output.answer(override, text)
