"""A disk that is full: nothing is admitted, nothing is lost, and it goes on when there is room again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.clock import HostClock
from tests.treasury.callers import books, founding
from tests.treasury.desk import Desk
from tests.treasury.examination import Report, compare, faults, lost_or_doubled

PROGRAM = """
import resource, sys
sys.dont_write_bytecode = True  # it could be cut off at the limit, and be there for others
from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.clock import HostClock
from tests.treasury.callers import CALLERS, plan
from tests.treasury.desk import Desk
from tests.treasury.victims import Note, reporter

path, report_path = sys.argv[1:]
desk, report = Desk(SqliteStore(path), HostClock()), reporter(report_path)
plans = [plan("full", caller) for caller in range(CALLERS)]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
failed = 0
for number in range(200):
    batch = [next(one) for one in plans]
    if number == 20:
        size = max(file.stat().st_size for file in desk.engine.store.path.parent.glob("fiscus.db*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30_000, hard))
    waiting = list(range(CALLERS))
    for caller in waiting:
        report(Note(caller, number))
    for _ in range(20):
        answers = desk.ask(*(batch[caller] for caller in waiting))
        for caller, answer in zip(waiting, answers):
            if not isinstance(answer, StoreUnavailable):
                report(Note(caller, number, answer))
        waiting = [caller for caller, answer in zip(waiting, answers) if isinstance(answer, StoreUnavailable)]
        if not waiting:
            break
        failed += 1
        if failed % 5 == 0:
            size, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, hard))
    assert not waiting
    desk.after_batch()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
desk.do(batch[0].command)
desk.engine.close()
print(failed)
"""


# covers E7, E9, E11
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
def test_a_full_disk_loses_and_doubles_nothing(tmp_path):
    path, report_path = tmp_path / "fiscus.db", tmp_path / "report"
    desk = Desk(SqliteStore(path), HostClock())
    desk.ask(*founding())
    desk.engine.close()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(report_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5, "the disk was full now and then"
    report = Report.read("full", report_path.read_bytes().splitlines(keepends=True))
    store = SqliteStore(path)
    assert faults(store) == []
    assert lost_or_doubled(store, [report]) == []
    desk = Desk(store, HostClock())
    for tenant, expected in books(report.answered).items():
        compare(desk, tenant, expected)
    desk.engine.close()
