"""What is left of a payer's budgets: for the headers of its answers, and for who decides about its calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from fiscus.contract.chains import charged, least_left, read_chain, tightest
from fiscus.contract.errors import TreasuryError
from fiscus.contract.treasury import Treasury
from fiscus.core.outcomes import AccountAnswer, Balance, BudgetView, Refused
from fiscus.core.units import Amounts

KEPT_S = 0.5
KEPT_MAX = 10_000

Header = tuple[bytes, bytes]


class _Kept:
    """A chain as it was read, and what follows from it, made once; ``headers`` by what a key may see."""

    def __init__(self, until_s: float, chain: tuple[AccountAnswer, ...]) -> None:
        self.until_s = until_s
        self.chain = chain
        self.charged = charged(chain)
        self.headers: dict[str | None, tuple[Header, ...]] = {}


class Remaining:
    """Reads balances of a payer and of all above it, at most twice a second for each."""

    def __init__(self, treasury: Treasury, tenant: str, *, kept: Amounts) -> None:
        """``kept``: what most calls may not use of each budget."""
        self._treasury = treasury
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

    async def chain(self, account: str, *, is_fresh: bool = False) -> tuple[AccountAnswer, ...]:
        """The payer and all above it, leaf first; empty while the ledger cannot be asked.

        Args:
            account: the payer.
            is_fresh: as of now, not of half a second ago.
        """
        return (await self._read(account, is_fresh=is_fresh)).chain

    async def _read(self, account: str, *, is_fresh: bool = False) -> _Kept:
        now_s = time.monotonic()
        kept = self._kept.get(account)
        if kept is not None and kept.until_s > now_s and not is_fresh:
            return kept
        try:
            views = await read_chain(self._treasury, account, tenant=self._tenant)
        except TreasuryError:
            return _Kept(now_s, ())
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        chain = () if isinstance(views, Refused) else tuple(view.account for view in views)
        self._kept[account] = kept = _Kept(now_s + KEPT_S, chain)
        return kept


def limits(budget: BudgetView, attributes: Mapping[str, str]) -> bool:
    """Whether a budget refuses calls with these attributes when it is used up."""
    return budget.mode == "enforce" and budget.match.items() <= attributes.items()


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
