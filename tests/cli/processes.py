"""The real command line and the real service, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fiscus.settings import FIXED_NAMES

WAIT_S = 30
LEDGER = "fiscus.db"


def environment(**more: str) -> dict[str, str]:
    """Ours without settings of Fiscus, and ``more``."""
    fixed = set(FIXED_NAMES.values())
    ours = {name: value for name, value in os.environ.items() if name not in fixed and not name.startswith("FISCUS_")}
    return ours | {"COLUMNS": "200"} | more


def fiscus(folder: Path, *arguments: str, code: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``, which is where its ledger is, and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "fiscus.cli", *arguments],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
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
