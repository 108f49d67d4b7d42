"""Nodes of a service as processes, over a real PostgreSQL, that can be killed, paused and started again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from fiscus.contract.treasury import Readiness
from fiscus.core.commands import Request
from fiscus.core.outcomes import Refused
from fiscus.stores import open_store
from fiscus.treasury.clock import HostClock
from tests.cli.processes import environment
from tests.servers.postgres import PostgresServer, free_port
from tests.treasury.desk import Desk

START_S_MAX = 60
STOP_S_MAX = 40
PROBE_EVERY_S = 0.01


class Node:
    """A ``fiscus serve`` of its own directory, always on the same port.

    Args:
        folder: where it runs, and where its spool is.
        settings: of the service, by their names in the environment.
        host: where it listens; ``prefix``: what its command line begins with (to run it in another place).
        key: the secret that calls of it carry.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str],
        *,
        host: str = "127.0.0.1",
        listen: str | None = None,
        prefix: Sequence[str] = (),
        key: str | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.settings = settings
        self.host = host
        self.port = free_port()
        self.key = key
        self._listen = listen or host
        self._prefix = list(prefix)
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged."""
        path = self.folder / "service.log"
        return path.read_text() if path.exists() else ""

    def launch(self) -> None:
        """Start it; it is not waited for."""
        command = ["-m", "fiscus.cli", "serve", "--host", self._listen, "--port", str(self.port), "--json"]
        with (self.folder / "service.log").open("a") as log:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, *command],
                cwd=self.folder,
                env=environment(**self.settings),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self) -> None:
        """Start it; returns when it listens. One that ends because the database is away is started again."""
        deadline = time.monotonic() + START_S_MAX
        while True:
            self.launch()
            assert self.process is not None
            assert self.process.stdout is not None
            while not select.select([self.process.stdout], [], [], 0.2)[0]:
                if time.monotonic() > deadline:
                    self.process.kill()
                    raise AssertionError(f"no start in {START_S_MAX} s\n{self.log}")
            if self.process.stdout.readline():
                return
            self.process.wait()
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        """Without a word to anybody."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait() or -9
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def resident_bytes(self) -> int:
        """Memory of the process; 0 while it does not run."""
        if not self.is_running:
            return 0
        assert self.process is not None
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        return 0

    # -- asking -----------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, timeout_s: float = 15) -> tuple[int, Any]:
        """One plain HTTP call; returns status and what the body says.

        Raises:
            OSError, http.client.HTTPException: there was no answer.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            connection.request(method, path, msgspec.json.encode(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def readiness(self) -> Readiness:
        """What ``/ready`` says; raises as ``call`` does."""
        _, body = self.call("GET", "/ready")
        return msgspec.convert(body, Readiness)

    def wait_until(self, holds: Callable[[Readiness], bool], within_s: float = 60) -> float:
        """Wait for something that ``/ready`` says; returns after how many seconds.

        Raises:
            AssertionError: it was not so in time.
        """
        began = time.monotonic()
        said: object = None
        while time.monotonic() - began < within_s:
            try:
                found = self.readiness()
                said = found
                if holds(found):
                    return time.monotonic() - began
            except (OSError, http.client.HTTPException, msgspec.ValidationError) as error:
                said = error
            time.sleep(PROBE_EVERY_S)
        raise AssertionError(f"{self.url} not in {within_s} s: {said}\n{self.log[-3_000:]}")

    def admits(self, id: str, account: str = "agent:probe", timeout_s: float = 15) -> int:
        """Ask for a hold of one token and give it back; returns the status of the first, 0: no answer."""
        try:
            status, _ = self.call(
                "POST", "/v1/holds", {"id": id, "account": account, "amounts": {"tokens": 1}}, timeout_s
            )
            if status < 300:
                self.call("POST", f"/v1/holds/{id}/release", {}, timeout_s)
            return status
        except (OSError, http.client.HTTPException):
            return 0

    def wait_until_it_admits(self, mark: str, within_s: float = 90) -> float:
        """Ask for holds until one is admitted; returns after how many seconds."""
        began = time.monotonic()
        number = 0
        while time.monotonic() - began < within_s:
            number += 1
            if 200 <= self.admits(f"probe-{mark}-{number}") < 300:
                return time.monotonic() - began
            time.sleep(PROBE_EVERY_S)
        raise AssertionError(f"{self.url} admits nothing for {within_s} s\n{self.log[-3_000:]}")


class Ground:
    """A directory, a ledger with founded accounts, and nodes on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.nodes: list[Node] = []

    def found(self, requests: Sequence[Request]) -> None:
        """Carry out what the callers need, before there is any node."""
        desk = Desk(open_store(self.url), HostClock())
        try:
            answers = desk.ask(*requests)
            refused = [answer for answer in answers if isinstance(answer, Refused | Exception)]
            assert not refused, refused
        finally:
            desk.engine.close()

    def node(self, *, url: str | None = None, **settings: str) -> Node:
        """One more node; ``url``: of the database as this node sees it."""
        folder = self.folder / f"node{len(self.nodes)}"
        return self.add(Node(folder, {"DATABASE_URL": url or self.url, "FISCUS_LOG_LEVEL": "warning", **settings}))

    def add(self, node: Node) -> Node:
        """One that was made elsewhere; it is started, and ended with the others."""
        self.nodes.append(node)
        node.start()
        return node

    def url_at(self, port: int, host: str = "127.0.0.1") -> str:
        """The PostgreSQL database as it is reached in another way."""
        return f"postgresql://postgres@{host}:{port}/{self.url.rpartition('/')[2]}"

    @property
    def database_port(self) -> int:
        """Where PostgreSQL listens."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def settle(self) -> None:
        """Wait until every node admits and has delivered what it had spooled."""
        for number, node in enumerate(self.nodes):
            node.wait_until_it_admits(f"settle-{number}-{time.monotonic_ns()}")
            node.wait_until(lambda found: found.spooled == 0)

    def stop(self) -> list[str]:
        """Stop all nodes cleanly; returns what went wrong."""
        wrong = []
        for number, node in enumerate(self.nodes):
            if node.is_running and (code := node.stop()) != 0:
                wrong.append(f"node {number} ended with {code}: {node.log[-500:]}")
        return wrong


@contextmanager
def ground(
    requests: Sequence[Request] = (), *, postgres: PostgresServer | None = None, url: str | None = None
) -> Iterator[Ground]:
    """Everything ends whatever happens; a server that is given stays.

    Args:
        requests: who is founded.
        postgres: where a new database is made; None: on a server of its own.
        url: of a ledger that is there already, or will be made when it is opened.
    """
    folder = Path(tempfile.mkdtemp(prefix="fiscus-faults-"))
    folder.chmod(0o755)
    server = None if url is not None else postgres or PostgresServer(durable=False)
    place: Ground | None = None
    try:
        place = Ground(folder, url or (server.migrated_database() if server is not None else ""))
        if requests:
            place.found(requests)
        yield place
    finally:
        for node in place.nodes if place is not None else ():
            if node.is_running:
                assert node.process is not None
                node.resume()
                node.kill()
        if postgres is None and server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
