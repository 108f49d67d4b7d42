"""Connections whose every call has a bound, also when the server has stopped answering."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from queue import Empty, LifoQueue
from threading import BoundedSemaphore
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fiscus.contract.errors import ConfigurationInvalid, StoreUnavailable

RV = TypeVar("RV")

CONNECT_S_MAX = 2
LOCK_MS_MAX = 3_000
"""How long a statement waits for a lock."""

IDLE_IN_TRANSACTION_MS_MAX = 2_000
"""How long a node that stands still between taking the lock and committing keeps the others waiting."""

TRANSACTION_MS_MAX = 5_000
"""The same for one that stands still while it is sending; from PostgreSQL 17 on."""

HOT_STATEMENT_MS_MAX = 4_000
HOT_S_MAX = 5.0
"""How long the engine waits for an answer before it takes the connection for lost."""

LIST_S_MAX = 35.0
LIST_STATEMENT_MS_MAX = 30_000
TRANSACTION_TIMEOUT_SINCE = 170_000

NETWORK: Mapping[str, str | int] = {
    "target_session_attrs": "primary",
    "connect_timeout": CONNECT_S_MAX,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
    "client_encoding": "UTF8",
}
"""What the URL may say otherwise."""


class Connection(psycopg.Connection[Any]):
    """A connection that gives up, and closes, when the server takes longer than ``answer_s_max`` for one answer."""

    answer_s_max = HOT_S_MAX

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server, but not for ever."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        began = monotonic()
        try:
            return super().wait(gen, interval, self.answer_s_max)
        except psycopg.OperationalError as error:
            if monotonic() - began >= self.answer_s_max:
                self.close()
                raise psycopg.OperationalError(f"no answer for {self.answer_s_max:.0f} s") from error
            raise


def connect(url: str, settings: Mapping[str, str | int], answer_s_max: float = HOT_S_MAX) -> Connection:
    """A connection in autocommit mode, with ``$1`` as placeholders.

    Args:
        url: ``postgresql://…``.
        settings: of the session.
        answer_s_max: how long an answer may take.

    Raises:
        psycopg.Error: it cannot be had.
    """
    given = conninfo_to_dict(url)
    parameters = {name: value for name, value in NETWORK.items() if name not in given}
    connection = Connection.connect(
        make_conninfo(url, **parameters), autocommit=True, cursor_factory=psycopg.RawCursor, prepare_threshold=None
    )
    connection.server_cursor_factory = psycopg.RawServerCursor
    connection.answer_s_max = answer_s_max
    if "application_name" in given:
        settings = {name: value for name, value in settings.items() if name != "application_name"}
    try:
        _configure(connection, settings)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: Connection, settings: Mapping[str, str | int]) -> None:
    wanted = {"search_path": "fiscus", "jit": "off", **settings}
    if connection.info.server_version < TRANSACTION_TIMEOUT_SINCE:
        wanted.pop("transaction_timeout", None)
    pairs = (list(wanted), [str(value) for value in wanted.values()])
    connection.execute(
        "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS t (name, value)", pairs
    )


HOT: Mapping[str, str | int] = {
    "application_name": "fiscus journal",
    "synchronous_commit": "on",
    "lock_timeout": LOCK_MS_MAX,
    "statement_timeout": HOT_STATEMENT_MS_MAX,
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS_MAX,
    "transaction_timeout": TRANSACTION_MS_MAX,
    "plan_cache_mode": "force_generic_plan",
}
"""For the engine's own connection."""

LOADING: Mapping[str, str | int] = {
    "application_name": "fiscus loading",
    "default_transaction_read_only": "on",
    "statement_timeout": HOT_STATEMENT_MS_MAX,
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS_MAX,
    "plan_cache_mode": "force_generic_plan",
}
"""For what the engine waits for."""

LISTING: Mapping[str, str | int] = {
    "application_name": "fiscus reading",
    "default_transaction_read_only": "on",
    "statement_timeout": LIST_STATEMENT_MS_MAX,
    "idle_in_transaction_session_timeout": 60_000,
}
"""For lists and other reads of whoever asks."""


def unavailable(error: psycopg.Error) -> StoreUnavailable:
    """The error to raise."""
    return StoreUnavailable(f"postgresql: {str(error).strip() or type(error).__name__}")


def check_url(url: str) -> None:
    """See that a URL can be read.

    Raises:
        ConfigurationInvalid: it cannot.
    """
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise ConfigurationInvalid(f"store: the postgresql:// address cannot be read: {str(error).strip()}") from None


class Connections:
    """A bounded number of connections for reading, made when they are needed and kept.

    Args:
        url: of the database.
        settings: of their sessions.
        connections_max: how many at once; who comes then waits.
        answer_s_max: how long an answer may take, and how long one waits for a connection.
    """

    def __init__(
        self, url: str, settings: Mapping[str, str | int], connections_max: int, answer_s_max: float = HOT_S_MAX
    ) -> None:
        self._url = url
        self._settings = settings
        self._answer_s_max = answer_s_max
        self._free = BoundedSemaphore(connections_max)
        self._idle: LifoQueue[Connection] = LifoQueue()
        self._closed = False

    def fetch(self, statement: str, values: tuple[object, ...] = (), *, prepare: bool = True) -> list[tuple[Any, ...]]:
        """All rows of a query; asked again on a new connection where an idle one turns out to be lost.

        Raises:
            StoreUnavailable: the database is away or refused.
        """
        try:
            with self.connection() as (connection, was_idle):
                try:
                    return connection.execute(statement, values, prepare=prepare, binary=True).fetchall()
                except psycopg.OperationalError:
                    if not was_idle or not connection.broken:
                        raise
            self._drop_idle()
            with self.connection() as (connection, _):
                return connection.execute(statement, values, prepare=prepare, binary=True).fetchall()
        except psycopg.Error as error:
            raise unavailable(error) from error

    @contextlib.contextmanager
    def connection(self) -> Iterator[tuple[Connection, bool]]:
        """One for the caller alone, and whether it had been idle; it is kept afterwards if it is sound."""
        if not self._free.acquire(timeout=self._answer_s_max):
            raise StoreUnavailable("postgresql: all connections are in use")
        try:
            was_idle = True
            try:
                connection = self._idle.get_nowait()
            except Empty:
                was_idle = False
                connection = connect(self._url, self._settings, self._answer_s_max)
            try:
                yield connection, was_idle
            except BaseException:
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    connection.close()
                raise
            finally:
                if not connection.closed and not self._closed:
                    self._idle.put(connection)
                else:
                    connection.close()
        finally:
            self._free.release()

    def _drop_idle(self) -> None:
        """What was idle when one of them was lost may be lost as well."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def close(self) -> None:
        """Close those that are idle; the others when they are given back."""
        self._closed = True
        self._drop_idle()
