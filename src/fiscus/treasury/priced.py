"""What is booked without its cost costs what the prices say, where its model and its tokens are known.

Only once: what is on the books keeps its cost, whatever the prices are when the same is told again (``core.holds``).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from fiscus.contract import AMOUNT_MAX, Amounts, CallRecord, Request, Settle, Tokens
from fiscus.contract.errors import TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.core.checks import check_settle
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
    record = command.record
    return (
        type(record) is CallRecord
        and record.model is not None
        and record.cost_nanousd is None
        and record.cost_source in (None, "unpriced")
        and command.final
    )


class Pricing:
    """The prices by which settlements are completed: those that a ledger keeps, then a file's, then the catalogue."""

    def __init__(self, of_file: tuple[PriceOverride, ...] = ()) -> None:
        """Nothing is read yet."""
        self._of_file = of_file
        self._books: dict[str, tuple[PriceBook, OwnPrices]] = {}
        self._is_loaded = False

    async def complete(self, ledger: Treasury, request: Request) -> Request:
        """The same request with the cost of the call (nano-USD), if its price is known.

        Args:
            ledger: whose prices are looked at.
            request: a ``Settle`` that lacks its cost.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        command = request.command
        assert isinstance(command, Settle), "nothing else lacks a cost"
        if check_settle(command) is not None:
            return request  # the ledger refuses it, and says why
        record = command.record
        assert record is not None, "it names the model"
        tokens = priceable_tokens(command, record)
        try:
            price = await self._price(ledger, request.tenant, record) if tokens is not None else None
            cost = price.cost(tokens) if price is not None and tokens is not None else None
        except TreasuryError:
            raise
        except Exception as error:  # noqa: BLE001  whatever is wrong with the prices, what was spent has to be booked
            log.error("price_not_found", provider=record.provider, model=record.model, error=repr(error))
            return request
        if price is None or cost is None or cost > AMOUNT_MAX:
            return request
        known = msgspec.structs.replace(record, cost_nanousd=cost, cost_source=price.source, price_id=price.price_id)
        priced = msgspec.structs.replace(command, total={**command.total, "cost": cost}, record=known)
        return msgspec.structs.replace(request, command=priced)

    async def _price(self, ledger: Treasury, tenant: str, record: CallRecord) -> Price | None:
        book, own = self._book(ledger, tenant)
        await own.refresh()
        assert record.model is not None, "it lacks nothing but the cost"
        look_up = partial(_look_up, book, record.provider, record.model, datetime.now(UTC), record.service_tier)
        if self._is_loaded:
            return look_up()
        price = await asyncio.to_thread(look_up)  # the first reads the catalogue: nobody should wait for that
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


def priceable_tokens(command: Settle, record: CallRecord) -> Tokens | None:
    """What is priced: the parts that the record says, or the totals of input and output; None: they say too little.

    >>> call = Settle(id="h", total={"tokens": 1500})
    >>> priceable_tokens(call, CallRecord(tokens=Tokens(input=1000, output=500)))
    Tokens(input=1000, output=500, cache_read=0, cache_write_5m=0, cache_write_1h=0, reasoning=0, audio_input=0, \
audio_output=0, image_input=0, tool_definitions=0, tool_results=0)
    >>> priceable_tokens(call, CallRecord(tokens=Tokens(tool_results=700))) is None
    True
    """
    total = command.total
    if "cost" in total and (record.cost_source != "unpriced" or record.tokens_estimated):
        return None  # it is said; or it is the bound of what is estimated
    tokens = record.tokens
    if tokens is None:
        if "input_tokens" not in total or "output_tokens" not in total:
            return None
        tokens = Tokens(input=total["input_tokens"], output=total["output_tokens"])
    whole: Amounts = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "tokens": tokens.input + tokens.output,
    }
    agrees = all(total.get(unit, amount) == amount for unit, amount in whole.items())
    return tokens if agrees and whole["tokens"] else None
