"""The state of one tenant, and the draft on which commands are decided.

Entities are mutable, but only ``fold`` changes them, and only through ``Draft.edit`` and ``Draft.add``, which remember
what was there. So a command, or a whole batch whose commit failed, is undone exactly. Values inside an entity (dicts,
tuples) are replaced, never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Literal, TypeVar, dataclass_transform

import msgspec

from fiscus.core.commands import (
    Alternative,
    CarryOver,
    ExhaustionPolicy,
    GrantStrategy,
    Mode,
    OverridePolicy,
    QuarantinePolicy,
    Role,
    Severity,
    ShortageStep,
    Status,
    TemplateBudget,
)
from fiscus.core.events import FORMAT, AnyEvent, CellsByUnit, GateTerms, PriceTerms
from fiscus.core.outcomes import HoldState, OverrideState, Refused
from fiscus.core.units import Amounts, Unit

NEVER = 2**62
"""Later than any time, more than any amount."""

HEAP_SLACK = 10_000
"""Stale deadlines that are tolerated before they are swept."""

Kind = Literal["account", "budget", "cell", "hold", "adjustment", "template", "key", "override", "loan", "price"]
KINDS: tuple[Kind, ...] = (
    "account",
    "budget",
    "cell",
    "hold",
    "adjustment",
    "template",
    "key",
    "override",
    "loan",
    "price",
)
"""Stores know kinds by their position here: a new one stands at the end."""

LIVE, PARKED, ENDED = 0, 1, 2

PRICE_TERMS_MAX = 16
"""Terms of a price that are kept in the state; the journal has all."""


@dataclass_transform(kw_only_default=True, field_specifiers=(msgspec.field,))
class Entity(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """``stamp`` is the draft's mark of the last change; it is not part of the state.

    Entities never form cycles, so the garbage collector need not visit each of them again and again (``gc=False``).
    """

    stamp: int = 0


class Account(Entity, kw_only=True, omit_defaults=True):
    """An account.

    Attributes:
        budgets: in the order of their creation.
        allocations: unit → the budget that is carved out.
        gate: when its confidence gate closes; ``gates``: the closed ones, key of the task → until when.
        tasks, asked, decided: names of tasks by key, why overrides were asked for and decided so by id; the newest.
        loans: those in which it borrows or lends and that have not ended.
    """

    number: int
    name: str | None
    parent: int | None = None
    depth: int = 1
    status: Status = "active"
    budgets: tuple[int, ...] = ()
    allocations: dict[Unit, int] = {}
    labels: dict[str, str] = {}
    priority: int = 1
    min_reserve: Amounts = {}
    template: str | None = None
    open_children: int = 0
    opened_at: int = 0
    gate: GateTerms | None = None
    gates: dict[str, int] = {}
    tasks: dict[str, str] = {}
    asked: dict[str, str] = {}
    decided: dict[str, str] = {}
    shortage: tuple[ShortageStep, ...] = ()
    loans: tuple[str, ...] = ()
    grant_strategy: GrantStrategy | None = None

    @property
    def display_name(self) -> str:
        """The name, or a stand-in once it was erased."""
        return self.name if self.name is not None else f"erased:{self.number}"


class Budget(Entity, kw_only=True, omit_defaults=True):
    """A budget, or (``allocated``) an allocation, which is a budget whose limit is held on the chain above.

    ``asking``: how many overrides of it are pending.
    """

    number: int
    account: int
    name: str
    unit: Unit
    period: str
    zone: str
    version: int = 1
    limit: int = 0
    anchor: int = 0
    next_period: str | None = None
    next_zone: str | None = None
    thresholds: dict[int, Severity] = {}
    mode: Mode = "enforce"
    match: dict[str, str] = {}
    on_exhaustion: ExhaustionPolicy = "deny"
    carry_over: CarryOver = "none"
    carry_max: int | None = None
    carry_debt: bool = False
    allocated: bool = False
    valid_until: int | None = None
    for_good: bool = False
    removed: bool = False
    cell: int = 0
    override: OverridePolicy | None = None
    asking: int = 0


class Cell(Entity, kw_only=True, omit_defaults=True):
    """The balance of one window of one budget, in the budget's unit.

    limit = max(0, base + carried + raised − lowered) + lapsing;
    free = limit − (covered + held + quarantined + uncovered).

    Attributes:
        covered, held, quarantined, uncovered: P, H, Q, O.
        carried: what came from the window before, less what left for the one after.
        raised, lowered: sums of the active adjustments; ``overridden``: those of ``raised`` that are overrides.
        lapsing: what ended adjustments still cover because it is in use.
        standing: the part of ``held`` that live allocations hold.
        debt, heir: what of ``uncovered`` was carried here, and the window that what was left or owed was carried to.
        open: holds, quarantines and allocations that pin this cell.
        fired: the highest threshold that fired; ``alert_at``: the use at which the next one does.
        allocated, pins, cover, phase: of an allocation: that it is one, the cells above,
            what is covered there, live, parked or ended.
        forced: its limit was cut below use, or its mode made stricter, by force: E2 does not speak of it.
        shown_covered, shown_held, shown_uncovered: how it is seen from each pin now.
        spared, spared_amount: holds that it would have refused if it enforced, and by how much they did not fit.
    """

    number: int
    budget: int
    account: int
    unit: Unit
    start: int
    end: int
    base: int
    alert_at: int
    enforce: bool = True
    carried: int = 0
    raised: int = 0
    lowered: int = 0
    overridden: int = 0
    lapsing: int = 0
    covered: int = 0
    held: int = 0
    quarantined: int = 0
    uncovered: int = 0
    standing: int = 0
    free: int = 0
    debt: int = 0
    heir: int = 0
    open: int = 0
    fired: int = 0
    allocated: bool = False
    pins: tuple[int, ...] = ()
    phase: int = LIVE
    cover: int = 0
    forced: bool = False
    shown_covered: int = 0
    shown_held: int = 0
    shown_uncovered: int = 0
    spared: int = 0
    spared_amount: int = 0

    @property
    def used(self) -> int:
        """P + H + Q + O."""
        return self.covered + self.held + self.quarantined + self.uncovered

    @property
    def counted(self) -> int:
        """P + Q + O: what thresholds look at."""
        return self.covered + self.quarantined + self.uncovered

    @property
    def limit(self) -> int:
        """L, never below 0."""
        return max(0, self.base + self.carried + self.raised - self.lowered) + self.lapsing

    @property
    def granted(self) -> int:
        """What may be used here: the limit; of an allocation that is parked or has ended, what it still covers."""
        return self.limit if self.phase == LIVE else self.cover


class Ticket(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a reserve waits for: ``needed`` in ``cell``, in the order of ``turn`` and ``order``, until ``until``.

    ``window_end``: of the cell; never for an allocation, whose end frees nothing. ``least``, ``alternatives``: what
    would do instead; ``needed`` is the least of that.
    """

    cell: int
    window_end: int
    needed: int
    turn: int
    order: int
    until: int
    leave: Amounts = {}
    least: Amounts = {}
    alternatives: tuple[Alternative, ...] = ()
    attributes: dict[str, str] = {}
    steps: tuple[ShortageStep, ...] = ()

    def is_before(self, other: Ticket | None) -> bool:
        """Whether it comes before another one."""
        return other is None or (self.turn, self.order) < (other.turn, other.order)


class Hold(Entity, kw_only=True, omit_defaults=True):
    """A reservation, or what was booked without one (``reserved`` empty).

    ``reserved``, ``booked`` and ``covered`` per unit; remaining = reserved − covered while open (held, or expired and
    not closed). ``estimated``: its quarantine was closed as a charge, so a late reading replaces it. ``kept``: an
    estimate that was too high and stays on windows that are gone; a later rise counts from there for them. ``task``:
    the key of the task that the call named. ``ticket``: of one that waits, or waited in vain (``ended``: why).
    ``unclaimed``: it has waited and been admitted, and nobody has been told yet.
    ``steps``, ``loans``, ``granted``, ``model``: what was done because there was no room (see ``ShortageMet``).
    """

    id: str
    account: int
    also: tuple[int, ...] = ()
    cells: CellsByUnit = {}
    asked: Amounts = {}
    attributes_check: int = 0
    lease_s: int = 0
    at: int = 0
    first_expires_at: int = 0
    expires_at: int = 0
    closes_at: int | None = None
    state: HoldState = "held"
    open: bool = False
    tombstone: bool = False
    recorded: bool = False
    estimated: bool = False
    reserved: Amounts = {}
    booked: Amounts = {}
    covered: Amounts = {}
    kept: Amounts = {}
    warned: tuple[int, ...] = ()
    task: str = ""
    ticket: Ticket | None = None
    ended: str = ""
    unclaimed: bool = False

    @property
    def ticket_due(self) -> int:
        """When something becomes of one that waits: the end of its lease, or of the window that it waits for."""
        return self.expires_at if self.ticket is None else min(self.expires_at, self.ticket.window_end)

    steps: tuple[ShortageStep, ...] = ()
    loans: tuple[str, ...] = ()
    granted: Amounts = {}
    model: str | None = None


class Adjustment(Entity, kw_only=True, omit_defaults=True):
    """A recorded change of a window's limit."""

    id: str
    account: int
    budget: int
    cell: int
    amount: int
    valid_until: int | None = None
    ends_at: int | None = None
    active: bool = True
    override: bool = False


class Override(Entity, kw_only=True, omit_defaults=True):
    """A request to raise the limit of a window, and what became of it. Why it was asked stands with the account.

    ``wanted_until``, ``valid_s``: how long it was to be valid; ``valid_until``: how long what was granted is.
    """

    id: str
    account: int
    budget: int
    cell: int
    asked: int
    closes_at: int
    open_s: int
    at: int
    wanted_until: int | None = None
    valid_s: int | None = None
    requested_by: str = ""
    state: OverrideState = "pending"
    amount: int = 0
    valid_until: int | None = None
    decided_by: str | None = None
    decided_at: int | None = None


class Loan(Entity, kw_only=True, omit_defaults=True):
    """Allocation that was moved for a time. ``parts``: (lender, amount) as it was lent; ``returned`` likewise."""

    id: str
    account: int
    unit: Unit
    parts: tuple[tuple[int, int], ...]
    hold: str | None = None
    ends_at: int | None = None
    active: bool = True
    returned: tuple[tuple[int, int], ...] = ()


class Template(Entity, kw_only=True, omit_defaults=True):
    """How accounts are opened when first used."""

    pattern: str
    parent: int | None = None
    budgets: tuple[TemplateBudget, ...] = ()
    allocations: Amounts = {}
    priority: int = 1
    max_children: int = 0
    max_new_per_minute: int = 0
    idle_close_s: int | None = None
    gate: GateTerms | None = None
    minute: int = 0
    opened_in_minute: int = 0
    removed: bool = False
    shortage: tuple[ShortageStep, ...] = ()
    grant_strategy: GrantStrategy | None = None


class Key(Entity, kw_only=True, omit_defaults=True):
    """An API key, by its keyed hash."""

    key: str
    digest: str
    role: Role
    account: int | None = None
    may_open: bool = False
    expires_at: int | None = None
    requests_per_minute: int | None = None
    label: str = ""
    revoked: bool = False


class Price(Entity, kw_only=True, omit_defaults=True):
    """What a model costs, as we state it: the newest of its ``terms`` last, each until the next one begins."""

    price: str
    provider: str
    model: str
    terms: tuple[PriceTerms, ...]
    order: int
    service_tier: str | None = None
    removed: bool = False


AnyEntity = Account | Budget | Cell | Hold | Adjustment | Template | Key | Override | Loan | Price
ENTITY_TYPES: dict[Kind, type[AnyEntity]] = {
    "account": Account,
    "budget": Budget,
    "cell": Cell,
    "hold": Hold,
    "adjustment": Adjustment,
    "template": Template,
    "key": Key,
    "override": Override,
    "loan": Loan,
    "price": Price,
}
ACCOUNTS_KIND: Kind = "account"

K = TypeVar("K", int, str)
V = TypeVar("V", Account, Budget, Cell, Hold, Adjustment, Template, Key, Override, Loan, Price)


class Table(dict[K, V], Generic[K, V]):
    """Entities of one kind by number or id. What is not in memory is asked of ``load``, once, when it is needed.

    ``changed`` is whoever's who keeps a copy: the keys of what the copy lacks, in the order of their first change.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.load: Callable[[K], V | None] | None = None
        self.absent: set[K] = set()
        self.changed: dict[K, None] = {}

    def find(self, key: K) -> V | None:
        """The entity, or None if there is none at all; ``absent`` are keys that were looked for just now in vain."""
        entity = self.get(key)
        if entity is None and self.load is not None and key not in self.absent:
            entity = self.load(key)
            if entity is not None:
                self[key] = entity
        return entity

    def __missing__(self, key: K) -> V:
        entity = self.find(key)
        if entity is None:
            raise KeyError(f"{self.kind} {key!r} is not in the ledger")
        return entity


class Names(dict[str, int]):
    """Account numbers by name, with the same loading on need."""

    def __init__(self) -> None:
        super().__init__()
        self.load: Callable[[str], int | None] | None = None

    def find(self, name: str) -> int | None:
        """The number of the account with this name, or None."""
        number = self.get(name)
        if number is None and self.load is not None:
            number = self.load(name)
            if number is not None:
                self[name] = number
        return number


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that decide.

    Attributes:
        quarantine_ms, quarantine: how long an expired hold stays in quarantine, and what becomes of it then.
        wait_ageing_ms: who has waited so much longer stands before a priority that is one higher.
        waiting_max, waiting_per_budget_max: how many reserves may wait, in all and for one budget.
    """

    quarantine_ms: int = 86_400_000
    quarantine: QuarantinePolicy = "charge"
    wait_ageing_ms: int = 30_000
    waiting_max: int = 1_000
    waiting_per_budget_max: int = 100


class Route(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a call of an account is charged: cells by unit, in order, until ``valid_until`` (ms).

    ``blocked``: cells of allocations that have ended and cannot be carved again now, and why.
    """

    cells: CellsByUnit
    order: tuple[int, ...]
    enforced: frozenset[Unit]
    valid_until: int
    blocked: tuple[tuple[int, Refused], ...] = ()


class Booking(msgspec.Struct, frozen=True, gc=False):
    """What the transaction's event at ``index`` added to what is booked; negative where an estimate was too high."""

    index: int
    hold: str
    account: int
    also: tuple[int, ...]
    amounts: Amounts
    uncovered: Amounts
    estimated: bool = False


Mark = tuple[int, int, int, int, int, int]
Undo = tuple[dict[Any, Any], Any, Any]
"""(table, key, what was there; None: nothing)."""

Deadline = tuple[int, int, int, Kind, int | str]
"""(at, rank, −depth, kind, key): what is due, in the order of design.md §3."""


class Draft:
    """The state of one tenant with what a running transaction has changed.

    ``emit`` folds an event at once and remembers it, so that the next step of the same command sees it. ``mark`` and
    ``rollback`` undo to a point; ``take`` ends the transaction and hands out the events.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.format = FORMAT
        """Format of the events that may be written: nodes of older versions may be reading them."""
        self.accounts: Table[int, Account] = Table("account")
        self.budgets: Table[int, Budget] = Table("budget")
        self.cells: Table[int, Cell] = Table("cell")
        self.holds: Table[str, Hold] = Table("hold")
        self.adjustments: Table[str, Adjustment] = Table("adjustment")
        self.templates: Table[str, Template] = Table("template")
        self.keys: Table[str, Key] = Table("key")
        self.overrides: Table[str, Override] = Table("override")
        self.loans: Table[str, Loan] = Table("loan")
        self.prices: Table[str, Price] = Table("price")
        self.names = Names()
        self.accounts_opened = 0
        self.budgets_made = 0
        self.cells_opened = 0
        self.deadlines: list[Deadline] = []
        self.waiting: dict[int, tuple[str, ...]] = {}
        """By cell: ids of the reserves that wait for it, in their order."""
        self.admits = True
        """Whether who waits is admitted; not while the figures are in doubt."""
        self.routes: dict[int, Route] = {}
        self.carved_below: Callable[[int], Iterable[int]] | None = None
        self.carved_since: dict[int, set[int]] = {}
        """By account: those at or below it that got an allocation since they were loaded; may name too many."""
        self.alerts: list[int] = []
        self.events: list[AnyEvent] = []
        self.bookings: list[Booking] = []
        self.now = 0
        self._undo: list[Undo] = []
        self._popped: list[Deadline] = []
        self.stamp = 1
        self._fold: Callable[[Draft, AnyEvent, int], None] | None = None

    # -- changing, for fold only ---------------------------------------------------------------------------------

    def edit(self, table: Table[K, V], key: K) -> V:
        """The entity, ready to be changed."""
        entity = table[key]
        if entity.stamp != self.stamp:
            self._undo.append((table, key, entity.__copy__()))  # type: ignore[attr-defined]  # what copy.copy calls
            entity.stamp = self.stamp
        return entity

    def add(self, table: Table[K, V], key: K, entity: V) -> V:
        """A new entity."""
        self._undo.append((table, key, table.get(key)))
        entity.stamp = self.stamp
        table[key] = entity
        return entity

    def name(self, name: str, number: int | None) -> None:
        """Bind a name to an account, or (None) forget it."""
        self._undo.append((self.names, name, self.names.get(name)))
        if number is None:
            self.names.pop(name, None)
        else:
            self.names[name] = number

    def remember_carved(self, account: Account) -> None:
        """An account got an allocation: what looks for those below an account finds it before the views know of it."""
        above: Account | None = account
        while above is not None:
            self.carved_since.setdefault(above.number, set()).add(account.number)
            above = self.accounts[above.parent] if above.parent is not None else None

    def enter_line(self, hold: Hold) -> None:
        """A reserve waits for the cell of its ticket: behind those whose turn comes before its own."""
        ticket = hold.ticket
        assert ticket is not None, "what waits has a ticket"
        ids = self.waiting.get(ticket.cell, ())
        place = len(ids)
        while place and ticket.is_before(self.holds[ids[place - 1]].ticket):
            place -= 1
        self._undo.append((self.waiting, ticket.cell, ids or None))
        self.waiting[ticket.cell] = (*ids[:place], hold.id, *ids[place:])

    def leave_line(self, hold: Hold) -> None:
        """A reserve waits for the cell of its ticket no longer."""
        ticket = hold.ticket
        assert ticket is not None, "what waits has a ticket"
        ids = self.waiting[ticket.cell]
        self._undo.append((self.waiting, ticket.cell, ids))
        rest = tuple(id for id in ids if id != hold.id)
        if rest:
            self.waiting[ticket.cell] = rest
        else:
            del self.waiting[ticket.cell]

    def line_up(self) -> None:
        """Find the order of those that wait anew, from the holds in memory."""
        self.waiting.clear()
        for hold in self.holds.values():
            if hold.state == "waiting":
                self.enter_line(hold)

    def due(self, at: int, rank: int, depth: int, kind: Kind, key: int | str) -> None:
        """Remember that an entity is due; a stale entry does no harm, it is checked when it is reached."""
        heappush(self.deadlines, (at, rank, -depth, kind, key))

    # -- transactions --------------------------------------------------------------------------------------------

    def use_fold(self, fold: Callable[[Draft, AnyEvent, int], None]) -> None:
        """Name the function that applies events."""
        self._fold = fold

    def emit(self, event: AnyEvent) -> None:
        """Apply an event now and keep it for the journal."""
        assert self._fold is not None, "a draft folds with the function it was given"
        self._fold(self, event, self.now)
        self.events.append(event)

    def isolate(self) -> None:
        """From here on, what is changed again is remembered again: to be called before a change that may be undone."""
        self.stamp += 1

    def mark(self) -> Mark:
        """A point to roll back to; what changes after it has to be isolated."""
        return (
            len(self._undo),
            len(self.events),
            len(self._popped),
            self.accounts_opened,
            self.budgets_made,
            self.cells_opened,
        )

    def touched_cells(self, mark: Mark) -> set[int]:
        """Cells that may have room since ``mark``: they, their budget or who waits for them have changed."""
        cells: set[int] = set()
        for table, key, _ in self._undo[mark[0] :]:
            if table is self.cells or table is self.waiting:
                cells.add(key)
            elif table is self.budgets:
                cells.add(self.budgets[key].cell)
        return cells

    def rollback(self, mark: Mark) -> None:
        """Undo all that happened since ``mark``."""
        undone, event_count, popped, self.accounts_opened, self.budgets_made, self.cells_opened = mark
        undo = self._undo
        if len(undo) > undone:
            for table, key, before in reversed(undo[undone:]):
                if before is None:
                    table.pop(key, None)
                else:
                    table[key] = before
            del undo[undone:]
            self.routes.clear()
        del self.events[event_count:]
        while self.bookings and self.bookings[-1].index >= event_count:
            self.bookings.pop()
        for deadline in self._popped[popped:]:
            heappush(self.deadlines, deadline)
        del self._popped[popped:]
        self.alerts.clear()
        self.stamp += 1

    def commit(self) -> list[Undo]:
        """End the transaction for good; returns all that it touched, with repetitions."""
        touched, self._undo = self._undo, []
        self._popped.clear()
        self.events = []
        self.bookings = []
        self.alerts.clear()
        self.stamp += 1
        return touched

    def pop_deadline(self) -> Deadline:
        """Take the earliest entry; it comes back if the transaction is rolled back."""
        deadline = heappop(self.deadlines)
        self._popped.append(deadline)
        return deadline

    def next_deadline(self) -> Deadline | None:
        """The earliest entry, or None."""
        return self.deadlines[0] if self.deadlines else None

    def sweep(self, is_valid: Callable[[Deadline], bool]) -> None:
        """Drop stale deadlines. Most are those of holds in memory that have ended: nobody looks at them one by one."""
        ended = {id for id, hold in self.holds.items() if not hold.open}
        self.deadlines = [
            deadline
            for deadline in self.deadlines
            if not (deadline[4] in ended and deadline[3] == "hold") and is_valid(deadline)
        ]
        heapify(self.deadlines)
