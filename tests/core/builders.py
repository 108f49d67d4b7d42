"""A ledger for tests: commands in few words, and every invariant looked at after each of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from fiscus.core.commands import (
    Adjust,
    Allocate,
    ApproveOverride,
    Attend,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    Extend,
    GiveBack,
    Lend,
    LoanPart,
    PutAccount,
    PutBudget,
    PutKey,
    PutTemplate,
    Release,
    RemoveBudget,
    Request,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeOverride,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.decide import bring_due, decide, new_draft
from fiscus.core.events import Held, StatusChanged
from fiscus.core.fold import fold
from fiscus.core.invariants import broken, broken_admission
from fiscus.core.outcomes import Refused
from fiscus.core.routes import running_cell
from fiscus.core.state import LIVE, Budget, Draft, Rules

START = datetime(2025, 10, 9, 10, tzinfo=UTC)
"""A Thursday, on the full hour."""
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
START_MS = 1_760_004_000_000
TABLES = ("accounts", "budgets", "cells", "holds", "adjustments", "templates", "keys", "overrides", "loans", "prices")
DUE = {
    "Expired",
    "QuarantineClosed",
    "AdjustmentEnded",
    "AllocationEnded",
    "WindowOpened",
    "ThresholdCrossed",
    "OverrideExpired",
    "TicketChanged",
    "TicketEnded",
    "Transferred",
    "LoanEnded",
}
USE = ("covered", "held", "quarantined", "uncovered")
BY_POLICY = {"StatusChanged", "AllocationParked", "AllocationEnded", "WindowOpened"}


class Figures(NamedTuple):
    """L, P, H, Q, O of a window."""

    limit: int
    covered: int
    held: int
    quarantined: int
    uncovered: int


def amounts_of(amounts: Any) -> dict[Any, int]:
    """A plain number is tokens."""
    return {"tokens": amounts} if isinstance(amounts, int) else dict(amounts or {})


def moment(ms_after_start: int) -> datetime:
    return START + timedelta(milliseconds=ms_after_start)


def rows(draft: Draft) -> dict[str, dict[Any, dict[str, Any]]]:
    """The whole state as plain values, without the marks of transactions."""
    return {
        table: {
            key: {field: getattr(row, field) for field in row.__struct_fields__ if field != "stamp"}
            for key, row in getattr(draft, table).items()
        }
        for table in TABLES
    }


def folded(journal: list[tuple[Any, int]], rules: Rules) -> Draft:
    """A fresh state with a whole journal folded into it."""
    fresh = new_draft(rules)
    for event, at in journal:
        fold(fresh, event, at)
    return fresh


class Ledger:
    """One tenant. A command that is refused fails the test unless ``refused`` names the code it expects."""

    def __init__(self, **rules: Any) -> None:
        self.rules = Rules(**rules)
        self.draft = new_draft(self.rules)
        self.now = START_MS
        self.journal: list[tuple[Any, int]] = []
        self.last: list[Any] = []
        self.before: Any = {}

    # -- time ------------------------------------------------------------------------------------------------------

    def wait(self, ms: int) -> Ledger:
        self.now += ms
        return self

    def due(self) -> list[Any]:
        """Do what is due, and nothing else."""
        bring_due(self.draft, self.now)
        return self._keep()

    # -- deciding --------------------------------------------------------------------------------------------------

    def decide(self, command: Any, **context: Any) -> Any:
        """Decide one command, and look at every invariant."""
        before = self.before = rows(self.draft)
        outcome = decide(self.draft, Request(command=command, **context), self.now)
        events = self._keep(command)
        if isinstance(outcome, Refused) and not isinstance(command, Compound):
            self._check_nothing_changed(events, before)
        return outcome

    def _keep(self, command: Any = None) -> list[Any]:
        self.last = list(self.draft.events)
        self.journal += [(event, self.now) for event in self.last]
        self.draft.commit()
        wrong = [*broken(self.draft), *broken_admission(self.draft, self._raised(command))]
        assert not wrong, wrong
        return self.last

    def _check_nothing_changed(self, events: list[Any], before: Any) -> None:
        """What is due happens all the same; what the policy of an exhausted budget does is recorded by itself."""
        kinds = {type(event).__name__ for event in events if not (isinstance(event, Held) and event.unclaimed)}
        allowed = DUE | BY_POLICY if any(isinstance(event, StatusChanged) for event in events) else DUE
        assert kinds <= allowed, f"a refusal changed something: {events}"
        if not events:
            assert rows(self.draft) == before, "a refusal changed the state without an event"

    def _raised(self, command: Any) -> list[int]:
        """The cells whose use an admission has raised (E2)."""
        if not isinstance(command, Reserve | Extend | Allocate | Transfer | Lend):
            return []
        before = self.before["cells"]
        return [
            number
            for number, cell in self.draft.cells.items()
            if (cell.used > sum(before[number][part] for part in USE) if number in before else cell.held > 0)
        ]

    def do(self, command: Any, refused: str | None = None, **context: Any) -> Any:
        """Decide; the outcome must be an answer, or a refusal with this code."""
        outcome = self.decide(command, **context)
        code = outcome.code if isinstance(outcome, Refused) else None
        assert code == refused, f"{command}: expected {refused or 'an answer'}, was {outcome}"
        return outcome

    # -- commands in few words -------------------------------------------------------------------------------------

    def account(self, account: str, parent: str | None = None, *, refused=None, **fields: Any) -> Any:
        return self.do(PutAccount(account=account, parent=parent, **fields), refused)

    def tree(self, *names: str) -> Ledger:
        """``tree("root", "root/team", "team/agent")``: accounts, each below the one before the slash."""
        for name in names:
            parent, _, child = name.rpartition("/")
            self.account(child, parent or None)
        return self

    def budget(self, account: str, limit: int, unit: Any = "tokens", *, refused=None, **fields: Any) -> Any:
        return self.do(PutBudget(account=account, unit=unit, limit=limit, **fields), refused)

    def remove_budget(self, account: str, budget: str, *, refused=None, **fields: Any) -> Any:
        return self.do(RemoveBudget(account=account, budget=budget, **fields), refused)

    def reserve(self, id: str, account: str, amounts: Any = None, *, refused=None, **fields: Any) -> Any:
        return self.do(Reserve(id=id, account=account, amounts=amounts_of(amounts), **fields), refused)

    def extend(self, id: str, to: Any = None, *, refused=None, **fields: Any) -> Any:
        return self.do(Extend(id=id, to=amounts_of(to), **fields), refused)

    def settle(self, id: str, total: Any = None, *, refused=None, **fields: Any) -> Any:
        return self.do(Settle(id=id, total=amounts_of(total), **fields), refused)

    def running(self, id: str, total: Any) -> Any:
        return self.settle(id, total, final=False)

    def release(self, id: str, *, refused=None, **fields: Any) -> Any:
        return self.do(Release(id=id, **fields), refused)

    def queue(self, id: str, account: str, amounts: Any = None, *, wait_s: int = 60, **fields: Any) -> Any:
        """Reserve, and wait for it."""
        answer = self.reserve(id, account, amounts, wait_s=wait_s, **fields)
        assert answer.state == "waiting", answer
        return answer

    def attend(self, id: str, *, gone: bool = False, refused=None, **context: Any) -> Any:
        return self.do(Attend(id=id, gone=gone), refused, **context)

    def spend(self, account: str, amounts: Any, **fields: Any) -> Any:
        """A call from beginning to end."""
        id = f"spent-{len(self.journal)}"
        self.reserve(id, account, amounts, **fields)
        return self.settle(id, amounts)

    def use(self, account: str, amounts: Any, **fields: Any) -> Any:
        """Usage after the fact."""
        return self.settle(f"used-{len(self.journal)}", amounts, account=account, **fields)

    def allocate(self, account: str, to: int, unit: Any = "tokens", *, refused=None, **fields: Any) -> Any:
        return self.do(Allocate(account=account, unit=unit, to=to, **fields), refused)

    def deallocate(self, account: str, unit: Any = "tokens", *, refused=None) -> Any:
        return self.do(Deallocate(account=account, unit=unit), refused)

    def transfer(self, source: str, target: str, amount: int, *, refused=None, **fields: Any) -> Any:
        command = Transfer(source=source, target=target, unit=fields.pop("unit", "tokens"), amount=amount, **fields)
        return self.do(command, refused)

    def lend(self, id: str, account: str, *parts: tuple[str, int], refused=None, **fields: Any) -> Any:
        shares = tuple(LoanPart(source=source, amount=amount) for source, amount in parts)
        unit = fields.pop("unit", "tokens")
        return self.do(Lend(id=id, account=account, unit=unit, parts=shares, **fields), refused)

    def give_back(self, id: str, *, refused=None) -> Any:
        return self.do(GiveBack(id=id), refused)

    def adjust(self, id: str, account: str, amount: int, *, refused=None, **fields: Any) -> Any:
        fields = {"budget": "tokens-lifetime", "reason": "because", **fields}
        return self.do(Adjust(id=id, account=account, amount=amount, **fields), refused)

    def end_adjustment(self, id: str, account: str, *, refused=None) -> Any:
        return self.do(EndAdjustment(id=id, account=account), refused)

    def keys(self, **roles: Any) -> Ledger:
        """``keys(boss="admin", bound=("account", "team"))``: keys by their public ids."""
        for key, role in roles.items():
            of, account = role if isinstance(role, tuple) else (role, None)
            self.do(PutKey(key=key, digest=f"digest of {key}", role=of, account=account))
        return self

    def ask(self, id: str, account: str, amount: int, *, by: str = "asker", refused=None, **fields: Any) -> Any:
        """Request an override."""
        context = {name: fields.pop(name) for name in ("scope",) if name in fields}
        fields = {"budget": "tokens-lifetime", "reason": "because", **fields}
        return self.do(RequestOverride(id=id, account=account, amount=amount, **fields), refused, actor=by, **context)

    def approve(self, id: str, amount: int | None = None, *, by: str = "boss", refused=None, **context: Any) -> Any:
        return self.do(ApproveOverride(id=id, amount=amount, reason="so be it"), refused, actor=by, **context)

    def deny(self, id: str, *, by: str = "boss", refused=None, **context: Any) -> Any:
        return self.do(DenyOverride(id=id, reason="no"), refused, actor=by, **context)

    def revoke(self, id: str, *, by: str = "boss", refused=None, **context: Any) -> Any:
        return self.do(RevokeOverride(id=id, reason="enough"), refused, actor=by, **context)

    def reset_gate(self, account: str, task: str | None = None, *, refused=None, **context: Any) -> Any:
        return self.do(ResetGate(account=account, task=task), refused, **context)

    def status(self, account: str, status: Any, *, refused=None, **fields: Any) -> Any:
        return self.do(SetStatus(account=account, status=status, **fields), refused)

    def template(self, pattern: str, *, refused=None, **fields: Any) -> Any:
        return self.do(PutTemplate(pattern=pattern, **fields), refused)

    def compound(self, *commands: Any, refused=None) -> Any:
        return self.do(Compound(commands=commands), refused)

    # -- looking ---------------------------------------------------------------------------------------------------

    def find(self, account: str, budget: str) -> Budget:
        found = self.draft.accounts[self.draft.names[account]]
        return next(b for n in found.budgets if (b := self.draft.budgets[n]).name == budget)

    def cell(self, account: str, budget: str = "tokens-lifetime") -> Figures:
        """The running window of a budget as of now, without leaving a trace."""
        return self.windows(account, budget)[-1]

    def windows(self, account: str, budget: str = "tokens-lifetime") -> list[Figures]:
        """All windows of a budget as of now, in the order of their opening."""
        mark = self.draft.mark()
        self.draft.isolate()
        bring_due(self.draft, self.now)
        found = self.find(account, budget)
        if not found.allocated:
            running_cell(self.draft, found, self.now)
        seen = [
            Figures(
                c.limit if c.phase == LIVE else c.cover,
                c.covered,
                c.held,
                c.quarantined,
                c.uncovered,
            )
            for c in self.draft.cells.values()
            if c.budget == found.number
        ]
        self.draft.rollback(mark)
        return seen

    def carved(self, account: str, unit: str = "tokens") -> Figures:
        """The allocation of an account; its limit is what it covers when it is parked or has ended."""
        return self.cell(account, f"allocation-{unit}")

    def fired(self) -> list[int]:
        """The thresholds that the last command crossed, in order."""
        return [event.percent for event in self.last if type(event).__name__ == "ThresholdCrossed"]

    def kinds(self) -> list[str]:
        """The events of the last command."""
        return [type(event).__name__ for event in self.last]

    def hold(self, id: str) -> Any:
        return self.draft.holds[id]

    def check_replay(self) -> None:
        """State = fold(journal) (E3)."""
        fresh = folded(self.journal, self.rules)
        assert rows(fresh) == rows(self.draft)
        assert fresh.waiting == self.draft.waiting
