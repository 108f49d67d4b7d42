"""How much a stream has produced so far, and how much its kind usually produces."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from fiscus.dialects import Delta, Meter

KEYS_MAX = 4_096
SAMPLES_MAX = 64
SAMPLES_LEAST = 8
QUANTILE = 0.9
BYTES_PER_TOKEN = 3
"""A token has at least so many bytes of UTF-8, on the average of what has come; a bound until the provider says."""


def tokens_produced(meter: Meter) -> int:
    """An upper estimate of the tokens that have come, all choices and kinds together.

    No less than the number of pieces: a provider sends at least a token in each.
    """
    usage = meter.usage()
    total = 0
    for (_, kind), produced in meter.produced.items():
        if kind == "opaque":
            continue
        total += max(produced.deltas, -(-produced.utf8_bytes // BYTES_PER_TOKEN))
    return max(total, usage.tokens.output if usage is not None else 0)


class Counted:
    """``tokens_produced`` of a stream, kept as pieces come."""

    def __init__(self) -> None:
        self.tokens = 0

    def add(self, deltas: Iterable[Delta]) -> int:
        """Add pieces; returns the sum."""
        for _, kind, text in deltas:
            if kind != "opaque":
                length = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
                self.tokens += max(1, -(-length // BYTES_PER_TOKEN))
        return self.tokens


class Lengths:
    """Lengths of the answers of each (account, model), so that a hold need not be for the longest one possible.

    >>> lengths = Lengths()
    >>> lengths.expected("agent:a", "m") is None
    True
    >>> for tokens in range(100, 120): lengths.learn("agent:a", "m", tokens)
    >>> lengths.expected("agent:a", "m")
    118
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def expected(self, account: str, model: str) -> int | None:
        """A length that nine of ten answers did not exceed; None: not enough is known."""
        known = self._known.get((account, model))
        if known is None or len(known) < SAMPLES_LEAST:
            return None
        return sorted(known)[int(len(known) * QUANTILE)]

    def learn(self, account: str, model: str, tokens: int) -> None:
        """An answer was so long."""
        known = self._known.setdefault((account, model), deque(maxlen=SAMPLES_MAX))
        known.append(tokens)
        self._known.move_to_end((account, model))
        if len(self._known) > KEYS_MAX:
            self._known.popitem(last=False)
