"""One tenant's ledger in memory: its state, the head of its journal, and what its views do not know yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from fiscus.contract.errors import LedgerCorrupt
from fiscus.core.decide import is_valid, new_draft
from fiscus.core.events import (
    FORMAT,
    AnyEvent,
    Held,
    Lent,
    NameErased,
    Queued,
    Released,
    Settled,
    Transferred,
    format_of,
)
from fiscus.core.fold import RANK_TICKET, fold
from fiscus.core.records import CallRecord
from fiscus.core.state import ENTITY_TYPES, HEAP_SLACK, Booking, Draft, Kind, Rules, Table
from fiscus.treasury.codec import decode_event, encode_event, genesis, link
from fiscus.treasury.rows import entity_row
from fiscus.treasury.sealing import base_seal, sealed_snapshot
from fiscus.treasury.store import (
    ALWAYS_IN_MEMORY,
    TAIL_MAX,
    EntityRow,
    Erasure,
    Head,
    Row,
    Seen,
    Snapshot,
    Store,
    StoredEntry,
    UsageRow,
    ViewsAhead,
    Watermark,
)

LOAD_ROWS_MAX = 50_000
"""Changed rows after which a long tail is written to the views on the way, so that memory has a bound."""

ENTITIES_MAX = 150_000
"""Entities in memory beyond which idle ones are evicted."""

ENDED_SLACK = 10_000
"""Entities that come into memory before those that have ended are evicted."""

FINAL = ("terminated", "closed")

_encode = msgspec.json.Encoder().encode
_decoders = {kind: msgspec.json.Decoder(entity_type) for kind, entity_type in ENTITY_TYPES.items()}


class Ledger:
    """State = views at their watermark + the journal's tail.

    What is not in memory is loaded from the views when it is needed. Nothing newer than the watermark is evicted, so
    what is loaded is current.
    """

    def __init__(self, name: str, number: int, store: Store, rules: Rules) -> None:
        self.name = name
        self.number = number
        self._store = store
        self._rules = rules
        self.draft: Draft = new_draft(rules)
        draft = self.draft
        self._tables: tuple[Table[Any, Any], ...] = (
            draft.accounts,
            draft.budgets,
            draft.cells,
            draft.holds,
            draft.adjustments,
            draft.templates,
            draft.keys,
            draft.overrides,
            draft.loans,
            draft.prices,
        )
        self.head = Head(0, genesis(name))
        self.head_at = 0
        self.snapshot_seq = 0
        self._handed_over_seq = 0
        self._usage: list[UsageRow] = []
        self._erased: list[tuple[int, int]] = []
        self._mark = self.draft.mark()
        self._sweep_at = HEAP_SLACK
        self._ended_at = self.ended_slack()
        try:
            self._load()
        except BaseException:
            self.retire()
            raise

    # -- loading ------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Start from the views, or from the very beginning where they do not fit the journal."""
        views = self._store.views
        opening = views.opening(self.number)
        if opening is not None and not self._fits(opening.watermark):
            views.clear(self.number)
            opening = None
        if opening is None and self._begin_behind_archive():
            opening = views.opening(self.number)
        if opening is not None:
            watermark = opening.watermark
            self.head = Head(watermark.seq, watermark.hash)
            self.head_at = watermark.at
            self.snapshot_seq = self._handed_over_seq = watermark.seq
            self.draft.accounts_opened = watermark.accounts
            self.draft.budgets_made = watermark.budgets
            self.draft.cells_opened = watermark.cells
            for key, body in opening.templates:
                self.draft.templates[key] = _decoders["template"].decode(body)  # type: ignore[assignment]
            for key, body in opening.prices:
                self.draft.prices[key] = _decoders["price"].decode(body)  # type: ignore[assignment]
            for key, body in opening.keys:
                self.draft.keys[key] = _decoders["key"].decode(body)  # type: ignore[assignment]
            self._use_views()
            for deadline in opening.deadlines:
                self.draft.due(deadline[0], deadline[1], -deadline[2], deadline[3], deadline[4])
                if deadline[1] == RANK_TICKET:
                    self.draft.holds.find(str(deadline[4]))
            self.draft.line_up()
        self._load_tail()

    def _load_tail(self) -> None:
        """Fold what the journal has after the views."""
        while True:
            entries = self._store.journal.entries(self.number, self.head.seq, TAIL_MAX)
            self.follow(entries)
            if len(entries) < TAIL_MAX:
                return
            if self.unwritten > LOAD_ROWS_MAX:
                snapshot = self.snapshot()
                self._store.views.write([snapshot], self.head_at)
                self.snapshot_written(snapshot)

    def follow(self, entries: Sequence[StoredEntry]) -> list[AnyEvent]:
        """Fold entries that stand in the journal after the head; returns their events.

        Raises:
            LedgerCorrupt: one does not follow the one before.
            UnknownFormat: one cannot be read by this version.
            ViewsAhead: the views that something had to be loaded from are further already; this object is of no
                more use and is made anew.
        """
        events: list[AnyEvent] = []
        for entry in entries:
            if entry.seq != self.head.seq + 1 or entry.hash != link(self.head.hash, entry.seq, entry.at, entry.body):
                raise LedgerCorrupt(f"tenant {self.name}: entry {entry.seq} does not follow entry {self.head.seq}")
            event = decode_event(entry.body, entry.private)
            self._fold(event, entry.seq, entry.at)
            events.append(event)
            self.head = Head(entry.seq, entry.hash)
            self.head_at = entry.at
        self._settle_touched()
        return events

    def _fits(self, watermark: Watermark) -> bool:
        """Whether the journal has the entry that the views say they are as of."""
        if watermark.seq == 0:
            return True
        entries = self._store.journal.entries(self.number, watermark.seq - 1, 1)
        if entries and entries[0].seq == watermark.seq + 1:
            # It was the last one that was archived; what follows it says which one it was.
            entry = entries[0]
            return link(watermark.hash, entry.seq, entry.at, entry.body) == entry.hash
        return bool(entries) and entries[0].seq == watermark.seq and entries[0].hash == watermark.hash

    def _begin_behind_archive(self) -> bool:
        """Make the views from the state that was sealed as of the last entry that is not here any more, if so.

        Raises:
            LedgerCorrupt: there is no such state.
        """
        journal = self._store.journal
        first = journal.entries(self.number, 0, 1)
        if not first or first[0].seq == 1:
            return False
        seal = base_seal(journal, self.number, first[0].seq - 1)
        if seal is None:
            raise LedgerCorrupt(
                f"tenant {self.name}: entries before {first[0].seq} are missing, and no state is sealed there"
            )
        self._store.views.write([sealed_snapshot(journal, self.number, seal)], seal.at)
        return True

    @property
    def _seen(self) -> Seen:
        return Seen(self.snapshot_seq, self.head.seq)

    def _use_views(self) -> None:
        """Let the state load from the views what it does not have."""
        draft, views, number = self.draft, self._store.views, self.number
        for table in self._tables:
            table.load = self._loader(table.kind)
        draft.names.load = self._load_name
        draft.carved_below = lambda account: views.carved_below(number, account, self._seen)

    def retire(self) -> None:
        """It is of no more use. Its state leads back to it, so that it would stay until cycles are looked for."""
        for table in self._tables:
            table.load = None
        self.draft.names.load = None
        self.draft.carved_below = None

    def _load_name(self, name: str) -> int | None:
        """The number of an account by its name; the views may not know yet that the name was erased."""
        found = self._store.views.load_name(self.number, name, self._seen)
        account = self.draft.accounts.find(found) if found is not None else None
        return found if account is not None and account.name == name else None

    def _loader(self, kind: Kind) -> Callable[[Any], Any]:
        views, number, decode = self._store.views, self.number, _decoders[kind].decode

        def load(key: int | str) -> Any:
            body = views.load(number, kind, key, self._seen)
            return decode(body) if body is not None else None

        return load

    def prefetch_accounts(self, names: Sequence[str]) -> None:
        """Load accounts with all above them, their budgets and running windows, in one query.

        What the views have changed after this node's head is left to be loaded when it is needed.
        """
        draft = self.draft
        if draft.names.load is None:
            return
        tables: dict[Kind, Table[Any, Any]] = {table.kind: table for table in self._tables}
        with suppress(ViewsAhead):
            for kind, number, body in self._store.views.load_chains(self.number, names, self._seen):
                if number not in tables[kind]:
                    tables[kind][number] = _decoders[kind].decode(body)
                if kind == "account":
                    # As it is in memory: the views may not know yet that its name was erased.
                    name = draft.accounts[number].name
                    if name is not None:
                        draft.names[name] = number

    def prefetch_holds(self, ids: list[str], new: Sequence[str] = ()) -> None:
        """Load those of the holds that the views know, in one query, and remember which do not exist.

        Args:
            ids: of holds.
            new: ids of holds that are taken not to exist; if one does, the journal will not take it again.
        """
        holds = self.draft.holds
        if holds.load is None:
            return
        holds.absent = {id for id in new if id not in holds}
        missing = [id for id in ids if id not in holds and id not in holds.absent]
        if missing:
            found = self._load_holds(missing)
            holds.absent.update(id for id in missing if id not in found)

    def knows_any(self, new: Sequence[str]) -> bool:
        """Whether one of the holds that were taken not to exist does."""
        wanted = [id for id in new if id in self.draft.holds.absent]
        return bool(wanted) and bool(self._load_holds(wanted))

    def _load_holds(self, ids: list[str]) -> set[str]:
        """Bring holds into memory; returns the ids of those that there are."""
        found = self._store.views.load_many(self.number, "hold", ids, self._seen)
        for key, body in found.items():
            self.draft.holds[str(key)] = _decoders["hold"].decode(body)  # type: ignore[assignment]
        return {str(key) for key in found}

    # -- changing -----------------------------------------------------------------------------------------------

    def _fold(self, event: AnyEvent, seq: int, at: int) -> None:
        draft = self.draft
        draft.now = at
        fold(draft, event, at)
        draft.alerts.clear()
        for booking in draft.bookings:
            self._usage.append(usage_row(seq, at, event, booking))
        draft.bookings.clear()
        if isinstance(event, NameErased):
            self._erased.append((event.account, seq))

    def begin(self) -> None:
        """A batch begins: what it changes can be discarded."""
        self.draft.isolate()

    def discard(self) -> None:
        """Undo the batch."""
        self.draft.rollback(self._mark)
        self.draft.holds.absent.clear()

    def rows(self, at: int, salt: Callable[[], bytes]) -> list[Row]:
        """The draft's events as entries after the head; nothing is changed yet.

        Args:
            at: time of the batch, ms.
            salt: makes the key of a commitment.
        """
        if self.draft.format < FORMAT:
            self._refuse_newer_events()
        rows: list[Row] = []
        tenant, seq, before = self.number, self.head.seq, self.head.hash
        for event in self.draft.events:
            seq += 1
            body, sealed = encode_event(event, partial(concerned, self.draft), salt)
            before = link(before, seq, at, body)
            rows.append(Row(tenant, seq, at, journal_key(event), body, before, sealed))
        return rows

    def _refuse_newer_events(self) -> None:
        """Nodes of older versions still follow this journal: what they cannot read is a defect, and not written."""
        for event in self.draft.events:
            needed = format_of(event)
            assert needed <= self.draft.format, f"{type(event).__name__} is not written before format {needed}"

    def committed(self, rows: list[Row]) -> list[AnyEvent]:
        """The rows are durable: the draft becomes the state. Returns the events."""
        draft = self.draft
        draft.holds.absent.clear()
        events = draft.events
        first = self.head.seq + 1
        for booking in draft.bookings:
            index = booking.index
            self._usage.append(usage_row(first + index, rows[index].at, events[index], booking))
        self._erased += [(event.account, first + index) for index, event in self._erasures()]
        if rows:
            last = rows[-1]
            self.head = Head(last.seq, last.hash)
            self.head_at = last.at
        self._settle_touched()
        return events

    def erasing(self) -> list[Erasure]:
        """What the draft erases."""
        return [
            Erasure(
                self.number,
                event.account,
                event.private.name if event.private is not None else None,
                tuple(key.key for key in self.draft.keys.values() if key.account == event.account),
            )
            for _, event in self._erasures()
        ]

    def _erasures(self) -> list[tuple[int, NameErased]]:
        """The draft's events that erase a name, with their indices."""
        events = self.draft.events
        if NameErased not in map(type, events):
            return []
        return [(index, event) for index, event in enumerate(events) if isinstance(event, NameErased)]

    def touched_accounts(self) -> set[int]:
        """Accounts of which something has changed that the views do not know yet."""
        draft = self.draft
        touched = set(draft.accounts.changed)
        touched.update(draft.cells[number].account for number in draft.cells.changed)
        for id in draft.holds.changed:
            hold = draft.holds[id]
            touched.update((hold.account, *hold.also))
        return touched

    def is_idle(self, number: int) -> bool:
        """Whether an account is open and nothing below it is, and nothing pins its windows."""
        draft = self.draft
        account = draft.accounts[number]
        if account.status != "active" or account.open_children:
            return False
        if any(number == draft.holds[id].account for ids in draft.waiting.values() for id in ids):
            return False
        cells = [draft.cells[cell] for budget in account.budgets if (cell := draft.budgets[budget].cell)]
        return all(cell.open == 0 for cell in cells)

    def _settle_touched(self) -> None:
        names, waiting = self.draft.names, self.draft.waiting
        for table, key, _ in self.draft.commit():
            if table is not names and table is not waiting:
                table.changed[key] = None  # type: ignore[attr-defined]
        self._mark = self.draft.mark()  # what was settled is not undone with what comes next
        if len(self.draft.deadlines) > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Drop deadlines that do not stand any more; those of evicted entities stay."""
        draft = self.draft
        tables: dict[Kind, Table[Any, Any]] = {table.kind: table for table in self._tables}
        draft.sweep(lambda deadline: deadline[4] not in tables[deadline[3]] or is_valid(draft, deadline))
        self._sweep_at = 2 * len(draft.deadlines) + HEAP_SLACK

    # -- following ----------------------------------------------------------------------------------------------

    @property
    def unwritten(self) -> int:
        """How many rows the views lack; 1 when they lack none and are behind all the same, as after a checkpoint."""
        changed = sum(len(table.changed) for table in self._tables)
        return changed + len(self._usage) or int(self.head.seq > self.snapshot_seq)

    def snapshot(self) -> Snapshot:
        """Everything that changed since the last snapshot, as of the head; call it between batches only."""
        draft = self.draft
        entities: list[EntityRow] = []
        for table in self._tables:
            changed, table.changed = table.changed, {}
            for key in sorted(changed):
                entity = table.get(key)
                if entity is not None:
                    entities.append(entity_row(draft, table.kind, key, entity))
        snapshot = Snapshot(
            self.number,
            Watermark(
                self.head.seq,
                self.head.hash,
                self.head_at,
                draft.accounts_opened,
                draft.budgets_made,
                draft.cells_opened,
            ),
            entities,
            self._usage,
            self._erased,
            self._handed_over_seq,
        )
        self._usage, self._erased, self._handed_over_seq = [], [], self.head.seq
        return snapshot

    def snapshot_written(self, snapshot: Snapshot) -> None:
        """The views are as of the snapshot now; what is idle may be evicted."""
        self.snapshot_seq = snapshot.watermark.seq
        if self.draft.holds.load is None:
            self._use_views()
        if self._entities > self._ended_at:
            self._evict_ended()
            self._ended_at = self._entities + max(self.ended_slack(), self._entities // 4)
        if self._entities > ENTITIES_MAX:
            self._evict()

    def snapshot_failed(self, snapshot: Snapshot) -> None:
        """The views could not be written: all of it is still to be written."""
        changed = {table.kind: table.changed for table in self._tables}
        for row in snapshot.entities:
            changed[row.kind][row.key] = None
        self._usage = snapshot.usage + self._usage
        self._erased = snapshot.erased + self._erased
        self._handed_over_seq = min(snapshot.after, self._handed_over_seq)

    def ended_slack(self) -> int:
        """How many entities come into memory before those that have ended are evicted."""
        return ENDED_SLACK

    @property
    def _entities(self) -> int:
        """How many are in memory."""
        return sum(len(table) for table in self._tables)

    def _evict_ended(self) -> None:
        """Drop holds and windows that are over, adjustments, overrides, loans, closed accounts, if the views have them.

        Few ask for them again.
        Memory follows what goes on, not what has been, and what is in use is loaded anew less often.
        """
        draft = self.draft
        accounts, budgets, cells, holds = draft.accounts, draft.budgets, draft.cells, draft.holds
        self._sweep()
        for id in [id for id, hold in holds.items() if not hold.open and id not in holds.changed]:
            del holds[id]
        overrides = draft.overrides
        for id in [id for id, one in overrides.items() if one.state != "pending" and id not in overrides.changed]:
            del overrides[id]
        changes: tuple[Table[str, Any], ...] = (draft.adjustments, draft.loans)
        for table in changes:
            for id in [id for id in table if id not in table.changed]:
                del table[id]
        for number in [number for number, cell in cells.items() if number not in cells.changed and not cell.open]:
            budget = budgets.get(cells[number].budget)
            if budget is not None and budget.cell != number:
                del cells[number]
        closed = [one for one in accounts.values() if one.status in FINAL and one.number not in accounts.changed]
        for account in closed:
            for number in account.budgets:
                budget = budgets.get(number)
                if budget is not None and number not in budgets.changed:
                    if budget.cell not in cells.changed:
                        cells.pop(budget.cell, None)
                    del budgets[number]
            del accounts[account.number]
            if account.name is not None and draft.names.get(account.name) == account.number:
                del draft.names[account.name]
        if closed:
            self._forget_carved()

    def _evict(self) -> None:
        """Drop everything that the views have and that has not changed since; what is always in memory stays."""
        draft = self.draft
        self._sweep()
        waiting = {id: draft.holds[id] for ids in draft.waiting.values() for id in ids}
        for table in self._tables:
            if table.kind in ALWAYS_IN_MEMORY:
                continue
            kept = {key: table[key] for key in table.changed.keys() & table.keys()}
            if table.kind == "hold":
                kept |= waiting
            table.clear()
            table.update(kept)
        self._forget_carved()
        names = {name: number for name, number in draft.names.items() if number in draft.accounts}
        draft.names.clear()
        draft.names.update(names)
        draft.routes.clear()

    def _forget_carved(self) -> None:
        """Of accounts that are not in memory the views say whether they have an allocation."""
        carved_since, in_memory = self.draft.carved_since, self.draft.accounts.keys()
        for number, carved in list(carved_since.items()):
            carved.intersection_update(in_memory)
            if not carved:
                del carved_since[number]


def concerned(draft: Draft, event: AnyEvent) -> int:
    """The account with which the private part of an event is erased; 0: none. ``draft`` is the state after it."""
    if isinstance(event, Settled) and event.account is None:
        return draft.holds[event.id].account
    if isinstance(event, Transferred):
        return event.source
    return getattr(event, "account", None) or 0


def journal_key(event: AnyEvent) -> str | None:
    """The id under which an entry is known: of a hold, a loan, or what was booked or released without a hold."""
    kind = event.__class__
    if kind is Lent:
        return f"\x1f{event.id}"  # type: ignore[union-attr]  # no hold has such an id
    if kind is Held or kind is Queued or ((kind is Settled or kind is Released) and event.account is not None):  # type: ignore[union-attr]
        return None if event.again else event.id  # type: ignore[union-attr]
    return None


def usage_row(seq: int, at: int, event: AnyEvent, booking: Booking) -> UsageRow:
    """What one event added to the books, with the call's record where the event has one."""
    model: str | None = None
    provider: str | None = None
    body: bytes | None = None
    if type(event) is Settled:
        model, provider, tokens, cost = event.model, event.provider, event.tokens, event.cost_nanousd
        record = event.private.record if event.private is not None else None
        if record is not None or tokens is not None or cost is not None or model is not None or provider is not None:
            whole = msgspec.structs.replace(
                record or CallRecord(), model=model, provider=provider, tokens=tokens, cost_nanousd=cost
            )
            body = _encode(whole)
    return UsageRow(
        seq,
        at,
        booking.hold,
        booking.account,
        _encode(booking.also) if booking.also else b"[]",
        _encode(booking.amounts),
        _encode(booking.uncovered) if booking.uncovered else b"{}",
        booking.estimated,
        model,
        provider,
        body,
    )
