"""Secrets that all nodes of a ledger share and that nobody has to hand out."""

from __future__ import annotations

import psycopg

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.postgres.connecting import HOT, connect, unavailable
from fiscus.stores.postgres.journal import SQL


def kept_secret(url: str, name: str, made: str) -> str:
    """The secret of this name; ``made`` becomes it if there is none yet, for whichever node is first.

    Raises:
        StoreUnavailable: the database cannot be reached, or lacks migrations.
    """
    try:
        with connect(url, HOT) as connection:
            connection.execute(SQL["keep_secret"], (name, made))
            row = connection.execute(SQL["secret"], (name,)).fetchone()
    except psycopg.Error as error:
        raise unavailable(error) from error
    if row is None:
        raise StoreUnavailable(f"postgresql: the secret {name} could not be kept")
    return str(row[0])
