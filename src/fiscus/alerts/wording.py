"""The sentences of alerts, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

NANO = 1_000_000_000
Data = Mapping[str, Any]


def amount_text(amount: Any, unit: Any) -> str:
    """An amount as people read it.

    >>> amount_text(12_500_000_000, "cost"), amount_text(4000, "tokens"), amount_text(3, None)
    ('$12.50', '4,000 tokens', '3')
    """
    if not isinstance(amount, int):
        return "?"
    if unit == "cost":
        return f"${Decimal(amount) / NANO:,.2f}"
    return f"{amount:,} {str(unit).replace('_', ' ')}" if unit else f"{amount:,}"


def _of(data: Data, field: str) -> str:
    return amount_text(data.get(field), data.get("unit"))


def _budget(data: Data) -> str:
    return f"budget {data['budget']}" if data.get("budget") else "a budget"


def _per_cent(part: Any, whole: Any) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "?"


TITLES: dict[str, Callable[[Data], str]] = {
    "threshold_crossed": lambda data: (
        f"{data.get('percent')} % of {_budget(data)} used ({_of(data, 'used')} of {_of(data, 'limit')})"
    ),
    "budget_warned": lambda data: f"a call went through that {_budget(data)} would refuse if it were enforced",
    "budget_created": lambda data: f"{_budget(data)} of {_of(data, 'limit')} per {data.get('period')} was made",
    "budget_changed": lambda data: f"{_budget(data)} was changed: {_of(data, 'limit')} per {data.get('period')}",
    "budget_removed": lambda data: f"{_budget(data)} was removed",
    "window_opened": lambda data: f"a new window of {_budget(data)} began",
    "status_changed": lambda data: f"is {data.get('status')} now",
    "adjusted": lambda data: f"the limit of {_budget(data)} was changed by {_of(data, 'amount')}",
    "adjustment_ended": lambda data: f"a change of the limit of {_budget(data)} has ended",
    "override_requested": lambda data: (
        f"{_of(data, 'amount')} more is asked for in {_budget(data)} ({_of(data, 'used')} of {_of(data, 'limit')} used)"
    ),
    "override_approved": lambda data: f"{_of(data, 'amount')} more was approved in {_budget(data)}",
    "override_denied": lambda data: f"more was denied in {_budget(data)}",
    "override_expired": lambda data: f"nobody decided on the request for more in {_budget(data)}",
    "override_withdrawn": lambda data: f"the request for more in {_budget(data)} was withdrawn",
    "override_revoked": lambda data: f"what had been approved in {_budget(data)} was taken back",
    "gate_closed": lambda _: "a task is done with enough confidence; calls of it are refused",
    "transferred": lambda data: f"{_of(data, 'amount')} went from {data.get('source')} to {data.get('target')}",
    "lent": lambda data: f"{_of(data, 'amount')} was lent to it",
    "loan_ended": lambda data: f"a loan has ended; {_of(data, 'amount')} went back",
    "price_put": lambda data: f"price {data.get('price')} of {data.get('model')} was stated",
    "price_removed": lambda data: f"price {data.get('price')} was removed",
    "overdrawn": lambda data: f"{_budget(data)} is overdrawn by {_of(data, 'overdrawn')}",
    "budget_nearly_gone": lambda data: f"only {_of(data, 'available')} of {_budget(data)} is left, for some time now",
    "budget_near_exhaustion": lambda data: (
        f"{_budget(data)} will be gone in {data.get('exhausted_in_s', 0) // 60} minutes at the present rate"
    ),
    "high_token_consumption": lambda data: (
        f"{data.get('tokens_per_s'):,} tokens a second over {data.get('minutes')} minutes"
    ),
    "low_efficiency": lambda data: f"value per token is {data.get('efficiency')} over {data.get('minutes')} minutes",
    "tool_use_high": lambda data: f"{_per_cent(data['with_tools'], data['requests'])} of requests use tools",
    "tool_overhead_high": lambda data: f"{_per_cent(data['tool_tokens'], data['tokens'])} of tokens are tools' own",
    "agent_share_high": lambda data: f"uses {_per_cent(data['agent_tokens'], data['tokens'])} of all tokens",
    "tool_spike": lambda data: (
        f"tool {data.get('tool')} was used {data.get('uses'):,} times in {data.get('minutes')} minutes, not "
        f"{data.get('usual'):,}"
    ),
    "ledger_unready": lambda data: f"calls are not admitted: {', '.join(data.get('reasons', ()))}",
    "entries_missed": lambda data: (
        f"entries {data.get('first_seq'):,} to {data.get('last_seq'):,} were archived before they were read for alerts"
    ),
    "test": lambda _: "this is a test of the channel",
}


def title_of(name: str, account: str | None, data: Data) -> str:
    """One line: whom it concerns, and what has happened."""
    return f"{account or 'Fiscus'}: {TITLES[name](data)}"
