"""Contradictory policies, floods, cycles, approvals that are over, values that are none: in process and of a service.

Each is a clear error or a clear state, and nothing is lost or blocked by it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import aiohttp
import pytest

from fiscus.api import ApiOptions, create_app, store_first_key
from fiscus.contract import CallRecord, OverridePolicy, TemplateBudget
from fiscus.contract.errors import BudgetExceeded, Conflict, FiscusError, Forbidden, Invalid, Refusal
from fiscus.core.commands import PutAccount, Request
from fiscus.sdk import Treasury
from tests.api.service import FIRST_SECRET, PEPPER, ledger, serving

AT_ONCE = OverridePolicy(requires_approval=False)


@pytest.fixture
async def books(treasury: Treasury) -> Treasury:
    await treasury.put_account("team:a")
    await treasury.put_account("agent:x", parent="team:a")
    return treasury


async def is_well(treasury: Treasury) -> None:
    """Calls go on."""
    assert (await treasury.readiness()).ready
    held = await treasury.reserve("agent:x", tokens=1, cost_nanousd=1)
    await treasury.release(held.id)


# -- overlapping matches ---------------------------------------------------------------------------------------------


async def test_budgets_whose_matches_overlap_all_hold_and_are_all_charged(books: Treasury) -> None:
    for name, limit, match in (
        ("all", 100, {}),
        ("model", 50, {"model": "m"}),
        ("twice", 40, {"model": "m"}),
        ("both", 30, {"model": "m", "feature": "f"}),
        ("never", 0, {"model": "other"}),
    ):
        await books.put_budget("team:a", "tokens", limit, budget=name, match=match)
    with pytest.raises(BudgetExceeded) as refused:
        await books.reserve("agent:x", tokens=31, model="m", feature="f")
    binding = refused.value.refused.binding
    assert binding is not None
    assert binding.budget == "both"
    held = await books.reserve("agent:x", tokens=30, model="m", feature="f")
    assert {one.budget: one.held for one in await books.balance("team:a")} == {
        "all": 30,
        "model": 30,
        "twice": 30,
        "both": 30,
        "never": 0,
    }
    await books.settle(held.id, {"input_tokens": 30, "output_tokens": 0})
    assert {one.budget: one.spent for one in await books.balance("team:a")} == {
        "all": 30,
        "model": 30,
        "twice": 30,
        "both": 30,
        "never": 0,
    }


# -- contradictory policies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"carry_over": "all"}, "carry_over"),
        ({"carry_over": "unused", "carry_max": -1}, "carry_max"),
        ({"thresholds": {0: "info"}}, "thresholds"),
        ({"thresholds": {50: "panic"}}, "thresholds"),
        ({"mode": "pretend"}, "mode"),
        ({"on_exhaustion": "explode"}, "on_exhaustion"),
        ({"period": "fortnight"}, "period"),
        ({"zone": "Mars/Olympus"}, "zone"),
        ({"override": OverridePolicy(max_percent=-1)}, "override.max_percent"),
        ({"override": OverridePolicy(max_duration_s=0)}, "override.max_duration_s"),
    ],
)
async def test_a_policy_that_contradicts_itself_is_refused_by_name(books: Treasury, policy, field) -> None:
    with pytest.raises(Invalid) as refused:
        await books.put_budget("team:a", "tokens", 100, **policy)
    assert refused.value.refused.field is not None
    assert refused.value.refused.field.startswith(field.partition(".")[0]), refused.value.refused
    assert (await books.account("team:a")).budgets == ()
    await is_well(books)


async def test_a_policy_by_which_nobody_may_approve_grants_nothing_and_says_so(books: Treasury) -> None:
    nobody = OverridePolicy(approvers=())
    await books.put_budget("team:a", "tokens", 100, budget="main", override=nobody)
    asked = await books.request_override("team:a", "main", 50, reason="a long day")
    for decide in (books.approve_override, books.deny_override):
        with pytest.raises(Forbidden):
            await decide(asked.id)
    assert (await books.revoke_override(asked.id)).state == "withdrawn"
    await books.put_budget("team:a", "tokens", 100, budget="main", override=OverridePolicy(max_percent=0))
    with pytest.raises(Refusal) as refused:
        await books.request_override("team:a", "main", 1, reason="a long day")
    assert refused.value.code == "beyond_policy"
    await is_well(books)


async def test_a_bound_on_what_is_carried_means_nothing_where_nothing_is_carried(books: Treasury) -> None:
    made = await books.put_budget("team:a", "tokens", 100, period="every:1", carry_max=50, budget="main")
    assert (made.budget.carry_over, made.budget.limit) == ("none", 100)
    await asyncio.sleep(1.1)
    assert (await books.balance("team:a"))[0].limit == 100


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"shortage": ["clamp", "clamp"]}, "shortage"),
        ({"shortage": ["deny", "clamp"]}, "shortage"),
        ({"shortage": ["pray"]}, "shortage"),
        ({"grant_strategy": "fair"}, "grant_strategy"),
        ({"confidence_threshold": math.nan}, "confidence_threshold"),
        ({"confidence_threshold": 1e308}, "confidence_threshold"),
        ({"confidence_threshold": -0.1}, "confidence_threshold"),
        ({"gate_s": 60}, "gate_s"),
        ({"confidence_threshold": 0.5, "gate_s": 0}, "gate_s"),
        ({"priority": 0}, "priority"),
        ({"min_reserve": {"tokens": -1}}, "min_reserve"),
    ],
)
async def test_an_account_that_contradicts_itself_is_refused_by_name(books: Treasury, fields, field) -> None:
    with pytest.raises(Invalid) as refused:
        await books.put_account("agent:x", **fields)
    assert refused.value.refused.field is not None
    assert refused.value.refused.field.startswith(field)
    await is_well(books)


# -- templates -------------------------------------------------------------------------------------------------------


async def test_a_template_that_makes_a_cycle_is_refused_by_name(books: Treasury) -> None:
    await books.put_account("thread:root")
    with pytest.raises(Invalid) as refused:
        await books.put_template("thread:*", parent="thread:root")
    assert refused.value.refused.field == "parent"
    with pytest.raises(Refusal):
        await books.put_template("agent:*", parent="agent:x")
    await is_well(books)


async def test_a_template_that_floods_accounts_is_held_back_and_nobody_else_is(books: Treasury) -> None:
    for parent in ("team:flood", "team:crowd"):
        await books.put_account(parent)
    await books.put_template("flood:*", parent="team:flood", max_new_per_minute=3, max_children=100)
    await books.put_template("crowd:*", parent="team:crowd", max_new_per_minute=100, max_children=3)
    for name in ("flood", "crowd"):
        outcomes = await asyncio.gather(
            *(books.reserve(f"{name}:{number}", tokens=1) for number in range(10)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, BaseException)]
        assert len(refused) == 7
        assert {getattr(one, "code", repr(one)) for one in refused} == {"too_many_accounts"}
        await books.reserve(f"{name}:{next(i for i, one in enumerate(outcomes) if one not in refused)}", tokens=1)
    await is_well(books)


async def test_a_template_with_two_budgets_of_one_name_is_refused_by_name(books: Treasury) -> None:
    budgets = [TemplateBudget(unit="tokens", limit=1), TemplateBudget(unit="tokens", limit=2)]
    with pytest.raises(Invalid) as refused:
        await books.put_template("thread:*", budgets=budgets)
    assert refused.value.refused.field == "budgets"


async def test_a_strategy_of_grants_is_put_left_alone_and_taken_back(books: Treasury) -> None:
    with pytest.raises(Invalid) as refused:
        await books.put_template("agent:*", grant_strategy="fair")
    assert (refused.value.refused.field or "").startswith("grant_strategy")
    await books.put_template("agent:*", grant_strategy="classic")
    await books.put_account("team:a", grant_strategy="proven")
    assert (await books.put_account("agent:x")).grant_strategy_effective == "classic"
    await books.remove_template("agent:*")
    assert (await books.put_account("agent:x")).grant_strategy_effective == "proven"
    assert (await books.put_account("agent:x", grant_strategy="classic")).grant_strategy_from == "account"
    assert (await books.put_account("agent:x", priority=2)).grant_strategy == "classic"
    taken = await books.put_account("agent:x", grant_strategy=None)
    assert (taken.grant_strategy, taken.grant_strategy_from) == (None, "above")
    await is_well(books)


# -- approvals -------------------------------------------------------------------------------------------------------


async def test_an_approval_that_is_over_or_used_already_grants_nothing(books: Treasury) -> None:
    await books.put_budget("team:a", "tokens", 100, budget="main", override=AT_ONCE)
    granted = await books.request_override("team:a", "main", 50, reason="a long day", valid_s=1, id="o")
    again = await books.request_override("team:a", "main", 50, reason="a long day", valid_s=1, id="o")
    assert (granted.state, again.balance.limit) == ("approved", 150)
    with pytest.raises(Conflict):
        await books.request_override("team:a", "main", 51, reason="a long day", valid_s=1, id="o")
    for decide in (books.approve_override, books.deny_override):
        with pytest.raises(FiscusError):
            await decide("o")
    async with asyncio.timeout(20):
        while (await books.override("o")).state != "ended":
            await asyncio.sleep(0.05)
    with pytest.raises(BudgetExceeded):
        await books.reserve("agent:x", tokens=101)
    assert (await books.request_override("team:a", "main", 50, reason="a long day", valid_s=1, id="o")).state == "ended"
    with pytest.raises(FiscusError):
        await books.approve_override("o")
    assert (await books.balance("team:a"))[0].limit == 100


# -- values that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (CallRecord(value=math.nan), "record.value"),
        (CallRecord(value=math.inf), "record.value"),
        (CallRecord(value=1.0, confidence=math.nan), "record.confidence"),
        (CallRecord(confidence=1.5), "record.confidence"),
        (CallRecord(confidence=1e308), "record.confidence"),
    ],
)
async def test_a_value_that_is_none_is_refused_by_name_and_the_call_can_be_settled_without(
    books: Treasury, record, field
) -> None:
    held = await books.reserve("agent:x", tokens=10)
    with pytest.raises(Invalid) as refused:
        await books.settle(held.id, {"input_tokens": 5, "output_tokens": 0}, record=record)
    assert refused.value.refused.field == field
    settled = await books.settle(held.id, {"input_tokens": 5, "output_tokens": 0})
    assert settled is not None
    assert settled.booked["tokens"] == 5


async def test_a_value_of_1e308_is_kept_and_sums_of_it_stay_finite(books: Treasury) -> None:
    for _ in range(3):
        await books.usage("agent:x", {"input_tokens": 5, "output_tokens": 0}, record=CallRecord(value=1e308))
    totals = (await books.aggregate_usage(min_seq=(await books.readiness()).head_seq)).totals
    assert totals.calls == 3
    await books.report("optimization")
    await books.recommendations()
    await is_well(books)


# -- the same in the wire's own words --------------------------------------------------------------------------------


@pytest.fixture
async def keyed_url() -> AsyncIterator[str]:
    """A service with keys and an account."""
    options = ApiOptions(keys_required=True, key_pepper=PEPPER)
    async with ledger() as served:
        await store_first_key(served, FIRST_SECRET, PEPPER)
        await served.execute(Request(command=PutAccount(account="agent:x")))
        async with serving(create_app(served, options)) as url:
            yield url


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e400", '"1"', "[1]"])
async def test_over_http_a_value_that_is_none_is_a_422_with_its_field(keyed_url: str, text: str) -> None:
    body = f'{{"id":"u","account":"agent:x","total":{{"tokens":1}},"record":{{"value":{text}}}}}'
    headers = {"Authorization": f"Bearer {FIRST_SECRET}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{keyed_url}/v1/usage", data=body.encode()) as answer,
    ):
        told = await answer.json(content_type=None)
    assert (answer.status, told["field"]) == (422, "record.value"), told
