"""The journal in SQLite: WAL, ``synchronous=FULL``, one connection that writes and checkpoints."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import msgspec

from fiscus.contract.errors import StoreUnavailable, UnknownFormat
from fiscus.core.events import FORMAT
from fiscus.stores.queries import queries
from fiscus.stores.sqlite.archiving import drop_entries, put_archived_ids
from fiscus.stores.sqlite.many import statement_of_rows
from fiscus.treasury.store import AnswerRow, Erasure, Head, KeyTaken, Row, SealRow, StoredAnswer, StoredEntry, Turn

SQL = queries(__package__, "journal.sql")
ROWS_PER_STATEMENT_MAX = 256
"""Of an append: a batch is one statement, for each count of rows its own."""

CACHED_STATEMENTS = 512

TIDY_WRITES = 2_000
"""After so many appends and rows in them what was written is moved from the log to its place when nobody waits."""

LOG_PAGES_MAX = 8_000
"""While somebody always waits it is moved when the log is so long, in pages of 4 KiB; that append takes longer."""

ALONE = Turn()


def _append_rows(execute: Callable[[str, Sequence[object]], object], rows: Sequence[Row]) -> None:
    values: list[object] = []
    for row in rows:
        values += (row.tenant, row.seq, row.at, row.key, row.body, row.hash)
    execute(statement_of_rows(SQL["append"], len(rows)), values)


def connect(path: str, *, writable: bool) -> sqlite3.Connection:
    """A connection for use from several threads under a lock of the caller's."""
    if writable:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS)
    uri = f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro"
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS
    )


class SqliteJournal:
    """See ``treasury.store.Journal``. Reads from other threads use a connection of their own that never writes."""

    drops_between_batches = True

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._lock = Lock()
        self._housekeeping = Lock()
        self._writer = self._open_writer()
        self._reader = connect(self._path, writable=False)
        self._writes = 0

    def _open_writer(self) -> sqlite3.Connection:
        try:
            writer = connect(self._path, writable=True)
            _refuse_newer(writer)
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
            writer.execute("PRAGMA busy_timeout = 0")
            writer.executescript(SQL["schema"])
            writer.execute(SQL["set_format"], (FORMAT,))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error
        return writer

    def close(self) -> None:
        """Close both connections."""
        self._reader.close()
        self._writer.close()

    def reopen(self) -> None:
        """See ``Journal``."""
        with contextlib.suppress(sqlite3.Error):
            self._writer.close()
        self._writer = self._open_writer()

    def min_format(self) -> int:
        """See ``Journal``; there is no other node, so that it was raised when the file was opened."""
        return int(self._read(SQL["format"], ())[0][0])

    def tenants(self) -> dict[str, int]:
        """See ``Journal``."""
        return dict(self._read(SQL["tenants"], ()))

    def add_tenant(self, name: str) -> int:
        """See ``Journal``."""
        try:
            self._writer.execute(SQL["add_tenant"], (name,))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error
        return self.tenants()[name]

    def head(self, tenant: int) -> Head | None:
        """See ``Journal``."""
        rows = self._read(SQL["head"], (tenant,))
        return Head(*rows[0]) if rows else None

    def begin(self, heads: Mapping[int, Head]) -> Turn:
        """See ``Journal``; the file is locked for this process, so that nobody else can have written."""
        return ALONE

    def end(self) -> None:
        """See ``Journal``."""

    def tails(self, heads: Mapping[int, Head]) -> dict[int, list[StoredEntry]]:
        """See ``Journal``."""
        return {}

    def watch(self, on_news: Callable[[], None]) -> None:
        """See ``Journal``; there is never any news."""

    def append(self, rows: Sequence[Row], answers: Sequence[AnswerRow] = (), erased: Sequence[Erasure] = ()) -> None:
        """See ``Journal``."""
        execute = self._writer.execute
        self._writes += 1 + len(rows)
        is_plain = len(rows) <= ROWS_PER_STATEMENT_MAX and not answers and not erased
        try:
            if is_plain and rows and all(row.private is None for row in rows):
                # One statement is one transaction by itself: begun, synced and committed in a single step.
                _append_rows(execute, rows)
                return
            execute("BEGIN IMMEDIATE")
            try:
                for start in range(0, len(rows), ROWS_PER_STATEMENT_MAX):
                    _append_rows(execute, rows[start : start + ROWS_PER_STATEMENT_MAX])
                for row in rows:
                    sealed = row.private
                    if sealed is not None:
                        execute(SQL["put_private"], (row.tenant, row.seq, sealed.account, sealed.salt, sealed.body))
                for kept in answers:
                    execute(SQL["put_answer"], (kept.tenant, kept.key, kept.at, kept.answer))
                for erasure in erased:
                    execute(SQL["erase"], (erasure.tenant, erasure.account))
                    execute(SQL["erase_sealed"], (erasure.tenant, erasure.account))
                    for key in erasure.keys:
                        execute(SQL["erase_sealed_key"], (erasure.tenant, key))
                    if erasure.name is not None:
                        quoted = msgspec.json.encode(erasure.name).decode()
                        execute(SQL["erase_answers"], (erasure.tenant, quoted))
            except sqlite3.IntegrityError:
                execute("ROLLBACK")
                raise
            execute("COMMIT")
        except sqlite3.IntegrityError as error:
            if "journal.seq" in str(error):
                raise StoreUnavailable(f"sqlite: somebody else has written here: {error}") from error
            raise KeyTaken(str(error)) from error
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error

    def tidy(self) -> None:
        """See ``Journal``; what cannot be moved now is moved later."""
        if self._writes >= TIDY_WRITES:
            self._writes = 0
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def entries(self, tenant: int, after: int, limit: int) -> list[StoredEntry]:
        """See ``Journal``."""
        return [StoredEntry(*row) for row in self._read(SQL["entries"], (tenant, after, limit))]

    def find_answers(self, tenant: int, keys: Iterable[str]) -> dict[str, StoredAnswer]:
        """See ``Journal``."""
        wanted = msgspec.json.encode(list(keys)).decode()
        return {key: StoredAnswer(at, answer) for key, at, answer in self._read(SQL["find_answers"], (tenant, wanted))}

    def forget_answers(self, before: int) -> None:
        """See ``Journal``."""
        try:
            self._writer.execute(SQL["forget_answers"], (before,))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error

    @contextmanager
    def alone(self, *tenants: int) -> Iterator[bool]:
        """See ``Journal``; no other process has the file."""
        mine = self._housekeeping.acquire(blocking=False)
        try:
            yield mine
        finally:
            if mine:
                self._housekeeping.release()

    def drop_entries(self, upto: Mapping[int, int], limit: int) -> int:
        """See ``Journal``."""
        try:
            return drop_entries(self._writer, upto, limit)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error

    def put_archived_ids(self, tenant: int, ids: Sequence[str]) -> None:
        """See ``Journal``."""
        try:
            put_archived_ids(self._writer, tenant, ids)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error

    def put_checkpoint(self, tenant: int, seq: int, rows: Iterable[SealRow]) -> None:
        """See ``Journal``."""
        execute = self._writer.execute
        try:
            execute("BEGIN IMMEDIATE")
            self._writer.executemany(SQL["put_checkpoint"], ((tenant, seq, *row) for row in rows))
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                execute("ROLLBACK")
            raise StoreUnavailable(f"sqlite: {error}") from error

    def forget_checkpoints(self, tenant: int, keep: Collection[int], limit: int) -> int:
        """See ``Journal``."""
        kept = msgspec.json.encode(sorted(keep)).decode()
        try:
            return self._writer.execute(SQL["forget_checkpoints"], (tenant, kept, limit)).rowcount
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error

    def checkpoints(self, tenant: int) -> list[int]:
        """See ``Journal``."""
        return [row[0] for row in self._read(SQL["checkpoints"], (tenant,))]

    def checkpoint(self, tenant: int, seq: int) -> list[SealRow]:
        """See ``Journal``."""
        return self._read(SQL["checkpoint"], (tenant, seq))

    def backup(self, destination: str) -> None:
        """See ``Journal``; one step on a connection of its own: nobody waits, and writes do not start it anew."""
        source = connect(self._path, writable=False)
        copy = sqlite3.connect(destination)
        try:
            source.backup(copy)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error
        finally:
            copy.close()
            source.close()

    def _read(self, statement: str, values: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._lock:
                return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite: {error}") from error


def _refuse_newer(writer: sqlite3.Connection) -> None:
    """Look at the format before anything is written."""
    if writer.execute(SQL["has_format"]).fetchone()[0]:
        written_by = writer.execute(SQL["format"]).fetchone()[0] or 0
        if written_by > FORMAT:
            writer.close()
            raise UnknownFormat(f"the journal has format {written_by}, this version reads {FORMAT}")
