"""The views in SQLite: a file of their own, so that following never delays a commit; it may be deleted."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.state import ACCOUNTS_KIND, KINDS, Kind
from fiscus.stores.queries import queries
from fiscus.stores.sqlite.archiving import drop_usage
from fiscus.stores.sqlite.journal import connect
from fiscus.stores.sqlite.many import execute_rows
from fiscus.treasury.store import (
    ALWAYS_IN_MEMORY,
    ANYTHING,
    SUM_KEYS_MAX,
    EntityRow,
    Opening,
    Seen,
    Snapshot,
    UsageAsked,
    UsageField,
    UsageRow,
    UsageSum,
    Watermark,
    usage_sum,
)

SQL = queries(__package__, "views.sql")
NUMBER = {kind: number for number, kind in enumerate(KINDS)}
PAGE_SIZE = "PRAGMA page_size = 8192"
"""For new files. Entities are some 400 bytes long: fewer and larger pages cost the follower less."""

CARVED_FEW = 1_000
"""Accounts with an allocation up to which it is looked from them upward, not from an account down through all below."""


class SqliteViews:
    """See ``treasury.store.Views``. One connection writes (the follower's), one loads for the engine, one lists."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self.damaged = False
        self._loading = Lock()
        self._writing = Lock()
        self._listing = Lock()
        try:
            self._open()
            self.watermark(0)
        except StoreUnavailable:
            if not self.damaged:
                raise
            self.reopen()

    def _open(self) -> None:
        try:
            self._writer = connect(self._path, writable=True)
            self._writer.execute(PAGE_SIZE)
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = NORMAL")
            self._writer.executescript(SQL["schema"])
            self._loader = connect(self._path, writable=False)
            self._lister = connect(self._path, writable=False)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailable:
        """The error to raise; takes note if the file is damaged."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self.damaged = True
        return StoreUnavailable(f"sqlite views: {error}")

    def reopen(self) -> None:
        """See ``Views``. Files that are damaged are dropped; they are made again from the journal."""
        if not self.damaged:
            return
        with self._writing, self._loading, self._listing:
            for name in ("_loader", "_lister", "_writer"):
                connection = getattr(self, name, None)
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
            for suffix in ("", "-wal", "-shm"):
                Path(self._path + suffix).unlink(missing_ok=True)
            self.damaged = False
            self._open()

    def close(self) -> None:
        """Close all connections."""
        self._loader.close()
        self._lister.close()
        self._writer.close()

    def watermark(self, tenant: int) -> Watermark | None:
        """See ``Views``."""
        rows = self._load(SQL["watermark"], (tenant,))
        return Watermark(*rows[0]) if rows else None

    def load(self, tenant: int, kind: Kind, key: int | str, seen: Seen = ANYTHING) -> bytes | None:
        """See ``Views``."""
        rows = self._load(SQL["load"], (tenant, NUMBER[kind], key))
        return rows[0][0] if rows else None

    def load_many(
        self, tenant: int, kind: Kind, keys: Sequence[int | str], seen: Seen = ANYTHING
    ) -> dict[int | str, bytes]:
        """See ``Views``."""
        return dict(self._load(SQL["load_many"], (tenant, NUMBER[kind], msgspec.json.encode(keys).decode())))

    def load_name(self, tenant: int, name: str, seen: Seen = ANYTHING) -> int | None:
        """See ``Views``."""
        rows = self._load(SQL["load_name"], (tenant, name))
        return rows[0][0] if rows else None

    def load_chains(self, tenant: int, names: Sequence[str], seen: Seen = ANYTHING) -> list[tuple[Kind, int, bytes]]:
        """See ``Views``."""
        rows = self._load(SQL["load_chains"], (tenant, msgspec.json.encode(names).decode()))
        return [(KINDS[kind], key, body) for kind, key, body in rows]

    def carved_below(self, tenant: int, account: int, seen: Seen = ANYTHING) -> list[int]:
        """See ``Views``."""
        if not self._load(SQL["has_children"], (tenant, account))[0][0]:
            return []
        few = self._load(SQL["carved_at_most"], (tenant, CARVED_FEW + 1))[0][0] <= CARVED_FEW
        return [row[0] for row in self._load(SQL["carved_upward" if few else "carved_downward"], (tenant, account))]

    def opening(self, tenant: int) -> Opening | None:
        """See ``Views``."""
        watermark = self.watermark(tenant)
        if watermark is None:
            return None
        templates, keys, prices = (self._load(SQL["all_of"], (tenant, NUMBER[kind])) for kind in ALWAYS_IN_MEMORY)
        rows = self._load(SQL["deadlines"], (tenant,))
        return Opening(watermark, [(*row[:3], KINDS[row[3]], row[4]) for row in rows], templates, keys, prices)

    @contextmanager
    def sealed(self, tenant: int) -> Iterator[tuple[Watermark, Iterator[tuple[int, int | str, bytes]]]]:
        """See ``Views``."""
        reader = connect(self._path, writable=False)
        try:
            reader.execute("BEGIN")
            mark = Watermark(*reader.execute(SQL["watermark"], (tenant,)).fetchone())
            yield mark, iter(reader.execute(SQL["scan"], (tenant,)))
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        finally:
            reader.close()

    def accounts(
        self, tenant: int, after: int, limit: int, prefix: str | None, parent: int | None, within: int | None
    ) -> list[bytes]:
        """See ``Views``."""
        return [row[0] for row in self._list(SQL["accounts"], (tenant, after, limit, prefix, parent, within))]

    def overrides(self, tenant: int, after: str, limit: int, within: int | None, pending: bool) -> list[bytes]:
        """See ``Views``."""
        values = (tenant, NUMBER["override"], after, limit, within, pending)
        return [row[0] for row in self._list(SQL["overrides"], values)]

    def usage(
        self, tenant: int, after: int, limit: int, within: int | None, since: int | None, until: int | None
    ) -> list[UsageRow]:
        """See ``Views``."""
        return [_usage_row(row) for row in self._list(SQL["usage"], (tenant, after, limit, within, since, until))]

    def usage_sums(self, tenant: int, asked: UsageAsked) -> list[UsageSum]:
        """See ``Views``. Over a connection of its own: summing much keeps no list waiting."""
        values = (
            tenant,
            asked.within,
            asked.since,
            asked.until,
            asked.provider,
            asked.model,
            asked.task_type,
            asked.workflow_id,
            asked.calls_min,
            asked.limit,
            *asked.keys,
            *("",) * (SUM_KEYS_MAX - len(asked.keys)),
            asked.upto,
        )
        rows = self._sum(SQL["usage_sums"], values)
        return [usage_sum(row, len(asked.keys)) for row in rows]

    def usage_of(
        self, tenant: int, field: UsageField, values: Sequence[str], within: int | None, upto: int, limit: int
    ) -> list[UsageRow]:
        """See ``Views``."""
        wanted = msgspec.json.encode(values).decode()
        rows = self._list(SQL[f"usage_of_{field}"], (tenant, wanted, within, upto, limit))
        return [_usage_row(row) for row in rows]

    def idle_accounts(self, tenant: int, template: str, before: int, limit: int) -> list[int]:
        """See ``Views``."""
        return [row[0] for row in self._load(SQL["idle_accounts"], (tenant, template, before, limit))]

    def write(self, snapshots: Sequence[Snapshot], now: int) -> list[Snapshot]:
        """See ``Views``."""
        with self._writing:
            self._write(snapshots, now)
        return list(snapshots)

    def _write(self, snapshots: Sequence[Snapshot], now: int) -> None:
        writer = self._writer
        try:
            writer.execute("BEGIN IMMEDIATE")
            for snapshot in snapshots:
                tenant = snapshot.tenant
                plain: list[tuple[object, ...]] = []
                special: list[tuple[object, ...]] = []
                for row in snapshot.entities:
                    if _is_plain(row):
                        plain.append((NUMBER[row.kind], row.key, row.body, row.owner))
                    else:
                        special.append(_entity_values(row))
                execute_rows(writer, SQL["put_plain"], plain, shared=(tenant, now))
                execute_rows(writer, SQL["put_entity"], special, shared=(tenant, now))
                execute_rows(writer, SQL["put_usage"], map(_usage_values, snapshot.usage), shared=(tenant,))
                writer.executemany(SQL["erase_usage"], ((tenant, *erasure) for erasure in snapshot.erased))
                mark = snapshot.watermark
                values = (tenant, mark.seq, mark.hash, mark.at, mark.accounts, mark.budgets, mark.cells)
                writer.execute(SQL["set_watermark"], values)
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise self._unavailable(error) from error

    def clear(self, tenant: int) -> None:
        """See ``Views``."""
        writer = self._writer
        try:
            with self._writing:
                writer.execute("BEGIN IMMEDIATE")
                for name in ("clear_entities", "clear_usage", "clear_watermark"):
                    writer.execute(SQL[name], (tenant,))
                writer.execute("COMMIT")
        except sqlite3.Error as error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise self._unavailable(error) from error

    def drop_usage(self, upto: Mapping[int, int], limit: int) -> int:
        """See ``Views``."""
        try:
            with self._writing:
                return drop_usage(self._writer, upto, limit)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def prune_ended(self, before: int, limit: int) -> int:
        """See ``Views``."""
        writer = self._writer
        try:
            with self._writing:
                writer.execute("BEGIN IMMEDIATE")
                ended = writer.execute(SQL["ended"], (before, limit)).fetchall()
                writer.executemany(SQL["drop_ended"], ended)
                writer.execute("COMMIT")
                return len(ended)
        except sqlite3.Error as error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise self._unavailable(error) from error

    def _load(self, statement: str, values: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._loading:
                return self._loader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _sum(self, statement: str, values: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        try:
            reader = connect(self._path, writable=False)
            try:
                return reader.execute(statement, values).fetchall()
            finally:
                reader.close()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _list(self, statement: str, values: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._listing:
                return self._lister.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error


def _usage_row(row: tuple[Any, ...]) -> UsageRow:
    seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record = row
    return UsageRow(seq, at, hold, account, also, amounts, uncovered, bool(estimated), model, provider, record)


def _is_plain(row: EntityRow) -> bool:
    """Whether an entity is found by its key and its owner alone."""
    return row.due_at is None and row.name is None and row.kind != ACCOUNTS_KIND


def _entity_values(row: EntityRow) -> tuple[object, ...]:
    return (
        NUMBER[row.kind],
        row.key,
        row.body,
        row.owner,
        row.name,
        1 if row.carved else None,
        1 if row.live else None,
        row.due_at,
        row.due_rank,
        row.due_depth,
    )


def _usage_values(row: UsageRow) -> tuple[object, ...]:
    return (
        row.seq,
        row.at,
        row.hold,
        row.account,
        row.also,
        row.amounts,
        row.uncovered,
        int(row.estimated),
        row.model,
        row.provider,
        row.record,
    )
