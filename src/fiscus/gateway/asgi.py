"""What the gateway and its server say to each other, and answers in place of a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

from fiscus.dialects import Refusal

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Headers = Sequence[tuple[bytes, bytes]]
T = TypeVar("T")

WATCH_AFTER_S = 0.05
"""Nobody looks whether a caller is still there before a call has taken so long: most are over by then."""

NOT_PASSED_ON = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"proxy-authenticate",
        b"content-length",
    )
)


class Presence:
    """Whether the caller is still there, and since when not, on the loop's clock; ``stop`` it."""

    def __init__(self, receive: Receive) -> None:
        self.is_gone = False
        self.gone_s = 0.0
        self._receive = receive
        self._then: Callable[[], object] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._watch)

    def when_gone(self, then: Callable[[], object]) -> None:
        """Have something done when the caller leaves, in place of what was to be done before."""
        self._then = then
        if self.is_gone:
            then()

    async def unless_gone(self, work: Coroutine[Any, Any, T], linger_s: float = 0) -> T | None:
        """Do something; it is cancelled when the caller leaves, or so much later, and None then."""
        task = asyncio.current_task()
        assert task is not None
        if self.is_gone:
            work.close()
            return None
        before = task.cancelling()
        timers: list[asyncio.TimerHandle] = []
        self._then = (lambda: timers.append(self._loop.call_later(linger_s, task.cancel))) if linger_s else task.cancel
        try:
            return await work
        except asyncio.CancelledError:
            if not self._was_left() or task.uncancel() > before:
                raise
            return None
        finally:
            self._then = None
            for timer in timers:
                timer.cancel()

    def stop(self) -> None:
        """Look no more."""
        self._then = None
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _was_left(self) -> bool:
        return self.is_gone

    def _watch(self) -> None:
        self._watching = self._loop.create_task(self._left())

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone, self.gone_s = True, self._loop.time()
        if self._then is not None:
            self._then()


def passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers of a provider that are the caller's, too; the length is that of what is passed on."""
    return [header for header in headers if header[0] not in NOT_PASSED_ON]


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answer with a body that is there."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Answer in place of the provider."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in refusal.headers]
    await send_whole(send, refusal.status, headers, refusal.body)
