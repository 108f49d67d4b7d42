"""A ledger in a PostgreSQL database, which other nodes may have open as well."""

from __future__ import annotations

import psycopg

from fiscus.contract.errors import ConfigurationInvalid, UnknownFormat
from fiscus.core.events import FORMAT
from fiscus.stores.postgres.connecting import HOT, check_url, connect, unavailable
from fiscus.stores.postgres.journal import SQL, PostgresJournal
from fiscus.stores.postgres.views import PostgresViews
from fiscus.stores.postgres.watching import MONTHS_AHEAD, Watch

REVISION = "0007"
"""The newest migration, which this version needs; a database may be further, for newer versions of Fiscus."""


class PostgresStore:
    """Everything stands in the schema ``fiscus`` of one database.

    Args:
        url: ``postgresql://…``, with what libpq understands.

    Raises:
        ConfigurationInvalid: the URL cannot be read, or the database lacks migrations.
        UnknownFormat: only newer versions may have this ledger open.
        StoreUnavailable: the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url
        try:
            with connect(url, HOT) as connection:
                _check(connection)
                connection.execute(SQL["make_months"], (MONTHS_AHEAD,))
        except psycopg.Error as error:
            raise unavailable(error) from error
        self._watch = Watch(url)
        self.journal = PostgresJournal(url, self._watch)
        self.views = PostgresViews(url)

    def publish_address(self, address: str) -> None:
        """See ``Store``; whoever wants to may open this ledger too."""

    def close(self) -> None:
        """See ``Store``."""
        self._watch.close()
        self.views.close()
        self.journal.close()


def _check(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Refuse a database that this version cannot use."""
    try:
        row = connection.execute(SQL["revision"]).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        row = None
    revision = str(row[0]) if row is not None else None
    if revision is None or revision < REVISION:
        has = "no ledger" if revision is None else f"migration {revision}"
        raise ConfigurationInvalid(
            f"store: the database has {has}, this version needs migration {REVISION}: run `fiscus migrate`"
        )
    row = connection.execute(SQL["min_format"]).fetchone()
    if row is not None and int(str(row[0])) > FORMAT:
        raise UnknownFormat(f"the ledger's nodes may write format {row[0]}, this version reads {FORMAT}")
