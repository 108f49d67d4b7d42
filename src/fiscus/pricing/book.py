"""The price book: own prices first, then the catalogue, then what is to be done about unknown ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from fractions import Fraction

import msgspec

from fiscus.contract import Refused, Tokens
from fiscus.contract.errors import Invalid
from fiscus.core.records import TEXT_LENGTH_MAX
from fiscus.pricing.catalogue import Catalogue, GenaiPrices, Segment, dearest_of
from fiscus.pricing.overrides import OVERRIDES_MAX, PriceOverride, StatedPrice, stated_prices
from fiscus.pricing.price import NO_EXTRAS, UNKNOWN_POLICIES, Extras, Price, UnknownPolicy, UnknownPrice, surcharged

RESOLVED_MAX = 4_096
"""So many (provider, model, tier, day) are kept resolved; then all are forgotten."""

DAY_LENGTH = 24 * 3_600

GEO_SURCHARGES = {("anthropic", "us"): Fraction(11, 10)}
"""What tokens cost more where inference is kept to a region, by seller and region. Anthropic's own API takes
``inference_geo`` for Claude Opus 4.6 and all models after it; to others such a request is an error."""

_REGIONS = frozenset(geo for _, geo in GEO_SURCHARGES)

_Key = tuple[str | None, str, str | None, str | None, int]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a call would cost at one model; ``cost_nanousd`` is None when nobody knows."""

    provider: str | None
    model: str
    cost_nanousd: int | None
    price: Price | UnknownPrice


class PriceBook:
    """Dated prices of models.

    >>> book = PriceBook([PriceOverride(provider="local", model="*", input="0.1", output="0.3")])
    >>> book.price_of("local", "llama", at=datetime(2026, 11, 1, tzinfo=UTC)).cost(Tokens(input=1_000, output=1_000))
    400000
    >>> book.price_of("nobody", "nothing", at=datetime(2026, 11, 1, tzinfo=UTC)).policy
    'refuse'
    """

    def __init__(
        self,
        overrides: Sequence[PriceOverride] = (),
        *,
        unknown_policy: UnknownPolicy = "refuse",
        catalogue: Catalogue | None = None,
    ) -> None:
        """Make a book.

        Args:
            overrides: own prices; the first that fits a model and time is taken.
            unknown_policy: ``refuse`` and ``tokens_only`` are answered as ``UnknownPrice`` and left to the caller;
                ``dearest`` gives the dearest rates of the provider, or of all when that is not known either.
            catalogue: what is asked next; genai-prices unless said.

        Raises:
            Invalid: an override or the policy is not valid; ``field`` says which.
        """
        if unknown_policy not in UNKNOWN_POLICIES:
            raise _invalid("unknown_price", f"unknown_price must be one of {', '.join(UNKNOWN_POLICIES)}")
        if len(overrides) > OVERRIDES_MAX:
            raise _invalid("prices", f"at most {OVERRIDES_MAX} prices can be stated")
        self._stated = stated_prices(overrides)
        self._policy: UnknownPolicy = unknown_policy
        self._catalogue: Catalogue = GenaiPrices() if catalogue is None else catalogue
        self._resolved: dict[_Key, tuple[tuple[float, Price | UnknownPrice], ...]] = {}
        self._dearest: dict[str | None, tuple[date, Price | None]] = {}

    def restate(self, overrides: Sequence[PriceOverride]) -> None:
        """Take other own prices from now on, of any number; nothing changes if one is wrong."""
        self._stated = stated_prices(overrides)
        self._resolved.clear()

    def price_of(
        self,
        provider: str | None,
        model: str,
        at: datetime,
        service_tier: str | None = None,
        *,
        inference_geo: str | None = None,
    ) -> Price | UnknownPrice:
        """The price of a model at a time.

        Args:
            provider: who sells it (``openai``, ``anthropic``, ``gemini``, ``bedrock`` …); None: its maker.
            model: as the request or the answer names it; prefer the answer's.
            at: when the request was made, with a zone.
            service_tier: as billed: ``flex``, ``priority``, ``batch``, ``fast`` …; None and the standard ones: none.
            inference_geo: region that inference was kept to, as billed; own prices hold for all of them.

        Raises:
            Invalid: ``at`` has no zone.
        """
        if at.tzinfo is None:
            raise _invalid("at", "at needs a zone")
        second = at.timestamp()
        inference_geo = inference_geo if inference_geo in _REGIONS else None
        key = (provider, model, service_tier, inference_geo, int(second // DAY_LENGTH))
        segments = self._resolved.get(key)
        if segments is None:
            segments = self._resolve(provider, model, at.astimezone(UTC).date(), service_tier, inference_geo)
            if len(self._resolved) >= RESOLVED_MAX:
                self._resolved.clear()
            self._resolved[key] = segments
        if len(segments) == 1:
            return segments[0][1]
        return next(price for start, price in reversed(segments) if second >= start)

    def compare(
        self,
        tokens: Tokens,
        models: Iterable[tuple[str | None, str]],
        at: datetime,
        *,
        extras: Extras = NO_EXTRAS,
        service_tier: str | None = None,
    ) -> list[Comparison]:
        """What a call of these tokens costs at each of the (provider, model), cheapest first, unknown ones last."""
        compared = []
        for provider, model in models:
            price = self.price_of(provider, model, at, service_tier)
            cost = price.cost(tokens, extras) if isinstance(price, Price) else None
            compared.append(Comparison(provider=provider, model=model, cost_nanousd=cost, price=price))
        return sorted(compared, key=lambda one: (one.cost_nanousd is None, one.cost_nanousd or 0))

    def _resolve(
        self, provider: str | None, model: str, day: date, tier: str | None, geo: str | None
    ) -> tuple[tuple[float, Price | UnknownPrice], ...]:
        """The prices of a day, each from its second on."""
        begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
        listed: tuple[Segment, ...] = ()
        if len(model) <= TEXT_LENGTH_MAX:
            listed = tuple(_in_region(one, geo) for one in self._catalogue.segments(provider, model, day, tier))
        own = [stated for stated in self._stated if stated.fits(provider, model, tier)]
        starts = {begin, *(segment.start for segment in listed)}
        starts |= {edge for stated in own for edge in (stated.start, stated.end) if edge.date() == day}
        return tuple(
            (start.timestamp(), self._price_at(start, own, listed, provider, model)) for start in sorted(starts)
        )

    def _price_at(
        self,
        at: datetime,
        own: Sequence[StatedPrice],
        listed: Sequence[Segment],
        provider: str | None,
        model: str,
    ) -> Price | UnknownPrice:
        for stated in own:
            if stated.start <= at < stated.end:
                return msgspec.structs.replace(stated.price, model=model)
        price = next((segment.price for segment in reversed(listed) if segment.start <= at), None)
        if price is not None:
            return price
        dearest = self._dearest_of(provider, at.date()) if self._policy == "dearest" else None
        if dearest is not None:
            return dearest
        reason = f"{model!r:.80} of {provider or 'any provider'} has no known price"
        return UnknownPrice(provider=provider, model=model, policy=self._policy, reason=reason)

    def _dearest_of(self, provider: str | None, day: date) -> Price | None:
        known = self._dearest.get(provider)
        if known is None or known[0] != day:
            if len(self._dearest) >= RESOLVED_MAX:
                self._dearest.clear()
            price = dearest_of(self._catalogue.prices(provider, day), provider or "any")
            if price is None and provider is not None:
                price = dearest_of(self._catalogue.prices(None, day), "any")
            known = (day, price)
            self._dearest[provider] = known
        return known[1]


def _in_region(segment: Segment, geo: str | None) -> Segment:
    price = segment.price
    factor = GEO_SURCHARGES.get((price.provider, geo)) if price is not None and geo is not None else None
    if price is None or geo is None or factor is None:
        return segment
    return msgspec.structs.replace(segment, price=surcharged(price, factor, geo))


def _invalid(field: str, detail: str) -> Invalid:
    return Invalid(Refused(code="invalid", detail=detail, field=field))
