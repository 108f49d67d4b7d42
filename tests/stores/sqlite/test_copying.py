"""Reading a journal from outside while it grows."""

import sqlite3
from contextlib import closing

import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.sqlite import copying
from fiscus.stores.sqlite.copying import copy_journal, reading
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.store import AnswerRow, Row

ENTRIES = 200


def row(seq: int) -> Row:
    return Row(1, seq, seq, f"id-{seq}", b"x" * 500, bytes(32))


@pytest.fixture
def store(tmp_path):
    with closing(SqliteStore(tmp_path / "fiscus.db")) as store:
        tenant = store.journal.add_tenant("default")
        store.journal.append([row(seq) for seq in range(1, ENTRIES + 1)], [AnswerRow(tenant, "key", 1, b"{}")])
        yield store


def test_a_copy_is_as_of_its_start_and_commits_meanwhile_do_not_start_it_anew(store, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "COPY_PAGES", 1)
    steps = []

    def write_meanwhile(done: int, total: int) -> None:
        steps.append((done, total))
        if len(steps) < ENTRIES:
            store.journal.append([row(ENTRIES + len(steps))])

    heads = copy_journal(store.path, tmp_path / "copy.db", write_meanwhile)
    assert [(head.name, head.seq, head.entries, head.answers) for head in heads] == [("default", ENTRIES, ENTRIES, 1)]
    total = steps[0][1]
    assert steps == [(done, total) for done in range(1, total + 1)]
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT max(seq) FROM journal").fetchone() == (ENTRIES,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reader_sees_one_journal_however_it_grows(store):
    with reading(store.path) as journal:
        assert journal.heads()[0].seq == ENTRIES
        store.journal.append([row(ENTRIES + 1)])
        assert [found.seq for found in journal.rows(1)] == list(range(1, ENTRIES + 1))
        assert [found.key for found in journal.answers(1)] == ["key"]
    with reading(store.path) as journal:
        assert journal.heads()[0].seq == ENTRIES + 1


def test_a_file_that_is_no_journal_is_unavailable(tmp_path):
    (tmp_path / "fiscus.db").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(StoreUnavailable), reading(tmp_path / "fiscus.db") as journal:
        journal.heads()
    with pytest.raises(StoreUnavailable):
        copy_journal(tmp_path / "missing.db", tmp_path / "copy.db", lambda done, total: None)
