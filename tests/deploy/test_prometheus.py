"""What Prometheus is configured to scrape, and the alerts."""

import pytest
import yaml

from tests.deploy import compose, queries
from tests.deploy.tools import PROMTOOL, needs_promtool, run

OURS = {"DEANTokenBudgetExhausted", "HighTokenConsumption", "LowEfficiency", "BudgetNearExhaustion"}


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", queries.CONFIG),
        ("check", "rules", queries.ALERTS),
        ("test", "rules", queries.ALERTS_TEST),
    ],
    ids=lambda command: " ".join(map(str, command[:2])),
)
def test_promtool_takes_the_configuration_and_runs_the_tests_of_the_alerts(command):
    # covers D66
    done = run(PROMTOOL, *command, cwd=queries.ALERTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@needs_promtool
@pytest.mark.parametrize(
    ("alert", "before", "after"),
    [
        ("DEANTokenBudgetExhausted", "> 0.9\n", "> 0.95\n"),
        ("HighTokenConsumption", "max by (namespace, job, agent_id)", "sum by (namespace, job, agent_id)"),
        ("LowEfficiency", "< 0.5", "< 0.3"),
    ],
)
def test_the_tests_of_an_alert_find_a_wrong_rule(tmp_path, alert, before, after):
    rules = queries.ALERTS.read_text(encoding="utf-8")
    assert before in rules
    tests = yaml.safe_load(queries.ALERTS_TEST.read_text(encoding="utf-8"))
    tests["tests"] = [
        test for test in tests["tests"] if any(case["alertname"] == alert for case in test.get("alert_rule_test", []))
    ]
    (tmp_path / "alerts_test.yml").write_text(yaml.safe_dump(tests), encoding="utf-8")
    codes = []
    for text in (rules, rules.replace(before, after, 1)):
        (tmp_path / "alerts.yml").write_text(text, encoding="utf-8")
        codes.append(run(PROMTOOL, "test", "rules", "alerts_test.yml", cwd=tmp_path).returncode)
    assert codes[0] == 0, "without the fault"
    assert codes[1] != 0


def test_every_alert_is_seen_to_fire_and_to_stay_silent():
    tests = yaml.safe_load(queries.ALERTS_TEST.read_text(encoding="utf-8"))["tests"]
    fires, silent = set(), set()
    for case in (case for test in tests for case in test.get("alert_rule_test", [])):
        (fires if case["exp_alerts"] else silent).add(case["alertname"])
    names = {rule["alert"] for rule in queries.rules()}
    assert fires == names
    assert silent == names


def test_the_alerts_that_deployments_know_are_there_with_their_thresholds():
    # covers D66
    rules = {rule["alert"]: rule for rule in queries.rules()}
    assert rules.keys() >= OURS
    assert rules["DEANTokenBudgetExhausted"]["expr"].endswith("> 0.9")
    assert rules["DEANTokenBudgetExhausted"]["for"] == "10m"
    assert "[5m]" in rules["HighTokenConsumption"]["expr"]
    assert rules["HighTokenConsumption"]["expr"].endswith("> 1000")
    assert rules["LowEfficiency"]["expr"].endswith("< 0.5")
    assert rules["LowEfficiency"]["for"] == "30m"


def test_every_alert_says_how_bad_it_is_and_what_it_means():
    names = [rule["alert"] for rule in queries.rules()]
    assert len(names) == len(set(names))
    for rule in queries.rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_every_node_of_the_compose_file_is_scraped_by_the_job_of_d50():
    # covers D50
    config = yaml.safe_load(queries.CONFIG.read_text(encoding="utf-8"))
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "token-economy")
    assert job["scrape_interval"] == "5s"
    services = compose.project(**compose.secrets())["services"]
    nodes = {name for name, service in services.items() if service.get("build") and service.get("ports")}
    assert set(job["static_configs"][0]["targets"]) == {f"{name}:8091" for name in nodes}
    assert "/etc/prometheus/prometheus.yml" in " ".join(services["prometheus"]["volumes"])
    assert config["rule_files"] == ["alerts.yml"]
