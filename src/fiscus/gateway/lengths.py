"""How long the answers of a kind are, learned while they come: those that run count as far as they have come."""

from __future__ import annotations

from array import array
from math import ceil, isqrt, sqrt

import msgspec

from fiscus.gateway.kept import Kept

LENGTHS_LEAST = 8
LENGTHS_MAX = 512
"""When so many are known they count half: what answers were like before is forgotten little by little. Of the longest,
which weigh most, a few have to be among them."""

SPREADS = 4
"""See ``Expected.leave``."""

EXACT_BITS = 4
"""Numbers of so many bits have a bin each; of longer ones so many leading bits say in which they are."""

FRESH = 32
"""What is known is looked at anew when something has happened as often as a part of so many of what was known."""

CLOSE = 1e-9
"""Sums of parts are right but for so much."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer may come to.

    Attributes:
        tokens: of output, of one that runs. Long answers run longer, so at any moment more of those that run are long:
            on the average they come to the mean of all lengths, each weighed with itself.
        spread: the standard deviation of one length, in tokens.
        known: from how many lengths that was learned.
    """

    tokens: int
    spread: int
    known: int

    def leave(self, running: int) -> int:
        """Tokens beyond what so many that run are expected to come to, and one more: it is rarely not enough.

        What they come to together spreads with the root of their number, and what is expected of them is as uncertain
        as few lengths are known. Whatever the lengths are like, more than ``SPREADS`` standard deviations are wanted in
        one of 17 cases at most (Cantelli), and far more rarely of most.

        >>> expected = Expected(tokens=345, spread=170, known=256)
        >>> expected.leave(0), expected.leave(8), expected.leave(127)
        (681, 2075, 9422)
        """
        more = running + 1
        return isqrt(SPREADS**2 * self.spread**2 * more * (self.known + more) // self.known)


class Lengths:
    """Lengths of the answers of each (account, model), so that a hold need not be for the longest one possible.

    >>> lengths = Lengths()
    >>> lengths.expected("agent:a", "m") is None
    True
    >>> for tokens in (100, 100, 100, 100, 100, 100, 100, 500): lengths.learn("agent:a", "m", tokens)
    >>> lengths.expected("agent:a", "m")
    Expected(tokens=267, spread=141, known=8)
    >>> lengths.longer("agent:a", "m", 100), lengths.longer("agent:a", "m", 500)
    (500, None)
    >>> lengths.begun("agent:a", "m", 4_096).reached(1_000)  # it runs, and is longer than any before
    >>> lengths.expected("agent:a", "m")
    Expected(tokens=785, spread=398, known=8)
    """

    def __init__(self) -> None:
        self._known: Kept[tuple[str, str], _LifeTable] = Kept(_LifeTable)

    def expected(self, account: str, model: str) -> Expected | None:
        """Of an answer that begins; None: not enough is known."""
        known = self._known.get((account, model))
        return known.expected() if known is not None and known.ended >= LENGTHS_LEAST else None

    def longer(self, account: str, model: str, tokens: int) -> int | None:
        """What one that runs comes to on the average, that has so many tokens already; None: none was longer."""
        known = self._known.get((account, model))
        return known.longer(tokens) if known is not None else None

    def begun(self, account: str, model: str, most: int) -> Answer:
        """An answer begins, of ``most`` tokens at most: say how far it has come, and when it has ended."""
        return Answer(self._known, (account, model), most)

    def learn(self, account: str, model: str, tokens: int) -> None:
        """An answer was so long."""
        self.begun(account, model, tokens).ended(tokens)


class Answer:
    """An answer that has begun, of which the length is to be learned. Nothing is kept of one that has not come."""

    __slots__ = ("_bin", "_edge", "_has_ended", "_key", "_known", "_most")

    def __init__(self, known: Kept[tuple[str, str], _LifeTable], key: tuple[str, str], most: int) -> None:
        self._known, self._key, self._most = known, key, most
        self._bin, self._edge = 0, 1
        self._has_ended = False

    def reached(self, tokens: int) -> None:
        """It has so many tokens by now."""
        if tokens >= self._edge and not self._has_ended:
            bin = _bin(tokens)
            self._known.used(self._key).outlived(self._bin, bin, self._most)
            self._bin, self._edge = bin, _low(bin + 1)

    def ended(self, tokens: int | None) -> None:
        """It used so much; None: it is not known how much it would have used. Only the first word counts."""
        if tokens is not None and not self._has_ended:
            self.reached(tokens)
            self._known.used(self._key).died(self._bin, tokens)
        self._has_ended = True


class _LifeTable:
    """Of the answers that came to each bin, how many ended in it and how many came to the next.

    The product of the parts that came to the next is how many come so far (Kaplan and Meier, 1958, bin by bin). So an
    answer counts from its first token on: of those that run at once the short ones end first, and would pass for all;
    and one whose end is not known, because it was cut, is longer than it came.

    What becomes of those that are longer than any that has ended is not known. As many tokens are added to them as came
    between two ends on the average, and as much spread: as if they ended by chance (an exponential tail, Brown,
    Hollander and Korwar, 1974). None is longer than the longest that was asked for.
    """

    __slots__ = ("_came", "_deaths", "_happened", "_known", "_most", "_outlived", "_totals", "ended")

    def __init__(self) -> None:
        self.ended = self._came = 0.0
        self._most = 0
        self._outlived, self._deaths, self._totals = array("d"), array("d"), array("d")
        self._known: list[tuple[float, float]] = []
        self._happened = 0

    def outlived(self, bin: int, until: int, most: int) -> None:
        """One came from a bin to another, that may come to ``most`` tokens."""
        self._at(until - 1)
        self._most = max(self._most, most)
        outlived = self._outlived
        for passed in range(bin, until):
            outlived[passed] += 1
        self._came += _low(until) - _low(bin)

    def died(self, bin: int, tokens: int) -> None:
        """One has ended."""
        self._at(bin)
        self._deaths[bin] += 1
        self._totals[bin] += tokens
        self._came += tokens - _low(bin)
        self.ended += 1
        if self.ended >= LENGTHS_MAX:
            self.ended /= 2
            self._came /= 2
            self._most = 0  # that is told again
            self._outlived, self._deaths, self._totals = (
                array("d", [number / 2 for number in numbers])
                for numbers in (self._outlived, self._deaths, self._totals)
            )

    def expected(self) -> Expected:
        """Of two lengths or more."""
        lengths = self._lengths()
        mean = sum(length * part for length, part in lengths)
        square = sum(length * length * part for length, part in lengths)
        variance = (square - mean * mean) * self.ended / (self.ended - 1)
        tokens = ceil(square / mean - CLOSE) if mean else 0
        return Expected(tokens=tokens, spread=int(sqrt(max(0.0, variance)) + CLOSE), known=int(self.ended))

    def longer(self, tokens: int) -> int | None:
        """See ``Lengths``."""
        longer = [(length, part) for length, part in self._lengths() if length > tokens]
        if not longer:
            return None
        return ceil(sum(length * part for length, part in longer) / sum(part for _, part in longer) - CLOSE)

    def _lengths(self) -> list[tuple[float, float]]:
        """Lengths, and which part of all answers is so long."""
        if self._happened * FRESH > self.ended:
            self._known, self._happened = self._fresh(), 0
        return self._known

    def _fresh(self) -> list[tuple[float, float]]:
        lengths: list[tuple[float, float]] = []
        left = 1.0
        for outlived, deaths, total in zip(self._outlived, self._deaths, self._totals, strict=True):
            if deaths:
                ends = deaths / (outlived + deaths)
                lengths.append((total / deaths, left * ends))
                left *= 1 - ends
        if left > CLOSE and self.ended:
            low = _low(len(self._outlived))
            high = min(max(low, self._most), low + 2 * max(0.0, self._came) / self.ended)
            lengths += [(low, left / 2), (high, left / 2)]
        return lengths

    def _at(self, bin: int) -> None:
        """Something happens there."""
        self._happened += 1
        while len(self._outlived) <= bin:
            for numbers in (self._outlived, self._deaths, self._totals):
                numbers.append(0.0)


def _bin(tokens: int) -> int:
    """In which bin an answer of so many tokens is.

    >>> all(_low(_bin(tokens)) <= tokens < _low(_bin(tokens) + 1) for tokens in range(1, 10_000))
    True
    """
    octave = max(0, tokens.bit_length() - EXACT_BITS)
    return (octave << EXACT_BITS - 1) + (tokens >> octave)


def _low(bin: int) -> int:
    """The first number of tokens of a bin: in one each up to 15, then eight bins an octave.

    >>> [_low(bin) for bin in (0, 1, 2, 16, 17, 18, 25)]
    [0, 1, 2, 16, 18, 20, 36]
    """
    each = 1 << EXACT_BITS - 1
    octave, place = divmod(bin - each, each)
    return each + place << octave if bin >= each else bin
