"""Measure the treasury's speed; print a table and write build/bench/treasury.json.

    make bench
    .venv/bin/python bench/treasury.py [--only NAME ...] [--scale FRACTION]

Every measure runs in a process of its own. A bar that is missed is printed as MISSED and does not fail the run: the
figures move with the machine and with what else it does. ``docs/reference/benchmarks.md`` says what each one means.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.bars import Bar, main  # noqa: E402 - run as a program, this folder is on the path, not the one above

RESULT = ROOT / "build" / "bench" / "treasury.json"

BARS = (
    Bar("inprocess_pairs_per_s", "inprocess", 20_000, True, "reserve + settle, in process, 64 callers"),
    Bar("inprocess_vs_bare", "inprocess", 0.2, True, "of a bare loop appending the same rows"),
    Bar("http_pairs_per_s", "over_http", 5_000, True, "reserve + settle over HTTP, 32 connections"),
    Bar("http_vs_echo", "over_http", 0.4, True, "requests of a bare JSON echo"),
    Bar("reserve_p99_vs_commit_p99", "latency", 3, False, "durable reserve, one bare commit"),
    Bar("startup_s_1m", "accounts", 3, False, "s from nothing to the first answer, 1 M accounts"),
    Bar("rss_mb_1m", "accounts", 400, False, "MB resident, 1 M accounts, 10,000 of them active"),
    Bar("rss_slope", "threads", 1.1, False, "memory after 1 M threads to that after 100,000"),
)

if __name__ == "__main__":
    main(BARS, RESULT, "Measure the treasury's speed.")
