"""How much a stream has produced so far, by what its texts and their pieces came to when they were billed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from fiscus.dialects import Kind, Produced
from fiscus.gateway.kept import Kept

SAMPLES_MAX = 64
SAMPLES_LEAST = 8

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
        self._hides: Kept[tuple[str, bool | None], deque[bool]] = Kept(_last)
        self._permille: Kept[tuple[str, str], deque[int]] = Kept(_last)
        self._piece_permille: Kept[tuple[str, str], deque[int]] = Kept(_last)

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
