"""Checkpoints: a sealed state that the journal vouches for, and from which ``verify`` starts."""

from __future__ import annotations

import threading

import msgspec
import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.commands import EraseName, PutAccount, PutBudget, Request, Reserve, SetStatus, Settle
from fiscus.core.events import Checkpoint
from fiscus.core.state import KINDS
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury import engine as engine_module
from fiscus.treasury.codec import decode_event
from fiscus.treasury.engine import Engine
from fiscus.treasury.sealing import Seal, StateDigest, joined, seals_to_keep
from fiscus.treasury.verify import verify
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk, entities, journal
from tests.treasury.faults import Faults, watched_store
from tests.treasury.test_engine import Counter
from tests.treasury.traffic import Traffic, founding


@pytest.fixture
def desk(tmp_path):
    desk = Desk(SqliteStore(tmp_path / "fiscus.db"), ManualClock())
    yield desk
    desk.engine.close()


def spend(desk, seed, batches=40):
    traffic = Traffic(seed)
    for _ in range(batches):
        desk.engine._clock.advance(traffic.pause_ms())
        batch = traffic.batch(6)
        traffic.heard(batch, desk.ask(*batch))


def digest(rows):
    seal = StateDigest()
    for row in rows:
        seal.add(row)
    return seal.hexdigest()


# covers E3, E9, E12
def test_a_checkpoint_seals_the_state_and_the_chain(desk, monkeypatch):
    monkeypatch.setattr(engine_module, "CHECKPOINT_CHUNK", 7)
    desk.ask(*founding())
    spend(desk, 1)
    sealed_seq = desk.engine.checkpoint()
    store = desk.engine.store
    entry = journal(store)[-1]
    event = decode_event(entry[2], None)
    assert isinstance(event, Checkpoint)
    assert (event.state_seq, entry[0]) == (sealed_seq, sealed_seq + 1)
    assert event.chain_hash == journal(store)[sealed_seq - 1][3].hex()
    assert store.journal.checkpoints(1) == [sealed_seq]
    rows = store.journal.checkpoint(1, sealed_seq)
    sealed = {(KINDS.index(kind), key): msgspec.json.encode(entity) for kind, key, entity in joined(rows)}
    assert sealed == {(kind, key): body for kind, key, body in entities(store)}
    assert event.state_digest == digest(rows)
    spend(desk, 2)
    desk.write_views()
    report = verify(store)
    assert (report.from_seq, report.faults) == (sealed_seq, ())
    assert report.head_seq == journal(store)[-1][0]
    assert verify(store, from_start=True).faults == ()


def test_the_newest_checkpoint_counts(desk):
    desk.ask(*founding())
    first = desk.engine.checkpoint()
    spend(desk, 3)
    second = desk.engine.checkpoint()
    assert second > first
    assert verify(desk.engine.store).from_seq == second
    assert desk.engine.store.journal.checkpoints(1) == [second]


def test_there_is_nothing_to_seal_in_an_empty_ledger(desk):
    assert desk.engine.checkpoint() == 0
    assert desk.engine.checkpoint("another tenant") == 0
    assert verify(desk.engine.store).faults == ()


def test_a_sealed_state_that_was_changed_is_found_out(desk):
    desk.ask(*founding())
    desk.engine.checkpoint()
    store = desk.engine.store
    (seq,) = store.journal.checkpoints(1)
    kind, key, body = next(row for row in store.journal.checkpoint(1, seq) if row[0] == 1)
    store.journal.put_checkpoint(1, seq, [(kind, key, body.replace(b"1", b"2"))])
    assert "E3" in {fault.invariant for fault in verify(store).faults}
    assert verify(store, from_start=True).faults == ()


def test_a_checkpoint_that_was_begun_and_not_sealed_is_no_start(desk):
    desk.ask(*founding())
    first = desk.engine.checkpoint()
    spend(desk, 4)
    desk.write_views()
    store = desk.engine.store
    head = journal(store)[-1][0]
    store.journal.put_checkpoint(1, head, entities(store)[:5])
    report = verify(store)
    assert report.faults == ()
    assert (report.from_seq, report.head_seq) == (first, head)
    assert desk.engine.checkpoint() == head
    assert store.journal.checkpoints(1) == [head]
    assert verify(store).from_seq == head
    assert verify(store).faults == ()


@pytest.mark.parametrize(
    "point", ["journal: before sealed entities", "journal: after sealed entities", "journal: before begin"]
)
def test_a_seal_that_is_interrupted_leaves_the_one_before(tmp_path, monkeypatch, point):
    monkeypatch.setattr(engine_module, "CHECKPOINT_CHUNK", 7)
    faults = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults), ManualClock())
    desk.ask(*founding())
    first = desk.engine.checkpoint()
    spend(desk, 4)
    desk.write_views()
    faults.arm(point)
    with pytest.raises(StoreUnavailable):
        desk.engine.checkpoint()
    assert faults.raised[point] == 1
    report = verify(desk.engine.store)
    assert (report.from_seq, report.faults) == (first, ())
    desk.engine.close()


# covers E12
def test_an_erased_name_is_gone_from_sealed_states_which_hold_all_the_same(desk):
    desk.ask(*founding())
    desk.do(PutAccount(account="agent:jane doe", labels={"mail": "jane@example.org"}))
    desk.do(PutBudget(account="agent:jane doe", unit="tokens", limit=100))
    desk.do(SetStatus(account="agent:jane doe", status="closed"))
    sealed_seq = desk.engine.checkpoint()
    store = desk.engine.store
    assert b"jane" in b"".join(body for _, _, body in store.journal.checkpoint(1, sealed_seq))
    desk.do(EraseName(account="agent:jane doe"))
    assert b"jane" not in b"".join(body for _, _, body in store.journal.checkpoint(1, sealed_seq))
    report = verify(store)
    assert (report.from_seq, report.faults) == (sealed_seq, ())


def test_of_each_month_one_seal_is_kept_that_an_archive_can_end_with():
    day = 86_400_000
    known = [Seal(seq, b"", 1_800_000_000_000 + seq * 10 * day, seq + 1, "") for seq in range(1, 10)]
    assert seals_to_keep(known, 90) == {1, 2, 5, 8, 9}
    assert seals_to_keep(known, 7) == {seal.seq for seal in known}
    assert seals_to_keep(known, 0) == {9}
    assert seals_to_keep(known, 0, archived_seq=3) == {3, 9}
    assert seals_to_keep([], 90) == set()


# covers E12
def test_two_engines_with_another_past_seal_the_same_state_with_the_same_digest(tmp_path):
    digests = set()
    for name, restarts in (("a", False), ("b", True)):
        clock = ManualClock()
        desk = Desk(SqliteStore(tmp_path / f"{name}.db"), clock)
        desk.ask(*founding())
        traffic = Traffic(5)
        for number in range(40):
            clock.advance(traffic.pause_ms())
            batch = traffic.batch(6)
            traffic.heard(batch, desk.ask(*batch))
            if restarts and number % 7 == 3:
                desk.write_views()
                desk.engine.close()
                desk = Desk(SqliteStore(tmp_path / f"{name}.db"), clock)
        desk.engine.checkpoint()
        digests.add(msgspec.json.decode(journal(desk.engine.store)[-1][2])["state_digest"])
        desk.engine.close()
    assert len(digests) == 1


def test_calls_go_on_while_a_checkpoint_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "CHECKPOINT_CHUNK", 3)
    engine = Engine(SqliteStore(tmp_path / "fiscus.db"))
    engine.start()
    counter, stop = Counter(), threading.Event()
    engine.submit(counter, 0, Request(command=PutAccount(account="agent:a")))
    engine.submit(counter, 0, Request(command=PutBudget(account="agent:a", unit="tokens", limit=10**9)))

    def spend_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for command in (
                Reserve(id=f"h{number}", account="agent:a", amounts={"tokens": 5}),
                Settle(id=f"h{number}", total={"tokens": 4}),
            ):
                engine.submit(counter, number, Request(command=command))
                counter.next()

    for _ in range(2):
        counter.next()
    spender = threading.Thread(target=spend_on)
    spender.start()
    sealed = [engine.checkpoint() for _ in range(5)]
    stop.set()
    spender.join()
    engine.close()
    assert sealed == sorted(sealed)
    store = SqliteStore(tmp_path / "fiscus.db")
    report = verify(store)
    assert (report.from_seq, report.faults) == (sealed[-1], ())
    assert verify(store, from_start=True).faults == ()
    store.close()
