"""``@govern``: every call of a function within what its account has left, which is asked before the function runs.

    begin ─ hold min(what is left, what such calls usually need) ─▶ the function runs ─▶ book what it really used
            less than it ever used is left: refused, not run         more than was held: the hold is raised first
            others give what lacks, in one step with the hold        no room for that: booked, then ``BudgetOverrun``

A call inside a call for the same account takes its part of the outer hold: it never waits for itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from math import ceil, isfinite
from typing import Any

import msgspec
import uuid_utils

from fiscus.contract import (
    AMOUNT_MAX,
    CallRecord,
    Lend,
    LoanPart,
    Provenance,
    Refused,
    SingleCommand,
    Transfer,
)
from fiscus.contract.errors import (
    BudgetOverrun,
    FiscusError,
    Invalid,
    Refusal,
    TreasuryError,
    refusal,
)
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import PAGE_LENGTH_MAX, ListUsage, MoveView, ReallocationView, UsagePage
from fiscus.core.records import TEXT_LENGTH_MAX, Outcome
from fiscus.sdk.hold import Hold
from fiscus.sdk.sizing import Lately, Need
from fiscus.sdk.texts import count_tokens, texts_in
from fiscus.sdk.treasury import Treasury
from fiscus.sdk.usage import reading

log = get_logger(__name__)

FUNCTIONS_MAX = 1_000
"""Of so many functions it is remembered what they use; those not called for longest are forgotten."""

HISTORY = timedelta(days=7)
HISTORY_PAGES_MAX = 5
ATTEMPTS_MAX = 8
WAIT_S = 10.0
"""How long a call waits for others of its account that hold what it needs, in seconds."""

WAIT_S_FIRST, WAIT_S_EACH_MAX = 0.01, 0.25

OnMoved = Callable[[str, int, Sequence[MoveView]], None]
"""(account, how much it lacked in tokens, who gave what)."""

UsageOf = Callable[[Any], Any]
"""What a result says that the call used, in tokens; whatever is not a number ≥ 0 counts as not said."""


InputOf = Callable[[Sequence[Any], Mapping[str, Any]], Any]
"""(arguments, arguments by name) → what of them goes to a model, as far as it is text."""


TaskOf = Callable[[Sequence[Any], Mapping[str, Any]], str | None]
"""(arguments, arguments by name) → the task."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How the calls of one function are governed.

    Attributes:
        account: who pays.
        note: what the call is called in the records.
        tokens: what a call uses at most; None: it is learned.
        usage_of: reads a result; else usage in any known shape is, or its texts are counted.
        input_of: what of the arguments is its input; all of them by default.
        task_of: the task that a call works on, for the account's confidence gate; None: none in particular.
        labels: for the record.
    """

    account: str
    note: str
    tokens: int | None = None
    usage_of: UsageOf | None = None
    input_of: InputOf | None = None
    task_of: TaskOf | None = None
    labels: dict[str, str] = {}


class Purse:
    """A hold, of which the call that made it and those inside it take."""

    def __init__(self, hold: Hold, amount: int) -> None:
        self.hold = hold
        self.amount = amount
        self.promised = 0
        self.used = 0
        self.is_open = True
        self.growing = asyncio.Lock()

    @property
    def free(self) -> int:
        """What is neither used nor promised to a call inside."""
        return self.amount - self.used - self.promised


class Governor:
    """Makes calls of functions within what their accounts have. Lives on the loop of one treasury.

    Args:
        treasury: where the accounts are.
        borrows: whether what is short is asked of others, by the rules of ``policy.reallocation``.
        wait_s: how long a call waits for calls in flight that hold what it needs, in seconds.
        on_moved: told when others have given.
    """

    def __init__(
        self,
        treasury: Treasury,
        *,
        borrows: bool = False,
        wait_s: float = WAIT_S,
        on_moved: OnMoved | None = None,
    ) -> None:
        self.treasury = treasury
        self._borrows = borrows
        self._wait_s = wait_s
        self._on_moved = on_moved
        self._lately: OrderedDict[tuple[str, str], Lately] = OrderedDict()

    def call(self, terms: Terms, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """A call that is about to be made, with what it is made with."""
        given = (args, kwargs) if terms.input_of is None else terms.input_of(args, kwargs)
        task = None if terms.task_of is None else terms.task_of(args, kwargs)
        return Call(self, terms, tokens_in(given), task)

    def current(self, account: str) -> Call | None:
        """The innermost call for an account that runs in this context."""
        running = reversed(_running.get())
        ours = (call for call in running if call.governor.treasury is self.treasury and call.account == account)
        return next(ours, None)

    async def lately(self, terms: Terms) -> Lately:
        """What the last calls of a function used; the first time from the records of the ledger."""
        key = (terms.account, terms.note)
        known = self._lately.get(key)
        if known is None:
            known = Lately(await self._history(terms))
            known = self._lately.setdefault(key, known)
        self._lately.move_to_end(key)
        if len(self._lately) > FUNCTIONS_MAX:
            self._lately.popitem(last=False)
        return known

    async def admit(self, account: str, need: Need, *, may_ask: bool = True, **of_hold: Any) -> Purse:
        """Hold what a call needs, or what is left of it, with what others give.

        Args:
            account: who pays.
            need: of the call.
            may_ask: whether others are asked.
            of_hold: what else the hold is made with.

        Raises:
            Refusal: there is less than the least that the call needs.
            TreasuryError: nobody could be asked.
        """
        loop = asyncio.get_running_loop()
        until_s, wait_s = loop.time() + self._wait_s, WAIT_S_FIRST
        amount, attempts = need.wanted, 0
        first: tuple[SingleCommand, ...] = ()
        plan: ReallocationView | None = None
        while True:
            attempts += 1
            hold = self.treasury.hold(account, tokens=min(amount, AMOUNT_MAX), first=first, **of_hold)
            try:
                await hold.__aenter__()
                self._tell(account, plan)
                return Purse(hold, min(amount, AMOUNT_MAX))
            except Refusal as error:
                refused = error
            if is_of_a_gift(refused, first):  # somebody else was quicker, or a lender may not give any more
                may_ask = may_ask and attempts < ATTEMPTS_MAX
                amount, first, plan = need.wanted, (), None
                continue
            left = left_of(refused)
            if left is None:
                raise refused
            plan = await self._plan(account, refused, need.needed) if may_ask and left < need.needed else None
            first = () if plan is None else (loan_of(plan),)
            amount = min(need.wanted, left if plan is None else plan.available + plan.recovered)
            if amount >= need.least and attempts < ATTEMPTS_MAX:
                continue
            if not may_come_back(refused, need.least) or loop.time() >= until_s:
                raise short(refused, account, need.least, left)
            await asyncio.sleep(wait_s)
            amount, first, plan, attempts = need.wanted, (), None, 0
            wait_s = min(wait_s * 2, WAIT_S_EACH_MAX)

    async def raise_to(self, purse: Purse, total: int) -> int:
        """Raise a hold to a total before more than it holds is booked, with what others give.

        Returns:
            By how much there is no room; 0: it is raised, or nobody can tell now.
        """
        async with purse.growing:
            return await self._raise_to(purse, total)

    async def _raise_to(self, purse: Purse, total: int) -> int:
        account = purse.hold.account
        plan: ReallocationView | None = None
        for _ in range(ATTEMPTS_MAX):
            rise = total - purse.amount
            if rise <= 0:
                return 0
            first = () if plan is None else transfers_of(plan)
            try:
                await purse.hold.extend(first=first, tokens=total)
            except Refusal as refused:
                if is_of_a_gift(refused, first):
                    plan = None
                    continue
                left = left_of(refused)
                if left is None:
                    return rise
                plan = await self._plan(account, refused, rise)
                lacking = rise - (left if plan is None else plan.available + plan.recovered)
                if lacking > 0:
                    return min(lacking, rise)
            except TreasuryError:
                return 0
            else:
                purse.amount = total
                self._tell(account, plan)
        return max(0, total - purse.amount)

    async def _plan(self, account: str, refused: Refusal, amount: int) -> ReallocationView | None:
        """What others would give so that so much is free, if it is the account's own budget that binds."""
        binding = refused.binding
        if not self._borrows or binding is None or binding.account != account:
            return None
        try:
            plan = await self.treasury.reallocation(account, "tokens", amount)
        except Refusal:
            return None
        return plan if plan.moves else None

    def _tell(self, account: str, plan: ReallocationView | None) -> None:
        if plan is not None and self._on_moved is not None:
            self._on_moved(account, plan.shortfall, plan.moves)

    async def _history(self, terms: Terms) -> list[int]:
        """What the calls of this function used in the last days, oldest first; nothing where it cannot be read."""
        used: dict[str, int] = {}
        after: int | None = 0
        since = datetime.now(UTC) - HISTORY
        with suppress(FiscusError):
            for _ in range(HISTORY_PAGES_MAX):
                if after is None:
                    break
                page = await self.treasury.read(
                    ListUsage(account=terms.account, since=since, after=after, limit=PAGE_LENGTH_MAX)
                )
                assert isinstance(page, UsagePage), "the answer is of its query's kind"
                for one in page.usage:
                    record = one.record
                    if record is None or record.provenance is None or record.outcome != "success":
                        continue
                    if record.provenance.task_name == terms.note:
                        used[one.hold] = used.get(one.hold, 0) + one.amounts.get("tokens", 0)
                after = page.next
        return list(used.values())


_running: ContextVar[tuple[Call, ...]] = ContextVar("fiscus_governed", default=())


class Call:
    """One call of a function: begun before it runs, ended by what became of it; on the treasury's loop.

    Attributes:
        need: what it was held for, and why; None until it has begun.
        confidence: how sure its result is, 0 … 1, if that is known when it is booked.
    """

    def __init__(self, governor: Governor, terms: Terms, input_tokens: int, task: str | None = None) -> None:
        self.governor = governor
        self.terms = terms
        self.account = terms.account
        self.need: Need | None = None
        self.confidence: float | None = None
        self._task = task
        self._input_tokens = input_tokens
        self._purse: Purse | None = None
        self._outer: Purse | None = None
        self._promised = 0
        self._lately: Lately | None = None
        self._seen = 0
        self._said: int | None = None
        self._reported: int | None = None

    @contextmanager
    def running(self) -> Any:
        """The function runs, and calls inside it find this one."""
        token = _running.set((*_running.get(), self))
        try:
            yield
        finally:
            _running.reset(token)

    async def begin(self, outer: Call | None) -> None:
        """Hold what it needs.

        Args:
            outer: the call that it is made in, for the same account.

        Raises:
            Refusal: there is not enough; do not run the function.
            TreasuryError: nobody could be asked; do not run it either.
        """
        self._lately = await self.governor.lately(self.terms)
        self.need = self._lately.need(self._input_tokens, self.terms.tokens)
        purse = outer.purse if outer is not None else None
        if purse is not None and purse.is_open:
            await self._share(purse, self.need)
        else:
            attributes = {"task": self._task} if self._task else {}
            self._purse = await self.governor.admit(self.account, self.need, attributes=attributes)
            self._purse.hold.spending()

    @property
    def purse(self) -> Purse | None:
        """What it, and calls inside it, take of."""
        return self._purse or self._outer

    async def abandon(self) -> None:
        """It was given up while it began: the function has not run."""
        purse, self._purse = self._purse, None
        if purse is not None:
            purse.is_open = False
            purse.hold.unused()
            await purse.hold.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
        self._give_back()

    def seen(self, item: object) -> None:
        """An item came out of a generator."""
        said = self._usage_in(item)
        if said is not None:
            self._said = said
        else:
            self._seen += tokens_in(item)

    async def report(self, tokens: int, note: str) -> None:
        """The function itself says what it has used: that is booked at once, and replaces the estimate.

        Raises:
            BudgetOverrun: there was less.
        """
        self._reported = (self._reported or 0) + tokens
        await self._take(tokens, CallRecord(provenance=Provenance(task_name=note[:TEXT_LENGTH_MAX])))

    async def returned(self, result: object) -> int:
        """The function has ended.

        Returns:
            What it used, in tokens.

        Raises:
            BudgetOverrun: more than there was; ``result`` is on it.
        """
        said = self._usage_in(result)
        said = self._said if said is None else said
        if said is not None:
            own, estimated = said, False
        else:
            own, estimated = self._input_tokens + self._seen + tokens_in(result), True
        if self._reported is not None:
            estimated, own = False, 0
        assert self._lately is not None, "it has begun"
        self._lately.add(own + (self._reported or 0))
        await self._end(own, self._record(estimated), result)
        return own + (self._reported or 0)

    async def failed(self, error: BaseException) -> int:
        """The function raised: what is known of its use is booked, else an estimate; it is never free.

        Returns:
            What was booked, in tokens.
        """
        known = self._said if self._said is not None else self._usage_in(error)
        if known is not None:
            own, estimated = known, False
        elif self._reported is not None or isinstance(error, Refusal | BudgetOverrun):
            own, estimated = 0, False  # what it has used it has said, or it was stopped before it could
        elif isinstance(error, GeneratorExit):
            own, estimated = max(1, self._input_tokens + self._seen), True
        else:
            assert self._lately is not None, "it has begun"
            usual = self._lately.quantile(50)
            own, estimated = max(1, usual, self._input_tokens + self._seen), True
            own = min(own, max(1, self._purse.free if self._purse is not None else self._promised))
        record = self._record(estimated, error)
        with suppress(BudgetOverrun):  # the function's own exception is on its way
            await self._end(own, record, None)
        return own + (self._reported or 0)

    async def _share(self, purse: Purse, need: Need) -> None:
        """Take a part of the hold of the call around this one, which grows if it is too small."""
        self._outer, self._promised = purse, max(need.least, min(need.needed, purse.free))
        purse.promised += self._promised
        lacking = await self.governor.raise_to(purse, purse.used + purse.promised)
        if lacking:
            self._give_back()
            self._outer = None
            refused = Refused(
                code="budget_exceeded",
                detail=f"{self.account}: {need.least} tokens asked, {max(0, need.least - lacking)} left",
                requested=need.least,
            )
            raise refusal(refused)

    def _give_back(self) -> None:
        if self._outer is not None:
            self._outer.promised -= self._promised
        self._promised = 0

    async def _take(self, tokens: int, record: CallRecord) -> None:
        """Book tokens of the hold now.

        Raises:
            BudgetOverrun: they are booked, but there were less.
        """
        purse = self.purse
        assert purse is not None, "it has begun"
        self._promised_less(tokens)
        if not purse.is_open:  # the call around it has ended: it went on in the background
            await self.governor.treasury.usage(self.account, {"tokens": tokens}, record=record)
            return
        purse.used += tokens
        lacking = await self.governor.raise_to(purse, purse.used + purse.promised)
        if lacking:
            lacking = max(0, purse.used - purse.amount)
        await purse.hold.reading({"tokens": purse.used}, record=record)
        if lacking:
            raise BudgetOverrun(self.account, tokens, max(0, tokens - lacking))

    def _promised_less(self, tokens: int) -> None:
        """What is used of a promise is not promised any more."""
        if self._outer is not None:
            used = min(tokens, self._promised)
            self._promised -= used
            self._outer.promised -= used

    async def _end(self, own: int, record: CallRecord, result: object) -> None:
        purse, self._purse = self._purse, None
        if purse is None:
            try:
                if own:
                    await self._take(own, record)
            except BudgetOverrun as overrun:
                overrun.result = result
                raise
            finally:
                self._give_back()
            return
        purse.is_open = False
        total = purse.used + own
        known = max(0, purse.used - purse.amount)  # calls inside have raised that
        lacking = await self.governor.raise_to(purse, total) - known
        purse.hold.settle({"tokens": total}, record=record)
        await purse.hold.__aexit__(None, None, None)
        if lacking > 0:
            raise BudgetOverrun(self.account, own, max(0, own - lacking), result)

    def _record(self, estimated: bool, error: BaseException | None = None) -> CallRecord:
        return CallRecord(
            tokens_estimated=estimated,
            outcome="success" if error is None else outcome_of(error),
            error_code=None if error is None else type(error).__name__[:TEXT_LENGTH_MAX],
            confidence=self.confidence,
            provenance=Provenance(task_name=self.terms.note[:TEXT_LENGTH_MAX]),
            metadata=self.terms.labels,
        )

    def _usage_in(self, value: object) -> int | None:
        """What a result, an item or an exception says itself; None: nothing."""
        if self.terms.usage_of is not None and not isinstance(value, BaseException):
            try:
                said = whole(self.terms.usage_of(value))
            except Exception as error:  # noqa: BLE001  (a user's function; the work is done and must not be lost)
                log.warning("usage_not_read", account=self.account, note=self.terms.note, error=type(error).__name__)
                return None
            if said is not None:
                return said
        return usage_in(value)


def left_of(refused: Refusal) -> int | None:
    """What the budget that binds has left, in tokens, negative when it is overdrawn.

    None: it is not a matter of tokens, or not to be seen.
    """
    binding = refused.binding
    return None if binding is None or binding.unit != "tokens" else binding.available


def loan_of(plan: ReallocationView) -> Lend:
    """What others give to a call before it runs: what it does not use goes back to them."""
    parts = tuple(LoanPart(source=move.source, amount=move.amount) for move in plan.moves)
    reason = f"{plan.account} lacked {plan.shortfall} tokens"
    return Lend(id=str(uuid_utils.uuid7()), account=plan.target, unit=plan.unit, parts=parts, reason=reason)


def transfers_of(plan: ReallocationView) -> tuple[Transfer, ...]:
    """What others give for what has been used."""
    reason = f"{plan.account} lacked {plan.shortfall} tokens"
    return tuple(
        Transfer(source=move.source, target=plan.target, unit=plan.unit, amount=move.amount, reason=reason)
        for move in plan.moves
    )


def is_of_a_gift(refused: Refusal, first: Sequence[SingleCommand]) -> bool:
    """Whether what others give was refused, and not what it was to be given for."""
    index = refused.refused.index
    return index is not None and index < len(first) and refused.code != "precondition_failed"


def may_come_back(refused: Refusal, least: int) -> bool:
    """Whether there would be enough once the calls in flight have ended."""
    binding = refused.binding
    return binding is not None and binding.held > 0 and binding.available + binding.held >= least


def short(refused: Refusal, account: str, least: int, left: int) -> Refusal:
    """The refusal of a call that needs at least so much, in place of that of what would have been held."""
    return refusal(
        msgspec.structs.replace(
            refused.refused,
            detail=f"{account}: {least} tokens asked, {max(0, left)} left",
            requested=least,
            index=None,
            field=None,
        )
    )


def whole(said: object) -> int | None:
    """A number of tokens, rounded up; None: it is not a finite number ≥ 0.

    >>> whole(0.8), whole(12), whole(float("nan")), whole(-1), whole(True)
    (1, 12, None, None, None)
    """
    if isinstance(said, bool) or not isinstance(said, int | float) or not isfinite(said):
        return None
    return ceil(said) if 0 <= said <= AMOUNT_MAX else None


def usage_in(value: object) -> int | None:
    """Tokens by a usage in one of the known shapes that a value is, or carries; None: there is none.

    >>> usage_in({"answer": "yes", "usage": {"prompt_tokens": 10, "completion_tokens": 5}})
    15
    """
    if value is None or isinstance(value, str | int | float | list | tuple):
        return None
    with suppress(Invalid, TypeError):
        return reading(value).total.get("tokens")
    return None


def tokens_in(value: object) -> int:
    """Tokens of all texts in a value."""
    return sum(count_tokens(text) for text in texts_in(value))


def outcome_of(error: BaseException) -> Outcome:
    """What became of a call that raised this."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    return "timeout" if isinstance(error, TimeoutError) else "error"
