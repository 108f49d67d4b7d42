"""Views that are lost or damaged at any time: they are made again, and nobody gets a wrong answer."""

from __future__ import annotations

import sqlite3

from fiscus.contract.errors import StoreUnavailable
from fiscus.contract.queries import ReadAccount
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve
from fiscus.core.outcomes import HoldAnswer
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury import ledger as ledger_module
from fiscus.treasury.verify import verify
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk

ACCOUNTS = 400
PAGE = 8_192


def damage(path, pages):
    """Overwrite the inner pages of a database: its first page, and with it the schema, stays whole."""
    with open(path, "r+b") as file:
        for page in range(pages.start, pages.stop):
            file.seek(page * PAGE)
            file.write(b"\xee" * PAGE)


def found(path, clock):
    desk = Desk(SqliteStore(path), clock)
    desk.ask(*(Request(command=PutAccount(account=f"agent:{number}")) for number in range(ACCOUNTS)))
    desk.ask(*(Request(command=PutBudget(account=f"agent:{n}", unit="tokens", limit=100)) for n in range(ACCOUNTS)))
    desk.ask(*(Request(command=Reserve(id=f"h{n}", account=f"agent:{n}", amounts={"tokens": 60})) for n in range(200)))
    desk.engine.close()


# covers E12
def test_damage_that_shows_only_when_something_is_loaded_costs_a_moment_and_nothing_else(tmp_path):
    clock, path = ManualClock(), tmp_path / "fiscus.db"
    found(path, clock)
    views = path.with_name("fiscus.db-views")
    damage(views, range(3, views.stat().st_size // PAGE))
    desk = Desk(SqliteStore(path), clock)
    held, away = 0, 0
    for number in range(ACCOUNTS):
        request = Request(command=Reserve(id=f"again{number}", account=f"agent:{number}", amounts={"tokens": 60}))
        answer = desk.ask(request)[0]
        if isinstance(answer, StoreUnavailable):
            away += 1
            answer = desk.ask(request)[0]
        held += isinstance(answer, HoldAnswer)
        if number % 50 == 0:
            desk.write_views()
    assert held == ACCOUNTS - 200
    assert away == 1
    desk.write_views()
    assert verify(desk.engine.store).faults == ()
    desk.engine.close()


# covers E12
def test_damage_that_shows_only_when_something_is_written_is_made_good(tmp_path, monkeypatch):
    clock, path = ManualClock(), tmp_path / "fiscus.db"
    found(path, clock)
    desk = Desk(SqliteStore(path), clock)
    assert desk.balance("agent:7").held == 60
    views = desk.engine.store.views

    class Damaged:
        """A connection that finds the file damaged."""

        def __init__(self, connection):
            self._connection = connection

        def executemany(self, *arguments):
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        def __getattr__(self, name):
            return getattr(self._connection, name)

    views._writer = Damaged(views._writer)
    desk.do(PutAccount(account="agent:new"))
    desk.engine._snapshot_at = 0
    desk.after_batch()
    assert not desk.engine.readiness().ready
    assert desk.balance("agent:7").held == 60
    assert desk.engine.readiness().ready
    desk.write_views()
    assert desk.engine.store.views.load_name(1, "agent:new") == ACCOUNTS + 1
    assert verify(desk.engine.store).faults == ()
    desk.engine.close()


# covers E12
def test_views_that_are_written_in_part_only_are_behind_and_never_wrong(tmp_path, monkeypatch):
    """The journal's tail is folded over views of any age."""
    monkeypatch.setattr(ledger_module, "TAIL_MAX", 50)
    monkeypatch.setattr(ledger_module, "LOAD_ROWS_MAX", 40)
    clock, path = ManualClock(), tmp_path / "fiscus.db"
    found(path, clock)
    path.with_name("fiscus.db-views").unlink()
    desk = Desk(SqliteStore(path), clock)
    assert isinstance(desk.do(Reserve(id="new", account="agent:399", amounts={"tokens": 100})), HoldAnswer)
    assert desk.ask(ReadAccount(account="agent:3"))[0].account.budgets[0].balance.held == 60
    desk.write_views()
    assert verify(desk.engine.store).faults == ()
    desk.engine.close()
