"""The thread budgets, warnings and usage tracker of xml-pipeline, line by line, over a ledger."""

from __future__ import annotations

import doctest
import logging

import pytest

from fiscus.compat.places import ledger_at
from fiscus.compat.xml_pipeline import (
    BudgetExhaustedError,
    BudgetThresholdCrossed,
    BudgetWarning,
    ThreadBudget,
    ThreadBudgetRegistry,
    ThreadEndedError,
    UsageEvent,
    UsageTracker,
    budget,
    configure_budget_registry,
    get_budget_registry,
    get_usage_tracker,
    prices,
    reset_budget_registry,
    reset_usage_tracker,
    router,
    warning,
)
from fiscus.compat.xml_pipeline.prices import cost_nanousd, nanousd_of
from fiscus.contract import OverridePolicy, TemplateBudget, Tokens
from fiscus.contract.errors import ConfigurationInvalid, FiscusError, Refusal
from fiscus.pricing import PriceBook


@pytest.fixture(scope="module")
def treasury():
    with ledger_at("memory:") as opened:
        yield opened


@pytest.fixture
def registry(treasury, request) -> ThreadBudgetRegistry:
    return ThreadBudgetRegistry(1_000, place=treasury, namespace=request.node.name)


@pytest.fixture
def tracker(treasury, request) -> UsageTracker:
    return UsageTracker(place=treasury, namespace=request.node.name)


@pytest.mark.parametrize("module", [budget, warning, prices, router], ids=lambda found: found.__name__)
def test_the_examples_are_true(module):
    assert doctest.testmod(module).failed == 0


# -- one budget ---------------------------------------------------------------------------------------------------


def test_a_budget_counts_and_says_what_is_left():
    # covers X2
    made = ThreadBudget(max_tokens=100)
    assert (made.total_tokens, made.remaining, made.is_exhausted, made.percent_used) == (0, 100, False, 0.0)
    made.consume(50, 25)
    assert (made.total_tokens, made.remaining, made.request_count, made.percent_used) == (75, 25, 1, 75.0)
    assert (made.can_consume(25), made.can_consume(26)) == (True, False)
    made.consume(20, 10)
    assert (made.remaining, made.is_exhausted) == (0, True)
    assert ThreadBudget(max_tokens=0).percent_used == 0.0
    for bad in ((-1, 0), (0, 0.5), (True, 0)):
        with pytest.raises(ValueError, match="tokens must be integers >= 0"):
            made.consume(*bad)


def test_thresholds_are_told_once_and_several_at_once_in_ascending_order():
    # covers X9, X10
    made = ThreadBudget(max_tokens=1_000)
    made.consume(749, 0)
    assert made.check_thresholds() == []
    made.consume(206, 0)
    crossed = made.check_thresholds()
    assert [(one.threshold_percent, one.severity) for one in crossed] == [
        (75, "warning"),
        (90, "critical"),
        (95, "final"),
    ]
    assert crossed[0] == BudgetThresholdCrossed(75, "warning", 95.5, 955, 45, 1_000)
    assert made.check_thresholds() == []
    assert made.triggered_thresholds == {75, 90, 95}
    assert [one.threshold_percent for one in ThreadBudget(100, 60).check_thresholds({50: "warning"})] == [50]


@pytest.mark.parametrize(
    ("severity", "text"),
    [
        (
            "final",
            "CRITICAL: 96% of token budget used. Only 4,000 tokens remaining. "
            "Wrap up immediately or your next request may fail.",
        ),
        (
            "critical",
            "WARNING: 96% of token budget used. 4,000 tokens remaining. Consider wrapping up your current task soon.",
        ),
        ("warning", "Note: 96% of token budget used. 4,000 tokens remaining."),
    ],
)
def test_warnings_have_their_texts(severity, text):
    # covers X11, X12, X13
    made = BudgetWarning.of(BudgetThresholdCrossed(95, severity, 96.0, 96_000, 4_000, 100_000))
    assert made.message == text
    assert (made.percent_used, made.tokens_used, made.tokens_remaining, made.max_tokens) == (
        96.0,
        96_000,
        4_000,
        100_000,
    )


# -- the registry -------------------------------------------------------------------------------------------------


def test_a_thread_may_use_100_000_tokens_unless_something_else_is_said(treasury):
    # covers X1, X4
    made = ThreadBudgetRegistry(place=treasury, namespace="defaults")
    assert made.get_budget("t").max_tokens == 100_000
    made.configure(500)
    assert made.get_budget("t").max_tokens == 100_000, "only threads that begin from now on"
    assert made.get_budget("u").max_tokens == 500
    assert ThreadBudgetRegistry(place=treasury, namespace="defaults").get_budget("v").max_tokens == 500
    with pytest.raises(ValueError, match="tokens"):
        made.configure(-1)


def test_a_template_of_an_operator_keeps_what_it_says(treasury):
    # covers X1
    treasury.put_account("team:threads")
    treasury.put_template(
        "thread-operator:*",
        parent="team:threads",
        budgets=[TemplateBudget(unit="tokens", budget="thread-tokens", limit=777)],
        max_children=3,
    )
    made = ThreadBudgetRegistry(place=treasury, namespace="operator")
    assert made.get_budget("t").max_tokens == 777
    account = treasury.account("thread-operator:t")
    assert account.parent == "team:threads"
    made.consume("t", 5, 6)
    assert made.get_usage("t")["completion_tokens"] == 6


def test_looking_creates_nothing_and_getting_does(registry):
    # covers X4, X6
    assert registry.has_budget("t") is False
    assert registry.get_usage("t") is None
    assert registry.get_all_usage() == {}
    assert registry.get_budget("t").total_tokens == 0
    assert registry.has_budget("t") is True


def test_what_is_consumed_is_added_up_and_thresholds_come_with_it(registry):
    # covers X5, X6
    after, crossed = registry.consume("t", 500, 300)
    assert (after.total_tokens, after.request_count) == (800, 1)
    assert [one.severity for one in crossed] == ["warning"]
    after, crossed = registry.consume("t", 100, 60)
    assert [one.severity for one in crossed] == ["critical", "final"]
    assert after.triggered_thresholds == {75, 90, 95}
    assert registry.consume("t", 10, 0)[1] == []
    assert registry.get_usage("t") == {
        "prompt_tokens": 610,
        "completion_tokens": 360,
        "total_tokens": 970,
        "remaining": 30,
        "max_tokens": 1_000,
        "request_count": 3,
    }
    registry.consume("other", 0, 1)
    assert {name: one["total_tokens"] for name, one in registry.get_all_usage().items()} == {"t": 970, "other": 1}


def test_a_budget_that_was_handed_out_books_what_it_consumes(registry):
    # covers X2, X5
    made = registry.get_budget("t")
    made.consume(700, 100)
    assert (made.total_tokens, made.request_count) == (800, 1)
    assert registry.get_usage("t")["total_tokens"] == 800
    assert [one.severity for one in made.check_thresholds()] == ["warning"]
    assert registry.consume("t", 1, 0)[1] == [], "it was told"


def test_a_check_says_true_or_raises_with_the_figures(registry):
    # covers X3, X4
    thread = "0123456789abcdef"
    assert registry.check_budget(thread) is True
    assert registry.check_budget(thread, 1_000) is True
    registry.consume(thread, 600, 0)
    with pytest.raises(BudgetExhaustedError) as error:
        registry.check_budget(thread, 401)
    assert str(error.value) == "Thread 01234567... budget exhausted: 600/1000 tokens used"
    assert (error.value.thread_id, error.value.used, error.value.max_tokens) == (thread, 600, 1_000)
    assert registry.check_budget(thread, 400) is True
    registry.consume(thread, 400, 0)
    with pytest.raises(BudgetExhaustedError):
        registry.check_budget(thread)
    assert issubclass(BudgetExhaustedError, FiscusError)


def test_a_second_check_takes_the_place_of_the_first(registry):
    # covers X4
    for _ in range(5):
        registry.check_budget("t", 900)
    registry.consume("t", 100, 0)
    assert registry.check_budget("t", 900) is True


def test_clean_up_gives_the_final_figures_and_frees_what_was_held(registry, treasury, caplog):
    # covers X7
    registry.check_budget("t", 500)
    registry.booked("t", 100, 50)
    registry.check_budget("t", 500)
    with caplog.at_level(logging.DEBUG, logger="fiscus.compat.xml_pipeline.registry"):
        final = registry.cleanup_thread("t")
    assert (final.total_tokens, final.prompt_tokens, final.request_count) == (150, 100, 1)
    assert "thread_ended" in caplog.text
    assert registry.cleanup_thread("t") is None
    assert registry.cleanup_thread("nobody") is None
    assert (registry.has_budget("t"), registry.get_usage("t"), registry.get_all_usage()) == (False, None, {})
    account = treasury.account(registry.threads.account_of("t"))
    assert account.status == "closed"
    assert [one.balance.held for one in account.budgets if one.balance] == [0] * 6


def test_the_hops_of_a_thread_that_ends_are_closed_themselves(registry, treasury):
    # covers X7
    registry.extend_chain("t", "hop1")
    registry.extend_chain("hop1", "hop2")
    registry.cleanup_thread("t")
    assert [treasury.account(registry.threads.account_of(name)).status for name in ("t", "hop1", "hop2")] == [
        "closed"
    ] * 3


def test_what_was_held_for_hops_is_free_when_their_root_ends(registry, treasury):
    # covers X7
    registry.extend_chain("t", "hop")
    registry.check_budget("hop", 300)
    registry.check_budget("t", 200)
    registry.cleanup_thread("t")
    root = treasury.account(registry.threads.account_of("t"))
    assert [one.balance.held for one in root.budgets if one.balance] == [0] * 6


def test_what_was_more_than_checked_is_covered_as_far_as_there_is_room(registry, treasury):
    # covers X5
    account = registry.threads.account_of("t")

    def uncovered() -> int:
        return next(one.balance.uncovered for one in treasury.account(account).budgets if one.budget == "thread-tokens")

    registry.check_budget("t", 100)
    registry.consume("t", 300, 100)
    assert uncovered() == 0
    registry.check_budget("t", 100)
    registry.consume("t", 900, 100)
    assert uncovered() > 0
    assert registry.get_usage("t")["total_tokens"] == 1_400


def test_a_thread_that_is_reset_has_its_whole_budget_again_and_the_journal_says_so(registry, treasury):
    # covers X6
    registry.consume("t", 700, 200)
    registry.reset_thread("t")
    assert registry.get_usage("t")["remaining"] == 1_000
    assert registry.get_usage("t")["request_count"] == 0
    assert [one.severity for one in registry.consume("t", 800, 0)[1]] == ["warning"], "told anew"
    registry.clear()
    assert registry.get_usage("t")["total_tokens"] == 0
    limits = {one.budget: one.balance.limit for one in treasury.account(registry.threads.account_of("t")).budgets}
    assert limits["thread-tokens"] == 1_000 + 900 + 800, "raised by adjustments that are on record"
    registry.reset_thread("nobody")
    assert not registry.has_budget("nobody")


def test_a_thread_may_ask_for_more_and_its_thresholds_are_armed_anew(registry, treasury):
    # covers X9, X13
    registry.consume("t", 800, 0)
    account = registry.threads.account_of("t")
    treasury.put_budget(
        account,
        "tokens",
        1_000,
        budget="thread-tokens",
        override=OverridePolicy(requires_approval=False, max_percent=100),
    )
    assert registry.request_increase("t", 1_000, "the book is long") == "approved"
    assert registry.get_budget("t").max_tokens == 2_000
    assert registry.consume("t", 100, 0)[1] == []
    after, crossed = registry.consume("t", 650, 0)
    assert [one.severity for one in crossed] == ["warning"], "of the new limit"
    assert after.remaining == 450
    registry.extend_chain("t", "hop")
    assert registry.get_all_usage()["hop"]["remaining"] == 450
    with pytest.raises(Refusal):
        registry.request_increase("t", 10**6, "more than the policy allows")


def test_a_thread_of_somebody_else_without_counters_is_named(registry, treasury):
    account = registry.threads.account_of("t")
    treasury.put_account(account)
    with pytest.raises((ConfigurationInvalid, KeyError)):
        registry.get_budget("t")


def test_the_registry_of_the_process_is_made_once_and_can_be_forgotten(tmp_path, monkeypatch):
    # covers X8
    monkeypatch.chdir(tmp_path)
    reset_budget_registry()
    made = get_budget_registry()
    assert get_budget_registry() is made
    assert configure_budget_registry(123) is made
    assert made.get_budget("t").max_tokens == 123
    reset_budget_registry()
    again = get_budget_registry()
    assert again is not made
    assert again.get_budget("t").max_tokens == 123, "the books are those of the ledger"
    reset_budget_registry()
    made.treasury.close()


# -- the tracker --------------------------------------------------------------------------------------------------


def test_each_call_is_an_event_with_its_price(tracker):
    # covers X19, X20, X22
    seen: list[UsageEvent] = []
    tracker.subscribe(seen.append)
    event = tracker.record(
        "t", "planner", "gpt-4o-mini", "openai", 1_000, 200, 321.5, metadata={"org_id": "o", "user_id": "u"}
    )
    assert seen == [event]
    assert (event.thread_id, event.agent_id, event.model, event.provider) == ("t", "planner", "gpt-4o-mini", "openai")
    assert (event.prompt_tokens, event.completion_tokens, event.total_tokens) == (1_000, 200, 1_200)
    assert (event.latency_ms, event.metadata) == (321.5, {"org_id": "o", "user_id": "u"})
    assert event.timestamp.endswith("+00:00")
    assert (event.cost_nanousd, event.estimated_cost) == (270_000, 0.00027)
    tracker.unsubscribe(seen.append)
    tracker.unsubscribe(print)
    tracker.record("t", "planner", "gpt-4o-mini", "openai", 1, 1)
    assert len(seen) == 1


def test_calls_are_added_up_in_all_by_agent_and_by_model(tracker):
    # covers X21, X23
    tracker.record("t", "a", "gpt-4o", "openai", 1_000, 100, 10.0)
    tracker.record("t", "a", "gpt-4o-mini", "openai", 2_000, 0, 30.0)
    tracker.record("u", "b", "gpt-4o", "openai", 0, 10, 20.0)
    tracker.record(None, None, "mystery", "", 7, 0, 40.0)
    totals = tracker.get_totals()
    assert totals == {
        "total_tokens": 3_117,
        "prompt_tokens": 3_007,
        "completion_tokens": 110,
        "request_count": 4,
        "total_cost": 0.0039,
        "total_cost_nanousd": 2_500_000 + 1_000_000 + 300_000 + 100_000,
        "avg_latency_ms": 25.0,
        "unpriced_count": 1,
    }
    assert tracker.get_agent_totals("a")["total_tokens"] == 3_100
    assert tracker.get_model_totals("gpt-4o")["completion_tokens"] == 110
    assert {name: one["request_count"] for name, one in tracker.get_all_agent_totals().items()} == {"a": 2, "b": 1}
    assert {name: one["request_count"] for name, one in tracker.get_all_model_totals().items()} == {
        "gpt-4o": 2,
        "gpt-4o-mini": 1,
        "mystery": 1,
    }
    assert tracker.get_agent_totals("nobody")["total_tokens"] == 0
    tracker.reset()
    assert tracker.get_totals()["request_count"] == 0
    tracker.record("t", "a", "gpt-4o", "openai", 5, 0)
    assert tracker.get_agent_totals("a")["total_tokens"] == 5


def test_a_call_that_is_recorded_twice_counts_once(tracker):
    # covers X20
    for _ in range(2):
        tracker.record("t", "a", "gpt-4o", "openai", 100, 0, event_id=f"call-of-{id(tracker)}")
    assert tracker.get_totals()["total_tokens"] == 100


@pytest.mark.parametrize(
    ("model", "nanousd"),
    [
        ("grok-3", 3_000),
        ("Claude-Sonnet-3-5", 3_000),
        ("claude-3-5-sonnet-20241022", 3_000),
        ("o1-2024-12-17", 15_000),
        ("gpt-4o-mini-2024-07-18", 150),
        ("mystery", None),
    ],
)
def test_a_token_has_its_price_and_what_is_not_known_is_not_free(model, nanousd):
    # covers X22
    assert cost_nanousd(PriceBook(), None, model, Tokens(input=1)) == nanousd


def test_a_cost_may_be_said(tracker):
    # covers X19
    event = tracker.record("t", "a", "mystery", "", 1, 1, estimated_cost=0.00000015)
    assert event.cost_nanousd == 150
    assert nanousd_of(1) == 10**9
    for bad in (-1, float("nan"), float("inf"), "1", True, 10**20):
        with pytest.raises(ValueError, match="estimated_cost"):
            tracker.record("t", "a", "mystery", "", 1, 1, estimated_cost=bad)
    with pytest.raises(ValueError, match="tokens"):
        tracker.record("t", "a", "gpt-4o", "openai", -1, 0)
    assert tracker.get_totals()["request_count"] == 1


def test_the_tracker_of_the_process_is_made_once(tmp_path, monkeypatch):
    # covers X20
    monkeypatch.chdir(tmp_path)
    reset_usage_tracker()
    made = get_usage_tracker()
    assert get_usage_tracker() is made
    reset_usage_tracker()
    assert get_usage_tracker() is not made
    reset_usage_tracker()
    made.treasury.close()


def test_threads_of_other_namespaces_are_others(treasury):
    one = ThreadBudgetRegistry(100, place=treasury, namespace="ns-one")
    two = ThreadBudgetRegistry(100, place=treasury, namespace="ns-two")
    one.consume("t", 60, 0)
    assert two.get_budget("t").total_tokens == 0
    assert list(one.get_all_usage()) == ["t"]
    two.cleanup_thread("t")
    for tokens in (0, 1):
        with pytest.raises(ThreadEndedError, match=r"^Thread t\.\.\. has ended: 0 tokens used$"):
            two.check_budget("t", tokens)
