"""Callers in this process whose reserves wait: each is answered when its ticket has ended, by whichever node.

The caller is registered before the reserve is decided, so that nothing that becomes of it is missed. That he is still
there is said every ``SAY_S`` seconds, without which the ticket would end (``core.tickets.LEASE_MS``); it also finds out
what nobody has told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from fiscus.contract.errors import BudgetUnavailable
from fiscus.core.commands import Attend, Request, Reserve
from fiscus.core.events import Held, Released, Settled, TicketEnded
from fiscus.core.outcomes import AnyOutcome, HoldAnswer
from fiscus.treasury.engine import Committed

SAY_S = 10.0
ENDINGS = (Held, TicketEnded, Released, Settled)

Key = tuple[str, str]
"""(tenant, id of the hold)."""


class Attendance:
    """Who waits, by the id of the hold. Belongs to one event loop, but for ``decided`` and ``count``.

    Args:
        submit: has a command decided.
        leave: has one decided that nobody waits for.
    """

    def __init__(self, submit: Callable[[Request], Awaitable[AnyOutcome]], leave: Callable[[Request], None]) -> None:
        self._submit = submit
        self._leave = leave
        self._calls: dict[Key, list[asyncio.Event]] = {}
        self._is_closed = False

    @property
    def count(self) -> int:
        """Holds that somebody waits for here."""
        return len(self._calls)

    async def reserve(self, request: Request) -> AnyOutcome:
        """The answer of a reserve that may wait: that it is held, once it is; else why not.

        A caller who is cancelled, or who has stayed for ``stay_s``, waits no longer; in the first case nobody does.
        """
        assert isinstance(request.command, Reserve), "nothing else waits"
        id = request.command.id
        key, call = (request.tenant, id), asyncio.Event()
        calls = self._calls.setdefault(key, [])
        calls.append(call)
        try:
            return await self._until_decided(request, id, call)
        except asyncio.CancelledError:
            if len(calls) == 1:
                self._leave(_attending(request, id, gone=True))
            raise
        finally:
            calls.remove(call)
            if not calls:
                self._calls.pop(key, None)

    async def _until_decided(self, request: Request, id: str, call: asyncio.Event) -> AnyOutcome:
        loop = asyncio.get_running_loop()
        until_s = None if request.stay_s is None else loop.time() + request.stay_s
        outcome = await self._submit(msgspec.structs.replace(request, stay_s=None))
        while isinstance(outcome, HoldAnswer) and outcome.state == "waiting":
            if self._is_closed:
                raise BudgetUnavailable("the treasury is closing", 1)
            stays_s = SAY_S if until_s is None else min(SAY_S, until_s - loop.time())
            if stays_s <= 0:
                return outcome
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stays_s):
                    await call.wait()
            call.clear()
            outcome = await self._submit(_attending(request, id))
            if isinstance(outcome, HoldAnswer) and outcome.state == "refused":
                outcome = await self._submit(_attending(request, id))  # it ended just now; this says why
        return outcome

    def decided(self, committed: Committed) -> list[Key]:
        """Those of the holds that something has become of; called by the engine's thread."""
        keys = ((committed.tenant, event.id) for event in committed.events if isinstance(event, ENDINGS))
        return [key for key in keys if key in self._calls]

    def call(self, keys: list[Key]) -> None:
        """Let those who wait for these holds look."""
        for key in keys:
            for call in self._calls.get(key, ()):
                call.set()

    def close(self) -> None:
        """Let everybody go: the ledger closes."""
        self._is_closed = True
        self.call(list(self._calls))


def _attending(request: Request, id: str, *, gone: bool = False) -> Request:
    return msgspec.structs.replace(request, command=Attend(id=id, gone=gone), stay_s=None)
