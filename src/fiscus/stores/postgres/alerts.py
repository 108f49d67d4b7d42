"""The outbox of alerts in PostgreSQL: all nodes deliver from it, each delivery by one of them at a time.

A claim ends by itself after a while: what a node has claimed that was killed, another sends again, under the same id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import psycopg

from fiscus.contract.alerts import Count, Delivery, DeliveryState, Progress, Step
from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.alert_rows import count, delivery, delivery_row, progress
from fiscus.stores.postgres.connecting import HOT_STATEMENT_MS_MAX, Connection, connect, unavailable
from fiscus.stores.queries import queries

SQL = queries(__package__, "alerts.sql")

ALERTING: Mapping[str, str | int] = {
    "application_name": "fiscus alerts",
    "synchronous_commit": "on",
    "statement_timeout": HOT_STATEMENT_MS_MAX,
    "lock_timeout": 2_000,
    "idle_in_transaction_session_timeout": 2_000,
}


class PostgresAlerts:
    """See ``contract.alerts.AlertStore``. One connection, made when it is needed, and anew after an error.

    Args:
        url: of the database.
        tenant: whose alerts.
    """

    def __init__(self, url: str, tenant: str) -> None:
        self._url = url
        self._tenant = tenant
        self._lock = Lock()
        self._connection: Connection | None = None
        self._closed = False

    def close(self) -> None:
        """See ``AlertStore``."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._closed:
            raise StoreUnavailable("postgresql: the outbox of alerts is closed")
        if self._connection is None:
            self._connection = connect(self._url, ALERTING)
            self._connection.execute(SQL["make_progress"], (self._tenant,))
        return self._connection

    def _run(self, name: str, values: Sequence[object]) -> tuple[list[Any], int]:
        """The rows of a statement, and how many it changed."""
        with self._lock:
            try:
                cursor = self._open().execute(SQL[name], values)
                return (cursor.fetchall() if cursor.description is not None else []), cursor.rowcount
            except psycopg.Error as error:
                self._drop()
                raise unavailable(error) from error

    def lead(self, node: str, now_ms: int, until_ms: int) -> Progress | None:
        """See ``AlertStore``."""
        rows, _ = self._run("lead", (node, now_ms, until_ms, self._tenant))
        return progress(rows[0]) if rows else None

    def step(self, step: Step) -> bool:
        """See ``AlertStore``."""
        at = step.progress
        with self._lock:
            try:
                connection = self._open()
                with connection.transaction():
                    values = (at.seq, at.memory, at.measures, self._tenant, at.version)
                    if not connection.execute(SQL["step"], values).rowcount:
                        return False
                    for one in step.deliveries:
                        connection.execute(SQL["put"], (self._tenant, *delivery_row(one)))
                    for account in step.erased:
                        connection.execute(SQL["erase"], (self._tenant, account))
            except psycopg.Error as error:
                self._drop()
                raise unavailable(error) from error
        return True

    def claim(self, channel: str, node: str, now_ms: int, until_ms: int, limit: int) -> list[Delivery]:
        """See ``AlertStore``."""
        rows, _ = self._run("claim", (node, now_ms, until_ms, self._tenant, channel, limit))
        return sorted(map(delivery, rows), key=lambda one: (one.due_at, one.number))

    def note(self, delivery: Delivery) -> None:
        """See ``AlertStore``."""
        values = (delivery.state, delivery.attempts, delivery.due_at, delivery.error, self._tenant, delivery.id)
        self._run("note", values)

    def deliveries(self, state: DeliveryState | None, after: int, limit: int) -> list[Delivery]:
        """See ``AlertStore``."""
        rows, _ = self._run("deliveries", (self._tenant, after, state, limit))
        return list(map(delivery, rows))

    def counts(self) -> list[Count]:
        """See ``AlertStore``."""
        rows, _ = self._run("counts", (self._tenant,))
        return list(map(count, rows))

    def retry(self, id: str | None, now_ms: int) -> int:
        """See ``AlertStore``."""
        return self._run("retry", (now_ms, self._tenant, id))[1]

    def forget(self, sent_before_ms: int, dead_before_ms: int, waiting_before_ms: int, limit: int) -> int:
        """See ``AlertStore``."""
        return self._run("forget", (self._tenant, sent_before_ms, dead_before_ms, waiting_before_ms, limit))[1]
