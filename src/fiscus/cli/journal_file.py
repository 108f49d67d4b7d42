"""An exported journal: JSON lines with hashes, so that it can be verified without the ledger it comes from.

Per tenant a header, its entries in order, then the answers that are kept for repeats:

    {"tenant": "default", "format": 1, "entries": 1, "head_seq": 1, "answers": 1}
    {"seq": 1, "at": 1767225600000, "body": "{…}", "hash": "…", "private": {"account": 1, "salt": "…", "body": "{…}"}}
    {"key": "an idempotency key", "at": 1767225600000, "answer": "{…}"}

``body`` is the event exactly as it was hashed. Private parts are left out where they were erased. Answers are
not part of the chain: nothing vouches for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, TypeVar

import msgspec

from fiscus.contract.errors import ConfigurationInvalid, LedgerCorrupt, UnknownFormat
from fiscus.core.events import FORMAT
from fiscus.treasury.codec import SealedPrivate, commitment_holds, decode_event, genesis, link
from fiscus.treasury.ledger import journal_key
from fiscus.treasury.store import AnswerRow, Row

if TYPE_CHECKING:  # the store is not imported before it is needed
    from fiscus.stores.sqlite.copying import JournalReader, TenantHead

L = TypeVar("L", bound=msgspec.Struct)

LINE_BYTES_MAX = 16_777_216
TELL_EVERY = 1_000


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a tenant."""

    tenant: str
    format: int
    entries: int
    head_seq: int
    answers: int


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
) -> Iterator[Header | Row | AnswerRow]:
    """Read an exported journal, line by line, each entry verified: sequence, chain hash, private part, format.

    Args:
        source: the lines.
        name: of the file, for messages.
        begin: makes a tenant; returns its number.
        progress: called with (entries read, entries in all so far known).

    Yields:
        For each tenant its header, its entries, its kept answers.

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
        if reader.entries_left:
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
    if reader.entries_left or reader.answers_left or not reader.line:
        raise ConfigurationInvalid(f"{reader.place}: the file ends before the journal does")


class _Reader:
    """Where in the file and in the chain reading is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tenants: set[str] = set()
        self._seq = 0
        self._hash = b""
        self.line = 0
        self.entries_left = 0
        self.answers_left = 0

    @property
    def place(self) -> str:
        """``journal.jsonl:12``."""
        return f"{self._name}:{self.line}"

    def begin(self, raw: bytes) -> Header:
        """Read a header."""
        header = self._decoded(raw, Header, "the header of a journal")
        if header.format > FORMAT:
            raise UnknownFormat(f"{self.place}: the journal has format {header.format}, this version reads {FORMAT}")
        if header.tenant in self._tenants:
            raise ConfigurationInvalid(f"{self.place}: tenant {header.tenant} comes twice")
        if header.entries != header.head_seq or min(header.entries, header.answers) < 0:
            raise ConfigurationInvalid(f"{self.place}: {header.entries} entries cannot end with {header.head_seq}")
        self._tenants.add(header.tenant)
        self._seq, self._hash = 0, genesis(header.tenant)
        self.entries_left, self.answers_left = header.entries, header.answers
        return header

    def entry(self, raw: bytes, tenant: int) -> Row:
        """Read and verify an entry."""
        line = self._decoded(raw, Line, "an entry of a journal")
        private = line.private
        try:
            digest = bytes.fromhex(line.hash)
            salt = bytes.fromhex(private.salt) if private else b""
        except ValueError as error:
            raise ConfigurationInvalid(f"{self.place}: is not an entry of a journal: {error}") from error
        if line.seq != self._seq + 1:
            raise LedgerCorrupt(f"{self.place}: entry {self._seq + 1} is missing; {line.seq} follows")
        body = line.body.encode()
        if line.at < 0 or link(self._hash, line.seq, line.at, body) != digest:
            raise LedgerCorrupt(f"{self.place}: entry {line.seq}: the hash does not fit its content")
        sealed = SealedPrivate(private.account, salt, private.body.encode()) if private else None
        if sealed is not None and not commitment_holds(body, salt, sealed.body):
            raise LedgerCorrupt(f"{self.place}: entry {line.seq}: its private part is not what it vouched for")
        key = journal_key(decode_event(body, sealed.body if sealed else None))
        self._seq, self._hash = line.seq, digest
        self.entries_left -= 1
        return Row(tenant, line.seq, line.at, key, body, digest, sealed)

    def answer(self, raw: bytes, tenant: int) -> AnswerRow:
        """Read a kept answer."""
        line = self._decoded(raw, AnswerLine, "a kept answer")
        self.answers_left -= 1
        return AnswerRow(tenant, line.key, line.at, line.answer.encode())

    def _decoded(self, raw: bytes, kind: type[L], what: str) -> L:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.DecodeError as error:
            raise ConfigurationInvalid(f"{self.place}: is not {what}: {error}") from error
