"""A journal in a file: JSON lines with hashes, so that it can be verified without the ledger it comes from.

Per tenant a header, the sealed state and the ids from before its first entry where older ones were archived, its
entries in order, then the answers that are kept for repeats:

    {"tenant": "default", "format": 1, "entries": 1, "head_seq": 9, "answers": 1, "after_seq": 8, "after_hash": "…", …}
    {"kind": 0, "key": 1, "body": "{…}"}
    {"id": "the id of a hold"}
    {"seq": 9, "at": 1767225600000, "body": "{…}", "hash": "…", "private": {"account": 1, "salt": "…", "body": "{…}"}}
    {"key": "an idempotency key", "at": 1767225600000, "answer": "{…}"}

``body`` is the event exactly as it was hashed. Private parts are left out where they were erased, and in archives. Ids
and answers are not part of the chain: nothing vouches for them. A name that ends with ``.gz`` is compressed.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, TypeVar

import msgspec

from fiscus.contract.errors import ConfigurationInvalid, LedgerCorrupt, UnknownFormat
from fiscus.core.events import FORMAT, Checkpoint
from fiscus.treasury.codec import SealedPrivate, commitment_holds, decode_event, genesis, link
from fiscus.treasury.ledger import journal_key
from fiscus.treasury.sealing import StateDigest
from fiscus.treasury.store import AnswerRow, Row, SealRow

L = TypeVar("L", bound=msgspec.Struct)

HEADER_BYTES_MAX = 16_777_216
TELL_EVERY = 1_000
COMPRESSION = 6

Tell = Callable[[int, int], None]
"""Told how many entries are done, of how many that are known so far."""


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The first line of a tenant.

    Attributes:
        head_seq: sequence of the last entry.
        after_seq, after_hash: what the first entry follows, where that is not the beginning; the hash is hex.
        sealed, ids: how many lines of the state and of the ids from before the first entry come next.
    """

    tenant: str
    format: int
    entries: int
    head_seq: int
    answers: int
    after_seq: int = 0
    after_hash: str = ""
    sealed: int = 0
    ids: int = 0


class SealLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entity of the state that the first entry follows, as ``treasury.sealing`` keeps it."""

    kind: int
    key: int | str
    body: str


class IdLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An id that an archived entry has taken."""

    id: str


class PrivateLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The erasable part of an entry; ``salt`` is hex."""

    account: int
    salt: str
    body: str


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One entry; ``hash`` is hex."""

    seq: int
    at: int
    body: str
    hash: str
    private: PrivateLine | None = None


class AnswerLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer of a command with an idempotency key, by which repeats are recognised; empty if it is not kept."""

    key: str
    at: int
    answer: str


# -- writing ----------------------------------------------------------------------------------------------------------


class TenantHead(msgspec.Struct, frozen=True):
    """A tenant, from where to where its journal goes, and how many answers are kept beside it."""

    number: int
    name: str
    seq: int
    entries: int
    answers: int

    @property
    def after_seq(self) -> int:
        """What its first entry follows."""
        return self.seq - self.entries


class JournalReader(Protocol):
    """One consistent view of a whole journal."""

    def heads(self) -> list[TenantHead]:
        """All tenants, in the order of their numbers."""
        ...

    def rows(self, tenant: int) -> Iterator[Row]:
        """All entries of a tenant in order, with private parts."""
        ...

    def answers(self, tenant: int) -> Iterator[AnswerRow]:
        """The answers of a tenant's idempotent commands, by key; empty where they are not kept any more."""
        ...

    def sealed(self, tenant: int, seq: int) -> Iterator[SealRow]:
        """What is kept of a tenant's state as of an entry."""
        ...

    def archived_ids(self, tenant: int, upto: int) -> Iterator[str]:
        """The ids of a tenant's entries up to one."""
        ...


def export_journal(journal: JournalReader, heads: Sequence[TenantHead], output: IO[bytes], progress: Tell) -> None:
    """Write the journals of tenants.

    Args:
        journal: one consistent view.
        heads: of the tenants that are written.
        output: gets the lines.
        progress: told what is done.

    Raises:
        LedgerCorrupt: what an archived journal follows cannot be told.
    """
    encode = msgspec.json.Encoder().encode
    total = sum(head.entries for head in heads)
    done = 0
    for head in heads:
        sealed: list[SealRow] = []
        ids: list[str] = []
        after_hash = ""
        if head.after_seq:
            sealed = list(journal.sealed(head.number, head.after_seq))
            ids = list(journal.archived_ids(head.number, head.after_seq))
            after_hash = _sealed_hash(journal, head)
        header = Header(
            tenant=head.name,
            format=FORMAT,
            entries=head.entries,
            head_seq=head.seq,
            answers=head.answers,
            after_seq=head.after_seq,
            after_hash=after_hash,
            sealed=len(sealed),
            ids=len(ids),
        )
        output.write(encode(header) + b"\n")
        for kind, key, body in sealed:
            output.write(encode(SealLine(kind=kind, key=key, body=body.decode())) + b"\n")
        for id in ids:
            output.write(encode(IdLine(id=id)) + b"\n")
        for row in journal.rows(head.number):
            output.write(encode(line_of(row)) + b"\n")
            done += 1
            if done % TELL_EVERY == 0:
                progress(done, total)
        for kept in journal.answers(head.number):
            output.write(encode(AnswerLine(key=kept.key, at=kept.at, answer=kept.answer.decode())) + b"\n")


def _sealed_hash(journal: JournalReader, head: TenantHead) -> str:
    """The hash that the first entry follows, which the checkpoint of the sealed state says; it comes soon after."""
    for row in journal.rows(head.number):
        event = decode_event(row.body, None)
        if isinstance(event, Checkpoint) and event.state_seq == head.after_seq:
            return event.chain_hash
    raise LedgerCorrupt(f"tenant {head.name}: no checkpoint vouches for the state before entry {head.after_seq + 1}")


def write_entries(header: Header, rows: Iterable[Row], output: IO[bytes]) -> None:
    """Write a part of one tenant's journal, without private parts."""
    encode = msgspec.json.Encoder().encode
    output.write(encode(header) + b"\n")
    for row in rows:
        output.write(encode(line_of(row)) + b"\n")


def line_of(row: Row) -> Line:
    """An entry as a line."""
    private = row.private
    return Line(
        seq=row.seq,
        at=row.at,
        body=row.body.decode(),
        hash=row.hash.hex(),
        private=PrivateLine(account=private.account, salt=private.salt.hex(), body=private.body.decode())
        if private
        else None,
    )


@contextmanager
def opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """The lines of a file, ``rb`` or ``wb``; compressed if its name says so. They are not synced."""
    with path.open(mode) as file:
        if not path.name.endswith(".gz"):
            yield file
            return
        with gzip.GzipFile(filename="", mode=mode, fileobj=file, compresslevel=COMPRESSION, mtime=0) as lines:
            yield lines  # type: ignore[misc]  # it reads and writes bytes


def sync_file(path: Path) -> None:
    """Have a file, or the names of a directory's files, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- reading ----------------------------------------------------------------------------------------------------------


class Sealed(msgspec.Struct, frozen=True):
    """A row of the state that the first entry of a tenant follows."""

    tenant: int
    seq: int
    row: SealRow


class ArchivedId(msgspec.Struct, frozen=True):
    """An id that an archived entry has taken."""

    tenant: int
    id: str


Item = Header | Sealed | ArchivedId | Row | AnswerRow


def read_journal(
    source: IO[bytes], name: str, begin: Callable[[str], int], progress: Tell, reader: JournalCheck | None = None
) -> Iterator[Item]:
    """Read a journal's file, line by line, each entry verified: sequence, chain hash, private part, format.

    Args:
        source: the lines.
        name: of the file, for messages.
        begin: makes a tenant; returns its number.
        progress: told what is done.
        reader: what has read the files before, which this one continues.

    Yields:
        For each tenant its header, what stands before its first entry, its entries, its kept answers.

    Raises:
        ConfigurationInvalid: it is no such file, it ends too early, or what it continues is missing.
        LedgerCorrupt: an entry is not what its hash says, or a state is not what its checkpoint vouches for.
        UnknownFormat: it was written by a newer Fiscus.
    """
    reader = reader or JournalCheck()
    reader.name = name
    total = done = tenant = 0
    number = 0
    for number, raw in enumerate(source, start=1):
        reader.line = number
        if not raw.endswith(b"\n"):
            raise ConfigurationInvalid(f"{reader.place}: the file ends in the middle of a line")
        if reader.sealed_left:
            yield reader.sealed(raw, tenant)
        elif reader.ids_left:
            yield reader.id(raw, tenant)
        elif reader.entries_left:
            yield reader.entry(raw, tenant)
            done += 1
            if done % TELL_EVERY == 0:
                progress(done, total)
        elif reader.answers_left:
            yield reader.answer(raw, tenant)
        else:
            header = reader.begin(raw)
            tenant = begin(header.tenant)
            total += header.entries
            yield header
    if reader.sealed_left or reader.ids_left or reader.entries_left or reader.answers_left or not number:
        raise ConfigurationInvalid(f"{reader.place}: the file ends before the journal does")
    reader.end()


class _Known(msgspec.Struct):
    """How far a tenant has been read."""

    seq: int
    hash: bytes


class JournalCheck:
    """Where in the files and in the chains reading is."""

    def __init__(self) -> None:
        self.name = ""
        self.line = 0
        self.sealed_left = 0
        self.ids_left = 0
        self.entries_left = 0
        self.answers_left = 0
        self._tenants: dict[str, _Known] = {}
        self._in_file: set[str] = set()
        self._at = _Known(0, b"")
        self._header: Header | None = None
        self._digest: StateDigest | None = None

    @property
    def place(self) -> str:
        """``journal.jsonl:12``."""
        return f"{self.name}:{self.line}"

    def end(self) -> None:
        """The file ends.

        Raises:
            LedgerCorrupt: no checkpoint vouched for the state that a tenant begins with.
        """
        self._require_vouched()
        self._in_file.clear()

    def continues(self, header: Header) -> None:
        """Take for granted what a part of a journal follows."""
        if header.after_seq:
            self._tenants[header.tenant] = _Known(header.after_seq, self._bytes(header.after_hash))

    @property
    def hash(self) -> bytes:
        """Of the last entry that was read."""
        return self._at.hash

    def header(self, raw: bytes) -> Header:
        """Read a line as a header, and no further."""
        return self._decoded(raw, Header, "the header of a journal")

    def begin(self, raw: bytes) -> Header:
        """Read a header."""
        header = self.header(raw)
        if header.format > FORMAT:
            raise UnknownFormat(f"{self.place}: the journal has format {header.format}, this version reads {FORMAT}")
        if header.tenant in self._in_file:
            raise ConfigurationInvalid(f"{self.place}: tenant {header.tenant} comes twice")
        counts = (header.entries, header.answers, header.after_seq, header.sealed, header.ids)
        if header.entries != header.head_seq - header.after_seq or min(counts) < 0:
            raise ConfigurationInvalid(f"{self.place}: {header.entries} entries cannot end with {header.head_seq}")
        known = self._tenants.get(header.tenant)
        after = _Known(header.after_seq, self._bytes(header.after_hash) if header.after_seq else genesis(header.tenant))
        if known is None and header.after_seq and not header.sealed:
            raise ConfigurationInvalid(
                f"{self.place}: tenant {header.tenant} begins with entry {header.after_seq + 1} here; "
                "name the archives before it first"
            )
        if known is not None and known != after:
            raise ConfigurationInvalid(
                f"{self.place}: tenant {header.tenant} goes on after entry {header.after_seq} here, and ended with "
                f"entry {known.seq} before"
            )
        self._expect_state(header)
        self._at = self._tenants[header.tenant] = after
        self._in_file.add(header.tenant)
        self.sealed_left, self.ids_left = header.sealed, header.ids
        self.entries_left, self.answers_left = header.entries, header.answers
        return header

    def _expect_state(self, header: Header) -> None:
        """The tenant before must have come to its checkpoint; this one's state is to be vouched for."""
        self._require_vouched()
        self._header = header
        self._digest = StateDigest() if header.sealed else None

    def _require_vouched(self) -> None:
        if self._digest is not None and self._header is not None:
            raise LedgerCorrupt(
                f"{self.place}: no checkpoint vouches for the state before entry {self._header.after_seq + 1}"
            )

    def sealed(self, raw: bytes, tenant: int) -> Sealed:
        """Read a row of a sealed state."""
        line = self._decoded(raw, SealLine, "an entity of a sealed state")
        row = (line.kind, line.key, line.body.encode())
        assert self._digest is not None, "there are rows of a state"
        self._digest.add(row)
        self.sealed_left -= 1
        return Sealed(tenant, self._at.seq, row)

    def id(self, raw: bytes, tenant: int) -> ArchivedId:
        """Read an id that is taken."""
        line = self._decoded(raw, IdLine, "an id")
        self.ids_left -= 1
        return ArchivedId(tenant, line.id)

    def entry(self, raw: bytes, tenant: int) -> Row:
        """Read and verify an entry."""
        line = self._decoded(raw, Line, "an entry of a journal")
        private = line.private
        digest = self._bytes(line.hash)
        salt = self._bytes(private.salt) if private else b""
        at = self._at
        if line.seq != at.seq + 1:
            raise LedgerCorrupt(f"{self.place}: entry {at.seq + 1} is missing; {line.seq} follows")
        body = line.body.encode()
        if line.at < 0 or link(at.hash, line.seq, line.at, body) != digest:
            raise LedgerCorrupt(f"{self.place}: entry {line.seq}: the hash does not fit its content")
        sealed = SealedPrivate(private.account, salt, private.body.encode()) if private else None
        if sealed is not None and not commitment_holds(body, salt, sealed.body):
            raise LedgerCorrupt(f"{self.place}: entry {line.seq}: its private part is not what it vouched for")
        event = decode_event(body, sealed.body if sealed else None)
        if isinstance(event, Checkpoint):
            self._check_state(event)
        at.seq, at.hash = line.seq, digest
        self.entries_left -= 1
        return Row(tenant, line.seq, line.at, journal_key(event), body, digest, sealed)

    def _check_state(self, event: Checkpoint) -> None:
        """The state that a tenant begins with is what its checkpoint vouches for."""
        header = self._header
        if self._digest is None or header is None or event.state_seq != header.after_seq:
            return
        if event.state_digest != self._digest.hexdigest() or event.chain_hash != header.after_hash:
            raise LedgerCorrupt(
                f"{self.place}: the state before entry {header.after_seq + 1} is not what its checkpoint vouches for"
            )
        self._digest = None

    def answer(self, raw: bytes, tenant: int) -> AnswerRow:
        """Read a kept answer."""
        line = self._decoded(raw, AnswerLine, "a kept answer")
        self.answers_left -= 1
        return AnswerRow(tenant, line.key, line.at, line.answer.encode())

    def _bytes(self, text: str) -> bytes:
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise ConfigurationInvalid(f"{self.place}: is not an entry of a journal: {error}") from error

    def _decoded(self, raw: bytes, kind: type[L], what: str) -> L:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.DecodeError as error:
            raise ConfigurationInvalid(f"{self.place}: is not {what}: {error}") from error


def check_file(path: Path, progress: Tell) -> tuple[Header, bytes]:
    """Read a file that holds a part of one tenant's journal, and verify it hash by hash.

    Args:
        path: the file.
        progress: told what is done.

    Returns:
        Its header, and the hash of its last entry.

    Raises:
        ConfigurationInvalid, LedgerCorrupt, UnknownFormat: see ``read_journal``.
    """
    check = JournalCheck()
    with opened(path, "rb") as source:
        check.name = str(path)
        header = check.header(source.readline(HEADER_BYTES_MAX))
        check.continues(header)
        source.seek(0)
        for _ in read_journal(source, str(path), lambda _: 0, progress, check):
            pass
    return header, check.hash
