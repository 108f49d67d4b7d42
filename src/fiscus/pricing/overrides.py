"""Prices that an operator states: they come before what the catalogue says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from fractions import Fraction

import msgspec

from fiscus.contract import Refused
from fiscus.contract.errors import Invalid
from fiscus.core.checks import FEES, RATES, TIER_RATES
from fiscus.pricing.price import Price, price_from

OVERRIDES_MAX = 10_000
TIERS_MAX = 16
PATTERN_LENGTH_MAX = 256
USD_PER_MILLION_MAX = 1_000_000
"""A price above one dollar a token is a slip of the pen."""

Usd = int | str
"""USD as an integer or a decimal string; a float is refused."""


class OverrideTier(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Other rates for all tokens of a call whose input is above ``above_input_tokens``."""

    above_input_tokens: int
    input: Usd | None = None
    output: Usd | None = None
    cache_read: Usd | None = None
    cache_write_5m: Usd | None = None
    cache_write_1h: Usd | None = None


class PriceOverride(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One price of our own.

    Attributes:
        provider: as the caller names it, ``*`` for any.
        model: a name, or a pattern with ``*`` and ``?``; case does not matter. The first override that fits wins.
        input … video_output: USD per million tokens; only ``input`` and ``output`` have to be there. What is left out
            follows from them (a cache read, say, is plain input).
        requests, web_searches, file_searches, code_executions, audio_seconds, characters, pages: USD for 1,000 of them.
        service_tier: only for calls of this tier; without it, for calls of every tier.
        valid_from, valid_to: dates (``2026-01-31``), or in Python instants with a zone; half-open.

    >>> PriceOverride(provider="vllm", model="llama-*", input="0.2", output="0.6").fits("vllm", "llama-3-70b", None)
    True
    """

    provider: str
    model: str
    input: Usd
    output: Usd
    cache_read: Usd | None = None
    cache_write_5m: Usd | None = None
    cache_write_1h: Usd | None = None
    audio_input: Usd | None = None
    audio_cache_read: Usd | None = None
    image_input: Usd | None = None
    image_cache_read: Usd | None = None
    video_input: Usd | None = None
    reasoning: Usd | None = None
    audio_output: Usd | None = None
    image_output: Usd | None = None
    video_output: Usd | None = None
    requests: Usd | None = None
    web_searches: Usd | None = None
    file_searches: Usd | None = None
    code_executions: Usd | None = None
    audio_seconds: Usd | None = None
    characters: Usd | None = None
    pages: Usd | None = None
    tiers: tuple[OverrideTier, ...] = ()
    service_tier: str | None = None
    valid_from: date | None = None
    valid_to: date | None = None

    def fits(self, provider: str | None, model: str, service_tier: str | None) -> bool:
        """Whether it is for this model (time apart)."""
        return (
            (self.provider == "*" or self.provider.lower() == (provider or "").lower())
            and fnmatchcase(model.lower(), self.model.lower())
            and self.service_tier in (None, service_tier)
        )


class StatedPrice(msgspec.Struct, frozen=True, kw_only=True):
    """A checked override: when it holds, and at what price."""

    override: PriceOverride
    start: datetime
    end: datetime
    price: Price

    def fits(self, provider: str | None, model: str, service_tier: str | None) -> bool:
        """Whether it is for this model (time apart)."""
        return self.override.fits(provider, model, service_tier)


def stated_prices(overrides: Sequence[PriceOverride]) -> tuple[StatedPrice, ...]:
    """Check overrides and work out their prices.

    Raises:
        Invalid: a price, pattern or date is not one; ``field`` says which, as ``prices[2].input``.
    """
    return tuple(_stated(override, f"prices[{index}]") for index, override in enumerate(overrides))


def _stated(override: PriceOverride, where: str) -> StatedPrice:
    for name in ("provider", "model"):
        value = getattr(override, name)
        if not 0 < len(value) <= PATTERN_LENGTH_MAX:
            raise _invalid(f"{where}.{name}", f"{name} must have 1 … {PATTERN_LENGTH_MAX} characters")
    start = _instant(override.valid_from, datetime.min.replace(tzinfo=UTC), f"{where}.valid_from")
    end = _instant(override.valid_to, datetime.max.replace(tzinfo=UTC), f"{where}.valid_to")
    if start >= end:
        raise _invalid(f"{where}.valid_to", "valid_to must be after valid_from")
    if len(override.tiers) > TIERS_MAX:
        raise _invalid(f"{where}.tiers", f"at most {TIERS_MAX} tiers")
    tiers = []
    for index, tier in enumerate(override.tiers):
        if tier.above_input_tokens < 0:
            raise _invalid(f"{where}.tiers[{index}].above_input_tokens", "above_input_tokens must be ≥ 0")
        tiers.append((tier.above_input_tokens, _amounts(tier, TIER_RATES, f"{where}.tiers[{index}]")))
    fees = {
        name: Fraction(usd) * 1_000_000 for name, usd in _amounts(override, FEES, where).items()
    }  # USD for 1,000 -> nano-USD for one
    price = price_from(
        _amounts(override, RATES, where),
        tiers=tiers,
        fees=fees,
        provider=override.provider,
        model=override.model,
        context=override.service_tier or "",
        valid_from="" if override.valid_from is None else override.valid_from.isoformat(),
        source_name="own",
    )
    return StatedPrice(override=override, start=start, end=end, price=price)


def _amounts(source: PriceOverride | OverrideTier, names: Sequence[str], where: str) -> dict[str, Decimal]:
    return {name: usd(value, f"{where}.{name}") for name in names if (value := getattr(source, name)) is not None}


def usd(value: object, field: str) -> Decimal:
    """USD as a decimal, or ``Invalid`` with the field."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _invalid(field, f"{field} must be USD as an integer or a decimal string, not {value!r:.50}")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise _invalid(field, f"{field} is no decimal number: {value!r:.50}") from None
    if not amount.is_finite() or not 0 <= amount <= USD_PER_MILLION_MAX:
        raise _invalid(field, f"{field} must be in 0 … {USD_PER_MILLION_MAX} USD, not {value!r:.50}")
    if amount and amount.adjusted() < -12:
        raise _invalid(field, f"{field} is smaller than any price: {value!r:.50}")
    return amount


def _instant(value: date | datetime | None, otherwise: datetime, field: str) -> datetime:
    if value is None:
        return otherwise
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    if value.tzinfo is None:
        raise _invalid(field, f"{field} needs a zone")
    return value.astimezone(UTC)


def _invalid(field: str, detail: str) -> Invalid:
    return Invalid(Refused(code="invalid", detail=detail, field=field))
