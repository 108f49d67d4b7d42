"""Streams of many accounts until their budgets are spent, from a process of its own.

    python -m bench.gateway_streams        one JSON order a line on stdin, one JSON result a line on stdout

Each caller asks for one stream after the other until it hears that the budget is spent; when it hears that the rest is
held by others it waits as long as it is told. Without a gateway a governor in this process decides: ``count_after``
adds up what was used and refuses once that is the budget, ``reserve_max`` holds the whole bound of each stream.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Any, Literal

import msgspec
import uvloop

from bench.gateway_load import Connection
from bench.gateway_wire import chat_body, post

ASKED_TOKENS = 1_024
BUSY_S_MAX = 1.0
COMPLETION = re.compile(rb'"completion_tokens":(\d+)')
RETRY_AFTER = re.compile(rb"\r\nretry-after: *([\d.]+)", re.IGNORECASE)
Verdict = Literal["admitted", "busy", "exceeded"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        ports: of the nodes; callers are spread over them.
        accounts: each has ``streams`` callers.
        calls_max: how many streams a caller asks for at most; 0: until the budget is spent.
        governor: who decides, if not the one who is asked; with how much of a ``budget``.
    """

    ports: list[int]
    path: str
    accounts: list[str]
    streams: int
    seconds_max: float
    calls_max: int = 0
    governor: Literal["", "count_after", "reserve_max"] = ""
    budget: int = 0


class Governor:
    """A budget in the client: exact, in one process, asked without any delay."""

    def __init__(self, kind: str, budget: int) -> None:
        self._kind = kind
        self._budget = budget
        self._used = self._held = 0

    def admit(self) -> Verdict:
        """Whether a stream may begin."""
        if self._kind == "count_after":
            return "admitted" if self._used < self._budget else "exceeded"
        if self._used + self._held + ASKED_TOKENS <= self._budget:
            self._held += ASKED_TOKENS
            return "admitted"
        return "busy" if self._held else "exceeded"

    def settle(self, tokens: int) -> None:
        """A stream has ended."""
        self._used += tokens
        self._held -= ASKED_TOKENS if self._kind == "reserve_max" else 0


class Caller:
    """One caller on one connection."""

    def __init__(self, order: Order, account: str, port: int, governor: Governor | None) -> None:
        self.ended: dict[str, int] = {"whole": 0, "busy": 0, "broken": 0}
        self._order = order
        self._port = port
        self._governor = governor
        body = chat_body(stream=True, output_tokens_max=ASKED_TOKENS, user=str(ASKED_TOKENS))
        self._request = post(port, order.path, body, account)
        self._connection: Connection | None = None
        self._answered: asyncio.Future[Connection] | None = None

    async def run(self, until_s: float) -> None:
        """Ask until the budget is spent, the time is over, or there have been enough."""
        while time.perf_counter() < until_s:
            verdict, wait_s = await self._once()
            if verdict == "exceeded":
                break
            if verdict == "busy":
                self.ended["busy"] += 1
                await asyncio.sleep(min(wait_s, BUSY_S_MAX))
            elif self.ended["whole"] == self._order.calls_max:
                break
        if self._connection is not None:
            self._connection.transport.abort()

    async def _once(self) -> tuple[Verdict, float]:
        governor = self._governor
        if governor is not None:
            verdict = governor.admit()
            if verdict != "admitted":
                return verdict, BUSY_S_MAX
        answer = await self._ask()
        if answer.status == b"200":
            self.ended["whole"] += 1
            if governor is not None:
                governor.settle(int(COMPLETION.findall(answer.kept)[-1]))
            return "admitted", 0
        if b"budget_exceeded" in answer.kept:
            return "exceeded", 0
        if b"budget_busy" in answer.kept:
            found = RETRY_AFTER.search(answer.kept)
            return "busy", float(found[1]) if found else BUSY_S_MAX
        self.ended["broken"] += 1
        return "busy", BUSY_S_MAX

    async def _ask(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._connection is None or self._connection.is_lost:
            _, self._connection = await loop.create_connection(self._make, "127.0.0.1", self._port)
        self._answered = loop.create_future()
        self._connection.ask(self._request, time.perf_counter())
        return await self._answered

    def _make(self) -> Connection:
        return Connection(self._on_answer, keeps=True)

    def _on_answer(self, connection: Connection) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(connection)


async def run(order: Order) -> dict[str, Any]:
    """Do an order."""
    callers = []
    for account in order.accounts:
        governor = Governor(order.governor, order.budget) if order.governor else None
        for number in range(order.streams):
            port = order.ports[number % len(order.ports)]
            callers.append(Caller(order, account, port, governor))
    started_cpu, started_s = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.run(started_s + order.seconds_max))
    return {
        "seconds": time.perf_counter() - started_s,
        "load_cpu_s": time.process_time() - started_cpu,
        **{what: sum(caller.ended[what] for caller in callers) for what in ("whole", "busy", "broken")},
    }


def main() -> None:
    """Take orders until stdin ends."""
    for line in sys.stdin:
        print(msgspec.json.encode(uvloop.run(run(msgspec.json.decode(line, type=Order)))).decode(), flush=True)


if __name__ == "__main__":
    main()
