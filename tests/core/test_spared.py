"""Budgets in mode ``warn`` and ``observe`` admit, and count what enforcement would have refused (R30, R32)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.contract.queries import ReadSpared
from fiscus.core.commands import Reserve
from fiscus.core.events import Held
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.treasury.reading import read_view
from tests.core.builders import DAY, Ledger, folded, rows


def seen(ledger: Ledger, account: str = "root") -> dict[str, tuple[int, int]]:
    view = read_view(ledger.draft, 0, ReadSpared(account=account), ledger.now)
    return {one.budget: (one.calls, one.amount) for one in view.budgets}


@pytest.mark.parametrize("mode", ["warn", "observe"])
def test_what_would_have_been_refused_is_admitted_and_counted_by_budget_and_window(ledger, mode):
    # covers R17
    ledger.account("root")
    ledger.budget("root", 100, mode=mode, period="day", budget="daily")
    ledger.budget("root", 1_000, budget="firm")
    ledger.reserve("a", "root", 80)
    answer = ledger.reserve("b", "root", 50)
    assert answer.warnings == (("root/daily",) if mode == "warn" else ())
    ledger.reserve("c", "root", 10)
    assert seen(ledger) == {"daily": (2, 30 + 10)}
    ledger.wait(DAY)
    assert seen(ledger) == {"daily": (0, 0)}, "the next window begins with none"
    assert rows(folded(ledger.journal, ledger.rules)) == rows(ledger.draft)


def test_a_budget_that_enforces_is_no_part_of_it_and_budgets_for_some_calls_are(ledger):
    ledger.account("root")
    ledger.budget("root", 10, budget="firm")
    ledger.budget("root", 1, "calls", mode="observe", budget="dear", match={"model": "dear"})
    ledger.reserve("a", "root", {"tokens": 1}, attributes={"model": "dear"})
    ledger.reserve("b", "root", {"tokens": 1}, attributes={"model": "dear"})
    ledger.reserve("c", "root", {"tokens": 1})
    assert seen(ledger) == {"dear": (1, 1)}


def test_nodes_of_format_1_are_not_given_counts(ledger):
    ledger.account("root")
    ledger.budget("root", 1, mode="observe")
    ledger.draft.format = 1
    ledger.reserve("a", "root", 5)
    assert [event.spared for event in ledger.last if isinstance(event, Held)] == [{}]


# covers R17, R30
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=15))
def test_observing_counts_exactly_the_calls_that_the_limit_would_have_to_refuse(limit, calls):
    """Nothing is refused, so every call that begins with too little room counts, whatever ran before it."""
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", limit, mode="observe")
    used = expected = amount = 0
    for number, (tokens, kept) in enumerate(calls):
        lacking = tokens - max(0, limit - used)
        expected += lacking > 0
        amount += max(0, lacking)
        ledger.reserve(f"h{number}", "root", tokens)
        ledger.settle(f"h{number}", tokens if kept else 0)
        used += tokens if kept else 0
    assert seen(ledger) == {"tokens-lifetime": (expected, amount)}


# covers R33
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 50), st.lists(st.integers(1, 50), max_size=12))
def test_known_fault_r3_what_the_check_admits_is_never_refused_at_the_end_and_exact_use_is_allowed(limit, calls):
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", limit)
    used = 0
    for number, tokens in enumerate(calls):
        outcome = ledger.reserve(
            f"h{number}", "root", tokens, refused="budget_exceeded" if used + tokens > limit else None
        )
        if isinstance(outcome, Refused):
            assert used + tokens > limit
            continue
        settled = ledger.settle(f"h{number}", tokens)
        used += tokens
        assert (settled.uncovered, ledger.cell("root").uncovered) == ({}, 0)
    assert used <= limit


# covers R4
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 100), st.integers(1, 40), st.integers(1, 30))
def test_known_fault_r4_so_many_approvals_in_a_row_are_given_as_fit_together(limit, tokens, asked):
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", limit)
    outcomes = [ledger.decide(reserve_of(f"h{number}", tokens)) for number in range(asked)]
    assert sum(isinstance(outcome, HoldAnswer) for outcome in outcomes) == min(asked, limit // tokens)


def reserve_of(id: str, tokens: int):
    return Reserve(id=id, account="root", amounts={"tokens": tokens})
