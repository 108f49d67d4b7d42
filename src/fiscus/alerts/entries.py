"""From an entry of the journal to an alert."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, cast

import msgspec

from fiscus.alerts.catalogue import CATALOGUE
from fiscus.alerts.rules import Finding
from fiscus.alerts.wording import title_of
from fiscus.contract.alerts import Alert, Delivery
from fiscus.contract.queries import Entry
from fiscus.core.commands import Severity
from fiscus.core.outcomes import AccountAnswer, BudgetView

STATUS_SEVERITY: dict[str, Severity] = {"suspended": "warning", "terminated": "critical"}
ACCOUNTS = ("account", "parent", "source", "target")
LEFT_OUT = frozenset(
    (
        *(*ACCOUNTS, "private", "budget", "cell", "cells", "sizes", "attributes_check", "task", "opened", "warned"),
        *("terms", "order"),
    )
)
"""Fields whose numbers and keyed hashes mean nothing outside of the ledger, or that hold what can be erased."""

encode_alert = msgspec.json.Encoder().encode
decode_alert = msgspec.json.Decoder(Alert).decode


def name_of(entry: Entry) -> str | None:
    """The alert that an entry is; None: none."""
    if entry.kind == "held":
        return "budget_warned" if entry.data.get("warned") else None
    if entry.kind == "budget_put":
        return "budget_created" if entry.data["version"] == 1 else "budget_changed"
    if entry.kind == "window_opened" and entry.data.get("previous") is None:
        return None  # the budget was just made
    return entry.kind if entry.kind in CATALOGUE else None


def severity_of(name: str, entry: Entry) -> Severity:
    """How severe it is: as the entry says, else as the catalogue does."""
    if name == "threshold_crossed":
        return cast("Severity", entry.data["severity"])
    if name == "status_changed":
        return STATUS_SEVERITY.get(entry.data["status"], "info")
    return CATALOGUE[name].severity


def account_of(entry: Entry) -> str | None:
    """The name of the account that an entry concerns; None: of no account, or of one whose name was erased."""
    number = entry.data.get("account", entry.data.get("target"))
    return entry.names.get(str(number))


def entry_alert(
    entry: Entry, name: str, tenant: str, budget: BudgetView | None, warnings: tuple[str, ...] = ()
) -> Alert:
    """An entry as an alert.

    Args:
        entry: the fact.
        name: see ``name_of``.
        tenant: whose journal it is.
        budget: the budget that it is about, as it is now, where that could be read.
        warnings: budgets that would have refused a hold.
    """
    data: dict[str, Any] = {field: value for field, value in entry.data.items() if field not in LEFT_OUT}
    data |= entry.data.get("terms", {})  # of a price: start, end, rates, fees, tiers
    for field in ("parts", "returned"):
        if field in data or (name, field) == ("loan_ended", "returned"):
            data["amount"] = sum(amount for _, amount in data.pop(field, ()))
    for field in ("source", "target"):
        if field in entry.data:
            data[field] = entry.names.get(str(entry.data[field]))
    if budget is not None:
        data = {"budget": budget.budget, "unit": budget.unit, "limit": budget.limit, "period": budget.period, **data}
        data["mode"] = budget.mode
        if budget.balance is not None:
            data["window_end"] = budget.balance.window_end
    elif "name" in data:
        data["budget"] = data["name"]
    data.pop("name", None)
    if warnings:
        data["budget"] = ", ".join(warnings)
    return _alert(
        key=f"{entry.seq} {entry.hash}",
        name=name,
        severity=severity_of(name, entry),
        at=entry.at,
        tenant=tenant,
        seq=entry.seq,
        account=account_of(entry),
        data=data,
    )


def finding_alert(finding: Finding, tenant: str, at: datetime, seq: int, *, key: str) -> Alert:
    """What was derived as an alert; ``key`` tells it from the last one of its kind."""
    return _alert(
        key=key,
        name=finding.name,
        severity=CATALOGUE[finding.name].severity,
        at=at,
        tenant=tenant,
        seq=seq,
        account=finding.account,
        data=finding.data,
    )


def _alert(
    *,
    key: str,
    name: str,
    severity: Severity,
    at: datetime,
    tenant: str,
    seq: int,
    account: str | None,
    data: dict[str, Any],
) -> Alert:
    return Alert(
        id=_id("alert", tenant, name, key),
        name=name,
        aliases=CATALOGUE[name].aliases,
        severity=severity,
        at=at,
        tenant=tenant,
        seq=seq,
        account=account,
        title=title_of(name, account, data),
        data=data,
    )


def delivery_of(alert: Alert, channel: str, account: int | None, now_ms: int) -> Delivery:
    """An alert for a channel; the same two always give the same id."""
    return Delivery(
        id=_id("msg", alert.id, channel),
        channel=channel,
        account=account,
        body=encode_alert(alert),
        made_at=now_ms,
        due_at=now_ms,
    )


def _id(prefix: str, *parts: str) -> str:
    return f"{prefix}_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"


def budget_of(account: AccountAnswer, number: object) -> BudgetView | None:
    """The budget of an account by its number in the journal."""
    return next((budget for budget in account.budgets if budget.number == number), None)
