"""Measure the speed in production; print a table and write build/bench/production.json.

    make bench-production
    .venv/bin/python bench/production.py [--only NAME ...] [--scale FRACTION]

PostgreSQL and Valkey come from wheels and are started for this. See ``treasury`` and ``docs/reference/benchmarks.md``.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.bars import Bar, main  # noqa: E402 - run as a program, this folder is on the path, not the one above

RESULT = ROOT / "build" / "bench" / "production.json"

BARS = (
    Bar("postgres_vs_embedded", "on_postgres", 0.6, True, "pairs over HTTP: on PostgreSQL, of the embedded store"),
    Bar("two_nodes_vs_one", "on_postgres", 0.8, True, "pairs over HTTP: two nodes on one tree, of one node alone"),
    Bar("two_nodes_p99_vs_one", "on_postgres", 5, False, "the 99th percentile of two nodes, to that of one"),
    Bar("pairs_vs_redis_lua", "against_redis", 1, True, "durable pairs, of one Redis Lua call per reserve and settle"),
    Bar("reserve_growth_10m", "growth", 1.1, False, "a reserve with 10 M usage events in the tables, to 1 M"),
)

if __name__ == "__main__":
    main(BARS, RESULT, "Measure the speed in production.")
