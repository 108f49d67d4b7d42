"""What the calls really produced against what the books say, for every account and unit."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from fiscus.cli.replay.driver import Lost
from fiscus.cli.replay.fleet import COUNTED, LIMITED, Account, Fleet
from fiscus.cli.replay.provider import Provider
from fiscus.contract.errors import refusal
from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.contract.treasury import Treasury
from fiscus.core.outcomes import Balance, BudgetView, Refused
from fiscus.core.units import Unit

READERS = 16

Books = Mapping[tuple[str, Unit], Balance]
"""The balance of every account in every unit, as read from the treasury."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One account in one unit.

    Attributes:
        limit: as it was planned; None where the unit is only counted.
        produced: what the provider counted for the account and all below it.
        spent, held, quarantined: what the books say.
        difference: how far the books are from the truth: spent from what was produced, quarantined from the bounds of
            the killed calls that nobody has reported yet, held from what allocations still have free.
        overspend: how far the limit was passed under holds, by the books or by the truth, whichever is more.
    """

    account: str
    level: str
    unit: Unit
    limit: int | None
    produced: int
    spent: int
    held: int
    quarantined: int
    difference: int
    overspend: int


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """All lines, root first."""

    lines: tuple[Line, ...]

    def difference(self, unit: Unit) -> int:
        """The sum of all accounts' differences in a unit; 0 only if every single one is."""
        return sum(line.difference for line in self.lines if line.unit == unit)

    def overspend(self, unit: Unit) -> int:
        """The sum of all accounts' overspend in a unit."""
        return sum(line.overspend for line in self.lines if line.unit == unit)

    def quarantined(self, unit: Unit) -> int:
        """What the killed calls hold at the root, by the books."""
        return next((line.quarantined for line in self.lines if line.unit == unit), 0)


async def read_books(treasury: Treasury, accounts: Iterable[Account]) -> Books:
    """The balances of these accounts, each exact when it is read."""
    books: dict[tuple[str, Unit], Balance] = {}
    limiter = asyncio.Semaphore(READERS)

    async def read(account: Account) -> None:
        async with limiter:
            view = await treasury.read(ReadAccount(account=account.name))
        if isinstance(view, Refused):
            raise refusal(view)
        assert isinstance(view, AccountView), "an account is answered by an account"
        for budget in view.account.budgets:
            if not budget.match:
                books[account.name, budget.unit] = budget.balance or _untouched(budget)

    async with asyncio.TaskGroup() as group:
        for account in accounts:
            group.create_task(read(account))
    return books


def _untouched(budget: BudgetView) -> Balance:
    """The balance of a budget whose first window has not been opened by any use."""
    return Balance(
        account=budget.account,
        budget=budget.budget,
        unit=budget.unit,
        mode=budget.mode,
        limit=budget.limit,
        covered=0,
        held=0,
        quarantined=0,
        uncovered=0,
        spent=0,
        available=budget.limit,
        overdrawn=0,
        window_start=datetime.now(UTC),
        window_end=None,
        allocated=budget.allocated,
    )


def reconcile(fleet: Fleet, provider: Provider, lost: Sequence[Lost], books: Books) -> Reconciliation:
    """Compare the books with the provider's count.

    Args:
        fleet: the accounts and their limits.
        provider: what was produced, the killed calls included.
        lost: the killed calls that the provider has not reported: their bounds are quarantined and their use is not
            on the books as spent.
        books: as read from the treasury.
    """
    return Reconciliation(lines=tuple(_lines(fleet, provider, lost, books)))


def _lines(fleet: Fleet, provider: Provider, lost: Sequence[Lost], books: Books) -> Iterator[Line]:
    unreported, quarantined = _unreported(fleet, lost)
    held = _free_allocations(fleet, provider, unreported)
    for account in fleet.accounts.values():
        units = (*LIMITED, *COUNTED) if account is fleet.root else LIMITED
        for unit in units:
            produced = provider.produced[account.name][unit]
            within = provider.produced_within_bounds[account.name][unit]
            balance = books[account.name, unit]
            limit = account.limits[unit] if unit in LIMITED else None
            yield Line(
                account=account.name,
                level=account.level,
                unit=unit,
                limit=limit,
                produced=produced,
                spent=balance.spent,
                held=balance.held,
                quarantined=balance.quarantined,
                difference=abs(balance.spent - (produced - unreported[account.name, unit]))
                + abs(balance.quarantined - quarantined[account.name, unit])
                + abs(balance.held - held[account.name, unit])
                + (abs(balance.limit - limit) if limit is not None else 0),
                overspend=0
                if limit is None
                else max(0, within - limit, balance.covered + balance.held + balance.quarantined - limit),
            )


def _unreported(
    fleet: Fleet, lost: Sequence[Lost]
) -> tuple[Mapping[tuple[str, Unit], int], Mapping[tuple[str, Unit], int]]:
    """Per account and unit: what the killed calls used, and what their holds keep in quarantine.

    The quarantine of a call below an allocation stays inside the allocation: the accounts above it see it as held.
    """
    used: dict[tuple[str, Unit], int] = defaultdict(int)
    quarantined: dict[tuple[str, Unit], int] = defaultdict(int)
    for call in lost:
        for unit in (*LIMITED, *COUNTED):
            inside = False
            for name in reversed(call.path):
                used[name, unit] += call.used[unit]
                if not inside:
                    quarantined[name, unit] += call.bound[unit]
                inside = inside or unit in fleet.accounts[name].allocated
    return used, quarantined


def _free_allocations(
    fleet: Fleet, provider: Provider, unreported: Mapping[tuple[str, Unit], int]
) -> Mapping[tuple[str, Unit], int]:
    """Per account and unit, what allocations below it have not spent: it is held by everyone above them."""
    free: dict[tuple[str, Unit], int] = defaultdict(int)
    for account in fleet.accounts.values():
        for unit in account.allocated:
            spent = provider.produced[account.name][unit] - unreported[account.name, unit]
            for above in fleet.upward(account):
                if above is not account:
                    free[above.name, unit] += max(0, account.limits[unit] - spent)
    return free
