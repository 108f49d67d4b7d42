"""Plans against a ledger in which time passes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fiscus.contract.declaration import Declaration, DeclaredAccount, DeclaredAllocation, Origin
from fiscus.contract.errors import ConfigurationInvalid
from fiscus.core.checks import to_datetime
from fiscus.core.commands import (
    Allocate,
    Compound,
    PutAccount,
    PutBudget,
    Reserve,
    SetStatus,
)
from fiscus.core.outcomes import CompoundAnswer, HoldAnswer, Refused
from fiscus.core.units import Amounts
from fiscus.policy.plan import Known, Step, make_plan
from fiscus.stores import open_store
from tests.treasury.clock import START_MS, ManualClock
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


@pytest.mark.parametrize("to", [500, 1_000, 2_000])
@pytest.mark.parametrize("is_over", [False, True])
def test_what_is_declared_has_no_end_so_one_that_was_ordered_until_a_time_is_a_difference(desk, clock, to, is_over):
    until = START_MS + 60_000
    allocate(desk, "agent:a", 1_000, until_ms=until)
    if is_over:
        clock.advance(60_000)
        assert isinstance(reserve(desk, {"tokens": 1}), Refused)
    (step,) = plan(desk, declare(agent=to))
    changes = {change.field: (change.before, change.after) for change in step.changes}
    assert changes.pop("valid_until") == (to_datetime(until), None)
    assert changes.pop("lapsed", None) == ((True, False) if is_over else None)
    assert changes == ({} if to == 1_000 else {"size": (1_000, to)})
    apply(desk, declare(agent=to))
    clock.advance(DAY_MS)
    assert plan(desk, declare(agent=to)) == []
    assert isinstance(reserve(desk, {"tokens": to}), HoldAnswer)


@pytest.mark.parametrize(("team", "agent"), [(4_000, 500), (6_000, 2_000), (4_000, 2_000), (6_000, 500)])
def test_allocations_of_one_chain_that_are_over_are_carved_from_the_root(desk, clock, team, agent):
    allocate(desk, "team:a", 5_000, until_ms=START_MS + 60_000)
    allocate(desk, "agent:a", 1_000, until_ms=START_MS + 60_000)
    clock.advance(60_000)
    apply(desk, declare(team=team, agent=agent))
    assert isinstance(reserve(desk, {"tokens": agent}), HoldAnswer)


@pytest.mark.parametrize("account", ["team:a", "agent:a"])
def test_what_cannot_be_carved_for_an_account_that_is_suspended_waits_until_it_is_resumed(desk, clock, account):
    allocate(desk, "agent:a", 1_000, until_ms=START_MS + 60_000)
    desk.do(SetStatus(account=account, status="suspended"))
    clock.advance(60_000)
    declared = declare(agent=1_000)
    assert plan(desk, declared) == []
    resumed = DeclaredAccount(account=account, status="active")
    if account == "agent:a":
        resumed = msgspec.structs.replace(declared.accounts[0], status="active")
    others = tuple(one for one in declared.accounts if one.account != account)
    declared = msgspec.structs.replace(declared, accounts=(resumed, *others))
    assert [step.subject for step in plan(desk, declared)] == ["status", "allocation"]
    apply(desk, declared)
    assert isinstance(reserve(desk, {"tokens": 1_000}), HoldAnswer)


def test_what_is_below_an_account_that_has_ended_is_let_be(desk):
    allocate(desk, "agent:a", 1_000)
    desk.do(SetStatus(account="team:a", status="terminated"))
    agent = DeclaredAccount(account="agent:a", allocations={"tokens": 1_000})
    assert plan(desk, Declaration(accounts=(agent,), templates=(), origin=Origin("org.toml", {}))) == []


def test_what_is_resumed_is_so_before_anything_is_opened_below_it(desk):
    desk.do(SetStatus(account="team:a", status="suspended"))
    team = DeclaredAccount(account="team:a", status="active")
    new = DeclaredAccount(account="agent:new", parent="team:a")
    declared = Declaration(accounts=(new, team), templates=(), origin=Origin("org.toml", {}))
    steps = plan(desk, declared)
    assert [step.subject for step in steps] == ["status", "account"]
    assert isinstance(desk.do(Compound(commands=tuple(step.command for step in steps))), CompoundAnswer)


@pytest.mark.parametrize("status", ["suspended", "terminated", "closed"])
@pytest.mark.parametrize("parent", ["team:a", "agent:a"])
def test_nothing_is_planned_below_an_account_that_is_stopped(desk, status, parent):
    desk.do(SetStatus(account="team:a", status=status))
    new = DeclaredAccount(account="agent:new", parent=parent)
    with pytest.raises(ConfigurationInvalid, match=f"team:a is {status}; nothing is opened below it"):
        plan(desk, Declaration(accounts=(new,), templates=(), origin=Origin("org.toml", {})))
