"""What is left of a payer's budgets: for the headers of its answers, and for who decides about its calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from fiscus.contract.chains import Reading, charged, least_left, read_chain, tightest
from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import AnyQuery, ReadAccount, View
from fiscus.contract.treasury import Treasury
from fiscus.core.outcomes import AccountAnswer, Balance, BudgetView, Refused
from fiscus.core.units import Amounts, Unit

KEPT_S = 0.5
STALE_S_MAX = 2.0
"""What is not older is shown while it is read anew: only who has not called for longer waits for that."""

KEPT_MAX = 10_000

Header = tuple[bytes, bytes]


class _Kept:
    """A chain as it was read, and what follows from it, made once; ``headers`` by what a key may see."""

    def __init__(self, at_s: float, chain: tuple[AccountAnswer, ...]) -> None:
        self.at_s = at_s
        self.chain = chain
        self.charged = charged(chain)
        self.least = least_of(self.charged)
        self.headers: dict[str | None, tuple[Header, ...]] = {}


class _Shared:
    """Reads accounts, each at most twice a second: most chains end in the same ones."""

    def __init__(self, treasury: Treasury) -> None:
        self._treasury = treasury
        self._kept: dict[str, tuple[float, View]] = {}

    async def read(self, query: AnyQuery, /) -> View | Refused:
        """See ``Treasury``."""
        assert isinstance(query, ReadAccount)
        now_s = time.monotonic()
        kept = self._kept.get(query.account)
        if kept is not None and now_s - kept[0] < KEPT_S:
            return kept[1]
        view = await self._treasury.read(query)
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        if not isinstance(view, Refused):
            self._kept[query.account] = (now_s, view)
        return view


class Remaining:
    """Reads balances of a payer and of all above it, at most twice a second for each; ``close`` it."""

    def __init__(self, treasury: Treasury, tenant: str, *, kept: Amounts) -> None:
        """``kept``: what most calls may not use of each budget."""
        self._treasury = treasury
        self._shared = _Shared(treasury)
        self._refreshing: dict[str, asyncio.Task[_Kept]] = {}
        self._amounts_kept = kept
        self._tenant = tenant
        self._kept: dict[str, _Kept] = {}

    async def headers(self, account: str, scope: str | None = None) -> tuple[Header, ...]:
        """``x-fiscus-remaining-<unit>`` of the budget that has the least left, by whom, and when it is renewed.

        Args:
            account: the payer.
            scope: the account that the key is bound to, which sees nothing above it.
        """
        kept = await self._read(account)
        headers = kept.headers.get(scope)
        if headers is None:
            budgets = charged(within(kept.chain, scope))
            balances = [one.balance for one in budgets if one.balance is not None]
            headers = kept.headers[scope] = headers_of(balances, self._amounts_kept)
        return headers

    async def is_limited(self, account: str, attributes: Mapping[str, str]) -> bool:
        """Whether a budget of the chain limits a call with these attributes; True while nobody can say."""
        kept = await self._read(account)
        return not kept.chain or any(limits(one, attributes) for one in kept.charged)

    async def least(self, account: str) -> Mapping[Unit, Balance]:
        """By unit, the budget of the chain with the least left, as of a moment ago; also one for some calls only."""
        return (await self._read(account)).least

    async def chain(self, account: str, *, is_fresh: bool = False) -> tuple[AccountAnswer, ...]:
        """The payer and all above it, leaf first; empty while the ledger cannot be asked.

        Args:
            account: the payer.
            is_fresh: as of now, not of half a second ago.
        """
        if is_fresh:
            return (await self._read_anew(self._treasury, account)).chain
        return (await self._read(account)).chain

    async def close(self) -> None:
        """Read nothing more."""
        for task in self._refreshing.values():
            task.cancel()
        await asyncio.gather(*self._refreshing.values(), return_exceptions=True)

    async def _read(self, account: str) -> _Kept:
        kept = self._kept.get(account)
        age_s = time.monotonic() - kept.at_s if kept is not None else STALE_S_MAX
        if kept is None or age_s >= STALE_S_MAX:
            return await self._read_anew(self._shared, account)
        if age_s >= KEPT_S and account not in self._refreshing:
            task = asyncio.get_running_loop().create_task(self._read_anew(self._shared, account))
            self._refreshing[account] = task
            task.add_done_callback(lambda _: self._refreshing.pop(account, None))
        return kept

    async def _read_anew(self, reading: Reading, account: str) -> _Kept:
        now_s = time.monotonic()
        try:
            views = await read_chain(reading, account, tenant=self._tenant)
        except TreasuryError:
            return _Kept(now_s, ())
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        chain = () if isinstance(views, Refused) else tuple(view.account for view in views)
        self._kept[account] = kept = _Kept(now_s, chain)
        return kept


def limits(budget: BudgetView, attributes: Mapping[str, str]) -> bool:
    """Whether a budget refuses calls with these attributes when it is used up."""
    return budget.mode == "enforce" and budget.match.items() <= attributes.items()


def least_of(budgets: Sequence[BudgetView]) -> dict[Unit, Balance]:
    """By unit, of the budgets that limit any call, the one that has the least left."""
    limiting = [one.balance for one in budgets if one.balance is not None and one.mode == "enforce"]
    return {one.unit: one for one in sorted(limiting, key=lambda one: -one.available)}


def within(chain: Sequence[AccountAnswer], scope: str | None) -> Sequence[AccountAnswer]:
    """What a key that is bound to ``scope`` sees of a chain, leaf first."""
    for index, account in enumerate(chain):
        if account.account == scope:
            return chain[: index + 1]
    return chain


def headers_of(balances: list[Balance], kept: Amounts) -> tuple[Header, ...]:
    """The least that is left in each unit, and of the tightest of them the account, budget and end of its window.

    Args:
        balances: of the chain.
        kept: what is not shown of what is left, for most calls may not use it.
    """
    least = least_left(balances)
    headers = [
        (b"x-fiscus-remaining-" + unit.replace("_", "-").encode(), b"%d" % max(0, one.available - kept.get(unit, 0)))
        for unit, one in least.items()
    ]
    binding = tightest(least.values())
    if binding is not None:
        headers.append((b"x-fiscus-budget", f"{binding.account}/{binding.budget}".encode("ascii", "replace")))
        if binding.window_end is not None:
            headers.append((b"x-fiscus-resets-at", binding.window_end.isoformat().encode()))
    return tuple(headers)
