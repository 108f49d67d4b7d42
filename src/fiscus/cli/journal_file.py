"""An exported journal: JSON lines with hashes, so that it can be verified without the ledger it comes from.

Per tenant a header, then its entries in order:

    {"tenant": "default", "format": 1, "entries": 1, "head_seq": 1, "answers": 1}
    {"seq": 1, "at": 1767225600000, "body": "{…}", "hash": "…", "private": {"account": 1, "salt": "…", "body": "{…}"}}
    {"key": "an idempotency key", "at": 1767225600000, "answer": "{…}"}

``body`` is the event exactly as it was hashed. Private parts are left out where they were erased.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

import msgspec

from fiscus.contract.errors import ConfigurationInvalid, LedgerCorrupt, UnknownFormat
from fiscus.core.events import FORMAT
from fiscus.treasury.codec import SealedPrivate, commitment_holds, decode_event, genesis, link
from fiscus.treasury.ledger import journal_key
from fiscus.treasury.store import AnswerRow, Row

if TYPE_CHECKING:  # the store is not imported before it is needed
    from fiscus.stores.sqlite.copying import JournalReader, TenantHead

LINE_BYTES_MAX = 16_777_216
TELL_EVERY = 1_000


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a tenant."""

    tenant: str
    format: int
    entries: int
    head_seq: int
    answers: int = 0


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


def export_journal(
    journal: JournalReader, heads: Sequence[TenantHead], output: IO[bytes], progress: Callable[[int, int], None]
) -> None:
    """Write the journals of tenants.

    Args:
        journal: one consistent view.
        heads: of the tenants that are written.
        output: gets the lines.
        progress: called with (entries written, entries in all).
    """
    encode = msgspec.json.Encoder().encode
    total = sum(head.entries for head in heads)
    done = 0
    for head in heads:
        header = Header(tenant=head.name, format=FORMAT, entries=head.entries, head_seq=head.seq, answers=head.answers)
        output.write(encode(header) + b"\n")
        for row in journal.rows(head.number):
            output.write(encode(line_of(row)) + b"\n")
            done += 1
            if done % TELL_EVERY == 0:
                progress(done, total)
        for kept in journal.answers(head.number):
            output.write(encode(AnswerLine(key=kept.key, at=kept.at, answer=kept.answer.decode())) + b"\n")


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


def read_journal(
    source: IO[bytes], name: str, begin: Callable[[str], int], progress: Callable[[int, int], None]
) -> Iterator[tuple[Header, Row | AnswerRow]]:
    """Read an exported journal, entry by entry, each verified: sequence, chain hash, private part, format.

    Args:
        source: the lines.
        name: of the file, for messages.
        begin: makes a tenant; returns its number.
        progress: called with (entries read, entries in all so far known).

    Yields:
        The header of its tenant, and the entry, or (after all entries) a kept answer.

    Raises:
        ConfigurationInvalid: it is no such file, or it ends too early.
        LedgerCorrupt: an entry is not what its hash says.
        UnknownFormat: it was written by a newer Fiscus.
    """
    reader = _Reader(name)
    total = done = tenant = 0
    for number, raw in enumerate(iter(lambda: source.readline(LINE_BYTES_MAX), b""), start=1):
        reader.line = number
        if not raw.endswith(b"\n"):
            raise ConfigurationInvalid(f"{reader.place}: the file ends in the middle of a line")
        if reader.is_complete:
            header = reader.begin(raw)
            tenant = begin(header.tenant)
            total += header.entries
            continue
        if reader.has_all_entries:
            yield reader.header, reader.answer(raw, tenant)
            continue
        yield reader.header, reader.entry(raw, tenant)
        done += 1
        if done % TELL_EVERY == 0:
            progress(done, total)
    if not reader.is_complete or not reader.line:
        raise ConfigurationInvalid(f"{reader.place}: the file ends before the journal does")


class _Reader:
    """Where in the file and in the chain reading is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._header: Header | None = None
        self._seen: set[str] = set()
        self._seq = 0
        self._answers = 0
        self._hash = b""
        self.line = 0

    @property
    def place(self) -> str:
        """``journal.jsonl:12``."""
        return f"{self._name}:{self.line}"

    @property
    def header(self) -> Header:
        """Of the tenant that is being read."""
        assert self._header is not None, "entries stand behind a header"
        return self._header

    @property
    def is_complete(self) -> bool:
        """Whether the tenant, if there is one, has all its entries and answers."""
        return self._header is None or (self.has_all_entries and self._answers == self._header.answers)

    @property
    def has_all_entries(self) -> bool:
        """Whether the tenant has all its entries."""
        return self._seq == self.header.entries

    def begin(self, raw: bytes) -> Header:
        """Read a header."""
        try:
            header = msgspec.json.decode(raw, type=Header)
        except msgspec.DecodeError as error:
            raise ConfigurationInvalid(f"{self.place}: is not the header of a journal: {error}") from error
        if header.format > FORMAT:
            raise UnknownFormat(f"{self.place}: the journal has format {header.format}, this version reads {FORMAT}")
        if header.tenant in self._seen:
            raise ConfigurationInvalid(f"{self.place}: tenant {header.tenant} comes twice")
        if header.entries != header.head_seq or header.entries < 0:
            raise ConfigurationInvalid(f"{self.place}: {header.entries} entries cannot end with {header.head_seq}")
        self._seen.add(header.tenant)
        self._header, self._seq, self._answers, self._hash = header, 0, 0, genesis(header.tenant)
        return header

    def entry(self, raw: bytes, tenant: int) -> Row:
        """Read and verify an entry."""
        try:
            line = msgspec.json.decode(raw, type=Line)
            digest = bytes.fromhex(line.hash)
            private = line.private
            sealed = (
                SealedPrivate(private.account, bytes.fromhex(private.salt), private.body.encode()) if private else None
            )
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigurationInvalid(f"{self.place}: is not an entry of a journal: {error}") from error
        if line.seq != self._seq + 1:
            raise LedgerCorrupt(f"{self.place}: entry {self._seq + 1} is missing; {line.seq} follows")
        body = line.body.encode()
        if line.at < 0 or link(self._hash, line.seq, line.at, body) != digest:
            raise LedgerCorrupt(f"{self.place}: entry {line.seq}: the hash does not fit its content")
        if sealed is not None and not commitment_holds(body, sealed.salt, sealed.body):
            raise LedgerCorrupt(f"{self.place}: entry {line.seq}: its private part is not what it vouched for")
        key = journal_key(decode_event(body, sealed.body if sealed else None))
        self._seq, self._hash = line.seq, digest
        return Row(tenant, line.seq, line.at, key, body, digest, sealed)

    def answer(self, raw: bytes, tenant: int) -> AnswerRow:
        """Read a kept answer."""
        try:
            line = msgspec.json.decode(raw, type=AnswerLine)
        except msgspec.DecodeError as error:
            raise ConfigurationInvalid(f"{self.place}: is not a kept answer: {error}") from error
        self._answers += 1
        return AnswerRow(tenant, line.key, line.at, line.answer.encode())
