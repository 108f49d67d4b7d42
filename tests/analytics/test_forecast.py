"""Forecasts: exact, honest about what they do not know, and the best of the methods on the past."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.analytics.forecast import METHODS, forecast

WEEKEND = (100, 100, 100, 100, 100, 20, 10)


def series(kind: str, seed: int, days: int = 70) -> list[int]:
    """A working week, growth, or neither; all with noise."""
    chance = random.Random(seed)
    noise = [chance.uniform(0.8, 1.2) for _ in range(days)]
    shape = {
        "week": lambda day: 10_000 * WEEKEND[day % 7],
        "growth": lambda day: 10_000 * (50 + 5 * day),
        "level": lambda day: 1_000_000,
    }[kind]
    return [int(shape(day) * noise[day]) for day in range(days)]


def errors(kind: str, seeds: int = 20) -> dict[str, float]:
    """How far each method, and the choice, is off over the last seven days; in percent of what was used."""
    off = dict.fromkeys((*METHODS, "chosen"), 0.0)
    used = 0
    for seed in range(seeds):
        past, future = series(kind, seed)[:56], series(kind, seed)[56:63]
        used += sum(future)
        for name, method in METHODS.items():
            off[name] += abs(float(sum(method(past, 7))) - sum(future))
        off["chosen"] += abs(forecast(past, 7).total - sum(future))
    return {name: round(100 * wrong / used, 1) for name, wrong in off.items()}


# covers R10
@pytest.mark.parametrize("kind", ["week", "growth", "level"])
def test_the_method_that_the_past_chooses_is_near_the_best(kind):
    found = errors(kind, seeds=8)
    assert found["chosen"] <= 1.5 * min(found[name] for name in METHODS) + 1, found
    assert found["chosen"] < 12


def test_growth_is_seen():
    assert forecast([10 * day for day in range(60)], 7).method == "line"
    found = forecast([10 * day for day in range(60)], 2)
    assert (found.days, found.total, found.low, found.high) == ((600, 610), 1_210, 1_210, 1_210)


def test_a_working_week_is_seen():
    found = forecast(list(WEEKEND) * 8, 9)
    assert (found.method, found.days) == ("weekday", (*WEEKEND, 100, 100))
    assert forecast([*(list(WEEKEND) * 8), 100, 100], 5).days == (100, 100, 100, 20, 10)


def test_too_little_is_said():
    found = forecast([5] * 17, 7)
    assert (found.method, found.total, found.reason) == (
        None, None, "18 whole days are needed for 7 days ahead; there are 17",
    )  # fmt: skip
    assert forecast([5] * 18, 7).total == 35
    assert forecast([], 1).method is None


# covers R10
def test_the_interval_holds_about_nine_of_ten():
    held = 0
    for seed in range(40):
        past, future = series("level", seed)[:56], sum(series("level", seed)[56:63])
        found = forecast(past, 7)
        held += found.low <= future <= found.high
    assert held >= 30


@settings(deadline=None, max_examples=40)
@given(past=st.lists(st.integers(0, 2**53), max_size=70), horizon=st.integers(1, 30))
def test_whatever_was_used_a_forecast_is_whole_and_not_negative(past, horizon):
    found = forecast(past, horizon)
    if found.method is None:
        assert found.reason
        return
    assert len(found.days) == horizon
    assert all(isinstance(day, int) and day >= 0 for day in found.days)
    assert 0 <= found.low <= found.total <= found.high
    assert min(one.error for one in found.backtests) == next(
        one.error for one in found.backtests if one.method == found.method
    )
