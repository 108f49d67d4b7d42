"""Entries of the journal as the stream has them: the very bytes, without what can be erased."""

from __future__ import annotations

from collections.abc import Iterable

from fiscus.core.events import Private, StatusChanged
from fiscus.stores.redis.keys import AGENT_PREFIX
from fiscus.stores.redis.reader import LedgerReader
from fiscus.stores.redis.server import StreamEntry
from fiscus.treasury.codec import decode_event, kind_of
from fiscus.treasury.store import StoredEntry

REASON_UNKNOWN = "terminated"
"""What is told when nobody gave a reason, or it was erased."""


def stream_entries(stored: Iterable[StoredEntry], reader: LedgerReader | None, *, told_seq: int) -> list[StreamEntry]:
    """Entries as they are appended.

    Args:
        stored: in order.
        reader: knows the agents' names; None: terminations are not told.
        told_seq: terminations up to this entry have been told.
    """
    entries = []
    for entry in stored:
        kind = kind_of(entry.body)
        told = ""
        if kind == b"status_changed" and reader is not None and entry.seq > told_seq:
            told = _termination(entry, reader)
        entries.append(
            StreamEntry(str(entry.seq), str(entry.at), kind.decode(), entry.body.decode(), entry.hash.hex(), told)
        )
    return entries


def _termination(entry: StoredEntry, reader: LedgerReader) -> str:
    """``agent_id:reason`` of an agent's termination, else nothing."""
    event = decode_event(entry.body, entry.private)
    assert isinstance(event, StatusChanged), "its kind says so"
    known = reader.name(event.account) if event.status == "terminated" else None
    if known is None or not known.startswith(AGENT_PREFIX):
        return ""
    reason = (event.private or Private()).reason or REASON_UNKNOWN
    return f"{known.removeprefix(AGENT_PREFIX)}:{reason}"
