"""``@govern``: every call of a function within what its account has left, which is asked before the function runs.

begin ─ hold min(what is left, what such calls usually need) ─▶ the function runs ─▶ book what it really used
less than it ever used is left: refused, not run         more than was held: the hold is raised first
others give what lacks, in one step with the hold        no room for that: booked, then ``BudgetOverrun``
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import uuid_utils

from fiscus.contract import (
    AMOUNT_MAX,
    Lend,
    LoanPart,
    SingleCommand,
    Transfer,
)
from fiscus.contract.errors import (
    FiscusError,
    Refusal,
    TreasuryError,
    refusal,
)
from fiscus.contract.queries import PAGE_LENGTH_MAX, ListUsage, MoveView, ReallocationView, UsagePage
from fiscus.sdk.hold import Hold
from fiscus.sdk.sizing import Lately, Need
from fiscus.sdk.treasury import Treasury

T = TypeVar("T")

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
        self._ending: set[asyncio.Task[Any]] = set()

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the end of a call, which is booked whatever becomes of the waiting."""
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return await asyncio.shield(task)

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
                raise short(refused, account, need, left)
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


def short(refused: Refusal, account: str, need: Need, left: int) -> Refusal:
    """The refusal of a call that has less than it needs at least, in place of that of what would have been held."""
    return refusal(
        msgspec.structs.replace(
            refused.refused,
            detail=f"{account}: {need.least} tokens asked, {max(0, left)} left; {need.why}",
            requested=need.least,
            index=None,
            field=None,
        )
    )
