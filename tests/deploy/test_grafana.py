"""The dashboard and what provisions it."""

import json

import pytest
import yaml

from tests.deploy import compose, queries
from tests.deploy.tools import DEPLOY, PROMTOOL, needs_promtool, run

GRAFANA = DEPLOY / "grafana"
GRID_COLUMNS = 24
TITLES = {
    "Use of the budget",
    "Burn rate per minute",
    "Projection: tokens left in an hour",
    "Allocation size",
    "Return per 1,000 tokens",
    "Cost by hour",
}


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(queries.DASHBOARD.read_text(encoding="utf-8"))


def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard):
    taken: dict[tuple[int, int], str] = {}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID_COLUMNS
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_every_panel_asks_the_chosen_data_source(dashboard):
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in queries.panels():
        assert panel["datasource"] == source, panel["title"]
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert target["expr"]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 39


def test_the_panels_that_deployments_know_are_there():
    # covers D66
    panels = {panel["title"]: panel for panel in queries.panels()}
    assert panels.keys() >= TITLES
    steps = panels["Use of the budget"]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None, 0.7, 0.9]
    asked = {title: " ".join(target["expr"] for target in panels[title]["targets"]) for title in TITLES}
    assert asked["Burn rate per minute"].startswith("60 * ")
    assert "[1h], 3600)" in asked["Projection: tokens left in an hour"]
    assert "histogram_quantile(0.95, " in asked["Allocation size"]
    assert asked["Return per 1,000 tokens"].startswith("1000 * ")


@needs_promtool
def test_prometheus_parses_every_expression_of_rules_and_panels(tmp_path):
    # covers D66
    rules = [
        {"record": f"parsed:{number}", "expr": expression}
        for number, expression in enumerate(queries.expressions().values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    done = run(PROMTOOL, "check", "rules", file)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout
    file.write_text(file.read_text(encoding="utf-8").replace("rate(", "rate((", 1), encoding="utf-8")
    assert run(PROMTOOL, "check", "rules", file).returncode != 0


def test_what_each_node_shows_of_the_whole_ledger_is_never_summed_over_nodes():
    for place, expression in queries.expressions().items():
        flat = expression.replace(" ", "")
        assert "sum(rate(dean_" not in flat, place
        assert "sum(dean_" not in flat, place


def test_the_data_source_and_the_dashboard_are_provisioned_where_compose_mounts_them():
    # covers D66
    services = compose.project(**compose.secrets())["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/fiscus.yml").read_text(encoding="utf-8"))
    path = provider["providers"][0]["options"]["path"]
    assert mounts["./deploy/grafana/dashboards"] == path
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/{queries.DASHBOARD.name}"
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["type"] == "prometheus"
    name, _, port = source["datasources"][0]["url"].removeprefix("http://").partition(":")
    assert services[name]["ports"][0].endswith(f":{port}")
