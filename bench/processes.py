"""Servers and the load generator as processes of their own, and rounds of load on one or several nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from bench.measuring import ROOT, Figures, child, environment

STOP_S_MAX = 30.0


@contextmanager
def process(module: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A module of this folder, with pipes to talk to it; ended with SIGTERM."""
    with subprocess.Popen(
        child(module, *arguments),
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.terminate()
            started.wait(STOP_S_MAX)


@contextmanager
def server(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of ``bench.serving``, and the port that it listens on."""
    with process("serving", *arguments) as started:
        yield started, int(pipe(started.stdout).readline())


def order(load: subprocess.Popen[str], ports: Sequence[int], pairs: int, seed: int) -> Figures:
    """Have a round done by ``bench.load``; every response must have had the expected status."""
    orders = pipe(load.stdin)
    orders.write(json.dumps({"ports": list(ports), "pairs": pairs, "seed": seed}) + "\n")
    orders.flush()
    result: Figures = json.loads(pipe(load.stdout).readline())
    assert not result["unexpected"], f"{result['unexpected']} responses were not as expected"
    return result


def pipe(found: IO[str] | None) -> IO[str]:
    """A pipe of a process that was started with it."""
    assert found is not None
    return found
