"""An independent model of the ledger: plain lists, and every balance summed up from scratch whenever it is asked for.

It is written from the texts of the design alone (words, invariants, edge rules), not from the code of the core, and is
meant to be obviously right rather than fast. Where the texts leave something open, ``README.md`` beside this file has a
numbered question with the choice made; ``Q7`` in a comment points to it.

    model = Model()
    model.decide(PutAccount(account="global"), now_ms=0)    # -> Answer or Refusal
    model.balances()                                        # -> {("global", "tokens-day"): Cell figures, …}
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import UNSET

from fiscus.core import commands
from fiscus.core.units import AMOUNT_MAX, UNITS, Amounts, Unit, completed
from tests.model import lending
from tests.model.granting import (
    Override,
    close_gate,
    decision_refusal,
    ends_at,
    expire_requests,
    is_gated,
    override_state,
    policy_of,
    request_refusal,
    room_for_overrides,
    task_of,
)

QUARANTINE_MS = 24 * 3600 * 1000
FINAL = ("terminated", "closed")
STATUS_CODE = {"suspended": "account_suspended", "terminated": "account_terminated", "closed": "account_closed"}
FOREVER = 2**63


# ------------------------------------------------------------------------------------------------ what comes out


@dataclass(frozen=True)
class Refusal:
    """The command changed nothing. ``account`` and ``budget`` name the cell that binds (budget None: an allocation)."""

    code: str
    account: str | None = None
    budget: str | None = None
    unit: str | None = None
    requested: int | None = None
    index: int | None = None


@dataclass(frozen=True)
class Answer:
    """The command was done. ``values`` are the figures worth comparing."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)


class Refuse(Exception):
    """Leaves a decision; everything that was changed before is put back."""

    def __init__(
        self, code: str, cell: int | None = None, requested: int | None = None, index: int | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.cell = cell
        self.requested = requested
        self.index = index
        self.refusal = Refusal(code=code)
        self.exhausted = False


# ---------------------------------------------------------------------------------------------- what is on the books


@dataclass
class Account:
    name: str
    parent: str | None
    number: int
    status: str = "active"
    priority: int = 1
    min_reserve: Amounts = field(default_factory=dict)
    threshold: float | None = None
    gate_s: int | None = None
    closed: dict[str, int] = field(default_factory=dict)
    """Confidence gates: task → until when."""


@dataclass
class Budget:
    account: str
    name: str
    unit: Unit
    limit: int
    period: str
    zone: str
    period_next: str
    zone_next: str
    thresholds: dict[int, str]
    mode: str
    match: dict[str, str]
    on_exhaustion: str
    carry_over: str
    carry_max: int | None
    carry_debt: bool
    anchor: int
    number: int
    version: int = 1
    window: int = 0
    removed: bool = False
    override: Any = None


@dataclass
class Window:
    """One period of one budget. ``end`` None: never."""

    key: int
    budget: int
    start: int
    end: int | None
    base: int
    carried_in: int = 0
    carried_out: int = 0
    debt_in: int = 0
    debt_out: int = 0
    ended: bool = False
    successor: int | None = None
    fired: int = 0
    """The highest threshold that fired."""
    alarmed: bool = False
    enforce: bool = True
    level: int = 0
    limit_seen: int = 0


@dataclass
class Slice:
    """One carving of an allocation. ``live``: it holds ``size``; else it covers ``cover``, which only shrinks."""

    key: int
    account: str
    unit: Unit
    size: int
    pins: list[int]
    grant: int
    live: bool = True
    ended: bool = False
    cover: int = 0


@dataclass
class Grant:
    """That an account is allocated in a unit (and not shared). ``over``: its validity has passed."""

    account: str
    unit: Unit
    size: int
    valid_until: int | None
    on_exhaustion: str
    number: int
    slice: int
    over: bool = False


@dataclass
class Adjustment:
    id: str
    account: str
    budget: int
    window: int
    amount: int
    valid_until: int | None
    body: Any
    active: bool = True
    cover: int = 0


@dataclass
class Line:
    """What one hold has in one cell. ``remaining`` is H while the hold is open and Q when it has expired."""

    cell: int
    unit: Unit
    covered: int = 0
    uncovered: int = 0
    remaining: int = 0
    elsewhere: int = 0
    """Booked as O in a later window, because this one was gone."""
    highest: int = 0
    """The highest total that was booked in what runs in the place of gone windows above."""

    @property
    def booked(self) -> int:
        return self.covered + self.uncovered + self.elsewhere


@dataclass
class Hold:
    id: str
    account: str
    also: tuple[str, ...]
    state: str
    reserved: Amounts
    lines: list[Line]
    own: list[Line]
    """The hold's own figures, a line per unit that belongs to no cell."""
    extra: list[Line] = field(default_factory=list)
    reading: Amounts = field(default_factory=dict)
    expires_at: int | None = None
    quarantine_open: bool = False
    recorded: bool = False
    body: Any = None
    answer: Answer | None = None


@dataclass(frozen=True)
class Figures:
    """A cell as it is seen from outside."""

    limit: int
    covered: int
    held: int
    quarantined: int
    uncovered: int
    start: int | None = None
    end: int | None = None
    allocated: bool = False

    @property
    def in_use(self) -> int:
        return self.covered + self.held + self.quarantined + self.uncovered

    @property
    def available(self) -> int:
        return self.limit - self.in_use


class Model:
    """The whole ledger of one tenant. ``quarantine`` is what becomes of an expired hold after 24 hours."""

    def __init__(self, quarantine: str = "charge") -> None:
        self.quarantine = quarantine
        self.now = 0
        self.looked_at = 0
        self.accounts: dict[str, Account] = {}
        self.budgets: dict[int, Budget] = {}
        self.cells: dict[int, Window | Slice] = {}
        self.grants: dict[tuple[str, Unit], Grant] = {}
        self.adjustments: dict[str, Adjustment] = {}
        self.overrides: dict[str, Override] = {}
        self.actor = ""
        self.holds: dict[str, Hold] = {}
        self.loans: dict[str, lending.Loan] = {}
        self.templates: dict[str, commands.PutTemplate] = {}
        self.crossed: list[tuple[int, int]] = []
        """(number of the budget, percent), in order."""
        self.next_number = 1

    # ------------------------------------------------------------------------------------------------- deciding

    def decide(
        self,
        command: Any,
        now_ms: int,
        *,
        scope: str | None = None,
        may_open: bool = True,
        actor: str = "",
    ) -> Answer | Refusal:
        """What becomes of one command at ``now_ms``. Time goes on even when it is refused; nothing else does."""
        self.advance(now_ms)
        self.actor = actor
        if not is_well_formed(command):
            parts = command.commands if isinstance(command, commands.Compound) else ()
            wrong = [index for index, each in enumerate(parts) if not is_well_formed(each)]
            return Refusal(code="invalid", index=wrong[0] if wrong else None)
        saved = self._saved()
        try:
            answer = self._do(command, scope, may_open)
        except Refuse as refuse:
            self._explain(refuse)
            self.__dict__.update(saved)
            if isinstance(command, commands.Compound):
                self._settle_alone(command, scope, may_open)
                refuse.exhausted = refuse.exhausted and self._is_exhausted(refuse.cell)
            self._act_on_exhaustion(refuse)
            return refuse.refusal
        return answer

    def _saved(self) -> dict[str, Any]:
        return pickle.loads(pickle.dumps(self.__dict__))  # a third of the time that deepcopy takes

    def _do(self, command: Any, scope: str | None, may_open: bool, within: bool = False) -> Answer:
        does: dict[type, Callable[..., Answer]] = {
            commands.Reserve: self._reserve,
            commands.Extend: self._extend,
            commands.Settle: self._settle,
            commands.Release: self._release,
            commands.PutAccount: self._put_account,
            commands.SetStatus: self._set_status,
            commands.PutBudget: self._put_budget,
            commands.RemoveBudget: self._remove_budget,
            commands.Allocate: self._allocate,
            commands.Deallocate: self._deallocate,
            commands.Transfer: self._transfer,
            commands.Lend: self._lend,
            commands.GiveBack: self._give_back,
            commands.Adjust: self._adjust,
            commands.EndAdjustment: self._end_adjustment,
            commands.RequestOverride: self._request_override,
            commands.ApproveOverride: self._approve_override,
            commands.DenyOverride: self._deny_override,
            commands.RevokeOverride: self._revoke_override,
            commands.ResetGate: self._reset_gate,
            commands.PutTemplate: self._put_template,
            commands.RemoveTemplate: self._remove_template,
            commands.Compound: self._compound,
        }
        answer = does[type(command)](command, scope, may_open)
        self._tidy(alerts=not within)
        return answer

    def _explain(self, refuse: Refuse) -> None:
        """Name the binding cell while it is still there, and note whether it is exhausted."""
        account = budget = unit = None
        if refuse.cell is not None:
            cell = self.cells[refuse.cell]
            figures = self.figures(cell.key)
            spent = figures.covered + figures.quarantined + figures.uncovered
            refuse.exhausted = refuse.code == "budget_exceeded" and spent >= figures.limit
            if isinstance(cell, Window):
                its = self.budgets[cell.budget]
                account, budget, unit = its.account, its.name, its.unit
            else:
                account, unit = cell.account, cell.unit
        refuse.refusal = Refusal(
            code=refuse.code, account=account, budget=budget, unit=unit, requested=refuse.requested, index=refuse.index
        )

    def _is_exhausted(self, key: Any) -> bool:
        """Whether nothing is left in a cell, also without what a refused compound would have done."""
        cell = self.cells.get(key)
        if cell is None or (isinstance(cell, Window) and not cell.enforce):
            return False
        figures = self.figures(key)
        return figures.covered + figures.quarantined + figures.uncovered >= figures.limit

    def _act_on_exhaustion(self, refuse: Refuse) -> None:
        """The refusal changes nothing; what the policy then does is a command of its own (Q22)."""
        refusal = refuse.refusal
        if not refuse.exhausted or (refuse.requested or 0) <= 0:
            return
        item: Budget | Grant | None
        if refusal.budget is None:
            item = self.grants.get((refusal.account, refusal.unit))
            item = None if item is not None and item.over else item
        else:
            item = self._find_budget(refusal.account, refusal.budget)
        if item is not None and item.on_exhaustion != "deny" and self.accounts[refusal.account].status == "active":
            self._change_status(refusal.account, "suspended" if item.on_exhaustion == "suspend" else "terminated")
            self._tidy()

    def _compound(self, command: commands.Compound, scope: str | None, may_open: bool) -> Answer:
        """In order, all or none."""
        answers: list[Answer] = []
        for index, each in enumerate(command.commands):
            try:
                answers.append(self._do(each, scope, may_open, within=True))
            except Refuse as refuse:
                refuse.index = index  # Q12
                raise
        return Answer("compound", {"answers": tuple(answers)})

    def _settle_alone(self, command: commands.Compound, scope: str | None, may_open: bool) -> None:
        """What was spent stays booked when the rest of a compound is undone."""
        for each in command.commands:
            if isinstance(each, commands.Settle):
                self.decide(each, self.now, scope=scope, may_open=may_open)

    # ------------------------------------------------------------------------------------------- sums from scratch

    def figures(self, key: int) -> Figures:
        """L, P, H, Q, O of a cell: the sum over all holds, usage and allocations pinned to it (E3, E4, E13)."""
        cell = self.cells[key]
        covered = held = quarantined = uncovered = 0
        for hold in self.holds.values():
            for line in hold.lines + hold.extra:
                if line.cell == key:
                    covered += line.covered
                    uncovered += line.uncovered
                    if hold.state == "held":
                        held += line.remaining
                    elif hold.state == "expired":
                        quarantined += line.remaining
        for each in self._slices_on(key):
            p, h, o = self.seen(each)
            covered, held, uncovered = covered + p, held + h, uncovered + o
        if isinstance(cell, Slice):
            return Figures(self.limit(key), covered, held, quarantined, uncovered, allocated=True)
        uncovered += cell.debt_in - cell.debt_out
        return Figures(self.limit(key), covered, held, quarantined, uncovered, cell.start, cell.end)

    def limit(self, key: int) -> int:
        """L = base + Σ adjustments; of an allocation its size, or what it still covers when it is parked or ended."""
        cell = self.cells[key]
        if isinstance(cell, Slice):
            return cell.size if cell.live else cell.cover
        covers = sum(a.cover for a in self.adjustments.values() if a.window == key and not a.active)
        return max(0, self._sum_of(key)) + covers  # Q1

    def seen(self, piece: Slice) -> tuple[int, int, int]:
        """P, H, O of an allocation as each cell above sees it: the three equations."""
        own = self.figures(piece.key)
        spent = own.covered + own.uncovered
        size = own.limit
        return min(size, spent), max(0, size - spent), max(0, spent - size)

    def _slices_on(self, key: int) -> Iterator[Slice]:
        for cell in self.cells.values():
            if isinstance(cell, Slice) and key in cell.pins:
                yield cell

    def balances(self) -> dict[tuple[str, str], Figures]:
        """The running window of every budget, and ``(account, "@unit")`` for allocations."""
        seen = {(b.account, b.name): self.figures(b.window) for b in self.budgets.values() if not b.removed}
        for grant in self.grants.values():
            seen[(grant.account, f"@{grant.unit}")] = self.figures(grant.slice)
        return seen

    def balances_ended(self) -> dict[tuple[str, str, int], Figures]:
        """Ended windows that are not gone, by account, budget and start."""
        found = {}
        for cell in self.cells.values():
            if isinstance(cell, Window) and cell.ended and not self.gone(cell.key):
                budget = self.budgets[cell.budget]
                if not budget.removed:
                    found[(budget.account, budget.name, cell.start)] = self.figures(cell.key)
        return found

    def status_effective(self, name: str) -> str:
        """The first status on the way to the root that is not active."""
        for account in self.chain(name):
            if account.status != "active":
                return account.status
        return "active"

    # ---------------------------------------------------------------------------------------------- time goes on

    def advance(self, now_ms: int) -> None:
        """Do everything that is due up to and including ``now_ms``, instant by instant."""
        now_ms = self.looked_at = max(self.now, now_ms)
        while (instant := self._next_due()) <= now_ms:
            self.now = max(self.now, instant)
            self._expire(instant)
            self._close_quarantines(instant)
            self._end_adjustments(instant)
            self._end_allocations(instant)
            expire_requests(self, instant)
            self._end_windows(instant)
            lending.end_due(self, instant, Refuse)
            self._tidy()
        self.now = now_ms
        self._note_what_is_over()

    def _next_due(self) -> int:
        due = [hold.expires_at for hold in self.holds.values() if hold.state == "held"]
        due += [hold.expires_at + QUARANTINE_MS for hold in self.holds.values() if hold.quarantine_open]
        due += [a.valid_until for a in self.adjustments.values() if a.active and a.valid_until is not None]
        due += [one.closes_at for one in self.overrides.values() if one.state == "pending"]
        due += [loan.ends_at for loan in self.loans.values() if lending.is_due(loan) and loan.ends_at is not None]
        for cell in self.cells.values():
            if isinstance(cell, Slice):
                if not cell.ended:
                    due.append(self._end_of(cell))
            elif not cell.ended and cell.end is not None:
                due.append(cell.end)
        return min(due, default=FOREVER)

    def _expire(self, instant: int) -> None:
        for hold in self.holds.values():
            if hold.state == "held" and hold.expires_at <= instant:
                hold.state = "expired"
                hold.quarantine_open = True
        self._tidy()

    def _close_quarantines(self, instant: int) -> None:
        for hold in [self.holds[id] for id in list(self.holds)]:
            if hold.quarantine_open and hold.expires_at + QUARANTINE_MS <= instant:
                hold.quarantine_open = False
                for line in hold.lines + hold.own:
                    estimate = line.covered + line.remaining if self.quarantine == "charge" else 0
                    book(line, max(estimate, line.booked), final=True)
                self._tidy()
                lending.end_of_hold(self, hold.id, Refuse)
        self._tidy()

    def _end_adjustments(self, instant: int) -> None:
        for adjustment in self.adjustments.values():
            window = self.cells[adjustment.window]
            with_its_window = not window.ended and window.end is not None and window.end <= instant  # Q20
            if adjustment.active and (adjustment.valid_until or FOREVER) <= instant and not with_its_window:
                self._lapse(adjustment)
                self._tidy_covers()
                self._watch_thresholds()
        self._tidy()

    def _lapse(self, adjustment: Adjustment) -> None:
        """An adjustment that ends keeps covering what is in use above the rest."""
        in_use = self.figures(adjustment.window).in_use
        before = self.limit(adjustment.window)
        adjustment.active = False
        adjustment.cover = 0
        if adjustment.amount > 0:
            rest = self.limit(adjustment.window)
            adjustment.cover = max(0, min(in_use, before) - rest)

    def _sum_of(self, key: int) -> int:
        """base + Σ active adjustments, without the floor at 0."""
        cell = self.cells[key]
        active = sum(a.amount for a in self.adjustments.values() if a.window == key and a.active)
        return cell.base + cell.carried_in - cell.carried_out + active

    def _end_of(self, piece: Slice) -> int:
        """The earliest end of what an allocation is pinned to, or its own validity."""
        ends = [FOREVER]
        grant = self.grants.get((piece.account, piece.unit))
        if grant is not None and grant.slice == piece.key and grant.valid_until is not None and not grant.over:
            ends.append(grant.valid_until)
        for pin in piece.pins:
            above = self.cells[pin]
            if isinstance(above, Slice):
                ends.append(0 if above.ended else self._end_of(above))
            elif above.end is not None:  # Q2: also when its budget was removed
                ends.append(above.end)
        return min(ends)

    def _end_allocations(self, instant: int) -> None:
        pieces = [c for c in self.cells.values() if isinstance(c, Slice) and not c.ended]
        for piece in sorted(pieces, key=lambda p: -len(self.chain(p.account))):
            if self._end_of(piece) <= instant:
                self._end_slice(piece)
        self._note_what_is_over()
        self._tidy()

    def _note_what_is_over(self) -> None:
        for grant in self.grants.values():
            if grant.valid_until is not None and grant.valid_until <= self.now:
                grant.over = True

    def _end_slice(self, piece: Slice) -> None:
        """From now on it covers only what is in use."""
        self._park(piece)
        piece.ended = True

    def _park(self, piece: Slice) -> None:
        piece.cover = min(self.limit(piece.key), self.figures(piece.key).in_use)
        piece.live = False
        self._tidy_covers()

    def _end_windows(self, instant: int) -> None:
        for budget in self.budgets.values():
            window = self.cells[budget.window]
            if not budget.removed and window.end is not None and window.end <= instant:
                self._open_successor(budget, window)
            elif budget.removed and window.end is not None and window.end <= instant:
                window.ended = True
        self._tidy()

    def _open_successor(self, budget: Budget, old: Window) -> None:
        figures = self.figures(old.key)
        carried = debt = 0
        if budget.carry_over == "unused":
            positive = sum(
                a.amount for a in self.adjustments.values() if a.window == old.key and a.active and a.amount > 0
            )
            without = self._sum_of(old.key) - positive - figures.in_use
            carried = max(0, without)
            if budget.carry_max is not None:
                carried = min(carried, budget.carry_max)
        if budget.carry_debt:
            debt = min(figures.uncovered, max(0, figures.in_use - figures.limit))
        for adjustment in self.adjustments.values():
            if adjustment.window == old.key and adjustment.active:
                old.base += min(0, adjustment.amount)  # Q19: what lowered it goes on doing so
                self._lapse(adjustment)
        old.ended = True
        old.carried_out = carried
        old.debt_out = debt
        if (budget.period, budget.zone) != (budget.period_next, budget.zone_next):
            budget.period, budget.zone, budget.anchor = budget.period_next, budget.zone_next, old.end
        end = window_end(budget.period, budget.zone, old.end, budget.anchor)
        new = Window(self._number(), budget.number, old.end, end, budget.limit, carried_in=carried, debt_in=debt)
        new.limit_seen = budget.limit + carried
        new.enforce = budget.mode == "enforce"
        new.level = debt  # Q15: what a window starts with is no rise
        old.successor = new.key
        self.cells[new.key] = new
        budget.window = new.key

    def _tidy(self, alerts: bool = True) -> None:
        """After each single step: what only shrinks with use shrinks, debt follows, thresholds fire (Q17)."""
        self._tidy_covers()
        self._tidy_debts()
        self._watch_thresholds()
        if alerts:
            self._fire_thresholds()
        self._forget_empty_cells()

    def _tidy_covers(self) -> None:
        pieces = [c for c in self.cells.values() if isinstance(c, Slice) and not c.live]
        for piece in sorted(pieces, key=lambda p: -len(self.chain(p.account))):
            piece.cover = min(piece.cover, self.figures(piece.key).in_use)
        for adjustment in self.adjustments.values():
            if not adjustment.active and adjustment.cover > 0:
                in_use = self.figures(adjustment.window).in_use
                rest = self.limit(adjustment.window) - adjustment.cover
                adjustment.cover = min(adjustment.cover, max(0, in_use - rest))

    def _tidy_debts(self) -> None:
        """Debt that turns out not to be one (a lower final total) leaves the window that it was carried to (Q3)."""
        for key in sorted(self.cells):
            cell = self.cells[key]
            if isinstance(cell, Window) and cell.successor is not None and cell.debt_out:
                short = -self.figures(key).uncovered
                if short > 0:
                    cell.debt_out -= short
                    self.cells[cell.successor].debt_in -= short

    def _watch_thresholds(self) -> None:
        """After each single step: notice what rises in a running window to a threshold that has not fired yet."""
        for budget in self.budgets.values():
            window = self.cells[budget.window]
            if budget.removed:
                continue
            figures = self.figures(window.key)
            level = figures.covered + figures.quarantined + figures.uncovered
            if figures.limit > window.limit_seen:
                reached = [p for p in budget.thresholds if p * figures.limit <= 100 * level]
                window.fired = min(window.fired, max(reached, default=0))
            window.limit_seen = figures.limit
            if level > window.level and (window.end is None or self.looked_at < window.end):
                window.alarmed |= any(self._reached(budget, window.key))
            window.level = level

    def _fire_thresholds(self) -> None:
        """After a command, or what is due at an instant: in order, once per window.

        What came to pass in a window that has ended when it is looked at raises no alert any more (Q15).
        """
        for budget in self.budgets.values():
            window = self.cells[budget.window]
            if window.alarmed:
                for percent in self._reached(budget, window.key):
                    window.fired = percent
                    self.crossed.append((budget.number, percent))
                window.alarmed = False

    def _reached(self, budget: Budget, key: int) -> list[int]:
        """The thresholds that P+Q+O has reached, above the highest that has fired in this window."""
        figures = self.figures(key)
        level = figures.covered + figures.quarantined + figures.uncovered
        fired = self.cells[key].fired
        return [p for p in sorted(budget.thresholds) if p > fired and p * figures.limit <= 100 * level]

    def _forget_empty_cells(self) -> None:
        """Ended cells that nothing points to; only to keep the model small."""
        used = {line.cell for hold in self.holds.values() for line in hold.lines + hold.extra}
        used |= {a.window for a in self.adjustments.values()}
        used |= {b.window for b in self.budgets.values()} | {g.slice for g in self.grants.values()}
        for cell in self.cells.values():
            if isinstance(cell, Slice):
                used |= set(cell.pins)
            elif cell.debt_in or cell.debt_out:
                used |= {cell.key, cell.successor or 0}
        self.cells = {key: cell for key, cell in self.cells.items() if not cell.ended or key in used}

    # ------------------------------------------------------------------------------------------ what is gone

    def _stale(self, key: int) -> bool:
        """A window that has ended, or an allocation that is pinned to one."""
        cell = self.cells[key]
        return cell.ended if isinstance(cell, Window) else any(self._stale(pin) for pin in cell.pins)

    def gone(self, key: int) -> bool:
        """Ended, and no open hold, no quarantine and no allocation with such pins it any more."""
        return self.cells[key].ended and self._stale(key) and not self._shared_since(key) and self._quiet(key)

    def _quiet(self, key: int) -> bool:
        """Ended, with nothing open in it or in what was carved from it."""
        cell = self.cells[key]
        for hold in self.holds.values():
            is_open = hold.state == "held" or hold.quarantine_open
            if is_open and any(line.cell == key for line in hold.lines):
                return False
        return cell.ended and all(self._quiet(piece.key) for piece in self._slices_on(key))

    def _gone_above(self, key: int) -> list[int]:
        """The cells that are gone of those that an allocation is pinned to, directly or through others."""
        found: list[int] = []
        for pin in self.cells[key].pins:
            if self.gone(pin):
                found.append(pin)
            elif isinstance(self.cells[pin], Slice):
                found += self._gone_above(pin)
        return found

    def _shared_since(self, key: int) -> bool:
        """Whether it is the cell of an allocation that was given up."""
        cell = self.cells[key]
        if isinstance(cell, Window):
            return False
        grant = self.grants.get((cell.account, cell.unit))
        return grant is None or grant.number != cell.grant

    def _landing(self, key: int) -> list[int]:
        """Where a late rise is booked: the cell itself, or when it is gone what runs in its place (Q4)."""
        cell = self.cells[key]
        if not self.gone(key):
            return [key]
        if isinstance(cell, Window):
            budget = self.budgets[cell.budget]
            return [] if budget.removed else [budget.window]
        return [self._pin(self.grants[(cell.account, cell.unit)], needed=False, usage=True)]

    # --------------------------------------------------------------------------------------------- the tree

    def _number(self) -> int:
        self.next_number += 1
        return self.next_number

    def chain(self, name: str) -> list[Account]:
        """The account and all above it, leaf first."""
        found = []
        here: str | None = name
        while here is not None:
            account = self.accounts[here]
            found.append(account)
            here = account.parent
        return found

    def _below(self, name: str) -> list[Account]:
        """The account and all below it, in the order of creation (parents before children)."""
        return [a for a in self.accounts.values() if name in [b.name for b in self.chain(a.name)]]

    def _known(self, name: str, scope: str | None = None) -> Account:
        """An account; what a scope does not cover is forbidden, whether it exists or not."""
        if scope is not None and (name not in self.accounts or not self._covers(scope, name)):
            raise Refuse("forbidden")
        if name not in self.accounts:
            raise Refuse("unknown_account")
        return self.accounts[name]

    def _covers(self, scope: str | None, name: str) -> bool:
        return scope is None or scope in [a.name for a in self.chain(name)]

    def _in_scope(self, name: str, scope: str | None) -> None:
        if not self._covers(scope, name):
            raise Refuse("forbidden")

    def _must_be_active(self, names: Iterable[str]) -> None:
        """Leaf first, up to the root, chain by chain."""
        for name in names:
            for account in self.chain(name):
                if account.status != "active":
                    raise Refuse(STATUS_CODE[account.status])

    def _find_budget(self, account: str, name: str) -> Budget | None:
        for budget in self.budgets.values():
            if budget.account == account and budget.name == name and not budget.removed:
                return budget
        return None

    def _items(self, account: str) -> list[Budget | Grant]:
        """Budgets and allocations of one account in the order of creation."""
        items: list[Budget | Grant] = [b for b in self.budgets.values() if b.account == account and not b.removed]
        items += [g for g in self.grants.values() if g.account == account]
        return sorted(items, key=lambda item: item.number)

    def _enforcing(self, key: int) -> bool:
        cell = self.cells[key]
        return isinstance(cell, Slice) or (not self.budgets[cell.budget].removed and cell.enforce)

    def _unit_of(self, key: int) -> Unit:
        cell = self.cells[key]
        return cell.unit if isinstance(cell, Slice) else self.budgets[cell.budget].unit

    def _shared(self, also: str, payer: str) -> bool:
        """Whether ``also`` is allocated in no unit, up to the first account that it has in common with the payer."""
        payers = [a.name for a in self.chain(payer)]
        for account in self.chain(also):
            if account.name in payers:
                return True
            if any((account.name, unit) in self.grants for unit in UNITS):
                return False
        return True

    def _charged(self, payer: str, also: Iterable[str], attributes: dict[str, str]) -> list[Budget | Grant]:
        """The budgets and allocations that a call of the payer is charged to, in the order of the cells."""
        found: list[Budget | Grant] = []
        above: dict[Unit, set[str]] = {unit: set() for unit in UNITS}
        payers = [a.name for a in self.chain(payer)]
        for unit in UNITS:
            for position, name in enumerate(payers):
                if (name, unit) in self.grants:
                    above[unit] = set(payers[position + 1 :])
                    break
        for chain in [payers, *[[a.name for a in self.chain(name)] for name in also]]:
            for name in chain:
                for item in self._items(name):
                    matching = isinstance(item, Budget) and bool(item.match)
                    if matching:
                        charged = all(attributes.get(k) == v for k, v in item.match.items())
                    else:
                        charged = name not in above[item.unit]
                    if charged and item not in found:
                        found.append(item)
        return found

    def _room(self, asks: Iterable[tuple[int, int] | Refuse], own: dict[int, int] | None = None) -> None:
        """Refuse if any enforcing cell lacks room; exceeded outranks busy, then the first in order.

        An allocation that could not be carved again stands in its place by the refusal of the cell above. What the hold
        itself has there (``own``) is no other call in flight.
        """
        busy: Refuse | None = None
        for ask in asks:
            if isinstance(ask, Refuse):
                if ask.code == "budget_exceeded":
                    raise ask
                busy = busy or ask
                continue
            key, amount = ask
            figures = self.figures(key)
            if not self._enforcing(key) or amount <= 0 or amount <= figures.available:
                continue
            held_by_live = sum(self.seen(piece)[1] for piece in self._slices_on(key) if piece.live)
            held_by_live += (own or {}).get(key, 0)
            spent = figures.covered + figures.quarantined + figures.uncovered
            if amount > figures.limit - spent - held_by_live:
                raise Refuse("budget_exceeded", cell=key, requested=amount)
            busy = busy or Refuse("budget_busy", cell=key, requested=amount)
        if busy is not None:
            raise busy

    # ------------------------------------------------------------------------------------------- holds

    def _reserve(self, command: commands.Reserve, scope: str | None, may_open: bool) -> Answer:
        known = self.holds.get(command.id)
        if known is not None:
            if not self._covers(scope, known.account):
                raise Refuse("conflict")
            if known.body is None:
                raise Refuse("already_settled")
            if known.body != msgspec.structs.replace(command, leave={}, loans=()):
                raise Refuse("conflict")
            return known.answer  # Q5
        self._open(command.account, command.parent, may_open, scope)
        self._in_scope(command.account, scope)
        self._open_also(command.also, command.account, may_open, scope)
        self._must_be_active([command.account, *command.also])
        if not all(self._shared(name, command.account) for name in command.also):
            raise Refuse("also_not_shared")
        if is_gated(self.accounts[command.account], command.attributes, self.now):
            raise Refuse("gated")
        amounts = completed(command.amounts)
        items = self._charged(command.account, command.also, command.attributes)
        for item in items:
            enforcing = isinstance(item, Grant) or item.mode == "enforce"
            if enforcing and item.unit not in amounts:
                raise Refuse("unit_not_bounded")
        pins, asks = [], []
        for item in items:
            amount = amounts.get(item.unit, 0)
            try:
                pins.append(self._pin(item, needed=amount > 0))
                asks.append((pins[-1], and_left(amount, item.unit, command.leave)))
            except Refuse as lacking:
                asks.append(lacking)
        self._room(asks)
        hold = Hold(
            id=command.id,
            account=command.account,
            also=command.also,
            state="held",
            reserved=amounts,
            lines=[Line(pin, self._unit_of(pin), remaining=amounts.get(self._unit_of(pin), 0)) for pin in pins],
            own=[Line(0, unit, remaining=amounts.get(unit, 0)) for unit in UNITS],
            expires_at=self.now + command.lease_s * 1000,
            body=msgspec.structs.replace(command, leave={}, loans=()),  # Q28
        )
        lending.take(self, command, Refuse)
        self.holds[command.id] = hold
        hold.answer = self._hold_answer(hold)
        return hold.answer

    def _extend(self, command: commands.Extend, scope: str | None, may_open: bool) -> Answer:
        hold = self._find_hold(command.id, scope)
        if hold.state != "held":
            raise Refuse("conflict")
        rises = {}
        for unit, total in wanted(command.to, hold).items():
            if total > hold.reserved.get(unit, 0):
                rises[unit] = total - hold.reserved.get(unit, 0)
        if rises:
            self._must_be_active([hold.account, *hold.also])
            own = {line.cell: line.remaining for line in hold.lines}
            asks = [(line.cell, and_left(rises.get(line.unit, 0), line.unit, command.leave)) for line in hold.lines]
            self._room(asks, own)
            for line in hold.lines + hold.own:
                line.remaining += rises.get(line.unit, 0)
                book(line, line.booked, final=False)  # Q24: it covers what was overrun
            for unit, rise in rises.items():
                hold.reserved[unit] = hold.reserved.get(unit, 0) + rise
        hold.expires_at = max(hold.expires_at, self.now + command.lease_s * 1000)
        return self._hold_answer(hold)

    def _settle(self, command: commands.Settle, scope: str | None, may_open: bool) -> Answer:
        total = totals(command)
        if command.id not in self.holds:
            if command.account is None:
                raise Refuse("unknown_hold")
            hold = self._book_without_hold(
                command.id,
                command.account,
                command.also,
                command.attributes,
                command.parent,
                "settled",
                may_open,
                scope,
            )
            self._rise(hold, total)
            hold.recorded = command.record is not None
            self._note_confidence(hold, command, task_of(command))
            return self._hold_answer(hold)
        hold = self._find_hold(command.id, scope)
        if hold.body is None and command.account is not None:
            others = hold.state == "settled" and command.also and set(command.also) != set(hold.also)
            if command.account != hold.account or others:
                raise Refuse("conflict")
        tells = command.record is not None and not hold.recorded  # the first record is news by itself
        is_news = tells or self._is_read(hold, command) or self._is_higher(hold, total)
        if hold.state in ("settled", "released"):
            self._rise(hold, total, touch=tells)
        elif hold.state == "held" or hold.quarantine_open:
            self._read(hold, total, command.final)
        elif command.final and self.quarantine == "charge":
            self._replace_estimate(hold, total)
        else:
            self._rise(hold, total, touch=tells)
        hold.recorded = hold.recorded or tells
        if is_news:
            self._note_confidence(hold, command, hold.body.attributes.get("task", "") if hold.body is not None else "")
        if hold.state != "held" and not hold.quarantine_open:
            lending.end_of_hold(self, command.id, Refuse)
        return self._hold_answer(self.holds[command.id])

    def _is_read(self, hold: Hold, command: commands.Settle) -> bool:
        """Whether a final reading is taken as it is, whatever it says."""
        estimated = hold.state == "expired" and not hold.quarantine_open and self.quarantine == "charge"
        return command.final and (hold.state == "held" or hold.quarantine_open or estimated)

    def _is_higher(self, hold: Hold, total: Amounts) -> bool:
        return any(amount > hold.reading.get(unit, 0) for unit, amount in total.items())

    def _note_confidence(self, hold: Hold, command: commands.Settle, task: str) -> None:
        if command.record is not None:
            close_gate(self.accounts[hold.account], task, command.record.confidence, self.now)

    def _read(self, hold: Hold, total: Amounts, final: bool) -> None:
        """A reading of an open hold (or of one in quarantine): running totals only rise, a final one wins."""
        reading = dict(hold.reading)
        for unit, amount in total.items():
            reading[unit] = amount if final else max(amount, reading.get(unit, 0))
        if final:
            self._fill_in(hold, reading, total)
        hold.reading = reading
        for line in hold.lines + hold.own:
            book(line, reading.get(line.unit, 0), final)
        if final:
            hold.state = "settled"
            hold.quarantine_open = False

    def _fill_in(self, hold: Hold, reading: Amounts, total: Amounts) -> None:
        """A unit that was held and that the final total leaves out is unknown, which is never 0: its bound (Q11)."""
        for unit, bound in hold.reserved.items():
            if unit not in total:
                reading[unit] = max(bound, reading.get(unit, 0))

    def _replace_estimate(self, hold: Hold, total: Amounts) -> None:
        """A late final total after Q was closed: exact where the window is there, only the rise where it is gone."""
        reading = {**hold.reading, **total}
        self._fill_in(hold, reading, total)
        exact = [line for line in hold.lines if not self.gone(line.cell)]
        self._rise(hold, reading, touch=True)
        for line in [*exact, *hold.own]:
            book(line, reading.get(line.unit, 0), final=True)
        hold.reading = reading
        hold.state = "settled"

    def _rise(self, hold: Hold, total: Amounts, touch: bool = False) -> None:
        """After the end of a hold (or without one) only what is above the books is booked, as O."""
        if not touch and not any(total.get(line.unit, 0) > line.booked for line in hold.own):
            return
        landings = [self._landing(line.cell) for line in hold.lines]
        for line, landing in zip(hold.lines, landings, strict=True):
            rise = total.get(line.unit, 0) - line.booked
            if self._shared_since(line.cell) and self._quiet(line.cell):
                self._rise_above(hold, line, total.get(line.unit, 0))
            if rise <= 0:
                continue
            if landing == [line.cell]:
                line.uncovered += rise
            else:
                line.elsewhere += rise
                hold.extra += [Line(key, line.unit, uncovered=rise) for key in landing]
        for line in hold.own:
            line.uncovered += max(0, total.get(line.unit, 0) - line.booked)
        for unit, amount in total.items():
            hold.reading[unit] = max(amount, hold.reading.get(unit, 0))

    def _rise_above(self, hold: Hold, line: Line, total: int) -> None:
        """Of an allocation that was given up: in the windows above that are gone the rise goes to what runs (Q26)."""
        landings = [key for gone in self._gone_above(line.cell) for key in self._landing(gone)]
        line.highest = max(line.highest, line.booked)
        if total > line.highest:
            hold.extra += [Line(key, line.unit, uncovered=total - line.highest) for key in landings]
            line.highest = total

    def _release(self, command: commands.Release, scope: str | None, may_open: bool) -> Answer:
        if command.id not in self.holds:
            if command.account is None:
                raise Refuse("unknown_hold")
            hold = self._book_without_hold(command.id, command.account, (), {}, None, "released", may_open, scope)
            return self._hold_answer(hold)
        hold = self._find_hold(command.id, scope)
        if hold.state == "settled":
            raise Refuse("conflict")
        if hold.state == "expired" and not hold.quarantine_open:
            raise Refuse("conflict")  # Q6
        if hold.state != "released":
            for line in hold.lines + hold.own:
                line.remaining = 0
            hold.state = "released"
            hold.quarantine_open = False
            lending.end_of_hold(self, command.id, Refuse)
        return self._hold_answer(self.holds[command.id])

    def _book_without_hold(
        self,
        id: str,
        account: str,
        also: tuple[str, ...],
        attributes: dict[str, str],
        parent: str | None,
        state: str,
        may_open: bool,
        scope: str | None,
    ) -> Hold:
        """A tombstone: pinned to what runs now, never refused for lack of room or status."""
        if state == "released":
            self._known(account, scope)
        self._open(account, parent, may_open, scope, after_the_fact=True)
        self._in_scope(account, scope)
        self._open_also(also, account, may_open, scope, after_the_fact=True)  # Q7
        shared = [name for name in also if self._shared(name, account)]
        items = self._charged(account, shared, attributes)
        pins = [self._pin(item, needed=False, usage=True) for item in items]
        hold = Hold(
            id=id,
            account=account,
            also=also,
            state=state,
            reserved={},
            lines=[Line(pin, self._unit_of(pin)) for pin in pins],
            own=[Line(0, unit) for unit in UNITS],
        )
        self.holds[id] = hold
        return hold

    def _find_hold(self, id: str, scope: str | None) -> Hold:
        if id not in self.holds:
            raise Refuse("unknown_hold")
        if not self._covers(scope, self.holds[id].account):
            raise Refuse("unknown_hold")
        return self.holds[id]

    def _hold_answer(self, hold: Hold) -> Answer:
        uncovered = {line.unit: line.uncovered for line in hold.own if line.uncovered}
        return Answer(
            "hold",
            {
                "id": hold.id,
                "account": hold.account,
                "state": hold.state,
                "reserved": {u: n for u, n in hold.reserved.items() if n},
                "booked": {line.unit: line.booked for line in hold.own if line.booked},
                "uncovered": uncovered,
                "expires_at": hold.expires_at if hold.state == "held" else None,
            },
        )

    # ------------------------------------------------------------------------------------------- accounts

    def _put_account(self, command: commands.PutAccount, scope: str | None, may_open: bool) -> Answer:
        account = self.accounts.get(command.account)
        if account is None:
            if command.parent == command.account:
                raise Refuse("invalid")
            account = self._make_account(command.account, command.parent)
            self._in_scope(command.account, scope)
        else:
            self._in_scope(command.account, scope)
            if command.parent is not None and command.parent != account.parent:
                raise Refuse("conflict")
        if command.priority is not None:
            account.priority = command.priority
        if command.min_reserve is not None:
            account.min_reserve = dict(command.min_reserve)
        if command.confidence_threshold is not UNSET:
            account.threshold = command.confidence_threshold
        if command.gate_s is not UNSET:
            account.gate_s = command.gate_s
        if account.threshold is None:
            if command.gate_s is not UNSET and command.gate_s is not None:
                raise Refuse("invalid")
            account.gate_s, account.closed = None, {}
        return self._account_answer(account)

    def _account_answer(self, account: Account) -> Answer:
        return Answer(
            "account",
            {
                "account": account.name,
                "parent": account.parent,
                "status": account.status,
                "priority": account.priority,
            },
        )

    def _open_also(
        self, also: Iterable[str], payer: str, may_open: bool, scope: str | None, after_the_fact: bool = False
    ) -> None:
        """What is charged besides the payer: covered by the scope, or above the payer, where it is charged anyhow."""
        for name in also:
            if name in [account.name for account in self.chain(payer)]:
                continue
            self._open(name, None, may_open, scope, after_the_fact)
            self._in_scope(name, scope)

    def _make_account(self, name: str, parent: str | None, active: bool = True) -> Account:
        if parent is not None:
            self._known(parent)
            if active:
                self._must_be_active([parent])
            if len(self.chain(parent)) >= commands.CHAIN_LENGTH_MAX:
                raise Refuse("invalid")
        account = Account(name, parent, self._number())
        self.accounts[name] = account
        return account

    def _open(
        self, name: str, parent: str | None, may_open: bool, scope: str | None, after_the_fact: bool = False
    ) -> None:
        """Open an account by the template whose pattern fits best, if it does not exist.

        For usage after the fact also below an account that is not active, and with its allocations parked if need be.
        """
        if name in self.accounts:
            return
        fitting = [
            t for t in self.templates.values() if name.startswith(t.pattern[:-1]) and len(name) >= len(t.pattern)
        ]
        if not fitting:
            raise Refuse("unknown_account" if scope is None else "forbidden")
        template = max(fitting, key=lambda t: len(t.pattern))
        if not may_open:
            raise Refuse("forbidden")
        above = parent if parent is not None else template.parent
        if scope is not None and (above not in self.accounts or not self._covers(scope, above)):
            raise Refuse("forbidden")
        if above is not None:
            self._known(above)
            children = [a for a in self.accounts.values() if a.parent == above and a.status not in FINAL]
            if len([a for a in children if a.name.startswith(template.pattern[:-1])]) >= template.max_children:
                raise Refuse("too_many_accounts")
        account = self._make_account(name, above, active=not after_the_fact)
        account.priority = template.priority
        for each in template.budgets:
            given = {f: getattr(each, f) for f in each.__struct_fields__}
            self._put_budget(commands.PutBudget(account=name, **given), None, True)
        for unit, size in template.allocations.items():
            grant = Grant(name, unit, size, None, "deny", self._number(), 0)
            self.grants[(name, unit)] = grant
            try:
                self._must_be_active([name])
                self._carve(grant, size)
            except Refuse:
                if not after_the_fact:
                    raise
                self._carve(grant, 0, needed=False).live = False

    def _set_status(self, command: commands.SetStatus, scope: str | None, may_open: bool) -> Answer:
        account = self._known(command.account, scope)
        if account.status in FINAL and command.status != account.status:
            raise Refuse("conflict")
        if account.status != command.status:
            self._change_status(command.account, command.status)
        return self._account_answer(self.accounts[command.account])

    def _change_status(self, name: str, status: str) -> None:
        if status in FINAL:
            for id in [loan.id for loan in self.loans.values() if loan.active and loan.account == name]:
                lending.end(self, id, Refuse)
        self.accounts[name].status = status
        if status in FINAL:
            self.accounts[name].closed = {}
        below = [a.name for a in self._below(name)]
        pieces = [c for c in self.cells.values() if isinstance(c, Slice) and c.account in below and not c.ended]
        if status == "active":
            grants = [g for g in self.grants.values() if g.account in below]
            for grant in sorted(grants, key=lambda g: (len(self.chain(g.account)), -self.accounts[g.account].number)):
                self._restore(grant)  # Q25
            lending.end_overdue(self, name, Refuse)
            return
        for piece in sorted(pieces, key=lambda p: -len(self.chain(p.account))):
            if piece.live:
                self._park(piece)
            if status in FINAL:
                piece.ended = True

    # ------------------------------------------------------------------------------------------- budgets

    def _put_budget(self, command: commands.PutBudget, scope: str | None, may_open: bool) -> Answer:
        self._known(command.account, scope)
        name = command.budget if command.budget is not None else f"{command.unit}-{command.period}"
        budget = self._find_budget(command.account, name)
        if command.if_version is not None and command.if_version != (budget.version if budget else 0):
            raise Refuse("precondition_failed")
        if budget is None:
            budget = self._make_budget(command, name)
        else:
            self._change_budget(command, budget)
        return Answer("budget", {"account": budget.account, "budget": budget.name, "limit": budget.limit})

    def _make_budget(self, command: commands.PutBudget, name: str) -> Budget:
        number = self._number()
        window = Window(
            self._number(),
            number,
            window_start(command.period, command.zone, self.now, anchor=self.now),
            window_end(command.period, command.zone, self.now, anchor=self.now),
            command.limit,
            limit_seen=command.limit,
            enforce=command.mode == "enforce",
        )
        budget = Budget(
            account=command.account,
            name=name,
            unit=command.unit,
            limit=command.limit,
            period=command.period,
            zone=command.zone,
            period_next=command.period,
            zone_next=command.zone,
            thresholds=dict(command.thresholds),
            mode=command.mode,
            match=dict(command.match),
            on_exhaustion=command.on_exhaustion,
            carry_over=command.carry_over,
            carry_max=command.carry_max,
            carry_debt=command.carry_debt,
            anchor=self.now,
            number=number,
            window=window.key,
            override=command.override,
        )
        self.budgets[number] = budget
        self.cells[window.key] = window
        if not budget.match:
            self._hold_live_allocations(budget, window)
        return budget

    def _hold_live_allocations(self, budget: Budget, window: Window) -> None:
        """A budget made above allocations holds them from its start, or is refused (Q8)."""
        pieces = [c for c in self.cells.values() if isinstance(c, Slice) and not c.ended and c.unit == budget.unit]
        for piece in pieces:
            if budget.account in self._path(piece):
                piece.pins.append(window.key)
        figures = self.figures(window.key)
        if budget.mode == "enforce" and figures.in_use > figures.limit:
            raise Refuse("budget_exceeded", cell=window.key)

    def _path(self, piece: Slice) -> list[str]:
        """The accounts above an allocation up to the one that it is carved from."""
        stop = [self.cells[pin].account for pin in piece.pins if isinstance(self.cells[pin], Slice)]
        path = []
        for account in self.chain(piece.account)[1:]:
            path.append(account.name)
            if account.name in stop:
                break
        return path

    def _change_budget(self, command: commands.PutBudget, budget: Budget) -> None:
        if command.unit != budget.unit or dict(command.match) != budget.match:
            raise Refuse("conflict")
        if (command.period == "lifetime") != (budget.period == "lifetime"):
            raise Refuse("conflict")
        window = self.cells[budget.window]
        before = self.figures(window.key)
        window.base = command.limit
        after = self.figures(window.key)
        lowered = after.limit < before.limit or budget.mode != "enforce"  # Q16
        if lowered and command.mode == "enforce" and after.limit < after.in_use and not command.force:
            raise Refuse("below_use", cell=window.key)
        budget.limit = command.limit
        budget.period_next, budget.zone_next = command.period, command.zone
        budget.thresholds = dict(command.thresholds)
        budget.mode = command.mode
        window.enforce = command.mode == "enforce"  # what has ended keeps the version that it was pinned with
        budget.on_exhaustion = command.on_exhaustion
        budget.carry_over = command.carry_over
        budget.carry_max = command.carry_max
        budget.carry_debt = command.carry_debt
        budget.override = command.override
        budget.version += 1

    def _remove_budget(self, command: commands.RemoveBudget, scope: str | None, may_open: bool) -> Answer:
        self._known(command.account, scope)
        budget = self._find_budget(command.account, command.budget)
        if budget is None:
            raise Refuse("unknown_budget")
        if command.if_version is not None and command.if_version != budget.version:
            raise Refuse("precondition_failed")
        budget.removed = True
        return Answer("budget", {"account": budget.account, "budget": budget.name, "limit": budget.limit})

    def _adjust(self, command: commands.Adjust, scope: str | None, may_open: bool) -> Answer:
        self._known(command.account, scope)
        known = self.adjustments.get(command.id)
        if known is not None:
            if adjustment_body(known.body) != adjustment_body(command):
                raise Refuse("conflict")
            return self._adjustment_answer(known)
        if command.id in self.overrides:
            raise Refuse("conflict")
        budget = self._find_budget(command.account, command.budget)
        if budget is None:
            raise Refuse("unknown_budget")
        valid_until = milliseconds(command.valid_until)
        if valid_until is not None and valid_until <= self.now:
            raise Refuse("invalid")
        adjustment = Adjustment(
            id=command.id,
            account=command.account,
            budget=budget.number,
            window=budget.window,
            amount=command.amount,
            valid_until=valid_until,
            body=command,
        )
        self.adjustments[command.id] = adjustment
        if command.amount < 0 and self._sum_of(budget.window) < 0:
            raise Refuse("invalid")  # Q1
        figures = self.figures(budget.window)
        if command.amount < 0 and budget.mode == "enforce" and figures.limit < figures.in_use and not command.force:
            raise Refuse("below_use", cell=budget.window)
        return self._adjustment_answer(adjustment)

    def _end_adjustment(self, command: commands.EndAdjustment, scope: str | None, may_open: bool) -> Answer:
        self._known(command.account, scope)
        adjustment = self.adjustments.get(command.id)
        if adjustment is None or adjustment.account != command.account:
            raise Refuse("unknown_adjustment")
        if adjustment.active:
            self._lapse(adjustment)
        return self._adjustment_answer(adjustment)

    # ------------------------------------------------------------------------------------------- overrides and gates

    def _request_override(self, command: commands.RequestOverride, scope: str | None, may_open: bool) -> Answer:
        self._known(command.account, scope)
        known = self.overrides.get(command.id)
        if known is not None:
            if (known.body, known.by) != (command, self.actor):
                raise Refuse("conflict")
            return self._override_answer(known)
        if command.id in self.adjustments:
            raise Refuse("conflict")
        code = request_refusal(self, command, self.actor)
        if code is not None:
            raise Refuse(code)
        budget = self._find_budget(command.account, command.budget)
        assert budget is not None
        window = self.cells[budget.window]
        closes = [self.now + command.open_s * 1000, window.end or FOREVER]
        until = milliseconds(command.valid_until)
        override = Override(
            id=command.id,
            account=command.account,
            budget=budget.number,
            window=window.key,
            asked=command.amount,
            by=self.actor,
            closes_at=min([*closes, until] if until is not None else closes),
            body=command,
        )
        self.overrides[command.id] = override
        if not policy_of(budget).requires_approval:
            self._grant(override, command.amount)
        return self._override_answer(override)

    def _grant(self, override: Override, amount: int) -> None:
        """It becomes an adjustment, which ends with what was asked, the policy or the window."""
        budget = self.budgets[override.budget]
        until = ends_at(self, override)
        adjusts = commands.Adjust(
            id=override.id, account=override.account, budget=budget.name, amount=amount, reason="granted"
        )
        self.adjustments[override.id] = Adjustment(
            id=override.id,
            account=override.account,
            budget=budget.number,
            window=override.window,
            amount=amount,
            valid_until=until,
            body=msgspec.structs.replace(adjusts, valid_until=instant_of(until)),
        )
        override.state, override.amount = "approved", amount

    def _to_decide(self, id: str) -> Override:
        override = self.overrides.get(id)
        if override is None:
            raise Refuse("unknown_override")
        code = decision_refusal(self, override, self.actor)
        if code is not None:
            raise Refuse(code)
        return override

    def _approve_override(self, command: commands.ApproveOverride, scope: str | None, may_open: bool) -> Answer:
        override = self._to_decide(command.id)
        if override.state != "pending":
            raise Refuse("conflict")
        budget = self.budgets[override.budget]
        if budget.removed:
            raise Refuse("unknown_budget")
        amount = override.asked if command.amount is None else command.amount
        if amount > override.asked:
            raise Refuse("invalid")
        if amount > room_for_overrides(self, override.window, policy_of(budget).max_percent):
            raise Refuse("beyond_policy")
        self._grant(override, amount)
        return self._override_answer(override)

    def _deny_override(self, command: commands.DenyOverride, scope: str | None, may_open: bool) -> Answer:
        override = self._to_decide(command.id)
        if override.state != "pending":
            raise Refuse("conflict")
        override.state = "denied"
        return self._override_answer(override)

    def _revoke_override(self, command: commands.RevokeOverride, scope: str | None, may_open: bool) -> Answer:
        override = self.overrides.get(command.id)
        if override is not None and override.by != self.actor:
            override = self._to_decide(command.id)
            if override.state == "pending":
                raise Refuse("conflict")
        if override is None:
            raise Refuse("unknown_override")
        state = override_state(self, override)
        if state in ("denied", "expired"):
            raise Refuse("conflict")
        if state == "pending":
            override.state = "withdrawn"
        elif state == "approved":
            self._lapse(self.adjustments[override.id])
            override.state = "revoked"
        return self._override_answer(override)

    def _override_answer(self, override: Override) -> Answer:
        return Answer("override", {"state": override_state(self, override), "amount": override.amount})

    def _reset_gate(self, command: commands.ResetGate, scope: str | None, may_open: bool) -> Answer:
        account = self._known(command.account, scope)
        if command.task is None:
            account.closed = {}
        else:
            account.closed.pop(command.task, None)
        return self._account_answer(account)

    def _adjustment_answer(self, adjustment: Adjustment) -> Answer:
        return Answer("adjustment", {"id": adjustment.id, "amount": adjustment.amount, "active": adjustment.active})

    def _put_template(self, command: commands.PutTemplate, scope: str | None, may_open: bool) -> Answer:
        if scope is not None:
            raise Refuse("forbidden")
        if command.parent is not None:
            self._known(command.parent)
        self.templates[command.pattern] = command
        return Answer("template", {"pattern": command.pattern, "active": True})

    def _remove_template(self, command: commands.RemoveTemplate, scope: str | None, may_open: bool) -> Answer:
        if scope is not None:
            raise Refuse("forbidden")
        if command.pattern not in self.templates:
            raise Refuse("unknown_template")
        del self.templates[command.pattern]
        return Answer("template", {"pattern": command.pattern, "active": False})

    # ------------------------------------------------------------------------------------------- allocations

    def _pin(self, item: Budget | Grant, needed: bool, usage: bool = False) -> int:
        """The running window of a budget, or the cell of an allocation, carved again if it ended with a window.

        Without room it is refused by the cell above that lacks it when something is ``needed`` of it; otherwise (usage
        after the fact, a request of 0) there is a parked one that covers nothing, until there is room (Q9). ``usage``
        leaves a parked one as it is.
        """
        if isinstance(item, Budget):
            return item.window
        piece = self.cells[item.slice]
        if item.over and needed:
            raise Refuse("budget_exceeded", cell=piece.key)  # Q14: it has ended; waiting for calls in flight is no use
        may_come_back = not item.over and self.status_effective(item.account) == "active"
        if not piece.live and may_come_back and (piece.ended or not usage):
            try:
                self._revive(item)
            except Refuse:
                if needed:
                    raise
        if not needed and self.cells[item.slice].ended:
            self._carve(item, 0, needed=False).live = False
        return item.slice

    def _touch(self, grant: Grant) -> int:
        """The cell of an allocation that is there, carved again if need be; refused for lack of room."""
        return self._pin(grant, needed=True)

    def _restore(self, grant: Grant) -> None:
        """On resume: back to its size if there is room; otherwise it stays as it is until the next touch."""
        piece = self.cells[grant.slice]
        if piece.live or piece.ended or grant.over or self.status_effective(grant.account) != "active":
            return
        with contextlib.suppress(Refuse):
            self._revive(grant)

    def _revive(self, grant: Grant) -> None:
        """Carve it again from what runs now, or let a parked one grow back."""
        piece = self.cells[grant.slice]
        if piece.ended:
            self._carve(grant, grant.size)
            return
        asks: list[tuple[int, int] | Refuse] = []
        for pin in piece.pins:
            above = self.cells[pin]
            try:
                if isinstance(above, Slice):
                    self._touch(self.grants[(above.account, above.unit)])
                asks.append((pin, grant.size - piece.cover))
            except Refuse as lacking:
                asks.append(lacking)
        self._room(asks)
        piece.live = True
        piece.size = grant.size

    def _carve(self, grant: Grant, size: int, needed: bool = True) -> Slice:
        """Hold it on all cells of the unit above that have no ``match``, up to the nearest allocated ancestor."""
        pins: list[int] = []
        asks: list[tuple[int, int] | Refuse] = []
        for account in self.chain(grant.account)[1:]:
            for item in self._items(account.name):
                if item.unit != grant.unit or (isinstance(item, Budget) and item.match):
                    continue
                try:
                    pins.append(self._pin(item, needed))
                    asks.append((pins[-1], size))
                except Refuse as lacking:
                    asks.append(lacking)
            if (account.name, grant.unit) in self.grants:
                break
        self._room(asks)
        piece = Slice(self._number(), grant.account, grant.unit, grant.size, pins, grant.number)
        self.cells[piece.key] = piece
        grant.slice = piece.key
        return piece

    def _allocate(self, command: commands.Allocate, scope: str | None, may_open: bool) -> Answer:
        account = self._known(command.account, scope)
        if account.parent is None:
            raise Refuse("invalid")
        self._must_be_active([command.account])
        valid_until = milliseconds(command.valid_until)
        if valid_until is not None and valid_until <= self.now:
            raise Refuse("invalid")
        grant = self.grants.get((command.account, command.unit))
        if grant is None or grant.over or self.cells[grant.slice].ended:
            number = grant.number if grant else self._number()
            if grant is not None and not self.cells[grant.slice].ended:
                self._end_slice(self.cells[grant.slice])
            grant = Grant(command.account, command.unit, command.to, valid_until, command.on_exhaustion, number, 0)
            self._carve(grant, command.to)
            self.grants[(command.account, command.unit)] = grant
        else:
            self._resize(grant, command.to)
            grant.valid_until = valid_until
            grant.on_exhaustion = command.on_exhaustion
        return Answer("allocation", {"account": command.account, "unit": command.unit, "size": command.to})

    def _resize(self, grant: Grant, to: int) -> None:
        """Grow if there is room, like a reserve; shrink at most to what is in use."""
        piece = self.cells[grant.slice]
        before = grant.size
        if piece.live:
            self._room((pin, to - piece.size) for pin in piece.pins)  # Q10
            grant.size = piece.size = to
        else:
            grant.size = to
            self._revive(grant)
        if to < before and to < self.figures(piece.key).in_use:
            raise Refuse("below_use", cell=piece.key)

    def _deallocate(self, command: commands.Deallocate, scope: str | None, may_open: bool) -> Answer:
        self._known(command.account, scope)
        grant = self.grants.get((command.account, command.unit))
        if grant is None:
            raise Refuse("unknown_allocation")
        self._end_with_all_carved_from_it(self.cells[grant.slice])
        del self.grants[(command.account, command.unit)]
        return Answer("allocation", {"account": command.account, "unit": command.unit, "size": 0})

    def _end_with_all_carved_from_it(self, piece: Slice) -> None:
        """Leaf first."""
        for below in list(self._slices_on(piece.key)):
            self._end_with_all_carved_from_it(below)
        if not piece.ended:
            self._end_slice(piece)

    def _transfer(self, command: commands.Transfer, scope: str | None, may_open: bool) -> Answer:
        source = self._known(command.source, scope)
        self._known(command.target, scope)
        ways = self._between(command.source, command.target, command.unit, uphill=False)
        self._shift(ways, command.amount, source.min_reserve.get(command.unit, 0))
        return Answer("transfer", {"source": ways[0][0].size, "target": ways[1][0].size, "amount": command.amount})

    def _between(self, source: str, target: str, unit: Unit, uphill: bool) -> tuple[list[Slice], list[Slice], set[int]]:
        """What shrinks and what grows when something moves, and what they are carved from in common."""
        self._must_be_active([source, target])
        sources = [a.name for a in self.chain(source)]
        targets = [a.name for a in self.chain(target)]
        if source in targets or target in sources:
            raise Refuse("invalid")
        common = next((name for name in sources if name in targets), None)
        if common is None:
            raise Refuse("invalid")
        if not uphill and self.accounts[source].priority > self.accounts[target].priority:
            raise Refuse("lower_priority")
        ways = []
        for name, chain in ((source, sources), (target, targets)):
            grant = self.grants.get((name, unit))
            if grant is None:
                raise Refuse("unknown_allocation")
            ways.append(self._way(self._touch(grant), chain, common))
        (giving, giving_top), (taking, taking_top) = ways
        if giving_top != taking_top:
            raise Refuse("other_windows")
        return giving, taking, taking_top

    def _shift(self, ways: tuple[list[Slice], list[Slice], set[int]], amount: int, kept: int) -> None:
        """Move an amount, if the source has it besides what it keeps, and there is room on the way to the target."""
        giving, taking, taking_top = ways
        for piece in giving[1:]:
            figures = self.figures(piece.key)
            if figures.in_use > figures.limit:
                raise Refuse("budget_exceeded", cell=piece.key, requested=amount)
        self._room([(giving[0].key, amount + kept)])
        asks: list[tuple[int, int]] = []
        for piece in taking:
            for pin in piece.pins:
                if isinstance(self.cells[pin], Window) and pin not in taking_top:
                    asks.append((pin, amount))
                elif pin in [above.key for above in taking] and self.figures(pin).available < 0:
                    asks.append((pin, 1))  # it grows by as much as it gives: it needs no room, but not to be overdrawn
        self._room(asks)
        for pieces, by in ((giving, -amount), (taking, amount)):
            for piece in pieces:
                piece.size += by
                self.grants[(piece.account, piece.unit)].size += by

    def _lend(self, command: commands.Lend, scope: str | None, may_open: bool) -> Answer:
        return Answer("loan", {"loan": lending.lend(self, command, scope, Refuse)})

    def _give_back(self, command: commands.GiveBack, scope: str | None, may_open: bool) -> Answer:
        loan = self.loans.get(command.id)
        if loan is None or not self._covers(scope, loan.account):
            raise Refuse("unknown_loan")
        if loan.active:
            if lending.suspended(self, loan):
                raise Refuse("account_suspended")
            lending.end(self, command.id, Refuse)
        return Answer("loan", {"loan": self.loans[command.id]})

    def _way(self, key: int, chain: list[str], common: str) -> tuple[list[Slice], set[int]]:
        """The allocations strictly below the common ancestor, and what they are carved from at it or above."""
        below = chain[: chain.index(common)]
        pieces: list[Slice] = []
        top: set[int] = set()
        here: int | None = key
        while here is not None:
            piece = self.cells[here]
            pieces.append(piece)
            here = None
            for pin in piece.pins:
                cell = self.cells[pin]
                account = cell.account if isinstance(cell, Slice) else self.budgets[cell.budget].account
                if account not in below:
                    top.add(pin)
                elif isinstance(cell, Slice):
                    here = pin
        return pieces, top


# -------------------------------------------------------------------------------------------------- arithmetic


def is_well_formed(command: Any) -> bool:
    """What can be said of a command without looking at the ledger; of a compound, of all its parts (Q18)."""
    if isinstance(command, commands.Compound):
        return all(is_well_formed(each) for each in command.commands)
    if isinstance(command, commands.Reserve):
        return (
            id_is_valid(command.id)
            and amounts_are_valid(command.amounts)
            and (not command.amounts or any(command.amounts.values()))
            and 1 <= command.lease_s <= commands.LEASE_S_MAX
            and len(command.also) <= commands.ALSO_LENGTH_MAX
            and amounts_are_valid(command.leave)
        )
    if isinstance(command, commands.Extend):
        lease_is_valid = 1 <= command.lease_s <= commands.LEASE_S_MAX
        amounts_are_fine = amounts_are_valid(command.to) and amounts_are_valid(command.leave)
        return id_is_valid(command.id) and amounts_are_fine and lease_is_valid
    if isinstance(command, commands.Settle):
        return (
            id_is_valid(command.id)
            and amounts_are_valid(command.total)
            and amounts_are_valid(totals(command))
            and len(command.also) <= commands.ALSO_LENGTH_MAX
        )
    if isinstance(command, commands.PutAccount):
        priority_is_valid = command.priority is None or command.priority >= 1
        return bool(command.account) and priority_is_valid and amounts_are_valid(command.min_reserve or {})
    if isinstance(command, commands.PutBudget):
        return (
            amounts_are_valid({command.unit: command.limit})
            and amounts_are_valid({command.unit: command.carry_max or 0})
            and period_is_valid(command.period)
            and zone_is_valid(command.zone)
            and all(1 <= percent <= 1000 for percent in command.thresholds)
        )
    if isinstance(command, commands.Allocate):
        return amounts_are_valid({command.unit: command.to})
    if isinstance(command, commands.Transfer):
        different = command.source != command.target
        return amounts_are_valid({command.unit: command.amount}) and command.amount >= 1 and different
    if isinstance(command, commands.Adjust):
        return id_is_valid(command.id) and 1 <= abs(command.amount) <= AMOUNT_MAX
    if isinstance(command, commands.RequestOverride):
        return id_is_valid(command.id) and 1 <= command.amount <= AMOUNT_MAX and bool(command.reason)
    if isinstance(command, commands.PutTemplate):
        return command.pattern.endswith("*") and "*" not in command.pattern[:-1] and len(command.pattern) > 1
    return not hasattr(command, "id") or id_is_valid(command.id)


def id_is_valid(id: str) -> bool:
    return 1 <= len(id) <= commands.ID_LENGTH_MAX and id.isprintable()


def amounts_are_valid(amounts: Amounts) -> bool:
    return all(unit in UNITS and 0 <= amount <= AMOUNT_MAX for unit, amount in amounts.items())


def and_left(amount: int, unit: Unit, leave: Amounts) -> int:
    """What a request needs to be free: with what it is to leave, if it asks for anything of that unit."""
    return amount + leave.get(unit, 0) if amount > 0 else amount


def book(line: Line, total: int, final: bool) -> None:
    """Book a cumulative total on what is reserved: up to the bound as covered, the excess as uncovered."""
    bound = line.covered + line.remaining
    line.covered = min(total, bound)
    line.uncovered = total - line.covered
    line.remaining = 0 if final else bound - line.covered


def adjustment_body(command: commands.Adjust) -> tuple[Any, ...]:
    """By what a repeated adjustment is known; not by its reason, which can be erased, nor by ``force``."""
    return command.account, command.budget, command.amount, command.valid_until


def wanted(to: Amounts, hold: Hold) -> Amounts:
    """The totals of an extend; ``tokens`` follow from input and output if they were not said, now or at first (Q27)."""
    halves = [
        max(to.get("input_tokens", 0), hold.reserved.get("input_tokens", 0)),
        max(to.get("output_tokens", 0), hold.reserved.get("output_tokens", 0)),
    ]
    said = "tokens" in to or "tokens" in hold.body.amounts
    if said or not all(halves) or not {"input_tokens", "output_tokens"} & to.keys():
        return to
    return {**to, "tokens": sum(halves)}


def totals(command: commands.Settle) -> Amounts:
    """The reading of a settlement: what it says, else what follows from the record, and one call."""
    whole = dict(command.total)
    record = command.record
    if record is not None and record.tokens is not None:
        whole.setdefault("input_tokens", record.tokens.input)
        whole.setdefault("output_tokens", record.tokens.output)
    if record is not None and record.cost_nanousd is not None:
        whole.setdefault("cost", record.cost_nanousd)
    return completed(whole)


def instant_of(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def milliseconds(at: datetime | None) -> int | None:
    return None if at is None else (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


# -------------------------------------------------------------------------------------------------- the calendar

PERIODS = ("hour", "day", "week", "month", "quarter", "year", "lifetime")


def period_is_valid(period: str) -> bool:
    if period.startswith("every:"):
        digits = period.removeprefix("every:")
        return digits.isascii() and digits.isdecimal() and int(digits) >= 1
    return period in PERIODS


def zone_is_valid(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def window_start(period: str, zone: str, at: int, anchor: int = 0) -> int:
    """The last boundary at or before ``at``; of a lifetime budget, when it was made."""
    if period == "lifetime":
        return at
    return _boundaries(period, zone, at, anchor)[0]


def window_end(period: str, zone: str, at: int, anchor: int = 0) -> int | None:
    """The first boundary after ``at``."""
    if period == "lifetime":
        return None
    return _boundaries(period, zone, at, anchor)[1]


def _boundaries(period: str, zone: str, at: int, anchor: int) -> tuple[int, int]:
    """Of calendar periods by the local calendar; ``every:N`` counts from when the budget was made (Q13)."""
    if period.startswith("every:"):
        length = int(period.removeprefix("every:")) * 1000
        start = anchor + (at - anchor) // length * length
        return start, start + length
    if period == "hour":
        hour = 3600 * 1000
        local = datetime.fromtimestamp(at / 1000, tz=ZoneInfo(zone))
        offset = int(local.utcoffset().total_seconds()) * 1000
        start = at - (at + offset) % hour
        return start, start + hour
    today = datetime.fromtimestamp(at / 1000, tz=ZoneInfo(zone)).date()
    first, after = _dates(period, today)
    return _midnight(first, zone), _midnight(after, zone)


def _dates(period: str, day: date) -> tuple[date, date]:
    if period == "day":
        return day, day + timedelta(days=1)
    if period == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    if period == "year":
        return date(day.year, 1, 1), date(day.year + 1, 1, 1)
    months = 1 if period == "month" else 3
    first = date(day.year, (day.month - 1) // months * months + 1, 1)
    following = first.month - 1 + months
    return first, replace_month(first, following)


def replace_month(first: date, months_from_january: int) -> date:
    return date(first.year + months_from_january // 12, months_from_january % 12 + 1, 1)


def _midnight(day: date, zone: str) -> int:
    at = datetime.combine(day, time(), tzinfo=ZoneInfo(zone))
    return int(at.timestamp()) * 1000
