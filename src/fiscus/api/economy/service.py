"""The token economy on the ledger: its pool is the account ``global``, an agent's grants are one allocation below."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from fractions import Fraction
from hashlib import sha256
from math import ceil
from types import TracebackType
from uuid import uuid4

import msgspec
import structlog

from fiscus.api.economy.bodies import (
    ACCOUNT_PREFIX,
    AgentStatus,
    AllocateBody,
    Allocated,
    BudgetStatus,
    ConsumeBody,
    Consumed,
    Denied,
    Explanation,
    PauseBody,
    Paused,
    check_body,
)
from fiscus.api.economy.books import EXHAUSTED_REASON, INSUFFICIENT_REASON, Books, GrantMade, GrantNote
from fiscus.api.economy.follower import RETRY_PAUSE_S, WAIT_S_MAX, Follower, SealedAllocations
from fiscus.api.economy.ledger import POOL_ACCOUNT, EconomyLedger, allocation, allocation_balance
from fiscus.api.keys import ALLOWED, Caller
from fiscus.contract.errors import BudgetUnavailable, FiscusError, Refusal
from fiscus.contract.queries import AccountView
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import GrantStrategy, Status
from fiscus.core.granting import Granting
from fiscus.core.outcomes import AccountAnswer, Balance, BudgetView, Refused, StrategySource
from fiscus.policy.efficiency import (
    BASE_TOKENS_MAX,
    EFFICIENCY_UNKNOWN,
    Insufficient,
    PoolExhausted,
    grant_multiplier,
    is_low,
    size_grant,
)
from fiscus.policy.grants import History, Standing, middle_of, standing

ATTEMPTS_MAX = 64
"""How often a grant is sized anew because somebody else's came first."""

START_S_MAX = 1.0
"""How long the start of the service waits for the economy, in seconds."""

POOL_INTERVAL_S = 0.2
"""Shortest time between two looks at the pool for the metrics, in seconds."""

NOT_STARTED = "Service not initialized"
POOL_REFUSED = "the ledger refuses to make the pool; the log of the service says why"
KEY_IN_USE = "Idempotency-Key is in use for another request"
POOL_EXHAUSTED = "Global token budget exhausted. No new allocations possible."

log = structlog.get_logger()


class TokenEconomy:
    """Grants, reports and figures of the token economy. An asynchronous context manager: it follows the journal.

    Every balance that decides comes from the ledger; the books only say how efficient an agent was.

    Attributes:
        books: the read model.
        pool: what the pool had when somebody last looked; None before the start.
        pool_tokens: what it is made with where there is none.
        rejections: grants that were refused since the start, by reason.
    """

    def __init__(
        self,
        treasury: Treasury,
        *,
        pool_tokens: int,
        labels_max: int = 1_000,
        tenant: str = "default",
        sealed: SealedAllocations | None = None,
        strategy: GrantStrategy = "classic",
        reserve_percent: int = 0,
    ) -> None:
        """Make it.

        Args:
            treasury: the ledger.
            pool_tokens: limit of the pool where the ledger has none yet.
            labels_max: agents with a metric label of their own.
            tenant: whose economy it is.
            sealed: what the books begin with where entries were archived.
            strategy: how an agent's history counts when its grants are sized, where neither its account, nor its
                template, nor one above it says so.
            reserve_percent: of the pool, what only grants from the emergency reserve may use (D63).
        """
        self.strategy: GrantStrategy = strategy
        self.reserve_percent = reserve_percent
        self.books = Books(labels_max=labels_max)
        self.pool: Balance | None = None
        self.rejections: dict[str, int] = {"budget_exhausted": 0, "insufficient_allocation": 0}
        self._ledger = EconomyLedger(treasury, tenant=tenant)
        self.pool_tokens = pool_tokens
        self._started = asyncio.Event()
        self._not_started_for = NOT_STARTED
        self._changed = asyncio.Event()
        self._follower = Follower(treasury, self.books, tenant=tenant, on_change=self._changed.set, sealed=sealed)
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> TokenEconomy:
        """Start, or after ``START_S_MAX`` go on starting in the background; calls wait for it a while."""
        self._tasks = (
            asyncio.create_task(self._start(), name="token economy: start"),
            asyncio.create_task(self._follower.run(), name="token economy: books"),
            asyncio.create_task(self._watch_pool(), name="token economy: pool"),
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S_MAX):
                await self._started.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what callers ask ------------------------------------------------------------------------------------------

    async def allocate(self, caller: Caller, body: AllocateBody, key: str | None) -> Allocated | Denied | Refused:
        """Size a grant by the agent's history and make it, or say why not (D12).

        Args:
            caller: who asks.
            body: what is asked.
            key: the caller's idempotency key; asking again with it gives the answer of the first time.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        if (wrong := check_body(body)) is not None:
            return wrong
        await self._ready()
        scope = await self._scope(caller)
        if (denied := await self._may_act(caller, scope, body.agent_id)) is not None:
            return denied
        if body.source == "emergency_reserve" and scope != POOL_ACCOUNT:
            return forbidden()
        parent = body.parent_agent_id
        if parent is not None and (denied := await self._may_act(caller, scope, parent)) is not None:
            return denied
        grant = f"grant-{digest(body.agent_id, key)}"
        ceiling: int | None = None
        repeatable = {"budget_exceeded", "budget_busy", "precondition_failed", "conflict"}
        for _ in range(ATTEMPTS_MAX):
            outcome = await self._try_allocate(caller, body, grant, ceiling=ceiling)
            if not isinstance(outcome, Refused) or outcome.code not in repeatable:
                return outcome
            if outcome.code == "conflict":
                repeatable.discard("conflict")  # the grant of the other request with this key is in the books by now
            elif outcome.code == "precondition_failed":
                continue  # another grant came first
            elif outcome.binding is None or outcome.binding.account == ACCOUNT_PREFIX + body.agent_id:
                return outcome
            else:
                ceiling = outcome.binding.available
        raise BudgetUnavailable(f"{ATTEMPTS_MAX} other grants came first")

    async def consume(self, caller: Caller, body: ConsumeBody, key: str | None) -> Consumed | Denied | Refused:
        """Book what was used, and stop the agent if that is more than it had.

        Args:
            caller: who reports.
            body: what was used.
            key: the caller's idempotency key; reporting again with it books nothing.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        if (wrong := check_body(body)) is not None:
            return wrong
        await self._ready()
        agent_id, account = body.agent_id, ACCOUNT_PREFIX + body.agent_id
        scope = await self._scope(caller)
        if (denied := await self._may_act(caller, scope, agent_id)) is not None:
            return denied
        view = await self._ledger.account(account, POOL_ACCOUNT)
        if isinstance(view, Refused) or is_unfunded(view.account):
            return Denied(status=404, detail=f"No active allocation found for agent {agent_id}")
        tokens = ceil(body.tokens_consumed)
        report = f"consume-{digest(agent_id, key)}"
        if key is not None and await self._ledger.booked_tokens(report) not in {None, tokens}:
            return Denied(status=409, detail=KEY_IN_USE)
        after = await self._ledger.book(
            account,
            report=report,
            tokens=tokens,
            value=body.value_generated,
            actor=caller.actor,
        )
        if isinstance(after, Refused):
            return after
        if after.status_effective != "active":
            return stopped(agent_id, after.status_effective)
        current = allocation(after)
        if current is None or current.balance is None or not is_running(current, await self._ledger.pool()):
            return Denied(status=404, detail=f"No active allocation found for agent {agent_id}")
        balance = current.balance
        if balance.available < 0:
            await self._exhaust(account, balance, caller)
            return stopped(agent_id, "terminated")
        return Consumed(
            agent_id=agent_id,
            consumed=balance.spent,
            remaining=balance.available,
            efficiency=await self._efficiency(agent_id),
            warning=low_warning(balance),
        )

    async def status(self, caller: Caller) -> BudgetStatus | Denied:
        """The pool and its agents, for callers who may see all of them.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        await self._ready()
        if await self._scope(caller) != POOL_ACCOUNT:
            return forbidden()
        self.pool = pool = await self._ledger.pool()
        await self._caught_up()
        active = list(self.books.active())
        return BudgetStatus(
            global_budget=pool.limit,
            allocated_total=sum(book.allocated for book in active),
            consumed_total=sum(book.consumed for book in active),
            remaining_budget=pool.available,
            active_agents=len(active),
            average_efficiency=self.books.average_efficiency(),
            top_performers=self.books.top_performers(),
            budget_utilization_percent=percent(pool.limit - pool.available, pool.limit),
        )

    async def agent_status(self, caller: Caller, agent_id: str) -> AgentStatus | Denied:
        """One agent's allocation.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        await self._ready()
        scope = await self._scope(caller)
        view = await self._ledger.account(ACCOUNT_PREFIX + agent_id, scope)
        if isinstance(view, Refused) and scope != POOL_ACCOUNT:
            return forbidden()
        status = None if isinstance(view, Refused) else agent_status(agent_id, view.account, await self._ledger.pool())
        return status or Denied(status=404, detail=f"No active allocation for agent {agent_id}")

    async def set_paused(self, caller: Caller, body: PauseBody, status: Status) -> Paused | Denied | Refused:
        """Pause (``suspended``) or resume (``active``) one agent, or all of them; who was terminated stays so.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        if (wrong := check_body(body)) is not None:
            return wrong
        await self._ready()
        if caller.role not in ALLOWED["write"] or await self._scope(caller) != POOL_ACCOUNT:
            return forbidden()
        await self._caught_up()
        if body.agent_id is not None:
            account = ACCOUNT_PREFIX + body.agent_id
            if isinstance(await self._ledger.account(account, POOL_ACCOUNT), Refused):
                return Denied(status=404, detail=f"No active allocation found for agent {body.agent_id}")
            accounts = [account]
        else:
            accounts = [ACCOUNT_PREFIX + book.agent_id for book in list(self.books.agents.values())]
        done = await self._ledger.set_status(accounts, status, reason=body.reason, actor=caller.actor)
        return Paused(agents=done)

    # -- how it is done --------------------------------------------------------------------------------------------

    async def _try_allocate(
        self, caller: Caller, body: AllocateBody, grant: str, *, ceiling: int | None
    ) -> Allocated | Denied | Refused:
        """One attempt at a grant, sized by what the ledger and the books say now.

        Args:
            caller: who asks.
            body: what is asked.
            grant: id of the request.
            ceiling: what a budget that refused the attempt before can still hand out.
        """
        agent_id, account = body.agent_id, ACCOUNT_PREFIX + body.agent_id
        self.pool = pool = await self._ledger.pool()
        view = await self._ledger.account(account, POOL_ACCOUNT)
        await self._caught_up()
        if (made := self.books.grant(grant)) is not None:
            return again(body, made, pool)
        current: BudgetView | None = None
        if isinstance(view, AccountView):
            if view.account.status_effective != "active":
                return stopped(agent_id, view.account.status_effective)
            current = allocation(view.account)
            if current is not None and is_running(current, pool):
                assert current.balance is not None, "what runs has a balance"
                if current.balance.available < 0:
                    await self._exhaust(account, current.balance, caller)
                    return stopped(agent_id, "terminated")
        reserve = 0 if body.source == "emergency_reserve" else -(-pool.limit * self.reserve_percent // 100)
        left = pool.available - reserve
        available = left if ceiling is None else min(left, ceiling)
        history_of = body.parent_agent_id or agent_id
        granting = await self._granting(account, view)
        strategy = granting.strategy or self.strategy
        found = self._standing(strategy, history_of)
        sized = size_grant(
            requested=Fraction(str(body.requested_tokens)), historical=found.historical, available_tokens=available
        )
        if isinstance(sized, PoolExhausted):
            self.rejections["budget_exhausted"] += 1
            return Denied(status=403, detail=POOL_EXHAUSTED)
        if isinstance(sized, Insufficient):
            await self._ledger.terminate(
                account, is_new=isinstance(view, Refused), reason=INSUFFICIENT_REASON, actor=caller.actor
            )
            self.rejections["insufficient_allocation"] += 1
            return Denied(
                status=403,
                detail=f"Cannot allocate sufficient tokens. Available: {float(sized.offered):.0f}, "
                f"Minimum needed: {float(sized.needed):.0f}",
            )
        outcome = await self._ledger.allocate(
            account,
            is_new=isinstance(view, Refused),
            to=self._running_size(agent_id, current, pool) + sized.tokens,
            if_version=current.version if current is not None else 0,
            valid_until=pool.window_end,
            note=GrantNote(
                grant=grant,
                requested_tokens=body.requested_tokens,
                task_complexity=body.task_complexity,
                multiplier=float(sized.multiplier),
                parent_agent_id=body.parent_agent_id,
                strategy=strategy,
            ),
            actor=caller.actor,
        )
        if isinstance(outcome, Refused):
            return outcome
        self.pool = outcome
        answer = granted(body, sized.tokens, float(sized.multiplier), outcome)
        if not body.explain:
            return answer
        return msgspec.structs.replace(
            answer, explanation=explanation(body, strategy, granting.source, history_of, found, available, reserve)
        )

    def _running_size(self, agent_id: str, current: BudgetView | None, pool: Balance) -> int:
        """Tokens of an allocation that has not ended.

        The ledger shows one whose window has ended as it would be carved again. Until somebody does, the books have it
        as ended, and a grant begins it anew.
        """
        book = self.books.agent(agent_id)
        is_live = book is not None and book.active
        return current.limit if is_live and current is not None and is_running(current, pool) else 0

    async def _granting(self, account: str, view: AccountView | Refused) -> Granting:
        """The strategy of an agent; of one that is opened with this grant, what it will have then."""
        if isinstance(view, Refused):
            return await self._ledger.granting_of_new(account)
        return Granting(view.account.grant_strategy_effective, view.account.grant_strategy_from)

    def _standing(self, strategy: GrantStrategy, agent_id: str) -> Standing:
        """What an agent is taken for; who is idle is so by the clock of this node."""
        book = self.books.agent(agent_id)
        if strategy == "classic":
            past = book.historical_efficiency() if book is not None else EFFICIENCY_UNKNOWN
            return Standing(historical=past, terms={"historical_efficiency": float(past)})
        history = book.history(datetime.now(UTC)) if book is not None else History()
        return standing(strategy, history, middle_of(self.books.others(agent_id)))

    async def _efficiency(self, agent_id: str) -> float:
        """How efficient an agent is, its own last report included.

        The report is on the books of the ledger by now, so it is answered even if the read model is late.
        """
        try:
            await self._caught_up()
        except BudgetUnavailable as error:
            log.warning("token_economy_books_late", error=str(error))
        book = self.books.agent(agent_id)
        return book.efficiency if book is not None else 0.0

    async def _caught_up(self) -> None:
        """Return when the read model has all that the ledger had when this was called."""
        view = await self._ledger.account(POOL_ACCOUNT)
        if isinstance(view, AccountView):
            await self._follower.reached(view.as_of_seq)

    async def _exhaust(self, account: str, balance: Balance, caller: Caller) -> None:
        """Terminate an agent that used more than it had; what it used is on the books already."""
        reason = f"{EXHAUSTED_REASON}. Allocated: {balance.limit:.0f}, Consumed: {balance.spent:.0f}"
        await self._ledger.terminate(account, is_new=False, reason=reason, actor=caller.actor)

    async def _scope(self, caller: Caller) -> str:
        """The pool's account for a caller who may act for all of the economy, else the account it is bound to."""
        if caller.scope is None:
            return POOL_ACCOUNT
        view = await self._ledger.account(POOL_ACCOUNT, caller.scope)
        return POOL_ACCOUNT if isinstance(view, AccountView) else caller.scope

    async def _may_act(self, caller: Caller, scope: str, agent_id: str) -> Denied | None:
        """Why a caller may not spend for an agent; None if it may."""
        if caller.role not in ALLOWED["write"]:
            return forbidden()
        if scope == POOL_ACCOUNT:
            return None
        view = await self._ledger.account(ACCOUNT_PREFIX + agent_id, scope)
        return forbidden() if isinstance(view, Refused) else None

    async def _ready(self) -> None:
        """Return once the economy has started.

        Raises:
            BudgetUnavailable: it was not started, or does not get there within ``WAIT_S_MAX``.
        """
        if self._started.is_set():
            return
        if not self._tasks:
            raise BudgetUnavailable(NOT_STARTED)
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await self._started.wait()
        except TimeoutError as error:
            raise BudgetUnavailable(self._not_started_for) from error

    async def _start(self) -> None:
        """Make the pool as soon as the ledger lets it, and read the journal up to where it is now.

        Until then nothing is booked, so that a caller without an idempotency key may simply ask again.
        """
        told = ""
        while not self._started.is_set():
            try:
                self.pool = await self._ledger.open_pool(self.pool_tokens)
                await self._caught_up()
                self._started.set()
            except FiscusError as error:
                # Figures of the pool are the operator's: they stand in the log, not in answers to keys of agents.
                self._not_started_for = POOL_REFUSED if isinstance(error, Refusal) else NOT_STARTED
                if str(error) != told:
                    told = str(error)
                    log.warning("token_economy_start_wait", error=told, pool_tokens=self.pool_tokens)
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _watch_pool(self) -> None:
        """Look at the pool after something happened, for the metrics."""
        await self._started.wait()
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                self.pool = await self._ledger.pool()
            except FiscusError as error:
                log.warning("token_economy_pool_wait", error=str(error))
            await asyncio.sleep(POOL_INTERVAL_S)


def agent_status(agent_id: str, account: AccountAnswer, pool: Balance) -> AgentStatus | None:
    """An agent's allocation as its status shows it; None if it has none that runs.

    Args:
        agent_id: the name in the answer.
        account: the agent's.
        pool: the running window of the pool.
    """
    current = allocation(account)
    if (
        current is None
        or current.balance is None
        or account.status in {"terminated", "closed"}
        or not (account.status_effective == "suspended" or is_running(current, pool))
    ):
        return None
    balance = current.balance
    return AgentStatus(
        agent_id=agent_id,
        allocated=balance.limit,
        consumed=balance.spent,
        remaining=max(0, balance.available),
        percent_used=percent(balance.spent, balance.limit),
    )


def digest(agent_id: str, key: str | None) -> str:
    """An id for a request: the same for the same agent and idempotency key, else a fresh one."""
    return sha256(f"{agent_id}\n{key}".encode()).hexdigest()[:40] if key is not None else uuid4().hex


def granted(body: AllocateBody, tokens: int, multiplier: float, pool: Balance) -> Allocated:
    """The answer to a grant; with a warning when it is less than was asked (D24)."""
    warning = None
    if tokens < body.requested_tokens:
        warning = f"Reduced allocation due to constraints. Requested: {body.requested_tokens}, Allocated: {tokens:.0f}"
    return Allocated(
        agent_id=body.agent_id,
        allocated_tokens=tokens,
        efficiency_multiplier=multiplier,
        remaining_global_budget=pool.available,
        warning=warning,
    )


def explanation(
    body: AllocateBody,
    strategy: GrantStrategy,
    source: StrategySource | None,
    history_of: str,
    found: Standing,
    available: int,
    reserve: int,
) -> Explanation:
    """The terms by which a grant was sized."""
    return Explanation(
        strategy=strategy,
        strategy_from=source or "setting",
        history_of=history_of,
        requested_tokens=body.requested_tokens,
        base_tokens=min(body.requested_tokens, BASE_TOKENS_MAX),
        multiplier=float(grant_multiplier(found.historical)),
        historical=float(found.historical),
        available_tokens=available,
        reserve_tokens=reserve,
        terms=found.terms,
    )


def again(body: AllocateBody, made: GrantMade, pool: Balance) -> Allocated | Denied:
    """The answer to a grant that was made already; a conflict when something else was asked with the same key."""
    asked = (body.requested_tokens, body.task_complexity, body.parent_agent_id)
    if asked != (made.note.requested_tokens, made.note.task_complexity, made.note.parent_agent_id):
        return Denied(status=409, detail=KEY_IN_USE)
    return granted(body, made.tokens, made.note.multiplier, pool)


def stopped(agent_id: str, status: str) -> Denied:
    """The answer to an agent that may not go on (D35)."""
    if status == "terminated":
        return Denied(status=403, detail=f"Agent {agent_id} terminated: {EXHAUSTED_REASON}")
    return Denied(status=403, detail=f"Agent {agent_id} {status}")


def forbidden() -> Denied:
    """The answer to a caller whose key does not cover what it asks for."""
    return Denied(status=403, detail="This key does not allow that")


def is_unfunded(account: AccountAnswer) -> bool:
    """Whether an agent never got a grant, or an operator ended it; one that was terminated still reports."""
    return account.status == "active" and allocation_balance(account) is None


def is_running(current: BudgetView, pool: Balance) -> bool:
    """Whether an active account's allocation has not ended, with its cycle of the pool or by itself.

    One that has ended shows only what it still covers as its limit.
    """
    balance = current.balance
    if balance is None or balance.limit < current.limit:
        return False
    end = balance.window_end
    return end is None or (end > pool.window_start and end > datetime.now(UTC))


def low_warning(balance: Balance) -> str | None:
    """The warning when little is left (D16, D27)."""
    if not is_low(balance.available, balance.limit):
        return None
    share = percent(balance.available, balance.limit)
    return f"Low token budget: {balance.available:.0f} tokens remaining ({share:.1f}%)"


def percent(part: int, whole: int) -> float:
    """A share in percent; 0 of nothing.

    >>> percent(25_000, 100_000)
    25.0
    """
    return part / whole * 100 if whole else 0.0
