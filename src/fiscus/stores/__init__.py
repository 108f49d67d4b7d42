"""Databases that keep a ledger."""

from __future__ import annotations

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.treasury.store import Store

SQLITE_SCHEME = "sqlite:///"


def open_store(url: str, *, address: str | None = None) -> Store:
    """Open the ledger at ``url``: ``sqlite:///path/to/fiscus.db`` (``sqlite:////absolute/path``) or ``memory:``.

    Args:
        address: where this process will serve the ledger, told to whoever tries to open it meanwhile.

    Raises:
        LedgerBusy: another process has it open; carries that process's address.
        StoreUnavailable: the file cannot be opened or read.
        ConfigurationInvalid: the URL is none of these.
    """
    from fiscus.stores.sqlite.store import SqliteStore

    if url == "memory:":
        return SqliteStore.temporary()
    if url.startswith(SQLITE_SCHEME) and len(url) > len(SQLITE_SCHEME):
        return SqliteStore(url.removeprefix(SQLITE_SCHEME), address=address)
    raise ConfigurationInvalid(f"store: {url!r} is neither sqlite:///PATH nor memory:")
