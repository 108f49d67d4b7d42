"""The price of a model at one time, and what a call costs by it. Pure, exact: integers over one denominator."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import lcm
from operator import itemgetter
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from fiscus.contract import Tokens

UnknownPolicy = Literal["refuse", "tokens_only", "dearest"]
UNKNOWN_POLICIES: tuple[UnknownPolicy, ...] = get_args(UnknownPolicy)

Rate = Decimal | int | Fraction

PriceSource = Literal["price_book", "dearest"]
"""What a record says of a cost by such a price (``CallRecord.cost_source``)."""


class Row(NamedTuple):
    """Rates of one tier, each the numerator of nano-USD per token over the price's denominator."""

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int
    audio_cache_read: int
    image_input: int
    image_cache_read: int
    video_input: int
    output: int
    reasoning: int
    audio_output: int
    image_output: int
    video_output: int


INPUT_RATES = Row._fields[: Row._fields.index("output")]
OUTPUT_RATES = Row._fields[Row._fields.index("output") :]


def _rates_of(*, cache: bool, audio: bool, images: bool) -> itemgetter[Any]:
    """What the input of a call may be charged by, of a ``Row``."""
    left_out = (() if cache else ("cache_write",)) + (() if audio else ("audio",))
    left_out += () if images else ("image", "video")
    return itemgetter(*(Row._fields.index(name) for name in INPUT_RATES if not name.startswith(left_out)))


_INPUTS = {
    flags: _rates_of(cache=flags[0], audio=flags[1], images=flags[2]) for flags in product((False, True), repeat=3)
}
_OUTPUTS = itemgetter(*(Row._fields.index(name) for name in OUTPUT_RATES))


class WorstCase(NamedTuple):
    """What no call costs more than, as a function of its output: numerators of nano-USD over ``denominator``."""

    fixed: int
    each: int
    denominator: int

    def cost(self, output_tokens: int) -> int:
        """Nano-USD, for so many tokens of each answer."""
        return -(-(self.fixed + self.each * output_tokens) // self.denominator)


# A rate that a price does not state is the first of these that it does: a cache read that nobody prices apart is input.
_INSTEAD: Mapping[str, tuple[str, ...]] = {
    "cache_read": ("input",),
    "cache_write_5m": ("input",),
    "cache_write_1h": ("cache_write_5m", "input"),
    "audio_input": ("input",),
    "audio_cache_read": ("audio_input", "cache_read", "input"),
    "image_input": ("input",),
    "image_cache_read": ("image_input", "cache_read", "input"),
    "video_input": ("image_input", "input"),
    # What is priced by its input only (embeddings) has no output; if it does have some, that is not free.
    "output": ("input",),
    "reasoning": ("output", "input"),
    "audio_output": ("output", "input"),
    "image_output": ("output", "input"),
    "video_output": ("image_output", "output", "input"),
}

_USD = 1_000_000_000
FEES_UNLESS_KNOWN: Mapping[str, Fraction] = {
    "web_searches": Fraction(35 * _USD, 1_000),
    "file_searches": Fraction(5 * _USD, 2_000),
    "code_executions": Fraction(5 * _USD, 100),
    "audio_seconds": Fraction(6 * _USD, 3_600),
    "characters": Fraction(200 * _USD, 1_000_000),
    "pages": Fraction(10 * _USD, 1_000),
}
"""Nano-USD each, where a price does not say: no less than the dearest that the catalogue has. A use without a price of
its own is never free."""


class Extras(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is billed beside what ``Tokens`` tells apart, all integers ≥ 0.

    Attributes:
        image_output, video_output, video_input: tokens, parts of output and input.
        web_searches, file_searches, code_executions: calls of tools that the provider runs.
        audio_seconds, characters, pages: for models that are billed by them.
    """

    image_output: int = 0
    video_output: int = 0
    video_input: int = 0
    web_searches: int = 0
    file_searches: int = 0
    code_executions: int = 0
    audio_seconds: int = 0
    characters: int = 0
    pages: int = 0


NO_EXTRAS = Extras()
_FEES = tuple(FEES_UNLESS_KNOWN)


class UnknownPrice(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody knows what this model costs: refuse the call, or count its tokens and leave the cost open. Never 0."""

    provider: str | None
    model: str
    policy: UnknownPolicy
    reason: str


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a model costs. Made by ``price_from``.

    Attributes:
        price_id: stable; says the source, provider, model, context, from when it is valid, and a digest of the rates.
        provider, model: the ids that the source resolved the asked ones to.
        rows: tiers by input tokens, ascending: a row holds for all tokens of a call whose input is above its start.
        fees: numerators per use; ``requests`` is charged once per call.
        denominator: of all numerators; their quotients are nano-USD.
    """

    price_id: str
    source: PriceSource
    provider: str
    model: str
    rows: tuple[tuple[int, Row], ...]
    fees: Mapping[str, int]
    denominator: int
    unpriced_fees: tuple[str, ...] = ()

    def cost(self, tokens: Tokens, extras: Extras = NO_EXTRAS) -> int:
        """Nano-USD that the call costs, rounded up once.

        Parts that are larger than their whole are cut to it. Audio and images are taken to be what was not cached, as
        far as there is room (which is the dearer reading, when a provider does not tell them apart).

        >>> from decimal import Decimal
        >>> price = price_from({"input": Decimal(3), "output": Decimal(15)}, provider="p", model="m", source_name="x")
        >>> price.cost(Tokens(input=1_000, output=10))
        3150000
        """
        row = self._row(tokens.input)
        rest, total = tokens.input, 0
        if tokens.cache_write_1h or tokens.cache_write_5m:
            written_1h = min(tokens.cache_write_1h, rest)
            rest -= written_1h
            written_5m = min(tokens.cache_write_5m, rest)
            rest -= written_5m
            total = written_1h * row.cache_write_1h + written_5m * row.cache_write_5m
        read = min(tokens.cache_read, rest)
        rest -= read
        if tokens.audio_input:
            new = min(tokens.audio_input, rest)
            cached = min(tokens.audio_input - new, read)
            rest, read = rest - new, read - cached
            total += new * row.audio_input + cached * row.audio_cache_read
        if tokens.image_input:
            new = min(tokens.image_input, rest)
            cached = min(tokens.image_input - new, read)
            rest, read = rest - new, read - cached
            total += new * row.image_input + cached * row.image_cache_read
        out = tokens.output
        if extras is not NO_EXTRAS:
            video = min(extras.video_input, rest)
            rest -= video
            image_out = min(extras.image_output, out)
            video_out = min(extras.video_output, out - image_out)
            out -= image_out + video_out
            total += video * row.video_input + image_out * row.image_output + video_out * row.video_output
            total += self._fees(extras)
        audio_out = min(tokens.audio_output, out)
        out -= audio_out
        reasoning = min(tokens.reasoning, out)
        total += rest * row.input + read * row.cache_read
        total += audio_out * row.audio_output + reasoning * row.reasoning + (out - reasoning) * row.output
        return -(-(total + self.fees["requests"]) // self.denominator)

    def worst_case_cost(
        self,
        *,
        input_tokens_max: int,
        output_tokens_max: int,
        n: int = 1,
        may_write_cache: bool = True,
        may_have_audio: bool = True,
        may_have_images: bool = True,
        extras_max: Extras = NO_EXTRAS,
    ) -> int:
        """Nano-USD that no call within these bounds costs more than; see ``worst_case``.

        Args:
            output_tokens_max: of each of the ``n`` answers. The rest: see there.
        """
        bound = self.worst_case(
            input_tokens_max=input_tokens_max,
            n=n,
            may_write_cache=may_write_cache,
            may_have_audio=may_have_audio,
            may_have_images=may_have_images,
            extras_max=extras_max,
        )
        return bound.cost(output_tokens_max)

    def worst_case(
        self,
        *,
        input_tokens_max: int,
        n: int = 1,
        may_write_cache: bool = True,
        may_have_audio: bool = True,
        may_have_images: bool = True,
        extras_max: Extras = NO_EXTRAS,
    ) -> WorstCase:
        """What no call within these bounds costs more than, for any bound of its output.

        Whatever the split of the input into plain, read, written to a cache, heard and seen, whatever the tier that
        its length reaches, whatever part of the output is reasoning or sound.

        Args:
            input_tokens_max: of the call, which has ``n`` answers.
            may_write_cache: False: the request cannot write to a cache, or the provider does not charge for that.
            may_have_audio, may_have_images: False: not in the request. What a model produces is its own affair: one
                whose price has a rate for images makes them of a text, too.
            extras_max: the most of everything else; its tokens are parts of the two bounds.
        """
        inputs = _INPUTS[may_write_cache, may_have_audio, may_have_images]
        reached = [row for start, row in self.rows if start < max(input_tokens_max, 1)]
        input_rate: int = max([max(inputs(row)) for row in reached])
        output_rate: int = max([max(_OUTPUTS(row)) for row in reached])
        fees = self.fees["requests"] + (self._fees(extras_max) if extras_max is not NO_EXTRAS else 0)
        return WorstCase(input_tokens_max * input_rate + fees, n * output_rate, self.denominator)

    def unpriced(self, extras: Extras) -> tuple[str, ...]:
        """Names of the uses that this price does not have, which are charged by ``FEES_UNLESS_KNOWN``."""
        return tuple(name for name in self.unpriced_fees if getattr(extras, name))

    def _row(self, input_tokens: int) -> Row:
        rows = self.rows
        if len(rows) == 1:
            return rows[0][1]
        return next(row for start, row in reversed(rows) if input_tokens > start)

    def _fees(self, extras: Extras) -> int:
        total = 0
        for name in _FEES:
            uses: int = getattr(extras, name)
            total += uses * self.fees[name]
        return total


def surcharged(price: Price, factor: Fraction, context: str) -> Price:
    """A price whose tokens cost so much more, in a context; its fees are as they were.

    >>> from decimal import Decimal
    >>> usual = price_from({"input": Decimal(3), "output": Decimal(15)}, provider="p", model="m", source_name="x")
    >>> more = surcharged(usual, Fraction(11, 10), "us")
    >>> more.cost(Tokens(input=1_000, output=10)), more.price_id.split("#")[0]
    (3465000, 'x:p/m+us@always')
    """
    rows = tuple((start, Row(*(rate * factor.numerator for rate in row))) for start, row in price.rows)
    fees = {name: fee * factor.denominator for name, fee in price.fees.items()}
    denominator = price.denominator * factor.denominator
    where, _, valid = price.price_id.partition("@")
    return msgspec.structs.replace(
        price,
        price_id=f"{where}+{context}@{valid.rpartition('#')[0]}#{_digest(rows, fees, denominator)}",
        rows=rows,
        fees=fees,
        denominator=denominator,
    )


def _digest(rows: tuple[tuple[int, Row], ...], fees: Mapping[str, int], denominator: int) -> str:
    content = repr((rows, sorted(fees.items()), denominator)).encode()
    return hashlib.blake2b(content, digest_size=4).hexdigest()


def price_from(
    usd_per_million: Mapping[str, Rate],
    *,
    provider: str,
    model: str,
    source_name: str,
    tiers: Sequence[tuple[int, Mapping[str, Rate]]] = (),
    fees: Mapping[str, Fraction] | None = None,
    context: str = "",
    valid_from: str = "",
    source: PriceSource = "price_book",
) -> Price:
    """A price from rates.

    Args:
        usd_per_million: USD per million tokens (``Decimal``, ``int``, ``Fraction``) by the names of ``Row``; ``input``
            must be there, what is absent follows from it.
        tiers: (input tokens, rates): above so many input tokens these rates hold for all tokens; absent ones stay.
        fees: nano-USD per use, by the names of ``Extras`` and ``requests``.
        context: of the price, such as a service tier.
        valid_from: a date.

    Returns:
        The price; its id says all of this.
    """
    rates = {name: _per_token(value) for name, value in usd_per_million.items()}
    rows = [(-1, _filled(rates))]
    for start, changed in sorted(tiers, key=lambda tier: tier[0]):
        rates = {**rates, **{name: _per_token(value) for name, value in changed.items()}}
        rows.append((start, _filled(rates)))
    known = dict(fees or {})
    every_fee = {"requests": Fraction(0), **FEES_UNLESS_KNOWN, **known}
    denominator = lcm(
        *(rate.denominator for _, row in rows for rate in row.values()),
        *(fee.denominator for fee in every_fee.values()),
    )
    whole_rows = tuple(
        (start, Row(**{name: int(rate * denominator) for name, rate in row.items()})) for start, row in rows
    )
    whole_fees = {name: int(fee * denominator) for name, fee in every_fee.items()}
    digest = _digest(whole_rows, whole_fees, denominator)
    where = f"{provider}/{model}" + (f"+{context}" if context else "")
    return Price(
        price_id=f"{source_name}:{where}@{valid_from or 'always'}#{digest}",
        source=source,
        provider=provider,
        model=model,
        rows=whole_rows,
        fees=whole_fees,
        denominator=denominator,
        unpriced_fees=tuple(name for name in _FEES if name not in known),
    )


def _per_token(usd_per_million: Rate) -> Fraction:
    """Nano-USD per token, exact."""
    return Fraction(usd_per_million) * _USD / 1_000_000


def _filled(rates: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """All rates of a row; an absent one is the one that stands for it."""
    whole = dict(rates)
    for name in Row._fields:
        if name not in whole:
            whole[name] = next(rates[other] for other in _INSTEAD[name] if other in rates)
    return whole
