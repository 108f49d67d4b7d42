"""Which ledger a drop-in uses: one per place in this process, opened when it is first needed, shared by all."""

from __future__ import annotations

import hashlib
import threading
from urllib.parse import quote
from weakref import WeakValueDictionary

from fiscus.contract.forks import tell_of_forks
from fiscus.core.commands import ID_LENGTH_MAX
from fiscus.sdk import SyncTreasury, connect_sync, open_sync
from fiscus.settings import load_settings

MEMORY = "memory:"
DIGEST_LENGTH = 24


class _Places:
    """A file can be opened once in a process, so that whoever comes second has to find the first.

    Attributes:
        open: only what somebody still uses.
    """

    def __init__(self) -> None:
        self.open: WeakValueDictionary[str, SyncTreasury] = WeakValueDictionary()
        self.mutex = threading.Lock()
        tell_of_forks(self)

    def forked(self) -> None:
        """See ``contract.forks``: a thread that is not here any more may have had it."""
        self.mutex = threading.Lock()


_places = _Places()


def ledger_at(place: str | SyncTreasury | None = None) -> SyncTreasury:
    """The ledger at a place; the same object for the same place, as long as somebody uses it.

    Args:
        place: ``sqlite:///path``, ``postgresql://...``, ``http://...`` of a service, ``memory:`` for one of one's own,
            or a treasury. Default: the service that ``FISCUS_URL`` names, else what ``FISCUS_STORE_URL`` says, which is
            ``sqlite:///fiscus.db`` in the working directory.

    Raises:
        LedgerBusy: another process has the file open; name its service in ``FISCUS_URL``.
        TreasuryError: it cannot be opened.
    """
    if isinstance(place, SyncTreasury):
        return place
    settings = load_settings()
    where = place or settings.url or settings.store_url
    if where == MEMORY:
        return open_sync(MEMORY, tenant=settings.tenant)
    with _places.mutex:
        known = _places.open.get(where)
        if known is None or not known.thread.is_open:
            known = (
                connect_sync(where)
                if where.startswith(("http://", "https://"))
                else open_sync(
                    where,
                    tenant=settings.tenant,
                    gateway=settings.gateway_path,
                    alerts=settings.alerts_path,
                )
            )
            _places.open[where] = known
        return known


def account_name(prefix: str, name: str) -> str:
    """The account of something that may be called anything: its name where that can be one, else a digest of it.

    >>> account_name("contract:default:", "Research Agent"), account_name("thread:", "a/b")
    ('contract:default:Research Agent', 'thread:a%2Fb')
    """
    plain = name if name.isprintable() and name == name.strip() and "%" not in name else ""
    whole = prefix + (plain.replace("/", "%2F") if plain else quote(name, safe=""))
    if name and len(whole) <= ID_LENGTH_MAX:
        return whole
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]
    return f"{prefix}{digest}"
