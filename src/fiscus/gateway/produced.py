"""How much a stream has produced so far, and what its kind usually produces."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from math import isqrt
from operator import mul
from typing import Any, Generic, TypeVar

import msgspec

from fiscus.dialects import Kind, Produced

KEYS_MAX = 4_096
SAMPLES_MAX = 64
SAMPLES_LEAST = 8
LENGTHS_MAX = 256
"""So many of the last lengths are known of a kind: of the longest, which weigh most, a few have to be among them."""

BEGUN_MAX = 1_024
"""Answers of a kind that have begun and are not learned yet."""

SPREADS = 4
"""See ``Expected.leave``. With 3, several of 128 streams are cut now and then, with 2 also of fewer."""

BYTES_PER_TOKEN = 3
"""A token has at least so many bytes of UTF-8, on the average of what has come; a bound until more is known."""

BYTES_PER_TOKEN_MAX = 12
"""No text has so many bytes to a token, on the average of what has come: most have three to five."""

IMAGE_TOKENS = 2_000
"""An image in a stream comes to so many at most (Gemini's largest)."""

WHOLE_PERMILLE = 1_000
SHARE_TOKENS_LEAST = 32
"""Shorter texts say nothing of their model: the few tokens around a text weigh too much in them."""

HIDDEN_TOKENS = 32
"""A model that bills so many tokens more than it shows thinks unseen."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Share(msgspec.Struct, frozen=True):
    """Bounds of what texts come to, in thousandths.

    Attributes:
        permille: of the bound by bytes, how much plain ASCII really comes to at most.
        least_permille: and at least: half of the least that was seen.
        piece_permille: of a token, how much each piece of plain ASCII comes to at most; None: that is not known.
    """

    permille: int = WHOLE_PERMILLE
    least_permille: int = 0
    piece_permille: int | None = None


NOTHING_KNOWN = Share()


def tokens_produced(produced: Mapping[tuple[int, Kind], Produced], share: Share = NOTHING_KNOWN) -> int:
    """An upper estimate of the tokens that have come, all choices and kinds together.

    No less than the number of pieces: a provider sends at least a token in each. The lower of the bounds by bytes and
    by pieces counts, unless so few pieces have more bytes than so many tokens ever had: these pieces are others.

    Args:
        produced: as a meter has it.
        share: what is known of the texts; see ``Shares``.

    >>> tokens_produced({(0, "text"): Produced(characters=300, utf8_bytes=300, deltas=50)})
    100
    >>> tokens_produced({(0, "text"): Produced(characters=300, utf8_bytes=300, deltas=50)}, Share(750))
    75
    >>> share = Share(750, least_permille=450, piece_permille=1_020)
    >>> tokens_produced({(0, "text"): Produced(characters=300, utf8_bytes=300, deltas=50)}, share)
    51
    >>> tokens_produced({(0, "text"): Produced(characters=300, utf8_bytes=300, deltas=2)}, share)
    75
    """
    total = 0
    for (_, kind), one in produced.items():
        if kind == "image":
            total += one.deltas * IMAGE_TOKENS
        elif kind != "opaque":
            other = min(one.utf8_bytes, 2 * (one.utf8_bytes - one.characters))  # bytes that are not ASCII
            thousandths = (one.utf8_bytes - other) * share.permille + other * WHOLE_PERMILLE
            tokens = max(one.deltas, -(-thousandths // (BYTES_PER_TOKEN * WHOLE_PERMILLE)))
            if share.piece_permille is not None and tokens > one.deltas:
                by_pieces = -(-one.deltas * share.piece_permille // WHOLE_PERMILLE)
                if by_pieces * BYTES_PER_TOKEN * WHOLE_PERMILLE >= (one.utf8_bytes - other) * share.least_permille:
                    tokens = min(tokens, by_pieces - (-other // BYTES_PER_TOKEN))
            total += tokens
    return total


def tokens_at_least(produced: Mapping[tuple[int, Kind], Produced]) -> int:
    """No more tokens than have come, all choices and kinds together: a piece has at least one, and so have many bytes.

    >>> tokens_at_least({(0, "text"): Produced(characters=300, utf8_bytes=300, deltas=50)})
    50
    >>> tokens_at_least({(0, "text"): Produced(characters=3_000, utf8_bytes=3_000, deltas=2)})
    250
    """
    total = 0
    for (_, kind), one in produced.items():
        if kind != "opaque":
            total += one.deltas if kind == "image" else max(one.deltas, one.utf8_bytes // BYTES_PER_TOKEN_MAX)
    return total


class _Kept(Generic[Key, Value]):
    """What is known of each of the keys that were used last."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._known: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """What is known of a key."""
        return self._known.get(key)

    def used(self, key: Key) -> Value:
        """What is known of a key, to which something is added."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._make()
            if len(self._known) > KEYS_MAX:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known


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
    """

    def __init__(self) -> None:
        self._known: _Kept[tuple[str, str], _Lengths] = _Kept(_Lengths)

    def expected(self, account: str, model: str) -> Expected | None:
        """Of an answer that begins; None: not enough is known."""
        known = self._known.get((account, model))
        return known.expected() if known is not None and len(known.last) >= SAMPLES_LEAST else None

    def longer(self, account: str, model: str, tokens: int) -> int | None:
        """What one that runs comes to, that has so many tokens already; None: none was longer."""
        known = self._known.get((account, model))
        longer = [length for length in known.last if length > tokens] if known is not None else []
        return -(-sum(map(mul, longer, longer)) // sum(longer)) if longer else None

    def begun(self, account: str, model: str) -> Answer:
        """An answer begins: say when it has ended."""
        return self._known.used((account, model)).begun()

    def learn(self, account: str, model: str, tokens: int) -> None:
        """An answer was so long."""
        self.begun(account, model).ended(tokens)


class Answer:
    """An answer that has begun, of which the length is to be learned.

    Attributes:
        come: tokens so far, as far as that is known.
        tokens: all, once it has ended.
    """

    __slots__ = ("_of", "come", "has_ended", "tokens")

    def __init__(self, of: _Lengths) -> None:
        self.come = 0
        self.has_ended = False
        self.tokens: int | None = None
        self._of = of

    def ended(self, tokens: int | None) -> None:
        """It was so long; None: its length says nothing. Only the first word counts."""
        if not self.has_ended:
            self.has_ended, self.tokens = True, tokens
            self._of.learn()


class _Lengths:
    """The last lengths of one kind, with their sum and that of their squares.

    They are learned in the order in which the answers began: of those that run at once the short ones end first, and
    would pass for all. One that is long already, and runs on, does not keep those behind it from being learned: a
    length that is known of another, and that it may still come to, stands for its own.
    """

    def __init__(self) -> None:
        self.last: deque[int] = deque()
        self._total = self._squares = 0
        self._begun: deque[Answer] = deque()
        self._stood_for = 0

    def begun(self) -> Answer:
        """One begins. Of too many that have not been learned the oldest is learned no more."""
        if len(self._begun) == BEGUN_MAX:
            self._begun.popleft()
        answer = Answer(self)
        self._begun.append(answer)
        return answer

    def learn(self) -> None:
        """Learn those before which none runs any more, but those that are long already."""
        while self._begun:
            first = self._begun[0]
            tokens = first.tokens if first.has_ended else self._like(first.come)
            if tokens is None and not first.has_ended:
                return
            self._begun.popleft()
            if tokens is not None:
                self._add(tokens)

    def _like(self, come: int) -> int | None:
        """A length that one that runs may come to, of those longer ones that are known each in its turn; None: wait."""
        if len(self.last) < SAMPLES_LEAST or come * self._total <= self._squares:
            return None
        longer = [length for length in self.last if length > come]
        self._stood_for += 1
        return longer[self._stood_for % len(longer)] if longer else None

    def _add(self, tokens: int) -> None:
        """One more; the oldest is forgotten."""
        oldest = self.last.popleft() if len(self.last) == LENGTHS_MAX else 0
        self.last.append(tokens)
        self._total += tokens - oldest
        self._squares += tokens**2 - oldest**2

    def expected(self) -> Expected:
        """Of two lengths or more."""
        count, total, squares = len(self.last), self._total, self._squares
        variance = (count * squares - total**2) // (count * (count - 1))
        return Expected(tokens=-(-squares // max(1, total)), spread=isqrt(variance), known=count)


class Shares:
    """What the texts of each model came to when they were billed, by their bytes and by the pieces they came in.

    Both are learned of who sent them: in how many pieces a text comes is up to the upstream.

    >>> shares = Shares()
    >>> shares.shows_all("m"), shares.of("openai", "m")
    (False, Share(permille=1000, least_permille=0, piece_permille=None))
    >>> for tokens in (60, 60, 60, 60, 60, 60, 60, 61):
    ...     shares.learn("openai", "m", bound=100, billed=tokens, pieces=60)
    >>> shares.shows_all("m"), shares.of("openai", "m")
    (True, Share(permille=620, least_permille=300, piece_permille=1034))
    >>> shares.shows_all("m", thinks=False)
    False
    >>> shares.learn("openai", "m", bound=100, billed=900)
    >>> shares.shows_all("m"), shares.of("openai", "m")
    (False, Share(permille=1000, least_permille=300, piece_permille=1034))
    """

    def __init__(self) -> None:
        self._hides: _Kept[tuple[str, bool | None], deque[bool]] = _Kept(_last)
        self._permille: _Kept[tuple[str, str], deque[int]] = _Kept(_last)
        self._piece_permille: _Kept[tuple[str, str], deque[int]] = _Kept(_last)

    def shows_all(self, model: str, thinks: bool | None = None) -> bool:
        """Whether what a model bills is known to be what it shows; else nobody sees how much it has produced.

        What it shows when it was asked to think, or not to, says nothing of what it hides when it was not.
        """
        known = self._hides.get((model, thinks))
        return known is not None and not any(known)

    def of(self, upstream: str, model: str) -> Share:
        """What the texts of a model come to at an upstream at most, as far as enough of them is known."""
        known = self._permille.get((upstream, model))
        permille, piece_permille = _at_most(known), _at_most(self._piece_permille.get((upstream, model)))
        return Share(
            permille=WHOLE_PERMILLE if permille is None else min(WHOLE_PERMILLE, permille),
            least_permille=0 if permille is None or known is None else min(known) // 2,
            piece_permille=None if piece_permille is None else max(WHOLE_PERMILLE, piece_permille),
        )

    def learn(
        self,
        upstream: str,
        model: str,
        *,
        bound: int,
        billed: int,
        pieces: int | None = None,
        thinks: bool | None = None,
        is_text: bool = True,
    ) -> None:
        """A whole answer was billed.

        Args:
            upstream: of whom.
            model: as the caller names it.
            bound: how many tokens it has at most, by its bytes.
            billed: how many were billed.
            pieces: in how many it came; None: at once.
            thinks: whether it was asked to.
            is_text: whether it is nothing but text.
        """
        self._hides.used((model, thinks)).append(billed > bound + HIDDEN_TOKENS)
        if is_text and bound >= SHARE_TOKENS_LEAST:
            self._permille.used((upstream, model)).append(-(-billed * WHOLE_PERMILLE // bound))
            if pieces:
                self._piece_permille.used((upstream, model)).append(-(-billed * WHOLE_PERMILLE // pieces))


def _at_most(known: deque[int] | None) -> int | None:
    """An upper bound of a share of which so many are known: as far above them all as they lie apart."""
    if known is None or len(known) < SAMPLES_LEAST:
        return None
    most = max(known)
    return most + most - min(known)


def _last() -> deque[Any]:
    return deque(maxlen=SAMPLES_MAX)
