"""Many rows in few statements: each statement hands over the interpreter lock, and getting it back can take long."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from functools import cache
from itertools import chain, islice

ROWS_PER_STATEMENT_MAX = 1_024
"""Of ``execute_rows``; SQLite takes 32,766 values in one statement."""


@cache
def statement_of_rows(statement: str, count: int) -> str:
    """An ``INSERT`` of one row, which ends with its values, as one of so many rows.

    >>> statement_of_rows("INSERT INTO t (a, b) VALUES (?, ?)", 3)
    'INSERT INTO t (a, b) VALUES (?, ?), (?, ?), (?, ?)'
    """
    one = statement.rstrip().removesuffix(";")
    return one + (", " + one[one.rindex("(") :]) * (count - 1)


def execute_rows(
    writer: sqlite3.Connection, statement: str, rows: Iterable[tuple[object, ...]], *, shared: tuple[object, ...] = ()
) -> None:
    """Run an ``INSERT`` of one row for many of them, by powers of two, so that there are few statements to keep.

    Args:
        statement: its values are ``?1``, ``?2`` … for what all rows share, then ``?`` for each of the row's own.
    """
    left = iter(rows)
    while part := list(islice(left, ROWS_PER_STATEMENT_MAX)):
        begun = 0
        while begun < len(part):
            count = 1 << (len(part) - begun).bit_length() - 1
            values = chain(shared, *part[begun : begun + count])
            writer.execute(statement_of_rows(statement, count), tuple(values))
            begun += count
