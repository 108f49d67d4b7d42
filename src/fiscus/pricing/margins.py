"""How far counts fall short of what is billed: a floor that was measured, and what is learned from each call. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from math import ceil

import msgspec

from fiscus.contract import Refused
from fiscus.contract.errors import Invalid
from fiscus.pricing.tokenizers import Label

KEYS_MAX = 512
"""So many (provider, family, label) are remembered; the one that was used longest ago goes."""

SAMPLES_MAX = 64
"""So many of the latest shortfalls of a key are kept; the margin is their largest."""

MARGIN_MAX_PERMILLE = 4_000
"""No learned margin is larger: a call that was billed five times its count was not short by a margin."""

COUNT_LEAST = 200
"""Shorter inputs teach nothing about a ratio: the constant covers them."""


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """What is added at least: ``permille`` of the count and ``constant`` tokens."""

    permille: int
    constant: int


class Margin(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a count an upper bound: ``permille`` of it and ``constant`` tokens."""

    permille: int
    constant: int

    def over(self, tokens: int) -> int:
        """The count with its margin.

        >>> Margin(permille=100, constant=8).over(1_000)
        1108
        """
        return tokens + -(-tokens * self.permille // 1_000) + self.constant


# Measured over the recorded exchanges with ``make bench-counting`` (docs/guides/prices.md has the table), rounded up.
_FLOORS: Mapping[tuple[str, Label], Floor] = {}
_FLOOR_BY_LABEL: Mapping[Label, Floor] = {
    "exact": Floor(permille=10, constant=24),
    "reconstructed": Floor(permille=100, constant=48),
    "estimated": Floor(permille=250, constant=64),
}

_Key = tuple[str, str, Label]


class Margins:
    """Margins by provider, family of models and label of the count.

    >>> margins = Margins()
    >>> before = margins.of("anthropic", "claude-3", "estimated").permille
    >>> margins.learn("anthropic", "claude-3", "estimated", counted=1_000, billed=1_700)
    >>> before < margins.of("anthropic", "claude-3", "estimated").permille
    True
    """

    def __init__(self) -> None:
        self._shortfalls: OrderedDict[_Key, list[int]] = OrderedDict()

    def of(self, provider: str | None, family: str, label: Label) -> Margin:
        """The margin of a count."""
        floor = _FLOORS.get((family, label), _FLOOR_BY_LABEL[label])
        learned = max(self._shortfalls.get((provider or "", family, label), ()), default=0)
        return Margin(permille=max(floor.permille, learned), constant=floor.constant)

    def learn(self, provider: str | None, family: str, label: Label, *, counted: int, billed: int) -> None:
        """Remember how much more was billed than counted.

        Only pairs that belong together: the input of one call, without what ``Count.unseen`` names.

        Args:
            provider, family, label: of the count.
            counted: ``Count.tokens`` (≥ 0).
            billed: the provider's own input, cache reads and writes included.
        """
        if counted < COUNT_LEAST or billed < 0:
            return
        key = (provider or "", family, label)
        constant = _FLOORS.get((family, label), _FLOOR_BY_LABEL[label]).constant
        short = min(max(ceil((billed - constant - counted) * 1_000 / counted), 0), MARGIN_MAX_PERMILLE)
        known = self._shortfalls.setdefault(key, [])
        known.append(short)
        del known[:-SAMPLES_MAX]
        self._shortfalls.move_to_end(key)
        while len(self._shortfalls) > KEYS_MAX:
            self._shortfalls.popitem(last=False)

    def dump(self) -> bytes:
        """All that was learned, as JSON."""
        return msgspec.json.encode([[*key, list(values)] for key, values in self._shortfalls.items()])

    @classmethod
    def load(cls, text: bytes) -> Margins:
        """What ``dump`` wrote.

        Raises:
            Invalid: it is something else.
        """
        try:
            rows = msgspec.json.decode(text, type=list[tuple[str, str, Label, list[int]]])
        except msgspec.DecodeError as error:
            raise Invalid(Refused(code="invalid", detail=f"these are no margins: {error}", field="margins")) from None
        margins = cls()
        for provider, family, label, values in rows[-KEYS_MAX:]:
            kept = [min(max(value, 0), MARGIN_MAX_PERMILLE) for value in values[-SAMPLES_MAX:]]
            margins._shortfalls[provider, family, label] = kept
        return margins
