"""``fiscus accounts``: who can hold and spend."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from msgspec import UNSET

from fiscus.cli.connection import Connection, connected
from fiscus.cli.invocation import Invocation, command
from fiscus.cli.output import (
    BALANCE_COLUMNS,
    amount_text,
    amounts_text,
    balance_row,
    pairs_text,
    read_amounts,
    read_pairs,
    write_line,
    write_table,
)
from fiscus.contract.errors import ConfigurationInvalid
from fiscus.contract.queries import PAGE_LENGTH_MAX, AccountsPage, AccountView, ListAccounts, ReadAccount
from fiscus.core.commands import EraseName, PutAccount, ResetGate, SetStatus, Status
from fiscus.core.outcomes import AccountAnswer, BudgetView, ErasedAnswer, GateView

accounts = typer.Typer(help="Who can hold and spend: a tree of accounts.", no_args_is_help=True)

Account = Annotated[str, typer.Argument(help="Name, as agent:planner.", metavar="ACCOUNT")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the journal's private part.")]

COLUMNS = ("account", "parent", "status", "budget", "mode", *BALANCE_COLUMNS)


@command(accounts, "list")
async def list_accounts(
    invocation: Invocation,
    prefix: Annotated[str | None, typer.Option(help="Only names that begin so.")] = None,
    parent: Annotated[str | None, typer.Option(help="Only children of this account.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only this status of their own.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1_000,
) -> None:
    """List accounts with their budgets, in the order in which they were opened (at most a second behind)."""
    found: list[AccountAnswer] = []
    async with connected(invocation) as connection:
        after: int | None = 0
        while after is not None and len(found) < limit:
            query = ListAccounts(
                tenant=connection.tenant,
                after=after,
                limit=min(limit - len(found), PAGE_LENGTH_MAX),
                prefix=prefix,
                parent=parent,
                status=status,
            )
            page = await connection.read(AccountsPage, query)
            found += page.accounts
            after = page.next
    invocation.output.rows(found, COLUMNS, (row for account in found for row in account_rows(account)))
    if after is not None:
        typer.echo(f"there are more than {limit}; ask for them with --limit", err=True)


@command(accounts, "show")
async def show_account(invocation: Invocation, account: Account) -> None:
    """Show one account with its budgets, exact now."""
    async with connected(invocation) as connection:
        view = await connection.read(AccountView, ReadAccount(tenant=connection.tenant, account=account))
    write_account(invocation, view.account)


@command(accounts, "put")
async def put_account(
    invocation: Invocation,
    account: Account,
    parent: Annotated[str | None, typer.Option(help="Account above it; for a new one without: a root.")] = None,
    priority: Annotated[int | None, typer.Option(min=1, help="Budget never moves to a lower priority.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; all labels are replaced. Repeatable.")] = None,
    min_reserve: Annotated[
        list[str] | None, typer.Option(help="UNIT=AMOUNT that it keeps when others ask it to donate. Repeatable.")
    ] = None,
    shortage: Annotated[
        list[str] | None,
        typer.Option(
            help="What is tried for reserves that lack room, in this order; only 'deny': nothing. Repeatable."
        ),
    ] = None,
    grant_strategy: Annotated[
        Literal["classic", "proven", "none"] | None,
        typer.Option(help="How grants are sized, here and below; 'none': as above it, else as the service says."),
    ] = None,
    confidence_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="From this confidence on, a task's next call is refused.")
    ] = None,
    gate_s: Annotated[int | None, typer.Option(min=1, help="For so many seconds then; else until it is reset.")] = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Without a confidence threshold from now on.")] = False,
) -> None:
    """Open an account, or change what is given of one."""
    if no_gate and (confidence_threshold is not None or gate_s is not None):
        raise ConfigurationInvalid("--no-gate excludes --confidence-threshold and --gate-s")
    wanted = PutAccount(
        account=account,
        parent=parent,
        priority=priority,
        labels=read_pairs(label) if label is not None else None,
        min_reserve=read_amounts(min_reserve) if min_reserve is not None else None,
        shortage=tuple(shortage) if shortage else None,  # type: ignore[arg-type]  # the ledger refuses others
        grant_strategy=UNSET if grant_strategy is None else None if grant_strategy == "none" else grant_strategy,
        confidence_threshold=UNSET if confidence_threshold is None and not no_gate else confidence_threshold,
        gate_s=UNSET if gate_s is None else gate_s,
    )
    async with connected(invocation, creates=True) as connection:
        answer = await connection.ask(AccountAnswer, wanted)
    write_account(invocation, answer)


async def _set_status(invocation: Invocation, account: str, status: Status, reason: str) -> None:
    async with connected(invocation) as connection:
        answer = await connection.ask(AccountAnswer, SetStatus(account=account, status=status, reason=reason))
    write_account(invocation, answer)


@command(accounts, "suspend")
async def suspend_account(invocation: Invocation, account: Account, reason: Reason = "") -> None:
    """Admit no more calls of an account and all below it, until it is resumed."""
    await _set_status(invocation, account, "suspended", reason)


@command(accounts, "resume")
async def resume_account(invocation: Invocation, account: Account, reason: Reason = "") -> None:
    """Make a suspended account active again."""
    await _set_status(invocation, account, "active", reason)


@command(accounts, "terminate")
async def terminate_account(invocation: Invocation, account: Account, reason: Reason = "") -> None:
    """End an account for good, as one that has to stop."""
    await _set_status(invocation, account, "terminated", reason)


@command(accounts, "close")
async def close_account(invocation: Invocation, account: Account, reason: Reason = "") -> None:
    """End an account for good, as one that is done."""
    await _set_status(invocation, account, "closed", reason)


@command(accounts, "reset-gate")
async def reset_gate(
    invocation: Invocation,
    account: Account,
    task: Annotated[
        str | None, typer.Option(help="Only of this task; '' means calls that name none. All unless given.")
    ] = None,
) -> None:
    """Open the confidence gate of an account again."""
    async with connected(invocation) as connection:
        answer = await connection.ask(AccountAnswer, ResetGate(account=account, task=task))
    write_account(invocation, answer)


@command(accounts, "erase")
async def erase_account(
    invocation: Invocation,
    account: Account,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; it cannot be undone.")] = False,
) -> None:
    """Forget an account's name, labels and the private parts of its records. Sums and the chain stay whole."""
    if not yes:
        raise ConfigurationInvalid(f"erasing {account} cannot be undone; say --yes")
    async with connected(invocation) as connection:
        answer = await connection.ask(ErasedAnswer, EraseName(account=account))
    invocation.output.answer(answer, f"erased; the account is number {answer.number} from now on")


async def read_roots(connection: Connection) -> list[AccountAnswer]:
    """The accounts of the first page that have no parent."""
    page = await connection.read(AccountsPage, ListAccounts(tenant=connection.tenant, limit=PAGE_LENGTH_MAX))
    return [account for account in page.accounts if account.parent is None]


def write_account(invocation: Invocation, account: AccountAnswer) -> None:
    """Write one account: what it is, and a table of its budgets."""
    if invocation.json:
        invocation.output.answer(account, "")
        return
    effective = f" (in effect {account.status_effective})" if account.status_effective != account.status else ""
    write_line(f"{account.account}: {account.status}{effective}, number {account.number}")
    for name, text in (
        ("parent", account.parent or "none, a root"),
        ("priority", str(account.priority)),
        ("labels", pairs_text(account.labels)),
        ("min reserve", amounts_text(account.min_reserve)),
        ("shortage", ", ".join(account.shortage)),
        ("grants", _granting_text(account)),
        ("gate", _gate_text(account)),
        ("closed for", "; ".join(_closed_text(gate) for gate in account.gates)),
    ):
        if text:
            write_line(f"  {name}: {text}")
    if account.budgets:
        write_table(COLUMNS[3:], (row[3:] for row in account_rows(account)))


def _granting_text(account: AccountAnswer) -> str:
    """How grants are sized, and who says so; nothing where only the service's setting does."""
    if account.grant_strategy_effective is None:
        return ""
    sources = {"account": "", "template": ", by its template", "above": ", by an account above it"}
    return account.grant_strategy_effective + sources[account.grant_strategy_from or "account"]


def _gate_text(account: AccountAnswer) -> str:
    """When the confidence gate closes, and for how long."""
    if account.confidence_threshold is None:
        return ""
    how_long = f"for {account.gate_s} s" if account.gate_s is not None else "until it is reset"
    return f"closes at a confidence of {account.confidence_threshold:g} {how_long}"


def _closed_text(gate: GateView) -> str:
    """One closed gate."""
    task = "calls without a task" if gate.task == "" else gate.task or f"a task (key {gate.key})"
    return f"{task} until {gate.opens_at}" if gate.opens_at else task


def account_rows(account: AccountAnswer) -> list[tuple[str, ...]]:
    """A row for each budget of an account; one without if there is none."""
    who = (account.account, account.parent or "", account.status_effective)
    rows = [
        (*who, view.budget, "allocated" if view.allocated else view.mode, *_balance_cells(view))
        for view in account.budgets
    ]
    return rows or [(*who, *("" for _ in COLUMNS[3:]))]


def _balance_cells(view: BudgetView) -> tuple[str, ...]:
    """The running window of a budget; one that nothing has touched yet has all of its limit."""
    if view.balance is not None:
        return balance_row(view.balance)
    limit = amount_text(view.unit, view.limit)
    return (view.unit, limit, "0", "0", "0", limit, "")
