"""Kill −9 at random points and at every named point of writing: nothing that was answered is lost or doubled.

``FISCUS_KILLS=200 pytest tests/treasury/test_kill.py`` is the long run.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.clock import HostClock
from tests.treasury.callers import founding
from tests.treasury.desk import Desk
from tests.treasury.examination import Report, examine
from tests.treasury.faults import APPEND_STEPS, CHECKPOINT_STEPS, VIEWS_STEPS, points
from tests.treasury.victims import Death

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FISCUS_KILLS", "20"))
SIGKILL = 9
RUNS_PER_LEDGER = 3
POINTS = [
    *points("journal", (*APPEND_STEPS, *CHECKPOINT_STEPS, "forgetting answers")),
    *points("views", VIEWS_STEPS),
]


@pytest.fixture(scope="module")
def executioner() -> Iterator[subprocess.Popen[bytes]]:
    """The process that starts victims."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.treasury.victims"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


class Ledger:
    """A ledger on which one victim after the other works."""

    def __init__(self, directory: Path, executioner: subprocess.Popen[bytes]) -> None:
        self.path = directory / "fiscus.db"
        self._executioner = executioner
        self._reports: list[Report] = []
        desk = Desk(SqliteStore(self.path), HostClock())
        desk.ask(*founding())
        desk.engine.close()

    def die(self, run: str, **how: object) -> Report:
        """Let a victim work until it is killed, and look at what it leaves."""
        report_path = self.path.with_name(f"report-{run}")
        report_path.touch()
        death = Death(path=str(self.path), report=str(report_path), run=run, **how)  # type: ignore[arg-type]
        assert self._executioner.stdin is not None
        assert self._executioner.stdout is not None
        self._executioner.stdin.write(msgspec.json.encode(death) + b"\n")
        self._executioner.stdin.flush()
        assert int(self._executioner.stdout.readline()) == SIGKILL, "it died of the kill and of nothing else"
        report = Report.read(run, report_path.read_bytes().splitlines(keepends=True))
        self._reports.append(report)
        examine(self.path, self._reports)
        return report


# covers E1, E3, E4, E5, E6, E7, E9, E11, E12
@pytest.mark.parametrize("group", range(-(-KILLS // RUNS_PER_LEDGER)))
def test_killed_at_a_random_moment_it_loses_nothing_and_doubles_nothing(tmp_path, executioner, group):
    moments = random.Random(group)
    ledger = Ledger(tmp_path, executioner)
    for run in range(min(RUNS_PER_LEDGER, KILLS - group * RUNS_PER_LEDGER)):
        ledger.die(f"r{run}", after_ms=moments.uniform(5, 250))


# covers E1, E3, E4, E5, E6, E7, E9, E11, E12
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_step_of_writing_it_loses_nothing_and_doubles_nothing(tmp_path, executioner, point):
    ledger = Ledger(tmp_path, executioner)
    occurrence = 1 if point.endswith("answers") and "forgetting" in point else 1 + POINTS.index(point) % 3
    report = ledger.die("p", point=point, occurrence=occurrence)
    assert report.answered or occurrence == 1
