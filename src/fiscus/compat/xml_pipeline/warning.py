"""What an agent is told when the budget of its thread runs low."""

from __future__ import annotations

from dataclasses import dataclass

from fiscus.compat.xml_pipeline.budget import BudgetThresholdCrossed, Severity
from fiscus.gateway.notes import TEXTS

SENDER = "system.budget"
RECEIVER_DEFAULT = "system"


@dataclass(frozen=True)
class BudgetWarning:
    """The payload of a warning; its texts are those of the gateway's notes.

    >>> crossed = BudgetThresholdCrossed(75, "warning", 76.5, 76_500, 23_500, 100_000)
    >>> BudgetWarning.of(crossed).message
    'Note: 76.5% of token budget used. 23,500 tokens remaining.'
    """

    percent_used: float
    tokens_used: int
    tokens_remaining: int
    max_tokens: int
    severity: Severity
    message: str

    @classmethod
    def of(cls, crossed: BudgetThresholdCrossed) -> BudgetWarning:
        """The warning for a threshold."""
        return cls(
            percent_used=crossed.percent_used,
            tokens_used=crossed.tokens_used,
            tokens_remaining=crossed.tokens_remaining,
            max_tokens=crossed.max_tokens,
            severity=crossed.severity,
            message=TEXTS[crossed.severity].format(
                percent=f"{crossed.percent_used:g}", kind="token", left=f"{crossed.tokens_remaining:,} tokens"
            ),
        )
