"""What an account has left: its own budgets and those of everybody above it, as far as who asks may see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from fiscus.contract.queries import AccountView, AnyQuery, ReadAccount, View
from fiscus.core.commands import CHAIN_LENGTH_MAX, Status
from fiscus.core.outcomes import AccountAnswer, Balance, BudgetView, Refused
from fiscus.core.units import Amounts, Unit


class OwnBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What the next call of an account may use.

    Attributes:
        as_of_seq: the oldest entry as of which a part of it holds.
        account: whose.
        status: the gravest one on the way up; only an active account is admitted anything.
        left: by unit, the least that is free in a budget that limits every call; a unit that none limits is left out.
        binding: the budget with the smallest share left; ``held`` of it is what calls in flight may still use.
        resets_at: when its window ends; None: never.
        budgets: all that calls are charged to, leaf first, those that look at attributes (``match``) included.
    """

    as_of_seq: int
    account: str
    status: Status
    left: Amounts
    binding: Balance | None
    resets_at: datetime | None
    budgets: tuple[Balance, ...]


class Reading(Protocol):
    """What answers queries, such as a treasury."""

    async def read(self, query: AnyQuery, /) -> View | Refused:
        """See ``Treasury``."""
        ...


async def read_chain(
    treasury: Reading, account: str, *, tenant: str = "default", scope: str | None = None, min_seq: int = 0
) -> tuple[AccountView, ...] | Refused:
    """An account and all above it that ``scope`` may see, leaf first; refused where the account itself cannot be seen.

    Raises:
        TreasuryError: the ledger cannot be asked.
    """
    views: list[AccountView] = []
    name: str | None = account
    while name is not None and len(views) < CHAIN_LENGTH_MAX:
        view = await treasury.read(ReadAccount(account=name, tenant=tenant, scope=scope, min_seq=min_seq))
        if isinstance(view, Refused):
            if not views:
                return view
            break
        assert isinstance(view, AccountView)
        views.append(view)
        name = view.account.parent
    return tuple(views)


def charged(chain: Iterable[AccountAnswer]) -> list[BudgetView]:
    """The budgets that a call of the first account is charged to, leaf first, whatever its attributes are.

    What an account was allocated is held above it already: there it is charged no more (``core/routes.py: resolve``).
    """
    found: list[BudgetView] = []
    carved: set[Unit] = set()
    for account in chain:
        found += [one for one in account.budgets if one.balance is not None and (one.match or one.unit not in carved)]
        carved |= {one.unit for one in account.budgets if one.allocated}
    return found


def least_left(balances: Iterable[Balance]) -> dict[Unit, Balance]:
    """Of the budgets that limit every call, by unit the one that has the least left."""
    least: dict[Unit, Balance] = {}
    for one in balances:
        if (
            one.mode == "enforce"
            and not one.match
            and (one.unit not in least or one.available < least[one.unit].available)
        ):
            least[one.unit] = one
    return least


def tightest(balances: Iterable[Balance]) -> Balance | None:
    """The one with the smallest share left; None: there is none."""
    return min(balances, key=lambda one: one.available / one.limit if one.limit else 0, default=None)


def own_budget(views: Sequence[AccountView]) -> OwnBudget:
    """What is left for the first account of a chain."""
    balances = tuple(one.balance for one in charged(view.account for view in views) if one.balance is not None)
    least = least_left(balances)
    binding = tightest(least.values())
    leaf = views[0].account
    return OwnBudget(
        as_of_seq=min(view.as_of_seq for view in views),
        account=leaf.account,
        status=leaf.status_effective,
        left={unit: max(0, one.available) for unit, one in least.items()},
        binding=binding,
        resets_at=binding.window_end if binding is not None else None,
        budgets=balances,
    )
