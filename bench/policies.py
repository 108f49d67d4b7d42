"""Measure what the policies do; print a table and write build/bench/policies.json.

make bench-policies
.venv/bin/python bench/policies.py [--only NAME ...] [--scale FRACTION]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.bars import Bar, main  # noqa: E402 - run as a program, this folder is on the path, not the one above

RESULT = ROOT / "build" / "bench" / "policies.json"

BARS = (
    Bar("wait_served", "fairness", 1, True, "reserves that waited in 10,000 rounds and got room: all"),
    Bar(
        "gain_min", "policy_gain", 1.05, True, "tokens of whole calls by the best policy that moves budget / fixed caps"
    ),
    Bar("policies_vs_plain", "policy_cost", 3, False, "a decision with all policies on / a plain reserve"),
    Bar(
        "reallocations_made",
        "lending_peers",
        1,
        True,
        "of 10,000 among 100 agents at once, on the slower of both stores",
    ),
    Bar(
        "reallocations_wrong", "lending_peers", 0, False, "lenders below their reserve, loans left open, tokens minted"
    ),
    Bar("wait_order_kept", "fairness", 1, True, "admissions that overtook nobody, by priority and ageing: all"),
)

if __name__ == "__main__":
    main(BARS, RESULT, "Measure what the policies do.")
