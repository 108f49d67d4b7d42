"""What is special to SQLite: its files, its settings, its faults."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys

import psutil
import pytest

from fiscus.contract.errors import ConfigurationInvalid, LedgerBusy, StoreUnavailable, UnknownFormat
from fiscus.core.events import FORMAT
from fiscus.stores import open_store
from fiscus.stores.sqlite.journal import LOG_PAGES_MAX, TIDY_WRITES
from tests.stores.places import SqlitePlace, entries


@pytest.fixture
def place(tmp_path):
    return SqlitePlace(tmp_path)


def pragma(connection, name):
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


# covers E11
def test_every_commit_of_the_journal_is_synced_and_nobody_else_may_write(place):
    store = place.open()
    for _ in range(2):
        writer = store.journal._writer
        assert pragma(writer, "journal_mode") == "wal"
        assert pragma(writer, "synchronous") == 2
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.journal._reader.execute("DELETE FROM journal")
        store.journal.reopen()
    for connection in (store.views._loader, store.views._lister):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM entities")
    store.close()


def in_place(place, number):
    """How many entries stand in the file itself, without the log beside it."""
    alone = place.path.with_name("alone.db")
    alone.write_bytes(place.path.read_bytes())
    with contextlib.closing(sqlite3.connect(f"file:{alone}?immutable=1", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchall():
            return 0  # not even the tables do
        return connection.execute("SELECT count(*) FROM journal WHERE tenant = ?", (number,)).fetchone()[0]


@pytest.mark.parametrize("together", [1, 9, 79])
def test_the_log_is_emptied_when_nobody_waits_and_not_by_an_append(place, together):
    store = place.open()
    journal, number = store.journal, store.journal.add_tenant("default")
    appends = TIDY_WRITES // (1 + together)
    rows = entries(number, "default", appends * together)
    for start in range(0, len(rows) - together, together):
        journal.append(rows[start : start + together])
        journal.tidy()
    assert in_place(place, number) == 0, "it is not worth while yet"
    journal.append(rows[-together:])
    assert in_place(place, number) == 0
    journal.tidy()
    assert in_place(place, number) == len(rows)
    store.close()


def test_where_somebody_always_waits_the_log_has_a_bound(place):
    store = place.open()
    number = store.journal.add_tenant("default")
    log = place.path.with_name(place.path.name + "-wal")
    for row in entries(number, "default", LOG_PAGES_MAX):
        store.journal.append([row])  # each writes two pages at least
    assert LOG_PAGES_MAX * 4_096 < log.stat().st_size < 1.1 * LOG_PAGES_MAX * 4_096
    assert in_place(place, number) > LOG_PAGES_MAX // 4
    store.close()


def open_for_writing():
    """Files that this process may write, one entry for each time that it has them open."""
    return [file.path for file in psutil.Process().open_files() if file.mode != "r"]


@pytest.mark.skipif(not psutil.LINUX, reason="the modes of open files are known on Linux only")
def test_each_file_is_open_for_writing_once_also_after_an_error(place):
    store = place.open()
    number = store.journal.add_tenant("default")
    store.journal.append(entries(number, "default", 3))
    store.journal.reopen()
    store.journal.append(entries(number, "default", 1, after=store.journal.head(number)))
    opened = open_for_writing()
    assert opened.count(str(place.path)) == 1
    assert opened.count(str(place.views_path)) == 1
    store.close()
    assert [path for path in open_for_writing() if path.startswith(str(place.path))] == []


def test_a_journal_of_a_newer_fiscus_is_refused_and_left_as_it_is(place):
    place.open().close()
    with sqlite3.connect(place.path) as newer:
        newer.execute("UPDATE formats SET format = ?", (FORMAT + 1,))
        newer.execute("DROP TABLE private")
    newer.close()
    with pytest.raises(UnknownFormat, match=str(FORMAT + 1)):
        place.open()
    with sqlite3.connect(place.path) as newer:
        assert newer.execute("SELECT count(*) FROM sqlite_master WHERE name = 'private'").fetchone() == (0,)
        assert newer.execute("SELECT format FROM formats").fetchall() == [(FORMAT + 1,)]
    newer.close()
    with pytest.raises(UnknownFormat):
        place.open()


def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(place):
    place.path.write_bytes(b"a letter to my bank" * 1_000)
    with pytest.raises(StoreUnavailable):
        place.open()
    assert place.path.read_bytes() == b"a letter to my bank" * 1_000
    place.path.unlink()
    place.open().close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_an_error_of_the_store(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreUnavailable):
        SqlitePlace(tmp_path / "below").open()


def test_a_path_below_a_file_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable):
        SqlitePlace(tmp_path / "file").open()


@pytest.mark.parametrize("name", ["a file?.db", "100%.db", "#1.db", "ü ö.db"])
def test_a_ledger_may_have_any_name(tmp_path, name):
    url = f"sqlite:///{tmp_path}/{name}"
    store = open_store(url)
    number = store.journal.add_tenant("default")
    store.journal.append(entries(number, "default", 1))
    assert store.journal.head(number).seq == 1
    store.close()
    assert (tmp_path / name).exists()
    again = open_store(url)
    assert again.journal.head(number).seq == 1
    again.close()


def test_a_url_of_no_known_kind_is_a_wrong_setting():
    for url in ("", "sqlite://", "sqlite:///", "mysql://host/db", "fiscus.db"):
        with pytest.raises(ConfigurationInvalid):
            open_store(url)


def test_a_ledger_in_memory_leaves_nothing_behind():
    store = open_store("memory:")
    number = store.journal.add_tenant("default")
    store.journal.append(entries(number, "default", 1))
    directory = store.path.parent
    assert directory.exists()
    store.close()
    assert not directory.exists()


def test_the_lock_of_a_process_that_died_is_free(place):
    program = (
        "import os, sys; from fiscus.stores import open_store; "
        "store = open_store(sys.argv[1], address='http://127.0.0.1:7'); print('open', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, f"sqlite:///{place.path}"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LedgerBusy) as busy:
            place.open()
        assert busy.value.address == "http://127.0.0.1:7"
        holder.kill()
        holder.wait()
    place.open().close()
