"""Seals: the entities of a whole state, kept beside the journal, and a ``checkpoint`` entry that vouches for them.

What could name a person stands in rows of its own, which are erased with the name and are no part of the digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from fiscus.contract.errors import LedgerCorrupt, UnknownFormat
from fiscus.core.decide import new_draft
from fiscus.core.events import Checkpoint
from fiscus.core.state import ENTITY_TYPES, KINDS, AnyEntity, Draft, Kind
from fiscus.treasury.codec import decode_event
from fiscus.treasury.rows import entity_row
from fiscus.treasury.store import Journal, SealRow, Snapshot, Watermark

CHECKPOINT_CHUNK = 5_000
"""Entities that are copied between two batches."""

FORGET_ROWS_MAX = 20_000
"""Rows of older seals that are forgotten between two batches."""

PAGE = 5_000
MONTHLY_FROM_DAYS = 31
"""Where entries are kept as long as this, one seal of each month is; of each day where they are not."""

PRIVATE_FIELDS: dict[Kind, dict[str, Any]] = {
    "account": {"name": None, "labels": {}, "tasks": {}, "asked": {}, "decided": {}},
    "key": {"label": ""},
}
"""What of an entity stands in a row of its own, and what stands in its place."""

_encode = msgspec.json.Encoder().encode
_decoders = {number: msgspec.json.Decoder(ENTITY_TYPES[kind]) for number, kind in enumerate(KINDS)}


class StateDigest:
    """SHA-256 over (kind, key, body) of every entity, in the order of kind and key; private rows are passed over."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, row: SealRow) -> None:
        """The next entity."""
        kind, key, body = row
        if kind < 0:
            return
        head = f"{kind}:{key}:{len(body)}:".encode()
        self._hash.update(head)
        self._hash.update(body)

    def hexdigest(self) -> str:
        """Hex of the digest."""
        return self._hash.hexdigest()


class Seal(msgspec.Struct, frozen=True):
    """A sealed state.

    Attributes:
        seq: as of which entry.
        hash: of that entry.
        at: when the checkpoint was made, ms.
        entry: the sequence of the checkpoint.
        digest: hex, over the entities.
    """

    seq: int
    hash: bytes
    at: int
    entry: int
    digest: str


def private_kind(kind: int) -> int:
    """The kind of the private row of an entity.

    >>> private_kind(0), private_kind(private_kind(6))
    (-1, 6)
    """
    return -1 - kind


def parted(row: SealRow) -> Iterator[SealRow]:
    """An entity as a seal keeps it: without what could name a person, and that by itself if there is any."""
    kind, key, body = row
    fields = PRIVATE_FIELDS.get(KINDS[kind])
    if fields is None:
        yield row
        return
    entity = _decoders[kind].decode(body)
    private = {field: value for field, none in fields.items() if (value := getattr(entity, field)) != none}
    if not private:
        yield row
        return
    for field, none in fields.items():
        setattr(entity, field, none)
    yield kind, key, _encode(entity)
    yield private_kind(kind), key, _encode(private)


def joined(rows: Iterable[SealRow]) -> Iterator[tuple[Kind, int | str, AnyEntity]]:
    """The entities of a seal, with what is private where that was not erased; private rows come first."""
    private: dict[tuple[int, int | str], bytes] = {}
    for kind, key, body in rows:
        if kind < 0:
            private[private_kind(kind), key] = body
            continue
        entity = _decoders[kind].decode(body)
        known = private.get((kind, key))
        if known is not None:
            for field, value in msgspec.json.decode(known).items():
                setattr(entity, field, value)
        yield KINDS[kind], key, entity


def seals(journal: Journal, tenant: int) -> list[Seal]:
    """The states that are kept and that the journal vouches for, oldest first."""
    found = (sealing_entry(journal, tenant, seq) for seq in journal.checkpoints(tenant))
    return [seal for seal in found if seal is not None]


def last_seal(journal: Journal, tenant: int) -> Seal | None:
    """The newest of them."""
    for seq in reversed(journal.checkpoints(tenant)):
        seal = sealing_entry(journal, tenant, seq)
        if seal is not None:
            return seal
    return None


def base_seal(journal: Journal, tenant: int, archived_seq: int) -> Seal | None:
    """The state that a journal begins with whose entries up to ``archived_seq`` were archived, or a later one."""
    for seq in journal.checkpoints(tenant):
        if seq >= archived_seq:
            seal = sealing_entry(journal, tenant, seq)
            if seal is not None:
                return seal
    return None


def sealing_entry(journal: Journal, tenant: int, seq: int) -> Seal | None:
    """The entry that vouches for the state as of ``seq``; None: there is none."""
    after = seq
    while True:
        entries = journal.entries(tenant, after, PAGE)
        for entry in entries:
            after = entry.seq
            try:
                event = decode_event(entry.body, None)
            except (LedgerCorrupt, UnknownFormat):
                continue  # whoever folds the journal comes to it and says so
            if isinstance(event, Checkpoint) and event.state_seq == seq:
                return Seal(seq, bytes.fromhex(event.chain_hash), entry.at, entry.seq, event.state_digest)
        if len(entries) < PAGE:
            return None


def sealed_rows(journal: Journal, tenant: int, seal: Seal) -> list[SealRow]:
    """What is kept of a sealed state, which is what its checkpoint vouches for.

    Raises:
        LedgerCorrupt: it is not.
    """
    rows = journal.checkpoint(tenant, seal.seq)
    digest = StateDigest()
    for row in rows:
        digest.add(row)
    if digest.hexdigest() != seal.digest:
        raise LedgerCorrupt(f"the state that was sealed at entry {seal.seq} is not what its checkpoint vouches for")
    return rows


def sealed_snapshot(journal: Journal, tenant: int, seal: Seal) -> Snapshot:
    """A sealed state as it goes to views that hold nothing.

    Raises:
        LedgerCorrupt: what is kept is not what its checkpoint vouches for.
    """
    draft = new_draft()
    entities = []
    last = dict.fromkeys(KINDS, 0)
    for kind, key, entity in joined(sealed_rows(journal, tenant, seal)):
        if kind in ("account", "budget"):  # what the rows of cells and holds are looked up by; they come first
            table_of(draft, kind)[key] = entity
        if isinstance(key, int):
            last[kind] = max(last[kind], key)
        entities.append(entity_row(draft, kind, key, entity))
    mark = Watermark(seal.seq, seal.hash, 0, last["account"], last["budget"], last["cell"])
    return Snapshot(tenant, mark, entities, [])


def table_of(draft: Draft, kind: Kind) -> dict[Any, Any]:
    """The entities of one kind."""
    tables: dict[Kind, dict[Any, Any]] = {
        "account": draft.accounts,
        "budget": draft.budgets,
        "cell": draft.cells,
        "hold": draft.holds,
        "adjustment": draft.adjustments,
        "template": draft.templates,
        "key": draft.keys,
        "loan": draft.loans,
        "override": draft.overrides,
        "price": draft.prices,
    }
    return tables[kind]


def seals_to_keep(known: Iterable[Seal], retention_days: int, archived_seq: int = 0) -> set[int]:
    """Sequences of the seals that are kept: the last one, the one behind an archive, what an archive may end with.

    Args:
        known: all that the journal vouches for, oldest first.
        retention_days: how long entries are kept; 0: for ever, then the last seal is enough.
        archived_seq: up to which entry the journal was archived.
    """
    ordered = list(known)
    if not ordered:
        return set()
    kept = {ordered[-1].seq, *(seal.seq for seal in ordered if seal.seq == archived_seq)}
    if retention_days:
        periods: dict[str, int] = {}
        for seal in ordered:
            periods.setdefault(period_of(seal.at, retention_days), seal.seq)
        kept.update(periods.values())
    return kept


def period_of(at: int, retention_days: int) -> str:
    """The month of a seal, or its day where entries are kept shortly; in UTC.

    >>> period_of(1_800_000_000_000, 90), period_of(1_800_000_000_000, 7)
    ('2027-01', '2027-01-15')
    """
    day = datetime.fromtimestamp(at / 1_000, UTC).strftime("%Y-%m-%d")
    return day if retention_days < MONTHLY_FROM_DAYS else day[:7]
