"""The treasury in this process, for asyncio: a face of the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from fiscus.contract.analysis import AnalysisQuery
from fiscus.contract.errors import BudgetUnavailable, TreasuryError
from fiscus.contract.loops import LoopBound
from fiscus.contract.queries import AnyQuery, Entry, ListQuery, ListTemplates, ReadEnforcement, TemplatesView, View
from fiscus.contract.rehearsal import Rehearse
from fiscus.contract.treasury import Readiness
from fiscus.core.commands import Request, Reserve, Settle
from fiscus.core.outcomes import AnyOutcome, Refused
from fiscus.core.state import Rules
from fiscus.treasury.attendance import Attendance
from fiscus.treasury.enforcement import count, enforcement_view
from fiscus.treasury.engine import NOWHERE, AnyResult, Committed, Engine
from fiscus.treasury.priced import Pricing, lacks_cost
from fiscus.treasury.reading import AccountNames, entries_after, list_view, read_analysis, sealed_allocations
from fiscus.treasury.rehearsing import rehearse
from fiscus.treasury.shortage import run_list

T = TypeVar("T")

CLOSE_S_MAX = 5.0
FOLLOW_PAGE = 500
FOLLOW_WAIT_S = 1.0
LIST_WAIT_S = 0.02
LIST_TRIES_MAX = 150
ANALYSES_MAX = 2
"""Sums over usage that are made at once: others wait, and keep no threads from what is quick."""


def _leave(answer: Awaitable[AnyOutcome]) -> None:
    """Nobody looks at it any more."""
    assert isinstance(answer, asyncio.Future)
    if not answer.cancel() and not answer.cancelled():
        answer.exception()


class LocalTreasury(LoopBound):
    """See ``contract.treasury.Treasury``. Belongs to an event loop, see ``contract.loops``."""

    def __init__(self, engine: Engine, pricing: Pricing | None = None) -> None:
        """``pricing`` completes settlements of which the cost is not said; None: they are booked without."""
        self.engine = engine
        self._pricing = pricing
        self.moved()
        self._decided: defaultdict[str, Counter[str]] = defaultdict(Counter)
        engine.observers.append(self._observe)

    def moved(self) -> None:
        """See ``LoopBound``."""
        self._ready: deque[tuple[asyncio.Future[Any], AnyResult]] = deque()
        self._news: set[asyncio.Event] = set()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._analyses = asyncio.Semaphore(ANALYSES_MAX)
        self._attendance = Attendance(self._reserve, self._leave)
        self._lending = asyncio.Lock()

    # -- the port -------------------------------------------------------------------------------------------------

    def deliver(self, answers: list[tuple[Any, AnyResult]]) -> None:
        """Called by the engine's thread once per batch."""
        assert self._home is not None
        self._ready.extend(answers)
        try:
            self._home.call_soon_threadsafe(self._wake)
        except RuntimeError:
            # The loop has been closed: nobody waits any more.
            self._ready.clear()

    def _wake(self) -> None:
        ready = self._ready
        while ready:
            future, result = ready.popleft()
            if future.done():
                continue
            try:
                if isinstance(result, TreasuryError):
                    future.set_exception(result)
                else:
                    future.set_result(result)
            except RuntimeError:  # who waits is in a loop that was closed meanwhile
                continue

    def _observe(self, committed: Committed) -> None:
        home = self._home
        if home is None or not (self._attendance.count or self._news):
            return
        with contextlib.suppress(RuntimeError):  # it was closed: nobody waits any more
            if self._attendance.count and (decided := self._attendance.decided(committed)):
                home.call_soon_threadsafe(self._attendance.call, decided)
            if self._news:
                home.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        for event in self._news:
            event.set()

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._home:
            self.home()
            self.engine.start()
        return loop

    # -- Treasury -------------------------------------------------------------------------------------------------

    def execute(self, request: Request) -> Awaitable[AnyOutcome]:
        """See ``Treasury``."""
        command = request.command
        if type(command) is not Reserve:
            return self._settle(request) if self._lacks_cost(request) else self._submit(request)
        return self._attended(request) if command.wait_s else self._reserve(request)

    async def _attended(self, request: Request) -> AnyOutcome:
        self._start()
        outcome = await self._attendance.reserve(request)
        if not request.steps:
            count(self._decided[request.tenant], outcome)
        return outcome

    async def _reserve(self, request: Request) -> AnyOutcome:
        """What is decided at once; if there is no room, what the account's list says."""
        outcome = await self._submit(request)
        if type(outcome) is Refused and outcome.shortage:
            outcome = await run_list(self, request, outcome, self._lending)
        if not request.steps and type(request.command) is Reserve and not request.command.wait_s:
            count(self._decided[request.tenant], outcome)
        return outcome

    def _lacks_cost(self, request: Request) -> bool:
        command = request.command
        return self._pricing is not None and type(command) is Settle and lacks_cost(command)

    async def _settle(self, request: Request) -> AnyOutcome:
        return (await self._to_the_end(self._settle_many([request])))[0]

    async def _settle_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """Look up what is missing, and have all of them decided in their order."""
        pricing = self._pricing
        assert pricing is not None, "a cost lacks only where there are prices"
        return await self._submit_many(
            [await pricing.complete(self, one) if self._lacks_cost(one) else one for one in requests]
        )

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what is done to its end when the waiting for it is cancelled: what was spent gets onto the books."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    def _submit(self, request: Request) -> Awaitable[AnyOutcome]:
        """One decision."""
        loop = self._start()
        future: asyncio.Future[AnyOutcome] = loop.create_future()
        self.engine.submit(self, future, request)
        return future

    async def execute_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """See ``Treasury``."""
        lacks_cost = any(map(self._lacks_cost, requests))
        if lacks_cost and any(request.may_wait for request in requests):
            return await asyncio.gather(*map(self.execute, requests))
        outcomes = await (self._to_the_end(self._settle_many(requests)) if lacks_cost else self._submit_many(requests))
        for index, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
            if type(request.command) is not Reserve or request.may_wait:
                continue
            if type(outcome) is Refused and outcome.shortage:
                outcomes[index] = await run_list(self, request, outcome, self._lending)
            count(self._decided[request.tenant], outcomes[index])
        return outcomes

    async def _submit_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """One decision each; those that wait for room take several."""
        if any(request.may_wait for request in requests):
            return await asyncio.gather(
                *(self._attended(request) if request.may_wait else self._submit(request) for request in requests)
            )
        answers: list[Awaitable[AnyOutcome]] = []
        try:
            answers.extend(map(self._submit, requests))
            return [await answer for answer in answers]  # most come in one batch: one wait for all of them
        except BaseException:
            for answer in answers:
                _leave(answer)
            raise

    def _leave(self, request: Request) -> None:
        """Have a command decided that nobody waits for."""
        with contextlib.suppress(BudgetUnavailable):
            self.engine.submit(NOWHERE, None, request)

    async def read(self, query: AnyQuery) -> View | Refused:
        """See ``Treasury``."""
        loop = self._start()
        if isinstance(query, ReadEnforcement):
            return await enforcement_view(self, query, self._decided[query.tenant])
        if isinstance(query, ListQuery | AnalysisQuery):
            return await self._list(query, partial(self._answer, query))
        if isinstance(query, Rehearse):
            templates = await self.read(ListTemplates(tenant=query.tenant))
            return await self._list(query, partial(self._rehearse, query, templates))
        future: asyncio.Future[View | Refused] = loop.create_future()
        self.engine.submit(self, future, query)
        return await future

    async def _list(
        self, query: ListQuery | AnalysisQuery | Rehearse, answer: Callable[[int], View | Refused]
    ) -> View | Refused:
        number = await asyncio.to_thread(self._tenant, query.tenant)
        for attempt in range(LIST_TRIES_MAX):
            try:
                async with contextlib.nullcontext() if isinstance(query, ListQuery) else self._analyses:
                    return await asyncio.to_thread(answer, number)
            except BudgetUnavailable:
                if attempt == LIST_TRIES_MAX - 1 or not query.min_seq:
                    raise
                self.engine.hurry_views()
                await asyncio.sleep(LIST_WAIT_S)
        raise AssertionError("the loop returns or raises")

    def _answer(self, query: ListQuery | AnalysisQuery, tenant: int) -> View | Refused:
        store = self.engine.store
        if isinstance(query, ListQuery):
            return list_view(store, tenant, query)
        return read_analysis(store, tenant, query, self.engine.now_ms)

    def _rehearse(self, query: Rehearse, templates: View | Refused, tenant: int) -> View | Refused:
        if isinstance(templates, Refused):
            return templates
        assert isinstance(templates, TemplatesView), "that was asked"
        return rehearse(self.engine.store, tenant, query, templates, self._rules(query.tenant))

    def _rules(self, tenant: str) -> Rules:
        found: list[Rules] = []
        self.engine.errand(lambda: found.append(self.engine.ledger(tenant).draft.rules))
        return found[0]

    def _tenant(self, name: str) -> int:
        number: list[int] = []
        self.engine.errand(lambda: number.append(self.engine.ledger(name).number))
        return number[0]

    async def follow(self, after: int = 0, tenant: str = "default", scope: str | None = None) -> AsyncIterator[Entry]:
        """See ``Treasury``."""
        self._start()
        number = await asyncio.to_thread(self._tenant, tenant)
        store = self.engine.store
        names = AccountNames(store, number)
        await asyncio.to_thread(names.catch_up, after)
        news = asyncio.Event()
        self._news.add(news)
        try:
            while True:
                news.clear()
                stored = await asyncio.to_thread(entries_after, store, number, after, FOLLOW_PAGE)
                entries = await asyncio.to_thread(list, map(names.entry, stored))
                scoped = await asyncio.to_thread(names.number, scope) if scope is not None else None
                for entry in entries:
                    after = entry.seq
                    if scope is None:
                        yield entry
                    elif scoped is not None and names.concerns(entry, scoped):
                        yield names.seen(entry, scoped)
                if len(stored) < FOLLOW_PAGE:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(FOLLOW_WAIT_S):  # wait_for may lose a cancellation
                            await news.wait()
        finally:
            self._news.discard(news)

    async def sealed_allocations(self, tenant: str = "default") -> tuple[int, list[Entry]]:
        """What stood when older entries were archived; see ``treasury.reading``."""
        self._start()
        number = await asyncio.to_thread(self._tenant, tenant)
        return await asyncio.to_thread(sealed_allocations, self.engine.store, number)

    async def readiness(self) -> Readiness:
        """See ``Treasury``."""
        self._start()
        return self.engine.readiness()

    async def confirm_clock(self, tenant: str = "default", actor: str = "") -> None:
        """See ``Treasury``."""
        await asyncio.to_thread(self.engine.confirm_clock)

    async def close(self) -> None:
        """See ``Treasury``. Who waits is told so."""
        self._attendance.close()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=CLOSE_S_MAX)
        await asyncio.to_thread(self.engine.close)
