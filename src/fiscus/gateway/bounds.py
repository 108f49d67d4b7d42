"""The worst case of a call, as a function of the output that it may have."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fiscus.core.units import AMOUNT_MAX, Amounts, Unit
from fiscus.dialects import RequestFacts
from fiscus.gateway.options import GatewayOptions
from fiscus.pricing import Count, Extras, Price


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What a call may use at most, as a function of the output of one of its choices.

    Attributes:
        input_tokens: with the margin, all prompts together.
        choices: outputs that are produced.
        output_tokens_max: of one choice, as asked; ``output_tokens_least``: the smallest that the provider takes.
        prices: of all upstreams that may be asked; none: the cost is not bounded.
        may_write_cache, may_have_audio: see ``Price.worst_case_cost``.
        extras_max: calls of server tools.
        leave: what has to stay free besides, for calls that wrap up.
    """

    input_tokens: int
    choices: int
    output_tokens_max: int
    output_tokens_least: int = 1
    prices: tuple[Price, ...]
    may_write_cache: bool = True
    may_have_audio: bool = False
    may_have_images: bool = True
    extras_max: Extras = Extras()
    leave: Amounts = {}

    def cost(self, output_tokens: int) -> int:
        """Nano-USD at most, at the dearest of the prices."""
        return max(
            price.worst_case_cost(
                input_tokens_max=self.input_tokens,
                output_tokens_max=output_tokens,
                n=self.choices,
                may_write_cache=self.may_write_cache,
                may_have_audio=self.may_have_audio,
                may_have_images=self.may_have_images,
                extras_max=self.extras_max,
            )
            for price in self.prices
        )

    def amounts(self, output_tokens: int) -> Amounts:
        """What is held for an output of so many tokens a choice."""
        output = output_tokens * self.choices
        amounts: Amounts = {
            "input_tokens": self.input_tokens,
            "output_tokens": output,
            "tokens": self.input_tokens + output,
            "calls": 1,
        }
        if self.prices:
            amounts["cost"] = self.cost(output_tokens)
        return {unit: min(amount, AMOUNT_MAX) for unit, amount in amounts.items()}

    def room(self, output_tokens: int) -> Amounts:
        """What stays free: what always has to, and so much output of a choice besides."""
        without, more = self.amounts(0), self.amounts(output_tokens)
        room = {unit: self.leave.get(unit, 0) + amount - without[unit] for unit, amount in more.items()}
        return {unit: amount for unit, amount in {**self.leave, **room}.items() if amount}

    def output_within(self, unit: Unit, room: int) -> int:
        """The largest output of a choice that leaves a unit within ``room``; below 0 if none does."""
        if unit == "output_tokens":
            return room // self.choices
        if unit == "tokens":
            return (room - self.input_tokens) // self.choices
        if self.cost(0) > room:
            return -1
        low, high = 0, self.output_tokens_max
        while low < high:  # the cost never falls with the output
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.cost(middle) <= room else (low, middle - 1)
        return low


def bound_of(
    facts: RequestFacts,
    counted: Count,
    prices: Sequence[Price],
    options: GatewayOptions,
    *,
    output_tokens_default: int,
    is_embedding: bool,
    leave: Amounts,
) -> Bound:
    """The worst case of a request.

    Args:
        prices: of every upstream that may be asked.
        output_tokens_default: of a choice, where the request says nothing.
        leave: what has to stay free besides.
    """
    asked = output_tokens_default if facts.output_tokens_max is None else facts.output_tokens_max
    unseen = options.unseen_input_tokens_max if is_unseen(facts, counted) else None
    calls = options.server_tool_calls_max if facts.server_tools else 0
    return Bound(
        input_tokens=counted.upper_bound + (unseen or 0),
        choices=facts.choices * (facts.prompts if not is_embedding else 1),
        output_tokens_max=0 if is_embedding else asked,
        output_tokens_least=facts.output_tokens_least,
        prices=tuple(prices),
        may_have_audio=counted.media > 0,
        may_have_images=counted.images > 0 or counted.media > 0,
        extras_max=Extras(web_searches=calls, file_searches=calls, code_executions=calls),
        leave=leave,
    )


def is_unseen(facts: RequestFacts, counted: Count) -> bool:
    """Whether a call has input that is not in its request."""
    return bool(facts.server_tools or facts.input_unknown or counted.unseen)
