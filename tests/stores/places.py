"""Where the stores of the contract suite keep their ledgers, and builders of what they keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import psycopg

from fiscus.core.state import Kind
from fiscus.stores import open_store
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.codec import SealedPrivate, genesis, link
from fiscus.treasury.store import EntityRow, Head, Row, Snapshot, Store, UsageRow, Watermark
from tests.servers.postgres import server, versions

AT_MS = 1_800_000_000_000


class Place(Protocol):
    """A ledger that can be opened again and again.

    Attributes:
        is_exclusive: whether one process at a time may have it open.
        can_copy: whether ``Journal.backup`` copies it.
    """

    is_exclusive: bool
    can_copy: bool

    def open(self, address: str | None = None) -> Store:
        """Open it."""
        ...

    def damage_views(self) -> None:
        """Make the views unreadable; the ledger is closed."""
        ...

    def copied_to(self, name: str) -> tuple[str, Place]:
        """A destination for ``Journal.backup``, and the place where the copy is opened."""
        ...


class SqlitePlace:
    """A ledger in files of a directory."""

    is_exclusive = True
    can_copy = True

    def __init__(self, directory: Path) -> None:
        self.path = directory / "fiscus.db"
        self.views_path = directory / "fiscus.db-views"

    def open(self, address: str | None = None) -> SqliteStore:
        store = open_store(f"sqlite:///{self.path}", address=address)
        assert isinstance(store, SqliteStore)
        return store

    def damage_views(self) -> None:
        self.views_path.write_bytes(b"this was a database once" * 1_000)

    def copied_to(self, name: str) -> tuple[str, SqlitePlace]:
        directory = self.path.parent / name
        directory.mkdir()
        copy = SqlitePlace(directory)
        return str(copy.path), copy


class PostgresPlace:
    """A ledger in a database of its own, on a server that all tests share."""

    is_exclusive = False
    can_copy = False

    def __init__(self, directory: Path, version: str = "18") -> None:
        self.url = server(version).migrated_database()

    def open(self, address: str | None = None) -> Store:
        return open_store(self.url, address=address)

    def damage_views(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("TRUNCATE fiscus.entities, fiscus.usage, fiscus.watermarks")

    def copied_to(self, name: str) -> tuple[str, Place]:
        return name, self


PLACES: dict[str, Callable[[Path], Place]] = {
    "sqlite": SqlitePlace,
    **{f"postgres-{version}": partial(PostgresPlace, version=version) for version in versions()},
}
"""The stores of the suite by name; a new store is one line here."""


def entries(
    tenant: int, name: str, count: int, *, after: Head | None = None, keys: Sequence[str | None] = ()
) -> list[Row]:
    """``count`` rows that follow ``after`` (or the beginning) in the chain of tenant ``name``.

    Args:
        tenant: its number.
        name: seeds the chain.
        count: how many, ≥ 0.
        after: the head that they follow.
        keys: ids of the first rows.
    """
    head = after or Head(0, genesis(name))
    rows: list[Row] = []
    for index in range(count):
        seq = head.seq + 1
        body = b'{"kind":"released","id":"%d"}' % seq
        head = Head(seq, link(head.hash, seq, AT_MS, body))
        rows.append(Row(tenant, seq, AT_MS, keys[index] if index < len(keys) else None, body, head.hash))
    return rows


def with_private(row: Row, account: int, body: bytes) -> Row:
    """The row with a private part."""
    sealed = SealedPrivate(account, b"salt-of-16-bytes", body)
    return Row(row.tenant, row.seq, row.at, row.key, row.body, row.hash, sealed)


def snapshot(
    tenant: int,
    seq: int,
    entities: Sequence[EntityRow] = (),
    usage: Sequence[UsageRow] = (),
    erased: Sequence[tuple[int, int]] = (),
    *,
    hash: bytes | None = None,
    after: int = 0,
) -> Snapshot:
    """A snapshot as of entry ``seq``; of ``hash``, where the journal has one."""
    mark = Watermark(seq, hash or b"hash %d" % seq, AT_MS + seq, 3, 2, 1)
    return Snapshot(tenant, mark, list(entities), list(usage), list(erased), after)


def account(number: int, name: str | None, parent: int | None = None, **more: object) -> EntityRow:
    """An account's row."""
    template = more.pop("template", None)
    body = b'{"number":%d%s}' % (number, b',"template":"%s"' % str(template).encode() if template else b"")
    live = bool(more.pop("live", True))
    return EntityRow("account", number, body, name=name, owner=parent, live=live, **more)  # type: ignore[arg-type]


def entity(kind: Kind, key: int | str, owner: int | None = None, body: bytes = b"{}", **more: object) -> EntityRow:
    """Any other row."""
    return EntityRow(kind, key, body, owner=owner, **more)  # type: ignore[arg-type]


def usage(seq: int, account: int, *, at: int = AT_MS, record: bytes | None = b"{}") -> UsageRow:
    """A row of usage."""
    return UsageRow(
        seq, at, f"hold {seq}", account, b"[]", b'{"tokens":%d}' % seq, b"{}", seq % 2 == 0, "model", "provider", record
    )
