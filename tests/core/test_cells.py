"""The balance of a window, and how an allocation is seen from above (design.md §1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.core.cells import lapse, set_alert, set_limit, threshold_at, threshold_reached
from fiscus.core.decide import new_draft
from fiscus.core.state import NEVER, Budget, Cell
from tests.core.builders import moment

MINUTE = 60_000


def cell(**fields):
    return Cell(
        number=1, budget=1, account=1, unit="tokens", start=0, end=NEVER, **{"base": 100, "alert_at": NEVER, **fields}
    )


def budget(*percents):
    thresholds = dict.fromkeys(percents, "info")
    return Budget(number=1, account=1, name="x", unit="tokens", period="lifetime", zone="UTC", thresholds=thresholds)


@pytest.mark.parametrize(
    ("fields", "limit", "used", "counted"),
    [
        ({}, 100, 0, 0),
        ({"covered": 1, "held": 20, "quarantined": 300, "uncovered": 4_000}, 100, 4_321, 4_301),
        ({"carried": 30, "raised": 20, "lowered": 5}, 145, 0, 0),
        ({"carried": -60}, 40, 0, 0),
        ({"lowered": 120}, 0, 0, 0),
        ({"lowered": 120, "lapsing": 7}, 7, 0, 0),
    ],
)
def test_a_limit_is_base_and_adjustments_and_never_below_zero(fields, limit, used, counted):
    made = cell(**fields)
    assert (made.limit, made.used, made.counted) == (limit, used, counted)


@pytest.mark.parametrize(
    ("percent", "limit", "at"),
    [(50, 100, 50), (75, 9, 7), (50, 1, 1), (1, 1, 1), (100, 0, 1), (95, 20, 19), (95, 21, 20), (250, 10, 25)],
)
def test_a_threshold_fires_at_the_smallest_use_that_reaches_its_percent(percent, limit, at):
    assert threshold_at(percent, limit) == at


@given(st.integers(1, 1_000), st.integers(1, 2**53), st.integers(1, 2**53))
def test_a_threshold_is_reached_exactly_when_use_is_that_share_of_the_limit(percent, limit, used):
    assert (used >= threshold_at(percent, limit)) == (used * 100 >= percent * limit)


@pytest.mark.parametrize(("counted", "reached"), [(0, 0), (49, 0), (50, 50), (89, 75), (5_000, 90)])
def test_the_highest_threshold_that_is_reached(counted, reached):
    assert threshold_reached(cell(), budget(50, 75, 90), counted) == reached


@pytest.mark.parametrize(("fired", "at"), [(0, 50), (50, 75), (75, NEVER), (90, NEVER)])
def test_the_next_alert_is_the_lowest_threshold_above_what_fired(fired, at):
    made = cell(fired=fired)
    set_alert(made, budget(50, 75))
    assert made.alert_at == at


def draft_with(made, of):
    draft = new_draft()
    draft.cells[1], draft.budgets[1] = made, of
    return draft


def test_a_higher_limit_arms_what_is_no_longer_reached_and_a_lower_one_nothing():
    made = cell(covered=80, fired=75, base=160)
    set_limit(draft_with(made, budget(50, 75)), made, limit_before=100)
    assert (made.fired, made.alert_at, made.free) == (50, 120, 80)
    made = cell(covered=80, fired=50, base=90)
    set_limit(draft_with(made, budget(50, 75)), made, limit_before=160)
    assert (made.fired, made.alert_at, made.free) == (50, 68, 10)


@pytest.mark.parametrize(
    ("used", "lapsing", "left"), [(90, 50, 0), (100, 50, 0), (130, 50, 30), (150, 50, 50), (180, 50, 50)]
)
def test_what_an_ended_adjustment_covers_is_only_what_is_in_use(used, lapsing, left):
    made = cell(covered=used, lapsing=lapsing)
    lapse(made)
    assert made.lapsing == left
    assert made.free == 100 + left - used


# -- adjustments, on a ledger --------------------------------------------------------------------------------------


# covers R31, E13
def test_one_that_ends_lapses_only_its_unused_part_and_shrinks_with_the_use(pool):
    pool.adjust("more", "root", 50, valid_until=moment(MINUTE))
    pool.reserve("h", "a", 130, lease_s=3_600)
    pool.wait(MINUTE)
    assert pool.cell("root") == (130, 0, 130, 0, 0), "a limit by itself never falls below use"
    pool.reserve("h2", "a", 1, refused="budget_busy")
    pool.running("h", 10)
    pool.settle("h", 110)
    assert pool.cell("root") == (110, 110, 0, 0, 0)
    pool.reserve("h3", "a", 1, refused="budget_exceeded")


def test_use_that_shrinks_and_grows_again_is_not_covered_a_second_time(pool):
    pool.adjust("more", "root", 50, valid_until=moment(MINUTE))
    pool.reserve("h", "a", 130, lease_s=3_600)
    pool.wait(MINUTE).release("h")
    assert pool.cell("root") == (100, 0, 0, 0, 0)
    pool.reserve("h2", "a", 101, refused="budget_exceeded")
