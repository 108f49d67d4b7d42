"""The time that a request may take, watched by one timer for all: a timer for each costs more than the routing."""

from __future__ import annotations

import asyncio

TICK_S_MAX = 1.0
TICKS_PER_TIME = 4


class Deadlines:
    """Cancels tasks that have been inside for longer than ``time_s``, at most a quarter of it (or a second) late."""

    def __init__(self, time_s: float) -> None:
        self._time_s = time_s
        self._tick_s = min(TICK_S_MAX, time_s / TICKS_PER_TIME)
        self._inside: dict[asyncio.Task[object], int] = {}
        self._over: set[asyncio.Task[object]] = set()
        self._tick = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def count(self) -> int:
        """Tasks inside."""
        return len(self._inside)

    def enter(self) -> asyncio.Task[object]:
        """The running task is inside from now on."""
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(self._tick_s, self._watch)
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._inside[task] = self._tick
        return task

    def leave(self, task: asyncio.Task[object]) -> None:
        """The task is not inside any more."""
        self._inside.pop(task, None)
        if self._over:
            self._over.discard(task)

    def is_over(self, task: asyncio.Task[object]) -> bool:
        """Whether a cancellation that the task has just caught was ours alone; the task may then go on."""
        return task in self._over and task.uncancel() == 0

    def _watch(self) -> None:
        self._timer = None
        self._tick += 1
        latest = self._tick - self._time_s / self._tick_s
        for task, entered in list(self._inside.items()):
            if entered >= latest:
                break  # those behind it came later
            if task not in self._over:
                self._over.add(task)
                task.cancel()
        if self._inside:
            assert self._loop is not None
            self._timer = self._loop.call_later(self._tick_s, self._watch)
