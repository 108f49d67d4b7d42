"""The backends of a router: which one is asked next, and how much of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from fiscus.gateway.upstreams import Rate

Strategy = Literal["failover", "round-robin", "least-loaded"]

RATE_LIMIT_TPM = 100_000
CONCURRENT_MAX = 20
TIMEOUT_S = 120.0
BACKOFF_S = 1.0
BACKOFF_S_MAX = 60.0
JITTER = 0.25
RATE_WAIT_S = 0.05
"""How long is waited between two looks at a bucket that is empty."""

REJECTED = range(400, 500)
AGAIN = frozenset((408, 409, 425, 429))
"""Of the statuses that reject a request, those after which it may be accepted all the same."""


class Backend(Protocol):
    """What answers a request. Only ``complete`` must be there.

    Attributes of it that are looked at, with their defaults: ``name``, ``provider``, ``priority`` (0; the lowest comes
    first), ``models`` (all), ``rate_limit_tpm`` (100,000), ``max_concurrent`` (20), ``timeout`` (120 s).
    """

    async def complete(self, **request: Any) -> Any:
        """Answer ``model``, ``messages``, ``temperature``, ``max_tokens`` and ``tools``."""
        ...


class Target:
    """A backend, and how it is doing."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = str(getattr(backend, "name", type(backend).__name__))
        self.provider = str(getattr(backend, "provider", None) or self.name)
        self.priority = int(getattr(backend, "priority", 0))
        self.timeout_s = float(getattr(backend, "timeout", TIMEOUT_S))
        self.in_flight = 0
        self.turn = 0
        self.rate = Rate(int(getattr(backend, "rate_limit_tpm", RATE_LIMIT_TPM)))
        self._room = asyncio.Semaphore(int(getattr(backend, "max_concurrent", CONCURRENT_MAX)))

    def serves(self, model: str) -> bool:
        """Whether it has a model."""
        models = getattr(self.backend, "models", None)
        return models is None or model in models

    async def ask(self, request: Mapping[str, Any]) -> Any:
        """Ask it, when it has room, for as long as it may take."""
        async with self._room:
            self.in_flight += 1
            try:
                async with asyncio.timeout(self.timeout_s):
                    while self.rate.is_used_up:  # noqa: ASYNC110  (time alone fills it)
                        await asyncio.sleep(RATE_WAIT_S)
                    return await self.backend.complete(**request)
            finally:
                self.in_flight -= 1


class Targets:
    """All backends of a router."""

    def __init__(self, backends: Sequence[Backend], strategy: Strategy) -> None:
        if strategy not in ("failover", "round-robin", "least-loaded"):
            raise ValueError("strategy must be failover, round-robin or least-loaded")
        self._targets = [Target(backend) for backend in backends]
        self._strategy = strategy
        self._turn = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._targets)

    def next(self, model: str, tried: Sequence[Target]) -> Target:
        """The best that has not been asked yet for this call, else the one that was asked longest ago.

        Raises:
            ValueError: none has the model.
        """
        chosen = min(self.having(model), key=lambda target: (target in tried, *self._rank(target)))
        self._turn += 1
        chosen.turn = self._turn
        return chosen

    def having(self, model: str) -> list[Target]:
        """Those that have a model.

        Raises:
            ValueError: none has it.
        """
        found = [target for target in self._targets if target.serves(model)]
        if not found:
            raise ValueError(f"model: no backend has {model!r:.80}")
        return found

    def _rank(self, target: Target) -> tuple[Any, ...]:
        if self._strategy == "failover":
            return (target.rate.is_used_up, target.priority, target.turn)
        load = target.in_flight if self._strategy == "least-loaded" else 0
        return (target.rate.is_used_up, load, target.turn)


def may_be_billed(error: BaseException) -> bool:
    """Whether a provider may have billed an attempt that ended so: all but those that it rejected."""
    return status_of(error) not in REJECTED and not isinstance(error, ConnectionRefusedError)


def may_be_repeated(error: BaseException) -> bool:
    """Whether the same request may be answered when it is sent again."""
    status = status_of(error)
    return status not in REJECTED or status in AGAIN


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of a provider's SDK carries."""
    for carrier in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(carrier, name, None)
            if isinstance(status, int) and not isinstance(status, bool):
                return status
    return None


def wait_s(attempt: int, error: BaseException) -> float:
    """How long to wait before the next attempt: 1 s × 2ⁿ, at most 60 s, ± 25 %, or as long as the provider asks."""
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, int | float) and not isinstance(asked, bool) and 0 <= asked <= BACKOFF_S_MAX:
        return float(asked)
    pause_s: float = min(BACKOFF_S_MAX, BACKOFF_S * 2**attempt)
    return pause_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (nothing secret)
