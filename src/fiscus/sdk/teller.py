"""Asks the ledger and turns what it says into answers and exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fiscus.contract import AnyCommand, AnyOutcome, HoldAnswer, Refused, Release, Request, Settle, Spooled
from fiscus.contract.errors import FiscusError, refusal
from fiscus.contract.logs import get_logger
from fiscus.contract.treasury import Treasury as Ledger
from fiscus.spool.outbox import Outbox

log = get_logger(__name__)
T = TypeVar("T")
A = TypeVar("A", bound=AnyOutcome)


class Teller:
    """One tenant's way to a ledger: questions go straight to it, what must not be lost through the outbox."""

    def __init__(self, ledger: Ledger, outbox: Outbox, tenant: str) -> None:
        self.ledger = ledger
        self.outbox = outbox
        self.tenant = tenant

    def request(self, command: AnyCommand, idempotency_key: str | None = None) -> Request:
        """A command as a request of this tenant."""
        return Request(command=command, tenant=self.tenant, idempotency_key=idempotency_key)

    async def ask(self, kind: type[A], command: AnyCommand, idempotency_key: str | None = None) -> A:
        """Have a command decided whose answer is of a kind.

        Raises:
            Refusal, TreasuryError: as ``contract.errors`` says.
        """
        self.outbox.start()
        return _answered(kind, await self.ledger.execute(self.request(command, idempotency_key)))

    async def book(self, command: Settle | Release) -> HoldAnswer | None:
        """Book what was used, or give back what was not, now or later; None: later, it is in a spool, here or there.

        Raises:
            Refusal: the ledger said no.
            SpoolUnavailable: the ledger is away and the spool cannot take it.
        """
        return _booked(await self.outbox.deliver(self.request(command)))

    async def note(self, command: Settle) -> HoldAnswer | None:
        """Book a running total, if that is possible now; None: the service has put it into its spool.

        Raises:
            Refusal, TreasuryError: as ``contract.errors`` says.
        """
        self.outbox.start()
        return _booked(await self.ledger.execute(self.request(command)))

    async def uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on to its end when the waiting is cancelled."""
        return await self.outbox.uninterrupted(work)

    def book_in_background(self, command: Settle | Release) -> None:
        """Book without anybody waiting for it; a failure is logged."""
        self.outbox.in_background(asyncio.get_running_loop().create_task(self._book_quietly(command)))

    async def _book_quietly(self, command: Settle | Release) -> None:
        try:
            await self.book(command)
        except FiscusError as error:
            log.warning("booking_failed", id=command.id, code=error.code, detail=str(error))


def _booked(outcome: AnyOutcome | None) -> HoldAnswer | None:
    return None if outcome is None or isinstance(outcome, Spooled) else _answered(HoldAnswer, outcome)


def _answered(kind: type[A], outcome: AnyOutcome) -> A:
    if isinstance(outcome, Refused):
        raise refusal(outcome)
    assert isinstance(outcome, kind)
    return outcome
