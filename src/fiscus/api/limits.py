"""How many requests one caller may make: token buckets, which fill up steadily and hold one minute's worth."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

BUCKETS_MAX = 10_000


class Buckets:
    """A bucket per name, for at most ``BUCKETS_MAX`` names; the one that was used least recently goes first."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str, per_minute: int) -> int:
        """Take one request out of the bucket of ``name``.

        Args:
            name: whose bucket.
            per_minute: ≥ 1, how many fit and how many come back in a minute.

        Returns:
            0, or the whole seconds (≥ 1) after which there is one again.
        """
        now_s = self._monotonic_s()
        level = self._level(name, per_minute, now_s)
        if level < 1.0:
            return max(1, ceil((1.0 - level) * 60.0 / per_minute))
        self._levels.pop(name, None)
        if len(self._levels) >= BUCKETS_MAX:
            del self._levels[next(iter(self._levels))]
        self._levels[name] = (level - 1.0, now_s)
        return 0

    def is_empty(self, name: str, per_minute: int) -> bool:
        """Whether ``take`` would have to wait."""
        return self._level(name, per_minute, self._monotonic_s()) < 1.0

    def _level(self, name: str, per_minute: int, now_s: float) -> float:
        found = self._levels.get(name)
        if found is None:
            return float(per_minute)
        return min(float(per_minute), found[0] + (now_s - found[1]) * per_minute / 60.0)
