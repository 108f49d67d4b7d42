"""A ledger in two SQLite files, locked for one process."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.sqlite.journal import SqliteJournal
from fiscus.stores.sqlite.lock import LedgerLock
from fiscus.stores.sqlite.views import SqliteViews


class SqliteStore:
    """``PATH`` is the journal, ``PATH-views`` what follows it, ``PATH-lock`` the lock.

    Raises:
        LedgerBusy: another process has it open.
        StoreUnavailable: a file cannot be opened.
    """

    def __init__(self, path: str | Path, *, address: str | None = None, temporary: bool = False) -> None:
        self.path = Path(path).absolute()
        self._temporary = temporary
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{self.path.parent}: {error.strerror}") from error
        self._lock = LedgerLock(self.path, address)
        try:
            self.journal = SqliteJournal(self.path)
            self.views = SqliteViews(self.path.with_name(self.path.name + "-views"))
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def temporary(cls) -> SqliteStore:
        """A ledger that is deleted when it is closed."""
        return cls(Path(tempfile.mkdtemp(prefix="fiscus-")) / "fiscus.db", temporary=True)

    def publish_address(self, address: str) -> None:
        """See ``Store``."""
        self._lock.publish(address)

    def close(self) -> None:
        """See ``Store``."""
        self.views.close()
        self.journal.close()
        self._lock.release()
        if self._temporary:
            shutil.rmtree(self.path.parent, ignore_errors=True)
