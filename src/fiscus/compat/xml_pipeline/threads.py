"""The accounts of threads in a ledger of Fiscus; everything here runs on the treasury's loop.

thread:ROOT ─┬─ thread:HOP-1     a template gives a root its budget and its counters;
             └─ thread:HOP-2     a hop has counters of its own, and draws on the budget of its root
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import uuid_utils

from fiscus.compat.places import account_name
from fiscus.compat.xml_pipeline.budget import MAX_TOKENS_DEFAULT, BudgetThresholdCrossed, ThreadBudget
from fiscus.compat.xml_pipeline.counters import Counted, counted_in, counters_for, counters_of_template
from fiscus.contract import (
    AccountAnswer,
    Adjust,
    CallRecord,
    Compound,
    PutAccount,
    PutTemplate,
    Release,
    Reserve,
    SetStatus,
    Settle,
    SingleCommand,
    TemplateBudget,
)
from fiscus.contract.errors import BudgetUnavailable, ConfigurationInvalid, Conflict, FiscusError, Refusal, Unknown
from fiscus.contract.queries import (
    PAGE_LENGTH_MAX,
    AccountsPage,
    ListAccounts,
    ListTemplates,
    TemplatesView,
    TemplateView,
)
from fiscus.sdk import Treasury

LIMIT = "thread-tokens"
"""Name of the budget that a thread has by its template."""

RESET = "reset"
"""Label of a thread: what it had used when it was last reset (prompt, completion, requests)."""

TOLD = "told"
"""Label of a thread: which thresholds were told, of which limit, and what was used then."""

THREAD = "thread"
TRIES_MAX = 50
"""How often labels are read again that others change meanwhile."""

COMPOUND_MAX = 1_000
ROOTS_MAX = 10_000
"""Of so many roots the hops are remembered that began here; others are found in the read model, a moment later."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A thread as it stands in the ledger.

    Attributes:
        account: its own.
        root: the one whose budget it draws on; itself, unless it is a hop of another.
    """

    account: AccountAnswer
    root: AccountAnswer

    @property
    def is_open(self) -> bool:
        """Whether it may still call."""
        return self.account.status_effective == "active"

    def budget(self) -> ThreadBudget:
        """The budget that it draws on."""
        return self._view(self.root)

    @property
    def told(self) -> set[int]:
        """Thresholds that were told; a limit that was raised arms what lies above the use anew."""
        said = self.root.labels.get(TOLD)
        if said is None:
            return set()
        limit, used, *percents = (int(part) for part in said.split(","))
        return {percent for percent in percents if self.limit <= limit or used * 100 >= percent * self.limit}

    def own(self) -> ThreadBudget:
        """What it has used itself, of the budget that it draws on."""
        return self._view(self.account)

    def _view(self, of: AccountAnswer) -> ThreadBudget:
        counted = counted_in(of).since(reset_of(of))
        return ThreadBudget(
            max_tokens=self.limit,
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens,
            request_count=counted.request_count,
            triggered_thresholds=self.told,
        )

    @property
    def limit(self) -> int:
        """What its root may use, since the last reset."""
        limits = [one.balance.limit for one in self.root.budgets if one.budget == LIMIT and one.balance is not None]
        if not limits:
            raise ConfigurationInvalid(f"{self.root.account} has no budget {LIMIT}: it was not opened by the registry")
        return limits[0] - reset_of(self.root).total_tokens

    def figures(self) -> dict[str, int]:
        """What it has used itself, by name, and what is left for it."""
        return {**self.own().as_dict(), "remaining": self.budget().remaining}


def reset_of(account: AccountAnswer) -> Counted:
    """What a thread had used when it was last reset."""
    said = account.labels.get(RESET)
    if said is None:
        return Counted()
    prompt, completion, requests = (int(part) for part in said.split(","))
    return Counted(prompt_tokens=prompt, completion_tokens=completion, request_count=requests)


class Threads:
    """Threads of one namespace.

    Args:
        treasury: the ledger.
        prefix: of their accounts.
        limit: what a new root may use; None: what the template says that is there, else the default.
        parent: the account above them.
    """

    def __init__(self, treasury: Treasury, prefix: str, limit: int | None, parent: str | None) -> None:
        self._treasury = treasury
        self._prefix = prefix
        self._limit = limit
        self._parent = parent
        self._is_ready = False
        self._preparing = asyncio.Lock()
        self._hops: OrderedDict[str, set[str]] = OrderedDict()

    def account_of(self, thread_id: str) -> str:
        """The account of a thread."""
        return account_name(self._prefix, str(thread_id))

    async def configure(self, limit: int) -> None:
        """Another limit, for threads that begin from now on."""
        self._limit, self._is_ready = limit, False
        await self.prepare()

    async def prepare(self) -> None:
        """See to it that there is a template with a budget and with counters."""
        async with self._preparing:
            if self._is_ready:
                return
            view = await self._treasury.read(ListTemplates())
            assert isinstance(view, TemplatesView), "the answer is of its query's kind"
            pattern = f"{self._prefix}*"
            found = next((one for one in view.templates if one.pattern == pattern), None)
            wanted = self._template(pattern, found)
            if wanted is not None:
                await self._treasury.execute(wanted)
            self._is_ready = True

    def _template(self, pattern: str, found: TemplateView | None) -> PutTemplate | None:
        """The template as it should be; None: it is so already. What others have put into it stays."""
        there = {} if found is None else {_name(budget): budget for budget in found.budgets}
        limit = there.get(LIMIT)
        if limit is None or (self._limit is not None and limit.limit != self._limit):
            limit = TemplateBudget(
                unit="tokens",
                budget=LIMIT,
                limit=MAX_TOKENS_DEFAULT if self._limit is None else self._limit,
                thresholds={75: "warning", 90: "critical", 95: "final", 100: "exhausted"},
            )
        ours = {_name(budget): budget for budget in (limit, *counters_of_template())}
        budgets = tuple({**there, **ours}.values())
        if found is None:
            return PutTemplate(pattern=pattern, parent=self._parent, budgets=budgets)
        if budgets == found.budgets:
            return None
        kept: dict[str, Any] = {
            field: getattr(found, field)
            for field in PutTemplate.__struct_fields__
            if hasattr(found, field) and field != "budgets"
        }
        return PutTemplate(budgets=budgets, **kept)

    async def find(self, thread_id: str) -> State | None:
        """A thread that is there; None: it is not."""
        try:
            account = await self._treasury.account(self.account_of(thread_id))
        except Unknown:
            return None
        if account.parent is not None and account.parent.startswith(self._prefix):
            return State(account=account, root=await self._treasury.account(account.parent))
        return State(account=account, root=account)

    async def open(self, thread_id: str) -> State:
        """A thread, begun now if it is not there."""
        found = await self.find(thread_id)
        if found is not None:
            return found
        await self.prepare()
        account = self.account_of(thread_id)
        await self._treasury.usage(account, {"tokens": 0, "calls": 0}, id=f"open-{account}"[:128])
        with suppress(Conflict):  # another process has begun it in the same moment
            await self._treasury.put_account(account, labels={THREAD: thread_id[:512]}, if_labels={})
        return await self._found(thread_id)

    async def extend(self, thread_id: str, hop_id: str) -> State:
        """Begin a hop of a thread, which draws on the same budget.

        Raises:
            ValueError: the hop is there already, and belongs to another thread.
        """
        state = await self.open(thread_id)
        hop, root = self.account_of(hop_id), state.root.account
        if hop == root:
            return state
        try:
            await self._treasury.compound(
                [PutAccount(account=hop, parent=root, labels={THREAD: hop_id[:512]}), *counters_for(hop)]
            )
        except Refusal as refused:
            if refused.code == "conflict":
                raise ValueError(f"thread {hop_id!r} is there already, and has a budget of its own") from refused
            raise
        self._hops.setdefault(root, set()).add(hop)
        if len(self._hops) > ROOTS_MAX:
            self._hops.popitem(last=False)
        return await self._found(hop_id)

    async def hold(self, thread_id: str, tokens: int, lease_s: int, instead_of: str | None) -> str:
        """Hold tokens of a thread, in one step in place of an earlier hold.

        Returns:
            The id of the hold.

        Raises:
            Refusal: there is no room; the earlier hold stands.
        """
        account = self.account_of(thread_id)
        reserve = Reserve(id=str(uuid_utils.uuid7()), account=account, amounts={"tokens": tokens}, lease_s=lease_s)
        if instead_of is not None:
            try:
                await self._treasury.compound([Release(id=instead_of, account=account), reserve])
                return reserve.id
            except Conflict:  # it has ended
                pass
        await self._treasury.execute(reserve)
        return reserve.id

    async def book(
        self,
        thread_id: str,
        amounts: dict[Any, int],
        record: CallRecord | None,
        hold: tuple[str, int] | None,
    ) -> None:
        """Book the use of one request, under its hold, or else in one step, beyond the budget if it must be.

        A thread that has ended is booked, too, and stays ended.

        Args:
            thread_id: whose request.
            amounts: prompt and completion.
            record: what else is known of it.
            hold: id and tokens of what was held for it.
        """
        account = self.account_of(thread_id)
        tokens = amounts["input_tokens"] + amounts["output_tokens"]
        if hold is not None:
            id, held = hold
            if tokens > held:
                with suppress(FiscusError):  # as far as there is room it is covered; the rest shows as beyond the hold
                    await self._treasury.extend(id, tokens=tokens)
            await self._treasury.settle(id, amounts, record=record, account=account)
            return
        await self.prepare()
        id = str(uuid_utils.uuid7())
        settle = Settle(id=id, account=account, total={**amounts, "tokens": tokens}, record=record)
        if not tokens:
            await self._treasury.usage(account, amounts, record=record, id=id)
            return
        try:
            await self._treasury.execute(
                Compound(commands=(Reserve(id=id, account=account, amounts=dict(settle.total)), settle))
            )
        except FiscusError:  # refused: it was booked without the hold, which is not done twice; away: it is spooled
            await self._treasury.usage(account, settle.total, record=record, id=id)

    async def tell(
        self, thread_id: str, crossed: Callable[[ThreadBudget], list[BudgetThresholdCrossed]]
    ) -> tuple[State, list[BudgetThresholdCrossed]]:
        """Thresholds that were crossed, each told once for a thread, whichever process asks: the ledger keeps that.

        Args:
            thread_id: whose.
            crossed: those of a budget that it does not show as told.
        """
        for _ in range(TRIES_MAX):
            state = await self.open(thread_id)
            budget = state.budget()
            told = set(budget.triggered_thresholds)
            found = crossed(budget) if state.is_open else []
            if not found:
                return state, []
            percents = sorted(told | {one.threshold_percent for one in found})
            said = ",".join(map(str, (budget.max_tokens, budget.total_tokens, *percents)))
            labels = state.root.labels
            with suppress(Conflict):
                root = await self._treasury.put_account(
                    state.root.account, labels={**labels, TOLD: said}, if_labels=labels
                )
                return msgspec.structs.replace(state, root=root), found
        raise BudgetUnavailable(f"{thread_id}: its labels change all the time", 1)

    async def reset(self, thread_id: str) -> None:
        """Give back what a thread has used: as an adjustment that stands in the journal."""
        for _ in range(TRIES_MAX):
            with suppress(Conflict):  # another process has reset it in the same moment, or told a threshold
                return await self._reset(thread_id)
        raise BudgetUnavailable(f"{thread_id}: its labels change all the time", 1)

    async def _reset(self, thread_id: str) -> None:
        state = await self.find(thread_id)
        if state is None or not state.is_open or state.account is not state.root:
            return
        counted = counted_in(state.root)
        used = counted.since(reset_of(state.root)).total_tokens
        said = f"{counted.prompt_tokens},{counted.completion_tokens},{counted.request_count}"
        account = state.root.account
        labels = state.root.labels
        kept = {name: value for name, value in labels.items() if name != TOLD}
        commands: list[SingleCommand] = [
            PutAccount(account=account, labels={**kept, RESET: said}, if_labels=labels),
        ]
        if used:
            adjust = Adjust(
                id=str(uuid_utils.uuid7()), account=account, budget=LIMIT, amount=used, reason="thread reset"
            )
            commands.append(adjust)
        await self._treasury.compound(commands)

    async def ask_for_more(self, thread_id: str, tokens: int, reason: str) -> str:
        """Ask for an override of the budget that a thread draws on; returns its state."""
        state = await self.open(thread_id)
        asked = await self._treasury.request_override(state.root.account, LIMIT, tokens, reason=reason)
        return asked.state

    async def close(self, thread_id: str) -> tuple[State, list[str]] | None:
        """End a thread, with its hops if it is a root.

        Returns:
            It, and the accounts that were closed; None: it is not there, or has ended before.
        """
        state = await self.find(thread_id)
        if state is None or state.account.status != "active":
            return None
        names = [state.account.account]
        if state.account is state.root:
            hops = self._hops.pop(names[0], set())
            with suppress(Unknown):  # the read model has not heard of the root: nor of its hops
                hops |= set(await self._listed(parent=names[0], wait=False))
            names = [*sorted(hops), *names]
        ended: list[SingleCommand] = [SetStatus(account=name, status="closed", reason="thread ended") for name in names]
        for start in range(0, len(ended), COMPOUND_MAX):
            await self._treasury.compound(ended[start : start + COMPOUND_MAX])
        return await self._found(thread_id), names

    async def all(self) -> dict[str, State]:
        """All threads that are open, by id, hops included."""
        found: dict[str, State] = {}
        for name in await self._listed(prefix=self._prefix):
            account = await self._treasury.account(name)
            thread_id = account.labels.get(THREAD, name.removeprefix(self._prefix))
            state = await self.find(thread_id)
            if state is not None and state.is_open:
                found[thread_id] = state
        return found

    async def _listed(self, *, parent: str | None = None, prefix: str | None = None, wait: bool = True) -> list[str]:
        """Names of the accounts that are active; ``wait``: those that were opened a moment ago, too."""
        min_seq = (await self._treasury.read(ListTemplates())).as_of_seq if wait else 0
        names: list[str] = []
        after: int | None = 0
        while after is not None:
            page = await self._treasury.read(
                ListAccounts(
                    parent=parent,
                    prefix=prefix,
                    status="active",
                    after=after,
                    limit=PAGE_LENGTH_MAX,
                    min_seq=min_seq,
                )
            )
            assert isinstance(page, AccountsPage), "the answer is of its query's kind"
            names += [one.account for one in page.accounts]
            after = page.next
        return names

    async def _found(self, thread_id: str) -> State:
        state = await self.find(thread_id)
        assert state is not None, "it was just opened"
        return state


def _name(budget: TemplateBudget) -> str:
    return budget.budget or f"{budget.unit}-{budget.period}"
