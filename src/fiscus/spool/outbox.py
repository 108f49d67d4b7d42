"""How settlements and usage reach the ledger: at once, or through the spool when it is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from fiscus.client.backoff import Backoff
from fiscus.contract import AnyOutcome, Refused, Request
from fiscus.contract.errors import SpoolUnavailable, TreasuryError, refusal
from fiscus.contract.forks import keep_for_parent, tell_of_forks
from fiscus.contract.logs import get_logger
from fiscus.contract.loops import LoopBound
from fiscus.contract.treasury import Treasury as Ledger
from fiscus.spool.spool import Spool

BATCH_LENGTH_MAX = 100
CLOSE_S_MAX = 5.0

log = get_logger(__name__)
T = TypeVar("T")


class Outbox(LoopBound):
    """Delivers requests that must not be lost: in order, with their own ids, until the ledger has answered.

    While something waits in the spool, what is new waits behind it. One background task empties the spool. Belongs to
    an event loop, see ``contract.loops``.
    """

    def __init__(self, ledger: Ledger, spool: Spool, backoff: Backoff | None = None) -> None:
        self._ledger = ledger
        self._spool = spool
        self._backoff = backoff or Backoff(first_s=0.2, delay_s_max=30.0)
        self.kept_count = 0
        self.delivered_count = 0
        self._begin()
        tell_of_forks(self)

    def _begin(self) -> None:
        # A thread of its own: those of the loop may all be waiting for a database that hangs.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="fiscus-spool")
        self.moved()

    def moved(self) -> None:
        """See ``LoopBound``."""
        self._something_waits = asyncio.Event()
        self._emptier: asyncio.Task[None] | None = None
        self._gathered: list[tuple[Sequence[Request], asyncio.Future[SpoolUnavailable | None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """How many requests wait in the spool."""
        return len(self._spool)

    def start(self) -> None:
        """Begin to deliver what waits, also what an earlier process left."""
        loop = self.home()
        if len(self._spool):
            self._something_waits.set()
            if self._emptier is None:
                self._emptier = loop.create_task(self._empty())

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
        await self.keep([request])
        return None

    async def keep(self, requests: Sequence[Request]) -> None:
        """Put requests into the spool, all or none; they are on the disk when it returns, and will be delivered.

        Those that come while the disk is busy share the next wait for it.

        Raises:
            SpoolUnavailable: the spool cannot take them.
        """
        kept: asyncio.Future[SpoolUnavailable | None] = self.home().create_future()
        self._gathered.append((requests, kept))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_gathered())
            self.in_background(self._writer)
        try:
            error = await kept
        except asyncio.CancelledError:
            for request in requests:
                self._keep_now(request)
            raise
        if error is not None:
            raise error
        self.start()

    async def uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on to its end in the background when the waiting for it is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self.in_background(task)
        return await asyncio.shield(task)

    async def close(self, *, deliver: bool = True) -> None:
        """Wait for what is under way and deliver what waits, for at most ``CLOSE_S_MAX`` seconds each.

        What could not be delivered stays in the spool for the next start.
        """
        self.home()
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=CLOSE_S_MAX)
            await _cancelled(late)
        if self._emptier is not None:
            await _cancelled({self._emptier})
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                while deliver and len(self._spool) and await self._deliver_oldest():
                    pass
        self._disk.shutdown()
        self._spool.close()

    def forked(self) -> None:
        """See ``contract.forks``: tasks and thread are the parent's."""
        keep_for_parent(self._emptier, self._gathered, self._writer, self._background, self._disk)
        self._home = None
        self._begin()

    def in_background(self, task: asyncio.Task[Any]) -> None:
        """Keep a task until it ends; ``close`` waits for it."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _write_gathered(self) -> None:
        while self._gathered:
            gathered, self._gathered = self._gathered, []
            groups = [requests for requests, _ in gathered]
            errors = await asyncio.get_running_loop().run_in_executor(self._disk, self._append_groups, groups)
            for (_, kept), error in zip(gathered, errors, strict=True):
                if not kept.done():
                    kept.set_result(error)

    def _append_groups(self, groups: Sequence[Sequence[Request]]) -> list[SpoolUnavailable | None]:
        """Put all into the spool with one wait for the disk, or what still fits, each by itself."""
        error = self._append([request for requests in groups for request in requests])
        return [None] * len(groups) if error is None else [self._append(requests) for requests in groups]

    def _append(self, requests: Sequence[Request]) -> SpoolUnavailable | None:
        try:
            self._spool.append(requests)
        except SpoolUnavailable as error:
            return error
        except (TypeError, ValueError) as error:  # it cannot be written at all: nobody may wait for it for ever
            return SpoolUnavailable(f"a request cannot be written: {error}")
        self.kept_count += len(requests)
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
        due = [request for request in batch if not self._spool.is_outdated(request)]
        try:
            outcomes = await self._ledger.execute_many(due)
            pairs = list(zip(due, outcomes, strict=True))
            return await asyncio.get_running_loop().run_in_executor(self._disk, self._settled, pairs, len(batch))
        except (TreasuryError, OSError) as error:
            log.info("spool_waits", requests=len(self._spool), error=str(error))
            return False

    def _settled(self, pairs: Sequence[tuple[Request, AnyOutcome]], count: int) -> bool:
        """Take the oldest ``count`` requests out of the spool; what was refused goes to its end, or aside for good.

        Returns:
            Whether everything was booked.
        """
        refused = [(request, outcome) for request, outcome in pairs if isinstance(outcome, Refused)]
        for request, outcome in refused:
            log.error("spooled_request_refused", id=_id(request), code=outcome.code, detail=outcome.detail)
        again = [request for request, outcome in refused if refusal(outcome).retryable]
        for_people = [(request, outcome) for request, outcome in refused if not refusal(outcome).retryable]
        if again:
            self._spool.append(again)
        if for_people:
            self._spool.set_aside(for_people)
        self._spool.drop(count)
        self.delivered_count += len(pairs) - len(refused)
        return not again


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _id(request: Request) -> str:
    return str(getattr(request.command, "id", ""))
