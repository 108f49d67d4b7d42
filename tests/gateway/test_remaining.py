"""What is left of a chain: read seldom, and hardly ever waited for."""

import asyncio

import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.commands import PutAccount, PutBudget, Request, Settle
from fiscus.gateway import remaining as module
from fiscus.gateway.remaining import Remaining
from tests.api.service import ledger


class Counting:
    """A treasury that counts what is read of it, can be slow, and can be away."""

    def __init__(self, treasury):
        self.treasury = treasury
        self.read_names = []
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.is_away = False

    async def read(self, query):
        self.read_names.append(query.account)
        await self.may_read.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        return await self.treasury.read(query)

    async def do(self, command):
        await self.treasury.execute(Request(command=command))


@pytest.fixture
async def counting():
    async with ledger() as treasury:
        found = Counting(treasury)
        for name, parent in (("team:t", None), ("agent:a", "team:t"), ("agent:b", "team:t")):
            await found.do(PutAccount(account=name, parent=parent))
        await found.do(PutBudget(account="team:t", budget="all", unit="tokens", limit=1_000))
        yield found


@pytest.fixture
async def remaining(counting):
    made = Remaining(counting, "default", kept={})
    yield made
    await made.close()


async def left(remaining, account="agent:a"):
    return int(dict(await remaining.headers(account))[b"x-fiscus-remaining-tokens"])


async def test_chains_share_what_they_have_in_common(counting, remaining):
    assert [await left(remaining, name) for name in ("agent:a", "agent:b", "agent:a")] == [1_000] * 3
    assert await remaining.is_limited("agent:b", {})
    assert counting.read_names == ["agent:a", "team:t", "agent:b"]


async def test_what_is_a_little_old_is_shown_while_it_is_read_anew(counting, remaining, monkeypatch):
    assert await left(remaining) == 1_000
    monkeypatch.setattr(module, "KEPT_S", 0)
    counting.may_read.clear()
    await counting.do(Settle(id="x", account="agent:a", total={"tokens": 100}))
    before = len(counting.read_names)
    async with asyncio.timeout(1):
        assert [await left(remaining) for _ in range(5)] == [1_000] * 5
        await asyncio.sleep(0)
        assert len(counting.read_names) == before + 1, "it is read once, whoever asks meanwhile"
        counting.may_read.set()
        while await left(remaining) != 900:
            await asyncio.sleep(0.01)


async def test_what_is_old_is_waited_for(counting, remaining, monkeypatch):
    assert await left(remaining) == 1_000
    monkeypatch.setattr(module, "KEPT_S", 0)
    monkeypatch.setattr(module, "STALE_S_MAX", 0)
    await counting.do(Settle(id="x", account="agent:a", total={"tokens": 100}))
    assert await left(remaining) == 900


async def test_notes_see_what_is_left_now(counting, remaining):
    await left(remaining)
    await counting.do(Settle(id="x", account="agent:a", total={"tokens": 100}))
    chain = await remaining.chain("agent:a", is_fresh=True)
    assert [one.account for one in chain] == ["agent:a", "team:t"]
    assert chain[1].budgets[0].balance.available == 900


async def test_while_the_ledger_is_away_nothing_is_said_and_nobody_is_called_unlimited(counting, remaining):
    counting.is_away = True
    assert await remaining.headers("agent:a") == ()
    assert await remaining.is_limited("agent:a", {})


async def test_a_budget_for_other_calls_limits_nothing(counting, remaining):
    await counting.do(PutAccount(account="team:u"))
    await counting.do(PutBudget(account="team:u", budget="m", unit="tokens", limit=9, match={"model": "m"}))
    assert not await remaining.is_limited("team:u", {"model": "n"})
    assert await remaining.is_limited("team:u", {"model": "m"})
