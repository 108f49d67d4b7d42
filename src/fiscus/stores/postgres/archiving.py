"""Dropping entries and usage that were archived: months as a whole, what stands beside them bit by bit afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg

from fiscus.stores.postgres.connecting import connect, unavailable
from fiscus.stores.queries import queries

SQL = queries(__package__, "archiving.sql")

LOCK_MS_MAX = 300
"""How long dropping a month waits for whoever reads it; writers wait as long. It is tried again later."""

DROP_S_MAX = 3_600.0
DROPPING: Mapping[str, str | int] = {"lock_timeout": LOCK_MS_MAX, "synchronous_commit": "on"}


def drop_entries(url: str, upto: Mapping[int, int], limit: int) -> int:
    """Drop entries of tenants, in one transaction; then private parts and batches of theirs, at most ``limit`` each.

    The entries go first: while one is there, what names somebody in it is as well.

    Args:
        url: of the database.
        upto: the last entry to drop, by tenant.
        limit: private parts and batches, at most.

    Returns:
        How much was dropped; 0: there is no more.

    Raises:
        StoreUnavailable: the database is away, or somebody reads what is to be dropped.
    """
    given = (list(upto), list(upto.values()))
    try:
        with closing(connect(url, DROPPING, DROP_S_MAX)) as connection:
            dropped = 0
            if _number(connection, "has_entries", given):
                dropped += _number(connection, "drop_entries", given)
            dropped += _number(connection, "drop_private", (*given, limit))
            return dropped + _number(connection, "drop_batches", (*given, limit))
    except psycopg.Error as error:
        raise unavailable(error) from error


def drop_usage(url: str, upto: Mapping[int, int]) -> int:
    """Drop usage of tenants, in one transaction; returns how much.

    Raises:
        StoreUnavailable: the database is away, or somebody reads what is to be dropped.
    """
    given = (list(upto), list(upto.values()))
    try:
        with closing(connect(url, DROPPING, DROP_S_MAX)) as connection:
            return _number(connection, "drop_usage", given) if _number(connection, "has_usage", given) else 0
    except psycopg.Error as error:
        raise unavailable(error) from error


def put_archived_ids(url: str, tenant: int, ids: Sequence[str]) -> None:
    """Take note of ids that entries have taken which were archived elsewhere.

    Raises:
        StoreUnavailable: the database is away.
    """
    try:
        with closing(connect(url, DROPPING, DROP_S_MAX)) as connection:
            connection.execute(SQL["put_ids"], (tenant, list(ids)))
    except psycopg.Error as error:
        raise unavailable(error) from error


def _number(connection: psycopg.Connection[Any], name: str, values: tuple[object, ...]) -> int:
    row = connection.execute(SQL[name], values).fetchone()
    return int(row[0]) if row is not None else 0
