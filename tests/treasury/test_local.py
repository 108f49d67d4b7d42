"""The treasury in this process as asyncio sees it: entries in order for everybody who follows, lists, a clean end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from fiscus.contract.errors import BudgetUnavailable, TreasuryError
from fiscus.contract.queries import ListAccounts, ListEntries, ListUsage, ReadAccount
from fiscus.core.commands import (
    Allocate,
    EraseName,
    Extend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
)
from fiscus.core.outcomes import AccountAnswer, HoldAnswer
from fiscus.treasury import engine as engine_module
from fiscus.treasury import local
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.treasury.faults import Faults, watched_store
from tests.treasury.traffic import Traffic, founding

WAIT_S = 20


@asynccontextmanager
async def opened(directory: Any, faults: Faults | None = None, **options: Any):
    """A treasury over a file."""
    treasury = LocalTreasury(Engine(watched_store(directory / "fiscus.db", faults or Faults()), **options))
    try:
        yield treasury
    finally:
        await treasury.close()


@pytest.fixture
async def treasury(tmp_path):
    async with opened(tmp_path) as treasury:
        yield treasury


@pytest.fixture
async def lagging(tmp_path, monkeypatch):
    """A treasury whose views cannot be written: all that is known stands in the journal alone."""
    monkeypatch.setattr(local, "FOLLOW_WAIT_S", 0.05)
    faults = Faults()
    faults.arm("views: before begin", 10**9)
    async with opened(tmp_path, faults) as treasury:
        yield treasury


async def do(treasury: LocalTreasury, *commands: Any, tenant: str = "default") -> list[Any]:
    return await treasury.execute_many([Request(command=command, tenant=tenant) for command in commands])


async def take(treasury: LocalTreasury, count: int, **more: Any) -> list[Any]:
    """The next entries that a follower gets."""
    taken = []
    async with asyncio.timeout(WAIT_S):
        async with aclosing(treasury.follow(**more)) as entries:
            async for entry in entries:
                taken.append(entry)
                if len(taken) == count:
                    break
    return taken


async def everything(treasury: LocalTreasury, **more: Any) -> list[Any]:
    """All entries by pages."""
    entries: list[Any] = []
    after = 0
    while True:
        page = await treasury.read(ListEntries(after=after, limit=97, **more))
        entries += page.entries
        if page.next is None:
            return entries
        after = page.next


# covers E9
async def test_everybody_who_follows_gets_every_entry_in_order_from_where_they_began(treasury):
    for request in founding():
        await treasury.execute(request)
    begun = (await treasury.read(ListEntries(limit=1))).as_of_seq
    traffic = Traffic(3)
    batches = [traffic.batch(8) for _ in range(60)]

    async def spend() -> int:
        for batch in batches:
            traffic.heard(batch, await treasury.execute_many(batch))
        return (await treasury.read(ListEntries(limit=1))).as_of_seq

    async def follow(after: int, until: asyncio.Future[int]) -> list[Any]:
        taken: list[Any] = []
        async with aclosing(treasury.follow(after=after)) as entries:
            async for entry in entries:
                taken.append(entry)
                if until.done() and entry.seq >= until.result():
                    return taken
        raise AssertionError("it ended by itself")

    until = asyncio.get_running_loop().create_future()
    followers = [asyncio.create_task(follow(after, until)) for after in (0, 0, begun, begun + 100)]
    head = await spend()
    until.set_result(head)
    await do(treasury, PutAccount(account="the last one"))
    async with asyncio.timeout(WAIT_S):
        followed = await asyncio.gather(*followers)
    for after, taken in zip((0, 0, begun, begun + 100), followed, strict=True):
        assert [entry.seq for entry in taken[: head - after]] == list(range(after + 1, head + 1))
    assert followed[0][:head] == followed[1][:head]  # one that was slower ends at the head, another one after it
    assert followed[2][: head - begun] == followed[0][begun:head]
    assert (await everything(treasury))[:head] == followed[0][:head]


# covers E12
async def test_an_entry_says_the_same_whether_the_views_know_of_it_or_not(tmp_path):
    faults = Faults()
    faults.arm("views: before begin", 10**9)
    async with opened(tmp_path, faults) as treasury:
        for request in founding():
            await treasury.execute(request)
        traffic = Traffic(4)
        for _ in range(60):
            batch = traffic.batch(8)
            traffic.heard(batch, await treasury.execute_many(batch))
        head = (await treasury.read(ListEntries(limit=1))).as_of_seq
        lagging = await everything(treasury)
        from_middle = await take(treasury, head - head // 2, after=head // 2)
        scoped = await everything(treasury, scope="team:a")
        faults.arm("views: before begin", 0)
    async with opened(tmp_path) as treasury:
        assert await everything(treasury) == lagging
        assert await take(treasury, head - head // 2, after=head // 2) == from_middle == lagging[head // 2 :]
        assert await everything(treasury, scope="team:a") == scoped
        assert len(scoped) > 100
        assert all(entry.names for entry in scoped)


async def test_who_follows_one_account_gets_all_of_it_and_of_those_below_and_nothing_else(lagging):
    treasury = lagging
    await do(treasury, PutAccount(account="team:a"), PutAccount(account="team:b"))
    follower = asyncio.create_task(take(treasury, 14, scope="agent:x"))
    await do(
        treasury,
        PutAccount(account="agent:x", parent="team:a"),
        PutAccount(account="agent:y", parent="team:b"),
        PutAccount(account="agent:x:sub", parent="agent:x"),
        PutBudget(account="agent:x", unit="tokens", limit=100),
        PutBudget(account="team:a", unit="tokens", limit=1_000),
        Reserve(id="x", account="agent:x", amounts={"tokens": 10}),
        Reserve(id="y", account="agent:y", amounts={"tokens": 10}),
        Reserve(id="sub", account="agent:x:sub", amounts={"tokens": 10}),
        Extend(id="x", to={"tokens": 15}),
        Extend(id="y", to={"tokens": 15}),
        Settle(id="x", total={"tokens": 15}),
        Release(id="sub"),
        Allocate(account="agent:x:sub", unit="tokens", to=20),
        Settle(id="more", account="agent:x:sub", total={"tokens": 50}),
        SetStatus(account="agent:x:sub", status="suspended"),
        SetStatus(account="agent:y", status="suspended"),
    )
    kinds = [entry.kind for entry in await follower]
    assert kinds[:9] == [
        "account_opened",
        "account_opened",
        "budget_put",
        "window_opened",
        "held",
        "held",
        "extended",
        "settled",
        "released",
    ]
    assert kinds.count("allocation_put") == 1
    late = await take(treasury, 14, scope="agent:x")
    assert [entry.kind for entry in late] == kinds
    whole = [entry for entry in await everything(treasury) if entry.seq <= late[-1].seq]
    assert [entry for entry in whole if "agent:y" in entry.names.values()]
    assert not [entry for entry in late if "agent:y" in entry.names.values()]


async def test_followers_are_told_at_once_and_not_at_the_next_look(treasury, monkeypatch):
    monkeypatch.setattr(local, "FOLLOW_WAIT_S", 3_600)
    await do(treasury, PutAccount(account="a"))
    follower = asyncio.create_task(take(treasury, 3))
    await asyncio.sleep(0.05)
    for name in ("b", "c"):
        await do(treasury, PutAccount(account=name))
    assert [entry.seq for entry in await follower] == [1, 2, 3]


async def test_names_that_were_erased_are_left_out_also_for_those_who_saw_them_before(treasury):
    await do(treasury, PutAccount(account="user:bob"), PutAccount(account="user:ann"))
    async with asyncio.timeout(WAIT_S), aclosing(treasury.follow()) as entries:
        assert (await anext(entries)).names == {"1": "user:bob"}
        await anext(entries)
        await do(treasury, SetStatus(account="user:bob", status="closed"), EraseName(account="user:bob"))
        assert (await anext(entries)).kind == "status_changed"
        erasing = await anext(entries)
        assert (erasing.kind, erasing.names) == ("name_erased", {})
        await do(treasury, Settle(id="u", account="user:ann", also=(), total={"tokens": 1}))
        assert (await anext(entries)).names == {"2": "user:ann"}
    assert [entry.names for entry in await everything(treasury)] == [{}, {"2": "user:ann"}, {}, {}, {"2": "user:ann"}]


async def test_tenants_are_followed_each_by_itself(treasury):
    for tenant in ("north", "south"):
        await do(treasury, PutAccount(account=f"agent:{tenant}"), PutAccount(account="agent:b"), tenant=tenant)
    for tenant in ("north", "south"):
        entries = await take(treasury, 2, tenant=tenant)
        assert [list(entry.names.values()) for entry in entries] == [[f"agent:{tenant}"], ["agent:b"]]
    assert await everything(treasury) == []


async def test_a_read_waits_for_ones_own_write(treasury):
    answers = await do(treasury, *(PutAccount(account=f"agent:{number}") for number in range(50)))
    assert all(isinstance(answer, AccountAnswer) for answer in answers)
    head = (await treasury.read(ReadAccount(account="agent:0"))).as_of_seq
    page = await treasury.read(ListAccounts(limit=100, min_seq=head))
    assert [account.account for account in page.accounts] == [f"agent:{number}" for number in range(50)]
    await do(treasury, Settle(id="u", account="agent:7", total={"tokens": 5}))
    usage = await treasury.read(ListUsage(min_seq=head + 1))
    assert [(row.account, row.amounts["tokens"]) for row in usage.usage] == [("agent:7", 5)]
    with pytest.raises(BudgetUnavailable):
        await treasury.read(ReadAccount(account="agent:0", min_seq=head + 100))


async def test_the_views_are_written_for_a_reader_who_waits_for_them_not_at_the_end_of_the_interval(
    treasury, monkeypatch
):
    monkeypatch.setattr(engine_module, "SNAPSHOT_MS", 10**12)
    await do(treasury, PutAccount(account="agent:a"))
    for number in range(3):
        await do(treasury, Settle(id=f"u{number}", account="agent:a", total={"tokens": 5}))
        page = await treasury.read(ListUsage(min_seq=(await treasury.read(ListEntries(limit=1))).as_of_seq))
        assert len(page.usage) == number + 1


async def test_what_comes_after_the_end_is_told_so_and_waits_for_nothing(tmp_path):
    async with opened(tmp_path) as treasury:
        await do(treasury, PutAccount(account="agent:a"))
        follower = asyncio.create_task(take(treasury, 2))
        await asyncio.sleep(0.05)
    questions = [
        lambda: treasury.execute(Request(command=PutAccount(account="agent:b"))),
        lambda: treasury.execute_many([Request(command=PutAccount(account="agent:b"))]),
        lambda: treasury.read(ReadAccount(account="agent:a")),
        lambda: treasury.read(ListAccounts()),
        lambda: treasury.read(ListEntries()),
        lambda: take(treasury, 1),
        lambda: treasury.confirm_clock(),
    ]
    async with asyncio.timeout(WAIT_S):
        for question in questions:
            with pytest.raises(TreasuryError):
                await question()
        with pytest.raises(TreasuryError):
            await follower
        assert not (await treasury.readiness()).ready


async def test_a_caller_that_gave_up_leaves_its_hold_to_be_found(treasury):
    await do(treasury, PutAccount(account="agent:a"), PutBudget(account="agent:a", unit="tokens", limit=10))
    call = asyncio.create_task(
        treasury.execute(Request(command=Reserve(id="h", account="agent:a", amounts={"tokens": 10})))
    )
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    again = await do(treasury, Reserve(id="h", account="agent:a", amounts={"tokens": 10}))
    assert isinstance(again[0], HoldAnswer)
    assert (await do(treasury, Reserve(id="h2", account="agent:a", amounts={"tokens": 1})))[0].code == "budget_busy"


@pytest.mark.parametrize("ticks", range(5))
async def test_who_follows_can_be_cancelled_in_the_moment_in_which_something_happens(treasury, ticks):
    async def follow() -> None:
        async for _ in treasury.follow():
            pass

    follower = asyncio.create_task(follow())
    async with asyncio.timeout(WAIT_S):
        while not any(event._waiters for event in treasury._news):
            await asyncio.sleep(0.001)
    for event in treasury._news:
        event.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    follower.cancel()
    done, _ = await asyncio.wait([follower], timeout=5)
    assert done, "the cancellation was lost"
    assert follower.cancelled()
