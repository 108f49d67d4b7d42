"""Two engines on one database: any node answers any call, as if there were one."""

from __future__ import annotations

import itertools
import random
import threading
import time
from queue import SimpleQueue

import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.contract.queries import ReadAccount, ReadHold
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Extend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
)
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.treasury.clock import HostClock
from fiscus.treasury.engine import Engine
from fiscus.treasury.verify import verify
from tests.stores.postgres.conftest import OpenNode
from tests.treasury.desk import Desk, entities, journal, usage

LIMIT = 1_000


@pytest.fixture
def desks(open_node: OpenNode):
    """Two nodes, and a budget of 1,000 tokens on a team above an agent."""
    pair = [Desk(open_node(), HostClock()) for _ in range(2)]
    one = pair[0]
    one.do(PutAccount(account="team:a"))
    one.do(PutAccount(account="agent:b", parent="team:a"))
    one.do(PutBudget(account="team:a", unit="tokens", limit=LIMIT))
    yield pair
    for desk in pair:
        desk.engine.close()


def reserve(id: str, tokens: int) -> Reserve:
    return Reserve(id=id, account="agent:b", amounts={"tokens": tokens})


def balance(desk: Desk, account: str = "team:a", tenant: str = "default"):
    """The window of the budget as of the journal's end."""
    journal = desk.engine.store.journal
    head = journal.head(journal.tenants()[tenant])
    (view,) = desk.ask(ReadAccount(tenant=tenant, account=account, min_seq=head.seq))
    return view.account.budgets[0].balance


# covers E2, E13
def test_a_budget_is_never_exceeded_however_its_reserves_are_dealt_to_nodes(desks):
    rng = random.Random(7)
    granted = 0
    for index in range(300):
        answer = rng.choice(desks).do(reserve(f"hold {index}", rng.randint(1, 30)))
        if isinstance(answer, HoldAnswer):
            granted += answer.reserved["tokens"]
        else:
            assert answer.code == "budget_busy"
    assert granted <= LIMIT
    assert granted > LIMIT - 30
    for desk in desks:
        assert desk.do(reserve("too much", LIMIT - granted + 1)).code == "budget_busy"
        desk.write_views()
    report = verify(desks[0].engine.store, from_start=True)
    assert report.faults == ()
    assert report.head_seq == len(journal(desks[0].engine.store))


# covers E7
def test_what_one_node_has_decided_the_other_answers(desks):
    one, two = desks
    held = one.do(reserve("a", 100))
    assert two.do(reserve("a", 100)) == held
    assert two.do(reserve("a", 101)).code == "conflict"
    assert [desk.ask(ReadHold(id="a"))[0].hold for desk in desks] == [held, held]
    two.do(Extend(id="a", to={"tokens": 150}))
    assert balance(one).held == 150
    settled = two.do(Settle(id="a", total={"tokens": 120}))
    assert one.do(Settle(id="a", total={"tokens": 120})) == settled
    assert balance(one) == balance(two)
    assert balance(one).spent == 120


def test_what_comes_while_a_node_waits_for_its_turn_takes_part_in_it(desks, open_node: OpenNode):
    answered: SimpleQueue[list] = SimpleQueue()
    desk = desks[0]
    desk.deliver = answered.put
    engine = desk.engine
    engine.start()
    journal = open_node().journal
    journal.begin({1: desks[1].engine.ledger("default").head})
    engine.submit(desk, 0, Request(command=reserve("hold 0", 1)))
    in_its_turn = time.monotonic() + 10
    while not engine._queue.empty() or engine._growing is None:
        assert time.monotonic() < in_its_turn
        time.sleep(0.001)
    for number in range(1, 21):
        engine.submit(desk, number, Request(command=reserve(f"hold {number}", 1)))
    query = ReadAccount(account="team:a")
    engine.submit(desk, "after", query)
    journal.end()
    assert [token for token, _ in answered.get(timeout=10)] == list(range(21))
    ((token, view),) = answered.get(timeout=10)
    assert (token, view.account.budgets[0].balance.held) == ("after", 21)


# covers E7
def test_an_idempotency_key_is_one_key_on_all_nodes(desks):
    one, two = desks
    adjust = Adjust(id="x", account="team:a", budget="tokens-lifetime", amount=50, reason="more")
    first = one.do(adjust, idempotency_key="k")
    assert two.do(adjust, idempotency_key="k") == first
    other = Adjust(id="x", account="team:a", budget="tokens-lifetime", amount=51, reason="more")
    assert isinstance(two.do(other, idempotency_key="k"), Refused)
    assert balance(two).limit == LIMIT + 50


def test_accounts_of_one_node_are_accounts_of_the_other(desks):
    one, two = desks
    two.do(PutAccount(account="agent:c", parent="team:a"))
    two.do(Allocate(account="agent:c", unit="tokens", to=300))
    assert one.do(Reserve(id="c", account="agent:c", amounts={"tokens": 301})).code == "budget_exceeded"
    assert isinstance(one.do(Reserve(id="c", account="agent:c", amounts={"tokens": 300})), HoldAnswer)
    one.do(SetStatus(account="agent:c", status="suspended", reason="r"))
    assert two.do(Reserve(id="d", account="agent:c", amounts={"tokens": 1})).code == "account_suspended"


def test_a_read_waits_for_what_was_written_on_another_node(desks):
    one, two = desks
    one.do(reserve("a", 100))
    two.account("team:a")
    one.do(reserve("b", 100))
    head = one.engine.ledger("default").head.seq
    (view,) = two.ask(ReadAccount(account="team:a", min_seq=head))
    assert view.as_of_seq == head
    assert next(budget for budget in view.account.budgets if budget.budget == "tokens-lifetime").balance.held == 200


def test_tenants_with_accounts_of_the_same_names_share_nothing(desks):
    one, two = desks
    for tenant, desk in (("x", one), ("y", two)):
        desk.do(PutAccount(account="team:a"), tenant=tenant)
        desk.do(PutBudget(account="team:a", unit="tokens", limit=10), tenant=tenant)
    for desk, tenant in itertools.product(desks, ("x", "y")):
        desk.do(Reserve(id=f"{desk is one}", account="team:a", amounts={"tokens": 5}), tenant=tenant)
    for tenant in ("x", "y"):
        assert balance(one, tenant=tenant).held == 10
        assert balance(two, tenant=tenant).held == 10
    assert balance(one).held == 0


def stop_leading(sql) -> None:
    """Whoever writes the views is thrown out."""
    sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'fiscus views'")


# covers E12
def test_the_views_are_the_same_whichever_node_writes_them(desks, open_node, sql):
    one = desks[0]
    rng = random.Random(3)
    for index in range(60):
        desk, other = rng.sample(desks, 2)
        desk.do(reserve(f"h{index}", 10))
        if index % 3:
            other.do(Settle(id=f"h{index}", total={"tokens": rng.randint(0, 12)}))
        if index % 7 == 0:
            stop_leading(sql)
            desk.write_views()
    balance(one)
    stop_leading(sql)
    one.write_views()
    fresh = Desk(open_node(), HostClock())
    store = fresh.engine.store
    written, used = entities(store), usage(store)
    store.views.clear(store.journal.tenants()["default"])
    stop_leading(sql)
    fresh.account("team:a")
    fresh.write_views()
    assert entities(store) == written
    assert usage(store) == used
    assert verify(store, from_start=True).faults == ()


def test_what_one_node_wrote_to_the_views_the_other_does_not_fold_twice(desks):
    """The views get ahead of a node that has been idle: it catches up before it uses them."""
    one, two = desks
    for index in range(20):
        one.do(reserve(f"h{index}", 10))
    one.write_views()
    assert two.ask(ReadHold(id="h7"))[0].hold.id == "h7"
    for index in range(20):
        two.do(Release(id=f"h{index}"))
    assert balance(one).held == balance(two).held


class Caller:
    """A port that counts, for engines that run in threads."""

    def __init__(self) -> None:
        self.results: list[tuple[str, object]] = []
        self.arrived = threading.Semaphore(0)

    def deliver(self, answers: list[tuple[str, object]]) -> None:
        for answer in answers:
            self.results.append(answer)
            self.arrived.release()


# covers E2, E13, E3
def test_two_running_nodes_at_the_edge_of_one_budget_never_exceed_it(open_node):
    engines = [Engine(open_node()) for _ in range(2)]
    port = Caller()
    engines[0].submit(port, "setup", Request(command=PutAccount(account="agent:b")))
    budget = PutBudget(account="agent:b", unit="tokens", limit=LIMIT)
    engines[0].submit(port, "setup", Request(command=budget))
    for engine in engines:
        engine.start()
    for _ in range(2):
        assert port.arrived.acquire(timeout=20)

    def load(node: int) -> None:
        engine, rng, own = engines[node], random.Random(node), Caller()
        for round in range(40):
            ids = [f"{node}.{round}.{index}" for index in range(16)]
            for id in ids:
                engine.submit(own, id, Request(command=reserve(id, rng.randint(1, 40))))
            for _ in ids:
                assert own.arrived.acquire(timeout=20)
            answers, own.results = own.results, []
            held = [id for id, answer in answers if isinstance(answer, HoldAnswer)]
            assert all(isinstance(answer, HoldAnswer | Refused) for _, answer in answers), answers
            for id in held:
                engines[rng.randint(0, 1)].submit(own, id, Request(command=Settle(id=id, total={"tokens": 1})))
            for _ in held:
                assert own.arrived.acquire(timeout=20)
            assert all(isinstance(answer, HoldAnswer) for _, answer in own.results), own.results
            own.results = []

    threads = [threading.Thread(target=load, args=(node,)) for node in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        assert engine.statistics.defects == 0
        assert engine.statistics.commit_errors == 0
        assert engine.statistics.followed > 0
        engine.close()
    store = open_node()
    last = Desk(store, HostClock())
    last.account("agent:b")
    last.write_views()
    assert verify(store, from_start=True).faults == ()
    settled = {id for seq, at, body, hash in journal(store) if b'"kind":"settled"' in body for id in [body]}
    assert balance(last, "agent:b").spent == len(settled)


def test_a_node_without_calls_follows_and_tells_its_observers(open_node):
    open_node().journal.add_tenant("default")
    engines = [Engine(open_node()) for _ in range(2)]
    seen: list[int] = []
    done = threading.Event()

    def observe(committed) -> None:
        seen.extend(range(committed.first_seq, committed.first_seq + len(committed.events)))
        if len(seen) >= 101:
            done.set()

    engines[1].observers.append(observe)
    port = Caller()
    for engine in engines:
        engine.start()
    engines[1].errand(lambda: engines[1].ledger("default"))
    engines[0].submit(port, "setup", Request(command=PutAccount(account="agent:b")))
    for index in range(100):
        engines[0].submit(port, str(index), Request(command=reserve(f"h{index}", 1)))
    assert done.wait(20)
    assert seen == list(range(1, 102))
    for engine in engines:
        engine.close()


# covers E10
def test_a_node_that_lost_its_turn_admits_nothing_and_goes_on_from_the_journal(desks, sql):
    one, two = desks
    one.do(reserve("a", 1))
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'fiscus%%'")
    for desk in desks:
        assert isinstance(desk.do(reserve("b", 1)), HoldAnswer | StoreUnavailable)
    for desk in desks:
        assert isinstance(desk.do(reserve("b", 1)), HoldAnswer)
    assert balance(one).held == balance(two).held == 2


# covers E10
def test_a_journal_that_was_restored_begins_a_new_epoch(desks, sql):
    one, two = desks
    one.do(reserve("a", 1))
    kept = one.engine.ledger("default").head
    two.do(reserve("b", 2))
    one.do(reserve("c", 4))
    for table in ("journal", "ids"):
        sql(f"DELETE FROM {table} WHERE seq > %s", kept.seq)
    sql("DELETE FROM batches WHERE last_seq > %s", kept.seq)
    for desk in desks:
        answer = desk.do(reserve("d", 8))
        assert isinstance(answer, HoldAnswer)
        assert desk.engine.statistics.epoch == 2
        assert balance(desk).held == 9
    stop_leading(sql)
    one.write_views()
    assert verify(one.engine.store, from_start=True).faults == ()


def test_what_is_due_is_no_defect_where_the_views_are_ahead(desks, open_node, sql):
    """A deadline of a hold that is not in memory, and of which another node has written the end to the views."""
    one = desks[0]
    one.do(Reserve(id="a", account="agent:b", amounts={"tokens": 1}, lease_s=1))
    one.do(Reserve(id="b", account="agent:b", amounts={"tokens": 1}, lease_s=600))
    one.write_views()
    three = Desk(open_node(), HostClock())
    three.account("team:a")
    for id in ("a", "b"):
        one.do(Settle(id=id, total={"tokens": 1}))
    one.write_views()
    assert isinstance(three.do(reserve("c", 1)), HoldAnswer)
    assert three.engine.statistics.defects == 0
    three.engine.close()


def test_a_tenant_that_waits_is_followed_while_another_is_busy(open_node):
    engines = [Engine(open_node()) for _ in range(2)]
    port = Caller()
    for engine in engines:
        engine.start()
    for tenant in ("quiet", "busy"):
        for command in (PutAccount(account="team:a"), PutBudget(account="team:a", unit="tokens", limit=10**9)):
            engines[0].submit(port, "setup", Request(tenant=tenant, command=command))
            assert port.arrived.acquire(timeout=20)
    for tenant in ("quiet", "busy"):
        engines[1].submit(port, "load", ReadAccount(tenant=tenant, account="team:a"))
        assert port.arrived.acquire(timeout=20)
    port.results.clear()
    engines[0].submit(
        port, "held", Request(tenant="quiet", command=Reserve(id="q", account="team:a", amounts={"tokens": 7}))
    )
    assert port.arrived.acquire(timeout=20)
    until = time.monotonic() + 3
    held = 0
    count = 0
    while not held:
        count += 1
        busy = Reserve(id=f"b{count}", account="team:a", amounts={"tokens": 1})
        engines[1].submit(port, "busy", Request(tenant="busy", command=busy))
        engines[1].submit(port, "read", ReadAccount(tenant="quiet", account="team:a"))
        for _ in range(2):
            assert port.arrived.acquire(timeout=20)
        held = next(view for name, view in port.results if name == "read").account.budgets[0].balance.held
        port.results.clear()
        assert time.monotonic() < until, "the other tenant is never looked at"
    assert held == 7
    for engine in engines:
        engine.close()


# covers E12
def test_a_tenant_that_one_node_makes_anew_is_loaded_anew_by_the_one_that_wrote_the_views(desks):
    one, two = desks
    for index in range(10):
        one.do(reserve(f"h{index}", 10))
    one.write_views()
    two.account("team:a")
    store = two.engine.store
    store.views.clear(store.journal.tenants()["default"])
    one.do(Settle(id="h1", total={"tokens": 3}))
    for _ in range(3):
        one.after_batch()
        one.do(reserve(f"more {one.engine.statistics.batches}", 1))
    assert one.engine.statistics.reloads == 1
    one.write_views()
    assert verify(store, from_start=True).faults == ()
    assert balance(one) == balance(two)


# covers E2, E10
def test_a_question_that_the_views_are_ahead_of_gives_no_number_twice(desks, open_node):
    one = desks[0]
    for index in range(3):
        one.do(PutAccount(account=f"agent:{index}", parent="team:a"))
        one.do(PutBudget(account=f"agent:{index}", unit="tokens", limit=50))
    one.do(Reserve(id="before", account="agent:1", amounts={"tokens": 15}))
    one.write_views()
    late = Desk(open_node(), HostClock())
    late.account("agent:1")  # loaded, with all above it: nothing of what follows has to be
    late.account("team:a")
    one.do(Reserve(id="since", account="agent:1", amounts={"tokens": 5}))
    one.write_views()
    assert late.balance("agent:1", "tokens-lifetime").held == 15, "nobody has told it"
    late.account("agent:2")  # is not in memory, and the views are ahead
    assert late.engine.statistics.reloads == 0
    assert late.balance("agent:1", "tokens-lifetime").held == 20
    late.do(PutAccount(account="agent:late", parent="team:a"))
    late.do(PutBudget(account="agent:late", unit="tokens", limit=5))
    late.do(Reserve(id="late", account="agent:late", amounts={"tokens": 5}))
    assert balance(one).held == 25
    one.write_views()
    assert verify(late.engine.store, from_start=True).faults == ()
    assert balance(late, "agent:late").held == 5
    assert balance(late, "agent:1").held == 20
    assert balance(late).held == 25
    late.engine.close()


# covers E10
def test_a_turn_that_is_lost_while_it_is_decided_is_no_defect(desks, open_node, sql, monkeypatch):
    """Another node goes on and writes the views: what has to be loaded then is not of the state that is decided on."""
    one = desks[0]
    one.do(reserve("before", 15))
    one.write_views()
    late = Desk(open_node(), HostClock())
    late.account("agent:b")
    late.account("team:a")
    begin = late.engine.store.journal.begin

    def begin_and_lose(heads):
        turn = begin(heads)
        monkeypatch.undo()
        sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        assert isinstance(one.do(reserve("since", 5)), HoldAnswer)
        one.write_views()
        return turn

    monkeypatch.setattr(late.engine.store.journal, "begin", begin_and_lose)
    settled = Settle(id="before", total={"tokens": 10})  # this hold is not in memory
    answer = late.do(settled)
    assert isinstance(answer, StoreUnavailable), answer
    assert answer.retry_after_s >= 1
    assert late.engine.statistics.defects == 0
    assert late.do(settled).state == "settled"
    found = balance(late)
    assert (found.spent, found.held) == (10, 5)
    assert balance(one) == found
    late.engine.close()


# covers E2, E3
def test_what_the_views_have_lost_with_a_killed_server_is_not_taken_for_the_state(desks, sql):
    """Views are written without waiting for the disk: after a crash they may be as of an earlier entry than before."""
    one, two = desks
    one.do(reserve("before", 100))
    one.write_views()
    for table in ("entities", "watermarks"):
        sql(f"CREATE TABLE kept_{table} AS TABLE {table}")
    one.do(reserve("since", 800))
    one.write_views()
    one.engine.errand(one.engine.ledger("default")._evict)
    two.account("team:a")
    for table in ("entities", "watermarks"):
        sql(f"DELETE FROM {table}")
        sql(f"INSERT INTO {table} SELECT * FROM kept_{table}")
    for desk in desks:
        assert desk.do(reserve("more", 200)).code == "budget_unavailable"
        assert desk.do(reserve("more", 200)).code == "budget_busy"
    assert one.do(reserve("fits", 100)).state == "held"
    assert balance(one) == balance(two)
    assert balance(one).held == LIMIT


# covers E3
def test_an_entry_that_could_be_folded_only_half_is_not_folded_twice(desks, monkeypatch):
    one, two = desks
    one.do(PutBudget(account="agent:b", unit="tokens", limit=500))
    views = two.engine.store.views
    load, asked = views.load, []

    def load_until_it_is_away(*arguments):
        asked.append(arguments)
        if len(asked) == away_at:
            raise StoreUnavailable("away for a moment")
        return load(*arguments)

    failed = 0
    for away_at in range(1, 9):
        one.do(reserve(f"h{away_at}", 10))
        one.write_views()
        balance(two)
        two.write_views()
        two.engine.errand(two.engine.ledger("default")._evict)
        one.do(Settle(id=f"h{away_at}", total={"tokens": 10}))
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(views, "load", load_until_it_is_away)
            two.engine._look_around()
        failed += len(asked) >= away_at
        for account in ("team:a", "agent:b"):
            assert balance(two, account) == balance(one, account)
            assert balance(two, account).spent == 10 * away_at
    assert 2 <= failed < 8
