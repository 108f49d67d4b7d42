"""Breakdowns: which part of the whole each value of a dimension has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from fiscus.contract.analysis import Breakdown, Share, Totals

SHARES_MAX = 50


def total_of(parts: Iterable[Totals]) -> Totals:
    """All together."""
    return sum(parts, start=Totals())


def average(amount: int, calls: int) -> int:
    """Per call, rounded down; 0 without calls."""
    return amount // calls if calls else 0


def percent(part: int, whole: int) -> float:
    """Rounded to two decimals, exactly; 0 of nothing.

    >>> percent(1, 3), percent(5, 0)
    (33.33, 0.0)
    """
    return float(round(Fraction(100 * part, whole), 2)) if whole else 0.0


def share(name: str | None, totals: Totals, whole: Totals) -> Share:
    """One part of the whole: by cost, or by tokens where nothing costs."""
    by_cost = whole.cost_nanousd > 0
    return Share(
        name=name,
        totals=totals,
        average_tokens=average(totals.tokens, totals.calls),
        average_cost_nanousd=average(totals.cost_nanousd, totals.calls),
        percent=percent(totals.cost_nanousd, whole.cost_nanousd) if by_cost else percent(totals.tokens, whole.tokens),
    )


def breakdown(by: str, parts: Mapping[str | None, Totals], whole: Totals, shares_max: int = SHARES_MAX) -> Breakdown:
    """The parts, the dearest first."""
    ordered = sorted(parts.items(), key=lambda part: (-part[1].cost_nanousd, -part[1].tokens, part[0] or ""))
    shown = tuple(share(name, totals, whole) for name, totals in ordered[:shares_max])
    return Breakdown(by=by, shares=shown, left_out=max(0, len(ordered) - shares_max))
