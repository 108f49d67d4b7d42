"""How settlements and usage reach the ledger: at once, or through the spool when it is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from fiscus.client.backoff import Backoff
from fiscus.client.logs import get_logger
from fiscus.contract import AnyOutcome, Refused, Request
from fiscus.contract.errors import SpoolUnavailable, TreasuryError, refusal
from fiscus.contract.treasury import Treasury as Ledger
from fiscus.sdk.spool import Spool

BATCH_LENGTH_MAX = 100
CLOSE_S_MAX = 5.0

log = get_logger(__name__)
T = TypeVar("T")


class Outbox:
    """Delivers requests that must not be lost: in order, with their own ids, until the ledger has answered.

    While something waits in the spool, what is new waits behind it. One background task empties the spool.
    """

    def __init__(self, ledger: Ledger, spool: Spool, backoff: Backoff | None = None) -> None:
        self._ledger = ledger
        self._spool = spool
        self._backoff = backoff or Backoff(first_s=0.2, delay_s_max=30.0)
        self._something_waits = asyncio.Event()
        self._emptier: asyncio.Task[None] | None = None
        self._gathered: list[tuple[Request, asyncio.Future[SpoolUnavailable | None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """How many requests wait in the spool."""
        return len(self._spool)

    def start(self) -> None:
        """Begin to deliver what waits, also what an earlier process left."""
        if len(self._spool):
            self._something_waits.set()
            if self._emptier is None:
                self._emptier = asyncio.get_running_loop().create_task(self._empty())

    async def deliver(self, request: Request) -> AnyOutcome | None:
        """Have a request decided, or keep it until it can be.

        Returns:
            The outcome; None if it is in the spool, on the disk, and will be delivered.

        Raises:
            SpoolUnavailable: the ledger is away and the spool cannot take it.
        """
        self.start()
        if not len(self._spool):
            try:
                return await self._ledger.execute(request)
            except TreasuryError as error:
                log.warning("settlement_spooled", id=_id(request), error=str(error))
            except asyncio.CancelledError:
                self._keep_now(request)  # it may be booked or not: a second delivery has no second effect
                raise
        await self._keep(request)
        self.start()
        return None

    async def uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on to its end in the background when the waiting for it is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self.in_background(task)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is under way and deliver what waits, for at most ``CLOSE_S_MAX`` seconds each.

        What could not be delivered stays in the spool for the next start.
        """
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=CLOSE_S_MAX)
            await _cancelled(late)
        if self._emptier is not None:
            await _cancelled({self._emptier})
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                while len(self._spool) and await self._deliver_oldest():
                    pass
        self._spool.close()

    def in_background(self, task: asyncio.Task[Any]) -> None:
        """Keep a task until it ends; ``close`` waits for it."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _keep(self, request: Request) -> None:
        """Put a request into the spool; those that come while the disk is busy share the next wait for it."""
        kept: asyncio.Future[SpoolUnavailable | None] = asyncio.get_running_loop().create_future()
        self._gathered.append((request, kept))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_gathered())
            self.in_background(self._writer)
        try:
            error = await kept
        except asyncio.CancelledError:
            self._keep_now(request)
            raise
        if error is not None:
            raise error

    async def _write_gathered(self) -> None:
        while self._gathered:
            gathered, self._gathered = self._gathered, []
            error = await asyncio.to_thread(self._append, [request for request, _ in gathered])
            for _, kept in gathered:
                if not kept.done():
                    kept.set_result(error)

    def _append(self, requests: Sequence[Request]) -> SpoolUnavailable | None:
        try:
            self._spool.append(requests)
        except SpoolUnavailable as error:
            return error
        return None

    def _keep_now(self, request: Request) -> None:
        """Put a request into the spool in this very moment: nobody waits for it any longer."""
        error = self._append([request])
        if error is not None:
            log.error("settlement_lost", id=_id(request), error=str(error))

    async def _empty(self) -> None:
        """Deliver what waits, oldest first, for as long as the treasury is open."""
        failures = 0
        while await self._something_waits.wait():
            if not len(self._spool):
                self._something_waits.clear()
                continue
            failures = 0 if await self._deliver_oldest() else failures + 1
            if failures:
                await asyncio.sleep(self._backoff.delay_s(failures, random.random()))  # noqa: S311  (jitter)

    async def _deliver_oldest(self) -> bool:
        """Deliver the oldest ``BATCH_LENGTH_MAX`` requests; whether all of them are off the table."""
        batch = self._spool.head(BATCH_LENGTH_MAX)
        try:
            outcomes = await self._ledger.execute_many(batch)
            return await asyncio.to_thread(self._settled, list(zip(batch, outcomes, strict=True)))
        except (TreasuryError, OSError) as error:
            log.info("spool_waits", requests=len(self._spool), error=str(error))
            return False

    def _settled(self, pairs: Sequence[tuple[Request, AnyOutcome]]) -> bool:
        """Take delivered requests out of the spool; what was refused goes to its end, or aside if it is for good.

        Returns:
            Whether everything was booked.
        """
        refused = [(request, outcome) for request, outcome in pairs if isinstance(outcome, Refused)]
        for request, outcome in refused:
            log.error("spooled_request_refused", id=_id(request), code=outcome.code, detail=outcome.detail)
        again = [request for request, outcome in refused if refusal(outcome).retryable]
        for_people = [request for request, outcome in refused if not refusal(outcome).retryable]
        if again:
            self._spool.append(again)
        if for_people:
            self._spool.set_aside(for_people)
        self._spool.drop(len(pairs))
        return not again


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _id(request: Request) -> str:
    return str(getattr(request.command, "id", ""))
