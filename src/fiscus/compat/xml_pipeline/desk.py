"""What the calls of a router work with, and what stands behind each of them: telling, and warning."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fiscus.compat.xml_pipeline.backends import Targets
from fiscus.compat.xml_pipeline.registry import ThreadBudgetRegistry
from fiscus.compat.xml_pipeline.usage import UsageEvent, UsageTracker
from fiscus.compat.xml_pipeline.warning import RECEIVER_DEFAULT, SENDER, BudgetWarning
from fiscus.contract.logs import get_logger
from fiscus.sdk import SyncTreasury
from fiscus.sdk.governor import Governor

log = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Desk:
    """What every call works with.

    Attributes:
        treasury, registry, tracker, governor: the ledger, and who asks it.
        targets: the backends; none: the gateway asks.
        retries: how often a call is tried again; ``sleep``: waits before that, for so many seconds.
        pump: gets the warnings.
        failures: how often what stands behind a call has failed; each time is logged.
    """

    treasury: SyncTreasury
    registry: ThreadBudgetRegistry
    tracker: UsageTracker
    governor: Governor
    targets: Targets
    retries: int
    sleep: Callable[[float], Awaitable[None]]
    pump: Any
    failures: int = 0

    async def after(self, event: UsageEvent) -> None:
        """Tell subscribers and the agent; whatever they raise, the answer is kept and nobody is asked again."""
        try:
            await asyncio.to_thread(self.tracker.tell, event)
        except Exception as error:  # noqa: BLE001  (see above)
            self.failed_to("telling", error)
        if event.thread_id is None:
            return
        try:
            await self._warn(event.thread_id, event.agent_id)
        except Exception as error:  # noqa: BLE001  (see above)
            self.failed_to("warning", error)

    def failed_to(self, what: str, error: Exception) -> None:
        """What stands behind a call has failed: the call has not."""
        self.failures += 1
        log.error("after_call_failed", part=what, error=type(error).__name__, exc_info=error)

    async def _warn(self, thread_id: str, agent_id: str | None) -> None:
        """Tell the agent which thresholds its thread has crossed."""
        _, crossed = await asyncio.to_thread(self.registry.crossed, thread_id)
        for one in crossed:
            warning = BudgetWarning.of(one)
            if self.pump is None:
                log.warning("budget_warning_without_pump", thread=thread_id, severity=one.severity)
                continue
            injected = self.pump.inject(
                warning, thread_id=thread_id, from_id=SENDER, to_id=agent_id or RECEIVER_DEFAULT
            )
            if inspect.isawaitable(injected):
                await injected
