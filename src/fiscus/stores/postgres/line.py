"""A connection in pipeline mode: several prepared statements in one round trip, within a bound of time.

It uses libpq directly. What it saves is worth it twice: each batch has two round trips, and all that belongs to one is
handed to the network in one piece, so that a process that is stopped in between does not leave half of it.
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping, Sequence
from itertools import chain
from struct import Struct, pack
from time import monotonic

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from fiscus.stores.postgres.connecting import HOT_S_MAX, Connection

Value = bytes | None
Call = tuple[bytes, Sequence[Value]]
"""The name of a statement, and its values in binary format."""

BINARY = 1
OID_BOOL, OID_BYTEA, OID_INT8, OID_INT4, OID_TEXT = 16, 17, 20, 23, 25
_HEADER = Struct(">iiiii")
_EMPTY = Struct(">iii")
_NULL = b"\xff\xff\xff\xff"
_LENGTH = Struct(">i").pack
_ABORTED = pq.ExecStatus.PIPELINE_ABORTED
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)


class Line:
    """One connection, its prepared statements, and the way to run several of them at once; for one thread at a time.

    Args:
        connection: in autocommit mode; it belongs to this object from now on.
        statements: SQL by name.

    Raises:
        psycopg.Error: a statement cannot be prepared.
    """

    def __init__(self, connection: Connection, statements: Mapping[str, str]) -> None:
        self._connection = connection
        self._pgconn: PGconn = connection.pgconn
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)
        try:
            self._pgconn.enter_pipeline_mode()
            for name, statement in statements.items():
                self._pgconn.send_prepare(name.encode(), statement.encode())
            self._finish(len(statements), monotonic() + HOT_S_MAX)
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return self._connection.closed

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, also one that has failed."""
        return not self.closed and self._pgconn.transaction_status != pq.TransactionStatus.IDLE

    def close(self) -> None:
        """Close the connection; whatever goes on in it is rolled back, if it was not a COMMIT."""
        self._selector.close()
        self._connection.close()

    def run(self, calls: Sequence[Call], answer_s_max: float = HOT_S_MAX) -> list[PGresult]:
        """Run statements in one round trip; after one that fails the rest is not run.

        Args:
            calls: at least one.
            answer_s_max: how long it may take.

        Returns:
            The results, in order, in binary format.

        Raises:
            psycopg.Error: a statement failed, or the connection did (it is closed then).
        """
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        deadline = monotonic() + answer_s_max
        try:
            send = self._pgconn.send_query_prepared
            for name, values in calls:
                send(name, values, [BINARY] * len(values), BINARY)
            results = self._finish(len(calls), deadline)
        except psycopg.OperationalError:
            if self._pgconn.status != pq.ConnStatus.OK:
                self.close()
            raise
        return results

    def _finish(self, count: int, deadline: float) -> list[PGresult]:
        """Mark the end, send everything, and take the results; raises the first error among them."""
        pgconn = self._pgconn
        pgconn.pipeline_sync()
        self._send(deadline)
        results: list[PGresult] = []
        failed: PGresult | None = None
        while True:
            while pgconn.is_busy():
                self._await(deadline)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                continue
            status = result.status
            if status == _SYNC:
                break
            if status in _FAILED:
                failed = failed or result
                if pgconn.status != pq.ConnStatus.OK:
                    break
            elif status != _ABORTED:
                results.append(result)
        if failed is not None:
            raise psycopg.errors.error_from_result(failed)
        assert len(results) == count, "one result for each statement"
        return results

    def _send(self, deadline: float) -> None:
        """Hand everything to the network."""
        pgconn = self._pgconn
        if not pgconn.flush():
            return
        self._selector.modify(pgconn.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
        try:
            while pgconn.flush():
                if self._await(deadline) & selectors.EVENT_READ:
                    pgconn.consume_input()
        finally:
            self._selector.modify(pgconn.socket, selectors.EVENT_READ)

    def _await(self, deadline: float) -> int:
        """Wait until the socket is ready; returns for what."""
        ready = self._selector.select(max(0.0, deadline - monotonic()))
        if not ready:
            self.close()
            raise psycopg.OperationalError("the database does not answer")
        return ready[0][1]


def int4(number: int) -> bytes:
    """A value of type integer."""
    return number.to_bytes(4, "big", signed=True)


def int8(number: int) -> bytes:
    """A value of type bigint."""
    return number.to_bytes(8, "big", signed=True)


def number(value: Value) -> int:
    """The integer or bigint of a result."""
    assert value is not None
    return int.from_bytes(value, "big", signed=True)


def int4s(numbers: Sequence[int]) -> bytes:
    """A value of type integer[]."""
    if not numbers:
        return _EMPTY.pack(0, 0, OID_INT4)
    count = len(numbers)
    lengths_and_numbers = chain.from_iterable((4, one) for one in numbers)
    return _HEADER.pack(1, 0, OID_INT4, count, 1) + pack(f">{2 * count}i", *lengths_and_numbers)


def int8s(numbers: Sequence[int | None]) -> bytes:
    """A value of type bigint[], with NULL for None."""
    return _array(OID_INT8, [None if one is None else one.to_bytes(8, "big", signed=True) for one in numbers])


def bools(flags: Sequence[bool]) -> bytes:
    """A value of type boolean[]."""
    return _array(OID_BOOL, [b"\x01" if flag else b"\x00" for flag in flags])


def texts(values: Sequence[str | None]) -> bytes:
    """A value of type text[], with NULL for None."""
    return _array(OID_TEXT, [None if one is None else one.encode() for one in values])


def byteas(values: Sequence[Value]) -> bytes:
    """A value of type bytea[], with NULL for None."""
    return _array(OID_BYTEA, values)


def _array(oid: int, values: Sequence[Value]) -> bytes:
    if not values:
        return _EMPTY.pack(0, 0, oid)
    parts = [_HEADER.pack(1, 1, oid, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(_LENGTH(len(value)))
            parts.append(value)
    return b"".join(parts)
