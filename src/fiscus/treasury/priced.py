"""What is booked without its cost costs what the prices say, where its model and its tokens are known.

Only once: what is on the books keeps its cost, whatever the prices are when the same is told again.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from fiscus.contract import AMOUNT_MAX, CallRecord, Request, Settle, Tokens
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import HoldView, ReadHold
from fiscus.pricing.book import PriceBook
from fiscus.pricing.overrides import PriceOverride
from fiscus.pricing.own_prices import OwnPrices
from fiscus.pricing.price import Price

if TYPE_CHECKING:
    from fiscus.contract.treasury import Treasury

log = get_logger(__name__)


def lacks_cost(command: Settle) -> bool:
    """Whether this is a last reading that says what was used of which model, and not what it cost.

    >>> lacks_cost(Settle(id="h", total={"input_tokens": 7, "output_tokens": 1}, record=CallRecord(model="gpt-5")))
    True
    """
    record, total = command.record, command.total
    if record is None or record.model is None or record.cost_nanousd is not None or not command.final:
        return False
    if "cost" in total and (record.cost_source != "unpriced" or record.tokens_estimated):
        return False  # it is said; or it is the bound of what is estimated
    return record.tokens is not None or ("input_tokens" in total and "output_tokens" in total)


class Pricing:
    """The prices by which settlements are completed: those that a ledger keeps, then a file's, then the catalogue."""

    def __init__(self, of_file: tuple[PriceOverride, ...] = ()) -> None:
        """Nothing is read yet."""
        self._of_file = of_file
        self._books: dict[str, tuple[PriceBook, OwnPrices]] = {}
        self._is_loaded = False

    async def complete(self, ledger: Treasury, request: Request) -> Request:
        """The same request with the cost of the call, if its price is known and it is not on the books already.

        Args:
            ledger: whose prices and holds are looked at.
            request: a ``Settle`` that lacks its cost.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        command = request.command
        assert isinstance(command, Settle), "nothing else lacks a cost"
        record = command.record
        assert record is not None, "it names the model"
        price = await self._price(ledger, request.tenant, record)
        cost = price.cost(_tokens(command, record)) if price is not None else None
        view = await ledger.read(ReadHold(id=command.id, tenant=request.tenant))
        total = {unit: amount for unit, amount in command.total.items() if unit != "cost"}
        if isinstance(view, HoldView) and view.hold.state == "settled":
            return _with(request, msgspec.structs.replace(command, total=total))
        if price is None or cost is None or cost > AMOUNT_MAX:
            return request
        known = msgspec.structs.replace(record, cost_nanousd=cost, cost_source=price.source, price_id=price.price_id)
        return _with(request, msgspec.structs.replace(command, total={**total, "cost": cost}, record=known))

    async def _price(self, ledger: Treasury, tenant: str, record: CallRecord) -> Price | None:
        book, own = self._book(ledger, tenant)
        await own.refresh()
        assert record.model is not None, "it lacks nothing but the cost"
        look_up = partial(_look_up, book, record.provider, record.model, datetime.now(UTC), record.service_tier)
        try:
            if self._is_loaded:
                return look_up()
            price = await asyncio.to_thread(
                look_up
            )  # the first reads the catalogue, which would keep all others waiting
        except Exception:  # whatever is wrong with the prices, what was spent has to be booked
            log.exception("price_not_found", provider=record.provider, model=record.model)
            return None
        self._is_loaded = True
        return price

    def _book(self, ledger: Treasury, tenant: str) -> tuple[PriceBook, OwnPrices]:
        if tenant not in self._books:
            book = PriceBook(self._of_file)
            self._books[tenant] = book, OwnPrices(ledger, tenant, book, self._of_file)
        return self._books[tenant]


def _look_up(book: PriceBook, provider: str | None, model: str, at: datetime, tier: str | None) -> Price | None:
    """The price of a model; who names no provider means its maker, of whom own prices may have been stated."""
    found = book.price_of(provider, model, at, tier)
    if provider is None and isinstance(found, Price):
        by_maker = book.price_of(found.provider, model, at, tier)
        found = by_maker if isinstance(by_maker, Price) else found
    return found if isinstance(found, Price) else None


def _tokens(command: Settle, record: CallRecord) -> Tokens:
    if record.tokens is not None:
        return record.tokens
    return Tokens(input=command.total["input_tokens"], output=command.total["output_tokens"])


def _with(request: Request, command: Settle) -> Request:
    return msgspec.structs.replace(request, command=command)
