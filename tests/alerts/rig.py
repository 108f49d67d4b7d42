"""A real receiver of web hooks that can be made to fail, a clock that tests move, and alerts over a real ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from fiscus.alerts.desk import Alerts
from fiscus.alerts.options import AlertOptions, Channel
from fiscus.contract.alerts import AlertStore
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import AnyCommand, Request
from fiscus.core.outcomes import AnyOutcome, Refused
from fiscus.stores.sqlite.alerts import SqliteAlerts

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
START_MS = 1_800_000_000_000


class Clock:
    """Milliseconds that stand still until they are moved."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def move(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1_000)


class Receiver:
    """Takes web hooks, or fails as it is told: a status, ``hang``, ``reset``."""

    def __init__(self) -> None:
        self.mode: int | str = 204
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self._leaving = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body, mode = await request.read(), self.mode
        self.requests.append((dict(request.headers), body))
        if mode == "hang":
            await self._leaving.wait()
        if mode == "reset":
            assert request.transport is not None
            request.transport.abort()
        if not isinstance(mode, int):
            return web.Response()
        if 200 <= mode < 300:
            self.taken.append((dict(request.headers), body))
        return web.Response(status=mode, headers=self.headers)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What it has taken."""
        return [json.loads(body) for _, body in self.taken]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.taken]

    def leave(self) -> None:
        self._leaving.set()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """One that listens on a free loopback port."""
    hook = Receiver()
    app = web.Application()
    app.router.add_post("/hook", hook.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    hook.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/hook"
    try:
        yield hook
    finally:
        hook.leave()
        await runner.cleanup()


def channel(hook: Receiver, name: str = "ops", **fields: Any) -> Channel:
    """A signed web hook that hears everything, unless ``fields`` say otherwise."""
    given = {"severity": "info", "send_s_max": 2.0, **fields}
    return Channel(name=name, kind="webhook", url=hook.url, secrets=(SECRET,), **given)


def options(*channels: Channel, **fields: Any) -> AlertOptions:
    return AlertOptions(channels=channels, **fields)


@asynccontextmanager
async def alerts(
    treasury: Treasury, wishes: AlertOptions, clock: Clock, store: AlertStore | None = None
) -> AsyncIterator[Alerts]:
    """Alerts that a test turns by hand."""
    desk = Alerts(treasury, store or SqliteAlerts(None, "default"), wishes, clock_ms=clock)
    try:
        yield desk
    finally:
        await desk.close()


async def follow(desk: Alerts) -> None:
    """Read on until there is no more."""
    while await desk.follower.turn():
        pass


async def deliver(desk: Alerts) -> None:
    """Deliver what is due in all channels now."""
    for post in desk.dispatcher.posts.values():
        while await desk.dispatcher.turn(post):
            pass


async def pump(desk: Alerts) -> None:
    await follow(desk)
    await deliver(desk)


async def do(treasury: Treasury, *commands: AnyCommand) -> list[AnyOutcome]:
    outcomes = []
    for index, command in enumerate(commands):
        key = f"{type(command).__name__} {index} {hash(msgspec.json.encode(command))}"
        outcome = await treasury.execute(Request(command=command, idempotency_key=key[:100]))
        assert not isinstance(outcome, Refused), outcome
        outcomes.append(outcome)
    return outcomes


async def views_are_current(treasury: Treasury) -> None:
    """Wait until the read models have what the journal has."""
    async with asyncio.timeout(5):
        while True:
            readiness = await treasury.readiness()
            if readiness.followers_seq >= readiness.head_seq:
                return
            await asyncio.sleep(0.02)
