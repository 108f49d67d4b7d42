"""``LLMRouter``: calls of models within the budgets of their threads, over backends or over the gateway of Fiscus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fiscus.compat.places import ledger_at
from fiscus.compat.xml_pipeline.backends import Backend, Strategy, Targets
from fiscus.compat.xml_pipeline.counters import Counted
from fiscus.compat.xml_pipeline.desk import Desk
from fiscus.compat.xml_pipeline.registry import ThreadBudgetRegistry
from fiscus.compat.xml_pipeline.router_call import RouterCall
from fiscus.compat.xml_pipeline.usage import UsageTracker
from fiscus.sdk import SyncTreasury
from fiscus.sdk.governor import WAIT_S, Governor
from fiscus.sdk.texts import texts_in

RETRIES = 3
ESTIMATE_LEAST = 100
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class AgentUsage:
    """What an agent has used; the total is that of prompt and completion."""

    total_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_count: int = 0


class LLMRouter:
    """Asks models for agents.

    Args:
        backends: what is asked; None: the gateway of the ledger (``FISCUS_GATEWAY_PATH``, or that of the service).
        strategy: ``failover`` (lowest priority number first), ``round-robin`` or ``least-loaded``, among backends.
        retries: how often a call is tried again.
        registry: budgets of threads; by default one over the same ledger.
        tracker: is told each call; by default one over the same ledger.
        pump: gets ``BudgetWarning`` by ``inject(warning, thread_id=, from_id=, to_id=)``, sync or async; None: warnings
            are logged.
        place: which ledger, where neither registry nor tracker says it; see ``fiscus.compat.places.ledger_at``.
        wait_for_budget_s: how long a call waits for others of its thread that hold what it needs, in seconds.
    """

    def __init__(
        self,
        backends: Sequence[Backend] | None = None,
        strategy: Strategy = "failover",
        retries: int = RETRIES,
        *,
        registry: ThreadBudgetRegistry | None = None,
        tracker: UsageTracker | None = None,
        pump: Any = None,
        place: str | SyncTreasury | None = None,
        wait_for_budget_s: float = WAIT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        known = registry or tracker
        self.treasury = known.treasury if known is not None else ledger_at(place)
        self.registry = registry or ThreadBudgetRegistry(place=self.treasury)
        self.tracker = tracker or UsageTracker(place=self.treasury)
        self._desk = Desk(
            treasury=self.treasury,
            registry=self.registry,
            tracker=self.tracker,
            governor=Governor(self.treasury.asynchronous, wait_s=wait_for_budget_s),
            targets=Targets(backends or (), strategy),
            retries=retries,
            sleep=sleep,
            pump=pump,
        )
        self._before: dict[str, Counted] = {}

    @property
    def delivery_errors(self) -> int:
        """How often a warning could not be delivered, or a call not be booked or told; each time is logged."""
        return self._desk.failures

    async def complete(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        temperature: float = 0.7,
        max_tokens: int | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        agent_id: str | None = None,
        thread_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Any:
        """Ask a model.

        Args:
            model, messages, temperature, tools: of the request.
            max_tokens: of its answer; less if the budget of the thread has less.
            agent_id: for whom, for the counts and for warnings.
            thread_id: whose budget; None: nothing limits it.
            metadata: for billing, such as ``org_id`` and ``user_id``.

        Returns:
            What the backend has returned; of the gateway a ``Completion``.

        Raises:
            BudgetExhaustedError: the thread has too little left; nobody was asked (any more).
            Exception: what the last attempt has raised.
        """
        request = {
            "model": model,
            "messages": list(messages),
            "temperature": temperature,
            "max_tokens": max_tokens,
            "tools": None if tools is None else list(tools),
        }
        call = RouterCall(self._desk, request, agent_id, thread_id, dict(metadata or {}))
        return await (call.over_backends() if len(self._desk.targets) else call.over_gateway())

    def get_agent_usage(self, agent_id: str) -> AgentUsage:
        """What an agent has used, since it was reset here."""
        counted = self.tracker.agent_counts(agent_id).since(self._before.get(agent_id, Counted()))
        return AgentUsage(
            total_tokens=counted.total_tokens,
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens,
            request_count=counted.request_count,
        )

    def get_all_usage(self) -> dict[str, AgentUsage]:
        """Of every agent, by its id."""
        return {agent_id: self.get_agent_usage(agent_id) for agent_id in self.tracker.agents()}

    def reset_agent_usage(self, agent_id: str) -> None:
        """Show from now on what comes after this; the ledger forgets nothing."""
        self._before[agent_id] = self.tracker.agent_counts(agent_id)


def estimate_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """The original's estimate of a prompt: a token for 4 characters of content, at least 100.

    >>> estimate_tokens([{"role": "user", "content": "x" * 4_000}, {"role": "assistant", "content": None}])
    1000
    """
    characters = sum(len(text) for message in messages for text in texts_in(message.get("content")))
    return max(ESTIMATE_LEAST, characters // CHARACTERS_PER_TOKEN)
