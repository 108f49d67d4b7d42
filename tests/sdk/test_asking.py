"""The step ``ask`` of a list: an override is asked for, and its decision waited for, whatever it is (R8, R31)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest

import fiscus
from fiscus.api import ApiOptions, create_app, store_first_key
from fiscus.contract import OverridePolicy
from fiscus.contract.errors import BudgetBusy, BudgetExceeded, Forbidden, Unknown
from fiscus.contract.queries import EntriesPage, ListEntries
from fiscus.sdk import Treasury
from tests.api.service import FIRST_SECRET, PEPPER, Api, ledger, serving
from tests.api.test_keys import issued
from tests.cli.processes import Service, service
from tests.servers.postgres import server

SOON_S = 20
AT_ONCE_S = 5
"""Less than after what time who waits looks by himself."""
LIMIT, USED, ASKED = 1_000, 950, 200
MISSING = ASKED - (LIMIT - USED)


class Parties(NamedTuple):
    """``agent`` may spend for agent:x; ``boss`` decides, but not on what he has asked for himself."""

    boss: Treasury
    agent: Treasury


async def founded(boss: Treasury, **budget: Any) -> None:
    await boss.put_account("team:a", shortage=["ask"])
    await boss.put_account("agent:x", parent="team:a")
    await boss.put_budget("team:a", "tokens", LIMIT, budget="main", **budget)
    await boss.usage("agent:x", {"input_tokens": USED, "output_tokens": 0})


@pytest.fixture
async def parties(tmp_path) -> AsyncIterator[Parties]:
    options = ApiOptions(keys_required=True, key_pepper=PEPPER)
    async with ledger() as served, AsyncExitStack() as stack:
        await store_first_key(served, FIRST_SECRET, PEPPER)
        url = await stack.enter_async_context(serving(create_app(served, options)))
        boss = await stack.enter_async_context(fiscus.connect(url, FIRST_SECRET, spool_directory=tmp_path / "a"))
        await founded(boss)
        key = await issued(Api(served, options), role="account", account="agent:x")
        agent = await stack.enter_async_context(fiscus.connect(url, key["secret"], spool_directory=tmp_path / "b"))
        yield Parties(boss, agent)


def asking(treasury: Treasury, id: str = "x", wait_s: int = 60, tokens: int = ASKED) -> asyncio.Task[Any]:
    return asyncio.create_task(treasury.reserve("agent:x", tokens=tokens, wait_s=wait_s, id=id))


async def until(treasury: Treasury, kind: str, count: int = 1) -> list[Any]:
    """The first entries of a kind, once they are there."""
    found: list[Any] = []
    async with asyncio.timeout(SOON_S):
        async for entry in treasury.events():
            if entry.kind == kind:
                found.append(entry)
                if len(found) == count:
                    break
    return found


async def asked_for(boss: Treasury) -> str:
    """The id of the request, once its caller waits."""
    await until(boss, "queued")
    [entry] = await until(boss, "override_requested")
    assert entry.data["amount"] == MISSING
    return str(entry.data["id"])


# covers R8, R31
async def test_what_is_approved_lets_the_call_go_on(parties: Parties) -> None:
    call = asking(parties.agent)
    override = await asked_for(parties.boss)
    assert not call.done()
    granted = await parties.boss.approve_override(override, reason="for today")
    assert granted.amount == MISSING
    held = await asyncio.wait_for(call, SOON_S)
    assert (held.state, held.reserved["tokens"], held.steps) == ("held", ASKED, ("ask",))


async def test_less_than_was_asked_for_does_not_let_it_go_on(parties: Parties) -> None:
    call = asking(parties.agent)
    await parties.boss.approve_override(await asked_for(parties.boss), amount=MISSING - 1)
    with pytest.raises(BudgetExceeded) as refused:
        await asyncio.wait_for(call, SOON_S)
    assert refused.value.refused.steps == ("ask",)


async def test_what_is_denied_is_refused_at_once(parties: Parties) -> None:
    call = asking(parties.agent)
    await parties.boss.deny_override(await asked_for(parties.boss), reason="no")
    with pytest.raises(BudgetExceeded) as refused:
        await asyncio.wait_for(call, AT_ONCE_S)
    assert refused.value.refused.steps == ("ask",)
    assert (await parties.boss.balance("team:a"))[0].held == 0


async def test_what_nobody_decides_on_ends_with_the_waiting(parties: Parties) -> None:
    call = asking(parties.agent, wait_s=1)
    override = await asked_for(parties.boss)
    with pytest.raises((BudgetExceeded, BudgetBusy)):
        await asyncio.wait_for(call, SOON_S)
    await until(parties.boss, "override_expired")
    assert (await parties.boss.override(override)).state == "expired"
    assert (await parties.boss.balance("team:a"))[0].limit == LIMIT


async def test_whose_caller_has_gone_holds_nothing_and_his_request_stands(parties: Parties) -> None:
    call = asking(parties.agent)
    override = await asked_for(parties.boss)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(parties.boss, "ticket_ended")
    assert (await parties.boss.override(override)).state == "pending"
    await parties.boss.approve_override(override)
    assert (await parties.boss.balance("team:a"))[0].held == 0
    held = await asyncio.wait_for(asking(parties.agent), SOON_S)
    assert (held.state, held.reserved["tokens"]) == ("held", ASKED), "the same id again, now that there is room"
    assert len(await until(parties.boss, "override_requested")) == 1


async def test_nobody_is_asked_twice_for_one_call(parties: Parties) -> None:
    calls = [asking(parties.agent) for _ in range(3)]
    override = await asked_for(parties.boss)
    await parties.boss.approve_override(override)
    answers = await asyncio.wait_for(asyncio.gather(*calls), SOON_S)
    assert {(answer.id, answer.state) for answer in answers} == {("x", "held")}
    page = await parties.boss.read(ListEntries(kinds=("override_requested",)))
    assert isinstance(page, EntriesPage)
    assert [entry.data["id"] for entry in page.entries] == [override]


# covers R31
async def test_who_asks_does_not_decide_on_it_whatever_his_role(parties: Parties) -> None:
    call = asking(parties.boss)
    override = await asked_for(parties.boss)
    with pytest.raises(Forbidden):
        await parties.boss.approve_override(override)
    with pytest.raises(Unknown):
        await parties.agent.approve_override(override)  # it is above what this key sees
    assert not call.done()
    await parties.boss.revoke_override(override)  # but it may be withdrawn
    with pytest.raises(BudgetExceeded):
        await asyncio.wait_for(call, SOON_S)


async def test_beyond_the_policy_nobody_is_asked_and_nobody_waits(parties: Parties) -> None:
    await parties.boss.put_budget("team:a", "tokens", LIMIT, budget="main", override=OverridePolicy(max_percent=10))
    with pytest.raises((BudgetExceeded, BudgetBusy)) as refused:
        await asyncio.wait_for(asking(parties.agent), SOON_S)
    assert refused.value.refused.steps == ("ask",)
    page = await parties.boss.read(ListEntries(kinds=("override_requested", "queued")))
    assert isinstance(page, EntriesPage)
    assert page.entries == ()


async def test_in_process_who_is_cancelled_leaves_nothing_held(tmp_path) -> None:
    async with fiscus.open(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        await founded(treasury)
        call = asking(treasury)
        override = await asked_for(treasury)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(treasury, "ticket_ended")
        assert (await treasury.override(override)).state == "pending"
        assert (await treasury.balance("team:a"))[0].held == 0


# -- two nodes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(tmp_path) -> Iterator[list[Service]]:
    url = server("18").migrated_database()
    with ExitStack() as stack:
        started = []
        for name, settings in (("a", {"FISCUS_BOOTSTRAP_KEY": FIRST_SECRET}), ("b", {})):
            folder = tmp_path / name
            folder.mkdir()
            started.append(stack.enter_context(service(folder, DATABASE_URL=url, **settings)))
        yield started


@asynccontextmanager
async def at_both(nodes: list[Service], tmp_path: Any) -> AsyncIterator[Parties]:
    """The agent asks at one node, and the boss decides at the other."""
    a, b = nodes
    async with (
        fiscus.connect(b.url, FIRST_SECRET, spool_directory=tmp_path / "boss") as boss,
        fiscus.connect(a.url, FIRST_SECRET, spool_directory=tmp_path / "founder") as founder,
    ):
        await founded(founder)
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {FIRST_SECRET}"}) as session,
            session.post(f"{a.url}/v1/keys", json={"role": "account", "account": "agent:x"}) as answer,
        ):
            secret = (await answer.json())["secret"]
        async with fiscus.connect(a.url, secret, spool_directory=tmp_path / "agent") as agent:
            yield Parties(boss, agent)


@pytest.mark.parametrize("decision", ["approve", "deny"])
async def test_what_is_decided_at_one_node_ends_the_waiting_at_the_other(nodes, tmp_path, decision) -> None:
    async with at_both(nodes, tmp_path) as parties:
        call = asking(parties.agent)
        override = await asked_for(parties.boss)
        if decision == "approve":
            await parties.boss.approve_override(override)
            assert (await asyncio.wait_for(call, SOON_S)).steps == ("ask",)
        else:
            await parties.boss.deny_override(override)
            with pytest.raises(BudgetExceeded):
                await asyncio.wait_for(call, SOON_S)
