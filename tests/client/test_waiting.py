"""Reserves that wait, asked of a service: longer than an attempt may take, through lost answers and connections."""

from __future__ import annotations

import asyncio
from typing import Any

from fiscus.api import ApiOptions, create_app
from fiscus.client import RemoteTreasury
from fiscus.contract import HoldAnswer, Refused, Release, Request, Reserve
from fiscus.contract.queries import ReadHold
from tests.api.service import ledger, serving
from tests.client.conftest import QUICKLY
from tests.client.test_remote import journal, requests_for, tree

SOON_S = 10


def reserve(id: str, tokens: int, wait_s: int = 0) -> Request:
    return Request(command=Reserve(id=id, account="agent:x", amounts={"tokens": tokens}, wait_s=wait_s))


async def until(treasury: Any, id: str, *states: str) -> None:
    async with asyncio.timeout(SOON_S):
        while True:
            view = await treasury.read(ReadHold(id=id))
            if not isinstance(view, Refused) and view.hold.state in states:
                return
            await asyncio.sleep(0.005)


async def test_it_is_answered_when_room_comes(local, remote) -> None:
    await tree(local, 100)
    await local.execute(reserve("first", 100))
    asked = asyncio.create_task(remote.execute(reserve("x", 40, 60)))
    await until(local, "x", "waiting")
    await local.execute(Request(command=Release(id="first")))
    answer = await asyncio.wait_for(asked, SOON_S)
    assert isinstance(answer, HoldAnswer)
    assert (answer.state, answer.reserved["tokens"]) == ("held", 40)


async def test_it_is_refused_at_its_end(local, remote) -> None:
    await tree(local, 100)
    await local.execute(reserve("first", 100))
    refused = await asyncio.wait_for(remote.execute(reserve("x", 40, 1)), SOON_S)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.requested) == ("budget_busy", 40)


async def test_longer_than_a_request_may_take_it_keeps_its_place() -> None:
    """The service answers every 0.15 s that it waits; the client asks again, and is second all the time."""
    async with ledger() as local, serving(create_app(local, ApiOptions(request_timeout_s=0.2))) as url:
        remote = RemoteTreasury(url, timeout_s=5, attempt_s_max=2, backoff=QUICKLY)
        await tree(local, 100)
        await local.execute(reserve("first", 100))
        first = asyncio.create_task(remote.execute(reserve("x", 60, 60)))
        await until(local, "x", "waiting")
        second = asyncio.create_task(remote.execute(reserve("y", 50, 60)))
        await until(local, "y", "waiting")
        await asyncio.sleep(0.5)
        await local.execute(Request(command=Release(id="first")))
        assert (await asyncio.wait_for(first, SOON_S)).state == "held"
        assert not second.done()
        await local.execute(Request(command=Release(id="x")))
        assert (await asyncio.wait_for(second, SOON_S)).state == "held"
        assert (await journal(local)).count("queued") == 2
        await remote.close()


async def test_a_lost_answer_is_asked_for_again_and_held_once(local, remote, proxy) -> None:
    await tree(local, 100)
    await local.execute(reserve("first", 100))
    proxy.drop_replies = 1
    asked = asyncio.create_task(remote.execute(reserve("x", 40, 60)))
    await until(local, "x", "waiting")
    await local.execute(Request(command=Release(id="first")))
    answer = await asyncio.wait_for(asked, SOON_S)
    assert answer.state == "held"
    assert (await journal(local)).count("held") == 2


async def test_a_broken_connection_is_waited_on_with_the_same_id(local, remote, proxy) -> None:
    await tree(local, 100)
    await local.execute(reserve("first", 100))
    asked = asyncio.create_task(remote.execute(reserve("x", 40, 60)))
    await until(local, "x", "waiting")
    proxy.cut()
    await asyncio.sleep(0.2)
    await until(local, "x", "waiting")
    await local.execute(Request(command=Release(id="first")))
    answer = await asyncio.wait_for(asked, SOON_S)
    assert answer.state == "held"


async def test_a_cancelled_call_waits_no_longer(local, remote) -> None:
    await tree(local, 100)
    await local.execute(reserve("first", 100))
    asked = asyncio.create_task(remote.execute(reserve("x", 40, 60)))
    await until(local, "x", "waiting")
    asked.cancel()
    await until(local, "x", "refused")


async def test_among_many_each_waits_by_itself(local, remote) -> None:
    await tree(local, 100)
    await local.execute(reserve("first", 100))
    outcomes = await asyncio.wait_for(
        remote.execute_many([reserve("x", 40, 60), *requests_for(Release(id="first")), reserve("y", 70, 1)]), SOON_S
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["HoldAnswer", "HoldAnswer", "Refused"]
