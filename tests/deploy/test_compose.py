"""docker-compose.token_economy.yml: by the specification's own schema, by a second parser, and by what it must say."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from fiscus.alerts.options import read_options as read_alerts
from fiscus.gateway.options import read_options
from fiscus.settings import FIXED_NAMES, PREFIX, Settings
from tests.alerts.rig import SECRET
from tests.deploy import compose, dockerfile
from tests.deploy.tools import ROOT, ask, needs_deploy_tools

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "compose-spec.json").read_text(encoding="utf-8"))
NODES = ("fiscus-1", "fiscus-2")
PROVIDER_KEYS = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"}
"""Which the gateway's file names; no settings of the service."""

ALERT_VARIABLES = {"ALERTS_EMAIL", "ALERTS_URL", "ALERTS_SECRET"}
"""Which the file of the alerts names; likewise."""

PARSER = """
import json, sys, compose_spec
project = compose_spec.PyCompose.from_json(sys.stdin.read())
project.validate()
print(json.dumps(project.service_names()))
"""


@pytest.fixture(scope="module")
def project():
    return compose.project(**compose.secrets())


def faults(project) -> list[str]:
    return [
        f"{'/'.join(map(str, fault.absolute_path))}: {fault.message}"
        for fault in jsonschema.Draft7Validator(SCHEMA).iter_errors(project)
    ]


@pytest.mark.parametrize("state", ["as it is written", "interpolated"])
def test_the_file_is_what_the_compose_specification_allows(project, state):
    # covers D54
    assert faults(project if state == "interpolated" else compose.raw()) == []


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("fiscus-1", {"restarts": "always"}),
        ("redis", {"ports": [True]}),
        ("postgres", {"depends_on": {"migrate": {"condition": "service_done"}}}),
    ],
)
def test_the_schema_finds_what_is_wrong(service, change):
    broken = compose.project(**compose.secrets())
    broken["services"][service] |= change
    assert faults(broken)


@needs_deploy_tools
def test_a_second_parser_takes_it(project):
    assert sorted(ask(PARSER, project)) == sorted(project["services"])


def test_no_secret_has_a_default():
    # covers D53
    assert compose.required() == {
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "GRAFANA_PASSWORD",
        "FISCUS_BOOTSTRAP_KEY",
        "FISCUS_KEY_PEPPER",
    }
    for name in compose.required():
        for given in ({}, {name: ""}):
            with pytest.raises(compose.Missing, match=f"{name}: write {name} into .env"):
                compose.project(**{key: value for key, value in compose.secrets().items() if key != name}, **given)


def test_the_example_of_env_names_every_variable_and_no_secret():
    text = compose.EXAMPLE.read_text(encoding="utf-8")
    used = {match["name"] for match in compose.VARIABLE.finditer(compose.FILE.read_text(encoding="utf-8"))} - {None}
    named = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))
    assert used - named <= {"FISCUS_IMAGE", "FISCUS_LOG_LEVEL"}
    assert named <= used
    assert {name: value for name, value in compose.example().items() if value} == {"GLOBAL_TOKEN_BUDGET": "100000"}
    assert re.search(r"^/?\.env$", (ROOT / ".gitignore").read_text(encoding="utf-8"), re.MULTILINE)


def test_two_nodes_wait_for_one_migration(project):
    services = project["services"]
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["restart"] == "no"
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in NODES:
        waits = {other: how["condition"] for other, how in services[name]["depends_on"].items()}
        assert waits["migrate"] == "service_completed_successfully"
        assert waits["redis"] == "service_started"  # live state is optional: a node does not wait for its health
        assert "token-economy" in services[name]["networks"]["default"]["aliases"]


def test_nodes_have_volumes_of_their_own_and_share_all_settings(project):
    first, second = (project["services"][name] for name in NODES)
    assert first["volumes"] != second["volumes"]
    assert all(volume.endswith(":/var/lib/fiscus") for volume in first["volumes"] + second["volumes"])
    assert first["environment"] == second["environment"]
    assert {"FISCUS_KEY_PEPPER", "FISCUS_BOOTSTRAP_KEY", "DATABASE_URL"} <= first["environment"].keys()


def test_nodes_are_gateways_where_its_file_is_named(project):
    given = compose.project(**compose.secrets(), GATEWAY_FILE="./mine.toml")
    (mounted,) = [one for one in given["services"]["fiscus-1"]["configs"] if one["source"] == "gateway"]
    for started, path, file in (
        (project, "", "./deploy/gateway.toml.example"),
        (given, mounted["target"], "./mine.toml"),
    ):
        assert started["services"]["fiscus-1"]["environment"]["FISCUS_GATEWAY_PATH"] == path
        assert started["configs"][mounted["source"]] == {"file": file}
    example = read_options((ROOT / "deploy" / "gateway.toml.example").read_bytes(), "gateway.toml.example")
    assert {upstream.api_key_variable for upstream in example.upstreams} == PROVIDER_KEYS
    assert project["services"]["fiscus-1"]["environment"].keys() >= PROVIDER_KEYS
    assert {upstream.family for upstream in example.upstreams} == {"openai", "anthropic", "gemini"}


def test_nodes_tell_outside_where_the_file_of_the_alerts_is_named(project):
    given = compose.project(**compose.secrets(), ALERTS_FILE="./mine.toml")
    (mounted,) = [one for one in given["services"]["fiscus-1"]["configs"] if one["source"] == "alerts"]
    for started, path, file in (
        (project, "", "./deploy/alerts.toml.example"),
        (given, mounted["target"], "./mine.toml"),
    ):
        assert started["services"]["fiscus-1"]["environment"]["FISCUS_ALERTS_PATH"] == path
        assert started["configs"][mounted["source"]] == {"file": file}
    asked = []
    values = {"ALERTS_EMAIL": "mailto://127.0.0.1", "ALERTS_URL": "https://example.org", "ALERTS_SECRET": SECRET}

    def secret_of(variable: str) -> str:
        asked.append(variable)
        return values[variable]

    read_alerts((ROOT / "deploy" / "alerts.toml.example").read_bytes(), "alerts.toml.example", secret_of)
    assert set(asked) == ALERT_VARIABLES
    assert project["services"]["fiscus-1"]["environment"].keys() >= ALERT_VARIABLES


@pytest.mark.parametrize("name", ["migrate", *NODES])
def test_the_service_runs_on_a_read_only_root_without_rights(project, name):
    service = project["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert "user" not in service  # the image's own, which is no name and not root
    assert "privileged" not in service


def test_health_checks_and_limits_are_those_that_deployments_know(project):
    # covers D54
    times = {"interval": "30s", "timeout": "10s", "retries": 3, "start_period": "40s"}
    for name, service in project["services"].items():
        assert service["deploy"]["resources"]["limits"] == {"cpus": "1", "memory": "1G"}, name
        if name != "migrate":
            assert service["healthcheck"].items() >= times.items(), name
    assert project["services"]["migrate"]["healthcheck"] == {"disable": True}
    options, _ = dockerfile.read(ROOT / "Dockerfile")[-1].healthcheck()
    assert options == {"interval": "30s", "timeout": "10s", "retries": "3", "start-period": "40s"}
    assert all("test" not in project["services"][name]["healthcheck"] for name in NODES)


def test_redis_appends_and_prometheus_listens_on_9090(project):
    # covers D54
    services = project["services"]
    assert "--appendonly yes" in " ".join(services["redis"]["command"])
    assert services["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]


def test_the_variables_of_d53_decide(project):
    # covers D53
    services = compose.project(
        **compose.secrets(),
        GLOBAL_TOKEN_BUDGET="5",
        TOKEN_ECONOMY_PORT="9001",
        POSTGRES_PORT="9002",
        REDIS_PORT="9003",
        PROMETHEUS_PORT="9004",
    )["services"]
    assert services["fiscus-1"]["environment"]["GLOBAL_TOKEN_BUDGET"] == "5"
    published = {name: services[name]["ports"][0] for name in ("fiscus-1", "postgres", "redis", "prometheus")}
    assert published == {
        "fiscus-1": "127.0.0.1:9001:8091",
        "postgres": "127.0.0.1:9002:5432",
        "redis": "127.0.0.1:9003:6379",
        "prometheus": "127.0.0.1:9004:9090",
    }
    assert project["services"]["fiscus-1"]["environment"]["GLOBAL_TOKEN_BUDGET"] == "100000"
    assert project["services"]["fiscus-1"]["ports"] == ["127.0.0.1:8091:8091"]


def test_a_node_has_time_to_drain(project):
    drain_s_max = Settings.model_fields["drain_s_max"].default
    for name in NODES:
        assert int(project["services"][name]["stop_grace_period"].removesuffix("s")) > drain_s_max


@pytest.mark.parametrize("name", ["migrate", *NODES])
def test_every_variable_of_a_service_is_a_setting(project, name):
    known = {f"{PREFIX}{setting}".upper() for setting in Settings.model_fields} | set(FIXED_NAMES.values())
    assert set(project["services"][name]["environment"]) <= known | PROVIDER_KEYS | ALERT_VARIABLES


def test_what_is_mounted_from_here_is_here(project):
    mounted = [
        volume.split(":")[0]
        for service in project["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert len(mounted) == 4
    assert all((ROOT / path).exists() for path in mounted)
