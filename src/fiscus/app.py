"""The composition root of the service: options in, a running service out, and a clean end.

    bind ▸ open the ledger (its lock says where it is served) ▸ keys ▸ serve ▸ drain ▸ close the ledger

Concrete classes meet here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import math
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import gettempdir
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match

from fiscus import __version__
from fiscus.alerts.desk import Alerts, AlertsCollector
from fiscus.alerts.options import AlertOptions
from fiscus.api import ApiOptions, JoiningProtocol
from fiscus.api.application import Application
from fiscus.api.beside import Admit, Payers, Receive, Scope, Send
from fiscus.api.calls import Call, Reply
from fiscus.api.calls import Route as ApiRoute
from fiscus.api.economy import EconomyMetrics, TokenEconomy, economy_paths, economy_routes, economy_schemas
from fiscus.api.economy.ledger import POOL_ACCOUNT, pool_balance
from fiscus.api.economy.service import agent_status
from fiscus.api.keys import Caller, store_first_key
from fiscus.api.ledger_metrics import LedgerCollector
from fiscus.api.openapi import document
from fiscus.api.problems import Problem, problem
from fiscus.api.routes import ROUTES
from fiscus.api.spool_metrics import SpoolCollector
from fiscus.contract.errors import ConfigurationInvalid, FiscusError, StoreUnavailable
from fiscus.contract.queries import AccountView, KeysView, ListKeys, ListTemplates, ReadAccount
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import GrantStrategy
from fiscus.core.outcomes import Refused
from fiscus.core.state import Rules
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.payers import Unnamed, payer_of
from fiscus.spool import Spool, SpoolingTreasury
from fiscus.stores import POSTGRES_SCHEMES, SQLITE_SCHEME, open_alerts, open_store
from fiscus.stores.sqlite.scratch import scratch_folder
from fiscus.stores.sqlite.views import SqliteViews
from fiscus.treasury.archiving import CPU_SHARE, ArchivePlan, Archivist
from fiscus.treasury.drift import Drift
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.priced import Pricing
from fiscus.treasury.store import Store

if TYPE_CHECKING:  # what is not needed at every start, or comes with an extra that may not be there
    from fiscus.dialects import Code
    from fiscus.dialects import Problem as DialectProblem
    from fiscus.gateway.application import Gateway
    from fiscus.integrations.tracing import Tracing

GARBAGE_THRESHOLDS = (20_000, 20, 20)
"""How rarely Python looks for cycles, of which calls leave few: as it comes it takes a tenth of a call for that."""

BACKLOG = 2_048
DRIFT_STOP_S_MAX = 2.0
CLOSING_S_MAX = 5.0
"""Of the time in which the service stops, what is kept for the spool and the ledger, in seconds; at most half of it."""

ENDING_S = 0.3
"""Of the time in which the service stops, what the process itself needs to end."""

KEY_CODES: Mapping[str, Code] = {
    "unauthorized": "unauthenticated",
    "forbidden": "forbidden",
    "rate_limited": "budget_busy",
    "budget_unavailable": "unavailable",
}
"""Why the API does not accept a key → how the gateway's dialects call it; the rest is ``invalid``."""

SPOOL_TARGET = "ledger"
SPOOL_RECORD_BYTES_MIN = 64
PEPPER_BYTES = 32
PEPPER_NAME = "key_pepper"
"""In the database, where nodes share one."""

MEMORY = "memory:"
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (recognised here, never bound to by default)

log = structlog.get_logger()


class LedgerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which ledger is opened, and how it is kept.

    Attributes:
        store_url: as ``open_store`` takes it.
        tenant: whose ledger is served.
        rules: what becomes of expired holds.
        queue_length_max: commands that may wait.
        key_pepper: what keys are hashed with; None: what stands beside the ledger.
        retention_days: how old entries become before they are archived; 0: as old as you like.
        archive_path: where to; None: beside the ledger's file, or where the process runs.
        retention_keeps_usage: whether usage stays when its entries go.
    """

    store_url: str
    tenant: str = "default"
    rules: Rules = Rules()
    queue_length_max: int = 10_000
    key_pepper: str | None = None
    retention_days: int = 0
    archive_path: Path | None = None
    retention_keeps_usage: bool = False


class RedisOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the live state is copied to, how long it waits for an answer, and how many entries the stream keeps."""

    url: str
    timeout_ms: int = 1_000
    stream_length_max: int = 10_000


class TracingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where spans are sent to, the name that the service has there, and whether they name accounts."""

    endpoint: str
    service_name: str = "fiscus"
    with_names: bool = False


class ServiceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a service is told when it starts; ``service.py`` says what each means, with its range.

    Attributes:
        api: without what is only known at the start: pepper, whether keys are required, routes, registry.
        economy_starts_at_once: make the pool at the start, not at the first call of the token economy API.
        redis: where balances are copied to for other programs; None: nowhere.
        drift_check_interval_s: how often a sample of cells is checked against the journal; 0: never.
        tracing: None: no spans are made.
        gateway: the providers behind the gateway; None: there is none.
        alerts: who is told outside, and of what; None: nobody.
    """

    ledger: LedgerOptions
    host: str = "127.0.0.1"
    port: int = 8091
    tls_certificate_path: Path | None = None
    tls_key_path: Path | None = None
    bootstrap_key: str | None = None
    keep_alive_s: int = 75
    drain_s_max: int = 20
    spool_path: Path | None = None
    spool_bytes_max: int = 67_108_864
    checkpoint_interval_s: int = 86_400
    archive_interval_s: int = 3_600
    economy_budget_tokens: int = 100_000
    economy_strategy: GrantStrategy = "classic"
    economy_reserve_percent: int = 0
    economy_starts_at_once: bool = False
    redis: RedisOptions | None = None
    drift_check_interval_s: int = 300
    tracing: TracingOptions | None = None
    gateway: GatewayOptions | None = None
    alerts: AlertOptions | None = None
    api: ApiOptions = ApiOptions()


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint: the sequence as of which the state is sealed."""

    state_seq: int


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant was made anew from its journal; ``head_seq``: as of which entry it is."""

    head_seq: int


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """What a service says once it listens.

    Attributes:
        url: where it is reached from this machine.
        store: URL of the ledger.
        keys_required: whether a call needs a key.
    """

    url: str
    store: str
    keys_required: bool
    version: str = __version__


def serve(service: ServiceOptions, on_started: Callable[[Started], None]) -> None:
    """Run the service until SIGTERM or SIGINT, then answer what is in flight and let the ledger go.

    From the signal on that takes at most ``drain_s_max``. A ledger that hangs is left as it is then, and the process
    ends: all that was acknowledged is in its journal, or in the spool.

    Raises:
        ConfigurationInvalid: the address cannot be listened on, or it is not loopback and there are no keys.
        LedgerBusy, StoreUnavailable: the ledger cannot be opened.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(service, on_started))


async def _serve(service: ServiceOptions, on_started: Callable[[Started], None]) -> None:
    """The life of a service."""
    listener = listen(service.host, service.port)
    with contextlib.closing(listener):
        url = address_of(service, listener.getsockname()[1])
        stop = _Stop(service.drain_s_max)
        async with _tracing(service, url) as tracing, _open_service_treasury(service, url, stop, tracing) as treasury:
            pepper = read_pepper(service.ledger)
            keys_required = await has_keys(treasury.ledger, service, pepper)
            if not keys_required and not is_loopback(service.host):
                raise ConfigurationInvalid(
                    f"{service.host} can be reached from other machines, and this ledger has no keys: set "
                    "FISCUS_BOOTSTRAP_KEY, make a key with `fiscus keys create --role admin`, or listen on 127.0.0.1"
                )
            local = treasury.ledger
            assert isinstance(local, LocalTreasury), "a service has its ledger in its own process"
            async with (
                live_state(local, service.redis, tenant=service.ledger.tenant),
                _economy(treasury, local, service) as (economy, routes),
                _checkpoints(local, service),
                _archiving(local, service),
                _drift(local, service) as drift,
                _gateway(treasury, service) as gateway,
                _alerts(local, service) as alerts,
            ):
                registry = CollectorRegistry()
                registry.register(EconomyMetrics(economy))
                LedgerCollector(local.engine, drift).register(registry)
                SpoolCollector(treasury.spool, treasury.outbox).register(registry)
                registry.register(AlertsCollector(alerts))
                if gateway is not None:
                    gateway.collector().register(registry)
                ProcessCollector(registry=registry)
                options = msgspec.structs.replace(
                    service.api,
                    key_pepper=pepper,
                    keys_required=keys_required,
                    extra_routes=routes,
                    beside=gateway,
                    payers=payers_of(service.gateway),
                    extra_paths=economy_paths(),
                    extra_schemas=economy_schemas(),
                    registry=registry,
                    alerts=alerts,
                    tracer=tracing,
                    tenant=service.ledger.tenant,
                    version=__version__,
                )
                started = Started(url=url, store=service.ledger.store_url, keys_required=keys_required)
                app = Application(treasury, options, ROUTES_OF_SERVICE)
                treasury.start()
                gc.collect()
                gc.freeze()  # what is there by now stays: to look through it again would stop every call for 60 ms
                gc.set_threshold(*GARBAGE_THRESHOLDS)
                await _run(app, service, listener, lambda: on_started(started), stop)
        log.info("service_stopped", url=url)


class _Stop:
    """The end of a service: when it was asked for, and what is left of the time for it."""

    def __init__(self, time_s: float) -> None:
        self._closing_s = min(CLOSING_S_MAX, time_s / 2)
        self._time_s = time_s
        self._deadline: float | None = None

    @property
    def is_asked_for(self) -> bool:
        """Whether a signal has come."""
        return self._deadline is not None

    def ask(self) -> None:
        """The time runs from now on."""
        self._deadline = asyncio.get_running_loop().time() + self._time_s - ENDING_S

    def answering_s(self) -> float:
        """Seconds that are left for requests in flight."""
        return max(0.0, self.closing_s() - self._closing_s)

    def closing_s(self) -> float:
        """Seconds that are left for everything."""
        if self._deadline is None:
            self.ask()
            assert self._deadline is not None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())


async def _run(
    app: Application, service: ServiceOptions, listener: socket.socket, started: Callable[[], None], stop: _Stop
) -> None:
    """Serve until a signal says stop, then until what is in flight is answered.

    Connections are accepted until then, so that probes can tell a service that drains from one that is dead.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=JoiningProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=service.keep_alive_s,
            timeout_graceful_shutdown=service.drain_s_max,
            backlog=BACKLOG,
            ssl_certfile=service.tls_certificate_path,
            ssl_keyfile=service.tls_key_path,
        ),
        started,
    )

    async def drain() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stop.answering_s()):
                await app.drained()
        server.config.timeout_graceful_shutdown = math.ceil(stop.answering_s())
        server.should_exit = True

    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    def on_signal() -> None:
        if stop.is_asked_for:
            server.force_exit = server.should_exit = True
            return
        stop.ask()
        app.drain()
        draining.append(loop.create_task(drain(), name="drain"))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in draining:
            task.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them again at its end, before the ledger would be closed."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


# -- the ledger ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_treasury(options: LedgerOptions, *, address: str | None = None) -> AsyncIterator[LocalTreasury]:
    """Open the ledger of the settings in this process, and close it at the end, whatever happens.

    Args:
        options: name the ledger and the rules that it is kept by.
        address: where this process serves it.

    Raises:
        LedgerBusy: another process has it open.
        StoreUnavailable: it cannot be opened.
    """
    store = open_store(options.store_url, address=address)
    treasury = LocalTreasury(_engine(store, options), Pricing())
    try:
        yield treasury
    finally:
        await treasury.close()


def _engine(store: Store, options: LedgerOptions) -> Engine:
    return Engine(
        store,
        rules=options.rules,
        queue_max=options.queue_length_max,
        retention_days=options.retention_days,
    )


@asynccontextmanager
async def _open_service_treasury(
    service: ServiceOptions, url: str, stop: _Stop, tracing: Tracing | None
) -> AsyncIterator[SpoolingTreasury]:
    """The ledger of a service behind a spool; both are let go at the end, within the time that is left for it."""
    directory = spool_directory(service)
    spool = Spool(
        directory,
        SPOOL_TARGET,
        bytes_max=service.spool_bytes_max,
        records_max=service.spool_bytes_max // SPOOL_RECORD_BYTES_MIN,
    )
    options = service.ledger
    try:
        store = open_store(options.store_url, address=url)
    except BaseException:
        spool.close()
        raise
    engine = _engine(store, options)
    treasury = SpoolingTreasury(_local(engine, service, tracing), spool, tenant=options.tenant)
    try:
        yield treasury
    finally:
        code = 0 if stop.is_asked_for else 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stop.closing_s() / 2):
                await treasury.close_spool()
        if not await _closed_within(engine, stop.closing_s()):
            log.error("ledger_not_closed", url=url, spooled=len(spool))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # threads that wait for a database that hangs would keep the process


def _local(engine: Engine, service: ServiceOptions, tracing: Tracing | None) -> LocalTreasury:
    """The face of the engine; one that makes spans, if they are wanted."""
    pricing = Pricing(() if service.gateway is None else service.gateway.prices)
    if tracing is None:
        return LocalTreasury(engine, pricing)
    from fiscus.integrations.tracing import TracedTreasury

    system = "sqlite" if service.ledger.store_url.startswith((SQLITE_SCHEME, MEMORY)) else "postgresql"
    return TracedTreasury(engine, tracing, system=system, pricing=pricing)


@asynccontextmanager
async def _tracing(service: ServiceOptions, url: str) -> AsyncIterator[Tracing | None]:
    """Make spans meanwhile, if they are wanted, and hand over the last ones at the end."""
    options = service.tracing
    if options is None:
        yield None
        return
    try:
        from fiscus.integrations.tracing import otlp_tracing
    except ModuleNotFoundError as error:
        log.warning("tracing_unavailable", detail=str(error), install="fiscus[tracing]")
        yield None
        return
    tracing = otlp_tracing(
        options.endpoint,
        service_name=options.service_name,
        instance=url,
        version=__version__,
        with_names=options.with_names,
    )
    try:
        yield tracing
    finally:
        await asyncio.to_thread(tracing.close)


@asynccontextmanager
async def _drift(treasury: LocalTreasury, service: ServiceOptions) -> AsyncIterator[Drift | None]:
    """Compare samples of cells with the journal meanwhile; the tables that this takes are thrown away at the end."""
    if not service.drift_check_interval_s:
        yield None
        return
    directory = spool_directory(service)
    was_there = directory.exists()
    with scratch_folder(directory / "drift") as folder:
        views = SqliteViews(folder / "fold")
        drift = Drift(treasury.engine, views)
        await treasury.readiness()
        drift.start(service.drift_check_interval_s)
        try:
            yield drift
        finally:
            if await asyncio.to_thread(drift.stop, DRIFT_STOP_S_MAX):
                views.close()
    if not was_there:
        with contextlib.suppress(OSError):  # something waits in it
            directory.rmdir()


@asynccontextmanager
async def _gateway(treasury: Treasury, service: ServiceOptions) -> AsyncIterator[_GatewayBeside | None]:
    """The gateway, if providers are named; what it has open is closed at the end."""
    if service.gateway is None:
        yield None
        return
    from fiscus.gateway.application import Gateway

    gateway = Gateway(treasury, service.gateway, tenant=service.ledger.tenant)
    await gateway.warm_up()
    try:
        yield _GatewayBeside(gateway)
    finally:
        await gateway.close()


@asynccontextmanager
async def _alerts(treasury: LocalTreasury, service: ServiceOptions) -> AsyncIterator[Alerts | None]:
    """Tell what happens meanwhile, if somebody wants to know. The ledger waits for none of it."""
    if service.alerts is None:
        yield None
        return
    tenant = service.ledger.tenant
    try:
        store = await asyncio.to_thread(open_alerts, service.ledger.store_url, tenant)
    except StoreUnavailable as error:
        log.error("alerts_unavailable", error=str(error))
        yield None
        return
    try:
        alerts = Alerts(treasury, store, service.alerts, tenant=tenant)
    except BaseException:
        store.close()
        raise
    alerts.start()
    try:
        yield alerts
    finally:
        await alerts.close()


def payers_of(gateway: GatewayOptions | None) -> Payers:
    """Who pays by the headers of a request, as the gateway reads them."""

    def payers(headers: Mapping[bytes, bytes], caller: Caller) -> tuple[str, ...] | Problem:
        default = None if gateway is None else gateway.account
        payer = payer_of(headers, caller, default)
        if isinstance(payer, Unnamed):
            return problem("invalid", payer.detail, field=payer.field or "account")
        names = (payer.account, payer.parent, caller.scope or default)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    return payers


class _GatewayBeside:
    """The gateway as it stands beside the API: keys are the API's, the words of a refusal are the dialect's."""

    def __init__(self, gateway: Gateway) -> None:
        from fiscus import dialects

        self._gateway = gateway
        self._problem = dialects.Problem
        self.takes = gateway.takes
        self.show_to = gateway.live.show_to
        self.collector = gateway.collector

    async def __call__(self, scope: Scope, receive: Receive, send: Send, admit: Admit) -> None:
        """See ``Beside``."""

        async def caller_of(secret: bytes | None) -> Caller | DialectProblem:
            caller = await admit(secret, scope)
            if not isinstance(caller, Problem):
                return caller
            return self._problem(
                code=KEY_CODES.get(caller.code, "invalid"),
                message=caller.detail,
                retry_after_s=caller.retry_after_s,
                field=caller.field,
            )

        await self._gateway(scope, receive, send, caller_of)


async def _closed_within(engine: Engine, time_s: float) -> bool:
    """Close an engine; False if it has not managed to in time."""
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[None] = loop.create_future()

    def close() -> None:
        try:
            engine.close()
        except Exception as error:  # noqa: BLE001  # raised again by who waits
            loop.call_soon_threadsafe(closed.set_exception, error)
        else:
            loop.call_soon_threadsafe(closed.set_result, None)

    Thread(target=close, name="fiscus-closing", daemon=True).start()
    try:
        await asyncio.wait_for(asyncio.shield(closed), time_s)
    except TimeoutError:
        return False
    return True


def spool_directory(service: ServiceOptions) -> Path:
    """Where a service keeps what it cannot book: as it was told, else beside the ledger's file, else where it runs.

    Raises:
        ConfigurationInvalid: nothing can be written there.
    """
    directory = service.spool_path
    if directory is None:
        ledger = ledger_path(service.ledger.store_url)
        if ledger is not None:
            directory = ledger.with_name(ledger.name + ".spool")
        elif service.ledger.store_url == MEMORY:
            directory = Path(gettempdir()) / f"fiscus-spool-{os.getpid()}"
        else:
            directory = Path("fiscus.spool")
    there = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigurationInvalid(f"spool_path: {directory} cannot be written, and settlements would have no place")
    return directory


def ledger_path(url: str) -> Path | None:
    """The file of a ledger; None if it is not one file on this machine.

    >>> ledger_path("sqlite:////var/lib/fiscus.db"), ledger_path("memory:")
    (PosixPath('/var/lib/fiscus.db'), None)
    """
    return Path(url.removeprefix(SQLITE_SCHEME)) if url.startswith(SQLITE_SCHEME) else None


@asynccontextmanager
async def _checkpoints(treasury: LocalTreasury, service: ServiceOptions) -> AsyncIterator[None]:
    """Seal the state now and then, as long as something happens."""
    if not service.checkpoint_interval_s:
        yield
        return
    task = asyncio.create_task(_seal_repeatedly(treasury, service), name="checkpoints")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _seal_repeatedly(treasury: LocalTreasury, service: ServiceOptions) -> None:
    """One checkpoint after each interval in which the journal has grown."""
    sealed_seq = await _head_seq(treasury, service.ledger.tenant)
    while True:
        await asyncio.sleep(service.checkpoint_interval_s)
        try:
            if await _head_seq(treasury, service.ledger.tenant) > sealed_seq:
                sealed_seq = await seal(treasury, service.ledger.tenant) + 1  # the checkpoint is an entry itself
        except FiscusError as error:
            log.warning("checkpoint_failed", code=error.code, error=str(error))


def archivist(engine: Engine, options: LedgerOptions, *, cpu_share: float = CPU_SHARE) -> Archivist | None:
    """What archives a ledger; None: everything is kept."""
    if not options.retention_days or options.store_url == MEMORY:
        return None
    return Archivist(
        engine,
        archive_directory(options),
        options.retention_days,
        keeps_usage=options.retention_keeps_usage,
        cpu_share=cpu_share,
    )


def archive_directory(options: LedgerOptions) -> Path:
    """Where entries are archived to: as told, else beside the ledger's file, else where the process runs."""
    if options.archive_path is not None:
        return options.archive_path
    ledger = ledger_path(options.store_url)
    return ledger.with_name(ledger.name + ".archive") if ledger is not None else Path("fiscus.archive")


@asynccontextmanager
async def _archiving(treasury: LocalTreasury, service: ServiceOptions) -> AsyncIterator[None]:
    """Archive now and then what a checkpoint has sealed and is old enough."""
    worker = archivist(treasury.engine, service.ledger)
    if worker is None:
        yield
        return
    task = asyncio.create_task(_archive_repeatedly(worker, service.archive_interval_s), name="archiving")
    try:
        yield
    finally:
        worker.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _archive_repeatedly(worker: Archivist, interval_s: int) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await asyncio.to_thread(worker.run)
        except FiscusError as error:
            log.warning("archive_failed", code=error.code, error=str(error))


async def archive(treasury: LocalTreasury, options: LedgerOptions, *, dry_run: bool) -> tuple[ArchivePlan, ...]:
    """Archive what there is now, or only say what that would be.

    Raises:
        ConfigurationInvalid: everything is kept.
        StoreUnavailable, LedgerCorrupt, ArchiveUnavailable: see ``Archivist.run``.
    """
    await treasury.readiness()
    worker = archivist(treasury.engine, options, cpu_share=1.0)
    if worker is None:
        raise ConfigurationInvalid("retention_days is 0, or the ledger ends with the process: nothing is archived")
    return tuple(await asyncio.to_thread(worker.plan if dry_run else worker.run))


async def _head_seq(treasury: Treasury, tenant: str) -> int:
    view = await treasury.read(ListTemplates(tenant=tenant))
    return 0 if isinstance(view, Refused) else view.as_of_seq


async def seal(treasury: LocalTreasury, tenant: str) -> int:
    """Seal the state of a tenant; returns the sequence as of which it is sealed."""
    await treasury.readiness()
    return await asyncio.to_thread(treasury.engine.checkpoint, tenant)


async def _checkpoint(call: Call) -> Reply:
    """What ``fiscus checkpoint`` asks of a running service."""
    return call.answer(Sealed(state_seq=await seal(_own_ledger(call), call.service.options.tenant)))


async def repair(treasury: LocalTreasury, tenant: str) -> int:
    """Make views and memory of a tenant anew from its journal; returns the sequence as of which they are."""
    await treasury.readiness()
    return await asyncio.to_thread(treasury.engine.repair, tenant)


async def _repair(call: Call) -> Reply:
    """What ``fiscus repair`` asks of a running service."""
    return call.answer(Repaired(head_seq=await repair(_own_ledger(call), call.service.options.tenant)))


def _own_ledger(call: Call) -> LocalTreasury:
    """The ledger in this process.

    Raises:
        StoreUnavailable: it is away.
    """
    treasury = call.service.treasury
    assert isinstance(treasury, SpoolingTreasury), "a service has its ledger in its own process"
    assert isinstance(treasury.ledger, LocalTreasury), "a service has its ledger in its own process"
    if treasury.is_away:
        raise StoreUnavailable("the ledger is away")
    return treasury.ledger


ROUTES_OF_SERVICE = (
    *ROUTES,
    ApiRoute(
        method="POST",
        path="/v1/checkpoint",
        summary="Seal the state as of now, so that a check of the journal can begin there.",
        access="operate",
        handle=_checkpoint,
        answer=Sealed,
    ),
    ApiRoute(
        method="POST",
        path="/v1/repair",
        summary="Make what is kept of the tenant anew from its journal, and admit calls again after drift.",
        access="operate",
        handle=_repair,
        answer=Repaired,
    ),
)
"""All routes but those of the token economy, which have a table of their own."""


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of all that a service answers."""
    return document(ROUTES_OF_SERVICE, __version__, paths=economy_paths(), schemas=economy_schemas())


# -- keys ---------------------------------------------------------------------------------------------------------


def read_pepper(options: LedgerOptions) -> bytes:
    """The secret that keys are hashed with: the option, or what is kept beside the ledger, made if there is none.

    Raises:
        StoreUnavailable: it can neither be read nor made.
    """
    if options.key_pepper is not None:
        return options.key_pepper.encode()
    if options.store_url.startswith(POSTGRES_SCHEMES):
        from fiscus.stores.postgres.secrets import kept_secret

        return kept_secret(options.store_url, PEPPER_NAME, secrets.token_hex(PEPPER_BYTES)).encode()
    ledger = ledger_path(options.store_url)
    if ledger is None:
        return secrets.token_bytes(PEPPER_BYTES)
    path = pepper_path(ledger)
    try:
        _write_once(path, secrets.token_hex(PEPPER_BYTES))
        pepper = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    if not pepper:
        raise StoreUnavailable(f"{path}: is empty; restore it, or delete it together with all keys")
    return pepper.encode()


def pepper_path(ledger: Path) -> Path:
    """Where the pepper stands that was made for a ledger."""
    return ledger.with_name(ledger.name + "-pepper")


def _write_once(path: Path, text: str) -> None:
    """Make a file that only its owner reads, whole and durable, unless there is one."""
    if path.exists():
        return
    made = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()


async def has_keys(treasury: Treasury, service: ServiceOptions, pepper: bytes) -> bool:
    """Store the first key of the options, then say whether there is any key.

    Raises:
        Refusal, TreasuryError: the ledger does not take it, or cannot be asked.
    """
    tenant = service.ledger.tenant
    if service.bootstrap_key is not None:
        await store_first_key(treasury, service.bootstrap_key, pepper, tenant)
    view = await treasury.read(ListKeys(tenant=tenant))
    return isinstance(view, KeysView) and bool(view.keys)


# -- the token economy --------------------------------------------------------------------------------------------


@asynccontextmanager
async def _economy(
    treasury: Treasury, local: LocalTreasury, service: ServiceOptions
) -> AsyncIterator[tuple[TokenEconomy, tuple[BaseRoute, ...]]]:
    """The token economy, which makes its pool only where somebody uses it.

    It starts with the service when its budget is set or its pool is there already, else with its first call: a ledger
    that is used for other things never finds a limit on ``global`` that nobody asked for.
    """
    economy = TokenEconomy(
        treasury,
        pool_tokens=service.economy_budget_tokens,
        labels_max=service.api.metric_labels_max,
        tenant=service.ledger.tenant,
        sealed=lambda: local.sealed_allocations(service.ledger.tenant),
        strategy=service.economy_strategy,
        reserve_percent=service.economy_reserve_percent,
    )
    async with contextlib.AsyncExitStack() as stack:
        start = _Once(lambda: stack.enter_async_context(economy))
        if service.economy_starts_at_once or await _has_pool(treasury, service.ledger.tenant):
            await start()
        yield economy, tuple(_StartingRoute(route, start) for route in economy_routes(economy))


async def _has_pool(treasury: Treasury, tenant: str) -> bool:
    """Whether the economy's pool is in the ledger."""
    view = await treasury.read(ReadAccount(account="global", tenant=tenant))
    return isinstance(view, AccountView) and any(budget.budget == "pool" for budget in view.account.budgets)


class _Once:
    """Does something the first time that it is called; who calls meanwhile waits for it."""

    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self._work = work
        self._lock = asyncio.Lock()
        self._done = False

    async def __call__(self) -> None:
        if self._done:
            return
        async with self._lock:
            if not self._done:
                await self._work()
                self._done = True


class _StartingRoute(BaseRoute):
    """A route that needs something started before its first call."""

    def __init__(self, route: BaseRoute, start: _Once) -> None:
        self.methods = getattr(route, "methods", None)
        self._route = route
        self._start = start

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As the route does."""
        return self._route.matches(scope)

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        """As the route does."""
        return self._route.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start what is needed, then answer."""
        await self._start()
        await self._route.handle(scope, receive, send)


@asynccontextmanager
async def live_state(treasury: LocalTreasury, options: RedisOptions | None, *, tenant: str) -> AsyncIterator[None]:
    """Copy balances to Redis meanwhile, if it is wanted. Nothing ever waits for it.

    Args:
        treasury: whose; it is started here.
        options: None: nothing is copied.
        tenant: whose agents are shown under the keys of the token economy.

    Raises:
        ConfigurationInvalid: the URL cannot be read, or redis-py is missing.
    """
    if options is None:
        yield
        return
    from fiscus.stores.redis.accounts import Economy
    from fiscus.stores.redis.projector import Projector
    from fiscus.stores.redis.server import RedisServer

    engine = treasury.engine
    projector = Projector(
        engine.store,
        RedisServer(options.url, timeout_ms=options.timeout_ms, stream_length_max=options.stream_length_max),
        now_ms=lambda: engine.now_ms,
        economy=Economy(tenant=tenant, pool_account=POOL_ACCOUNT, pool_balance=pool_balance, agent_status=agent_status),
    )
    engine.view_observers.append(projector.observe)
    engine.live_state = projector.status
    await treasury.readiness()
    await asyncio.to_thread(engine.errand, lambda: None)  # from here on the engine knows what time it is
    projector.start()
    try:
        yield
    finally:
        await asyncio.to_thread(projector.close)


# -- addresses ----------------------------------------------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound and not yet accepting.

    Raises:
        ConfigurationInvalid: the name is unknown or the address is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigurationInvalid(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(service: ServiceOptions, port: int) -> str:
    """The URL by which a service is reached from its own machine."""
    host = WILDCARDS.get(service.host, service.host)
    scheme = "https" if service.tls_certificate_path else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loops of uvloop, where there are any."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
