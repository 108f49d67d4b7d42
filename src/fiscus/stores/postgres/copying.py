"""Reading a whole ledger from beside the nodes that have it open: in one view, without keeping anybody waiting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from uuid import uuid4

import psycopg

from fiscus.stores.postgres.connecting import check_url, connect, unavailable
from fiscus.stores.postgres.keys import key
from fiscus.stores.queries import queries
from fiscus.treasury.codec import SealedPrivate, decode_event
from fiscus.treasury.journal_file import TenantHead
from fiscus.treasury.ledger import journal_key
from fiscus.treasury.store import AnswerRow, Row, SealRow

SQL = queries(__package__, "copying.sql")
PAGE_ROWS = 2_000
COPY_S_MAX = 600.0
COPYING: Mapping[str, str | int] = {"default_transaction_read_only": "on", "statement_timeout": 0}


class PostgresReader:
    """One consistent view of a journal, see ``treasury.journal_file.JournalReader``; made by ``reading``."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def heads(self) -> list[TenantHead]:
        """See ``JournalReader``."""
        return [TenantHead(*row) for row in self._connection.execute(SQL["heads"]).fetchall()]

    def rows(self, tenant: int) -> Iterator[Row]:
        """See ``JournalReader``."""
        for seq, at, body, hash_, account, salt, private in self._pages("rows", tenant):
            sealed = None if salt is None else SealedPrivate(account, salt, private)
            yield Row(tenant, seq, at, journal_key(decode_event(body, None)), body, hash_, sealed)

    def answers(self, tenant: int) -> Iterator[AnswerRow]:
        """See ``JournalReader``."""
        yield from (AnswerRow(*row) for row in self._pages("answers", tenant))

    def sealed(self, tenant: int, seq: int) -> Iterator[SealRow]:
        """See ``JournalReader``."""
        yield from ((kind, key(number, id), body) for kind, number, id, body in self._pages("sealed", tenant, seq))

    def archived_ids(self, tenant: int, upto: int) -> Iterator[str]:
        """See ``JournalReader``."""
        yield from (id for (id,) in self._pages("archived_ids", tenant, upto))

    def _pages(self, name: str, *values: object) -> Iterator[tuple[Any, ...]]:
        try:
            with self._connection.cursor(f"pages_{uuid4().hex}") as cursor:
                cursor.itersize = PAGE_ROWS
                cursor.execute(SQL[name], values, binary=True)
                yield from cursor
        except psycopg.Error as error:
            raise unavailable(error) from error


@contextmanager
def reading(url: str) -> Iterator[PostgresReader]:
    """Look at the ledger of a database as it is now.

    Raises:
        ConfigurationInvalid: the URL cannot be read.
        StoreUnavailable: it cannot be opened or read.
    """
    check_url(url)
    try:
        with closing(connect(url, COPYING, COPY_S_MAX)) as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield PostgresReader(connection)
    except psycopg.Error as error:
        raise unavailable(error) from error
