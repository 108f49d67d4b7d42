"""A real service over a real ledger whose database can be away, hang, or lose its answers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import aiohttp

from fiscus.api import ApiOptions, create_app
from fiscus.contract import PutAccount, PutBudget, Refused, Request, Reserve
from fiscus.contract.queries import ListUsage, ReadAccount
from fiscus.spool import Spool, SpoolingTreasury
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.api.service import serving
from tests.treasury.faults import watched_store

HOLDS = 10
TOKENS_HELD = 50
PATIENCE_S = 1.0


class Outage:
    """Decides what becomes of the steps of the journal."""

    def __init__(self) -> None:
        self.is_down = False
        self.loses_answers = False
        self._goes_on = Event()
        self._goes_on.set()
        self.hangs = Event()

    def hang(self) -> None:
        """Whoever writes from now on waits."""
        self._goes_on.clear()

    def go_on(self) -> None:
        self._goes_on.set()

    def __call__(self, point: str) -> None:
        if not point.startswith("journal: "):
            return
        if not self._goes_on.is_set():
            self.hangs.set()
            self._goes_on.wait()
        if self.loses_answers and point == "journal: after entries":
            self.is_down = True
        if self.is_down:
            raise sqlite3.OperationalError("the disk is gone")


class Served:
    """The service, and its ledger from behind."""

    def __init__(self, url: str, treasury: SpoolingTreasury, outage: Outage, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.treasury = treasury
        self.ledger = treasury.ledger
        self.spool = treasury.spool
        self.outage = outage
        self._session = session

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any, float]:
        """Status, body, headers, and how long it took (s)."""
        started = monotonic()
        headers = {"Content-Type": "application/json", **headers}
        async with self._session.request(method, self.url + path, json=body, headers=headers) as response:
            return response.status, await response.json(), response.headers, monotonic() - started

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        status, answer, _, _ = await self.call("POST", path, body, **headers)
        return status, answer

    async def get(self, path: str) -> tuple[int, Any]:
        status, answer, _, _ = await self.call("GET", path)
        return status, answer

    async def balance(self) -> tuple[int, int]:
        """Spent and held, once nothing waits and the ledger is back."""
        view = await self.ledger.read(ReadAccount(account="agent:x"))
        found = view.account.budgets[0].balance
        return found.spent, found.held

    async def booked(self) -> list[tuple[str, int]]:
        """Calls in the order of their booking."""
        seq = (await self.ledger.readiness()).head_seq
        page = await self.ledger.read(ListUsage(limit=1_000, min_seq=seq))
        return [(usage.hold, usage.amounts.get("tokens", 0)) for usage in page.usage]

    async def until_away(self) -> None:
        async def is_away() -> bool:
            return self.treasury.is_away

        await until(is_away)

    async def until_delivered(self) -> None:
        """Return once the ledger is back and nothing waits."""

        async def is_done() -> bool:
            return not self.treasury.is_away and not len(self.spool)

        await until(is_done)


@asynccontextmanager
async def served(
    folder: Path,
    *,
    patience_s: float = PATIENCE_S,
    queue_max: int = 10_000,
    options: ApiOptions | None = None,
    **spool: Any,
) -> AsyncIterator[Served]:
    """``agent:x`` with 1,000 tokens and holds ``h0`` … ``h9`` of 50 each, behind a service."""
    outage = Outage()
    local = LocalTreasury(Engine(watched_store(folder / "fiscus.db", outage), queue_max=queue_max))
    treasury = SpoolingTreasury(local, Spool(folder / "spool", "ledger", **spool), patience_s=patience_s)
    commands = [
        PutAccount(account="agent:x"),
        PutBudget(account="agent:x", unit="tokens", limit=1_000),
        *(Reserve(id=f"h{n}", account="agent:x", amounts={"tokens": TOKENS_HELD}) for n in range(HOLDS)),
    ]
    outcomes = await treasury.execute_many([Request(command=command) for command in commands])
    assert not [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    treasury.start()
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with (
            serving(create_app(treasury, options)) as url,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            yield Served(url, treasury, outage, session)
    finally:
        outage.is_down = outage.loses_answers = False
        outage.go_on()
        await treasury.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)
