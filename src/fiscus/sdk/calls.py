"""One call of a governed function: what it is held for, what is known of its use, and how it ends.

A call inside a call for the same account takes its part of the outer hold: it never waits for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from math import ceil, isfinite
from typing import Any

from fiscus.contract import AMOUNT_MAX, CallRecord, Provenance, Refused
from fiscus.contract.errors import BudgetOverrun, Invalid, Refusal, refusal
from fiscus.contract.logs import get_logger
from fiscus.core.records import TEXT_LENGTH_MAX, Outcome
from fiscus.sdk.governor import Governor, Purse, Terms
from fiscus.sdk.sizing import USUAL_PERCENT, Lately, Need
from fiscus.sdk.texts import count_tokens, texts_in
from fiscus.sdk.usage import reading

log = get_logger(__name__)


def call_of(governor: Governor, terms: Terms, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """A call that is about to be made, with what it is made with."""
    given = (args, kwargs) if terms.input_of is None else terms.input_of(args, kwargs)
    task = None if terms.task_of is None else terms.task_of(args, kwargs)
    return Call(governor, terms, tokens_in(given), task)


def running_call(governor: Governor, account: str) -> Call | None:
    """The innermost call for an account that runs in this context."""
    running = reversed(_running.get())
    ours = (call for call in running if call.governor.treasury is governor.treasury and call.account == account)
    return next(ours, None)


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
    def running(self) -> Iterator[None]:
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
            if isinstance(result, Iterator | AsyncIterator):  # a stream, whose items are not seen here
                own = max(own, self._at_most())
        if self._reported is not None:
            estimated, own = False, 0
        assert self._lately is not None, "it has begun"
        self._lately.add(own + (self._reported or 0))
        await self.governor.to_the_end(self._end(own, self._record(estimated), result))
        return own + (self._reported or 0)

    def _at_most(self) -> int:
        """What it was said to use at most, else what such calls usually use."""
        assert self._lately is not None, "it has begun"
        return self.terms.tokens or max(1, self._lately.quantile(USUAL_PERCENT))

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
            usual = self._lately.quantile(USUAL_PERCENT)
            own, estimated = max(1, usual, self._input_tokens + self._seen), True
            own = min(own, max(1, self._purse.free if self._purse is not None else self._promised))
        record = self._record(estimated, error)
        with suppress(BudgetOverrun):  # the function's own exception is on its way
            await self.governor.to_the_end(self._end(own, record, None))
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
