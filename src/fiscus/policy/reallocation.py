"""Who gives budget to an account that is short of it: from the least important and most idle, never uphill.

Pure: it says what should move and why. Moving is a command of its own (``Transfer``), which the ledger decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal["more_important", "at_its_reserve", "owes", "borrowed", "not_needed"]
"""Why an account gives nothing: it has a higher priority; all it has left is its reserve; it owes the one that is
short; what it could give it has borrowed itself; others gave enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """An account with an allocation that may give or get, in one unit.

    Attributes:
        account: its name.
        priority: ≥ 1; budget never moves from a higher to a lower one.
        allocation: what it was allocated.
        available: what is free of that; negative when it is overdrawn.
        min_reserve: what it keeps when others ask.
        borrowed: what of its allocation is lent to it and has not gone back; only a more important account gets this.
        lenders: those that it owes.
    """

    account: str
    priority: int
    allocation: int
    available: int
    min_reserve: int = 0
    borrowed: int = 0
    lenders: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """``amount`` ≥ 1 from ``donor``, which has ``left`` afterwards, its ``min_reserve`` at least."""

    donor: str
    amount: int
    priority: int
    left: int
    min_reserve: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """An account that gives nothing, and why."""

    account: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Reallocation:
    """What should move to the one that is short, in this order, and who gives nothing."""

    moves: tuple[Move, ...]
    passed_over: tuple[PassedOver, ...]

    @property
    def recovered(self) -> int:
        """The sum of all moves: 0 … the shortfall."""
        return sum(move.amount for move in self.moves)


def reallocate(seats: Iterable[Seat], *, needy: str, shortfall: int) -> Reallocation:
    """Cover a shortfall from those that can spare something, as far as they can.

    Donors are asked by priority (lowest first), then by what they have left (most first), then in the order given. Each
    gives ``min(spare, still needed)``, with ``spare = available − min_reserve``; an equal gives nothing to one
    that it owes, nor what it has borrowed: so budget goes back and forth between equals only as loans that end.

    Args:
        seats: all that have an allocation here, the needy one among them.
        needy: who is short.
        shortfall: by how much; 0 or less: nothing moves.

    Raises:
        KeyError: there is no seat for ``needy``.

    >>> seats = [Seat(account=name, priority=priority, allocation=100, available=left, min_reserve=10)
    ...          for name, priority, left in [("a", 2, 0), ("b", 1, 40), ("c", 1, 90), ("d", 3, 100)]]
    >>> [(move.donor, move.amount) for move in reallocate(seats, needy="a", shortfall=100).moves]
    [('c', 80), ('b', 20)]

    Source: requirements T7–T11; known fault 9 of T.
    """
    found = {seat.account: seat for seat in seats}
    target = found[needy]
    still_needed = max(0, shortfall)
    moves: list[Move] = []
    passed_over: list[PassedOver] = []
    for donor in in_order(list(found.values())):
        if donor.account == needy:
            continue
        reason = refusal(donor, target)
        if reason is None and still_needed == 0:
            reason = "not_needed"
        if reason is not None:
            passed_over.append(PassedOver(account=donor.account, reason=reason))
            continue
        amount = min(spare(donor, target), still_needed)
        still_needed -= amount
        moves.append(
            Move(
                donor=donor.account,
                amount=amount,
                priority=donor.priority,
                left=donor.available - amount,
                min_reserve=donor.min_reserve,
            )
        )
    return Reallocation(moves=tuple(moves), passed_over=tuple(passed_over))


def in_order(seats: Sequence[Seat]) -> list[Seat]:
    """Lowest priority first, most idle first (T9)."""
    return sorted(seats, key=lambda seat: (seat.priority, -seat.available))


def spare(donor: Seat, needy: Seat) -> int:
    """What a donor can give: what it has left above its reserve, and to an equal not what it has borrowed (T7)."""
    free = donor.available - donor.min_reserve
    return max(0, free - donor.borrowed if donor.priority == needy.priority else free)


def refusal(donor: Seat, needy: Seat) -> Reason | None:
    """Why a donor gives nothing to this one; None: it can (T7, T8)."""
    if donor.priority > needy.priority:
        return "more_important"
    if donor.priority == needy.priority and needy.account in donor.lenders:
        return "owes"
    if donor.available <= donor.min_reserve:
        return "at_its_reserve"
    return "borrowed" if spare(donor, needy) == 0 else None
