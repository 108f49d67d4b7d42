"""A ledger moves from one store to the other and back, whole or up to a point, each entry verified."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

import pytest

from fiscus.cli.importing import Point, append_files, read_files, read_point
from fiscus.contract.errors import ConfigurationInvalid, LedgerCorrupt, StoreUnavailable
from fiscus.core.commands import PutAccount, Reserve
from fiscus.core.outcomes import HoldAnswer
from fiscus.stores import open_store
from fiscus.stores.postgres.copying import reading as reading_database
from fiscus.stores.sqlite.copying import reading as reading_file
from fiscus.treasury.archiving import Archivist
from fiscus.treasury.journal_file import export_journal, opened
from fiscus.treasury.store import AnswerRow, Row
from fiscus.treasury.verify import verify
from tests.cli.processes import LEDGER, WAIT_S, answer, answers, fiscus, service
from tests.servers.postgres import server
from tests.stores.places import PLACES, PostgresPlace, SqlitePlace
from tests.treasury.desk import entities, journal
from tests.treasury.old_ledger import make_old_ledger, open_desk, open_old_ledger

TENANTS = ("default", "other")


def silent(done, total):
    """Nobody watches."""


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return make_old_ledger(tmp_path_factory.mktemp("old"))


@pytest.fixture(params=sorted(PLACES))
def place(request, tmp_path):
    return PLACES[request.param](tmp_path)


def export(place, file):
    """All of a ledger in a file."""
    reading = reading_file(place.path) if isinstance(place, SqlitePlace) else reading_database(place.url)
    with reading as ledger, opened(file, "wb") as output:
        export_journal(ledger, ledger.heads(), output, silent)
    return file


def is_whole(store):
    for tenant in TENANTS:
        assert verify(store, tenant, from_start=True).faults == ()


# covers E9
def test_a_ledger_moves_to_the_other_store_and_back_and_is_the_same_to_the_byte(old, tmp_path):
    database, file = PostgresPlace(tmp_path), SqlitePlace(tmp_path)
    store = database.open()
    imported = append_files(store, [old.file], None, silent)
    assert [one.tenant for one in imported] == list(TENANTS)
    is_whole(store)
    moved = export(database, tmp_path / "moved.jsonl")
    assert moved.read_bytes() == old.file.read_bytes()
    back = file.open()
    append_files(back, [moved], None, silent)
    is_whole(back)
    assert {tenant: journal(back, tenant) for tenant in TENANTS} == {
        tenant: journal(store, tenant) for tenant in TENANTS
    }
    store.close()
    back.close()
    assert export(file, tmp_path / "back.jsonl.gz").stat().st_size < moved.stat().st_size / 2
    assert list(read_files([tmp_path / "back.jsonl.gz"], lambda _: 0, None, silent)) == list(
        read_files([old.file], lambda _: 0, None, silent)
    )


# covers E11
def test_an_import_that_was_interrupted_is_gone_on_with(old, place, monkeypatch, tmp_path):
    store = place.open()
    real, calls = store.journal.append, itertools.count(1)

    def append(rows, answers=(), erased=()):
        if next(calls) == 2:
            raise StoreUnavailable("a fault of the test")
        real(rows, answers, erased)

    monkeypatch.setattr("fiscus.cli.importing.APPEND_ROWS", 100)
    monkeypatch.setattr(store.journal, "append", append)
    with pytest.raises(StoreUnavailable):
        append_files(store, [old.file], None, silent)
    assert store.journal.head(1).seq == 100
    append_files(store, [old.file], None, silent)
    append_files(store, [old.file], None, silent)
    is_whole(store)
    store.close()
    assert export(place, tmp_path / "whole.jsonl").read_bytes() == old.file.read_bytes()


def test_a_ledger_with_another_past_is_left_as_it_is(old, place):
    store = place.open()
    desk = open_desk(old, store)
    store.journal.add_tenant("default")
    desk.do(PutAccount(account="global"))
    before = journal(store)
    with pytest.raises(ConfigurationInvalid, match="is not empty and has another entry 1"):
        append_files(store, [old.file], None, silent)
    assert journal(store) == before
    desk.engine.close()


# covers E9
def test_up_to_a_point_means_whole_commits_and_the_answers_of_then(old, place):
    items = list(read_files([old.file], lambda name: TENANTS.index(name) + 1, None, silent))
    rows = [item for item in items if isinstance(item, Row) and item.tenant == 1]
    together = next(one for one, after in itertools.pairwise(rows[200:]) if one.at == after.at)
    cut = list(read_files([old.file], lambda name: TENANTS.index(name) + 1, Point(seq=together.seq), silent))
    taken = [item for item in cut if isinstance(item, Row) and item.tenant == 1]
    assert taken == [row for row in rows if row.at < together.at]
    assert {item.at <= taken[-1].at for item in cut if isinstance(item, AnswerRow) and item.tenant == 1} <= {True}
    at = Point(at=together.at)
    by_time = [item for item in read_files([old.file], lambda _: 1, at, silent) if isinstance(item, Row)]
    assert max(row.at for row in by_time) == together.at
    store = place.open()
    append_files(store, [old.file], Point(seq=together.seq), silent)
    is_whole(store)
    assert journal(store)[-1][0] == taken[-1].seq
    desk = open_desk(old, store)
    assert isinstance(desk.do(Reserve(id="goes on", account="global", amounts={"tokens": 1, "cost": 1})), HoldAnswer)
    desk.engine.close()


def test_a_point_is_a_sequence_number_or_a_time():
    assert read_point("17") == Point(seq=17)
    at = datetime(2026, 11, 24, 10, tzinfo=UTC).timestamp() * 1_000
    assert read_point("2026-11-24T10:00:00Z") == read_point("2026-11-24T10:00:00") == Point(at=at)
    assert read_point("2026-11-24T11:00:00+01:00") == Point(at=at)
    with pytest.raises(ConfigurationInvalid, match="neither"):
        read_point("yesterday")


# covers E7, E9, E12
@pytest.mark.parametrize("to", ["sqlite", "postgres-18"])
def test_an_archived_ledger_moves_with_its_state_and_its_ids(old, place, to, tmp_path):
    desk = open_old_ledger(old, place.open())
    held = [body for _, _, body, _ in journal(desk.engine.store) if b'"kind":"held"' in body]
    id = held[0].split(b'"id":"')[1].split(b'"')[0].decode()
    archives = Archivist(desk.engine, tmp_path / "archive", 90, cpu_share=1.0).run()
    seen = {tenant: entities(desk.engine.store, tenant) for tenant in TENANTS}
    desk.engine.close()
    file = export(place, tmp_path / "archived.jsonl")
    (tmp_path / "to").mkdir()
    target = PLACES[to](tmp_path / "to")
    store = target.open()
    append_files(store, [file], None, silent)
    is_whole(store)
    moved = open_desk(old, store)
    for tenant in TENANTS:
        assert lasting(entities(store, tenant)) == lasting(seen[tenant])
        assert verify(store, tenant, from_start=True).from_seq == archives[TENANTS.index(tenant)].upto_seq
    moved.do(PutAccount(account="fresh"))
    assert moved.do(Reserve(id=id, account="fresh", amounts={"calls": 1})).code in ("idempotency_expired", "conflict")
    moved.engine.close()
    # With the archives before it, it is one chain from the first entry on.
    files = [*sorted((tmp_path / "archive").iterdir()), file]
    rows = [item for item in read_files(files, lambda name: TENANTS.index(name), None, silent) if isinstance(item, Row)]
    for number in range(len(TENANTS)):
        seqs = [row.seq for row in rows if row.tenant == number]
        assert seqs == list(range(1, len(seqs) + 1))
    audit = open_store(f"sqlite:///{tmp_path / 'audit.db'}")
    append_files(audit, files, None, silent)
    is_whole(audit)
    audit.close()


def lasting(rows):
    """All rows but those of windows and holds, which time changes."""
    return {(kind, key): body for kind, key, body in rows if kind not in (2, 3)}


def test_a_state_that_was_changed_in_the_file_is_not_taken(old, tmp_path):
    desk = open_old_ledger(old, SqlitePlace(tmp_path).open())
    Archivist(desk.engine, tmp_path / "archive", 90, cpu_share=1.0).run()
    desk.engine.close()
    file = export(SqlitePlace(tmp_path), tmp_path / "archived.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    index = next(index for index, line in enumerate(lines) if line.startswith(b'{"kind":2,'))
    lines[index] = lines[index].replace(b"limit", b"limit", 1).replace(b'\\"free\\":', b'\\"free\\":1', 1)
    file.write_bytes(b"".join(lines))
    with pytest.raises(LedgerCorrupt, match="is not what its checkpoint vouches for"):
        list(read_files([file], lambda _: 0, None, silent))


@pytest.mark.slow
def test_the_commands_move_a_ledger_and_say_how_to_back_it_up(old, tmp_path):
    url = server().migrated_database()
    database = {"FISCUS_STORE_URL": url}
    imported = answers(tmp_path, "import", str(old.file), **database)
    assert [one["tenant"] for one in imported] == list(TENANTS)
    report = answer(tmp_path, "verify", **database)
    assert (report["head_seq"], report["faults"]) == (imported[0]["head_seq"], [])
    exported = answers(tmp_path, "export", "moved.jsonl", **database)
    assert [one["head_seq"] for one in exported] == [one["head_seq"] for one in imported]
    assert (tmp_path / "moved.jsonl").read_bytes() == old.file.read_bytes()
    refused = fiscus(tmp_path, "backup", "copy.db", code=1, **database).stderr
    assert "pg_dump" in refused
    assert "fiscus export" in refused
    answers(tmp_path, "import", "moved.jsonl", "--until", "100")
    assert 60 < answer(tmp_path, "verify")["head_seq"] <= 100
    assert (tmp_path / LEDGER).exists()
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(old.file.read_bytes()[:-7])
    empty = server().migrated_database()
    assert "damaged.jsonl" in fiscus(tmp_path, "import", "damaged.jsonl", code=1, FISCUS_STORE_URL=empty).stderr
    store = open_store(empty)
    assert store.journal.tenants() == {}
    store.close()


@pytest.mark.slow
def test_the_command_archives_and_says_what_it_would(old, tmp_path):
    store = SqlitePlace(tmp_path).open()
    open_old_ledger(old, store).engine.close()
    would = answers(tmp_path, "archive", "--dry-run")
    assert [(one["tenant"], one["done"]) for one in would] == [("default", False), ("other", False)]
    assert not (tmp_path / f"{LEDGER}.archive").exists()
    assert answers(tmp_path, "archive", FISCUS_RETENTION_DAYS="3650") == []
    done = answers(tmp_path, "archive")
    assert [(one["upto_seq"], one["done"]) for one in done] == [(one["upto_seq"], True) for one in would]
    assert len(list((tmp_path / f"{LEDGER}.archive").iterdir())) == 2
    assert answers(tmp_path, "archive") == []
    report = answer(tmp_path, "verify", "--from-start")
    assert (report["from_seq"], report["faults"]) == (done[0]["upto_seq"], [])
    gone = fiscus(tmp_path, "events", code=1).stderr
    assert f"begin with {done[0]['upto_seq'] + 1}" in gone
    assert answers(tmp_path, "events", "--after", str(done[0]["upto_seq"]))[0]["seq"] == done[0]["upto_seq"] + 1
    assert "retention_days is 0" in fiscus(tmp_path, "archive", code=1, FISCUS_RETENTION_DAYS="0").stderr


@pytest.mark.slow
def test_a_running_service_archives_by_itself(old, tmp_path):
    open_old_ledger(old, SqlitePlace(tmp_path).open()).engine.close()
    directory = tmp_path / "elsewhere"
    with service(tmp_path, FISCUS_ARCHIVE_INTERVAL_S="1", FISCUS_ARCHIVE_PATH=str(directory)) as running:
        deadline = time.monotonic() + WAIT_S
        while (tmp_path / "service.log").read_text().count("upto_seq=") < len(TENANTS):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(list(directory.glob("*.jsonl.gz"))) == len(TENANTS)
        assert "the service at" in fiscus(tmp_path, "archive", code=1).stderr
        assert running.stop() == 0
    report = answer(tmp_path, "verify", "--from-start")
    assert report["from_seq"] > 0
    assert report["faults"] == []
