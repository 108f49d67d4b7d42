"""Making a ledger from a journal's files: all of it, or up to a point."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.treasury.journal_file import ArchivedId, Header, Item, JournalCheck, Sealed, Tell, opened, read_journal
from fiscus.treasury.store import AnswerRow, Head, Row, Store

APPEND_ROWS = 1_000


class Point(msgspec.Struct, frozen=True):
    """Up to where a journal is taken: a sequence number, or an instant (ms), whichever is given."""

    seq: int | None = None
    at: int | None = None

    def includes(self, row: Row) -> bool:
        """Whether an entry is still taken."""
        return row.seq <= self.seq if self.seq is not None else row.at <= (self.at or 0)


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What was imported of a tenant."""

    tenant: str
    entries: int
    head_seq: int


def read_point(text: str) -> Point:
    """A point as it is written: ``1200``, or ``2026-11-24T10:00:00Z`` (UTC where no zone is given).

    Raises:
        ConfigurationInvalid: it is neither.

    >>> read_point("1200"), read_point("1970-01-01T00:00:01Z")
    (Point(seq=1200, at=None), Point(seq=None, at=1000))
    """
    if text.isascii() and text.isdigit():
        return Point(seq=int(text))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationInvalid(f"until: {text} is neither a sequence number nor a time") from None
    return Point(at=int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000))


def read_files(
    files: Sequence[Path], begin: Callable[[str], int], point: Point | None, progress: Tell
) -> Iterator[Item]:
    """What the files hold, each entry verified, up to a point: what was written at one instant belongs together.

    Args:
        files: each goes on where the one before ended.
        begin: makes a tenant; returns its number.
        point: None: all.
        progress: told what is done.

    Raises:
        ConfigurationInvalid: one cannot be read, or is no such file, or the point lies before what it begins with.
        LedgerCorrupt, UnknownFormat: see ``read_journal``.
    """
    check = JournalCheck()
    for file in files:
        try:
            with opened(file, "rb") as source:
                items = read_journal(source, str(file), begin, progress, check)
                yield from items if point is None else _until(items, point)
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigurationInvalid(f"{file}: cannot be read: {error}") from error


def _until(items: Iterator[Item], point: Point) -> Iterator[Item]:
    """Leave out what comes after a point; of what was written at one instant all is taken, or nothing."""
    together: list[Row] = []
    is_over = False
    last_at = 0
    for item in items:
        if isinstance(item, Row):
            if together and item.at != together[0].at:
                yield from together
                last_at = together[-1].at
                together = []
            if is_over or not point.includes(item):
                is_over = True
                together = []
            else:
                together.append(item)
            continue
        if together:
            yield from together
            last_at = together[-1].at
            together = []
        if isinstance(item, Header):
            if item.sealed and point.seq is not None and point.seq <= item.after_seq:
                raise ConfigurationInvalid(f"until: tenant {item.tenant} begins with entry {item.after_seq + 1}")
            is_over, last_at = False, 0
        if not isinstance(item, AnswerRow) or not is_over or item.at <= last_at:
            yield item
    yield from together


def append_files(store: Store, files: Sequence[Path], point: Point | None, progress: Tell) -> list[Imported]:
    """Append what files hold to a store that is empty, or that has the beginning of it.

    Raises:
        ConfigurationInvalid: the store has something else; or see ``read_files``.
        LedgerCorrupt, UnknownFormat: see ``read_files``.
    """
    writer = _Writer(store)
    for item in read_files(files, writer.begin, point, progress):
        writer.take(item)
    writer.flush()
    return writer.imported()


class _Writer:
    """Appends in order, and passes over what is there."""

    def __init__(self, store: Store) -> None:
        self._journal = store.journal
        self._names: dict[int, str] = {}
        self._heads: dict[int, Head] = {}
        self._counts: dict[int, int] = {}
        self._before: dict[int, set[str]] = {}
        self._rows: list[Row] = []
        self._answers: list[AnswerRow] = []
        self._sealed: list[Sealed] = []
        self._ids: list[ArchivedId] = []

    def begin(self, tenant: str) -> int:
        """The number of a tenant, made if it is not there."""
        number = self._journal.add_tenant(tenant)
        if number not in self._names:
            self._names[number] = tenant
            head = self._journal.head(number)
            self._heads[number] = head if head is not None else Head(0, b"")
            self._counts[number] = 0
        return number

    def take(self, item: Item) -> None:
        """The next item of the files."""
        if isinstance(item, Row):
            self._counts[item.tenant] += 1
            head = self._heads[item.tenant]
            if item.seq > head.seq:
                self._rows.append(item)
            elif item.seq == head.seq and item.hash != head.hash:
                raise ConfigurationInvalid(
                    f"tenant {self._names[item.tenant]} is not empty and has another entry {item.seq}; "
                    "import makes a new ledger, or goes on with what it had begun"
                )
        elif isinstance(item, AnswerRow):
            self._answers.append(item)
        elif isinstance(item, Sealed):
            self._sealed.append(item)
        elif isinstance(item, ArchivedId):
            self._ids.append(item)
        if len(self._rows) + len(self._answers) + len(self._sealed) + len(self._ids) >= APPEND_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        journal = self._journal
        sealed, self._sealed = self._sealed, []
        for part in {(one.tenant, one.seq) for one in sealed}:
            journal.put_checkpoint(*part, [one.row for one in sealed if (one.tenant, one.seq) == part])
        ids, self._ids = self._ids, []
        for tenant in {one.tenant for one in ids}:
            journal.put_archived_ids(tenant, [one.id for one in ids if one.tenant == tenant])
        answers, self._answers = self._answers, []
        known = {
            tenant: journal.find_answers(tenant, [one.key for one in answers if one.tenant == tenant])
            for tenant in {one.tenant for one in answers}
        }
        answers = [one for one in answers if one.key not in known[one.tenant]]
        rows, self._rows = self._rows, []
        if rows or answers:
            journal.append(rows, answers)

    def imported(self) -> list[Imported]:
        """What came of it.

        Raises:
            ConfigurationInvalid: a tenant is further than what was imported.
        """
        found = []
        for number, name in self._names.items():
            head = self._journal.head(number) or Head(0, b"")
            found.append(Imported(tenant=name, entries=self._counts[number], head_seq=head.seq))
        return found
