from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

import fiscus
from fiscus.api import ApiOptions, create_app, store_first_key
from fiscus.contract import (
    UNITS,
    CallRecord,
    PutAccount,
    PutBudget,
    Refused,
    Reserve,
    SetStatus,
    Settle,
    TemplateBudget,
    Tokens,
    Transfer,
)
from fiscus.contract.errors import (
    AccountNotActive,
    BudgetBusy,
    BudgetExceeded,
    Conflict,
    Invalid,
    Refusal,
    TreasuryError,
    Unknown,
)
from fiscus.contract.queries import ListAccounts, ListEntries, ListTemplates, ListUsage
from tests.api.service import FIRST_SECRET, PEPPER, ledger, serving


async def balance(treasury, account="team:a", budget="tokens-lifetime"):
    return next(found for found in await treasury.balance(account) if found.budget == budget)


@pytest.fixture
async def books(treasury):
    """``agent:x`` and ``agent:y`` below ``team:a`` with 1,000 tokens."""
    await treasury.put_account("team:a", labels={"owner": "ann"})
    await treasury.put_account("agent:x", parent="team:a")
    await treasury.put_account("agent:y", parent="team:a")
    await treasury.put_budget("team:a", "tokens", 1_000)
    return treasury


async def test_accounts_budgets_and_balances(books):
    team = await books.account("team:a")
    assert (team.labels, team.parent, team.status) == ({"owner": "ann"}, None, "active")
    answer = await books.put_budget(
        "agent:x", "cost", 5, period="day", zone="Europe/Vienna", budget="daily", mode="warn"
    )
    assert (answer.budget.budget, answer.budget.zone, answer.budget.mode, answer.budget.version) == (
        "daily",
        "Europe/Vienna",
        "warn",
        1,
    )
    changed = await books.put_budget(
        "agent:x", "cost", 6, period="day", zone="Europe/Vienna", budget="daily", if_version=1
    )
    assert changed.budget.limit == 6
    with pytest.raises(Conflict):
        await books.put_budget("agent:x", "cost", 7, period="day", zone="Europe/Vienna", budget="daily", if_version=1)
    assert (await balance(books, "agent:x", "daily")).limit == 6
    await books.remove_budget("agent:x", "daily")
    assert await books.balance("agent:x") == ()


async def test_reserve_extend_settle_and_release(books):
    held = await books.reserve("agent:x", tokens=100, cost_nanousd=50, id="h")
    assert held.reserved == {"tokens": 100, "cost": 50, "calls": 1}
    assert (await books.extend("h", tokens=200)).reserved["tokens"] == 200
    assert (await books.settle("h", {"tokens": 60}, final=False)).booked["tokens"] == 60
    settled = await books.settle("h", Tokens(input=50, output=20), cost_nanousd=9, record=CallRecord(provider="openai"))
    assert settled.state == "settled"
    assert settled.booked == {"input_tokens": 50, "output_tokens": 20, "tokens": 70, "cost": 9, "calls": 1}
    other = await books.reserve("agent:x", tokens=100)
    assert (await books.release(other.id)).state == "released"
    assert (await balance(books)).available == 930


async def test_usage_after_the_fact_is_booked_and_listed_once(books):
    # covers R33, R50, E7, E14
    for _ in range(2):
        answer = await books.usage(
            "agent:x", {"input_tokens": 900, "output_tokens": 300}, cost_nanousd=12, model="m", id="call-1"
        )
    assert answer.uncovered["tokens"] == 1_200
    assert (await balance(books)).overdrawn == 200
    page = await books.read(ListUsage(min_seq=(await books.readiness()).head_seq))
    (usage,) = [usage for usage in page.usage if usage.amounts.get("calls")]
    assert (usage.hold, usage.account, usage.record.model, usage.record.tokens.output) == (
        "call-1",
        "agent:x",
        "m",
        300,
    )


async def test_allocations_transfers_and_adjustments(books):
    # covers E8
    assert (await books.allocate("agent:x", "tokens", 400)).size == 400
    assert (await books.allocate("agent:y", "tokens", 100)).size == 100
    moved = await books.transfer("agent:x", "agent:y", "tokens", 150, reason="y is busy")
    assert (moved.source.size, moved.target.size) == (250, 250)
    with pytest.raises(Refusal):
        await books.transfer("agent:x", "agent:y", "tokens", 251)
    assert (await books.deallocate("agent:x", "tokens")).size == 0
    raised = await books.adjust("team:a", "tokens-lifetime", 500, reason="a demo", id="a1")
    assert raised.balance.limit == 1_500
    until = datetime.now(UTC) + timedelta(hours=1)
    assert (await books.adjust("team:a", "tokens-lifetime", 1, reason="more", valid_until=until)).active
    assert not (await books.end_adjustment("team:a", "a1")).active
    assert (await balance(books)).limit == 1_001


async def test_templates_open_accounts_on_first_use(books):
    await books.put_template(
        "thread:*", parent="team:a", budgets=[TemplateBudget(unit="tokens", limit=10)], max_children=5
    )
    async with books.hold("thread:42", tokens=10) as hold:
        hold.settle({"tokens": 10})
    with pytest.raises(BudgetExceeded) as caught:
        await books.reserve("thread:42", tokens=1)
    assert caught.value.binding.account == "thread:42"
    assert [found.pattern for found in (await books.read(ListTemplates())).templates] == ["thread:*"]
    await books.remove_template("thread:*")
    with pytest.raises(Unknown):
        await books.reserve("thread:43", tokens=1)


async def test_the_status_of_accounts(books):
    assert (await books.suspend("agent:x", reason="audit")).status == "suspended"
    with pytest.raises(AccountNotActive):
        await books.reserve("agent:x", tokens=1)
    assert (await books.resume("agent:x")).status == "active"
    assert (await books.terminate("agent:x")).status == "terminated"
    assert (await books.close_account("agent:y")).status == "closed"
    for account in ("agent:x", "agent:y"):
        with pytest.raises(AccountNotActive):
            await books.reserve(account, tokens=1)


async def test_a_compound_is_done_whole_or_not_at_all_and_names_what_was_refused(books):
    with pytest.raises(Unknown) as caught:
        await books.compound([PutAccount(account="agent:z", parent="team:a"), SetStatus(account="no", status="closed")])
    assert caught.value.refused.index == 1
    assert caught.value.refused.field.startswith("commands[1].")
    with pytest.raises(Unknown):
        await books.account("agent:z")
    first, second = await books.compound(
        [PutAccount(account="agent:z", parent="team:a"), PutBudget(account="agent:z", unit="calls", limit=3)]
    )
    assert (first.account, second.budget.limit) == ("agent:z", 3)


async def test_an_idempotency_key_makes_a_write_single(books):
    # covers E7
    await books.allocate("agent:x", "tokens", 400)
    await books.allocate("agent:y", "tokens", 100)
    for _ in range(2):
        moved = await books.transfer("agent:x", "agent:y", "tokens", 150, idempotency_key="move-1")
    assert moved.target.size == 250
    (found,) = await books.balance("agent:y")
    assert (found.limit, found.allocated) == (250, True)
    with pytest.raises(Conflict):
        await books.transfer("agent:x", "agent:y", "tokens", 151, idempotency_key="move-1")


async def test_many_commands_each_have_their_own_outcome(books):
    outcomes = await books.execute_many(
        [
            Reserve(id="h1", account="agent:x", amounts={"tokens": 900}),
            Reserve(id="h2", account="agent:x", amounts={"tokens": 200}),
            Settle(id="h1", total={"tokens": 1}),
        ]
    )
    assert [getattr(outcome, "code", getattr(outcome, "state", None)) for outcome in outcomes] == [
        "held",
        "budget_busy",
        "settled",
    ]


async def test_any_command_and_any_query_can_be_asked(books):
    assert (await books.execute(SetStatus(account="agent:x", status="suspended"))).status == "suspended"
    with pytest.raises(Unknown):
        await books.execute(SetStatus(account="nobody", status="closed"))
    assert (await books.read(ListEntries(limit=2))).next is not None


async def test_all_accounts_come_page_by_page(books):
    await books.execute_many([PutAccount(account=f"user:{n:04}") for n in range(999)])
    await books.execute_many([PutAccount(account=f"user:{n:04}") for n in range(999, 1_100)])
    await books.read(ListAccounts(min_seq=(await books.readiness()).head_seq))
    names = [account.account async for account in books.accounts(prefix="user:")]
    assert names == [f"user:{n:04}" for n in range(1_100)]
    assert [account.account async for account in books.accounts(parent="team:a")] == ["agent:x", "agent:y"]


async def test_events_come_from_the_beginning_and_then_as_they_happen(books):
    kinds = []
    async with aclosing(books.events(after=1)) as entries:
        async for entry in entries:
            kinds.append(entry.kind)
            if len(kinds) == 3:
                await books.reserve("agent:x", tokens=1, id="h")
            if entry.kind == "held":
                break
    assert kinds == ["account_opened", "account_opened", "budget_set", "held"] or kinds[-1] == "held"
    assert entry.data["id"] == "h"


async def test_after_the_end_nothing_is_admitted(books):
    await books.close()
    with pytest.raises(TreasuryError):
        await books.reserve("agent:x", tokens=1)


async def test_many_agents_never_break_the_limit(books):
    # covers E2, D2
    async def agent(n):
        try:
            async with books.hold("agent:x", tokens=30) as hold:
                hold.settle({"tokens": 17 + n % 13})
        except (BudgetExceeded, BudgetBusy):
            return 0
        return 17 + n % 13

    spent = sum(await asyncio.gather(*(agent(n) for n in range(100))))
    found = await balance(books)
    assert found.spent == spent <= 1_000
    assert (found.held, found.overdrawn) == (0, 0)


REFUSALS = {
    "exceeded": lambda t: t.reserve("agent:x", tokens=2_000, id="h"),
    "not bounded": lambda t: t.reserve("agent:x", id="h"),
    "unknown account": lambda t: t.reserve("nobody", tokens=1),
    "unknown hold": lambda t: t.settle("nothing", {"tokens": 1}),
    "unknown to extend": lambda t: t.extend("nothing", tokens=1),
    "unknown to release": lambda t: t.release("nothing"),
    "unknown budget": lambda t: t.remove_budget("team:a", "nothing"),
    "unknown allocation": lambda t: t.transfer("agent:x", "agent:y", "tokens", 5),
    "below use": lambda t: t.put_budget("team:a", "tokens", 10),
    "version": lambda t: t.put_budget("team:a", "tokens", 2_000, if_version=7),
    "negative": lambda t: t.reserve("agent:x", tokens=-1),
    "too large": lambda t: t.reserve("agent:x", tokens=2**53),
    "far too large": lambda t: t.reserve("agent:x", tokens=2**70),
    "no id": lambda t: t.settle("", {"tokens": 1}, account="agent:x"),
    "an id of control characters": lambda t: t.reserve("agent:x", tokens=1, id="a\nb"),
    "a long id": lambda t: t.release("x" * 10_000, account="agent:x"),
    "a lease of nothing": lambda t: t.reserve("agent:x", tokens=1, lease_s=0),
    "a limit below nothing": lambda t: t.put_budget("team:a", "tokens", -1),
    "a unit that is none": lambda t: t.put_budget("team:a", "dollars", 1),
    "a period that is none": lambda t: t.put_budget("team:a", "tokens", 1, period="fortnight"),
    "its own parent": lambda t: t.put_account("agent:q", parent="agent:q"),
    "a transfer of nothing": lambda t: t.execute(Transfer(source="agent:x", target="agent:y", unit="tokens", amount=0)),
    "a compound": lambda t: t.compound(
        [PutAccount(account="agent:q"), Reserve(id="h", account="agent:x", amounts={"tokens": 2_000})]
    ),
    "a compound of nothing": lambda t: t.compound([]),
    "of another kind": lambda t: t.execute(Reserve(id="h", account="agent:x", amounts={"tokens": 1.5})),
    "a read of nobody": lambda t: t.account("nobody"),
    "a read of no hold": lambda t: t.hold_answer("nothing"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_the_same_in_process_and_remote(tmp_path, name):
    found = []
    async with (
        ledger() as served,
        serving(create_app(served)) as url,
        fiscus.connect(url, "", spool_directory=tmp_path / "spool") as remote,
        fiscus.open("memory:") as local,
    ):
        for treasury in (local, remote):
            for account in ("agent:x", "agent:y"):
                await treasury.put_account("team:a")
                await treasury.put_account(account, parent="team:a")
            await treasury.put_budget("team:a", "tokens", 1_000)
            await treasury.usage("agent:x", {"tokens": 100}, id="before")
            head = (await treasury.readiness()).head_seq
            with pytest.raises(Refusal) as caught:
                await REFUSALS[name](treasury)
            assert (await treasury.readiness()).head_seq == head, "a refusal changes nothing"
            found.append((type(caught.value), caught.value.refused))
    assert found[0][0] is found[1][0]
    if found[0][0] is Invalid:  # the sentence is the decoder's where the type of a field is wrong
        assert (found[0][1].code, found[0][1].field) == (found[1][1].code, found[1][1].field)
    else:
        assert found[0][1] == found[1][1]


async def test_a_key_that_is_bound_to_an_account_cannot_spend_anothers(tmp_path):
    async with ledger() as served:
        await store_first_key(served, FIRST_SECRET, PEPPER)
        async with (
            serving(create_app(served, ApiOptions(key_pepper=PEPPER, keys_required=True))) as url,
            fiscus.connect(url, FIRST_SECRET, spool_directory=tmp_path / "spool") as admin,
        ):
            await admin.put_account("team:a")
            await admin.put_account("agent:x")
            with pytest.raises(TreasuryError) as caught:
                async with fiscus.connect(url, "fk_wrong", spool_directory=tmp_path / "spool") as stranger:
                    await stranger.account("team:a")
            assert caught.value.code == "unauthorized"


def test_every_unit_can_be_held():
    hold = fiscus.sdk.Treasury.hold
    assert {unit if unit != "cost" else "cost_nanousd" for unit in UNITS} <= set(hold.__annotations__)
    assert Refused.__struct_config__.frozen
