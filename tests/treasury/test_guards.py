"""The ledger's time by itself: what it follows, when it stands still, and that it never runs back."""

import pytest

from fiscus.core.commands import PutAccount
from fiscus.stores import open_store
from fiscus.treasury.clock import STEP_MS_MAX, LedgerTime
from tests.treasury.clock import START_MS, ManualClock
from tests.treasury.desk import Desk, journal


def test_time_follows_the_clock_and_never_runs_behind_what_it_was_told():
    clock = ManualClock()
    time = LedgerTime(clock)
    assert time.now() == START_MS
    time.at_least(START_MS + 7_000)
    assert time.now() == START_MS + 7_000
    clock.advance(6_999)
    assert time.now() == START_MS + 7_000
    clock.advance(2)
    assert time.now() == START_MS + 7_001
    time.at_least(START_MS)
    assert time.now() == START_MS + 7_001


@pytest.mark.parametrize(
    ("step_ms", "stands_still"),
    [(STEP_MS_MAX, False), (-STEP_MS_MAX, False), (STEP_MS_MAX + 1, True), (-STEP_MS_MAX - 1, True)],
)
def test_time_stands_still_when_the_wall_moves_more_than_five_seconds_beyond_monotonic_time(step_ms, stands_still):
    clock = ManualClock()
    time = LedgerTime(clock)
    assert time.now() == START_MS
    clock.step(step_ms)
    clock.advance(60_000)
    assert (time.now() == START_MS) is stands_still
    assert time.stepped is stands_still
    clock.advance(60_000)
    assert (time.now() == START_MS) is stands_still
    time.confirm()
    assert (time.stepped, time.now()) == (False, max(START_MS, START_MS + step_ms + 120_000))


@pytest.mark.parametrize("wrong_ms", [3_600_000, -3_600_000, 1_000])
def test_once_the_store_has_told_its_time_the_hosts_before_that_counts_for_nothing(wrong_ms):
    clock = ManualClock(START_MS + wrong_ms)
    time = LedgerTime(clock)
    time.now()
    time.at_least(START_MS - 5)
    assert time.now(START_MS) == START_MS
    assert not time.stepped
    clock.advance(10)
    assert time.now() == START_MS + 10
    time.at_least(START_MS + 20)
    assert time.now(START_MS + 11) == START_MS + 20


def test_a_seal_after_a_restart_with_the_clock_set_back_is_no_earlier_than_the_entries_before_it(tmp_path):
    clock = ManualClock()
    desk = Desk(open_store(f"sqlite:///{tmp_path}/fiscus.db"), clock)
    clock.advance(3_600_000)
    desk.do(PutAccount(account="root"))
    desk.engine.close()
    later = Desk(open_store(f"sqlite:///{tmp_path}/fiscus.db"), ManualClock())
    assert later.engine.checkpoint() == 1
    times = [at for _, at, _, _ in journal(later.engine.store)]
    assert times == [START_MS + 3_600_000] * 2
    later.engine.close()
