"""The real core behind the few words that the state machine needs: decide, look, and fold the journal anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fiscus.core.answers import hold_answer
from fiscus.core.commands import Request
from fiscus.core.decide import bring_due, decide, new_draft
from fiscus.core.events import ThresholdCrossed
from fiscus.core.fold import fold
from fiscus.core.outcomes import HoldAnswer
from fiscus.core.routes import running_cell
from fiscus.core.state import Budget, Cell, Draft, Rules
from tests.model.model import Figures

TABLES = ("accounts", "budgets", "cells", "holds", "adjustments", "templates", "keys", "overrides", "loans")


@dataclass
class Seen:
    """What can be seen of the whole ledger at one instant; keys as in ``Model.balances`` and ``balances_ended``."""

    running: dict[tuple[str, str], Figures] = field(default_factory=dict)
    ended: dict[tuple[str, str, int], Figures] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    holds: dict[str, HoldAnswer] = field(default_factory=dict)
    crossed: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    overrides: dict[str, tuple[str, int]] = field(default_factory=dict)
    gates: dict[str, set[str]] = field(default_factory=dict)
    loans: dict[str, tuple[bool, dict[str, int]]] = field(default_factory=dict)


@dataclass
class Core:
    """One tenant's ledger, with its journal kept as a list of (event, time)."""

    draft: Draft = field(default_factory=new_draft)
    journal: list[tuple[Any, int]] = field(default_factory=list)

    @classmethod
    def with_quarantine(cls, quarantine: Any) -> Core:
        return cls(draft=new_draft(Rules(quarantine=quarantine)))

    def decide(self, command: Any, now_ms: int, **context: Any) -> Any:
        outcome = decide(self.draft, Request(command=command, **context), now_ms)
        self.journal += [(event, self.draft.now) for event in self.draft.events]
        self.draft.commit()
        return outcome

    def used(self, now_ms: int) -> dict[int, int]:
        """P+H+Q+O by cell, after all that is due at ``now_ms``, without leaving a trace."""
        mark = self.draft.mark()
        bring_due(self.draft, now_ms)
        found = {c.number: c.covered + c.held + c.quarantined + c.uncovered for c in self.draft.cells.values()}
        self.draft.rollback(mark)
        return found

    def look(self, now_ms: int) -> Seen:
        """Everything as it is at ``now_ms``, without leaving a trace."""
        seen = Seen()
        for budget in list(self.draft.budgets.values()):
            if not budget.removed:
                self._look_at(budget.number, seen, now_ms)
        for account in self.draft.accounts.values():
            seen.statuses[account.name or ""] = account.status
            closed = {task for task, until in account.gates.items() if until > now_ms}
            if closed:
                seen.gates[account.name or ""] = closed
        for hold in self.draft.holds.values():
            seen.holds[hold.id] = hold_answer(self.draft, hold)
        mark = self.draft.mark()
        self.draft.isolate()
        bring_due(self.draft, now_ms)
        for override in self.draft.overrides.values():
            seen.overrides[override.id] = (override.state, override.amount)
        for loan in self.draft.loans.values():
            returned = {self.draft.accounts[number].name or "": amount for number, amount in loan.returned}
            seen.loans[loan.id] = (loan.active, returned)
        self.draft.rollback(mark)
        return seen

    def _look_at(self, number: int, seen: Seen, now_ms: int) -> None:
        """A budget is rolled over by the first touch; it is touched here, looked at, and put back."""
        budget = self.draft.budgets[number]
        account = self.draft.accounts[budget.account].name or ""
        mark = self.draft.mark()
        if not budget.allocated:
            bring_due(self.draft, now_ms)
            running_cell(self.draft, budget, now_ms)
            crossings = [event for event, _ in self.journal if isinstance(event, ThresholdCrossed)]
            crossings += [event for event in self.draft.events if isinstance(event, ThresholdCrossed)]
            percents = [event.percent for event in crossings if event.budget == number]
            if percents:
                seen.crossed[(account, budget.name)] = percents
        budget = self.draft.budgets[number]
        name = f"@{budget.unit}" if budget.allocated else budget.name
        for cell in self.draft.cells.values():
            if cell.number == budget.cell:
                seen.running[(account, name)] = figures(cell, budget)
            elif cell.budget == number and not budget.allocated:
                seen.ended[(account, name, cell.start)] = figures(cell, budget)
        self.draft.rollback(mark)

    def folded(self) -> Draft:
        """A fresh state with all of the journal folded into it."""
        fresh = new_draft(self.draft.rules)
        for event, when in self.journal:
            fold(fresh, event, when)
        return fresh


def figures(cell: Cell, budget: Budget) -> Figures:
    """L, P, H, Q, O; of an allocation that is parked or has ended, L is what it still covers."""
    return Figures(
        limit=cell.cover if budget.allocated else cell.limit,
        covered=cell.covered,
        held=cell.held,
        quarantined=cell.quarantined,
        uncovered=cell.uncovered,
        start=cell.start,
        end=cell.end,
        allocated=budget.allocated,
    )


def rows(draft: Draft) -> dict[str, dict[Any, dict[str, Any]]]:
    """The whole state as plain values, without the marks of transactions."""
    return {
        table: {
            key: {name: getattr(row, name) for name in row.__struct_fields__ if name != "stamp"}
            for key, row in getattr(draft, table).items()
        }
        for table in TABLES
    }
