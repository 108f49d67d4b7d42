"""Ledgers to measure on: five levels, two units, a budget for each unit on every level."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import uuid_utils

from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.core.commands import AnyCommand, PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.records import CallRecord, Tokens
from fiscus.core.units import Amounts
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury

LIMIT = 2**50
"""So large that nothing is refused."""

RESERVED: Amounts = {"tokens": 4_000, "cost": 60_000_000}

AGENTS, USERS, PROJECTS, TEAMS = 64, 16, 8, 4
LEVELS = ("global", "team", "project", "user", "agent")


def open_treasury(path: Path) -> LocalTreasury:
    """A treasury in this process over a ledger in a file, with everything as it is by default."""
    return treasury_at(f"sqlite:///{path}")


def treasury_at(store_url: str) -> LocalTreasury:
    """The same over a ledger at an address as settings have it."""
    return LocalTreasury(Engine(open_store(store_url)))


def accounts() -> Iterator[tuple[str, str | None]]:
    """All accounts with their parents: one ``global``, then teams, projects, users and agents below each other."""
    yield "global", None
    for level, count, above, count_above in (
        ("team", TEAMS, "global", 1),
        ("project", PROJECTS, "team", TEAMS),
        ("user", USERS, "project", PROJECTS),
        ("agent", AGENTS, "user", USERS),
    ):
        for index in range(count):
            yield f"{level}:{index}", above if count_above == 1 else f"{above}:{index % count_above}"


def agent(index: int) -> str:
    """The agent that a caller spends for."""
    return f"agent:{index % AGENTS}"


async def must(treasury: LocalTreasury, command: AnyCommand) -> None:
    """Have a command decided that is not to be refused."""
    outcome = await treasury.execute(Request(command=command))
    assert not isinstance(outcome, Refused), outcome


async def make_accounts(treasury: LocalTreasury, period: str = "month") -> None:
    """Five levels, each account with a budget of tokens and one of cost, their windows open."""
    for account, parent in accounts():
        await must(treasury, PutAccount(account=account, parent=parent))
        for unit in ("tokens", "cost"):
            await must(treasury, PutBudget(account=account, unit=unit, limit=LIMIT, period=period))
    for index in range(AGENTS):
        reserve, settle = pair(agent(index), Amounts())
        await must(treasury, reserve)
        await must(treasury, settle)


class Calls:
    """The calls of one caller: what each really used, seeded, and the sum of it for the final check."""

    def __init__(self, account: str, seed: int, *, records: bool) -> None:
        self.account = account
        self.records = records
        self.sum: Amounts = {"tokens": 0, "cost": 0}
        self._random = random.Random(seed)

    def next(self) -> tuple[Reserve, Settle]:
        """One call: a reserve with a fresh id, and its settlement."""
        tokens = self._random.randrange(100, 4_000)
        used: Amounts = {"tokens": tokens, "cost": tokens * 15_000}
        self.sum["tokens"] += used["tokens"]
        self.sum["cost"] += used["cost"]
        return pair(self.account, used, records=self.records)


def in_turn(callers: Sequence[Calls], count: int) -> list[list[tuple[Reserve, Settle]]]:
    """So many calls of each caller, made round by round: ids follow each other in time as those of live callers do."""
    made: list[list[tuple[Reserve, Settle]]] = [[] for _ in callers]
    for _ in range(count):
        for caller, own in zip(callers, made, strict=True):
            own.append(caller.next())
    return made


def pair(account: str, used: Amounts, *, records: bool = False) -> tuple[Reserve, Settle]:
    """A reserve with a fresh id, and the settlement of what was used: totals, or the record of the call."""
    id = str(uuid_utils.uuid7())
    reserve = Reserve(id=id, account=account, amounts=RESERVED)
    if not used:
        return reserve, Settle(id=id, total={"tokens": 0, "cost": 0})
    if not records:
        return reserve, Settle(id=id, total=used)
    output = used["tokens"] // 4
    record = CallRecord(
        model="claude-sonnet-4-5",
        provider="anthropic",
        tokens=Tokens(input=used["tokens"] - output, output=output, cache_read=output),
        cost_nanousd=used["cost"],
        duration_ms=1_234,
        tools=("search",),
    )
    return reserve, Settle(id=id, record=record)


async def check_books(treasury: LocalTreasury, calls: Sequence[Calls]) -> None:
    """The books equal the calls, on every level and in both units, and nothing is held any more."""
    for unit in ("tokens", "cost"):
        expected: dict[str, int] = {}
        parents = dict(accounts())
        for one in calls:
            account: str | None = one.account
            while account is not None:
                expected[account] = expected.get(account, 0) + one.sum[unit]
                account = parents[account]
        for account, spent in expected.items():
            view = await treasury.read(ReadAccount(account=account))
            assert isinstance(view, AccountView), view
            balance = next(b.balance for b in view.account.budgets if b.unit == unit)
            assert balance is not None
            assert (balance.covered, balance.held, balance.uncovered) == (spent, 0, 0), (account, unit, balance, spent)


async def reserve_and_settle(treasury: LocalTreasury, requests: Sequence[Request]) -> None:
    """One caller: reserves and their settlements, one after the other; every answer must be a hold."""
    execute = treasury.execute
    for request in requests:
        outcome = await execute(request)
        assert type(outcome) is HoldAnswer, outcome
