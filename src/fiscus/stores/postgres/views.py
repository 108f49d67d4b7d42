"""The views in PostgreSQL, shared by all nodes: what is loaded comes with the watermark that it is as of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq.abc import PGresult

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.state import KINDS, Kind
from fiscus.stores.postgres.archiving import drop_usage
from fiscus.stores.postgres.connecting import LIST_S_MAX, LISTING, LOADING, Connections, unavailable
from fiscus.stores.postgres.keys import columns, key
from fiscus.stores.postgres.line import Value, int4, int8, int8s, number, texts
from fiscus.stores.postgres.session import Session
from fiscus.stores.postgres.writing import NUMBER, ViewsWriter
from fiscus.stores.queries import queries
from fiscus.treasury.store import (
    ALWAYS_IN_MEMORY,
    ANYTHING,
    SUM_KEYS_MAX,
    Opening,
    Seen,
    Snapshot,
    UsageAsked,
    UsageField,
    UsageRow,
    UsageSum,
    ViewsAhead,
    ViewsLost,
    Watermark,
    usage_sum,
)

SQL = queries(__package__, "views.sql")
LOADING_SQL = queries(__package__, "loading.sql")
LISTERS_MAX = 4
SCAN_ROWS = 2_000
COLUMN_KEYS = frozenset(("provider", "model", "account", "also", "day", "hour"))
"""Keys of sums of usage that are no field of the record."""

CARVED_FEW = 1_000
"""Accounts with an allocation up to which it is looked from them upward, not from an account down through all below."""


class PostgresViews:
    """See ``treasury.store.Views``."""

    damaged = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._writer = ViewsWriter(url)
        self._loader = Session(url, LOADING, LOADING_SQL)
        self._listers = Connections(url, LISTING, LISTERS_MAX, LIST_S_MAX)

    def reopen(self) -> None:
        """See ``Views``; a database that is damaged is nothing that could be dropped and made again from here."""

    def close(self) -> None:
        """Close all connections."""
        self._writer.close()
        self._loader.close()
        self._listers.close()

    # -- loading ----------------------------------------------------------------------------------------------------

    def watermark(self, tenant: int) -> Watermark | None:
        """See ``Views``."""
        rows = self._listers.fetch(SQL["watermark"], (tenant,))
        return Watermark(*rows[0]) if rows else None

    def load(self, tenant: int, kind: Kind, key: int | str, seen: Seen = ANYTHING) -> bytes | None:
        """See ``Views``."""
        number, id = columns(key)
        result = self._load(b"load", seen, int4(tenant), int4(NUMBER[kind]), int8(number), id.encode())
        return result.get_value(0, 1)

    def load_many(
        self, tenant: int, kind: Kind, keys: Sequence[int | str], seen: Seen = ANYTHING
    ) -> dict[int | str, bytes]:
        """See ``Views``."""
        found: dict[int | str, bytes] = {}
        ids = [key for key in keys if isinstance(key, str)]
        numbers = [key for key in keys if not isinstance(key, str)]
        if ids:
            result = self._load(b"load_ids", seen, int4(tenant), int4(NUMBER[kind]), texts(ids))
            for row in range(result.ntuples):
                if (id := result.get_value(row, 1)) is not None:
                    found[id.decode()] = result.get_value(row, 2) or b""
        if numbers:
            result = self._load(b"load_numbers", seen, int4(tenant), int4(NUMBER[kind]), int8s(numbers))
            for row in range(result.ntuples):
                if (key := result.get_value(row, 1)) is not None:
                    found[number(key)] = result.get_value(row, 2) or b""
        return found

    def load_name(self, tenant: int, name: str, seen: Seen = ANYTHING) -> int | None:
        """See ``Views``."""
        result = self._load(b"load_name", seen, int4(tenant), name.encode())
        found = result.get_value(0, 1)
        return None if found is None else number(found)

    def load_chains(self, tenant: int, names: Sequence[str], seen: Seen = ANYTHING) -> list[tuple[Kind, int, bytes]]:
        """See ``Views``."""
        result = self._load(b"load_chains", seen, int4(tenant), texts(names))
        get = result.get_value
        return [
            (KINDS[number(get(row, 1))], number(get(row, 2)), get(row, 3) or b"")
            for row in range(result.ntuples)
            if get(row, 1) is not None
        ]

    def carved_below(self, tenant: int, account: int, seen: Seen = ANYTHING) -> list[int]:
        """See ``Views``."""
        look = self._load(b"carved_look", seen, int4(tenant), int8(account), int8(CARVED_FEW + 1))
        if look.get_value(0, 1) != b"\x01":
            return []
        name = b"carved_upward" if number(look.get_value(0, 2)) <= CARVED_FEW else b"carved_downward"
        result = self._load(name, seen, int4(tenant), int8(account))
        found = [result.get_value(row, 1) for row in range(result.ntuples)]
        return [number(value) for value in found if value is not None]

    def _load(self, name: bytes, seen: Seen, *values: Value) -> PGresult:
        """Rows, each with the watermark that they are as of in its first column; at least one."""
        (result,) = self._loader.ask([(name, values)])
        mark = result.get_value(0, 0)
        reached = 0 if mark is None else number(mark)
        if reached > seen.head:
            raise ViewsAhead(f"the views are as of entry {reached}, this node of entry {seen.head}")
        if reached < seen.written:
            raise ViewsLost(f"postgresql: the views are as of entry {reached}, and were as of entry {seen.written}")
        return result

    def opening(self, tenant: int) -> Opening | None:
        """See ``Views``."""
        with self._one_view() as connection:

            def rows(name: str, *values: object) -> list[tuple[Any, ...]]:
                return connection.execute(SQL[name], values, binary=True).fetchall()

            marks = rows("watermark", tenant)
            if not marks:
                return None
            templates, keys, prices = (rows("all_of", tenant, NUMBER[kind]) for kind in ALWAYS_IN_MEMORY)
            deadlines = [(*row[:3], KINDS[row[3]], key(row[4], row[5])) for row in rows("deadlines", tenant)]
        return Opening(Watermark(*marks[0]), deadlines, templates, keys, prices)

    @contextmanager
    def sealed(self, tenant: int) -> Iterator[tuple[Watermark, Iterator[tuple[int, int | str, bytes]]]]:
        """See ``Views``."""
        with self._one_view() as connection:
            row = connection.execute(SQL["watermark"], (tenant,), binary=True).fetchone()
            if row is None:
                raise StoreUnavailable("postgresql: the views hold nothing")
            with connection.cursor("scan") as cursor:
                cursor.itersize = SCAN_ROWS
                cursor.execute(SQL["scan"], (tenant,), binary=True)
                yield Watermark(*row), ((kind, key(number, id), body) for kind, number, id, body in cursor)

    @contextmanager
    def _one_view(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection whose statements all see the same state."""
        try:
            with self._listers.connection() as (connection, _), connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield connection
        except psycopg.Error as error:
            raise unavailable(error) from error

    # -- listing ----------------------------------------------------------------------------------------------------

    def accounts(
        self, tenant: int, after: int, limit: int, prefix: str | None, parent: int | None, within: int | None
    ) -> list[bytes]:
        """See ``Views``."""
        values = (tenant, after, limit, prefix, parent, within)
        return [row[0] for row in self._listers.fetch(SQL["accounts"], values, prepare=False)]

    def overrides(self, tenant: int, after: str, limit: int, within: int | None, pending: bool) -> list[bytes]:
        """See ``Views``."""
        values = (tenant, NUMBER["override"], after, limit, within, pending)
        return [row[0] for row in self._listers.fetch(SQL["overrides"], values, prepare=False)]

    def usage(
        self, tenant: int, after: int, limit: int, within: int | None, since: int | None, until: int | None
    ) -> list[UsageRow]:
        """See ``Views``."""
        values = (tenant, after, limit, within, since, until)
        return [UsageRow(*row) for row in self._listers.fetch(SQL["usage"], values, prepare=False)]

    def usage_sums(self, tenant: int, asked: UsageAsked) -> list[UsageSum]:
        """See ``Views``."""
        reads_record = bool({*asked.keys} - COLUMN_KEYS) or asked.task_type is not None or asked.workflow_id is not None
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
            reads_record,
            asked.upto,
        )
        rows = self._listers.fetch(SQL["usage_sums"], values, prepare=False)
        return [usage_sum(row, len(asked.keys)) for row in rows]

    def usage_of(
        self, tenant: int, field: UsageField, values: Sequence[str], within: int | None, upto: int, limit: int
    ) -> list[UsageRow]:
        """See ``Views``."""
        wanted = (tenant, list(values), within, upto, limit)
        found = self._listers.fetch(SQL[f"usage_of_{field}"], wanted, prepare=False)
        return [UsageRow(*row) for row in found]

    def idle_accounts(self, tenant: int, template: str, before: int, limit: int) -> list[int]:
        """See ``Views``."""
        return [row[0] for row in self._listers.fetch(SQL["idle_accounts"], (tenant, template, before, limit))]

    # -- following --------------------------------------------------------------------------------------------------

    def write(self, snapshots: Sequence[Snapshot], now: int) -> list[Snapshot]:
        """See ``Views``."""
        return self._writer.write(snapshots, now)

    def drop_usage(self, upto: Mapping[int, int], limit: int) -> int:
        """See ``Views``."""
        return drop_usage(self._url, upto)

    def prune_ended(self, before: int, limit: int) -> int:
        """See ``Views``."""
        return self._writer.run((b"prune_ended", (int8(before), int8(limit))))

    def clear(self, tenant: int) -> None:
        """See ``Views``."""
        names = (b"clear_watermark", b"clear_entities", b"clear_usage")  # locked in the order of who writes
        self._writer.run(*((name, (int4(tenant),)) for name in names))
