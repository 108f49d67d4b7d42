"""Reserves that wait at two services on one PostgreSQL database: one line, whoever is asked, also when one dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fiscus.client import RemoteTreasury
from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import HoldView, ListEntries, ReadHold
from fiscus.core.commands import PutAccount, PutBudget, Release, Request, Reserve
from fiscus.core.outcomes import HoldAnswer, Refused
from tests.cli.processes import Service, fiscus, service
from tests.servers.postgres import server

SOON_S = 20
LEASE_S = 30


@pytest.fixture
def url() -> str:
    return server("18").migrated_database()


@pytest.fixture
def nodes(url, tmp_path) -> Iterator[list[Service]]:
    with ExitStack() as stack:
        started = []
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            started.append(stack.enter_context(service(folder, DATABASE_URL=url)))
        yield started


@pytest.fixture
async def both(nodes) -> AsyncIterator[list[RemoteTreasury]]:
    """Clients of both, with a budget of 100 tokens that one call holds."""
    treasuries = [RemoteTreasury(node.url) for node in nodes]
    for command in (PutAccount(account="agent:x"), PutBudget(account="agent:x", unit="tokens", limit=100)):
        outcome = await treasuries[0].execute(Request(command=command))
        assert not isinstance(outcome, Refused), outcome
    assert isinstance(await treasuries[0].execute(reserve("first", 100)), HoldAnswer)
    yield treasuries
    for treasury in treasuries:
        await treasury.close()


def reserve(id: str, amount: int, wait_s: int = 0) -> Request:
    return Request(command=Reserve(id=id, account="agent:x", amounts={"tokens": amount}, wait_s=wait_s))


def release(id: str) -> Request:
    return Request(command=Release(id=id))


async def seen(treasury: RemoteTreasury, id: str) -> Any:
    view = await treasury.read(ReadHold(id=id))
    return view.hold if isinstance(view, HoldView) else None


async def until(treasury: RemoteTreasury, id: str, *states: str, within_s: float = SOON_S) -> Any:
    async with asyncio.timeout(within_s):
        while True:
            hold = await seen(treasury, id)
            if hold is not None and hold.state in states:
                return hold
            await asyncio.sleep(0.02)


# covers E2, E7
async def test_who_waits_at_one_node_is_admitted_by_the_other_in_the_order_of_both(both, url, tmp_path):
    a, b = both
    waiting = []
    for number, treasury in enumerate((a, b, a, b)):
        waiting.append(asyncio.create_task(treasury.execute(reserve(f"w{number}", 60, 60))))
        place = (await until(treasury, f"w{number}", "waiting")).place
        assert place == number + 1
    freeing = "first"
    for number, call in enumerate(waiting):
        assert isinstance(await (b if number % 2 == 0 else a).execute(release(freeing)), HoldAnswer)
        answer = await asyncio.wait_for(call, SOON_S)
        assert (answer.id, answer.state) == (f"w{number}", "held")
        assert not any(other.done() for other in waiting[number + 1 :]), "nobody overtakes"
        freeing = f"w{number}"
    held = [entry.data["id"] for entry in (await a.read(ListEntries(limit=1_000))).entries if entry.kind == "held"]
    assert held == ["first", "w0", "w1", "w2", "w3"], "each once, in order"
    assert fiscus(tmp_path, "verify", DATABASE_URL=url).returncode == 0


async def test_the_caller_of_a_node_that_dies_finds_his_place_at_the_other(both, nodes):
    a, b = both
    lost = asyncio.create_task(a.execute(reserve("w0", 60, 60)))
    await until(b, "w0", "waiting")
    behind = asyncio.create_task(b.execute(reserve("w1", 60, 60)))
    await until(b, "w1", "waiting")
    nodes[0].process.send_signal(signal.SIGKILL)
    nodes[0].process.wait(SOON_S)
    again = asyncio.create_task(b.execute(reserve("w0", 60, 60)))
    await asyncio.sleep(0.2)
    assert (await seen(b, "w0")).place == 1
    await b.execute(release("first"))
    assert (await asyncio.wait_for(again, SOON_S)).state == "held"
    assert not behind.done()
    await b.execute(release("w0"))
    assert (await asyncio.wait_for(behind, SOON_S)).state == "held"
    lost.cancel()
    with pytest.raises((TreasuryError, asyncio.CancelledError)):
        await lost


@pytest.mark.slow
async def test_a_node_that_dies_blocks_the_line_no_longer_than_its_leases(both, nodes):
    """Nobody comes back for what waited there: it ends, and who stands behind is admitted."""
    a, b = both
    lost = asyncio.create_task(a.execute(reserve("w0", 100, 600)))
    await until(b, "w0", "waiting")
    nodes[0].process.send_signal(signal.SIGKILL)
    nodes[0].process.wait(SOON_S)
    behind = asyncio.create_task(b.execute(reserve("w1", 60, 600)))
    await until(b, "w1", "waiting")
    await b.execute(release("first"))
    assert (await seen(b, "w0")).state == "held", "it is admitted, for nobody"
    answer = await asyncio.wait_for(behind, LEASE_S)
    assert answer.state == "held"
    assert (await seen(b, "w0")).state == "refused"
    lost.cancel()
    with pytest.raises((TreasuryError, asyncio.CancelledError)):
        await lost
