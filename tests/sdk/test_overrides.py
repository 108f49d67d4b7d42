"""Overrides and gates in the SDK: the same in process and remote, with and without await."""

from __future__ import annotations

import asyncio

import pytest

import fiscus
from fiscus.api import ApiOptions, create_app, store_first_key
from fiscus.contract import CallRecord, OverridePolicy
from fiscus.contract.errors import BudgetExceeded, Conflict, Forbidden, Gated, Unknown
from fiscus.sdk import Treasury
from tests.api.service import FIRST_SECRET, PEPPER, Api, ledger, serving
from tests.api.test_keys import issued

AT_ONCE = OverridePolicy(requires_approval=False)


@pytest.fixture
async def books(treasury: Treasury) -> Treasury:
    await treasury.put_account("team:a")
    await treasury.put_account("agent:x", parent="team:a")
    await treasury.put_budget("team:a", "tokens", 1_000, budget="main")
    return treasury


async def listed(treasury: Treasury, **filters) -> list[str]:
    head = (await treasury.readiness()).head_seq
    while (await treasury.readiness()).followers_seq < head:
        pass
    return [override.id async for override in treasury.overrides(**filters)]


# covers R8, R31
async def test_an_override_that_is_granted_at_once_lets_the_call_go_on(books):
    await books.put_budget("team:a", "tokens", 1_000, budget="main", override=AT_ONCE)
    with pytest.raises(BudgetExceeded):
        await books.reserve("agent:x", tokens=1_200)
    granted = await books.request_override("team:a", "main", 300, reason="a long day", valid_s=600, id="o")
    assert (granted.state, granted.amount, granted.balance.limit) == ("approved", 300, 1_300)
    await books.reserve("agent:x", tokens=1_200)
    with pytest.raises(Conflict) as beyond:
        await books.request_override("team:a", "main", 300, reason="more")
    assert beyond.value.code == "beyond_policy"
    assert (await books.override("o")).reason == "a long day"
    assert (await books.revoke_override("o", reason="enough")).state == "revoked"
    with pytest.raises(Unknown):
        await books.override("nobody's")


# covers R31
async def test_without_keys_a_request_waits_and_can_only_be_withdrawn(books):
    asked = await books.request_override("team:a", "main", 300, reason="a long day", open_s=60)
    assert asked.state == "pending"
    for decide in (books.approve_override, books.deny_override):
        with pytest.raises(Forbidden):
            await decide(asked.id)
    assert await listed(books, state="pending", account="team:a") == [asked.id]
    assert (await books.revoke_override(asked.id)).state == "withdrawn"
    assert await listed(books, state="pending") == []
    assert await listed(books) == [asked.id]


# covers R8, R31
async def test_one_key_asks_and_another_decides(tmp_path):
    options = ApiOptions(keys_required=True, key_pepper=PEPPER)
    async with ledger() as served:
        await store_first_key(served, FIRST_SECRET, PEPPER)
        key = await issued(Api(served, options), role="operator")
        async with (
            serving(create_app(served, options)) as url,
            fiscus.connect(url, FIRST_SECRET, spool_directory=tmp_path / "a") as boss,
            fiscus.connect(url, key["secret"], spool_directory=tmp_path / "b") as asker,
        ):
            await boss.put_account("team:a")
            await boss.put_budget("team:a", "tokens", 1_000, budget="main")
            asked = await asker.request_override("team:a", "main", 300, reason="a long day")
            with pytest.raises(Forbidden):
                await asker.approve_override(asked.id)
            granted = await boss.approve_override(asked.id, amount=200, reason="for today")
            assert (granted.amount, granted.requested_by, granted.decided_by) == (200, key["id"], "first")
            assert (await asker.override(asked.id)).decision == "for today"
            with pytest.raises(Conflict):
                await boss.deny_override(asked.id)


# covers T15
async def test_a_gate_raises_an_exception_of_its_own_until_it_is_reset(books):
    answer = await books.put_account("agent:x", confidence_threshold=0.9, gate_s=600)
    assert (answer.confidence_threshold, answer.gate_s) == (0.9, 600)
    task = {"task": "review"}
    async with books.hold("agent:x", tokens=10, attributes=task) as hold:
        hold.settle({"input_tokens": 1, "output_tokens": 1}, record=CallRecord(confidence=0.93))
    with pytest.raises(Gated) as gated:
        async with books.hold("agent:x", tokens=10, attributes=task):
            pytest.fail("the gate is closed")
    assert not isinstance(gated.value, BudgetExceeded)
    assert (gated.value.code, gated.value.retryable) == ("gated", False)
    assert gated.value.refused.resets_at is not None
    assert [gate.task for gate in (await books.account("agent:x")).gates] == ["review"]
    await books.reserve("agent:x", tokens=10)
    assert (await books.reset_gate("agent:x", "review")).gates == ()
    await books.reserve("agent:x", tokens=10, attributes=task)
    assert (await books.put_account("agent:x", confidence_threshold=None)).confidence_threshold is None
    assert (await books.put_account("agent:x", priority=3)).priority == 3


def test_the_face_without_await_has_them_too(tmp_path):
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        treasury.put_account("agent:x", confidence_threshold=0.5)
        treasury.put_budget("agent:x", "tokens", 100, budget="main", override=AT_ONCE)
        assert treasury.request_override("agent:x", "main", 50, reason="a long day", id="o").state == "approved"
        treasury.reserve("agent:x", tokens=150, id="h")
        treasury.settle("h", {"input_tokens": 1, "output_tokens": 1}, record=CallRecord(confidence=0.5))
        with pytest.raises(Gated):
            treasury.reserve("agent:x", tokens=1)
        treasury.reset_gate("agent:x")
        treasury.reserve("agent:x", tokens=1)
        assert treasury.override("o").amount == 50
        assert treasury.revoke_override("o").state == "revoked"


# covers R8, R31
async def test_a_hold_waits_for_the_decision_of_another_key_and_is_entered(tmp_path):
    options = ApiOptions(keys_required=True, key_pepper=PEPPER)
    async with ledger() as served:
        await store_first_key(served, FIRST_SECRET, PEPPER)
        key = await issued(Api(served, options), role="operator")
        async with (
            serving(create_app(served, options)) as url,
            fiscus.connect(url, FIRST_SECRET, spool_directory=tmp_path / "a") as boss,
            fiscus.connect(url, key["secret"], spool_directory=tmp_path / "b") as agent,
        ):
            await boss.put_account("team:a")
            await boss.put_budget("team:a", "tokens", 1_000, budget="main")
            await agent.usage("team:a", {"input_tokens": 900, "output_tokens": 50})
            with pytest.raises(BudgetExceeded):
                await agent.reserve("team:a", tokens=200, wait_s=30)
            asked = await agent.request_override("team:a", "main", 300, reason="a long day")

            async def decide() -> None:
                async for entry in boss.events():
                    if entry.kind == "queued":
                        await boss.approve_override(asked.id)
                        return

            deciding = asyncio.create_task(decide())
            async with agent.hold("team:a", tokens=200, wait_s=30) as hold:
                assert (await agent.override(asked.id)).state == "approved"
                hold.settle({"input_tokens": 150, "output_tokens": 40})
            await deciding
            (balance,) = await boss.balance("team:a")
            assert (balance.limit, balance.spent) == (1_300, 1_140)
