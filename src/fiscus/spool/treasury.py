"""A treasury that goes on while its ledger is away: it books later, and admits nothing.

    ledger answers ─▶ everything goes straight to it
    ledger is away ─▶ settlements, usage, releases: to the spool, ``Spooled`│ everything else: StoreUnavailable, at once

Away is a ledger that says so (``StoreUnavailable``) or that has answered nobody for a while. That others wait already
(a full queue) or that it closes does not count: it is there, and whoever asks is to ask again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any, cast

import msgspec

from fiscus.client.backoff import Backoff
from fiscus.contract import AnyOutcome, Compound, CompoundAnswer, Refused, Release, Request, Settle, Spooled
from fiscus.contract.errors import SpoolUnavailable, StoreUnavailable, TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import AnyQuery, Entry, ListQuery, ListTemplates, View
from fiscus.contract.treasury import Readiness, Treasury
from fiscus.core.checks import check
from fiscus.spool.outbox import Outbox
from fiscus.spool.patience import Patience
from fiscus.spool.spool import Spool

PATIENCE_S = 3.0
"""After so long a silence of the ledger those who wait for it are answered without it, in seconds."""

RETRY_AFTER_S = 1
PROBES = Backoff(first_s=0.1, delay_s_max=1.0)
DELIVERIES = Backoff(first_s=0.1, delay_s_max=1.0)
STORE_UNAVAILABLE = "store_unavailable"

log = get_logger(__name__)


class SpoolingTreasury:
    """See ``contract.treasury.Treasury``. Belongs to the event loop in which it is first used.

    A request about a call of which something waits in the spool waits behind it, also when the ledger is back; all
    others go straight to the ledger. What is spooled was checked as far as that is possible without the ledger.
    """

    def __init__(
        self, ledger: Treasury, spool: Spool, *, tenant: str = "default", patience_s: float = PATIENCE_S
    ) -> None:
        """Nothing is delivered before ``start``.

        Args:
            ledger: closed with this.
            spool: closed with this.
            tenant: one that the ledger has, to ask whether it is back.
            patience_s: how long a silence of the ledger is taken for work, in seconds.
        """
        self.ledger = ledger
        self.spool = spool
        self.outbox = Outbox(ledger, spool, DELIVERIES)
        self._tenant = tenant
        self._patience = Patience(patience_s, lambda: self._lose(f"no answer for {patience_s:g} s"))
        self._away: str | None = None
        self._away_since_s = 0.0
        self._prober: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def is_away(self) -> bool:
        """Whether the ledger is known to be away."""
        return self._away is not None

    def start(self) -> None:
        """Begin to deliver what waits, also what an earlier process left."""
        if len(self.spool):
            log.warning("spool_found", requests=len(self.spool), directory=str(self.spool.directory))
        self.outbox.start()

    # -- Treasury -------------------------------------------------------------------------------------------------

    async def execute(self, request: Request) -> AnyOutcome:
        """See ``Treasury``. Settlements, usage and releases may be answered ``Spooled``."""
        if request.may_wait:
            return await self._wait_for(request)
        if self._away is None and not self._waits(request):
            task = self._patience.enter()
            try:
                outcome = await self.ledger.execute(request)
                self._patience.answered()
                return outcome
            except StoreUnavailable as error:
                self._lose(str(error))
            except asyncio.CancelledError:
                if not self._patience.is_over(task):
                    raise
            finally:
                self._patience.leave(task)
        return (await self._without_ledger([request]))[0]

    async def execute_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """See ``Treasury``. If one has to be admitted the error answers for all; what is to be booked is kept still."""
        if any(request.may_wait for request in requests):
            return list(await asyncio.gather(*(self.execute(request) for request in requests)))
        behind = [index for index, request in enumerate(requests) if self._waits(request)]
        if self._away is None and behind:
            return await self._partly(requests, behind)
        if self._away is None:
            task = self._patience.enter()
            try:
                outcomes = await self.ledger.execute_many(requests)
                self._patience.answered()
                return outcomes
            except StoreUnavailable as error:
                self._lose(str(error))
            except asyncio.CancelledError:
                if not self._patience.is_over(task):
                    raise
            finally:
                self._patience.leave(task)
        return await self._without_ledger(requests)

    async def _wait_for(self, request: Request) -> AnyOutcome:
        """A reserve that waits for room: that it is not answered for long says nothing about the ledger."""
        if self._away is not None:
            raise self._unavailable()
        try:
            return await self.ledger.execute(request)
        except StoreUnavailable as error:
            self._lose(str(error))
            raise

    async def read(self, query: AnyQuery) -> View | Refused:
        """See ``Treasury``."""
        if self._away is not None:
            raise self._unavailable()
        if isinstance(query, ListQuery):
            return await self.ledger.read(query)  # from the tables, beside the engine: it says nothing about that
        task = self._patience.enter()
        try:
            view = await self.ledger.read(query)
            self._patience.answered()
            return view
        except StoreUnavailable as error:
            self._lose(str(error))
            raise
        except asyncio.CancelledError:
            if not self._patience.is_over(task):
                raise
            raise self._unavailable() from None
        finally:
            self._patience.leave(task)

    async def follow(self, after: int = 0, tenant: str = "default", scope: str | None = None) -> AsyncIterator[Entry]:
        """See ``Treasury``."""
        if self._away is not None:
            raise self._unavailable()
        async with aclosing(cast("Any", self.ledger.follow(after, tenant, scope))) as entries:
            async for entry in entries:
                yield entry

    async def readiness(self) -> Readiness:
        """See ``Treasury``, with what waits in the spool."""
        found = await self.ledger.readiness()
        reasons = found.reasons
        if self._away is not None and STORE_UNAVAILABLE not in reasons:
            reasons = (STORE_UNAVAILABLE, *reasons)
        return msgspec.structs.replace(
            found,
            ready=not reasons,
            reasons=reasons,
            spooled=len(self.spool),
            spooled_bytes=self.spool.waiting_bytes,
            spooled_age_s=int(self.spool.age_s()),
        )

    async def confirm_clock(self, tenant: str = "default", actor: str = "") -> None:
        """See ``Treasury``."""
        if self._away is not None:
            raise self._unavailable()
        await self.ledger.confirm_clock(tenant, actor)

    async def close(self) -> None:
        """See ``Treasury``. What cannot be delivered at once stays in the spool for the next start."""
        await self.close_spool()
        await self.ledger.close()

    async def close_spool(self) -> None:
        """Deliver what can be delivered at once, and let go of the spool; the ledger stays open."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        await self.outbox.close(deliver=self._away is None)
        if len(self.spool):
            log.warning("spool_left", requests=len(self.spool), directory=str(self.spool.directory))

    # -- without the ledger -----------------------------------------------------------------------------------------

    async def _without_ledger(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """Keep what is to be booked, all or none, and answer it; raise if anything else was asked as well.

        Raises:
            StoreUnavailable: something would have to be admitted, or the spool cannot take what is to be booked.
        """
        outcomes = [_answer_without_ledger(request) for request in requests]
        kept = [
            booking
            for request, outcome in zip(requests, outcomes, strict=True)
            if not isinstance(outcome, Refused)
            for booking in bookings(request)
        ]
        if kept:
            try:
                await self.outbox.keep(kept)
            except SpoolUnavailable as error:
                raise StoreUnavailable(f"{self._reason()}; nothing was taken: {error}", RETRY_AFTER_S) from error
        answered = [outcome for outcome in outcomes if outcome is not None]
        if len(answered) < len(outcomes):
            raise self._unavailable("; its settlements are kept and will be booked" if kept else "")
        return answered

    async def _partly(self, requests: Sequence[Request], behind: Sequence[int]) -> list[AnyOutcome]:
        """The ledger is there, but some of the requests have to wait behind what waits in the spool."""
        waiting = set(behind)
        kept = iter(await self._without_ledger([requests[index] for index in behind]))
        rest = [request for index, request in enumerate(requests) if index not in waiting]
        done = iter(await self.execute_many(rest)) if rest else iter(())
        return [next(kept) if index in waiting else next(done) for index in range(len(requests))]

    def _waits(self, request: Request) -> bool:
        """Whether a booking has to wait behind one of the same call."""
        if not len(self.spool):
            return False
        command = request.command
        if isinstance(command, Compound):
            return is_booking(command) and any(self.spool.holds(request.tenant, part.id) for part in _parts(command))
        return isinstance(command, Settle | Release) and self.spool.holds(request.tenant, command.id)

    def _reason(self) -> str:
        return f"the ledger is away ({self._away})" if self._away is not None else "the ledger was away"

    def _unavailable(self, more: str = "") -> StoreUnavailable:
        return StoreUnavailable(self._reason() + more, RETRY_AFTER_S)

    # -- away and back ----------------------------------------------------------------------------------------------

    def _lose(self, reason: str) -> None:
        """The ledger is away from now on, until it answers a question again."""
        if self._away is not None:
            return
        self._away, self._away_since_s = reason, monotonic()
        log.error("ledger_away", reason=reason)
        if not self._is_closing:
            self._prober = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        """Ask until there is an answer; a question that a hanging ledger has not answered is not asked again."""
        failures = 0
        while True:
            try:
                await self.ledger.read(ListTemplates(tenant=self._tenant))
            except TreasuryError as error:
                self._away = str(error)
            else:
                break
            failures += 1
            await asyncio.sleep(PROBES.delay_s(failures, random.random()))  # noqa: S311  (jitter)
        self._away = None
        log.warning("ledger_back", away_s=round(monotonic() - self._away_since_s, 3), spooled=len(self.spool))


def is_booking(command: Compound) -> bool:
    """Whether a compound only books: nothing in it has to be admitted."""
    return bool(command.commands) and all(isinstance(part, Settle | Release) for part in command.commands)


def bookings(request: Request) -> list[Request]:
    """What of a request is to be booked whatever becomes of the rest.

    Settlements in a compound with other commands are booked by themselves; a release is undone with the rest.

    Source: design.md §3 "compound".
    """
    command = request.command
    if isinstance(command, Settle | Release) or (isinstance(command, Compound) and is_booking(command)):
        return [request]
    if isinstance(command, Compound):
        return [
            msgspec.structs.replace(request, command=part, idempotency_key=None)
            for part in command.commands
            if isinstance(part, Settle)
        ]
    return []


def _answer_without_ledger(request: Request) -> AnyOutcome | None:
    """What a request is answered once it is kept, or a refusal that needs no ledger; None: it needs one."""
    command = request.command
    if not bookings(request):
        return None
    wrong = check(command)
    if wrong is not None:
        return wrong
    if isinstance(command, Settle | Release):
        return Spooled(id=command.id, state="spooled")
    if isinstance(command, Compound) and is_booking(command):
        return CompoundAnswer(answers=tuple(Spooled(id=part.id, state="spooled") for part in _parts(command)))
    return None


def _parts(command: Compound) -> list[Settle | Release]:
    return [part for part in command.commands if isinstance(part, Settle | Release)]
