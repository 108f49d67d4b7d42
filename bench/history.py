"""A ledger in PostgreSQL with a long history, as an engine would have written it, but loaded in minutes.

The rows of journal, ids, usage and ended holds have the shape, the order and the chain of hashes of those that the
engine writes for the calls of this benchmark, spread over this month and the three before it, each with its partitions.
The accounts with their budgets are made by an engine. The views stand a few thousand entries before the end: a node
that opens the ledger reads, checks and folds the rest, and its books must come out right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from struct import Struct

import msgspec
import psycopg
import uvloop

from bench.inprocess import rows_after
from bench.ledgers import AGENTS, RESERVED, make_accounts
from fiscus.core.events import Held
from fiscus.core.state import Rules
from fiscus.stores import open_store
from fiscus.treasury.codec import decode_event, link
from fiscus.treasury.engine import Engine
from fiscus.treasury.idempotency import IDEMPOTENCY_MS
from fiscus.treasury.ledger import Ledger
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.store import Head, Row

MONTHS = 4
PAIRS_PER_COMMIT = 32
TAIL_PAIRS = 2_048
"""Pairs that the views lack when the ledger is opened."""

LEASE_MS = 600_000
COPY_BYTES = 1 << 20
TENANT = 1
HOLD_KIND, TEXT_NUMBER = 3, 2**63 - 1

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_LENGTH = Struct(">i").pack
_JOURNAL = Struct(">hiiiqiqi").pack
_IDS = Struct(">hiii").pack
_INT8 = Struct(">iq").pack
_BATCH = Struct(">hiiiqiqiqi").pack
_USAGE = Struct(">hiiiqiqi").pack
_ENTITY = Struct(">hiiihiqi").pack
_ENTITY_END = Struct(">ibib4siiiiiq").pack


@dataclass(frozen=True)
class Form:
    """What the entries of an agent's calls have in common: the bytes between what changes."""

    account: int
    cells: bytes
    chain: dict[str, tuple[int, ...]]


@dataclass
class History:
    """So many calls at instants of the past; everything about one of them follows from its number.

    Args:
        calls: how many; each is a hold and its settlement.
        first_seq, first_hash: the entry that the first of them comes after.
        start, end: when they happened, ms.
        forms: of each agent.
    """

    calls: int
    first_seq: int
    first_hash: bytes
    start: int
    end: int
    forms: list[Form]
    marked: Head = field(default_factory=lambda: Head(0, b""))
    last: Head = field(default_factory=lambda: Head(0, b""))

    def at(self, call: int) -> int:
        """When it was committed, ms."""
        commit = call // PAIRS_PER_COMMIT * PAIRS_PER_COMMIT
        return self.start + (self.end - self.start) * commit // self.calls

    def id(self, call: int, at: int) -> bytes:
        """A UUIDv7 of that time."""
        mixed = call * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        high, low = mixed >> 52, mixed & 0xFFFFFFFFFFFF
        return b"%08x-%04x-7%03x-8%03x-%012x" % (at >> 16, at & 0xFFFF, call & 0xFFF, high, low)

    def form(self, call: int) -> Form:
        """Of the agent that called."""
        return self.forms[call % AGENTS]

    def amounts(self, call: int) -> bytes:
        """What it used, as JSON."""
        tokens = self.tokens(call)
        return b'{"tokens":%d,"cost":%d,"calls":1}' % (tokens, tokens * 15_000)

    @staticmethod
    def tokens(call: int) -> int:
        """How many tokens it used."""
        return 100 + call * 7_919 % 3_900

    @property
    def marked_calls(self) -> int:
        """Calls that the views know of."""
        return max(0, self.calls - TAIL_PAIRS)

    def used(self, calls: int) -> dict[int, int]:
        """Tokens and cost that the first so many calls booked, by cell."""
        tokens = [0] * AGENTS
        for call in range(calls):
            tokens[call % AGENTS] += self.tokens(call)
        booked: dict[int, int] = {}
        for form, sum_ in zip(self.forms, tokens, strict=True):
            for unit, price in (("tokens", 1), ("cost", 15_000)):
                for cell in form.chain[unit]:
                    booked[cell] = booked.get(cell, 0) + sum_ * price
        return booked

    # -- rows in PostgreSQL's binary format ---------------------------------------------------------------------------

    def journal(self, calls: range) -> Iterator[bytes]:
        """Two entries of each call, chained; the hash goes on from one range to the next."""
        seq, before = self.last.seq or self.first_seq, self.last.hash or self.first_hash
        reserved = b'"amounts":{"tokens":%(tokens)d,"cost":%(cost)d,"calls":1}' % {
            name.encode(): amount for name, amount in RESERVED.items()
        }
        asked = b'"asked":{"tokens":%d,"cost":%d}' % (RESERVED["tokens"], RESERVED["cost"])
        for call in calls:
            at, form = self.at(call), self.form(call)
            id = self.id(call, at)
            held = b'{"kind":"held","id":"%b","account":%d,"cells":%b,%b,"expires_at":%d,"lease_s":600,%b}' % (
                id, form.account, form.cells, reserved, at + LEASE_MS, asked,
            )  # fmt: skip
            before = link(before, seq + 1, at, held)
            yield _JOURNAL(5, 4, TENANT, 8, seq + 1, 8, at, len(held)) + held + b"\0\0\0\x20" + before
            settled = b'{"kind":"settled","id":"%b","total":%b}' % (id, self.amounts(call))
            seq += 2
            before = link(before, seq, at, settled)
            yield _JOURNAL(5, 4, TENANT, 8, seq, 8, at, len(settled)) + settled + b"\0\0\0\x20" + before
            self.last = Head(seq, before) if call == calls[-1] else self.last
            if call + 1 == self.marked_calls:
                self.marked = Head(seq, before)

    def ids(self, calls: range) -> Iterator[bytes]:
        """Each id, with the entry of the hold."""
        for call in calls:
            yield _IDS(3, 4, TENANT, 36) + self.id(call, self.at(call)) + _INT8(8, self.first_seq + 1 + 2 * call)

    def batches(self, calls: range) -> Iterator[bytes]:
        """Each commit; the hash of its last entry is not looked at so far back."""
        for call in calls[::PAIRS_PER_COMMIT]:
            first = self.first_seq + 1 + 2 * call
            last = self.first_seq + 2 * min(self.calls, call + PAIRS_PER_COMMIT)
            yield _BATCH(5, 4, TENANT, 8, first, 8, last, 8, self.at(call), 32) + self.first_hash

    def usage(self, calls: range) -> Iterator[bytes]:
        """What each call added to the books."""
        for call in calls:
            at, amounts = self.at(call), self.amounts(call)
            yield b"".join(
                (
                    _USAGE(12, 4, TENANT, 8, self.first_seq + 2 + 2 * call, 8, at, 36),
                    self.id(call, at),
                    _INT8(8, self.form(call).account),
                    b"\0\0\0\x02[]",
                    _LENGTH(len(amounts)),
                    amounts,
                    b"\0\0\0\x02{}\0\0\0\x01\0",
                    _NULL * 3,
                )
            )

    def holds(self, calls: range) -> Iterator[bytes]:
        """Holds that have ended and whose answers are still kept."""
        reserved = b'{"tokens":%d,"cost":%d,"calls":1}' % (RESERVED["tokens"], RESERVED["cost"])
        asked = b'{"tokens":%d,"cost":%d}' % (RESERVED["tokens"], RESERVED["cost"])
        for call in calls:
            at, form, amounts = self.at(call), self.form(call), self.amounts(call)
            id, until = self.id(call, at), at + LEASE_MS
            body = (
                b'{"id":"%b","account":%d,"cells":%b,"asked":%b,"lease_s":600,"at":%d,"first_expires_at":%d,'
                b'"expires_at":%d,"state":"settled","reserved":%b,"booked":%b,"covered":%b}'
                % (id, form.account, form.cells, asked, at, until, until, reserved, amounts, amounts)
            )
            yield b"".join(
                (
                    _ENTITY(14, 4, TENANT, 2, HOLD_KIND, 8, TEXT_NUMBER, 36),
                    id,
                    _LENGTH(len(body)),
                    body,
                    _NULL,
                    _INT8(8, form.account),
                    _NULL,
                    _ENTITY_END(1, 0, 1, 0, _NULL, 4, 0, 4, 0, 8, at),
                )
            )


def make_ledger(url: str, calls: int, folder: Path) -> History:
    """Fill a migrated database."""
    months = _months(datetime.now(UTC))
    prefix, forms = _accounts(folder, months[1] - 1)
    last = prefix[-1]
    # Not in the future when a node opens it: the database's clock says so.
    end = int(datetime.now(UTC).timestamp() * 1000) - 60_000
    history = History(calls, last.seq, last.hash, months[1], end, forms)
    with psycopg.connect(url, autocommit=True, options="-c search_path=fiscus") as connection:
        for part, since, until in _partitions(months):
            for parent in ("journal", "usage"):
                _make_partition(connection, parent, part, since, until)
        for part, since, until in _partitions(months)[1:]:
            calls_of_month = _between(history, since, until)
            for parent, rows in (("journal", history.journal), ("usage", history.usage)):
                _copy(connection, f"{parent}_{part}", rows(calls_of_month))
        everything = range(calls)
        _copy(connection, "ids", history.ids(everything))
        _copy(connection, "batches", history.batches(everything))
        kept = range(_first(history, end - IDEMPOTENCY_MS), history.marked_calls)
        _copy(connection, "entities", history.holds(kept))
        _put_accounts(url, prefix, history)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
    return history


def check_rows(url: str, history: History, *, looks: int = 20, entries: int = 500) -> None:
    """Entries at many places can be read, and are chained."""
    store = open_store(url)
    for look in range(looks):
        after = history.first_seq + (2 * history.calls - entries) * look // looks
        found = store.journal.entries(TENANT, after, entries)
        assert [one.seq for one in found] == list(range(after + 1, after + 1 + entries))
        for before, entry in pairwise(found):
            assert entry.hash == link(before.hash, entry.seq, entry.at, entry.body)
            decode_event(entry.body, entry.private)
    store.close()


class _Past:
    """A clock that stands."""

    def __init__(self, at: int) -> None:
        self._at = at

    def wall_ms(self) -> int:
        return self._at

    def monotonic_ms(self) -> int:
        return 0


def _accounts(folder: Path, at: int) -> tuple[list[Row], list[Form]]:
    """The entries that make the accounts, at an instant of the past; and what the calls of each agent look like."""
    path = folder / f"accounts-{at}.db"

    async def make() -> None:
        treasury = LocalTreasury(Engine(open_store(f"sqlite:///{path}"), clock=_Past(at)))
        await make_accounts(treasury, period="lifetime")
        await treasury.close()

    path.unlink(missing_ok=True)
    uvloop.run(make())
    rows = rows_after(path, 0)
    for file in folder.glob(f"{path.name}*"):
        file.unlink()
    holds = [event for row in rows if isinstance(event := decode_event(row.body, None), Held)]
    assert len(holds) == AGENTS, "one call of each agent, in order"
    forms = [Form(hold.account, msgspec.json.encode(hold.cells), dict(hold.cells)) for hold in holds]
    return rows, forms


def _put_accounts(url: str, prefix: list[Row], history: History) -> None:
    """The entries of the accounts through the store's own code, and their views as of the mark."""
    store = open_store(url)
    assert store.journal.add_tenant("default") == TENANT
    store.journal.append(prefix)
    ledger = Ledger("default", TENANT, _Until(store, history.first_seq), Rules())
    assert ledger.head == Head(history.first_seq, history.first_hash)
    for cell, booked in history.used(history.marked_calls).items():
        one = ledger.draft.cells[cell]
        one.covered += booked
        one.free -= booked
        ledger.draft.cells.changed[cell] = None
    ledger.head = history.marked
    ledger.head_at = history.at(history.marked_calls - 1)
    store.views.write([ledger.snapshot()], ledger.head_at)
    store.close()


class _Until:
    """A store whose journal ends at an entry."""

    def __init__(self, store: object, seq: int) -> None:
        self.views = store.views
        self.journal = self
        self._entries = store.journal.entries
        self._seq = seq

    def entries(self, tenant: int, after: int, limit: int) -> object:
        return self._entries(tenant, after, min(limit, self._seq - after)) if after < self._seq else []


def _months(now: datetime) -> list[int]:
    """Starts (ms) of the month before the history, where the accounts are made; of its months; and of the next one."""
    this = now.year * 12 + now.month - 1
    months = (divmod(number, 12) for number in range(this - MONTHS, this + 2))
    return [int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp() * 1000) for year, month in months]


def _partitions(months: list[int]) -> list[tuple[str, int, int]]:
    """Name, start and end of each month."""
    return [(f"{datetime.fromtimestamp(since / 1000, UTC):%Y_%m}", since, until) for since, until in pairwise(months)]


def _make_partition(connection: psycopg.Connection, parent: str, part: str, since: int, until: int) -> None:
    """As ``make_months`` does, for a month of the past."""
    exists = connection.execute("SELECT to_regclass(%s)", (f"{parent}_{part}",)).fetchone()
    if exists is None or exists[0] is None:
        connection.execute(f"CREATE TABLE {parent}_{part} (LIKE {parent} INCLUDING ALL)")
        connection.execute(
            f"ALTER TABLE {parent} ATTACH PARTITION {parent}_{part} FOR VALUES FROM ({since}) TO ({until})"
        )


def _first(history: History, since: int) -> int:
    """The first call at or after an instant."""
    low, high = 0, history.calls
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if history.at(middle) >= since else (middle + 1, high)
    return low


def _between(history: History, since: int, until: int) -> range:
    return range(_first(history, since), _first(history, until))


def _copy(connection: psycopg.Connection, table: str, rows: Iterable[bytes]) -> None:
    """Fill an empty table; truncated in the same transaction, so that it needs no write-ahead log."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table}")
        with cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary, FREEZE)") as copy:
            write: Callable[[bytes], None] = copy.write
            parts, size = [_HEADER], 0
            for row in rows:
                parts.append(row)
                size += len(row)
                if size >= COPY_BYTES:
                    write(b"".join(parts))
                    parts, size = [], 0
            write(b"".join(parts))
            write(_END)
