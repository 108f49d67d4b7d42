"""Where ``treasury.complete`` asks models through a service: its gateway, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from fiscus.client.sessions import Sessions, unreachable
from fiscus.contract.errors import BudgetUnavailable
from fiscus.sdk.completion import Question, Response

CONNECT_S_MAX = 10.0
SILENCE_S_MAX = 630.0
"""Longer than the gateway itself waits for a provider by default."""


class GatewayOfService:
    """The gateway of a service, over HTTP. A call is never sent twice: it may have been billed."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self._base = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._sessions = Sessions(_session)

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Response]:
        """See ``Models``.

        Raises:
            BudgetUnavailable: the service cannot be reached, or has broken off.
        """
        session = self._sessions.open()
        headers = {**self._headers, **question.headers, "content-type": "application/json"}
        url = URL(self._base + question.path, encoded=True)
        try:
            async with session.post(url, data=question.body, headers=headers, allow_redirects=False) as answer:
                named = {name.lower(): value for name, value in answer.headers.items()}
                yield Response(answer.status, named, answer.content.iter_any())
        except (aiohttp.ClientError, OSError) as error:
            raise BudgetUnavailable(f"{self._base}: {unreachable(error)}") from error

    async def close(self) -> None:
        """See ``Models``."""
        await self._sessions.close()


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX, sock_read=SILENCE_S_MAX)
    return aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
