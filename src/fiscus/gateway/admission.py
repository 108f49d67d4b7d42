"""Before a call: how much it may cost at most, a hold for that on the whole chain, less if less is left."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec
import uuid_utils

from fiscus.contract.errors import TreasuryError
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import Extend, Release, Request, Reserve
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.units import AMOUNT_MAX, Amounts, Unit
from fiscus.dialects import RequestFacts
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.payers import Caller, Payer
from fiscus.pricing import Count, Extras, Price

TRIES_MAX = 8
"""How often a smaller hold is asked for when a larger one does not fit."""

LEASE_S = 900
ROOM = frozenset(("budget_exceeded", "budget_busy"))
OUTPUT_UNITS = frozenset(("tokens", "output_tokens", "cost"))


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

    def output_within(self, unit: Unit, room: int) -> int:
        """The largest output of a choice that leaves a unit within ``room``; below 0 if none does."""
        room -= self.leave.get(unit, 0)
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


class Admitted(msgspec.Struct, kw_only=True):
    """A call that may be made, and its hold.

    Attributes:
        id: of the hold.
        output_tokens: bound of the output of one choice: what the provider is told.
        held_output_tokens: for how much of it the hold is, by now.
    """

    id: str
    bound: Bound
    request: Request
    output_tokens: int
    held_output_tokens: int


async def admit(
    treasury: Treasury,
    bound: Bound,
    payer: Payer,
    caller: Caller,
    output_tokens_least: int,
    tenant: str,
    *,
    expected_output: int | None,
    attributes: dict[str, str],
) -> Admitted | Refused:
    """Hold the worst case of a call, or as much of its output as is left, if that is still of use.

    Args:
        output_tokens_least: less is of no use.
        expected_output: of one choice, if the hold can grow while the answer comes; None: all of it is held now.

    Raises:
        TreasuryError: the ledger cannot be asked; nothing is held.
    """
    output = bound.output_tokens_max
    least = min(max(output_tokens_least, bound.output_tokens_least), output)
    refused: Refused | None = None
    id = str(uuid_utils.uuid7())
    also = payer.others
    for _ in range(TRIES_MAX):
        held = output if expected_output is None else min(output, max(expected_output, least))
        command = Reserve(
            id=id,
            account=payer.account,
            amounts=bound.amounts(held),
            also=also,
            lease_s=LEASE_S,
            attributes=attributes,
            parent=payer.parent,
            leave=bound.leave,
        )
        request = Request(
            command=command, tenant=tenant, actor=caller.actor, scope=caller.scope, may_open=caller.may_open
        )
        outcome = await treasury.execute(request)
        if isinstance(outcome, HoldAnswer):
            return Admitted(
                id=id,
                bound=bound,
                request=request,
                output_tokens=output,
                held_output_tokens=held,
            )
        assert isinstance(outcome, Refused), outcome
        if also and outcome.code in ("unknown_account", "also_not_shared") and outcome.field != "account":
            also = _without(also, outcome)
            continue
        refused = outcome if refused is None else refused
        if outcome.code not in ROOM or (outcome.binding is not None and outcome.binding.unit not in OUTPUT_UNITS):
            return outcome
        fits = _fitting(bound, outcome, held)
        if fits < least or fits >= held:
            return refused
        output, expected_output = fits, None
    assert refused is not None
    return refused


def _without(also: Sequence[str], refused: Refused) -> tuple[str, ...]:
    """Those that are left of the others, without the one that cannot be charged."""
    for index, name in enumerate(also):
        if refused.field == f"also[{index}]" or repr(name) in refused.detail:
            return (*also[:index], *also[index + 1 :])
    return ()


def _fitting(bound: Bound, refused: Refused, held: int) -> int:
    """How much output would have fitted; a key that may not see the budget that binds halves."""
    if refused.binding is None:
        return held // 2
    return min(held - 1, bound.output_within(refused.binding.unit, max(0, refused.binding.available)))


async def extend(treasury: Treasury, admitted: Admitted, output_tokens: int) -> Refused | None:
    """Let the hold grow to an output of so many tokens a choice, or not at all."""
    command = Extend(
        id=admitted.id, to=admitted.bound.amounts(output_tokens), lease_s=LEASE_S, leave=admitted.bound.leave
    )
    outcome = await treasury.execute(msgspec.structs.replace(admitted.request, command=command))
    if isinstance(outcome, Refused):
        return outcome
    admitted.held_output_tokens = output_tokens
    return None


async def release(treasury: Treasury, admitted: Admitted) -> None:
    """Give a hold back before anything was asked. While the ledger is away it expires by itself."""
    with contextlib.suppress(TreasuryError):
        await treasury.execute(msgspec.structs.replace(admitted.request, command=Release(id=admitted.id)))


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
