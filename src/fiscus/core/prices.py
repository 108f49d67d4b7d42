"""Deciding on own prices: named, dated, never edited. What is booked keeps the price that it was booked at."""

from __future__ import annotations

from fiscus.core.answers import price_answer
from fiscus.core.checks import check, invalid, to_ms
from fiscus.core.commands import PutPrice, RemovePrice, Request
from fiscus.core.events import PricePut, PriceRemoved, PriceTerms
from fiscus.core.formats import not_yet
from fiscus.core.outcomes import PriceAnswer, Refused
from fiscus.core.scopes import forbidden
from fiscus.core.state import NEVER, PRICE_TERMS_MAX, Draft, Price

PRICES_MAX = 10_000
"""Names of prices, those that were removed as well: they can be used again."""

AHEAD_MAX = PRICE_TERMS_MAX - 2
"""Terms of a price that may lie ahead: those that hold now, and those before them, are kept."""


def put_price(draft: Draft, request: Request, command: PutPrice, now: int) -> PriceAnswer | Refused:
    """State what a model costs from an instant on, instead of what was stated for then and later."""
    wrong = check(command) or not_yet(draft, PricePut)
    if wrong is not None:
        return wrong
    if request.scope is not None:
        return forbidden(command.price)
    start = to_ms(command.valid_from) if command.valid_from is not None else now
    end = to_ms(command.valid_to) if command.valid_to is not None else None
    known = draft.prices.find(command.price)
    if known is not None and (known.provider, known.model, known.service_tier) != (
        command.provider,
        command.model,
        command.service_tier,
    ):
        detail = f"price: is the name of a price of {known.model!r} of {known.provider!r}; give this one another"
        return Refused(code="conflict", detail=detail, field="price")
    terms = PriceTerms(start=start, end=end, rates=command.rates, fees=command.fees, tiers=command.tiers)
    if known is not None and _is_said(known, terms, now, is_dated=command.valid_from is not None):
        return price_answer(known)
    if start < now:
        return invalid("valid_from", "has passed already; what was booked keeps its price")
    if end is not None and end <= start:
        return invalid("valid_to", "must be after valid_from, and must not have passed")
    if known is None and len(draft.prices) >= PRICES_MAX:
        return invalid("price", f"there are {PRICES_MAX} prices already; use the name of one that was removed")
    if known is not None and sum(now < one.start < start for one in known.terms) >= AHEAD_MAX:
        return invalid("valid_from", f"{AHEAD_MAX} changes of this price lie ahead already")
    draft.emit(
        PricePut(
            price=command.price,
            provider=command.provider,
            model=command.model,
            service_tier=command.service_tier,
            terms=terms,
            order=next_order(draft),
            actor=request.actor,
        )
    )
    return price_answer(draft.prices[command.price])


def _is_said(known: Price, terms: PriceTerms, now: int, *, is_dated: bool) -> bool:
    """Whether the last of the terms say the same."""
    if known.removed:
        return False
    last = known.terms[-1]
    same = (last.rates, last.fees, last.tiers, last.end) == (terms.rates, terms.fees, terms.tiers, terms.end)
    return same and (last.start == terms.start if is_dated else last.start <= now < (last.end or NEVER))


def remove_price(draft: Draft, request: Request, command: RemovePrice, now: int) -> PriceAnswer | Refused:
    """End a price now; what holds otherwise holds from then on."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    if request.scope is not None:
        return forbidden(command.price)
    known = draft.prices.find(command.price)
    if known is None:
        return Refused(code="unknown_price", detail=f"there is no price {command.price!r}", field="price")
    if not known.removed:
        draft.emit(PriceRemoved(price=command.price, end=now, order=next_order(draft), actor=request.actor))
    return price_answer(draft.prices[command.price])


def next_order(draft: Draft) -> int:
    """Of several prices that fit a model, the one that was changed last has the highest, and is taken."""
    return 1 + max((price.order for price in draft.prices.values()), default=0)
