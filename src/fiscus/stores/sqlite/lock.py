"""One process per ledger: a lock file that also says where the ledger is served."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from fiscus.contract.errors import LedgerBusy, StoreUnavailable
from fiscus.contract.forks import tell_of_forks


class LockContent(msgspec.Struct):
    """What stands in the lock file."""

    pid: int
    address: str | None = None


class LedgerLock:
    """An exclusive lock, held as long as the process lives or until ``release``."""

    def __init__(self, path: Path, address: str | None) -> None:
        self._path = path.with_name(path.name + "-lock")
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._read()
            os.close(self._file)
            raise LedgerBusy(str(path), holder.address if holder is not None else None) from error
        self.publish(address)
        tell_of_forks(self)

    def publish(self, address: str | None) -> None:
        """Write where this ledger is served."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, msgspec.json.encode(LockContent(os.getpid(), address)), 0)

    def _read(self) -> LockContent | None:
        try:
            return msgspec.json.decode(os.pread(self._file, 4096, 0), type=LockContent)
        except msgspec.DecodeError:
            return None

    def release(self) -> None:
        """Let others open the ledger."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def forked(self) -> None:
        """Let go of the copy: while it is open, others could not have the lock when its process has ended."""
        self.release()
