"""A clock that goes when it is told to."""

from __future__ import annotations

START_MS = 1_800_000_000_000


class ManualClock:
    """Wall and monotonic time in ms; see ``fiscus.treasury.clock.Clock``."""

    def __init__(self, wall_ms: int = START_MS) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = 1_000_000

    def wall_ms(self) -> int:
        return self._wall_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def advance(self, milliseconds: int) -> None:
        """Time passes."""
        self._wall_ms += milliseconds
        self._monotonic_ms += milliseconds

    def step(self, milliseconds: int) -> None:
        """Somebody sets the wall clock, forward or (negative) back."""
        self._wall_ms += milliseconds
