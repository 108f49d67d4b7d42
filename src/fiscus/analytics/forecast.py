"""What the next days will use: three simple methods, the one that did best on the past, and how far that was off.

Everything is exact: fractions until the last step. See docs/decisions for how the methods compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import msgspec

from fiscus.analytics.shares import percent
from fiscus.contract.analysis import BackTest

WEEK = 7
CASES_MIN = 5
"""Forecasts of the past that it takes to say how good a method is."""

COVERED = Fraction(9, 10)
"""Share of the past forecasts that the interval would have held."""

Method = Callable[[Sequence[int], int], list[Fraction]]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """See ``contract.analysis.ForecastView``."""

    method: str | None
    days: tuple[int, ...] = ()
    total: int | None = None
    low: int | None = None
    high: int | None = None
    backtests: tuple[BackTest, ...] = ()
    reason: str | None = None


def mean(past: Sequence[int], horizon: int) -> list[Fraction]:
    """Every day is as the last week was on average.

    >>> mean([100, 7, 7, 7, 7, 7, 7, 14], 2)
    [Fraction(8, 1), Fraction(8, 1)]
    """
    last = past[-WEEK:]
    return [Fraction(sum(last), len(last))] * horizon


def weekday(past: Sequence[int], horizon: int) -> list[Fraction]:
    """Every day is as the same days of the week were on average in the last four weeks."""
    days = []
    for ahead in range(horizon):
        same = [past[index] for index in range(len(past) - WEEK + ahead % WEEK, -1, -WEEK)][:4]
        days.append(Fraction(sum(same), len(same)) if same else mean(past, 1)[0])
    return days


def line(past: Sequence[int], horizon: int) -> list[Fraction]:
    """The straight line of least squares through the last four weeks, never below 0.

    >>> line([1, 2, 3, 4], 2)
    [Fraction(5, 1), Fraction(6, 1)]
    """
    last = past[-4 * WEEK :]
    count = len(last)
    middle, centre = Fraction(count - 1, 2), Fraction(sum(last), count)
    spread = sum((index - middle) ** 2 for index in range(count))
    slope = sum(((index - middle) * amount for index, amount in enumerate(last)), start=Fraction(0))
    rise = slope / spread if spread else Fraction(0)
    return [max(Fraction(0), centre + rise * (count + ahead - middle)) for ahead in range(horizon)]


METHODS: dict[str, Method] = {"mean": mean, "weekday": weekday, "line": line}
"""Of two that did equally well the one that stands first."""


def forecast(past: Sequence[int], horizon: int) -> Forecast:
    """The next ``horizon`` days by the method that did best on the past.

    Args:
        past: what each whole day used, the oldest first.
        horizon: days ahead, ≥ 1.
    """
    errors = {name: _errors(method, past, horizon) for name, method in METHODS.items()}
    cases = len(errors["mean"])
    if cases < CASES_MIN:
        needed = WEEK + horizon + CASES_MIN - 1
        return Forecast(
            method=None, reason=f"{needed} whole days are needed for {horizon} days ahead; there are {len(past)}"
        )
    used = sum(sum(past[end : end + horizon]) for end in _ends(past, horizon))
    backtests = tuple(
        BackTest(
            method=name,
            cases=cases,
            error=round(Fraction(sum(map(abs, wrong))) / cases),
            percent=percent(round(sum(map(abs, wrong))), used) if used else None,
        )
        for name, wrong in errors.items()
    )
    best = min(METHODS, key=lambda name: sum(map(abs, errors[name])))
    days = METHODS[best](past, horizon)
    total = sum(days, start=Fraction(0))
    margin = sorted(map(abs, errors[best]))[min(cases - 1, int(COVERED * cases))]
    return Forecast(
        method=best,
        days=tuple(round(day) for day in days),
        total=round(total),
        low=max(0, round(total - margin)),
        high=round(total + margin),
        backtests=backtests,
    )


def _ends(past: Sequence[int], horizon: int) -> range:
    """Where the past could have ended: a week before it at least, the horizon after it."""
    return range(WEEK, len(past) - horizon + 1)


def _errors(method: Method, past: Sequence[int], horizon: int) -> list[Fraction]:
    """How far each forecast of the past was above what came."""
    return [
        sum(method(past[:end], horizon), start=Fraction(0)) - sum(past[end : end + horizon])
        for end in _ends(past, horizon)
    ]
