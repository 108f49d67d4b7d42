"""Each test has a database of its own, on each version of PostgreSQL that is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from fiscus.stores.postgres.store import PostgresStore
from tests.servers.postgres import PostgresServer, server, versions

OpenNode = Callable[..., PostgresStore]


@pytest.fixture(params=versions())
def postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """The shared server of a version."""
    return server(request.param)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """A new database with the newest schema."""
    return postgres.migrated_database()


@pytest.fixture
def open_node(url: str) -> Iterator[OpenNode]:
    """Opens the database once more, as another node does; all are closed afterwards."""
    opened: list[PostgresStore] = []

    def node(through: str | None = None) -> PostgresStore:
        opened.append(PostgresStore(through or url))
        return opened[-1]

    yield node
    for store in opened:
        store.close()


@pytest.fixture
def sql(url: str) -> Iterator[Callable[..., list[tuple]]]:
    """Runs SQL from beside the ledger; returns the rows."""
    with psycopg.connect(url, autocommit=True, options="-c search_path=fiscus") as connection:

        def run(statement: str, *values: object) -> list[tuple]:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

        yield run
