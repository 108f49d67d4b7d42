"""The worst case of a call, as a function of the output that it may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from fiscus.core.units import AMOUNT_MAX, Amounts, Unit
from fiscus.dialects import RequestFacts
from fiscus.gateway.options import GatewayOptions
from fiscus.pricing import NO_EXTRAS, Count, Extras, Price, WorstCase


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What a call may use at most, as a function of the output of one of its choices.

    Attributes:
        input_tokens: with the margin, all prompts together.
        choices: outputs that are produced.
        output_tokens_max: of one choice, as asked; ``output_tokens_least``: the smallest that the provider takes.
        costs: at the prices of all upstreams that may be asked; none: the cost is not bounded.
        leave: what has to stay free besides, for calls that wrap up.
    """

    input_tokens: int
    choices: int
    output_tokens_max: int
    output_tokens_least: int = 1
    costs: tuple[WorstCase, ...]
    leave: Amounts = {}

    def cost(self, output_tokens: int) -> int:
        """Nano-USD at most, at the dearest of the prices."""
        return max([worst.cost(output_tokens) for worst in self.costs])

    def amounts(self, output_tokens: int) -> Amounts:
        """What is held for an output of so many tokens a choice."""
        into, output = self.input_tokens, output_tokens * self.choices
        amounts: Amounts = {"input_tokens": into, "output_tokens": output, "tokens": into + output, "calls": 1}
        if self.costs:
            amounts["cost"] = self.cost(output_tokens)
        if max(amounts.values()) > AMOUNT_MAX:
            return {unit: min(amount, AMOUNT_MAX) for unit, amount in amounts.items()}
        return amounts

    def room(self, output_tokens: int) -> Amounts:
        """What stays free: what always has to, and so much output of a choice besides."""
        if not output_tokens:
            return {unit: amount for unit, amount in self.leave.items() if amount}
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
    output_tokens_default: Callable[[], int],
    is_embedding: bool,
    leave: Amounts,
) -> Bound:
    """The worst case of a request.

    Args:
        prices: of every upstream that may be asked.
        output_tokens_default: of a choice, where the request says nothing.
        leave: what has to stay free besides.
    """
    asked = output_tokens_default() if facts.output_tokens_max is None else facts.output_tokens_max
    unseen = options.unseen_input_tokens_max if is_unseen(facts, counted) else None
    calls = options.server_tool_calls_max if facts.server_tools else 0
    input_tokens = counted.upper_bound + (unseen or 0)
    choices = facts.choices * (facts.prompts if not is_embedding else 1)
    extras = Extras(web_searches=calls, file_searches=calls, code_executions=calls) if calls else NO_EXTRAS
    costs = [
        price.worst_case(
            input_tokens_max=input_tokens,
            n=choices,
            may_have_audio=counted.media > 0,
            may_have_images=counted.images > 0 or counted.media > 0,
            extras_max=extras,
        )
        for price in prices
    ]
    return Bound(
        input_tokens=input_tokens,
        choices=choices,
        output_tokens_max=0 if is_embedding else asked,
        output_tokens_least=facts.output_tokens_least,
        costs=tuple(costs),
        leave=leave,
    )


def is_unseen(facts: RequestFacts, counted: Count) -> bool:
    """Whether a call has input that is not in its request."""
    return bool(facts.server_tools or facts.input_unknown or counted.unseen)
