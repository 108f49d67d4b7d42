"""The one interface of the ledger, in process and remote."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Literal, Protocol

import msgspec

from fiscus.contract.queries import (
    AccountsPage,
    AccountView,
    AnyQuery,
    EntriesPage,
    Entry,
    HoldView,
    KeysView,
    TemplatesView,
    UsagePage,
    View,
)
from fiscus.core.commands import Request
from fiscus.core.outcomes import AnyOutcome, Refused

__all__ = [
    "AccountView",
    "AccountsPage",
    "EntriesPage",
    "HoldView",
    "KeysView",
    "LiveState",
    "Readiness",
    "TemplatesView",
    "Treasury",
    "UsagePage",
]


REASONS = (
    "store_unavailable",
    "followers_behind",
    "clock_stepped",
    "drift",
    "unknown_format",
    "ledger_corrupt",
    "internal_error",
    "draining",
    "budget_unavailable",
)
"""Why calls may not be admitted; ``docs/guides/observe.md`` says what to do about each."""


LiveStateName = Literal["starting", "current", "behind", "rebuilding", "unreachable"]


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the copy of the balances in Redis is. Whatever it says, it decides nothing.

    Attributes:
        state: ``current``, or why it is not.
        as_of_seq: the entry of the journal that all of it has reached; 0: none, or it is being written anew.
        lag_entries: how many entries the read models have that it lacks.
        lag_ms: for how long it has lacked something, or has not been seen to be complete, in milliseconds.
        rebuilds: how often all of it was written anew, since the start.
        failures: how often the server did not answer, since the start.
    """

    state: LiveStateName
    as_of_seq: int = 0
    lag_entries: int = 0
    lag_ms: int = 0
    rebuilds: int = 0
    failures: int = 0


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether calls are admitted, and if not, why.

    Attributes:
        ready: True when reserves are decided.
        reasons: why not: ``store_unavailable``, ``followers_behind``, ``clock_stepped``, ``drift``, ``unknown_format``,
            ``ledger_corrupt``, ``internal_error``, ``draining``.
        followers_lag_ms: how far the read models are behind, in milliseconds.
        live_state: the copy in Redis, where there is one; it never makes a service unready.
        spooled: settlements, usage and releases that wait on the local disk for the ledger to be back.
        spooled_bytes: their length, in bytes.
        spooled_age_s: how long the oldest of them has waited, in whole seconds.
        tenants: those of which nothing is admitted, and why (``drift``, ``ledger_corrupt``, ``unknown_format``).
        epoch: rises when the journal has turned out to be an older one than this node had followed.
    """

    ready: bool
    reasons: tuple[str, ...] = ()
    head_seq: int = 0
    followers_seq: int = 0
    followers_lag_ms: int = 0
    queue_depth: int = 0
    live_state: LiveState | None = None
    spooled: int = 0
    spooled_bytes: int = 0
    spooled_age_s: int = 0
    tenants: dict[str, str] = {}
    epoch: int = 1


class Treasury(Protocol):
    """What the engine in this process and the client of a remote service both are.

    Outcomes are values here; the SDK's surface turns refusals into exceptions. Every method may raise
    ``TreasuryError`` (``BudgetUnavailable`` when the ledger is away or the queue is full); none raises a refusal.
    """

    def execute(self, request: Request) -> Awaitable[AnyOutcome]:
        """Decide one command. The answer is durable when it comes.

        Raises:
            TreasuryError: at once, or when it is awaited.
        """
        ...

    async def execute_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """Decide up to 1,000 commands, one outcome each, in order; they are independent of each other."""
        ...

    async def read(self, query: AnyQuery) -> View | Refused:
        """Answer a query with the view that belongs to it, or a refusal (unknown, forbidden, invalid)."""
        ...

    def follow(self, after: int = 0, tenant: str = "default", scope: str | None = None) -> AsyncIterator[Entry]:
        """All entries after a sequence number in order, first the old ones, then live, until it is closed.

        Raises:
            EntriesArchived: the first of them is not there any more; the error says where to begin.
        """
        ...

    async def readiness(self) -> Readiness:
        """Whether it would admit now."""
        ...

    async def confirm_clock(self, tenant: str = "default", actor: str = "") -> None:
        """An operator's word that the host's clock is right after a step: time goes on from it."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, write the read models, release the ledger."""
        ...
