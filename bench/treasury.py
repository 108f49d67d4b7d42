"""Measure the treasury's speed; print a table and write build/bench/treasury.json.

    make bench
    .venv/bin/python bench/treasury.py [--only NAME ...] [--scale FRACTION]

Every measure runs in a process of its own. A bar that is missed is printed as MISSED and does not fail the run: the
figures move with the machine and with what else it does. ``docs/reference/benchmarks.md`` says what each one means.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "build" / "bench" / "treasury.json"
PACKAGES = ("fiscus", "msgspec", "starlette", "uvicorn", "uvloop", "httptools")


@dataclass(frozen=True)
class Bar:
    """One figure that is promised.

    Attributes:
        name: its key in the result.
        measure: the module that measures it.
        bound: the bar; ``at_least``: whether it is the least or the most allowed.
    """

    name: str
    measure: str
    bound: float
    at_least: bool
    meaning: str

    def met_by(self, value: float) -> bool:
        """Whether a value meets the bar."""
        return value >= self.bound if self.at_least else value <= self.bound


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
MEASURES = tuple(dict.fromkeys(bar.measure for bar in BARS))

Run = Callable[[str, float], dict[str, Any]]


def run_measures(names: Sequence[str], scale: float, run: Run) -> dict[str, Any]:
    """The whole result: one key per bar, and beside them what was found on the way."""
    details = {measure: run(measure, scale) for measure in MEASURES if measure in {find(name) for name in names}}
    result: dict[str, Any] = {
        bar.name: details[bar.measure][bar.name] for bar in BARS if bar.measure in details and bar.name in names
    }
    return {
        **result,
        "bars": {
            bar.name: {
                "bar": bar.bound,
                "direction": "at least" if bar.at_least else "at most",
                "met": bar.met_by(result[bar.name]),
            }
            for bar in BARS
            if bar.name in result
        },
        "scale": scale,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "details": details,
    }


def find(name: str) -> str:
    """The measure of a figure."""
    return next(bar.measure for bar in BARS if bar.name == name)


def machine() -> dict[str, Any]:
    """What it ran on, and how busy that was."""
    return {
        "processor": platform.processor() or _processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def versions() -> dict[str, str]:
    """What it ran with."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'':28}{'measured':>12}  {'bar':>10}"]
    for bar in BARS:
        if bar.name not in result:
            continue
        value = result[bar.name]
        met = "met" if bar.met_by(value) else "MISSED"
        sign = "≥" if bar.at_least else "≤"
        lines.append(f"{bar.name:28}{value:12,.4g}  {sign} {bar.bound:>8,g}  {met:6}  {bar.meaning}")
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print and write."""
    sys.path.insert(0, str(ROOT))
    from bench.measuring import run_child

    names = [bar.name for bar in BARS]
    parser = argparse.ArgumentParser(description="Measure the treasury's speed.")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full counts, for a quick look")
    options = parser.parse_args()
    result = run_measures(options.only, options.scale, run_child)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    print(f"written to {RESULT.relative_to(ROOT)}" + ("" if options.scale == 1 else f"; scale {options.scale:g}"))


if __name__ == "__main__":
    main()
