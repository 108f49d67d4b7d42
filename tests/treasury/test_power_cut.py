"""Power cuts: what was not synced is gone, wholly or in part, and nothing that was answered is lost.

One run of a real process is noted by a small library, syscall by syscall, and cut short at many moments. Without a C
compiler there is nothing to note with, and the tests are skipped. ``FISCUS_CUTS=500`` is the long run.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fiscus.contract.errors import TreasuryError
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.clock import HostClock
from tests.treasury.callers import founding
from tests.treasury.desk import Desk
from tests.treasury.examination import Report, examine
from tests.treasury.power import REPORT, Disk, Operation, build, operations

CUTS = int(os.environ.get("FISCUS_CUTS", "24"))
COMPILER = shutil.which(os.environ.get("CC", "cc"))
RUN = "cut"
PROGRAM = """
import asyncio, sys
from pathlib import Path
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury import engine as engine_module
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.treasury.victims import reporter, work

path, report, run, synchronous, operations_max = sys.argv[1:]
engine_module.SNAPSHOT_MS = 20
store = SqliteStore(path)
store.journal._writer.execute("PRAGMA synchronous = " + synchronous)
for writer in (store.journal._writer, store.views._writer):
    writer.execute("PRAGMA wal_autocheckpoint = 60")
asyncio.run(work(LocalTreasury(Engine(store)), run, reporter(report), int(operations_max)))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None or not sys.platform.startswith("linux"), reason="needs a C compiler and Linux"),
]


@dataclass
class Recording:
    """What a directory was like at first, and everything that was done to it."""

    before: Path
    directory: Path
    operations: list[Operation]

    def disk(self) -> Disk:
        disk = Disk(self.before)
        disk._directory = str(self.directory)
        return disk

    def moments(self, seed: int, count: int) -> list[int]:
        """Random moments, each a number of operations that had been done."""
        return sorted(random.Random(seed).sample(range(1, len(self.operations)), count))


def record(directory: Path, library: Path, synchronous: str, operations_max: int) -> Recording:
    """Let callers work in a process of their own, and note what it does to its files."""
    at, before = directory / "at", directory / "before"
    at.mkdir()
    desk = Desk(SqliteStore(at / "fiscus.db"), HostClock())
    desk.ask(*founding())
    desk.engine.close()
    (at / REPORT).touch()
    shutil.copytree(at, before)
    log = directory / "log"
    environment = os.environ | {"LD_PRELOAD": str(library), "POWER_DIRECTORY": str(at), "POWER_LOG": str(log)}
    arguments = [str(at / "fiscus.db"), str(at / REPORT), RUN, synchronous, str(operations_max)]
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], env=environment, check=True, timeout=120)
    return Recording(before, at, list(operations(log.read_bytes())))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    assert COMPILER is not None
    return build(COMPILER, tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory, library) -> Recording:
    return record(tmp_path_factory.mktemp("recording"), library, "FULL", 60)


def test_the_notes_say_all_that_was_done(recording, tmp_path):
    """The disk that is played out to the end has the same bytes as the real one."""
    disk = recording.disk()
    for operation in recording.operations:
        disk.apply(operation)
    disk.cut(tmp_path, kept=1.0)
    for path in recording.directory.iterdir():
        if path.name not in (REPORT, "fiscus.db-lock"):
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert disk.report == (recording.directory / REPORT).read_bytes()
    kinds = {operation.kind for operation in recording.operations}
    assert kinds == {"O", "W", "S", "T", "U"} or kinds == {"O", "W", "S", "U"}


# covers E1, E3, E4, E5, E6, E7, E9, E11, E12
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9], ids=["nothing unsynced stays", "half of it", "most of it"])
def test_what_was_answered_outlives_a_power_cut(recording, tmp_path, kept):
    disk, done = recording.disk(), 0
    answered = 0
    for moment in recording.moments(int(kept * 10), CUTS // 3):
        for operation in recording.operations[done:moment]:
            disk.apply(operation)
        done = moment
        image = tmp_path / str(moment)
        image.mkdir()
        disk.cut(image, random.Random(moment) if kept else None, kept)
        report = Report.read(RUN, disk.report.splitlines(keepends=True))
        answered += len(report.answered)
        examine(image / "fiscus.db", [report])
        shutil.rmtree(image)
    assert answered > 1_000


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_this_test_sees_a_ledger_that_does_not_sync(library, tmp_path, synchronous):
    recording = record(tmp_path, library, synchronous, 12)
    disk, done, failed = recording.disk(), 0, 0
    for moment in recording.moments(1, 4):
        for operation in recording.operations[done:moment]:
            disk.apply(operation)
        done = moment
        image = tmp_path / str(moment)
        image.mkdir()
        disk.cut(image)
        try:
            examine(image / "fiscus.db", [Report.read(RUN, disk.report.splitlines(keepends=True))])
        except (AssertionError, TreasuryError):
            failed += 1
    assert failed
