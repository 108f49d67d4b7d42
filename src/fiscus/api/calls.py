"""One request as a handler sees it, what it gives back, and the row of the table of routes that both belong to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from fiscus.api.bodies import BodyDecoder, Parameters
from fiscus.api.events import Streams
from fiscus.api.keys import Access, Caller, Keys
from fiscus.api.metrics import Metrics
from fiscus.api.options import ApiOptions
from fiscus.api.problems import Problem
from fiscus.contract.treasury import Treasury

Headers = Mapping[bytes, bytes]
"""Names in lower case; of a header that is repeated, the last one."""

JSON = b"application/json"
encode_json = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that goes on until the client leaves. ``chunks`` gets a future that is done then."""

    chunks: Callable[[Any], AsyncIterator[bytes]]
    content_type: bytes = b"text/event-stream"


class Service(msgspec.Struct, kw_only=True):
    """What all handlers share. ``openapi`` makes the description of all routes, once: it takes a tenth of a second."""

    treasury: Treasury
    options: ApiOptions
    keys: Keys
    metrics: Metrics
    streams: Streams
    openapi: Callable[[], bytes]
    draining: bool = False


class Call:
    """One request, read and checked.

    Attributes:
        path: the values of the parts of the address that stand in braces, in order, percent-decoded.
        parameters: what stands after the ``?``; of the route's type.
        body: of the route's type; None where the route has none.
    """

    __slots__ = ("body", "caller", "headers", "parameters", "path", "route", "service")

    def __init__(
        self,
        service: Service,
        route: Route,
        caller: Caller,
        path: tuple[str, ...],
        parameters: Any,
        body: Any,
        headers: Headers,
    ) -> None:
        self.service = service
        self.route = route
        self.caller = caller
        self.path = path
        self.parameters = parameters
        self.body = body
        self.headers = headers

    def answer(self, value: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
        """A value as JSON, with the route's status."""
        return Reply(status=self.route.status, body=encode_json(value), headers=headers)


Handler = Callable[[Call], Awaitable[Reply | Stream | Problem]]


class Route(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One row of the table: it drives routing, checks, the OpenAPI document and the test of the documentation.

    Attributes:
        path: as documented, with names in braces.
        summary: a sentence for people.
        body: type of the body; None: there is none. ``body_optional``: an empty one counts as ``{}``.
        batch: whether the longer bound on bodies holds.
        answer: type of the answer (of each event, for a stream).
        problems: codes that this route answers besides those that follow from the rest of the row.
        headers: request headers that it reads.
        etag: whether answers carry the version as ETag.
        unready: whether the answer may also come with 503.
        spools: whether it is answered 202 while the ledger is away: it is on the local disk and will be booked.
        waits: whether it is kept open for a reserve that waits, and answered 202 if that goes on.
    """

    method: str
    path: str
    summary: str
    access: Access
    handle: Handler
    answer: Any
    status: int = 200
    body: Any = None
    body_optional: bool = False
    batch: bool = False
    parameters: type[Parameters] = Parameters
    problems: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    etag: bool = False
    unready: bool = False
    spools: bool = False
    waits: bool = False
    content_type: str = "application/json"

    @property
    def operation(self) -> str:
        """The operation's id in the OpenAPI document: unique, and stable.

        >>> Route(method="GET", path="/v1/holds/{id}", summary="", access="read", handle=..., answer=int).operation
        'get_holds_id'
        """
        words = [word.strip("{}").replace(".", "_") for word in self.path.removeprefix("/v1").split("/") if word]
        return "_".join([self.method.lower(), *words])


class Prepared(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A route with what is made once for it: the decoder, the parameters when there are none, its index.

    ``is_unconditional``: it changes something that has no version.
    """

    route: Route
    index: int
    decoder: BodyDecoder | None
    parameters_default: Parameters
    body_default: Any = None
    is_unconditional: bool = False
