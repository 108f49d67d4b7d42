"""Whose calls they are: the tree of accounts of a replay, and the budgets on every level of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import msgspec

from fiscus.cli.replay.behaviour import uniform
from fiscus.cli.replay.provider import amounts, upper_bound
from fiscus.cli.traces import Call
from fiscus.core.commands import Allocate, AnyCommand, PutAccount, PutBudget
from fiscus.core.units import AMOUNT_MAX, Amounts, Unit

Level = Literal["global", "team", "user", "agent", "thread", "subagent"]
LEVELS: tuple[Level, ...] = get_args(Level)

AGENTS_PER_USER = 4
AGENTS_PER_TEAM = 16
CALLS_PER_THREAD = 16
"""A trace without sessions is cut into threads of so many successive calls of an agent."""

LIMITED: tuple[Unit, ...] = ("tokens", "cost")
COUNTED: tuple[Unit, ...] = ("input_tokens", "output_tokens", "calls")
"""Units that the root only observes, so that they can be reconciled too."""

TIGHT_SHARE: dict[Level, float] = {
    "global": 0.0,
    "team": 0.0,
    "user": 0.2,
    "agent": 0.2,
    "thread": 0.2,
    "subagent": 0.2,
}
"""Which part of the accounts of a level gets less than its calls will want, in one of the two units."""

TIGHT_PERCENT = 75
ROOMY_PERCENT = 125
"""Limits, of what the account's calls will really use; a roomy one has room for the calls in flight on top."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """How the accounts are called and how calls are dealt to them.

    Attributes:
        root: the account above all.
        prefix: begins every other account's name after its kind, so that two replays can share a ledger.
        agents: how many agents there are (in every team, if the trace names teams).
    """

    root: str = "global"
    prefix: str = ""
    agents: int

    def path(self, call: Call, position: int) -> tuple[str, ...]:
        """The accounts of a call, root first; the last one pays.

        Args:
            call: as the trace has it.
            position: number of its session in the trace, or of its row if it has no session, from 0.
        """
        number = position % self.agents
        team = call.team or f"{number // AGENTS_PER_TEAM + 1}"
        owner = f"{call.team}-" if call.team else ""
        thread = call.session or f"{owner}{number + 1}.{position // self.agents // CALLS_PER_THREAD + 1}"
        path = (
            self.root,
            f"team:{self.prefix}{team}",
            f"user:{self.prefix}{owner}{number // AGENTS_PER_USER + 1}",
            f"agent:{self.prefix}{owner}{number + 1}",
            f"thread:{self.prefix}{thread}",
        )
        return (*path, f"subagent:{self.prefix}{call.session}.{call.subagent}") if call.subagent else path


class Account(msgspec.Struct, kw_only=True):
    """One account of the fleet and what its calls, and those below it, will want.

    Attributes:
        limits: what it may spend, per unit.
        allocated: the units whose limit is carved out of the accounts above.
        used: what its calls really use, from the trace.
        bound: the largest upper bound of one of them.
    """

    name: str
    level: Level
    parent: str | None
    calls: int = 0
    used: dict[Unit, int] = msgspec.field(default_factory=dict)
    bound: dict[Unit, int] = msgspec.field(default_factory=dict)
    limits: dict[Unit, int] = msgspec.field(default_factory=dict)
    allocated: tuple[Unit, ...] = ()
    tight: bool = False

    def add(self, used: Amounts, bound: Amounts) -> None:
        """Count a call."""
        self.calls += 1
        for unit in (*LIMITED, *COUNTED):
            self.used[unit] = self.used.get(unit, 0) + used[unit]
            self.bound[unit] = max(self.bound.get(unit, 0), bound[unit])


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The accounts of a replay, parents first, by name."""

    accounts: dict[str, Account]

    @property
    def root(self) -> Account:
        """The account above all."""
        return next(iter(self.accounts.values()))

    def upward(self, account: Account) -> Iterator[Account]:
        """The account and those above it, up to the root."""
        return _upward(self.accounts, account)

    def commands(self, labels: dict[str, str]) -> Iterator[AnyCommand]:
        """What opens the accounts and sets their budgets, in order; the root gets ``labels``."""
        for account in self.accounts.values():
            yield PutAccount(
                account=account.name, parent=account.parent, labels=labels if account is self.root else None
            )
            for unit in LIMITED:
                if unit in account.allocated:
                    yield Allocate(account=account.name, unit=unit, to=account.limits[unit])
                else:
                    yield PutBudget(account=account.name, unit=unit, limit=account.limits[unit])
        for unit in COUNTED:
            yield PutBudget(account=self.root.name, unit=unit, limit=self.root.limits[unit], mode="observe")


def paths(calls: Iterable[Call], names: Names) -> Iterator[tuple[Call, tuple[str, ...]]]:
    """Each call with its accounts."""
    sessions: dict[str, int] = {}
    for call in calls:
        position = sessions.setdefault(call.session, len(sessions)) if call.session else call.row - 1
        yield call, names.path(call, position)


def plan_fleet(calls: Iterable[Call], names: Names, in_flight: int, seed: int) -> Fleet:
    """The accounts that the calls need, with budgets on every one, some of them tight, and one allocation.

    A roomy limit is ``ROOMY_PERCENT`` of what the account's calls really use, and room for those in flight; a tight one
    is ``TIGHT_PERCENT`` of it, so that some calls are refused. The agent with the most calls that is not tight, with
    nobody tight above it, gets its tokens as an allocation; the accounts above it get as much more.
    """
    accounts: dict[str, Account] = {}
    for call, path in paths(calls, names):
        used, bound = amounts(call.model, call.input_tokens, call.output_tokens), upper_bound(call)
        for depth, name in enumerate(path):
            if name not in accounts:
                parent = path[depth - 1] if depth else None
                accounts[name] = Account(name=name, level=LEVELS[depth], parent=parent)
            accounts[name].add(used, bound)
    for account in accounts.values():
        _set_limits(account, in_flight, seed)
    _allocate(accounts)
    return Fleet(accounts=accounts)


def _set_limits(account: Account, in_flight: int, seed: int) -> None:
    drawn = uniform(f"{seed}/tight/{account.name}") / (TIGHT_SHARE[account.level] or 1e-9)
    tight_unit = LIMITED[int(drawn * len(LIMITED))] if drawn < 1 else None
    account.tight = tight_unit is not None
    for unit in (*LIMITED, *COUNTED):
        room = min(in_flight, account.calls) * account.bound[unit]
        roomy = account.used[unit] * ROOMY_PERCENT // 100 + room
        limit = account.used[unit] * TIGHT_PERCENT // 100 if unit == tight_unit else roomy
        account.limits[unit] = min(AMOUNT_MAX, limit)


def _allocate(accounts: dict[str, Account]) -> None:
    candidates = [
        account
        for account in accounts.values()
        if account.level == "agent" and not any(step.tight for step in _upward(accounts, account))
    ]
    if not candidates:
        return
    chosen = max(candidates, key=lambda account: account.calls)
    chosen.allocated = ("tokens",)
    for step in _upward(accounts, chosen):
        if step is not chosen:
            step.limits["tokens"] = min(AMOUNT_MAX, step.limits["tokens"] + chosen.limits["tokens"])


def _upward(accounts: dict[str, Account], account: Account) -> Iterator[Account]:
    step: Account | None = account
    while step is not None:
        yield step
        step = accounts[step.parent] if step.parent else None
