"""How long to wait before asking again."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential delays with jitter, so that clients that failed together do not come back together.

    Attributes:
        first_s: the delay before the first repeat, in seconds, before jitter.
        delay_s_max: no delay grows beyond it, in seconds.
    """

    first_s: float = 0.05
    delay_s_max: float = 5.0

    def delay_s(self, failures: int, draw: float, asked_for_s: float = 0.0) -> float:
        """Seconds to wait after a number of failures in a row.

        Args:
            failures: ≥ 1.
            draw: uniform in 0 … 1; the delay is spread over the upper half of its range by it.
            asked_for_s: what the other side asked for (``Retry-After``); never less than this.

        >>> Backoff(first_s=1, delay_s_max=60).delay_s(3, draw=1.0)
        4.0
        >>> Backoff(first_s=1, delay_s_max=60).delay_s(1, draw=0.0, asked_for_s=7)
        7
        """
        whole_s = min(self.delay_s_max, self.first_s * 2.0 ** min(failures - 1, 63))
        return max(asked_for_s, whole_s * (0.5 + draw / 2))
