"""A grant as a context manager, which keeps account of its use and reports it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import Any
from uuid import uuid4

from fiscus.compat.token_economy.client import TokenEconomyClient
from fiscus.compat.token_economy.errors import TokenBudgetExhausted

REPORT_SHARE = 0.9
"""From this share of the grant on, each use is reported at once."""


@dataclass(slots=True)
class _Report:
    """Use that is on its way to the service. Sent again after a failure, it is the same report."""

    key: str
    tokens: float
    value: float


class TokenBudgetManager:
    """Takes a grant on entry, reports what was used on exit, and at once when the grant is nearly used up.

    Every token given to ``consume`` is reported exactly once, whatever fails on the way.

    Attributes:
        allocated_tokens: size of the grant; 0 before entry.
        tokens_consumed, value_generated: what was given to ``consume`` so far.
    """

    def __init__(
        self, client: TokenEconomyClient, agent_id: str, requested_tokens: float, task_complexity: float = 0.5
    ) -> None:
        self.client = client
        self.agent_id = agent_id
        self.requested_tokens = requested_tokens
        self.task_complexity = task_complexity
        self.allocated_tokens: float = 0
        self.tokens_consumed: float = 0
        self.value_generated: float = 0.0
        self._unreported_tokens: float = 0
        self._unreported_value: float = 0.0
        self._report: _Report | None = None
        self._reporting = asyncio.Lock()

    async def __aenter__(self) -> TokenBudgetManager:
        answer = await self.client.allocate_tokens(self.agent_id, self.requested_tokens, self.task_complexity)
        self.allocated_tokens = answer["allocated_tokens"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._deliver()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"the last use of agent {self.agent_id} could not be reported: {failure!r}")

    async def consume(self, tokens: float, value: float = 0.0) -> dict[str, Any] | None:
        """Account for tokens that were used.

        Returns:
            The service's answer when the use was reported at once, else None.

        Raises:
            TokenBudgetExhausted: the agent was terminated; what it used is on the books.
            ValueError: a negative or infinite amount.
        """
        if not (isfinite(tokens) and isfinite(value) and tokens >= 0 and value >= 0):
            raise ValueError("tokens and value must be finite and >= 0")
        self.tokens_consumed += tokens
        self.value_generated += value
        self._unreported_tokens += tokens
        self._unreported_value += value
        if self.tokens_consumed < REPORT_SHARE * self.allocated_tokens:
            return None
        return await self._deliver()

    async def _deliver(self) -> dict[str, Any] | None:
        """Report all that is unreported; what a failure interrupts goes first the next time, as it was."""
        answer = None
        async with self._reporting:
            while (report := self._next_report()) is not None:
                try:
                    answer = await self.client.update_consumption(
                        self.agent_id, report.tokens, report.value, idempotency_key=report.key
                    )
                except TokenBudgetExhausted:
                    self._report = None
                    raise
                self._report = None
        return answer

    def _next_report(self) -> _Report | None:
        """The report that is under way, or a new one of what has come up since."""
        if self._report is None and (self._unreported_tokens or self._unreported_value):
            self._report = _Report(uuid4().hex, self._unreported_tokens, self._unreported_value)
            self._unreported_tokens, self._unreported_value = 0, 0.0
        return self._report
