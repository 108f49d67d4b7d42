"""Durable pairs in process against the obvious alternative: counters in Redis, a Lua call per reserve and per settle.

Same levels, units, amounts, ids and callers; rounds are interleaved. The alternative keeps no journal, nothing on disk,
no windows and no answers, and its callers wait for each reply as callers do: nothing is pipelined.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path

import psutil
import redis.asyncio
import uvloop
from redis.commands.core import AsyncScript

from bench.databases import cpu_s
from bench.inprocess import caught_up
from bench.ledgers import (
    LIMIT,
    RESERVED,
    Calls,
    accounts,
    agent,
    check_books,
    in_turn,
    make_accounts,
    open_treasury,
    reserve_and_settle,
)
from bench.measuring import Figures, median, run_as_child, say, scaled, scratch, stopwatch
from fiscus.core.commands import Request, Reserve, Settle
from fiscus.treasury.local import LocalTreasury
from tests.servers.valkey import running

CALLERS = 32
ROUNDS = 5
PAIRS_PER_ROUND = 64_000
HOLD_MS = 600_000
SCRIPTS = Path(__file__).parent

Call = tuple[list[str], list[int]]
"""Keys and arguments of a script."""


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """Pairs per second of both, and the ratio."""
    return uvloop.run(_rounds(rounds, scaled(PAIRS_PER_ROUND, scale, least=CALLERS) // CALLERS))


async def _rounds(rounds: int, calls_per_caller: int) -> Figures:
    pairs = CALLERS * calls_per_caller
    found: dict[str, list[float]] = {"fiscus": [], "redis": []}
    cpu_us: dict[str, list[float]] = {"fiscus": [], "redis": [], "redis_server": []}
    with scratch() as folder, running("valkey", folder) as server:
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        treasury = open_treasury(folder / "treasury.db")
        await make_accounts(treasury)
        callers = [Calls(agent(index), index, records=False) for index in range(CALLERS)]
        async with Counter(server.port) as counter:
            await counter.make_accounts()
            for number in range(rounds):
                calls = in_turn(callers, calls_per_caller)
                with stopwatch() as taken:
                    await _through_fiscus(treasury, calls)
                await caught_up(treasury)
                before = cpu_s([process])
                with stopwatch() as redis_taken:
                    await counter.reserve_and_settle(calls)
                cpu_us["redis_server"].append((cpu_s([process]) - before) / pairs * 1e6)
                for name, one in (("fiscus", taken), ("redis", redis_taken)):
                    found[name].append(pairs / one["seconds"])
                    cpu_us[name].append(one["cpu_s"] / pairs * 1e6)
                say(
                    f"against redis, round {number + 1}: {found['fiscus'][-1]:,.0f} durable pairs/s "
                    f"({cpu_us['fiscus'][-1]:.0f} µs CPU each), Redis {found['redis'][-1]:,.0f} pairs/s "
                    f"({cpu_us['redis'][-1]:.0f} µs, and {cpu_us['redis_server'][-1]:.0f} µs in the server)"
                )
            await check_books(treasury, callers)
            await counter.check_books(callers)
        await treasury.close()
    return {
        "pairs_vs_redis_lua": median([one / other for one, other in zip(found["fiscus"], found["redis"], strict=True)]),
        "durable_pairs_per_s": median(found["fiscus"]),
        "redis_lua_pairs_per_s": median(found["redis"]),
        "callers": CALLERS,
        "pairs_per_round": pairs,
        **{f"{name}_cpu_us_per_pair": median(values) for name, values in cpu_us.items()},
        **{f"{name}_rounds": [round(rate) for rate in rates] for name, rates in found.items()},
    }


async def _through_fiscus(treasury: LocalTreasury, calls: Sequence[Sequence[tuple[Reserve, Settle]]]) -> None:
    requests = [[Request(command=command) for call in own for command in call] for own in calls]
    gc.freeze()  # what stands ready is not looked through again and again while the clock runs
    await asyncio.gather(*(reserve_and_settle(treasury, one) for one in requests))
    gc.unfreeze()


class Counter:
    """The alternative: balances in hashes, two scripts, a connection for each caller."""

    def __init__(self, port: int) -> None:
        self._client = redis.asyncio.Redis(port=port, max_connections=CALLERS)
        self._parents = dict(accounts())
        self._reserve = self._script("reserve.lua")
        self._settle = self._script("settle.lua")

    async def __aenter__(self) -> Counter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def _script(self, name: str) -> AsyncScript:
        return self._client.register_script((SCRIPTS / name).read_text(encoding="utf-8"))

    async def make_accounts(self) -> None:
        """The same accounts with the same limits."""
        empty = {f"{unit}_{what}": 0 for unit in ("tokens", "cost") for what in ("held", "spent")}
        for account in self._parents:
            await self._client.hset(account, mapping={"tokens_limit": LIMIT, "cost_limit": LIMIT, **empty})

    async def reserve_and_settle(self, calls: Sequence[Sequence[tuple[Reserve, Settle]]]) -> None:
        """All callers at once; each waits for every reply."""
        ready = [[(self._reserve_call(one), self._settle_call(one, other)) for one, other in own] for own in calls]
        gc.freeze()
        await asyncio.gather(*(self._caller(own) for own in ready))
        gc.unfreeze()

    async def _caller(self, calls: Sequence[tuple[Call, Call]]) -> None:
        reserve, settle = self._reserve, self._settle
        for one, other in calls:
            assert await reserve(*one) == b"held"
            assert await settle(*other) == b"settled"

    def _reserve_call(self, reserve: Reserve) -> Call:
        return self._keys(reserve), [RESERVED["tokens"], RESERVED["cost"], HOLD_MS]

    def _settle_call(self, reserve: Reserve, settle: Settle) -> Call:
        return self._keys(reserve), [settle.total["tokens"], settle.total["cost"]]

    def _keys(self, reserve: Reserve) -> list[str]:
        keys = [reserve.id]
        account: str | None = reserve.account
        while account is not None:
            keys.append(account)
            account = self._parents[account]
        return keys

    async def check_books(self, callers: Sequence[Calls]) -> None:
        """What was spent equals the calls: the alternative did the same work."""
        for unit in ("tokens", "cost"):
            spent = await self._client.hget("global", f"{unit}_spent")
            assert spent is not None
            assert int(spent) == sum(caller.sum[unit] for caller in callers)


if __name__ == "__main__":
    run_as_child(measure)
