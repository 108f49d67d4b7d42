"""The API over a ledger whose oldest entries were archived."""

from __future__ import annotations

import asyncio
import time

import pytest

from fiscus.client import RemoteTreasury
from fiscus.contract.errors import EntriesArchived
from fiscus.core.commands import PutAccount, Request, Reserve, SetStatus, Settle
from fiscus.core.outcomes import HoldAnswer
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.archiving import Archivist
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.api.economy_service import serve
from tests.treasury.clock import ManualClock

DAY_MS = 86_400_000


@pytest.fixture
async def clock():
    return ManualClock(int(time.time() * 1_000) - 100 * DAY_MS)


@pytest.fixture
async def ledger(tmp_path, clock):
    """A treasury of three months ago, with its threads."""
    engine = Engine(SqliteStore(tmp_path / "fiscus.db"), clock=clock, retention_days=90)
    treasury = LocalTreasury(engine)
    yield treasury
    await treasury.close()


async def archive(ledger, clock, directory):
    """Seal what there is, let three months pass, and archive it."""
    await asyncio.to_thread(ledger.engine.checkpoint)
    clock.advance(99 * DAY_MS)
    await ledger.execute(Request(command=PutAccount(account="today")))
    (done,) = await asyncio.to_thread(Archivist(ledger.engine, directory, 90, cpu_share=1.0).run)
    return done


# covers D52, E12
async def test_the_books_of_the_economy_begin_with_what_stood_when_entries_were_archived(ledger, clock, tmp_path):
    async with serve(treasury=ledger, pool_tokens=10_000) as economy:
        await economy.allocate("one", 1_000)
        await economy.consume("one", 100, 30)
        await economy.allocate("two", 500)
        await economy.allocate("parked", 300)
        hold = Reserve(id="open", account="agent:two", amounts={"tokens": 200}, lease_s=60)
        assert isinstance(await ledger.execute(Request(command=hold)), HoldAnswer)
        await ledger.execute(Request(command=Settle(id="open", total={"tokens": 40}, final=False)))
        await ledger.execute(Request(command=SetStatus(account="agent:parked", status="suspended")))
        before = await economy.status()
    await archive(ledger, clock, tmp_path / "archive")
    async with serve(treasury=ledger, pool_tokens=10_000) as economy:
        after = await economy.status()
        # The open hold expired after the seal, and was charged in full: 160 more than its last reading.
        assert after["consumed_total"] == before["consumed_total"] + 160
        for figure in ("global_budget", "allocated_total", "remaining_budget", "active_agents"):
            assert after[figure] == before[figure], figure
        assert (await economy.consume("one", 50, 5))[0] == 200
        await ledger.execute(Request(command=SetStatus(account="agent:parked", status="active")))
        status = await economy.status()
        assert status["consumed_total"] == before["consumed_total"] + 160 + 50
        assert status["active_agents"] == before["active_agents"] + 1
        assert (await economy.allocate("two", 100))[0] == 200
        assert (await economy.status())["allocated_total"] > before["allocated_total"] + 300


async def test_who_follows_from_an_archived_entry_is_told_where_to_begin(ledger, clock, tmp_path):
    await ledger.execute(Request(command=PutAccount(account="global")))
    done = await archive(ledger, clock, tmp_path / "archive")
    first = done.upto_seq + 1
    async with serve(treasury=ledger) as service:
        for path in ("/v1/journal", "/v1/events"):
            status, told = await service.get(path)
            assert (status, told["code"], told["first_seq"]) == (410, "gone", first), path
        async with service.session.get(f"{service.url}/v1/events", headers={"Last-Event-ID": str(first - 1)}) as events:
            assert events.status == 200
            seen = b""
            while b"id: " not in seen:
                seen += await events.content.readany()
            assert f"id: {first}\n".encode() in seen
        remote = RemoteTreasury(service.url)
        with pytest.raises(EntriesArchived) as gone:
            await anext(remote.follow())
        assert gone.value.first_seq == first
        assert (await anext(remote.follow(first - 1))).seq == first
        await remote.close()
    with pytest.raises(EntriesArchived):
        await anext(ledger.follow())
