"""Drift on every store: none in traffic of all kinds, on one node or several; a change in the tables is found."""

from __future__ import annotations

import random
import threading
import time

import msgspec
import psycopg
import pytest

from fiscus.core.commands import PutAccount, PutBudget, Request, Settle
from fiscus.core.records import CallRecord
from fiscus.core.state import Cell
from fiscus.stores.sqlite.views import SqliteViews
from fiscus.treasury import drift as drift_module
from fiscus.treasury import ledger as ledger_module
from fiscus.treasury.clock import HostClock
from fiscus.treasury.drift import Drift
from fiscus.treasury.engine import Engine
from tests.servers.postgres import versions
from tests.stores.places import PLACES, PostgresPlace
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk
from tests.treasury.traffic import Traffic, founding

BATCHES = 150
CATCH_UP_S_MAX = 60
ROUNDS_MAX = 50
"""In which each cell has been looked at."""

SECONDS = 3
STILL = 123_456
"""Limit of a budget that the traffic has nothing to do with."""


class Nobody:
    """A port at which nobody waits."""

    def __init__(self) -> None:
        self.answered = threading.Semaphore(0)

    def deliver(self, answers):
        self.answered.release(len(answers))


# covers E12, E3
@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("entities_max", [10, 100_000])
def test_traffic_of_all_kinds_never_drifts_whatever_is_in_memory(tmp_path, monkeypatch, name, entities_max):
    monkeypatch.setattr(ledger_module, "ENTITIES_MAX", entities_max)
    monkeypatch.setattr(drift_module, "CHUNK", 7)
    store = PLACES[name](tmp_path).open()
    clock = ManualClock() if name == "sqlite" else HostClock()
    desk, traffic, dice = Desk(store, clock), Traffic(seed=11), random.Random(5)
    own = SqliteViews(tmp_path / "own")
    drift = Drift(desk.engine, own, cpu_share=1)
    desk.ask(*founding())
    compared = 0
    for number in range(BATCHES):
        desk.ask(*traffic.batch(dice.randint(1, 20)))
        if name == "sqlite":
            clock.advance(traffic.pause_ms())
        if number % 3 == 0:
            desk.engine._snapshot_at = 0
            desk.after_batch()
        if number % 40 == 17:
            desk.engine.checkpoint()
        if number % 10 == 9:
            desk.write_views()
            assert drift.check("default") == ()
            compared = drift.statistics.cells_checked
    assert compared > 500
    desk.engine.close()
    own.close()


def standing_still():
    """An account used once. What the traffic leaves behind expires after it, and other cells are written again."""
    commands = (
        PutAccount(account="still"),
        PutBudget(account="still", unit="tokens", limit=STILL),
        Settle(id="still", account="still", total={"tokens": STILL}, record=CallRecord(model="gpt")),
    )
    return [Request(tenant="default", command=command) for command in commands]


def cell_that_stands_still(connection):
    """Its number and its body in the views."""
    rows = connection.execute("SELECT number, body FROM fiscus.entities WHERE kind = 2 ORDER BY number").fetchall()
    cells = [(number, msgspec.json.decode(bytes(body), type=Cell)) for number, body in rows]
    ((number, cell),) = [(number, cell) for number, cell in cells if cell.limit == STILL]
    return number, cell


def wait_for_views(engines):
    """Until nothing is left to be written that would write over what is changed by hand."""
    until = time.monotonic() + CATCH_UP_S_MAX
    while any(one.followers_seq < one.head_seq for one in (engine.readiness() for engine in engines)):
        assert time.monotonic() < until, "the views do not catch up"
        time.sleep(0.05)


# covers E12, E10
@pytest.mark.slow
@pytest.mark.parametrize("version", versions())
def test_two_nodes_under_load_never_drift_and_both_find_what_is_changed_in_the_views(tmp_path, version):
    place = PostgresPlace(tmp_path, version)
    engines = [Engine(place.open()) for _ in range(2)]
    owns = [SqliteViews(tmp_path / f"own{number}") for number in range(2)]
    drifts = [Drift(engine, own, cpu_share=1) for engine, own in zip(engines, owns, strict=True)]
    for engine in engines:
        engine.start()
    port, end = Nobody(), threading.Event()
    for request in (*founding(), *standing_still()):
        engines[0].submit(port, None, request)
        port.answered.acquire()

    def load(engine, seed):
        traffic, own = Traffic(seed), Nobody()
        while not end.is_set():
            batch = traffic.batch(20)
            for request in batch:
                engine.submit(own, None, request)
            for _ in batch:
                own.answered.acquire()

    threads = [threading.Thread(target=load, args=(engine, seed)) for seed, engine in enumerate(engines)]
    timer = threading.Timer(SECONDS, end.set)
    for thread in (*threads, timer):
        thread.start()
    rounds = 0
    while not end.is_set():
        for drift in drifts:
            assert drift.check("default") == ()
            rounds += 1
    for thread in threads:
        thread.join()
    assert rounds >= 4
    assert sum(engine.statistics.followed for engine in engines) > 100
    wait_for_views(engines)
    with psycopg.connect(place.url, autocommit=True) as connection:
        number, cell = cell_that_stands_still(connection)
        cell.uncovered += 1
        change = "UPDATE fiscus.entities SET body = %s WHERE kind = 2 AND number = %s"
        connection.execute(change, (msgspec.json.encode(cell), number))
    for drift in drifts:
        found = ()
        for _ in range(ROUNDS_MAX):
            found = found or drift.check("default")
        assert {(one.place, one.cell) for one in found} == {("views", number)}
    assert all(engine.readiness().tenants == {"default": "drift"} for engine in engines)
    for engine in engines:
        engine.repair("default")
    for engine, drift, own in zip(engines, drifts, owns, strict=True):
        assert drift.check("default") == ()
        assert engine.readiness().ready
        engine.close()
        own.close()
