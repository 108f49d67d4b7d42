"""Databases that keep a ledger."""

from __future__ import annotations

from pathlib import Path

from fiscus.contract.alerts import AlertStore
from fiscus.contract.errors import ConfigurationInvalid
from fiscus.treasury.store import Store

SQLITE_SCHEME = "sqlite:///"
POSTGRES_SCHEMES = ("postgresql://", "postgres://")


def open_store(url: str, *, address: str | None = None) -> Store:
    """Open the ledger at ``url``.

    Args:
        url: ``sqlite:///path/to/fiscus.db`` (``sqlite:////absolute/path``), ``memory:``, or ``postgresql://…`` as
            libpq reads it.
        address: where this process will serve the ledger, told to whoever tries to open it meanwhile.

    Raises:
        LedgerBusy: another process has the file open; carries that process's address.
        StoreUnavailable: it cannot be opened or read.
        ConfigurationInvalid: the URL is none of these, the database lacks migrations, or what speaks PostgreSQL is not
            installed.
        UnknownFormat: only a newer version may open it.
    """
    from fiscus.stores.sqlite.store import SqliteStore

    if url == "memory:":
        return SqliteStore.temporary()
    if url.startswith(SQLITE_SCHEME) and len(url) > len(SQLITE_SCHEME):
        return SqliteStore(url.removeprefix(SQLITE_SCHEME), address=address)
    if url.startswith(POSTGRES_SCHEMES):
        return _open_postgres(url)
    raise ConfigurationInvalid(f"store: {url!r} is none of sqlite:///PATH, memory: and postgresql://HOST/DATABASE")


def _open_postgres(url: str) -> Store:
    try:
        from fiscus.stores.postgres.store import PostgresStore
    except ModuleNotFoundError as error:
        raise ConfigurationInvalid(
            f"store: PostgreSQL needs the package {error.name}: install fiscus with the extra `postgres`"
        ) from error
    return PostgresStore(url)


def open_alerts(url: str, tenant: str) -> AlertStore:
    """The outbox of alerts that belongs to the ledger at ``url``, which this process has open.

    Raises:
        StoreUnavailable: it cannot be opened.
    """
    if url.startswith(POSTGRES_SCHEMES):
        from fiscus.stores.postgres.alerts import PostgresAlerts

        return PostgresAlerts(url, tenant)
    from fiscus.stores.sqlite.alerts import SqliteAlerts

    if not url.startswith(SQLITE_SCHEME):
        return SqliteAlerts(None, tenant)
    path = Path(url.removeprefix(SQLITE_SCHEME))
    return SqliteAlerts(path.with_name(path.name + "-alerts"), tenant)
