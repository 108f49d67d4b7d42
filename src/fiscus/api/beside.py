"""What stands beside the API in one service and speaks other protocols, such as the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from fiscus.api.keys import Caller
from fiscus.api.problems import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Admit = Callable[[bytes | None, Scope], Awaitable[Caller | Problem]]
"""The caller behind a secret (None: there is none) of a request, or why it may not spend."""


Payers = Callable[[Mapping[bytes, bytes], Caller], Sequence[str] | Problem]
"""Names of accounts out of the headers of a request of a caller, the narrowest first, or what is wrong with them."""


class Audience(Protocol):
    """Who follows events and wants to see what runs, too."""

    @property
    def is_there(self) -> bool:
        """Whether anybody does."""
        ...

    def tell(self, kind: str, data: bytes, accounts: Collection[str]) -> None:
        """Show something that is in no journal to those who may see one of these accounts.

        Args:
            kind: of the event.
            data: JSON without line breaks.
            accounts: whom it is about, and all above.
        """
        ...


class Beside(Protocol):
    """Answers requests at addresses of its own; the API counts them and waits for them when the service goes down."""

    def takes(self, path: bytes) -> bool:
        """Whether an address (percent-encoded, without the query) is one of its own."""
        ...

    def show_to(self, audience: Audience) -> None:
        """Tell ``audience`` from now on what runs."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send, admit: Admit) -> None:
        """Answer a request."""
        ...
