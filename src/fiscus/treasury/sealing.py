"""The digest of a whole state, over its entities in a canonical order."""

from __future__ import annotations

import hashlib

from fiscus.contract.errors import LedgerCorrupt, UnknownFormat
from fiscus.core.events import Checkpoint
from fiscus.treasury.codec import decode_event
from fiscus.treasury.store import Journal

CHECKPOINT_CHUNK = 5_000
"""Entities that are copied between two batches."""


PAGE = 5_000


class StateDigest:
    """SHA-256 over (kind, key, body) of every entity, in the order of kind and key."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, row: tuple[int, str | int, bytes]) -> None:
        """The next entity."""
        kind, key, body = row
        head = f"{kind}:{key}:{len(body)}:".encode()
        self._hash.update(head)
        self._hash.update(body)

    def hexdigest(self) -> str:
        """Hex of the digest."""
        return self._hash.hexdigest()


def sealing_event(journal: Journal, tenant: int, seq: int) -> Checkpoint | None:
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
                return event
        if len(entries) < PAGE:
            return None
