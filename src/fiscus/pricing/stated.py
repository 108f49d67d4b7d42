"""Own prices as the ledger keeps them, and as a price book takes them: nano-USD there, decimals of USD here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from fiscus.contract import Refused
from fiscus.contract.errors import Invalid
from fiscus.core.commands import PriceTier, PutPrice
from fiscus.core.outcomes import PriceAnswer, PriceTermsAnswer
from fiscus.pricing.overrides import OverrideTier, PriceOverride, Usd, usd

NANO = 1_000_000_000


def put_price(
    price: str | None,
    provider: str,
    model: str,
    *,
    rates: Mapping[str, Usd],
    fees: Mapping[str, Usd] | None = None,
    tiers: Mapping[int, Mapping[str, Usd]] | None = None,
    service_tier: str | None = None,
    valid_from: datetime | None = None,
    valid_to: datetime | None = None,
) -> PutPrice:
    """The command for a price in USD: per million tokens, for 1,000 of what is charged by use.

    Raises:
        Invalid: a price is none, or finer than a nano-USD; names the field.

    >>> put_price(None, "vllm", "llama", rates={"input": "0.25", "output": 1}).rates
    {'input': 250000000, 'output': 1000000000}
    """
    return PutPrice(
        price=price if price is not None else ":".join(filter(None, (provider, model, service_tier))),
        provider=provider,
        model=model,
        rates=_nanousd(rates, "rates"),
        fees=_nanousd(fees or {}, "fees"),
        tiers=tuple(
            PriceTier(above_input_tokens=above, rates=_nanousd(other, f"tiers[{index}].rates"))
            for index, (above, other) in enumerate(sorted((tiers or {}).items()))
        ),
        service_tier=service_tier,
        valid_from=valid_from,
        valid_to=valid_to,
    )


def _nanousd(prices: Mapping[str, Usd], where: str) -> dict[str, int]:
    return {name: _exact(value, f"{where}.{name}") for name, value in prices.items()}


def _exact(value: Usd, field: str) -> int:
    amount = usd(value, field) * NANO
    if amount != amount.to_integral_value():
        detail = f"{field}: a price has at most nine decimals of USD, not {value!r:.50}"
        raise Invalid(Refused(code="invalid", detail=detail, field=field))
    return int(amount)


def overrides_of(prices: Iterable[PriceAnswer]) -> list[PriceOverride]:
    """Prices of the ledger as a price book takes them, in their order."""
    return [override for price in prices for override in _overrides_of(price)]


def _overrides_of(price: PriceAnswer) -> Iterator[PriceOverride]:
    following: datetime | None = None
    for terms in reversed(price.terms):
        ends = [end for end in (terms.valid_to, following) if end is not None]
        yield _override(price, terms, min(ends, default=None))
        following = terms.valid_from


def _override(price: PriceAnswer, terms: PriceTermsAnswer, end: datetime | None) -> PriceOverride:
    return PriceOverride(
        provider=price.provider,
        model=price.model,
        service_tier=price.service_tier,
        valid_from=terms.valid_from,
        valid_to=end,
        tiers=tuple(
            OverrideTier(above_input_tokens=tier.above_input_tokens, **_usd_of(tier.rates)) for tier in terms.tiers
        ),
        **_usd_of(terms.rates),
        **_usd_of(terms.fees),
    )


def _usd_of(prices: Mapping[str, int]) -> dict[str, Any]:
    return {name: f"{amount // NANO}.{amount % NANO:09d}" for name, amount in prices.items()}
