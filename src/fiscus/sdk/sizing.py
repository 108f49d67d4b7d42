"""How much to hold for a call of a function, from what its calls have really used. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

LATELY_MAX = 200
"""So many of the last calls are looked at."""

HIGH_PERCENT = 95
USUAL_PERCENT = 50
MARGIN_PERCENT = 25
"""How much more than the high quantile is held."""

LEARNED_FROM = 3
"""After so many calls a function is known."""

OUTPUT_TOKENS_UNKNOWN = 4_096
"""What a function that is not known is taken to produce at most, besides its input."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a call is held for, in tokens; ``least <= needed <= wanted``.

    Attributes:
        wanted: is held if it is there, else what is left.
        needed: others are asked to give what lacks of it.
        least: with less the function is not run.
        why: in a sentence.
    """

    wanted: int
    needed: int
    least: int
    why: str


class Lately:
    """What the last calls of one function have used, in tokens each.

    >>> lately = Lately([100] * 19 + [400])
    >>> lately.need(input_tokens=20).wanted, lately.need(input_tokens=20).needed, lately.need(input_tokens=20).least
    (125, 100, 100)
    """

    def __init__(self, used: Iterable[int] = ()) -> None:
        self._used: deque[int] = deque(used, maxlen=LATELY_MAX)

    def __len__(self) -> int:
        """Of how many calls it knows."""
        return len(self._used)

    def add(self, tokens: int) -> None:
        """A call has used so many."""
        self._used.append(tokens)

    def quantile(self, percent: int) -> int:
        """The least that so many percent of the calls did not exceed; 0 without any."""
        if not self._used:
            return 0
        ordered = sorted(self._used)
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

    def need(self, input_tokens: int, bound: int | None = None) -> Need:
        """What the next call needs.

        Args:
            input_tokens: in what the function is called with.
            bound: what its author says that it uses at most; then it is held whole or not at all.
        """
        if bound is not None:
            return Need(wanted=bound, needed=bound, least=bound, why=f"it is said to use at most {bound} tokens")
        if len(self) < LEARNED_FROM:
            least = input_tokens + 1
            why = (
                f"it is called with {input_tokens} tokens, and is not known yet: "
                f"up to {OUTPUT_TOKENS_UNKNOWN} more are held"
            )
            return Need(wanted=input_tokens + OUTPUT_TOKENS_UNKNOWN, needed=least, least=least, why=why)
        high, usual = self.quantile(HIGH_PERCENT), self.quantile(USUAL_PERCENT)
        return Need(
            wanted=max(1, high + high * MARGIN_PERCENT // 100),
            needed=max(1, usual),
            least=max(1, self.quantile(0)),
            why=f"{HIGH_PERCENT} % of its last {len(self)} calls used at most {high} tokens, half of them {usual}",
        )
