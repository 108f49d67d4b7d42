"""The views in PostgreSQL, shared by all nodes: what is loaded comes with the watermark that it is as of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.state import KINDS, Kind
from fiscus.stores.postgres.connecting import LIST_S_MAX, LISTING, LOADING, Connections, unavailable
from fiscus.stores.postgres.keys import columns, key
from fiscus.stores.postgres.line import int4, int8
from fiscus.stores.postgres.writing import NUMBER, ViewsWriter
from fiscus.stores.queries import queries
from fiscus.treasury.store import ANY_HEAD, Opening, Snapshot, UsageRow, ViewsAhead, Watermark

SQL = queries(__package__, "views.sql")
LOADERS_MAX = 2
LISTERS_MAX = 4
SCAN_ROWS = 2_000
ALWAYS_IN_MEMORY: tuple[Kind, Kind] = ("template", "key")
CARVED_FEW = 1_000
"""Accounts with an allocation up to which it is looked from them upward, not from an account down through all below."""


class PostgresViews:
    """See ``treasury.store.Views``."""

    damaged = False

    def __init__(self, url: str) -> None:
        self._writer = ViewsWriter(url)
        self._loaders = Connections(url, LOADING, LOADERS_MAX)
        self._listers = Connections(url, LISTING, LISTERS_MAX, LIST_S_MAX)

    def reopen(self) -> None:
        """See ``Views``; a database that is damaged is nothing that could be dropped and made again from here."""

    def close(self) -> None:
        """Close all connections."""
        self._writer.close()
        self._loaders.close()
        self._listers.close()

    # -- loading ----------------------------------------------------------------------------------------------------

    def watermark(self, tenant: int) -> Watermark | None:
        """See ``Views``."""
        rows = self._loaders.fetch(SQL["watermark"], (tenant,))
        return Watermark(*rows[0]) if rows else None

    def load(self, tenant: int, kind: Kind, key: int | str, head: int = ANY_HEAD) -> bytes | None:
        """See ``Views``."""
        ((body,),) = self._load("load", head, tenant, NUMBER[kind], *columns(key))
        found: bytes | None = body
        return found

    def load_many(
        self, tenant: int, kind: Kind, keys: Sequence[int | str], head: int = ANY_HEAD
    ) -> dict[int | str, bytes]:
        """See ``Views``."""
        wanted = [columns(one) for one in keys]
        values = ([one[0] for one in wanted], [one[1] for one in wanted])
        rows = self._load("load_many", head, tenant, NUMBER[kind], *values)
        return {key(number, id): body for number, id, body in rows if body is not None}

    def load_name(self, tenant: int, name: str, head: int = ANY_HEAD) -> int | None:
        """See ``Views``."""
        ((number,),) = self._load("load_name", head, tenant, name)[:1]
        found: int | None = number
        return found

    def carved_below(self, tenant: int, account: int, head: int = ANY_HEAD) -> list[int]:
        """See ``Views``."""
        ((has_children, carved),) = self._load("carved_look", head, tenant, account, CARVED_FEW + 1)
        if not has_children:
            return []
        name = "carved_upward" if carved <= CARVED_FEW else "carved_downward"
        return [number for (number,) in self._load(name, head, tenant, account) if number is not None]

    def _load(self, name: str, head: int, *values: object) -> list[tuple[Any, ...]]:
        """Rows without their first column, which is the watermark that they are as of."""
        rows = self._loaders.fetch(SQL[name], values)
        mark = rows[0][0]
        if mark is not None and mark > head:
            raise ViewsAhead(f"the views are as of entry {mark}, this node of entry {head}")
        return [row[1:] for row in rows]

    def opening(self, tenant: int) -> Opening | None:
        """See ``Views``."""
        with self._one_view() as connection:

            def rows(name: str, *values: object) -> list[tuple[Any, ...]]:
                return connection.execute(SQL[name], values, binary=True).fetchall()

            marks = rows("watermark", tenant)
            if not marks:
                return None
            templates, keys = (rows("all_of", tenant, NUMBER[kind]) for kind in ALWAYS_IN_MEMORY)
            deadlines = [(*row[:3], KINDS[row[3]], key(row[4], row[5])) for row in rows("deadlines", tenant)]
        return Opening(Watermark(*marks[0]), deadlines, templates, keys)

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

    def usage(
        self, tenant: int, after: int, limit: int, within: int | None, since: int | None, until: int | None
    ) -> list[UsageRow]:
        """See ``Views``."""
        values = (tenant, after, limit, within, since, until)
        return [UsageRow(*row) for row in self._listers.fetch(SQL["usage"], values, prepare=False)]

    def idle_accounts(self, tenant: int, template: str, before: int, limit: int) -> list[int]:
        """See ``Views``."""
        return [row[0] for row in self._loaders.fetch(SQL["idle_accounts"], (tenant, template, before, limit))]

    # -- following --------------------------------------------------------------------------------------------------

    def write(self, snapshots: Sequence[Snapshot], now: int) -> list[Snapshot]:
        """See ``Views``."""
        return self._writer.write(snapshots, now)

    def prune_holds(self, before: int, limit: int) -> int:
        """See ``Views``."""
        return self._writer.run((b"prune_holds", (int8(before), int8(limit))))

    def clear(self, tenant: int) -> None:
        """See ``Views``."""
        names = (b"clear_entities", b"clear_usage", b"clear_watermark")
        self._writer.run(*((name, (int4(tenant),)) for name in names))
