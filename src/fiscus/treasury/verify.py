"""Check a ledger from its journal: the chain, every invariant at every entry, and the views against the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fiscus.contract.errors import LedgerCorrupt, UnknownFormat
from fiscus.core.decide import new_draft
from fiscus.core.events import (
    AllocationPut,
    AllocationResized,
    AnyEvent,
    Extended,
    Held,
    NameErased,
    TicketEnded,
    Transferred,
)
from fiscus.core.fold import fold
from fiscus.core.invariants import broken, broken_admission, broken_cell, broken_hold, broken_loan
from fiscus.core.outcomes import HoldState
from fiscus.core.records import CallRecord
from fiscus.core.state import ENTITY_TYPES, KINDS, Account, Cell, Draft, Hold
from fiscus.treasury.codec import commitment_holds, decode_event, genesis, has_commitment, link
from fiscus.treasury.ledger import concerned, usage_row
from fiscus.treasury.private_parts import PrivateParts
from fiscus.treasury.sealing import PRIVATE_FIELDS, Seal, base_seal, joined, last_seal, sealed_rows, table_of
from fiscus.treasury.store import Store, StoredEntry, UsageRow, Watermark

PAGE = 5_000
FAULTS_MAX = 20
FINAL_STATES = frozenset({"settled", "released"})


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that does not hold: which invariant, at which entry, and what."""

    invariant: str
    seq: int
    detail: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, and the first faults; none means that all of it holds."""

    tenant: str
    from_seq: int
    head_seq: int
    entries: int
    faults: tuple[Fault, ...]


def verify(
    store: Store,
    tenant: str = "default",
    *,
    from_start: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check E1 … E13 and the hash chain, from the last checkpoint or from the first entry.

    Args:
        store: the ledger; nothing is written.
        tenant: whose journal.
        from_start: do not trust the last checkpoint; begin with the first entry that was not archived.
        progress: called with (entries checked, entries in all).

    Returns:
        The report; ``faults`` in the order of the journal, at most ``FAULTS_MAX``.
    """
    number = store.journal.tenants().get(tenant)
    if number is None:
        return Report(tenant=tenant, from_seq=0, head_seq=0, entries=0, faults=())
    check = _Verification(store, tenant, number)
    first = store.journal.entries(number, 0, 1)
    archived_seq = first[0].seq - 1 if first else 0
    if not from_start:
        check.start_from(last_seal(store.journal, number))
    if archived_seq and not check.from_seq:
        check.start_from(base_seal(store.journal, number, archived_seq))
    check.run(progress)
    return Report(
        tenant=tenant,
        from_seq=check.from_seq,
        head_seq=check.seq,
        entries=check.seq - check.from_seq,
        faults=tuple(sorted(check.faults, key=lambda fault: fault.seq)[:FAULTS_MAX]),
    )


class _Verification:
    """A state that is folded anew, entry by entry, and what was found on the way."""

    def __init__(self, store: Store, tenant: str, number: int) -> None:
        self.store = store
        self.number = number
        self.faults: list[Fault] = []
        self.draft: Draft = new_draft()
        self.seq = self.from_seq = 0
        self.hash = genesis(tenant)
        self.watermark: Watermark | None = store.views.watermark(number)
        self._states: dict[str, HoldState] = {}
        self._ids: set[str] = set()
        self._private = PrivateParts()
        self._usage: _UsageCheck | None = None
        self._erasable: dict[tuple[int, str], Fault] = {}

    def found(self, invariant: str, detail: str) -> None:
        """Note a fault at the present entry."""
        self.faults.append(Fault(invariant=invariant, seq=self.seq, detail=detail))

    def found_unless_erased(self, account: int, invariant: str, detail: str) -> None:
        """Note a fault at the present entry, which is none if the account is erased later; the first of its kind."""
        fault = Fault(invariant=invariant, seq=self.seq, detail=detail)
        self._erasable.setdefault((account, invariant), fault)

    def start_from(self, seal: Seal | None) -> None:
        """Begin with a sealed state whose digest the journal vouches for."""
        if seal is None:
            return
        try:
            rows = sealed_rows(self.store.journal, self.number, seal)
        except LedgerCorrupt as error:
            self.seq = seal.seq
            self.found("E3", str(error))
            self.seq = 0
            return
        for kind, key, entity in joined(rows):
            table_of(self.draft, kind)[key] = entity
        for account in self.draft.accounts.values():
            if account.name is not None:
                self.draft.names[account.name] = account.number
        self.draft.line_up()
        self._states = {id: hold.state for id, hold in self.draft.holds.items()}
        self.seq = self.from_seq = seal.seq
        self.hash = seal.hash

    def run(self, progress: Callable[[int, int], None] | None) -> None:
        """Check entry after entry; stop at the first that breaks the chain."""
        if self.watermark is not None:
            self._usage = _UsageCheck(self.store, self.number, self.from_seq, self.watermark.seq)
            if self.from_seq and self.watermark.seq == self.from_seq:
                self._check_views(self.watermark)
        head = self.store.journal.head(self.number)
        total = (head.seq if head is not None else 0) - self.from_seq
        while True:
            entries = self.store.journal.entries(self.number, self.seq, PAGE)
            for entry in entries:
                if not self._check_chain(entry) or not self._apply(entry):
                    return
                if self.watermark is not None and self.seq == self.watermark.seq:
                    self._check_views(self.watermark)
            if progress is not None:
                progress(self.seq - self.from_seq, total)
            if len(entries) < PAGE:
                break
        for invariant, detail in broken(self.draft):
            self.found(invariant, detail)
        self._check_erasures()
        if self.watermark is not None and self.watermark.seq > self.seq:
            self.found("E12", f"the views are as of entry {self.watermark.seq}, the journal ends with {self.seq}")

    def _check_erasures(self) -> None:
        """E9, E12: what is gone was erased, here or before it came here."""

        def is_named(number: int) -> bool:
            account = self.draft.accounts.find(number)
            return account is not None and account.name is not None

        seals = self.store.journal.checkpoints(self.number)
        for seq, account in self._private.unexplained(seals, is_named):
            detail = f"entry {seq}: its private part is gone, and no erasure of account {account} says why"
            self.faults.append(Fault(invariant="E9", seq=seq, detail=detail))
        self.faults += self._erasable.values()

    def _check_chain(self, entry: StoredEntry) -> bool:
        """E9: gapless and unbroken."""
        expected, before = self.seq + 1, self.hash
        self.seq = expected
        if entry.seq != expected:
            self.found("E9", f"entry {expected} is missing; {entry.seq} follows")
            return False
        self.hash = link(before, entry.seq, entry.at, entry.body)
        if self.hash != entry.hash:
            self.found("E9", f"entry {entry.seq}: the hash does not fit its content and the entry before")
            return False
        if (
            entry.private is not None
            and entry.salt is not None
            and not commitment_holds(entry.body, entry.salt, entry.private)
        ):
            self.found("E9", f"entry {entry.seq}: its private part is not what it vouched for")
            return False
        return True

    def _apply(self, entry: StoredEntry) -> bool:
        """Fold an entry and check everything that it touched."""
        draft = self.draft
        try:
            event = decode_event(entry.body, entry.private)
            raised = list(raised_by(draft, event))
            draft.now = entry.at
            fold(draft, event, entry.at)
        except (UnknownFormat, LedgerCorrupt, KeyError) as error:
            self.found("E3", f"entry {entry.seq} cannot be applied: {error}")
            return False
        draft.alerts.clear()
        self._check_private(entry, event)
        for booking in draft.bookings:
            self._check_usage(usage_row(entry.seq, entry.at, event, booking), is_whole=_is_whole(entry))
        if isinstance(event, Held):
            if event.id in self._ids:
                self.found("E7", f"hold {event.id} was held twice")
            self._ids.add(event.id)
        elif isinstance(event, TicketEnded):
            self._ids.discard(event.id)  # what nobody has claimed was never held for anybody
        for table, key, _ in draft.commit():
            kind = getattr(table, "kind", None)
            if kind == "cell":
                cell: Cell = draft.cells[key]
                for invariant, detail in broken_cell(cell):
                    self.found(invariant, detail)
            elif kind == "hold":
                self._check_hold(draft.holds[key])
            elif kind == "loan":
                for invariant, detail in broken_loan(draft, draft.loans[key]):
                    self.found(invariant, detail)
        for invariant, detail in broken_admission(draft, raised):
            self.found(invariant, detail)
        if isinstance(event, Transferred):
            self._check_transfer(event)
        return len(self.faults) < FAULTS_MAX

    def _check_private(self, entry: StoredEntry, event: AnyEvent) -> None:
        """Take note of whether an entry has the private part that it vouches for."""
        if entry.private is not None:
            self._private.keep(entry.seq, concerned(self.draft, event))
        elif has_commitment(entry.body):
            self._private.lose(entry.seq, entry.at, concerned(self.draft, event))
        if isinstance(event, NameErased):
            self._private.erase(event.account, entry.at)
            for key in [key for key in self._erasable if key[0] == event.account]:
                del self._erasable[key]

    def _check_usage(self, booked: UsageRow, *, is_whole: bool) -> None:
        """E12: what the views sum up is what the journal has booked; of a record what was erased may be gone."""
        if self._usage is None or booked.seq > self._usage.upto:
            return
        viewed = self._usage.next(booked.seq)
        if viewed is None:
            self._usage_differs(f"the views lack the usage of entry {booked.seq}")
        elif viewed.seq < booked.seq:
            self._usage_differs(f"the views have usage of entry {viewed.seq}, where nothing was booked")
        elif not _is_same_usage(viewed, booked):
            self._usage_differs(f"the views say otherwise of the usage of entry {booked.seq}")
        elif viewed.record is None and booked.record is not None:
            self.found_unless_erased(
                booked.account, "E12", f"the views lack the record of the usage of entry {self.seq}"
            )
        elif not _is_same_record(viewed.record, booked.record, is_whole=is_whole):
            self._usage_differs(f"the views say otherwise of the record of the usage of entry {booked.seq}")

    def _usage_differs(self, detail: str) -> None:
        """Note the first difference; those that follow may come from it."""
        self.found("E12", detail)
        self._usage = None

    def _check_hold(self, hold: Hold) -> None:
        """E5 and E6: a final state stays."""
        for invariant, detail in broken_hold(hold):
            self.found(invariant, detail)
        before = self._states.get(hold.id)
        if before in FINAL_STATES and hold.state != before:
            self.found("E6", f"hold {hold.id} was {before} and became {hold.state}")
        self._states[hold.id] = hold.state

    def _check_transfer(self, event: Transferred) -> None:
        """E8: each end of the transfer changes by the amount."""
        accounts = {self.draft.cells[number].account for number, _ in event.sizes}
        if event.source not in accounts or event.target not in accounts:
            self.found("E8", "a transfer left out one of its ends")

    def _check_views(self, watermark: Watermark) -> None:
        """E3, E12: every entity of the views is what the journal says."""
        if watermark.hash != self.hash:
            self.found("E12", f"the views are as of another entry {watermark.seq}")
            return
        expected = {(number, key) for number, kind in enumerate(KINDS) for key in table_of(self.draft, kind)}
        with self.store.views.sealed(self.number) as (as_of, rows):
            if as_of.seq != watermark.seq:
                return
            for number, key, body in rows:
                kind = KINDS[number]
                entity: Any = table_of(self.draft, kind).get(key)
                expected.discard((number, key))
                if entity is not None:
                    entity.stamp = 0
                viewed: Any = msgspec.json.decode(body, type=ENTITY_TYPES[kind])
                if isinstance(entity, Account) and entity.name is None and viewed.name is not None:
                    self.found_unless_erased(
                        entity.number, "E12", f"the views know the name of account {key}, which the journal has lost"
                    )
                if not _says_the_same(viewed, entity):
                    self.found("E12", f"the views say otherwise of {kind} {key}")
        for number, missing in expected:
            if KINDS[number] == "hold" and not self.draft.holds[str(missing)].open:
                continue  # ended holds are dropped when their answers are not kept any more
            if KINDS[number] == "loan" and not self.draft.loans[str(missing)].active:
                continue  # and so are loans
            self.found("E12", f"the views lack {KINDS[number]} {missing}")
        if self._usage is not None and (rest := self._usage.next(None)) is not None:
            self._usage_differs(f"the views have usage of entry {rest.seq}, where nothing was booked")


class _UsageCheck:
    """The usage of the views up to their watermark, row by row beside the entries that it comes from."""

    def __init__(self, store: Store, tenant: int, after: int, upto: int) -> None:
        self.upto = upto
        self._rows = self._read(store, tenant, after)
        self._next = next(self._rows, None)

    def next(self, seq: int | None) -> UsageRow | None:
        """The next row, if there is one that is not of an entry after ``seq``."""
        row = self._next
        if row is None or (seq is not None and row.seq > seq):
            return None
        self._next = next(self._rows, None)
        return row

    def _read(self, store: Store, tenant: int, after: int) -> Iterator[UsageRow]:
        while after < self.upto:
            rows = store.views.usage(tenant, after, PAGE, None, None, None)
            for row in rows:
                if row.seq > self.upto:
                    return
                yield row
            if len(rows) < PAGE:
                return
            after = rows[-1].seq


def _is_whole(entry: StoredEntry) -> bool:
    """Whether nothing of an entry is gone."""
    return entry.private is not None or not has_commitment(entry.body)


def _is_same_usage(viewed: UsageRow, booked: UsageRow) -> bool:
    """Whether two rows say the same, apart from their records."""
    replaced = msgspec.structs.replace(viewed, record=booked.record, estimated=bool(viewed.estimated))
    return bool(replaced == booked)


def _is_same_record(viewed: bytes | None, booked: bytes | None, *, is_whole: bool) -> bool:
    """Whether two records say the same; of one that was erased in the journal what is not private."""
    if viewed == booked:
        return True
    if viewed is None or (booked is None and is_whole):
        return False
    known = msgspec.json.decode(viewed, type=CallRecord)
    if not is_whole:
        public = {name: getattr(known, name) for name in ("model", "provider", "tokens", "cost_nanousd")}
        known = CallRecord(**public)
    return known == (msgspec.json.decode(booked, type=CallRecord) if booked is not None else CallRecord())


def _says_the_same(viewed: Any, entity: Any) -> bool:
    """Whether the views say of an entity what the journal says; a name that was erased since may still stand there."""
    if isinstance(entity, Account) and entity.name is None and isinstance(viewed, Account):
        for field in PRIVATE_FIELDS["account"]:
            setattr(viewed, field, getattr(entity, field))
    return bool(viewed == entity)


def raised_by(draft: Draft, event: AnyEvent) -> Iterator[int]:
    """The cells whose use an admission is about to raise; ``draft`` is the state before it.

    A heartbeat raises nothing, nor does an allocation that shrinks, or that is opened parked to book usage in it.
    """
    if isinstance(event, Held):
        for unit, numbers in event.cells.items():
            if event.amounts.get(unit, 0):
                yield from numbers
    elif isinstance(event, Extended):
        hold = draft.holds[event.id]
        for unit, amount in event.to.items():
            if amount > hold.reserved.get(unit, 0):
                yield from hold.cells.get(unit, ())
    elif isinstance(event, AllocationPut):
        if event.size and not event.parked:
            yield from event.pins
    elif isinstance(event, AllocationResized):
        cell = draft.cells[event.cell]
        if event.size > cell.base:
            yield from cell.pins
