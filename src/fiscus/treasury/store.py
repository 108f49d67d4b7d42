"""What the engine needs of a database: a journal that is the truth, and views that can be made from it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from fiscus.core.state import Deadline, Kind
from fiscus.treasury.codec import SealedPrivate


class Row(msgspec.Struct, frozen=True, gc=False):
    """One entry as it is appended. ``key``: id of a hold, or of usage that was booked without one."""

    tenant: int
    seq: int
    at: int
    key: str | None
    body: bytes
    hash: bytes
    private: SealedPrivate | None = None


class AnswerRow(msgspec.Struct, frozen=True, gc=False):
    """The answer of a command with an idempotency key, as it is kept beside the journal."""

    tenant: int
    key: str
    at: int
    answer: bytes


class Erasure(msgspec.Struct, frozen=True):
    """An account whose name, labels, reasons and records are forgotten."""

    tenant: int
    account: int
    name: str | None = None


class StoredEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry as it is read; ``salt`` and ``private`` are None when there is none or it was erased."""

    seq: int
    at: int
    body: bytes
    hash: bytes
    salt: bytes | None
    private: bytes | None


class StoredAnswer(msgspec.Struct, frozen=True):
    """When a command with this idempotency key was decided, and its answer as long as it is kept."""

    at: int
    answer: bytes | None


class Head(msgspec.Struct, frozen=True):
    """The end of a tenant's journal."""

    seq: int
    hash: bytes


class Journal(Protocol):
    """The append-only truth. ``append`` is called by the engine's thread only; reads may come from any thread."""

    def tenants(self) -> dict[str, int]:
        """Numbers of all tenants by name."""
        ...

    def add_tenant(self, name: str) -> int:
        """Register a tenant, durably; returns its number."""
        ...

    def head(self, tenant: int) -> Head | None:
        """The last entry, or None if there is none."""
        ...

    def append(self, rows: Sequence[Row], answers: Sequence[AnswerRow] = (), erased: Sequence[Erasure] = ()) -> None:
        """Append rows of one or several tenants in one durable commit.

        Args:
            rows: in the order of each tenant's sequence.
            answers: of commands with an idempotency key, kept in the same commit.
            erased: accounts whose private parts are forgotten in the same commit, with the keys of their
                commitments and the kept answers that name them.

        Raises:
            KeyTaken: an id or an idempotency key stands there already; nothing was written.
            StoreUnavailable: whether it was written is unknown until ``reopen`` and ``head`` say so.
        """
        ...

    def reopen(self) -> None:
        """Drop the connection and open it again; raises StoreUnavailable if that fails."""
        ...

    def entries(self, tenant: int, after: int, limit: int) -> list[StoredEntry]:
        """Entries after a sequence number, in order."""
        ...

    def find_answers(self, tenant: int, keys: Iterable[str]) -> dict[str, StoredAnswer]:
        """Those of the idempotency keys that were used."""
        ...

    def forget_answers(self, before: int) -> None:
        """Drop answers older than an instant (ms); that their keys were used stays known."""
        ...

    def put_checkpoint(self, tenant: int, seq: int, rows: Iterable[tuple[int, str | int, bytes]]) -> None:
        """Keep the entities of a sealed state; replaces older ones."""
        ...

    def checkpoint(self, tenant: int) -> tuple[int, list[tuple[int, str | int, bytes]]] | None:
        """The kept entities of the last sealed state and its sequence."""
        ...

    def backup(self, destination: str) -> None:
        """Copy the journal to another file while it is in use."""
        ...


class EntityRow(msgspec.Struct, frozen=True, gc=False):
    """An entity as the views keep it."""

    kind: Kind
    key: int | str
    body: bytes
    name: str | None = None
    owner: int | None = None
    carved: bool = False
    live: bool = False
    due_at: int | None = None
    due_rank: int = 0
    due_depth: int = 0


class UsageRow(msgspec.Struct, frozen=True, gc=False):
    """What one settlement added to the books."""

    seq: int
    at: int
    hold: str
    account: int
    also: bytes
    amounts: bytes
    uncovered: bytes
    estimated: bool
    model: str | None
    provider: str | None
    record: bytes | None


class Watermark(msgspec.Struct, frozen=True):
    """As of which entry the views are, and the last numbers given by then."""

    seq: int
    hash: bytes
    at: int
    accounts: int
    budgets: int
    cells: int


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """All that changed in a tenant since the last one, as of ``watermark``; written in one transaction.

    ``erased``: (account, sequence): the account's records up to there are forgotten.
    """

    tenant: int
    watermark: Watermark
    entities: list[EntityRow]
    usage: list[UsageRow]
    erased: list[tuple[int, int]] = []


class Views(Protocol):
    """Tables that follow the journal; any thread may write, one at a time."""

    def watermark(self, tenant: int) -> Watermark | None:
        """As of which entry the views are; None if they hold nothing."""
        ...

    def load(self, tenant: int, kind: Kind, key: int | str) -> bytes | None:
        """One entity."""
        ...

    def load_many(self, tenant: int, kind: Kind, keys: Sequence[int | str]) -> dict[int | str, bytes]:
        """Several entities in one query."""
        ...

    def load_name(self, tenant: int, name: str) -> int | None:
        """The number of the account with this name."""
        ...

    def carved_below(self, tenant: int, account: int) -> list[int]:
        """Numbers of the accounts below one that have an allocation."""
        ...

    def deadlines(self, tenant: int) -> list[Deadline]:
        """All that is due some time."""
        ...

    def all_of(self, tenant: int, kind: Kind) -> list[tuple[int | str, bytes]]:
        """All entities of a (small) kind."""
        ...

    def sealed(self, tenant: int) -> AbstractContextManager[tuple[Watermark, Iterator[tuple[int, int | str, bytes]]]]:
        """All entities (number of the kind, key, body) in a canonical order, all as of the watermark beside them."""
        ...

    def accounts(
        self, tenant: int, after: int, limit: int, prefix: str | None, parent: int | None, within: int | None
    ) -> list[bytes]:
        """Accounts in the order of their numbers."""
        ...

    def usage(
        self, tenant: int, after: int, limit: int, within: int | None, since: int | None, until: int | None
    ) -> list[UsageRow]:
        """Usage in the order of booking."""
        ...

    def idle_accounts(self, tenant: int, template: str, before: int, limit: int) -> list[int]:
        """Open accounts of a template that nothing has touched since an instant (ms), and that have no open hold."""
        ...

    def write(self, snapshots: Sequence[Snapshot], now: int) -> None:
        """Write snapshots of several tenants in one transaction."""
        ...

    def prune_holds(self, before: int, limit: int) -> int:
        """Drop ended holds that nothing has touched since ``before`` (ms), at most ``limit``; returns how many."""
        ...

    @property
    def damaged(self) -> bool:
        """Whether an error said that what is stored cannot be read; ``reopen`` drops it."""
        ...

    def reopen(self) -> None:
        """After an error: if the views are damaged, drop them and start with none."""
        ...

    def clear(self, tenant: int) -> None:
        """Drop everything of a tenant; it is made again from the journal."""
        ...


class Store(Protocol):
    """A ledger's database."""

    @property
    def journal(self) -> Journal:
        """The truth."""
        ...

    @property
    def views(self) -> Views:
        """What follows it."""
        ...

    def publish_address(self, address: str) -> None:
        """Let a second opener know where this ledger is served."""
        ...

    def close(self) -> None:
        """Release the ledger."""
        ...


class KeyTaken(Exception):
    """An id of the batch stands in the journal already; internal to engine and stores."""
