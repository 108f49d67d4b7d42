"""A process that starts others, which work on a ledger until they are killed.

Each line of its standard input is a ``Death``; the answer is one line when that process has ended. Starting by
``fork`` from a process that has everything imported takes milliseconds, so that a test can afford hundreds of deaths.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from fiscus.core.outcomes import AnyOutcome
from fiscus.treasury import engine as engine_module
from fiscus.treasury import local
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.treasury.callers import CALLERS, plan
from tests.treasury.faults import watched_store

OPERATIONS_MAX = 600
"""Of each caller; whoever was not killed by then ends by itself."""

CHECKPOINT_EVERY = 40
"""Operations of the first caller between two checkpoints."""


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """Who works on which ledger, and how it ends.

    Attributes:
        path: of the ledger. ``report``: of the file in which operations are noted before and after.
        run: sets its ids apart.
        after_ms: when it is killed from outside, in milliseconds; None: it kills itself.
        point: at which step of writing it kills itself, the ``occurrence``-th time.
    """

    path: str
    report: str
    run: str
    after_ms: float | None = None
    point: str | None = None
    occurrence: int = 1


class Note(msgspec.Struct, frozen=True, array_like=True):
    """A line of a report: an operation was sent, or (with its outcome) was answered."""

    caller: int
    number: int
    outcome: AnyOutcome | None = None


def reporter(path: str) -> Callable[[Note], None]:
    """Append notes to a file; each is out of this process's hands when the call returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    encode = msgspec.json.Encoder().encode
    return lambda note: os.write(descriptor, encode(note) + b"\n") and None


async def work(treasury: LocalTreasury, run: str, report: Callable[[Note], None], operations_max: int) -> None:
    """All callers at once, each with one operation after the other."""

    async def call(caller: int) -> None:
        for number, request in enumerate(plan(run, caller)):
            if number == operations_max:
                return
            if caller == 0 and number % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
                await asyncio.to_thread(treasury.engine.checkpoint)
            report(Note(caller, number))
            outcome = await treasury.execute(request)
            report(Note(caller, number, outcome))

    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))
    await treasury.close()


def live(death: Death) -> None:
    """The life of a victim."""
    engine_module.SNAPSHOT_MS = 5
    local.FOLLOW_WAIT_S = 0.01
    seen: Counter[str] = Counter()

    def hook(point: str) -> None:
        seen[point] += 1
        if point == death.point and seen[point] == death.occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    treasury = LocalTreasury(Engine(watched_store(Path(death.path), hook)))
    asyncio.run(work(treasury, death.run, reporter(death.report), OPERATIONS_MAX))


def main() -> None:
    """Start one victim per line, wait for its end, say how it ended."""
    for line in sys.stdin:
        death = msgspec.json.decode(line, type=Death)
        pid = os.fork()
        if pid == 0:
            os.close(0)
            status = 1
            try:
                live(death)
                status = 0
            finally:
                os._exit(status)
        if death.after_ms is not None:
            time.sleep(death.after_ms / 1_000)
            os.kill(pid, signal.SIGKILL)
        _, ended = os.waitpid(pid, 0)
        print(f"{os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else -os.WEXITSTATUS(ended)}", flush=True)


if __name__ == "__main__":
    main()
