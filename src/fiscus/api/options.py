"""What the application is told when it is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from fiscus.api.beside import Beside, Payers
from fiscus.api.watching import RequestTracer
from fiscus.contract.alerts import AlertDesk

MEBIBYTE = 1_048_576


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the HTTP API; everything has a default that is safe on a loopback address.

    Attributes:
        key_pepper: secret with which the secrets of keys are hashed; None: there are no keys.
        keys_required: whether a call without a key is answered 401. Needs ``key_pepper``. Without it the application
            must be bound to a loopback address, and trusts everybody who can reach it there.
        allowed_hosts: names accepted in ``Host`` (without port). Without keys these are added to the loopback names;
            with keys, an empty tuple accepts every name.
        body_bytes_max, batch_bytes_max: longest body of a request, and of ``POST /v1/batch``, in bytes.
        request_timeout_s: longest that one request may take, streams excepted, in seconds.
        in_flight_max: requests that are worked on at once; the next one is answered 503.
        streams_max: event streams that may be open at once; the next one is answered 429.
        heartbeat_s: longest silence of an event stream, in seconds.
        requests_per_minute_default: for keys that have no rate of their own; None: no bound.
        trusted_proxies: addresses whose ``X-Forwarded-For`` is believed.
        metric_labels_max: different values of one open-ended metric label; the rest is counted as ``other``.
        access_log: whether each request is logged, with its route and without its contents.
        tracer: makes spans of requests; None: there are none.
        metrics_open: whether ``/metrics`` is answered without a key.
        anonymous_account: the account that calls of ``extra_routes`` without a key are bound to; None: they need one.
        extra_routes: Starlette routes that are asked when no route of ours matches. They find the caller in
            ``scope["fiscus.caller"]``.
        extra_paths, extra_schemas: what of those routes belongs into the OpenAPI document, under ``paths`` and
            ``components/schemas``.
        beside: what answers at addresses of its own in other protocols; None: nothing does.
        payers: who pays for the calls of a caller with such headers, then who does where that one does not exist yet;
            None: the account that its key is bound to.
        alerts: what is told outside; None: nothing is.
        registry: where the metrics are registered; None: one of its own.
        tenant: whose ledger this is.
        version: shown in the OpenAPI document.
        clock_s, monotonic_s: seconds since the epoch, for the expiry of keys; and of a clock that never steps.
    """

    key_pepper: bytes | None = None
    keys_required: bool = False
    beside: Beside | None = None
    allowed_hosts: tuple[str, ...] = ()
    body_bytes_max: int = MEBIBYTE
    batch_bytes_max: int = 8 * MEBIBYTE
    request_timeout_s: float = 30.0
    in_flight_max: int = 4_096
    streams_max: int = 1_000
    heartbeat_s: float = 15.0
    requests_per_minute_default: int | None = None
    trusted_proxies: tuple[str, ...] = ()
    metric_labels_max: int = 1_000
    access_log: bool = False
    tracer: RequestTracer | None = None
    metrics_open: bool = False
    anonymous_account: str | None = None
    extra_routes: tuple[BaseRoute, ...] = ()
    extra_paths: dict[str, Any] = {}
    extra_schemas: dict[str, Any] = {}
    payers: Payers | None = None
    alerts: AlertDesk | None = None
    registry: CollectorRegistry | None = None
    tenant: str = "default"
    version: str = ""
    clock_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
