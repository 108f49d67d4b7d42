"""One call and the budget that is held for it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from types import TracebackType

import msgspec

from fiscus.contract import (
    Amounts,
    CallRecord,
    Compound,
    CompoundAnswer,
    Extend,
    HoldAnswer,
    Release,
    Reserve,
    Settle,
    SingleCommand,
    Unit,
)
from fiscus.contract.errors import BudgetUnavailable, FiscusError, Refusal
from fiscus.contract.logs import get_logger
from fiscus.core.records import Outcome
from fiscus.sdk.teller import Teller
from fiscus.sdk.usage import Reading, completed_by_bound, reading

RENEWALS_PER_LEASE = 3

log = get_logger(__name__)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a call when its hold ends.

    Attributes:
        reserved: the bound per unit.
        last: the last reading, if there is one, and whether it was given as the final one.
        is_spending: the caller said that the call was about to be made.
        is_unused: the caller said that nothing was spent.
        failure: what ended the body, if it did not end by itself.
    """

    reserved: Amounts
    last: Reading | None = None
    last_is_final: bool = False
    is_spending: bool = False
    is_unused: bool = False
    failure: BaseException | None = None


def closing(ending: Ending) -> Reading | None:
    """What to book when a hold ends; None: release it. What may have been billed is never released.

    ===========================  =====================  ===========================
    known                        the body ended         it failed or was cancelled
    ===========================  =====================  ===========================
    a final reading              it                     it
    running readings             the last               the last, as an estimate
    ``spending()``, no reading   the bound, estimated   the bound, estimated
    nothing                      the bound, estimated   released
    ``unused()``, no reading     released               released
    ===========================  =====================  ===========================

    A unit that was held and that the reading does not tell is booked at its bound, as an estimate.
    """
    if ending.last is None and (ending.is_unused or (ending.failure is not None and not ending.is_spending)):
        return None
    known = ending.last or Reading(total={}, record=CallRecord(tokens_estimated=True))
    cut_short = ending.failure is not None and not ending.last_is_final
    record = msgspec.structs.replace(
        known.record,
        tokens_estimated=known.record.tokens_estimated or cut_short,
        outcome=known.record.outcome or (_outcome(ending.failure) if cut_short else "success"),
        error_code=known.record.error_code or (type(ending.failure).__name__ if cut_short else None),
    )
    return completed_by_bound(Reading(total=known.total, record=record), ending.reserved)


class Hold:
    """Budget held for one call: ``async with treasury.hold(...) as hold``.

    It is reserved on entry and settled on exit by the rules of ``closing``; in between its lease is renewed. Nothing
    that happens on exit hides an exception that is already on its way.
    """

    def __init__(
        self,
        teller: Teller,
        reserve: Reserve,
        *,
        record: CallRecord,
        id_is_ours: bool,
        is_kept_alive: bool,
        first: Sequence[SingleCommand] = (),
    ) -> None:
        self._teller = teller
        self._reserve = reserve
        self._first = tuple(first)
        self._record = record
        self._id_is_ours = id_is_ours
        self._is_kept_alive = is_kept_alive
        self._answer: HoldAnswer | None = None
        self._last: Reading | None = None
        self._last_is_final = False
        self._is_spending = False
        self._is_unused = False
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The hold's id, and the idempotency key of all that concerns it."""
        return self._reserve.id

    @property
    def account(self) -> str:
        """Who pays."""
        return self._reserve.account

    @property
    def command(self) -> Reserve:
        """What is asked for on entry."""
        return self._reserve

    @property
    def has_reading(self) -> bool:
        """Whether something is known of what the call has used."""
        return self._last is not None

    @property
    def answer(self) -> HoldAnswer | None:
        """What the ledger last said of it; None before the entry, and while its settlement waits in the spool."""
        return self._answer

    @property
    def amounts(self) -> Amounts:
        """The bound per unit as it is held (tokens; nano-USD)."""
        return self._answer.reserved if self._answer is not None else self._reserve.amounts

    @property
    def output_tokens(self) -> int | None:
        """What may be passed as ``max_tokens``; None if no tokens are held.

        The held output tokens, or else what the held tokens leave beside the held input tokens.
        """
        amounts = self.amounts
        if "output_tokens" in amounts:
            return amounts["output_tokens"]
        return max(0, amounts["tokens"] - amounts.get("input_tokens", 0)) if "tokens" in amounts else None

    def spending(self) -> None:
        """Say that the call is about to be made: from here on a failure no longer means that nothing is billed."""
        self._is_spending = True

    def unused(self) -> None:
        """Say that no call was made: without a reading the hold is given back on exit."""
        self._is_unused = True

    def settle(
        self, usage: object = None, *, cost_nanousd: int | None = None, record: CallRecord | None = None
    ) -> None:
        """Give the final reading; it is booked on exit. The last one given counts.

        Args:
            usage: as the provider returned it, or ours: see ``fiscus.sdk.usage``.
            cost_nanousd: what the call cost (nano-USD); unless given, what the prices say of its model.
            record: what else is known of the call.

        Raises:
            Invalid: the usage cannot be read; the bound will be booked, unless a better reading follows.
        """
        self._is_spending = True
        self._last = self._read(usage, cost_nanousd, record)
        self._last_is_final = True

    async def reading(
        self, usage: object, *, cost_nanousd: int | None = None, record: CallRecord | None = None
    ) -> None:
        """Book a running total, as of a stream. If the ledger is away only the final reading will be booked.

        Raises:
            Invalid: the usage cannot be read.
            Refusal: the ledger does not know the hold, or the key may not settle it.
        """
        self._is_spending = True
        self._last = self._read(usage, cost_nanousd, record)
        self._last_is_final = False
        try:
            self._answer = await self._teller.note(self._settlement(self._last, final=False)) or self._answer
        except BudgetUnavailable as error:
            log.info("reading_not_booked", hold=self.id, error=str(error))

    async def extend(self, *, first: Sequence[SingleCommand] = (), **to: int) -> None:
        """Raise the hold to new totals, named as in ``Treasury.hold``, and renew its lease.

        Args:
            first: commands that are done with it, all or none, such as transfers that make room.
            to: the totals.

        Raises:
            Refusal: there is no room; the hold stays as it was.
        """
        reserve = self._reserve
        command = Extend(id=self.id, to=amounts_of(**to), lease_s=reserve.lease_s, leave=reserve.leave)
        self._answer = await self._ask(first, command)

    async def __aenter__(self) -> Hold:
        """Reserve.

        Raises:
            Refusal: there is no budget for it. Do not make the call.
            TreasuryError: nobody could be asked. Do not make the call either.
        """
        try:
            self._answer = await self._ask(self._first, self._reserve)
        except (BudgetUnavailable, asyncio.CancelledError):
            if self._id_is_ours:  # it may be held, and nobody else can know by which id
                self._teller.book_in_background(self._release())
            raise
        self._arm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Book the last reading, or give the hold back, to the end even when the task is cancelled meanwhile."""
        self._disarm()
        last = closing(
            Ending(
                reserved=self.amounts,
                last=self._last,
                last_is_final=self._last_is_final,
                is_spending=self._is_spending,
                is_unused=self._is_unused,
                failure=failure,
            )
        )
        command = self._release() if last is None else self._settlement(last, final=True)
        try:
            self._answer = await self._teller.uninterrupted(self._teller.book(command))
        except FiscusError as error:
            if failure is None:
                raise
            log.error("hold_not_booked", hold=self.id, code=error.code, detail=str(error))
            failure.add_note(f"Besides, hold {self.id} could not be booked: {error}")
        if self._last is None and last is not None:
            warnings.warn(
                f"hold {self.id} of {self.account} ended without a reading: its bound was booked as an estimate; "
                "call hold.settle(usage), or hold.unused() if no call was made",
                RuntimeWarning,
                stacklevel=2,
            )

    async def _ask(self, first: Sequence[SingleCommand], command: Reserve | Extend) -> HoldAnswer:
        """Have a command decided, and with it, all or none, what has to be done before."""
        if not first:
            return await self._teller.ask(HoldAnswer, command)
        whole = await self._teller.ask(CompoundAnswer, Compound(commands=(*first, command)))
        answer = whole.answers[-1]
        assert isinstance(answer, HoldAnswer), "the last command was a hold's"
        return answer

    def _read(self, usage: object, cost_nanousd: int | None, record: CallRecord | None) -> Reading:
        read = reading(usage, cost_nanousd=cost_nanousd, record=record)
        known = read.record
        return Reading(
            total=read.total,
            record=msgspec.structs.replace(
                known, model=known.model or self._record.model, feature=known.feature or self._record.feature
            ),
        )

    def _settlement(self, last: Reading, *, final: bool) -> Settle:
        """With all that the hold was made of, so that it is booked even where the hold is not known."""
        held = self._reserve
        return Settle(
            id=held.id,
            total=last.total,
            final=final,
            record=last.record,
            account=held.account,
            also=held.also,
            attributes=held.attributes,
            parent=held.parent,
        )

    def _release(self) -> Release:
        return Release(id=self.id, account=self.account)

    def _arm(self) -> None:
        if self._is_kept_alive:
            delay_s = self._reserve.lease_s / RENEWALS_PER_LEASE
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._renew_in_background)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewal is not None:
            self._renewal.cancel()

    def _renew_in_background(self) -> None:
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        try:
            await self._teller.ask(HoldAnswer, Extend(id=self.id, lease_s=self._reserve.lease_s))
        except Refusal as error:
            log.warning("lease_not_renewed", hold=self.id, code=error.code, detail=str(error))
            return
        except FiscusError as error:
            log.warning("lease_not_renewed", hold=self.id, code=error.code, detail=str(error))
        self._arm()


def amounts_of(
    *,
    tokens: int | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    cost_nanousd: int | None = None,
    calls: int | None = None,
) -> Amounts:
    """Amounts per unit from arguments, those left out left out.

    >>> amounts_of(tokens=10, cost_nanousd=3)
    {'tokens': 10, 'cost': 3}
    """
    given: dict[Unit, int | None] = {
        "tokens": tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost": cost_nanousd,
        "calls": calls,
    }
    return {unit: amount for unit, amount in given.items() if amount is not None}


def _outcome(failure: BaseException | None) -> Outcome:
    if isinstance(failure, asyncio.CancelledError):
        return "cancelled"
    return "timeout" if isinstance(failure, TimeoutError) else "error"
