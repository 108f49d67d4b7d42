"""From the journal and usage to the outbox, over a real ledger."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import pytest

from fiscus.alerts.measures import Kept
from fiscus.contract.alerts import Step
from fiscus.contract.errors import EntriesArchived, StoreUnavailable
from fiscus.contract.queries import EntriesPage, ListEntries, UsagePage
from fiscus.core.commands import (
    EraseName,
    OverridePolicy,
    PutAccount,
    PutBudget,
    PutPrice,
    RemovePrice,
    Request,
    RequestOverride,
    Reserve,
    SetStatus,
    Settle,
)
from fiscus.core.outcomes import HoldAnswer
from fiscus.core.records import CallRecord, Tokens
from fiscus.stores import open_store
from fiscus.stores.sqlite.alerts import SqliteAlerts
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.alerts.rig import Clock, alerts, channel, deliver, do, follow, options, pump, receiver, views_are_current
from tests.api.service import ledger

AGENT = PutAccount(account="agent:x", parent="team:search")
BUDGET = PutBudget(account="agent:x", budget="main", unit="tokens", limit=100)


def used(tokens: int, account: str = "agent:x", **record: object) -> Settle:
    parts = record.pop("parts", None) or Tokens(input=tokens)
    return Settle(
        id=str(uuid4()),
        account=account,
        total={"tokens": tokens},
        record=CallRecord(tokens=parts, **record),
    )


async def begin(treasury, desk) -> None:
    """What was before is not told."""
    await follow(desk)


# covers R30, R18, R21
async def test_each_threshold_is_told_once_in_its_window_with_the_names_of_the_originals():
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        async with alerts(treasury, options(channel(hook)), Clock()) as desk:
            await begin(treasury, desk)
            await do(treasury, used(96))
            await pump(desk)
            await pump(desk)
            await do(treasury, used(1))
            await pump(desk)
    crossed = [body for body in hook.bodies if body["type"] == "threshold_crossed"]
    assert [body["data"]["facts"]["percent"] for body in crossed] == [50, 75, 90, 95]
    assert [body["data"]["severity"] for body in crossed] == ["info", "warning", "critical", "final"]
    assert len(set(hook.ids)) == len(hook.ids)
    first = crossed[0]["data"]
    assert first["aliases"] == ["budget_alert", "token.budget.alert"]
    assert first["account"] == "agent:x"
    assert first["title"] == "agent:x: 50 % of budget main used (96 tokens of 100 tokens)"
    assert first["facts"] | {"unit": "tokens", "limit": 100, "used": 96, "mode": "enforce"} == first["facts"]


async def test_what_was_before_alerts_were_set_up_is_not_told():
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET, used(96))
        async with alerts(treasury, options(channel(hook)), Clock()) as desk:
            await pump(desk)
    assert hook.requests == []


# covers R16, R21
async def test_budgets_accounts_and_their_status_are_told_without_free_text():
    async with (
        ledger() as treasury,
        receiver() as hook,
        alerts(treasury, options(channel(hook, names="token")), Clock()) as desk,
    ):
        await begin(treasury, desk)
        changed = PutBudget(account="agent:x", budget="main", unit="tokens", limit=200)
        stop = SetStatus(account="agent:x", status="terminated", reason="a secret reason")
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET, changed, stop)
        await pump(desk)
    assert [body["type"] for body in hook.bodies] == ["token.budget.created", "token.budget.updated", "status_changed"]
    assert hook.bodies[2]["data"]["severity"] == "critical"
    assert hook.bodies[2]["data"]["title"] == "agent:x: is terminated now"
    assert all(b"secret" not in body for _, body in hook.taken)


async def test_a_channel_hears_only_of_its_accounts_kinds_and_severity():
    async with ledger() as treasury, receiver() as hook:
        team = channel(hook, "team", accounts=("team:search",), kinds=("budget_alert",), severity="warning")
        other = channel(hook, "other", accounts=("team:sales",))
        async with alerts(treasury, options(team, other), Clock()) as desk:
            await begin(treasury, desk)
            await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET, used(80))
            await do(treasury, SetStatus(account="agent:x", status="suspended"))
            await pump(desk)
    assert [body["data"]["facts"]["percent"] for body in hook.bodies] == [75]


# covers R18
async def test_a_budget_that_only_warns_tells_once_in_a_window_that_it_would_have_refused():
    async with ledger() as treasury, receiver() as hook:
        soft = PutBudget(account="agent:x", budget="main", unit="tokens", limit=10, mode="warn")
        await do(treasury, PutAccount(account="team:search"), AGENT, soft)
        async with alerts(treasury, options(channel(hook, kinds=("budget_check_failed",))), Clock()) as desk:
            await begin(treasury, desk)
            for _ in range(3):
                hold = Reserve(id=str(uuid4()), account="agent:x", amounts={"tokens": 50})
                assert isinstance(await treasury.execute(Request(command=hold)), HoldAnswer)
                await pump(desk)
    (body,) = hook.bodies
    assert body["type"] == "budget_warned"
    assert body["data"]["facts"]["budget"] == "agent:x/main"


async def test_a_restart_neither_forgets_nor_repeats(tmp_path):
    path = tmp_path / "fiscus.db-alerts"
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        wishes, clock = options(channel(hook)), Clock()
        async with alerts(treasury, wishes, clock, SqliteAlerts(path, "default")) as desk:
            await begin(treasury, desk)
            await do(treasury, used(60))
            await follow(desk)  # in the outbox, not delivered
        await do(treasury, used(20))
        async with alerts(treasury, wishes, clock, SqliteAlerts(path, "default")) as desk:
            await pump(desk)
        async with alerts(treasury, wishes, clock, SqliteAlerts(path, "default")) as desk:
            await pump(desk)
    assert [body["data"]["facts"]["percent"] for body in hook.bodies] == [50, 75]


class Failing(SqliteAlerts):
    """An outbox whose next step is not kept."""

    fails = False

    def step(self, step: Step) -> bool:
        if self.fails:
            self.fails = False
            raise StoreUnavailable("sqlite: disk I/O error")
        return super().step(step)


# covers R16, R21
async def test_a_price_that_is_stated_or_removed_is_told_once_also_over_a_restart(tmp_path):
    path = tmp_path / "fiscus.db-alerts"
    stated = PutPrice(price="own", provider="acme", model="big-*", rates={"input": 3_000, "output": 9_000})
    dearer = msgspec.structs.replace(stated, rates={"input": 4_000, "output": 9_000})
    async with ledger() as treasury, receiver() as hook:
        wishes = options(
            channel(hook, kinds=("pricing_updated",)),
            channel(hook, "team", accounts=("team:search",)),
        )
        clock = Clock()
        async with alerts(treasury, wishes, clock, SqliteAlerts(path, "default")) as desk:
            await begin(treasury, desk)
            await do(treasury, PutAccount(account="team:search"), stated, stated)
            await follow(desk)  # in the outbox, not delivered
        await do(treasury, dearer)
        async with alerts(treasury, wishes, clock, SqliteAlerts(path, "default")) as desk:
            await pump(desk)
            await do(treasury, RemovePrice(price="own"), RemovePrice(price="own"))
            await pump(desk)
            await pump(desk)
    assert [body["type"] for body in hook.bodies] == ["price_put", "price_put", "price_removed"]
    assert len(set(hook.ids)) == 3
    first, second, last = (body["data"] for body in hook.bodies)
    assert first["aliases"] == ["pricing_updated", "token.pricing.updated"]
    assert first["account"] is None
    assert first["title"] == "Fiscus: price own of big-* was stated"
    said = {"price": "own", "provider": "acme", "model": "big-*", "rates": {"input": 3_000, "output": 9_000}}
    assert said.items() <= first["facts"].items()
    assert first["facts"]["start"] > 0
    assert second["facts"]["rates"]["input"] == 4_000
    assert (last["title"], last["facts"]["price"]) == ("Fiscus: price own was removed", "own")


async def test_a_step_that_was_not_kept_is_taken_again_as_a_whole():
    store = Failing(None, "default")
    async with ledger() as treasury, receiver() as hook:
        soft = PutBudget(account="agent:x", budget="main", unit="tokens", limit=10, mode="warn")
        await do(treasury, PutAccount(account="team:search"), AGENT, soft)
        async with alerts(treasury, options(channel(hook, kinds=("budget_warned",))), Clock(), store) as desk:
            await begin(treasury, desk)
            await do(treasury, Reserve(id=str(uuid4()), account="agent:x", amounts={"tokens": 50}))
            store.fails = True
            with pytest.raises(StoreUnavailable):
                await desk.follower.turn()
            await pump(desk)
    assert len(hook.bodies) == 1


async def test_an_erased_account_takes_its_deliveries_along_and_its_name_out_of_what_is_remembered(tmp_path):
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        clock, store = Clock(treasury.engine.now_ms), SqliteAlerts(tmp_path / "alerts", "default")
        async with alerts(treasury, options(channel(hook)), clock, store) as desk:
            await begin(treasury, desk)
            await do(treasury, used(120))
            await views_are_current(treasury)
            clock.move(6)
            await follow(desk)
            assert len((await desk.view(None, 0, 10)).deliveries) == 6  # five thresholds, one overdraft
            await do(treasury, SetStatus(account="agent:x", status="closed"), EraseName(account="agent:x"))
            await views_are_current(treasury)
            clock.move(70)
            await pump(desk)
            clock.move(3_700)
            await pump(desk)
            shown = await desk.view(None, 0, 10)
            kept = store.lead("test", clock.now_ms + 60_000, clock.now_ms)
            assert kept is not None
            assert b"agent:x" not in kept.memory + kept.measures
    assert [one.alert.account for one in shown.deliveries] == [None]  # the closing, read when nobody knew the name
    assert all(b"agent:x" not in body for _, body in hook.taken)


async def test_who_may_approve_is_told_of_a_request_and_what_becomes_of_it_without_the_reason():
    async with ledger() as treasury, receiver() as hook:
        policy = OverridePolicy(max_percent=50)
        budget = PutBudget(account="agent:x", budget="main", unit="tokens", limit=100, override=policy)
        await do(treasury, PutAccount(account="team:search"), AGENT, budget)
        async with alerts(treasury, options(channel(hook, kinds=("budget_override_request",))), Clock()) as desk:
            await begin(treasury, desk)
            wish = RequestOverride(id="o1", account="agent:x", budget="main", amount=40, reason="a secret reason")
            await do(treasury, wish)
            await pump(desk)
    (body,) = hook.bodies
    assert body["type"] == "override_requested"
    assert body["data"]["severity"] == "warning"
    assert body["data"]["title"] == "agent:x: 40 tokens more is asked for in budget main (0 tokens of 100 tokens used)"
    assert body["data"]["facts"]["id"] == "o1"
    assert b"secret" not in hook.taken[0][1]


class Troubled(LocalTreasury):
    """A ledger of which something is wrong."""

    archived_upto = 0
    reasons: tuple[str, ...] = ()
    shown_seq: int | None = None

    async def read(self, query):
        if isinstance(query, ListEntries) and query.after < self.archived_upto:
            raise EntriesArchived("archived", self.archived_upto + 1)
        view = await super().read(query)
        if isinstance(view, EntriesPage) and self.shown_seq is not None:
            return EntriesPage(as_of_seq=self.shown_seq, entries=(), next=None)
        if isinstance(view, UsagePage) and self.shown_seq is not None:
            return UsagePage(as_of_seq=self.shown_seq, usage=(), next=None)
        return view

    async def readiness(self):
        return msgspec.structs.replace(await super().readiness(), ready=not self.reasons, reasons=self.reasons)


async def test_entries_that_were_archived_before_they_were_read_are_told_and_the_rest_is_read():
    treasury = Troubled(Engine(open_store("memory:")))
    async with receiver() as hook, alerts(treasury, options(channel(hook)), Clock()) as desk:
        await begin(treasury, desk)
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        treasury.archived_upto = 2
        await do(treasury, used(60))
        await pump(desk)
    await treasury.close()
    assert [body["type"] for body in hook.bodies] == ["entries_missed", "budget_created", "threshold_crossed"]
    assert hook.bodies[0]["data"]["facts"] == {"first_seq": 1, "last_seq": 2}


async def test_an_older_journal_that_was_restored_is_read_from_its_end_on():
    treasury, clock, store = Troubled(Engine(open_store("memory:"))), Clock(), SqliteAlerts(None, "default")
    async with receiver() as hook, alerts(treasury, options(channel(hook)), clock, store) as desk:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        await begin(treasury, desk)
        await do(treasury, used(120))
        await views_are_current(treasury)
        at = desk.follower.seq
        clock.move(6)
        await pump(desk)
        treasury.shown_seq = 1
        clock.move(61)
        await desk.follower.turn()
        assert desk.follower.seq == 1
        kept = store.lead("test", clock.now_ms + 60_000, clock.now_ms)
        assert kept is not None
        assert msgspec.json.decode(kept.measures, type=Kept).usage_after == 1
        treasury.shown_seq = None
        await pump(desk)
        assert desk.follower.seq > at
    await treasury.close()
    assert len(hook.ids) == len(set(hook.ids))
    assert [body["type"] for body in hook.bodies].count("overdrawn") == 1


async def test_drift_is_told_once_in_its_cool_down_and_what_passes_by_itself_is_not():
    treasury = Troubled(Engine(open_store("memory:")))
    clock = Clock()
    async with receiver() as hook, alerts(treasury, options(channel(hook)), clock) as desk:
        await begin(treasury, desk)
        for reasons in (("followers_behind",), ("drift", "followers_behind"), ("drift",)):
            treasury.reasons = reasons
            clock.move(6)
            await pump(desk)
        assert len(hook.bodies) == 1
        clock.move(3_600)
        await pump(desk)
    await treasury.close()
    assert [body["data"]["facts"] for body in hook.bodies] == [{"reasons": ["drift"]}] * 2


# -- what is derived --------------------------------------------------------------------------------------------------


# covers D66
async def test_high_consumption_is_told_once_in_its_cool_down():
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT)
        clock = Clock(treasury.engine.now_ms)
        async with alerts(treasury, options(channel(hook, kinds=("HighTokenConsumption",))), clock) as desk:
            await begin(treasury, desk)
            await do(treasury, used(400_000))
            await views_are_current(treasury)
            for _ in range(5):
                clock.move(6)
                await pump(desk)
            assert len(hook.bodies) == 1
            clock.move(3_600)  # nothing is seen any more of what was used
            await pump(desk)
    (body,) = hook.bodies
    assert body["type"] == "high_token_consumption"
    assert body["data"]["facts"] == {"tokens_per_s": 1333.3, "minutes": 5}
    assert body["data"]["aliases"] == ["analytics_alert", "token.analytics.alert", "HighTokenConsumption"]


async def test_an_overdraft_is_told_once_in_a_window():
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        clock = Clock()
        async with alerts(treasury, options(channel(hook, kinds=("overdrawn",))), clock) as desk:
            await begin(treasury, desk)
            for tokens in (120, 5):
                await do(treasury, used(tokens))
                await views_are_current(treasury)
                clock.move(6)
                await pump(desk)
    (body,) = hook.bodies
    assert body["data"]["title"] == "agent:x: budget main is overdrawn by 20 tokens"


# covers D66
async def test_a_budget_of_which_less_than_a_tenth_is_left_for_ten_minutes_is_told_once():
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        clock = Clock()
        async with alerts(treasury, options(channel(hook, kinds=("DEANTokenBudgetExhausted",))), clock) as desk:
            await begin(treasury, desk)
            await do(treasury, used(95))
            for _ in range(12):
                clock.move(59)
                await pump(desk)
                if clock.now_ms <= Clock().now_ms + 600_000:
                    assert hook.bodies == []
            for _ in range(30):
                clock.move(300)
                await pump(desk)
    (body,) = hook.bodies
    assert body["data"]["title"] == "agent:x: only 5 tokens of budget main is left, for some time now"


# covers D66
async def test_a_budget_that_will_be_gone_within_the_hour_is_told_while_there_is_time():
    async with ledger() as treasury, receiver() as hook:
        await do(
            treasury,
            PutAccount(account="team:search"),
            AGENT,
            PutBudget(account="agent:x", budget="main", unit="tokens", limit=1000),
        )
        clock = Clock()
        async with alerts(treasury, options(channel(hook, kinds=("BudgetNearExhaustion",))), clock) as desk:
            await begin(treasury, desk)
            await do(treasury, used(600))
            for _ in range(8):
                await pump(desk)
                clock.move(60)
                await do(treasury, used(20))
            await pump(desk)
    (body,) = hook.bodies
    assert 0 < body["data"]["facts"]["exhausted_in_s"] <= 3_600


async def test_a_second_node_takes_over_and_repeats_nothing(tmp_path):
    path = tmp_path / "shared"
    store = SqliteAlerts(path, "default")
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        clock = Clock()
        async with (
            alerts(treasury, options(channel(hook)), clock, store) as first,
            alerts(treasury, options(channel(hook)), clock, store) as second,
        ):
            await begin(treasury, first)
            await do(treasury, used(60))
            assert not await second.follower.turn()
            assert not second.follower.leads
            await pump(first)
            clock.move(20)
            await do(treasury, used(20))
            await pump(second)
            assert second.follower.leads
            await do(treasury, used(12))
            # The first one was asleep and thinks that it leads: what it does is not taken.
            first.follower.leads = True
            first.follower._leads_until_ms = clock.now_ms + 60_000
            await follow(first)
            assert not first.follower.leads
            await pump(second)
            await deliver(first)
    assert [body["data"]["facts"]["percent"] for body in hook.bodies] == [50, 75, 90]


async def test_settlements_beyond_the_hold_within_the_budget_are_no_overdraft():
    async with ledger() as treasury, receiver() as hook:
        await do(treasury, PutAccount(account="team:search"), AGENT, BUDGET)
        clock = Clock()
        async with alerts(treasury, options(channel(hook, kinds=("overdrawn",))), clock) as desk:
            await begin(treasury, desk)
            id = str(uuid4())
            await do(treasury, Reserve(id=id, account="agent:x", amounts={"tokens": 10}))
            await do(treasury, Settle(id=id, total={"tokens": 40}))
            await views_are_current(treasury)
            clock.move(6)
            await pump(desk)
    assert hook.bodies == []
