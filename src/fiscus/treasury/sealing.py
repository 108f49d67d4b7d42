"""The digest of a whole state, over its entities in a canonical order."""

from __future__ import annotations

import hashlib

CHECKPOINT_CHUNK = 5_000
"""Entities that are copied between two batches."""


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
