"""What the documentation says of alerts is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from fiscus.alerts.catalogue import CATALOGUE, SOURCES, names_of
from fiscus.alerts.options import read_options
from fiscus.alerts.rules import Rules
from fiscus.alerts.wording import TITLES
from fiscus.core.events import AnyEvent
from tests.alerts.rig import SECRET

DOCS = Path(__file__).parents[2] / "docs"
EVENTS = (DOCS / "reference" / "events.md").read_text()
GUIDE = (DOCS / "guides" / "alerts.md").read_text()


# covers R16, R18, R21, D66, N22
def test_every_alert_is_listed_with_its_aliases_and_severity():
    told = EVENTS[: EVENTS.index("## What is no alert")]
    rows = {
        name: row
        for row in told.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert set(rows) == set(CATALOGUE)
    for name, fact in CATALOGUE.items():
        for alias in fact.aliases:
            assert alias == name or f"`{alias}`" in rows[name], (name, alias)
        assert fact.severity in rows[name]


def test_every_name_of_the_originals_is_an_alert_or_is_said_to_be_none():
    names = """usage_tracked budget_approved budget_denied budget_created budget_updated report_generated
        pricing_updated
        metrics_updated budget_check_passed budget_check_failed budget_override_granted budget_reset budget_alert
        token.usage.tracked token.usage.flush token.budget.created token.budget.updated token.budget.approved
        token.budget.denied token.budget.check_passed token.budget.check_failed token.budget.override_granted
        token.pricing.updated token.report.generated token.metrics.updated
        token.budget.reset token.budget.alert token.analytics.alert DEANTokenBudgetExhausted HighTokenConsumption
        LowEfficiency BudgetNearExhaustion token_persistence_success token_persistence_failure"""
    for name in names.split():
        assert f"`{name}`" in EVENTS
        assert names_of(name) or f"`{name}`" in EVENTS[EVENTS.index("## What is no alert") :]


def test_every_alert_has_a_title_and_every_source_is_a_kind_of_entry():
    assert set(TITLES) == set(CATALOGUE)
    kinds = {kind.__struct_config__.tag for kind in AnyEvent.__args__}
    assert {source.partition(".")[0] for source in SOURCES} <= kinds


def test_the_file_and_the_figures_of_the_guide_are_right():
    file, rules = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    secrets = {"ALERTS_EMAIL": "mailto://127.0.0.1", "OPS_SECRET": SECRET}
    assert len(read_options(file.encode(), "alerts.toml", secrets.__getitem__).active) == 2
    assert read_options(rules.encode(), "alerts.toml", str).rules.high_token_consumption.limit == 5_000
    rows = {
        row.split("`")[1]: [cell.strip() for cell in row.split("|")]
        for row in GUIDE.splitlines()
        if row.startswith("| `")
    }
    for name in msgspec.structs.fields(Rules):
        rule = getattr(Rules(), name.name)
        assert name.name in rows
        if rule.limit:
            assert rows[name.name][2].replace(",", "") == f"{rule.limit:g}"
            assert rows[name.name][3] == str(rule.minutes)
