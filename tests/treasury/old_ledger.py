"""A ledger that is half a year old, as a file from which one is made in any store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg

from fiscus.cli.importing import append_files
from fiscus.core.commands import EraseName, PutAccount, PutKey, Request, SetStatus
from fiscus.stores.postgres.store import PostgresStore
from fiscus.stores.sqlite.copying import reading
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.journal_file import export_journal, opened
from fiscus.treasury.store import SealRow, Store
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk
from tests.treasury.traffic import DAY_MS, Traffic, founding

DAYS = 200
STEP_DAYS = 10
PRIVATE = ("jane doe", "person 3", "secret of")
"""What must never stand in an archive."""


class OldLedger(msgspec.Struct):
    """Its export, and the states that were sealed in it: number of the tenant → entry → rows."""

    file: Path
    seals: dict[str, dict[int, list[SealRow]]]
    now_ms: int


def make_old_ledger(folder: Path, tenants: Iterable[str] = ("default", "other")) -> OldLedger:
    """Half a year of traffic, ten days apart, with a seal each time; nobody has archived anything."""
    now_ms = int(time.time() * 1_000)
    clock = ManualClock(now_ms - DAYS * DAY_MS)
    store = SqliteStore(folder / "old.db")
    desk = Desk(store, clock)
    desk.engine.retention_days = 90
    traffics = {}
    for index, tenant in enumerate(tenants):
        desk.ask(*founding(tenant))
        desk.do(PutAccount(account="agent:jane doe", labels={"mail": "secret of jane"}), tenant=tenant)
        desk.do(PutKey(key="k", digest="d", role="viewer", label="secret of a key"), tenant=tenant)
        traffics[tenant] = Traffic(index)
    for day in range(0, DAYS - STEP_DAYS, STEP_DAYS):
        for tenant, traffic in traffics.items():
            for _ in range(4):
                clock.advance(traffic.pause_ms())
                batch = [msgspec.structs.replace(one, tenant=tenant) for one in traffic.batch(4)]
                traffic.heard(batch, desk.ask(*batch))
            if day == 50:
                close = SetStatus(account="agent:jane doe", status="closed", reason="secret of the office")
                desk.ask(Request(command=close, tenant=tenant))
                desk.ask(Request(command=EraseName(account="agent:jane doe"), tenant=tenant))
            desk.engine.checkpoint(tenant)
        desk.write_views()
        clock.advance(STEP_DAYS * DAY_MS)
    kept = {
        name: {seq: store.journal.checkpoint(number, seq) for seq in store.journal.checkpoints(number)}
        for name, number in store.journal.tenants().items()
    }
    desk.engine.close()
    file = folder / "old.jsonl"
    with reading(folder / "old.db") as journal, opened(file, "wb") as output:
        export_journal(journal, journal.heads(), output, lambda done, total: None)
    return OldLedger(file, kept, now_ms)


def open_old_ledger(old: OldLedger, store: Store) -> Desk:
    """The same ledger in another, empty store, with its seals."""
    if isinstance(store, PostgresStore):
        make_past_months(store.url, old.now_ms)
    append_files(store, [old.file], None, lambda done, total: None)
    for name, number in store.journal.tenants().items():
        for seq, rows in old.seals[name].items():
            store.journal.put_checkpoint(number, seq, rows)
    return open_desk(old, store)


def open_desk(old: OldLedger, store: Store) -> Desk:
    """Open it today."""
    desk = Desk(store, ManualClock(old.now_ms))
    desk.engine.retention_days = 90
    for tenant in store.journal.tenants():
        desk.do(PutAccount(account="global"), tenant=tenant)
    desk.write_views()
    return desk


def make_past_months(url: str, now_ms: int) -> None:
    """Partitions as a database has them that was there all the time."""
    now = datetime.fromtimestamp(now_ms / 1_000, UTC)
    months = [divmod(now.year * 12 + now.month - 1 - back, 12) for back in range(8)]
    with psycopg.connect(url, autocommit=True) as connection:
        for year, month in months:
            after = (year, month + 1) if month < 11 else (year + 1, 0)
            bounds = [
                int(datetime(one[0], one[1] + 1, 1, tzinfo=UTC).timestamp() * 1_000) for one in ((year, month), after)
            ]
            for parent in ("journal", "usage"):
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS fiscus.{parent}_{year}_{month + 1:02} PARTITION OF fiscus.{parent} "
                    f"FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})"
                )
