"""Periods, breakdowns, trends, advice and how reports are written."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from fiscus.analytics.periods import bounds
from fiscus.analytics.recommendations import recommendations, repeats
from fiscus.analytics.rendering import to_csv, to_markdown
from fiscus.analytics.shares import breakdown, percent, share
from fiscus.analytics.trends import anomalies, changes
from fiscus.contract.analysis import ReportView, Totals, TrendPoint

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def points(*costs: int) -> list[TrendPoint]:
    return [
        TrendPoint(at=DAY + timedelta(days=index), totals=Totals(calls=1 if cost else 0, cost_nanousd=cost))
        for index, cost in enumerate(costs)
    ]


# covers R9
@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("today", "2024-03-31", "2024-04-01"),
        ("yesterday", "2024-03-30", "2024-03-31"),
        ("last_7_days", "2024-03-25", "2024-04-01"),
        ("last_30_days", "2024-03-02", "2024-04-01"),
        ("this_month", "2024-03-01", "2024-04-01"),
        ("last_month", "2024-02-01", "2024-03-01"),
    ],
)
def test_periods_are_half_open_and_whole_days(period, begin, end):
    """Known fault 18: the last second of a day belongs to it."""
    found = bounds(period, datetime(2024, 3, 31, 23, 59, 59, 999_000, tzinfo=UTC))
    assert [time.date().isoformat() for time in found] == [begin, end]
    assert bounds(period, datetime(2024, 3, 31, tzinfo=UTC)) == found


def test_the_last_month_of_january_is_in_the_year_before():
    assert bounds("last_month", datetime(2026, 1, 15, tzinfo=UTC))[0] == datetime(2025, 12, 1, tzinfo=UTC)
    assert bounds("this_month", datetime(2025, 12, 15, tzinfo=UTC))[1] == datetime(2026, 1, 1, tzinfo=UTC)


# covers R9
def test_parts_are_sorted_by_value_and_shares_of_any_fraction_are_exact():
    """Known faults 2 and 12: a third of nine dollars, and 0.20 is dearer than 0.0015."""
    parts = {"a": Totals(calls=1, cost_nanousd=200_000_000), "b": Totals(calls=1, cost_nanousd=1_500_000)}
    whole = parts["a"] + parts["b"]
    assert [one.name for one in breakdown("model", parts, whole).shares] == ["a", "b"]
    assert percent(3, 9) == 33.33
    assert share("a", Totals(calls=3, tokens=10), Totals(tokens=30)).percent == 33.33
    cut = breakdown("model", {str(number): Totals(tokens=number) for number in range(5)}, Totals(tokens=10), 2)
    assert ([one.name for one in cut.shares], cut.left_out) == (["4", "3"], 3)


# covers R10
def test_changes_and_what_stands_out():
    cost = changes(points(10, 10, 10, 10))[0]
    assert (cost.direction, cost.percent) == ("steady", 0.0)
    assert changes(points(10, 10, 12, 12))[0].direction == "steady"
    assert changes(points(10, 10, 12, 13))[0].direction == "rising"
    assert changes(points(999, 10, 5))[0].first == 10
    assert changes(points(0, 5))[0].percent is None
    assert changes(points(7)) == ()
    (found,) = [one for one in anomalies(points(10, 0, 11, 10, 60, 9)) if one.measure == "cost"]
    assert (found.at, found.amount, found.usual) == (DAY + timedelta(days=4), 60, 10)
    assert anomalies(points(10, 60, 10)) == (), "three days do not say what is usual"
    assert [one.amount for one in anomalies(points(10, 10, 10, 10, 50))] == []


# covers R11
def test_advice_follows_from_figures_only():
    none = {"task_models": {}, "templates": {}, "outcomes": {}, "models": {}, "repeated": ()}
    assert recommendations(**none) == ()
    short = {
        "dear": Totals(calls=5, tokens=500, cost_nanousd=900),
        "cheap": Totals(calls=10, tokens=1_000, cost_nanousd=100),
    }
    models = {("plan", name): totals for name, totals in short.items()}
    (found,) = recommendations(**none | {"task_models": models})
    assert (found.kind, found.saving_nanousd) == ("cheaper_model", 900 - 50)
    few = {("plan", "dear"): short["dear"], ("plan", "cheap"): Totals(calls=9, tokens=900, cost_nanousd=90)}
    assert recommendations(**none | {"task_models": few}) == (), "nine calls do not show that it can do it"
    other = {("plan", "dear"): short["dear"], ("code", "cheap"): short["cheap"]}
    assert recommendations(**none | {"task_models": other}) == ()
    long = {("plan", "dear"): Totals(calls=1, tokens=501, cost_nanousd=900), ("plan", "cheap"): short["cheap"]}
    assert recommendations(**none | {"task_models": long}) == ()
    again = repeats({"x": Totals(calls=3, cost_nanousd=10), "y": Totals(calls=1), None: Totals(calls=9)})
    assert [(one.input_hash, one.wasted_nanousd) for one in again] == [("x", 6)]
    kinds = recommendations(
        task_models={("plan", "m"): Totals(calls=1, tokens=9_000, cost_nanousd=1_000_000_001)},
        templates={"t": Totals(calls=1, input_tokens=1_001), "u": Totals(calls=1, input_tokens=1_000)},
        outcomes={"success": Totals(calls=8), "error": Totals(calls=1, cost_nanousd=5), None: Totals(calls=99)},
        models={"m": Totals(calls=1, unpriced_calls=1)},
        repeated=again,
    )
    assert {(one.kind, one.subject) for one in kinds} == {
        ("expensive_task", "plan"), ("shorten_prompt", "t"), ("failed_calls", "outcome"), ("cache_repeats", "x"),
        ("price_missing", "m"),
    }  # fmt: skip
    assert [one.saving_nanousd or 0 for one in kinds] == sorted(
        (one.saving_nanousd or 0 for one in kinds), reverse=True
    )


# covers R9
def test_names_cannot_break_out_of_what_is_written():
    evil = '=cmd|"x"\n| **b** <img>'
    whole = Totals(calls=3, tokens=9, cost_nanousd=1_500_000_001, unpriced_calls=1)
    report = ReportView(
        as_of_seq=7, kind="usage", since=DAY, until=DAY + timedelta(days=1), totals=whole, average_tokens=3,
        average_cost_nanousd=500_000_000, breakdowns=(breakdown("user_id", {evil: whole}, whole),),
        days=(share("2026-03-01", whole, whole),), hours_of_day=(), anomalies=(), recommendations=(),
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(to_csv(report), newline="")))
    assert [row["section"] for row in rows] == ["total", "user_id", "day"]
    assert {row["cost_nanousd"] for row in rows} == {"1500000001"}
    assert rows[1]["name"] == f"'{evil}"
    text = to_markdown(report)
    assert "$1.500000001" in text
    assert "The cost of 1 calls is not known" in text
    line = next(line for line in text.splitlines() if "cmd" in line)
    assert line.startswith("| =cmd\\|")
    assert "\\<img\\>" in line
    assert line.endswith("| 100.0 |")
