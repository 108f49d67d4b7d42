"""Spans of a call through queue, decision and commit: which there are, whose children, and what they never say."""

import asyncio
import gzip
import json
import time
import urllib.request
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import SimpleQueue
from threading import Event, Thread

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from fiscus.api import ApiOptions
from fiscus.contract.queries import ReadAccount
from fiscus.core.commands import PutAccount, Request, Reserve
from fiscus.integrations.tracing import TracedTreasury, Tracing
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from tests.api.service import Api
from tests.cli.processes import fiscus, service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Traced:
    """An API over a traced treasury, and the spans that have ended."""

    def __init__(self, sampler=None, *, with_names=False):
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider=provider, with_names=with_names)
        self.treasury = TracedTreasury(Engine(open_store("memory:")), self.tracing, system="sqlite")
        self.api = Api(self.treasury, ApiOptions(tracer=self.tracing))

    def spans(self):
        """Those since the last look, by name."""
        found = {}
        for span in self.exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        self.exporter.clear()
        return found


@asynccontextmanager
async def traced(sampler=None, **more):
    made = Traced(sampler, **more)
    try:
        await made.api.tree()
        made.spans()
        yield made
    finally:
        await made.treasury.close()


HOLD = {"id": "hold-1", "account": "agent:x", "amounts": {"tokens": 60}}


async def test_a_request_is_a_span_with_queue_decide_and_commit_below_it():
    async with traced() as made:
        answer = await made.api.post("/v1/holds", HOLD, headers=TRACEPARENT)
        assert answer.status == 201
        spans = made.spans()
    assert sorted(spans) == ["POST /v1/holds", "batch", "commit", "decide", "queue"]
    request = spans["POST /v1/holds"][0]
    assert request.kind is SpanKind.SERVER
    assert trace.format_trace_id(request.context.trace_id) == TRACE
    assert trace.format_span_id(request.parent.span_id) == PARENT
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/holds",
        "http.response.status_code": 201,
        "url.scheme": "http",
    }
    queue, decide, commit = (spans[name][0] for name in ("queue", "decide", "commit"))
    for child in (queue, decide, commit):
        assert child.parent.span_id == request.context.span_id
        assert child.context.trace_id == request.context.trace_id
        assert request.start_time <= child.start_time <= child.end_time <= request.end_time
    assert queue.end_time == decide.start_time
    assert decide.end_time == commit.start_time
    assert decide.attributes["fiscus.command"] == "reserve"
    assert decide.attributes["fiscus.outcome"] == "done"
    assert decide.attributes["fiscus.batch.size"] == 1
    assert dict(commit.attributes) == {"db.system.name": "sqlite", "fiscus.entries": 2}  # a window opened, and the hold


async def test_a_batch_is_a_trace_of_its_own_that_its_requests_and_it_name_each_other_in():
    async with traced() as made:
        engine, entered, gate = made.treasury.engine, Event(), Event()

        def hold_up():
            entered.set()
            gate.wait(10)

        busy = asyncio.create_task(asyncio.to_thread(engine.errand, hold_up))
        await asyncio.to_thread(entered.wait, 10)
        calls = asyncio.gather(*(made.api.post("/v1/holds", HOLD | {"id": f"h{n}"}) for n in range(5)))
        while engine.readiness().queue_depth < 5:
            await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(calls, busy)
        spans = made.spans()
    assert len(spans["batch"]) == 1
    batch = spans["batch"][0]
    requests = {span.context.span_id for span in spans["POST /v1/holds"]}
    assert batch.parent is None
    assert len({span.context.trace_id for span in spans["POST /v1/holds"]} | {batch.context.trace_id}) == 6
    assert {link.context.span_id for link in batch.links} == requests
    assert [[link.context.span_id for link in span.links] for span in spans["commit"]] == [[batch.context.span_id]] * 5
    assert dict(batch.attributes) == {"fiscus.batch.size": 5, "fiscus.entries": 6}
    assert {span.end_time for span in spans["queue"]} == {batch.start_time}


async def test_a_refusal_is_an_outcome_and_no_error_and_writes_nothing():
    async with traced() as made:
        assert (await made.api.post("/v1/holds", HOLD | {"amounts": {"tokens": 5_000}})).status == 402
        spans = made.spans()
    assert sorted(spans) == ["POST /v1/holds", "decide", "queue"]
    assert spans["decide"][0].attributes["fiscus.outcome"] == "budget_exceeded"
    assert spans["POST /v1/holds"][0].status.status_code is StatusCode.UNSET


async def test_many_operations_of_one_request_are_one_span_each_of_queue_decide_and_commit():
    async with traced() as made:
        operations = [{"op": "reserve", **HOLD, "id": f"h{number}", "amounts": {"tokens": 1}} for number in range(20)]
        assert (await made.api.post("/v1/batch", {"operations": operations})).status == 200
        spans = made.spans()
    assert 1 <= len(spans["commit"]) == len(spans["decide"]) == len(spans["batch"]) <= 3
    assert spans["decide"][0].attributes["fiscus.commands"] == 20


async def test_a_read_is_answered_from_memory_and_says_so():
    async with traced() as made:
        await made.api.get("/v1/accounts/agent:x")
        spans = made.spans()
    assert sorted(spans) == ["GET /v1/accounts/{account}", "queue", "read"]


async def test_a_failure_is_an_error():
    async with traced() as made:
        await made.treasury.close()
        assert (await made.api.post("/v1/holds", HOLD)).status == 503
        request = made.spans()["POST /v1/holds"][0]
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "503"


async def test_spans_name_nobody_and_repeat_nothing_unless_a_setting_asks_for_names():
    secret = {"id": "canary-id", "account": "user:canary", "amounts": {"tokens": 1}, "attributes": {"x": "canary"}}
    async with traced() as made:
        await made.api.put("/v1/accounts/user:canary", {"labels": {"mail": "canary"}})
        assert (await made.api.post("/v1/holds", secret, headers={"X-Request-Id": "canary"})).status == 201
        assert (await made.api.post("/v1/holds", secret, key="canary-key")).status == 401
        await made.api.get("/canary?canary=1")
        spans = [span for group in made.spans().values() for span in group]
        assert len(spans) > 8
        assert "canary" not in "".join(span.to_json() for span in spans)
    async with traced(with_names=True) as made:
        await made.api.put("/v1/accounts/user:canary")
        assert made.spans()["decide"][0].attributes["fiscus.account"] == "user:canary"


async def test_what_is_not_sampled_makes_no_spans_and_works_the_same():
    async with traced(ALWAYS_OFF) as made:
        assert (await made.api.post("/v1/holds", HOLD)).status == 201
        assert made.spans() == {}


async def test_a_caller_in_process_sees_the_same_below_a_span_of_its_own():
    async with traced() as made:
        with made.tracing.tracer.start_as_current_span("agent") as agent:
            await made.treasury.execute(Request(command=Reserve(id="h", account="agent:x", amounts={"tokens": 1})))
        await made.treasury.execute(Request(command=PutAccount(account="agent:z")))
        await made.treasury.read(ReadAccount(account="agent:z"))
        spans = made.spans()
    assert sorted(spans) == ["agent", "batch", "commit", "decide", "queue"]
    assert spans["queue"][0].parent.span_id == agent.get_span_context().span_id


class Collector:
    """A receiver of OTLP over HTTP: what it is sent, decoded."""

    def __init__(self):
        self.received = SimpleQueue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                received.put((self.path, self.headers["Content-Type"], ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def post(url, body, **headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"} | headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.status


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["FISCUS_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_a_service_sends_its_spans_to_a_collector_the_last_ones_when_it_stops(tmp_path, variable):
    fiscus(tmp_path, "accounts", "put", "agent:x")
    with Collector() as collector:
        settings = {variable: collector.url, "FISCUS_LOG_FORMAT": "json", "FISCUS_ACCESS_LOG": "true"}
        with service(tmp_path, **settings) as running:
            assert post(f"{running.url}/v1/holds", HOLD, **TRACEPARENT) == 201
            assert running.stop() == 0
        path, content_type, sent = collector.received.get(timeout=10)
    assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
    resource = {one.key: one.value.string_value for one in sent.resource_spans[0].resource.attributes}
    assert resource["service.name"] == "fiscus"
    assert resource["service.instance.id"] == running.url
    spans = {span.name: span for scope in sent.resource_spans[0].scope_spans for span in scope.spans}
    request = spans["POST /v1/holds"]
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert {spans[name].parent_span_id for name in ("queue", "decide", "commit")} == {request.span_id}
    assert spans["commit"].links[0].span_id == spans["batch"].span_id
    lines = [json.loads(line) for line in (tmp_path / "service.log").read_text().splitlines()]
    assert [line["trace_id"] for line in lines if line["event"] == "request"] == [TRACE]


@pytest.mark.slow
def test_a_collector_that_is_away_costs_nothing_but_its_spans(tmp_path):
    fiscus(tmp_path, "accounts", "put", "agent:x")
    with service(tmp_path, FISCUS_OTEL_ENDPOINT="http://127.0.0.1:9", FISCUS_LOG_FORMAT="json") as running:
        assert post(f"{running.url}/v1/holds", HOLD) == 201
        began_s = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began_s < 8
    for line in (tmp_path / "service.log").read_text().splitlines():
        json.loads(line)
