"""``fiscus budgets``: limits, allocations, adjustments and transfers."""

from __future__ import annotations

from typing import Annotated

import typer

from fiscus.cli.accounts import COLUMNS, Account, Reason, account_rows
from fiscus.cli.connection import connected
from fiscus.cli.invocation import Invocation, command
from fiscus.cli.output import amount_text, balance_row, read_amount, read_pairs, time_text, write_line, write_table
from fiscus.cli.times import Until, in_utc
from fiscus.contract.errors import ConfigurationInvalid
from fiscus.contract.queries import AccountView, ReadAccount, ReadSpared, SparedView
from fiscus.core.checks import ROLES
from fiscus.core.commands import (
    OVERRIDE_POLICY_DEFAULT,
    THRESHOLDS_DEFAULT,
    Adjust,
    Allocate,
    CarryOver,
    Deallocate,
    EndAdjustment,
    ExhaustionPolicy,
    Mode,
    OverridePolicy,
    PutBudget,
    RemoveBudget,
    Severity,
    Transfer,
)
from fiscus.core.outcomes import AdjustmentAnswer, AllocationAnswer, BudgetAnswer, BudgetView, TransferAnswer
from fiscus.core.units import Unit

budgets = typer.Typer(help="Limits per account, unit and period; allocations and transfers.", no_args_is_help=True)

Budget = Annotated[str, typer.Argument(help="Name, as tokens-day.", metavar="BUDGET")]
UnitGiven = Annotated[Unit, typer.Argument(help="What is counted.")]
AmountGiven = Annotated[str, typer.Argument(help="An integer; of cost nano-USD, or dollars as '$1.25'.")]
Exhaustion = Annotated[ExhaustionPolicy, typer.Option(help="What follows a refusal when it is exhausted.")]
IfVersion = Annotated[int | None, typer.Option(min=0, help="Only if this is its version (0: only if it is new).")]
Force = Annotated[bool, typer.Option("--force", help="Also below what is in use.")]


@command(budgets, "list")
async def list_budgets(invocation: Invocation, account: Account) -> None:
    """List the budgets and allocations of an account, exact now."""
    async with connected(invocation) as connection:
        view = await connection.read(AccountView, ReadAccount(tenant=connection.tenant, account=account))
    invocation.output.rows(view.account.budgets, COLUMNS[3:], (row[3:] for row in account_rows(view.account)))


@command(budgets, "spared")
async def spared(invocation: Invocation, account: Account) -> None:
    """Show what budgets that warn or observe would have refused in their running windows."""
    async with connected(invocation) as connection:
        view = await connection.read(SparedView, ReadSpared(tenant=connection.tenant, account=account))
    rows = [
        (
            one.budget,
            one.mode,
            one.unit,
            amount_text(one.unit, one.limit),
            f"{one.calls:,}",
            amount_text(one.unit, one.amount),
        )
        for one in view.budgets
    ]
    invocation.output.rows(view.budgets, ("budget", "mode", "unit", "limit>", "calls>", "too much>"), rows)


@command(budgets, "put")
async def put_budget(
    invocation: Invocation,
    account: Account,
    unit: UnitGiven,
    limit: AmountGiven,
    budget: Annotated[str | None, typer.Option("--name", help="Its name; UNIT-PERIOD unless given.")] = None,
    period: Annotated[
        str, typer.Option(help="hour, day, week, month, quarter, year, lifetime or every:SECONDS.")
    ] = "lifetime",
    zone: Annotated[str, typer.Option(help="IANA name of the time zone.")] = "UTC",
    mode: Annotated[Mode, typer.Option(help="Whether it refuses, warns or only counts.")] = "enforce",
    threshold: Annotated[
        list[str] | None, typer.Option(help="PERCENT=SEVERITY; replaces the five. Repeatable.")
    ] = None,
    match: Annotated[list[str] | None, typer.Option(help="KEY=VALUE that a call must have. Repeatable.")] = None,
    on_exhaustion: Exhaustion = "deny",
    carry_over: Annotated[CarryOver, typer.Option(help="Whether the rest goes to the next window.")] = "none",
    carry_max: Annotated[str | None, typer.Option(help="At most so much of it.")] = None,
    carry_debt: Annotated[
        bool, typer.Option("--carry-debt", help="What is overdrawn goes to the next window.")
    ] = False,
    override_percent: Annotated[
        int | None, typer.Option(min=0, help="Overrides may add so much of the limit in all; 50 unless given.")
    ] = None,
    override_s: Annotated[int | None, typer.Option(min=1, help="An override lasts so many seconds at most.")] = None,
    approver: Annotated[list[str] | None, typer.Option(help="Role that may decide on them. Repeatable.")] = None,
    approver_key: Annotated[list[str] | None, typer.Option(help="Id of a key that may, too. Repeatable.")] = None,
    no_approval: Annotated[bool, typer.Option("--no-approval", help="Grant overrides at once.")] = False,
    force: Force = False,
    if_version: IfVersion = None,
) -> None:
    """Make a budget, or replace all that is set of one."""
    wanted = PutBudget(
        account=account,
        unit=unit,
        limit=read_amount(unit, limit),
        budget=budget,
        period=period,
        zone=zone,
        mode=mode,
        thresholds=_thresholds(threshold) if threshold is not None else dict(THRESHOLDS_DEFAULT),
        match=read_pairs(match or ()),
        on_exhaustion=on_exhaustion,
        carry_over=carry_over,
        carry_max=read_amount(unit, carry_max) if carry_max is not None else None,
        carry_debt=carry_debt,
        override=_policy(override_percent, override_s, approver, approver_key, no_approval=no_approval),
        force=force,
        if_version=if_version,
    )
    async with connected(invocation) as connection:
        answer = await connection.ask(BudgetAnswer, wanted)
    _write_budget(invocation, answer.budget)


@command(budgets, "remove")
async def remove_budget(invocation: Invocation, account: Account, budget: Budget, if_version: IfVersion = None) -> None:
    """End a budget: it limits nothing from now on."""
    async with connected(invocation) as connection:
        wanted = RemoveBudget(account=account, budget=budget, if_version=if_version)
        answer = await connection.ask(BudgetAnswer, wanted)
    invocation.output.answer(answer.budget, f"{account} / {budget}: removed")


@command(budgets, "adjust")
async def adjust_budget(
    invocation: Invocation,
    account: Account,
    budget: Budget,
    by: Annotated[str, typer.Option("--by", help="How much more, or less if negative; dollars as '$1.25'.")],
    reason: Annotated[str, typer.Option(help="Why; required.")],
    until: Until = None,
    force: Force = False,
    adjustment: Annotated[str | None, typer.Option("--id", help="Its id; made unless given.")] = None,
) -> None:
    """Raise or lower the running window of a budget for a while, on the record."""
    async with connected(invocation) as connection:
        view = await connection.read(AccountView, ReadAccount(tenant=connection.tenant, account=account))
        unit: Unit = next((found.unit for found in view.account.budgets if found.budget == budget), "calls")
        wanted = Adjust(
            id=adjustment or new_id(),
            account=account,
            budget=budget,
            amount=read_amount(unit, by),
            reason=reason,
            valid_until=in_utc(until),
            force=force,
        )
        answer = await connection.ask(AdjustmentAnswer, wanted)
    _write_adjustment(invocation, answer)


@command(budgets, "end-adjustment")
async def end_adjustment(
    invocation: Invocation, account: Account, adjustment: Annotated[str, typer.Argument(help="Its id.")]
) -> None:
    """End an adjustment now; what is in use of it stays covered."""
    async with connected(invocation) as connection:
        answer = await connection.ask(AdjustmentAnswer, EndAdjustment(id=adjustment, account=account))
    _write_adjustment(invocation, answer)


@command(budgets, "allocate")
async def allocate(
    invocation: Invocation,
    account: Account,
    unit: UnitGiven,
    to: AmountGiven,
    until: Until = None,
    on_exhaustion: Exhaustion = "deny",
) -> None:
    """Carve a total out of what is above an account, as its own limit."""
    wanted = Allocate(
        account=account,
        unit=unit,
        to=read_amount(unit, to),
        valid_until=in_utc(until),
        on_exhaustion=on_exhaustion,
    )
    async with connected(invocation) as connection:
        answer = await connection.ask(AllocationAnswer, wanted)
    invocation.output.answer(answer, _allocation_text(answer))


@command(budgets, "deallocate")
async def deallocate(invocation: Invocation, account: Account, unit: UnitGiven) -> None:
    """End an allocation: the account draws on its parent again."""
    async with connected(invocation) as connection:
        answer = await connection.ask(AllocationAnswer, Deallocate(account=account, unit=unit))
    invocation.output.answer(answer, _allocation_text(answer))


@command(budgets, "transfer")
async def transfer(
    invocation: Invocation,
    source: Annotated[str, typer.Argument(help="Account that gives.")],
    target: Annotated[str, typer.Argument(help="Account that gets.")],
    unit: UnitGiven,
    amount: AmountGiven,
    reason: Reason = "",
) -> None:
    """Move unused allocation between two accounts below a common one."""
    wanted = Transfer(source=source, target=target, unit=unit, amount=read_amount(unit, amount), reason=reason)
    async with connected(invocation) as connection:
        answer = await connection.ask(TransferAnswer, wanted)
    ends = f"{_allocation_text(answer.source)}; {_allocation_text(answer.target)}"
    invocation.output.answer(answer, f"moved {amount_text(unit, answer.amount)} {unit}: {ends}")


def _write_budget(invocation: Invocation, budget: BudgetView) -> None:
    """Write one budget."""
    if invocation.json or budget.balance is None:
        invocation.output.answer(budget, f"{budget.account} / {budget.budget}: version {budget.version}")
        return
    write_line(f"{budget.account} / {budget.budget}: {budget.mode}, {budget.period}, version {budget.version}")
    write_table(COLUMNS[5:], [balance_row(budget.balance)])


def _write_adjustment(invocation: Invocation, answer: AdjustmentAnswer) -> None:
    """Write one adjustment with the window that it changes."""
    unit = answer.balance.unit
    until = f" until {time_text(answer.valid_until)}" if answer.valid_until else ""
    state = f"active{until}" if answer.active else "ended"
    text = (
        f"{answer.account} / {answer.budget}: {amount_text(unit, answer.amount)} {unit}, {state} (id {answer.id}); "
        f"limit {amount_text(unit, answer.balance.limit)}, available {amount_text(unit, answer.balance.available)}"
    )
    invocation.output.answer(answer, text)


def _allocation_text(answer: AllocationAnswer) -> str:
    """One allocation on one line."""
    size = amount_text(answer.unit, answer.size)
    left = f", available {amount_text(answer.unit, answer.balance.available)}" if answer.balance else ""
    return f"{answer.account}: {size} {answer.unit} allocated{left}"


def _policy(
    percent: int | None,
    duration_s: int | None,
    roles: list[str] | None,
    keys: list[str] | None,
    *,
    no_approval: bool,
) -> OverridePolicy | None:
    """Who may raise the budget, by how much and for how long; None: the default, as nothing is said of it."""
    known = OVERRIDE_POLICY_DEFAULT
    unknown = set(roles or ()).difference(ROLES)
    if unknown:
        raise ConfigurationInvalid(f"--approver {sorted(unknown)[0]}: one of {', '.join(ROLES)}")
    given = OverridePolicy(
        requires_approval=not no_approval,
        approvers=tuple(role for role in ROLES if role in roles) if roles else known.approvers,
        approver_keys=tuple(keys or ()),
        max_percent=known.max_percent if percent is None else percent,
        max_duration_s=known.max_duration_s if duration_s is None else duration_s,
    )
    return None if given == known else given


def _thresholds(pairs: list[str]) -> dict[int, Severity]:
    """Thresholds written as ``80=warning``."""
    known = {severity: severity for severity in THRESHOLDS_DEFAULT.values()}
    found: dict[int, Severity] = {}
    for percent, severity in read_pairs(pairs).items():
        if not percent.isdecimal() or severity not in known:
            raise ConfigurationInvalid(f"{percent}={severity}: write PERCENT=SEVERITY, one of {', '.join(known)}")
        found[int(percent)] = next(name for name in known if name == severity)
    return found


def new_id() -> str:
    """A new UUIDv7."""
    from uuid_utils import uuid7

    return str(uuid7())
