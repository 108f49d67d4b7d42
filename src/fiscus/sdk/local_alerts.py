"""The alerts of a program: the same that a service sends, from the ledger of this process."""

from __future__ import annotations

from pathlib import Path

from fiscus.alerts.desk import Alerts
from fiscus.alerts.options import AlertOptions, read_options
from fiscus.contract.treasury import Treasury
from fiscus.settings import content_of, secret_of
from fiscus.stores import open_alerts


def own_alerts(ledger: Treasury, url: str, options: AlertOptions, tenant: str) -> Alerts:
    """Alerts over the ledger that this process has open at ``url``.

    Raises:
        ConfigurationInvalid: a channel cannot be had.
        StoreUnavailable: the outbox cannot be opened.
    """
    store = open_alerts(url, tenant)
    try:
        return Alerts(ledger, store, options, tenant=tenant)
    except BaseException:
        store.close()
        raise


def alert_options(path: Path, name: str = "alerts") -> AlertOptions:
    """What a file of alerts says, with addresses and secrets.

    Args:
        path: of the file.
        name: what it is called in errors.

    Raises:
        ConfigurationInvalid: it cannot be read or makes no sense.
    """
    return read_options(content_of(path, name), str(path), secret_of)
