"""The accounts of a set of agents in a ledger of Fiscus: each an allocation of its own below the account of the set.

    contracts:NAMESPACE ─┬─ contract:NAMESPACE:researcher   allocation 1,000
                         ├─ contract:NAMESPACE:writer       allocation 500
                         └─ contracts:NAMESPACE.till        empty, but in the step in which an allocation rises or falls

The sum of all allocations is the sum of what was registered, wherever the tokens have moved since.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fiscus.compat.places import DIGEST_LENGTH, account_name
from fiscus.compat.tbcontracts.contract import BudgetContract
from fiscus.contract import (
    AMOUNT_MAX,
    AccountAnswer,
    Allocate,
    CallRecord,
    Provenance,
    PutAccount,
    SingleCommand,
    Transfer,
)
from fiscus.contract.errors import BudgetBusy, BudgetExceeded, BudgetOverrun, Conflict, Refusal, TreasuryError, Unknown
from fiscus.contract.queries import PAGE_LENGTH_MAX, AccountView, ListUsage, MoveView, ReadAccount, UsagePage
from fiscus.core.records import TEXT_LENGTH_MAX
from fiscus.sdk import SyncTreasury
from fiscus.sdk.governor import Governor, left_of, transfers_of
from fiscus.sdk.sizing import Need

NAMESPACE_DEFAULT = "default"
ATTEMPTS_MAX = 8
RECORDED = "recorded-usage"
"""The task of what is recorded after the fact: no gate stops that."""

DECLARED = "max_tokens"
REVISION = "revision"
"""Labels of an account: what was registered, which moves do not change, and how often that was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """An agent's tokens.

    Attributes:
        allocated: what it may use in all.
        consumed: what it has used, or may have: holds that nobody has settled count until they are.
        available: what is left beside what calls in flight hold.
    """

    allocated: int
    consumed: int
    available: int

    @property
    def remaining(self) -> int:
        """``allocated − consumed``; negative when more was used than there was."""
        return self.allocated - self.consumed


class Books:
    """What stands in the ledger of the agents of one namespace. Any thread may use it.

    Args:
        treasury: the ledger.
        namespace: of the agents.
        parent: an account whose budgets bind all agents together; it must exist.
    """

    def __init__(self, treasury: SyncTreasury, namespace: str, parent: str | None = None) -> None:
        self.treasury = treasury
        self.namespace = namespace
        self.pool = account_name("contracts:", namespace)
        self._till = account_name("contracts:", f"{namespace}.till")
        self._prefix = f"{account_name('contract:', namespace)}:"
        self._parent = parent
        self._names: dict[str, str] = {}
        self._mutex = threading.Lock()
        self._governor = Governor(treasury.asynchronous, borrows=True, wait_s=0)

    def account_of(self, agent: str) -> str:
        """The account of an agent."""
        return account_name(self._prefix, agent)

    def find(self, agent: str) -> str | None:
        """The account of an agent that is registered, here or elsewhere; None: it is not."""
        account = self.account_of(agent)
        if account in self._names:
            return account
        if self.treasury.thread.wait(self._read(account)) is None:
            return None
        self._know(account, agent)
        return account

    def register(self, contract: BudgetContract, *, keep_terms: bool = False) -> None:
        """Open the account of an agent with its allocation; again: change what is new, never mint.

        Args:
            contract: what is registered; of an agent that is there, its allocation rises or falls by the difference
                to what was registered before.
            keep_terms: leave priority and reserve of an agent that is there as they are.

        Raises:
            ValueError: it has used, or given away, more than what it would keep.
        """
        account = self.account_of(contract.agent_name)
        self.treasury.thread.wait(self._register(account, contract, keep_terms))
        self._know(account, contract.agent_name)

    def adjust(self, account: str, delta: int) -> None:
        """Raise or lower an allocation; see ``Ledger.adjust_allocation``."""
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise ValueError("delta must be an integer")
        self.treasury.thread.wait(self._adjust(account, delta))

    def book(
        self,
        account: str,
        tokens: int,
        note: str,
        *,
        may_ask: bool = False,
        confidence: float | None = None,
        task: str | None = None,
    ) -> float:
        """Book tokens that were used.

        Args:
            account: who.
            tokens: how many.
            note: kept in the record.
            may_ask: whether others give what lacks.
            confidence: how sure the result was that they were used for, for the gate of its ``task``.
            task: None: none in particular.

        Returns:
            When, in seconds since the epoch.

        Raises:
            ValueError: ``tokens`` is no integer ≥ 0.
            BudgetOverrun: there were less; it is booked all the same.
        """
        checked_tokens(tokens)
        if confidence is not None:
            self.treasury.thread.wait(self._tell_confidence(account, confidence, task))
        self.treasury.thread.wait(self.booked(account, tokens, note, may_ask=may_ask))
        return time.time()

    def figures(self, account: str) -> Figures:
        """An agent's tokens, now."""
        read = self.treasury.thread.wait(self._read(account))
        assert read is not None, "an agent that is known has an account for good"
        return figures_of(read)

    def all_figures(self) -> Mapping[str, Figures]:
        """Of all agents that are known here, by name, in the order in which they became known."""
        return {self._names[read.account]: figures_of(read) for read in self.treasury.thread.wait(self._read_all())}

    def donor_names(self, account: str) -> list[str]:
        """Who could give something to an agent, in the order in which they are asked."""
        return self.treasury.thread.wait(self._donor_names(account))  # type: ignore[no-any-return]

    def move(self, account: str, shortfall: int) -> list[tuple[str, int]]:
        """Move up to ``shortfall`` to an agent; returns who gave how much."""
        moves: Sequence[MoveView] = self.treasury.thread.wait(self._move(account, shortfall))
        return [(self.name_of(move.source), move.amount) for move in moves]

    def history(self, account: str | None) -> list[tuple[str, int, float, str]]:
        """(agent, tokens, seconds since the epoch, note) of all that was booked, in its order."""
        return self.treasury.thread.wait(self._history(account))  # type: ignore[no-any-return]

    def name_of(self, account: str) -> str:
        """The name of the agent whose account it is."""
        return self._names.get(account, account.removeprefix(self._prefix))

    # -- on the treasury's loop ---------------------------------------------------------------------------------------

    async def booked(self, account: str, tokens: int, note: str, *, may_ask: bool) -> None:
        """See ``book``."""
        record = CallRecord(provenance=Provenance(task_name=note[:TEXT_LENGTH_MAX] or None))
        if not tokens:
            await self.treasury.asynchronous.usage(account, {"tokens": 0, "calls": 1}, record=record)
            return
        need = Need(wanted=tokens, needed=tokens, least=tokens, why="it was used")
        try:
            purse = await self._governor.admit(account, need, may_ask=may_ask, attributes={"task": RECORDED})
        except TreasuryError:
            await self.treasury.asynchronous.usage(account, {"tokens": tokens}, record=record)
        except Refusal as refused:
            await self.treasury.asynchronous.usage(account, {"tokens": tokens}, record=record)
            if isinstance(refused, BudgetExceeded):  # not if it fits as soon as calls in flight have ended
                raise BudgetOverrun(account, tokens, max(0, left_of(refused) or 0)) from refused
        else:
            purse.hold.settle({"tokens": tokens}, record=record)
            await purse.hold.__aexit__(None, None, None)

    async def _tell_confidence(self, account: str, confidence: float, task: str | None) -> None:
        record = CallRecord(confidence=confidence)
        attributes = {"task": task} if task else {}
        usage = {"tokens": 0, "calls": 0}
        await self.treasury.asynchronous.usage(account, usage, record=record, attributes=attributes)

    async def _register(self, account: str, contract: BudgetContract, keep_terms: bool) -> None:
        treasury = self.treasury.asynchronous
        await treasury.put_account(self.pool, parent=self._parent)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            found = await self._read(account)
            key = None
            if found is None:
                commands = self._opening(account, contract)
            else:
                commands, key = self._change(found, contract, keep_terms)
            try:
                await treasury.compound(commands, idempotency_key=key)
                return
            except (BudgetExceeded, BudgetBusy) as refused:
                raise ValueError(f"max_tokens: {refused}") from refused
            except Conflict:  # somebody else has registered it, or changed it, meanwhile
                if attempt == ATTEMPTS_MAX:
                    raise

    async def _adjust(self, account: str, delta: int) -> None:
        found = await self._read(account)
        assert found is not None, "an agent that is known has an account for good"
        try:
            await self.treasury.asynchronous.compound(self._resizing(found, delta))
        except (BudgetExceeded, BudgetBusy) as refused:
            raise ValueError(f"delta: {refused}") from refused

    def _opening(self, account: str, contract: BudgetContract) -> list[SingleCommand]:
        return [
            PutAccount(
                account=account,
                parent=self.pool,
                labels=_labels(contract, 1),
                priority=contract.priority,
                min_reserve={"tokens": contract.reserve},
                confidence_threshold=contract.confidence_threshold,
                gate_s=contract.gate_s,
            ),
            Allocate(account=account, unit="tokens", to=contract.max_tokens, if_version=0),
        ]

    def _change(
        self, found: AccountAnswer, contract: BudgetContract, keep_terms: bool
    ) -> tuple[list[SingleCommand], str | None]:
        """What changes an agent that is there, and the key by which its allocation changes once, whoever asks."""
        declared = int(found.labels.get(DECLARED, allocated_in(found)))
        revision = int(found.labels.get(REVISION, 0))
        delta = contract.max_tokens - declared
        terms: dict[str, Any] = {
            "priority": contract.priority,
            "min_reserve": {"tokens": contract.reserve},
            "confidence_threshold": contract.confidence_threshold,
            "gate_s": contract.gate_s,
        }
        put = PutAccount(
            account=found.account,
            labels=_labels(contract, revision + bool(delta)),
            **({} if keep_terms else terms),
        )
        if not delta:
            return [put], None
        digest = hashlib.sha256(found.account.encode()).hexdigest()[:DIGEST_LENGTH]
        return [*self._resizing(found, delta), put], f"tbcontracts-{digest}-{revision + 1}"

    def _resizing(self, found: AccountAnswer, delta: int) -> list[SingleCommand]:
        """An allocation rises or falls by so much, wherever it stands when that is decided: through the till."""
        account, till, priority = found.account, self._till, found.priority
        open_till = PutAccount(account=till, parent=self.pool, priority=priority)
        if delta > 0:
            return [
                open_till,
                Allocate(account=till, unit="tokens", to=delta),
                Transfer(source=till, target=account, unit="tokens", amount=delta, reason="registered"),
            ]
        if delta < 0:
            return [
                open_till,
                Allocate(account=till, unit="tokens", to=0),
                PutAccount(account=account, min_reserve={"tokens": 0}),  # it keeps that from others, not from its owner
                Transfer(source=account, target=till, unit="tokens", amount=-delta, reason="registered"),
                Allocate(account=till, unit="tokens", to=0),
                PutAccount(account=account, min_reserve=found.min_reserve),
            ]
        return []

    async def _move(self, account: str, shortfall: int) -> Sequence[MoveView]:
        treasury = self.treasury.asynchronous
        for _ in range(ATTEMPTS_MAX):
            available = max(0, await self._available(account))
            plan = await treasury.reallocation(account, "tokens", min(AMOUNT_MAX, available + shortfall))
            if not plan.moves:
                break
            try:
                await treasury.compound(transfers_of(plan))
                return plan.moves
            except Refusal:
                continue  # a donor has used what it had meanwhile
        return ()

    async def _donor_names(self, account: str) -> list[str]:
        plan = await self.treasury.asynchronous.reallocation(account, "tokens", AMOUNT_MAX)
        return [self.name_of(move.source) for move in plan.moves]

    async def _available(self, account: str) -> int:
        read = await self._read(account)
        assert read is not None, "an agent that is known has an account for good"
        return figures_of(read).available

    async def _read_all(self) -> list[AccountAnswer]:
        with self._mutex:
            accounts = list(self._names)
        found = await asyncio.gather(*(self._read(account) for account in accounts))
        return [read for read in found if read is not None]

    async def _read(self, account: str) -> AccountAnswer | None:
        try:
            return await self.treasury.asynchronous.account(account)
        except Unknown:
            return None

    async def _history(self, account: str | None) -> list[tuple[str, int, float, str]]:
        treasury = self.treasury.asynchronous
        of = account or self.pool
        try:
            now = await treasury.read(ReadAccount(account=of))
        except Unknown:
            return []
        assert isinstance(now, AccountView), "the answer is of its query's kind"
        rows: list[tuple[str, int, float, str]] = []
        after: int | None = 0
        while after is not None:
            page = await treasury.read(ListUsage(account=of, after=after, limit=PAGE_LENGTH_MAX, min_seq=now.as_of_seq))
            assert isinstance(page, UsagePage), "the answer is of its query's kind"
            for one in page.usage:
                provenance = one.record.provenance if one.record is not None else None
                note = (provenance.task_name if provenance is not None else None) or ""
                tokens = one.amounts.get("tokens", 0)
                if tokens or note:  # what only says how sure a result was is no consumption
                    rows.append((self.name_of(one.account), tokens, one.at.timestamp(), note))
            after = page.next
        return rows

    def _know(self, account: str, agent: str) -> None:
        with self._mutex:
            self._names[account] = agent


def checked_tokens(tokens: object) -> None:
    """Refuse what is no number of tokens."""
    if isinstance(tokens, bool) or not isinstance(tokens, int):
        raise ValueError("tokens must be an integer")
    if tokens < 0:
        raise ValueError("tokens must be >= 0")
    if tokens > AMOUNT_MAX:
        raise ValueError(f"tokens must be <= {AMOUNT_MAX}")


def _labels(contract: BudgetContract, revision: int) -> dict[str, str]:
    name = contract.agent_name[:TEXT_LENGTH_MAX]
    return {"agent": name, DECLARED: str(contract.max_tokens), REVISION: str(revision)}


def _allocation(read: AccountAnswer) -> Any:
    return next((budget for budget in read.budgets if budget.allocated and budget.unit == "tokens"), None)


def allocated_in(read: AccountAnswer) -> int:
    """What an account was allocated."""
    budget = _allocation(read)
    return budget.balance.limit if budget is not None and budget.balance is not None else 0


def figures_of(read: AccountAnswer) -> Figures:
    """What an account has."""
    budget = _allocation(read)
    if budget is None or budget.balance is None:
        return Figures(allocated=0, consumed=0, available=0)
    balance = budget.balance
    return Figures(allocated=balance.limit, consumed=balance.spent + balance.quarantined, available=balance.available)
