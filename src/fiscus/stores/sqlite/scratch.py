"""A folder for tables that are thrown away, also by the next process if this one is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fiscus.contract.errors import StoreUnavailable

PROCESSES_MAX = 100


@contextmanager
def scratch_folder(directory: Path) -> Iterator[Path]:
    """An empty folder in a directory that several processes may share; both are gone at the end.

    Each process takes the first place that no living one has, and empties it: what the killed leave is bounded by how
    many run at once, not by how often they start.

    Raises:
        StoreUnavailable: nothing can be written there, or all places are taken.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory, scratch_folder(Path(directory) / "shared") as first:
    ...     with scratch_folder(Path(directory) / "shared") as second:
    ...         first.name, second.name
    ('0', '1')
    """
    try:
        folder, lock = _take(directory)
    except OSError as error:
        raise StoreUnavailable(f"{directory}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process may use the directory
            _lock_of(folder).unlink()
            directory.rmdir()
        os.close(lock)


def _take(directory: Path) -> tuple[Path, int]:
    """The first place that is free, empty, and its lock."""
    for number in range(PROCESSES_MAX):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = directory / str(number)
        lock = os.open(_lock_of(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock), os.stat(_lock_of(folder))):
                raise FileNotFoundError  # its last owner has ended between opening and locking
        except OSError:
            os.close(lock)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder, lock
    raise OSError(f"all {PROCESSES_MAX} places are taken")


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
