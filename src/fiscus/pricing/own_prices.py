"""Prices that the ledger keeps come into a price book within a second of their change, at whichever node that was."""

from __future__ import annotations

from time import monotonic

from fiscus.contract.queries import ListPrices, PricesView
from fiscus.contract.treasury import Treasury
from fiscus.pricing.book import PriceBook
from fiscus.pricing.overrides import PriceOverride
from fiscus.pricing.stated import overrides_of

FRESH_S = 1.0


class OwnPrices:
    """A price book with the prices of a ledger, before those of a file."""

    def __init__(self, treasury: Treasury, tenant: str, book: PriceBook, of_file: tuple[PriceOverride, ...]) -> None:
        self._treasury = treasury
        self._tenant = tenant
        self._book = book
        self._of_file = of_file
        self._version = 0
        self._read_at_s: float | None = None

    async def refresh(self) -> None:
        """Look whether they have changed, at most once a second.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        now_s = monotonic()
        if self._read_at_s is not None and now_s - self._read_at_s < FRESH_S:
            return
        view = await self._treasury.read(ListPrices(tenant=self._tenant, unless_version=self._version))
        assert isinstance(view, PricesView), "it is asked without a scope"
        if view.version != self._version:
            self._book.restate([*overrides_of(view.prices), *self._of_file])
            self._version = view.version
        self._read_at_s = now_s
