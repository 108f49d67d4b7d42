"""``fiscus enforcement``, ``configure`` and ``track``: what of the token manager has no other command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from fiscus.cli.connection import connected
from fiscus.cli.invocation import Invocation
from fiscus.cli.output import amount_text, read_amounts, read_pairs
from fiscus.contract.errors import refusal
from fiscus.contract.manager import configured
from fiscus.contract.queries import EnforcementView, ReadEnforcement
from fiscus.core.commands import Settle
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.records import CallRecord, Provenance, Tokens

FIELDS = ("user_id", "project_id", "team_id", "feature", "task_type", "workflow_id")


async def show_enforcement(invocation: Invocation) -> None:
    """Show what the service has decided since it started: checks, refusals, and the overrides that were granted."""
    async with connected(invocation) as connection:
        found = await connection.read(EnforcementView, ReadEnforcement(tenant=connection.tenant))
    text = (
        f"{found.checks_performed:,} checks, {found.requests_blocked:,} refused ({found.blocked_percent} %), "
        f"{found.budgets_exceeded:,} of them beyond a budget; {found.overrides_granted:,} overrides granted; "
        f"{'healthy' if found.healthy else 'not healthy'}"
    )
    refusals = [f"  {code}: {number:,}" for code, number in sorted(found.refusals.items())]
    invocation.output.answer(found, "\n".join([text, *refusals]))


def configure(
    invocation: Invocation,
    options: Annotated[list[str] | None, typer.Argument(help="retention_days=30 …", metavar="NAME=VALUE...")] = None,
) -> None:
    """Say where the options of the token manager are set: none of them is while the ledger runs."""
    found = configured(read_pairs(options or ()))
    if isinstance(found, Refused):
        raise refusal(found)
    invocation.output.answer(found, "\n".join(f"{name}: {where}" for name, where in found.options.items()))


async def track_usage(
    invocation: Invocation,
    account: Annotated[str, typer.Argument(help="Who pays.")],
    amounts: Annotated[
        list[str], typer.Argument(help="input_tokens=900, output_tokens=100, cost=$0.02 …", metavar="UNIT=AMOUNT...")
    ],
    id: Annotated[str | None, typer.Option(help="Of the request; the same again books nothing.")] = None,
    provider: Annotated[str | None, typer.Option(help="Who sold it.")] = None,
    model: Annotated[str | None, typer.Option(help="Which was asked.")] = None,
    record: Annotated[list[str] | None, typer.Option(help=f"NAME=TEXT of {', '.join(FIELDS)}. Repeatable.")] = None,
    parent_request: Annotated[str | None, typer.Option(help="Id of the request that caused it.")] = None,
) -> None:
    """Book a call that was made without a hold. It is never refused for lack of budget."""
    read, said = read_amounts(amounts), read_pairs(record or ())
    unknown = next((name for name in said if name not in FIELDS), None)
    if unknown is not None:
        raise typer.BadParameter(f"record: {unknown} is none of {', '.join(FIELDS)}", param_hint="--record")
    has_tokens = "input_tokens" in read and "output_tokens" in read
    command = Settle(
        id=id or _new_id(),
        account=account,
        total=read,
        record=CallRecord(
            provider=provider,
            model=model,
            tokens=Tokens(input=read["input_tokens"], output=read["output_tokens"]) if has_tokens else None,
            cost_nanousd=read.get("cost"),
            user_id=said.get("user_id"),
            project_id=said.get("project_id"),
            team_id=said.get("team_id"),
            feature=said.get("feature"),
            provenance=Provenance(
                request_id=id,
                parent_request_id=parent_request,
                task_type=said.get("task_type"),
                workflow_id=said.get("workflow_id"),
            ),
        ),
    )
    async with connected(invocation) as connection:
        answer = await connection.ask(HoldAnswer, command)
    booked = ", ".join(f"{amount_text(unit, amount)} {unit}" for unit, amount in answer.booked.items())
    invocation.output.answer(answer, f"{answer.account}: booked {booked} (id {answer.id})")


def _new_id() -> str:
    """A new UUIDv7."""
    from uuid_utils import uuid7

    return str(uuid7())


COMMANDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("track", track_usage),
    ("enforcement", show_enforcement),
    ("configure", configure),
)
"""What is registered below ``fiscus``."""
