"""What the model knows of overrides and confidence gates: plain lists, and every bound worked out when it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fiscus.core import commands

if TYPE_CHECKING:  # a part of it
    from tests.model.model import Account, Budget, Model

ROLES = {"boss": "admin", "asker": "operator", "other": "operator", "looker": "viewer"}
"""The keys that there are, and their roles; none is bound to an account."""
PENDING_MAX = 16


@dataclass
class Override:
    """``granted``: it became an adjustment with its id."""

    id: str
    account: str
    budget: int
    window: int
    asked: int
    by: str
    closes_at: int
    body: commands.RequestOverride
    state: str = "pending"
    amount: int = 0


def policy_of(budget: Budget) -> commands.OverridePolicy:
    return budget.override if budget.override is not None else commands.OverridePolicy()


def override_state(model: Model, override: Override) -> str:
    """What was granted has ended with its adjustment."""
    if override.state == "approved" and not model.adjustments[override.id].active:
        return "ended"
    return override.state


def room_for_overrides(model: Model, override_window: int, percent: int) -> int:
    """A share of the base limit, less what active overrides add already."""
    active = [
        model.adjustments[one.id].amount
        for one in model.overrides.values()
        if one.window == override_window and override_state(model, one) == "approved"
    ]
    return int(model.cells[override_window].base * percent // 100) - sum(active)


def expire_requests(model: Model, instant: int) -> None:
    for override in model.overrides.values():
        if override.state == "pending" and override.closes_at <= instant:
            override.state = "expired"


def request_refusal(model: Model, command: commands.RequestOverride, actor: str) -> str | None:
    """Why an override cannot be asked for, or None."""
    for account in model.chain(command.account):
        if account.status in ("terminated", "closed"):
            return f"account_{account.status}"
    budget = model._find_budget(command.account, command.budget)
    if budget is None:
        return "unknown_budget"
    policy = policy_of(budget)
    until = milliseconds(command)
    if until is not None and until <= model.now:
        return "invalid"
    lasts_s = command.valid_s or 0
    if lasts_s > policy.max_duration_s or (until or 0) - model.now > policy.max_duration_s * 1000:
        return "beyond_policy"
    if sum(one.state == "pending" and one.budget == budget.number for one in model.overrides.values()) >= PENDING_MAX:
        return "too_many_overrides"
    bound = model.cells[budget.window].base * policy.max_percent // 100
    if not policy.requires_approval:
        bound = room_for_overrides(model, budget.window, policy.max_percent)
    return "beyond_policy" if command.amount > bound else None


def milliseconds(command: Any) -> int | None:
    return None if command.valid_until is None else round(command.valid_until.timestamp() * 1000)


def decision_refusal(model: Model, override: Override, actor: str) -> str | None:
    """Who decides is a known key, not the one that asked, and of a role that the policy names now."""
    policy = policy_of(model.budgets[override.budget])
    may = (
        actor in ROLES and actor != override.by and (ROLES[actor] in policy.approvers or actor in policy.approver_keys)
    )
    return None if may else "forbidden"


def ends_at(model: Model, override: Override) -> int:
    policy, command = policy_of(model.budgets[override.budget]), override.body
    ends = [model.now + policy.max_duration_s * 1000]
    if command.valid_s is not None:
        ends.append(model.now + command.valid_s * 1000)
    until = milliseconds(command)
    return min([*ends, until] if until is not None else ends)


# -- gates -------------------------------------------------------------------------------------------------------------


def is_gated(account: Account, attributes: dict[str, str], now: int) -> bool:
    return account.closed.get(attributes.get("task", ""), 0) > now


def close_gate(account: Account, task: str, confidence: float | None, now: int) -> None:
    """Once a confidence has reached the threshold, until the time that is set, or for ever."""
    if account.threshold is None or confidence is None or account.status in ("terminated", "closed"):
        return
    if confidence >= account.threshold:
        account.closed[task] = 2**62 if account.gate_s is None else now + account.gate_s * 1000


def task_of(command: commands.Settle) -> str:
    """Of usage without a hold."""
    provenance = command.record.provenance if command.record is not None else None
    said = command.attributes.get("task", "")
    if said or provenance is None:
        return said
    return provenance.task_name or provenance.task_type or ""
