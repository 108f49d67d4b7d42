"""Where settlements and usage wait on the local disk while the ledger is away.

Each process has a file of its own, locked for its life; one request a line, ``crc32 json``, and marks between them that
say how many of the file's requests have been delivered. What ``append`` has taken survives kill −9 and power loss. The
files hold ids, amounts and records of calls, never prompts or answers. A request is delivered at least once; that its
effect is single is the work of the ids in it.
"""

from __future__ import annotations

import os
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

import msgspec
import uuid_utils

from fiscus.contract import Compound, Refused, Release, Request, Settle
from fiscus.contract.errors import SpoolUnavailable
from fiscus.contract.forks import tell_of_forks
from fiscus.contract.logs import get_logger
from fiscus.spool.lock import try_lock

SPOOL_BYTES_MAX = 64 * 1024 * 1024
SPOOL_RECORDS_MAX = 100_000
COMPACT_BYTES_MIN = 1024 * 1024
NEW_FILE_ATTEMPTS_MAX = 16

log = get_logger(__name__)

Fsync = Callable[[int], None]


class Waiting(Request, frozen=True, kw_only=True, omit_defaults=True):
    """A request that waits, as it stands in a file, and since when (ms, by the host's clock; 0: not known)."""

    spooled_at_ms: int = 0


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the ledger refused for good when it was delivered, and why."""

    at_ms: int
    request: Request
    refused: Refused


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many of the requests before it in its file have been delivered."""

    delivered: int


_decoder = msgspec.json.Decoder(Request)
_waiting_decoder = msgspec.json.Decoder(Waiting)
_mark_decoder = msgspec.json.Decoder(_Mark)
_set_aside_decoder = msgspec.json.Decoder(SetAside)


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
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Take over what waits for a ledger in a directory.

        Args:
            directory: need not exist; it is made for the first request.
            target: which ledger the requests are for, 1 … 64 letters, digits or ``-``; part of the files' names.
            bytes_max: how much may wait; what is taken over counts, but is never turned away.
            records_max: how many requests may wait, likewise.
            fsync: how to wait for the disk.
            clock_s: seconds since the epoch, for the age of what waits.
        """
        self.directory = directory
        self._target = target
        self._bytes_max = bytes_max
        self._records_max = records_max
        self._fsync = fsync
        self._clock_s = clock_s
        self._mutex = Lock()
        self._lines: deque[bytes] = deque()  # what waits, oldest first
        self._ids: Counter[tuple[str, str]] = Counter()  # of what waits: tenant and id
        self._finals: Counter[tuple[str, str]] = Counter()  # of the final settlements that wait
        self._waiting_bytes = 0
        self._adopted: list[_File] = []
        self._own: _File | None = None
        self._started_ms = round(clock_s() * 1_000)
        self.set_aside_count = 0
        self._adopt()
        tell_of_forks(self)

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._lines)

    @property
    def waiting_bytes(self) -> int:
        """Length of what waits, in bytes."""
        return self._waiting_bytes

    @property
    def refused_path(self) -> Path:
        """The file of the requests that the ledger refused for good."""
        return self.directory / f"{self._target}.refused"

    def age_s(self) -> float:
        """How long the oldest request has waited, in seconds; 0 if none waits."""
        with self._mutex:
            oldest = self._lines[0] if self._lines else None
        if oldest is None:
            return 0.0
        since_ms = _waiting_decoder.decode(_body(oldest)).spooled_at_ms or self._started_ms
        return max(0.0, self._clock_s() - since_ms / 1_000)

    def holds(self, tenant: str, id: str) -> bool:
        """Whether something about this id waits."""
        return (tenant, id) in self._ids

    def append(self, requests: Sequence[Request]) -> None:
        """Take requests, all or none. They are on the disk when it returns.

        Raises:
            SpoolUnavailable: it is full, or the disk is; nothing was taken.
        """
        at_ms = round(self._clock_s() * 1_000)
        lines = [_line(request, at_ms) for request in requests]
        size_bytes = sum(map(len, lines))
        with self._mutex:
            if len(self._lines) + len(lines) > self._records_max or self._waiting_bytes + size_bytes > self._bytes_max:
                raise SpoolUnavailable(
                    f"{len(self._lines)} requests ({self._waiting_bytes} bytes) wait in {self.directory}: no more fit"
                )
            try:
                self._own = self._own or self._new_file()
                self._own.append(lines, self._fsync)
            except OSError as error:
                raise SpoolUnavailable(f"cannot write to {self.directory}: {error.strerror or error}") from error
            self._own.add_waiting(len(lines))
            self._lines.extend(lines)
            self._waiting_bytes += size_bytes
            for request in requests:
                self._count(request, 1)

    def head(self, count: int) -> list[Request]:
        """The oldest requests that wait, at most ``count``; they stay."""
        with self._mutex:
            lines = list(islice(self._lines, count))
        return [_request(line) for line in lines]

    def is_outdated(self, request: Request) -> bool:
        """Whether the final settlement of the call waits as well: a running total before it need not be delivered.

        After a crash it may be delivered again. Behind the final settlement it would count as a rise.
        """
        command = request.command
        return type(command) is Settle and not command.final and (request.tenant, command.id) in self._finals

    def drop(self, count: int) -> None:
        """Forget the oldest ``count`` requests: they are on the books."""
        with self._mutex:
            self._note_delivered(count)
            for _ in range(count):
                line = self._lines.popleft()
                self._waiting_bytes -= len(line)
                self._count(_request(line), -1)
            try:
                self._compact()
            except OSError as error:  # a file only stays longer than it need be
                log.warning("spool_not_compacted", directory=str(self.directory), error=error.strerror)

    def set_aside(self, refusals: Sequence[tuple[Request, Refused]]) -> None:
        """Keep requests that the ledger refused for good beside the spool, for people to look at."""
        at_ms = round(self._clock_s() * 1_000)
        with self._mutex, open(self.refused_path, "ab", opener=_private) as file:
            for request, refused in refusals:
                file.write(_sealed(SetAside(at_ms=at_ms, request=request, refused=refused)))
            file.flush()
            self._fsync(file.fileno())
            self.set_aside_count += len(refusals)

    def close(self) -> None:
        """Let go of the files: another process may take over what waits."""
        with self._mutex:
            for file in (*self._adopted, *([self._own] if self._own else [])):
                if not self._lines:
                    file.path.unlink(missing_ok=True)
                file.close()
            self._adopted, self._own = [], None

    def forked(self) -> None:
        """See ``contract.forks``: what waits is the parent's to deliver; what comes now goes into a file of its own."""
        self._mutex = Lock()
        for file in (*self._adopted, *([self._own] if self._own else [])):
            file.close()
        self._adopted, self._own = [], None
        self._lines.clear()
        self._ids.clear()
        self._finals.clear()
        self._waiting_bytes = self.set_aside_count = 0

    def _adopt(self) -> None:
        for path in sorted(self.directory.glob(f"{self._target}-*.spool")):  # by age: their names begin with the time
            file = _File.lock(path)
            if file is not None:
                self._adopted.append(file)
                lines = file.recovered()
                self._lines.extend(lines)
                for line in lines:
                    self._count(_request(line), 1)
        self._waiting_bytes = sum(map(len, self._lines))
        self.set_aside_count = sum(1 for _ in read_set_aside(self.refused_path))
        self._remove_adopted()

    def _count(self, request: Request, by: int) -> None:
        for key, is_final in _keys(request):
            counters = (self._ids, self._finals) if is_final else (self._ids,)
            for counter in counters:
                counter[key] += by
                if counter[key] <= 0:
                    del counter[key]

    def _note_delivered(self, count: int) -> None:
        """Mark in the files what need not be delivered again; a file that is empty by that will be removed."""
        for file in (*self._adopted, *([self._own] if self._own else [])):
            taken = file.deliver(count)
            count -= taken
            if taken and file.waiting:
                try:
                    file.append([_sealed(_Mark(file.delivered))], self._fsync)
                except OSError as error:  # delivered twice at worst
                    log.warning("spool_not_marked", file=str(file.path), error=error.strerror)

    def _compact(self) -> None:
        self._remove_adopted()
        if self._own is None:
            return
        if not self._own.waiting:
            self._own.truncate(self._fsync)
            return
        if self._own.length >= COMPACT_BYTES_MIN and self._own.delivered >= len(self._own.waiting):
            own_lines = list(islice(self._lines, len(self._lines) - len(self._own.waiting), None))
            self._own = self._own.replaced(own_lines, self._fsync)
            _sync_directory(self.directory, self._fsync)

    def _remove_adopted(self) -> None:
        """Remove the files that were taken over and of which all is delivered."""
        for file in [file for file in self._adopted if not file.waiting]:
            file.path.with_suffix(".tmp").unlink(missing_ok=True)
            file.path.unlink(missing_ok=True)
            file.close()
            self._adopted.remove(file)

    def _new_file(self) -> _File:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(NEW_FILE_ATTEMPTS_MAX):
            file = _File.lock(self.directory / f"{self._target}-{uuid_utils.uuid7()}.spool", create=True)
            if file is not None:  # else a process that has just started took it for an abandoned one
                _sync_directory(self.directory, self._fsync)
                return file
        raise BlockingIOError("every new file was taken by another process")


def read_set_aside(path: Path) -> Iterator[SetAside]:
    """What the ledger refused for good, oldest first; what cannot be read is left out, with a line in the log."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in filter(None, lines):
        try:
            yield _set_aside_decoder.decode(_body(line))
        except ValueError as error:
            log.warning("set_aside_unreadable", file=str(path), error=str(error))


def read_waiting(directory: Path) -> Iterator[tuple[Path, Waiting]]:
    """What waits in a directory, file by file, without taking anything over."""
    for path in sorted(directory.glob("*.spool")):
        records, delivered, _ = _records(path.read_bytes(), path)
        for record in records[delivered:]:
            if record is not None:
                yield path, _waiting_decoder.decode(_body(record))


class _File:
    """A locked file, how much of it is whole, and which of its requests wait.

    Attributes:
        waiting: places of the requests that wait, counted from the beginning of the file.
        delivered: how many requests, from the beginning, need not be delivered any more.
    """

    def __init__(self, path: Path, descriptor: int, length: int) -> None:
        self.path = path
        self.length = length
        self.waiting: deque[int] = deque()
        self.delivered = 0
        self._count = 0
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

    def recovered(self) -> list[bytes]:
        """The lines of requests that another process left here undelivered; to be called once."""
        content = self._read()
        records, self.delivered, self.length = _records(content, self.path)
        if None in records:
            self.path.with_suffix(".damaged").write_bytes(content)
        if self.length < len(content):  # it was never acknowledged
            log.info("spool_tail_torn", file=str(self.path), tail_bytes=len(content) - self.length)
            self._is_torn = True
        self._count = len(records)
        found = [(place, line) for place, line in enumerate(records) if line is not None and place >= self.delivered]
        self.waiting.extend(place for place, _ in found)
        return [line for _, line in found]

    def add_waiting(self, count: int) -> None:
        """So many requests were appended."""
        self.waiting.extend(range(self._count, self._count + count))
        self._count += count

    def deliver(self, count: int) -> int:
        """Take note that the oldest ``count`` requests are delivered; returns how many of them were in this file."""
        taken = min(count, len(self.waiting))
        for _ in range(taken):
            self.delivered = self.waiting.popleft() + 1
        return taken

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
        self.delivered = self._count = 0
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
        fresh.add_waiting(len(lines))
        self.close()
        return fresh

    def _read(self) -> bytes:
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


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


def _sync_directory(directory: Path, fsync: Fsync) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            fsync(descriptor)
        finally:
            os.close(descriptor)


def _sealed(value: msgspec.Struct) -> bytes:
    body = msgspec.json.encode(value)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _line(request: Request, at_ms: int = 0) -> bytes:
    fields = {name: getattr(request, name) for name in Request.__struct_fields__}
    return _sealed(Waiting(**fields, spooled_at_ms=at_ms))


def _body(line: bytes) -> bytes:
    """What a line holds.

    Raises:
        ValueError: it is torn or damaged.
    """
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    return body


def _request(line: bytes) -> Request:
    """The request of a line.

    Raises:
        ValueError: it is torn or damaged, or of a newer format.
    """
    return _decoder.decode(_body(line))


def _records(content: bytes, path: Path) -> tuple[list[bytes | None], int, int]:
    """The requests in a file (None: damaged), how many of them are delivered, and the length of what is whole."""
    records: list[bytes | None] = []
    delivered = 0
    *lines, tail = content.split(b"\n")
    for line in lines:
        try:
            body = _body(line)
            if body.startswith(b'{"delivered"'):
                delivered = _mark_decoder.decode(body).delivered
                continue
            _decoder.decode(body)
        except ValueError as error:
            log.error("spool_record_damaged", file=str(path), error=str(error))
            records.append(None)
        else:
            records.append(line + b"\n")
    return records, delivered, len(content) - len(tail)


def _keys(request: Request) -> Iterator[tuple[tuple[str, str], bool]]:
    """Tenant and id of all that a request is about, and whether it is the final settlement of it."""
    command = request.command
    for part in command.commands if isinstance(command, Compound) else (command,):
        if isinstance(part, Settle | Release):
            yield (request.tenant, part.id), isinstance(part, Settle) and part.final
