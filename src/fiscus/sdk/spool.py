"""Where settlements and usage wait on the local disk while the ledger is away.

Each process has a file of its own, locked for its life; one request a line, ``crc32 json``; what ``append`` has taken
survives kill −9 and power loss. The files hold ids, amounts and records of calls, never prompts or answers. A request
is delivered at least once; that its effect is single is the work of the ids in it.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

import msgspec
import uuid_utils

from fiscus.client.logs import get_logger
from fiscus.contract import Request
from fiscus.contract.errors import SpoolUnavailable
from fiscus.sdk.lock import try_lock

SPOOL_BYTES_MAX = 64 * 1024 * 1024
SPOOL_RECORDS_MAX = 100_000
COMPACT_BYTES_MIN = 1024 * 1024
NEW_FILE_ATTEMPTS_MAX = 16

log = get_logger(__name__)
_decoder = msgspec.json.Decoder(Request)

Fsync = Callable[[int], None]


class Spool:
    """An ordered, durable, bounded queue of requests, in a directory that several processes may share.

    What dead processes left there is taken over when it is made. Safe to use from several threads.
    """

    def __init__(
        self,
        directory: Path,
        target: str,
        *,
        bytes_max: int = SPOOL_BYTES_MAX,
        records_max: int = SPOOL_RECORDS_MAX,
        fsync: Fsync = os.fsync,
    ) -> None:
        """Take over what waits for a ledger in a directory.

        Args:
            directory: need not exist; it is made for the first request.
            target: which ledger the requests are for, 1 … 64 letters, digits or ``-``; part of the files' names.
            bytes_max: how much may wait; what is taken over counts, but is never turned away.
            records_max: how many requests may wait, likewise.
            fsync: how to wait for the disk.
        """
        self._directory = directory
        self._target = target
        self._bytes_max = bytes_max
        self._records_max = records_max
        self._fsync = fsync
        self._mutex = Lock()
        self._lines: deque[bytes] = deque()  # what waits, oldest first
        self._waiting_bytes = 0
        self._adopted: list[_File] = []
        self._adopted_count = 0  # how many of the oldest lines stand in the adopted files
        self._own: _File | None = None
        self._adopt()

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._lines)

    def append(self, requests: Sequence[Request]) -> None:
        """Take requests, all or none. They are on the disk when it returns.

        Raises:
            SpoolUnavailable: it is full, or the disk is; nothing was taken.
        """
        lines = [_line(request) for request in requests]
        size_bytes = sum(map(len, lines))
        with self._mutex:
            if len(self._lines) + len(lines) > self._records_max or self._waiting_bytes + size_bytes > self._bytes_max:
                raise SpoolUnavailable(
                    f"{len(self._lines)} requests ({self._waiting_bytes} bytes) wait in {self._directory}: no more fit"
                )
            try:
                self._own = self._own or self._new_file()
                self._own.append(lines, self._fsync)
            except OSError as error:
                raise SpoolUnavailable(f"cannot write to {self._directory}: {error.strerror or error}") from error
            self._lines.extend(lines)
            self._waiting_bytes += size_bytes

    def head(self, count: int) -> list[Request]:
        """The oldest requests that wait, at most ``count``; they stay."""
        with self._mutex:
            lines = list(islice(self._lines, count))
        return [_request(line) for line in lines]

    def drop(self, count: int) -> None:
        """Forget the oldest ``count`` requests: they are on the books."""
        with self._mutex:
            for _ in range(count):
                self._waiting_bytes -= len(self._lines.popleft())
            self._adopted_count = max(0, self._adopted_count - count)
            try:
                self._compact()
            except OSError as error:  # a file only stays longer than it need be, and is delivered twice at worst
                log.warning("spool_not_compacted", directory=str(self._directory), error=error.strerror)

    def set_aside(self, requests: Sequence[Request]) -> None:
        """Keep requests that the ledger refused for good beside the spool, for people to look at."""
        with self._mutex, (self._directory / f"{self._target}.refused").open("ab") as file:
            file.writelines(map(_line, requests))
            file.flush()
            self._fsync(file.fileno())

    def close(self) -> None:
        """Let go of the files: another process may take over what waits."""
        with self._mutex:
            for file in (*self._adopted, *([self._own] if self._own else [])):
                if not self._lines:
                    file.path.unlink(missing_ok=True)
                file.close()
            self._adopted, self._own = [], None

    def _adopt(self) -> None:
        for path in sorted(self._directory.glob(f"{self._target}-*.spool")):  # by age: their names begin with the time
            file = _File.lock(path)
            if file is not None:
                self._adopted.append(file)
                self._lines.extend(_whole_lines(file))
        self._adopted_count = len(self._lines)
        self._waiting_bytes = sum(map(len, self._lines))
        self._remove_adopted()

    def _compact(self) -> None:
        self._remove_adopted()
        if self._own is None:
            return
        own_bytes = self._waiting_bytes if not self._adopted_count else self._own.length
        delivered_bytes = self._own.length - own_bytes
        if not self._lines:
            self._own.truncate(self._fsync)
        elif delivered_bytes >= max(COMPACT_BYTES_MIN, self._own.length // 2):
            self._own = self._own.replaced(list(self._lines), self._fsync)
            _sync_directory(self._directory, self._fsync)

    def _remove_adopted(self) -> None:
        """Remove the files that were taken over once all that stood in them is delivered."""
        if self._adopted_count == 0:
            for file in self._adopted:
                file.path.with_suffix(".tmp").unlink(missing_ok=True)
                file.path.unlink(missing_ok=True)
                file.close()
            self._adopted = []

    def _new_file(self) -> _File:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(NEW_FILE_ATTEMPTS_MAX):
            file = _File.lock(self._directory / f"{self._target}-{uuid_utils.uuid7()}.spool", create=True)
            if file is not None:  # else a process that has just started took it for an abandoned one
                _sync_directory(self._directory, self._fsync)
                return file
        raise BlockingIOError("every new file was taken by another process")


class _File:
    """A locked file, and how much of it is whole."""

    def __init__(self, path: Path, descriptor: int, length: int) -> None:
        self.path = path
        self.length = length
        self._descriptor = descriptor
        self._is_torn = False

    @classmethod
    def lock(cls, path: Path, *, create: bool = False) -> _File | None:
        """Open and lock a file; None if another process has it, or it is gone."""
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0), 0o600)
            except FileNotFoundError:
                return None
            if not try_lock(descriptor):
                os.close(descriptor)
                return None
            if _is_at(path, descriptor):
                return cls(path, descriptor, os.fstat(descriptor).st_size)
            os.close(descriptor)  # it was replaced or removed between opening and locking: look again

    def append(self, lines: Sequence[bytes], fsync: Fsync) -> None:
        """Write whole lines behind the last whole one and wait until the disk has them."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self.length)
        self._is_torn = True
        rest = memoryview(b"".join(lines))
        offset = self.length
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        while rest:
            written = os.write(self._descriptor, rest)
            rest, offset = rest[written:], offset + written
        fsync(self._descriptor)
        self.length, self._is_torn = offset, False

    def truncate(self, fsync: Fsync) -> None:
        """Empty it."""
        os.ftruncate(self._descriptor, 0)
        self.length, self._is_torn = 0, False
        fsync(self._descriptor)

    def replaced(self, lines: Sequence[bytes], fsync: Fsync) -> _File:
        """A file of these lines alone in its place, locked before it stands there."""
        fresh = _File.lock(self.path.with_suffix(".tmp"), create=True)
        if fresh is None:
            raise BlockingIOError("the new file is locked")
        try:
            fresh.append(lines, fsync)
            os.replace(fresh.path, self.path)
        except OSError:
            fresh.path.unlink(missing_ok=True)
            fresh.close()
            raise
        fresh.path = self.path
        self.close()
        return fresh

    def read(self) -> bytes:
        """All of it."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        pieces = []
        while piece := os.read(self._descriptor, 1 << 20):
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Drop the lock."""
        os.close(self._descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _sync_directory(directory: Path, fsync: Fsync) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(request: Request) -> bytes:
    body = msgspec.json.encode(request)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _request(line: bytes) -> Request:
    """The request of a line.

    Raises:
        ValueError: it is torn or damaged, or of a newer format.
    """
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    return _decoder.decode(body)


def _whole_lines(file: _File) -> Iterator[bytes]:
    """The lines of a file that can be read. A torn tail was never acknowledged; anything else is kept aside."""
    content = file.read()
    *lines, tail = content.split(b"\n")
    damaged = 0
    for line in lines:
        try:
            _request(line)
        except ValueError as error:
            damaged += 1
            log.error("spool_record_damaged", file=str(file.path), error=str(error))
        else:
            yield line + b"\n"
    if damaged:
        file.path.with_suffix(".damaged").write_bytes(content)
    if tail:
        log.info("spool_tail_torn", file=str(file.path), tail_bytes=len(tail))
