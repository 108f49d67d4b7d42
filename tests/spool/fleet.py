"""Callers of a service that remember what was acknowledged, to compare it with the journal."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import aiohttp

from tests.cli.processes import Service

CALLERS = 24


class Fleet:
    """Callers that hold, settle and report usage, and remember what was acknowledged.

    Attributes:
        held: holds that were granted.
        settled: what the books must say of a call: id → tokens.
        taken_s: how long answers took, by what was asked, while ``is_watching``.
        connections_lost: requests that got no answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.held: set[str] = set()
        self.settled: dict[str, int] = {}
        self.statuses: dict[str, dict[int, int]] = {"hold": {}, "settle": {}, "usage": {}}
        self.slowest_s: dict[str, float] = {"hold": 0.0, "settle": 0.0, "usage": 0.0}
        self.unanswered: list[str] = []
        self._is_over = False
        self._number = 0

    async def run(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """Call until ``meanwhile`` is over."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            callers = [asyncio.create_task(self._call(session)) for _ in range(CALLERS)]
            try:
                await meanwhile()
            finally:
                self._is_over = True
                await asyncio.gather(*callers)

    async def _call(self, session: aiohttp.ClientSession) -> None:
        while not self._is_over:
            self._number += 1
            number = self._number
            tokens = number % 50 + 1
            id = f"call-{number}"
            if number % 5 == 0:
                body = {"id": id, "account": "agent:x", "total": {"tokens": tokens}}
                if await self._ask(session, "usage", "/v1/usage", body) in (201, 202):
                    self.settled[id] = tokens
                continue
            body = {"id": id, "account": "agent:x", "amounts": {"tokens": 100}}
            if await self._ask(session, "hold", "/v1/holds", body) != 201:
                await asyncio.sleep(0.02)
                continue
            self.held.add(id)
            await asyncio.sleep(0.01)
            settle = {"total": {"tokens": tokens}}
            if await self._ask(session, "settle", f"/v1/holds/{id}/settle", settle) in (200, 202):
                self.settled[id] = tokens

    async def _ask(self, session: aiohttp.ClientSession, what: str, path: str, body: object) -> int:
        began = monotonic()
        try:
            async with session.post(self.url + path, json=body) as response:
                await response.read()
        except aiohttp.ClientError as error:
            self.unanswered.append(f"{what}: {error!r}")
            self._is_over = True
            return 0
        self.slowest_s[what] = max(self.slowest_s[what], monotonic() - began)
        counts = self.statuses[what]
        counts[response.status] = counts.get(response.status, 0) + 1
        return response.status

    def check(self, entries: list[dict[str, Any]]) -> dict[str, int]:
        """What the journal says against what was acknowledged: how many were lost, how many are doubled."""
        held = {entry["data"]["id"] for entry in entries if entry["kind"] == "held"}
        booked: dict[str, int] = {}
        times: dict[str, int] = {}
        for entry in entries:
            if entry["kind"] == "settled":
                id = entry["data"]["id"]
                booked[id] = entry["data"]["total"]["tokens"]
                times[id] = times.get(id, 0) + 1
        lost = [id for id in self.held if id not in held]
        lost += [id for id, tokens in self.settled.items() if booked.get(id) != tokens]
        return {
            "acknowledged": len(self.held) + len(self.settled),
            "lost": len(lost),
            "doubled": sum(times.values()) - len(times),
        }


def ask(url: str, body: object = None, method: str | None = None) -> tuple[int, Any]:
    """Status and body of one request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def ready(running: Service) -> dict[str, Any]:
    return ask(f"{running.url}/ready")[1]


def wait_until(condition: Callable[[], bool], time_s: float = 20) -> float:
    """How long it took (s)."""
    began = monotonic()
    while not condition():
        assert monotonic() - began < time_s
    return monotonic() - began
