"""What stands beside the API in one service and speaks other protocols, such as the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from fiscus.api.keys import Caller
from fiscus.api.problems import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Admit = Callable[[bytes | None, Scope], Awaitable[Caller | Problem]]
"""The caller behind a secret (None: there is none) of a request, or why it may not spend."""


class Beside(Protocol):
    """Answers requests at addresses of its own; the API counts them and waits for them when the service goes down."""

    def takes(self, path: bytes) -> bool:
        """Whether an address (percent-encoded, without the query) is one of its own."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send, admit: Admit) -> None:
        """Answer a request."""
        ...
