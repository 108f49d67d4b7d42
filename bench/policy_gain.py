"""What moving budget is worth: recorded traffic of several agents within half of the tokens that it would use.

Calls are taken as recorded, in time order, with their tokens and how long they ran; a slice and which agent each call
is of are drawn by a seed. Where a trace knows sessions, a session stays with one agent; where it does not, agents
differ in how much they do (shares 1, 1/2, 1/3, …). A call reserves what it will use or 512 tokens of output, whichever
is more, and is lost when it is refused. What counts are the tokens of calls that were made in full.

fixed        each agent has an equal allocation
reallocate   the same, and a list: what is short is borrowed, a tenth of each allocation is kept in reserve
priority     the same with agents of three priorities: nothing flows from a more important one
shared       no allocations: who comes first
oracle       knows the trace, and which calls together use all of the budget: a bound, since none may
"""

from __future__ import annotations

import random
from collections.abc import Coroutine, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from bench.measuring import Figures, run_as_child, say, scaled
from fiscus.cli.traces import Call, read_calls
from fiscus.contract.queries import AnyQuery, View
from fiscus.core.commands import Allocate, AnyCommand, PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.decide import decide, new_draft
from fiscus.core.outcomes import AnyOutcome, Refused
from fiscus.treasury.reading import read_view
from fiscus.treasury.shortage import run_list

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
FILES = (
    "azure_llm_2023_code_until1845.csv.gz",
    "azure_llm_2023_conv_until1845.csv.gz",
    "claude_code_v6_paired_dupes_A.csv.gz",
    "claude_code_v8_A.csv.gz",
)
AGENTS, SEEDS, CALLS = 16, 20, 1_200
SHARE, OUTPUT_LEAST, RESERVE_SHARE = 2, 512, 10
POLICIES = ("fixed", "reallocate", "priority", "shared")
MOVING = ("reallocate", "priority")
START_MS = 1_760_004_000_000


class Ledger:
    """A ledger in memory that answers at once, with the clock of the trace."""

    def __init__(self) -> None:
        self.draft = new_draft()
        self.now = START_MS

    async def execute(self, request: Request) -> AnyOutcome:
        outcome = decide(self.draft, request, self.now)
        self.draft.commit()
        return outcome

    async def read(self, query: AnyQuery) -> View | Refused:
        return read_view(self.draft, 0, query, self.now)

    def do(self, command: AnyCommand) -> AnyOutcome:
        """Decide; a list is run as the treasury does."""
        request = Request(command=command)
        outcome = at_once(self.execute(request))
        if isinstance(outcome, Refused) and outcome.shortage:
            outcome = at_once(run_list(self, request, outcome))
        return outcome


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never has to wait."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the ledger answers at once")


def measure(scale: float = 1.0) -> Figures:
    """The gain of the best policy that moves budget over fixed caps, on the trace where it is least."""
    seeds, length = scaled(SEEDS, scale, least=2), scaled(CALLS, scale, least=200)
    traces = {}
    for name in FILES:
        calls = list(read_calls(TRACES / name))
        runs = [simulate(calls, length, seed) for seed in range(seeds)]
        traces[name.partition(".")[0]] = compared(runs)
        say(f"{name}: {traces[name.partition('.')[0]]}")
    return {"gain_min": min(one["gain"] for one in traces.values()), "seeds": seeds, "agents": AGENTS, "traces": traces}


def compared(runs: Sequence[dict[str, int]]) -> Figures:
    """Means over the seeds, against fixed caps and against the oracle."""
    totals = {name: sum(run[name] for run in runs) for name in (*POLICIES, "oracle")}
    gains = {name: round(totals[name] / totals["fixed"], 4) for name in (*POLICIES, "oracle")}
    best = max(MOVING, key=lambda name: totals[name])
    return {
        "gain": gains[best],
        "best": best,
        "worst_seed": round(min(run[best] / max(1, run["fixed"]) for run in runs), 4),
        "of_oracle": round(totals[best] / totals["oracle"], 4),
        "tokens_against_fixed": gains,
        "tokens": {name: total // len(runs) for name, total in totals.items()},
    }


def simulate(trace: Sequence[Call], length: int, seed: int) -> dict[str, int]:
    """Tokens of the calls that were made in full, by policy."""
    draw = random.Random(f"policies-{seed}")
    begin = draw.randrange(max(1, len(trace) - length))
    calls = trace[begin : begin + length]
    agents = agents_of(calls, draw)
    total = sum(tokens_of(call) for call in calls)
    priorities = [draw.randint(1, 3) for _ in range(AGENTS)]
    found = {name: run(name, calls, agents, total // SHARE, priorities) for name in POLICIES}
    found["oracle"] = total // SHARE
    return found


def agents_of(calls: Sequence[Call], draw: random.Random) -> list[int]:
    """Whose each call is."""
    weights = [1 / (number + 1) for number in range(AGENTS)]
    of_session: dict[str, int] = {}
    found = []
    for call in calls:
        if call.session:
            key = f"{call.session}/{call.subagent}"
            found.append(of_session.setdefault(key, draw.randrange(AGENTS)))
        else:
            found.append(draw.choices(range(AGENTS), weights)[0])
    return found


def tokens_of(call: Call) -> int:
    return call.input_tokens + call.output_tokens


def run(policy: str, calls: Sequence[Call], agents: Sequence[int], budget: int, priorities: Sequence[int]) -> int:
    """One policy over the calls."""
    ledger = Ledger()
    ledger.do(PutAccount(account="fleet", shortage=("reallocate",) if policy in MOVING else ()))
    ledger.do(PutBudget(account="fleet", unit="tokens", limit=budget, thresholds={}))
    size = budget // AGENTS
    for number in range(AGENTS):
        kept = {"tokens": size // RESERVE_SHARE} if policy in MOVING else {}
        priority = priorities[number] if policy == "priority" else 1
        ledger.do(PutAccount(account=f"agent:{number}", parent="fleet", priority=priority, min_reserve=kept))
        if policy != "shared":
            ledger.do(Allocate(account=f"agent:{number}", unit="tokens", to=size))
    made = 0
    running: list[tuple[int, int]] = []
    for index, call in enumerate(calls):
        now = START_MS + int(call.at_s * 1_000)
        while running and running[0][0] <= now:
            made += end(ledger, *heappop(running), calls)
        ledger.now = max(ledger.now, now)
        bound = call.input_tokens + max(call.output_tokens, OUTPUT_LEAST)
        reserve = Reserve(id=str(index), account=f"agent:{agents[index]}", amounts={"tokens": bound}, lease_s=86_400)
        if not isinstance(ledger.do(reserve), Refused):
            heappush(running, (now + int(call.duration_s * 1_000), index))
    while running:
        made += end(ledger, *heappop(running), calls)
    return made


def end(ledger: Ledger, at: int, index: int, calls: Sequence[Call]) -> int:
    """Book a call that has ended."""
    ledger.now = max(ledger.now, at)
    used = tokens_of(calls[index])
    outcome = ledger.do(Settle(id=str(index), total={"tokens": used}))
    assert not isinstance(outcome, Refused), outcome
    return used


if __name__ == "__main__":
    run_as_child(measure)
