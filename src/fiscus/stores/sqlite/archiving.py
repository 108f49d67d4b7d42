"""Dropping entries that were archived, bit by bit: each step is a transaction, and nobody waits long for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from fiscus.stores.queries import queries

SQL = queries(__package__, "archiving.sql")


def drop_entries(writer: sqlite3.Connection, upto: Mapping[int, int], limit: int) -> int:
    """Drop the oldest entries of tenants with their private parts; their ids stay taken.

    Args:
        writer: the journal's writing connection.
        upto: the last entry to drop, by tenant.
        limit: entries, at most.

    Returns:
        How many were dropped; fewer than ``limit``: there are no more.
    """
    dropped = 0
    writer.execute("BEGIN IMMEDIATE")
    try:
        _guard(writer)
        for tenant, last in upto.items():
            first = writer.execute(SQL["first"], (tenant,)).fetchone()[0]
            if first is None or first > last or dropped >= limit:
                continue
            step = min(last, first + limit - dropped - 1)
            for name in ("keep_ids", "drop_private"):
                writer.execute(SQL[name], (tenant, step))
            dropped += writer.execute(SQL["drop_entries"], (tenant, step)).rowcount
        writer.execute("COMMIT")
    except sqlite3.Error:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        raise
    return dropped


def put_archived_ids(writer: sqlite3.Connection, tenant: int, ids: Sequence[str]) -> None:
    """Take note of ids that entries have taken which were archived elsewhere."""
    writer.execute("BEGIN IMMEDIATE")
    try:
        _guard(writer)
        writer.executemany(SQL["put_id"], ((tenant, id) for id in ids))
        writer.execute("COMMIT")
    except sqlite3.Error:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        raise


def _guard(writer: sqlite3.Connection) -> None:
    writer.execute(SQL["schema"])
    writer.execute(SQL["guard"])


def drop_usage(writer: sqlite3.Connection, upto: Mapping[int, int], limit: int) -> int:
    """Drop the oldest usage of tenants, at most ``limit`` rows; returns how many."""
    dropped = 0
    for tenant, last in upto.items():
        first = writer.execute(SQL["first_usage"], (tenant,)).fetchone()[0]
        if first is not None and first <= last and dropped < limit:
            dropped += writer.execute(SQL["drop_usage"], (tenant, last, limit - dropped)).rowcount
    return dropped
