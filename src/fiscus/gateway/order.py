"""A call that was admitted, with all that is needed to make it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from fiscus.contract.treasury import Treasury
from fiscus.dialects import Dialect, RequestFacts
from fiscus.gateway.admission import Admitted
from fiscus.gateway.asgi import Headers
from fiscus.gateway.counting import Counter
from fiscus.gateway.live import Live
from fiscus.gateway.metrics import GatewayMetrics
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.payers import Payer
from fiscus.gateway.produced import Lengths
from fiscus.gateway.routes import Route
from fiscus.gateway.upstreams import Target, Upstreams
from fiscus.pricing import Count, Price, PriceBook


class Tools(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What every call works with."""

    treasury: Treasury
    options: GatewayOptions
    prices: PriceBook
    upstreams: Upstreams
    counter: Counter
    lengths: Lengths
    live: Live
    metrics: GatewayMetrics


class Order(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is asked, of whom, for whom, under which hold.

    Attributes:
        route, dialect, facts, body, headers, query: the request, as its caller sent it.
        model: that is asked for.
        payer: who pays. ``counted``: the input. ``admitted``: the hold.
        targets: who may be asked, the best one first.
        price: that was held for; None: the cost was not bounded.
        more_headers: what an answer says of the payer's budgets.
    """

    route: Route
    dialect: Dialect
    facts: RequestFacts
    body: bytes
    headers: Headers
    query: str
    model: str
    payer: Payer
    counted: Count
    admitted: Admitted
    targets: Sequence[Target]
    price: Price | None
    more_headers: Callable[[], Awaitable[Headers]]
