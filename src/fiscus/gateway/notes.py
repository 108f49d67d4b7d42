"""Notes to an agent that a budget of its runs low, at the end of the request that it makes next.

They stand behind everything that the caller has sent, so that the cache of the prompt still hits, and are a part
of the request before it is counted: what they cost is held like the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from fiscus.contract.chains import charged
from fiscus.core.commands import Severity
from fiscus.core.outcomes import AccountAnswer, Balance
from fiscus.core.units import Unit, dollars
from fiscus.gateway.remaining import limits

TEXTS: Mapping[Severity, str] = {
    "warning": "Note: {percent}% of {kind} budget used. {left} remaining.",
    "critical": "WARNING: {percent}% of {kind} budget used. {left} remaining. "
    "Consider wrapping up your current task soon.",
    "final": "CRITICAL: {percent}% of {kind} budget used. Only {left} remaining. "
    "Wrap up immediately or your next request may fail.",
}
"""Severity of a threshold → what an agent is told, the gravest last; other severities are not for agents."""

KINDS: Mapping[Unit, tuple[str, str]] = {
    "tokens": ("token", "tokens"),
    "input_tokens": ("input token", "input tokens"),
    "output_tokens": ("output token", "output tokens"),
    "calls": ("call", "calls"),
    "cost": ("cost", ""),
}
LINES_MAX = 4
"""Of more budgets an agent is told only of those that are nearest to their end."""

TOLD_MAX = 100_000

Window = tuple[str, str, str, datetime]
"""A payer, account and budget that bind it, and the beginning of the window."""


class Told(msgspec.Struct, frozen=True):
    """The highest threshold in percent that a payer was told of, and the limit that it was a part of."""

    percent: int
    limit: int


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is told.

    Attributes:
        text: one line for each budget.
        severity: the gravest.
        before: what it had been told of each window before.
    """

    text: str
    severity: Severity
    before: tuple[tuple[Window, Told | None], ...]


class Notes:
    """What each payer was told, so that it is told once for each threshold and window. Forgets the oldest."""

    def __init__(self) -> None:
        self._told: OrderedDict[Window, Told] = OrderedDict()

    def due(self, chain: Sequence[AccountAnswer], attributes: Mapping[str, str]) -> Note | None:
        """What the payer has not been told yet, which counts as told from now on; None: nothing."""
        if not chain:
            return None
        payer = chain[0].account
        crossed: list[tuple[int, Severity, Balance]] = []
        before: list[tuple[Window, Told | None]] = []
        for budget in charged(chain):
            balance = budget.balance
            if balance is None or not limits(budget, attributes):
                continue
            window = (payer, balance.account, balance.budget, balance.window_start)
            known = self._told.get(window)
            percent, severity = reached(budget.thresholds, balance)
            told = 0 if known is None else known.percent
            if known is not None and balance.limit > known.limit:
                told = min(told, percent)  # a limit that was raised arms what lies above
                self._told[window] = Told(told, balance.limit)
            if severity is not None and percent > told:
                crossed.append((percent, severity, balance))
                before.append((window, known))
                self._tell(window, Told(percent, balance.limit))
        if not crossed:
            return None
        crossed.sort(key=lambda one: (list(TEXTS).index(one[1]), one[0]))
        return Note(
            text="\n".join(line(severity, balance, payer) for _, severity, balance in crossed[-LINES_MAX:]),
            severity=crossed[-1][1],
            before=tuple(before),
        )

    def give_back(self, note: Note) -> None:
        """The payer has not been told after all: its call was refused, or failed."""
        for window, known in note.before:
            if known is None:
                self._told.pop(window, None)
            else:
                self._told[window] = known

    def _tell(self, window: Window, told: Told) -> None:
        self._told[window] = told
        self._told.move_to_end(window)
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)


def reached(thresholds: Mapping[int, Severity], balance: Balance) -> tuple[int, Severity | None]:
    """The highest threshold for agents that the use of a window has reached; (0, None): none."""
    used = used_of(balance)
    passed: Iterable[int] = (
        percent
        for percent, severity in thresholds.items()
        if severity in TEXTS and balance.limit > 0 and used * 100 >= percent * balance.limit
    )
    highest = max(passed, default=0)
    return highest, thresholds.get(highest)


def used_of(balance: Balance) -> int:
    """What thresholds look at: without what calls in flight hold."""
    return balance.covered + balance.quarantined + balance.uncovered


def line(severity: Severity, balance: Balance, payer: str) -> str:
    """What is said of one budget; of whom it is, where that is not the payer itself."""
    used = used_of(balance)
    kind, plural = KINDS[balance.unit]
    left = max(0, balance.limit - used)
    text = TEXTS[severity].format(
        percent=(used * 200 + balance.limit) // (balance.limit * 2),
        kind=kind,
        left=dollars(left) if balance.unit == "cost" else f"{left:,} {plural}",
    )
    return text if balance.account == payer else f"{text} This is the budget of {balance.account}."
