"""``fiscus prices``: what models cost, stated while the ledger runs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from fiscus.cli.connection import connected
from fiscus.cli.invocation import Invocation, command
from fiscus.cli.output import read_pairs, time_text
from fiscus.cli.times import FORMATS, Until, in_utc
from fiscus.contract.queries import ListPrices, PricesView
from fiscus.core.commands import RemovePrice
from fiscus.core.outcomes import PriceAnswer, PriceTermsAnswer

prices = typer.Typer(help="What models cost, before what is generally known.", no_args_is_help=True)

Price = Annotated[str, typer.Argument(help="Its name.", metavar="PRICE")]
COLUMNS = ("price", "provider", "model", "tier", "from", "until", "USD per million tokens", "USD for 1,000")
NANO = 1_000_000_000


@command(prices, "list")
async def list_prices(invocation: Invocation) -> None:
    """List our own prices; the one that was changed last comes first, and is taken where several fit."""
    async with connected(invocation) as connection:
        view = await connection.read(PricesView, ListPrices(tenant=connection.tenant))
    found = [price for price in view.prices if price.active]
    invocation.output.rows(found, COLUMNS, [_row(price, terms) for price in found for terms in reversed(price.terms)])


def _row(price: PriceAnswer, terms: PriceTermsAnswer) -> tuple[str, ...]:
    until = "" if terms.valid_to is None else time_text(terms.valid_to)
    tier = price.service_tier or ""
    named = (price.price, price.provider, price.model, tier, time_text(terms.valid_from), until)
    return (*named, _usd(terms.rates), _usd(terms.fees))


def _usd(amounts: dict[str, int]) -> str:
    return ", ".join(
        f"{name} {f'{amount // NANO}.{amount % NANO:09d}'.rstrip('0').rstrip('.')}" for name, amount in amounts.items()
    )


@command(prices, "put")
async def put(
    invocation: Invocation,
    provider: Annotated[str, typer.Argument(help="Who sells it; * for any.")],
    model: Annotated[str, typer.Argument(help="A name, or a pattern with * and ?.")],
    rates: Annotated[
        list[str], typer.Argument(help="input=0.25 output=1.25 cache_read=0.025 …", metavar="NAME=USD...")
    ],
    fee: Annotated[list[str] | None, typer.Option(help="NAME=USD for 1,000 of them. Repeatable.")] = None,
    tier: Annotated[str | None, typer.Option(help="Only for calls of this service tier.")] = None,
    since: Annotated[datetime | None, typer.Option("--from", formats=FORMATS, help="From then on, in UTC.")] = None,
    until: Until = None,
    name: Annotated[str | None, typer.Option(help="Of the price; made of the above unless given.")] = None,
) -> None:
    """State what a model costs, in USD per million tokens, from now or a time on. All nodes follow within a second."""
    from fiscus.pricing.stated import put_price

    wanted = put_price(
        name,
        provider,
        model,
        rates=read_pairs(rates),
        fees=read_pairs(fee or ()),
        service_tier=tier,
        valid_from=in_utc(since),
        valid_to=in_utc(until),
    )
    async with connected(invocation) as connection:
        answer = await connection.ask(PriceAnswer, wanted)
    terms = answer.terms[-1]
    invocation.output.answer(answer, f"{answer.price}: {_usd(terms.rates)} from {time_text(terms.valid_from)} on")


@command(prices, "remove")
async def remove(invocation: Invocation, price: Price) -> None:
    """End a price now; what is generally known holds from then on."""
    async with connected(invocation) as connection:
        answer = await connection.ask(PriceAnswer, RemovePrice(price=price))
    invocation.output.answer(answer, f"{answer.price}: ended")
