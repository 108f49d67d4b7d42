"""Puts a treasury together: in process over a store, or remote over HTTP."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from functools import partial
from pathlib import Path

import uuid_utils

from fiscus.alerts.options import AlertOptions
from fiscus.client import RemoteTreasury
from fiscus.client.alerts import RemoteAlerts
from fiscus.client.remote import TIMEOUT_S_DEFAULT
from fiscus.gateway.options import GatewayOptions
from fiscus.sdk.remote_models import GatewayOfService
from fiscus.sdk.sync import SyncTreasury
from fiscus.sdk.treasury import Treasury
from fiscus.spool.spool import Spool
from fiscus.stores import SQLITE_SCHEME, open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.priced import Pricing
from fiscus.treasury.store import Store

STORE_URL_DEFAULT = "sqlite:///fiscus.db"


def open(
    url: str | None = None,
    *,
    tenant: str = "default",
    spool_directory: str | Path | None = None,
    gateway: GatewayOptions | str | Path | None = None,
    alerts: AlertOptions | str | Path | None = None,
) -> Treasury:
    """Open a ledger in this process.

    Args:
        url: ``sqlite:///path/to/fiscus.db`` (default: ``sqlite:///fiscus.db``, in the working directory), or
            ``memory:`` for one that ends with it.
        tenant: whose budgets.
        spool_directory: where settlements wait while the ledger cannot take them; default: beside it.
        gateway: the file that names the providers of models, or what it says, for ``complete``; None: there are none.
        alerts: the file of the alerts, or what it says: who is told outside of thresholds and the like, from the time
            on at which the treasury is entered (``async with``); None: nobody. A service has its own.

    Raises:
        ConfigurationInvalid: the gateway's file or that of the alerts cannot be read, or makes no sense.
        LedgerBusy: another process has it open.
        TreasuryError: it cannot be opened.
    """
    url = url or STORE_URL_DEFAULT
    if isinstance(gateway, str | Path):
        from fiscus.sdk.local_models import gateway_options

        gateway = gateway_options(Path(gateway))
    if isinstance(alerts, str | Path):
        from fiscus.sdk.local_alerts import alert_options

        alerts = alert_options(Path(alerts))
    store = open_store(url)
    try:
        return _over(store, url, tenant, spool_directory, gateway, alerts)
    except BaseException:
        store.close()
        raise


def _over(
    store: Store,
    url: str,
    tenant: str,
    spool_directory: str | Path | None,
    gateway: GatewayOptions | None,
    alerts: AlertOptions | None,
) -> Treasury:
    """A treasury over a ledger that is open; see ``open``."""
    ledger = LocalTreasury(Engine(store), Pricing(() if gateway is None else gateway.prices))
    if url.startswith(SQLITE_SCHEME):
        directory, target = Path(url.removeprefix(SQLITE_SCHEME) + ".spool"), "ledger"
    else:
        directory, target = Path(tempfile.gettempdir()) / "fiscus-spool", f"memory-{uuid_utils.uuid7()}"
    models = None
    if gateway is not None:
        from fiscus.sdk.local_models import GatewayInProcess

        models = partial(GatewayInProcess, ledger, gateway, tenant)
    desk = None
    if alerts is not None:
        from fiscus.sdk.local_alerts import own_alerts

        desk = own_alerts(ledger, url, alerts, tenant)
    spool = Spool(Path(spool_directory or directory), target)
    return Treasury(ledger, spool, tenant=tenant, models=models, alerts=desk)


def connect(
    url: str,
    api_key: str | None = None,
    *,
    timeout_s: float = TIMEOUT_S_DEFAULT,
    spool_directory: str | Path | None = None,
) -> Treasury:
    """Use the ledger of a service.

    Args:
        url: ``http://host:8091``.
        api_key: the secret of a key; empty: none; default: the setting ``api_key`` (``FISCUS_API_KEY``).
        timeout_s: how long one call may take, repeats included, in seconds.
        spool_directory: where settlements wait while the service is away; default: the user's state directory.
    """
    api_key = _setting_api_key() if api_key is None else api_key
    ledger = RemoteTreasury(url, api_key, timeout_s=timeout_s)
    directory = Path(spool_directory) if spool_directory is not None else _state_directory()
    spool = Spool(directory, f"service-{_digest(url.rstrip('/'))}")
    return Treasury(ledger, spool, models=lambda _: GatewayOfService(url, api_key), alerts=RemoteAlerts(ledger))


def open_sync(
    url: str | None = None,
    *,
    tenant: str = "default",
    spool_directory: str | Path | None = None,
    gateway: GatewayOptions | str | Path | None = None,
    alerts: AlertOptions | str | Path | None = None,
) -> SyncTreasury:
    """As ``open``, for programs without an event loop; entered at once."""
    return SyncTreasury(
        lambda: open(url, tenant=tenant, spool_directory=spool_directory, gateway=gateway, alerts=alerts)
    )


def connect_sync(
    url: str,
    api_key: str | None = None,
    *,
    timeout_s: float = TIMEOUT_S_DEFAULT,
    spool_directory: str | Path | None = None,
) -> SyncTreasury:
    """As ``connect``, for programs without an event loop."""
    return SyncTreasury(
        lambda: connect(url, api_key, timeout_s=timeout_s, spool_directory=spool_directory), outlives_forks=True
    )


def _setting_api_key() -> str | None:
    """The setting; reading settings is left out of the start of programs that do not need it."""
    from fiscus.settings import load_settings

    key = load_settings().api_key
    return None if key is None else str(key.get_secret_value())


def _state_directory() -> Path:
    """Where programs keep what must outlive them, by the custom of the platform."""
    try:
        home = Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "fiscus-spool"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "fiscus" / "spool"
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "fiscus" / "spool"
    return home / ".local" / "state" / "fiscus" / "spool"


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]
