"""Two services on one PostgreSQL database: any of them answers any call, and says what the other has done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import aiohttp
import pytest

from fiscus.client import RemoteTreasury
from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import AccountView, Entry, ListPrices, PricesView, ReadAccount
from fiscus.core.commands import (
    Allocate,
    PutAccount,
    PutBudget,
    PutPrice,
    RemovePrice,
    Request,
    Reserve,
    Settle,
    Transfer,
)
from fiscus.core.outcomes import HoldAnswer, Refused
from tests.cli.processes import Service, service
from tests.servers.postgres import server

SECRET = "a secret that is long enough"
CALLS = 60
SEEN_WITHIN_S = 1.0


@pytest.fixture
def nodes(tmp_path) -> Iterator[list[Service]]:
    """Two of them; the first brings the first key along, the second is told nothing of keys."""
    url = server("18").migrated_database()
    with ExitStack() as stack:
        started = []
        for name, settings in (("a", {"FISCUS_BOOTSTRAP_KEY": SECRET}), ("b", {})):
            folder = tmp_path / name
            folder.mkdir()
            started.append(stack.enter_context(service(folder, DATABASE_URL=url, **settings)))
        yield started


@pytest.fixture
async def treasuries(nodes) -> AsyncIterator[list[RemoteTreasury]]:
    both = [RemoteTreasury(node.url, api_key=SECRET) for node in nodes]
    yield both
    for treasury in both:
        await treasury.close()


async def do(treasury: RemoteTreasury, *commands: object, tenant: str = "default") -> None:
    for index, command in enumerate(commands):
        wish = Request(command=command, idempotency_key=f"{tenant}-{type(command).__name__}-{index}", tenant=tenant)
        outcome = await treasury.execute(wish)
        assert not isinstance(outcome, Refused), outcome


async def code_of(treasury: RemoteTreasury) -> str:
    """What becomes of a read."""
    try:
        await treasury.read(ReadAccount(account="agent:x"))
    except TreasuryError as error:
        return error.code
    return "answered"


def reserve(id: str, amount: int = 1) -> Request:
    return Request(command=Reserve(id=id, account="agent:x", amounts={"tokens": amount}))


# covers E7
async def test_a_key_a_hold_and_a_read_of_one_node_are_those_of_the_other(treasuries):
    a, b = treasuries
    await do(a, PutAccount(account="agent:x"), PutBudget(account="agent:x", unit="tokens", limit=100))
    held = await b.execute(reserve("one", 60))
    assert isinstance(held, HoldAnswer)
    assert await a.execute(reserve("one", 60)) == held
    refused = await a.execute(reserve("two", 41))
    assert isinstance(refused, Refused)
    assert refused.code == "budget_busy"
    await b.execute(Request(command=Settle(id="one", total={"tokens": 10})))
    assert isinstance(await a.execute(reserve("two", 41)), HoldAnswer)
    written = await b.read(ReadAccount(account="agent:x"))
    assert isinstance(written, AccountView)
    seen = await a.read(ReadAccount(account="agent:x", min_seq=written.as_of_seq))
    assert isinstance(seen, AccountView)
    assert seen.as_of_seq >= written.as_of_seq
    balance = seen.account.budgets[0].balance
    assert (balance.spent, balance.held) == (10, 41)


async def test_events_of_both_nodes_come_on_both_in_order_within_a_second(treasuries):
    a = treasuries[0]
    await do(a, PutAccount(account="agent:x"), PutBudget(account="agent:x", unit="tokens", limit=10**9))
    head = (await a.readiness()).head_seq
    seen: list[list[tuple[Entry, float]]] = [[], []]

    async def listen(index: int) -> None:
        async for entry in treasuries[index].follow(after=head):
            seen[index].append((entry, time.monotonic()))
            if entry.kind == "held" and entry.data["id"] == f"call-{CALLS - 1}":
                return

    listeners = [asyncio.create_task(listen(index)) for index in range(2)]
    answered: dict[str, float] = {}
    for number in range(CALLS):
        id = f"call-{number}"
        assert isinstance(await treasuries[number % 2].execute(reserve(id)), HoldAnswer)
        answered[id] = time.monotonic()
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        await asyncio.gather(*listeners)
    for entries in seen:
        assert [entry.seq for entry, _ in entries] == list(range(head + 1, head + len(entries) + 1))
        held = [(entry.data["id"], at) for entry, at in entries if entry.kind == "held"]
        assert [id for id, _ in held] == list(answered)
        late = [at - answered[id] for id, at in held]
        assert sorted(late)[CALLS // 2] < SEEN_WITHIN_S, late


async def test_tenants_with_accounts_of_the_same_names_share_nothing(tmp_path):
    url = server("18").migrated_database()
    with ExitStack() as stack:
        treasuries = []
        for tenant in ("red", "blue"):
            folder = tmp_path / tenant
            folder.mkdir()
            running = stack.enter_context(service(folder, DATABASE_URL=url, FISCUS_TENANT=tenant))
            treasuries.append(RemoteTreasury(running.url))
        red, blue = treasuries
        for treasury, limit in ((red, 10), (blue, 1_000)):
            for command in (
                PutAccount(account="team:t"),
                PutBudget(account="team:t", unit="tokens", limit=limit),
                PutAccount(account="agent:x", parent="team:t"),
                PutAccount(account="agent:y", parent="team:t"),
                Allocate(account="agent:x", unit="tokens", to=limit // 2),
                Allocate(account="agent:y", unit="tokens", to=limit // 2),
                Transfer(source="agent:y", target="agent:x", unit="tokens", amount=1),
            ):
                outcome = await treasury.execute(Request(command=command))
                assert not isinstance(outcome, Refused), outcome
        assert isinstance(await red.execute(reserve("h", 7)), Refused)
        assert isinstance(await blue.execute(reserve("h", 7)), HoldAnswer)
        assert isinstance(await red.execute(reserve("h", 6)), HoldAnswer), "an id of another tenant is free"
        for treasury, held in ((red, 6), (blue, 7)):
            view = await treasury.read(ReadAccount(account="agent:x"))
            assert isinstance(view, AccountView)
            assert view.account.budgets[0].balance.held == held
            await treasury.close()


async def test_a_node_without_a_key_asks_for_one_as_soon_as_the_other_has_made_an_administrators(tmp_path):
    url = server("18").migrated_database()
    with ExitStack() as stack:
        running = []
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            running.append(stack.enter_context(service(folder, DATABASE_URL=url)))
        assert not running[1].keys_required
        anonymous = [RemoteTreasury(node.url) for node in running]
        await do(anonymous[1], PutAccount(account="agent:x"))
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{running[0].url}/v1/keys", json={"role": "admin"}) as made,
        ):
            assert made.status == 201
            secret = (await made.json())["secret"]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if await code_of(anonymous[1]) == "unauthorized":
                break
            await asyncio.sleep(0.05)
        assert await code_of(anonymous[1]) == "unauthorized", "the other node still answers everybody"
        named = RemoteTreasury(running[1].url, api_key=secret)
        assert isinstance(await named.read(ReadAccount(account="agent:x")), AccountView)
        for treasury in (*anonymous, named):
            await treasury.close()


# covers R12
async def test_a_price_that_one_node_was_told_is_there_on_the_other_within_a_second(treasuries):
    a, b = treasuries
    rates = {"input": 250_000_000, "output": 1_000_000_000}
    await do(a, PutPrice(price="p", provider="vllm", model="llama", rates=rates))
    told = time.monotonic()
    while not (seen := await b.read(ListPrices())).prices:  # type: ignore[union-attr]  # a view of prices
        assert time.monotonic() - told < SEEN_WITHIN_S
    assert isinstance(seen, PricesView)
    assert seen.prices[0].terms[0].rates == rates
    await do(b, RemovePrice(price="p"))
    known = await a.read(ListPrices(min_seq=seen.as_of_seq + 1))
    assert isinstance(known, PricesView)
    assert not known.prices[0].active
