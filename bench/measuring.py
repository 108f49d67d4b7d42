"""What every measure shares: its figures, scratch folders on the real disk, and processes of its own."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / "build" / "bench"
"""Ledgers are measured on the disk that the project stands on: /tmp may be memory, where a commit costs nothing."""

CHILD_S_MAX = 7_200

Figures = dict[str, Any]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is deleted afterwards."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=SCRATCH) as folder:
        yield Path(folder)


def say(line: str) -> None:
    """Tell how far it is; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float:
    """The median, to four digits."""
    return float(f"{statistics.median(values):.4g}")


def p99(samples: Sequence[float]) -> float:
    """The 99th percentile of at least 100 samples."""
    return sorted(samples)[int(len(samples) * 0.99)]


@contextmanager
def stopwatch() -> Iterator[Figures]:
    """Wall time and CPU time (user and system, of this process) of what is done inside, in seconds."""
    taken: Figures = {}
    cpu, wall = time.process_time(), time.perf_counter()
    yield taken
    taken["seconds"] = time.perf_counter() - wall
    taken["cpu_s"] = time.process_time() - cpu


def environment() -> dict[str, str]:
    """Ours, without settings of Fiscus: what is measured is the default."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("FISCUS_")}


def child(module: str, *arguments: object) -> list[str]:
    """The command line of a module of this folder in a process of its own."""
    return [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]


def run_child(module: str, *arguments: object) -> Figures:
    """Run a module of this folder in a fresh process; its last line of output is a JSON object."""
    command = child(module, *arguments)
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        try:
            said, _ = running.communicate(timeout=CHILD_S_MAX)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)  # it ends the servers that it has started
            raise
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    figures: Figures = json.loads(said.splitlines()[-1])
    return figures


def scaled(count: int, scale: float, *, least: int) -> int:
    """A count for a shorter run."""
    return max(least, round(count * scale))


def run_as_child(measure: Callable[[float], Figures]) -> None:
    """The main program of a measure that takes a scale: ``python -m bench.NAME [SCALE]``."""
    print(json.dumps(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)), flush=True)
