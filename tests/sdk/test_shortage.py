"""An account's list for reserves that lack room, the same in process and over HTTP (``fiscus.treasury.shortage``)."""

import asyncio

import pytest

from fiscus.contract import Alternative, OverridePolicy, Tokens
from fiscus.contract.errors import BudgetBusy, BudgetExceeded, Invalid, Unknown

PEERS = (("agent:a", 3), ("agent:b", 1), ("agent:c", 1))


@pytest.fixture
async def peers(treasury):
    """team (1,000) ← a (priority 3), b, c (priority 1), with 100 tokens each."""
    await treasury.put_account("team")
    await treasury.put_budget("team", "tokens", 1_000)
    for name, priority in PEERS:
        await treasury.put_account(name, parent="team", priority=priority, min_reserve={"tokens": 10})
        await treasury.allocate(name, "tokens", 100)
    return treasury


async def left(treasury) -> dict[str, int]:
    return {name: (await treasury.balance(name))[0].available for name, _ in PEERS}


async def test_what_is_short_is_borrowed_with_the_hold_and_goes_back_unused(peers):
    # covers T14, T11
    await peers.put_account("team", shortage=["reallocate"])
    held = await peers.reserve("agent:a", tokens=250, id="h")
    assert held.steps == ("reallocate",)
    (loan,) = held.loans
    assert [(part.account, part.amount) for part in loan.parts] == [("agent:b", 90), ("agent:c", 60)]
    assert await left(peers) == {"agent:a": 0, "agent:b": 10, "agent:c": 40}
    assert (await peers.account("agent:b")).loans[0].id == loan.id
    settled = await peers.settle("h", Tokens(input=160, output=0))
    assert (settled.loans[0].used, settled.loans[0].returned) == (60, 90)
    assert await left(peers) == {"agent:a": 0, "agent:b": 40, "agent:c": 100}
    assert (await peers.loan(loan.id)).active is False
    assert (await peers.account("agent:b")).loans == ()


async def test_nothing_moves_where_all_together_would_not_be_enough(peers):
    await peers.put_account("agent:a", shortage=["reallocate"])
    with pytest.raises(BudgetExceeded) as refused:
        await peers.reserve("agent:a", tokens=281)
    assert refused.value.refused.steps == ("reallocate",)
    assert await left(peers) == {"agent:a": 100, "agent:b": 100, "agent:c": 100}
    await peers.put_account("agent:b", shortage=["reallocate"])
    with pytest.raises(BudgetExceeded):
        await peers.reserve("agent:b", tokens=200)  # a is more important, c has 90 to spare


async def test_the_steps_are_tried_in_their_order_and_the_answer_says_so(peers):
    await peers.put_account("agent:a", shortage=["reallocate", "downgrade", "clamp"])
    offers = {"least": {"tokens": 40}, "alternatives": [Alternative(model="mini", amounts={"tokens": 70})]}
    first = await peers.reserve("agent:a", tokens=300, **offers)
    assert (first.steps, first.model, first.reserved["tokens"]) == (("reallocate", "downgrade"), "mini", 70)
    second = await peers.reserve("agent:a", tokens=300, least={"tokens": 30})
    assert (second.steps, second.reserved["tokens"]) == (("reallocate", "downgrade", "clamp"), 30)
    with pytest.raises(BudgetExceeded) as refused:
        await peers.reserve("agent:a", tokens=300)
    assert refused.value.refused.steps == ("reallocate", "downgrade", "clamp")


async def test_without_a_list_only_what_the_caller_offers_is_tried(peers):
    assert (await peers.reserve("agent:a", tokens=150, least={"tokens": 100})).reserved["tokens"] == 100
    with pytest.raises(BudgetBusy) as refused:
        await peers.reserve("agent:a", tokens=50)
    assert refused.value.refused.steps == ()


async def test_a_hold_says_what_is_held_and_how_it_came_to_be(peers):
    async with peers.hold("agent:a", tokens=150, least={"tokens": 10}) as hold:
        assert (hold.amounts["tokens"], hold.answer.steps) == (100, ("clamp",))
        hold.settle(Tokens(input=30, output=0))
    assert (await left(peers))["agent:a"] == 70


async def test_the_same_reserve_again_borrows_nothing_twice(peers):
    # covers E7
    await peers.put_account("team", shortage=["reallocate"])
    first = await peers.reserve("agent:a", tokens=150, id="h")
    assert await peers.reserve("agent:a", tokens=150, id="h") == first
    assert await left(peers) == {"agent:a": 0, "agent:b": 50, "agent:c": 100}


async def test_an_account_that_is_opened_by_the_reserve_borrows_for_what_it_draws_on(peers):
    await peers.put_template("thread:*", parent="agent:a", shortage=["reallocate"])
    held = await peers.reserve("thread:1", tokens=150)
    assert held.loans[0].account == "agent:a"


async def test_a_dry_run_says_what_would_move_and_why_and_moves_nothing(peers):
    view = await peers.reallocation("agent:a", "tokens", 230)
    assert [(move.source, move.amount, move.left, move.min_reserve) for move in view.moves] == [
        ("agent:b", 90, 10, 10),
        ("agent:c", 40, 60, 10),
    ]
    assert (view.target, view.available, view.shortfall, view.recovered) == ("agent:a", 100, 130, 130)
    downhill = await peers.reallocation("agent:b", "tokens", 150)
    assert {one.account: one.reason for one in downhill.passed_over} == {"agent:a": "more_important"}
    assert await left(peers) == {"agent:a": 100, "agent:b": 100, "agent:c": 100}
    with pytest.raises(Unknown):
        await peers.reallocation("team", "tokens", 1)
    with pytest.raises(Unknown):
        await peers.reallocation("nobody", "tokens", 1)


async def test_a_reallocation_is_undone_by_its_id(peers):
    lent = await peers.lend("agent:a", "tokens", {"agent:b": 50, "agent:c": 20}, reason="a long day")
    assert await left(peers) == {"agent:a": 170, "agent:b": 50, "agent:c": 80}
    assert (await peers.give_back(lent.id)).returned == 70
    assert await left(peers) == {"agent:a": 100, "agent:b": 100, "agent:c": 100}
    with pytest.raises(Unknown):
        await peers.give_back("another")


async def test_many_at_once_are_each_met_or_refused_and_nothing_is_lost(peers):
    # covers E8
    await peers.put_account("team", shortage=["reallocate"])
    await peers.put_account("agent:c", priority=3)

    async def call(name: str, number: int) -> None:
        try:
            await peers.reserve(name, tokens=30 + number, id=f"{name}-{number}")
            await peers.settle(f"{name}-{number}", Tokens(input=0, output=0))
        except (BudgetExceeded, BudgetBusy):
            pass

    await asyncio.gather(*(call(name, number) for number in range(20) for name, _ in PEERS))
    assert await left(peers) == {"agent:a": 100, "agent:b": 100, "agent:c": 100}
    assert [(await peers.account(name)).loans for name, _ in PEERS] == [(), (), ()]


async def test_a_list_with_an_unknown_or_doubled_step_is_refused_by_name(peers):
    with pytest.raises(Invalid) as refused:
        await peers.put_account("team", shortage=["clamp", "clamp"])
    assert refused.value.refused.field == "shortage"


async def test_an_override_is_asked_for_and_its_decision_waited_for(treasury):
    # covers R8
    await treasury.put_account("team", shortage=["ask"])
    await treasury.put_budget("team", "tokens", 100, override=OverridePolicy(requires_approval=False))
    granted = await treasury.reserve("team", tokens=120)
    assert (granted.steps, granted.reserved["tokens"]) == (("ask",), 120)
    assert (await treasury.balance("team"))[0].limit == 120
    with pytest.raises(BudgetBusy) as refused:
        await treasury.reserve("team", tokens=100)  # more than half of the limit: beyond the policy
    assert refused.value.refused.steps == ("ask",)


async def test_what_a_budget_that_observes_would_have_refused_is_told(treasury):
    # covers R17
    await treasury.put_account("team")
    await treasury.put_budget("team", "tokens", 100, mode="observe", period="day")
    await treasury.reserve("team", tokens=80)
    assert (await treasury.reserve("team", tokens=50)).warnings == ()
    (found,) = await treasury.spared("team")
    assert (found.budget, found.mode, found.calls, found.amount) == ("tokens-day", "observe", 1, 30)
    with pytest.raises(Unknown):
        await treasury.spared("nobody")
