"""Allocations and transfers (design.md §1 "An allocation A seen from each cell above it", §2 E8, E13, §3)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.core.commands import Transfer
from fiscus.core.outcomes import Refused
from tests.core.builders import DAY, HOUR, MINUTE, Ledger, moment

HOURLY = "tokens-hour"


@pytest.fixture
def deep(ledger):
    """root (1,000) ← team (allocation 600) ← x (allocation 250), y (allocation 150); root ← other (allocation 200)."""
    ledger.tree("root", "root/team", "root/other", "team/x", "team/y")
    ledger.budget("root", 1_000)
    ledger.allocate("team", 600)
    ledger.allocate("x", 250)
    ledger.allocate("y", 150)
    ledger.allocate("other", 200)
    return ledger


def test_an_allocation_is_a_standing_hold_on_the_chain_above_its_child(deep):
    assert deep.cell("root") == (1_000, 0, 800, 0, 0)
    assert deep.carved("team") == (600, 0, 400, 0, 0)
    assert deep.carved("x") == (250, 0, 0, 0, 0)


# covers E13
@pytest.mark.parametrize(
    ("bound", "spent", "child", "above"),
    [
        (0, 0, (40, 0, 0, 0, 0), (100, 0, 40, 0, 0)),
        (10, 10, (40, 10, 0, 0, 0), (100, 10, 30, 0, 0)),
        (40, 40, (40, 40, 0, 0, 0), (100, 40, 0, 0, 0)),
        (10, 25, (40, 10, 0, 0, 15), (100, 25, 15, 0, 0)),
        (40, 45, (40, 40, 0, 0, 5), (100, 40, 0, 0, 5)),
        (10, 95, (40, 10, 0, 0, 85), (100, 40, 0, 0, 55)),
    ],
)
def test_the_three_equations_of_an_allocation_seen_from_above(pool, bound, spent, child, above):
    pool.allocate("a", 40)
    if spent:
        pool.reserve("h", "a", bound)
        assert pool.cell("root") == (100, 0, 40, 0, 0), "the child's own H stays inside the parent's H"
        pool.settle("h", spent)
    assert pool.carved("a") == child
    assert pool.cell("root") == above


def test_the_childs_own_quarantine_stays_inside_the_parents_h(pool):
    pool.allocate("a", 40)
    pool.reserve("h", "a", 30, lease_s=60)
    pool.wait(MINUTE)
    assert pool.carved("a") == (40, 0, 0, 30, 0)
    assert pool.cell("root") == (100, 0, 40, 0, 0)
    pool.wait(DAY)
    assert pool.carved("a") == (40, 30, 0, 0, 0)
    assert pool.cell("root") == (100, 30, 10, 0, 0)


# covers E13
@settings(max_examples=100, deadline=None)
@given(sizes=st.tuples(st.integers(0, 60), st.integers(0, 60)), uses=st.lists(st.integers(0, 50), max_size=5))
def test_the_equations_hold_on_every_level(sizes, uses):
    ledger = Ledger()
    ledger.tree("root", "root/team", "team/x")
    ledger.budget("root", 100)
    ledger.allocate("team", max(sizes))
    ledger.allocate("x", min(sizes))
    for use in uses:
        ledger.use("x", use)
    inner, outer, spent = min(sizes), max(sizes), sum(uses)
    assert ledger.carved("x") == (inner, 0, 0, 0, spent)
    team = (min(inner, spent), max(0, inner - spent), max(0, spent - inner))
    assert ledger.carved("team") == (outer, team[0], team[1], 0, team[2])
    counted = team[0] + team[2]
    assert ledger.cell("root") == (100, min(outer, counted), max(0, outer - counted), 0, max(0, counted - outer))


# covers D7, E2
def test_an_allocation_takes_no_more_than_what_is_not_allocated_yet(pool):
    pool.allocate("a", 60)
    refused = pool.allocate("b", 41, refused="budget_exceeded")
    assert (refused.binding.account, refused.binding.available) == ("root", 40)
    pool.allocate("b", 40)
    pool.reserve("h", "root", 1, refused="budget_exceeded")
    pool.reserve("h", "b", 40)


# covers D2, D7
def test_known_faults_d3_d15_no_more_is_handed_out_than_there_is(ledger):
    ledger.account("global")
    ledger.budget("global", 1_000)
    for n in range(5):
        ledger.account(f"agent:{n}", "global")
        ledger.allocate(f"agent:{n}", 300, refused=None if n < 3 else "budget_exceeded")
    assert ledger.cell("global") == (1_000, 0, 900, 0, 0)


def test_known_fault_d7_allocating_again_keeps_one_allocation_and_loses_nothing(pool):
    pool.allocate("a", 60)
    pool.spend("a", 10)
    pool.allocate("a", 30)
    assert pool.carved("a") == (30, 10, 0, 0, 0)
    assert pool.cell("root") == (100, 10, 20, 0, 0)
    pool.allocate("a", 90)
    pool.allocate("a", 101, refused="budget_exceeded")
    assert pool.carved("a") == (90, 10, 0, 0, 0)


def test_an_allocation_shrinks_to_what_is_in_use_and_not_below(pool):
    pool.allocate("a", 60)
    pool.spend("a", 10)
    pool.reserve("h", "a", 15)
    refused = pool.allocate("a", 24, refused="below_use")
    assert refused.binding.account == "a"
    pool.allocate("a", 25)
    assert pool.cell("root") == (100, 10, 15, 0, 0)


def test_allocating_the_same_again_changes_nothing(pool):
    pool.allocate("a", 60)
    pool.allocate("a", 60)
    assert pool.last == []


def test_an_allocation_can_insist_on_its_version(pool):
    pool.allocate("a", 10, if_version=0)
    pool.allocate("a", 20, if_version=0, refused="precondition_failed")
    pool.allocate("a", 20, if_version=1)
    pool.allocate("a", 30, if_version=1, refused="precondition_failed")
    assert pool.carved("a").limit == 20


def test_allocating_nothing_lets_the_account_spend_nothing(pool):
    pool.allocate("a", 0)
    pool.reserve("h", "a", 1, refused="budget_exceeded")
    pool.reserve("h", "a", {"tokens": 0, "cost": 1})


@pytest.mark.parametrize(("account", "code"), [("root", "invalid"), ("nobody", "unknown_account")])
def test_there_must_be_something_to_carve_from(pool, account, code):
    pool.allocate(account, 1, refused=code)


def test_a_live_allocation_counts_as_exceeded_and_a_parked_one_as_busy(pool):
    pool.allocate("a", 60)
    pool.reserve("h", "a", 30)
    pool.reserve("x", "b", 50, refused="budget_exceeded")
    pool.status("a", "suspended")
    assert pool.cell("root") == (100, 0, 30, 0, 0)
    pool.reserve("x", "b", 80, refused="budget_busy")


def test_deallocate_returns_what_is_free_and_the_account_draws_on_its_parent_again(pool):
    pool.allocate("a", 60)
    pool.reserve("h", "a", 20)
    pool.spend("a", 10)
    assert pool.deallocate("a").size == 0
    assert pool.cell("root") == (100, 10, 20, 0, 0)
    pool.settle("h", 5)
    assert pool.cell("root") == (100, 15, 0, 0, 0), "what was in use stays covered and shrinks"
    pool.reserve("h2", "a", 85)
    pool.deallocate("a", refused="unknown_allocation")


def test_known_fault_d7_what_was_allocated_comes_back_at_the_end(pool):
    pool.allocate("a", 100)
    pool.spend("a", 30)
    pool.status("a", "terminated")
    assert pool.cell("root") == (100, 30, 0, 0, 0)
    pool.allocate("b", 70)


# -- the end of an allocation --------------------------------------------------------------------------------------


@pytest.fixture
def hourly(ledger):
    ledger.tree("root", "root/a", "root/b", "a/leaf")
    ledger.budget("root", 100, period="hour")
    return ledger


def test_an_allocation_ends_with_the_earliest_window_and_is_carved_again_if_there_is_room(hourly):
    hourly.budget("root", 1_000, period="day")
    hourly.allocate("a", 60)
    hourly.spend("a", 50)
    hourly.wait(HOUR)
    assert hourly.cell("root", HOURLY) == (100, 0, 0, 0, 0), "lazily: not before it is used"
    hourly.reserve("h", "a", 60)
    assert hourly.cell("root", HOURLY) == (100, 0, 60, 0, 0)
    assert hourly.cell("root", "tokens-day") == (1_000, 50, 60, 0, 0)


def test_without_room_it_is_not_carved_again_and_the_refusal_names_who_lacks_it(hourly):
    hourly.allocate("a", 60)
    hourly.wait(HOUR).reserve("h", "b", 41)
    refused = hourly.reserve("h2", "a", 1, refused="budget_busy")
    assert refused.binding.account == "root"
    hourly.release("h")
    hourly.reserve("h2", "a", 1)
    assert hourly.cell("root", HOURLY) == (100, 0, 60, 0, 0)


def test_an_ended_allocation_covers_what_is_in_use_and_shrinks_with_it(hourly):
    hourly.allocate("a", 60)
    hourly.reserve("h", "a", 20, lease_s=7_200)
    hourly.spend("a", 10)
    hourly.wait(HOUR)
    assert hourly.windows("root", HOURLY)[0] == (100, 10, 20, 0, 0)
    hourly.settle("h", 5)
    assert hourly.windows("root", HOURLY)[0] == (100, 15, 0, 0, 0)


def test_valid_until_ends_it_for_good_unless_it_is_allocated_again(pool):
    pool.allocate("a", 60, valid_until=moment(30 * MINUTE))
    pool.wait(30 * MINUTE - 1).spend("a", 10)
    pool.wait(1)
    assert "ended" in pool.reserve("h", "a", 1, refused="budget_exceeded").detail
    assert pool.cell("root") == (100, 10, 0, 0, 0)
    pool.allocate("a", 20, valid_until=moment(30 * MINUTE), refused="invalid")
    pool.allocate("a", 20)
    pool.reserve("h", "a", 20)


def test_shortening_an_allocation_shortens_what_is_carved_from_it(ledger):
    ledger.tree("root", "root/team", "team/x")
    ledger.budget("root", 100)
    ledger.allocate("team", 50)
    ledger.allocate("x", 20)
    ledger.reserve("h", "x", 5, lease_s=7_200)
    ledger.allocate("team", 50, valid_until=moment(HOUR))
    ledger.wait(HOUR)
    ended = [event for event in ledger.due() if type(event).__name__ == "AllocationEnded"]
    depths = [ledger.draft.accounts[ledger.draft.cells[event.cell].account].depth for event in ended]
    assert depths == [3, 2], "leaf first"
    assert ledger.cell("root") == (100, 0, 5, 0, 0)


def test_while_suspended_an_allocation_is_parked_and_goes_back_to_its_size(pool):
    pool.allocate("a", 60)
    pool.reserve("h", "a", 20)
    pool.status("root", "suspended")
    assert pool.cell("root") == (100, 0, 20, 0, 0)
    pool.settle("h", 5)
    assert pool.cell("root") == (100, 5, 0, 0, 0)
    pool.status("root", "active")
    assert pool.cell("root") == (100, 5, 55, 0, 0)
    assert pool.carved("a") == (60, 5, 0, 0, 0)


def test_without_room_on_resume_it_stays_parked_until_there_is(pool):
    pool.allocate("a", 60)
    pool.status("a", "suspended")
    pool.reserve("h", "b", 50)
    pool.status("a", "active")
    assert pool.cell("root") == (100, 0, 50, 0, 0)
    pool.reserve("h2", "a", 1, refused="budget_busy")
    pool.release("h")
    pool.reserve("h2", "a", 1)
    assert pool.cell("root") == (100, 0, 60, 0, 0)


def test_of_two_suspended_levels_both_must_be_active_again(ledger):
    ledger.tree("root", "root/team", "team/x")
    ledger.budget("root", 100)
    ledger.allocate("x", 30)
    ledger.status("x", "suspended")
    ledger.status("team", "suspended")
    ledger.status("team", "active")
    assert ledger.cell("root") == (100, 0, 0, 0, 0)
    ledger.status("x", "active")
    assert ledger.cell("root") == (100, 0, 30, 0, 0)


# covers E14
def test_usage_of_a_parked_allocation_shows_above_as_o_and_leaves_it_parked(pool):
    pool.allocate("a", 60)
    pool.status("a", "suspended")
    pool.use("a", 7)
    assert pool.cell("root") == (100, 0, 0, 0, 7)
    assert pool.kinds() == ["Settled"]


# covers E14
def test_usage_under_an_allocation_that_cannot_be_carved_is_in_the_running_windows(hourly):
    hourly.allocate("a", 60)
    hourly.wait(HOUR).reserve("h", "b", 50)
    hourly.use("leaf", 7)
    assert hourly.cell("root", HOURLY) == (100, 0, 50, 0, 7)
    hourly.release("h")
    hourly.reserve("h2", "a", 53)
    assert hourly.cell("root", HOURLY) == (100, 7, 53, 0, 0)


# -- budgets made above --------------------------------------------------------------------------------------------


def test_a_budget_made_above_live_allocations_holds_them_from_its_start(pool):
    pool.allocate("a", 60)
    pool.spend("a", 10)
    pool.budget("root", 70, budget="second")
    assert pool.cell("root", "second") == (70, 10, 50, 0, 0)
    pool.spend("a", 5)
    assert pool.cell("root", "second") == (70, 15, 45, 0, 0)


def test_a_budget_made_above_live_allocations_is_refused_for_lack_of_room(pool):
    pool.allocate("a", 60)
    pool.use("a", 10)
    pool.budget("root", 59, budget="second", refused="budget_exceeded")
    assert all(budget.name != "second" for budget in pool.draft.budgets.values()), "nothing is left of it"
    pool.budget("root", 59, budget="soft", mode="warn")
    assert pool.cell("root", "soft") == (59, 10, 50, 0, 0)


def test_a_new_budget_ends_the_allocations_below_it_with_its_window(pool):
    pool.allocate("a", 60)
    pool.budget("root", 100, period="hour")
    pool.wait(HOUR)
    assert pool.cell("root") == (100, 0, 0, 0, 0)
    pool.reserve("h", "a", 1)
    assert pool.cell("root") == (100, 0, 60, 0, 0)


def test_what_was_carved_past_an_account_stays_held_where_it_was_carved(ledger):
    ledger.tree("root", "root/b", "b/c")
    ledger.budget("root", 100)
    ledger.allocate("c", 43)
    ledger.allocate("b", 6)
    ledger.budget("root", 49, budget="second")
    assert ledger.cell("root", "second") == (49, 0, 49, 0, 0)


# -- transfer ------------------------------------------------------------------------------------------------------


def sizes(ledger, *accounts):
    return [ledger.carved(account).limit for account in accounts]


# covers E8, T11
def test_a_transfer_moves_below_the_common_ancestor_and_nothing_at_or_above_it(deep):
    root, team = deep.cell("root"), deep.carved("team")
    deep.transfer("x", "y", 50)
    assert sizes(deep, "x", "y") == [200, 200]
    assert (deep.cell("root"), deep.carved("team")) == (root, team)


# covers E8
def test_every_allocation_on_both_paths_shrinks_or_grows(deep):
    root = deep.cell("root")
    deep.transfer("x", "other", 50)
    assert sizes(deep, "x", "team", "y", "other") == [200, 550, 150, 250]
    assert deep.cell("root") == root
    deep.transfer("other", "y", 250)
    assert sizes(deep, "x", "team", "y", "other") == [200, 800, 400, 0]
    assert deep.cell("root") == root


# covers E8, T11
@settings(max_examples=100, deadline=None)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["x", "y", "other"]), st.sampled_from(["x", "y", "other"]), st.integers(1, 120)),
        max_size=6,
    ),
    spent=st.integers(0, 200),
)
def test_a_transfer_conserves_the_total_and_a_refusal_changes_nothing(moves, spent):
    ledger = Ledger()
    ledger.tree("root", "root/team", "root/other", "team/x", "team/y")
    ledger.budget("root", 1_000)
    for account, size in (("team", 400), ("x", 150), ("y", 100), ("other", 200)):
        ledger.allocate(account, size)
    ledger.use("x", spent)
    root = ledger.cell("root")
    for source, target, amount in moves:
        before = sizes(ledger, "x", "y", "other", "team")
        above = ["team"] if source != "other" and target == "other" else []
        frees = [ledger.carved(account).limit - sum(ledger.carved(account)[1:]) for account in (source, *above)]
        free = frees[0] if min(frees) >= 0 else 0  # what is above shrinks with it, and keeps what it has free
        outcome = ledger.decide(Transfer(source=source, target=target, unit="tokens", amount=amount))
        after = sizes(ledger, "x", "y", "other", "team")
        assert sum(after[:3]) == sum(before[:3])
        if isinstance(outcome, Refused):
            assert after == before
            assert source == target or amount > free
        else:
            assert amount <= free, "nothing leaves an overdrawn allocation"
    assert ledger.cell("root")[0] == root[0]
    assert sum(ledger.cell("root")[1:]) == sum(root[1:])


# covers E8
def test_only_what_is_available_moves(deep):
    deep.reserve("h", "x", 200)
    refused = deep.transfer("x", "y", 51, refused="budget_busy")
    assert refused.binding.account == "x"
    deep.transfer("x", "y", 50)
    deep.use("x", 30)
    deep.transfer("x", "y", 1, refused="budget_busy")
    deep.settle("h", 220)
    deep.transfer("x", "y", 1, refused="budget_exceeded")
    assert deep.carved("x") == (200, 200, 0, 0, 50)


# covers T7
def test_a_donor_keeps_its_reserve(deep):
    deep.account("x", min_reserve={"tokens": 100})
    deep.spend("x", 30)
    refused = deep.transfer("x", "y", 121, refused="budget_exceeded")
    assert refused.detail.endswith("; 100 of the 221 are what it keeps (min_reserve, what it has borrowed)")
    deep.transfer("x", "y", 120)
    assert deep.carved("x") == (130, 30, 0, 0, 0)


# covers T8
@pytest.mark.parametrize(("donor", "needy", "code"), [(1, 1, None), (1, 2, None), (2, 1, "lower_priority")])
def test_budget_never_moves_from_a_higher_to_a_lower_priority(deep, donor, needy, code):
    deep.account("x", priority=donor)
    deep.account("y", priority=needy)
    deep.transfer("x", "y", 1, refused=code)


# covers T11, T6
def test_known_fault_t5_registering_again_after_a_move_mints_nothing(deep):
    deep.transfer("x", "y", 50)
    deep.account("x", "team", priority=1)
    deep.account("y", "team")
    assert sizes(deep, "x", "y", "team") == [200, 200, 600]


def test_every_target_cell_below_the_common_ancestor_needs_room(ledger):
    ledger.tree("root", "root/team", "root/other", "team/x")
    ledger.budget("root", 1_000)
    ledger.budget("team", 120)
    ledger.allocate("x", 100)
    ledger.allocate("other", 200)
    assert ledger.transfer("other", "x", 21, refused="budget_exceeded").binding.account == "team"
    ledger.transfer("other", "x", 20)
    assert ledger.cell("team") == (120, 0, 120, 0, 0)
    assert ledger.cell("root") == (1_000, 0, 300, 0, 0)


# covers E8
def test_a_path_is_what_the_source_is_carved_from_and_not_the_tree(ledger):
    ledger.tree("root", "root/team", "root/other", "team/x")
    ledger.budget("root", 1_000)
    ledger.allocate("x", 100)
    ledger.allocate("team", 50)  # x stays held on root's window, not on the team's
    ledger.allocate("other", 200)
    ledger.transfer("x", "other", 10)
    assert sizes(ledger, "x", "team", "other") == [90, 50, 210]
    ledger.transfer("other", "x", 20)
    assert sizes(ledger, "x", "team", "other") == [110, 50, 190]
    assert ledger.cell("root") == (1_000, 0, 350, 0, 0)


# covers E8
def test_between_allocations_held_on_different_windows_it_is_refused(ledger):
    ledger.tree("root", "root/mid", "mid/team", "mid/x", "team/y")
    ledger.budget("root", 1_000)
    ledger.allocate("y", 100)  # held on root
    ledger.allocate("mid", 300)  # from now on, what is carved below is held on it
    ledger.allocate("x", 100)
    ledger.transfer("x", "y", 10, refused="other_windows")
    ledger.transfer("y", "x", 10, refused="other_windows")
    assert sizes(ledger, "x", "mid", "y") == [100, 300, 100]


@pytest.mark.parametrize(("source", "target"), [("team", "x"), ("x", "team"), ("root", "x"), ("x", "x")])
def test_up_or_down_the_tree_is_allocate_and_not_transfer(deep, source, target):
    assert deep.transfer(source, target, 1, refused="invalid").field == "target"


def test_a_transfer_needs_an_allocation_on_both_sides_and_an_account_in_common(deep):
    deep.tree("lone", "team/poor")
    deep.transfer("x", "poor", 1, refused="unknown_allocation")
    deep.transfer("poor", "x", 1, refused="unknown_allocation")
    deep.transfer("x", "lone", 1, refused="invalid")
    deep.transfer("x", "nobody", 1, refused="unknown_account")
    deep.transfer("x", "y", 1, unit="cost", refused="unknown_allocation")


@pytest.mark.parametrize("amount", [0, -5])
def test_a_transfer_of_nothing_or_less_is_invalid(deep, amount):
    assert deep.transfer("x", "y", amount, refused="invalid").field == "amount"


@pytest.mark.parametrize("inactive", ["x", "y", "team", "root"])
def test_nothing_moves_from_to_or_below_an_account_that_is_not_active(deep, inactive):
    deep.status(inactive, "suspended")
    deep.transfer("x", "y", 1, refused="account_suspended")


def test_an_account_ending_ends_what_was_carved_from_it_and_frees_the_rest(deep):
    deep.spend("x", 20)
    deep.reserve("h", "y", 30)
    deep.status("team", "closed")
    assert deep.cell("root") == (1_000, 20, 230, 0, 0)
    deep.settle("h", 10)
    assert deep.cell("root") == (1_000, 30, 200, 0, 0)
    deep.status("team", "active", refused="conflict")
