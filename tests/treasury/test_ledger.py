"""State is loaded when it is used and evicted when it is idle, and nobody can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fiscus.contract.errors import LedgerCorrupt, TreasuryError
from fiscus.contract.queries import ReadAccount, ReadHold
from fiscus.core.commands import Adjust, Allocate, EraseName, PutAccount, PutBudget, Request, Reserve, SetStatus, Settle
from fiscus.core.outcomes import AccountAnswer, AdjustmentAnswer, AllocationAnswer, HoldAnswer, Refused
from fiscus.core.records import CallRecord
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury import ledger as ledger_module
from fiscus.treasury.verify import verify
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk, entities, journal, usage
from tests.treasury.traffic import Traffic, founding

BATCHES = 220
SEEDS = (1, 2, 5)


@dataclass
class Course:
    """All that can be seen of a ledger after a stream of requests."""

    answers: list[Any]
    journal: list[Any]
    entities: list[Any]
    usage: list[Any]


class House:
    """A ledger in a directory that is closed, opened and disturbed between batches."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "fiscus.db"
        self.clock = ManualClock()
        self.open()

    def open(self) -> None:
        self.store = SqliteStore(self.path)
        self.desk = Desk(self.store, self.clock)

    def close(self) -> None:
        self.desk.engine.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def drop_views(self) -> None:
        self.close()
        for suffix in ("-views", "-views-wal", "-views-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.open()

    def forget(self) -> None:
        """What the engine does after an error."""
        self.desk.engine._forget()

    def seen(self, answers: list[Any]) -> Course:
        self.desk.write_views()
        return Course(answers, journal(self.store), entities(self.store), usage(self.store))


Disturbance = Callable[[House, int], None]


def evict(house: House, batch: int) -> None:
    """Views at the head after every third batch: whatever has not changed since is dropped from memory."""
    if batch % 3 == 0:
        house.desk.write_views()


def evict_and_restart(house: House, batch: int) -> None:
    evict(house, batch)
    if batch % 40 == 7:
        house.restart()


def drop_views(house: House, batch: int) -> None:
    evict(house, batch)
    if batch % 60 == 30:
        house.drop_views()


def forget(house: House, batch: int) -> None:
    if batch % 4 == 0:
        house.desk.write_views()
    if batch % 9 == 0:
        house.forget()


def crash(house: House, batch: int) -> None:
    """The views lag behind the journal when the ledger is opened again."""
    if batch % 10 == 3:
        house.desk.write_views()
    if batch % 25 == 0:
        house.store.close()
        house.open()


def undisturbed(house: House, batch: int) -> None:
    """Nothing is ever written to the views, nothing is evicted."""


def play(house: House, seed: int, disturb: Disturbance) -> Course:
    """A stream of requests, disturbed after each batch."""
    traffic = Traffic(seed)
    answers = [house.desk.ask(*founding())]
    for batch in range(BATCHES):
        house.clock.advance(traffic.pause_ms())
        requests = traffic.batch(6)
        answers.append(house.desk.ask(*requests))
        traffic.heard(requests, answers[-1])
        disturb(house, batch)
    course = house.seen(answers)
    assert verify(house.store).faults == ()
    house.close()
    return course


# covers E3, E12
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("disturb", [evict, evict_and_restart, drop_views, forget, crash])
@pytest.mark.parametrize("bounds", [{"ENTITIES_MAX": 12}, {"ENDED_SLACK": 3}], ids=["idle", "ended"])
def test_a_ledger_that_forgets_answers_and_writes_what_one_that_never_does(
    tmp_path, monkeypatch, expected_course, bounds, disturb, seed
):
    for bound, number in bounds.items():
        monkeypatch.setattr(ledger_module, bound, number)
    course = play(House(tmp_path), seed, disturb)
    expected = expected_course(seed)
    for batch, (answers, wanted) in enumerate(zip(course.answers, expected.answers, strict=True)):
        assert answers == wanted, f"batch {batch}"
    assert course.journal == expected.journal
    assert course.entities == expected.entities
    assert course.usage == expected.usage


@pytest.fixture(scope="module")
def expected_course(tmp_path_factory) -> Callable[[int], Course]:
    known: dict[int, Course] = {}

    def course(seed: int) -> Course:
        if seed not in known:
            known[seed] = play(House(tmp_path_factory.mktemp("undisturbed")), seed, undisturbed)
        return known[seed]

    return course


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.close()


def test_eviction_leaves_little_in_memory_and_loads_what_is_used(house, monkeypatch):
    monkeypatch.setattr(ledger_module, "ENTITIES_MAX", 10)
    desk = house.desk
    desk.ask(*[Request(command=PutAccount(account=f"agent:{number}")) for number in range(100)])
    desk.ask(*[Request(command=PutBudget(account=f"agent:{number}", unit="tokens", limit=9)) for number in range(100)])
    desk.write_views()
    draft = desk.engine.ledger("default").draft
    assert (len(draft.accounts), len(draft.budgets), len(draft.names)) == (0, 0, 0)
    assert isinstance(desk.do(Reserve(id="h", account="agent:50", amounts={"tokens": 9})), HoldAnswer)
    assert set(draft.accounts) == {51}
    desk.write_views()
    assert desk.do(Reserve(id="h2", account="agent:50", amounts={"tokens": 1})).code == "budget_busy"


def test_the_accounts_of_a_batch_are_loaded_at_once(house, monkeypatch):
    monkeypatch.setattr(ledger_module, "ENTITIES_MAX", 1)
    desk = house.desk
    desk.do(PutAccount(account="team:a"))
    for number in range(20):
        desk.do(PutAccount(account=f"agent:{number}", parent="team:a"))
        desk.do(PutBudget(account=f"agent:{number}", unit="tokens", limit=9))
    desk.ask(*[Request(command=Reserve(id=f"h{n}", account=f"agent:{n}", amounts={"tokens": 5})) for n in range(20)])
    desk.write_views()
    house.restart()
    queries = []
    views = house.store.views
    monkeypatch.setattr(views, "_load", lambda *query, load=views._load: queries.append(query) or load(*query))
    desk = house.desk
    desk.engine.ledger("default")
    queries.clear()
    reserves = [Reserve(id=f"i{number}", account=f"agent:{number}", amounts={"tokens": 4}) for number in range(19)]
    answers = desk.ask(
        *[Request(command=command) for command in reserves],
        Request(command=Settle(id="j", account="agent:19", total={"tokens": 3})),
    )
    assert all(isinstance(answer, HoldAnswer) for answer in answers)
    assert len(queries) == 2  # of the accounts, and of the hold that is settled


def test_what_has_ended_leaves_memory_and_what_goes_on_stays(house, monkeypatch):
    monkeypatch.setattr(ledger_module, "ENDED_SLACK", 10)
    desk = house.desk
    desk.ask(*[Request(command=PutAccount(account=f"agent:{number}")) for number in range(20)])
    desk.ask(*[Request(command=PutBudget(account=f"agent:{number}", unit="tokens", limit=9)) for number in range(20)])
    desk.ask(*[Request(command=Reserve(id=f"h{n}", account=f"agent:{n}", amounts={"tokens": 5})) for n in range(20)])
    desk.ask(*[Request(command=Settle(id=f"h{number}", total={"tokens": 5})) for number in range(10)])
    closing = [SetStatus(account=f"agent:{number}", status="closed") for number in range(5)]
    before = desk.ask(*[Request(command=command) for command in closing])
    desk.write_views()
    draft = desk.engine.ledger("default").draft
    assert sorted(draft.holds) == sorted(f"h{number}" for number in range(10, 20))
    assert (len(draft.accounts), len(draft.budgets), len(draft.names)) == (15, 15, 15)
    assert desk.ask(*[Request(command=command) for command in closing]) == before
    assert desk.do(Settle(id="h3", total={"tokens": 7})).uncovered == {"tokens": 2}
    assert desk.balance("agent:3").spent == 7


# covers E7
@pytest.mark.parametrize("amount", [10, 5])
def test_a_reserve_that_comes_again_is_answered_as_before_also_when_its_hold_left_memory(house, monkeypatch, amount):
    """Ids of new holds are not looked up: that one is known shows when it is appended, or when it would be refused."""
    monkeypatch.setattr(ledger_module, "ENDED_SLACK", 1)
    desk = house.desk
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=10))
    reserves = [Request(command=Reserve(id=id, account="agent:a", amounts={"tokens": 5})) for id in ("a", "b")]
    desk.ask(*reserves)
    desk.ask(*[Request(command=Settle(id=id, total={"tokens": amount - 5})) for id in ("a", "b")])
    answers = desk.ask(*reserves)
    desk.write_views()
    assert not desk.engine.ledger("default").draft.holds
    before = journal(house.store)
    assert desk.ask(*reserves) == answers
    desk.write_views()
    other = Request(command=Reserve(id="b", account="agent:a", amounts={"tokens": 6}))
    fresh = Request(command=Reserve(id="c", account="agent:a", amounts={"tokens": 11}))
    found = desk.ask(other, reserves[0], fresh)
    assert (found[0].code, found[1], found[2].code) == ("conflict", answers[0], "budget_exceeded")
    assert journal(house.store) == before


def test_what_has_ended_since_the_views_were_written_stays(house, monkeypatch):
    monkeypatch.setattr(ledger_module, "ENDED_SLACK", 1)
    desk = house.desk
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=100))
    desk.do(Reserve(id="h", account="agent:a", amounts={"tokens": 60}))
    ledger = desk.engine.ledger("default")
    written = ledger.snapshot()
    house.store.views.write([written], 0)
    desk.do(Settle(id="h", total={"tokens": 60}))
    desk.do(SetStatus(account="agent:a", status="closed"))
    ledger.snapshot_written(written)
    assert ledger.draft.holds["h"].state == "settled"
    assert ledger.draft.accounts[1].status == "closed"
    assert desk.balance("agent:a").spent == 60


def test_nothing_newer_than_the_views_is_evicted(house, monkeypatch):
    monkeypatch.setattr(ledger_module, "ENTITIES_MAX", 1)
    desk = house.desk
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=100))
    ledger = desk.engine.ledger("default")
    written = ledger.snapshot()
    house.store.views.write([written], 0)
    desk.do(Reserve(id="h", account="agent:a", amounts={"tokens": 60}))
    ledger.snapshot_written(written)
    assert "h" in ledger.draft.holds
    assert desk.do(Reserve(id="h2", account="agent:a", amounts={"tokens": 60})).code == "budget_busy"
    assert desk.balance("agent:a").held == 60


def test_a_name_that_was_erased_means_nobody_before_the_views_know_it(house, monkeypatch):
    monkeypatch.setattr(ledger_module, "ENTITIES_MAX", 1)
    desk = house.desk
    first = desk.do(PutAccount(account="user:bob"))
    desk.do(SetStatus(account="user:bob", status="closed"))
    desk.write_views()
    desk.do(EraseName(account="user:bob"))
    assert desk.ask(ReadAccount(account="user:bob"))[0].code == "unknown_account"
    second = desk.do(PutAccount(account="user:bob"))
    assert isinstance(second, AccountAnswer)
    assert second.number != first.number
    assert second.status == "active"
    desk.write_views()
    house.restart()
    assert house.desk.account("user:bob").number == second.number


# covers E12
def test_usage_after_an_erasure_is_kept_also_when_the_views_are_made_again(house):
    desk = house.desk
    record = CallRecord(error_message="of bob", user_id="bob")
    desk.do(PutAccount(account="user:bob"))
    desk.do(Settle(id="before", account="user:bob", total={"tokens": 5}, record=record))
    desk.do(Reserve(id="held", account="user:bob", amounts={"tokens": 5}))
    desk.do(SetStatus(account="user:bob", status="closed"))
    desk.write_views()
    desk.do(EraseName(account="user:bob"))
    desk.write_views()
    desk.do(Settle(id="held", total={"tokens": 5}, record=CallRecord(error_code="later")))
    desk.write_views()
    kept = usage(house.store)
    assert [row.record is None for row in kept] == [True, False]
    house.drop_views()
    house.desk.ask(ReadHold(id="held"))
    house.desk.write_views()
    assert usage(house.store) == kept


def everything_kept(store):
    """All that the files of a ledger say, as one text."""
    dumps = []
    for connection in (store.journal._reader, store.views._lister):
        dumps += list(connection.iterdump())
    tables = ("journal", "private", "answers", "checkpoints")
    rows = [store.journal._reader.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    rows += [store.views._lister.execute(f"SELECT * FROM {table}").fetchall() for table in ("entities", "usage")]
    return "\n".join(dumps) + repr(rows)


def spend_as_bob(desk, **context):
    """Everything that can say something of a person: names, labels, reasons, attributes, records."""
    record = CallRecord(user_id="bob the builder", error_message="bob the builder could not", model="gpt")
    who = {"who": "bob the builder"}
    desk.do(PutAccount(account="team:a"))
    desk.do(PutAccount(account="user:bob the builder", parent="team:a", labels=who), **context)
    desk.do(PutBudget(account="team:a", unit="tokens", limit=90))
    desk.do(PutBudget(account="user:bob the builder", unit="tokens", limit=90))
    desk.do(Reserve(id="h", account="user:bob the builder", amounts={"tokens": 5}, attributes=who))
    desk.do(Settle(id="h", total={"tokens": 5}, record=record))
    desk.do(Settle(id="u", account="user:bob the builder", total={"tokens": 5}, record=record))
    adjusted = Adjust(
        id="a", account="user:bob the builder", budget="tokens-lifetime", amount=5, reason="bob the builder"
    )
    assert isinstance(desk.do(adjusted), AdjustmentAnswer)
    carved = Allocate(account="user:bob the builder", unit="tokens", to=9, reason="bob the builder")
    assert isinstance(desk.do(carved), AllocationAnswer)
    desk.do(SetStatus(account="user:bob the builder", status="closed", reason="bob the builder left"))


def test_what_was_erased_is_nowhere_in_the_ledger(house):
    spend_as_bob(house.desk)
    house.desk.write_views()
    assert "bob the builder" in everything_kept(house.store)
    house.desk.do(EraseName(account="user:bob the builder"))
    house.desk.write_views()
    assert "bob the builder" not in everything_kept(house.store)
    assert verify(house.store).faults == ()


def test_what_was_erased_is_in_no_kept_answer(house):
    spend_as_bob(house.desk, idempotency_key="key")
    house.desk.do(EraseName(account="user:bob the builder"), idempotency_key="erase")
    house.desk.write_views()
    assert "bob the builder" not in everything_kept(house.store)


# covers E9
@pytest.mark.parametrize("column", ["body", "hash", "at"])
def test_a_journal_that_was_tampered_with_is_not_folded(house, column):
    desk = house.desk
    for number in range(5):
        desk.do(PutAccount(account=f"agent:{number}"))
    changed = {"body": b'{"kind":"account_opened","account":9}', "hash": b"?" * 32, "at": 5}[column]
    house.store.journal._writer.execute(f"UPDATE journal SET {column} = ? WHERE seq = 3", (changed,))
    house.forget()
    answer = desk.do(PutAccount(account="agent:new"))
    assert isinstance(answer, TreasuryError)
    with pytest.raises(LedgerCorrupt, match="entry 3"):
        desk.engine.ledger("default")
    assert len(journal(house.store)) == 5


def test_a_gap_in_the_journal_is_not_folded(house):
    for number in range(5):
        house.desk.do(PutAccount(account=f"agent:{number}"))
    house.store.journal._writer.execute("DELETE FROM journal WHERE seq = 3")
    house.forget()
    with pytest.raises(LedgerCorrupt):
        house.desk.engine.ledger("default")


# covers E12
def test_views_of_another_past_are_dropped_when_an_older_journal_is_put_in_place(house, tmp_path):
    desk = house.desk
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=100))
    house.store.journal.backup(str(tmp_path / "older.db"))
    desk.do(Settle(id="h", account="agent:a", total={"tokens": 30}))
    house.close()
    (tmp_path / "older.db").replace(house.path)
    house.open()
    assert house.desk.balance("agent:a").spent == 0
    house.desk.do(Settle(id="h", account="agent:a", total={"tokens": 10}))
    house.desk.write_views()
    assert verify(house.store).faults == ()
    assert [row.amounts for row in usage(house.store)] == [b'{"tokens":10,"calls":1}']


def test_the_head_moved_by_somebody_else_is_seen_and_not_reported_as_a_refusal(house, tmp_path):
    """Covers E10: what was decided on a stale view is written nowhere; the next call goes by the journal."""
    desk = house.desk
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=100))
    other = Desk(house.store, house.clock)
    assert isinstance(other.do(Reserve(id="theirs", account="agent:a", amounts={"tokens": 70})), HoldAnswer)
    answer = desk.do(Reserve(id="ours", account="agent:a", amounts={"tokens": 70}))
    assert isinstance(answer, TreasuryError)
    assert not isinstance(answer, Refused)
    assert desk.do(Reserve(id="ours", account="agent:a", amounts={"tokens": 70})).code == "budget_busy"
    assert isinstance(desk.do(Reserve(id="mine", account="agent:a", amounts={"tokens": 30})), HoldAnswer)
    assert verify(house.store).faults == ()
