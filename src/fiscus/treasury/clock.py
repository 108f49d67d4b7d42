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
    """``now = max(last, clock)``; frozen after a step of more than five seconds either way."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall = clock.wall_ms()
        self._monotonic = clock.monotonic_ms()
        self._last = 0
        self.stepped = False

    def at_least(self, at_ms: int) -> None:
        """Time does not run behind what the journal says already."""
        self._last = max(self._last, at_ms)

    def now(self) -> int:
        """The ledger's time in ms; looks at the clock."""
        wall, monotonic = self._clock.wall_ms(), self._clock.monotonic_ms()
        drift = (wall - self._wall) - (monotonic - self._monotonic)
        self._monotonic = monotonic
        self._wall = wall
        if abs(drift) > STEP_MS_MAX:
            self.stepped = True
        if not self.stepped:
            self._last = max(self._last, wall)
        return self._last

    def confirm(self) -> None:
        """An operator says that the clock is right now."""
        self._wall, self._monotonic = self._clock.wall_ms(), self._clock.monotonic_ms()
        self.stepped = False
