"""The token economy API as other programs call it, over HTTP, on the real service and ledger."""

import asyncio
import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from fiscus.api.economy import TokenEconomy
from fiscus.api.economy import service as service_module
from fiscus.api.economy.bodies import AllocateBody, Allocated, ConsumeBody, Consumed, PauseBody
from fiscus.api.economy.rehearsal import Rehearsal
from fiscus.api.keys import LOCAL, digest_of, make_key_id, make_secret
from fiscus.contract.errors import StoreUnavailable
from fiscus.contract.queries import ListEntries
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Compound,
    PutAccount,
    PutBudget,
    PutKey,
    PutTemplate,
    RemoveBudget,
    Request,
    SetStatus,
)
from fiscus.core.outcomes import AccountAnswer, AdjustmentAnswer, BudgetAnswer, CompoundAnswer, KeyAnswer, Refused
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.api.economy_service import PEPPER, Economy, serve


@pytest.fixture
async def economy() -> AsyncIterator[Economy]:
    async with serve() as running:
        yield running


async def earn(economy: Economy, agent_id: str, efficiency: float) -> None:
    """Give an agent a history of exactly this efficiency."""
    await economy.allocate(agent_id, 100)
    status, _ = await economy.consume(agent_id, 100, 100 * efficiency)
    assert status == 200


# -- the worked example and the formula ----------------------------------------------------------------------------


async def test_the_worked_example():
    # covers D32a, D23, D24, D26, D28
    async with serve(pool_tokens=100_100) as economy:
        await earn(economy, "agent_001", 0.35)
        assert await economy.allocate("agent_001", 1000) == (
            200,
            {
                "agent_id": "agent_001",
                "allocated_tokens": 850,
                "efficiency_multiplier": 0.85,
                "remaining_global_budget": 99_150,
                "warning": "Reduced allocation due to constraints. Requested: 1000.0, Allocated: 850",
            },
        )
    async with serve(pool_tokens=100_000) as economy:
        await economy.allocate("agent_001", 850)
        assert await economy.consume("agent_001", 100, 5) == (
            200,
            {"agent_id": "agent_001", "consumed": 100, "remaining": 750, "efficiency": 0.05, "warning": None},
        )
        for number in range(24):
            await economy.allocate(f"other_{number}", 1000)
        await economy.allocate("last", 150)
        status = await economy.status()
        assert (status["remaining_budget"], status["budget_utilization_percent"]) == (75_000, 25.0)


async def test_a_new_agent_gets_exactly_its_base_and_no_warning(economy):
    # covers D5, D11, D21, D23
    status, body = await economy.allocate("new", 1000)
    assert status == 200
    assert (body["allocated_tokens"], body["efficiency_multiplier"], body["warning"]) == (1000, 1.0, None)


async def test_more_than_a_thousand_is_reduced_to_the_base(economy):
    # covers D5, D24
    _, body = await economy.allocate("greedy", 5000)
    assert body["allocated_tokens"] == 1000
    assert body["warning"] == "Reduced allocation due to constraints. Requested: 5000.0, Allocated: 1000"


async def test_who_makes_more_of_its_tokens_gets_more_next_time(economy):
    # covers D6, D8, D9, D11
    await earn(economy, "good", 0.9)
    await earn(economy, "poor", 0.1)
    assert (await economy.allocate("good", 1000))[1]["allocated_tokens"] == 1400
    assert (await economy.allocate("poor", 1000))[1]["allocated_tokens"] == 600


async def test_a_child_is_given_by_its_parents_efficiency(economy):
    # covers D18
    await earn(economy, "parent", 0.9)
    _, body = await economy.allocate("child", 1000, parent_agent_id="parent")
    assert (body["allocated_tokens"], body["efficiency_multiplier"]) == (1400, 1.4)
    _, body = await economy.allocate("orphan", 1000, parent_agent_id="nobody")
    assert body["efficiency_multiplier"] == 1.0


async def test_fractions_are_rounded_so_that_no_budget_grows(economy):
    # covers D22, D25
    _, body = await economy.allocate("a", 100.9)
    assert body["allocated_tokens"] == 100
    _, body = await economy.consume("a", 0.1)
    assert (body["consumed"], body["remaining"]) == (1, 99)


async def test_the_pool_bounds_what_is_handed_out():
    # covers D7, D24, D33
    async with serve(pool_tokens=1200) as economy:
        await economy.allocate("first", 1000)
        _, body = await economy.allocate("second", 1000)
        assert (body["allocated_tokens"], body["remaining_global_budget"]) == (200, 0)
        assert await economy.allocate("third", 100) == (
            403,
            {"detail": "Global token budget exhausted. No new allocations possible."},
        )
        # The pool is empty, and that is nobody's fault: nobody is terminated.
        assert (await economy.consume("first", 100))[0] == 200


async def test_an_agent_that_cannot_get_a_tenth_is_terminated():
    # covers D12, D34, D35
    async with serve(pool_tokens=1050) as economy:
        await economy.allocate("first", 1000)
        assert await economy.allocate("second", 1000) == (
            403,
            {"detail": "Cannot allocate sufficient tokens. Available: 50, Minimum needed: 100"},
        )
        assert (await economy.account("agent:second")).status == "terminated"
        assert await economy.allocate("second", 10) == (
            403,
            {"detail": "Agent second terminated: Token budget exhausted"},
        )


# -- consuming -----------------------------------------------------------------------------------------------------


async def test_consumed_is_the_running_total_and_value_accumulates(economy):
    # covers D13, D15, D26
    await economy.allocate("a", 1000)
    await economy.consume("a", 100, 5)
    _, body = await economy.consume("a", 300, 15)
    assert body == {"agent_id": "a", "consumed": 400, "remaining": 600, "efficiency": 0.05, "warning": None}


async def test_little_left_is_warned_of(economy):
    # covers D16, D27
    await economy.allocate("a", 1000)
    _, body = await economy.consume("a", 800)
    assert body["warning"] is None
    _, body = await economy.consume("a", 1)
    assert body["warning"] == "Low token budget: 199 tokens remaining (19.9%)"


async def test_the_next_positive_request_after_exact_use_terminates(economy):
    # covers D1, D3, D4, D13
    await economy.allocate("a", 1000)
    assert (await economy.consume("a", 1000))[0] == 200
    status, body = await economy.consume("a", 0, 3)
    assert (status, body["remaining"]) == (200, 0)
    assert await economy.consume("a", 1) == (403, {"detail": "Agent a terminated: Token budget exhausted"})
    assert (await economy.account("agent:a")).status == "terminated"


async def test_an_agent_without_a_grant_is_not_found(economy):
    # covers D30, D36
    assert await economy.consume("nobody", 1) == (404, {"detail": "No active allocation found for agent nobody"})
    assert await economy.agent("nobody") == (404, {"detail": "No active allocation for agent nobody"})


async def test_termination_leaves_nothing_active(economy):
    # covers D3, D14, D35
    await economy.allocate("a", 1000)
    await economy.consume("a", 1500)
    assert await economy.agent("a") == (404, {"detail": "No active allocation for agent a"})
    status = await economy.status()
    assert (status["active_agents"], status["allocated_total"], status["consumed_total"]) == (0, 0, 0)
    entries = [entry async for entry in entries_until(economy, "status_changed")]
    reason = entries[-1].data["private"]["reason"]
    assert reason == "Token budget exhausted. Allocated: 1000, Consumed: 1500"


async def entries_until(economy: Economy, kind: str):
    """The journal up to the first fact of a kind."""
    async for entry in economy.treasury.follow():
        yield entry
        if entry.kind == kind:
            return


async def test_an_agents_status_is_what_the_ledger_says(economy):
    # covers D30
    await economy.allocate("a", 1000)
    await economy.consume("a", 250)
    assert await economy.agent("a") == (
        200,
        {"agent_id": "a", "allocated": 1000, "consumed": 250, "remaining": 750, "percent_used": 25.0},
    )


async def test_the_status_names_the_pool_the_active_agents_and_the_best(economy):
    # covers D28, D29
    for number in range(7):
        await economy.allocate(f"a{number}", 1000)
        await economy.consume(f"a{number}", 100, number)
    status = await economy.status()
    best = status.pop("top_performers")
    assert [entry["agent_id"] for entry in best] == ["a6", "a5", "a4", "a3", "a2"]
    assert best[0] == {"agent_id": "a6", "efficiency": 0.06, "value_generated": 6.0, "tokens_consumed": 100}
    assert status.pop("average_efficiency") == pytest.approx(0.035)
    assert status == {
        "global_budget": 100_000,
        "allocated_total": 7000,
        "consumed_total": 700,
        "remaining_budget": 93_000,
        "active_agents": 7,
        "budget_utilization_percent": pytest.approx(7.0),
    }


async def test_an_operator_raises_the_pool_by_an_adjustment():
    # covers D19
    async with serve(pool_tokens=1000) as economy:
        await economy.allocate("a", 1000)
        assert (await economy.allocate("b", 1000))[0] == 403
        adjusted = await economy.treasury.execute(
            Request(command=Adjust(id="raise-1", account="global", budget="pool", amount=500, reason="more work"))
        )
        assert isinstance(adjusted, AdjustmentAnswer)
        assert (await economy.allocate("b", 1000))[1]["allocated_tokens"] == 500


class Calendar:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at_ms = 1_800_000_000_000

    def wall_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


async def make_the_pool_daily(economy: Economy, limit: int) -> None:
    daily = PutBudget(account="global", unit="tokens", budget="pool", limit=limit, period="day")
    command = Compound(commands=(RemoveBudget(account="global", budget="pool"), daily))
    assert isinstance(await economy.treasury.execute(Request(command=command)), CompoundAnswer)


@pytest.mark.parametrize("granted_before", [True, False])
async def test_grants_end_with_the_cycle_and_the_next_one_starts_with_the_whole_pool(granted_before):
    # covers D11, D19
    clock = Calendar()
    ledger = LocalTreasury(Engine(open_store("memory:"), clock=clock))
    async with serve(treasury=ledger, pool_tokens=2000) as economy:
        if granted_before:  # while the pool was for life
            await economy.allocate("a", 500)
        await economy.status()
        await make_the_pool_daily(economy, 2000)
        await economy.allocate("a", 500 if granted_before else 1000)
        assert (await economy.consume("a", 1000, 100))[0] == 200
        await economy.allocate("b", 1000)
        assert (await economy.allocate("c", 1000))[0] == 403
        clock.at_ms += 86_400_000
        status = await economy.status()
        assert (status["remaining_budget"], status["active_agents"]) == (2000, 0)
        assert (await economy.allocate("c", 1000))[1]["allocated_tokens"] == 1000
        _, body = await economy.allocate("a", 1000)  # its history goes on, its grant starts anew
        assert (body["allocated_tokens"], body["remaining_global_budget"]) == (600, 400)
        assert (await economy.agent("a"))[1]["allocated"] == 600
    await ledger.close()


@pytest.mark.parametrize("others", [0, 1000])
async def test_a_grant_of_a_pool_that_was_for_life_starts_anew_in_the_next_cycle(others):
    # covers D11, D19
    clock = Calendar()
    ledger = LocalTreasury(Engine(open_store("memory:"), clock=clock))
    async with serve(treasury=ledger, pool_tokens=2000) as economy:
        await economy.allocate("a", 500)
        await make_the_pool_daily(economy, 2000)
        await economy.consume("a", 100, 10)
        clock.at_ms += 86_400_000
        if others:
            await economy.allocate("b", others)
        _, body = await economy.allocate("a", 1500)
        assert (body["allocated_tokens"], body["remaining_global_budget"]) == (600, 1400 - others)
        assert (await economy.agent("a"))[1]["allocated"] == 600
    await ledger.close()


async def test_use_after_the_cycle_is_booked_and_the_agent_told_to_ask_again():
    # covers D19, E14
    clock = Calendar()
    ledger = LocalTreasury(Engine(open_store("memory:"), clock=clock))
    async with serve(treasury=ledger, pool_tokens=2000) as economy:
        await economy.status()
        await make_the_pool_daily(economy, 2000)
        await economy.allocate("a", 1000)
        clock.at_ms += 86_400_000
        assert await economy.consume("a", 10) == (404, {"detail": "No active allocation found for agent a"})
        assert (await economy.agent("a"))[0] == 404
        status = await economy.status()
        assert (status["remaining_budget"], status["active_agents"]) == (1990, 0)
    await ledger.close()


async def test_calls_held_in_advance_can_never_pass_the_grant(economy):
    # covers D1, D2, D3, D4
    await economy.allocate("a", 100)

    async def hold(id: str, tokens: int) -> int:
        body = {"id": id, "account": "agent:a", "amounts": {"tokens": tokens}}
        async with economy.session.post(f"{economy.url}/v1/holds", json=body) as response:
            return response.status

    assert await hold("h1", 101) == 402
    assert await hold("h2", 100) == 201
    async with economy.session.post(f"{economy.url}/v1/holds/h2/settle", json={"total": {"tokens": 100}}) as response:
        assert response.status == 200
    assert (await economy.agent("a"))[1]["consumed"] == 100
    assert await hold("h3", 1) == 402
    assert (await economy.account("agent:a")).status == "terminated"
    assert (await economy.status())["active_agents"] == 0


async def test_another_budget_of_the_pools_account_bounds_grants_too():
    # covers D2, D7
    async with serve() as economy:
        await economy.status()
        made = await economy.treasury.execute(
            Request(command=PutBudget(account="global", unit="tokens", limit=700, period="week"))
        )
        assert isinstance(made, BudgetAnswer)
        assert (await economy.allocate("a", 1000))[1]["allocated_tokens"] == 700


async def test_a_suspended_agent_is_stopped_and_its_use_is_booked(economy):
    # covers D1, E14
    await economy.allocate("a", 1000)
    suspended = await economy.treasury.execute(Request(command=SetStatus(account="agent:a", status="suspended")))
    assert isinstance(suspended, AccountAnswer)
    assert await economy.consume("a", 10) == (403, {"detail": "Agent a suspended"})
    assert (await economy.balance("agent:a")).spent == 10
    assert (await economy.allocate("a", 10))[0] == 403


# -- known faults --------------------------------------------------------------------------------------------------


async def test_known_fault_d1_what_was_spent_beyond_the_grant_is_on_the_books(economy):
    # covers D1, D2, E14
    await economy.allocate("a", 100)
    assert await economy.consume("a", 5000, 7) == (403, {"detail": "Agent a terminated: Token budget exhausted"})
    assert (await economy.balance("agent:a")).spent == 5000
    pool = await economy.balance("global")
    assert (pool.spent, pool.available) == (5000, 95_000)
    assert sample(await economy.metrics(), "dean_tokens_consumed_total", agent_id="a") == 5000


async def test_known_fault_d2_parallel_reports_are_all_booked_and_only_those_that_fit_are_accepted(economy):
    # covers D2, D13
    await economy.allocate("a", 1000)
    answers = await asyncio.gather(*(economy.consume("a", 90) for _ in range(20)))
    accepted = sorted(body["consumed"] for status, body in answers if status == 200)
    assert accepted == [90 * (number + 1) for number in range(11)]
    assert [status for status, _ in answers].count(403) == 9
    assert (await economy.balance("agent:a")).spent == 1800
    assert (await economy.account("agent:a")).status == "terminated"


async def test_known_fault_d3_two_services_never_hand_out_more_than_the_pool():
    # covers D7
    async with serve(pool_tokens=1000) as first, serve(treasury=first.treasury, pool_tokens=1000) as second:
        answers = await asyncio.gather(
            *(
                service.allocate(f"{name}-{number}", 1000)
                for number in range(4)
                for name, service in (("x", first), ("y", second))
            )
        )
        assert sum(body["allocated_tokens"] for status, body in answers if status == 200) == 1000
        assert (await first.balance("global")).available == 0


async def test_known_fault_d4_a_restart_mints_nothing(tmp_path):
    # covers D7
    async with serve(tmp_path / "ledger.db", pool_tokens=1000) as economy:
        await economy.allocate("a", 600)
        await economy.consume("a", 100, 5)
        before = await economy.status()
    async with serve(tmp_path / "ledger.db", pool_tokens=1000) as economy:
        assert await economy.status() == before
    async with serve(tmp_path / "ledger.db", pool_tokens=9_999) as economy:
        assert await economy.status() == before
        assert (await economy.allocate("b", 1000))[1]["allocated_tokens"] == 400


async def test_known_fault_d5_both_refusals_are_answered_and_counted():
    # covers D33, D34, D49
    async with serve(pool_tokens=1050) as economy:
        await economy.allocate("a", 1000)
        assert (await economy.allocate("b", 1000))[0] == 403
        await economy.allocate("c", 50)
        assert (await economy.allocate("d", 1))[0] == 403
        text = await economy.metrics()
        assert sample(text, "dean_allocation_rejections_total", reason="insufficient_allocation") == 1
        assert sample(text, "dean_allocation_rejections_total", reason="budget_exhausted") == 1


async def test_known_fault_d6_a_terminated_agent_gets_no_new_money(economy):
    # covers D4
    await economy.allocate("a", 100)
    await economy.consume("a", 101)
    before = await economy.balance("global")
    assert await economy.allocate("a", 1000) == (403, {"detail": "Agent a terminated: Token budget exhausted"})
    assert await economy.consume("a", 9) == (403, {"detail": "Agent a terminated: Token budget exhausted"})
    after = await economy.balance("global")
    assert (after.limit, before.available - after.available) == (before.limit, 9)


async def test_known_fault_d7_a_second_grant_adds_to_the_first(economy):
    await economy.allocate("a", 1000)
    await economy.consume("a", 100)
    _, body = await economy.allocate("a", 500)
    assert (body["allocated_tokens"], body["remaining_global_budget"]) == (500, 98_500)
    assert (await economy.agent("a"))[1] == {
        "agent_id": "a",
        "allocated": 1500,
        "consumed": 100,
        "remaining": 1400,
        "percent_used": pytest.approx(100 / 15),
    }
    assert (await economy.status())["active_agents"] == 1


async def test_known_fault_d7_parallel_grants_to_one_agent_all_count():
    async with serve() as first, serve(treasury=first.treasury) as second:
        answers = await asyncio.gather(*(service.allocate("a", 100) for _ in range(10) for service in (first, second)))
        assert [status for status, _ in answers] == [200] * 20
        assert (await first.agent("a"))[1]["allocated"] == 2000
        assert (await first.balance("global")).available == 98_000


async def test_known_fault_d7_termination_returns_what_is_unused_to_the_pool(economy):
    # covers D3, D14
    await economy.allocate("a", 1000)
    await economy.consume("a", 300)
    ended = await economy.treasury.execute(
        Request(command=SetStatus(account="agent:a", status="terminated", reason="an operator's word"))
    )
    assert isinstance(ended, AccountAnswer)
    status = await economy.status()
    assert (status["remaining_budget"], status["active_agents"]) == (99_700, 0)


async def test_known_fault_d8_using_exactly_the_grant_is_allowed(economy):
    # covers D1
    await economy.allocate("a", 1000)
    assert await economy.consume("a", 1000, 10) == (
        200,
        {
            "agent_id": "a",
            "consumed": 1000,
            "remaining": 0,
            "efficiency": 0.01,
            "warning": "Low token budget: 0 tokens remaining (0.0%)",
        },
    )
    assert (await economy.account("agent:a")).status == "active"
    assert (await economy.allocate("a", 100))[0] == 200


async def test_known_fault_d10_metrics_can_be_scraped(economy):
    # covers D32, D43, D44, D45, D46, D47, D48, D49, D50, D59
    await economy.allocate("a", 1000)
    await economy.consume("a", 100, 5)
    await economy.allocate("b", 500)
    await economy.consume("b", 501)
    async with economy.session.get(f"{economy.url}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name: families[name].type for name in families if name.startswith("dean_")} == {
        "dean_tokens_allocated": "counter",
        "dean_tokens_consumed": "counter",
        "dean_token_efficiency": "histogram",
        "dean_active_token_allocation": "gauge",
        "dean_global_budget_remaining": "gauge",
        "dean_agents_terminated_budget": "counter",
        "dean_allocation_rejections": "counter",
        "dean_books_seq": "gauge",
        "dean_budget_utilization": "gauge",
        "dean_allocation_size_tokens": "histogram",
    }
    assert sample(text, "dean_tokens_allocated_total", agent_id="a") == 1000
    assert sample(text, "dean_tokens_consumed_total", agent_id="a") == 100
    assert sample(text, "dean_active_token_allocation", agent_id="a") == 900
    assert sample(text, "dean_active_token_allocation", agent_id="b") == 0
    assert sample(text, "dean_agents_terminated_budget_total") == 1
    assert sample(text, "dean_token_efficiency_bucket", le="0.05") == 2
    assert sample(text, "dean_token_efficiency_bucket", le="0.01") == 1
    assert sample(text, "dean_token_efficiency_count") == 2
    bounds = [found.labels["le"] for found in families["dean_token_efficiency"].samples if "le" in found.labels]
    assert bounds == ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "2.0", "5.0", "+Inf"]
    left, gone = sample(text, "dean_global_budget_remaining"), sample(text, "dean_budget_utilization")
    assert abs(gone - (1 - left / 100_000)) < 1e-9
    assert sample(text, "dean_allocation_size_tokens_bucket", le="500.0") == 1
    assert sample(text, "dean_allocation_size_tokens_bucket", le="1000.0") == 2
    assert sample(text, "dean_allocation_size_tokens_sum") == 1500


async def test_known_fault_d11_no_float_touches_the_books(economy):
    await economy.allocate("a", 1000)
    for _ in range(10):
        await economy.consume("a", 0.1, 0.1)
    _, agent = await economy.agent("a")
    assert (agent["consumed"], agent["remaining"]) == (10, 990)
    assert all(isinstance(agent[field], int) for field in ("allocated", "consumed", "remaining"))
    best = (await economy.status())["top_performers"][0]
    assert (best["value_generated"], best["efficiency"]) == (1.0, 0.1)


async def test_known_fault_d12_a_repeated_report_counts_once(economy):
    await economy.allocate("a", 1000)
    first = await economy.consume("a", 100, 5, key="r1")
    assert await economy.consume("a", 100, 5, key="r1") == first
    assert (await economy.balance("agent:a")).spent == 100
    assert (await economy.consume("a", 200, 5, key="r1"))[0] == 409
    assert (await economy.balance("agent:a")).spent == 100
    assert (await economy.consume("a", 100, 5, key="r2"))[1]["consumed"] == 200


async def test_known_fault_d12_a_repeated_request_makes_one_grant(economy):
    first = await economy.allocate("a", 100, key="g1")
    assert first[0] == 200
    assert await economy.allocate("a", 100, key="g1") == first
    assert (await economy.agent("a"))[1]["allocated"] == 100
    assert (await economy.allocate("a", 200, key="g1"))[0] == 409
    assert (await economy.agent("a"))[1]["allocated"] == 100


async def test_known_fault_d12_requests_repeated_at_once_make_one_grant(economy):
    answers = await asyncio.gather(*(economy.allocate("a", 100, key="g1") for _ in range(8)))
    assert {json.dumps(body) for _, body in answers} == {json.dumps(answers[0][1])}
    assert (await economy.agent("a"))[1]["allocated"] == 100


async def test_known_fault_d12_a_repeated_request_is_known_after_a_restart(tmp_path):
    async with serve(tmp_path / "ledger.db") as economy:
        first = await economy.allocate("a", 100, key="g1")
        await economy.consume("a", 30, key="r1")
    async with serve(tmp_path / "ledger.db") as economy:
        assert await economy.allocate("a", 100, key="g1") == first
        assert (await economy.consume("a", 30, key="r1"))[1]["consumed"] == 30
        assert (await economy.agent("a"))[1]["allocated"] == 100


async def test_known_fault_d13_labels_are_bounded():
    # covers D43
    async with serve(labels_max=2) as economy:
        for number in range(5):
            await economy.allocate(f"a{number}", 100)
            await economy.consume(f"a{number}", 10)
        text = await economy.metrics()
    labels = {
        found.labels["agent_id"]
        for family in text_string_to_metric_families(text)
        if family.name == "dean_tokens_consumed"
        for found in family.samples
    }
    assert labels == {"a0", "a1", "other"}
    assert sample(text, "dean_tokens_consumed_total", agent_id="other") == 30


async def put_key(economy: Economy, role: str, account: str | None = None) -> str:
    """The header of a new key."""
    secret = make_secret()
    command = PutKey(key=make_key_id(), digest=digest_of(secret, PEPPER), role=role, account=account)
    assert isinstance(await economy.treasury.execute(Request(command=command)), KeyAnswer)
    return f"Bearer {secret}"


async def test_known_fault_d13_a_key_of_one_agent_acts_for_no_other():
    # covers D2
    async with serve(keys_required=True, key_pepper=PEPPER) as economy:
        operator = await put_key(economy, "operator")
        for agent_id in ("x", "y"):
            status, _ = await economy.post(
                "allocate", {"agent_id": agent_id, "requested_tokens": 1000}, Authorization=operator
            )
            assert status == 200
        bound = await put_key(economy, "account", "agent:x")
        report = {"tokens_consumed": 10, "value_generated": 0}
        assert (await economy.post("consume", report | {"agent_id": "x"}, Authorization=bound))[0] == 200
        assert (await economy.post("allocate", {"agent_id": "x", "requested_tokens": 10}, Authorization=bound))[
            0
        ] == 200
        assert (await economy.get("/api/v1/tokens/agent/x", Authorization=bound))[0] == 200
        for agent_id in ("y", "unheard-of"):
            assert (await economy.post("consume", report | {"agent_id": agent_id}, Authorization=bound))[0] == 403
            asked = {"agent_id": agent_id, "requested_tokens": 10}
            assert (await economy.post("allocate", asked, Authorization=bound))[0] == 403
            assert (await economy.get(f"/api/v1/tokens/agent/{agent_id}", Authorization=bound))[0] == 403
        asked = {"agent_id": "x", "requested_tokens": 10, "parent_agent_id": "y"}
        assert (await economy.post("allocate", asked, Authorization=bound))[0] == 403
        assert (await economy.get("/api/v1/tokens/status", Authorization=bound))[0] == 403
        assert (await economy.balance("agent:y")).spent == 0


async def test_known_fault_d13_who_may_only_look_cannot_spend_and_who_has_no_key_can_do_nothing():
    async with serve(keys_required=True, key_pepper=PEPPER) as economy:
        await put_key(economy, "operator")
        viewer = await put_key(economy, "viewer")
        assert (await economy.get("/api/v1/tokens/status", Authorization=viewer))[0] == 200
        asked = {"agent_id": "x", "requested_tokens": 10}
        assert (await economy.post("allocate", asked, Authorization=viewer))[0] == 403
        status, body = await economy.post("allocate", asked)
        assert (status, isinstance(body["detail"], str)) == (401, True)


async def test_calls_without_a_key_may_be_bound_to_the_pool():
    async with serve(keys_required=True, key_pepper=PEPPER, anonymous_account="global") as economy:
        assert (await economy.allocate("x", 100))[0] == 200
        assert (await economy.consume("x", 10))[0] == 200
        assert (await economy.get("/api/v1/tokens/status"))[0] == 200
        assert (await economy.get("/v1/accounts/global"))[0] == 401


async def test_calls_without_a_key_may_be_bound_to_one_agent():
    async with serve(keys_required=True, key_pepper=PEPPER, anonymous_account="agent:x") as economy:
        operator = await put_key(economy, "operator")
        await economy.post("allocate", {"agent_id": "x", "requested_tokens": 100}, Authorization=operator)
        assert (await economy.consume("x", 10))[0] == 200
        assert (await economy.consume("y", 10))[0] == 403


async def test_health_is_told_in_the_words_that_clients_know(economy):
    # covers D31
    assert await economy.get("/health") == (200, {"status": "healthy", "service": "token-economy"})


async def test_a_service_whose_ledger_is_away_says_so_and_books_nothing_twice():
    # covers D36
    async with serve() as economy:
        await economy.allocate("a", 100)
        store = economy.treasury.engine.store
        append, reopen = store.journal.append, store.journal.reopen

        def unavailable(*arguments):
            raise StoreUnavailable("the disk is gone")

        store.journal.append = store.journal.reopen = unavailable
        status, body = await economy.consume("a", 10, key="r1")
        assert (status, body["detail"][:18]) == (503, "Service unhealthy:")
        status, body = await economy.get("/ready")
        assert (status, body["reasons"]) == (503, ["store_unavailable"])
        store.journal.append, store.journal.reopen = append, reopen
        assert (await economy.consume("a", 10, key="r1"))[0] == 200
        assert await economy.get("/health") == (200, {"status": "healthy", "service": "token-economy"})
        assert (await economy.balance("agent:a")).spent == 10


# -- the read model ------------------------------------------------------------------------------------------------


async def test_history_and_metrics_survive_a_restart(tmp_path):
    # covers D9, D11, E12
    async with serve(tmp_path / "ledger.db") as economy:
        await earn(economy, "a", 0.9)
        before = dean_lines(await economy.metrics())
    async with serve(tmp_path / "ledger.db") as economy:
        await economy.status()
        assert dean_lines(await economy.metrics()) == before
        assert (await economy.allocate("a", 1000))[1]["allocated_tokens"] == 1400


async def test_the_books_of_two_services_on_one_ledger_are_the_same():
    # covers E12
    async with serve() as first, serve(treasury=first.treasury) as second:
        for number in range(10):
            service = (first, second)[number % 2]
            await service.allocate(f"a{number % 3}", 100)
            await service.consume(f"a{number % 3}", 20, number)
        assert await first.status() == await second.status()


async def test_a_service_that_was_not_started_says_so():
    # covers D36
    async with serve() as economy:
        idle = TokenEconomy(economy.treasury, pool_tokens=1)
        with pytest.raises(Exception, match="Service not initialized"):
            await idle.allocate(LOCAL, AllocateBody(agent_id="a", requested_tokens=1), None)


async def test_a_pool_that_has_no_room_for_what_is_handed_out_already_is_told_and_logged_once_with_its_figures(
    monkeypatch,
):
    # covers D36
    monkeypatch.setattr(service_module, "START_S_MAX", 0.1)
    monkeypatch.setattr(service_module, "WAIT_S_MAX", 0.1)
    monkeypatch.setattr(service_module, "RETRY_PAUSE_S", 0.01)
    treasury = LocalTreasury(Engine(open_store("memory:")))
    for command in (
        PutAccount(account="global"),
        PutBudget(account="global", unit="tokens", limit=50_000),
        PutAccount(account="team:search", parent="global"),
        Allocate(account="team:search", unit="tokens", to=20_000),
    ):
        assert not isinstance(await treasury.execute(Request(command=command)), Refused)
    with capture_logs() as logs:
        async with serve(treasury=treasury, pool_tokens=10_000) as economy:
            status, body = await economy.allocate("a", 1000)
            assert (status, body["detail"]) == (
                503,
                "Service unhealthy: the ledger refuses to make the pool; the log of the service says why",
            )
            assert [line["error"] for line in logs if line["event"] == "token_economy_start_wait"] == [
                "global: 20000 tokens asked, 10000 of 10000 left in pool"
            ]

            async def away(*_: object, **__: object) -> None:
                raise StoreUnavailable("away")

            with monkeypatch.context() as patched:
                patched.setattr(treasury, "execute", away)
                async with asyncio.timeout(5):
                    while not any(line.get("error") == "away" for line in logs):
                        await asyncio.sleep(0.01)
                status, body = await economy.allocate("a", 1000)
                assert (status, body["detail"]) == (503, "Service not initialized"), "no refusal"
            raised = PutBudget(account="global", unit="tokens", limit=50_000, budget="pool")
            assert not isinstance(await treasury.execute(Request(command=raised)), Refused)
            monkeypatch.setattr(service_module, "WAIT_S_MAX", 10)
            assert (await economy.allocate("a", 1000))[0] == 200, "it goes on by itself"
    await treasury.close()


async def test_an_agent_below_another_account_of_the_pool_may_be_given_too():
    async with serve() as economy:
        await economy.status()
        for command in (
            PutAccount(account="team:search", parent="global"),
            PutAccount(account="agent:a", parent="team:search"),
            PutAccount(account="elsewhere"),
            PutAccount(account="agent:b", parent="elsewhere"),
        ):
            assert isinstance(await economy.treasury.execute(Request(command=command)), AccountAnswer)
        assert (await economy.allocate("a", 100))[1]["allocated_tokens"] == 100
        assert (await economy.allocate("b", 100))[0] == 403  # it does not stand below the pool
        assert (await economy.balance("global")).available == 99_900


async def test_the_openapi_document_of_the_service_describes_the_economy(economy):
    _, document = await economy.get("/v1/openapi.json")
    assert "/api/v1/tokens/allocate" in document["paths"]
    assert "TokenEconomyAllocateBody" in document["components"]["schemas"]
    assert "/v1/holds" in document["paths"]


async def test_another_method_is_refused_with_those_that_are_taken(economy):
    async with economy.session.delete(f"{economy.url}/api/v1/tokens/status") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'{"agent_id": "a", "requested_tokens": NaN}',
        b'{"agent_id": "a", "requested_tokens": Infinity}',
        b'{"agent_id": "a", "requested_tokens": 1e999}',
        b'{"agent_id": "a", "requested_tokens": 0}',
        b'{"agent_id": "a", "requested_tokens": -1}',
        b'{"agent_id": "a", "requested_tokens": 10001}',
        b'{"agent_id": "", "requested_tokens": 1}',
        b'{"agent_id": "a/b", "requested_tokens": 1}',
        b'{"agent_id": "a\\u0007", "requested_tokens": 1}',
        b'{"agent_id": "' + b"a" * 10_000 + b'", "requested_tokens": 1}',
        b'{"requested_tokens": 1}',
    ],
)
async def test_bad_input_is_a_422_that_names_the_field_and_changes_nothing(economy, raw):
    # covers D22, D36
    before = await economy.status()
    async with economy.session.post(
        f"{economy.url}/api/v1/tokens/allocate", data=raw, headers={"Content-Type": "application/json"}
    ) as response:
        body = await response.json()
        assert response.status == 422, body
    assert body["detail"][0]["loc"][0] == "body"
    assert body["detail"][0]["msg"]
    assert await economy.status() == before


async def test_a_body_without_end_is_not_read(economy):
    async with economy.session.post(
        f"{economy.url}/api/v1/tokens/consume", data=b" " * 100_000, headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 413


async def test_a_key_that_is_no_key_is_refused(economy):
    assert (await economy.allocate("a", 10, key="k" * 129))[0] == 422


# -- helpers -------------------------------------------------------------------------------------------------------


def sample(text: str, name: str, **labels: str) -> float | None:
    """The value of one sample in the Prometheus text format."""
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    return None


def dean_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("dean_") and "rejections" not in line]


async def test_the_answer_to_a_grant_has_the_fields_of_the_interface(economy):
    # covers D23
    _, body = await economy.allocate("a", 1000)
    assert tuple(body) == (
        "agent_id",
        "allocated_tokens",
        "efficiency_multiplier",
        "remaining_global_budget",
        "warning",
    )
    assert Allocated.__struct_fields__ == (*body, "explanation"), "and one more, for those who ask for it"


# -- strategies, the reserve, pausing ------------------------------------------------------------------------------


async def test_a_grant_explains_itself_when_it_is_asked_to(economy):
    # covers D6, D18
    await earn(economy, "parent", 0.35)
    _, plain = await economy.allocate("child", 1000, parent_agent_id="parent")
    assert "explanation" not in plain
    _, body = await economy.allocate("child", 1000, parent_agent_id="parent", explain=True)
    assert body["explanation"] == {
        "strategy": "classic",
        "strategy_from": "setting",
        "history_of": "parent",
        "requested_tokens": 1000.0,
        "base_tokens": 1000.0,
        "multiplier": 0.85,
        "historical": 0.35,
        "available_tokens": 99_050,
        "reserve_tokens": 0,
        "terms": {"historical_efficiency": 0.35},
    }


async def test_known_fault_d9_under_the_proven_strategy_a_new_name_gains_nothing():
    # covers D9
    async with serve(strategy="proven") as economy:
        for name, value in (("good", 60), ("fair", 40), ("poor", 25)):
            await economy.allocate(name, 2000)
            await economy.consume(name, 400, value)
        sizes = {name: (await economy.allocate(name, 1000))[1]["allocated_tokens"] for name in ("good", "fair", "poor")}
        assert sizes["good"] > sizes["fair"] > sizes["poor"]
        for number in range(3):
            assert (await economy.allocate(f"new_{number}", 1000))[1]["allocated_tokens"] == 500 < sizes["poor"]
        await economy.allocate("boaster", 1000)
        await economy.consume("boaster", 1, 1e308)
        _, body = await economy.allocate("boaster", 1000, explain=True)
        assert body["allocated_tokens"] <= sizes["poor"]
        assert body["explanation"]["terms"]["evidence"] == 0.001


async def test_the_history_survives_a_restart_under_either_strategy(tmp_path):
    sizes = []
    for _ in range(2):
        async with serve(tmp_path / "fiscus.db", strategy="proven") as economy:
            if not sizes:
                await economy.allocate("a", 1000)
                await economy.consume("a", 500, 50)
                await economy.allocate("b", 1000)
                await economy.consume("b", 500, 25)
            sizes.append((await economy.allocate("a", 1000, explain=True))[1]["explanation"]["terms"]["evidence"])
    assert sizes == [0.5, 0.5]


async def test_the_emergency_reserve_is_for_those_who_name_it_and_are_bound_to_no_agent():
    # covers D63
    async with serve(pool_tokens=1_000, reserve_percent=10) as economy:
        assert (await economy.allocate("a", 1000))[1]["allocated_tokens"] == 900
        assert (await economy.allocate("b", 100))[0] == 403
        status, body = await economy.allocate("c", 100, source="emergency_reserve")
        assert (status, body["allocated_tokens"], body["remaining_global_budget"]) == (200, 100, 0)


async def test_one_agent_or_all_are_paused_and_go_on(economy):
    # covers D63
    for name in ("a", "b"):
        await economy.allocate(name, 1000)
    assert await economy.post("pause", {"agent_id": "a", "reason": "a look at it"}) == (200, {"agents": 1})
    assert (await economy.allocate("a", 10))[0] == 403
    assert (await economy.allocate("b", 10))[0] == 200
    assert await economy.post("pause", {}) == (200, {"agents": 2})
    assert (await economy.allocate("b", 10))[0] == 403
    assert await economy.post("resume", {}) == (200, {"agents": 2})
    assert (await economy.allocate("a", 10))[0] == 200
    assert (await economy.post("pause", {"agent_id": "nobody"}))[0] == 404
    assert (await economy.post("pause", {"agent_id": 5}))[0] == 422


async def test_recorded_grants_are_rehearsed_by_another_strategy(economy):
    # covers D9
    await earn(economy, "a", 0.5)
    await economy.allocate("a", 1000)
    await economy.allocate("b", 400)
    page = await economy.treasury.read(ListEntries(limit=1000))
    found = {}
    for strategy in ("classic", "proven"):
        rehearsal = Rehearsal(strategy)
        rehearsal.fold(page.entries)
        found[strategy] = {
            row.agent_id: (row.grants, row.granted_tokens, row.rehearsed_tokens) for row in rehearsal.rows()
        }
    assert found["classic"] == {"a": (2, 1100, 1100), "b": (1, 400, 400)}
    assert found["proven"]["a"] == (2, 1100, 50 + 550)
    assert found["proven"]["b"] == (1, 400, 200)


async def test_the_strategy_of_an_account_or_a_template_counts_before_the_setting(economy):
    # covers D6, D9
    async def sized(agent_id):
        body = (await economy.allocate(agent_id, 1000, explain=True))[1]
        explained = body["explanation"]
        return body["allocated_tokens"], explained["strategy"], explained["strategy_from"]

    async def tell(*commands):
        for command in commands:
            outcome = await economy.treasury.execute(Request(command=command))
            assert not isinstance(outcome, Refused), outcome

    assert await sized("plain") == (1000, "classic", "setting")
    await tell(PutTemplate(pattern="agent:research-*", grant_strategy="proven"))
    assert await sized("research-1") == (500, "proven", "template"), "one that this grant opens"
    assert await sized("research-1") == (500, "proven", "template"), "and that is there"
    assert await sized("other") == (1000, "classic", "setting")
    await tell(PutAccount(account="agent:research-1", grant_strategy="classic"))
    assert await sized("research-1") == (1000, "classic", "account")
    await tell(PutAccount(account="global", grant_strategy="proven"))
    assert await sized("new") == await sized("new") == (500, "proven", "above")
    assert (await sized("research-1"))[1:] == ("classic", "account")
    await tell(PutAccount(account="global", grant_strategy=None))
    assert (await sized("new"))[1:] == ("classic", "setting")
    page = await economy.treasury.read(ListEntries(limit=1000))
    grants = [entry for entry in page.entries if entry.kind in ("allocation_put", "allocation_resized")]
    noted = [msgspec.json.decode(entry.data["private"]["reason"]).get("strategy", "classic") for entry in grants]
    assert noted == ["classic", "proven", "proven", "classic", "classic", "proven", "proven", "classic", "classic"]


async def test_a_strategy_is_put_and_shown_over_http_and_a_wrong_one_names_the_field(economy):
    # covers D9
    async def put(path, body):
        async with economy.session.put(f"{economy.url}/v1/{path}", json=body) as response:
            return response.status, await response.json(content_type=None)

    status, body = await put("accounts/team", {"grant_strategy": "proven"})
    assert (status, body["grant_strategy"], body["grant_strategy_effective"]) == (200, "proven", "proven")
    status, body = await put("accounts/team", {"grant_strategy": None})
    assert status == 200
    assert "grant_strategy" not in body
    assert (await put("templates/agent:*", {"grant_strategy": "proven"}))[0] == 200
    assert (await economy.get("/v1/templates"))[1]["templates"][0]["grant_strategy"] == "proven"
    for path in ("accounts/team", "templates/agent:*"):
        status, body = await put(path, {"grant_strategy": "fair"})
        assert status == 422
        assert "grant_strategy" in json.dumps(body)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e308, -1.0])
async def test_what_a_program_asks_for_in_its_own_process_is_checked_as_over_http(wrong):
    # covers D21, D25
    ledger = LocalTreasury(Engine(open_store("memory:")))
    async with TokenEconomy(ledger, pool_tokens=10_000) as economy:
        assert isinstance(
            await economy.allocate(LOCAL, AllocateBody(agent_id="a", requested_tokens=1000), "g"), Allocated
        )
        report = ConsumeBody(agent_id="a", tokens_consumed=100, value_generated=1)
        for outcome, field in (
            (
                await economy.allocate(LOCAL, AllocateBody(agent_id="a", requested_tokens=wrong), None),
                "requested_tokens",
            ),
            (
                await economy.consume(LOCAL, msgspec.structs.replace(report, tokens_consumed=wrong), None),
                "tokens_consumed",
            ),
            (
                await economy.consume(LOCAL, msgspec.structs.replace(report, value_generated=min(wrong, -wrong)), None),
                "value_generated",
            ),
            (await economy.set_paused(LOCAL, PauseBody(agent_id=""), "suspended"), "agent_id"),
        ):
            assert isinstance(outcome, Refused), outcome
            assert (outcome.code, outcome.field) == ("invalid", field)
        after = await economy.consume(LOCAL, report, "r")
        assert isinstance(after, Consumed), "nothing was booked, and nobody terminated"
        assert (after.consumed, after.remaining) == (100, 900)
    await ledger.close()
