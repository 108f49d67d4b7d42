"""Connections to a service, for whichever event loop and process asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import aiohttp

from fiscus.contract.forks import keep_for_parent, tell_of_forks
from fiscus.contract.loops import LoopBound


class Sessions(LoopBound):
    """The session of the running event loop; ``close`` it. A forked process makes its own."""

    def __init__(self, make: Callable[[], aiohttp.ClientSession]) -> None:
        """Nothing is opened yet; ``make`` is called in the loop that needs one."""
        self._make = make
        self._session: aiohttp.ClientSession | None = None
        self._closing: asyncio.Task[None] | None = None
        tell_of_forks(self)

    def open(self) -> aiohttp.ClientSession:
        """The session.

        Raises:
            TreasuryError: another event loop uses it, which is still open.
        """
        self.home()
        if self._session is None:
            self._session = self._make()
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            self.home()
            await session.close()

    def moved(self) -> None:
        """See ``LoopBound``: connections of a loop that was closed are closed without it."""
        session, self._session = self._session, None
        if session is not None and session.connector is not None:
            connector = session.connector
            session.detach()
            self._closing = asyncio.get_running_loop().create_task(_closed(connector))

    def forked(self) -> None:
        """See ``contract.forks``: the connections are the parent's."""
        keep_for_parent(self._session)
        self._session = self._home = None


async def _closed(connector: aiohttp.BaseConnector) -> None:
    await connector.close()


def unreachable(error: Exception) -> str:
    """Why a service could not be asked, in one line without its address.

    >>> unreachable(TimeoutError())
    'no answer in time'
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        cause = error.os_error
        said = os.strerror(cause.errno) if cause.errno is not None and cause.errno > 0 else cause.strerror or str(cause)
        return f"cannot connect: {said}"
    return str(error) or type(error).__name__
