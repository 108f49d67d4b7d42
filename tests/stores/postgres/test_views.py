"""Views that several nodes share: one writes, none folds twice, and what is restored is not written over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.postgres import writing
from fiscus.treasury.codec import genesis
from fiscus.treasury.store import Head, Seen, ViewsAhead, ViewsLost
from tests.stores.places import AT_MS, account, entity, entries, snapshot, usage

NOW_MS = AT_MS + 1_000


@pytest.fixture
def nodes(open_node):
    """The views as two nodes have them open; the first one writes them."""
    one, two = open_node().views, open_node().views
    one.write([snapshot(1, 5, [account(1, "bob"), account(2, "ann", 1, carved=True), entity("hold", "h", 1)])], NOW_MS)
    return one, two


def stop_leading(sql) -> None:
    sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'fiscus views'")


# covers E12
def test_what_is_as_of_a_later_entry_than_a_node_has_folded_is_not_loaded(nodes):
    _, two = nodes
    loads = (
        lambda head: two.load(1, "account", 1, Seen(0, head)),
        lambda head: two.load(1, "account", 77, Seen(0, head)),
        lambda head: two.load(1, "hold", "h", Seen(0, head)),
        lambda head: two.load_many(1, "hold", ["h", "none"], Seen(0, head)),
        lambda head: two.load_many(1, "account", [1, 77], Seen(0, head)),
        lambda head: two.load_name(1, "bob", Seen(0, head)),
        lambda head: two.load_name(1, "nobody", Seen(0, head)),
        lambda head: two.load_chains(1, ["bob"], Seen(0, head)),
        lambda head: two.load_chains(1, ["nobody"], Seen(0, head)),
        lambda head: two.carved_below(1, 1, Seen(0, head)),
    )
    for load in loads:
        load(5)
        with pytest.raises(ViewsAhead):
            load(4)
    assert two.load(2, "account", 1, Seen(0, 0)) is None


# covers E3
def test_nothing_is_loaded_from_views_that_have_gone_back(nodes):
    _, two = nodes
    for load in (
        lambda seen: two.load(1, "hold", "none", seen),
        lambda seen: two.load_many(1, "hold", ["h", "none"], seen),
        lambda seen: two.load_name(1, "nobody", seen),
        lambda seen: two.load_chains(1, ["bob"], seen),
        lambda seen: two.carved_below(1, 1, seen),
    ):
        load(Seen(5, 9))
        with pytest.raises(ViewsLost, match="as of entry 5, and were as of entry 6"):
            load(Seen(6, 9))
    two.clear(1)
    with pytest.raises(ViewsLost):
        two.load(1, "hold", "h", Seen(1, 9))


# covers E12
def test_a_load_says_as_of_which_entry_it_is_while_the_views_move_on(nodes):
    """Each entity is written with the entry as of which it is: what is loaded at a head is never of a later one."""
    one, two = nodes
    stop = threading.Event()

    def write() -> None:
        for seq in range(6, 150):
            one.write([snapshot(1, seq, [entity("cell", 1, 1, body=b"%d" % seq)], after=seq - 1)], NOW_MS)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    head = ahead = 0
    while not stop.is_set() or not ahead:
        try:
            body = two.load(1, "cell", 1, Seen(0, head))
        except ViewsAhead:
            ahead += 1
            head = two.watermark(1).seq
            continue
        assert body is None or int(body) <= head
    writer.join()
    assert two.load(1, "cell", 1, Seen(149, 149)) == b"149"


def test_a_snapshot_that_the_views_have_reached_is_not_written_again(nodes, sql):
    _, two = nodes
    stop_leading(sql)
    stale, new = snapshot(1, 4, [account(1, "old name")]), snapshot(2, 3, [account(1, "other")])
    assert two.write([stale, new], NOW_MS) == [new]
    assert two.load_name(1, "bob") == 1
    assert two.watermark(1).seq == 5


def test_an_overlap_is_written_once(nodes, sql):
    one, two = nodes
    one.write([snapshot(1, 8, usage=[usage(6, 1), usage(7, 1)], erased=[(1, 6)], after=5)], NOW_MS)
    stop_leading(sql)
    later = snapshot(1, 9, usage=[usage(6, 1), usage(7, 1), usage(9, 1)], after=5)
    assert two.write([later], NOW_MS) == [later]
    assert [(row.seq, row.record) for row in two.usage(1, 0, 9, None, None, None)] == [
        (6, None),
        (7, b"{}"),
        (9, b"{}"),
    ]


def test_a_gap_is_an_error_and_nothing_is_written(nodes):
    one, _ = nodes
    with pytest.raises(ViewsLost, match="entry 5"):
        one.write([snapshot(2, 1), snapshot(1, 9, [account(3, "c")], after=7)], NOW_MS)
    assert one.watermark(1).seq == 5
    assert one.watermark(2) is None
    one.write([snapshot(1, 9, [account(3, "c")], after=5)], NOW_MS)


# covers E12
def test_views_that_another_node_has_dropped_are_written_by_that_node(nodes):
    one, two = nodes
    two.clear(1)
    with pytest.raises(ViewsLost):
        one.write([snapshot(1, 6, after=5)], NOW_MS)
    rebuilt = snapshot(1, 7, [account(1, "bob")])
    assert two.write([rebuilt], NOW_MS) == [rebuilt]
    with pytest.raises(StoreUnavailable):
        one.write([snapshot(1, 9, after=8)], NOW_MS)


# covers E12
def test_a_state_that_the_journal_has_not_got_is_not_written(nodes, open_node, sql):
    one, _ = nodes
    journal = open_node().journal
    number = journal.add_tenant("default")
    rows = entries(number, "default", 3)
    journal.begin({number: Head(0, genesis("default"))})
    journal.append(rows)
    sql("DELETE FROM watermarks")
    for seq, hash in ((3, b"another entry"), (4, b"an entry that was restored away")):
        with pytest.raises(StoreUnavailable, match="restored"):
            one.write([snapshot(number, seq, hash=hash)], NOW_MS)
    for row in rows[1:]:  # in the middle of a commit, and at its end
        mark = snapshot(number, row.seq, hash=row.hash)
        mark = type(mark)(number, type(mark.watermark)(row.seq, row.hash, row.at, 0, 0, 0), [], [])
        assert one.write([mark], NOW_MS) == [mark]
    sql("DELETE FROM watermarks")
    sql("DELETE FROM journal")
    assert one.write([snapshot(number, 3, hash=rows[-1].hash)], NOW_MS)


def test_a_node_that_does_not_write_waits_until_the_one_that_does_has_come_so_far(nodes):
    one, two = nodes
    waiter_result: list[object] = []
    waiter = threading.Thread(
        target=lambda: waiter_result.append(two.write([snapshot(1, 7, [account(3, "c")], after=5)], NOW_MS))
    )
    waiter.start()
    one.write([snapshot(1, 6, after=5)], NOW_MS)
    waiter.join(0.2)
    assert waiter.is_alive()
    one.write([snapshot(1, 8, [account(3, "c")], after=6)], NOW_MS)
    waiter.join()
    assert waiter_result == [[]]


def test_a_node_that_does_not_write_waits_no_longer_than_a_bound(nodes):
    _, two = nodes
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        two.write([snapshot(1, 7, after=5)], NOW_MS)
    assert writing.WAIT_S_MAX <= time.monotonic() - began < writing.WAIT_S_MAX + 1


def test_the_next_node_writes_when_the_one_that_did_has_closed(nodes):
    one, two = nodes
    one.close()
    later = snapshot(1, 7, after=5)
    assert two.write([later], NOW_MS) == [later]


def test_a_node_whose_session_was_ended_writes_on_if_nobody_else_does(nodes, sql):
    one, _ = nodes
    stop_leading(sql)
    later = snapshot(1, 7, after=5)
    assert one.write([later], NOW_MS) == [later]


STANDSTILL = """
import os, signal, sys
from fiscus.stores.postgres.views import PostgresViews
from tests.stores.places import snapshot
views = PostgresViews(sys.argv[1])
views.write([snapshot(1, 6, after=5)], 0)
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_node_that_is_stopped_leads_no_longer_after_five_seconds(nodes, url, sql):
    one, _ = nodes
    one.close()
    command = [sys.executable, "-c", STANDSTILL, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGSTOP)
        _, two = nodes
        later = snapshot(1, 8, after=6)
        until = time.monotonic() + 5 + 2 + 1
        while True:
            try:
                assert two.write([later], NOW_MS) == [later]
                break
            except StoreUnavailable:
                assert time.monotonic() < until
        os.kill(process.pid, signal.SIGCONT)
        process.kill()


def test_loads_go_on_where_their_connection_was_lost(nodes, sql):
    one, _ = nodes
    assert one.load(1, "account", 1) is not None
    sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'fiscus %%'")
    assert one.load(1, "account", 1) is not None
    assert one.watermark(1).seq == 5
    assert one.opening(1).watermark.seq == 5


def test_a_start_sees_one_instant_though_another_node_writes(nodes, open_node):
    one, two = nodes
    stop = threading.Event()

    def write() -> None:
        seq = 6
        while not stop.is_set():
            rows = [entity("key", "k", body=b"%d" % seq), entity("hold", f"h{seq}", 1, due_at=seq)]
            one.write([snapshot(1, seq, rows, after=seq - 1)], NOW_MS)
            seq += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            opening = two.opening(1)
            seq = opening.watermark.seq
            if seq > 5:
                assert opening.keys == [("k", b"%d" % seq)]
                assert sorted(one[0] for one in opening.deadlines) == list(range(6, seq + 1))
    finally:
        stop.set()
        writer.join()


def test_usage_is_kept_by_month_and_what_has_no_month_is_kept_too(nodes, sql):
    one, _ = nodes
    far = usage(7, 1, at=AT_MS + 400 * 86_400_000)
    one.write([snapshot(1, 7, usage=[usage(6, 1), far], after=5)], NOW_MS)
    assert [row.seq for row in one.usage(1, 0, 9, None, None, None)] == [6, 7]
    assert sql("SELECT count(*) FROM usage_other") == [(1,)]


def test_lists_are_bounded_by_time_and_another_list_may_be_read_meanwhile(nodes, url):
    one, _ = nodes
    with psycopg.connect(url, options="-c search_path=fiscus") as blocker:
        blocker.execute("LOCK TABLE usage IN ACCESS EXCLUSIVE MODE")
        result: list[object] = []
        reader = threading.Thread(target=lambda: result.append(one.usage(1, 0, 9, None, None, None)))
        reader.start()
        assert len(one.accounts(1, 0, 9, None, None, None)) == 2
        assert one.load_name(1, "bob") == 1
        blocker.rollback()
        reader.join()
    assert result == [[]]
