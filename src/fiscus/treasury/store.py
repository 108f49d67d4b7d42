"""What the engine needs of a database: a journal that is the truth, and views that can be made from it again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from fiscus.contract.errors import StoreUnavailable
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
    """An account whose name, labels, reasons and records are forgotten, and what its ``keys`` were called."""

    tenant: int
    account: int
    name: str | None = None
    keys: tuple[str, ...] = ()


class StoredEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry as it is read; ``salt`` and ``private`` are None when there is none or it was erased."""

    seq: int
    at: int
    body: bytes
    hash: bytes
    salt: bytes | None
    private: bytes | None


SealRow = tuple[int, str | int, bytes]
"""Kind, key and body of an entity in a sealed state; kinds below 0 are private parts, see ``treasury.sealing``."""


class StoredAnswer(msgspec.Struct, frozen=True):
    """When a command with this idempotency key was decided, and its answer as long as it is kept."""

    at: int
    answer: bytes | None


class Head(msgspec.Struct, frozen=True):
    """The end of a tenant's journal."""

    seq: int
    hash: bytes


TAIL_MAX = 5_000
"""Entries of one tenant that ``begin`` and ``tails`` return at most."""


class Turn(msgspec.Struct, frozen=True):
    """The right to append, until ``append`` or ``end``.

    Attributes:
        now_ms: the database's time when the locks had been taken; None: the host's clock counts.
        tails: what others have written after the heads that were given, by tenant; those with nothing are left out.
    """

    now_ms: int | None = None
    tails: dict[int, list[StoredEntry]] = {}


class Journal(Protocol):
    """The append-only truth.

    The engine's thread alone calls ``begin``, ``append``, ``end`` and ``reopen``; reads may come from any thread.

    Attributes:
        drops_between_batches: whether ``drop_entries`` is for the engine's thread too.
    """

    drops_between_batches: bool

    def tenants(self) -> dict[str, int]:
        """Numbers of all tenants by name."""
        ...

    def add_tenant(self, name: str) -> int:
        """Register a tenant, durably; returns its number."""
        ...

    def head(self, tenant: int) -> Head | None:
        """The last entry, or None if there is none."""
        ...

    def begin(self, heads: Mapping[int, Head]) -> Turn:
        """Take the locks of tenants, in the order of their numbers, and see what others have written.

        Args:
            heads: of each tenant the last entry that the caller knows (sequence 0: none).

        Raises:
            HeadLost: an entry that the caller knows is not in the journal (it was restored); no lock is held.
            StoreUnavailable: no lock is held and nothing was written; what the caller knows may well still hold.
        """
        ...

    def end(self) -> None:
        """Give the locks back without writing; without effect if none are held."""
        ...

    def tails(self, heads: Mapping[int, Head]) -> dict[int, list[StoredEntry]]:
        """What others have written after the heads, without taking locks; raises as ``begin`` does."""
        ...

    def watch(self, on_news: Callable[[], None]) -> None:
        """Call back, from any thread and at least every 200 ms, while others may be writing; until the store closes."""
        ...

    def append(self, rows: Sequence[Row], answers: Sequence[AnswerRow] = (), erased: Sequence[Erasure] = ()) -> None:
        """Append rows of one or several tenants in one durable commit, which ends the turn.

        Args:
            rows: in the order of each tenant's sequence.
            answers: of commands with an idempotency key, kept in the same commit.
            erased: accounts whose private parts are forgotten in the same commit, also those in sealed states, with
                the keys of their commitments and the kept answers that name them.

        Raises:
            KeyTaken: an id or an idempotency key stands there already; nothing was written.
            StoreUnavailable: whether it was written is unknown until ``reopen`` and ``head`` say so.
        """
        ...

    def tidy(self) -> None:
        """Nobody waits: do what would otherwise hold up an append that somebody waits for."""
        ...

    def min_format(self) -> int:
        """The format that every node can read, and so the newest that may be written."""
        ...

    def reopen(self) -> None:
        """Drop the connection and open it again; raises StoreUnavailable if that fails.

        When it returns, a commit that was under way is decided: ``entries`` shows whether it happened.
        """
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

    def alone(self, *tenants: int) -> AbstractContextManager[bool]:
        """Whether meanwhile nobody else, on no node, seals or archives these tenants."""
        ...

    def drop_entries(self, upto: Mapping[int, int], limit: int) -> int:
        """Drop the oldest entries of tenants, and what stands beside them; their ids stay taken.

        What goes is a whole part of the journal from its beginning on, so that what is left has no gap; at most about
        ``limit`` entries at once where that would keep others waiting.

        Args:
            upto: the last entry to drop, by tenant; a state is sealed as of it.
            limit: see above.

        Returns:
            How much was dropped; 0: there is no more.

        Raises:
            StoreUnavailable: it is tried again later; what was to be dropped is there as a whole, or in part.
        """
        ...

    def put_archived_ids(self, tenant: int, ids: Sequence[str]) -> None:
        """Take note of ids that entries have taken which were archived before the journal came here."""
        ...

    def put_checkpoint(self, tenant: int, seq: int, rows: Iterable[SealRow]) -> None:
        """Keep entities of a state that is being sealed, beside those that are kept of others."""
        ...

    def forget_checkpoints(self, tenant: int, keep: Collection[int], limit: int) -> int:
        """Drop what is kept of all states but those as of ``keep``, at most ``limit`` rows; returns how many."""
        ...

    def checkpoints(self, tenant: int) -> list[int]:
        """As of which entries there are entities of a state, oldest first; it may never have been sealed."""
        ...

    def checkpoint(self, tenant: int, seq: int) -> list[SealRow]:
        """What is kept of the state as of an entry, in the order of kind and key."""
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


ANY_HEAD = 2**62

ALWAYS_IN_MEMORY: tuple[Kind, Kind, Kind] = ("template", "key", "price")
"""Kinds of which a node has all entities from its start on: which of them counts, all of them say together."""


class Seen(NamedTuple):
    """What a node has seen of a tenant: views as of entry ``written``, and the journal up to entry ``head``."""

    written: int
    head: int


ANYTHING = Seen(0, ANY_HEAD)
"""For readers that fold nothing into what they load."""

SUM_KEYS_MAX = 10
"""Keys that one sum of usage is grouped by at most."""

UsageField = Literal["request_id", "parent_request_id", "workflow_id"]


class UsageAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage is summed, and by what.

    Attributes:
        keys: at most ``SUM_KEYS_MAX``: ``provider``, ``model``, ``account``, ``also``, ``day``, ``hour`` (numbers since
            the epoch), or a field of the record as ``user_id`` or ``provenance.agent_id``.
        within: paid by this account or one below it.
        since, until: half-open by time of booking (ms).
        upto: the last entry that counts.
        calls_min: groups with fewer calls are left out.
        limit: groups at most.
    """

    keys: tuple[str, ...] = ()
    within: int | None = None
    since: int | None = None
    until: int | None = None
    upto: int = ANY_HEAD
    provider: str | None = None
    model: str | None = None
    task_type: str | None = None
    workflow_id: str | None = None
    calls_min: int = 0
    limit: int = 2**31


class UsageSum(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of one group of usage; see ``contract.analysis.Totals``."""

    keys: tuple[str | None, ...]
    calls: int
    tokens: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    unpriced_calls: int
    estimated_calls: int


def usage_sum(row: Sequence[Any], keys: int) -> UsageSum:
    """A row of the statement ``usage_sums``: the keys, and seven sums of which five come in two parts.

    A sum of amounts may be longer than the integers of a database: it adds up 26 bits and the rest apart.
    """
    calls, tokens, inputs, outputs, cost = (
        (int(high) << 26) + int(low)
        for high, low in zip(row[SUM_KEYS_MAX::2], row[SUM_KEYS_MAX + 1 :: 2][:5], strict=False)
    )
    unpriced, estimated = row[SUM_KEYS_MAX + 10 :]
    return UsageSum(
        keys=tuple(row[:keys]),
        calls=calls,
        tokens=tokens,
        input_tokens=inputs,
        output_tokens=outputs,
        cost_nanousd=cost,
        unpriced_calls=int(unpriced),
        estimated_calls=int(estimated),
    )


class Watermark(msgspec.Struct, frozen=True):
    """As of which entry the views are, and the last numbers given by then."""

    seq: int
    hash: bytes
    at: int
    accounts: int
    budgets: int
    cells: int


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """All that changed in a tenant after entry ``after``, as of ``watermark``; written in one transaction.

    ``erased``: (account, sequence): the account's records up to there are forgotten.
    """

    tenant: int
    watermark: Watermark
    entities: list[EntityRow]
    usage: list[UsageRow]
    erased: list[tuple[int, int]] = []
    after: int = 0


class Opening(msgspec.Struct, frozen=True):
    """What a node starts from, all as of the watermark: deadlines, and the entities that are always in memory."""

    watermark: Watermark
    deadlines: list[Deadline]
    templates: list[tuple[str, bytes]]
    keys: list[tuple[str, bytes]]
    prices: list[tuple[str, bytes]]


class Views(Protocol):
    """Tables that follow the journal; any thread may write, one at a time.

    Where several nodes share them they may be ahead of one of them. A node that loads something says up to which entry
    it has folded (``head``): what is as of a later one would be folded into twice.
    """

    def watermark(self, tenant: int) -> Watermark | None:
        """As of which entry the views are; None if they hold nothing."""
        ...

    def load(self, tenant: int, kind: Kind, key: int | str, seen: Seen = ANYTHING) -> bytes | None:
        """One entity.

        Raises:
            ViewsAhead: the views are as of an entry after ``seen.head``; so do the next four.
            ViewsLost: they are as of an entry before ``seen.written``; so do the next four.
        """
        ...

    def load_many(
        self, tenant: int, kind: Kind, keys: Sequence[int | str], seen: Seen = ANYTHING
    ) -> dict[int | str, bytes]:
        """Several entities in one query."""
        ...

    def load_name(self, tenant: int, name: str, seen: Seen = ANYTHING) -> int | None:
        """The number of the account with this name."""
        ...

    def load_chains(self, tenant: int, names: Sequence[str], seen: Seen = ANYTHING) -> list[tuple[Kind, int, bytes]]:
        """The accounts with these names and all above them, their budgets, and the running windows of these."""
        ...

    def carved_below(self, tenant: int, account: int, seen: Seen = ANYTHING) -> list[int]:
        """Numbers of the accounts below one that have an allocation."""
        ...

    def opening(self, tenant: int) -> Opening | None:
        """What a node starts from, in one consistent view; None if the views hold nothing."""
        ...

    def sealed(self, tenant: int) -> AbstractContextManager[tuple[Watermark, Iterator[tuple[int, int | str, bytes]]]]:
        """All entities (number of the kind, key, body) in a canonical order, all as of the watermark beside them."""
        ...

    def accounts(
        self, tenant: int, after: int, limit: int, prefix: str | None, parent: int | None, within: int | None
    ) -> list[bytes]:
        """Accounts in the order of their numbers."""
        ...

    def overrides(self, tenant: int, after: str, limit: int, within: int | None, pending: bool) -> list[bytes]:
        """Overrides in the order of their ids, of an account and those below it; ``pending``: those that are open."""
        ...

    def usage(
        self, tenant: int, after: int, limit: int, within: int | None, since: int | None, until: int | None
    ) -> list[UsageRow]:
        """Usage in the order of booking."""
        ...

    def usage_sums(self, tenant: int, asked: UsageAsked) -> list[UsageSum]:
        """Usage summed by groups, in the order of their keys; without keys one sum. Of nothing there is none."""
        ...

    def usage_of(
        self, tenant: int, field: UsageField, values: Sequence[str], within: int | None, upto: int, limit: int
    ) -> list[UsageRow]:
        """Usage up to an entry whose provenance has one of these values, in the order of booking, by an index.

        A request that says no id of its own has that of its hold.
        """
        ...

    def idle_accounts(self, tenant: int, template: str, before: int, limit: int) -> list[int]:
        """Open accounts of a template that nothing has touched since an instant (ms), and that have no open hold."""
        ...

    def write(self, snapshots: Sequence[Snapshot], now: int) -> list[Snapshot]:
        """Write snapshots of several tenants in one transaction; returns those that it wrote.

        Where several nodes share the views one of them writes and the others wait for it: a snapshot as of an entry
        that the views have reached already is not written again.

        Raises:
            ViewsLost: nothing was written, for the views are not as of the entry that a snapshot comes after: another
                node has dropped them, and the tenants are to be loaded anew.
            StoreUnavailable: nothing was written, or another node writes and has not come so far yet.
        """
        ...

    def prune_ended(self, before: int, limit: int) -> int:
        """Drop ended holds and loans that nothing has touched since ``before`` (ms), at most ``limit`` of each."""
        ...

    def drop_usage(self, upto: Mapping[int, int], limit: int) -> int:
        """Drop usage of tenants up to an entry, at most about ``limit`` rows at once; returns how much, 0: no more."""
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


class HeadLost(Exception):
    """The journal has not got an entry that the engine has folded: it was restored; internal to engine and stores."""


class ViewsAhead(Exception):
    """The views are as of a later entry than the engine has folded; internal to engine and stores."""


class ViewsLost(StoreUnavailable):
    """The views lack what the engine takes them to have: they were dropped, or the database was killed; internal."""
