"""What belongs to an event loop: to one at a time, to the next one after the one before has been closed.

Programs that call ``asyncio.run`` again and again with the same treasury are common; so are tests with a loop each.
"""

from __future__ import annotations

import asyncio

from fiscus.contract.errors import TreasuryError

ELSEWHERE = (
    "this treasury is in use by another event loop, which is still open: use it there, or one of open_sync or "
    "connect_sync, which every thread may use"
)


class LoopBound:
    """Base of what has tasks, futures, locks or connections of an event loop."""

    _home: asyncio.AbstractEventLoop | None = None

    def home(self) -> asyncio.AbstractEventLoop:
        """The running event loop, to which this belongs from now on.

        Raises:
            TreasuryError: it belongs to another one, which is still open.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._home:
            if self._home is not None and not self._home.is_closed():
                raise TreasuryError(ELSEWHERE)
            is_first, self._home = self._home is None, loop
            if not is_first:
                self.moved()
        return loop

    def moved(self) -> None:
        """Begin anew with all that belonged to the loop that was closed. Nobody waits there any more."""
        raise NotImplementedError
