"""``fiscus tokens``: grants of the token economy, asked for and reported, at a service or in this process."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import msgspec
import typer

from fiscus.cli.connection import Connection, connected
from fiscus.cli.invocation import Invocation, command
from fiscus.cli.output import write_line
from fiscus.contract.errors import BudgetUnavailable, ConfigurationInvalid, FiscusError, refusal
from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.core.outcomes import RefusalCode, Refused

tokens = typer.Typer(help="Grants of the token economy: asked for, reported, paused.", no_args_is_help=True)

AgentId = Annotated[str, typer.Argument(help="Name of the agent, without 'agent:'.", metavar="AGENT")]
Agents = Annotated[str | None, typer.Argument(help="Name of the agent; all of them unless given.", metavar="AGENT")]
Reason = Annotated[str, typer.Option(help="Why; kept in the journal.")]
Id = Annotated[str | None, typer.Option(help="Of the request; the same again does nothing.")]

PATH = "/api/v1/tokens/"
CODES: dict[int, RefusalCode] = {
    401: "forbidden",
    403: "forbidden",
    404: "unknown_account",
    409: "conflict",
    422: "invalid",
}
"""What the API says by its status, in the ledger's words; all else means that it cannot answer now."""

A = TypeVar("A", bound=msgspec.Struct)


@command(tokens, "allocate")
async def allocate(
    invocation: Invocation,
    agent: AgentId,
    requested: Annotated[float, typer.Argument(help="Tokens asked for.", metavar="TOKENS")],
    complexity: Annotated[float, typer.Option(help="How hard the task is, 0.1 to 1; recorded with the grant.")] = 0.5,
    parent_agent: Annotated[str | None, typer.Option(help="By whose history the grant is sized.")] = None,
    source: Annotated[Literal["pool", "emergency_reserve"], typer.Option(help="Where it comes from.")] = "pool",
    id: Id = None,
) -> None:
    """Ask for a grant, and show why it is as large as it is."""
    from fiscus.api.economy.bodies import Allocated

    body = {"agent_id": agent, "requested_tokens": requested, "task_complexity": complexity, "explain": True}
    body |= {"parent_agent_id": parent_agent, "source": source}
    async with connected(invocation, creates=True) as connection:
        answer = await _ask(connection, "allocate", Allocated, body, id=id, makes_pool=True)
    invocation.output.answer(answer, f"{agent}: {answer.allocated_tokens:,} tokens granted")
    why = answer.explanation
    if not invocation.json and not isinstance(why, msgspec.UnsetType):
        terms = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in why.terms.items())
        write_line(f"  {why.base_tokens:,.0f} × {why.multiplier:g}, of {why.available_tokens:,} available")
        write_line(f"  {why.strategy} ({why.strategy_from}): {terms}")


@command(tokens, "consume")
async def consume(
    invocation: Invocation,
    agent: AgentId,
    used: Annotated[float, typer.Argument(help="Used since the last report.", metavar="TOKENS")],
    value: Annotated[float, typer.Option(help="What they were worth, by your own measure.")] = 0.0,
    id: Id = None,
) -> None:
    """Report tokens that were used. An agent that has used more than it had is terminated."""
    from fiscus.api.economy.bodies import Consumed

    body = {"agent_id": agent, "tokens_consumed": used, "value_generated": value}
    async with connected(invocation) as connection:
        answer = await _ask(connection, "consume", Consumed, body, id=id)
    text = f"{agent}: {answer.consumed:,} tokens used, {answer.remaining:,} left, efficiency {answer.efficiency:g}"
    invocation.output.answer(answer, f"{text}\n{answer.warning}" if answer.warning else text)


@command(tokens, "pause")
async def pause(invocation: Invocation, agent: Agents = None, reason: Reason = "") -> None:
    """Pause one agent, or all of them: no grants and no calls until they are resumed."""
    await _set_paused(invocation, "pause", agent, reason)


@command(tokens, "resume")
async def resume(invocation: Invocation, agent: Agents = None, reason: Reason = "") -> None:
    """Resume one agent, or all that are paused."""
    await _set_paused(invocation, "resume", agent, reason)


async def _set_paused(invocation: Invocation, what: Literal["pause", "resume"], agent: str | None, reason: str) -> None:
    from fiscus.api.economy.bodies import Paused

    async with connected(invocation) as connection:
        answer = await _ask(connection, what, Paused, {"agent_id": agent, "reason": reason})
    invocation.output.answer(answer, f"{answer.agents:,} agents {what}d")


@command(tokens, "status")
async def status(invocation: Invocation) -> None:
    """Show the pool, the active agents, and the most efficient of them."""
    from fiscus.api.economy.bodies import BudgetStatus

    async with connected(invocation) as connection:
        answer = await _ask(connection, "status", BudgetStatus)
    lines = [f"pool: {answer.remaining_budget:,} of {answer.global_budget:,} tokens left"]
    lines += [f"agents: {answer.active_agents:,} active, average efficiency {answer.average_efficiency:g}"]
    lines += [f"  {one.agent_id}: {one.efficiency:g} ({one.tokens_consumed:,} tokens)" for one in answer.top_performers]
    invocation.output.answer(answer, "\n".join(lines))


@command(tokens, "agent")
async def show_agent(invocation: Invocation, agent: AgentId) -> None:
    """Show one agent's grants."""
    from fiscus.api.economy.bodies import AgentStatus

    async with connected(invocation) as connection:
        answer = await _ask(connection, f"agent/{agent}", AgentStatus)
    text = f"{agent}: {answer.consumed:,} of {answer.allocated:,} tokens used ({answer.percent_used:g} %)"
    invocation.output.answer(answer, text)


# -- at a service, or here ----------------------------------------------------------------------------------------


async def _ask(
    connection: Connection,
    what: str,
    kind: type[A],
    body: dict[str, Any] | None = None,
    *,
    id: str | None = None,
    makes_pool: bool = False,
) -> A:
    """Ask the token economy, by the same requests wherever it is.

    Args:
        connection: to a service, or the ledger that is open here.
        what: the address below ``PATH``.
        kind: of the answer.
        body: of a write.
        id: of a write.
        makes_pool: whether a ledger without a pool gets one.

    Raises:
        Refusal: it said no.
        ConfigurationInvalid: a number has no end, which JSON cannot say.
        TreasuryError: nobody could be asked.
    """
    for name, given in (body or {}).items():
        if isinstance(given, float) and not isfinite(given):
            raise ConfigurationInvalid(f"{name}: must be a finite number, not {given}")
    method, raw = ("GET", b"") if body is None else ("POST", msgspec.json.encode(body))
    if connection.local is None:
        headers = {"Idempotency-Key": id} if id is not None else {}
        status, answer = await connection.send(method, PATH + quote(what), raw, headers)
    else:
        status, answer = await _ask_here(connection, method, PATH + what, raw, id, makes_pool=makes_pool)
    if status < 300:
        return msgspec.json.decode(answer, type=kind)
    raise _error(status, answer)


async def _ask_here(
    connection: Connection, method: str, path: str, raw: bytes, id: str | None, *, makes_pool: bool
) -> tuple[int, bytes]:
    from fiscus.api.economy import TokenEconomy
    from fiscus.api.economy.in_process import ask_here

    local, settings, tenant = connection.local, connection.settings, connection.tenant
    assert local is not None, "the ledger is open here"
    view = await local.read(ReadAccount(account="global", tenant=tenant))
    has_pool = isinstance(view, AccountView) and any(budget.budget == "pool" for budget in view.account.budgets)
    if not has_pool and not makes_pool:
        raise ConfigurationInvalid("there is no pool yet; it is made with the first grant: fiscus tokens allocate")
    economy = TokenEconomy(
        local,
        pool_tokens=settings.economy_budget_tokens,
        tenant=tenant,
        sealed=lambda: local.sealed_allocations(tenant),
        strategy=settings.economy_strategy,
        reserve_percent=settings.economy_reserve_percent,
    )
    async with economy:
        return await ask_here(economy, method, path, raw, id)


def _error(status: int, answer: bytes) -> FiscusError:
    """What is said by an answer that is none."""
    try:
        said = msgspec.json.decode(answer).get("detail", "")
    except (msgspec.DecodeError, AttributeError):
        said = f"status {status}"
    if isinstance(said, list):
        said = "; ".join(f"{'.'.join(fault['loc'][1:])}: {fault['msg']}" for fault in said)
    code = CODES.get(status)
    return refusal(Refused(code=code, detail=said)) if code is not None else BudgetUnavailable(said)
