"""The real command line and the real service, as processes of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
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
    done = _ZYGOTE.run(folder, arguments, environment(**settings))
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


class _Zygote:
    """Runs commands by forking a process that has the imports done; see ``zygote.py``. One command at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, folder: Path, arguments: Sequence[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run one; while another one runs, in a process that imports for itself."""
        if not self._lock.acquire(blocking=False):
            command = [sys.executable, "-m", "fiscus.cli", *arguments]
            return subprocess.run(
                command, cwd=folder, env=settings, capture_output=True, text=True, timeout=WAIT_S, check=False
            )
        try:
            return self._run(folder, arguments, settings)
        finally:
            self._lock.release()

    def _run(
        self, folder: Path, arguments: Sequence[str], settings: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        process = self._started()
        with tempfile.TemporaryDirectory() as written:
            out, err = Path(written, "out"), Path(written, "err")
            order = {
                "folder": str(folder),
                "environment": settings,
                "arguments": arguments,
                "stdout": str(out),
                "stderr": str(err),
            }
            assert process.stdin is not None
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            code = int(self._answer(process, arguments))
            return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            script = [sys.executable, "-m", "tests.cli.zygote"]
            self._process = subprocess.Popen(
                script, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            assert self._answer(self._process, script) == b"ready\n"
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], asked: Sequence[str]) -> bytes:
        """The next line; if none comes in time, it ends with all that it has begun."""
        assert process.stdout is not None
        if select.select([process.stdout], [], [], WAIT_S)[0]:
            return process.stdout.readline()
        self._process = None
        os.killpg(process.pid, signal.SIGKILL)
        raise subprocess.TimeoutExpired(list(asked), WAIT_S)


_ZYGOTE = _Zygote()


class Service:
    """A running ``fiscus serve``."""

    def __init__(self, process: subprocess.Popen[str], started: dict[str, Any]) -> None:
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
    with (folder / "service.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fiscus.cli", "serve", "--port", "0", "--json", *arguments],
            cwd=folder,
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "service.log").read_text()
        yield Service(process, json.loads(line))
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()
