"""Opening a database: what is refused, how its sessions are set, and where its rows go."""

from __future__ import annotations

import builtins
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from fiscus.contract.errors import ConfigurationInvalid, StoreUnavailable, UnknownFormat
from fiscus.core.events import FORMAT
from fiscus.stores import open_store
from fiscus.stores.postgres.migrations import migrate, migration_sql, newest_revision
from fiscus.stores.postgres.store import REVISION
from fiscus.treasury.codec import genesis
from fiscus.treasury.store import Head
from tests.servers.postgres import free_port
from tests.stores.places import AT_MS, entries


def month(at: datetime) -> str:
    return f"{at:%Y_%m}"


def months_from_now(count: int) -> list[str]:
    first = datetime.now(UTC).replace(day=1)
    found = [month(first)]
    while len(found) < count:
        first = (first + timedelta(days=32)).replace(day=1)
        found.append(month(first))
    return found


def test_a_database_without_a_ledger_is_refused_and_told_what_to_do(postgres):
    url = postgres.create_database()
    with pytest.raises(ConfigurationInvalid, match="fiscus migrate"):
        open_store(url)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regnamespace('fiscus') IS NULL").fetchone() == (True,)


def test_a_database_that_lacks_a_migration_is_refused_and_one_that_is_further_is_opened(url, sql, open_node):
    assert newest_revision() == REVISION
    sql("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(ConfigurationInvalid, match="fiscus migrate"):
        open_store(url)
    sql("UPDATE alembic_version SET version_num = '9999'")
    open_node()


def test_a_ledger_in_a_format_of_later_versions_is_refused(url, sql, open_node):
    sql("UPDATE formats SET min_format = %s", FORMAT + 1)
    with pytest.raises(UnknownFormat):
        open_store(url)
    sql("UPDATE formats SET min_format = %s", FORMAT)
    open_node()


def test_an_address_that_cannot_be_read_is_a_wrong_setting_and_is_not_told_with_its_password():
    with pytest.raises(ConfigurationInvalid) as wrong:
        open_store("postgresql://user:secret@host/db?no_such_option=1")
    assert "secret" not in str(wrong.value)


def test_a_database_that_is_not_there_is_an_error_of_the_store(postgres):
    for url in (f"postgresql://postgres@127.0.0.1:{free_port()}/db", postgres.url("no_such_database")):
        with pytest.raises(StoreUnavailable):
            open_store(url)


def test_without_the_driver_one_is_told_what_to_install(url, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name.split(".")[0] == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
        return real(name, *arguments, **more)

    for name in [name for name in sys.modules if name.startswith(("psycopg", "fiscus.stores.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationInvalid, match="extra `postgres`"):
        open_store(url)


def test_a_ledger_in_a_file_needs_no_driver():
    program = "import sys; from fiscus.stores import open_store; open_store('memory:').close(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"psycopg", "sqlalchemy", "alembic"} & set(done.stdout.split())


def test_a_running_service_needs_neither_alembic_nor_sqlalchemy(url):
    program = "import sys; from fiscus.stores import open_store; open_store(sys.argv[1]).close(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True)
    assert not {"sqlalchemy", "alembic"} & set(done.stdout.split())


def test_entries_stand_in_the_month_of_their_time_and_others_in_a_partition_for_the_rest(url, sql, open_node):
    journal = open_node().journal
    number = journal.add_tenant("default")
    times = [0, AT_MS, int(datetime.now(UTC).timestamp() * 1000), AT_MS + 3_000 * 86_400_000]
    head = Head(0, genesis("default"))
    rows = []
    for at in sorted(times):
        row = entries(number, "default", 1, after=head)[0]
        rows.append(type(row)(row.tenant, row.seq, at, row.key, row.body, row.hash))
        head = Head(row.seq, row.hash)
    journal.append(rows)
    assert sql("SELECT count(*) FROM journal_other")[0][0] >= 2
    assert sql(f"SELECT count(*) FROM journal_{months_from_now(1)[0]}") == [(1,)]
    assert [entry.at for entry in journal.entries(number, 0, 9)] == sorted(times)
    assert journal.begin({number: head}).tails == {}
    journal.end()


def test_whoever_opens_the_store_makes_this_month_and_the_next_two(url, sql, open_node):
    for name in months_from_now(3):
        sql(f"DROP TABLE journal_{name}")
    open_node()
    found = {row[0] for row in sql("SELECT relname FROM pg_class WHERE relname ~ '^(journal|usage)_2'")}
    assert {f"{table}_{name}" for table in ("journal", "usage") for name in months_from_now(3)} <= found


def test_months_are_made_while_others_write_and_whose_entries_are_elsewhere_already_stay_there(url, sql, open_node):
    journal = open_node().journal
    number = journal.add_tenant("default")
    name = months_from_now(1)[0]
    sql(f"DROP TABLE journal_{name}")
    now = int(datetime.now(UTC).timestamp() * 1000)
    row = entries(number, "default", 1)[0]
    journal.append([type(row)(row.tenant, row.seq, now, row.key, row.body, row.hash)])
    journal.begin({number: Head(row.seq, row.hash)})
    began = time.monotonic()
    open_node()
    assert time.monotonic() - began < 1
    journal.append(entries(number, "default", 1, after=Head(row.seq, row.hash)))
    open_node()
    assert sql("SELECT count(*) FROM journal_other") == [(1,)]
    assert sql("SELECT to_regclass(%s)", f"journal_{name}") == [(None,)]
    assert [entry.seq for entry in journal.entries(number, 0, 9)] == [1, 2]


def test_nodes_that_migrate_at_once_do_not_disturb_each_other(postgres):
    url = postgres.create_database()
    done: list[object] = []

    def run() -> None:
        try:
            done.append(migrate(url))
        except Exception as error:
            done.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done, key=str) == sorted([(None, REVISION), *[(REVISION, REVISION)] * 3], key=str)
    open_store(url).close()


def test_the_printed_migrations_make_the_same_ledger(postgres):
    url = postgres.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(migration_sql())
    store = open_store(url)
    number = store.journal.add_tenant("default")
    store.journal.append(entries(number, "default", 3))
    assert store.journal.head(number).seq == 3
    store.close()
    assert migrate(url) == (REVISION, REVISION)


def test_a_migration_of_a_database_that_is_away_is_an_error_of_the_store():
    with pytest.raises(StoreUnavailable):
        migrate(f"postgresql://postgres@127.0.0.1:{free_port()}/db")


def test_a_store_closes_all_its_sessions_also_twice(open_node, sql):
    store = open_node()
    store.journal.tenants()
    store.views.watermark(1)
    store.views.load(1, "account", 1)
    store.close()
    store.close()
    sql("SELECT pg_sleep(0.05)")
    mine = "application_name LIKE 'fiscus%%' AND datname = current_database()"
    assert sql(f"SELECT application_name FROM pg_stat_activity WHERE {mine}") == []
