"""The engine: durable before it is answered, alive whatever happens, one commit for many."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from fiscus.contract.errors import BudgetUnavailable, TreasuryError, UnknownFormat
from fiscus.contract.queries import ReadAccount, ReadHold, ReadLoan
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Compound,
    Extend,
    Lend,
    LoanPart,
    PutAccount,
    PutBudget,
    PutTemplate,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
    TemplateBudget,
    Transfer,
)
from fiscus.core.outcomes import AccountAnswer, CompoundAnswer, HoldAnswer, Refused
from fiscus.core.state import KINDS, Rules
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury import engine as engine_module
from fiscus.treasury.codec import link
from fiscus.treasury.engine import FOLLOWER_NICENESS, Engine
from fiscus.treasury.store import Row
from fiscus.treasury.verify import verify
from tests.treasury.clock import ManualClock
from tests.treasury.desk import SALT, Desk, entities, journal
from tests.treasury.faults import Faults, watched_store

WAIT_S = 20
"""How long something that must happen may take; reached only by a test that fails."""

QUIET_S = 0.3
"""How long is watched that something does not happen."""


class Gate:
    """A hook at which the engine stops at one point until it is let through."""

    def __init__(self) -> None:
        self.point: str | None = None
        self.reached = threading.Event()
        self.opened = threading.Event()

    def close(self, point: str) -> None:
        self.reached.clear()
        self.opened.clear()
        self.point = point

    def open(self) -> None:
        self.point = None
        self.opened.set()

    def __call__(self, point: str) -> None:
        if point == self.point:
            self.reached.set()
            assert self.opened.wait(WAIT_S)


class Counter:
    """A port for threads: answers arrive in a queue."""

    def __init__(self) -> None:
        self.answers: SimpleQueue[tuple[Any, Any]] = SimpleQueue()

    def deliver(self, answers: list[tuple[Any, Any]]) -> None:
        for answer in answers:
            self.answers.put(answer)

    def next(self) -> tuple[Any, Any]:
        return self.answers.get(timeout=WAIT_S)


@contextmanager
def running(store: Any, **options: Any):
    """An engine with its threads."""
    engine = Engine(store, salt=lambda: SALT, **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def desk(tmp_path, clock, faults):
    """An engine without threads, whose store can be made to fail."""
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults), clock)
    yield desk
    desk.engine.close()


def found_team(desk, limit=1_000):
    """``team:a`` with a budget of tokens and ``agent:a`` … ``agent:c`` below it."""
    desk.do(PutAccount(account="team:a"))
    desk.do(PutBudget(account="team:a", unit="tokens", limit=limit))
    for letter in "abc":
        desk.do(PutAccount(account=f"agent:{letter}", parent="team:a"))


def hold(id, account="agent:a", amount=10, **more):
    return Request(command=Reserve(id=id, account=account, amounts={"tokens": amount}, **more))


# -- durable before it is answered --------------------------------------------------------------------------------


# covers E11
@pytest.mark.parametrize("point", ["before begin", "before entries", "after entries", "before commit"])
def test_nothing_is_answered_before_it_is_committed(tmp_path, point):
    gate = Gate()
    store = watched_store(tmp_path / "fiscus.db", gate)
    with running(store) as engine:
        counter = Counter()
        gate.close(f"journal: {point}")
        engine.submit(counter, "first", Request(command=PutAccount(account="agent:a")))
        assert gate.reached.wait(WAIT_S)
        assert counter.answers.empty()
        assert store.journal.head(1) is None
        gate.open()
        token, answer = counter.next()
        assert (token, answer.account) == ("first", "agent:a")
        assert store.journal.head(1).seq == 1


def test_while_a_batch_commits_the_next_one_gathers(tmp_path):
    gate = Gate()
    with running(watched_store(tmp_path / "fiscus.db", gate)) as engine:
        counter = Counter()
        gate.close("journal: before commit")
        engine.submit(counter, 0, Request(command=PutAccount(account="agent:0")))
        assert gate.reached.wait(WAIT_S)
        for number in range(1, 31):
            engine.submit(counter, number, Request(command=PutAccount(account=f"agent:{number}")))
        batches = engine.statistics.batches
        gate.open()
        assert [counter.next()[0] for _ in range(31)] == list(range(31))
        assert engine.statistics.batches == batches + 1


def test_the_log_is_looked_after_only_while_nobody_waits(desk, monkeypatch):
    tidied = []
    monkeypatch.setattr(desk.engine.store.journal, "tidy", lambda: tidied.append(True))
    desk.engine.submit(desk, 0, Request(command=PutAccount(account="agent:a")))
    desk.engine.after_batch()
    desk.engine._aside = desk.engine._queue.get_nowait()
    desk.engine.after_batch()
    waiting, desk.engine._aside = [desk.engine._aside], None
    desk.engine.run_batch(waiting)
    assert not tidied
    desk.engine.after_batch()
    assert tidied


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all threads of a process have one priority")
def test_the_follower_lets_the_engine_go_first(tmp_path):
    with running(SqliteStore(tmp_path / "fiscus.db")) as engine:
        counter = Counter()
        engine.submit(counter, 0, Request(command=PutAccount(account="agent:a")))
        counter.next()
        deadline = time.monotonic() + WAIT_S
        while (lower := priority(engine._follower)) == priority(engine._thread) < 19 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lower == min(19, priority(engine._thread) + FOLLOWER_NICENESS)


def priority(thread):
    return os.getpriority(os.PRIO_PROCESS, thread.native_id)


def test_a_full_queue_says_when_to_come_again_and_accepts_nothing(tmp_path):
    gate = Gate()
    store = watched_store(tmp_path / "fiscus.db", gate)
    with running(store, queue_max=5) as engine:
        counter = Counter()
        gate.close("journal: before commit")
        engine.submit(counter, "first", Request(command=PutAccount(account="agent:first")))
        assert gate.reached.wait(WAIT_S)
        for number in range(5):
            engine.submit(counter, number, Request(command=PutAccount(account=f"agent:{number}")))
        with pytest.raises(BudgetUnavailable) as full:
            engine.submit(counter, "too many", Request(command=PutAccount(account="agent:too-many")))
        assert full.value.retryable
        assert full.value.retry_after_s >= 1
        assert engine.readiness().queue_depth == 5
        gate.open()
        assert {counter.next()[0] for _ in range(6)} == {"first", 0, 1, 2, 3, 4}
        engine.submit(counter, "again", Request(command=PutAccount(account="agent:again")))
        assert counter.next()[0] == "again"
        assert store.journal.head(1).seq == 7


def test_an_engine_that_outruns_its_follower_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "BACKLOG_ROWS_MAX", 20)
    monkeypatch.setattr(engine_module, "SNAPSHOT_ROWS", 1)
    gate = Gate()
    with running(watched_store(tmp_path / "fiscus.db", gate)) as engine:
        counter = Counter()
        gate.close("views: before commit")
        engine.submit(counter, "first", Request(command=PutAccount(account="agent:first")))
        assert counter.next()[0] == "first"
        assert gate.reached.wait(WAIT_S)
        for number in range(60):
            engine.submit(counter, number, Request(command=PutAccount(account=f"agent:{number}")))
        answered = 0
        while not counter.answers.empty() or answered < 21:
            counter.next()
            answered += 1
        engine.submit(counter, "last", Request(command=PutAccount(account="agent:last")))
        waited = threading.Event()
        waited.wait(QUIET_S)
        late = []
        while not counter.answers.empty():
            late.append(counter.next()[0])
        assert "last" not in late
        gate.open()
        while (token := counter.next()[0]) != "last":
            late.append(token)


def test_an_engine_that_closes_answers_what_it_accepted_and_refuses_the_rest(tmp_path):
    gate = Gate()
    store = watched_store(tmp_path / "fiscus.db", gate)
    engine = Engine(store)
    engine.start()
    counter = Counter()
    gate.close("journal: before commit")
    for number in range(4):
        engine.submit(counter, number, Request(command=PutAccount(account=f"agent:{number}")))
    assert gate.reached.wait(WAIT_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._draining:
        threading.Event().wait(0.01)
    with pytest.raises(BudgetUnavailable):
        engine.submit(counter, "late", Request(command=PutAccount(account="agent:late")))
    with pytest.raises(BudgetUnavailable):
        engine.checkpoint()
    assert engine.readiness().reasons == ("draining",)
    gate.open()
    assert {counter.next()[0] for _ in range(4)} == {0, 1, 2, 3}
    closing.join(WAIT_S)
    assert not closing.is_alive()
    again = SqliteStore(tmp_path / "fiscus.db")
    assert again.views.watermark(1).seq == again.journal.head(1).seq == 4
    again.close()


# -- defects ------------------------------------------------------------------------------------------------------

DEFECTS = [KeyError, AttributeError, RuntimeError, RecursionError, OSError]


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_in_a_decision_fails_its_own_command_only(desk, monkeypatch, defect):
    found_team(desk)
    decide = engine_module.decide

    def decide_badly(draft, request, now):
        outcome = decide(draft, request, now)
        if getattr(request.command, "id", "") == "bad":
            raise defect("a defect")
        return outcome

    monkeypatch.setattr(engine_module, "decide", decide_badly)
    answers = desk.ask(hold("one"), hold("bad"), hold("two"), ReadAccount(account="agent:a"))
    assert [type(answer) for answer in answers[:3]] == [HoldAnswer, TreasuryError, HoldAnswer]
    assert not isinstance(answers[1], BudgetUnavailable)
    assert desk.balance("team:a").held == 20
    assert desk.engine.statistics.defects >= 1
    monkeypatch.undo()
    assert isinstance(desk.do(Reserve(id="bad", account="agent:a", amounts={"tokens": 1})), HoldAnswer)
    assert verify(desk.engine.store).faults == ()


@pytest.mark.parametrize("defect", DEFECTS)
def test_an_observer_that_fails_neither_stops_the_engine_nor_doubles_anything(desk, defect):
    found_team(desk)
    desk.do(PutAccount(account="agent:d", parent="team:a"))
    desk.ask(hold("first"))
    before = journal(desk.engine.store)

    def observe(committed):
        raise defect("an observer's defect")

    desk.engine.observers.append(observe)
    answers = desk.ask(
        hold("one"),
        Request(command=Settle(id="usage", account="agent:b", total={"tokens": 5})),
        Request(command=PutBudget(account="agent:d", unit="tokens", limit=7)),
    )
    assert not any(isinstance(answer, TreasuryError) for answer in answers)
    desk.engine.observers.clear()
    kinds = [body.split(b'"')[3] for _, _, body, _ in journal(desk.engine.store)[len(before) :]]
    assert sorted(kinds) == [b"budget_put", b"held", b"settled"]
    assert desk.balance("team:a").held == 20


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_port_that_fails_keeps_nobody_else_from_their_answers(tmp_path, defect):
    gate = Gate()
    with running(watched_store(tmp_path / "fiscus.db", gate)) as engine:

        class Broken:
            def deliver(self, answers):
                raise defect("nobody there")

        counter = Counter()
        gate.close("journal: before commit")
        engine.submit(counter, 0, Request(command=PutAccount(account="agent:0")))
        assert gate.reached.wait(WAIT_S)
        engine.submit(Broken(), 1, Request(command=PutAccount(account="agent:1")))
        engine.submit(counter, 2, Request(command=PutAccount(account="agent:2")))
        gate.open()
        assert [counter.next()[0] for _ in range(2)] == [0, 2]
        engine.submit(counter, 3, Request(command=PutAccount(account="agent:3")))
        assert counter.next()[0] == 3


def test_a_thread_with_a_defect_in_a_decision_goes_on(tmp_path, monkeypatch):
    store = SqliteStore(tmp_path / "fiscus.db")
    monkeypatch.setattr(engine_module, "decide", lambda draft, request, now: draft.no_such_thing)
    with running(store) as engine:
        counter = Counter()
        engine.submit(counter, "bad", Request(command=PutAccount(account="agent:a")))
        assert isinstance(counter.next()[1], TreasuryError)
        monkeypatch.undo()
        engine.submit(counter, "good", Request(command=PutAccount(account="agent:a")))
        assert isinstance(counter.next()[1], AccountAnswer)


def test_an_errand_that_fails_tells_who_asked_for_it_and_harms_nobody(tmp_path):
    with running(SqliteStore(tmp_path / "fiscus.db")) as engine:
        with pytest.raises(ZeroDivisionError):
            engine.errand(lambda: 1 // 0)
        counter = Counter()
        engine.submit(counter, "after", Request(command=PutAccount(account="agent:a")))
        assert counter.next()[0] == "after"


# -- tenants ------------------------------------------------------------------------------------------------------


def test_tenants_share_nothing_though_names_and_ids_are_the_same_and_one_commit_holds_all(desk, faults):
    tenants = ["default", "north", "south"]
    for limit, tenant in enumerate(tenants, start=1):
        desk.do(PutAccount(account="team:a"), tenant=tenant)
        desk.do(PutBudget(account="team:a", unit="tokens", limit=100 * limit), tenant=tenant)
    commits = faults.seen["journal: before commit"] + faults.seen["journal: before entries"]
    wishes = [
        Request(
            tenant=tenant, command=Reserve(id="same", account="team:a", amounts={"tokens": 150}), idempotency_key="k"
        )
        for tenant in tenants
    ]
    refused, *held = desk.ask(*wishes)
    assert isinstance(refused, Refused)
    assert [answer.id for answer in held] == ["same", "same"]
    assert faults.seen["journal: before commit"] + faults.seen["journal: before entries"] <= commits + 2
    assert [desk.balance("team:a", tenant=tenant).held for tenant in tenants] == [0, 150, 150]
    desk.do(SetStatus(account="team:a", status="suspended"), tenant="north", idempotency_key="key")
    answer = desk.do(PutAccount(account="team:b"), tenant="south", idempotency_key="key")
    assert isinstance(answer, AccountAnswer)
    assert desk.account("team:a", tenant="south").status == "active"
    assert desk.ask(ReadAccount(tenant="north", account="team:b"))[0].code == "unknown_account"
    assert desk.ask(ReadHold(tenant="default", id="same"))[0].code == "unknown_hold"
    desk.write_views()
    store = desk.engine.store
    for tenant in tenants:
        assert verify(store, tenant).faults == ()
    chains = [{entry[3] for entry in journal(store, tenant)} for tenant in tenants]
    assert chains[0] & chains[1] == chains[1] & chains[2] == set()
    sizes = [len(entities(store, tenant)) for tenant in tenants]
    assert sizes == [2, 4, 5]


# -- keys and ids -------------------------------------------------------------------------------------------------


# covers E7
@pytest.mark.parametrize(
    ("command", "other"),
    [
        (PutAccount(account="agent:new", parent="team:a"), PutAccount(account="agent:newer")),
        (PutAccount(account="agent:a", labels={"x": "1"}), PutAccount(account="agent:a", labels={"x": "2"})),
        (SetStatus(account="agent:a", status="suspended"), SetStatus(account="agent:a", status="closed")),
        (
            Adjust(id="adjustment", account="team:a", budget="tokens-lifetime", amount=5, reason="r"),
            Adjust(id="adjustment", account="team:a", budget="tokens-lifetime", amount=6, reason="r"),
        ),
        (PutBudget(account="agent:a", unit="tokens", limit=5), PutBudget(account="agent:a", unit="tokens", limit=6)),
    ],
    ids=lambda command: type(command).__name__,
)
def test_the_same_key_has_one_effect_and_one_answer_and_another_body_is_a_conflict(desk, command, other):
    found_team(desk)
    first = desk.do(command, idempotency_key="key")
    before = journal(desk.engine.store)
    desk.do(SetStatus(account="agent:b", status="suspended"))
    again, changed = desk.ask(
        Request(command=command, idempotency_key="key"), Request(command=other, idempotency_key="key")
    )
    assert again == first
    assert (changed.code, changed.field) == ("conflict", "Idempotency-Key")
    assert len(journal(desk.engine.store)) == len(before) + 1
    desk.engine._forget()
    assert desk.do(command, idempotency_key="key") == first


# covers E7
def test_a_key_that_comes_twice_in_one_batch_has_one_effect(desk):
    found_team(desk)
    for letter in "ab":
        desk.do(PutBudget(account=f"agent:{letter}", unit="tokens", limit=100))
    command = Adjust(id="a", account="team:a", budget="tokens-lifetime", amount=5, reason="r")
    other = Adjust(id="b", account="team:a", budget="tokens-lifetime", amount=7, reason="r")
    first, again, conflict = desk.ask(
        Request(command=command, idempotency_key="key"),
        Request(command=command, idempotency_key="key"),
        Request(command=other, idempotency_key="key"),
    )
    assert first == again
    assert conflict.code == "conflict"
    assert desk.balance("team:a").limit == 1_005


# covers E7
def test_a_key_means_the_same_whether_defaults_were_written_or_left_out(desk):
    found_team(desk)
    first = desk.do(PutBudget(account="agent:a", unit="tokens", limit=5), idempotency_key="key")
    written = PutBudget(account="agent:a", unit="tokens", limit=5, period="".join(["life", "time"]), zone="UTC"[:3])
    assert desk.do(written, idempotency_key="key") == first


# covers E7
def test_a_refusal_is_not_remembered(desk):
    found_team(desk, limit=5)
    command = PutBudget(account="agent:new", unit="tokens", limit=5)
    assert desk.do(command, idempotency_key="key").code == "unknown_account"
    desk.do(PutAccount(account="agent:new"))
    assert not isinstance(desk.do(command, idempotency_key="key"), Refused)
    assert isinstance(desk.ask(hold("h", amount=6))[0], Refused)
    assert isinstance(desk.ask(hold("h", amount=5))[0], HoldAnswer)


def test_a_key_is_bound_to_who_may_do_what(desk):
    found_team(desk)
    command = PutAccount(account="agent:a", labels={"x": "1"})
    assert isinstance(desk.do(command, idempotency_key="key", scope="agent:a"), AccountAnswer)
    assert desk.do(command, idempotency_key="key", scope="agent:b").code == "conflict"


DAY_MS = 86_400_000


# covers E7
def test_an_answer_is_kept_for_thirty_days_and_the_key_for_ever(desk, clock):
    found_team(desk)
    command = Adjust(id="a", account="team:a", budget="tokens-lifetime", amount=5, reason="r")
    first = desk.do(command, idempotency_key="key")
    clock.advance(30 * DAY_MS - 1)
    desk.after_batch()
    assert desk.do(command, idempotency_key="key") == first
    clock.advance(60_000)
    for _ in range(2):
        assert desk.do(command, idempotency_key="key").code == "idempotency_expired"
        desk.after_batch()
    assert desk.balance("team:a").limit == 1_005


# covers E7
def test_the_id_of_a_hold_whose_views_are_pruned_is_refused_and_books_nothing(desk, clock):
    found_team(desk)
    desk.ask(hold("old"))
    desk.do(Settle(id="old", total={"tokens": 7}))
    desk.do(Settle(id="after the fact", account="agent:a", total={"tokens": 5}))
    desk.do(Release(id="never came", account="agent:a"))
    desk.write_views()
    clock.advance(31 * DAY_MS)
    assert desk.engine.store.views.prune_ended(clock.wall_ms() - 30 * DAY_MS, 100) == 3
    desk.engine._forget()
    before = journal(desk.engine.store)
    answers = desk.ask(
        hold("old"), hold("new"), Request(command=Settle(id="after the fact", account="agent:a", total={"tokens": 5}))
    )
    assert [getattr(answer, "code", "held") for answer in answers] == [
        "idempotency_expired",
        "held",
        "idempotency_expired",
    ]
    assert len(journal(desk.engine.store)) == len(before) + 1
    assert (desk.balance("team:a").spent, desk.balance("team:a").held) == (12, 10)


# -- what happens by itself ---------------------------------------------------------------------------------------


def test_a_hold_expires_and_its_quarantine_closes_by_the_clock_alone(tmp_path, clock):
    store = SqliteStore(tmp_path / "fiscus.db")
    desk = Desk(store, clock, Rules(quarantine_ms=3_600_000, quarantine="charge"))
    found_team(desk)
    desk.ask(hold("h", amount=40, lease_s=10), hold("kept", amount=5, lease_s=3_600))
    clock.advance(9_999)
    desk.engine.run_batch([])
    assert desk.balance("team:a").held == 45
    clock.advance(1)
    desk.engine.run_batch([])
    balance = desk.balance("team:a")
    assert (balance.held, balance.quarantined, balance.spent) == (5, 40, 0)
    clock.advance(3_500_000)
    desk.do(Extend(id="kept", to={}, lease_s=3_600))
    clock.advance(100_000)
    desk.engine.run_batch([])
    balance = desk.balance("team:a")
    assert (balance.held, balance.quarantined, balance.spent) == (5, 0, 40)
    assert desk.do(Settle(id="h", total={"tokens": 33})).booked["tokens"] == 33
    assert desk.balance("team:a").spent == 33
    desk.write_views()
    assert verify(store).faults == ()
    desk.engine.close()


def test_what_is_due_happens_in_a_running_engine_without_calls(tmp_path, clock):
    with running(SqliteStore(tmp_path / "fiscus.db"), clock=clock) as engine:
        counter, expired = Counter(), threading.Event()
        engine.observers.append(
            lambda committed: [expired.set() for event in committed.events if type(event).__name__ == "Expired"]
        )
        engine.submit(counter, 0, Request(command=PutAccount(account="agent:a")))
        engine.submit(counter, 1, hold("h", lease_s=1))
        assert [counter.next()[0] for _ in range(2)] == [0, 1]
        clock.advance(1_000)
        assert expired.wait(WAIT_S)


def test_what_was_due_while_nobody_ran_happens_at_the_start(tmp_path, clock):
    store = SqliteStore(tmp_path / "fiscus.db")
    desk = Desk(store, clock)
    found_team(desk)
    desk.ask(hold("h", amount=40, lease_s=10))
    desk.engine.close()
    clock.advance(60_000)
    with running(SqliteStore(tmp_path / "fiscus.db"), clock=clock) as engine:
        expired = threading.Event()
        engine.observers.append(
            lambda committed: [expired.set() for event in committed.events if type(event).__name__ == "Expired"]
        )
        assert expired.wait(WAIT_S)


THREADS = PutTemplate(pattern="thread:*", parent="team:a", idle_close_s=60)
BUDGETED = PutTemplate(
    pattern="thread:*", parent="team:a", idle_close_s=60, budgets=(TemplateBudget(unit="tokens", limit=100),)
)


def pass_time(desk, clock, seconds):
    """Time goes by as it does for a running engine: with ticks, and views that follow."""
    for _ in range(seconds // 5):
        clock.advance(5_000)
        desk.engine.run_batch([])
        desk.write_views()
        desk.after_batch()


@pytest.mark.parametrize("template", [THREADS, BUDGETED], ids=["without budgets", "with budgets"])
def test_accounts_of_a_template_are_closed_when_nobody_uses_them(desk, clock, template):
    found_team(desk)
    desk.do(template)
    desk.do(Settle(id="u1", account="thread:1", total={"tokens": 5}))
    desk.ask(hold("h2", account="thread:2", lease_s=600))
    pass_time(desk, clock, 40)
    desk.do(Settle(id="u3", account="thread:3", total={"tokens": 5}))
    pass_time(desk, clock, 40)
    statuses = [desk.account(f"thread:{number}").status for number in (1, 2, 3)]
    assert statuses == ["closed", "active", "active"]
    assert desk.account("agent:a").status == "active"
    pass_time(desk, clock, 60)
    statuses = [desk.account(f"thread:{number}").status for number in (2, 3)]
    assert statuses == ["active", "closed"]
    assert isinstance(desk.do(Settle(id="h2", total={"tokens": 7})), HoldAnswer)
    pass_time(desk, clock, 120)
    assert desk.account("thread:2").status == "closed"
    assert desk.do(Settle(id="late", account="thread:1", total={"tokens": 3})).booked["tokens"] == 3
    assert verify(desk.engine.store).faults == ()


def test_an_account_that_is_used_again_just_now_is_not_closed(desk, clock):
    found_team(desk)
    desk.do(THREADS)
    desk.do(Settle(id="u1", account="thread:1", total={"tokens": 5}))
    desk.write_views()
    clock.advance(61_000)
    desk.ask(hold("again", account="thread:1"))
    desk.after_batch()
    assert desk.account("thread:1").status == "active"


# -- the clock ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_ms", [3_600_000, -3_600_000, 6_000, -6_000])
def test_when_the_clock_was_set_time_stands_still_until_an_operator_confirms_it(desk, clock, step_ms):
    found_team(desk)
    desk.do(THREADS)
    desk.do(PutBudget(account="agent:b", unit="tokens", limit=50, period="every:600"))
    desk.do(Settle(id="idle", account="thread:1", total={"tokens": 5}))
    desk.ask(hold("h", lease_s=20), hold("w", account="agent:b", amount=50, lease_s=86_400))
    desk.write_views()
    at_ms = desk.engine.ledger("default").head_at
    clock.step(step_ms)
    clock.advance(30_000)
    desk.engine.run_batch([])
    desk.after_batch()
    readiness = desk.engine.readiness()
    assert (readiness.ready, readiness.reasons) == (False, ("clock_stepped",))
    assert desk.balance("team:a").held == 60
    assert desk.balance("team:a").quarantined == 0
    assert desk.account("thread:1").status == "active"
    assert isinstance(desk.ask(hold("meanwhile"))[0], HoldAnswer)
    assert desk.ask(hold("w2", account="agent:b"))[0].code == "budget_busy"
    assert desk.engine.ledger("default").head_at == at_ms
    desk.engine.confirm_clock()
    assert desk.engine.readiness().ready
    clock.advance(3_600_000)
    desk.engine.run_batch([])
    assert desk.do(Release(id="meanwhile")).state in ("released", "expired")
    assert desk.engine.ledger("default").head_at == max(at_ms, clock.wall_ms())
    if step_ms > -3_600_000:
        assert desk.balance("team:a").quarantined >= 10


def test_a_clock_that_drifts_little_by_little_is_followed(desk, clock):
    found_team(desk)
    for _ in range(100):
        clock.step(300)
        clock.advance(250)
        desk.engine.run_batch([])
    assert desk.engine.readiness().ready
    desk.ask(hold("h"))
    assert desk.engine.ledger("default").head_at == clock.wall_ms()


def test_time_never_runs_behind_what_the_journal_says(tmp_path, clock):
    store = SqliteStore(tmp_path / "fiscus.db")
    desk = Desk(store, clock)
    found_team(desk)
    desk.ask(hold("h", lease_s=60))
    desk.engine.close()
    earlier = ManualClock(clock.wall_ms() - 86_400_000)
    desk = Desk(SqliteStore(tmp_path / "fiscus.db"), earlier)
    desk.ask(hold("h2"))
    times = [at for _, at, _, _ in journal(desk.engine.store)]
    assert times == sorted(times)
    assert desk.balance("team:a").held == 20
    desk.engine.close()


# -- what it says of itself ---------------------------------------------------------------------------------------


def test_the_lag_of_the_views_is_how_long_something_has_waited_for_them(desk, clock, faults):
    assert desk.engine.readiness().followers_lag_ms == 0
    found_team(desk)
    assert desk.engine.readiness().followers_lag_ms == 0
    clock.advance(3_000)
    assert desk.engine.readiness().followers_lag_ms == 3_000
    desk.write_views()
    readiness = desk.engine.readiness()
    assert readiness.followers_lag_ms == 0
    assert readiness.followers_seq == readiness.head_seq == 5
    clock.advance(3_600_000)
    desk.ask(hold("h"))
    assert desk.engine.readiness().followers_lag_ms == 0
    assert desk.engine.readiness().head_seq == len(journal(desk.engine.store))


def test_views_that_cannot_be_written_are_seen_in_the_lag_and_caught_up_later(tmp_path, clock):
    faults = Faults()
    store = watched_store(tmp_path / "fiscus.db", faults)
    with running(store, clock=clock) as engine:
        counter = Counter()
        faults.arm("views: before commit", 10_000)
        for number in range(20):
            engine.submit(counter, number, Request(command=PutAccount(account=f"agent:{number}")))
            clock.advance(500)
            assert isinstance(counter.next()[1], AccountAnswer)
        assert engine.readiness().followers_lag_ms >= 5_000
        faults.arm("views: before commit", 0)
    again = SqliteStore(tmp_path / "fiscus.db")
    assert again.views.watermark(1).seq == 20
    assert verify(again).faults == ()
    again.close()


# fault R17
def test_views_that_can_never_be_written_end_admissions_then_everything_and_memory_stays_bounded(
    tmp_path, clock, monkeypatch
):
    monkeypatch.setattr(engine_module, "BACKLOG_ROWS_MAX", 40)
    monkeypatch.setattr(engine_module, "BACKLOG_ROWS_FULL", 80)
    faults = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults), clock)
    found_team(desk)
    faults.arm("views: before commit", 10_000)

    def until_unavailable(make: Any) -> BudgetUnavailable:
        for number in range(100):
            clock.advance(engine_module.SNAPSHOT_MS)
            desk.after_batch()
            answer = desk.ask(make(number))[0]
            if isinstance(answer, BudgetUnavailable):
                return answer
            assert not isinstance(answer, Refused), answer
        raise AssertionError("it goes on for ever")

    assert "cannot be written" in str(until_unavailable(lambda number: hold(f"h{number}", amount=1)))
    assert desk.engine.readiness().reasons == ("followers_behind",)
    assert desk.engine._backlog in range(41, 50)
    usage = {"account": "agent:a", "total": {"tokens": 1}}
    until_unavailable(lambda number: Request(command=Settle(id=f"u{number}", **usage)))
    assert desk.engine._backlog in range(81, 90)
    faults.arm("views: before commit", 0)
    clock.advance(engine_module.SNAPSHOT_MS)
    desk.after_batch()
    desk.after_batch()
    assert desk.engine.readiness().ready
    assert isinstance(desk.ask(hold("again", amount=1))[0], HoldAnswer)
    desk.write_views()
    assert verify(desk.engine.store).faults == ()
    desk.engine.close()


def test_the_views_are_hurried_for_a_reader_but_not_again_at_once_nor_where_they_cannot_be_written(tmp_path, clock):
    faults = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults), clock)
    engine = desk.engine
    found_team(desk)

    def is_written(after_ms: int, *, hurried: bool = True) -> bool:
        clock.advance(after_ms)
        before = engine.statistics.snapshots
        desk.ask(hold(f"h{clock.monotonic_ms()}-{before}", amount=1))
        if hurried:
            engine.errand(engine._note_hurry)
        desk.after_batch()
        return engine.statistics.snapshots > before

    assert is_written(engine_module.SNAPSHOT_MS, hurried=False)
    assert not is_written(engine_module.HURRY_MS, hurried=False)
    assert is_written(0)
    assert not is_written(engine_module.HURRY_MS - 1)
    assert is_written(1)
    faults.arm("views: before commit", 1)
    assert not is_written(engine_module.HURRY_MS)
    assert not is_written(engine_module.SNAPSHOT_MS - 1)
    assert is_written(1)
    engine.close()


def test_views_that_are_too_old_are_a_reason_not_to_be_ready(desk, clock):
    found_team(desk)
    clock.advance(engine_module.FOLLOWERS_LAG_MS_MAX)
    assert desk.engine.readiness().ready
    clock.advance(1)
    assert desk.engine.readiness().reasons == ("followers_behind",)
    desk.write_views()
    assert desk.engine.readiness().ready


def test_a_tenant_of_a_newer_format_is_told_so_and_others_go_on(desk, clock):
    found_team(desk)
    desk.do(PutAccount(account="agent:x"), tenant="newer")
    desk.write_views()
    seq, at, _, before = journal(desk.engine.store, "newer")[-1]
    body = b'{"kind":"of_a_later_version"}'
    desk.engine.store.journal.append([Row(2, seq + 1, at, None, body, link(before, seq + 1, at, body))])
    desk.engine._forget()
    newer, own = desk.ask(
        Request(tenant="newer", command=PutAccount(account="agent:y")), Request(command=PutAccount(account="agent:y"))
    )
    assert isinstance(newer, UnknownFormat)
    assert isinstance(own, AccountAnswer)
    assert desk.engine.readiness().tenants == {"newer": "unknown_format"}
    assert desk.engine.statistics.defects == 0


def test_statistics_count_what_was_done(desk):
    found_team(desk)
    desk.ask(hold("a"), hold("b"))
    statistics = desk.engine.statistics
    assert (statistics.batches, statistics.submissions) == (6, 7)
    assert statistics.entries == len(journal(desk.engine.store))
    assert (statistics.commit_errors, statistics.defects, statistics.last_batch_size) == (0, 0, 2)


def test_a_transfer_is_all_or_nothing_in_one_commit(desk):
    """Covers E8: neither side changes when the commit fails, both when it comes back."""
    found_team(desk)
    for letter in "ab":
        desk.do(Allocate(account=f"agent:{letter}", unit="tokens", to=100))
    faults = desk.engine.store.journal._hook
    faults.arm("journal: before entries")
    request = Request(
        command=Transfer(source="agent:a", target="agent:b", unit="tokens", amount=30), idempotency_key="t"
    )
    assert isinstance(desk.ask(request)[0], BudgetUnavailable)
    assert [desk.balance(f"agent:{letter}", "allocation-tokens").limit for letter in "ab"] == [100, 100]
    assert desk.ask(request)[0].amount == 30
    assert [desk.balance(f"agent:{letter}", "allocation-tokens").limit for letter in "ab"] == [70, 130]
    assert desk.ask(request)[0].amount == 30
    assert [desk.balance(f"agent:{letter}", "allocation-tokens").limit for letter in "ab"] == [70, 130]


def lending(desk, id, ended=True):
    """b lends a 50 for one hold, which ends."""
    loan = Lend(id=f"loan-{id}", account="agent:a", unit="tokens", parts=(LoanPart(source="agent:b", amount=50),))
    held = Reserve(id=id, account="agent:a", amounts={"tokens": 60}, loans=(loan.id,))
    outcome = desk.do(Compound(commands=(loan, held)))
    assert isinstance(outcome, CompoundAnswer), outcome
    if ended:
        desk.do(Settle(id=id, total={"tokens": 0, "calls": 1}))
    return loan


@pytest.fixture
def lenders(desk):
    """Two agents with 50 each."""
    found_team(desk)
    for name in ("agent:a", "agent:b"):
        desk.do(PutAccount(account=name, parent="team:a"))
        desk.do(Allocate(account=name, unit="tokens", to=50))
    return desk


# covers E7
def test_loans_that_ended_leave_the_state_and_their_ids_stay(lenders, clock):
    desk = lenders
    loan = lending(desk, "old")
    desk.write_views()
    clock.advance(31 * DAY_MS)
    lending(desk, "stands", ended=False)
    desk.do(Settle(id="old", total={"tokens": 3}))  # late: the hold is touched again, its loan is not
    desk.write_views()
    assert desk.engine.store.views.prune_ended(clock.wall_ms() - 30 * DAY_MS, 100) == 1
    desk.engine._forget()
    views, number = desk.engine.store.views, desk.engine.ledger("default").number
    assert views.load(number, "loan", "loan-old") is None
    assert views.load(number, "loan", "loan-stands") is not None
    seen = desk.ask(ReadHold(id="old"))[0]
    assert (seen.hold.state, seen.hold.loans) == ("settled", ())
    assert desk.do(Settle(id="old", total={"tokens": 4})).booked["tokens"] == 4
    desk.do(Settle(id="stands", total={"tokens": 1}))
    assert desk.ask(ReadLoan(id="loan-stands"))[0].loan.returned > 0
    before = journal(desk.engine.store)
    assert desk.do(loan).code == "idempotency_expired"
    assert len(journal(desk.engine.store)) == len(before)
    assert not verify(desk.engine.store).faults


def test_a_state_does_not_grow_with_the_loans_that_have_been(lenders, clock):
    desk = lenders
    views, ledger = desk.engine.store.views, desk.engine.ledger("default")
    rows = []
    for day in range(3):
        for index in range(40):
            lending(desk, f"h{day}-{index}")
        desk.write_views()
        ledger._evict_ended()
        assert len(ledger.draft.loans) == 0
        clock.advance(31 * DAY_MS)
        views.prune_ended(clock.wall_ms() - 30 * DAY_MS, 1_000)
        with views.sealed(ledger.number) as (_, found):
            rows.append(sum(1 for kind, _, _ in found if kind == KINDS.index("loan")))
    assert rows == [0, 0, 0]
