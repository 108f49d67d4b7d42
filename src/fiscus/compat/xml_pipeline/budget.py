"""The budget of one thread, and its thresholds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["warning", "critical", "final"]

THRESHOLDS: Mapping[int, Severity] = {75: "warning", 90: "critical", 95: "final"}
"""Percent of the budget → what is said of it."""

MAX_TOKENS_DEFAULT = 100_000


@dataclass(frozen=True)
class BudgetThresholdCrossed:
    """A threshold that was just reached; ``percent_used`` is rounded to a tenth."""

    threshold_percent: int
    severity: Severity
    percent_used: float
    tokens_used: int
    tokens_remaining: int
    max_tokens: int


@dataclass
class ThreadBudget:
    """What a thread may use, and has used.

    One that a registry gives shows the ledger as it was then, and what it ``consume``\\ s is booked there.

    >>> budget = ThreadBudget(max_tokens=100)
    >>> budget.consume(60, 32)
    >>> [crossed.severity for crossed in budget.check_thresholds()], budget.check_thresholds()
    (['warning', 'critical'], [])
    """

    max_tokens: int = MAX_TOKENS_DEFAULT
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_count: int = 0
    triggered_thresholds: set[int] = field(default_factory=set)

    @property
    def total_tokens(self) -> int:
        """What was used in all."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def remaining(self) -> int:
        """What is left, at least 0."""
        return max(0, self.max_tokens - self.total_tokens)

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing is left."""
        return self.total_tokens >= self.max_tokens

    @property
    def percent_used(self) -> float:
        """0.0 without a limit."""
        return self.total_tokens * 100 / self.max_tokens if self.max_tokens > 0 else 0.0

    def can_consume(self, estimate: int) -> bool:
        """Whether so much more fits."""
        return self.total_tokens + estimate <= self.max_tokens

    def consume(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the use of one request.

        Raises:
            ValueError: a count is no integer ≥ 0.
        """
        checked_counts(prompt_tokens, completion_tokens)
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.request_count += 1

    def check_thresholds(self, thresholds: Mapping[int, Severity] | None = None) -> list[BudgetThresholdCrossed]:
        """Thresholds that were reached and not told before, in ascending order; each is told once."""
        crossed = []
        for percent, severity in sorted((THRESHOLDS if thresholds is None else thresholds).items()):
            if self.max_tokens <= 0 or self.total_tokens * 100 < percent * self.max_tokens:
                break
            if percent in self.triggered_thresholds:
                continue
            self.triggered_thresholds.add(percent)
            crossed.append(
                BudgetThresholdCrossed(
                    threshold_percent=percent,
                    severity=severity,
                    percent_used=round(self.percent_used, 1),
                    tokens_used=self.total_tokens,
                    tokens_remaining=self.remaining,
                    max_tokens=self.max_tokens,
                )
            )
        return crossed

    def as_dict(self) -> dict[str, int]:
        """Its figures by name."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "remaining": self.remaining,
            "max_tokens": self.max_tokens,
            "request_count": self.request_count,
        }


def checked_counts(*counts: object) -> None:
    """Refuse what is no number of tokens."""
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"tokens must be integers >= 0, not {count!r:.50}")
