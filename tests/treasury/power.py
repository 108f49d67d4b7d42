"""A disk that is played out from notes of what was done to it, and that loses its power at any moment.

What was written and not synced is lost, or (``torn``) any part of it has reached the disk, in any order. A file exists
after the cut only if its directory was synced after it was made; one that was unlinked is there again unless the
directory was synced.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("power_cut.c")
HEADER = struct.Struct("<c3xiqq")
SECTOR = 512
REPORT = "report"


def build(compiler: str, directory: Path) -> Path:
    """The library that takes notes."""
    library = directory / "power_cut.so"
    arguments = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl", "-lpthread"]
    subprocess.run([str(argument) for argument in arguments], check=True)
    return library


@dataclass(frozen=True)
class Operation:
    """One note; see ``power_cut.c``."""

    kind: str
    descriptor: int
    offset: int
    data: bytes


def operations(log: bytes) -> Iterator[Operation]:
    """All notes in their order."""
    at = 0
    while at + HEADER.size <= len(log):
        kind, descriptor, offset, length = HEADER.unpack_from(log, at)
        at += HEADER.size
        yield Operation(kind.decode(), descriptor, offset, log[at : at + length])
        at += length


@dataclass
class File:
    """A file: what is safe on the disk, and what was done to it since it was synced last."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, chance: random.Random | None, kept: float) -> bytes:
        """After the cut: with each sector written since then kept or not; None: none of them."""
        content = bytearray(self.safe)
        for offset, data in self.since if chance is not None or kept == 1.0 else ():
            if data is None:
                if chance is None or chance.random() < kept:
                    _cut(content, offset)
                continue
            for start in range(0, len(data), SECTOR):
                if chance is None or chance.random() < kept:
                    _write(content, offset + start, data[start : start + SECTOR])
        return bytes(content)

    def sync(self) -> None:
        for offset, data in self.since:
            if data is None:
                _cut(self.safe, offset)
            else:
                _write(self.safe, offset, data)
        self.since.clear()


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _cut(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class Disk:
    """The files of one directory."""

    def __init__(self, directory: Path) -> None:
        """All that is there now is safe."""
        self._directory = str(directory)
        self._names: dict[str, File] = {}
        for path in directory.iterdir():
            self._names[path.name] = File(bytearray(path.read_bytes()))
        self._safe_names = dict(self._names)
        self._renamings: list[tuple[str, File | None]] = []
        self._opened: dict[int, File | None] = {}
        self.report = b""

    def apply(self, operation: Operation) -> None:
        """The next thing that was done."""
        kind = operation.kind
        if kind == "O":
            self._open(operation)
        elif kind == "U":
            name = Path(operation.data.decode()).name
            self._names.pop(name, None)
            self._renamings.append((name, None))
        elif kind == "S":
            file = self._opened[operation.descriptor]
            if file is not None:
                file.sync()
            else:
                self._sync_names()
        else:
            file = self._opened[operation.descriptor]
            assert file is not None
            if file is self._names.get(REPORT):
                self.report += operation.data
            else:
                file.since.append((operation.offset, operation.data if kind == "W" else None))

    def _open(self, operation: Operation) -> None:
        path = operation.data.decode()
        if path.rstrip("/") == self._directory:
            self._opened[operation.descriptor] = None
            return
        name = Path(path).name
        file = self._names.get(name)
        if file is None:
            file = self._names[name] = File()
            self._renamings.append((name, file))
        elif operation.offset:
            file.since.append((0, None))
        self._opened[operation.descriptor] = file

    def _sync_names(self) -> None:
        for name, file in self._renamings:
            _rename(self._safe_names, name, file)
        self._renamings.clear()

    def cut(self, into: Path, chance: random.Random | None = None, kept: float = 0.0) -> None:
        """Write what is there after a power cut now.

        Args:
            into: an empty directory.
            chance: decides what of the unsynced has reached the disk; None: nothing has (``kept`` 1: everything has).
            kept: with what probability each sector has.
        """
        names = dict(self._safe_names)
        renamings = len(self._renamings) if kept == 1.0 else chance.randint(0, len(self._renamings)) if chance else 0
        for name, file in self._renamings[:renamings]:
            _rename(names, name, file)
        for name, file in names.items():
            if name != REPORT:
                (into / name).write_bytes(file.content(chance, kept))


def _rename(names: dict[str, File], name: str, file: File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
