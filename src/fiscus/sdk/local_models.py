"""Where ``treasury.complete`` asks models in process: the gateway itself, called as the server calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from fiscus.contract import AnyOutcome, Refused, Release, Request, Settle, Spooled
from fiscus.contract.errors import ProviderFailed
from fiscus.contract.loops import LoopBound
from fiscus.contract.queries import AnyQuery, Entry, View
from fiscus.contract.treasury import Readiness, Treasury
from fiscus.gateway.application import Gateway
from fiscus.gateway.options import GatewayOptions, read_options
from fiscus.sdk.completion import Question, Response
from fiscus.settings import content_of, secret_of
from fiscus.spool.outbox import Outbox


class GatewayInProcess(LoopBound):
    """A gateway over the ledger of this process, called as the server calls it."""

    def __init__(self, ledger: Treasury, options: GatewayOptions, tenant: str, outbox: Outbox) -> None:
        self._make = partial(Gateway, _Booking(ledger, outbox), options, tenant=tenant)
        self.moved()

    def moved(self) -> None:
        """See ``LoopBound``: connections and tasks of the loop that was closed are forgotten."""
        self._gateway = self._make()
        self._is_warm = False
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Response]:
        """See ``Models``."""
        self.home()
        if not self._is_warm:
            await self._gateway.warm_up()
            self._is_warm = True
        call = _AsgiCall(question.body)
        path, _, query = question.path.partition("?")
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [
                (b"content-type", b"application/json"),
                *((name.encode(), value.encode()) for name, value in question.headers.items()),
            ],
        }
        running = asyncio.create_task(self._gateway(scope, call.receive, call.send, _admit))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        running.add_done_callback(lambda _: call.end())
        try:
            response = await call.response()
            if response is None:
                running.result()
                raise ProviderFailed("the gateway has given no answer", status=500)
            yield response
        finally:
            call.leave()
            await asyncio.shield(running)  # it settles, whatever happens to us

    async def close(self) -> None:
        """See ``Models``. What is running is left to its end."""
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._gateway.close()


class _AsgiCall:
    """One request to an ASGI application, from the caller's side."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._sent: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        """The body, then nothing until the caller leaves."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take a part of the answer."""
        self._sent.put_nowait(message)

    def leave(self) -> None:
        """The caller is not there any more."""
        self._left.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._sent.put_nowait(None)

    async def response(self) -> Response | None:
        """The beginning of the answer; None: there is none."""
        started = await self._sent.get()
        if started is None:
            return None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in started["headers"]}
        return Response(started["status"], headers, self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        while (message := await self._sent.get()) is not None:
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return


class _Owner(msgspec.Struct, frozen=True):
    """Who asks in process: whoever has the ledger may do everything."""

    actor: str = ""
    scope: str | None = None
    may_open: bool = True


async def _admit(secret: bytes | None) -> _Owner:
    return _Owner()


class _Booking:
    """The ledger, as the gateway is given it: what was used goes through the spool while it is away."""

    def __init__(self, ledger: Treasury, outbox: Outbox) -> None:
        self._ledger = ledger
        self._outbox = outbox

    async def execute(self, request: Request) -> AnyOutcome:
        """See ``Treasury``. Settlements and releases may be answered ``Spooled``."""
        if not isinstance(request.command, Settle | Release):
            return await self._ledger.execute(request)
        outcome = await self._outbox.deliver(request)
        return Spooled(id=request.command.id, state="spooled") if outcome is None else outcome

    async def execute_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        """See ``Treasury``."""
        return await self._ledger.execute_many(requests)

    async def read(self, query: AnyQuery) -> View | Refused:
        """See ``Treasury``."""
        return await self._ledger.read(query)

    def follow(self, after: int = 0, tenant: str = "default", scope: str | None = None) -> AsyncIterator[Entry]:
        """See ``Treasury``."""
        return self._ledger.follow(after, tenant, scope)

    async def readiness(self) -> Readiness:
        """See ``Treasury``."""
        return await self._ledger.readiness()

    async def confirm_clock(self, tenant: str = "default", actor: str = "") -> None:
        """See ``Treasury``."""
        await self._ledger.confirm_clock(tenant, actor)

    async def close(self) -> None:
        """See ``Treasury``: it is its maker's to close."""


def gateway_options(path: Path, name: str = "gateway") -> GatewayOptions:
    """What a gateway's file says, with the keys of the providers.

    Args:
        path: of the file.
        name: what it is called in errors.

    Raises:
        ConfigurationInvalid: it cannot be read or makes no sense.
    """
    options = read_options(content_of(path, name), str(path))
    upstreams = tuple(
        msgspec.structs.replace(one, api_key=secret_of(one.api_key_variable)) if one.api_key_variable else one
        for one in options.upstreams
    )
    return msgspec.structs.replace(options, upstreams=upstreams)
