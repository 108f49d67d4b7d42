"""Settlements, for which no caller waits, go to the ledger with the next hold that is asked for or grows, or soon."""

from __future__ import annotations

import asyncio
from typing import Any

from fiscus.contract.errors import TreasuryError
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import Request
from fiscus.core.outcomes import AnyOutcome

LINGER_S = 0.005
"""How long a settlement waits at most for a hold that it can go with: each commit costs as much as all of a call."""

TOGETHER_MAX = 128
"""So many wait at most."""

Waiting = tuple[Request, "asyncio.Future[AnyOutcome]"]


class Settlements:
    """See the module. Belongs to one event loop.

    Attributes:
        treasury: the ledger, which it leaves open.
    """

    def __init__(self, treasury: Treasury) -> None:
        self.treasury = treasury
        self._waiting: list[Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def book(self, request: Request) -> AnyOutcome:
        """Have a settlement or a release booked.

        Raises:
            TreasuryError: the ledger could not be asked. Whether it was booked is not known; it may be booked again.
        """
        if self._is_closed:
            return await self.treasury.execute(request)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[AnyOutcome] = loop.create_future()
        self._waiting.append((request, answered))
        if self._timer is None:
            self._timer = loop.call_later(LINGER_S, self.send)
        elif len(self._waiting) >= TOGETHER_MAX:
            self.send()
        return await answered

    async def execute(self, request: Request) -> AnyOutcome:
        """Have something else decided, for which somebody waits; what waits here goes with it, before it.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        if request.may_wait:
            self.send()  # that cannot wait for room, too
        waiting = self._take()
        if not waiting:
            return await self.treasury.execute(request)
        try:
            outcomes = await self.treasury.execute_many([*(one for one, _ in waiting), request])
        except BaseException:  # what was asked cannot be had, or not any more; that says nothing of what was settled
            self._waiting[:0] = waiting
            self.send()
            raise
        _answer(waiting, outcomes)
        return outcomes[-1]

    def send(self) -> None:
        """Have what waits booked now."""
        waiting = self._take()
        if waiting:
            task = asyncio.get_running_loop().create_task(self._book(waiting), name="settlements")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def booked(self) -> None:
        """Return when all that waits here is booked, or cannot be."""
        self.send()
        if self._sending:
            await asyncio.wait(self._sending)

    async def close(self) -> None:
        """Have what waits booked; from now on nothing waits: the ledger may close at any time."""
        self._is_closed = True
        await self.booked()

    async def _book(self, waiting: list[Waiting]) -> None:
        try:
            outcomes: list[Any] = await self.treasury.execute_many([one for one, _ in waiting])
        except TreasuryError as error:
            _fail(waiting, error)
        except BaseException:
            for _, answered in waiting:
                answered.cancel()
            raise
        else:
            _answer(waiting, outcomes)

    def _take(self) -> list[Waiting]:
        waiting = self._waiting
        if waiting:
            self._waiting = []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return waiting


def _answer(waiting: list[Waiting], outcomes: list[AnyOutcome]) -> None:
    for (_, answered), outcome in zip(waiting, outcomes, strict=False):
        if not answered.done():
            answered.set_result(outcome)


def _fail(waiting: list[Waiting], error: TreasuryError) -> None:
    for _, answered in waiting:
        if not answered.done():
            answered.set_exception(error)
