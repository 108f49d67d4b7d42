"""HTTP client of the token economy API."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp

from fiscus.client.backoff import Backoff
from fiscus.compat.token_economy.errors import TokenAllocationError, TokenBudgetExhausted

ATTEMPTS_MAX = 3
"""A write whose answer was lost, or that met a service not ready, is sent again with the same id, so often in all."""

BACKOFF = Backoff(first_s=0.2, delay_s_max=5.0)
POOL_EXHAUSTED_TEXT = "Global token budget exhausted"

Answer = dict[str, Any]


class TokenEconomyClient:
    """Asks the token economy service for tokens and reports what was used. An asynchronous context manager.

    Every write carries an ``Idempotency-Key``: an attempt that is repeated because its answer was lost counts once.

    Args:
        base_url: of the service.
        timeout: seconds that one attempt may take.
        api_key: key of the service; default: the setting ``api_key`` (``FISCUS_API_KEY``).
    """

    def __init__(
        self, base_url: str = "http://token-economy:8091", timeout: float = 30.0, api_key: str | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout = timeout
        self._api_key = api_key if api_key is not None else _setting_api_key()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> TokenEconomyClient:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=self.timeout))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = None

    async def allocate_tokens(
        self,
        agent_id: str,
        requested_tokens: float,
        task_complexity: float = 0.5,
        *,
        parent_agent_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Ask for a grant.

        Args:
            agent_id: whose grant.
            requested_tokens: above 0, up to 10,000.
            task_complexity: 0.1 … 1.0.
            parent_agent_id: the agent by whose history the grant is sized, for one that has none yet.
            idempotency_key: asking again with the same key makes no second grant; a fresh one by default.

        Returns:
            ``agent_id, allocated_tokens, efficiency_multiplier, remaining_global_budget, warning``.

        Raises:
            TokenBudgetExhausted: the pool is empty.
            TokenAllocationError: no grant for any other reason.
        """
        body: Answer = {
            "agent_id": agent_id,
            "requested_tokens": requested_tokens,
            "task_complexity": task_complexity,
        }
        if parent_agent_id is not None:
            body["parent_agent_id"] = parent_agent_id
        try:
            return await self._post("/api/v1/tokens/allocate", body, idempotency_key)
        except aiohttp.ClientResponseError as error:
            if error.status == 403 and POOL_EXHAUSTED_TEXT in error.message:
                raise TokenBudgetExhausted(error.message) from error
            raise TokenAllocationError(f"{error.status}: {error.message}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TokenAllocationError(f"{self.base_url} cannot be reached: {error!r}") from error

    async def update_consumption(
        self,
        agent_id: str,
        tokens_consumed: float,
        value_generated: float = 0.0,
        *,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Report tokens that were used since the last report, and what they were worth.

        Returns:
            ``agent_id, consumed`` (in all), ``remaining, efficiency, warning``.

        Raises:
            TokenBudgetExhausted: the agent is terminated. What was reported is on the books all the same.
            aiohttp.ClientError, TimeoutError: it was not accepted, or nobody knows; repeat it with the same key.
        """
        body = {"agent_id": agent_id, "tokens_consumed": tokens_consumed, "value_generated": value_generated}
        try:
            return await self._post("/api/v1/tokens/consume", body, idempotency_key)
        except aiohttp.ClientResponseError as error:
            if error.status == 403:
                raise TokenBudgetExhausted(error.message) from error
            raise

    async def get_budget_status(self) -> Answer:
        """The pool, the active agents and the best of them."""
        return await self._send("GET", "/api/v1/tokens/status")

    async def get_agent_status(self, agent_id: str) -> Answer | None:
        """``agent_id, allocated, consumed, remaining, percent_used``, or None without an active allocation."""
        try:
            return await self._send("GET", f"/api/v1/tokens/agent/{quote(agent_id, safe='')}")
        except aiohttp.ClientResponseError as error:
            if error.status == 404:
                return None
            raise

    async def health_check(self) -> bool:
        """Whether the service says that it is healthy."""
        session = self._opened()
        try:
            async with session.get(f"{self.base_url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _post(self, path: str, body: Answer, idempotency_key: str | None) -> Answer:
        """Send a write until it is answered, with one id for all attempts."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return await self._send("POST", path, json=body, headers=headers)
            except (aiohttp.ClientError, TimeoutError) as error:
                if attempt == ATTEMPTS_MAX or not _may_repeat(error):
                    raise
                pause_s = BACKOFF.delay_s(attempt, random.random(), min(BACKOFF.delay_s_max, _asked_for_s(error)))  # noqa: S311
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _send(self, method: str, path: str, **options: Any) -> Answer:
        """One attempt.

        Raises:
            aiohttp.ClientResponseError: with the service's own words as its message.
        """
        async with self._opened().request(method, self.base_url + path, **options) as response:
            if response.status >= 400:
                raise aiohttp.ClientResponseError(
                    response.request_info,
                    response.history,
                    status=response.status,
                    message=await _detail(response),
                    headers=response.headers,
                )
            answer: Answer = await response.json()
            return answer

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Client not initialized. Use async context manager.")
        return self._session


def _setting_api_key() -> str | None:
    """The key in the settings."""
    from fiscus.settings import load_settings

    key = load_settings().api_key
    return key.get_secret_value() if key is not None else None


def _may_repeat(error: aiohttp.ClientError | TimeoutError) -> bool:
    """Whether the same write may be accepted when it is sent again."""
    return not isinstance(error, aiohttp.ClientResponseError) or error.status in {429, 502, 503, 504}


def _asked_for_s(error: aiohttp.ClientError | TimeoutError) -> float:
    """How long the service asks to wait, in seconds."""
    headers = error.headers if isinstance(error, aiohttp.ClientResponseError) else None
    text = headers.get("Retry-After", "0") if headers is not None else "0"
    return float(text) if text.isdecimal() else 0.0


async def _detail(response: aiohttp.ClientResponse) -> str:
    """What the service says is wrong."""
    text = await response.text(errors="replace")
    try:
        detail = (await response.json(content_type=None))["detail"]
    except (ValueError, KeyError, TypeError):
        return text
    return detail if isinstance(detail, str) else str(detail)
