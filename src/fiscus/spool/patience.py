"""How long those who ask a ledger wait for it: one timer for all of them, for one each costs more than the asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

TICKS_PER_TIME = 8


class Patience:
    """Lets go of all who wait when a ledger has answered nobody for ``time_s``, at most a quarter of it late.

    A ledger that is slow because many ask it is answering; those who wait for their turn go on waiting.
    """

    def __init__(self, time_s: float, on_silence: Callable[[], None]) -> None:
        self._tick_s = time_s / TICKS_PER_TIME
        self._on_silence = on_silence
        self._inside: set[asyncio.Task[Any]] = set()
        self._over: set[asyncio.Task[Any]] = set()
        self._tick = 0
        self._answered_tick = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self) -> asyncio.Task[Any]:
        """The running task waits for the ledger from now on."""
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(self._tick_s, self._watch)
        task = asyncio.current_task(self._loop)
        assert task is not None
        if not self._inside:
            self._answered_tick = self._tick
        self._inside.add(task)
        return task

    def leave(self, task: asyncio.Task[Any]) -> None:
        """The task does not wait any more."""
        self._inside.discard(task)
        if self._over:
            self._over.discard(task)

    def answered(self) -> None:
        """The ledger has answered somebody."""
        self._answered_tick = self._tick

    def is_over(self, task: asyncio.Task[Any]) -> bool:
        """Whether a cancellation that the task has just caught was ours alone; the task may then go on."""
        return task in self._over and task.uncancel() == 0

    def _watch(self) -> None:
        self._timer = None
        self._tick += 1
        if self._inside and self._tick - self._answered_tick > TICKS_PER_TIME:
            self._on_silence()
            for task in self._inside - self._over:
                self._over.add(task)
                task.cancel()
        if self._inside:
            assert self._loop is not None
            self._timer = self._loop.call_later(self._tick_s, self._watch)
