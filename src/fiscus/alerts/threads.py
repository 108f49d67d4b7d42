"""Threads of the alerts' own: those of the event loop may all be needed, and nothing here may keep them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

P = ParamSpec("P")
T = TypeVar("T")


class Busy(Exception):
    """The call before has not come back yet."""


class Aside:
    """One thread for the calls of the outbox, which are short and come one after another."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="fiscus-alerts")

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it there."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))

    def close(self) -> None:
        """End the thread when it has done what it does."""
        self._executor.shutdown(wait=False)


class Single:
    """Calls of other people's code that may hang: one at a time, in a thread that does not keep the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: Thread | None = None

    async def __call__(self, work: Callable[[], T]) -> T:
        """Do it there; may be cancelled, and then the call goes on by itself.

        Raises:
            Busy: the call before has not come back yet.
        """
        if self._thread is not None and self._thread.is_alive():
            raise Busy
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # a result, where there is no error

        def run() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  # raised again by who waits
                failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, result, failure)

        self._thread = Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        return await done


class Resolver(AbstractResolver):
    """Looks up names of hosts in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._single = Single(name)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See aiohttp."""
        try:
            found: list[Any] = await self._single(
                lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            )
        except Busy:
            raise OSError("the look-up before has not come back yet") from None
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """See aiohttp."""
