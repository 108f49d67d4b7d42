"""Fit the built-in workload to recorded traces: prints the constants of ``fiscus/cli/workload_fit.py`` as Python.

    python scripts/fit_workload.py FOLDER > src/fiscus/cli/workload_fit.py

FOLDER has ``azure_llm_2023_{code,conv}*.csv.gz``, ``claude_code_v8_*.csv.gz`` and ``servegen_m-large_rate.csv.gz``.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

from fiscus.cli.traces import Call, read_calls

PROBABILITIES = (0.0, 0.01, 0.02, *(percent / 100 for percent in range(5, 100, 5)), 0.98, 0.99, 0.995, 0.999, 1.0)
"""Denser at both ends, where sizes span orders of magnitude."""

LINE_LENGTH = 110

RESUMED_INPUT_TOKENS = 100_000
"""A session whose first request is larger than this goes on with an earlier one's context."""

HEADER = '''"""Constants of the built-in workload, explained in ``workload.py``; by ``scripts/fit_workload.py``."""

# fmt: off
'''


def main() -> None:
    """Read the folder and print the constants."""
    folder = Path(sys.argv[1])
    print(HEADER)
    lines = wrap(", ".join(map(str, PROBABILITIES)), LINE_LENGTH, initial_indent="    ", subsequent_indent="    ")
    print("PROBABILITIES = (", *lines, ")\n", sep="\n")
    for service in ("conv", "code"):
        calls = list(read_calls(next(folder.glob(f"azure_llm_2023_{service}*.csv.gz"))))
        name = service.upper()
        show(f"{name}_GAP_US", (1e6 * (later.at_s - earlier.at_s) for earlier, later in pairwise(calls)))
        show(f"{name}_INPUT_TOKENS", (call.input_tokens for call in calls))
        show(f"{name}_OUTPUT_TOKENS", (call.output_tokens for call in calls))
    calls = list(read_calls(next(folder.glob("claude_code_v8_*.csv.gz"))))
    agents = by_agent(calls)
    mains = [own for (_, subagent), own in agents.items() if not subagent]
    subagents = [own for (_, subagent), own in agents.items() if subagent]
    fresh = [own for own in mains if own[0].input_tokens < RESUMED_INPUT_TOKENS]
    resumed = [own for own in mains if own[0].input_tokens >= RESUMED_INPUT_TOKENS]
    share("FRESH_SHARE", len(fresh), len(mains))
    show_agents("FRESH", fresh)
    show_agents("RESUMED", resumed)
    show_agents("SUBAGENT", subagents)
    with_subagents = Counter(own[0].session for own in subagents)
    share("SUBAGENTS_SHARE", len(with_subagents), len(mains))
    show("SUBAGENTS_PER_SESSION", with_subagents.values())
    falls = [
        1000 * later.input_tokens / earlier.input_tokens
        for own in mains
        for earlier, later in pairwise(own)
        if later.input_tokens < earlier.input_tokens
    ]
    share("COMPACTION_SHARE", len(falls), sum(len(own) - 1 for own in mains))
    show("COMPACTION_PERMILLE", falls)
    print(f"SESSION_GAP_CV = {tenants_cv(folder / 'servegen_m-large_rate.csv.gz')}")


def by_agent(calls: Iterable[Call]) -> dict[tuple[str, str], list[Call]]:
    """The calls of each agent of each session, in time order."""
    agents: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        agents.setdefault((call.session, call.subagent), []).append(call)
    return agents


def show_agents(name: str, agents: Sequence[Sequence[Call]]) -> None:
    """Print what is drawn for an agent of one kind, and the models that such agents use."""
    show(f"{name}_CALLS", (len(own) for own in agents))
    show(f"{name}_FIRST_INPUT_TOKENS", (own[0].input_tokens for own in agents))
    steps = [(earlier, later) for own in agents for earlier, later in pairwise(own)]
    show(f"{name}_GROWTH_TOKENS", (max(0, later.input_tokens - earlier.input_tokens) for earlier, later in steps))
    show(f"{name}_GAP_MS", (1e3 * (later.at_s - earlier.at_s) for earlier, later in steps))
    show(f"{name}_OUTPUT_TOKENS", (call.output_tokens for own in agents for call in own))
    show(f"{name}_DURATION_MS", (1e3 * call.duration_s for own in agents for call in own))
    models = Counter(own[0].model for own in agents)
    print(f"{name}_MODELS = {{", *(f'    "{model}": {models[model]},' for model in sorted(models)), "}\n", sep="\n")


def show(name: str, values: Iterable[float]) -> None:
    """Print the quantiles of ``values`` at ``PROBABILITIES`` as integers."""
    ordered = sorted(values)
    quantiles = tuple(round(ordered[min(int(p * len(ordered)), len(ordered) - 1)]) for p in PROBABILITIES)
    lines = wrap(", ".join(map(str, quantiles)), LINE_LENGTH, initial_indent="    ", subsequent_indent="    ")
    print(f"{name} = (", *lines, ")\n", sep="\n")


def share(name: str, part: int, whole: int) -> None:
    """Print a share."""
    print(f"{name} = {part / whole:.4f}\n")


def tenants_cv(path: Path) -> float:
    """The coefficient of variation of a tenant's gaps, the median over all windows weighted by their rate."""
    with gzip.open(path, "rt", encoding="utf-8") as text:
        windows = sorted((float(row["cv"]), float(row["req_per_s"])) for row in csv.DictReader(text))
    half, passed = sum(rate for _, rate in windows) / 2, 0.0
    for cv, rate in windows:
        passed += rate
        if passed >= half:
            return cv
    raise SystemExit(f"{path} is empty")


if __name__ == "__main__":
    main()
