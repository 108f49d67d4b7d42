"""Whether budgets hold: streams against an upstream that counts what it really produced, budgets small against them.

1, 8, 32 and 128 streams an account, on one node and on two; beside them, on the same load, what others do: count after
the fact, and reserve ``max_tokens``, both simulated by a governor in the client. What was used is the upstream's word.

Who cuts no stream cannot have all of them running when 90 % of a budget are spent, unless the last tenth is enough for
them to come to their ends: about 170 tokens each. ``BUDGETS`` are not much larger than that. For the ``SMALLER`` ones
an oracle that knows each length beforehand shows how much could be had; they are in the table, and in those bars that
have to be met on any budget.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import uvloop

from bench.databases import durable_postgres
from bench.gateway_stand import GATEWAY_PATH, prepare, started
from bench.gateway_streams import ASKED_TOKENS, Order
from bench.gateway_upstream import Plan, Produced, Upstream
from bench.gateway_wire import SECRET
from bench.ledgers import LIMIT, agent
from bench.measuring import Figures, run_as_child, say, scaled, scratch
from bench.processes import pipe, process
from fiscus.client.remote import RemoteTreasury
from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.core.commands import PutBudget, Request
from fiscus.core.outcomes import Refused
from fiscus.core.units import Unit

STREAMS = (1, 8, 32, 128)
ACCOUNTS = 2
BUDGETS = {1: 4_000, 8: 24_000, 32: 64_000, 128: 160_000}
SMALLER = {8: 10_000, 32: 16_000, 128: 20_000}
EVENTS_PER_S_MAX = 3_000
"""All streams together: what the upstream produces is bounded by its pace, not by who passes it on."""

PACE_S_LEAST = 0.005
LENGTH_MEDIAN, LENGTH_SIGMA = 150, 0.8
ROW_S_MAX = 600.0
WARM_STREAMS, WARM_CALLS = 8, 3
UNIT: Unit = "output_tokens"
HERE = ("count_after", "reserve_max", "one_node", "two_nodes")


def measure(scale: float = 1.0, *, streams: Sequence[int] = STREAMS, smaller: Mapping[int, int] = SMALLER) -> Figures:
    """The table, and the worst of each of its columns for the gateway.

    Args:
        scale: of the budgets, down to two whole answers.
        streams: how many an account has; ``smaller``: for which of them there are rows with a smaller budget too.
    """
    rows: list[Figures] = []
    with scratch() as folder, durable_postgres() as postgres, ExitStack() as stack:
        _, upstream = stack.enter_context(started("gateway_upstream"))
        shared = postgres.migrated_database()
        stores = {"one_node": [f"sqlite:///{folder}/service.db"], "two_nodes": [shared, shared]}
        nodes: dict[str, list[int]] = {}
        for name, urls in stores.items():
            uvloop.run(prepare(urls[0]))
            paced = f"http://127.0.0.1:{upstream}/paced"
            nodes[name] = [stack.enter_context(started("gateway_serving", url, paced))[1] for url in urls]
        load = stack.enter_context(process("gateway_streams"))
        loads = [(count, budgets) for count in streams for budgets in (BUDGETS, smaller) if count in budgets]
        for index, (count, budgets) in enumerate(loads):
            accounts = [agent(index * ACCOUNTS + number) for number in range(ACCOUNTS)]
            plan = _plan(count, scaled(budgets[count], scale, least=2 * ASKED_TOKENS), seed=index)
            rows += _row(load, upstream, nodes, accounts, count, plan, counts=budgets is BUDGETS)
    ours = [row for row in rows if row["who"] in nodes]
    counting = [row for row in ours if row["counts"]]
    say(table(rows))
    return {
        "overshoot_tokens_max": max(row["overshoot_tokens"] for row in ours),
        "usable_share_min": min(row["usable_share"] for row in ours),
        "cut_streams_per_account_mean": max(row["cut"] for row in counting),
        "streams_running_vs_count_after": min(row["running_vs_count_after"] for row in counting),
        "accounts": ACCOUNTS,
        "rows": rows,
    }


def _plan(streams: int, budget: int, seed: int) -> Plan:
    return Plan(
        pace_s=max(PACE_S_LEAST, ACCOUNTS * streams / EVENTS_PER_S_MAX),
        length_median=LENGTH_MEDIAN,
        length_sigma=LENGTH_SIGMA,
        budget=budget,
        seed=seed,
    )


def _row(
    load: subprocess.Popen[str],
    upstream: int,
    nodes: dict[str, list[int]],
    accounts: list[str],
    streams: int,
    plan: Plan,
    *,
    counts: bool,
) -> list[Figures]:
    """One load, on everybody; ``counts``: whether it does for what depends on the size of a budget."""
    rows: list[Figures] = []
    could = oracle(streams, plan)
    for who in HERE:
        if who in nodes:
            _warm(load, upstream, nodes[who], accounts, plan)
            uvloop.run(_set_budgets(nodes[who][0], accounts, plan.budget))
            order = Order(
                ports=nodes[who], path=GATEWAY_PATH, accounts=accounts, streams=streams, seconds_max=ROW_S_MAX
            )
        else:
            order = Order(
                ports=[upstream],
                path="/paced/chat/completions",
                accounts=accounts,
                streams=streams,
                seconds_max=ROW_S_MAX,
                governor=who,  # type: ignore[arg-type]
                budget=plan.budget,
            )
        _exchange(upstream, "/plan", plan)
        done = _do(load, order)
        assert not done["broken"], f"{done['broken']} calls failed"
        row = _figures(who, streams, plan, _produced(upstream), accounts, done)
        rows.append(row)
        running = rows[0]["running"]
        row["running_vs_count_after"] = row["running"] / running if running else 1.0
        row |= {"oracle_vs_count_after": could, "counts": counts}
        say(line(row))
    return rows


def _warm(load: subprocess.Popen[str], upstream: int, ports: list[int], accounts: list[str], plan: Plan) -> None:
    """Let each node see how long the answers of each account are, as it would know after its first minutes."""
    _exchange(upstream, "/plan", msgspec.structs.replace(plan, pace_s=0.001, budget=1 << 40, seed=plan.seed + 1_000))
    for port in ports:
        order = Order(
            ports=[port],
            path=GATEWAY_PATH,
            accounts=accounts,
            streams=WARM_STREAMS,
            seconds_max=ROW_S_MAX,
            calls_max=WARM_CALLS,
        )
        done = _do(load, order)
        assert done["whole"] == WARM_STREAMS * WARM_CALLS * len(accounts), done


async def _set_budgets(port: int, accounts: list[str], budget: int) -> None:
    """Leave each account so much, whatever it has used before."""
    treasury = RemoteTreasury(f"http://127.0.0.1:{port}", SECRET)
    for account in accounts:
        await _put_budget(treasury, account, LIMIT)
        view = await treasury.read(ReadAccount(account=account))
        assert isinstance(view, AccountView), view
        left = next(one.balance.available for one in view.account.budgets if one.unit == UNIT and one.balance)
        await _put_budget(treasury, account, LIMIT - left + budget)
    await treasury.close()


async def _put_budget(treasury: RemoteTreasury, account: str, limit: int) -> None:
    outcome = await treasury.execute(Request(command=PutBudget(account=account, unit=UNIT, limit=limit)))
    assert not isinstance(outcome, Refused), outcome


def _do(load: subprocess.Popen[str], order: Order) -> Figures:
    orders = pipe(load.stdin)
    orders.write(msgspec.json.encode(order).decode() + "\n")
    orders.flush()
    done: Figures = json.loads(pipe(load.stdout).readline())
    return done


def _exchange(upstream: int, path: str, content: Any = None) -> bytes:
    data = None if content is None else msgspec.json.encode(content)
    with urllib.request.urlopen(f"http://127.0.0.1:{upstream}{path}", data=data) as response:
        read: bytes = response.read()
        return read


def _produced(upstream: int) -> dict[str, Produced]:
    return msgspec.json.decode(_exchange(upstream, "/produced"), type=dict[str, Produced])


def _figures(
    who: str, streams: int, plan: Plan, produced: dict[str, Produced], accounts: list[str], done: Figures
) -> Figures:
    found = [produced.get(account, Produced()) for account in accounts]
    assert not any(one.running for one in found), "streams run on"
    budget = plan.budget
    return {
        "who": who,
        "streams": streams,
        "budget": budget,
        "pace_ms": plan.pace_s * 1e3,
        "overshoot_tokens": max(0, *(one.tokens - budget for one in found)),
        "overshoot_share": max(0.0, *(one.tokens / budget - 1 for one in found)),
        "usable_share": min(min(1.0, one.tokens / budget) for one in found),
        "cut": sum(one.left + one.clamped for one in found) / len(found),
        "left": sum(one.left for one in found) / len(found),
        "clamped": sum(one.clamped for one in found) / len(found),
        "streams_begun": sum(one.streams for one in found) / len(found),
        "running": sum(_running(one) for one in found) / len(found),
        "produced": [one.tokens for one in found],
        **done,
    }


def _running(one: Produced) -> float:
    """Streams that ran at once on the average, until 90 % of the budget were produced."""
    if one.first_s is None:
        return 0.0
    until_s = one.changed_s if one.most_s is None else one.most_s
    return one.stream_s / max(1e-9, until_s - one.first_s)


def oracle(streams: int, plan: Plan) -> float:
    """Streams that run at once until 90 % are produced if each begins only where all of it fits, of count-after's."""
    return _simulated(streams, plan, knows=True) / _simulated(streams, plan, knows=False)


def _simulated(streams: int, plan: Plan, *, knows: bool) -> float:
    """Who ``knows`` begins streams whose whole length fits; who does not, while less than the budget is used."""
    draw = Upstream(plan)
    waiting = [_length(draw) for _ in range(streams)]
    running: list[list[int]] = []
    taken = produced = steps = stream_steps = 0
    while produced < 0.9 * plan.budget:
        still: list[int] = []
        for length in waiting:
            if taken + length <= plan.budget if knows else taken < plan.budget:
                running.append([length, length])
                taken += length if knows else 0
            else:
                still.append(length)
        waiting = still
        if not running:
            break
        ahead = min(left for left, _ in running)
        steps += ahead
        stream_steps += ahead * len(running)
        produced += ahead * len(running)
        for one in running:
            one[0] -= ahead
        taken += 0 if knows else sum(length for left, length in running if not left)
        waiting += [_length(draw) for left, _ in running if not left]
        running = [one for one in running if one[0]]
    return stream_steps / max(1, steps)


def _length(draw: Upstream) -> int:
    return min(ASKED_TOKENS, draw.length())


def line(row: Figures) -> str:
    """A row for people."""
    return (
        f"{row['streams']:7}{row['budget']:9}  {row['who']:12}{row['overshoot_share']:+10.2%}"
        f"{row['overshoot_tokens']:8}{row['usable_share']:10.2%}{row['cut']:8.1f}{row['running']:9.1f}"
        f"{row['running_vs_count_after']:8.2f}{row['oracle_vs_count_after']:8.2f}{row['busy']:7}"
        f"{row['seconds']:8.1f} s{row['load_cpu_s']:7.1f} s"
    )


def table(rows: Sequence[Figures]) -> str:
    """The table for people: output tokens that were really produced, worst account; streams, mean of the accounts."""
    head = (
        f"{'streams':7}{'budget':>9}  {'':12}{'overshoot':>10}{'tokens':>8}{'usable':>10}{'cut':>8}{'running':>9}"
        f"{'ratio':>8}{'oracle':>8}{'busy':>7}{'took':>10}{'load CPU':>9}"
    )
    return "\n".join((head, *map(line, rows)))


if __name__ == "__main__":
    run_as_child(measure)
