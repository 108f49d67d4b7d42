"""The ASGI application: one dispatcher over the table of routes, without middleware on the way of a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import aclosing
from functools import cache
from typing import Any, cast
from urllib.parse import quote

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Match

from fiscus.api.bodies import decode_body, decode_parameters, decode_text
from fiscus.api.calls import Call, Headers, Prepared, Reply, Route, Service, Stream, encode_json
from fiscus.api.deadlines import Deadlines
from fiscus.api.etags import CONDITIONAL, check_unconditional
from fiscus.api.events import Streams
from fiscus.api.guard import check_content_type, check_origin, client_address
from fiscus.api.keys import ALLOWED, SECRET_PREFIX, Caller, Keys
from fiscus.api.limits import Buckets
from fiscus.api.match import Found, Matcher
from fiscus.api.metrics import ApiCollector, Metrics
from fiscus.api.openapi import document
from fiscus.api.options import ApiOptions
from fiscus.api.problems import CONTENT_TYPE, Problem, error_problem, problem
from fiscus.api.routes import ROUTES
from fiscus.api.watching import REQUEST_ID, Watch, answer_headers, current, note_request_id
from fiscus.contract.errors import TreasuryError
from fiscus.contract.treasury import Treasury

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OTHER_ROUTE = -1
PROBLEM = CONTENT_TYPE.encode()
log = structlog.get_logger(__name__)


class _Left(msgspec.Struct, frozen=True):
    """The client went away before the request was whole: there is nobody to answer."""


LEFT = _Left()


def create_app(treasury: Treasury, options: ApiOptions | None = None) -> Application:
    """The HTTP API over a treasury, which stays its maker's to close.

    With ``options.keys_required``, ``options.key_pepper`` must be there.
    """
    options = options or ApiOptions()
    if options.registry is None:
        options = msgspec.structs.replace(options, registry=CollectorRegistry())
    return Application(treasury, options, ROUTES)


class Application:
    """Answers requests by the table of routes, then by the extra routes, else with a problem."""

    def __init__(self, treasury: Treasury, options: ApiOptions, routes: Sequence[Route]) -> None:
        metrics = Metrics([(route.method, route.path) for route in routes], options.metric_labels_max)
        assert options.registry is not None
        ApiCollector(metrics).register(options.registry)
        self._service = Service(
            treasury=treasury,
            options=options,
            keys=Keys(
                treasury,
                pepper=options.key_pepper,
                required=options.keys_required,
                tenant=options.tenant,
                clock_s=options.clock_s,
                monotonic_s=options.monotonic_s,
            ),
            metrics=metrics,
            streams=Streams(count_max=options.streams_max, heartbeat_s=options.heartbeat_s),
            openapi=cache(
                lambda: encode_json(
                    document(routes, options.version, paths=options.extra_paths, schemas=options.extra_schemas)
                )
            ),
        )
        if options.beside is not None:
            options.beside.show_to(self._service.streams)
        self._options = options
        self._metrics = metrics
        self._matcher = Matcher([_prepare(route, index, options) for index, route in enumerate(routes)])
        self._deadlines = Deadlines(options.request_timeout_s)
        self._rates = Buckets(options.monotonic_s)
        self._extra = _Extra(options.extra_routes)
        self._proxies = frozenset(options.trusted_proxies)
        self._watch: Watch | None = None
        if options.tracer is not None or options.access_log:
            self._watch = Watch(self._route_of, tracer=options.tracer, access_log=options.access_log)
        self._idle = asyncio.Event()

    def drain(self) -> None:
        """Say at ``/ready`` that the service goes down, admit no more requests, and end the event streams.

        What is open to everybody (``/health``, ``/ready``) is answered to the end, other requests with 503, and each
        answer closes its connection.
        """
        self._service.draining = True
        self._service.streams.end_all()
        if not self._metrics.in_flight:
            self._idle.set()

    async def drained(self) -> None:
        """Return when every request that was there at ``drain`` is answered."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "http":
            if self._watch is None:
                await self._http(scope, receive, send)
            else:
                await self._watch(self._http, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.drain()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _route_of(self, scope: Scope) -> str | None:
        found = self._matcher.find(_raw_path(scope))
        if found is None:
            return None
        return next(iter(found.routes.values())).route.path

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics = self._metrics
        started_s = time.perf_counter()
        row: Prepared | None = None
        metrics.in_flight += 1
        if self._service.draining:
            send = _closing(send)
        try:
            path = _raw_path(scope)
            found = self._matcher.find(path)
            if found is not None:
                row = found.routes.get("GET" if scope["method"] == "HEAD" else scope["method"])
            headers = dict(scope["headers"])
            if REQUEST_ID in headers:
                note_request_id(scope, headers[REQUEST_ID])
            current.set(scope)
            result: Reply | Stream | Problem | _Left | None
            if self._service.draining and (row is None or row.route.access != "open"):
                result = problem("budget_unavailable", "the service goes down; ask again elsewhere", retry_after_s=1)
            elif metrics.in_flight > self._options.in_flight_max:
                result = problem("budget_unavailable", "too many requests are in flight", retry_after_s=1)
            elif found is None and self._options.beside is not None and self._options.beside.takes(path):
                await self._options.beside(scope, receive, send, self._caller_beside)
                return
            elif row is not None and found is not None:
                result = await self._guarded(scope, receive, headers, row, found.values)
            else:
                result = await self._guarded_other(scope, receive, send, headers, found)
            if result is None or isinstance(result, _Left):
                return
            status = await _send_result(result, scope, receive, send)
            if not isinstance(result, Stream):
                metrics.request(row.index if row else OTHER_ROUTE, status, time.perf_counter() - started_s)
        finally:
            metrics.in_flight -= 1
            if self._service.draining and not metrics.in_flight:
                self._idle.set()

    async def _guarded(
        self, scope: Scope, receive: Receive, headers: Headers, row: Prepared, raw: tuple[bytes, ...]
    ) -> Reply | Stream | Problem | _Left:
        """Do a request of the table within its time; whatever goes wrong becomes a problem."""
        task = self._deadlines.enter()
        try:
            return await self._route(scope, receive, headers, row, raw)
        except asyncio.CancelledError:
            if not self._deadlines.is_over(task):
                raise
            return self._problem_of(TimeoutError(), row.route.operation)
        except Exception as error:  # noqa: BLE001  # the outermost handler, see _problem_of
            return self._problem_of(error, row.route.operation)
        finally:
            self._deadlines.leave(task)

    async def _guarded_other(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, found: Found | None
    ) -> Problem | None:
        """The same for what is not in the table. What has begun to answer may go on beyond the time, as a stream."""
        started = False
        deadline = asyncio.timeout(self._options.request_timeout_s)

        async def send_on(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if not started:
                started = True
                deadline.reschedule(None)
                message["headers"] = [*message.get("headers", ()), *answer_headers(scope)]
            await send(message)

        try:
            async with deadline:
                return await self._other(scope, receive, send_on, headers, found)
        except Exception as error:
            if started:
                raise
            return self._problem_of(error, "other")

    def _problem_of(self, error: Exception, operation: str) -> Problem:
        """What a caller is told of an exception; what is not foreseen goes to the log, with its traceback."""
        if isinstance(error, TimeoutError):
            detail = f"there was no answer within {self._options.request_timeout_s:g} s; ask again with the same id"
            return problem("budget_unavailable", detail, retry_after_s=1)
        if isinstance(error, TreasuryError):
            if not error.retryable:
                log.error("treasury_error", operation=operation, code=error.code, detail=str(error))
            return error_problem(error)
        log.error("request_failed", operation=operation, exc_info=error)
        return problem("internal", "the service made a mistake; its log says which")

    async def _route(
        self, scope: Scope, receive: Receive, headers: Headers, row: Prepared, raw: tuple[bytes, ...]
    ) -> Reply | Stream | Problem | _Left:
        """Check, read, decode and run one request of the table."""
        route = row.route
        caller = await self._admit(scope, headers, route)
        if isinstance(caller, Problem):
            return caller
        path = _path_values(raw, route)
        if isinstance(path, Problem):
            return path
        query = scope["query_string"]
        parameters = decode_parameters(query, route.parameters) if query else row.parameters_default
        if isinstance(parameters, Problem):
            return parameters
        wrong = check_content_type(headers, scope["method"], has_body=row.decoder is not None, strict=self._is_open)
        if wrong is None and row.is_unconditional:
            wrong = check_unconditional(headers)
        if wrong is not None:
            return wrong
        body = await self._body(receive, headers, row)
        if isinstance(body, Problem | _Left):
            return body
        work = route.handle(Call(self._service, route, caller, path, parameters, body, headers))
        may_wait = (route.waits or route.batch) and _may_wait(body)
        return await (_while_connected(receive, work) if may_wait else work)

    async def _admit(self, scope: Scope, headers: Headers, route: Route) -> Caller | Problem:
        """Who calls, if that one may, and not too often."""
        wrong = check_origin(headers, self._options.allowed_hosts, keys_required=self._service.keys.required)
        if wrong is not None:
            return wrong
        if route.access == "open" or (self._options.metrics_open and route.path == "/metrics"):
            return _ANYBODY
        caller = await self._service.keys.caller(headers, client_address(scope, headers, self._proxies))
        if isinstance(caller, Problem):
            return caller
        wrong = self._rate(caller)
        if wrong is not None:
            return wrong
        if caller.role not in ALLOWED[route.access]:
            return problem("forbidden", f"a key with the role {caller.role} may not do this")
        return caller

    async def _caller_beside(self, secret: bytes | None, scope: Scope) -> Caller | Problem:
        """Who spends with a secret of another protocol. Without keys, whatever an SDK sends counts for none."""
        headers = dict(scope["headers"])
        keys = self._service.keys
        wrong = check_origin(headers, self._options.allowed_hosts, keys_required=keys.required)
        if wrong is None:
            wrong = check_content_type(headers, scope["method"], has_body=True, strict=self._is_open)
        if wrong is not None:
            return wrong
        is_ours = secret is not None and (keys.required or secret.startswith(SECRET_PREFIX.encode()))
        sent = {b"authorization": b"Bearer " + secret} if secret is not None and is_ours else {}
        caller = await keys.caller(sent, client_address(scope, headers, self._proxies))
        if isinstance(caller, Problem):
            return caller
        wrong = self._rate(caller)
        if wrong is not None:
            return wrong
        if caller.role not in ALLOWED["write"]:
            return problem("forbidden", f"a key with the role {caller.role} may not spend")
        return caller

    @property
    def _is_open(self) -> bool:
        return not self._service.keys.required

    def _rate(self, caller: Caller) -> Problem | None:
        if not caller.actor:
            return None
        self._metrics.keys.add(caller.actor)
        per_minute = caller.requests_per_minute or self._options.requests_per_minute_default
        wait_s = self._rates.take(caller.actor, per_minute) if per_minute else 0
        if not wait_s:
            return None
        return problem("rate_limited", f"this key may make {per_minute} requests a minute", retry_after_s=wait_s)

    async def _body(self, receive: Receive, headers: Headers, row: Prepared) -> Any:
        """The body as its type, None where the route has none; or a problem, or that the client left."""
        bytes_max = self._options.batch_bytes_max if row.route.batch else self._options.body_bytes_max
        raw = await _read_body(receive, headers, bytes_max)
        if not isinstance(raw, bytes):
            return raw
        if row.decoder is None:
            return None
        if not raw and row.body_default is not None:
            return row.body_default
        return decode_body(raw, row.decoder)

    async def _other(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, found: Found | None
    ) -> Problem | None:
        """An address or a method that the table does not have: the extra routes', or nobody's."""
        wrong = check_origin(headers, self._options.allowed_hosts, keys_required=self._service.keys.required)
        if wrong is not None:
            return wrong
        if found is not None:
            return _wrong_method(scope, sorted(found.routes))
        methods = self._extra.methods(scope)
        if methods is None:
            return problem("not_found", "there is nothing at this address; /v1/openapi.json lists what there is")
        if methods and scope["method"] not in methods:
            return _wrong_method(scope, sorted(methods))
        caller = await self._extra_caller(scope, headers)
        if isinstance(caller, Problem):
            return caller
        wrong = check_content_type(headers, scope["method"], has_body=True, strict=self._is_open)
        if wrong is not None:
            return wrong
        scope["fiscus.caller"] = caller
        await self._extra(scope, receive, send)
        return None

    async def _extra_caller(self, scope: Scope, headers: Headers) -> Caller | Problem:
        anonymous = self._options.anonymous_account
        if anonymous is not None and b"authorization" not in headers and b"x-api-key" not in headers:
            return Caller(actor="", role="account", scope=anonymous)
        caller = await self._service.keys.caller(headers, client_address(scope, headers, self._proxies))
        return caller if isinstance(caller, Problem) else self._rate(caller) or caller


_ANYBODY = Caller(actor="", role="viewer", may_open=False)


def _prepare(route: Route, index: int, options: ApiOptions) -> Prepared:
    decoder = None if route.body is None else msgspec.json.Decoder(route.body)
    return Prepared(
        route=route,
        index=index,
        decoder=decoder,
        parameters_default=route.parameters(),
        body_default=decoder.decode(b"{}") if decoder is not None and route.body_optional else None,
        is_unconditional=route.method != "GET" and not set(CONDITIONAL) <= set(route.headers),
    )


class _Extra:
    """The routes of others, behind the same guard."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = tuple(routes)
        self._app = Starlette(routes=self._routes)
        self._answer = ExceptionMiddleware(self._app.router, handlers=self._app.exception_handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what a route raises is ours to report, once."""
        scope["app"] = self._app
        await self._answer(scope, receive, send)

    def methods(self, scope: Scope) -> frozenset[str] | None:
        """The methods that this address takes, as far as its routes say; None: none of them is at this address."""
        found = [route for route in self._routes if route.matches(scope)[0] is not Match.NONE]
        if not found:
            return None
        return frozenset(method for route in found for method in getattr(route, "methods", None) or ())


def _raw_path(scope: Scope) -> bytes:
    raw = scope.get("raw_path")
    return raw if raw is not None else quote(scope["path"]).encode()


def _path_values(raw: tuple[bytes, ...], route: Route) -> tuple[str, ...] | Problem:
    if not raw:
        return ()
    values = tuple(decode_text(part) for part in raw)
    if None in values:
        names = [part for part in route.path.split("/") if part.startswith("{")]
        name = names[values.index(None)].strip("{}")
        return problem("malformed", f"{name}: is not percent-encoded UTF-8", field=name)
    return cast("tuple[str, ...]", values)


def _wrong_method(scope: Scope, methods: list[str]) -> Problem:
    scope["fiscus.allow"] = methods
    return problem("method_not_allowed", f"this address takes {', '.join(methods)}, not {scope['method'][:20]}")


async def _read_body(receive: Receive, headers: Headers, bytes_max: int) -> bytes | Problem | _Left:
    """The whole body, or a problem as soon as it is longer than ``bytes_max``."""
    length = headers.get(b"content-length")
    if length is not None and (not length.isdigit() or int(length[:20]) > bytes_max):
        return _too_large(bytes_max)
    message = await receive()
    if message["type"] == "http.disconnect":
        return LEFT
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body if len(body) <= bytes_max else _too_large(bytes_max)
    parts = [body]
    total = len(body)
    while message.get("more_body", False):
        if total > bytes_max:
            return _too_large(bytes_max)
        message = await receive()
        if message["type"] == "http.disconnect":
            return LEFT
        parts.append(message.get("body", b""))
        total += len(parts[-1])
    return b"".join(parts) if total <= bytes_max else _too_large(bytes_max)


def _may_wait(body: Any) -> bool:
    """Whether a reserve that waits is asked for, by itself or in a batch."""
    if getattr(body, "wait_s", 0):
        return True
    operations = getattr(body, "operations", None)
    return operations is not None and any(getattr(operation, "wait_s", 0) for operation in operations)


async def _while_connected(receive: Receive, work: Awaitable[Any]) -> Any:
    """What the work gives; it is cancelled when the client leaves before."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    watch, task = loop.create_task(_watch(receive, gone)), asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else LEFT
    finally:
        watch.cancel()
        task.cancel()


def _too_large(bytes_max: int) -> Problem:
    return problem("too_large", f"the body may be {bytes_max} bytes long")


async def _send_result(result: Reply | Stream | Problem, scope: Scope, receive: Receive, send: Send) -> int:
    """Send what a handler gave; the status."""
    if isinstance(result, Reply):
        await _send(send, scope, result.status, result.content_type, result.body, result.headers)
        return result.status
    if isinstance(result, Problem):
        await _send(send, scope, result.status, PROBLEM, encode_json(result), _problem_headers(result, scope))
        return result.status
    if scope["method"] == "HEAD":
        await _send(send, scope, 200, result.content_type, b"", ())
    else:
        await _send_stream(result, answer_headers(scope), receive, send)
    return 200


def _problem_headers(result: Problem, scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if result.retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % result.retry_after_s),)
    if result.status == 401:
        headers += ((b"www-authenticate", b"Bearer"),)
    elif result.status == 405:
        headers += ((b"allow", ", ".join(scope["fiscus.allow"]).encode()),)
    elif result.status == 413:
        headers += ((b"connection", b"close"),)
    return headers


async def _send(
    send: Send,
    scope: Scope,
    status: int,
    content_type: bytes,
    body: bytes,
    headers: tuple[tuple[bytes, bytes], ...],
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", b"%d" % len(body)),
                *headers,
                *answer_headers(scope),
            ],
        }
    )
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _closing(send: Send) -> Send:
    """Close the connection behind the answer, so that its client goes elsewhere."""

    async def send_and_close(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            others = [header for header in message["headers"] if header[0] != b"connection"]
            message = {**message, "headers": [*others, (b"connection", b"close")]}
        await send(message)

    return send_and_close


async def _send_stream(stream: Stream, more: tuple[tuple[bytes, bytes], ...], receive: Receive, send: Send) -> None:
    """Send chunks until they end or the client leaves."""
    headers = [
        (b"content-type", stream.content_type),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
        *more,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watch = asyncio.create_task(_watch(receive, gone))
    try:
        async with aclosing(cast("Any", stream.chunks(gone))) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        watch.cancel()


async def _watch(receive: Receive, gone: asyncio.Future[None]) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not gone.done():
        gone.set_result(None)
