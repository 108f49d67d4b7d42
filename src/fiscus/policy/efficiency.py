"""How large a grant is: what is asked, times how much the agent made of its grants so far, within what the pool has.

Values are ratios of value to tokens, exact (``Fraction``); grants are whole tokens, rounded down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import floor

BASE_TOKENS_MAX = 1_000
"""No base is larger than this, whatever is asked."""

HISTORY_LENGTH = 5
"""So many of the latest grants are looked at."""

EFFICIENCY_UNKNOWN = Fraction(1, 2)
"""What an agent without history is taken for, so that it gets exactly its base."""

EFFICIENCY_MAX = Fraction(1)
MULTIPLIER_MIN = Fraction(1, 2)

SHARE_SUFFICIENT = Fraction(1, 10)
"""A grant below this share of what was asked is of no use."""

SHARE_LOW = Fraction(1, 5)
"""Below this share of the allocation the agent is warned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """So many ``tokens`` (≥ 0) may be handed out; ``reduced`` when that is less than what was asked."""

    tokens: int
    multiplier: Fraction
    reduced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolExhausted:
    """The pool has nothing left to hand out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Insufficient:
    """Only ``offered`` tokens could be handed out where at least ``needed`` would be of use."""

    offered: Fraction
    needed: Fraction


def size_grant(
    *, requested: Fraction, historical: Fraction, available_tokens: int
) -> Grant | PoolExhausted | Insufficient:
    """Size a grant; nothing is handed out here.

    Args:
        requested: tokens asked for, > 0; a fraction is allowed, the grant is rounded down.
        historical: from ``historical_efficiency``, 0 … 1.
        available_tokens: what the pool can still hand out; may be negative when it is overdrawn.

    >>> size_grant(requested=Fraction(1000), historical=Fraction("0.35"), available_tokens=100_000)
    Grant(tokens=850, multiplier=Fraction(17, 20), reduced=True)

    Source: requirements D5, D6, D7, D12.
    """
    if available_tokens <= 0:
        return PoolExhausted()
    multiplier = grant_multiplier(historical)
    offered = min(min(requested, Fraction(BASE_TOKENS_MAX)) * multiplier, Fraction(available_tokens))
    needed = requested * SHARE_SUFFICIENT
    if offered < needed:
        return Insufficient(offered=offered, needed=needed)
    tokens = floor(offered)
    return Grant(tokens=tokens, multiplier=multiplier, reduced=tokens < requested)


def grant_multiplier(historical: Fraction) -> Fraction:
    """0.5 for an agent that made nothing of its grants … 1.5 for one that made the most of them (D6, D11)."""
    return MULTIPLIER_MIN + historical


def historical_efficiency(grants: Sequence[Fraction]) -> Fraction:
    """Mean of the latest ``HISTORY_LENGTH`` efficiencies above 0, at most 1; one half without any (D11).

    Args:
        grants: efficiency of each grant, newest first.

    >>> historical_efficiency([Fraction(0), Fraction("0.2"), Fraction("0.4")])
    Fraction(3, 10)
    """
    counted = list(islice((efficiency for efficiency in grants if efficiency > 0), HISTORY_LENGTH))
    if not counted:
        return EFFICIENCY_UNKNOWN
    return min(EFFICIENCY_MAX, sum(counted, start=Fraction(0)) / len(counted))


def efficiency(value: Fraction, consumed_tokens: int) -> Fraction:
    """Value generated per token consumed (D8); 0 while nothing is consumed.

    >>> efficiency(Fraction(5), 100)
    Fraction(1, 20)
    """
    return value / consumed_tokens if consumed_tokens > 0 else Fraction(0)


def is_low(remaining_tokens: int, allocated_tokens: int) -> bool:
    """Whether less than ``SHARE_LOW`` of an allocation is left (D16)."""
    return remaining_tokens < SHARE_LOW * allocated_tokens
