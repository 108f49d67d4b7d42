"""Time for the ledger. It stands still when the host's clock has jumped, until an operator confirms it."""

from __future__ import annotations

import time
from typing import Protocol

STEP_MS_MAX = 5_000
"""How far wall time may move beyond monotonic time between two looks before the ledger's time stands still."""


class Clock(Protocol):
    """Wall and monotonic time in milliseconds."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds of a clock that nobody sets."""
        ...


class HostClock:
    """The clock of this machine."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds of a clock that nobody sets."""
        return time.monotonic_ns() // 1_000_000


class LedgerTime:
    """``now = max(last, clock)``; frozen after a step of more than five seconds either way.

    The clock is the store's, where it has one (``now`` is told its time whenever it was asked); between two of its
    answers time goes on with the host's monotonic clock. Else it is the host's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall = clock.wall_ms()
        self._monotonic = clock.monotonic_ms()
        self._last = self._least = 0
        self._is_stores = False
        self.stepped = False

    @property
    def last_ms(self) -> int:
        """What ``now`` said when it was last asked; callable from any thread."""
        return self._last

    def at_least(self, at_ms: int) -> None:
        """Time does not run behind what the journal says already.

        If that is what a clock says that had stepped, time has gone on elsewhere: there is nothing to wait for.
        """
        if self.stepped and at_ms > self._last and abs(at_ms - self._wall) <= STEP_MS_MAX:
            self.stepped = False
        self._last = max(self._last, at_ms)
        self._least = max(self._least, at_ms)

    def now(self, stores_ms: int | None = None) -> int:
        """The ledger's time in ms; looks at the clock.

        Args:
            stores_ms: the time that the store has just told, if it has a clock.
        """
        monotonic = self._clock.monotonic_ms()
        if stores_ms is not None and not self._is_stores:
            # The first look at the store's clock: from here on it is the one that counts, not the host's before it.
            self._is_stores = True
            self._wall, self._monotonic = stores_ms, monotonic
            self._last = self._least
            self.stepped = False
        elapsed = monotonic - self._monotonic
        if stores_ms is not None:
            wall = stores_ms
        else:
            wall = self._wall + elapsed if self._is_stores else self._clock.wall_ms()
        if abs(wall - self._wall - elapsed) > STEP_MS_MAX:
            self.stepped = True
        self._wall, self._monotonic = wall, monotonic
        if not self.stepped:
            self._last = max(self._last, wall)
        return self._last

    def confirm(self) -> None:
        """An operator says that the clock is right now."""
        self._monotonic = self._clock.monotonic_ms()
        if not self._is_stores:
            self._wall = self._clock.wall_ms()
        self.stepped = False
