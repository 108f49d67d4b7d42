"""Keeps the books up to date with the journal, and lets a reader wait for its own write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from itertools import count

import structlog

from fiscus.api.economy.books import Books
from fiscus.contract.errors import BudgetUnavailable, EntriesArchived, TreasuryError
from fiscus.contract.queries import Entry
from fiscus.contract.treasury import Treasury

WAIT_S_MAX = 10.0
"""Longest that a reader waits for the books, in seconds."""

RETRY_PAUSE_S = 0.5
YIELD_EVERY = 256
"""Facts after which others get their turn while a long journal is read."""

log = structlog.get_logger()


SealedAllocations = Callable[[], Awaitable[tuple[int, list[Entry]]]]


class Follower:
    """Folds the journal of one tenant into ``books``, from the beginning, then live.

    Args:
        on_change: called after each fact; must return at once.
        sealed: the state that an archived journal begins with, and as of which entry.
    """

    def __init__(
        self,
        treasury: Treasury,
        books: Books,
        *,
        tenant: str,
        on_change: Callable[[], None],
        sealed: SealedAllocations | None = None,
    ) -> None:
        self._treasury = treasury
        self._books = books
        self._tenant = tenant
        self._on_change = on_change
        self._sealed = sealed
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    async def run(self) -> None:
        """Follow until cancelled; an error of the treasury is waited out."""
        while True:
            try:
                await self._follow()
            except EntriesArchived as error:
                await self._begin_behind(error)
                continue
            except TreasuryError as error:
                log.warning("token_economy_books_wait", error=str(error), as_of_seq=self._books.seq)
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _begin_behind(self, error: EntriesArchived) -> None:
        """Begin with the state that was sealed when the entries before were archived."""
        log.info("token_economy_books_archived", first_seq=error.first_seq, as_of_seq=self._books.seq)
        seq, entries = await self._sealed() if self._sealed is not None and not self._books.seq else (0, [])
        self._books.begin_behind(max(seq, (error.first_seq or 1) - 1), entries)

    async def reached(self, seq: int) -> None:
        """Return when the books hold everything up to ``seq``.

        Raises:
            BudgetUnavailable: they do not within ``WAIT_S_MAX``.
        """
        if self._books.seq >= seq:
            return
        waiter = asyncio.get_running_loop().create_future()
        heappush(self._waiters, (seq, next(self._order), waiter))
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await waiter
        except TimeoutError as error:
            raise BudgetUnavailable(f"the books are at {self._books.seq}, not yet at {seq}") from error

    async def _follow(self) -> None:
        facts = 0
        async for entry in self._treasury.follow(after=self._books.seq, tenant=self._tenant):
            self._books.fold(entry)
            self._on_change()
            self._wake()
            facts += 1
            if facts % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _wake(self) -> None:
        while self._waiters and self._waiters[0][0] <= self._books.seq:
            _, _, waiter = heappop(self._waiters)
            if not waiter.done():
                waiter.set_result(None)
