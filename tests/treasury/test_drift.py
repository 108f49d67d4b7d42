"""Figures that are not what the journal says are found, whoever changed them, and nothing more is admitted on them."""

from __future__ import annotations

import math
import shutil
import sqlite3
import time
from random import Random

import msgspec
import pytest

from fiscus.contract.errors import BudgetUnavailable, LedgerCorrupt, LedgerDrift
from fiscus.contract.queries import ReadAccount
from fiscus.core.commands import (
    Adjust,
    Allocate,
    ApproveOverride,
    Compound,
    DenyOverride,
    Extend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeOverride,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.state import Cell
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.stores.sqlite.views import SqliteViews
from fiscus.treasury import drift as drift_module
from fiscus.treasury import ledger as ledger_module
from fiscus.treasury.drift import Drift
from fiscus.treasury.verify import verify
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk

CELL = 2  # the number of the kind


class Place:
    """A ledger with a root and six agents, and its drift watch."""

    def __init__(self, folder, name="fiscus.db"):
        self.path = folder / name
        self.clock = ManualClock()
        self.desk = Desk(SqliteStore(self.path), self.clock)
        self.own = SqliteViews(folder / "own")
        self.drift = Drift(self.desk.engine, self.own, cpu_share=1, random=Random(1))

    @property
    def views(self):
        return self.path.with_name(self.path.name + "-views")

    def furnish(self, tenant="default"):
        desk = self.desk
        put = [PutAccount(account="team")] + [PutAccount(account=f"agent:{n}", parent="team") for n in range(6)]
        desk.ask(*(Request(tenant=tenant, command=one) for one in put))
        budgets = [PutBudget(account="team", unit="tokens", limit=10_000, budget="pool")]
        budgets += [PutBudget(account=f"agent:{n}", unit="tokens", limit=1_000, budget="own") for n in range(6)]
        desk.ask(*(Request(tenant=tenant, command=one) for one in budgets))

    def trade(self, mark, tenant="default"):
        desk = self.desk
        for n in range(6):
            desk.do(Reserve(id=f"{mark}-{n}", account=f"agent:{n}", amounts={"tokens": 40}), tenant=tenant)
            if n % 2:
                desk.do(Settle(id=f"{mark}-{n}", total={"tokens": 25}), tenant=tenant)
        desk.write_views()

    def change_in_views(self, change, account="agent:3"):
        """Let a cell of an account say something else in the tables."""
        with sqlite3.connect(self.views) as tables:
            of_tenant = "FROM entities WHERE tenant = 1 AND"
            number = tables.execute(f"SELECT key {of_tenant} kind = 0 AND name = ?", (account,)).fetchone()[0]
            for key, body in tables.execute(f"SELECT key, body {of_tenant} kind = ?", (CELL,)).fetchall():
                cell = msgspec.json.decode(body, type=Cell)
                if cell.account == number:
                    change(cell)
                    changed = msgspec.json.encode(cell)
                    tables.execute(
                        "UPDATE entities SET body = ? WHERE tenant = 1 AND kind = ? AND key = ?", (changed, CELL, key)
                    )
                    return key
        raise AssertionError("the account has a cell")

    def close(self):
        self.drift.stop()
        self.desk.engine.close()
        self.own.close()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.furnish()
    place.trade("first")
    yield place
    place.close()


def less_held(cell):
    cell.held -= 1
    cell.free += 1


# covers E12, E3
def test_nothing_differs_after_traffic_and_each_entry_is_folded_once(place, monkeypatch):
    folded, follow = [], place.drift._follow
    monkeypatch.setattr(
        place.drift, "_follow", lambda replica, entries: folded.extend(entries) or follow(replica, entries)
    )
    for round_number in range(4):
        assert place.drift.check("default") == ()
        place.trade(f"round{round_number}")
    assert [entry.seq for entry in folded] == list(range(1, len(folded) + 1))
    assert place.drift.statistics.rounds == 4
    assert place.drift.statistics.cells_checked == 4 * 2 * 7
    assert place.desk.engine.readiness().ready


# covers E12
def test_a_cell_that_was_changed_in_the_views_is_found_and_named(place):
    number = place.change_in_views(less_held)
    found = place.drift.check("default")
    assert [(one.place, one.cell, one.account, one.budget) for one in found] == [("views", number, "agent:3", "own")]
    assert "held is -1 and should be 0" in found[0].detail


# covers E12
def test_a_cell_that_was_changed_in_memory_is_found(place):
    cells = place.desk.engine._ledgers["default"].draft.cells
    less_held(cells[1])
    found = place.drift.check("default")
    assert [(one.place, one.cell, one.account) for one in found] == [("memory", 1, "agent:0")]


# covers E12
def test_a_cell_that_is_missing_in_the_views_or_that_nobody_opened_is_found(place):
    with sqlite3.connect(place.views) as tables:
        tables.execute("DELETE FROM entities WHERE kind = 2 AND key = 3")
    assert [(one.place, one.cell, one.detail) for one in place.drift.check("default")] == [
        ("views", 3, "it is missing")
    ]


# covers E9, E12
def test_an_entry_that_was_changed_since_the_last_round_is_found(place):
    assert place.drift.check("default") == ()
    place.trade("second")
    with sqlite3.connect(place.path) as tables:
        seq, body = tables.execute("SELECT seq, body FROM journal ORDER BY seq DESC LIMIT 1 OFFSET 2").fetchone()
        changed = body.replace(b"40", b"39").replace(b"25", b"24")
        assert changed != body
        tables.execute("UPDATE journal SET body = ? WHERE seq = ?", (changed, seq))
    found = place.drift.check("default")
    assert [(one.place, one.seq) for one in found] == [("journal", seq)]
    assert isinstance(place.desk.do(Reserve(id="x", account="agent:0", amounts={"tokens": 1})), LedgerDrift)


def barred(place, tenant="default"):
    """Which commands are not decided, by the class of the command."""
    commands = [
        Reserve(id="new", account="agent:0", amounts={"tokens": 1}),
        Extend(id="first-0", to={"tokens": 41}),
        Allocate(account="agent:5", unit="calls", to=1),
        Transfer(source="agent:1", target="agent:2", unit="tokens", amount=1),
        PutBudget(account="agent:0", unit="calls", limit=5),
        Adjust(id="more", account="agent:0", budget="own", amount=5, reason="more"),
        RequestOverride(id="raise", account="agent:0", budget="own", amount=5, reason="more"),
        ApproveOverride(id="raise"),
        DenyOverride(id="raise"),
        RevokeOverride(id="raise"),
        ResetGate(account="agent:0"),
        Compound(commands=(Reserve(id="part", account="agent:0", amounts={"tokens": 1}),)),
        PutAccount(account="agent:new", parent="team"),
        SetStatus(account="agent:4", status="suspended", reason="a test"),
        Settle(id="first-0", total={"tokens": 30}),
        Settle(id="after-the-fact", account="agent:0", total={"tokens": 3}),
        Release(id="first-2"),
    ]
    answers = {type(one).__name__: place.desk.do(one, tenant=tenant) for one in commands}
    assert not any(isinstance(answer, Refused) and answer.code == "invalid" for answer in answers.values()), answers
    return {name for name, answer in answers.items() if isinstance(answer, LedgerDrift)}


# covers E12, E14
def test_a_tenant_that_drifts_admits_nothing_books_everything_and_others_go_on(place):
    place.furnish("other")
    place.trade("first", "other")
    place.change_in_views(less_held)
    place.drift.check("default")
    place.drift.check("other")
    admitting = {"Reserve", "Extend", "Allocate", "Transfer", "PutBudget", "Adjust", "Compound"}
    assert barred(place) == admitting | {"RequestOverride", "ApproveOverride"}
    assert barred(place, "other") == set()
    assert place.desk.balance("agent:0", "own").spent == 33
    readiness = place.desk.engine.readiness()
    assert not readiness.ready
    assert readiness.reasons == ("drift",)
    assert readiness.tenants == {"default": "drift"}
    refusal = place.desk.do(Reserve(id="new", account="agent:0", amounts={"tokens": 1}))
    assert isinstance(refusal, BudgetUnavailable)
    assert refusal.code == "drift"
    assert "tenant default" in str(refusal)


# covers E12
@pytest.mark.parametrize("where", ["views", "memory"])
def test_a_repair_makes_views_and_memory_anew_and_admits_again(place, where):
    if where == "views":
        place.change_in_views(less_held)
    else:
        less_held(place.desk.engine._ledgers["default"].draft.cells[1])
    assert place.drift.check("default")
    assert place.drift.check("default"), "it does not go away by itself"
    place.desk.engine.repair("default")
    assert place.drift.check("default") == ()
    assert place.desk.engine.readiness().ready
    assert isinstance(place.desk.do(Reserve(id="new", account="agent:3", amounts={"tokens": 1})), HoldAnswer)
    place.desk.write_views()
    assert verify(place.desk.engine.store).faults == ()


def test_a_repair_cannot_make_a_broken_journal_good(place):
    with sqlite3.connect(place.path) as tables:
        tables.execute(
            "UPDATE journal SET body = CAST(replace(body, '40', '39') AS BLOB) WHERE CAST(body AS TEXT) LIKE '%40%'"
        )
    assert [one.place for one in place.drift.check("default")] == ["journal"]
    with pytest.raises(LedgerCorrupt):
        place.desk.engine.repair("default")
    readiness = place.desk.engine.readiness()
    assert not readiness.ready
    assert readiness.tenants == {"default": "ledger_corrupt"}


# covers E12
def test_every_cell_has_its_turn(place, monkeypatch):
    monkeypatch.setattr(drift_module, "CELLS_MAX", 2)
    place.desk.engine._ledgers["default"]._evict()
    place.change_in_views(less_held, "agent:4")
    rounds = 0
    while not place.drift.check("default"):
        rounds += 1
        assert rounds <= math.ceil(7 / 2)


# covers E12
def test_the_fold_begins_with_the_last_checkpoint_and_needs_nothing_before_it(tmp_path):
    place = Place(tmp_path)
    place.furnish()
    place.trade("first")
    sealed_seq = place.desk.engine.checkpoint()
    place.trade("second")
    with sqlite3.connect(place.path) as tables:
        tables.execute("DELETE FROM journal WHERE seq < ?", (sealed_seq,))
    assert place.drift.check("default") == ()
    assert place.drift.statistics.cells_checked == 14
    place.change_in_views(less_held)
    assert [one.account for one in place.drift.check("default")] == ["agent:3"]
    place.close()


# covers E12
def test_a_fold_that_is_far_behind_begins_with_the_last_checkpoint(place, monkeypatch):
    assert place.drift.check("default") == ()
    monkeypatch.setattr(drift_module, "BEHIND_MAX", 5)
    place.trade("second")
    sealed_seq = place.desk.engine.checkpoint()
    place.trade("third")
    asked = []
    entries = place.desk.engine.store.journal.entries
    monkeypatch.setattr(
        place.desk.engine.store.journal,
        "entries",
        lambda tenant, after, limit: asked.append(after) or entries(tenant, after, limit),
    )
    assert place.drift.check("default") == ()
    assert min(asked) >= sealed_seq


def test_a_checkpoint_that_was_changed_is_found(tmp_path):
    place = Place(tmp_path)
    place.furnish()
    place.trade("first")
    place.desk.engine.checkpoint()
    with sqlite3.connect(place.path) as tables:
        tables.execute("UPDATE checkpoints SET body = CAST(replace(body, '1000', '1001') AS BLOB) WHERE kind = 2")
    found = place.drift.check("default")
    assert [one.place for one in found] == ["journal"]
    assert "sealed" in found[0].detail
    place.close()


# covers E12
def test_what_is_evicted_and_loaded_again_is_still_the_same(tmp_path, monkeypatch):
    """Both the engine and the fold hold next to nothing in memory."""
    monkeypatch.setattr(ledger_module, "ENTITIES_MAX", 4)
    monkeypatch.setattr(ledger_module, "ENDED_SLACK", 1)
    monkeypatch.setattr(drift_module, "ROWS_MAX", 5)
    monkeypatch.setattr(drift_module, "CHUNK", 3)
    place = Place(tmp_path)
    place.furnish()
    for number in range(6):
        place.trade(f"round{number}")
        assert place.drift.check("default") == ()
    place.change_in_views(less_held)
    assert place.drift.check("default")
    place.close()


# covers E12
def test_a_journal_that_was_restored_is_no_drift(tmp_path):
    place = Place(tmp_path)
    place.furnish()
    place.trade("first")
    place.desk.engine.store.journal.backup(str(tmp_path / "older.db"))
    place.trade("lost")
    assert place.drift.check("default") == ()
    place.drift.stop()
    place.desk.engine.close()
    shutil.copy(tmp_path / "older.db", tmp_path / "fiscus.db")
    restored = Desk(SqliteStore(tmp_path / "fiscus.db"), place.clock)
    restored.do(Reserve(id="another", account="agent:0", amounts={"tokens": 7}))
    restored.write_views()
    drift = Drift(restored.engine, place.own, cpu_share=1)
    assert drift.check("default") == ()
    assert restored.engine.readiness().ready
    restored.engine.close()
    place.own.close()


def test_folding_takes_no_more_than_its_share_of_the_processor(place):
    for number in range(20):
        place.trade(f"round{number}")
    drift = Drift(place.desk.engine, place.own, cpu_share=0.2)
    began_s, cpu_s = time.monotonic(), time.thread_time()
    assert drift.check("default") == ()
    assert time.thread_time() - cpu_s <= 0.5 * (time.monotonic() - began_s)


def test_the_thread_checks_at_once_then_when_it_is_woken_and_ends_in_the_middle_of_a_fold(place):
    checked = []
    drift = Drift(place.desk.engine, place.own, cpu_share=1)
    check = drift.check
    drift.check = lambda tenant: checked.append(check(tenant))
    drift.start(3_600)
    wait_until(lambda: len(checked) == 1)
    place.change_in_views(less_held)
    drift.wake()
    wait_until(lambda: len(checked) == 2)
    drift.stop()
    assert [len(found) for found in checked] == [0, 1]
    slow = Drift(place.desk.engine, SqliteViews(place.path.with_name("slow")), cpu_share=1e-6)
    slow.start(3_600)
    wait_until(lambda: slow._replica is not None)
    began_s = time.monotonic()
    slow.stop()
    assert time.monotonic() - began_s < 2
    assert slow.statistics.rounds == 0


def wait_until(is_so):
    end_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def test_reads_are_answered_while_a_tenant_drifts(place):
    place.change_in_views(less_held)
    place.drift.check("default")
    assert place.desk.ask(ReadAccount(account="agent:3"))[0].account.account == "agent:3"
