"""How usage changes: halves against each other, and days that stand out."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import Literal

from fiscus.analytics.shares import percent
from fiscus.contract.analysis import Anomaly, Change, Measure, Totals, TrendPoint

STEADY_PERCENT = 20
"""A change up to this is none (R46)."""

SPIKE_TIMES: dict[Measure, int] = {"cost": 5, "tokens": 5, "calls": 5}
"""How many times the usual a point is to be an anomaly (R39)."""

SPIKE_POINTS_MIN = 3
"""Other points with usage that it takes to know what is usual."""

MEASURES: tuple[Measure, ...] = ("cost", "tokens", "calls")


def amount_of(totals: Totals, measure: Measure) -> int:
    """What is measured, of sums."""
    return totals.cost_nanousd if measure == "cost" else totals.tokens if measure == "tokens" else totals.calls


def changes(points: Sequence[TrendPoint]) -> tuple[Change, ...]:
    """The second half against the first, for each measure; of an odd number the first point is left out."""
    half = len(points) // 2
    first, second = points[len(points) % 2 : len(points) % 2 + half], points[len(points) - half :]
    return tuple(_change(measure, first, second) for measure in MEASURES) if half else ()


def _change(measure: Measure, first: Sequence[TrendPoint], second: Sequence[TrendPoint]) -> Change:
    before = sum(amount_of(point.totals, measure) for point in first)
    after = sum(amount_of(point.totals, measure) for point in second)
    rise = after - before
    direction: Literal["rising", "falling", "steady"] = "steady"
    if 100 * abs(rise) > STEADY_PERCENT * before:
        direction = "rising" if rise > 0 else "falling"
    changed = percent(rise, before) if before else None
    return Change(measure=measure, first=before, second=after, percent=changed, direction=direction)


def anomalies(points: Sequence[TrendPoint]) -> tuple[Anomaly, ...]:
    """Points with more than ``SPIKE_TIMES`` the median of the other points that have usage."""
    found: list[Anomaly] = []
    for measure in MEASURES:
        amounts = [amount_of(point.totals, measure) for point in points]
        used = sorted(amount for amount in amounts if amount)
        for point, amount in zip(points, amounts, strict=True):
            if not amount or len(used) <= SPIKE_POINTS_MIN:
                continue
            others = used.copy()
            others.remove(amount)
            usual = median_low(others)
            if amount > SPIKE_TIMES[measure] * usual:
                found.append(Anomaly(at=point.at, measure=measure, amount=amount, usual=usual))
    return tuple(found)
