"""What people and programs are shown (design.md §3 "reserve": refused with L/P/H/Q/O; §7)."""

from datetime import UTC, datetime

import pytest

from fiscus.core.answers import STATUS_RANK, balance, budget_view, effective_status, is_exceeded, positive
from tests.core.builders import HOUR, moment


def shown(ledger, account, budget="tokens-lifetime"):
    return balance(ledger.draft, ledger.draft.cells[ledger.find(account, budget).cell])


def test_a_balance_is_its_parts_and_what_follows_from_them(pool):
    pool.spend("a", 30)
    pool.reserve("lost", "a", 10, lease_s=1)
    pool.wait(1_000).reserve("h", "a", 20)
    pool.use("a", 45)
    seen = shown(pool, "root")
    assert (seen.limit, seen.covered, seen.held, seen.quarantined, seen.uncovered) == (100, 30, 20, 10, 45)
    assert (seen.spent, seen.available, seen.overdrawn) == (75, -5, 5)
    assert seen.window_end is None
    assert seen.allocated is False


def test_a_window_shows_its_bounds_and_its_match(ledger):
    ledger.account("root")
    ledger.budget("root", 5, period="day", match={"model": "x"})
    ledger.reserve("h", "root", 1, attributes={"model": "x"})
    seen = shown(ledger, "root", "tokens-day")
    assert seen.window_start == datetime(2025, 10, 9, tzinfo=UTC)
    assert seen.window_end == datetime(2025, 10, 10, tzinfo=UTC)
    assert seen.match == {"model": "x"}


def test_an_allocation_that_is_parked_shows_what_it_still_covers_as_its_limit(pool):
    pool.allocate("a", 60)
    pool.reserve("h", "a", 20)
    assert (shown(pool, "a", "allocation-tokens").limit, shown(pool, "a", "allocation-tokens").available) == (60, 40)
    pool.status("a", "suspended")
    assert (shown(pool, "a", "allocation-tokens").limit, shown(pool, "a", "allocation-tokens").available) == (20, 0)


# covers R33
@pytest.mark.parametrize(
    ("covered", "held", "amount", "exceeded"), [(0, 0, 100, False), (0, 0, 101, True), (40, 60, 60, False),
                                                (40, 60, 61, True)]
)  # fmt: skip
def test_exceeded_looks_past_the_calls_in_flight(pool, covered, held, amount, exceeded):
    if covered:
        pool.spend("a", covered)
    if held:
        pool.reserve("h", "a", held)
    pool.budget("root", 100)
    pool.reserve("probe", "a", {"tokens": 0, "cost": 1})
    cell = pool.draft.cells[pool.find("root", "tokens-lifetime").cell]
    assert is_exceeded(cell, amount) is exceeded


def test_a_hold_shows_what_was_not_covered(pool):
    pool.reserve("h", "a", {"tokens": 10, "cost": 5})
    answer = pool.settle("h", {"tokens": 13, "cost": 5})
    assert answer.uncovered == {"tokens": 3}
    assert answer.expires_at is None
    assert answer.booked == {"tokens": 13, "cost": 5, "calls": 1}


def test_only_a_hold_that_is_held_has_an_end(pool):
    assert pool.reserve("h", "a", 10, lease_s=3_600).expires_at == moment(HOUR)
    assert pool.release("h").expires_at is None


def test_amounts_without_zeros():
    assert positive({"tokens": 0, "cost": 3}) == {"cost": 3}


@pytest.mark.parametrize(
    ("own", "above", "effective"),
    [
        ("active", "active", "active"),
        ("active", "suspended", "suspended"),
        ("suspended", "active", "suspended"),
        ("suspended", "closed", "closed"),
        ("closed", "terminated", "terminated"),
        ("terminated", "closed", "terminated"),
    ],
)
def test_the_gravest_status_on_the_way_to_the_root_counts(pool, own, above, effective):
    account = pool.draft.accounts[2]
    pool.status("a", own)
    pool.status("root", above)
    assert effective_status(pool.draft, account) == effective
    assert STATUS_RANK[effective] == max(STATUS_RANK[own], STATUS_RANK[above])


def test_a_budget_shows_the_period_that_it_will_have(ledger):
    ledger.account("root")
    ledger.budget("root", 5, period="hour", budget="x")
    ledger.budget("root", 5, period="day", zone="Asia/Tokyo", budget="x")
    view = budget_view(ledger.draft, ledger.find("root", "x"))
    assert (view.period, view.zone, view.version) == ("day", "Asia/Tokyo", 2)


def test_an_account_shows_its_budgets_in_the_order_of_their_making(pool):
    pool.budget("a", 1, budget="z")
    pool.budget("a", 1, budget="b")
    pool.allocate("a", 5)
    assert [view.budget for view in pool.account("a").budgets] == ["z", "b", "allocation-tokens"]
