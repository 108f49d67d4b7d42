"""State = fold(journal) (design.md §2 E3, E13): any journal replayed gives the same state, whole or in parts."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from fiscus.core.commands import (
    Adjust,
    Allocate,
    ApproveOverride,
    Attend,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    EraseName,
    Extend,
    PutAccount,
    PutBudget,
    PutKey,
    PutPrice,
    PutTemplate,
    Release,
    RemoveBudget,
    RemovePrice,
    RemoveTemplate,
    Request,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeKey,
    RevokeOverride,
    SetStatus,
    Settle,
    TemplateBudget,
    Transfer,
)
from fiscus.core.decide import decide, new_draft
from fiscus.core.events import AnyEvent, Checkpoint, Event
from fiscus.core.fold import FOLDS, fold
from fiscus.core.records import CallRecord
from tests.core.builders import HOUR, MINUTE, Ledger, folded, moment, rows

NAMES = ("root", "a", "b", "leaf", "t:1")
names = st.sampled_from(NAMES)
ids = st.sampled_from(["h1", "h2", "h3"])
sizes = st.integers(0, 60)
tokens = st.fixed_dictionaries({"tokens": st.integers(1, 60)})
commands = st.one_of(
    st.builds(Reserve, id=ids, account=names, amounts=tokens, lease_s=st.sampled_from([60, 5_000])),
    st.builds(Reserve, id=ids, account=names, amounts=tokens, also=st.tuples(names)),
    st.builds(
        Reserve,
        id=ids,
        account=names,
        amounts=tokens,
        lease_s=st.sampled_from([20, 5_000]),
        wait_s=st.sampled_from([20, 3_600]),
    ),
    st.builds(Attend, id=ids, gone=st.booleans()),
    st.builds(Extend, id=ids, to=tokens),
    st.builds(Settle, id=ids, total=tokens, final=st.booleans()),
    st.builds(Settle, id=ids, total=tokens, account=names),
    st.builds(Release, id=ids, account=st.none() | names),
    st.builds(Allocate, account=names, unit=st.just("tokens"), to=sizes),
    st.builds(Deallocate, account=names, unit=st.just("tokens")),
    st.builds(Transfer, source=names, target=names, unit=st.just("tokens"), amount=st.integers(1, 30)),
    st.builds(
        Adjust,
        id=st.sampled_from(["x", "y"]),
        account=names,
        budget=st.just("tokens-hour"),
        amount=st.integers(-30, 60),
        reason=st.just("r"),
        valid_until=st.none() | st.just(moment(90 * MINUTE)),
    ),
    st.builds(
        RequestOverride,
        id=st.sampled_from(["x", "y"]),
        account=names,
        budget=st.just("tokens-hour"),
        amount=st.integers(1, 60),
        reason=st.just("r"),
        valid_s=st.none() | st.integers(60, 5_000),
        open_s=st.sampled_from([60, 3_600]),
    ),
    st.builds(ApproveOverride, id=st.sampled_from(["x", "y"]), amount=st.none() | st.integers(1, 40)),
    st.builds(DenyOverride, id=st.sampled_from(["x", "y"]), reason=st.just("r")),
    st.builds(RevokeOverride, id=st.sampled_from(["x", "y"])),
    st.builds(
        Settle,
        id=ids,
        total=tokens,
        account=names,
        record=st.builds(CallRecord, confidence=st.sampled_from([0.1, 0.9])),
        attributes=st.sampled_from([{}, {"task": "t"}]),
    ),
    st.builds(Reserve, id=ids, account=names, amounts=tokens, attributes=st.just({"task": "t"})),
    st.builds(ResetGate, account=names, task=st.sampled_from([None, "", "t"])),
    st.builds(EndAdjustment, id=st.sampled_from(["x", "y"]), account=names),
    st.builds(
        PutBudget,
        account=names,
        unit=st.just("tokens"),
        limit=st.integers(0, 200),
        period=st.just("hour"),
        carry_over=st.sampled_from(["none", "unused"]),
        carry_debt=st.booleans(),
        on_exhaustion=st.sampled_from(["deny", "suspend"]),
        force=st.booleans(),
    ),
    st.builds(RemoveBudget, account=names, budget=st.just("tokens-hour")),
    st.builds(SetStatus, account=names, status=st.sampled_from(["active", "suspended", "closed"])),
    st.builds(PutAccount, account=names, priority=st.integers(1, 3)),
    st.builds(
        PutAccount,
        account=names,
        confidence_threshold=st.sampled_from([None, 0.5]),
        gate_s=st.sampled_from([UNSET, 60]),
    ),
    st.builds(PutAccount, account=names, grant_strategy=st.sampled_from([None, "classic", "proven"])),
)


# covers E1-E5, E13
@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.tuples(commands, st.sampled_from([0, 0, 9_000, MINUTE, HOUR, 3 * HOUR])), max_size=14))
def test_whatever_is_decided_the_invariants_hold_and_the_journal_gives_the_same_state(steps):
    ledger = Ledger(quarantine_ms=HOUR)
    ledger.tree("root", "root/a", "root/b", "a/leaf")
    ledger.budget("root", 100, period="hour", carry_over="unused")
    ledger.template("t:*", parent="a", budgets=(TemplateBudget(unit="calls", limit=2),))
    ledger.keys(boss="admin", asker="operator")
    for command, step in steps:
        actor = "asker" if isinstance(command, RequestOverride) else "boss"
        ledger.wait(step).decide(command, actor=actor)
    ledger.check_replay()


@pytest.fixture
def long(ledger):
    """A journal with every kind of event in it."""
    ledger.tree("root", "root/a", "root/b", "a/leaf")
    ledger.budget("root", 200, period="hour", carry_over="unused", carry_debt=True)
    ledger.account("a", priority=2, labels={"k": "v"})
    ledger.allocate("a", 60)
    ledger.allocate("b", 40)
    ledger.allocate("leaf", 20)
    ledger.allocate("leaf", 25)
    ledger.budget("root", 500, period="day", budget="late")
    ledger.transfer("b", "a", 5)
    ledger.account("a", shortage=("clamp",), grant_strategy="proven")
    ledger.lend("l", "a", ("b", 5))
    ledger.reserve("h0", "a", 40, loans=("l",))
    ledger.release("h0")
    ledger.reserve("h1", "leaf", 10)
    ledger.extend("h1", 20, lease_s=900)
    ledger.running("h1", 22)
    ledger.settle("h1", 25)
    ledger.reserve("h2", "b", 5, lease_s=60)
    ledger.release("h3", account="b")
    ledger.adjust("x", "root", 30, budget="tokens-hour", valid_until=moment(MINUTE))
    ledger.status("a", "suspended")
    ledger.status("a", "active")
    ledger.template("t:*", parent="root", budgets=(TemplateBudget(unit="calls", limit=2),))
    ledger.reserve("h4", "t:1", 5)
    ledger.do(RemoveTemplate(pattern="t:*"))
    ledger.do(PutKey(key="k", digest="d", role="viewer"))
    ledger.keys(boss="admin")
    for id in ("o1", "o2", "o3", "o4"):
        ledger.ask(id, "root", 10, budget="tokens-hour", open_s=600)
    ledger.approve("o1")
    ledger.revoke("o1")
    ledger.deny("o2")
    ledger.revoke("o3", by="asker")
    ledger.account("a", confidence_threshold=0.5)
    ledger.use("a", 1, record=CallRecord(confidence=0.7), attributes={"task": "t"})
    ledger.reset_gate("a")
    ledger.do(RevokeKey(key="k"))
    ledger.do(PutPrice(price="p", provider="*", model="m", rates={"input": 1, "output": 2}))
    ledger.do(RemovePrice(price="p"))
    ledger.use("t:1", 300)
    ledger.wait(30 * HOUR).due()
    ledger.spend("root", 1)
    ledger.remove_budget("root", "late")
    ledger.deallocate("b")
    ledger.status("leaf", "closed")
    ledger.do(EraseName(account="leaf"))
    ledger.account("w")
    ledger.budget("w", 10)
    ledger.reserve("w1", "w", 10)
    ledger.queue("w2", "w", 5)
    ledger.wait(20_000).attend("w2")
    ledger.attend("w2", gone=True)
    return ledger


def test_every_kind_of_event_has_a_fold_and_folding_it_gives_the_state(long):
    happened = {type(event) for event, _ in long.journal}
    assert set(FOLDS) == set(AnyEvent.__args__)
    assert set(FOLDS) - happened == {Checkpoint}, "the journal above has every other kind in it"
    assert rows(folded(long.journal, long.rules)) == rows(long.draft)


# covers E3
def test_a_journal_may_be_folded_in_parts_and_through_its_wire_form(long):
    fresh = new_draft(long.rules)
    for number, (event, at) in enumerate(long.journal):
        read = msgspec.json.decode(msgspec.json.encode(event), type=AnyEvent)
        assert read == event
        fold(fresh, read, at)
        if number % 3 == 0:
            fresh.commit()
    assert rows(fresh) == rows(long.draft)


# covers E3
def test_a_replica_that_folds_decides_like_the_node_that_wrote(long):
    replica = folded(long.journal, long.rules)
    replica.commit()
    now = long.now + 3 * HOUR
    for command in (
        Reserve(id="n1", account="a", amounts={"tokens": 70}),
        Reserve(id="n2", account="b", amounts={"tokens": 500}),
        Settle(id="h2", total={"tokens": 9}),
        Compound(commands=(PutAccount(account="c", parent="a"), Allocate(account="c", unit="tokens", to=3))),
        PutTemplate(pattern="t:*", max_children=1),
    ):
        long.now = now
        mine = long.decide(command)
        assert decide(replica, Request(command=command), now) == mine
        assert replica.events == long.last
        replica.commit()


def test_a_checkpoint_changes_nothing(pool):
    before = rows(pool.draft)
    fold(pool.draft, Checkpoint(state_seq=1, chain_hash="", state_digest=""), pool.now)
    assert rows(pool.draft) == before


# covers T5
def test_facts_cannot_be_changed(long):
    assert all(isinstance(event, Event) for event, _ in long.journal)
    with pytest.raises(AttributeError):
        long.journal[0][0].account = 7


# covers E5
def test_what_was_booked_is_handed_on_once_and_adds_up(pool):
    """The read models are fed by ``Draft.bookings``: their sum is what stands on the books."""
    sums = {"tokens": 0}
    original = pool.draft.commit

    def commit():
        for booking in pool.draft.bookings:
            sums["tokens"] += booking.amounts.get("tokens", 0)
        return original()

    pool.draft.commit = commit
    pool.reserve("h", "a", 40, lease_s=60)
    pool.running("h", 10)
    pool.running("h", 8)
    pool.wait(48 * HOUR).due()
    assert sums["tokens"] == 40, "closed as a charge"
    pool.settle("h", 25)
    pool.settle("h", 27)
    pool.use("b", 5)
    pool.compound(Settle(id="z", account="b", total={"tokens": 2}), Release(id="unknown"), refused="unknown_hold")
    assert sums["tokens"] == 34
    assert pool.cell("root") == (100, 25, 0, 0, 9)
