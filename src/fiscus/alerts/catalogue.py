"""All names of alerts, what the originals call them, and how severe each is; docs/reference/events.md shows them."""

from __future__ import annotations

import msgspec

from fiscus.core.commands import Severity


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of alert.

    Attributes:
        severity: unless what happened says otherwise.
        source: the kind of entry of the journal; empty: derived.
        signal: as the token manager's agents call it (R16, R18, R20).
        token: as it was called later (R21).
        rule: as Prometheus rules call it (D66).
    """

    severity: Severity
    source: str = ""
    signal: str = ""
    token: str = ""
    rule: str = ""

    @property
    def aliases(self) -> tuple[str, ...]:
        """All other names."""
        return tuple(name for name in (self.signal, self.token, self.rule) if name)


def _budget(severity: Severity, source: str, signal: str) -> Fact:
    name = signal.removeprefix("budget_")
    return Fact(severity=severity, source=source, signal=signal, token=f"token.budget.{name}")


def _pricing(source: str) -> Fact:
    return Fact(severity="info", source=source, signal="pricing_updated", token="token.pricing.updated")  # noqa: S106


def _analytics(rule: str) -> Fact:
    return Fact(severity="warning", signal="analytics_alert", token="token.analytics.alert", rule=rule)  # noqa: S106


CATALOGUE: dict[str, Fact] = {
    # From entries of the journal
    "threshold_crossed": _budget("info", "threshold_crossed", "budget_alert"),
    "budget_warned": _budget("warning", "held.warned", "budget_check_failed"),
    "budget_created": _budget("info", "budget_put", "budget_created"),
    "budget_changed": _budget("info", "budget_put", "budget_updated"),
    "budget_removed": Fact(severity="info", source="budget_removed"),
    "window_opened": _budget("info", "window_opened", "budget_reset"),
    "status_changed": Fact(severity="info", source="status_changed"),
    "adjusted": Fact(severity="info", source="adjusted"),
    "adjustment_ended": Fact(severity="info", source="adjustment_ended"),
    "override_requested": _budget("warning", "override_requested", "budget_override_request"),
    "override_approved": _budget("info", "override_approved", "budget_override_granted"),
    "override_denied": Fact(severity="info", source="override_denied"),
    "override_expired": Fact(severity="info", source="override_expired"),
    "override_withdrawn": Fact(severity="info", source="override_withdrawn"),
    "override_revoked": Fact(severity="info", source="override_revoked"),
    "gate_closed": Fact(severity="info", source="gate_closed"),
    "transferred": Fact(severity="info", source="transferred"),
    "lent": Fact(severity="info", source="lent"),
    "loan_ended": Fact(severity="info", source="loan_ended"),
    "price_put": _pricing("price_put"),
    "price_removed": _pricing("price_removed"),
    # Derived
    "overdrawn": Fact(severity="critical"),
    "budget_nearly_gone": Fact(severity="critical", rule="DEANTokenBudgetExhausted"),
    "budget_near_exhaustion": Fact(severity="warning", rule="BudgetNearExhaustion"),
    "high_token_consumption": _analytics("HighTokenConsumption"),
    "low_efficiency": Fact(severity="warning", rule="LowEfficiency"),
    "tool_use_high": Fact(severity="warning"),
    "tool_overhead_high": Fact(severity="warning"),
    "agent_share_high": Fact(severity="warning"),
    "tool_spike": _analytics(""),
    "ledger_unready": Fact(severity="critical"),
    "entries_missed": Fact(severity="critical"),
    "test": Fact(severity="info"),
}

ALIASES: dict[str, tuple[str, ...]] = {}
"""Other name → the names that it stands for."""
for _name, _fact in CATALOGUE.items():
    for _alias in _fact.aliases:
        ALIASES[_alias] = (*ALIASES.get(_alias, ()), _name)

SOURCES: tuple[str, ...] = tuple(sorted({fact.source for fact in CATALOGUE.values() if fact.source}))
"""Kinds of entries that are read; ``held.warned``: those of the kind ``held`` that have the field ``warned``."""


def names_of(kind: str) -> tuple[str, ...]:
    """The names that a name or alias stands for; none: nobody knows it.

    >>> names_of("token.budget.alert"), names_of("overdrawn"), names_of("nonsense")
    (('threshold_crossed',), ('overdrawn',), ())
    """
    return (kind,) if kind in CATALOGUE else ALIASES.get(kind, ())
