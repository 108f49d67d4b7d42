"""A line that is opened when it is needed, and once more where it turns out to have been lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock
from typing import TypeVar

import psycopg
from psycopg.pq.abc import PGresult

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.postgres.connecting import HOT_S_MAX, connect, unavailable
from fiscus.stores.postgres.line import Call, Line

RV = TypeVar("RV")

ROLLBACK: Call = (b"rollback", ())


class Session:
    """For several threads, one after another.

    Args:
        url: of the database.
        settings: of the session.
        statements: what is prepared in it; with ``rollback``, where there are transactions.
        answer_s_max: how long one round trip may take.
    """

    def __init__(
        self,
        url: str,
        settings: Mapping[str, str | int],
        statements: Mapping[str, str],
        answer_s_max: float = HOT_S_MAX,
    ) -> None:
        self._url = url
        self._settings = settings
        self._statements = statements
        self._answer_s_max = answer_s_max
        self._line: Line | None = None
        self._in_use = Lock()
        self.closing = Event()

    def close(self) -> None:
        """Close the connection, once nobody uses it."""
        self.closing.set()
        with self._in_use:
            if self._line is not None:
                self._line.close()
                self._line = None

    def ask(self, calls: Sequence[Call]) -> list[PGresult]:
        """Run statements that may be run twice; see ``Line.run`` and ``do``."""
        return self.do(lambda line: line.run(calls, self._answer_s_max))

    def do(self, do: Callable[[Line], RV]) -> RV:
        """Do something in the connection; again in a new one, where the old one is lost: that was rolled back.

        Raises:
            StoreUnavailable: the database is away or refused.
        """
        with self._in_use:
            try:
                was_open = self._line is not None
                try:
                    return self._once(do)
                except psycopg.OperationalError:
                    if not was_open or self._line is not None:
                        raise
                return self._once(do)
            except psycopg.Error as error:
                raise unavailable(error) from error

    def _once(self, do: Callable[[Line], RV]) -> RV:
        if self.closing.is_set():
            raise StoreUnavailable("postgresql: the store is closed")
        line = self._line
        if line is None:
            line = self._line = Line(connect(self._url, self._settings), self._statements)
        try:
            return do(line)
        except BaseException:
            if line.in_transaction:
                _roll_back(line)
            raise
        finally:
            if line.closed:
                self._line = None


def _roll_back(line: Line) -> None:
    try:
        line.run([ROLLBACK])
    except psycopg.Error:
        line.close()
