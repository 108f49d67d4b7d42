"""How efficient an agent is taken for when its next grant is sized: two strategies, each with its reasons.

``classic`` is the formula of the token economy service, exactly (``policy.efficiency``). ``proven`` cures its fault 9:
there an unknown name is worth more than a productive agent, and whoever reports a huge value is worth the most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from fiscus.core.commands import GrantStrategy
from fiscus.policy.efficiency import BASE_TOKENS_MAX, HISTORY_LENGTH, efficiency, historical_efficiency

SMOOTHING = Fraction(7, 10)
"""Weight of a grant against the one after it: an average with α = 0.3 (D57, D60)."""

EFFICIENCY_CAP = 4
"""No grant counts for more than so many times the middle of the others, however much its value is said to be."""

IDLE_FREE_H = 1
IDLE_HOURS_MAX = 400
DECAY_PER_H = Fraction(19, 20)
"""An agent that is idle for more than an hour is trusted 5 % less for each hour (D57)."""

PROVEN_TOKENS = BASE_TOKENS_MAX
"""Tokens used after which an agent is fully trusted: as much as the largest base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One grant that is over, or runs: its value by the agent's own measure, and the tokens that were used."""

    value: Fraction
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What an agent made of its grants.

    Attributes:
        grants: the latest ones, newest first; the running one is the first.
        consumed_tokens: over all grants.
        idle_h: whole hours since something was last booked.
    """

    grants: Sequence[Past] = ()
    consumed_tokens: int = 0
    idle_h: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the formula puts in for the history (0 … 1), and the terms that it comes from."""

    historical: Fraction
    terms: dict[str, float]


def standing(strategy: GrantStrategy, history: History, middle: Fraction | None) -> Standing:
    """What an agent is taken for.

    Args:
        strategy: which one.
        history: of the agent, or of the one that it inherits from (D18).
        middle: ``middle_of`` the other agents; None: there are none to compare it with.

    >>> standing("classic", History(), None).historical
    Fraction(1, 2)
    >>> standing("proven", History(), None).historical
    Fraction(0, 1)
    """
    if strategy == "classic":
        past = [efficiency(one.value, one.tokens) for one in history.grants]
        historical = historical_efficiency(past)
        return Standing(historical=historical, terms={"historical_efficiency": float(historical)})
    return _proven(history, middle)


def _proven(history: History, middle: Fraction | None) -> Standing:
    """Trust × score: how much was shown, how long ago, and how well it compares with the others.

    Nobody is worth less than an unknown name (0), so that a new name never gains anything; more value never lowers it.
    """
    smoothed = smoothed_efficiency(history.grants, middle)
    score = smoothed / (smoothed + middle) if middle else Fraction(1 if smoothed > 0 else 0, 2)
    evidence = Fraction(min(history.consumed_tokens, PROVEN_TOKENS), PROVEN_TOKENS)
    freshness = decay(history.idle_h)
    historical = (score * evidence * freshness).limit_denominator(10**9)
    return Standing(
        historical=min(Fraction(1), historical),
        terms={
            "smoothed_efficiency": float(smoothed),
            "middle_of_others": float(middle) if middle is not None else 0.0,
            "score": float(score),
            "evidence": float(evidence),
            "freshness": float(freshness),
        },
    )


def smoothed_efficiency(grants: Sequence[Past], middle: Fraction | None) -> Fraction:
    """Value per token of the latest grants, newer ones more, each at most ``EFFICIENCY_CAP`` times the middle.

    Weighted by tokens: a report of a single token says as little as it cost.
    """
    value = tokens = Fraction(0)
    weight = Fraction(1)
    for one in grants[:HISTORY_LENGTH]:
        cap = middle * EFFICIENCY_CAP * one.tokens if middle is not None else one.value
        value += weight * max(Fraction(0), min(one.value, cap))
        tokens += weight * one.tokens
        weight *= SMOOTHING
    return value / tokens if tokens else Fraction(0)


def decay(idle_h: int) -> Fraction:
    """What is left of the trust in an agent after so many whole hours without use.

    >>> decay(1), float(round(decay(2), 2))
    (Fraction(1, 1), 0.95)
    """
    hours = min(max(0, idle_h - IDLE_FREE_H), IDLE_HOURS_MAX)
    return (DECAY_PER_H**hours).limit_denominator(10**9)


def middle_of(others: Iterable[tuple[Fraction, int]]) -> Fraction | None:
    """The median of (efficiency, tokens used), by tokens: who used nothing, or made nothing of it, moves it not at all.

    >>> middle_of([(Fraction(1), 10), (Fraction(9), 1), (Fraction(2), 5)])
    Fraction(1, 1)
    """
    ranked = sorted((worth, tokens) for worth, tokens in others if tokens > 0 and worth > 0)
    if not ranked:
        return None
    sums = list(accumulate(tokens for _, tokens in ranked))
    return ranked[min(bisect_right(sums, (sums[-1] - 1) // 2), len(ranked) - 1)][0]
