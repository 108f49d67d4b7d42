"""The Helm chart: rendered by Helm itself, its objects judged by Kubernetes' own schemas."""

import copy
import json
import re
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from fiscus.settings import PREFIX, Settings
from tests.deploy import dockerfile, queries
from tests.deploy.tools import DEPLOY, ROOT, ask, needs_deploy_tools

CHART = DEPLOY / "helm" / "fiscus"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
OPERATOR = "monitoring.coreos.com/v1"
"""Objects of the Prometheus operator, whose schemas Kubernetes does not have."""

REQUIRED = {"secret": {"name": "fiscus-secrets"}}
EVERYTHING = {
    "secret": {"name": "fiscus-secrets", "keys": {"redisUrl": "REDIS_URL"}},
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "registry"}]},
    "settings": {"queue_length_max": 20_000, "metrics_open": True, "log_level": "debug"},
    "gateway": {"secretName": "fiscus-gateway"},
    "alerts": {"secretName": "fiscus-alerts"},
    "autoscaling": {"enabled": False},
    "replicas": 3,
    "persistence": {"storageClass": "fast"},
    "service": {"type": "LoadBalancer", "annotations": {"example.org/internal": "yes"}},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"team": "x"}, "keySecret": {"name": "scrape", "key": "key"}},
        "prometheusRule": {"enabled": True},
    },
    "serviceAccount": {"name": "fiscus"},
    "podLabels": {"team": "x"},
    "podAnnotations": {"example.org/note": "n"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
}
RELEASES = {"required values only": REQUIRED, "every value": EVERYTHING}

HELM = """
import json, sys, helm_python
question = json.load(sys.stdin)
values = question["values"]
try:
    with helm_python.Chart.load(question["chart"]) as chart:
        chart.validate_schema(values)
        answer = chart.render(values=values, name=question["name"], namespace="agents")
except helm_python.HelmError as error:
    answer = {"error": str(error)}
print(json.dumps(answer))
"""
LINT = """
import json, sys, helm_python
question = json.load(sys.stdin)
print(json.dumps(helm_python.lint(question["chart"], values=question["values"], strict=True)))
"""

pytestmark = needs_deploy_tools


def render(values: dict[str, Any], name: str = "fiscus") -> dict[str, str]:
    """Path → what Helm makes of each template; fails on what Helm refuses."""
    answer = ask(HELM, {"chart": str(CHART), "values": values, "name": name})
    assert "error" not in answer, answer["error"]
    return answer


def objects(values: dict[str, Any], name: str = "fiscus") -> list[dict[str, Any]]:
    return [
        found
        for path, text in render(values, name).items()
        if not path.endswith("NOTES.txt")
        for found in yaml.safe_load_all(text)
        if found is not None
    ]


@pytest.fixture(scope="module", params=RELEASES)
def release(request) -> list[dict[str, Any]]:
    return objects(RELEASES[request.param])


@pytest.fixture(scope="module")
def plain() -> list[dict[str, Any]]:
    return objects(REQUIRED)


def one(release: list[dict[str, Any]], kind: str, end: str = "") -> dict[str, Any]:
    (found,) = [found for found in release if found["kind"] == kind and found["metadata"]["name"].endswith(end)]
    return found


def pods(release: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [found["spec"]["template"]["spec"] for found in release if found["kind"] in ("StatefulSet", "Job")]


def container(release: list[dict[str, Any]], kind: str = "StatefulSet") -> dict[str, Any]:
    return one(release, kind)["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("values", RELEASES.values(), ids=RELEASES)
def test_helm_finds_nothing_to_complain_of(values):
    report = ask(LINT, {"chart": str(CHART), "values": values})
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_kubernetes_takes_every_object(release):
    kinds = []
    for found in release:
        if found["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)
        kinds.append(found["kind"])
    expected = {"ConfigMap", "Job", "PodDisruptionBudget", "Service", "StatefulSet"}
    assert set(kinds) >= expected


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("StatefulSet", ("spec", "replica"), 2),
        ("HorizontalPodAutoscaler", ("spec", "minReplicas"), "two"),
        ("Job", ("spec", "template", "spec", "containers", 0, "imagePullPolicies"), "Always"),
    ],
)
def test_the_schemas_find_what_is_wrong(plain, kind, path, value):
    broken = copy.deepcopy(one(plain, kind))
    inner = broken
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_no_pod_has_rights_or_writes_beside_its_volumes(release):
    user = int(dockerfile.read(ROOT / "Dockerfile")[-1].last("USER").partition(":")[0])
    assert len(pods(release)) == 2
    for pod in pods(release):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (only,) = pod["containers"]
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {mount["mountPath"] for mount in only["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/var/lib/fiscus", "/tmp"}
        assert only["resources"].keys() == {"limits", "requests"}


def test_what_was_acknowledged_stays_when_a_pod_is_replaced(release):
    nodes = one(release, "StatefulSet")
    assert [claim["metadata"]["name"] for claim in nodes["spec"]["volumeClaimTemplates"]] == ["data"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container(release)["volumeMounts"]}
    assert mounts["data"] == "/var/lib/fiscus"
    assert dockerfile.read(ROOT / "Dockerfile")[-1].environment({})["FISCUS_SPOOL_PATH"].startswith("/var/lib/fiscus/")
    assert nodes["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_probes_ask_for_health_and_readiness(release):
    node = container(release)
    assert node["startupProbe"]["httpGet"]["path"] == node["livenessProbe"]["httpGet"]["path"] == "/health"
    assert node["readinessProbe"]["httpGet"]["path"] == "/ready"
    for probe, value in (("startupProbe", "startupSecondsMax"), ("livenessProbe", "unhealthySecondsMax")):
        assert node[probe]["periodSeconds"] * node[probe]["failureThreshold"] == VALUES["probes"][value]
    assert node["ports"] == [{"name": "http", "containerPort": 8091}]


def test_a_node_that_ends_drains_in_the_time_that_it_is_given(release):
    pod = one(release, "StatefulSet")["spec"]["template"]["spec"]
    pause = re.search(r"sleep\((\d+)\)", container(release)["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pause is not None
    drain_s_max = Settings.model_fields["drain_s_max"].default
    assert pod["terminationGracePeriodSeconds"] >= int(pause[1]) + drain_s_max


def test_nodes_are_spread_and_at_most_one_is_taken_away(release):
    labels = one(release, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    spread = one(release, "StatefulSet")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {rule["topologyKey"] for rule in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    budget = one(release, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    selectors = [rule["labelSelector"]["matchLabels"] for rule in spread] + [budget["selector"]["matchLabels"]]
    selectors += [found["spec"]["selector"] for found in release if found["kind"] == "Service"]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= one(release, "Job")["spec"]["template"]["metadata"]["labels"].items()


def test_scaling_decides_the_number_of_nodes_or_the_value_does(plain):
    scaler = one(plain, "HorizontalPodAutoscaler")["spec"]
    target = scaler["scaleTargetRef"]
    nodes = one(plain, target["kind"])
    assert target["name"] == nodes["metadata"]["name"]
    assert "replicas" not in nodes["spec"]  # an upgrade would undo what the scaler did
    assert scaler["minReplicas"] >= 2
    fixed = objects(EVERYTHING)
    assert one(fixed, "StatefulSet")["spec"]["replicas"] == 3
    assert [found for found in fixed if found["kind"] == "HorizontalPodAutoscaler"] == []


def test_the_schema_is_migrated_before_any_new_node_starts(release):
    job = one(release, "Job", "-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    migrating, serving = container(release, "Job"), container(release)
    assert migrating["args"] == ["migrate"]
    assert serving["args"] == ["serve"]
    assert migrating["image"] == serving["image"]
    assert "command" not in migrating  # the image's entry point
    # What a first installation has not made yet may not be asked for.
    names = {found["metadata"]["name"] for found in release if found["kind"] == "ConfigMap"}
    assert not names & set(re.findall(r"\w[\w-]+", json.dumps(migrating.get("envFrom", []))))


def test_secrets_come_from_a_secret_that_exists_and_stand_nowhere_else(release):
    for kind in ("StatefulSet", "Job"):
        for variable in container(release, kind)["env"]:
            if variable["name"] in ("FISCUS_GATEWAY_PATH", "FISCUS_ALERTS_PATH"):
                continue
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "fiscus-secrets"
    names = {variable["name"] for variable in container(release)["env"]}
    assert {"DATABASE_URL", "FISCUS_BOOTSTRAP_KEY", "FISCUS_KEY_PEPPER"} <= names
    assert [found for found in release if found["kind"] == "Secret"] == []


@pytest.mark.parametrize("part", ["gateway", "alerts"])
def test_the_gateway_and_the_alerts_read_their_files_from_secrets_where_these_are_named(plain, part):
    node, pod = container(plain), one(plain, "StatefulSet")["spec"]["template"]["spec"]
    assert f"FISCUS_{part.upper()}_PATH" not in {variable["name"] for variable in node["env"]}
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]
    release = objects(EVERYTHING)
    node, pod = container(release), one(release, "StatefulSet")["spec"]["template"]["spec"]
    (path,) = [variable["value"] for variable in node["env"] if variable["name"] == f"FISCUS_{part.upper()}_PATH"]
    (mount,) = [mount for mount in node["volumeMounts"] if mount["name"] == part]
    (volume,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == part]
    assert mount["readOnly"]
    assert path == f"{mount['mountPath']}/{volume['items'][0]['path']}"
    assert volume["secretName"] == f"fiscus-{part}"
    assert not {part} & {mount["name"] for mount in container(release, "Job")["volumeMounts"]}


def test_settings_of_the_values_are_settings_of_the_service():
    data = one(objects(EVERYTHING), "ConfigMap")["data"]
    assert data == {
        "FISCUS_QUEUE_LENGTH_MAX": "20000",
        "FISCUS_METRICS_OPEN": "true",
        "FISCUS_LOG_LEVEL": "debug",
    }
    assert {name.removeprefix(PREFIX).lower() for name in data} <= set(Settings.model_fields)


def test_a_changed_setting_restarts_the_nodes(plain):
    def checksum(release):
        return one(release, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]

    assert checksum(plain) == checksum(objects(REQUIRED))
    assert checksum(plain) != checksum(objects(REQUIRED | {"settings": {"log_level": "error"}}))


def test_the_operator_scrapes_each_node_once_under_the_job_that_the_alerts_name():
    release = objects(EVERYTHING)
    monitor = one(release, "ServiceMonitor")["spec"]
    selector = monitor["selector"]["matchLabels"]
    matching = [
        found["metadata"]["name"]
        for found in release
        if found["kind"] == "Service" and selector.items() <= found["metadata"]["labels"].items()
    ]
    assert matching == ["fiscus-nodes"]
    (endpoint,) = monitor["endpoints"]
    assert {"targetLabel": "job", "replacement": "token-economy"} in endpoint["relabelings"]
    assert endpoint["authorization"]["credentials"] == {"name": "scrape", "key": "key"}
    rules = one(release, "PrometheusRule")["spec"]
    assert rules == yaml.safe_load(queries.ALERTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "secret.name|/secret/name|secret"),
        ({"secret": {"name": "Not A Name"}}, "name"),
        (REQUIRED | {"replica": 2}, "replica"),
        (REQUIRED | {"settings": {"key_pepper": "in the open"}}, "key_pepper"),
        (REQUIRED | {"gateway": {"secretName": "Not A Name"}}, "secretName"),
        (REQUIRED | {"settings": {"gateway_path": "/etc/gateway.toml"}}, "gateway_path"),
        (REQUIRED | {"settings": {"alerts_path": "/etc/alerts.toml"}}, "alerts_path"),
        (REQUIRED | {"replicas": 0}, "replicas"),
        (REQUIRED | {"terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds"),
    ],
    ids=[
        "nothing",
        "a name that is none",
        "a typing error",
        "a secret in the open",
        "no secret",
        "two gateways",
        "two files of alerts",
        "no node",
        "no time to drain",
    ],
)
def test_values_that_would_go_wrong_are_refused(values, complaint):
    answer = ask(HELM, {"chart": str(CHART), "values": values, "name": "fiscus"})
    assert re.search(complaint, answer["error"])


def test_the_schema_knows_every_value():
    jsonschema.Draft7Validator.check_schema(SCHEMA)

    def compare(values: dict[str, Any], schema: dict[str, Any], place: str) -> None:
        known = schema["properties"].keys() - {"global"}
        assert values.keys() == known, place
        for name, value in values.items():
            inner = schema["properties"][name]
            if isinstance(value, dict) and "properties" in inner:
                compare(value, inner, f"{place}.{name}")

    compare(VALUES, SCHEMA, "values")


def test_names_are_short_enough_and_of_one_release():
    long = "a-release-with-a-very-long-name-that-nobody-wants"
    for found in objects(REQUIRED, name=long):
        assert len(found["metadata"]["name"]) <= 57
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == long


def test_the_notes_say_how_to_reach_it():
    notes = next(text for path, text in render(REQUIRED).items() if path.endswith("NOTES.txt"))
    assert "http://fiscus.agents:8091" in notes
    assert "kubectl --namespace agents port-forward service/fiscus 8091:8091" in notes


def test_the_version_of_the_application_is_the_chart_s():
    from fiscus import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__
