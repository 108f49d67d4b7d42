"""The real core beside the independent model, command by command (design.md §2, §3).

A deeper run: ``HYPOTHESIS_PROFILE=deep .venv/bin/pytest tests/model/test_state_machine.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fiscus.core.commands import (
    Allocate,
    ApproveOverride,
    Compound,
    DenyOverride,
    Extend,
    PutAccount,
    PutBudget,
    PutKey,
    Release,
    RequestOverride,
    Reserve,
    RevokeOverride,
    Settle,
    Transfer,
)
from fiscus.core.events import StatusChanged
from fiscus.core.gates import task_key
from fiscus.core.outcomes import CompoundAnswer, HoldAnswer, OverrideAnswer, Refused
from tests.model.granting import ROLES, override_state
from tests.model.harness import Core, Seen, rows
from tests.model.model import Answer, Figures, Model, Refusal
from tests.model.wishes import NAMES, START_MS, STARTS_MS, Wishes, moment

EXAMPLES, STEPS = {"deep": (3_000, 60)}.get(os.environ.get("HYPOTHESIS_PROFILE", ""), (300, 40))
DUE_EVENTS = {
    "Expired",
    "QuarantineClosed",
    "AdjustmentEnded",
    "AllocationEnded",
    "WindowOpened",
    "ThresholdCrossed",
    "OverrideExpired",
    "Transferred",
    "LoanEnded",
}
ONE_WAY = {(state, state) for state in ("held", "settled", "released", "expired")} | {
    ("held", "settled"),
    ("held", "released"),
    ("held", "expired"),
    ("expired", "settled"),
    ("expired", "released"),
}


CALLS = (Reserve, Extend, Settle, Release)
DECIDED = (RequestOverride, ApproveOverride, DenyOverride, RevokeOverride)


class Pair:
    """The core and the model under one clock; each command is decided by both, and all that can be seen is compared."""

    def __init__(self, quarantine: str = "charge", start_ms: int = START_MS) -> None:
        self.core = Core.with_quarantine(quarantine)
        self.model = Model(quarantine)
        self.now_ms = start_ms
        self.states: dict[str, str] = {}

    def open_accounts(self, choose: Callable[[Sequence[Any]], Any]) -> None:
        """A tree, in which each account has one of those before it as its parent, and some budgets and allocations."""
        for key, role in ROLES.items():
            self.core.decide(PutKey(key=key, digest=f"digest of {key}", role=role), self.now_ms)
        self.run(PutAccount(account="root"))
        for position, name in enumerate(NAMES[1:]):
            self.run(PutAccount(account=name, parent=choose(NAMES[: position + 1])))
        for unit in choose(((), ("tokens",), ("tokens", "cost"))):
            self.run(PutBudget(account="root", budget=f"all-{unit}", unit=unit, limit=choose((300, 100))))
        for _ in range(choose((1, 2, 3))):
            self.run(Wishes(self.model, choose, self.now_ms).put_budget())
        for _ in range(choose((0, 1, 2, 3))):
            self.run(Wishes(self.model, choose, self.now_ms).allocate())

    def wait_until(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.run(PutAccount(account="root"))

    def run(self, command: Any, scope: str | None = None, actor: str = "") -> None:
        before = len(self.core.journal)
        used = self.core.used(self.now_ms)
        sizes = {key: grant.size for key, grant in self.model.grants.items()}
        expected = self.model.decide(command, self.now_ms, scope=scope, actor=actor)
        real = self.core.decide(command, self.now_ms, scope=scope, actor=actor)
        self.compare_outcomes(command, expected, real)
        if isinstance(real, Refused):
            if not isinstance(command, Compound):
                self.check_that_a_refusal_changed_nothing(before)
        elif isinstance(command, Reserve | Extend | Allocate | Transfer):
            self.check_that_no_deficit_was_made(used)
        if isinstance(command, Transfer) and not isinstance(real, Refused):
            self.check_that_the_total_stayed(command, real, sizes)
        self.check_invariants()
        self.compare_everything()

    # ------------------------------------------------------------------------------------------- comparing

    def compare_outcomes(self, command: Any, expected: Answer | Refusal, real: Any) -> None:
        told = f"{command}: expected {expected}, was {real}"
        if isinstance(expected, Refusal):
            assert isinstance(real, Refused), told
            assert real.code == expected.code, told
            assert expected.index == real.index, told
            if real.binding is not None and expected.account is not None:
                budget = None if real.binding.allocated else real.binding.budget
                assert (real.binding.account, budget) == (expected.account, expected.budget), told
            return
        assert not isinstance(real, Refused), told
        if isinstance(real, HoldAnswer):
            self.compare_hold(expected, real, told)
        if isinstance(real, OverrideAnswer):
            assert (real.state, real.amount) == (expected.values["state"], expected.values["amount"]), told
        if isinstance(real, CompoundAnswer):
            for each, its, sub in zip(expected.values["answers"], real.answers, command.commands, strict=True):
                self.compare_outcomes(sub, each, its)

    def compare_hold(self, expected: Answer, real: HoldAnswer, told: str) -> None:
        values = expected.values
        told = f"{told}: expected {expected}, was {real}"
        assert real.state == values["state"], told
        assert positive(real.reserved) == values["reserved"], told
        assert positive(real.booked) == values["booked"], told
        assert positive(real.uncovered) == values["uncovered"], told
        if values["expires_at"] is not None:
            assert real.expires_at == moment(values["expires_at"]), told

    def compare_everything(self) -> None:
        seen = self.core.look(self.now_ms)
        statuses = {name: account.status for name, account in self.model.accounts.items()}
        assert seen.statuses == statuses, f"expected {statuses}, were {seen.statuses}"
        self.compare_balances(seen)
        overrides = {id: (override_state(self.model, one), one.amount) for id, one in self.model.overrides.items()}
        assert seen.overrides == overrides, f"expected {overrides}, were {seen.overrides}"
        loans = {loan.id: (loan.active, loan.returned) for loan in self.model.loans.values()}
        assert seen.loans == loans, f"expected {loans}, were {seen.loans}"
        gates = {
            name: {task_key(task) for task, until in account.closed.items() if until > self.now_ms}
            for name, account in self.model.accounts.items()
        }
        assert seen.gates == {name: closed for name, closed in gates.items() if closed}
        for id, hold in self.model.holds.items():
            self.compare_hold(self.model._hold_answer(hold), seen.holds[id], id)
        crossed: dict[tuple[str, str], list[int]] = {}
        for number, percent in self.model.crossed:
            budget = self.model.budgets[number]
            if not budget.removed:
                crossed.setdefault((budget.account, budget.name), []).append(percent)
        assert seen.crossed == crossed, f"expected {crossed}, were {seen.crossed}"

    def compare_balances(self, seen: Seen) -> None:
        expected = self.model.balances()
        assert seen.running.keys() == expected.keys(), f"expected {expected}, were {seen.running}"
        for key, figures in expected.items():
            real = seen.running[key]
            if figures.allocated or figures.end is None:
                real = without_window(real)
                figures = without_window(figures)
            assert real == figures, f"{key}: expected {figures}, was {real}"
        for key, figures in self.model.balances_ended().items():
            assert seen.ended[key] == figures, f"{key}: expected {figures}, was {seen.ended[key]}"

    # ------------------------------------------------------------------------------------------- what must always hold

    def check_that_a_refusal_changed_nothing(self, before: int) -> None:
        """E8 and §3: only what was due anyhow, and then what the policy of an exhausted budget does."""
        for event, _ in self.core.journal[before:]:
            if isinstance(event, StatusChanged):
                return
            assert type(event).__name__ in DUE_EVENTS, event

    def check_that_no_deficit_was_made(self, used: dict[int, int]) -> None:
        """E2, after a reserve, extend, allocate or transfer: in every enforcing cell whose use it raised."""
        for cell in self.core.draft.cells.values():
            in_use = cell.covered + cell.held + cell.quarantined + cell.uncovered
            budget = self.core.draft.budgets[cell.budget]
            if cell.enforce and not budget.removed and in_use > used.get(cell.number, cell.uncovered):
                assert in_use <= (cell.cover if budget.allocated else cell.limit), cell

    def check_that_the_total_stayed(self, command: Transfer, real: Any, sizes: dict[Any, int]) -> None:
        """E8: what the source lost, the target got."""
        before = sizes[(command.source, command.unit)] + sizes[(command.target, command.unit)]
        assert real.source.size + real.target.size == before

    def check_invariants(self) -> None:
        """E1, E5, E6 and E13 on the core's own figures."""
        draft = self.core.draft
        for cell in draft.cells.values():
            assert min(cell.covered, cell.held, cell.quarantined, cell.uncovered) >= 0, cell
            if not draft.budgets[cell.budget].allocated:
                amounts = [a.amount for a in draft.adjustments.values() if a.cell == cell.number and a.active]
                assert cell.raised == sum(amount for amount in amounts if amount > 0), cell
        for hold in draft.holds.values():
            for unit, covered in hold.covered.items():
                assert 0 <= covered <= hold.reserved.get(unit, 0), hold
                assert covered <= hold.booked.get(unit, 0), hold
            assert (self.states.get(hold.id, hold.state), hold.state) in ONE_WAY, hold
            self.states[hold.id] = hold.state

    def check_that_the_journal_folds_to_the_same_state(self) -> None:
        """E3, E12: the state is the fold of the journal and nothing else."""
        assert rows(self.core.folded()) == rows(self.core.draft)


def positive(amounts: Any) -> dict[str, int]:
    return {unit: amount for unit, amount in (amounts or {}).items() if amount}


def without_window(figures: Figures) -> Figures:
    return Figures(
        figures.limit,
        figures.covered,
        figures.held,
        figures.quarantined,
        figures.uncovered,
        allocated=figures.allocated,
    )


class Wished(RuleBasedStateMachine):
    """Commands by the name of a wish."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def wish(self, data: Any, kind: str) -> None:
        def choose(options: Sequence[Any]) -> Any:
            return data.draw(st.sampled_from(options))

        wishes = Wishes(self.pair.model, choose, self.pair.now_ms)
        command = getattr(wishes, kind)()
        actor = wishes.actor() if isinstance(command, DECIDED) else ""
        self.pair.run(command, wishes.scope() if isinstance(command, CALLS) else None, actor)

    def teardown(self) -> None:
        self.pair.check_that_the_journal_folds_to_the_same_state()


class Ledger(Wished):
    """Hypothesis chooses; each rule is one kind of command."""

    @initialize(data=st.data(), quarantine=st.sampled_from(("charge", "release")), start_ms=st.sampled_from(STARTS_MS))
    def open_accounts(self, data: Any, quarantine: str, start_ms: int) -> None:
        self.pair = Pair(quarantine, start_ms)
        self.pair.open_accounts(lambda options: data.draw(st.sampled_from(options)))

    @rule(data=st.data())
    def wait(self, data: Any) -> None:
        wishes = Wishes(self.pair.model, lambda options: data.draw(st.sampled_from(options)), self.pair.now_ms)
        self.pair.wait_until(wishes.time())

    @rule(data=st.data(), kind=st.sampled_from(("reserve", "reserve", "reserve", "reserve_again")))
    def reserve(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(("settle", "settle", "usage", "release", "extend")))
    def go_on_with_a_call(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(("allocate", "allocate", "deallocate", "transfer", "transfer")))
    def move_budget(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(("lend", "lend", "reserve_what_was_lent", "give_back")))
    def lend(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(("put_budget", "put_budget", "remove_budget")))
    def change_budgets(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(("adjust", "adjust", "adjust_again", "end_adjustment")))
    def adjust(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(
        data=st.data(),
        kind=st.sampled_from(("request_override", "approve_override", "approve_override", "end_override")),
    )
    def override(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(("set_status", "put_account", "put_template", "set_gate", "reset_gate")))
    def change_accounts(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data())
    def compound(self, data: Any) -> None:
        self.wish(data, "compound")


LENT = ("lend", "lend", "lend", "reserve_what_was_lent", "reserve_what_was_lent", "give_back")
USED = ("reserve", "settle", "settle", "settle", "release", "usage")


class Lenders(Wished):
    """Accounts that can lend each other, so that they do: loans, calls, priorities and little else."""

    @initialize(
        data=st.data(), quarantine=st.sampled_from(("charge", "release")), period=st.sampled_from(("day", "lifetime"))
    )
    def open_accounts(self, data: Any, quarantine: str, period: str) -> None:
        self.pair = Pair(quarantine)
        self.pair.run(PutAccount(account="root"))
        self.pair.run(PutBudget(account="root", unit="tokens", limit=500, period=period))
        for name in NAMES[1:5]:
            parent = data.draw(st.sampled_from(("root", "a"))) if name in "cd" else "root"
            self.pair.run(PutAccount(account=name, parent=parent))
            self.pair.run(Allocate(account=name, unit="tokens", to=90 if name == "a" else 30))

    @rule(data=st.data(), kind=st.sampled_from(LENT))
    def lend(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(USED))
    def use(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data(), kind=st.sampled_from(("put_account", "put_account", "transfer", "allocate", "set_status")))
    def change(self, data: Any, kind: str) -> None:
        self.wish(data, kind)

    @rule(data=st.data())
    def wait(self, data: Any) -> None:
        wishes = Wishes(self.pair.model, lambda options: data.draw(st.sampled_from(options)), self.pair.now_ms)
        self.pair.wait_until(wishes.time())


@pytest.mark.slow
# covers E1-E8, E13
class TestLedger(Ledger.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.slow
# covers E8, T7, T8, T11
class TestLenders(Lenders.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(TestLedger.settings, max_examples=EXAMPLES // 3)
