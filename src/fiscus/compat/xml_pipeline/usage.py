"""``UsageTracker``: what models were used by whom, for billing; kept in a ledger, told to subscribers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uuid_utils

from fiscus.compat.places import account_name, ledger_at
from fiscus.compat.xml_pipeline.budget import checked_counts
from fiscus.compat.xml_pipeline.counters import Counted, counted_in, counters_for, counters_of_template
from fiscus.compat.xml_pipeline.prices import cost_nanousd, nanousd_of
from fiscus.contract import CallRecord, Provenance, PutAccount, PutTemplate, Tokens
from fiscus.contract.errors import Unknown
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import PAGE_LENGTH_MAX, AccountsPage, AccountView, ListAccounts, ReadAccount
from fiscus.core.records import LIST_LENGTH_MAX, TEXT_LENGTH_MAX
from fiscus.core.units import NANOUSD_PER_USD
from fiscus.pricing import PriceBook
from fiscus.sdk import SyncTreasury

log = get_logger(__name__)

NAMESPACE_DEFAULT = "default"
NAME = "name"
LATENCIES_MAX = 10_000


@dataclass(frozen=True)
class UsageEvent:
    """One call of a model.

    Attributes:
        timestamp: ISO 8601, UTC.
        cost_nanousd: what it cost, in nano-USD; None: nobody knows.
        event_id: the same for the same call, however often it is told.
    """

    thread_id: str | None
    agent_id: str | None
    model: str
    provider: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    timestamp: str
    latency_ms: float
    cost_nanousd: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = ""

    @property
    def estimated_cost(self) -> float | None:
        """In USD, for showing; money is added up in ``cost_nanousd``."""
        return None if self.cost_nanousd is None else self.cost_nanousd / NANOUSD_PER_USD


Subscriber = Callable[[UsageEvent], Any]


class UsageTracker:
    """Keeps count of all calls by agent and model, and tells each to its subscribers.

    The counts are those of the ledger: exact, of all processes, and there after a restart. ``reset`` makes this object
    show what comes after it; the ledger forgets nothing.

    Args:
        place: which ledger; see ``fiscus.compat.places.ledger_at``.
        namespace: counts of other namespaces are other counts.
        prices: by which calls are priced.
    """

    def __init__(
        self,
        *,
        place: str | SyncTreasury | None = None,
        namespace: str = NAMESPACE_DEFAULT,
        prices: PriceBook | None = None,
    ) -> None:
        self.treasury = ledger_at(place)
        self._root = account_name("usage:", namespace)
        self._agents = f"{account_name('usage-agent:', namespace)}:"
        self._models = f"{account_name('usage-model:', namespace)}:"
        self._unpriced = account_name("usage-unpriced:", namespace)
        self._prices = prices or PriceBook()
        self._mutex = threading.Lock()
        self._subscribers: list[Subscriber] = []
        self._before: dict[str, Counted] = {}
        self._latencies: dict[str, tuple[float, int]] = {}
        self._is_ready = False
        self._opened: set[str] = set()
        self._preparing = asyncio.Lock()
        self.subscriber_errors = 0
        """How often a subscriber has raised; each time is logged."""

    # -- telling ------------------------------------------------------------------------------------------------------

    def subscribe(self, callback: Subscriber) -> None:
        """Tell each call to a function, in the thread in which it is recorded."""
        with self._mutex:
            self._subscribers.append(callback)

    def unsubscribe(self, callback: Subscriber) -> None:
        """Tell it no more; nothing, if it is not told anything."""
        with self._mutex:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

    def record(
        self,
        thread_id: str | None = None,
        agent_id: str | None = None,
        model: str = "",
        provider: str = "",
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        latency_ms: float = 0.0,
        estimated_cost: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
    ) -> UsageEvent:
        """Book a call, and tell it.

        Args:
            thread_id, agent_id: whose.
            model, provider: that was asked.
            prompt_tokens, completion_tokens: used.
            latency_ms: how long it took, in milliseconds.
            estimated_cost: in USD; by default what the price book says.
            metadata: such as ``org_id`` and ``user_id``.
            event_id: of the call: recorded again with the same one, it is booked once.

        Raises:
            ValueError: a count or a cost is no number ≥ 0.
        """
        event = self.event(
            thread_id,
            agent_id,
            model,
            provider,
            prompt_tokens,
            completion_tokens,
            latency_ms,
            estimated_cost,
            metadata,
            event_id=event_id,
        )
        self.treasury.thread.wait(self.book(event))
        self.tell(event)
        return event

    def event(
        self,
        thread_id: str | None,
        agent_id: str | None,
        model: str,
        provider: str,
        prompt_tokens: int,
        completion_tokens: int,
        latency_ms: float,
        estimated_cost: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
    ) -> UsageEvent:
        """A call with its price, not booked yet; arguments as of ``record``."""
        checked_counts(prompt_tokens, completion_tokens)
        tokens = Tokens(input=prompt_tokens, output=completion_tokens)
        cost = (
            cost_nanousd(self._prices, provider or None, model, tokens)
            if estimated_cost is None
            else nanousd_of(estimated_cost)
        )
        return UsageEvent(
            thread_id=thread_id,
            agent_id=agent_id,
            model=model,
            provider=provider,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            timestamp=datetime.now(UTC).isoformat(),
            latency_ms=latency_ms,
            cost_nanousd=cost,
            metadata=dict(metadata or {}),
            event_id=event_id or str(uuid_utils.uuid7()),
        )

    def tell(self, event: UsageEvent) -> None:
        """Tell a call to all subscribers; what one of them raises is logged, counted, and keeps nobody from it."""
        with self._mutex:
            subscribers = list(self._subscribers)
            for key in {"", f"agent:{event.agent_id}", f"model:{event.model}"}:
                if key in self._latencies or len(self._latencies) < LATENCIES_MAX:
                    total, count = self._latencies.get(key, (0.0, 0))
                    self._latencies[key] = (total + event.latency_ms, count + 1)
        for subscriber in subscribers:
            try:
                subscriber(event)
            except Exception as error:  # noqa: BLE001  (somebody else's function; the call is booked)
                with self._mutex:
                    self.subscriber_errors += 1
                log.warning("subscriber_failed", call=event.event_id, error=type(error).__name__)

    # -- counts -------------------------------------------------------------------------------------------------------

    def get_totals(self) -> dict[str, Any]:
        """All calls. ``total_cost`` is that of the calls whose price is known; ``unpriced_count`` are the others."""
        unpriced = self._counted(self._unpriced).request_count
        return {**self._shown(self._root, ""), "unpriced_count": unpriced}

    def get_agent_totals(self, agent_id: str) -> dict[str, Any]:
        """Of one agent."""
        return self._shown(account_name(self._agents, agent_id), f"agent:{agent_id}")

    def get_model_totals(self, model: str) -> dict[str, Any]:
        """Of one model."""
        return self._shown(account_name(self._models, model), f"model:{model}")

    def get_all_agent_totals(self) -> dict[str, dict[str, Any]]:
        """Of every agent, by its id."""
        return {name: self.get_agent_totals(name) for name in self._names(self._agents)}

    def get_all_model_totals(self) -> dict[str, dict[str, Any]]:
        """Of every model, by its name."""
        return {name: self.get_model_totals(name) for name in self._names(self._models)}

    def agent_counts(self, agent_id: str) -> Counted:
        """What an agent has used, since the last reset here."""
        return self._counted(account_name(self._agents, agent_id))

    def agents(self) -> list[str]:
        """All agents that have made calls."""
        return self._names(self._agents)

    def reset(self) -> None:
        """Show from now on what comes after this."""
        accounts = [self._root, self._unpriced]
        for prefix in (self._agents, self._models):
            accounts += [account_name(prefix, name) for name in self._names(prefix)]
        read = {account: self._read(account) for account in accounts}
        with self._mutex:
            self._before.update(read)
            self._latencies.clear()

    # -- in the ledger ------------------------------------------------------------------------------------------------

    async def also_for(self, event: UsageEvent) -> tuple[str, tuple[str, ...]]:
        """The account that counts a call, and those that count it besides; runs on the treasury's loop."""
        await self._prepare()
        also = [self._root] if event.cost_nanousd is not None else [self._unpriced]
        if event.model:
            also.append(await self._open(self._models, event.model))
        if event.agent_id is None:
            return also[0], tuple(also[1:])
        return await self._open(self._agents, event.agent_id), tuple(also)

    async def book(self, event: UsageEvent) -> None:
        """Book a call; runs on the treasury's loop."""
        payer, also = await self.also_for(event)
        await self.treasury.asynchronous.usage(
            payer, record=record_of(event), also=also, id=event.event_id, cost_nanousd=event.cost_nanousd
        )

    async def _prepare(self) -> None:
        async with self._preparing:
            if self._is_ready:
                return
            treasury = self.treasury.asynchronous
            counters = counters_of_template()
            await treasury.compound(
                [
                    PutAccount(account=self._root),
                    *counters_for(self._root),
                    PutAccount(account=self._unpriced, parent=self._root),
                    *counters_for(self._unpriced),
                    PutTemplate(pattern=f"{self._agents}*", parent=self._root, budgets=counters),
                    PutTemplate(pattern=f"{self._models}*", parent=self._root, budgets=counters),
                ]
            )
            self._is_ready = True

    async def _open(self, prefix: str, name: str) -> str:
        """The account of an agent or a model, with its name where it may be told by that."""
        account = account_name(prefix, name)
        if account not in self._opened:
            try:
                await self.treasury.asynchronous.account(account)
            except Unknown:
                treasury = self.treasury.asynchronous
                await treasury.usage(account, {"tokens": 0, "calls": 0}, id=f"open-{account}"[:128])
                await treasury.put_account(account, labels={NAME: name[:TEXT_LENGTH_MAX]})
            if len(self._opened) < LATENCIES_MAX:
                self._opened.add(account)
        return account

    def _names(self, prefix: str) -> list[str]:
        return self.treasury.thread.wait(self._listed(prefix))  # type: ignore[no-any-return]

    async def _listed(self, prefix: str) -> list[str]:
        await self._prepare()
        treasury = self.treasury.asynchronous
        now = await treasury.read(ReadAccount(account=self._root))
        assert isinstance(now, AccountView), "the answer is of its query's kind"
        names: list[str] = []
        after: int | None = 0
        while after is not None:
            page = await treasury.read(
                ListAccounts(prefix=prefix, after=after, limit=PAGE_LENGTH_MAX, min_seq=now.as_of_seq)
            )
            assert isinstance(page, AccountsPage), "the answer is of its query's kind"
            names += [one.labels.get(NAME, one.account.removeprefix(prefix)) for one in page.accounts]
            after = page.next
        return names

    def _shown(self, account: str, key: str) -> dict[str, Any]:
        counted = self._counted(account)
        latency, calls = self._latencies.get(key, (0.0, 0))
        return {
            "total_tokens": counted.total_tokens,
            "prompt_tokens": counted.prompt_tokens,
            "completion_tokens": counted.completion_tokens,
            "request_count": counted.request_count,
            "total_cost": round(counted.cost_nanousd / NANOUSD_PER_USD, 4),
            "total_cost_nanousd": counted.cost_nanousd,
            "avg_latency_ms": latency / calls if calls else 0.0,
        }

    def _counted(self, account: str) -> Counted:
        return self._read(account).since(self._before.get(account, Counted()))

    def _read(self, account: str) -> Counted:
        try:
            return counted_in(self.treasury.thread.wait(self.treasury.asynchronous.account(account)))
        except Unknown:
            return Counted()


def record_of(event: UsageEvent) -> CallRecord:
    """What is kept of a call."""
    pairs = list(event.metadata.items())[: LIST_LENGTH_MAX - 2]
    metadata = {str(name)[:128]: str(value)[:TEXT_LENGTH_MAX] for name, value in pairs if str(name)}
    return CallRecord(
        model=event.model[:TEXT_LENGTH_MAX] or None,
        provider=event.provider[:TEXT_LENGTH_MAX] or None,
        tokens=Tokens(input=event.prompt_tokens, output=event.completion_tokens),
        cost_nanousd=event.cost_nanousd,
        cost_source="price_book" if event.cost_nanousd is not None else "unpriced",
        duration_ms=max(0, int(event.latency_ms)),
        user_id=_text(event.metadata.get("user_id")),
        organisation_id=_text(event.metadata.get("org_id")),
        provenance=Provenance(conversation_id=_text(event.thread_id), agent_id=_text(event.agent_id)),
        metadata=metadata,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:TEXT_LENGTH_MAX]


_tracker: UsageTracker | None = None
_tracker_mutex = threading.Lock()
"""The tracker of programs that ask for the one of the process, as the original had it."""


def get_usage_tracker() -> UsageTracker:
    """The tracker of this process, made when it is first asked for."""
    global _tracker  # noqa: PLW0603  (see above)
    with _tracker_mutex:
        if _tracker is None:
            _tracker = UsageTracker()
        return _tracker


def reset_usage_tracker() -> None:
    """Forget the tracker of this process. Its counts stay in the ledger."""
    global _tracker  # noqa: PLW0603  (see above)
    with _tracker_mutex:
        _tracker = None
