"""What policies cost the decision: a reserve with the longest list of them on, against a plain one.

Three kinds of reserve are decided in turn, each settled afterwards and not timed, on ledgers of the same five levels: a
plain one; one that fits, with everything on (a list of all steps, a confidence gate, a reserve, warning budgets,
overrides, things that the caller offers), which is the bar; and one that does not fit, whose list's third step,
``clamp``, makes it in one decision, after it was refused. What a list costs that runs depends on what is in it.
"""

from __future__ import annotations

import statistics
from time import perf_counter_ns

from bench.measuring import Figures, run_as_child, scaled
from fiscus.core.commands import (
    Alternative,
    AnyCommand,
    OverridePolicy,
    PutAccount,
    PutBudget,
    Request,
    Reserve,
    Settle,
    ShortageStep,
)
from fiscus.core.decide import decide, new_draft
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.state import Draft

LEVELS = ("global", "team", "project", "user", "agent")
STEPS: tuple[ShortageStep, ...] = ("reallocate", "downgrade", "clamp", "wait", "ask", "deny")
TAKEN: tuple[ShortageStep, ...] = ("reallocate", "downgrade", "clamp")
DECISIONS, ROUNDS, START_MS = 20_000, 5, 1_760_004_000_000
LIMIT = 2**40
OFFERED = {
    "least": {"tokens": 100},
    "alternatives": (
        Alternative(model="b", amounts={"tokens": LIMIT}),
        Alternative(model="c", amounts={"tokens": LIMIT}),
    ),
}


def measure(scale: float = 1.0) -> Figures:
    """Median of rounds, in microseconds a decision."""
    count = scaled(DECISIONS, scale, least=200)
    plain, full, short = ledger(policies=False), ledger(policies=True), ledger(policies=True)
    taken: dict[str, list[float]] = {"plain": [], "fits": [], "clamped": []}
    for number in range(ROUNDS):
        taken["plain"].append(timed(plain, f"p{number}", count, 1_000, policies=False))
        taken["fits"].append(timed(full, f"f{number}", count, 1_000, policies=True))
        taken["clamped"].append(timed(short, f"c{number}", count, LIMIT, policies=True))
    us = {name: statistics.median(values) for name, values in taken.items()}
    ratios = {
        name: statistics.median(one / base for one, base in zip(taken[name], taken["plain"], strict=True))
        for name in ("fits", "clamped")
    }
    return {
        "policies_vs_plain": round(ratios["fits"], 2),
        "decisions": count,
        "us_a_decision": {name: round(value, 2) for name, value in us.items()},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
    }


def ledger(*, policies: bool) -> Draft:
    """Five levels with a budget in tokens each."""
    draft = new_draft()
    above = None
    for level in LEVELS:
        do(draft, PutAccount(account=level, parent=above))
        do(draft, PutBudget(account=level, unit="tokens", limit=2**39))
        above = level
    if policies:
        for level in LEVELS:
            do(draft, PutBudget(account=level, unit="tokens", budget="warned", limit=2**39, mode="warn"))
            do(draft, PutBudget(account=level, unit="calls", limit=2**39, override=OverridePolicy(max_percent=10)))
        do(
            draft,
            PutAccount(
                account="agent",
                shortage=STEPS,
                min_reserve={"tokens": 100},
                confidence_threshold=0.9,
                gate_s=60,
            ),
        )
    return draft


def do(draft: Draft, command: AnyCommand) -> None:
    outcome = decide(draft, Request(command=command), START_MS)
    assert not isinstance(outcome, Refused), outcome
    draft.commit()


def timed(draft: Draft, round: str, count: int, amount: int, *, policies: bool) -> float:
    """Microseconds a reserve; what it holds is given back in between."""
    total = 0
    for number in range(count):
        id = f"{round}-{number}"
        if policies:
            command = Reserve(id=id, account="agent", amounts={"tokens": amount}, attributes={"task": "t"}, **OFFERED)
            request = Request(command=command, steps=TAKEN if amount == LIMIT else ())
        else:
            request = Request(command=Reserve(id=id, account="agent", amounts={"tokens": amount}))
        begun = perf_counter_ns()
        outcome = decide(draft, request, START_MS)
        total += perf_counter_ns() - begun
        assert isinstance(outcome, HoldAnswer), outcome
        draft.commit()
        decide(draft, Request(command=Settle(id=id, total={"tokens": 0})), START_MS)
        draft.commit()
    return total / count / 1_000


if __name__ == "__main__":
    run_as_child(measure)
