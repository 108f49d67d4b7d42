"""How fast Redis follows, what it costs the ledger, and how long it takes to write all of it anew.

    python -m bench.live_state [accounts]

A ledger in process (SQLite, FULL) and a Valkey from its wheel. First the same load with and without the projector, then
a rebuild with the given number of accounts (100,000), idle and under load.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import quantiles

from fiscus.app import LedgerOptions, RedisOptions, live_state, open_treasury
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.treasury.local import LocalTreasury
from tests.servers.valkey import Server, running

CALLERS = 64
AGENTS = 200
LOAD_S = 6
BATCH = 1_000


async def make(treasury: LocalTreasury, accounts: int) -> None:
    await treasury.execute(Request(command=PutAccount(account="global")))
    await treasury.execute(Request(command=PutBudget(account="global", unit="tokens", limit=2**50, budget="pool")))
    for start in range(0, accounts, BATCH):
        wishes = []
        for number in range(start, min(start + BATCH, accounts)):
            wishes.append(Request(command=PutAccount(account=f"agent:a{number}", parent="global")))
            wishes.append(
                Request(command=PutBudget(account=f"agent:a{number}", unit="tokens", limit=10**9, period="day"))
            )
        await treasury.execute_many(wishes)


async def load(treasury: LocalTreasury, agents: int, seconds: float) -> tuple[float, list[float]]:
    """Pairs of reserve and settle; returns pairs/s and the time of each pair in ms."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def call(caller: int) -> None:
        number = 0
        while (began := time.perf_counter()) < end:
            number += 1
            hold = f"{end}-{caller}-{number}"
            account = f"agent:a{(caller + number * CALLERS) % agents}"
            await treasury.execute(Request(command=Reserve(id=hold, account=account, amounts={"tokens": 100})))
            await treasury.execute(Request(command=Settle(id=hold, total={"tokens": 60})))
            times.append((time.perf_counter() - began) * 1_000)

    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))
    return len(times) / seconds, times


def shown(pairs_per_s: float, times: list[float]) -> str:
    cuts = quantiles(times, n=1000)
    return f"{pairs_per_s:8,.0f} pairs/s, p50 {cuts[499]:.1f} ms, p99 {cuts[989]:.1f} ms, max {max(times):.0f} ms"


async def watch(treasury: LocalTreasury, lags: list[tuple[int, int]]) -> None:
    while True:
        live = (await treasury.readiness()).live_state
        assert live is not None
        lags.append((live.lag_ms, live.lag_entries))
        await asyncio.sleep(0.02)


async def current(treasury: LocalTreasury, rebuilds: int = 0) -> None:
    while True:
        ready = await treasury.readiness()
        live = ready.live_state
        assert live is not None
        if live.state == "current" and live.as_of_seq == ready.head_seq and live.rebuilds >= rebuilds:
            return
        await asyncio.sleep(0.01)


async def measure(server: Server, accounts: int) -> None:
    for with_redis in (False, True, False, True):
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncExitStack() as stack:
                url = f"sqlite:///{folder}/fiscus.db"
                treasury = await stack.enter_async_context(open_treasury(LedgerOptions(store_url=url)))
                if with_redis:
                    options = RedisOptions(url=server.url)
                    await stack.enter_async_context(live_state(treasury, options, tenant="default"))
                await make(treasury, AGENTS)
                lags: list[tuple[int, int]] = []
                watching = asyncio.create_task(watch(treasury, lags)) if with_redis else None
                rate, times = await load(treasury, AGENTS, LOAD_S)
                print("with Redis   " if with_redis else "without Redis", shown(rate, times))
                if watching is not None:
                    watching.cancel()
                    milliseconds = sorted(lag for lag, _ in lags)
                    entries = sorted(count for _, count in lags)
                    began = time.perf_counter()
                    await current(treasury)
                    print(
                        f"  behind the views: p50 {milliseconds[len(lags) // 2]} ms, p99 "
                        f"{milliseconds[len(lags) * 99 // 100]} ms, max {milliseconds[-1]} ms, {entries[-1]:,} entries"
                    )
                    print(f"  all there {time.perf_counter() - began:.2f} s after the load")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/fiscus.db"
        async with open_treasury(LedgerOptions(store_url=url)) as treasury:
            await make(treasury, accounts)
            before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            began = time.perf_counter()
            async with live_state(treasury, RedisOptions(url=server.url), tenant="default"):
                await current(treasury)
                print(f"rebuild of {accounts:,} accounts, idle: {time.perf_counter() - began:.1f} s")
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
                print(f"  peak memory rose by {grown / 1024:.0f} MiB")
                rate, times = await load(treasury, AGENTS, LOAD_S)
                print("load before  ", shown(rate, times))
                await current(treasury)
                with server.client() as client:
                    client.flushall()
                rebuilds = (await treasury.readiness()).live_state.rebuilds + 1  # type: ignore[union-attr]
                began = time.perf_counter()
                loading = asyncio.create_task(load(treasury, AGENTS, 3 * LOAD_S))
                while (await treasury.readiness()).live_state.rebuilds < rebuilds:  # type: ignore[union-attr]
                    await asyncio.sleep(0.05)
                print(f"rebuild of {accounts:,} accounts, under load: {time.perf_counter() - began:.1f} s")
                rate, times = await loading
                print("load meanwhile", shown(rate, times))
                await current(treasury)
                with server.client() as client:
                    print(f"  Valkey holds {client.dbsize():,} keys, {client.info('memory')['used_memory_human']}")


def main() -> None:
    accounts = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder, running("valkey", Path(folder)) as server:
        asyncio.run(measure(server, accounts))


if __name__ == "__main__":
    main()
