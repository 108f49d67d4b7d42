"""Where a call is charged, and how windows follow each other (design.md §1 "Cells of a hold", §3 "roll-over")."""

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.core.commands import CHAIN_LENGTH_MAX
from fiscus.core.routes import carried_over, chain
from fiscus.core.state import Budget
from fiscus.core.units import AMOUNT_MAX
from tests.core.builders import DAY, HOUR, MINUTE, START_MS, Ledger

# -- the cells of a hold -------------------------------------------------------------------------------------------


def test_a_chain_runs_from_the_leaf_to_the_root_and_has_a_bound(ledger):
    ledger.account("a1")
    for n in range(2, CHAIN_LENGTH_MAX + 1):
        ledger.account(f"a{n}", f"a{n - 1}")
    leaf = ledger.draft.accounts[ledger.draft.names["a16"]]
    assert [account.name for account in chain(ledger.draft, leaf)] == [f"a{n}" for n in range(16, 0, -1)]
    assert ledger.account("a17", "a16", refused="invalid").field == "parent"


# covers R27, R33
def test_known_fault_r6_every_level_is_charged_and_checked(ledger):
    ledger.tree("global", "global/team", "team/project", "project/user")
    ledger.budget("team", 10)
    assert ledger.reserve("h", "user", 11, refused="budget_exceeded").binding.account == "team"
    ledger.spend("user", 10)
    assert ledger.cell("team") == (10, 10, 0, 0, 0)


def test_an_also_account_is_charged_and_what_both_chains_share_is_charged_once(pool):
    pool.budget("a", 50)
    pool.budget("b", 40)
    pool.reserve("h", "a", 10, also=("b",))
    assert pool.cell("a") == (50, 0, 10, 0, 0)
    assert pool.cell("b") == (40, 0, 10, 0, 0)
    assert pool.cell("root") == (100, 0, 10, 0, 0)
    pool.settle("h", 12)
    assert pool.cell("root") == (100, 10, 0, 0, 2)
    assert pool.cell("b") == (40, 10, 0, 0, 2)


def test_an_also_account_refuses_like_any_other_and_then_nothing_is_held(pool):
    pool.budget("b", 9)
    assert pool.reserve("h", "a", 10, also=("b",), refused="budget_exceeded").binding.account == "b"
    assert pool.cell("root") == (100, 0, 0, 0, 0)
    pool.status("b", "suspended")
    pool.reserve("h", "a", 5, also=("b",), refused="account_suspended")
    pool.reserve("h", "a", 5, also=("nobody",), refused="unknown_account")


def test_an_also_account_above_the_payer_is_charged_once(pool):
    pool.reserve("h", "a", 10, also=("root",))
    assert pool.cell("root") == (100, 0, 10, 0, 0)


@pytest.mark.parametrize("unit", ["tokens", "cost"])
def test_an_also_account_must_be_shared_in_every_unit_up_to_what_it_has_in_common(pool, unit):
    pool.allocate("b", 20, unit)
    refused = pool.reserve("h", "a", 10, also=("b",), refused="also_not_shared")
    assert refused.field == "also[0]"
    pool.reserve("h", "b", 10 if unit == "tokens" else {"tokens": 10, "cost": 1}, also=("a",))


def test_an_also_account_may_be_carved_out_above_what_it_has_in_common(ledger):
    ledger.tree("root", "root/team", "team/a", "team/b")
    ledger.budget("root", 100)
    ledger.budget("b", 30)
    ledger.allocate("team", 50)
    ledger.reserve("h", "a", 10, also=("b",))
    assert ledger.cell("b") == (30, 0, 10, 0, 0)
    assert ledger.carved("team") == (50, 0, 10, 0, 0)


# covers E14
def test_usage_after_the_fact_leaves_out_an_also_that_is_not_shared(pool):
    pool.allocate("b", 20)
    pool.use("a", 10, also=("b",))
    assert pool.carved("b") == (20, 0, 0, 0, 0)
    assert pool.cell("root") == (100, 0, 20, 0, 10)


def test_for_a_carved_out_unit_the_ancestors_are_left_out_of_every_chain(ledger):
    ledger.tree("root", "root/team", "team/a", "root/d")
    ledger.budget("root", 100)
    ledger.budget("root", 100, "cost")
    ledger.budget("d", 30)
    ledger.allocate("team", 50)
    ledger.reserve("h", "a", {"tokens": 10, "cost": 7}, also=("d",))
    assert ledger.carved("team") == (50, 0, 10, 0, 0)
    assert ledger.cell("d") == (30, 0, 10, 0, 0)
    assert ledger.cell("root") == (100, 0, 50, 0, 0), "held already, by the allocation"
    assert ledger.cell("root", "cost-lifetime") == (100, 0, 7, 0, 0), "the other unit is not carved out"


def test_an_allocation_holds_no_budget_with_match_so_calls_charge_those_themselves(pool):
    pool.budget("root", 30, budget="of-x", match={"model": "x"})
    pool.allocate("a", 60)
    assert pool.cell("root", "of-x") == (30, 0, 0, 0, 0)
    pool.reserve("h", "a", 20, attributes={"model": "x"})
    assert pool.cell("root") == (100, 0, 60, 0, 0)
    assert pool.cell("root", "of-x") == (30, 0, 20, 0, 0)
    pool.reserve("h2", "a", 11, attributes={"model": "x"}, refused="budget_busy")
    pool.reserve("h2", "a", 11, attributes={"model": "y"})


def test_a_budget_does_not_change_the_calls_that_it_is_for(pool):
    """Allocations are held on budgets without ``match``: one that lost it would hold none of them."""
    pool.budget("root", 30, budget="of-x", match={"model": "x"})
    refused = pool.budget("root", 30, budget="of-x", refused="conflict")
    assert refused.field == "match"
    assert pool.budget("root", 31, budget="of-x", match={"model": "x"}).budget.limit == 31


@pytest.mark.parametrize(
    ("attributes", "charged"),
    [
        ({}, 0),
        ({"model": "x"}, 0),
        ({"feature": "chat"}, 0),
        ({"model": "x", "feature": "search"}, 0),
        ({"model": "x", "feature": "chat"}, 10),
        ({"model": "x", "feature": "chat", "user": "bob"}, 10),
    ],
)
def test_match_asks_for_all_its_attributes(pool, attributes, charged):
    pool.budget("root", 50, budget="narrow", match={"model": "x", "feature": "chat"})
    pool.reserve("h", "a", 10, attributes=attributes)
    assert pool.cell("root", "narrow") == (50, 0, charged, 0, 0)
    assert pool.cell("root") == (100, 0, 10, 0, 0)


@pytest.mark.parametrize("status", ["suspended", "terminated", "closed"])
@pytest.mark.parametrize("account", ["root", "team", "leaf"])
def test_status_is_checked_up_to_the_root(ledger, status, account):
    ledger.tree("root", "root/team", "team/leaf")
    ledger.budget("root", 100)
    ledger.allocate("leaf", 10)
    ledger.status(account, status)
    refused = ledger.reserve("h", "leaf", 1, refused=f"account_{status}")
    assert account in refused.detail


def test_several_budgets_of_one_account_bind_together(ledger):
    ledger.account("root")
    ledger.budget("root", 60, period="hour")
    ledger.budget("root", 100, period="day")
    ledger.spend("root", 60)
    ledger.reserve("h", "root", 1, refused="budget_exceeded")
    ledger.wait(HOUR).spend("root", 40)
    assert ledger.reserve("h", "root", 1, refused="budget_exceeded").binding.budget == "tokens-day"


def test_a_route_that_was_found_once_does_not_outlive_what_it_rests_on(pool):
    pool.reserve("h1", "a", 1)
    pool.budget("a", 5)
    pool.reserve("h2", "a", 6, refused="budget_exceeded")
    pool.remove_budget("a", "tokens-lifetime")
    pool.reserve("h3", "a", 6)
    pool.allocate("a", 10)
    pool.reserve("h4", "a", 11, refused="budget_exceeded")
    pool.deallocate("a")
    pool.reserve("h5", "a", 11)
    pool.status("root", "suspended")
    pool.reserve("h6", "a", 1, refused="account_suspended")


# -- windows -------------------------------------------------------------------------------------------------------


# covers R28, R29, R32
@pytest.mark.parametrize(
    ("period", "last_ms", "next_start"),
    [
        ("hour", "2025-10-09T10:59:59.999+00:00", "2025-10-09T11:00:00+00:00"),
        ("day", "2025-10-09T23:59:59.999+00:00", "2025-10-10T00:00:00+00:00"),
        ("week", "2025-10-12T23:59:59.999+00:00", "2025-10-13T00:00:00+00:00"),
        ("month", "2025-10-31T23:59:59.999+00:00", "2025-11-01T00:00:00+00:00"),
        ("quarter", "2025-12-31T23:59:59.999+00:00", "2026-01-01T00:00:00+00:00"),
        ("year", "2025-12-31T23:59:59.999+00:00", "2026-01-01T00:00:00+00:00"),
        ("every:5400", "2025-10-09T11:29:59.999+00:00", "2025-10-09T11:30:00+00:00"),
    ],
)
def test_known_fault_r18_the_last_instant_of_a_window_is_inside_and_the_next_one_renews(
    ledger, period, last_ms, next_start
):
    ledger.account("root")
    ledger.budget("root", 10, period=period)
    ledger.spend("root", 10)
    ledger.now = round(datetime.fromisoformat(last_ms).timestamp() * 1000)
    refused = ledger.reserve("late", "root", 1, refused="budget_exceeded")
    assert refused.resets_at == datetime.fromisoformat(next_start)
    ledger.wait(1)
    ledger.reserve("next", "root", 10)


# covers R28
def test_a_lifetime_never_resets(ledger):
    ledger.account("root")
    ledger.budget("root", 10)
    ledger.spend("root", 10)
    assert ledger.wait(5_000 * DAY).reserve("h", "root", 1, refused="budget_exceeded").resets_at is None


def test_a_day_is_a_day_where_the_budget_says_it_is(ledger):
    ledger.account("root")
    ledger.budget("root", 10, period="day", zone="Europe/Berlin")
    ledger.spend("root", 10)
    ledger.wait(12 * HOUR - 1).reserve("h", "root", 1, refused="budget_exceeded")
    ledger.wait(1).reserve("h", "root", 1)  # 22:00 in UTC is midnight in Berlin's summer


# covers R32
def test_roll_over_is_lazy_and_no_job_resets_anything(ledger):
    ledger.account("root")
    ledger.budget("root", 10, period="hour")
    ledger.spend("root", 10)
    ledger.wait(DAY)
    assert ledger.due() == []
    ledger.reserve("h", "root", 1)
    assert ledger.kinds() == ["WindowOpened", "Held"]
    assert len(ledger.draft.cells) == 2, "skipped windows are not opened one by one"


def carrying(**fields):
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", 100, period="hour", **fields)
    return ledger


HOURLY = "tokens-hour"


def test_what_is_carried_leaves_the_window_it_comes_from():
    ledger = carrying(carry_over="unused")
    ledger.spend("root", 30)
    ledger.wait(HOUR)
    assert ledger.windows("root", HOURLY) == [(30, 30, 0, 0, 0), (170, 0, 0, 0, 0)]


def test_without_carry_over_nothing_is_carried():
    ledger = carrying()
    ledger.spend("root", 30)
    ledger.wait(HOUR)
    assert ledger.windows("root", HOURLY) == [(100, 30, 0, 0, 0), (100, 0, 0, 0, 0)]


@pytest.mark.parametrize(("hours", "limit"), [(1, 170), (2, 270), (3, 370), (10, 1_070)])
def test_skipped_windows_carry_their_whole_limit(hours, limit):
    ledger = carrying(carry_over="unused")
    ledger.spend("root", 30)
    ledger.wait(hours * HOUR)
    assert ledger.cell("root", HOURLY) == (limit, 0, 0, 0, 0)


@pytest.mark.parametrize("hours", [1, 2, 10])
def test_carry_max_bounds_what_is_carried_however_long(hours):
    ledger = carrying(carry_over="unused", carry_max=50)
    ledger.spend("root", 30)
    ledger.wait(hours * HOUR)
    assert ledger.cell("root", HOURLY) == (150, 0, 0, 0, 0)


def test_what_was_carried_is_carried_on():
    ledger = carrying(carry_over="unused")
    ledger.spend("root", 30)
    ledger.wait(HOUR).spend("root", 120)  # of 170
    ledger.wait(HOUR)
    assert ledger.windows("root", HOURLY)[1:] == [(120, 120, 0, 0, 0), (150, 0, 0, 0, 0)]


def test_carry_counts_from_the_making_of_the_budget_whoever_looks_when():
    looked_at, untouched = carrying(carry_over="unused"), carrying(carry_over="unused")
    looked_at.reserve("h", "root", 1)
    looked_at.release("h")
    for ledger in (looked_at, untouched):
        ledger.wait(2 * HOUR)
        assert ledger.cell("root", HOURLY) == (300, 0, 0, 0, 0)


def test_unused_adjustments_never_carry():
    ledger = carrying(carry_over="unused")
    ledger.adjust("more", "root", 50, budget=HOURLY)
    ledger.spend("root", 30)
    ledger.wait(HOUR)
    assert ledger.cell("root", HOURLY) == (170, 0, 0, 0, 0)
    ledger = carrying(carry_over="unused")
    ledger.adjust("more", "root", 50, budget=HOURLY)
    ledger.spend("root", 120)
    ledger.wait(HOUR)
    assert ledger.cell("root", HOURLY) == (100, 0, 0, 0, 0)


def test_what_was_lowered_is_not_carried():
    ledger = carrying(carry_over="unused")
    ledger.adjust("less", "root", -40, budget=HOURLY)
    ledger.wait(HOUR)
    assert ledger.cell("root", HOURLY) == (160, 0, 0, 0, 0)


def test_what_open_holds_keep_is_not_carried_and_what_they_give_back_later_is_lost():
    ledger = carrying(carry_over="unused")
    ledger.wait(50 * MINUTE).reserve("h", "root", 30, lease_s=7_200)
    ledger.wait(10 * MINUTE + 1)
    ledger.settle("h", 10)
    assert ledger.windows("root", HOURLY) == [(30, 10, 0, 0, 0), (170, 0, 0, 0, 0)]
    ledger.wait(HOUR)
    assert ledger.cell("root", HOURLY) == (270, 0, 0, 0, 0)


@pytest.mark.parametrize("touch", ["settle", "release", "extend", "expiry", "nothing"])
def test_before_a_cell_of_an_ended_window_changes_its_successor_opens(touch):
    ledger = carrying(carry_over="unused")
    ledger.wait(50 * MINUTE).reserve("h", "root", 30, lease_s=3_600)
    ledger.wait(20 * MINUTE)
    if touch == "settle":
        ledger.settle("h", 0)
    elif touch == "release":
        ledger.release("h")
    elif touch == "extend":
        ledger.extend("h", 30, lease_s=80_000)
    elif touch == "expiry":
        ledger.wait(DAY - 70 * MINUTE)
    ledger.now = START_MS + HOUR + 30 * MINUTE
    assert ledger.cell("root", HOURLY) == (170, 0, 0, 0, 0), "what was left at the end, whoever looks when"


@pytest.mark.parametrize(
    ("hours", "expected"),
    [(1, (100, 0, 0, 0, 250)), (2, (100, 0, 0, 0, 150)), (3, (100, 0, 0, 0, 50)), (4, (100, 0, 0, 0, 0))],
)
def test_debt_becomes_o_of_the_new_window_and_skipped_windows_pay_it_off(hours, expected):
    ledger = carrying(carry_debt=True)
    ledger.use("root", 350)
    ledger.wait(hours * HOUR)
    assert ledger.cell("root", HOURLY) == expected
    assert ledger.windows("root", HOURLY)[0] == (100, 0, 0, 0, 100), "debt leaves the window it comes from"


@pytest.mark.parametrize(
    ("hours", "expected"),
    [(3, (100, 0, 0, 0, 50)), (4, (150, 0, 0, 0, 0)), (5, (250, 0, 0, 0, 0))],
)
def test_after_the_debt_is_paid_unused_limit_carries_again(hours, expected):
    ledger = carrying(carry_debt=True, carry_over="unused")
    ledger.use("root", 350)
    ledger.wait(hours * HOUR)
    assert ledger.cell("root", HOURLY) == expected


def test_debt_is_forgiven_unless_it_is_carried():
    ledger = carrying(carry_over="unused")
    ledger.use("root", 350)
    ledger.wait(HOUR)
    assert ledger.windows("root", HOURLY) == [(100, 0, 0, 0, 350), (100, 0, 0, 0, 0)]


def test_holds_are_no_debt_only_what_was_spent_without_one_is():
    ledger = carrying(carry_debt=True)
    ledger.wait(50 * MINUTE).reserve("h", "root", 80, lease_s=7_200)
    ledger.use("root", 30)
    ledger.wait(10 * MINUTE)
    assert ledger.cell("root", HOURLY) == (100, 0, 0, 0, 10)


# covers E13
@settings(max_examples=200, deadline=None)
@given(
    limit=st.integers(0, 20),
    amount=st.integers(-100, 40),
    skipped=st.integers(0, 12),
    carries=st.booleans(),
    carry_max=st.none() | st.integers(0, 30),
)
def test_skipped_windows_in_closed_form_are_the_windows_one_by_one(limit, amount, skipped, carries, carry_max):
    budget = Budget(
        number=1, account=1, name="x", unit="tokens", period="day", zone="UTC", limit=limit, carry_max=carry_max,
        carry_over="unused" if carries else "none", carry_debt=True,
    )  # fmt: skip
    if amount > 0:
        amount = 0 if not carries else amount if carry_max is None else min(amount, carry_max)
    expected = amount
    for _ in range(skipped):
        left = limit + expected
        if left > 0:
            left = 0 if not carries else left if carry_max is None else min(left, carry_max)
        expected = left
    assert carried_over(budget, amount, skipped) == expected


def test_a_carried_limit_stays_within_what_json_keeps(ledger):
    ledger.account("root")
    ledger.budget("root", AMOUNT_MAX - 5, period="hour", carry_over="unused")
    ledger.reserve("h", "root", 1)
    ledger.wait(10 * HOUR)
    assert ledger.cell("root", HOURLY).limit == AMOUNT_MAX


def test_a_changed_period_begins_with_the_end_of_the_running_window(ledger):
    ledger.account("root")
    ledger.budget("root", 10, period="hour", budget="x")
    ledger.spend("root", 10)
    answer = ledger.budget("root", 10, period="day", budget="x")
    assert (answer.budget.version, answer.budget.period) == (2, "day")
    ledger.wait(HOUR - 1).reserve("h", "root", 1, refused="budget_exceeded")
    ledger.wait(1).spend("root", 10)
    refused = ledger.wait(HOUR).reserve("h", "root", 1, refused="budget_exceeded")
    assert refused.resets_at == datetime.fromisoformat("2025-10-10T00:00:00+00:00")
    assert refused.binding.window_start == datetime.fromisoformat("2025-10-09T11:00:00+00:00")


def test_a_changed_zone_begins_with_the_end_of_the_running_window(ledger):
    ledger.account("root")
    ledger.budget("root", 10, period="day", budget="x")
    ledger.spend("root", 10)
    ledger.budget("root", 10, period="day", budget="x", zone="Asia/Tokyo")
    ledger.wait(6 * HOUR).reserve("h", "root", 1, refused="budget_exceeded")  # past midnight in Tokyo
    ledger.wait(8 * HOUR)
    assert ledger.cell("root", "x") == (10, 0, 0, 0, 0)


@pytest.mark.parametrize(("before", "after"), [("lifetime", "day"), ("day", "lifetime")])
def test_a_lifetime_budget_does_not_change_its_period(ledger, before, after):
    ledger.account("root")
    ledger.budget("root", 10, period=before, budget="x")
    assert ledger.budget("root", 10, period=after, budget="x", refused="conflict").field == "period"
