"""What operators see of one request: its id, its line in the access log, its span. Nothing of its contents or names."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol

import structlog

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REQUEST_ID = b"x-request-id"
LENGTH_MAX = 128
OTHER = "other"

_ID = re.compile(rb"[A-Za-z0-9._:/+=@~-]{1,%d}" % LENGTH_MAX)
_KEY = "fiscus.request_id"
_TRACE = "fiscus.trace_id"

current: ContextVar[Scope | None] = ContextVar("request", default=None)
"""The request that this task works on."""

log = structlog.get_logger(__name__)


class RequestSpan(Protocol):
    """A span that is open, and the current one of this task."""

    trace_id: str

    def end(self, status: int) -> None:
        """The request was answered; 0: its client went away before."""
        ...


class RequestTracer(Protocol):
    """Makes spans of requests."""

    def begin(self, method: str, route: str, headers: Mapping[bytes, bytes]) -> RequestSpan:
        """Open a span, a child of the one that the headers name; ``route`` is the path with names in braces."""
        ...


def note_request_id(scope: Scope, given: bytes) -> None:
    """Take the id that a client gave its request; one that is too long or strange is not taken."""
    if _ID.fullmatch(given):
        scope[_KEY] = given.decode()


def request_id(scope: Scope) -> str:
    """The request's id: the one that was given, or one that is made now."""
    found = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = secrets.token_hex(16)
    return str(found)


def answer_headers(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    """The id as a header of the answer, where the request has one."""
    found = scope.get(_KEY)
    return ((REQUEST_ID, found.encode()),) if found is not None else ()


def add_request(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor for structlog: which request, and which trace, a line belongs to."""
    scope = current.get()
    if scope is not None:
        event.setdefault("request_id", request_id(scope))
        if _TRACE in scope:
            event.setdefault("trace_id", scope[_TRACE])
    return event


class Watch:
    """Between the server and the application, where somebody wants spans or the access log.

    Args:
        route_of: the path of the table of routes that a request is for; None: none of them.
        tracer: None: no spans.
        access_log: whether each request is logged.
    """

    def __init__(
        self, route_of: Callable[[Scope], str | None], *, tracer: RequestTracer | None, access_log: bool
    ) -> None:
        self._route_of = route_of
        self._tracer = tracer
        self._access_log = access_log

    async def __call__(
        self, answer: Callable[[Scope, Receive, Send], Awaitable[None]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let ``answer`` answer a request and note what came of it."""
        began_s = time.perf_counter()
        current.set(scope)
        route, method, status = self._route_of(scope) or OTHER, scope["method"], 0
        headers = dict(scope["headers"])
        if REQUEST_ID in headers:
            note_request_id(scope, headers[REQUEST_ID])
        request_id(scope)
        span: RequestSpan | None = None
        if self._tracer is not None:
            span = self._tracer.begin(method, route, headers)
            scope[_TRACE] = span.trace_id

        async def send_on(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await answer(scope, receive, send_on)
        finally:
            if self._access_log:
                duration_ms = round((time.perf_counter() - began_s) * 1_000, 3)
                log.info("request", method=method[:20], route=route, status=status, duration_ms=duration_ms)
            if span is not None:
                span.end(status)
