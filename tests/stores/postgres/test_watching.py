"""News of other nodes: at once by NOTIFY, and by a slow poll where nothing is said."""

from __future__ import annotations

import threading
import time
from urllib.parse import urlsplit

import psycopg
import pytest

from fiscus.stores.postgres import watching
from fiscus.treasury.codec import genesis
from fiscus.treasury.store import Head
from tests.servers.proxy import Proxy
from tests.stores.places import entries

SOON_S = 5
"""How long something that must happen may take; reached only by a test that fails."""


class Bell:
    """Counts how often it is rung, and when."""

    def __init__(self) -> None:
        self.rung_at: list[float] = []
        self._rung = threading.Condition()

    def __call__(self) -> None:
        with self._rung:
            self.rung_at.append(time.monotonic())
            self._rung.notify_all()

    def wait_for(self, count: int) -> None:
        with self._rung:
            assert self._rung.wait_for(lambda: len(self.rung_at) >= count, SOON_S)


@pytest.fixture
def nodes(open_node):
    one, two = open_node().journal, open_node().journal
    number = one.add_tenant("default")
    return one, two, number


def listening(sql, count: int) -> None:
    """Until so many sessions listen."""
    until = time.monotonic() + SOON_S
    told_to_listen = "application_name = 'fiscus watch' AND query ~ 'make_months|NOTIFY'"
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {told_to_listen}"
    while sql(query) < [(count,)]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_node_is_called_at_least_every_200_ms_though_nobody_says_anything(nodes):
    one, _, _ = nodes
    bell = Bell()
    one.watch(bell)
    bell.wait_for(6)
    gaps = [after - before for before, after in zip(bell.rung_at, bell.rung_at[1:], strict=False)]
    assert sorted(gaps)[len(gaps) // 2] < 2 * watching.POLL_S


def test_a_node_hears_at_once_of_what_another_has_appended(nodes, sql, monkeypatch):
    monkeypatch.setattr(watching, "POLL_S", 60.0)
    one, two, number = nodes
    bell, own = Bell(), Bell()
    one.watch(own)
    two.watch(bell)
    bell.wait_for(1)
    own.wait_for(1)
    listening(sql, 2)
    head = Head(0, genesis("default"))
    for count in range(2, 5):
        rows = entries(number, "default", 2, after=head)
        one.begin({number: head})
        one.append(rows)
        head = Head(rows[-1].seq, rows[-1].hash)
        bell.wait_for(count)
    assert len(own.rung_at) == 1


def test_many_appends_are_told_in_few_words(nodes, sql):
    one, _, number = nodes
    one.watch(lambda: None)
    with psycopg.connect(one._url, autocommit=True) as listener:
        listener.execute("LISTEN fiscus")
        listening(sql, 1)
        head, began = Head(0, genesis("default")), time.monotonic()
        for _ in range(100):
            rows = entries(number, "default", 1, after=head)
            one.append(rows)
            head = Head(rows[-1].seq, rows[-1].hash)
        took_s = time.monotonic() - began
        told = len(list(listener.notifies(timeout=0.3)))
    assert 1 <= told <= took_s / watching.TELL_EVERY_S + 2


def test_a_watch_that_lost_its_connection_goes_on_and_listens_again(url, open_node, sql):
    port = urlsplit(url).port
    with Proxy(port) as proxy:
        one, two = open_node().journal, open_node(url.replace(str(port), str(proxy.port))).journal
        bell = Bell()
        two.watch(bell)
        listening(sql, 1)
        proxy.refuse(True)
        bell.wait_for(len(bell.rung_at) + 3)
        proxy.refuse(False)
        listening(sql, 1)
        assert one.tenants() == {}


def test_a_store_that_is_closed_calls_nobody_and_closes_fast(open_node):
    store = open_node()
    bell = Bell()
    store.journal.watch(bell)
    bell.wait_for(1)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 1
    rung = len(bell.rung_at)
    time.sleep(2 * watching.POLL_S)
    assert len(bell.rung_at) == rung
    assert not [thread for thread in threading.enumerate() if thread.name == "fiscus-watch"]


def test_a_defect_of_who_is_called_does_not_end_the_watch(nodes):
    one, _, _ = nodes
    bell = Bell()

    def ring() -> None:
        bell()
        raise ValueError("a defect")

    one.watch(ring)
    bell.wait_for(3)
