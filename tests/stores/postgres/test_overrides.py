"""Overrides over several nodes: asked for at one, decided at another, and the call that waits at the first goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fiscus.contract.queries import ListOverrides, OverridesPage, OverrideView, ReadHold, ReadOverride
from fiscus.core.commands import (
    ApproveOverride,
    PutAccount,
    PutBudget,
    PutKey,
    Request,
    RequestOverride,
    Reserve,
    RevokeOverride,
    Settle,
)
from fiscus.core.outcomes import HoldAnswer, OverrideAnswer, Refused
from fiscus.core.records import CallRecord
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.verify import verify

SOON_S = 10


async def do(node: LocalTreasury, command: Any, actor: str = "") -> Any:
    return await node.execute(Request(command=command, actor=actor))


@pytest.fixture
async def nodes(open_node):
    """Two nodes of one ledger: a budget of 100 tokens, 90 of which are spent, and two keys."""
    made = [LocalTreasury(Engine(open_node())) for _ in range(2)]
    for command in (
        PutAccount(account="root"),
        PutAccount(account="a", parent="root", confidence_threshold=0.9),
        PutBudget(account="root", unit="tokens", limit=100),
        PutKey(key="boss", digest="b", role="admin"),
        PutKey(key="asker", digest="a", role="operator"),
        Settle(id="u", account="a", total={"tokens": 90}),
    ):
        assert not isinstance(await do(made[0], command), Refused)
    yield made
    for node in made:
        await node.close()


def ask(id: str = "o", amount: int = 50) -> RequestOverride:
    return RequestOverride(id=id, account="root", budget="tokens-lifetime", amount=amount, reason="a long day")


# covers R8, R31, E12
async def test_what_is_asked_at_one_node_is_decided_at_another_and_the_call_goes_on(nodes, open_node):
    here, there = nodes
    assert isinstance(await do(here, ask(), "asker"), OverrideAnswer)
    call = Reserve(id="h", account="a", amounts={"tokens": 40}, wait_s=60)
    waiting = asyncio.create_task(do(here, call))
    async with asyncio.timeout(SOON_S):
        while isinstance(await there.read(ReadHold(id="h")), Refused):
            await asyncio.sleep(0.005)
        own = await do(there, ApproveOverride(id="o"), "asker")
        assert isinstance(own, Refused)
        assert own.code == "forbidden"
        granted = await do(there, ApproveOverride(id="o", amount=40), "boss")
        assert granted.amount == 40
        held = await waiting
    assert isinstance(held, HoldAnswer)
    assert held.state == "held"
    again = await do(here, ApproveOverride(id="o"), "boss")
    assert isinstance(again, Refused)
    assert again.code == "conflict"
    seen = await here.read(ReadOverride(id="o"))
    assert isinstance(seen, OverrideView)
    assert (seen.override.state, seen.override.decided_by, seen.override.balance.limit) == ("approved", "boss", 140)
    page = await there.read(ListOverrides(account="root", min_seq=seen.as_of_seq))
    assert isinstance(page, OverridesPage)
    assert [one.id for one in page.overrides] == ["o"]
    assert verify(open_node()).faults == ()


async def test_of_decisions_at_once_at_both_nodes_one_counts(nodes):
    for number in range(6):
        await do(nodes[0], ask(f"o{number}", 30), "asker")
    outcomes = await asyncio.gather(
        *(do(node, ApproveOverride(id=f"o{number}"), "boss") for number in range(6) for node in nodes)
    )
    granted = [outcome for outcome in outcomes if isinstance(outcome, OverrideAnswer)]
    assert len(granted) == 1, "a second one would pass half of the limit"
    codes = {outcome.code for outcome in outcomes if isinstance(outcome, Refused)}
    assert codes == {"conflict", "beyond_policy"}
    revoked = await do(nodes[1], RevokeOverride(id=granted[0].id), "boss")
    assert (revoked.state, revoked.balance.limit) == ("revoked", 100)


# covers T12
async def test_a_gate_that_closes_at_one_node_is_closed_at_all(nodes):
    here, there = nodes
    sure = Settle(id="s", account="a", total={"tokens": 1}, record=CallRecord(confidence=0.9), attributes={"task": "t"})
    assert not isinstance(await do(here, sure), Refused)
    call = Reserve(id="h", account="a", amounts={"tokens": 1}, attributes={"task": "t"})
    for node in nodes:
        refused = await do(node, call)
        assert isinstance(refused, Refused)
        assert refused.code == "gated"
    assert not isinstance(await do(there, Reserve(id="h", account="a", amounts={"tokens": 1})), Refused)
