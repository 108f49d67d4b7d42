"""The outbox of alerts in a SQLite file of its own, beside the ledger whose lock keeps other processes out of it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from fiscus.contract.alerts import Count, Delivery, DeliveryState, Progress, Step
from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.alert_rows import count, delivery, delivery_row, progress
from fiscus.stores.queries import queries
from fiscus.stores.sqlite.journal import connect

SQL = queries(__package__, "alerts.sql")
MEMORY = ":memory:"


class SqliteAlerts:
    """See ``contract.alerts.AlertStore``. One connection writes, reads and checkpoints.

    Args:
        path: of the file; None: in memory.
        tenant: whose alerts.

    Raises:
        StoreUnavailable: it cannot be opened.
    """

    def __init__(self, path: Path | None, tenant: str) -> None:
        self._tenant = tenant
        self._lock = Lock()
        try:
            self._connection = connect(str(path) if path is not None else MEMORY, writable=True)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(SQL["schema"])
            self._connection.execute(SQL["release"])
            self._connection.execute(SQL["release_lead"])
            self._connection.execute(SQL["make_progress"], (tenant,))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: alerts: {error}") from error

    def close(self) -> None:
        """See ``AlertStore``."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        with self._lock:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise StoreUnavailable(f"sqlite: alerts: {error}") from error
                raise

    def _run(self, name: str, values: Sequence[object]) -> tuple[list[Any], int]:
        """The rows of a statement, and how many it changed."""
        with self._transaction() as connection:
            cursor = connection.execute(SQL[name], values)
            return cursor.fetchall(), cursor.rowcount

    def lead(self, node: str, now_ms: int, until_ms: int) -> Progress | None:
        """See ``AlertStore``."""
        rows, _ = self._run("lead", (node, now_ms, until_ms, self._tenant))
        return progress(rows[0]) if rows else None

    def step(self, step: Step) -> bool:
        """See ``AlertStore``."""
        at = step.progress
        with self._transaction() as connection:
            values = (at.seq, at.memory, at.measures, self._tenant, at.version)
            if not connection.execute(SQL["step"], values).rowcount:
                return False
            connection.executemany(SQL["put"], [(self._tenant, *delivery_row(one)) for one in step.deliveries])
            connection.executemany(SQL["erase"], [(self._tenant, account) for account in step.erased])
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
