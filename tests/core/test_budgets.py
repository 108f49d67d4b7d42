"""Budgets and adjustments (design.md §3 "raise / override", "lower below use", E13)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.core.commands import THRESHOLDS_DEFAULT, Adjust, EndAdjustment
from fiscus.core.units import AMOUNT_MAX
from tests.core.builders import DAY, HOUR, MINUTE, START_MS, Ledger, moment

HOURLY = "tokens-hour"


# covers R35
def test_a_budget_has_defaults_and_a_name_of_its_own_in_its_account(ledger):
    ledger.account("root")
    view = ledger.budget("root", 100_000).budget
    assert (view.budget, view.version, view.period, view.zone, view.mode) == (
        "tokens-lifetime", 1, "lifetime", "UTC", "enforce",
    )  # fmt: skip
    assert view.thresholds == THRESHOLDS_DEFAULT
    assert view.thresholds == {50: "info", 75: "warning", 90: "critical", 95: "final", 100: "exhausted"}
    ledger.budget("root", 50, budget="tokens-lifetime")
    assert ledger.cell("root").limit == 50, "the same name is the same budget"
    ledger.budget("root", 70, budget="second")
    assert ledger.cell("root").limit == 50
    assert ledger.cell("root", "second").limit == 70


def test_putting_what_is_there_changes_nothing(pool):
    version = pool.budget("root", 100).budget.version
    assert version == 1
    assert pool.last == []
    assert pool.budget("root", 101).budget.version == 2


# covers R35, E13
def test_a_changed_limit_keeps_what_is_spent(pool):
    pool.spend("a", 40)
    pool.budget("root", 60)
    assert pool.cell("root") == (60, 40, 0, 0, 0)


@pytest.mark.parametrize(
    ("existing", "wanted", "code"),
    [(False, 0, None), (False, 1, "precondition_failed"), (True, 1, None), (True, 0, "precondition_failed"),
     (True, 2, "precondition_failed")],
)  # fmt: skip
def test_a_change_can_insist_on_the_version(ledger, existing, wanted, code):
    ledger.account("root")
    if existing:
        ledger.budget("root", 100)
    ledger.budget("root", 200, if_version=wanted, refused=code)


@pytest.mark.parametrize(
    ("fields", "field"), [({"unit": "cost", "budget": "x"}, "unit"), ({"budget": "allocation-tokens"}, "budget")]
)
def test_a_budget_does_not_become_another(pool, fields, field):
    pool.budget("a", 10, budget="x")
    pool.allocate("a", 10)
    assert pool.budget("a", 10, refused="conflict", **fields).field == field


def test_a_limit_is_not_cut_below_use_unless_forced_and_in_flight_holds_are_not_cut(pool):
    pool.spend("a", 20)
    pool.reserve("h", "a", 30)
    refused = pool.budget("root", 49, refused="below_use")
    assert (refused.requested, refused.binding.available) == (49, 50)
    pool.budget("root", 50)
    pool.budget("root", 10, force=True)
    assert pool.cell("root") == (10, 20, 30, 0, 0)
    pool.settle("h", 30)
    assert pool.cell("root") == (10, 50, 0, 0, 0)
    pool.reserve("h2", "a", 1, refused="budget_exceeded")


def test_a_limit_below_use_may_rise_without_force(pool):
    pool.use("a", 300)
    pool.budget("root", 200)
    assert pool.cell("root") == (200, 0, 0, 0, 300)


def test_enforcing_what_is_overdrawn_needs_force(ledger):
    ledger.account("root")
    ledger.budget("root", 10, mode="observe")
    ledger.reserve("h", "root", 30)
    ledger.budget("root", 10, refused="below_use")
    ledger.budget("root", 10, mode="warn")
    ledger.budget("root", 10, force=True)
    ledger.reserve("h2", "root", 1, refused="budget_busy")


def test_a_removed_budget_limits_nothing_and_may_be_made_again_without_minting_back(pool):
    pool.spend("a", 90)
    pool.remove_budget("root", "tokens-lifetime", if_version=2, refused="precondition_failed")
    pool.remove_budget("root", "tokens-lifetime", if_version=1)
    pool.reserve("h", "a", 1_000)
    pool.remove_budget("root", "tokens-lifetime", refused="unknown_budget")
    pool.settle("h", 1_000)
    pool.allocate("a", 10)
    pool.remove_budget("a", "allocation-tokens", refused="conflict")


# -- adjustments ---------------------------------------------------------------------------------------------------


# covers R31, E13
def test_an_override_is_a_recorded_adjustment_with_reason_actor_and_end(pool):
    pool.do(
        Adjust(id="o1", account="root", budget="tokens-lifetime", amount=50, reason="launch", valid_until=moment(HOUR)),
        actor="alice",
    )
    event = pool.last[-1]
    assert (event.amount, event.actor, event.private.reason, event.valid_until) == (
        50, "alice", "launch", pool.now + HOUR,
    )  # fmt: skip
    assert pool.cell("root").limit == 150
    assert pool.find("root", "tokens-lifetime").limit == 100, "never an edit of the base limit"
    pool.wait(HOUR)
    assert pool.cell("root").limit == 100


# covers R31
def test_known_fault_r15_an_override_is_bounded_and_ends(pool):
    pool.adjust("o1", "root", 50, valid_until=moment(MINUTE))
    pool.reserve("h", "a", 151, refused="budget_exceeded")
    pool.wait(MINUTE)
    pool.reserve("h", "a", 101, refused="budget_exceeded")
    pool.adjust("o2", "root", 50, valid_until=moment(MINUTE), refused="invalid")


# covers E13
def test_adjustments_add_up_and_end_one_by_one(pool):
    pool.adjust("a1", "root", 50)
    pool.adjust("a2", "root", -30)
    pool.adjust("a3", "root", 7)
    assert pool.cell("root").limit == 127
    pool.end_adjustment("a2", "root")
    assert pool.cell("root").limit == 157
    assert pool.end_adjustment("a1", "root").active is False
    pool.end_adjustment("a1", "root")
    assert pool.cell("root").limit == 107


# covers E7
def test_the_same_adjustment_twice_counts_once_and_another_body_is_a_conflict(pool):
    first = pool.adjust("a1", "root", 50)
    assert pool.adjust("a1", "root", 50) == first
    assert pool.cell("root").limit == 150
    pool.adjust("a1", "root", 60, refused="conflict")
    pool.remove_budget("root", "tokens-lifetime")
    assert pool.adjust("a1", "root", 50).id == "a1"


def test_one_that_lowers_starts_at_once_and_not_below_use_without_force(pool):
    pool.reserve("h", "a", 60)
    pool.adjust("less", "root", -41, refused="below_use")
    pool.adjust("less", "root", -40)
    pool.reserve("h2", "a", 1, refused="budget_busy")
    pool.adjust("less2", "root", -61, force=True, refused="invalid")
    pool.adjust("less2", "root", -60, force=True)
    assert pool.cell("root") == (0, 0, 60, 0, 0)


def test_an_adjustment_belongs_to_the_running_window_and_ends_with_it(ledger):
    ledger.account("root")
    ledger.budget("root", 100, period="hour")
    ledger.adjust("more", "root", 30, budget=HOURLY)
    ledger.reserve("h", "root", 20, lease_s=80_000)
    ledger.wait(HOUR)
    assert ledger.windows("root", HOURLY) == [(100, 0, 20, 0, 0), (100, 0, 0, 0, 0)]
    ledger.extend("h", 101, refused="budget_exceeded")
    ledger.end_adjustment("more", "root")
    assert ledger.cell("root", HOURLY).limit == 100


@pytest.mark.parametrize("valid_until", [None, moment(30 * DAY)])
def test_validity_beyond_the_window_ends_with_the_window(ledger, valid_until):
    ledger.account("root")
    ledger.budget("root", 100, period="hour")
    ledger.adjust("more", "root", 30, budget=HOURLY, valid_until=valid_until)
    ledger.wait(HOUR)
    assert ledger.cell("root", HOURLY).limit == 100


def test_what_cannot_be_adjusted(pool):
    pool.adjust("x", "root", 1, budget="nothing", refused="unknown_budget")
    pool.adjust("x", "nobody", 1, refused="unknown_account")
    pool.allocate("a", 10)
    pool.adjust("x", "a", 1, budget="allocation-tokens", refused="conflict")
    pool.adjust("x", "root", AMOUNT_MAX - 99, refused="invalid")
    pool.adjust("x", "root", AMOUNT_MAX - 100)
    pool.end_adjustment("x", "a", refused="unknown_adjustment")
    pool.end_adjustment("y", "root", refused="unknown_adjustment")


# covers E13
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["adjust", "end", "use", "wait"]), st.integers(-40, 60), st.integers(1, 5)),
        max_size=10,
    )
)
def test_a_limit_is_base_and_active_adjustments_or_what_is_in_use_of_ended_ones(steps):
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", 100)
    used = 0
    for number, (what, n, minutes) in enumerate(steps):
        if what == "adjust" and n:
            ledger.decide(
                Adjust(id=f"a{number}", account="root", budget="tokens-lifetime", amount=n, reason="r",
                       valid_until=moment(ledger.now - START_MS + minutes * MINUTE))
            )  # fmt: skip
        elif what == "end":
            ledger.decide(EndAdjustment(id=f"a{number - 1}", account="root"))
        elif what == "use" and n > 0:
            ledger.use("root", n)
            used += n
        else:
            ledger.wait(minutes * MINUTE).due()
        active = sum(a.amount for a in ledger.draft.adjustments.values() if a.active)
        limit = ledger.cell("root").limit
        assert limit >= max(0, 100 + active)
        assert limit == max(0, 100 + active) or limit <= used
