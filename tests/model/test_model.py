"""Hand-worked examples with figures for the model itself, so that it can be trusted to judge the core."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fiscus.core.commands import (
    Adjust,
    Allocate,
    Compound,
    Deallocate,
    EndAdjustment,
    Extend,
    PutAccount,
    PutBudget,
    PutTemplate,
    Release,
    RemoveBudget,
    Reserve,
    SetStatus,
    Settle,
    TemplateBudget,
    Transfer,
)
from fiscus.core.records import CallRecord, Tokens
from tests.model.model import Answer, Model, Refusal, window_end, window_start

HOUR_MS = 3_600_000
START_MS = 1_760_004_000_000  # 2025-10-09T10:00:00Z, a full hour
LONG = 86_400


class Desk:
    """A model with a clock that the test moves, and short words for what it is asked."""

    def __init__(self, **settings: Any) -> None:
        self.model = Model(**settings)
        self.now_ms = START_MS

    def do(self, command: Any, **context: Any) -> Answer:
        outcome = self.model.decide(command, self.now_ms, **context)
        assert isinstance(outcome, Answer), outcome
        return outcome

    def refused(self, command: Any, **context: Any) -> Refusal:
        outcome = self.model.decide(command, self.now_ms, **context)
        assert isinstance(outcome, Refusal), outcome
        return outcome

    def account(self, name: str, parent: str | None = None, **more: Any) -> None:
        self.do(PutAccount(account=name, parent=parent, **more))

    def budget(self, account: str, limit: int, name: str = "b", unit: str = "tokens", **more: Any) -> None:
        self.do(PutBudget(account=account, budget=name, unit=unit, limit=limit, **more))

    def hold(self, id: str, account: str, tokens: int, **more: Any) -> Answer:
        return self.do(Reserve(id=id, account=account, amounts={"tokens": tokens}, **more))

    def settle(self, id: str, tokens: int, **more: Any) -> Answer:
        return self.do(Settle(id=id, total={"tokens": tokens}, **more))

    def wait(self, hours: float) -> None:
        self.now_ms += int(hours * HOUR_MS)
        self.model.advance(self.now_ms)

    def at(self, hours: float) -> datetime:
        """``hours`` from the start of the test."""
        return datetime.fromtimestamp(START_MS / 1000, tz=UTC) + timedelta(hours=hours)

    def cell(self, account: str, budget: str = "b") -> tuple[int, int, int, int, int]:
        """L, P, H, Q, O."""
        f = self.model.balances()[(account, budget)]
        return f.limit, f.covered, f.held, f.quarantined, f.uncovered

    def fired(self) -> list[int]:
        """The thresholds that fired since the last look."""
        percents = [percent for _, percent in self.model.crossed]
        self.model.crossed.clear()
        return percents

    def ended(self, account: str, budget: str, start_ms: int) -> tuple[int, int, int, int, int]:
        f = self.model.balances_ended()[(account, budget, start_ms)]
        return f.limit, f.covered, f.held, f.quarantined, f.uncovered


@pytest.fixture
def desk() -> Desk:
    """``root`` with 100 tokens for ever, ``child`` and ``other`` below it."""
    desk = Desk()
    desk.account("root")
    desk.account("child", "root")
    desk.account("other", "root")
    desk.budget("root", 100)
    return desk


# ------------------------------------------------------------------------------------------- reserve and settle


def test_a_hold_is_held_on_the_whole_chain_and_settles_to_what_was_used(desk: Desk) -> None:
    desk.budget("child", 60)
    desk.hold("h", "child", 40)
    assert desk.cell("root") == (100, 0, 40, 0, 0)
    assert desk.cell("child") == (60, 0, 40, 0, 0)
    answer = desk.settle("h", 25)
    assert answer.values["state"] == "settled"
    assert desk.cell("root") == (100, 25, 0, 0, 0)
    assert desk.cell("child") == (60, 25, 0, 0, 0)


def test_a_limit_may_be_reached_exactly_and_not_passed_by_one(desk: Desk) -> None:
    desk.hold("h", "child", 100)
    assert desk.cell("root") == (100, 0, 100, 0, 0)
    assert desk.refused(Reserve(id="i", account="child", amounts={"tokens": 1})).code == "budget_busy"


def test_a_refusal_is_exceeded_when_it_would_not_fit_with_no_call_in_flight_and_else_busy(desk: Desk) -> None:
    desk.hold("h", "child", 30)
    desk.settle("h", 30)
    desk.hold("i", "child", 50)
    exceeded = desk.refused(Reserve(id="j", account="other", amounts={"tokens": 71}))
    assert (exceeded.code, exceeded.account, exceeded.budget) == ("budget_exceeded", "root", "b")
    assert desk.refused(Reserve(id="j", account="other", amounts={"tokens": 70})).code == "budget_busy"
    assert desk.refused(Reserve(id="j", account="other", amounts={"tokens": 21})).code == "budget_busy"
    desk.hold("j", "other", 20)


def test_exceeded_at_the_root_outranks_busy_at_the_leaf(desk: Desk) -> None:
    desk.budget("child", 200)
    desk.hold("h", "child", 90)
    desk.budget("child", 95)
    refusal = desk.refused(Reserve(id="i", account="child", amounts={"tokens": 101}))
    assert (refusal.code, refusal.account) == ("budget_exceeded", "child")
    desk.budget("child", 150)
    refusal = desk.refused(Reserve(id="i", account="child", amounts={"tokens": 101}))
    assert (refusal.code, refusal.account) == ("budget_exceeded", "root")


def test_a_call_beyond_its_hold_books_the_excess_as_uncovered(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    answer = desk.settle("h", 55)
    assert answer.values["uncovered"] == {"tokens": 15}
    assert desk.cell("root") == (100, 40, 0, 0, 15)


def test_a_unit_that_was_not_held_is_booked_as_uncovered(desk: Desk) -> None:
    desk.budget("root", 1000, name="money", unit="cost", mode="observe")
    desk.hold("h", "child", 10)
    desk.do(Settle(id="h", total={"tokens": 10, "cost": 7}))
    assert desk.cell("root", "money") == (1000, 0, 0, 0, 7)


def test_running_totals_rise_and_a_lower_final_total_wins(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    desk.settle("h", 10, final=False)
    assert desk.cell("root") == (100, 10, 30, 0, 0)
    desk.settle("h", 5, final=False)
    assert desk.cell("root") == (100, 10, 30, 0, 0)
    desk.settle("h", 50, final=False)
    assert desk.cell("root") == (100, 40, 0, 0, 10)
    desk.settle("h", 32)
    assert desk.cell("root") == (100, 32, 0, 0, 0)


def test_a_settle_after_the_end_books_only_the_rise(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    desk.settle("h", 30)
    desk.settle("h", 20)
    assert desk.cell("root") == (100, 30, 0, 0, 0)
    answer = desk.settle("h", 35)
    assert answer.values["state"] == "settled"
    assert desk.cell("root") == (100, 30, 0, 0, 5)
    desk.settle("h", 35)
    assert desk.cell("root") == (100, 30, 0, 0, 5)


def test_a_release_keeps_what_a_stream_has_booked_and_a_later_settle_adds_the_rise(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    desk.settle("h", 12, final=False)
    desk.do(Release(id="h"))
    assert desk.cell("root") == (100, 12, 0, 0, 0)
    assert desk.do(Release(id="h")).values["state"] == "released"
    answer = desk.settle("h", 15)
    assert answer.values["state"] == "released"
    assert desk.cell("root") == (100, 12, 0, 0, 3)


def test_the_same_id_answers_again_or_conflicts_and_has_no_second_effect(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    desk.hold("h", "child", 40)
    assert desk.cell("root") == (100, 0, 40, 0, 0)
    assert desk.refused(Reserve(id="h", account="child", amounts={"tokens": 41})).code == "conflict"
    assert desk.refused(Reserve(id="h", account="other", amounts={"tokens": 40})).code == "conflict"


def test_a_refusal_is_not_remembered(desk: Desk) -> None:
    desk.hold("h", "child", 100)
    assert desk.refused(Reserve(id="i", account="child", amounts={"tokens": 10})).code == "budget_busy"
    desk.do(Release(id="h"))
    desk.hold("i", "child", 10)


@pytest.mark.parametrize(
    ("amounts", "refused"),
    [
        ({}, "unit_not_bounded"),
        ({"tokens": 0}, "invalid"),
        ({"tokens": 0, "calls": 0}, "invalid"),
        ({"tokens": -1}, "invalid"),
        ({"tokens": 2**53}, "invalid"),
        ({"cost": 5}, "unit_not_bounded"),
        ({"input_tokens": 5}, "unit_not_bounded"),
        ({"input_tokens": 5, "output_tokens": 3}, None),
        ({"tokens": 9, "cost": 0}, None),
    ],
)
def test_amounts_are_checked_before_room(desk: Desk, amounts: Any, refused: str | None) -> None:
    outcome = desk.model.decide(Reserve(id="h", account="child", amounts=amounts), desk.now_ms)
    assert (outcome.code if isinstance(outcome, Refusal) else None) == refused


def test_calls_are_one_unless_said(desk: Desk) -> None:
    desk.budget("root", 3, name="calls", unit="calls")
    desk.hold("h", "child", 1)
    assert desk.cell("root", "calls") == (3, 0, 1, 0, 0)
    desk.do(Reserve(id="i", account="child", amounts={"tokens": 1, "calls": 2}))
    assert desk.refused(Reserve(id="j", account="child", amounts={"tokens": 1})).code == "budget_busy"
    desk.settle("i", 1)
    assert desk.cell("root", "calls") == (3, 1, 1, 0, 0)


def test_a_record_says_what_the_total_leaves_out(desk: Desk) -> None:
    desk.budget("root", 1000, name="money", unit="cost")
    desk.do(Reserve(id="h", account="child", amounts={"tokens": 30, "cost": 500}))
    record = CallRecord(tokens=Tokens(input=12, output=5, reasoning=4), cost_nanousd=321)
    desk.do(Settle(id="h", record=record))
    assert desk.cell("root") == (100, 17, 0, 0, 0)
    assert desk.cell("root", "money") == (1000, 321, 0, 0, 0)


def test_usage_before_the_reserve_is_booked_and_the_late_reserve_is_told_so(desk: Desk) -> None:
    assert desk.refused(Settle(id="h", total={"tokens": 9})).code == "unknown_hold"
    answer = desk.do(Settle(id="h", account="child", total={"tokens": 9}))
    assert (answer.values["reserved"], answer.values["uncovered"]) == ({}, {"tokens": 9, "calls": 1})
    assert desk.cell("root") == (100, 0, 0, 0, 9)
    assert desk.refused(Reserve(id="h", account="child", amounts={"tokens": 9})).code == "already_settled"


def test_a_release_before_the_reserve_leaves_a_tombstone(desk: Desk) -> None:
    assert desk.refused(Release(id="h")).code == "unknown_hold"
    assert desk.do(Release(id="h", account="child")).values["state"] == "released"
    assert desk.refused(Reserve(id="h", account="child", amounts={"tokens": 9})).code == "already_settled"
    desk.settle("h", 4)
    assert desk.cell("root") == (100, 0, 0, 0, 4)


def test_usage_is_never_refused_for_room_or_status(desk: Desk) -> None:
    desk.do(SetStatus(account="child", status="terminated"))
    desk.do(Settle(id="h", account="child", total={"tokens": 150}))
    assert desk.cell("root") == (100, 0, 0, 0, 150)
    assert desk.model.balances()[("root", "b")].available == -50


# ------------------------------------------------------------------------------------------- extend, expiry, Q


def test_extend_asks_room_for_the_rise_only_and_ignores_lower_totals(desk: Desk) -> None:
    desk.hold("h", "child", 60)
    desk.hold("i", "child", 20)
    assert desk.refused(Extend(id="h", to={"tokens": 81})).code == "budget_busy"
    assert desk.refused(Extend(id="h", to={"tokens": 101})).code == "budget_exceeded"
    desk.do(Release(id="i"))
    desk.do(Extend(id="h", to={"tokens": 100}))
    assert desk.cell("root") == (100, 0, 100, 0, 0)
    answer = desk.do(Extend(id="h", to={"tokens": 10}))
    assert answer.values["reserved"]["tokens"] == 100
    desk.settle("h", 80)
    assert desk.refused(Extend(id="h", to={"tokens": 90})).code == "conflict"
    assert desk.refused(Extend(id="no", to={"tokens": 90})).code == "unknown_hold"


def test_a_heartbeat_needs_no_status_but_a_rise_does(desk: Desk) -> None:
    desk.hold("h", "child", 10, lease_s=60)
    desk.do(SetStatus(account="root", status="suspended"))
    answer = desk.do(Extend(id="h", lease_s=600))
    assert answer.values["expires_at"] == START_MS + 600_000
    assert desk.do(Extend(id="h", lease_s=10)).values["expires_at"] == START_MS + 600_000
    assert desk.refused(Extend(id="h", to={"tokens": 11})).code == "account_suspended"


def test_a_hold_expires_exactly_at_the_end_of_its_lease_into_quarantine(desk: Desk) -> None:
    desk.hold("h", "child", 40, lease_s=3600)
    desk.settle("h", 10, final=False)
    desk.now_ms += HOUR_MS - 1
    desk.do(Extend(id="h", lease_s=1))
    assert desk.cell("root") == (100, 10, 30, 0, 0)
    desk.now_ms += 1000
    assert desk.refused(Extend(id="h")).code == "conflict"
    assert desk.cell("root") == (100, 10, 0, 30, 0)


def test_quarantine_counts_as_spent_closes_as_a_charge_after_a_day_and_is_replaced_exactly(desk: Desk) -> None:
    desk.hold("h", "child", 40, lease_s=3600)
    desk.wait(1)
    assert desk.refused(Reserve(id="i", account="child", amounts={"tokens": 61})).code == "budget_exceeded"
    desk.now_ms += 24 * HOUR_MS - 1
    desk.model.advance(desk.now_ms)
    assert desk.cell("root") == (100, 0, 0, 40, 0)
    desk.now_ms += 1
    desk.model.advance(desk.now_ms)
    assert desk.cell("root") == (100, 40, 0, 0, 0)
    assert desk.settle("h", 33).values["state"] == "settled"
    assert desk.cell("root") == (100, 33, 0, 0, 0)


def test_a_quarantine_may_close_as_a_release() -> None:
    desk = Desk(quarantine="release")
    desk.account("root")
    desk.budget("root", 100)
    desk.hold("h", "root", 40, lease_s=3600)
    desk.wait(26)
    assert desk.cell("root") == (100, 0, 0, 0, 0)
    desk.settle("h", 33)
    assert desk.cell("root") == (100, 0, 0, 0, 33)


def test_a_late_settle_in_quarantine_is_exact_and_a_release_frees_it(desk: Desk) -> None:
    for id in ("h", "i"):
        desk.hold(id, "child", 40, lease_s=3600)
    desk.wait(1)
    desk.settle("h", 50)
    assert desk.cell("root") == (100, 40, 0, 40, 10)
    assert desk.do(Release(id="i")).values["state"] == "released"
    assert desk.cell("root") == (100, 40, 0, 0, 10)


def test_a_late_settle_whose_window_is_gone_posts_the_rise_in_the_running_window() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour")
    desk.budget("root", 1000, name="all")
    desk.hold("h", "root", 40, lease_s=1800)
    desk.wait(25)
    assert desk.cell("root") == (100, 0, 0, 0, 0)
    assert desk.cell("root", "all") == (1000, 40, 0, 0, 0)
    desk.settle("h", 47)
    assert desk.cell("root") == (100, 0, 0, 0, 7)
    assert desk.cell("root", "all") == (1000, 40, 0, 0, 7)


# ------------------------------------------------------------------------------------------- windows


def test_open_holds_stay_in_the_window_that_admitted_them() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour")
    desk.hold("h", "root", 80, lease_s=LONG)
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 0, 0, 0)
    desk.hold("i", "root", 100)
    desk.settle("h", 90)
    assert desk.cell("root") == (100, 0, 100, 0, 0)
    desk.settle("h", 95)
    assert desk.cell("root") == (100, 0, 100, 0, 5)  # the old window was gone by then


def test_an_extend_after_the_end_of_the_window_asks_the_old_window_for_room() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour")
    desk.hold("h", "root", 80, lease_s=LONG)
    desk.wait(1)
    desk.hold("i", "root", 90)
    desk.do(Extend(id="h", to={"tokens": 100}))
    assert desk.ended("root", "b", START_MS) == (100, 0, 100, 0, 0)
    assert desk.refused(Extend(id="h", to={"tokens": 101})).code == "budget_exceeded"


def test_a_window_is_half_open() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour")
    desk.now_ms += HOUR_MS - 1
    desk.do(Settle(id="h", account="root", total={"tokens": 7}))
    assert desk.cell("root") == (100, 0, 0, 0, 7)
    desk.now_ms += 1
    desk.do(Settle(id="i", account="root", total={"tokens": 3}))
    assert desk.cell("root") == (100, 0, 0, 0, 3)


def test_what_is_unused_is_carried_and_leaves_the_window_it_comes_from() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour", carry_over="unused", carry_max=50)
    desk.hold("h", "root", 30, lease_s=LONG)
    desk.wait(1)
    assert desk.cell("root") == (150, 0, 0, 0, 0)
    assert desk.ended("root", "b", START_MS) == (50, 0, 30, 0, 0)
    desk.hold("i", "root", 140, lease_s=LONG)
    desk.wait(1)
    assert desk.cell("root") == (110, 0, 0, 0, 0)
    desk.wait(3)
    assert desk.cell("root") == (150, 0, 0, 0, 0)


def test_skipped_windows_carry_as_if_each_had_been_opened_in_turn() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour", carry_over="unused")
    desk.budget("root", 100, name="capped", period="hour", carry_over="unused", carry_max=250)
    desk.wait(5)
    assert desk.cell("root") == (600, 0, 0, 0, 0)
    assert desk.cell("root", "capped") == (350, 0, 0, 0, 0)


def test_debt_is_carried_window_by_window_until_it_is_paid() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour", carry_debt=True)
    desk.do(Settle(id="h", account="root", total={"tokens": 250}))
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 0, 0, 150)
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 0, 0, 50)
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 0, 0, 0)


def test_without_carry_debt_a_new_window_starts_at_nothing() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour")
    desk.do(Settle(id="h", account="root", total={"tokens": 250}))
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 0, 0, 0)


def test_a_changed_period_takes_effect_at_the_end_of_the_running_window(desk: Desk) -> None:
    desk.budget("child", 50, name="c", period="hour")
    desk.do(Settle(id="h", account="child", total={"tokens": 9}))
    desk.budget("child", 50, name="c", period="day")
    assert desk.model.balances()[("child", "c")].end == START_MS + HOUR_MS
    assert desk.cell("child", "c") == (50, 0, 0, 0, 9)
    desk.wait(1)
    figures = desk.model.balances()[("child", "c")]
    assert (figures.start, figures.end) == (START_MS + HOUR_MS, START_MS + 14 * HOUR_MS)
    assert desk.cell("child", "c") == (50, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"unit": "cost"}, "conflict"),
        ({"period": "day"}, "conflict"),
        ({"limit": 39}, "below_use"),
        ({"limit": 39, "mode": "observe"}, None),
        ({"limit": 39, "force": True}, None),
        ({"limit": 40}, None),
        ({"limit": -1}, "invalid"),
        ({"limit": 2**53}, "invalid"),
        ({"zone": "Mars/Base"}, "invalid"),
    ],
)
def test_changes_of_a_budget(desk: Desk, change: dict[str, Any], code: str | None) -> None:
    desk.hold("h", "child", 40)
    command = PutBudget(**{"account": "root", "budget": "b", "unit": "tokens", "limit": 100, **change})
    outcome = desk.model.decide(command, desk.now_ms)
    assert (outcome.code if isinstance(outcome, Refusal) else None) == code


def test_a_removed_budget_limits_nothing_and_open_holds_go_on_silently(desk: Desk) -> None:
    desk.hold("h", "child", 100)
    desk.do(RemoveBudget(account="root", budget="b"))
    desk.hold("i", "child", 500)
    desk.settle("h", 120)
    assert desk.model.balances() == {}
    desk.budget("root", 10)
    assert desk.cell("root") == (10, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("period", "zone", "at", "start", "end"),
    [
        ("hour", "UTC", "2025-10-09T10:59:59", "2025-10-09T10:00:00", "2025-10-09T11:00:00"),
        ("hour", "Asia/Kolkata", "2025-10-09T10:00:00", "2025-10-09T09:30:00", "2025-10-09T10:30:00"),
        ("day", "UTC", "2025-10-09T00:00:00", "2025-10-09T00:00:00", "2025-10-10T00:00:00"),
        ("day", "Europe/Berlin", "2025-10-26T12:00:00", "2025-10-25T22:00:00", "2025-10-26T23:00:00"),
        ("week", "UTC", "2025-10-12T23:00:00", "2025-10-06T00:00:00", "2025-10-13T00:00:00"),
        ("month", "UTC", "2025-12-31T23:00:00", "2025-12-01T00:00:00", "2026-01-01T00:00:00"),
        ("quarter", "UTC", "2025-11-30T23:00:00", "2025-10-01T00:00:00", "2026-01-01T00:00:00"),
        ("year", "America/New_York", "2026-01-01T04:59:59", "2025-01-01T05:00:00", "2026-01-01T05:00:00"),
        ("every:90", "UTC", "1970-01-01T00:03:01", "1970-01-01T00:03:00", "1970-01-01T00:04:30"),
    ],
)
def test_the_calendar(period: str, zone: str, at: str, start: str, end: str) -> None:
    def ms(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000

    assert window_start(period, zone, ms(at)) == ms(start)
    assert window_end(period, zone, ms(at)) == ms(end)


# ------------------------------------------------------------------------------------------- also, match, modes


def test_also_accounts_are_charged_and_each_cell_once(desk: Desk) -> None:
    desk.budget("child", 50)
    desk.budget("other", 50)
    desk.hold("h", "child", 20, also=("other", "root"))
    assert desk.cell("root") == (100, 0, 20, 0, 0)
    assert desk.cell("child") == (50, 0, 20, 0, 0)
    assert desk.cell("other") == (50, 0, 20, 0, 0)


def test_an_also_account_must_be_shared_up_to_what_it_has_in_common_with_the_payer(desk: Desk) -> None:
    desk.do(Allocate(account="other", unit="cost", to=0))
    refused = desk.refused(Reserve(id="h", account="child", amounts={"tokens": 1}, also=("other",)))
    assert refused.code == "also_not_shared"
    desk.do(Settle(id="i", account="child", also=("other",), total={"tokens": 4}))
    desk.budget("other", 50)
    assert desk.cell("root") == (100, 0, 0, 0, 4)
    assert desk.cell("other") == (50, 0, 0, 0, 0)


def test_the_status_of_every_chain_is_checked_leaf_first_before_also_and_units(desk: Desk) -> None:
    desk.do(Allocate(account="other", unit="tokens", to=1))
    desk.do(SetStatus(account="other", status="closed"))
    assert desk.refused(Reserve(id="h", account="child", also=("other",))).code == "account_closed"
    desk.do(SetStatus(account="child", status="terminated"))
    desk.do(SetStatus(account="root", status="suspended"))
    assert desk.refused(Reserve(id="h", account="child", also=("other",))).code == "account_terminated"
    assert desk.refused(SetStatus(account="child", status="active")).code == "conflict"
    desk.do(SetStatus(account="child", status="terminated"))


def test_a_budget_with_match_charges_only_calls_that_match(desk: Desk) -> None:
    desk.budget("root", 10, name="dear", match={"model": "dear"})
    desk.hold("h", "child", 50, attributes={"model": "cheap"})
    refused = desk.refused(
        Reserve(id="i", account="child", amounts={"tokens": 11}, attributes={"model": "dear", "x": "y"})
    )
    assert (refused.code, refused.budget) == ("budget_exceeded", "dear")
    assert desk.cell("root", "dear") == (10, 0, 0, 0, 0)


def test_budgets_that_do_not_enforce_count_and_never_refuse(desk: Desk) -> None:
    desk.budget("child", 5, name="watch", mode="observe")
    desk.budget("child", 5, name="warn", mode="warn", unit="cost")
    desk.hold("h", "child", 60)
    assert desk.cell("child", "watch") == (5, 0, 60, 0, 0)


# ------------------------------------------------------------------------------------------- exhaustion, thresholds


def test_exact_use_exhausts_and_only_the_next_positive_request_acts(desk: Desk) -> None:
    desk.budget("child", 40, on_exhaustion="terminate")
    desk.hold("h", "child", 40)
    assert desk.refused(Reserve(id="i", account="child", amounts={"tokens": 1})).code == "budget_busy"
    assert desk.model.accounts["child"].status == "active"
    desk.settle("h", 40)
    desk.do(Reserve(id="z", account="child", amounts={"tokens": 0, "calls": 1}))
    assert desk.model.accounts["child"].status == "active"
    refused = desk.refused(Reserve(id="i", account="child", amounts={"tokens": 1}))
    assert (refused.code, refused.account) == ("budget_exceeded", "child")
    assert desk.model.accounts["child"].status == "terminated"
    assert desk.refused(Reserve(id="i", account="child", amounts={"tokens": 1})).code == "account_terminated"


def test_a_request_too_large_for_a_budget_that_is_not_exhausted_suspends_nobody(desk: Desk) -> None:
    desk.budget("child", 40, on_exhaustion="suspend")
    assert desk.refused(Reserve(id="i", account="child", amounts={"tokens": 41})).code == "budget_exceeded"
    assert desk.model.accounts["child"].status == "active"


def test_thresholds_fire_once_in_order_and_are_armed_again_by_a_raised_limit(desk: Desk) -> None:
    desk.hold("h", "child", 95)
    assert desk.fired() == []
    desk.settle("h", 95)
    assert desk.fired() == [50, 75, 90, 95]
    desk.budget("root", 120)
    desk.do(Settle(id="i", account="child", total={"tokens": 13}))
    assert desk.fired() == [90]
    desk.budget("root", 50, force=True)
    assert desk.fired() == []
    desk.do(Settle(id="j", account="child", total={"tokens": 1}))
    assert desk.fired() == [95, 100]


# ------------------------------------------------------------------------------------------- adjustments


def test_an_adjustment_raises_at_once_and_lapses_only_in_its_unused_part(desk: Desk) -> None:
    desk.do(Adjust(id="a", account="root", budget="b", amount=50, reason="r", valid_until=desk.at(1)))
    assert desk.cell("root") == (150, 0, 0, 0, 0)
    desk.hold("h", "child", 130, lease_s=LONG)
    desk.wait(1)
    assert desk.cell("root") == (130, 0, 130, 0, 0)
    desk.settle("h", 110, final=False)
    assert desk.cell("root") == (130, 110, 20, 0, 0)
    desk.settle("h", 112)
    assert desk.cell("root") == (112, 112, 0, 0, 0)
    desk.do(Settle(id="i", account="child", total={"tokens": 5}))
    assert desk.cell("root") == (112, 112, 0, 0, 5)


def test_an_adjustment_that_lowers_starts_at_once_and_not_below_use_without_force(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    down = Adjust(id="a", account="root", budget="b", amount=-61, reason="r", valid_until=desk.at(1))
    assert desk.refused(down).code == "below_use"
    desk.do(Adjust(id="a", account="root", budget="b", amount=-60, reason="r", valid_until=desk.at(1)))
    assert desk.cell("root") == (40, 0, 40, 0, 0)
    desk.do(Adjust(id="c", account="root", budget="b", amount=-5, reason="r", force=True))
    assert desk.cell("root") == (35, 0, 40, 0, 0)
    desk.do(Release(id="h"))
    desk.wait(1)
    assert desk.cell("root") == (95, 0, 0, 0, 0)


def test_an_adjustment_is_known_by_its_id(desk: Desk) -> None:
    up = Adjust(id="a", account="root", budget="b", amount=50, reason="r")
    desk.do(up)
    desk.do(up)
    assert desk.cell("root") == (150, 0, 0, 0, 0)
    assert desk.refused(Adjust(id="a", account="root", budget="b", amount=51, reason="r")).code == "conflict"
    desk.do(EndAdjustment(id="a", account="root"))
    assert desk.do(EndAdjustment(id="a", account="root")).values["active"] is False
    assert desk.cell("root") == (100, 0, 0, 0, 0)
    assert desk.refused(EndAdjustment(id="no", account="root")).code == "unknown_adjustment"


def test_unused_adjustments_never_carry() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour", carry_over="unused")
    desk.do(Settle(id="h", account="root", total={"tokens": 30}))
    desk.do(Adjust(id="a", account="root", budget="b", amount=50, reason="r"))
    desk.wait(1)
    assert desk.cell("root") == (170, 0, 0, 0, 0)
    desk.do(Adjust(id="d", account="root", budget="b", amount=-20, reason="r"))
    desk.wait(1)
    assert desk.cell("root") == (250, 0, 0, 0, 0)


# ------------------------------------------------------------------------------------------- allocations


def test_an_allocation_is_held_above_and_becomes_spent_as_the_child_spends(desk: Desk) -> None:
    desk.do(Allocate(account="child", unit="tokens", to=60))
    assert desk.cell("root") == (100, 0, 60, 0, 0)
    desk.hold("h", "child", 25)
    assert desk.cell("root") == (100, 0, 60, 0, 0)
    assert desk.cell("child", "@tokens") == (60, 0, 25, 0, 0)
    desk.settle("h", 20)
    assert desk.cell("root") == (100, 20, 40, 0, 0)
    assert desk.cell("child", "@tokens") == (60, 20, 0, 0, 0)
    desk.do(Settle(id="i", account="child", total={"tokens": 50}))
    assert desk.cell("child", "@tokens") == (60, 20, 0, 0, 50)
    assert desk.cell("root") == (100, 60, 0, 0, 10)


def test_a_live_allocation_counts_as_exceeded_and_its_child_binds_first(desk: Desk) -> None:
    desk.do(Allocate(account="child", unit="tokens", to=60))
    refused = desk.refused(Reserve(id="h", account="other", amounts={"tokens": 41}))
    assert (refused.code, refused.account) == ("budget_exceeded", "root")
    refused = desk.refused(Reserve(id="h", account="child", amounts={"tokens": 61}))
    assert (refused.code, refused.account, refused.budget) == ("budget_exceeded", "child", None)


def test_an_allocation_grows_if_there_is_room_and_shrinks_to_what_is_in_use(desk: Desk) -> None:
    desk.do(Allocate(account="child", unit="tokens", to=60))
    desk.hold("h", "other", 30)
    assert desk.refused(Allocate(account="child", unit="tokens", to=71)).code == "budget_busy"
    assert desk.refused(Allocate(account="child", unit="tokens", to=101)).code == "budget_exceeded"
    desk.do(Allocate(account="child", unit="tokens", to=70))
    desk.hold("i", "child", 20)
    assert desk.refused(Allocate(account="child", unit="tokens", to=19)).code == "below_use"
    desk.do(Allocate(account="child", unit="tokens", to=20))
    assert desk.cell("root") == (100, 0, 50, 0, 0)
    assert desk.refused(Allocate(account="root", unit="tokens", to=1)).code == "invalid"


def test_open_holds_of_a_shared_account_keep_their_pins_when_it_is_allocated(desk: Desk) -> None:
    desk.hold("h", "child", 30)
    desk.do(Allocate(account="child", unit="tokens", to=70))
    assert desk.cell("root") == (100, 0, 100, 0, 0)
    assert desk.cell("child", "@tokens") == (70, 0, 0, 0, 0)
    desk.settle("h", 10)
    assert desk.cell("root") == (100, 10, 70, 0, 0)


def test_a_deallocated_account_draws_on_its_parent_and_what_is_in_use_stays_covered(desk: Desk) -> None:
    desk.do(Allocate(account="child", unit="tokens", to=60))
    desk.hold("h", "child", 25)
    desk.do(Deallocate(account="child", unit="tokens"))
    assert desk.cell("root") == (100, 0, 25, 0, 0)
    assert desk.refused(Reserve(id="i", account="other", amounts={"tokens": 80})).code == "budget_busy"
    desk.hold("i", "child", 75)
    desk.settle("h", 5)
    assert desk.cell("root") == (100, 5, 75, 0, 0)
    assert desk.refused(Deallocate(account="child", unit="tokens")).code == "unknown_allocation"


def test_an_allocation_ends_for_good_at_its_validity(desk: Desk) -> None:
    desk.do(Allocate(account="child", unit="tokens", to=60, valid_until=desk.at(1)))
    desk.hold("h", "child", 25, lease_s=LONG)
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 25, 0, 0)
    refused = desk.refused(Reserve(id="i", account="child", amounts={"tokens": 1}))
    assert (refused.code, refused.account, refused.budget) == ("budget_exceeded", "child", None)
    desk.do(Allocate(account="child", unit="tokens", to=75))
    desk.hold("i", "child", 75)
    assert desk.cell("root") == (100, 0, 100, 0, 0)


def test_an_allocation_ends_with_its_window_and_is_carved_again_at_the_next_touch() -> None:
    desk = Desk()
    desk.account("root")
    desk.account("child", "root")
    desk.account("other", "root")
    desk.budget("root", 100, period="hour")
    desk.do(Allocate(account="child", unit="tokens", to=60))
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 0, 0, 0)
    desk.hold("h", "child", 10, lease_s=60)
    assert desk.cell("root") == (100, 0, 60, 0, 0)
    desk.do(Release(id="h"))
    desk.wait(1)
    desk.hold("i", "other", 50, lease_s=60)
    refused = desk.refused(Reserve(id="j", account="child", amounts={"tokens": 10}))
    assert (refused.code, refused.account) == ("budget_busy", "root")
    desk.do(Release(id="i"))
    desk.hold("j", "child", 10)


def test_usage_of_an_account_whose_allocation_cannot_be_carved_again_is_seen_above() -> None:
    desk = Desk()
    desk.account("root")
    desk.account("child", "root")
    desk.account("other", "root")
    desk.budget("root", 100, period="hour")
    desk.do(Allocate(account="child", unit="tokens", to=60))
    desk.wait(1)
    desk.hold("i", "other", 50, lease_s=60)
    desk.do(Settle(id="u", account="child", total={"tokens": 7}))
    assert desk.cell("child", "@tokens") == (0, 0, 0, 0, 7)
    assert desk.cell("root") == (100, 0, 50, 0, 7)
    desk.settle("i", 20)
    desk.hold("j", "child", 53)
    assert desk.cell("child", "@tokens") == (60, 0, 53, 0, 7)
    assert desk.cell("root") == (100, 27, 53, 0, 0)


def nested(desk: Desk) -> None:
    """``leaf`` with 30 carved from ``child`` with 60 carved from ``root``."""
    desk.account("leaf", "child")
    desk.do(Allocate(account="child", unit="tokens", to=60))
    desk.do(Allocate(account="leaf", unit="tokens", to=30))


def test_allocations_nest(desk: Desk) -> None:
    nested(desk)
    assert desk.cell("root") == (100, 0, 60, 0, 0)
    assert desk.cell("child", "@tokens") == (60, 0, 30, 0, 0)
    desk.do(Settle(id="u", account="leaf", total={"tokens": 35}))
    assert desk.cell("leaf", "@tokens") == (30, 0, 0, 0, 35)
    assert desk.cell("child", "@tokens") == (60, 30, 0, 0, 5)
    assert desk.cell("root") == (100, 35, 25, 0, 0)
    assert desk.refused(Allocate(account="leaf", unit="tokens", to=61)).account == "child"
    assert desk.refused(Allocate(account="leaf", unit="tokens", to=56)).account == "child"  # 25 are free
    desk.do(Allocate(account="leaf", unit="tokens", to=55))
    assert desk.cell("child", "@tokens") == (60, 35, 20, 0, 0)


def test_an_allocation_carved_from_another_ends_with_it(desk: Desk) -> None:
    nested(desk)
    desk.hold("h", "leaf", 10, lease_s=LONG)
    desk.do(Allocate(account="child", unit="tokens", to=60, valid_until=desk.at(1)))
    desk.wait(1)
    assert desk.cell("leaf", "@tokens") == (10, 0, 10, 0, 0)
    assert desk.cell("child", "@tokens") == (10, 0, 10, 0, 0)
    assert desk.cell("root") == (100, 0, 10, 0, 0)


def test_a_suspended_account_parks_what_is_carved_below_it_and_resumes_if_there_is_room(desk: Desk) -> None:
    nested(desk)
    desk.hold("h", "leaf", 20)
    desk.do(SetStatus(account="child", status="suspended"))
    assert desk.cell("leaf", "@tokens") == (20, 0, 20, 0, 0)
    assert desk.cell("child", "@tokens") == (20, 0, 20, 0, 0)
    assert desk.cell("root") == (100, 0, 20, 0, 0)
    assert desk.refused(Reserve(id="i", account="other", amounts={"tokens": 90})).code == "budget_busy"
    desk.settle("h", 12, final=False)
    desk.do(Release(id="h"))
    assert desk.cell("root") == (100, 12, 0, 0, 0)
    desk.hold("i", "other", 52)
    desk.do(SetStatus(account="child", status="active"))
    assert desk.cell("leaf", "@tokens") == (12, 12, 0, 0, 0)  # 88 - 52 = 36 free, 48 wanted
    desk.do(Release(id="i"))
    desk.hold("j", "leaf", 18)
    assert desk.cell("leaf", "@tokens") == (30, 12, 18, 0, 0)
    assert desk.cell("child", "@tokens") == (60, 12, 18, 0, 0)
    assert desk.cell("root") == (100, 12, 48, 0, 0)


def test_what_a_terminated_account_was_allocated_goes_back_for_good(desk: Desk) -> None:
    desk.do(Allocate(account="child", unit="tokens", to=60))
    desk.hold("h", "child", 25)
    desk.do(SetStatus(account="child", status="terminated"))
    assert desk.cell("root") == (100, 0, 25, 0, 0)
    desk.settle("h", 30)
    assert desk.cell("root") == (100, 25, 0, 0, 5)
    assert desk.refused(Allocate(account="child", unit="tokens", to=60)).code == "account_terminated"


def test_match_budgets_above_an_allocation_are_charged_by_the_calls_themselves(desk: Desk) -> None:
    desk.budget("root", 50, name="dear", match={"model": "dear"})
    desk.do(Allocate(account="child", unit="tokens", to=60))
    assert desk.cell("root", "dear") == (50, 0, 0, 0, 0)
    desk.hold("h", "child", 40, attributes={"model": "dear"})
    assert desk.cell("root", "dear") == (50, 0, 40, 0, 0)
    assert desk.cell("root") == (100, 0, 60, 0, 0)
    refused = desk.refused(Reserve(id="i", account="child", amounts={"tokens": 11}, attributes={"model": "dear"}))
    assert (refused.code, refused.budget) == ("budget_busy", "dear")


def test_a_budget_made_above_live_allocations_holds_them_or_is_refused(desk: Desk) -> None:
    desk.account("top")
    desk.account("mid", "top")
    desk.account("low", "mid")
    desk.do(Allocate(account="low", unit="tokens", to=40))
    refused = desk.refused(PutBudget(account="mid", budget="m", unit="tokens", limit=39))
    assert (refused.code, refused.account, refused.budget) == ("budget_exceeded", "mid", "m")
    desk.budget("mid", 40, name="m")
    assert desk.cell("mid", "m") == (40, 0, 40, 0, 0)


# ------------------------------------------------------------------------------------------- transfers


def pair(desk: Desk, **more: Any) -> None:
    desk.do(Allocate(account="child", unit="tokens", to=60))
    desk.do(Allocate(account="other", unit="tokens", to=20))
    for account, settings in more.items():
        desk.do(PutAccount(account=account, **settings))


def move(amount: int, source: str = "child", target: str = "other") -> Transfer:
    return Transfer(source=source, target=target, unit="tokens", amount=amount)


def test_a_transfer_moves_what_is_available_and_changes_nothing_above(desk: Desk) -> None:
    pair(desk)
    desk.hold("h", "child", 25)
    before = desk.cell("root")
    assert desk.refused(move(36)).code == "budget_busy"
    assert desk.refused(move(61)).code == "budget_exceeded"
    desk.do(move(35))
    assert desk.cell("child", "@tokens") == (25, 0, 25, 0, 0)
    assert desk.cell("other", "@tokens") == (55, 0, 0, 0, 0)
    assert desk.cell("root") == before == (100, 0, 80, 0, 0)


@pytest.mark.parametrize(
    ("settings", "amount", "code"),
    [
        ({"child": {"min_reserve": {"tokens": 10}}}, 50, None),
        ({"child": {"min_reserve": {"tokens": 10}}}, 51, "budget_exceeded"),
        ({"child": {"priority": 2}}, 1, "lower_priority"),
        ({"child": {"priority": 2}, "other": {"priority": 2}}, 1, None),
        ({"other": {"priority": 9}}, 1, None),
    ],
)
def test_donors_keep_their_reserve_and_never_give_down(desk: Desk, settings: Any, amount: int, code: Any) -> None:
    pair(desk, **settings)
    outcome = desk.model.decide(move(amount), desk.now_ms)
    assert (outcome.code if isinstance(outcome, Refusal) else None) == code


def test_a_transfer_through_nested_allocations_shrinks_and_grows_the_whole_paths(desk: Desk) -> None:
    nested(desk)
    desk.do(Allocate(account="other", unit="tokens", to=20))
    desk.budget("other", 25, name="cap")
    desk.account("deep", "other")
    desk.do(Allocate(account="deep", unit="tokens", to=5))
    assert desk.cell("other", "cap") == (25, 0, 5, 0, 0)
    refused = desk.refused(move(21, "leaf", "deep"))
    assert (refused.code, refused.budget) == ("budget_exceeded", "cap")
    desk.do(move(20, "leaf", "deep"))
    assert desk.cell("leaf", "@tokens") == (10, 0, 0, 0, 0)
    assert desk.cell("child", "@tokens") == (40, 0, 10, 0, 0)
    assert desk.cell("other", "@tokens") == (40, 0, 25, 0, 0)
    assert desk.cell("deep", "@tokens") == (25, 0, 0, 0, 0)
    assert desk.cell("root") == (100, 0, 80, 0, 0)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (move(1, "leaf", "child"), "invalid"),
        (move(1, "child", "leaf"), "invalid"),
        (move(1, "child", "child"), "invalid"),
        (move(0), "invalid"),
        (move(1, "child", "nobody"), "unknown_account"),
        (move(1, "child", "other"), "unknown_allocation"),
    ],
)
def test_transfers_that_make_no_sense(desk: Desk, command: Transfer, code: str) -> None:
    nested(desk)
    assert desk.refused(command).code == code


def test_nothing_leaves_an_overdrawn_allocation(desk: Desk) -> None:
    pair(desk)
    desk.do(Settle(id="u", account="child", total={"tokens": 61}))
    assert desk.refused(move(1)).code == "budget_exceeded"
    desk.do(move(1, "other", "child"))
    assert desk.cell("child", "@tokens") == (61, 0, 0, 0, 61)


def test_allocations_pinned_to_different_windows_exchange_nothing(desk: Desk) -> None:
    desk.budget("root", 200, name="late", mode="observe")
    desk.do(Allocate(account="child", unit="tokens", to=30))
    desk.account("top")
    desk.account("island", "top")
    desk.do(Allocate(account="island", unit="tokens", to=30))
    assert desk.refused(move(1, "child", "island")).code == "invalid"


# ------------------------------------------------------------------------------------------- the rest


def test_a_compound_is_all_or_nothing_but_settlements_stay_booked(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    refused = desk.refused(
        Compound(
            commands=(
                Reserve(id="i", account="child", amounts={"tokens": 10}),
                Settle(id="h", total={"tokens": 30}),
                PutAccount(account="new", parent="nobody"),
            )
        )
    )
    assert (refused.code, refused.index) == ("unknown_account", 2)
    assert desk.cell("root") == (100, 30, 0, 0, 0)
    refused = desk.refused(
        Compound(
            commands=(
                Reserve(id="i", account="child", amounts={"tokens": 10}),
                Settle(id="no", total={"tokens": 30}),
                Settle(id="h", total={"tokens": 31}),
            )
        )
    )
    assert (refused.code, refused.index) == ("unknown_hold", 1)
    assert desk.cell("root") == (100, 30, 0, 0, 1)
    hold_and_settle = (Reserve(id="i", account="child", amounts={"tokens": 10}), Settle(id="i", total={"tokens": 4}))
    assert len(desk.do(Compound(commands=hold_and_settle)).values["answers"]) == 2
    assert desk.cell("root") == (100, 34, 0, 0, 1)


def test_a_template_opens_accounts_with_budgets_and_allocations_or_nothing(desk: Desk) -> None:
    desk.do(
        PutTemplate(
            pattern="thread:*",
            parent="root",
            budgets=(TemplateBudget(unit="calls", limit=2),),
            allocations={"tokens": 60},
            max_children=2,
        )
    )
    assert desk.refused(Reserve(id="h", account="thread:", amounts={"tokens": 1})).code == "unknown_account"
    assert desk.refused(Reserve(id="h", account="thread:1"), may_open=False).code == "forbidden"
    assert desk.refused(Reserve(id="h", account="thread:1", amounts={"tokens": 61})).code == "budget_exceeded"
    assert "thread:1" not in desk.model.accounts
    desk.hold("h", "thread:1", 60)
    assert desk.cell("thread:1", "calls-lifetime") == (2, 0, 1, 0, 0)
    assert desk.refused(Reserve(id="i", account="thread:2", amounts={"tokens": 1})).code == "budget_exceeded"
    desk.do(Allocate(account="thread:1", unit="tokens", to=60))


def test_a_scope_covers_an_account_and_all_below_it(desk: Desk) -> None:
    desk.account("leaf", "child")
    desk.do(Reserve(id="h", account="leaf", amounts={"tokens": 1}), scope="child")
    assert desk.refused(Reserve(id="i", account="other", amounts={"tokens": 1}), scope="child").code == "forbidden"


def test_registering_again_never_mints_and_never_moves(desk: Desk) -> None:
    desk.hold("h", "child", 40)
    desk.do(PutAccount(account="child", priority=3))
    assert desk.cell("root") == (100, 0, 40, 0, 0)
    assert desk.refused(PutAccount(account="child", parent="other")).code == "conflict"


def test_what_is_due_at_one_instant_happens_in_the_order_of_the_design() -> None:
    # At 11:00 the hold expires (H to Q), then the window ends: Q counts, so 70 are carried.
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour", carry_over="unused")
    desk.hold("h", "root", 30, lease_s=3600)
    desk.wait(1)
    assert desk.cell("root") == (170, 0, 0, 0, 0)
    assert desk.ended("root", "b", START_MS) == (30, 0, 0, 30, 0)


def test_time_never_goes_back(desk: Desk) -> None:
    desk.budget("root", 50, name="hourly", period="hour")
    desk.wait(2)
    desk.now_ms -= 2 * HOUR_MS
    desk.do(Settle(id="h", account="root", total={"tokens": 1}))
    assert desk.model.balances()[("root", "hourly")].start == START_MS + 2 * HOUR_MS


def test_debt_that_was_an_estimate_is_taken_back_from_the_window_that_got_it() -> None:
    desk = Desk()
    desk.account("root")
    desk.budget("root", 100, period="hour", carry_debt=True)
    desk.hold("h", "root", 100, lease_s=LONG)
    desk.settle("h", 130, final=False)
    desk.wait(1)
    assert desk.cell("root") == (100, 0, 0, 0, 30)
    desk.settle("h", 110)
    assert desk.cell("root") == (100, 0, 0, 0, 10)
