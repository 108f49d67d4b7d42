"""The catalogue of prices: genai-prices, as it was when it was packaged. Nothing is fetched.

The package is imported when a price is first asked for (0.3 s); its types stay in this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol

import msgspec

from fiscus.contract import Tokens
from fiscus.pricing.price import Price, Rate, Row, price_from

SOURCE = "genai-prices"

_PROVIDERS: Mapping[str, str] = {
    "gemini": "google",
    "vertex": "google",
    "vertexai": "google",
    "bedrock": "aws",
    "azure-openai": "azure",
    "azure-ai": "azure",
    "xai": "x-ai",
    "grok": "x-ai",
    "z.ai": "zai",
    "voyage": "voyageai",
}
"""Our names of providers, where the catalogue would not find them, or find another one, by itself."""

_RATES: Mapping[str, str] = {
    "input": "input_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write_5m": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_input": "input_audio_mtok",
    "audio_cache_read": "cache_audio_read_mtok",
    "image_input": "input_image_mtok",
    "image_cache_read": "cache_image_read_mtok",
    "video_input": "input_video_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_output": "output_audio_mtok",
    "image_output": "output_image_mtok",
    "video_output": "output_video_mtok",
}
_FEES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "requests": (("requests_kcount",), 1_000),
    "web_searches": (("web_searches_kcount",), 1_000),
    "file_searches": (("storage_searches_kcount",), 1_000),
    "code_executions": (("code_executions_kcount",), 1_000),
    "audio_seconds": (("audio_hours", "input_audio_hours"), 3_600),
    "characters": (("input_mchars",), 1_000_000),
    "pages": (("input_annotated_document_kpages", "input_document_kpages"), 1_000),
}
"""Fee: (keys, the first that is there counts; how many uses the price is for)."""

_CLAUDE_1H = Fraction(2)
"""A cache write for an hour costs twice the input at Anthropic; resellers' lists often leave it out."""

_BY_TIER: Mapping[str, Mapping[str, str]] = {
    "batch": {"processing": "batch"},
    "fast": {"service_tier": "fast", "speed": "fast"},
    "standard": {},
    "standard_only": {},
    "on_demand": {},
    "auto": {},
}
"""Contexts of the catalogue by tier; any other tier is a service tier of its own name."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a day and the price in it; None: the catalogue knows the model and not its price."""

    start: datetime
    price: Price | None


class Catalogue(Protocol):
    """Where prices come from."""

    def segments(self, provider: str | None, model: str, day: date, service_tier: str | None) -> tuple[Segment, ...]:
        """Prices of a model on a UTC day, in order; the first starts with the day. Empty: the model is not known."""
        ...

    def prices(self, provider: str | None, day: date) -> Iterator[Price]:
        """Prices of all models (of a provider), as they are at the start of the day."""
        ...


class GenaiPrices:
    """The catalogue over genai-prices.

    >>> day = date(2026, 11, 1)
    >>> [segment] = GenaiPrices().segments("openai", "gpt-5.5", day, "flex")
    >>> segment.price.model, segment.price.price_id.split("#")[0]
    ('gpt-5.5', 'genai-prices:openai/gpt-5.5+flex@always')
    """

    def segments(self, provider: str | None, model: str, day: date, service_tier: str | None) -> tuple[Segment, ...]:
        """Prices of a model on a UTC day, in order; the first starts with the day. Empty: the model is not known."""
        found = self._find(provider, model)
        if found is None:
            return ()
        seller, info = found
        context = {} if service_tier is None else _BY_TIER.get(service_tier, {"service_tier": service_tier})
        resold = not any(info is own for own in seller.models)
        starts = (datetime.combine(day, moment, UTC) for moment in _moments(info))
        return tuple(
            Segment(start=start, price=_price(seller.id, info, start, context, service_tier, resold=resold))
            for start in starts
        )

    def prices(self, provider: str | None, day: date) -> Iterator[Price]:
        """Prices of all models (of a provider), as they are at the start of the day."""
        start = datetime.combine(day, time(), UTC)
        seller = None if provider is None else self._provider(provider)
        for one in [seller] if seller is not None else _snapshot().providers:
            for info in one.models:
                price = _price(one.id, info, start, {}, None)
                if price is not None:
                    yield price

    def _provider(self, name: str) -> Any | None:
        name = name.lower().strip()
        return _library().data_snapshot.find_provider_by_id(_snapshot().providers, _PROVIDERS.get(name, name))

    def _find(self, provider: str | None, model: str) -> tuple[Any, Any] | None:
        """The seller and the model. Not the library's own look-up: it remembers every name for ever."""
        if provider is None:
            sellers = [one for one in _snapshot().providers if one.model_match and one.model_match.is_match(model)][:1]
        else:
            sellers = [one for one in [self._provider(provider)] if one is not None]
        plain = _plain(model)
        for seller in sellers:
            info = seller.find_model(plain, all_providers=_snapshot().providers)
            if info is not None:
                return seller, info
        return None


def _plain(model: str) -> str:
    """The name at the end of a path to a model (Gemini, Vertex) or of an Amazon resource name."""
    if "models/" in model:
        return model.rsplit("models/", 1)[1]
    return model.rsplit("/", 1)[-1] if model.startswith("arn:") else model


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    import genai_prices

    return genai_prices


def _snapshot() -> Any:
    return _library().data_snapshot.get_snapshot()


def _moments(info: Any) -> list[time]:
    """The times of a UTC day at which the price may change; midnight first."""
    moments = {time()}
    conditions = [one.constraint for one in info.prices] if isinstance(info.prices, list) else []
    conditions += [variant.constraint for variant in info.price_variants or ()]
    for condition in conditions:
        for name in ("start_time", "end_time"):
            moment = getattr(condition, name, None)
            if moment is not None:
                moments.add(_in_utc(moment))
    return sorted(moments)


def _in_utc(moment: time) -> time:
    if moment.tzinfo is None:
        return moment
    return datetime.combine(date(2000, 1, 1), moment).astimezone(UTC).time()


def _price(
    seller: str, info: Any, at: datetime, context: Mapping[str, str], tier: str | None, *, resold: bool = False
) -> Price | None:
    """The price of a model; ``resold``: the maker's discounts do not hold at this seller, its surcharges may."""
    price = _price_in(seller, info, at, context, tier)
    if resold and context and price is not None:
        usual = _price_in(seller, info, at, {}, None)
        return price if usual is None or price.cost(_PROBE) > usual.cost(_PROBE) else usual
    return price


_PROBE = Tokens(input=1_000, output=1_000)


def _price_in(seller: str, info: Any, at: datetime, context: Mapping[str, str], tier: str | None) -> Price | None:
    listed = {key: value for key, value in vars(info.get_prices(at, dict(context))).items() if value is not None}
    if not listed and info.id.endswith(":free"):
        listed = {"input_mtok": Decimal(0), "output_mtok": Decimal(0)}
    fees = dict(_fees(listed))
    rates = {name: listed[key] for name, key in _RATES.items() if key in listed}
    if "input" not in rates:
        if not fees.keys() - {"requests"}:
            return None
        rates.setdefault("input", rates.get("output", _DEAREST_INPUT))  # billed by something else than tokens
    base: dict[str, Rate] = {name: _base(value) for name, value in rates.items()}
    tiers = _tiers(rates)
    if "claude" in info.id and "cache_write_1h" not in rates and "cache_write_5m" in rates:
        base["cache_write_1h"] = Fraction(base["input"]) * _CLAUDE_1H
        tiers = [
            (start, {**row, "cache_write_1h": Fraction(row["input"]) * _CLAUDE_1H} if "input" in row else row)
            for start, row in tiers
        ]
    applied = tier if context and any(_applies(variant, context, at) for variant in info.price_variants or ()) else None
    return price_from(
        base,
        tiers=tiers,
        fees=fees,
        provider=seller,
        model=info.id,
        context=applied or "",
        valid_from=_valid_from(info, at),
        source_name=SOURCE,
    )


_DEAREST_INPUT = Decimal(150)
"""USD per million for tokens of models that are sold by the hour, character or page, should they report some."""


def _applies(variant: Any, context: Mapping[str, str], at: datetime) -> bool:
    in_force = variant.constraint is None or variant.constraint.active(at)
    return in_force and all(context.get(key) == value for key, value in variant.when.items())


def _fees(listed: Mapping[str, Any]) -> Iterator[tuple[str, Fraction]]:
    for name, (keys, uses) in _FEES.items():
        usd = next((listed[key] for key in keys if key in listed), None)
        if usd is not None:
            yield name, Fraction(_dearest(usd)) * 1_000_000_000 / uses


def _base(value: Any) -> Decimal:
    base: Decimal = getattr(value, "base", value)
    return base


def _dearest(value: Any) -> Decimal:
    prices: list[Decimal] = [_base(value), *(tier.price for tier in getattr(value, "tiers", ()))]
    return max(prices)


def _tiers(rates: Mapping[str, Any]) -> list[tuple[int, dict[str, Rate]]]:
    rows: dict[int, dict[str, Rate]] = {}
    for name, value in rates.items():
        for tier in getattr(value, "tiers", ()):
            rows.setdefault(tier.start, {})[name] = tier.price
    return sorted(rows.items())


def _valid_from(info: Any, at: datetime) -> str:
    """The date from which the price of ``at`` holds; empty: always, as far as the catalogue knows."""
    if not isinstance(info.prices, list):
        return ""
    for one in reversed(info.prices):
        if one.constraint is None or one.constraint.active(at):
            started = getattr(one.constraint, "start_date", None)
            return "" if started is None else str(started.isoformat())
    return ""


def dearest_of(prices: Iterator[Price], name: str) -> Price | None:
    """A price whose every rate is the dearest among ``prices``; None when there are none."""
    rates = dict.fromkeys(Row._fields, Fraction(0))
    fees: dict[str, Fraction] = {}
    found = False
    for price in prices:
        found = True
        for _, row in price.rows:
            for field, rate in zip(Row._fields, row, strict=True):
                rates[field] = max(rates[field], Fraction(rate, price.denominator))
        for fee, amount in price.fees.items():
            fees[fee] = max(fees.get(fee, Fraction(0)), Fraction(amount, price.denominator))
    if not found:
        return None
    per_million = {field: rate * 1_000_000 / 1_000_000_000 for field, rate in rates.items()}
    return price_from(per_million, fees=fees, provider=name, model="dearest", source_name="dearest", source="dearest")
