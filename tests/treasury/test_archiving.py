"""Retention: entries go to a file and from the ledger, and everything is as it was."""

from __future__ import annotations

import gzip
import shutil

import psycopg
import pytest

from fiscus.cli.importing import read_files
from fiscus.contract.errors import ArchiveUnavailable, EntriesArchived, StoreUnavailable
from fiscus.contract.queries import ListEntries
from fiscus.core.commands import EraseName, PutAccount, Reserve, SetStatus
from fiscus.core.outcomes import HoldAnswer
from fiscus.treasury import archiving
from fiscus.treasury.archiving import Archivist
from fiscus.treasury.journal_file import Header, check_file
from fiscus.treasury.reading import list_view
from fiscus.treasury.store import Row
from fiscus.treasury.verify import verify
from tests.stores.places import PLACES
from tests.treasury.desk import entities, journal, usage
from tests.treasury.old_ledger import PRIVATE, make_old_ledger, open_desk, open_old_ledger
from tests.treasury.traffic import DAY_MS

TENANTS = ("default", "other")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return make_old_ledger(tmp_path_factory.mktemp("old"))


@pytest.fixture(params=sorted(PLACES))
def place(request, tmp_path):
    return PLACES[request.param](tmp_path)


@pytest.fixture
def desk(old, place):
    desk = open_old_ledger(old, place.open())
    yield desk
    desk.engine.close()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "archive"


def archivist(desk, directory, **options):
    return Archivist(desk.engine, directory, 90, **{"cpu_share": 1.0, **options})


def look(store):
    """All that a ledger has of what was not archived."""
    firsts = {tenant: journal(store, tenant)[0][0] for tenant in TENANTS}
    return {
        tenant: (
            journal(store, tenant),
            entities(store, tenant),
            [row for row in usage(store, tenant) if row.seq >= firsts[tenant]],
        )
        for tenant in TENANTS
    }


def is_whole(store):
    for tenant in TENANTS:
        for from_start in (False, True):
            assert verify(store, tenant, from_start=from_start).faults == ()


# covers R22, E3, E9, E12
def test_what_is_old_and_sealed_goes_to_a_file_and_everything_else_is_as_it_was(old, place, desk, directory):
    store = desk.engine.store
    before = look(store)
    plans = archivist(desk, directory).plan()
    assert not directory.exists()
    done = archivist(desk, directory).run()
    assert [(plan.tenant, plan.upto_seq) for plan in done] == [(plan.tenant, plan.upto_seq) for plan in plans]
    assert [plan.tenant for plan in done] == list(TENANTS)
    after = look(store)
    for plan in done:
        entries, seen, used = after[plan.tenant]
        assert old.now_ms - 130 * DAY_MS < plan.upto_at < old.now_ms - 90 * DAY_MS
        assert entries == before[plan.tenant][0][plan.upto_seq :]
        assert entries[0][0] == plan.upto_seq + 1
        assert seen == before[plan.tenant][1]
        assert used == [row for row in before[plan.tenant][2] if row.seq > plan.upto_seq]
        assert usage(store, plan.tenant) == used
        assert verify(store, plan.tenant, from_start=True).from_seq == plan.upto_seq
    is_whole(store)
    assert archivist(desk, directory).run() == []
    # A new start, with the views and without them.
    desk.engine.close()
    again = open_desk(old, place.open())
    is_whole(again.engine.store)
    kept = look(again.engine.store)
    for number in again.engine.tenants.values():
        again.engine.store.views.clear(number)
    again.engine.close()
    rebuilt = open_desk(old, place.open())
    for tenant in TENANTS:
        assert look(rebuilt.engine.store)[tenant][1:] == kept[tenant][1:]
    is_whole(rebuilt.engine.store)
    rebuilt.engine.close()


# covers E9
def test_archives_and_an_export_are_one_chain_and_name_nobody(old, desk, directory):
    whole = {tenant: journal(desk.engine.store, tenant) for tenant in TENANTS}
    for plan in archivist(desk, directory).run():
        header, last_hash = check_file(directory / plan.file, lambda done, total: None)
        assert (header.after_seq, header.head_seq, header.entries) == (0, plan.upto_seq, plan.upto_seq)
        assert last_hash == whole[plan.tenant][plan.upto_seq - 1][3]
        text = gzip.decompress((directory / plan.file).read_bytes()).decode()
        assert not [name for name in PRIVATE if name in text]
        assert (directory / plan.file).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    rows = list(read_files(sorted(directory.iterdir()), lambda _: 0, None, lambda done, total: None))
    seqs = [one.seq for one in rows if isinstance(one, Row)]
    assert len(seqs) == sum(one.entries for one in rows if isinstance(one, Header))


def test_an_id_that_an_archived_entry_took_is_taken_for_ever(desk, directory):
    held = [body for _, _, body, _ in journal(desk.engine.store) if b'"kind":"held"' in body]
    id = held[0].split(b'"id":"')[1].split(b'"')[0].decode()
    archivist(desk, directory).run()
    desk.engine.store.views.prune_ended(2**60, 10**6)
    desk.engine._forget()
    desk.do(PutAccount(account="fresh"))
    before = len(journal(desk.engine.store))
    outcome = desk.do(Reserve(id=id, account="fresh", amounts={"calls": 1}))
    assert outcome.code == "idempotency_expired"
    assert len(journal(desk.engine.store)) == before
    assert isinstance(desk.do(Reserve(id="new", account="fresh", amounts={"calls": 1})), HoldAnswer)


def test_who_asks_for_archived_entries_is_told_where_to_begin(desk, directory):
    (plan, _) = archivist(desk, directory).run()
    store = desk.engine.store
    with pytest.raises(EntriesArchived, match=f"begin with {plan.upto_seq + 1}") as gone:
        list_view(store, plan.number, ListEntries())
    assert gone.value.first_seq == plan.upto_seq + 1
    page = list_view(store, plan.number, ListEntries(after=plan.upto_seq, limit=5))
    assert [entry.seq for entry in page.entries] == [plan.upto_seq + index for index in range(1, 6)]


# covers E11
@pytest.mark.parametrize("point", ["file", "entries", "rest"])
def test_an_interrupted_round_loses_nothing_and_is_gone_on_with(old, place, desk, directory, monkeypatch, point):
    monkeypatch.setattr(archiving, "DROP_ROWS", 50)
    store = desk.engine.store
    before = look(store)
    real = {"drop_entries": store.journal.drop_entries, "drop_usage": store.views.drop_usage}
    left = {"entries": 1, "rest": 1, "file": 0}[point]

    def drop_entries(upto, limit):
        nonlocal left
        if point != "rest":
            if left == 0:
                raise StoreUnavailable("a fault of the test")
            left -= 1
        return real["drop_entries"](upto, limit)

    def drop_usage(upto, limit):
        raise StoreUnavailable("a fault of the test")

    monkeypatch.setattr(store.journal, "drop_entries", drop_entries)
    monkeypatch.setattr(store.views, "drop_usage", drop_usage)
    with pytest.raises(StoreUnavailable):
        archivist(desk, directory).run()
    files = sorted(path.name for path in directory.iterdir())
    assert len(files) == 2
    is_whole(store)
    monkeypatch.undo()
    desk.engine.close()
    again = open_desk(old, place.open())
    is_whole(again.engine.store)
    done = archivist(again, directory).run()
    assert (len(done) == 2) == (point == "file" or (point == "entries" and place.is_exclusive))
    assert sorted(path.name for path in directory.iterdir()) == files
    is_whole(again.engine.store)
    for tenant in TENANTS:
        entries, seen, used = look(again.engine.store)[tenant]
        upto = entries[0][0] - 1
        assert upto > 0
        assert (entries, seen) == (before[tenant][0][upto:], before[tenant][1])
        assert usage(again.engine.store, tenant) == used == [row for row in before[tenant][2] if row.seq > upto]
    if not place.is_exclusive:
        with psycopg.connect(place.url) as connection:
            for number, tenant in ((again.engine.tenants[tenant], tenant) for tenant in TENANTS):
                first = journal(again.engine.store, tenant)[0][0]
                for table, column in (("private", "seq"), ("batches", "last_seq")):
                    query = f"SELECT count(*) FROM fiscus.{table} WHERE tenant = %s AND {column} < %s"
                    assert connection.execute(query, (number, first)).fetchone() == (0,)
    again.engine.close()


def test_a_file_that_is_not_what_the_journal_has_keeps_everything_in_the_ledger(desk, directory):
    plans = archivist(desk, directory).plan()
    directory.mkdir()
    other = directory / plans[0].file
    with gzip.open(other, "wb") as file:
        file.write(b"")
    before = look(desk.engine.store)
    with pytest.raises(ArchiveUnavailable, match="is not the header of a journal"):
        archivist(desk, directory).run()
    other.unlink()
    with gzip.open(other, "wb") as file:
        file.write(
            b'{"tenant":"default","format":1,"entries":0,"head_seq":%d,"answers":0,"after_seq":%d,"after_hash":"00"}\n'
            % (plans[0].upto_seq, plans[0].upto_seq)
        )
    with pytest.raises(ArchiveUnavailable, match="another journal"):
        archivist(desk, directory).run()
    assert look(desk.engine.store) == before
    other.unlink()
    assert len(archivist(desk, directory).run()) == 2


def test_a_directory_that_cannot_be_written_keeps_everything_in_the_ledger(desk, tmp_path):
    (tmp_path / "file").write_text("")
    before = look(desk.engine.store)
    with pytest.raises(ArchiveUnavailable):
        archivist(desk, tmp_path / "file" / "archive").run()
    assert look(desk.engine.store) == before


def test_usage_stays_where_that_is_wanted(desk, directory):
    before = {tenant: usage(desk.engine.store, tenant) for tenant in TENANTS}
    assert archivist(desk, directory, keeps_usage=True).run()
    assert {tenant: usage(desk.engine.store, tenant) for tenant in TENANTS} == before


def test_one_archives_at_a_time(desk, directory):
    with desk.engine.store.journal.alone(desk.engine.tenants["other"]):
        assert archivist(desk, directory).run() == []
    assert len(archivist(desk, directory).run()) == 2


# covers R22
def test_an_erased_name_leaves_archives_chain_and_sums_whole(desk, directory):
    archivist(desk, directory).run()
    before = [row for row in entities(desk.engine.store) if row[0] == 2]
    desk.do(SetStatus(account="agent:e", status="closed"))
    desk.do(EraseName(account="agent:e"))
    desk.write_views()
    is_whole(desk.engine.store)
    assert {row[1] for row in before} <= {row[1] for row in entities(desk.engine.store) if row[0] == 2}
    for path in directory.iterdir():
        check_file(path, lambda done, total: None)
        assert b"agent:e" not in gzip.decompress(path.read_bytes())
    (seq, *_) = desk.engine.store.journal.checkpoints(1)
    assert b'"agent:e"' not in b"".join(body for _, _, body in desk.engine.store.journal.checkpoint(1, seq))


def test_months_that_are_archived_as_a_whole_are_dropped_as_a_whole(place, desk, directory):
    if place.is_exclusive:
        pytest.skip("a file has no partitions")

    def months():
        with psycopg.connect(place.url) as connection:
            query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1"
            return {
                parent: [name for (name,) in connection.execute(query, (f"fiscus.{parent}",))]
                for parent in ("journal", "usage")
            }

    before = months()
    archivist(desk, directory).run()
    after = months()
    for parent, found in after.items():
        gone = set(before[parent]) - set(found)
        assert len(gone) >= 2, gone
        assert not gone & set(before[parent][-5:])
        with psycopg.connect(place.url) as connection:
            assert connection.execute(f"SELECT count(*) FROM fiscus.{parent}_other").fetchone() == (0,)


# covers E10
def test_a_second_node_goes_on_beside_one_that_archives(old, place, desk, directory):
    if place.is_exclusive:
        pytest.skip("one process at a time has this one open")
    other = open_desk(old, place.open())
    before = other.account("team:a")
    epochs = [one.engine.statistics.epoch for one in (desk, other)]
    archivist(desk, directory).run()
    assert other.account("team:a") == before
    assert isinstance(other.do(Reserve(id="n2", account="team:b", amounts={"tokens": 1, "cost": 1})), HoldAnswer)
    assert isinstance(desk.do(Reserve(id="n1", account="team:b", amounts={"tokens": 1, "cost": 1})), HoldAnswer)
    assert [one.engine.statistics.epoch for one in (desk, other)] == epochs
    other.engine.close()
    is_whole(desk.engine.store)


def test_the_file_of_a_half_archived_ledger_is_asked_for_where_it_is_missing(old, place, desk, directory, monkeypatch):
    if not place.is_exclusive:
        pytest.skip("entries are dropped in one transaction there")
    monkeypatch.setattr(archiving, "DROP_ROWS", 20)
    journal_ = desk.engine.store.journal
    real, calls = journal_.drop_entries, []

    def once(upto, limit):
        calls.append(limit)
        if len(calls) > 1:
            raise StoreUnavailable("a fault of the test")
        return real(upto, limit)

    monkeypatch.setattr(journal_, "drop_entries", once)
    with pytest.raises(StoreUnavailable):
        archivist(desk, directory).run()
    monkeypatch.setattr(journal_, "drop_entries", real)
    shutil.move(directory, directory.with_name("elsewhere"))
    with pytest.raises(ArchiveUnavailable, match="put that file back"):
        archivist(desk, directory).run()
    is_whole(desk.engine.store)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.move(directory.with_name("elsewhere"), directory)
    assert len(archivist(desk, directory).run()) == 2
    is_whole(desk.engine.store)


def test_a_long_reader_puts_dropping_off_and_writers_wait_for_a_moment_only(place, desk, directory):
    if place.is_exclusive:
        pytest.skip("a file has no partitions")
    before = look(desk.engine.store)
    with psycopg.connect(place.url) as reader:
        reader.execute("SELECT count(*) FROM fiscus.journal")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            archivist(desk, directory).run()
        assert look(desk.engine.store) == before
        desk.do(PutAccount(account="beside the reader"))
    assert len(archivist(desk, directory).run()) == 2
    is_whole(desk.engine.store)
