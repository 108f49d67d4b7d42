"""What rules and panels ask Prometheus for."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.deploy.tools import DEPLOY

ALERTS = DEPLOY / "prometheus" / "alerts.yml"
ALERTS_TEST = DEPLOY / "prometheus" / "alerts_test.yml"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "token-economy.json"

METRIC = re.compile(r"\b(?:fiscus|dean)_\w+")
VARIABLES = {"$__rate_interval": "5m", "$job": "token-economy"}


def rules() -> list[dict[str, Any]]:
    """All alerts."""
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels that show something."""
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def interpolated(expression: str) -> str:
    """A panel's expression as Grafana sends it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def expressions() -> dict[str, str]:
    """Where it stands → expression, of all rules and panels."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = interpolated(target["expr"])
    return found


def metrics(expression: str) -> set[str]:
    """The metrics of ours that an expression names."""
    return set(METRIC.findall(re.sub(r'"[^"]*"', '""', expression)))
