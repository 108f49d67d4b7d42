"""Accounts that only count, by budgets that observe and whose limit is never reached: exact and durable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fiscus.contract import AMOUNT_MAX, AccountAnswer, PutBudget, TemplateBudget, Unit

COUNTERS: Mapping[Unit, str] = {
    "tokens": "counted-tokens",
    "input_tokens": "counted-prompt",
    "output_tokens": "counted-completion",
    "calls": "counted-requests",
    "cost": "counted-cost",
}
"""Unit → the budget that counts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What an account has used; ``cost_nanousd`` is that of the calls whose price is known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_count: int = 0
    cost_nanousd: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    def since(self, before: Counted) -> Counted:
        """What was added after ``before``."""
        return Counted(
            prompt_tokens=self.prompt_tokens - before.prompt_tokens,
            completion_tokens=self.completion_tokens - before.completion_tokens,
            request_count=self.request_count - before.request_count,
            cost_nanousd=self.cost_nanousd - before.cost_nanousd,
        )


def counters_of_template() -> tuple[TemplateBudget, ...]:
    """The counters of accounts that a template opens."""
    return tuple(
        TemplateBudget(unit=unit, budget=name, limit=AMOUNT_MAX, mode="observe", thresholds={})
        for unit, name in COUNTERS.items()
    )


def counters_for(account: str) -> tuple[PutBudget, ...]:
    """The counters of an account that is opened by name."""
    return tuple(
        PutBudget(account=account, unit=unit, budget=name, limit=AMOUNT_MAX, mode="observe", thresholds={})
        for unit, name in COUNTERS.items()
    )


def counted_in(read: AccountAnswer) -> Counted:
    """What the counters of an account say.

    Raises:
        KeyError: it has none.
    """
    spent = {
        budget.budget: budget.balance.spent + budget.balance.quarantined
        for budget in read.budgets
        if budget.balance is not None
    }
    return Counted(
        prompt_tokens=spent[COUNTERS["input_tokens"]],
        completion_tokens=spent[COUNTERS["output_tokens"]],
        request_count=spent[COUNTERS["calls"]],
        cost_nanousd=spent[COUNTERS["cost"]],
    )
