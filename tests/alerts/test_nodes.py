"""Alerts on two nodes of one PostgreSQL database: each is made once, and each delivery is sent by one of them."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

import pytest

from fiscus.client import RemoteTreasury
from fiscus.core.commands import PutBudget
from tests.alerts.rig import do, receiver
from tests.alerts.test_service import begin, serving, spend, until
from tests.servers.postgres import server


@pytest.mark.slow
async def test_two_nodes_deliver_each_alert_once_and_one_goes_on_when_the_other_is_killed(tmp_path):
    url = server("18").migrated_database()
    async with receiver() as hook, AsyncExitStack() as stack:
        nodes = []
        for name in "ab":
            folder = tmp_path / name
            folder.mkdir()
            nodes.append(stack.enter_context(serving(folder, hook, DATABASE_URL=url)))
        treasury = RemoteTreasury(nodes[0].url)
        await begin(treasury, *nodes)
        for index in range(10):
            budget = PutBudget(account="agent:x", budget=f"b{index}", unit="tokens", limit=100)
            await do(treasury, budget)
        await spend(treasury, 80, "one")
        await until(lambda: len(hook.taken) == 10)
        nodes[0].stop(signal.SIGKILL)
        await treasury.close()
        other = RemoteTreasury(nodes[1].url)
        await spend(other, 12, "two")
        async with asyncio.timeout(40):
            while len(hook.taken) < 20:
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        await other.close()
    assert len(hook.requests) == 20
    assert len(set(hook.ids)) == 20
    assert sorted(body["data"]["facts"]["percent"] for body in hook.bodies) == [75] * 10 + [90] * 10
