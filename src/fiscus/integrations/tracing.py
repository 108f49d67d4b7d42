"""OpenTelemetry: the spans of a request, through queue, decision and commit. Needs the extra ``tracing``.

    POST /v1/holds ─┬─ queue    until a batch takes it
                    ├─ decide   waiting for the tenant's lock, then deciding the whole batch
                    └─ commit   until it is durable ······ linked with ······ batch

The engine knows nothing of this: it notes when the parts of a batch began, and the port that gets its answers makes
spans of that. Without tracing there is a plain ``LocalTreasury`` and no port that looks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from threading import Thread
from typing import Any, cast

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fiscus.contract.logs import get_logger
from fiscus.contract.queries import AnyQuery, ListQuery, View
from fiscus.core.commands import Request
from fiscus.core.outcomes import AnyOutcome, Refused
from fiscus.treasury.engine import AnyResult, Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.priced import Pricing
from fiscus.treasury.statistics import BatchTimes

log = get_logger(__name__)

NAME = "fiscus"
TRACES_PATH = "/v1/traces"
LINKS_MAX = 128
"""Requests that a batch names; it has more of them only under load, and they all name it."""

FLUSH_S_MAX = 3.0
"""How long the end of the process waits for the last spans to be taken, in seconds."""

HEADERS = ("traceparent", "tracestate")


class Tracing:
    """The tracer of one process.

    Args:
        exporter: takes the spans; they are handed to it in a thread of its own.
        service_name: as ``service.name``.
        instance: as ``service.instance.id``.
        version: as ``service.version``.
        with_names: whether spans name accounts.
        provider: instead of all these, one that is there already.
    """

    def __init__(
        self,
        exporter: SpanExporter | None = None,
        *,
        service_name: str = NAME,
        instance: str = "",
        version: str = "",
        with_names: bool = False,
        provider: TracerProvider | None = None,
    ) -> None:
        if provider is None:
            about = {"service.name": service_name, "service.version": version, "service.instance.id": instance}
            resource = Resource.create({key: value for key, value in about.items() if value})
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            if exporter is not None:
                provider.add_span_processor(BatchSpanProcessor(exporter))
        self.with_names = with_names
        self._provider = provider
        self.tracer = provider.get_tracer(NAME, version or None)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, route: str, headers: Mapping[bytes, bytes]) -> RequestSpan:
        """See ``api.watching.RequestTracer``."""
        carrier = {name: headers[name.encode()].decode("latin-1") for name in HEADERS if name.encode() in headers}
        parent = self._propagator.extract(carrier) if carrier else contexts.Context()
        known = route.startswith("/")
        attributes: dict[str, Any] = {"http.request.method": method[:20], "url.scheme": "http"}
        if known:
            attributes["http.route"] = route
        span = self.tracer.start_span(
            f"{method[:20]} {route}" if known else method[:20],
            context=parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        return RequestSpan(span)

    def close(self) -> None:
        """Hand over what is left, for a bounded time."""
        flushing = Thread(target=self._provider.shutdown, name="fiscus-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S_MAX)


def otlp_tracing(endpoint: str, *, service_name: str, instance: str, version: str, with_names: bool) -> Tracing:
    """Tracing that sends spans with OTLP over HTTP; more is set by the standard ``OTEL_*`` variables.

    Args:
        endpoint: of the collector, without ``/v1/traces``.
        service_name, instance, version, with_names: as ``Tracing`` has them.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + TRACES_PATH)
    return Tracing(exporter, service_name=service_name, instance=instance, version=version, with_names=with_names)


class RequestSpan:
    """The span of a request, current in the task that answers it."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token = contexts.attach(trace.set_span_in_context(span))
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def end(self, status: int) -> None:
        """See ``api.watching.RequestSpan``."""
        contexts.detach(self._token)
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if not status or status >= 500:
            self._span.set_attribute("error.type", str(status) if status else "client_left")
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Call:
    """What waits for an answer of the engine under a span; ``batch`` is known when it has come."""

    __slots__ = ("batch", "future", "parent", "submitted_ns")

    def __init__(self, future: asyncio.Future[Any], parent: SpanContext) -> None:
        self.future = future
        self.parent = parent
        self.submitted_ns = time.perf_counter_ns()
        self.batch: _Batch | None = None


class _Batch:
    """One batch of the engine as it was delivered, and its span once the first call has made it."""

    def __init__(self, times: BatchTimes) -> None:
        self.times = times
        self.ended_ns = time.perf_counter_ns()
        self.epoch_ns = time.time_ns() - self.ended_ns
        self.calls: list[SpanContext] = []
        self.span: SpanContext | None = None


class TracedTreasury(LocalTreasury):
    """A treasury in this process that makes spans of what is asked of it under a span that is recorded."""

    def __init__(self, engine: Engine, tracing: Tracing, *, system: str, pricing: Pricing | None = None) -> None:
        """``system`` is the store's name as OpenTelemetry has it: ``sqlite``, ``postgresql``."""
        super().__init__(engine, pricing)
        self._tracing = tracing
        self._system = system

    def deliver(self, answers: list[tuple[Any, AnyResult]]) -> None:
        """Called by the engine's thread once per batch."""
        batch: _Batch | None = None
        plain: list[tuple[Any, AnyResult]] = []
        for token, result in answers:
            if type(token) is _Call:
                if batch is None:
                    batch = _Batch(self.engine.times)
                token.batch = batch
                batch.calls.append(token.parent)
                plain.append((token.future, result))
            else:
                plain.append((token, result))
        super().deliver(plain)

    def _submit(self, request: Request) -> Awaitable[AnyOutcome]:
        """One decision; a reserve that waits takes several."""
        span = trace.get_current_span()
        return self._traced(request, span) if span.is_recording() else super()._submit(request)

    async def _traced(self, request: Request, span: trace.Span) -> AnyOutcome:
        call = self._call(request, span)
        outcome: AnyOutcome | None = None
        try:
            outcome = cast("AnyOutcome", await call.future)
            return outcome
        finally:
            self._make_spans([call], self._about([request], [outcome]))

    async def _submit_many(self, requests: Sequence[Request]) -> list[AnyOutcome]:
        span = trace.get_current_span()
        if not span.is_recording() or any(request.may_wait for request in requests):
            return await super()._submit_many(requests)
        calls: list[_Call] = []
        outcomes: list[AnyOutcome] = []
        try:
            calls += [self._call(request, span) for request in requests]
            outcomes = list(await asyncio.gather(*(call.future for call in calls)))
            return outcomes
        finally:
            self._make_spans(calls, self._about(requests, outcomes))

    async def read(self, query: AnyQuery) -> View | Refused:
        """See ``Treasury``."""
        span = trace.get_current_span()
        if not span.is_recording() or isinstance(query, ListQuery):
            return await super().read(query)
        call = self._call(query, span)
        try:
            return cast("View | Refused", await call.future)
        finally:
            self._make_spans([call], {"fiscus.query": type(query).__name__})

    def _call(self, wish: Request | AnyQuery, span: trace.Span) -> _Call:
        loop = self._start()
        call = _Call(loop.create_future(), span.get_span_context())
        self.engine.submit(self, call, wish)
        return call

    def _about(self, requests: Sequence[Request], outcomes: Sequence[AnyOutcome | None]) -> dict[str, Any]:
        """What spans say of commands: kinds and codes, and accounts only where a setting asks for names."""
        about: dict[str, Any] = {
            "fiscus.commands": len(requests),
            "fiscus.tenant": requests[0].tenant if requests else "",
            "fiscus.command": _common(type(request.command).__struct_config__.tag for request in requests),
        }
        if outcomes and None not in outcomes:
            about["fiscus.outcome"] = _common(one.code if isinstance(one, Refused) else "done" for one in outcomes)
        if self._tracing.with_names:
            about["fiscus.account"] = _common(getattr(request.command, "account", None) for request in requests)
        return {name: value for name, value in about.items() if value is not None}

    def _make_spans(self, calls: Sequence[_Call], about: dict[str, Any]) -> None:
        """Make the spans of calls, per batch that they were in; a fault here changes nothing for who calls."""
        first: dict[int, tuple[_Call, _Batch]] = {}
        for call in calls:
            if call.batch is not None:
                first.setdefault(id(call.batch), (call, call.batch))
        try:
            for call, batch in first.values():
                self._make_spans_of(call, batch, about)
        except Exception:
            log.exception("tracing_defect")

    def _make_spans_of(self, call: _Call, batch: _Batch, about: dict[str, Any]) -> None:
        times, epoch_ns = batch.times, batch.epoch_ns
        parent = trace.set_span_in_context(trace.NonRecordingSpan(call.parent), contexts.Context())
        start = self._tracing.tracer.start_span
        span = start("queue", context=parent, start_time=epoch_ns + call.submitted_ns)
        span.end(epoch_ns + max(times.began_ns, call.submitted_ns))
        is_read = "fiscus.query" in about
        decided_ns = times.commit_ns if times.commit_ns and not is_read else batch.ended_ns
        about = {**about, "fiscus.batch.size": times.size}
        if times.turn_ns and not is_read:
            about["fiscus.head_wait_s"] = round((times.turn_ns - times.began_ns) / 1e9, 6)
        span = start(
            "read" if is_read else "decide", context=parent, start_time=epoch_ns + times.began_ns, attributes=about
        )
        span.end(epoch_ns + decided_ns)
        if is_read or not times.commit_ns:
            return
        span = start(
            "commit",
            context=parent,
            kind=SpanKind.CLIENT,
            start_time=epoch_ns + times.commit_ns,
            attributes={"db.system.name": self._system, "fiscus.entries": times.entries},
            links=[Link(self._batch_span(batch))],
        )
        span.end(epoch_ns + (times.committed_ns or batch.ended_ns))

    def _batch_span(self, batch: _Batch) -> SpanContext:
        """The batch as a trace of its own, made once, with links to the requests in it."""
        if batch.span is None:
            times, epoch_ns = batch.times, batch.epoch_ns
            requests = list({context.span_id: context for context in batch.calls}.values())[:LINKS_MAX]
            span = self._tracing.tracer.start_span(
                "batch",
                context=contexts.Context(),
                start_time=epoch_ns + times.began_ns,
                attributes={"fiscus.batch.size": times.size, "fiscus.entries": times.entries},
                links=[Link(context) for context in requests],
            )
            span.end(epoch_ns + (times.committed_ns or batch.ended_ns))
            batch.span = span.get_span_context()
        return batch.span


def _common(values: Any) -> Any:
    """The value that all have; ``several`` if they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else "several" if found else None
