"""The real command line and the real service, as processes of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fiscus.settings import FIXED_NAMES

WAIT_S = 30
LEDGER = "fiscus.db"
ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Ours without settings of Fiscus, and ``more``."""
    fixed = set(FIXED_NAMES.values())
    ours = {name: value for name, value in os.environ.items() if name not in fixed and not name.startswith("FISCUS_")}
    return ours | {"COLUMNS": "200"} | more


def fiscus(folder: Path, *arguments: str, code: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``, which is where its ledger is, and check its exit code."""
    done = _run(folder, arguments, environment(**settings))
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(folder: Path, *arguments: str, **settings: str) -> Any:
    """The one JSON object that a command answers."""
    lines = answers(folder, *arguments, **settings)
    assert len(lines) == 1, lines
    return lines[0]


def answers(folder: Path, *arguments: str, code: int = 0, **settings: str) -> list[Any]:
    """The JSON objects that a command answers, one a line."""
    return [
        json.loads(line) for line in fiscus(folder, *arguments, "--json", code=code, **settings).stdout.splitlines()
    ]


class Process:
    """A command that was forked from the zygote, to be handled as a ``subprocess.Popen``."""

    def __init__(self, pid: int, arguments: Sequence[str]) -> None:
        self.pid = pid
        self.args = list(arguments)
        self.returncode: int | None = None
        self._end = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._end)

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, in so many seconds.
        """
        code = self._ended_within(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        ends = select.poll()
        ends.register(self._end, select.POLLIN)
        if ends.poll(None if seconds is None else 1_000 * seconds):
            _ZYGOTE.see_the_end_of(self)
        return self.returncode


class _Zygote:
    """Begins commands by forking a process that has the imports done; see ``zygote.py``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: socket.socket | None = None

    def begin(
        self, folder: Path, arguments: Sequence[str], settings: dict[str, str], stdout: int, stderr: int
    ) -> Process:
        """Begin a command that writes to two descriptors."""
        order = {"folder": str(folder), "environment": settings, "arguments": arguments}
        with self._lock:
            return Process(self._ask(order, [stdout, stderr]), arguments)

    def see_the_end_of(self, process: Process) -> None:
        """Learn the exit code of one that has ended; from now on its id may be another's."""
        with self._lock:
            if process.returncode is None:
                process.returncode = self._ask({"ended": process.pid})

    def _ask(self, order: object, descriptors: Sequence[int] = ()) -> int:
        orders = self._orders or self._started()
        self._orders = None  # until it has answered: after an order without an answer the next one begins anew
        socket.send_fds(orders, [json.dumps(order).encode()], descriptors)
        answer = int(orders.recv(32))
        self._orders = orders
        return answer

    def _started(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = [sys.executable, "-m", "tests.cli.zygote", str(its.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[its.fileno()], start_new_session=True)
        ours.settimeout(WAIT_S)
        assert ours.recv(32) == b"ready"
        return ours


_ZYGOTE = _Zygote()


def _run(folder: Path, arguments: Sequence[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = _ZYGOTE.begin(folder, arguments, settings, out.fileno(), errors.fileno())
        try:
            code = process.wait(WAIT_S)
        finally:
            process.kill()
        for written in (out, errors):
            written.seek(0)
        return subprocess.CompletedProcess(process.args, code, out.read(), errors.read())


class Service:
    """A running ``fiscus serve``."""

    def __init__(self, process: Process, started: dict[str, Any]) -> None:
        self.process = process
        self.url: str = started["url"]
        self.keys_required: bool = started["keys_required"]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@contextmanager
def service(folder: Path, *arguments: str, **settings: str) -> Iterator[Service]:
    """Serve the ledger in ``folder`` on a free port. What it logs stands in ``service.log`` there."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as said:
        with (folder / "service.log").open("a") as log, os.fdopen(writer, "w") as says:
            command = ["serve", "--port", "0", "--json", *arguments]
            process = _ZYGOTE.begin(folder, command, environment(**settings), says.fileno(), log.fileno())
        try:
            line = said.readline()
            assert line, (folder / "service.log").read_text()
            yield Service(process, json.loads(line))
        finally:
            process.terminate()
            try:
                process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
