"""Measure the gateway; print a table and write build/bench/gateway.json.

    make bench-gateway
    .venv/bin/python bench/gateway.py [--only NAME ...] [--scale FRACTION]

One upstream of our own answers everybody: the gateway, a bare proxy and hardcap 0.1.0, which is installed below build/
and has Valkey as its Redis. See ``treasury`` and ``docs/reference/benchmarks.md``.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.bars import Bar, main  # noqa: E402 - run as a program, this folder is on the path, not the one above
from bench.counting import EXCHANGES  # noqa: E402

RESULT = ROOT / "build" / "bench" / "gateway.json"

BARS = (
    Bar("vs_bare_proxy", "gateway_rates", 0.4, True, "requests of the fastest bare proxy"),
    Bar("vs_hardcap", "gateway_rates", 2, True, "requests of hardcap, one level of budget there, five here"),
    Bar("p99_vs_hardcap", "gateway_rates", 1, False, "p99 under that load, to hardcap's"),
    Bar("added_ms_p50", "gateway_latency", 1, False, "ms over the direct call, 500 requests/s, open loop"),
    Bar("added_ms_p99", "gateway_latency", 4, False, "the same, 99th percentile"),
    Bar("added_vs_hardcap", "gateway_latency", 0.8, False, "added p50, to hardcap's in the same run"),
    Bar(
        "first_token_added_ms_p50",
        "gateway_latency",
        1,
        False,
        "ms to the first token of a stream over the direct call",
    ),
    Bar(
        "big_body_moves_p99_ms", "gateway_latency", 5, False, "ms that a 20 MB body in flight adds to the p99 of others"
    ),
    Bar("overshoot_tokens_max", "gateway_truth", 0, False, "output really produced over the budget, worst account"),
    Bar("usable_share_min", "gateway_truth", 0.99, True, "of its budget that an account could use, worst account"),
    Bar("cut_streams_per_account_mean", "gateway_truth", 1, False, "streams ended for want of budget, worst row"),
    Bar(
        "streams_running_vs_count_after", "gateway_truth", 0.9, True, "until 90 % are spent, of count-after, worst row"
    ),
    Bar("usage_matches", "gateway_usage", "usage_exchanges", True, "recorded exchanges that are booked as recorded"),
)
if not EXCHANGES.is_dir():  # they stand beside the project, where it is developed
    BARS = tuple(bar for bar in BARS if bar.measure != "gateway_usage")

if __name__ == "__main__":
    main(BARS, RESULT, "Measure the gateway.")
