"""What a call is on its way: a request that may be made, then a call that was admitted, with all that it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from fiscus.dialects import Dialect, RequestFacts
from fiscus.gateway.admission import Admitted
from fiscus.gateway.asgi import Headers, Receive, Send
from fiscus.gateway.bodies import Body
from fiscus.gateway.lengths import Lengths
from fiscus.gateway.live import Live
from fiscus.gateway.metrics import GatewayMetrics
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.payers import Caller, Payer
from fiscus.gateway.produced import Shares
from fiscus.gateway.reading import Reader
from fiscus.gateway.routes import Route
from fiscus.gateway.settlements import Settlements
from fiscus.gateway.upstreams import Target, Upstreams
from fiscus.pricing import Count, Price, PriceBook


class Tools(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What every call works with."""

    settlements: Settlements
    options: GatewayOptions
    prices: PriceBook
    upstreams: Upstreams
    reader: Reader
    lengths: Lengths
    shares: Shares
    live: Live
    metrics: GatewayMetrics


class Incoming(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A request that somebody may make.

    Attributes:
        route, dialect, headers: what it asks for; ``query``: without the caller's secret.
        receive, send: its server's.
        caller: who makes it.
    """

    route: Route
    dialect: Dialect
    headers: Headers
    query: str
    receive: Receive
    send: Send
    caller: Caller


class Order(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is asked, of whom, for whom, under which hold.

    Attributes:
        incoming, facts, body: the request, as its caller sent it.
        model: that is asked for.
        payer: who pays. ``counted``: the input. ``admitted``: the hold.
        targets: who may be asked, the best one first.
        price: that was held for; None: the cost was not bounded.
        more_headers: what an answer says of the payer's budgets.
        passed_over: statuses of an answer that is not the caller's, as long as it was not billed: another model is
            asked.
    """

    incoming: Incoming
    facts: RequestFacts
    body: Body
    model: str
    payer: Payer
    counted: Count
    admitted: Admitted
    targets: Sequence[Target]
    price: Price | None
    more_headers: Callable[[], Awaitable[Headers]]
    passed_over: frozenset[int] = frozenset()
