"""A newer version of Fiscus, as far as its journal goes: it writes a kind of event that this one does not know.

``python -m tests.stores.postgres.newer URL write|raise``; prints what became of it.
"""

from __future__ import annotations

import sys

import msgspec

import fiscus.core.events as events_module
import fiscus.core.state as state_module
import fiscus.stores.postgres.migrations as migrations_module
import fiscus.stores.postgres.store as store_module
import fiscus.treasury.codec as codec_module
import fiscus.treasury.engine as engine_module
import fiscus.treasury.ledger as ledger_module
from fiscus.core import fold as fold_module
from fiscus.core.events import FORMAT, AnyEvent, Event

NEWER = FORMAT + 1


class Synthetic(Event, tag="synthetic"):
    """What only the newer version writes."""

    since = NEWER

    account: int


def become_newer() -> None:
    """Read and write the next format in this process."""
    for module in (
        events_module,
        state_module,
        migrations_module,
        store_module,
        engine_module,
        ledger_module,
    ):
        module.FORMAT = NEWER
    codec_module._events = msgspec.json.Decoder(AnyEvent | Synthetic)
    fold_module.FOLDS[Synthetic] = lambda draft, event, at: None


def main() -> None:
    """See the module."""
    url, what = sys.argv[1:]
    become_newer()
    if what == "raise":
        print(*migrations_module.raise_format(url))
        return
    engine = engine_module.Engine(store_module.PostgresStore(url))
    try:
        engine._append_event("default", Synthetic(account=1))
    except AssertionError as error:
        print("not written:", error)
    else:
        print("written at", engine.ledger("default").head.seq)
    engine.close()


if __name__ == "__main__":
    main()
