"""What a call costs: by the price book, and for models that it does not know by the list of the original. Integers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from math import isfinite

from fiscus.contract import AMOUNT_MAX, Tokens
from fiscus.core.units import NANOUSD_PER_USD
from fiscus.pricing import Price, PriceBook
from fiscus.pricing.price import price_from

LIST: Mapping[str, tuple[str, str]] = {
    "grok-4.1": ("3", "15"),
    "grok-3": ("3", "15"),
    "claude-opus-4": ("15", "75"),
    "claude-sonnet-4": ("3", "15"),
    "claude-sonnet-3-5": ("3", "15"),
    "gpt-4o": ("2.5", "10"),
    "gpt-4o-mini": ("0.15", "0.6"),
    "o1": ("15", "60"),
    "o3-mini": ("1.1", "4.4"),
}
"""USD for a million tokens of prompt and of completion; asked only where the price book knows nothing."""

_VERSION = re.compile(r"$|[-@:._]?(v?\d|latest|preview)")
"""What may follow a name of the list: a date or a version. ``o1-mini`` is another model than ``o1``."""


def cost_nanousd(prices: PriceBook, provider: str | None, model: str, tokens: Tokens) -> int | None:
    """What a call costs in nano-USD; None: nobody knows, which is not the same as nothing.

    >>> cost_nanousd(PriceBook(), None, "GPT-4o-mini", Tokens(input=1))
    150
    """
    at = datetime.now(UTC)
    for seller in (provider, None) if provider else (None,):
        price = prices.price_of(seller, model, at)
        if isinstance(price, Price):
            return price.cost(tokens)
    listed = listed_price(model)
    return None if listed is None else listed.cost(tokens)


def listed_price(model: str) -> Price | None:
    """The price of the longest name of the list that a model's name begins with, whatever the case.

    >>> listed_price("Grok-4.1-2026-01-01").model, listed_price("o1-mini"), listed_price("mystery")
    ('grok-4.1', None, None)
    """
    asked = model.lower()
    fitting = [name for name in LIST if asked.startswith(name) and _VERSION.match(asked[len(name) :])]
    if not fitting:
        return None
    name = max(fitting, key=len)
    prompt, completion = LIST[name]
    rates = {"input": Decimal(prompt), "output": Decimal(completion)}
    return price_from(rates, provider="list", model=name, source_name="xml-pipeline")


def nanousd_of(usd: object) -> int:
    """Nano-USD of an amount in USD, rounded up.

    Raises:
        ValueError: it is no finite number ≥ 0.
    """
    is_number = isinstance(usd, int | float | Decimal) and not isinstance(usd, bool)
    if not is_number or not isfinite(usd) or usd < 0:  # type: ignore[arg-type, operator]  # it is a number
        raise ValueError(f"estimated_cost must be a finite number >= 0, not {usd!r:.50}")
    amount = int((Decimal(str(usd)) * NANOUSD_PER_USD).to_integral_value(ROUND_CEILING))
    if amount > AMOUNT_MAX:
        raise ValueError("estimated_cost is more than can be kept")
    return amount
