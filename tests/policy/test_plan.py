"""Plans against a ledger in which time passes."""

from __future__ import annotations

from typing import Any

import pytest

from fiscus.contract.declaration import Declaration, DeclaredAccount, DeclaredAllocation, Origin
from fiscus.core.checks import to_datetime
from fiscus.core.commands import (
    Allocate,
    Compound,
    PutAccount,
    PutBudget,
    Reserve,
)
from fiscus.core.outcomes import CompoundAnswer, HoldAnswer, Refused
from fiscus.core.units import Amounts
from fiscus.policy.plan import Known, Step, make_plan
from fiscus.stores import open_store
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk

DAY_MS = 86_400_000
NAMES = ("global", "team:a", "agent:a")
LEDGER = (
    PutAccount(account="global"),
    PutBudget(account="global", unit="tokens", limit=10_000, period="day"),
    PutAccount(account="team:a", parent="global"),
    PutAccount(account="agent:a", parent="team:a"),
)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def desk(clock):
    """``agent:a`` below ``team:a`` below ``global``, which has 10,000 tokens a day."""
    desk = Desk(open_store("memory:"), clock)
    for command in LEDGER:
        desk.do(command)
    yield desk
    desk.engine.close()


def allocate(desk: Desk, account: str, to: int, until_ms: int | None = None) -> None:
    valid_until = to_datetime(until_ms) if until_ms is not None else None
    outcome = desk.do(Allocate(account=account, unit="tokens", to=to, valid_until=valid_until))
    assert not isinstance(outcome, Refused), outcome


def declare(**allocations: int | DeclaredAllocation) -> Declaration:
    """A file with ``team`` and ``agent``, each with an allocation of so many tokens."""
    names = {"team": ("team:a", "global"), "agent": ("agent:a", "team:a")}
    accounts = tuple(
        DeclaredAccount(account=names[key][0], parent=names[key][1], allocations={"tokens": size})
        for key, size in allocations.items()
    )
    return Declaration(accounts=accounts, templates=(), origin=Origin("org.toml", {}))


def plan(desk: Desk, declaration: Declaration) -> list[Step]:
    return make_plan(declaration, Known(accounts={name: desk.account(name) for name in NAMES}, templates={}))


def apply(desk: Desk, declaration: Declaration) -> Any:
    """Do what is planned; nothing is left to do then."""
    outcome = desk.do(Compound(commands=tuple(step.command for step in plan(desk, declaration))))
    assert isinstance(outcome, CompoundAnswer), outcome
    assert plan(desk, declaration) == []


def said(steps: list[Step]) -> list[tuple[str, str, list[tuple[str, Any, Any]]]]:
    return [
        (step.action, step.name, [(change.field, change.before, change.after) for change in step.changes])
        for step in steps
    ]


def reserve(desk: Desk, amounts: Amounts, id: str = "h") -> HoldAnswer | Refused:
    return desk.do(Reserve(id=id, account="agent:a", amounts=amounts))


@pytest.mark.parametrize("to", [500, 2_000])
def test_what_is_declared_otherwise_is_applied_after_a_window_in_which_nobody_called(desk, clock, to):
    allocate(desk, "agent:a", 1_000)
    clock.advance(DAY_MS)
    assert said(plan(desk, declare(agent=to))) == [("change", "agent:a / tokens", [("size", 1_000, to)])]
    apply(desk, declare(agent=to))
    assert isinstance(reserve(desk, {"tokens": to}), HoldAnswer)


@pytest.mark.parametrize(("team", "agent"), [(4_000, 500), (6_000, 2_000), (4_000, 2_000), (6_000, 500)])
def test_allocations_of_one_chain_are_applied_together_after_a_window_in_which_nobody_called(desk, clock, team, agent):
    allocate(desk, "team:a", 5_000)
    allocate(desk, "agent:a", 1_000)
    clock.advance(DAY_MS)
    apply(desk, declare(team=team, agent=agent))
    assert isinstance(reserve(desk, {"tokens": agent}), HoldAnswer)
