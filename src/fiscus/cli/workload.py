"""The built-in workload: the calls of a fleet of agents, drawn from distributions fitted to recorded traces.

Three services share the fleet. ``support`` and ``assist`` are the conversation and the code service of Azure's trace of
2023-11-16: independent requests. ``coding`` are the coding-agent sessions of Claude Code: a session starts fresh or
resumed, its requests grow by what the last step added and are compacted now and then, and some have sub-agents.

How it was fitted (``scripts/fit_workload.py`` over ``azure_llm_2023_{code,conv}_until1845`` and ``claude_code_v8_A``):
every distribution is its quantiles at 27 probabilities, in between interpolated in the logarithm. Input and output are
drawn independently of each other (in Azure's traces their logarithms correlate with −0.01 and 0.04). When sessions
start is not in the trace; the gaps are gamma distributed with the coefficient of variation that the median tenant of
ServeGen's m-large has (1.82).

How well it fits, as the largest distance between the cumulative distributions of 40,000 generated calls and of the
trace (Kolmogorov–Smirnov; ``tests_data/test_workload_fit.py`` holds it to this): ``support`` gaps 0.02, input 0.04,
output 0.03; ``assist`` gaps 0.04, input 0.03, output 0.03; ``coding`` gaps between an agent's calls 0.04, output 0.02,
duration 0.03, input 0.20: that walk does not know why a context grows. The bursts of ``assist`` keep their coefficient
of variation (12 against 13.7), but not their order.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random

import msgspec

from fiscus.cli import workload_fit as fit
from fiscus.cli.traces import AZURE_MODEL, Call, generated_duration_s

SESSION_GAP_S = 10.0
"""Mean time between the starts of two coding sessions, so that they make about a third of the calls."""

WARM_UP_S = 10_800.0
"""Sessions have been starting for three hours when the workload begins, so that young and old ones are in it."""

CONTEXT_TOKENS_MAX = {"FRESH": 200_000, "RESUMED": 1_000_000, "SUBAGENT": 200_000}
COMPACTED_SHARE = 0.3
"""What is left of a context that reached its maximum."""


def generate(seed: int, calls: int) -> Iterator[Call]:
    """The first ``calls`` calls of the fleet in time order; the same for the same seed."""
    services = (
        _requests("support", _random(seed, "support"), fit.CONV_GAP_US, fit.CONV_INPUT_TOKENS, fit.CONV_OUTPUT_TOKENS),
        _requests("assist", _random(seed, "assist"), fit.CODE_GAP_US, fit.CODE_INPUT_TOKENS, fit.CODE_OUTPUT_TOKENS),
        _sessions("coding", _random(seed, "coding")),
    )
    merged = heapq.merge(*services, key=lambda call: call.at_s)
    for row, call in enumerate(islice(merged, calls), start=1):
        yield msgspec.structs.replace(call, row=row)


def draw(random: Random, quantiles: Sequence[int]) -> float:
    """A value of the distribution that has these quantiles at ``fit.PROBABILITIES``."""
    probability = random.random()
    upper = bisect_right(fit.PROBABILITIES, probability)
    lower = upper - 1
    share = (probability - fit.PROBABILITIES[lower]) / (fit.PROBABILITIES[upper] - fit.PROBABILITIES[lower])
    low, high = math.log1p(quantiles[lower]), math.log1p(quantiles[upper])
    return math.expm1(low + share * (high - low))


def _random(seed: int, team: str) -> Random:
    return Random(f"{seed}/{team}")  # noqa: S311  # it has to repeat, not to be secret


def _requests(
    team: str, random: Random, gap_us: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> Iterator[Call]:
    at_s = 0.0
    while True:
        at_s += draw(random, gap_us) / 1e6
        input_tokens, output_tokens = round(draw(random, inputs)), round(draw(random, outputs))
        yield Call(
            row=0,
            at_s=at_s,
            team=team,
            model=AZURE_MODEL,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            duration_s=generated_duration_s(input_tokens, output_tokens),
        )


def _sessions(team: str, random: Random) -> Iterator[Call]:
    """Sessions started one after the other, their calls merged: no later session has a call before its start."""
    shape = 1 / fit.SESSION_GAP_CV**2
    waiting: list[tuple[float, int, int, Call]] = []
    start_s, number = -WARM_UP_S, 0
    while True:
        number += 1
        start_s += random.gammavariate(shape, SESSION_GAP_S / shape)
        while waiting and waiting[0][0] < start_s:
            yield heapq.heappop(waiting)[-1]
        for position, call in enumerate(_session(team, f"s{number:04d}", start_s, random)):
            if call.at_s >= 0:
                heapq.heappush(waiting, (call.at_s, number, position, call))


def _session(team: str, session: str, start_s: float, random: Random) -> Iterator[Call]:
    kind = "FRESH" if random.random() < fit.FRESH_SHARE else "RESUMED"
    main = list(_agent(kind, team, session, "", start_s, random))
    yield from main
    if random.random() < fit.SUBAGENTS_SHARE:
        for number in range(1, round(draw(random, fit.SUBAGENTS_PER_SESSION)) + 1):
            spawned_s = main[random.randrange(len(main))].at_s
            yield from _agent("SUBAGENT", team, session, f"agent_{number:03d}", spawned_s, random)


def _agent(kind: str, team: str, session: str, subagent: str, start_s: float, random: Random) -> Iterator[Call]:
    quantiles: Mapping[str, tuple[int, ...]] = {
        name.removeprefix(f"{kind}_"): value for name, value in vars(fit).items() if name.startswith(f"{kind}_")
    }
    models: Mapping[str, int] = vars(fit)[f"{kind}_MODELS"]
    model = random.choices(list(models), weights=list(models.values()))[0]
    at_s, input_tokens = start_s, draw(random, quantiles["FIRST_INPUT_TOKENS"])
    for _ in range(round(draw(random, quantiles["CALLS"]))):
        yield Call(
            row=0,
            at_s=at_s,
            team=team,
            session=session,
            subagent=subagent,
            model=model,
            input_tokens=round(input_tokens),
            output_tokens=round(draw(random, quantiles["OUTPUT_TOKENS"])),
            duration_s=draw(random, quantiles["DURATION_MS"]) / 1e3,
        )
        at_s += draw(random, quantiles["GAP_MS"]) / 1e3
        if random.random() < fit.COMPACTION_SHARE:
            input_tokens *= draw(random, fit.COMPACTION_PERMILLE) / 1e3
        else:
            input_tokens += draw(random, quantiles["GROWTH_TOKENS"])
        if input_tokens > CONTEXT_TOKENS_MAX[kind]:
            input_tokens *= COMPACTED_SHARE
