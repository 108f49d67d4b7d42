"""Reading a ledger's file from outside, while a service has it open: a connection that never writes, in one view.

A reader of a WAL neither blocks the writer nor checkpoints, so it may stand beside the service.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.queries import queries
from fiscus.stores.sqlite.journal import connect
from fiscus.treasury.codec import SealedPrivate
from fiscus.treasury.journal_file import TenantHead
from fiscus.treasury.store import AnswerRow, Row, SealRow

SQL = queries(__package__, "copying.sql")
COPY_PAGES = 4_096


class SqliteReader:
    """One consistent view of a journal, see ``treasury.journal_file.JournalReader``; made by ``reading``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def heads(self) -> list[TenantHead]:
        """All tenants, in the order of their numbers."""
        return [TenantHead(*row) for row in self._connection.execute(SQL["heads"])]

    def rows(self, tenant: int) -> Iterator[Row]:
        """All entries of a tenant in order, with ids and private parts.

        Raises:
            StoreUnavailable: the file is damaged.
        """
        try:
            for seq, at, key, body, hash_, account, salt, private in self._connection.execute(SQL["rows"], (tenant,)):
                sealed = None if salt is None else SealedPrivate(account, salt, private)
                yield Row(tenant, seq, at, key, body, hash_, sealed)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error

    def answers(self, tenant: int) -> Iterator[AnswerRow]:
        """The answers of a tenant's idempotent commands, by key; empty where they are not kept any more."""
        for row in self._connection.execute(SQL["answers"], (tenant,)):
            yield AnswerRow(*row)

    def sealed(self, tenant: int, seq: int) -> Iterator[SealRow]:
        """See ``JournalReader``."""
        yield from self._connection.execute(SQL["sealed"], (tenant, seq))

    def archived_ids(self, tenant: int, upto: int) -> Iterator[str]:
        """See ``JournalReader``."""
        if self._connection.execute(SQL["has_archived_ids"]).fetchone()[0]:
            yield from (id for (id,) in self._connection.execute(SQL["archived_ids"], (tenant,)))


@contextmanager
def reading(path: Path) -> Iterator[SqliteReader]:
    """Open the journal at ``path`` for reading, as it is now.

    Raises:
        StoreUnavailable: it cannot be opened or read.
    """
    try:
        with closing(connect(str(path), writable=False)) as connection:
            connection.execute(SQL["begin"])
            yield SqliteReader(connection)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path}: {error}") from error


def copy_journal(path: Path, destination: Path, progress: Callable[[int, int], None]) -> list[TenantHead]:
    """Copy the journal at ``path`` to a new file, as it is now, also while it grows.

    The read transaction stays open over all steps: without it, each commit of the writer would start the copy anew.

    Args:
        path: the ledger.
        destination: must not exist.
        progress: called with (pages copied, pages in all).

    Returns:
        How far the copy goes.

    Raises:
        StoreUnavailable: one of them cannot be read or written.
    """
    try:
        with (
            closing(connect(str(path), writable=False)) as connection,
            closing(sqlite3.connect(destination)) as copy,
        ):
            connection.execute(SQL["begin"])
            heads = SqliteReader(connection).heads()
            connection.backup(
                copy, pages=COPY_PAGES, progress=lambda _, remaining, total: progress(total - remaining, total)
            )
            return heads
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path}: {error}") from error
