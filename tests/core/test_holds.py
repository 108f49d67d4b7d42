"""Reserve, extend, settle, release, expiry, and usage after the fact (design.md §2 E2, E5 – E7, E14; §3)."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.core.commands import EraseName, Extend, Release, Reserve, Settle
from fiscus.core.outcomes import Refused
from fiscus.core.records import CallRecord, Tokens
from fiscus.core.units import AMOUNT_MAX
from tests.core.builders import DAY, HOUR, MINUTE, SECOND, Ledger, moment, rows

# -- reserve -------------------------------------------------------------------------------------------------------


# covers R27, E2
def test_reserve_holds_on_every_level_or_on_none(ledger):
    ledger.tree("global", "global/team", "team/project", "project/user")
    for account, limit in (("global", 100), ("team", 60), ("project", 50), ("user", 40)):
        ledger.budget(account, limit)
    ledger.reserve("first", "user", 30)
    for account, limit in (("global", 100), ("team", 60), ("project", 50), ("user", 40)):
        assert ledger.cell(account) == (limit, 0, 30, 0, 0)
    ledger.reserve("other", "team", 25)
    refused = ledger.reserve("second", "user", 6, refused="budget_busy")
    assert refused.binding.account == "team", "every level is asked, not only the payer's own"
    assert ledger.cell("user") == (40, 0, 30, 0, 0)
    assert ledger.cell("global") == (100, 0, 55, 0, 0)


def test_reserve_holds_all_units_or_none(pool):
    pool.budget("root", 9, "cost")
    pool.reserve("h", "a", {"tokens": 10, "cost": 10}, refused="budget_exceeded")
    assert pool.cell("root") == (100, 0, 0, 0, 0)
    pool.reserve("h", "a", {"tokens": 10, "cost": 9})
    assert pool.cell("root") == (100, 0, 10, 0, 0)
    assert pool.cell("root", "cost-lifetime") == (9, 0, 9, 0, 0)


# covers R33, E2
def test_known_fault_r3_the_check_and_the_spend_agree_about_the_last_one(pool):
    pool.reserve("h", "a", 100)
    pool.settle("h", 100)
    assert pool.cell("root") == (100, 100, 0, 0, 0), "a limit may be reached exactly"
    pool.reserve("h2", "a", 1, refused="budget_exceeded")


def test_known_fault_r4_a_hundred_approvals_of_one_sum_do_not_all_pass(ledger):
    ledger.account("root")
    ledger.budget("root", 10_000_000_000, "cost")
    ledger.reserve("h0", "root", {"cost": 7_180_000_000})
    for n in range(1, 100):
        ledger.reserve(f"h{n}", "root", {"cost": 7_180_000_000}, refused="budget_busy")


# covers X1, X4, D2
def test_known_fault_x1_of_many_calls_in_flight_at_once_only_those_that_fit_are_admitted(ledger):
    ledger.account("thread:1")
    ledger.budget("thread:1", 100)
    for n in range(20):
        ledger.reserve(f"call-{n}", "thread:1", 30, refused=None if n < 3 else "budget_busy")
    for n in range(3):
        ledger.settle(f"call-{n}", 30)
    assert ledger.cell("thread:1") == (100, 90, 0, 0, 0), "not 600 of 100"


# covers X3
def test_a_refusal_says_who_binds_and_its_whole_balance(ledger):
    ledger.account("root")
    ledger.budget("root", 100, period="hour")
    ledger.spend("root", 40)
    ledger.use("root", 7)
    ledger.reserve("h", "root", 20)
    refused = ledger.reserve("h2", "root", 60, refused="budget_exceeded")
    seen = refused.binding
    assert (seen.account, seen.budget, seen.unit) == ("root", "tokens-hour", "tokens")
    assert (seen.limit, seen.covered, seen.held, seen.quarantined, seen.uncovered) == (100, 40, 20, 0, 7)
    assert (seen.spent, seen.available, seen.overdrawn) == (47, 33, 0)
    assert refused.requested == 60
    assert refused.resets_at == seen.window_end == moment(HOUR)
    assert "60 tokens" in refused.detail
    assert "33 of 100" in refused.detail


@pytest.mark.parametrize(
    ("asked", "code"),
    [(4, None), (5, "budget_busy"), (8, "budget_busy"), (9, "budget_exceeded"), (10, "budget_exceeded")],
)
def test_exceeded_is_what_would_not_fit_with_no_call_in_flight_else_busy(ledger, asked, code):
    ledger.account("root")
    ledger.budget("root", 10)
    ledger.spend("root", 2)
    ledger.reserve("flight", "root", 4)
    refused = ledger.reserve("h", "root", asked, refused=code)
    if code == "budget_busy":
        assert refused.retry_after_s == 1
        assert refused.resets_at is None


def test_what_is_in_quarantine_may_have_been_billed_so_more_is_exceeded_not_busy(ledger):
    ledger.account("root")
    ledger.budget("root", 10)
    ledger.reserve("lost", "root", 6, lease_s=60)
    ledger.reserve("h", "root", 5, refused="budget_busy")
    ledger.wait(MINUTE)
    ledger.reserve("h", "root", 5, refused="budget_exceeded")


def test_exceeded_outranks_busy_even_when_it_is_further_from_the_leaf(pool):
    pool.budget("a", 20)
    pool.spend("b", 86)
    pool.reserve("flight", "a", 10)
    refused = pool.reserve("h", "a", 15, refused="budget_exceeded")
    assert refused.binding.account == "root"


def test_among_equal_refusals_the_first_from_the_leaf_is_named(pool):
    pool.budget("a", 20)
    refused = pool.reserve("h", "a", 101, refused="budget_exceeded")
    assert refused.binding.account == "a"
    pool.reserve("flight", "a", 20)
    pool.reserve("other", "b", 75)
    assert pool.reserve("h", "a", 10, refused="budget_busy").binding.account == "a"


def test_a_request_of_nothing_needs_no_room_in_an_overdrawn_cell(pool):
    pool.budget("root", 10, "cost")
    pool.use("a", {"cost": 30})
    pool.reserve("h", "a", {"tokens": 1, "cost": 0})
    pool.reserve("h2", "a", {"tokens": 1, "cost": 1}, refused="budget_exceeded")


def test_a_hold_of_nothing_in_every_unit_is_invalid(pool):
    assert pool.reserve("h", "a", 0, refused="invalid").field == "amounts.tokens"


def test_a_limited_unit_must_be_bounded_by_the_hold(pool):
    pool.budget("root", 50, "cost", budget="money")
    refused = pool.reserve("h", "a", 10, refused="unit_not_bounded")
    assert refused.field == "amounts.cost"
    pool.budget("root", 50, "cost", budget="money", mode="observe")
    pool.reserve("h", "a", 10)


def test_calls_are_bounded_without_being_named(ledger):
    ledger.account("root")
    ledger.budget("root", 2, "calls")
    ledger.reserve("h1", "root", 5)
    ledger.reserve("h2", "root")
    ledger.reserve("h3", "root", 5, refused="budget_busy")
    assert ledger.cell("root", "calls-lifetime") == (2, 0, 2, 0, 0)


def test_tokens_follow_from_input_and_output(pool):
    assert pool.reserve("h", "a", {"input_tokens": 30, "output_tokens": 12}).reserved == {
        "input_tokens": 30,
        "output_tokens": 12,
        "tokens": 42,
        "calls": 1,
    }
    assert pool.cell("root") == (100, 0, 42, 0, 0)


def test_no_budget_in_a_unit_counts_without_limiting_and_limit_zero_is_nothing(ledger):
    ledger.tree("free", "closed")
    ledger.budget("closed", 0)
    assert ledger.reserve("h", "free", AMOUNT_MAX).reserved == {"tokens": AMOUNT_MAX, "calls": 1}
    ledger.reserve("h2", "closed", 1, refused="budget_exceeded")


def test_mode_warn_admits_and_names_the_budget_and_mode_observe_says_nothing(ledger):
    ledger.account("root")
    ledger.budget("root", 10, mode="warn", budget="soft")
    ledger.budget("root", 5, mode="observe", budget="seen")
    assert ledger.reserve("h", "root", 10).warnings == ()
    assert ledger.reserve("h2", "root", 1).warnings == ("root/soft",)
    assert ledger.cell("root", "soft") == (10, 0, 11, 0, 0)
    assert ledger.cell("root", "seen") == (5, 0, 11, 0, 0)


# -- ids -----------------------------------------------------------------------------------------------------------


# covers E7
def test_the_same_id_and_body_is_answered_the_same_without_a_second_effect(pool):
    first = pool.reserve("h", "a", 10)
    assert pool.wait(MINUTE).reserve("h", "a", 10) == first
    assert pool.last == []
    pool.running("h", 4)
    pool.extend("h", 20, lease_s=7_000)
    assert pool.reserve("h", "a", 10) == first, "the answer is the first one, not what became of the hold"
    pool.settle("h", 12)
    assert pool.reserve("h", "a", 10) == first
    assert pool.cell("root") == (100, 12, 0, 0, 0)


# covers E7
@pytest.mark.parametrize(
    "other",
    [
        {"account": "b", "amounts": 10},
        {"account": "a", "amounts": 11},
        {"account": "a", "amounts": {"tokens": 10, "cost": 1}},
        {"account": "a", "amounts": 10, "lease_s": 601},
        {"account": "a", "amounts": 10, "also": ("b",)},
        {"account": "a", "amounts": 10, "attributes": {"model": "x"}},
    ],
)
def test_the_same_id_with_another_body_is_a_conflict_that_reveals_nothing(pool, other):
    pool.reserve("h", "a", 10)
    refused = pool.reserve("h", refused="conflict", **other)
    assert refused.detail == "id: is in use for another request"
    assert refused.binding is None
    assert pool.cell("root") == (100, 0, 10, 0, 0)


# covers E7
def test_a_refusal_is_not_remembered(pool):
    pool.reserve("flight", "a", 95)
    pool.reserve("h", "a", 10, refused="budget_busy")
    pool.release("flight")
    pool.reserve("h", "a", 20)
    assert pool.cell("root") == (100, 0, 20, 0, 0)


# covers E7
def test_known_fault_r7_the_same_request_counts_once(ledger):
    ledger.account("root")
    ledger.budget("root", 100)
    for _ in range(2):
        ledger.settle("request-1", 30, account="root")
    assert ledger.cell("root") == (100, 0, 0, 0, 30)


def test_an_id_of_another_keys_hold_is_a_conflict_and_never_shown(pool):
    pool.reserve("h", "a", 10)
    mine = {"scope": "b"}
    again = pool.do(Reserve(id="h", account="a", amounts={"tokens": 10}), "conflict", **mine)
    other = pool.do(Reserve(id="h", account="b", amounts={"tokens": 99}), "conflict", **mine)
    assert again.detail == other.detail
    for command in (Settle(id="h", total={"tokens": 1}), Extend(id="h"), Release(id="h")):
        assert pool.do(command, "unknown_hold", **mine).detail == "there is no hold 'h'"


def test_what_is_to_be_left_is_left_in_every_budget_and_only_those_who_do_not_leave_it_get_it(ledger):
    ledger.tree("team", "team/a")
    ledger.budget("team", 100)
    ledger.budget("a", 80)
    refused = ledger.reserve("h", "a", 61, leave={"tokens": 20}, refused="budget_exceeded")
    assert (refused.binding.account, refused.binding.available, refused.requested) == ("a", 80, 81)
    ledger.reserve("h", "a", 60, leave={"tokens": 20})
    assert ledger.cell("a") == (80, 0, 60, 0, 0), "what is to be left is not held"
    ledger.reserve("h2", "a", 1, leave={"tokens": 20}, refused="budget_busy")
    ledger.spend("team", 15)
    assert ledger.reserve("h2", "a", 6, leave={"tokens": 20}, refused="budget_busy").binding.account == "a"
    ledger.reserve("last", "a", 20)
    ledger.settle("last", 20)
    assert ledger.cell("a") == (80, 20, 60, 0, 0)


def test_of_what_is_not_asked_for_nothing_has_to_be_left(pool):
    pool.budget("root", 10, "cost")
    pool.reserve("h", "a", {"tokens": 5, "cost": 0}, leave={"cost": 11})
    pool.reserve("h2", "a", {"tokens": 5, "cost": 1}, leave={"cost": 9, "output_tokens": 99})
    pool.reserve("h3", "a", {"tokens": 5, "cost": 1}, leave={"cost": 9}, refused="budget_busy")


def test_what_is_to_be_left_limits_nothing_where_nothing_limits(ledger):
    ledger.account("root")
    ledger.budget("root", 10, mode="observe")
    ledger.reserve("h", "root", 10, leave={"tokens": 10})


def test_a_budget_with_something_left_is_not_exhausted(ledger):
    ledger.account("root")
    ledger.budget("root", 100, on_exhaustion="suspend")
    ledger.spend("root", 80)
    ledger.reserve("h", "root", 1, leave={"tokens": 20}, refused="budget_exceeded")
    ledger.reserve("last", "root", 20)


def test_a_repeated_reserve_is_the_same_whatever_it_was_to_leave(pool):
    first = pool.reserve("h", "a", 60, leave={"tokens": 40})
    assert pool.reserve("h", "a", 60, leave={"tokens": 50}) == first == pool.reserve("h", "a", 60)


@pytest.mark.parametrize("leave", [{"tokens": -1}, {"tokens": AMOUNT_MAX + 1}, {"pages": 1}])
def test_what_is_to_be_left_is_an_amount(pool, leave):
    assert pool.reserve("h", "a", 1, leave=leave, refused="invalid").field.startswith("leave")
    pool.reserve("h", "a", 1)
    assert pool.extend("h", 2, leave=leave, refused="invalid").field.startswith("leave")


# -- extend --------------------------------------------------------------------------------------------------------


def test_extend_takes_the_wanted_total_not_a_delta(pool):
    pool.reserve("h", "a", 10)
    assert pool.extend("h", 25).reserved == {"tokens": 25, "calls": 1}
    assert pool.extend("h", 25).reserved == {"tokens": 25, "calls": 1}
    assert pool.extend("h", 5).reserved == {"tokens": 25, "calls": 1}, "lower totals are ignored"
    assert pool.cell("root") == (100, 0, 25, 0, 0)


def test_extend_is_the_heartbeat_and_never_shortens_a_lease(pool):
    pool.reserve("h", "a", 10, lease_s=600)
    pool.wait(5 * MINUTE)
    assert pool.extend("h", lease_s=600).expires_at == moment(15 * MINUTE)
    assert pool.extend("h", lease_s=60).expires_at == moment(15 * MINUTE)
    assert pool.extend("h", 11, lease_s=60).expires_at == moment(15 * MINUTE), "nor with a rise"
    pool.wait(9 * MINUTE + 59 * SECOND)
    assert pool.cell("root") == (100, 0, 11, 0, 0)
    pool.wait(SECOND)
    assert pool.cell("root") == (100, 0, 0, 11, 0)


# covers E2
def test_an_extend_beyond_the_limit_changes_neither_bound_nor_lease(pool):
    pool.spend("b", 60)
    pool.reserve("h", "a", 10, lease_s=60)
    pool.extend("h", 51, lease_s=600, refused="budget_exceeded")
    assert pool.hold("h").reserved == {"tokens": 10, "calls": 1}
    assert pool.hold("h").expires_at == pool.now + MINUTE
    pool.extend("h", 40)
    pool.extend("h", 41, refused="budget_exceeded")


def test_a_holds_own_amount_is_no_other_call_in_flight(pool):
    pool.reserve("h", "a", 10)
    pool.reserve("other", "b", 20)
    pool.extend("h", 81, refused="budget_busy")
    pool.extend("h", 100, refused="budget_busy")
    pool.extend("h", 101, refused="budget_exceeded")
    pool.extend("h", 80)


def test_a_rise_leaves_what_is_to_be_left_and_a_heartbeat_needs_no_room(pool):
    pool.reserve("h", "a", 70)
    refused = pool.extend("h", 81, leave={"tokens": 20}, refused="budget_exceeded")
    assert (refused.requested, refused.binding.available) == (31, 30)
    pool.extend("h", 80, leave={"tokens": 20})
    pool.extend("h", 80, leave={"tokens": 99}, lease_s=86_400)
    pool.extend("h", 100)
    assert pool.cell("root") == (100, 0, 100, 0, 0)


def test_a_rise_asks_for_the_status_like_a_reserve_and_a_heartbeat_does_not(pool):
    pool.reserve("h", "a", 10)
    pool.status("root", "suspended")
    pool.extend("h", 11, refused="account_suspended")
    pool.wait(MINUTE)
    assert pool.extend("h", 10).expires_at == moment(11 * MINUTE)


def test_extend_uses_the_pinned_window_also_after_its_end(ledger):
    ledger.account("root")
    ledger.budget("root", 100, period="hour")
    ledger.wait(50 * MINUTE).reserve("h", "root", 40, lease_s=7_200)
    ledger.wait(20 * MINUTE)
    ledger.extend("h", 100)
    ledger.extend("h", 101, refused="budget_exceeded")
    assert ledger.windows("root", "tokens-hour") == [(100, 0, 100, 0, 0), (100, 0, 0, 0, 0)]


def test_extend_of_input_and_output_raises_tokens_with_them(pool):
    pool.reserve("h", "a", {"input_tokens": 10, "output_tokens": 10})
    pool.extend("h", {"output_tokens": 50})
    assert pool.cell("root") == (100, 0, 60, 0, 0)
    pool.extend("h", {"input_tokens": 51}, refused="budget_exceeded")


# covers E5
def test_extend_covers_what_was_overrun_as_far_as_it_goes(pool):
    pool.reserve("h", "a", 40)
    pool.running("h", 50)
    assert pool.cell("root") == (100, 40, 0, 0, 10)
    pool.extend("h", 45)
    assert pool.cell("root") == (100, 45, 0, 0, 5)
    pool.extend("h", 60)
    assert pool.cell("root") == (100, 50, 10, 0, 0)


def test_extend_of_a_hold_that_has_ended_or_is_unknown(pool):
    pool.reserve("h", "a", 10)
    pool.settle("h", 10)
    pool.extend("h", 20, refused="conflict")
    pool.extend("nobody", 20, refused="unknown_hold")
    pool.reserve("lost", "a", 10, lease_s=1)
    pool.wait(SECOND).extend("lost", 20, refused="conflict")


def test_extend_names_the_first_cell_from_the_leaf(pool):
    pool.budget("a", 20)
    pool.reserve("h", "a", 10)
    assert pool.extend("h", 101, refused="budget_exceeded").binding.account == "a"


# -- settle --------------------------------------------------------------------------------------------------------


# covers E5
def test_less_than_held_frees_the_rest_at_once(pool):
    pool.reserve("h", "a", 40)
    answer = pool.settle("h", 25)
    assert (answer.state, answer.booked["tokens"], answer.uncovered) == ("settled", 25, {})
    assert pool.cell("root") == (100, 25, 0, 0, 0)
    pool.reserve("h2", "a", 75)


# covers E5, E14
def test_more_than_held_goes_to_o_and_blocks_nothing_but_available(pool):
    pool.reserve("h", "a", 40)
    answer = pool.settle("h", 50)
    assert answer.uncovered == {"tokens": 10}
    assert pool.cell("root") == (100, 40, 0, 0, 10)
    pool.reserve("h2", "a", 51, refused="budget_exceeded")
    pool.reserve("h2", "a", 50)


# covers E14
def test_a_unit_that_was_not_held_goes_to_o(pool):
    pool.budget("root", 1_000, "cost", mode="observe")
    pool.reserve("h", "a", 40)
    pool.settle("h", {"tokens": 40, "cost": 70})
    assert pool.cell("root", "cost-lifetime") == (1_000, 0, 0, 0, 70)


# covers E5
def test_running_totals_only_rise_and_the_final_one_wins_even_if_lower(pool):
    pool.reserve("h", "a", 40)
    pool.running("h", 10)
    assert pool.cell("root") == (100, 10, 30, 0, 0)
    pool.running("h", 30)
    pool.running("h", 20)
    assert pool.cell("root") == (100, 30, 10, 0, 0)
    assert pool.hold("h").state == "held"
    assert pool.settle("h", 25).booked["tokens"] == 25
    assert pool.cell("root") == (100, 25, 0, 0, 0)


# covers E5, E14
def test_a_running_total_beyond_the_hold_is_o_until_a_final_one_says_less(pool):
    pool.reserve("h", "a", 40)
    pool.running("h", 50)
    assert pool.cell("root") == (100, 40, 0, 0, 10)
    pool.settle("h", 35)
    assert pool.cell("root") == (100, 35, 0, 0, 0)


# covers E6, E14
def test_a_higher_reading_after_the_end_books_only_the_rise_as_o(pool):
    pool.reserve("h", "a", 40)
    pool.settle("h", 25)
    assert pool.settle("h", 32).booked["tokens"] == 32
    assert pool.cell("root") == (100, 25, 0, 0, 7)
    pool.settle("h", 32)
    pool.settle("h", 30)
    pool.running("h", 31)
    assert pool.cell("root") == (100, 25, 0, 0, 7)
    assert pool.hold("h").state == "settled"


# covers E6, E14
def test_a_settle_after_release_books_only_the_rise_over_what_is_booked_as_o(pool):
    pool.reserve("h", "a", 40)
    pool.running("h", 10)
    pool.release("h")
    assert pool.cell("root") == (100, 10, 0, 0, 0)
    answer = pool.settle("h", 15)
    assert pool.cell("root") == (100, 10, 0, 0, 5)
    assert answer.state == "released", "at most one final state"


def test_a_final_reading_that_leaves_out_a_held_unit_books_its_bound(pool):
    pool.budget("root", 100, "cost")
    pool.reserve("h", "a", {"tokens": 40, "cost": 30})
    pool.settle("h", {"cost": 5})
    assert pool.cell("root") == (100, 40, 0, 0, 0), "an unknown amount is never 0"
    assert pool.cell("root", "cost-lifetime") == (100, 5, 0, 0, 0)
    pool.settle("h", {"cost": 6})
    assert pool.cell("root") == (100, 40, 0, 0, 0), "nothing new is known of the tokens"
    assert pool.cell("root", "cost-lifetime") == (100, 5, 0, 0, 1)


def test_a_left_out_unit_books_at_least_what_a_running_total_said(pool):
    pool.reserve("h", "a", 40)
    pool.running("h", 55)
    pool.settle("h", {"cost": 5})
    assert pool.cell("root") == (100, 40, 0, 0, 15)


def test_amounts_follow_from_the_record_unless_they_are_said(pool):
    pool.budget("root", 1_000, "cost")
    record = CallRecord(model="m", tokens=Tokens(input=20, output=7), cost_nanousd=300)
    pool.reserve("h", "a", {"tokens": 40, "cost": 500})
    answer = pool.settle("h", record=record)
    assert answer.booked == {"input_tokens": 20, "output_tokens": 7, "tokens": 27, "cost": 300, "calls": 1}
    pool.reserve("h2", "a", {"tokens": 40, "cost": 500})
    assert pool.settle("h2", {"tokens": 30}, record=record).booked["tokens"] == 30


def test_an_unknown_cost_in_a_record_is_not_zero(pool):
    pool.budget("root", 1_000, "cost")
    pool.reserve("h", "a", {"tokens": 40, "cost": 500})
    pool.settle("h", record=CallRecord(model="m", tokens=Tokens(input=20, output=7)))
    assert pool.cell("root", "cost-lifetime") == (1_000, 500, 0, 0, 0)


def test_a_call_counts_once_however_often_it_is_read(ledger):
    ledger.account("root")
    ledger.budget("root", 10, "calls")
    ledger.reserve("h", "root", 5)
    for total in (1, 2, 3):
        ledger.running("h", total)
    ledger.settle("h", 3)
    assert ledger.cell("root", "calls-lifetime") == (10, 1, 0, 0, 0)


# covers E14
def test_a_running_total_without_a_hold_counts_the_call(ledger):
    ledger.account("root")
    ledger.budget("root", 10, "calls")
    ledger.settle("h", 4, account="root", final=False)
    ledger.settle("h", 9, account="root", final=False)
    assert ledger.cell("root", "calls-lifetime") == (10, 0, 0, 0, 1)
    assert ledger.hold("h").booked == {"tokens": 9, "calls": 1}


# covers E7
def test_the_same_reading_twice_books_once(pool):
    pool.reserve("h", "a", 40)
    pool.settle("h", 25)
    before = rows(pool.draft)
    pool.settle("h", 25)
    assert rows(pool.draft) == before


# covers E14
@pytest.mark.parametrize("status", ["suspended", "terminated", "closed"])
def test_what_was_billed_is_booked_whatever_the_status(pool, status):
    pool.reserve("h", "a", 40)
    pool.reserve("given back", "a", 20)
    pool.status("a", status)
    pool.reserve("h2", "a", 1, refused=f"account_{status}")
    pool.settle("h", 50)
    pool.release("given back")
    pool.use("a", 3)
    assert pool.cell("root") == (100, 40, 0, 0, 13)


def test_known_fault_d1_an_overrun_is_on_the_books(ledger):
    ledger.account("agent")
    ledger.budget("agent", 100)
    ledger.use("agent", 5_000)
    assert ledger.cell("agent") == (100, 0, 0, 0, 5_000)
    assert ledger.reserve("h", "agent", 1, refused="budget_exceeded").binding.overdrawn == 4_900


def test_known_faults_t1_t7_x4_a_call_that_fails_is_booked_with_what_it_used(pool):
    pool.reserve("h", "a", 40)
    pool.running("h", 15)
    answer = pool.settle("h", 15, record=CallRecord(outcome="error", error_code="timeout"))
    assert answer.booked["tokens"] == 15
    assert pool.cell("root") == (100, 15, 0, 0, 0)


# -- settle and release before reserve -----------------------------------------------------------------------------


# covers E14
def test_a_settle_before_its_reserve_is_booked_as_o_and_the_late_reserve_must_not_call(pool):
    answer = pool.settle("h", 30, account="a")
    assert (answer.state, answer.reserved, answer.uncovered["tokens"]) == ("settled", {}, 30)
    assert pool.cell("root") == (100, 0, 0, 0, 30)
    pool.reserve("h", "a", 40, refused="already_settled")
    assert pool.cell("root") == (100, 0, 0, 0, 30)


def test_a_release_before_its_reserve_stops_it_and_a_later_settle_is_charged_all_the_same(pool):
    pool.release("h", account="a")
    pool.reserve("h", "a", 40, refused="already_settled")
    pool.settle("h", 33)
    assert pool.cell("root") == (100, 0, 0, 0, 33)


def test_without_account_a_hold_that_never_arrived_is_unknown(pool):
    assert pool.settle("h", 30, refused="unknown_hold").field == "id"
    pool.release("h", refused="unknown_hold")
    pool.settle("h", 30, account="nobody", refused="unknown_account")
    pool.release("h", account="nobody", refused="unknown_account")


# covers R33, E14
def test_usage_after_the_fact_is_never_refused_for_lack_of_room(pool):
    pool.budget("root", 10)
    pool.use("a", 25)
    pool.use("a", 25)
    assert pool.cell("root") == (10, 0, 0, 0, 50)


def test_an_account_named_with_a_known_hold_changes_nothing(pool):
    pool.reserve("h", "a", 40)
    pool.settle("h", 25, account="b")
    assert pool.cell("root") == (100, 25, 0, 0, 0)


def test_a_balance_never_leaves_what_a_machine_keeps(ledger):
    ledger.account("root")
    ledger.budget("root", 0, mode="observe")
    ledger.reserve("held", "root", 1)
    for n in range(513):
        ledger.settle(f"h{n}", AMOUNT_MAX, account="root")
    assert ledger.settle("one-too-many", AMOUNT_MAX, account="root", refused="invalid").field == "total"
    assert ledger.settle("held", AMOUNT_MAX, refused="invalid").field == "total"


def test_holds_that_nothing_limits_stay_within_what_a_machine_keeps(ledger):
    ledger.account("root")
    ledger.budget("root", 0, mode="observe")
    for n in range(512):
        ledger.reserve(f"h{n}", "root", AMOUNT_MAX)
    ledger.reserve("last", "root", 600)
    assert ledger.reserve("one-too-many", "root", 1, refused="invalid").field == "amounts"
    assert ledger.extend("last", 601, refused="invalid").field == "to"


# -- release -------------------------------------------------------------------------------------------------------


# covers E5, E6
def test_release_gives_all_back_and_twice_is_once(pool):
    pool.reserve("h", "a", 40)
    assert pool.release("h").state == "released"
    assert pool.cell("root") == (100, 0, 0, 0, 0)
    before = rows(pool.draft)
    assert pool.release("h").state == "released"
    assert rows(pool.draft) == before
    pool.reserve("h2", "a", 1)
    pool.settle("h2", 1)
    pool.release("h2", refused="conflict")


# -- expiry and quarantine -----------------------------------------------------------------------------------------


# covers E4
def test_at_the_end_of_the_lease_what_is_held_goes_to_quarantine(pool):
    pool.reserve("h", "a", 40, lease_s=60)
    pool.running("h", 10)
    pool.wait(MINUTE - 1)
    assert pool.cell("root") == (100, 10, 30, 0, 0)
    pool.wait(1)
    assert pool.cell("root") == (100, 10, 0, 30, 0)


# covers E4, E5
@pytest.mark.parametrize(("policy", "after"), [("charge", (100, 40, 0, 0, 0)), ("release", (100, 10, 0, 0, 0))])
def test_quarantine_closes_a_day_later_by_its_policy(policy, after):
    ledger = Ledger(quarantine=policy)
    ledger.account("root")
    ledger.budget("root", 100)
    ledger.reserve("h", "root", 40, lease_s=60)
    ledger.running("h", 10)
    ledger.wait(MINUTE + DAY - 1)
    assert ledger.cell("root") == (100, 10, 0, 30, 0)
    ledger.wait(1)
    assert ledger.cell("root") == after
    ledger.due()
    assert ledger.hold("h").state == "expired"
    assert ledger.hold("h").booked["tokens"] == (40 if policy == "charge" else 10)
    ledger.check_replay()


# covers E5, E14
@pytest.mark.parametrize(
    ("reading", "after"),
    [(25, (100, 25, 0, 0, 0)), (40, (100, 40, 0, 0, 0)), (50, (100, 40, 0, 0, 10)), (0, (100, 0, 0, 0, 0))],
)
@pytest.mark.parametrize("late_by", [2 * MINUTE, 2 * DAY])
def test_a_late_settle_replaces_quarantine_or_its_estimate_exactly(pool, reading, after, late_by):
    pool.reserve("h", "a", 40, lease_s=60)
    pool.wait(late_by)
    assert pool.settle("h", reading).state == "settled"
    assert pool.cell("root") == after
    pool.settle("h", reading + 3)
    assert pool.cell("root") == (*after[:4], after[4] + 3), "and what comes after that is O"


# covers E14
def test_a_late_settle_after_a_quarantine_that_was_released_is_o():
    ledger = Ledger(quarantine="release")
    ledger.account("root")
    ledger.budget("root", 100)
    ledger.reserve("h", "root", 40, lease_s=60)
    ledger.wait(2 * DAY)
    ledger.settle("h", 25)
    assert ledger.cell("root") == (100, 0, 0, 0, 25)


# covers E14
def test_a_late_settle_whose_window_is_gone_posts_the_rise_in_the_running_window(ledger):
    ledger.account("root")
    ledger.budget("root", 100, period="hour")
    ledger.reserve("h", "root", 20, lease_s=60)
    ledger.wait(25 * HOUR)
    ledger.settle("h", 30)
    assert ledger.windows("root", "tokens-hour") == [(100, 20, 0, 0, 0), (100, 0, 0, 0, 10)]


def test_a_running_reading_of_an_expired_hold_stays_in_quarantine(pool):
    pool.reserve("h", "a", 40, lease_s=60)
    pool.wait(MINUTE)
    pool.running("h", 15)
    assert pool.cell("root") == (100, 15, 0, 25, 0)
    assert pool.hold("h").state == "expired"


def test_an_expired_hold_may_be_released_by_the_providers_report(pool):
    pool.reserve("h", "a", 40, lease_s=60)
    pool.wait(MINUTE)
    assert pool.release("h").state == "released"
    assert pool.cell("root") == (100, 0, 0, 0, 0)


def test_an_open_hold_stays_in_the_window_that_admitted_it(ledger):
    ledger.account("root")
    ledger.budget("root", 100, period="hour")
    ledger.wait(50 * MINUTE).reserve("h", "root", 40, lease_s=7_200)
    ledger.wait(20 * MINUTE).settle("h", 45)
    assert ledger.windows("root", "tokens-hour") == [(100, 40, 0, 0, 5), (100, 0, 0, 0, 0)]


# -- what is remembered --------------------------------------------------------------------------------------------


def test_a_record_is_split_into_numbers_that_stay_and_a_private_rest(pool):
    record = CallRecord(model="m", provider="p", tokens=Tokens(input=2, output=3), cost_nanousd=5, user_id="bob")
    pool.reserve("h", "a", {"tokens": 10, "cost": 10})
    pool.settle("h", record=record)
    event = pool.last[0]
    assert (event.model, event.provider, event.cost_nanousd) == ("m", "p", 5)
    assert event.private.record == CallRecord(user_id="bob")
    pool.reserve("h2", "a", {"tokens": 10, "cost": 10})
    pool.settle("h2", record=CallRecord(model="m"))
    assert pool.last[0].private is None


# covers T5, E5
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["running", "final", "extend", "release", "wait"]), st.integers(0, 60)), max_size=8
    )
)
def test_whatever_happens_to_a_hold_its_parts_add_up(steps):
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", 100)
    ledger.reserve("h", "root", 40, lease_s=60)
    highest = 0
    states = ["held"]
    for what, n in steps:
        hold = ledger.hold("h")
        was_exact = hold.open or hold.estimated
        if what == "running":
            ledger.decide(Settle(id="h", total={"tokens": n}, final=False))
            highest = max(highest, n)
        elif what == "final":
            ledger.decide(Settle(id="h", total={"tokens": n}))
            highest = n if was_exact else max(highest, n)
        elif what == "extend":
            ledger.decide(Extend(id="h", to={"tokens": n}, lease_s=60))
        elif what == "release":
            ledger.decide(Release(id="h"))
        else:
            ledger.wait(n * MINUTE)
            ledger.due()
        hold = ledger.hold("h")
        covered = hold.covered.get("tokens", 0)
        remaining = hold.reserved["tokens"] - covered if hold.open else 0
        held, quarantined = (remaining, 0) if hold.state == "held" else (0, remaining)
        booked = hold.booked.get("tokens", 0)
        assert booked == highest
        assert ledger.cell("root") == (100, covered, held, quarantined, booked - covered)
        if hold.state != states[-1]:
            states.append(hold.state)
    assert states in (
        ["held"],
        ["held", "settled"],
        ["held", "released"],
        ["held", "expired"],
        ["held", "expired", "settled"],
        ["held", "expired", "released"],
    ), "a hold's states go one way"
    ledger.check_replay()


# covers E2, X1
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 80), st.booleans()), max_size=12))
def test_a_granted_hold_never_breaks_the_limit(calls):
    """Interleaved: each call is reserved before the one before it is settled."""
    ledger = Ledger()
    ledger.tree("root", "root/a")
    ledger.budget("root", 100)
    ledger.budget("a", 70)
    flying = []
    for number, (bound, used, goes) in enumerate(calls):
        free = min(c.limit - sum(c[1:]) for c in (ledger.cell("root"), ledger.cell("a")))
        outcome = ledger.decide(Reserve(id=str(number), account="a", amounts={"tokens": bound}))
        assert isinstance(outcome, Refused) == (bound > max(0, free))
        if not isinstance(outcome, Refused):
            flying.append((str(number), used))
        if goes and flying:
            id, total = flying.pop(0)
            ledger.decide(Settle(id=id, total={"tokens": total}))


def test_a_repeated_reserve_has_no_place_for_the_body_it_is_compared_with(pool):
    """Attributes are kept as a check sum, so that erasing the private part leaves nothing of them."""
    pool.reserve("h", "a", 10, attributes={"feature": "secret-plan"})
    assert "secret-plan" not in str(rows(pool.draft)["holds"])
    public = msgspec.structs.replace(pool.last[-1], private=None)
    assert "secret-plan" not in str(public)


def test_usage_of_another_account_under_a_known_id_is_a_conflict_and_lost_nowhere(pool):
    pool.do(Settle(id="u", account="a", total={"tokens": 10}))
    refused = pool.do(Settle(id="u", account="b", total={"tokens": 50}), "conflict")
    assert refused.field == "account"
    pool.do(Settle(id="u", account="a", total={"tokens": 10}))
    pool.do(Settle(id="u", total={"tokens": 12}))
    assert pool.cell("root")[4] == 12


def test_usage_that_another_would_be_charged_to_besides_is_a_conflict_under_a_known_id(pool):
    pool.account("c", "root")
    pool.do(Settle(id="u", account="a", also=("b",), total={"tokens": 10}))
    refused = pool.do(Settle(id="u", account="a", also=("c",), total={"tokens": 50}), "conflict")
    assert refused.field == "also"
    assert "b" not in refused.detail.split()
    pool.do(Settle(id="u", account="a", also=("b", "c"), total={"tokens": 50}), "conflict")
    pool.do(Settle(id="u", account="a", total={"tokens": 12}))
    pool.do(Settle(id="u", account="a", also=("b",), total={"tokens": 13}))
    assert pool.cell("root")[4] == 13
    pool.do(Settle(id="v", account="a", total={"tokens": 1}))
    pool.do(Settle(id="v", account="a", also=("b",), total={"tokens": 1}), "conflict")


def test_the_same_usage_has_the_same_answer_also_where_somebody_is_left_out_of_it(pool):
    pool.allocate("b", 20)
    usage = Settle(id="u", account="a", also=("b", "root"), total={"tokens": 10})
    first = pool.do(usage)
    assert pool.do(usage) == first
    assert pool.do(msgspec.structs.replace(usage, also=("root", "b"))) == first
    assert not pool.last


def test_usage_is_known_again_after_names_in_it_were_erased(pool):
    usage = Settle(id="u", account="a", also=("b",), total={"tokens": 10})
    first = pool.do(usage)
    pool.status("b", "closed")
    pool.do(EraseName(account="b"))
    assert pool.do(usage).booked == first.booked
    pool.do(msgspec.structs.replace(usage, also=("b", "root")), "conflict")
    pool.status("a", "closed")
    pool.do(EraseName(account="a"))
    assert pool.do(usage).booked == first.booked


def test_usage_under_the_id_of_a_call_that_another_gave_back_is_a_conflict(pool):
    pool.release("u", account="a")
    assert pool.settle("u", 10, account="b", refused="conflict").field == "account"
    assert pool.settle("u", 10, account="a", also=("b",)).booked["tokens"] == 10, "nobody said whom it is charged to"
