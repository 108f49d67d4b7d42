"""What an account has left is what binds its next call."""

import pytest

from fiscus.contract.chains import charged, own_budget, read_chain
from fiscus.core.commands import Allocate, PutAccount, PutBudget, Request, Reserve, SetStatus
from fiscus.core.outcomes import Refused
from tests.api.service import ledger


async def do(treasury, *commands):
    for command in commands:
        outcome = await treasury.execute(Request(command=command))
        assert not isinstance(outcome, Refused), outcome


@pytest.fixture
async def treasury():
    async with ledger() as found:
        await do(
            found,
            PutAccount(account="team:a"),
            PutAccount(account="agent:x", parent="team:a"),
            PutAccount(account="thread:1", parent="agent:x"),
            PutBudget(account="team:a", unit="tokens", limit=1_000, period="day"),
            PutBudget(account="team:a", unit="cost", limit=500),
            PutBudget(account="thread:1", unit="tokens", limit=900),
            PutBudget(account="thread:1", unit="tokens", budget="some", limit=5, match={"model": "m"}),
            PutBudget(account="thread:1", unit="tokens", budget="watched", limit=3, mode="observe"),
        )
        yield found


async def read(treasury, account="thread:1", **more):
    views = await read_chain(treasury, account, **more)
    assert not isinstance(views, Refused), views
    return own_budget(views)


async def test_the_least_of_the_chain_is_left_in_each_unit(treasury):
    own = await read(treasury)
    assert (own.account, own.status, own.left) == ("thread:1", "active", {"tokens": 900, "cost": 500})
    names = [(one.account, one.budget) for one in own.budgets]
    assert names == [
        ("thread:1", "tokens-lifetime"),
        ("thread:1", "some"),
        ("thread:1", "watched"),
        ("team:a", "tokens-day"),
        ("team:a", "cost-lifetime"),
    ]


async def test_the_budget_that_binds_says_what_is_in_flight_and_when_it_is_renewed(treasury):
    await do(treasury, Reserve(id="1", account="team:a", amounts={"tokens": 400, "cost": 1}))
    own = await read(treasury)
    assert (own.left["tokens"], own.binding.budget, own.binding.held) == (600, "tokens-day", 400)
    assert own.resets_at == own.binding.window_end is not None


async def test_above_an_allocation_nothing_binds_in_its_unit(treasury):
    await do(
        treasury, PutAccount(account="agent:y", parent="team:a"), Allocate(account="agent:y", unit="tokens", to=700)
    )
    await do(treasury, Reserve(id="1", account="team:a", amounts={"tokens": 300, "cost": 1}))
    own = await read(treasury, "agent:y")
    assert own.left == {"tokens": 700, "cost": 499}
    assert [(one.account, one.unit) for one in own.budgets] == [("agent:y", "tokens"), ("team:a", "cost")]
    assert (await read(treasury, "thread:1")).left["tokens"] == 0


async def test_nothing_is_seen_above_the_account_that_a_key_is_bound_to(treasury):
    own = await read(treasury, scope="agent:x")
    assert own.left == {"tokens": 900}
    refused = await read_chain(treasury, "team:a", scope="agent:x")
    assert (isinstance(refused, Refused), refused.code) == (True, "forbidden")


async def test_who_is_suspended_above_is_suspended(treasury):
    await do(treasury, SetStatus(account="team:a", status="suspended"))
    assert (await read(treasury)).status == "suspended"


async def test_where_nothing_limits_nothing_is_said_to_be_left(treasury):
    await do(treasury, PutAccount(account="free"))
    own = await read(treasury, "free")
    assert (own.left, own.binding, own.resets_at, own.budgets) == ({}, None, None, ())
    assert charged([]) == []
