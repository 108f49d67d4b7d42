"""The model provider of a replay: what a call costs, what its caller can know of it before, and what it really used.

The provider's own count is the independent truth that the books are compared with at the end. It never reads the books.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date

import msgspec

from fiscus.cli.traces import Call
from fiscus.core.units import NANOUSD_PER_USD, Amounts, Unit

TOKENS_PER_PRICE = 1_000_000


INPUT_MARGIN_DIVISOR = 50
INPUT_MARGIN_TOKENS = 64
"""A caller counts its input with another tokenizer than the provider: it adds 2 % and 64 tokens."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """A model's list price, without discounts for cached input or surcharges for long contexts.

    Attributes:
        model: the beginning of the model's name.
        since: first day of this price.
        input_nanousd, output_nanousd: nano-USD per million tokens.
        output_tokens_max: what callers of this model set as ``max_tokens``.
    """

    model: str
    since: date
    input_nanousd: int
    output_nanousd: int
    output_tokens_max: int


def _price(model: str, since: str, input_usd: int, output_usd: int, output_tokens_max: int) -> Price:
    return Price(
        model=model,
        since=date.fromisoformat(since),
        input_nanousd=input_usd * NANOUSD_PER_USD,
        output_nanousd=output_usd * NANOUSD_PER_USD,
        output_tokens_max=output_tokens_max,
    )


PRICES = (
    _price("gpt-35-turbo-16k", "2023-06-13", 3, 4, 4_096),
    _price("claude-sonnet-4", "2025-05-22", 3, 15, 32_000),
    _price("claude-opus-4", "2025-05-22", 15, 75, 32_000),
    _price("claude-opus-4-1", "2025-08-05", 15, 75, 32_000),
    _price("claude-sonnet-4-5", "2025-09-29", 3, 15, 32_000),
    _price("claude-haiku-4-5", "2025-10-15", 1, 5, 32_000),
    _price("claude-opus-4-5", "2025-11-24", 5, 25, 32_000),
    _price("claude-opus-4-6", "2026-02-05", 5, 25, 32_000),
)
"""``max_tokens`` is 4,096 for the old model, its maximum, and 32,000 for the others, as Claude Code sets it."""

DEAREST = max(PRICES, key=lambda price: (price.output_nanousd, price.input_nanousd))
"""What a model that is not in the table is priced at: an unknown price is never 0."""


def price_of(model: str) -> Price:
    """The price whose name is the longest beginning of ``model``, or the dearest.

    >>> price_of("claude-opus-4-5-20251101").input_nanousd
    5000000000
    """
    known = [price for price in PRICES if model.startswith(price.model)]
    return max(known, key=lambda price: len(price.model)) if known else DEAREST


def cost_nanousd(model: str, input_tokens: int, output_tokens: int) -> int:
    """What a call costs, rounded up once.

    >>> cost_nanousd("claude-haiku-4-5-20251001", 1, 0)
    1000
    """
    price = price_of(model)
    return -(-(input_tokens * price.input_nanousd + output_tokens * price.output_nanousd) // TOKENS_PER_PRICE)


def amounts(model: str, input_tokens: int, output_tokens: int) -> Amounts:
    """Every unit of a call."""
    return {
        "tokens": input_tokens + output_tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost": cost_nanousd(model, input_tokens, output_tokens),
        "calls": 1,
    }


def upper_bound(call: Call) -> Amounts:
    """What the caller can say of a call before it is made: its input with a margin, and ``max_tokens``."""
    margin_tokens = -(-call.input_tokens // INPUT_MARGIN_DIVISOR) + INPUT_MARGIN_TOKENS
    return amounts(call.model, call.input_tokens + margin_tokens, price_of(call.model).output_tokens_max)


class Provider:
    """Produces what the trace says, and counts it for every account that the call belongs to.

    Attributes:
        produced: per account and unit, everything that was produced.
        produced_within_bounds: of it, what did not go beyond the calls' upper bounds.
        calls: how many calls reached the provider.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.produced: Mapping[str, dict[Unit, int]] = defaultdict(lambda: defaultdict(int))
        self.produced_within_bounds: Mapping[str, dict[Unit, int]] = defaultdict(lambda: defaultdict(int))

    def produce(self, call: Call, path: Sequence[str], share: float = 1.0) -> Amounts:
        """Run a call, or the first ``share`` of its output if the caller goes away; the input is billed whole."""
        used = amounts(call.model, call.input_tokens, int(call.output_tokens * share))
        bound = upper_bound(call)
        for account in path:
            for unit, amount in used.items():
                self.produced[account][unit] += amount
                self.produced_within_bounds[account][unit] += min(amount, bound[unit])
        self.calls += 1
        return used
