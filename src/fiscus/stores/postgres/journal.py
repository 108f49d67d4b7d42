"""The journal in PostgreSQL: one connection that writes, behind a lock that all nodes take; others that read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

import msgspec
import psycopg
from psycopg.pq.abc import PGresult

from fiscus.contract.errors import ConfigurationInvalid, StoreUnavailable
from fiscus.stores.postgres.archiving import drop_entries, put_archived_ids
from fiscus.stores.postgres.connecting import HOT, HOT_STATEMENT_MS_MAX, LISTING, Connections, connect, unavailable
from fiscus.stores.postgres.keys import columns, key
from fiscus.stores.postgres.line import Call, Line, byteas, int4, int4s, int8, int8s, number, texts
from fiscus.stores.postgres.watching import Watch
from fiscus.stores.queries import queries
from fiscus.treasury.store import (
    TAIL_MAX,
    AnswerRow,
    Erasure,
    Head,
    HeadLost,
    KeyTaken,
    Row,
    SealRow,
    StoredAnswer,
    StoredEntry,
    Turn,
)

HOT_SQL = queries(__package__, "journal.sql")
SQL = queries(__package__, "reading.sql")

READERS_MAX = 6
HOUSEKEEPERS_MAX = 2
KEEPING: Mapping[str, str | int] = {"statement_timeout": HOT_STATEMENT_MS_MAX}
"""For the connections that hold the lock of who seals or archives."""

RETRY_WITHIN_S = 1.0
"""A connection that is found lost so soon was lost before: the turn is asked for again on a new one."""

IDS = ("ids_pkey", "answers_pkey")
"""Constraints that say an id is taken; any other says that somebody else has written."""

BEGIN: Call = (b"begin", ())
COMMIT: Call = (b"commit", ())
ROLLBACK: Call = (b"rollback", ())


class PostgresJournal:
    """See ``treasury.store.Journal``."""

    drops_between_batches = False

    def __init__(self, url: str, watch: Watch) -> None:
        self._url = url
        self._watch = watch
        self._readers = Connections(url, LISTING, READERS_MAX)
        self._keeper = Connections(url, {**HOT, "plan_cache_mode": "auto"}, 1)
        self._housekeeping = Connections(url, KEEPING, HOUSEKEEPERS_MAX)
        self._in_turn = False
        self._undecided: set[int] = set()
        self._known_at: dict[int, tuple[int, int]] = {}
        self._line = self._connect()

    def _connect(self) -> Line:
        """A new writing connection; what the last one may have left under way is decided when this returns."""
        try:
            line = Line(connect(self._url, HOT), HOT_SQL)
            if self._undecided:
                try:
                    line.run([BEGIN, *(_lock(tenant) for tenant in sorted(self._undecided)), ROLLBACK])
                except psycopg.Error:
                    line.close()
                    raise
                self._undecided.clear()
        except psycopg.Error as error:
            raise unavailable(error) from error
        return line

    def close(self) -> None:
        """Close all connections."""
        self._readers.close()
        self._keeper.close()
        self._housekeeping.close()
        self._line.close()

    def reopen(self) -> None:
        """See ``Journal``."""
        self._line.close()
        self._in_turn = False
        self._known_at.clear()
        self._line = self._connect()

    # -- turns ------------------------------------------------------------------------------------------------------

    def begin(self, heads: Mapping[int, Head]) -> Turn:
        """See ``Journal``."""
        tenants = sorted(heads)
        calls: list[Call] = [BEGIN, *(_lock(tenant) for tenant in tenants)]
        calls += [self._tail(tenant, heads[tenant]) for tenant in tenants]
        began = monotonic()
        try:
            results = self._line.run(calls)
        except psycopg.Error as error:
            self._give_up()
            if not self._line.closed or monotonic() - began > RETRY_WITHIN_S:
                raise unavailable(error) from error
            self._line = self._connect()
            try:
                results = self._line.run(calls)
            except psycopg.Error as again:
                self._give_up()
                raise unavailable(again) from again
        self._in_turn = True
        try:
            tails = self._read_tails(heads, tenants, results[1 + len(tenants) :])
        except (HeadLost, StoreUnavailable):
            self.end()
            raise
        now_ms = number(results[len(tenants)].get_value(0, 0)) if tenants else None
        return Turn(now_ms, tails)

    def end(self) -> None:
        """See ``Journal``."""
        if self._in_turn:
            self._give_up()

    def _give_up(self) -> None:
        """Roll back, or let the connection go."""
        self._in_turn = False
        if self._line.in_transaction:
            try:
                self._line.run([ROLLBACK])
            except psycopg.Error:
                self._line.close()

    def tails(self, heads: Mapping[int, Head]) -> dict[int, list[StoredEntry]]:
        """See ``Journal``."""
        tenants = sorted(heads)
        if not tenants:
            return {}
        try:
            results = self._line.run([self._tail(tenant, heads[tenant]) for tenant in tenants])
        except psycopg.Error as error:
            raise unavailable(error) from error
        return self._read_tails(heads, tenants, results)

    def _tail(self, tenant: int, head: Head) -> Call:
        known_seq, known_at = self._known_at.get(tenant, (0, 0))
        since = known_at if known_seq <= head.seq else 0
        return b"tail", (int4(tenant), int8(head.seq), int8(since), int8(TAIL_MAX + 1))

    def _read_tails(
        self, heads: Mapping[int, Head], tenants: Sequence[int], results: Sequence[PGresult]
    ) -> dict[int, list[StoredEntry]]:
        """What came after the heads; raises HeadLost if the entry at one is another one."""
        tails: dict[int, list[StoredEntry]] = {}
        for tenant, result in zip(tenants, results, strict=True):
            head = heads[tenant]
            entries = _stored_entries(result)
            if head.seq and entries and entries[0].seq == head.seq and entries[0].hash == head.hash:
                self._known_at[tenant] = (head.seq, entries[0].at)
                entries = entries[1:]
            elif head.seq and not self._has_batch(tenant, head, entries):
                self._known_at.pop(tenant, None)
                raise HeadLost(f"tenant {tenant}: entry {head.seq} is not in the journal any more")
            if entries:
                tails[tenant] = entries[:TAIL_MAX]
        return tails

    def _has_batch(self, tenant: int, head: Head, entries: Sequence[StoredEntry]) -> bool:
        """Whether the head's entry is known to have been there, though its month was archived since."""
        if entries and entries[0].seq == head.seq:
            return False
        try:
            (result,) = self._line.run([(b"has_batch", (int4(tenant), int8(head.seq), head.hash))])
        except psycopg.Error as error:
            raise unavailable(error) from error
        return number(result.get_value(0, 0)) > 0

    def watch(self, on_news: Callable[[], None]) -> None:
        """See ``Journal``."""
        self._watch.start(on_news)

    # -- appending --------------------------------------------------------------------------------------------------

    def append(self, rows: Sequence[Row], answers: Sequence[AnswerRow] = (), erased: Sequence[Erasure] = ()) -> None:
        """See ``Journal``."""
        tenants = {row.tenant for row in rows} | {kept.tenant for kept in answers} | {one.tenant for one in erased}
        if not tenants:
            return
        calls: list[Call] = [] if self._in_turn else [BEGIN, *(_lock(tenant) for tenant in sorted(tenants))]
        calls += [_append(rows, answers), *_erase(erased), COMMIT]
        self._undecided = tenants
        try:
            results = self._line.run(calls)
        except psycopg.errors.UniqueViolation as error:
            self._give_up()
            self._undecided = set()
            if error.diag.constraint_name in IDS:
                raise KeyTaken(str(error)) from error
            raise StoreUnavailable(f"postgresql: somebody else has written here: {error}") from error
        except psycopg.Error as error:
            self._give_up()
            raise unavailable(error) from error
        self._in_turn = False
        if results[-1].command_status != b"COMMIT":
            raise StoreUnavailable("postgresql: the commit was rolled back")
        self._undecided = set()
        for row in rows:
            self._known_at[row.tenant] = (row.seq, row.at)
        self._watch.tell()

    # -- reading and keeping ----------------------------------------------------------------------------------------

    def min_format(self) -> int:
        """See ``Journal``."""
        return int(self._readers.fetch(SQL["min_format"])[0][0])

    def tenants(self) -> dict[str, int]:
        """See ``Journal``."""
        return {row[0]: row[1] for row in self._readers.fetch(SQL["tenants"])}

    def add_tenant(self, name: str) -> int:
        """See ``Journal``."""
        for statement in ("tenant", "add_tenant", "tenant"):
            rows = self._keeper.fetch(SQL[statement], (name,))
            if rows:
                return int(rows[0][0])
        raise StoreUnavailable(f"postgresql: tenant {name} could not be added")

    def head(self, tenant: int) -> Head | None:
        """See ``Journal``."""
        rows = self._readers.fetch(SQL["head"], (tenant,))
        return Head(*rows[0]) if rows else None

    def tidy(self) -> None:
        """See ``Journal``; the server does so by itself."""

    def entries(self, tenant: int, after: int, limit: int) -> list[StoredEntry]:
        """See ``Journal``."""
        return [StoredEntry(*row) for row in self._readers.fetch(SQL["entries"], (tenant, after, limit))]

    def find_answers(self, tenant: int, keys: Iterable[str]) -> dict[str, StoredAnswer]:
        """See ``Journal``."""
        rows = self._readers.fetch(SQL["find_answers"], (tenant, list(keys)))
        return {found: StoredAnswer(at, answer) for found, at, answer in rows}

    def forget_answers(self, before: int) -> None:
        """See ``Journal``."""
        self._keeper.fetch(SQL["forget_answers"], (before,))

    @contextmanager
    def alone(self, *tenants: int) -> Iterator[bool]:
        """See ``Journal``; whoever loses the connection loses the lock, and writes nothing more through it."""
        try:
            with self._housekeeping.connection() as (connection, _):
                mine: list[int] = []
                try:
                    for tenant in sorted(tenants):
                        row = connection.execute(SQL["alone"], (tenant,)).fetchone()
                        if row is None or not row[0]:
                            break
                        mine.append(tenant)
                    yield len(mine) == len(tenants)
                finally:
                    for tenant in mine:
                        connection.execute(SQL["not_alone"], (tenant,))
        except psycopg.Error as error:
            raise unavailable(error) from error

    def drop_entries(self, upto: Mapping[int, int], limit: int) -> int:
        """See ``Journal``; on a connection of its own, which nobody waits for."""
        return drop_entries(self._url, upto, limit)

    def put_archived_ids(self, tenant: int, ids: Sequence[str]) -> None:
        """See ``Journal``."""
        put_archived_ids(self._url, tenant, ids)

    def put_checkpoint(self, tenant: int, seq: int, rows: Iterable[SealRow]) -> None:
        """See ``Journal``."""
        kinds, numbers, ids, bodies = [], [], [], []
        for kind, one, body in rows:
            entity_number, entity_id = columns(one)
            kinds.append(kind)
            numbers.append(entity_number)
            ids.append(entity_id)
            bodies.append(body)
        try:
            with self._keeper.connection() as (connection, _), connection.transaction():
                connection.execute(SQL["put_checkpoint"], (tenant, seq, kinds, numbers, ids, bodies))
        except psycopg.Error as error:
            raise unavailable(error) from error

    def forget_checkpoints(self, tenant: int, keep: Collection[int], limit: int) -> int:
        """See ``Journal``."""
        return int(self._keeper.fetch(SQL["forget_checkpoints"], (tenant, sorted(keep), limit))[0][0])

    def checkpoints(self, tenant: int) -> list[int]:
        """See ``Journal``."""
        return [row[0] for row in self._readers.fetch(SQL["checkpoints"], (tenant,))]

    def checkpoint(self, tenant: int, seq: int) -> list[SealRow]:
        """See ``Journal``."""
        rows = self._readers.fetch(SQL["checkpoint"], (tenant, seq))
        return [(kind, key(entity_number, id), body) for kind, entity_number, id, body in rows]

    def backup(self, destination: str) -> None:
        """PostgreSQL has tools of its own for this.

        Raises:
            ConfigurationInvalid: always.
        """
        raise ConfigurationInvalid(
            "a ledger in PostgreSQL is not copied to a file: use pg_dump or a base backup for the whole database, "
            "or `fiscus export` for the journal"
        )


def _lock(tenant: int) -> Call:
    return b"lock", (int4(tenant),)


def _stored_entries(result: PGresult) -> list[StoredEntry]:
    get = result.get_value
    return [
        StoredEntry(
            number(get(index, 0)),
            number(get(index, 1)),
            get(index, 2) or b"",
            get(index, 3) or b"",
            get(index, 4),
            get(index, 5),
        )
        for index in range(result.ntuples)
    ]


def _append(rows: Sequence[Row], answers: Sequence[AnswerRow]) -> Call:
    """The statement that appends rows and answers, and its values."""
    known = [row for row in rows if row.key is not None]
    batches = _batches(rows)
    values = [
        int4s([row.tenant for row in rows]),
        int8s([row.seq for row in rows]),
        int8s([row.at for row in rows]),
        byteas([row.body for row in rows]),
        byteas([row.hash for row in rows]),
        int4s([row.tenant for row in known]),
        texts([row.key for row in known]),
        int8s([row.seq for row in known]),
        int4s([last.tenant for _, last in batches]),
        int8s([first for first, _ in batches]),
        int8s([last.seq for _, last in batches]),
        int8s([last.at for _, last in batches]),
        byteas([last.hash for _, last in batches]),
    ]
    sealed = [(row, row.private) for row in rows if row.private is not None]
    if not sealed and not answers:
        return b"append", values
    values += [
        int4s([row.tenant for row, _ in sealed]),
        int8s([row.seq for row, _ in sealed]),
        int8s([private.account for _, private in sealed]),
        byteas([private.salt for _, private in sealed]),
        byteas([private.body for _, private in sealed]),
        int4s([kept.tenant for kept in answers]),
        texts([kept.key for kept in answers]),
        int8s([kept.at for kept in answers]),
        byteas([kept.answer for kept in answers]),
    ]
    return b"append_all", values


def _batches(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Of each tenant the first sequence number and the last row."""
    found: dict[int, tuple[int, Row]] = {}
    for row in rows:
        first = found.get(row.tenant)
        found[row.tenant] = (row.seq if first is None else first[0], row)
    return list(found.values())


def _erase(erased: Sequence[Erasure]) -> list[Call]:
    calls: list[Call] = []
    for erasure in erased:
        calls.append((b"erase", (int4(erasure.tenant), int8(erasure.account))))
        if erasure.keys:
            calls.append((b"erase_sealed_keys", (int4(erasure.tenant), texts(erasure.keys))))
        if erasure.name is not None:
            calls.append((b"erase_answers", (int4(erasure.tenant), msgspec.json.encode(erasure.name))))
    return calls
