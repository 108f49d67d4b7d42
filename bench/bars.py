"""Figures that are promised: measuring all of a list, each in a process of its own, and saying which were missed."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measuring import ROOT, run_child

PACKAGES = ("fiscus", "msgspec", "starlette", "uvicorn", "uvloop", "httptools", "psycopg", "redis", "hiredis")


@dataclass(frozen=True)
class Bar:
    """One figure that is promised.

    Attributes:
        name: its key in the result.
        measure: the module that measures it.
        bound: the bar, or the name of the figure that is; ``at_least``: whether it is the least or the most allowed.
    """

    name: str
    measure: str
    bound: float | str
    at_least: bool
    meaning: str

    def bound_of(self, figures: Mapping[str, Any]) -> float:
        """The bar as a number, which may be one of the figures."""
        return float(figures[self.bound]) if isinstance(self.bound, str) else self.bound

    def met_by(self, figures: Mapping[str, Any]) -> bool:
        """Whether a figure meets its bar."""
        value, bound = figures[self.name], self.bound_of(figures)
        return bool(value >= bound if self.at_least else value <= bound)


Run = Callable[[str, float], dict[str, Any]]


def run_measures(bars: Sequence[Bar], names: Sequence[str], scale: float, run: Run) -> dict[str, Any]:
    """The whole result: one key per bar, and beside them what was found on the way.

    A measure that fails costs its own figures only: it stands under ``failed``, and its bars are not met.
    """
    wanted = [bar for bar in bars if bar.name in names]
    details: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for measure in measures(wanted):
        try:
            details[measure] = run(measure, scale)
        except subprocess.SubprocessError as error:
            failed[measure] = str(error)
    wanted = [bar for bar in wanted if bar.measure in details]
    figures = {bar: [bar.name, *([bar.bound] if isinstance(bar.bound, str) else [])] for bar in wanted}
    result: dict[str, Any] = {name: details[bar.measure][name] for bar in wanted for name in figures[bar]}
    return {
        **result,
        "bars": {
            bar.name: {
                "bar": bar.bound_of(result),
                "direction": "at least" if bar.at_least else "at most",
                "met": bar.met_by(result),
            }
            for bar in wanted
        },
        "failed": failed,
        "scale": scale,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "details": details,
    }


def measures(bars: Sequence[Bar]) -> tuple[str, ...]:
    """The modules that measure them, each once, in order."""
    return tuple(dict.fromkeys(bar.measure for bar in bars))


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


def table(bars: Sequence[Bar], result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'':28}{'measured':>12}  {'bar':>10}"]
    for bar in bars:
        if bar.name not in result:
            continue
        value = result[bar.name]
        met = "met" if bar.met_by(result) else "MISSED"
        sign = "≥" if bar.at_least else "≤"
        lines.append(f"{bar.name:28}{value:12,.4g}  {sign} {bar.bound_of(result):>8,g}  {met:6}  {bar.meaning}")
    return "\n".join(lines)


def main(bars: Sequence[Bar], written_to: Path, description: str) -> None:
    """Read the options, measure, print and write."""
    names = [bar.name for bar in bars]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full counts, for a quick look")
    options = parser.parse_args()
    result = run_measures(bars, options.only, options.scale, run_child)
    written_to.parent.mkdir(parents=True, exist_ok=True)
    written_to.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(bars, result))
    print(f"written to {written_to.relative_to(ROOT)}" + ("" if options.scale == 1 else f"; scale {options.scale:g}"))
    if result["failed"]:
        sys.exit("; ".join(f"{measure} was not measured: {why}" for measure, why in result["failed"].items()))
