"""Before a call: a hold on the whole chain for what it may cost, or for less; it grows while an answer comes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec
import uuid_utils

from fiscus.contract.errors import TreasuryError
from fiscus.core.commands import Extend, Release, Request, Reserve
from fiscus.core.outcomes import Balance, HoldAnswer, Refused
from fiscus.core.units import AMOUNT_MAX, Amounts, Unit
from fiscus.gateway.bounds import Bound
from fiscus.gateway.lengths import Expected
from fiscus.gateway.payers import Caller, Payer
from fiscus.gateway.settlements import Settlements

TRIES_MAX = 8
"""How often a smaller hold is asked for when a larger one does not fit."""

PLENTY = 2
"""How often what a call may need has to be there as of a moment ago, for it not to be looked at closely."""

RETRY_AFTER_S = 1
LEASE_S = 900
LEASE_S_MAX = 86_400
ROOM = frozenset(("budget_exceeded", "budget_busy"))
OUTPUT_UNITS = frozenset(("tokens", "output_tokens", "cost"))


class Admitted(msgspec.Struct, kw_only=True):
    """A call that may be made, and its hold.

    Attributes:
        id: of the hold.
        output_tokens: bound of the output of one choice: what the provider is told.
        held_output_tokens: for how much of it the hold is, by now.
        lease_s: how long it holds from now on, if it is not renewed.
        spent: what attempts have used that failed, which is held besides.
    """

    id: str
    bound: Bound
    request: Request
    output_tokens: int
    held_output_tokens: int
    lease_s: int
    spent: Amounts = {}


class Asking:
    """One call that asks for a hold, of this size or that.

    Attributes:
        least: by unit, the budget that has the least left, as far as is known.
    """

    def __init__(
        self,
        ledger: Settlements,
        bound: Bound,
        payer: Payer,
        caller: Caller,
        tenant: str,
        *,
        attributes: dict[str, str],
        lease_s: int = LEASE_S,
        least: Mapping[Unit, Balance] | None = None,
    ) -> None:
        self.bound = bound
        self.least: Mapping[Unit, Balance] = least or {}
        self._ledger = ledger
        self._payer = payer
        self._caller = caller
        self._tenant = tenant
        self._attributes = attributes
        self._lease_s = min(LEASE_S_MAX, lease_s)
        self._id = str(uuid_utils.uuid7())
        self._also: Sequence[str] = payer.others
        self._amounts: tuple[int, Amounts] = (-1, {})

    async def hold(self, held: int, leave: Amounts, *, told: int | None = None, wait_s: int = 0) -> Admitted | Refused:
        """Hold an output of so many tokens a choice, if ``leave`` is free besides.

        Args:
            held: output tokens of a choice.
            leave: what is left free.
            told: what the provider is told; as much as is held, unless said.
            wait_s: how long it stands in line for that.

        Raises:
            TreasuryError: the ledger cannot be asked; nothing is held.
        """
        while True:
            request = self._request(self._reserve(held, leave, wait_s))
            outcome = await self._ledger.execute(request)
            if isinstance(outcome, HoldAnswer):
                output = min(self.bound.output_tokens_max, held if told is None else told)
                return Admitted(
                    id=self._id,
                    bound=self.bound,
                    request=request,
                    output_tokens=output,
                    held_output_tokens=held,
                    lease_s=self._lease_s,
                )
            assert isinstance(outcome, Refused), outcome
            if outcome.binding is not None:
                self.least = {outcome.binding.unit: outcome.binding}
            is_other = outcome.code in ("unknown_account", "also_not_shared")
            rest = _without(self._also, outcome) if is_other else None
            if rest is None:
                return outcome
            self._also = rest

    def amounts(self, output_tokens: int) -> Amounts:
        """See ``Bound.amounts``; those of the last time are kept."""
        if self._amounts[0] != output_tokens:
            self._amounts = output_tokens, self.bound.amounts(output_tokens)
        return self._amounts[1]

    def running(self, tokens: int) -> int:
        """How many calls like this one, of so much output each, what is held may be for; the most, of all units."""
        each = self.amounts(tokens)
        return max((one.held // each[unit] for unit, one in self.least.items() if each.get(unit)), default=0)

    def leave(self, tokens: int, more: int) -> Amounts:
        """What has to stay free for so much output more; it is not worked out where there is more than enough."""
        each, bound = self.amounts(tokens), self.bound
        for unit, one in self.least.items():
            if (one.available - bound.leave.get(unit, 0)) * tokens < PLENTY * each.get(unit, 0) * (tokens + more):
                return bound.room(more)
        return bound.leave if self.least else bound.room(more)

    async def grow(self, admitted: Admitted, output_tokens: int, leave: Amounts) -> None:
        """Let the hold grow to so much output, or as far as there is room besides ``leave``: that is all it may have.

        While the ledger is away, what is held still holds.
        """
        with contextlib.suppress(TreasuryError):
            await grow(self._ledger, admitted, output_tokens, leave)
        admitted.output_tokens = admitted.held_output_tokens

    async def give_back(self) -> None:
        """Hold nothing after all; what is asked for from now on is another hold.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        await self._ledger.execute(self._request(Release(id=self._id)))
        self._id = str(uuid_utils.uuid7())

    async def withdraw(self) -> None:
        """Want nothing any more: what may be held is given back. While the ledger is away it expires by itself."""
        with contextlib.suppress(TreasuryError):
            await self._ledger.book(self._request(Release(id=self._id)))

    def _reserve(self, held: int, leave: Amounts, wait_s: int) -> Reserve:
        return Reserve(
            id=self._id,
            account=self._payer.account,
            amounts=self.amounts(held),
            also=tuple(self._also),
            lease_s=self._lease_s,
            attributes=self._attributes,
            parent=self._payer.parent,
            leave=leave,
            wait_s=wait_s,
        )

    def _request(self, command: Reserve | Release) -> Request:
        caller = self._caller
        return Request(
            command=command, tenant=self._tenant, actor=caller.actor, scope=caller.scope, may_open=caller.may_open
        )


class Wish(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a call would have, and what it makes do with.

    Attributes:
        asking: asks for it.
        expected: of one choice; None: nothing is known.
        tokens: output of a choice that is held at least; less is of no use, unless it is the rest of a budget.
        least: less is of no use at all.
        grows: whether the hold can grow while the answer comes; else all is held at once.
    """

    asking: Asking
    expected: Expected | None
    tokens: int
    least: int
    grows: bool

    @property
    def told(self) -> int | None:
        """What the provider is told where less is held."""
        return self.asking.bound.output_tokens_max if self.grows else None

    def leave(self, running: int) -> Amounts:
        """What has to stay free while so many like this one run."""
        if self.expected is None:
            return self.asking.bound.leave
        return self.asking.leave(self.tokens, self.expected.leave(running))


def wish(asking: Asking, output_tokens_least: int, *, expected: Expected | None, ahead: int, grows: bool) -> Wish:
    """What a call would have.

    Args:
        asking: the call.
        output_tokens_least: less is of no use.
        expected: of one choice; None: nothing is known, and all of it is held.
        ahead: for less than so much it is not worth while to begin a hold that grows.
        grows: see ``Wish``.
    """
    bound = asking.bound
    least = min(max(output_tokens_least, bound.output_tokens_least), bound.output_tokens_max)
    tokens = least if expected is None else min(bound.output_tokens_max, max(expected.tokens, ahead, least))
    return Wish(asking=asking, expected=expected, tokens=tokens, least=least, grows=grows)


async def admit(wish: Wish) -> Admitted | Refused:
    """Hold what a call may use, or as much of its output as is left, if that is still of use.

    Calls in flight come before new ones: whoever knows what to expect leaves room into which those that run can grow,
    and takes less than it expects, or all that is left, only when it is alone with the rest of a budget.

    Returns:
        A refusal as *busy* when the call might be made after calls in flight have ended.

    Raises:
        TreasuryError: the ledger cannot be asked; nothing is held.
    """
    asking, tokens = wish.asking, wish.tokens
    output = asking.bound.output_tokens_max
    if wish.expected is None:
        outcome = await asking.hold(output, wish.leave(0))
        return await _clamped(wish, outcome, wish.leave(0)) if isinstance(outcome, Refused) else outcome
    held = tokens if wish.grows else output
    running = asking.running(tokens)
    outcome = await asking.hold(held, wish.leave(running), told=output)
    if isinstance(outcome, Refused) and (fewer := asking.running(tokens)) < running:
        running = fewer
        outcome = await asking.hold(held, wish.leave(running), told=output)
    if isinstance(outcome, Refused) and outcome.code == "budget_exceeded":
        outcome = await _rest(wish, outcome)
    if isinstance(outcome, Refused) and outcome.code == "budget_busy" and not wish.grows:
        outcome = await _clamped(wish, outcome, wish.leave(running))
    return outcome


async def admit_in_line(wish: Wish, wait_s: int) -> Admitted | Refused:
    """Stand in line for what a call makes do with, and take what else there is when its turn comes.

    Returns:
        A refusal as *busy* when it has waited in vain, or may not wait; as *exceeded* when there will never be room for
        so much, but perhaps for less.

    Raises:
        TreasuryError: the ledger cannot be asked; nothing is held.
    """
    asking = wish.asking
    leave = wish.leave(asking.running(wish.tokens))
    outcome = await asking.hold(wish.tokens, leave, told=wish.told, wait_s=wait_s)
    if isinstance(outcome, Admitted) and not wish.grows and wish.tokens < asking.bound.output_tokens_max:
        await asking.grow(outcome, asking.bound.output_tokens_max, leave)
    return outcome


async def _clamped(wish: Wish, refused: Refused, leave: Amounts) -> Admitted | Refused:
    """As much output as there is room for now, if that is not less than it makes do with."""
    first, held = refused, wish.asking.bound.output_tokens_max
    for _ in range(TRIES_MAX):
        fits = _fitting(wish.asking.bound, refused, held, leave)
        if fits >= held and refused.code == "budget_busy":  # there is room, and others wait for it
            return refused
        held = min(held - 1, fits)
        if not _is_room(refused) or held < wish.tokens:
            break
        outcome = await wish.asking.hold(held, leave)
        if isinstance(outcome, Admitted):
            return outcome
        refused = outcome
    return first if _is_room(refused) else refused


async def _rest(wish: Wish, refused: Refused) -> Admitted | Refused:
    """All that is left, for a call that found its budget too small: unless calls in flight may give some of it back.

    Only the ledger knows whether they may: it is asked for a little more than there is. If it has that by now, somebody
    gave room back, and others may run for whom it is: the call holds nothing, and looks again later.
    """
    asking, bound, least = wish.asking, wish.asking.bound, wish.least
    first, fits = refused, bound.output_tokens_max
    for _ in range(TRIES_MAX):
        if not _is_room(refused):
            return refused
        fits = min(fits, _fitting(bound, refused, fits, bound.leave))
        is_enough = fits >= least
        leave = _beyond(asking, refused, fits) if is_enough else bound.leave
        outcome = await asking.hold(fits if is_enough else least, leave)
        if isinstance(outcome, Admitted):
            await asking.give_back()
            return msgspec.structs.replace(first, code="budget_busy", retry_after_s=RETRY_AFTER_S, resets_at=None)
        if outcome.code != "budget_exceeded":
            return outcome
        if not is_enough:
            break
        outcome = await asking.hold(fits, bound.leave)
        if isinstance(outcome, Admitted) or outcome.code != "budget_exceeded":
            return outcome
        refused = outcome
    return first


def _beyond(asking: Asking, refused: Refused, held: int) -> Amounts:
    """What is to be left so that a hold takes a little more than there is; what always is, where nobody says."""
    binding, leave = refused.binding, asking.bound.leave
    if binding is None:
        return leave
    return {**leave, binding.unit: max(0, binding.available - asking.amounts(held)[binding.unit]) + 1}


def _is_room(refused: Refused) -> bool:
    """Whether less output might fit."""
    return refused.code in ROOM and (refused.binding is None or refused.binding.unit in OUTPUT_UNITS)


def _without(also: Sequence[str], refused: Refused) -> tuple[str, ...] | None:
    """Those that are left of the others, without the one that cannot be charged; None: it is none of them."""
    for index in range(len(also)):
        if refused.field == f"also[{index}]":
            return (*also[:index], *also[index + 1 :])
    return None


def _fitting(bound: Bound, refused: Refused, held: int, leave: Amounts) -> int:
    """How much output would have fitted; a key that may not see the budget that binds halves."""
    binding = refused.binding
    if binding is None:
        return held // 2
    return bound.output_within(binding.unit, max(0, binding.available) - leave.get(binding.unit, 0))


async def extend(ledger: Settlements, admitted: Admitted, output_tokens: int, leave: Amounts) -> Refused | None:
    """Let the hold grow to an output of so many tokens a choice, or not at all. Its lease begins anew.

    What others have given back, and is not booked yet, is booked before it: it is room that there is.
    """
    to = admitted.bound.amounts(output_tokens)
    if admitted.spent:
        to = {unit: min(AMOUNT_MAX, amount + admitted.spent.get(unit, 0)) for unit, amount in to.items()}
    command = Extend(id=admitted.id, to=to, lease_s=admitted.lease_s, leave=leave)
    outcome = await ledger.execute(msgspec.structs.replace(admitted.request, command=command))
    if isinstance(outcome, Refused):
        return outcome
    admitted.held_output_tokens = output_tokens
    return None


async def cover(ledger: Settlements, admitted: Admitted, amounts: Amounts) -> bool:
    """Hold besides what an attempt has used that failed; False: there is no room for that, or nobody can say so."""
    before = admitted.spent
    admitted.spent = {unit: before.get(unit, 0) + amount for unit, amount in amounts.items()}
    with contextlib.suppress(TreasuryError):
        if await extend(ledger, admitted, admitted.held_output_tokens, admitted.bound.leave) is None:
            return True
    admitted.spent = before
    return False


async def grow(ledger: Settlements, admitted: Admitted, output_tokens: int, leave: Amounts | None = None) -> bool:
    """Let the hold grow to an output of so many tokens a choice, or as far as there is room; False: there is none.

    Args:
        ledger: has the hold.
        admitted: the hold.
        output_tokens: of a choice.
        leave: what has to stay free besides; what always has to, unless said.

    Raises:
        TreasuryError: the ledger cannot be asked; what is held still holds.
    """
    bound, held = admitted.bound, admitted.held_output_tokens
    leave = bound.leave if leave is None else leave
    for _ in range(TRIES_MAX):
        refused = await extend(ledger, admitted, output_tokens, leave)
        if refused is None:
            return True
        if not _is_room(refused):
            return False
        binding = refused.binding
        if binding is None:
            output_tokens = (output_tokens + held) // 2
        else:
            room = bound.amounts(held).get(binding.unit, 0) + max(0, binding.available)
            fits = bound.output_within(binding.unit, room - leave.get(binding.unit, 0))
            output_tokens = min(output_tokens - 1, fits)
        if output_tokens <= held:
            return False
    return False


async def release(ledger: Settlements, admitted: Admitted) -> None:
    """Give a hold back before anything was asked. While the ledger is away it expires by itself."""
    with contextlib.suppress(TreasuryError):
        await ledger.execute(msgspec.structs.replace(admitted.request, command=Release(id=admitted.id)))
