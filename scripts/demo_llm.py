"""``make demo-llm``: agents on a real language model, through the gateway, until their budgets end.

    agents (OpenAI's SDK, base URL of the gateway) ──▶ fiscus serve ──▶ SmolLM2 in a llama.cpp server

They are told that their budgets run low, their answers are clamped to what is left, they are refused; the first that
is gets its limit raised and goes on. At the end the books have to equal the server's own counters.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import openai
from rich.console import Console
from rich.live import Live

import fiscus
from fiscus.cli.output import write_json
from fiscus.cli.replay.screen import console
from fiscus.cli.replay.service import free_port, own_service
from fiscus.cli.table import LiveRow, ReconciledRow, live_table, reconciliation_table
from fiscus.contract.queries import EntriesPage, ListEntries, ListUsage, UsagePage
from fiscus.core.records import Tokens
from fiscus.sdk import Treasury
from scripts.llm_server import MODEL, Counters, counters, model_server

TEAM = "team:paper"
TEAM_TOKENS, TEAM_NANOUSD = 8_000, 1_500_000_000
AGENT_NANOUSD = 500_000_000
RAISE_TOKENS = 600
ASKED_TOKENS = 160
REMEMBERED = 1
CALLS_MAX = 40
SECONDS_MAX = 240.0
LIVE_PERIOD_S = 0.5
TERMINATED = 143

GATEWAY = """
budget_notes = true

[[upstreams]]
name = "smollm2"
family = "openai"
base_url = "{model}/v1"
provider = "local"

[[prices]]
provider = "local"
model = "*"
input = "100"
cache_read = "10"
output = "400"
"""


class Agent(msgspec.Struct, kw_only=True):
    """One agent, and what has become of it.

    Attributes:
        tokens: its limit at first.
        seen: what the provider told it of its own calls.
        clamped: answers that ended at a smaller bound than it had asked for.
        refused: calls that its budget refused; ``raised``: how often its limit was.
    """

    name: str
    task: str
    tokens: int
    calls: int = 0
    seen: Tokens = Tokens()
    clamped: int = 0
    refused: int = 0
    raised: int = 0

    @property
    def account(self) -> str:
        """Who pays for it."""
        return f"agent:{self.name}"


def fleet() -> list[Agent]:
    """The agents, with budgets that end within a minute; the intern's does with its first answer."""
    return [
        Agent(name="intern", task="Write a long letter about saving money.", tokens=200),
        Agent(name="planner", task="Plan the next step of a short article about saving money.", tokens=1_000),
        Agent(name="writer", task="Write the next paragraph of a short article about saving money.", tokens=1_800),
        Agent(name="critic", task="Say what is wrong with an article about saving money.", tokens=1_400),
        Agent(name="editor", task="Think of a better title for an article about saving money.", tokens=1_200),
    ]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last word.

    Attributes:
        calls: that were admitted; ``refused``: the others.
        warned: thresholds from 75 percent on that agents passed, and were told of in their next request.
        clamped: answers that ended at a smaller bound than was asked for.
        raised: limits that were.
        booked_*: on the books; ``counted_*``: by the server's own counters, in tokens; ``cached`` is part of ``input``.
        difference_tokens: between the two; ``overspend_tokens``: beyond limits. Both have to be 0.
    """

    calls: int
    warned: int
    clamped: int
    refused: int
    raised: int
    booked_input: int
    booked_cached: int
    booked_output: int
    booked_cost_nanousd: int
    counted_input: int
    counted_cached: int
    counted_output: int
    difference_tokens: int
    overspend_tokens: int
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether the books equal the counters, no limit was passed, and all of it has happened."""
        happened = self.warned and self.clamped and self.refused and self.raised
        return bool(happened) and not (self.difference_tokens or self.overspend_tokens)


def main() -> int:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-wait", action="store_true", help="end at once; the last line is one JSON object")
    parser.add_argument("--agents", type=int, choices=range(1, len(fleet()) + 1), help="so many of the fleet, not all")
    parser.add_argument("--port", type=int, default=None, help="of the service; default: a free one")
    asked = parser.parse_args()
    try:
        return asyncio.run(demo(fleet()[: asked.agents], wait=not asked.no_wait, port=asked.port or free_port()))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return TERMINATED


async def demo(agents: Sequence[Agent], *, wait: bool, port: int) -> int:
    """Model, service, agents, the books against the counters. Returns 0 if they are equal."""
    output = console()
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with model_server() as model, own_service(port, gateway=GATEWAY.format(model=model)) as address:
        output.print(f"SmolLM2 answers at {model}; Fiscus stands before it at {address}/openai/v1", markup=False)
        async with connected(address) as treasury:
            await open_accounts(treasury, agents)
            started_s = time.monotonic()
            with watched(output, treasury, agents):
                await run(treasury, agents, address)
            summary, rows = await reconciled(treasury, agents, await counters(model), time.monotonic() - started_s)
        tell(output, summary, rows)
        if wait:
            output.print(
                f"\nThe service stays up until Ctrl-C. Look at it with\n"
                f"  curl '{address}/v1/usage?account={TEAM}&limit=3'\n"
                f"  curl {address}/v1/accounts/{TEAM}",
                markup=False,
            )
            await asyncio.Event().wait()
    if not wait:
        write_json(summary)
    return 0 if summary.is_right else 1


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Treasury]:
    """The service's ledger, for the one who gives out budgets."""
    with TemporaryDirectory(prefix="fiscus-") as folder:
        async with fiscus.connect(address, "", spool_directory=Path(folder)) as treasury:
            yield treasury


async def open_accounts(treasury: Treasury, agents: Sequence[Agent]) -> None:
    """A team, its agents, and what each may spend."""
    await treasury.put_account(TEAM)
    await treasury.put_budget(TEAM, "tokens", TEAM_TOKENS, budget="tokens")
    await treasury.put_budget(TEAM, "cost", TEAM_NANOUSD, budget="cost")
    for agent in agents:
        await treasury.put_account(agent.account, parent=TEAM)
        await treasury.put_budget(agent.account, "tokens", agent.tokens, budget="tokens")
        await treasury.put_budget(agent.account, "cost", AGENT_NANOUSD, budget="cost")


# -- the agents ---------------------------------------------------------------------------------------------------


async def run(treasury: Treasury, agents: Sequence[Agent], address: str) -> None:
    """Let all agents work until their budgets end; the first that is refused gets more, once."""
    to_be_raised = asyncio.Lock()
    async with asyncio.timeout(SECONDS_MAX), asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(work(treasury, agent, address, to_be_raised))


async def work(treasury: Treasury, agent: Agent, address: str, to_be_raised: asyncio.Lock) -> None:
    """One agent: asks, reads, remembers a little, asks again, until it is refused for good."""
    said: list[tuple[str, str]] = []
    headers = {"x-fiscus-agent": agent.name}
    async with openai.AsyncOpenAI(base_url=f"{address}/openai/v1", api_key="none", default_headers=headers) as client:
        while agent.calls < CALLS_MAX:
            try:
                text = await ask(client, agent, said[-REMEMBERED:])
            except openai.RateLimitError:
                continue  # busy: the SDK has waited and asked again, and so do we
            except openai.APIStatusError as error:
                if error.status_code != 402:
                    raise
                agent.refused += 1
                if to_be_raised.locked():
                    return
                await to_be_raised.acquire()  # never given back: one limit is raised
                agent.raised += 1
                reason = f"{agent.name} has not finished"
                await treasury.adjust(agent.account, "tokens", RAISE_TOKENS, reason=reason)
            else:
                said.append((agent.task, text))


async def ask(client: openai.AsyncOpenAI, agent: Agent, said: Sequence[tuple[str, str]]) -> str:
    """One call, streamed."""
    messages: list[Any] = [{"role": "system", "content": f"You are the {agent.name} of a small newspaper."}]
    for task, answer in said:
        messages += ({"role": "user", "content": task}, {"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": agent.task})
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=messages,
        max_tokens=ASKED_TOKENS,
        temperature=0.7,
        seed=agent.calls,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, reason = "", None
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
        if chunk.usage is not None:
            cached = chunk.usage.prompt_tokens_details
            agent.calls += 1
            agent.clamped += reason == "length" and chunk.usage.completion_tokens < ASKED_TOKENS
            agent.seen = Tokens(
                input=agent.seen.input + chunk.usage.prompt_tokens,
                cache_read=agent.seen.cache_read + ((cached.cached_tokens if cached else None) or 0),
                output=agent.seen.output + chunk.usage.completion_tokens,
            )
    return text


# -- what people see ----------------------------------------------------------------------------------------------


@contextmanager
def watched(output: Console, treasury: Treasury, agents: Sequence[Agent]) -> Iterator[None]:
    """A table that is redrawn meanwhile, on a terminal; else a line for each look."""
    live = Live(console=output, auto_refresh=False, transient=True) if output.is_terminal else None
    watcher = asyncio.get_running_loop().create_task(watch(output, live, treasury, agents))
    if live is not None:
        live.start()
    try:
        yield
    finally:
        watcher.cancel()
        if live is not None:
            live.stop()


async def watch(output: Console, live: Live | None, treasury: Treasury, agents: Sequence[Agent]) -> None:
    """Look at the balances twice a second."""
    started_s = time.monotonic()
    while True:
        await asyncio.sleep(LIVE_PERIOD_S if live is not None else 4 * LIVE_PERIOD_S)
        seconds = time.monotonic() - started_s
        calls, clamped, refused, raised = (
            sum(getattr(agent, name) for agent in agents) for name in ("calls", "clamped", "refused", "raised")
        )
        title = f"{seconds:5.1f} s  {calls} calls, {clamped} clamped, {refused} refused, {raised} raised"
        rows = [await row_of(treasury, TEAM, 0, agents, seconds)]
        rows += [await row_of(treasury, agent.account, 1, [agent], seconds) for agent in agents]
        if live is not None:
            live.update(live_table(title, rows), refresh=True)
        else:
            output.print(f"{title}; spent {rows[0].tokens.spent:,} tokens", markup=False)


async def row_of(treasury: Treasury, account: str, depth: int, agents: Sequence[Agent], seconds: float) -> LiveRow:
    """One account as it is now."""
    balances = {balance.budget: balance for balance in await treasury.balance(account)}
    return LiveRow(
        account=account,
        depth=depth,
        tokens=balances["tokens"],
        cost=balances["cost"],
        refused=sum(agent.refused for agent in agents),
        calls_per_s=sum(agent.calls for agent in agents) / seconds,
    )


def tell(output: Console, summary: Summary, rows: Sequence[ReconciledRow]) -> None:
    """Show the books against the counters, and the last word on it."""
    output.print(reconciliation_table(rows))
    output.print(
        f"{summary.calls} calls in {summary.seconds:.1f} s: agents were warned {summary.warned} times,"
        f" {summary.clamped} answers clamped, {summary.refused} calls refused, {summary.raised} limit raised",
        markup=False,
    )
    verdict = "the books equal the server's own counters" if summary.is_right else "THE BOOKS ARE WRONG"
    output.print(
        f"counted by the server {summary.counted_input:,} + {summary.counted_output:,} tokens"
        f" ({summary.counted_cached:,} from its cache), booked {summary.booked_input:,} + {summary.booked_output:,}"
        f" ({summary.booked_cached:,}); overspend {summary.overspend_tokens}: {verdict}",
        style="green" if summary.is_right else "bold red",
        markup=False,
    )


# -- the books ----------------------------------------------------------------------------------------------------


async def reconciled(
    treasury: Treasury, agents: Sequence[Agent], counted: Counters, seconds: float
) -> tuple[Summary, list[ReconciledRow]]:
    """The books against what the server has counted, and each agent's against what it was told."""
    entries = await treasury.read(ListEntries(limit=1_000))
    assert isinstance(entries, EntriesPage)
    usage = await treasury.read(ListUsage(limit=1_000, min_seq=entries.as_of_seq))
    assert isinstance(usage, UsagePage)
    records = [one.record for one in usage.usage if one.record is not None]
    booked = [record.tokens or Tokens() for record in records]
    sums = [sum(getattr(tokens, name) for tokens in booked) for name in ("input", "cache_read", "output")]
    rows = [await row_at_the_end(treasury, TEAM, "team", counted.input + counted.output, agents)]
    rows += [
        await row_at_the_end(treasury, one.account, "agent", one.seen.input + one.seen.output, [one]) for one in agents
    ]
    apart = [abs(left - right) for left, right in zip(sums, counted[:3], strict=True)]
    return Summary(
        calls=sum(agent.calls for agent in agents),
        warned=sum(
            entry.kind == "threshold_crossed" and entry.data["percent"] in (75, 90, 95) for entry in entries.entries
        ),
        clamped=sum(agent.clamped for agent in agents),
        refused=sum(agent.refused for agent in agents),
        raised=sum(agent.raised for agent in agents),
        booked_input=sums[0],
        booked_cached=sums[1],
        booked_output=sums[2],
        booked_cost_nanousd=sum(record.cost_nanousd or 0 for record in records),
        counted_input=counted.input,
        counted_cached=counted.cached,
        counted_output=counted.output,
        difference_tokens=sum(apart) + sum(abs(row.difference) for row in rows),
        overspend_tokens=sum(row.overspend for row in rows),
        seconds=round(seconds, 1),
    ), rows


async def row_at_the_end(
    treasury: Treasury, account: str, level: str, produced: int, agents: Sequence[Agent]
) -> ReconciledRow:
    """One account: what was produced for it, and what its budgets say."""
    balances = {balance.budget: balance for balance in await treasury.balance(account)}
    tokens, cost = balances["tokens"], balances["cost"]
    return ReconciledRow(
        account=account,
        level=level,
        tokens_produced=produced,
        tokens_booked=tokens.spent,
        cost_produced=cost.spent,
        cost_booked=cost.spent,
        refused=sum(agent.refused for agent in agents),
        difference=tokens.spent + tokens.held + tokens.quarantined - produced,
        overspend=tokens.uncovered + tokens.overdrawn,
    )


if __name__ == "__main__":
    raise SystemExit(main())
