"""How far the built-in workload is from the traces it was fitted to: the figures in ``fiscus/cli/workload.py``."""

from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

import pytest

from fiscus.cli.traces import read_calls
from fiscus.cli.workload import generate

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
CALLS = 40_000
SERVICES = {
    "support": ("azure_llm_2023_conv_until1845.csv.gz", {"gap": 0.02, "input": 0.04, "output": 0.03}),
    "assist": ("azure_llm_2023_code_until1845.csv.gz", {"gap": 0.04, "input": 0.03, "output": 0.03}),
    "coding": ("claude_code_v8_A.csv.gz", {"gap": 0.04, "input": 0.20, "output": 0.02, "duration": 0.03}),
}


@pytest.fixture(scope="module")
def workload():
    return list(generate(1, CALLS))


def distance(left, right):
    """Kolmogorov–Smirnov: the largest distance between two cumulative distributions."""
    left, right = sorted(left), sorted(right)
    return max(
        abs(bisect_right(left, value) / len(left) - bisect_right(right, value) / len(right))
        for value in {*left, *right}
    )


def gaps_s(calls):
    """Between the calls of each agent; a service without sessions is one agent."""
    agents = {}
    for call in calls:
        agents.setdefault((call.session, call.subagent), []).append(call.at_s)
    return [round(later - earlier, 6) for at_s in agents.values() for earlier, later in pairwise(at_s)]


def measured(calls):
    return {
        "gap": gaps_s(calls),
        "input": [call.input_tokens for call in calls],
        "output": [call.output_tokens for call in calls],
        "duration": [call.duration_s for call in calls],
    }


@pytest.mark.parametrize("team", SERVICES)
def test_the_workload_is_as_close_to_the_trace_as_it_says(workload, team):
    file, promised = SERVICES[team]
    generated = measured([call for call in workload if call.team == team])
    recorded = measured(list(read_calls(TRACES / file)))
    if team == "coding":
        generated["gap"] = [round(gap) for gap in generated["gap"]]  # the trace has whole seconds
        recorded["gap"] = [round(gap) for gap in recorded["gap"]]
    found = {name: round(distance(generated[name], recorded[name]), 3) for name in promised}
    assert all(found[name] <= promised[name] for name in promised), found


def test_the_bursts_of_the_code_service_keep_their_variation(workload):
    def variation(values):
        mean = sum(values) / len(values)
        return (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5 / mean

    generated = variation(gaps_s([call for call in workload if call.team == "assist"]))
    recorded = variation(gaps_s(list(read_calls(TRACES / SERVICES["assist"][0]))))
    assert 0.75 < generated / recorded < 1.25
