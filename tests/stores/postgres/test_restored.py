"""A database that is put back to an older state under running nodes: nothing wrong is answered, nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from fiscus.contract.errors import BudgetUnavailable
from fiscus.contract.queries import AccountView, HoldView, ListUsage, ReadAccount, ReadHold, UsagePage
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.spool import Spool, SpoolingTreasury
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.verify import verify
from tests.stores.postgres.test_nodes import stop_leading

TRIES_MAX = 200


@pytest.fixture
async def nodes(open_node):
    """Two services on one database, each with its threads running."""
    nodes = [LocalTreasury(Engine(open_node())) for _ in range(2)]
    yield nodes
    for node in nodes:
        await node.close()


async def ask(node, command, **context):
    """Ask until it is answered; an error is no answer."""
    for _ in range(TRIES_MAX):
        try:
            return await node.execute(Request(command=command, **context))
        except BudgetUnavailable:
            await asyncio.sleep(0.05)
    raise AssertionError(f"{command} was never answered")


async def read(node, query):
    for _ in range(TRIES_MAX):
        try:
            return await node.read(query)
        except BudgetUnavailable:
            await asyncio.sleep(0.05)
    raise AssertionError(f"{query} was never answered")


async def written(node, seq):
    """Wait until the shared views have an entry."""
    for _ in range(TRIES_MAX):
        mark = node.engine.store.views.watermark(1)
        if mark is not None and mark.seq >= seq:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the views never came to entry {seq}")


async def head(node):
    view = await read(node, ReadAccount(account="global"))
    assert isinstance(view, AccountView)
    return view.as_of_seq


def cut_back(sql, seq):
    """What a restored backup looks like to who is connected: the journal is older; what follows it is not."""
    for table in ("journal", "ids", "private"):
        sql(f"DELETE FROM {table} WHERE seq > %s", seq)
    sql("DELETE FROM batches WHERE last_seq > %s", seq)
    sql("DELETE FROM answers WHERE at > (SELECT max(at) FROM journal)")


# covers E2, E10, E12
async def test_nodes_begin_a_new_epoch_and_make_the_shared_views_anew(nodes, sql, caplog):
    one, two = nodes
    await ask(one, PutAccount(account="global"))
    await ask(one, PutBudget(account="global", unit="tokens", limit=1_000))
    await ask(two, Reserve(id="kept", account="global", amounts={"tokens": 100}))
    kept = await head(two)
    await ask(one, Reserve(id="lost", account="global", amounts={"tokens": 500}))
    await ask(two, Settle(id="kept", total={"tokens": 70}))
    await ask(one, PutAccount(account="agent:of the lost future", parent="global"), idempotency_key="once")
    await written(one, kept + 3)
    cut_back(sql, kept)
    # Each asks for what would not fit in the future that is lost, and answers as of what is there.
    first = await ask(one, Reserve(id="new", account="global", amounts={"tokens": 700}))
    assert isinstance(first, HoldAnswer)
    second = await ask(two, Reserve(id="too much", account="global", amounts={"tokens": 300}))
    assert isinstance(second, Refused)
    assert second.binding is not None
    assert (second.binding.held, second.binding.spent) == (800, 0)
    assert [node.engine.statistics.epoch for node in nodes] == [2, 2]
    alarms = [record for record in caplog.records if "journal_restored" in record.getMessage()]
    assert [record.levelname for record in alarms] == ["ERROR", "ERROR"]
    for node in nodes:
        lost = await read(node, ReadHold(id="lost"))
        assert isinstance(lost, Refused)
        assert lost.code == "unknown_hold"
        hold = await read(node, ReadHold(id="kept"))
        assert isinstance(hold, HoldView)
        assert (hold.hold.state, hold.hold.booked) == ("held", {})
    # What was given out in the lost future can be given out again, to whoever asks with the same key.
    again = await ask(two, PutAccount(account="agent:of the lost future", parent="global"), idempotency_key="once")
    assert not isinstance(again, Refused)
    await written(one, await head(two))
    usage = await read(one, ListUsage(min_seq=await head(two)))
    assert isinstance(usage, UsagePage)
    assert usage.usage == ()
    stop_leading(sql)
    for from_start in (True, False):
        assert verify(one.engine.store, from_start=from_start).faults == ()
    assert [node.engine.statistics.defects for node in nodes] == [0, 0]


# covers E11, E14, R53
async def test_settlements_of_the_lost_future_are_delivered_from_the_spool(nodes, sql, tmp_path):
    one, two = nodes
    spool = Spool(tmp_path / "spool", "ledger", bytes_max=1_000_000, records_max=1_000)
    spooling = SpoolingTreasury(one, spool)
    await ask(two, PutAccount(account="global"))
    await ask(two, PutBudget(account="global", unit="tokens", limit=1_000))
    await ask(two, Reserve(id="kept", account="global", amounts={"tokens": 100}))
    kept = await head(two)
    await ask(two, Reserve(id="lost", account="global", amounts={"tokens": 500}))
    await head(one)
    spool.append(
        [
            Request(command=Settle(id="lost", account="global", total={"tokens": 321})),
            Request(command=Settle(id="kept", total={"tokens": 42})),
        ]
    )
    cut_back(sql, kept)
    spooling.start()
    for _ in range(TRIES_MAX):
        if not len(spool):
            break
        await asyncio.sleep(0.05)
    assert len(spool) == 0
    for node in nodes:
        balance = (await read(node, ReadAccount(account="global", min_seq=kept + 2))).account.budgets[0].balance
        assert (balance.covered, balance.uncovered, balance.held) == (42, 321, 0)
    await spooling.close_spool()
