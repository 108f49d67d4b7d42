"""What is left of a payer's budgets, for the headers of its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.contract.treasury import Treasury
from fiscus.core.outcomes import Balance
from fiscus.core.units import Unit

KEPT_S = 0.5
KEPT_MAX = 10_000
CHAIN_MAX = 16

Header = tuple[bytes, bytes]


class Remaining:
    """Reads balances of a payer and of all above it, at most twice a second for each."""

    def __init__(self, treasury: Treasury, tenant: str) -> None:
        self._treasury = treasury
        self._tenant = tenant
        self._kept: dict[str, tuple[float, list[tuple[str, list[Balance]]]]] = {}

    async def headers(self, account: str, scope: str | None = None) -> tuple[Header, ...]:
        """``x-fiscus-remaining-<unit>`` of the budget that has the least left, by whom, and when it is renewed.

        Args:
            account: the payer.
            scope: the account that the key is bound to, which sees nothing above it.
        """
        visible: list[Balance] = []
        for name, balances in await self._chain(account):
            visible += balances
            if name == scope:
                break
        return headers_of(visible)

    async def is_limited(self, account: str, attributes: Mapping[str, str]) -> bool:
        """Whether a budget of the chain limits a call with these attributes; True while nobody can say."""
        chain = await self._chain(account)
        return not chain or any(
            one.mode == "enforce" and one.match.items() <= attributes.items()
            for _, balances in chain
            for one in balances
        )

    async def _chain(self, account: str) -> list[tuple[str, list[Balance]]]:
        """Balances by account, leaf first; empty while the ledger cannot be asked."""
        now_s = time.monotonic()
        kept = self._kept.get(account)
        if kept is not None and kept[0] > now_s:
            return kept[1]
        try:
            chain = await self._read(account)
        except TreasuryError:
            return []
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[account] = (now_s + KEPT_S, chain)
        return chain

    async def _read(self, account: str) -> list[tuple[str, list[Balance]]]:
        chain: list[tuple[str, list[Balance]]] = []
        name: str | None = account
        for _ in range(CHAIN_MAX):
            if name is None:
                break
            view = await self._treasury.read(ReadAccount(account=name, tenant=self._tenant))
            if not isinstance(view, AccountView):
                break
            chain.append((name, [one.balance for one in view.account.budgets if one.balance is not None]))
            name = view.account.parent
        return chain


def headers_of(balances: list[Balance]) -> tuple[Header, ...]:
    """The least that is left in each unit, and of the tightest of them the account, budget and end of its window."""
    least: dict[Unit, Balance] = {}
    for one in balances:
        if (
            one.mode == "enforce"
            and not one.match
            and (one.unit not in least or one.available < least[one.unit].available)
        ):
            least[one.unit] = one
    headers = [
        (b"x-fiscus-remaining-" + unit.replace("_", "-").encode(), b"%d" % max(0, one.available))
        for unit, one in least.items()
    ]
    if least:
        tightest = min(least.values(), key=lambda one: (one.available / one.limit) if one.limit else 0)
        headers.append((b"x-fiscus-budget", f"{tightest.account}/{tightest.budget}".encode("ascii", "replace")))
        if tightest.window_end is not None:
            headers.append((b"x-fiscus-resets-at", tightest.window_end.isoformat().encode()))
    return tuple(headers)
