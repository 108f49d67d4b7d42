"""A ledger with a million accounts: how long a fresh process takes to start on it, and how much memory it needs.

    python -m bench.accounts [SCALE]            build, then measure in a fresh process
    python -m bench.accounts start PATH ...     what the fresh process does

The clock of the start runs from before the process exists until it has answered its first reserve.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import uvloop

from bench.ledgers import LIMIT, must, open_treasury, pair
from bench.measuring import Figures, median, run_as_child, run_child, say, scaled, scratch
from fiscus.core.commands import Compound, PutAccount, PutBudget, Request, SingleCommand
from fiscus.core.outcomes import CompoundAnswer, HoldAnswer
from fiscus.treasury.local import LocalTreasury

ACCOUNTS = 1_000_000
ACTIVE = 10_000
TEAMS = 10
USERS_PER_TEAM = 100
STARTS = 3
CALLERS = 64
COMPOUND_COMMANDS = 1_000
COMPOUNDS_IN_FLIGHT = 4


def measure(scale: float = 1.0, *, starts: int = STARTS) -> Figures:
    """Seconds of a start and MB of resident memory after the activity; medians of several starts on one ledger."""
    count = scaled(ACCOUNTS, scale, least=TEAMS * USERS_PER_TEAM + TEAMS + 101)
    active = scaled(ACTIVE, scale, least=100)
    with scratch() as folder:
        path = folder / "accounts.db"
        started = time.perf_counter()
        uvloop.run(_build(path, count))
        built_s = time.perf_counter() - started
        say(f"accounts: {count:,} built in {built_s:.0f} s ({path.stat().st_size / 1e6:,.0f} MB of journal)")
        found: list[Figures] = []
        for number in range(starts):
            found.append(run_child("accounts", "start", path, count, active, number, time.time()))
            say(
                f"accounts, start {number + 1}: {found[-1]['startup_s']:.2f} s to the first answer, "
                f"{found[-1]['rss_mb']:.0f} MB after {active:,} became active in {found[-1]['active_s']:.1f} s"
            )
    return {
        "startup_s_1m": median([one["startup_s"] for one in found]),
        "rss_mb_1m": median([one["rss_mb"] for one in found]),
        "open_s": median([one["open_s"] for one in found]),
        "rss_start_mb": median([one["rss_start_mb"] for one in found]),
        "accounts": count,
        "active": active,
        "active_s": median([one["active_s"] for one in found]),
        "build_s": round(built_s, 1),
    }


def leaf(index: int) -> str:
    """One of the accounts at the bottom."""
    return f"agent:{index}"


def leaves(count: int) -> int:
    """How many of the accounts stand at the bottom."""
    return count - 1 - TEAMS - TEAMS * USERS_PER_TEAM


def _commands(count: int) -> Iterator[SingleCommand]:
    """One global account, ten teams, a hundred users each, and agents below the users; all with a budget."""
    yield PutAccount(account="global")
    yield PutBudget(account="global", unit="tokens", limit=LIMIT, period="month")
    for team in range(TEAMS):
        yield PutAccount(account=f"team:{team}", parent="global")
        yield PutBudget(account=f"team:{team}", unit="tokens", limit=LIMIT, period="month")
    users = TEAMS * USERS_PER_TEAM
    for user in range(users):
        yield PutAccount(account=f"user:{user}", parent=f"team:{user % TEAMS}")
        yield PutBudget(account=f"user:{user}", unit="tokens", limit=LIMIT, period="month")
    for index in range(leaves(count)):
        yield PutAccount(account=leaf(index), parent=f"user:{index % users}")
        yield PutBudget(account=leaf(index), unit="tokens", limit=1_000_000_000)


async def _build(path: Path, count: int) -> None:
    """Through the engine, many commands in one."""
    treasury = open_treasury(path)
    commands = _commands(count)

    async def put() -> None:
        while chunk := [command for _, command in zip(range(COMPOUND_COMMANDS), commands, strict=False)]:
            outcome = await treasury.execute(Request(command=Compound(commands=tuple(chunk))))
            assert type(outcome) is CompoundAnswer, outcome

    await must(treasury, next(commands))
    for _ in range(2 * (1 + TEAMS + TEAMS * USERS_PER_TEAM) - 1):
        await must(treasury, next(commands))
    await asyncio.gather(*(put() for _ in range(COMPOUNDS_IN_FLIGHT)))
    await treasury.close()


async def _start(path: Path, count: int, active: int, seed: int, began: float) -> Figures:
    """Open the ledger and use some of its accounts, each once."""
    opening = time.perf_counter()
    treasury = open_treasury(path)
    chosen = random.Random(seed).sample(range(leaves(count)), active)
    await _use(treasury, chosen[0])
    startup_s, open_s = time.time() - began, time.perf_counter() - opening
    rss_start = psutil.Process().memory_info().rss
    rest = iter(chosen[1:])

    async def use() -> None:
        for index in rest:
            await _use(treasury, index)

    using = time.perf_counter()
    await asyncio.gather(*(use() for _ in range(CALLERS)))
    active_s = time.perf_counter() - using
    rss = psutil.Process().memory_info().rss
    await treasury.close()
    return {
        "startup_s": startup_s,
        "open_s": open_s,
        "rss_start_mb": rss_start / 1e6,
        "rss_mb": rss / 1e6,
        "active_s": active_s,
    }


async def _use(treasury: LocalTreasury, index: int) -> None:
    for command in pair(leaf(index), {"tokens": 1_000, "cost": 15_000_000}):
        outcome = await treasury.execute(Request(command=command))
        assert type(outcome) is HoldAnswer, outcome


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        path, *numbers, began = sys.argv[2:]
        count, active, seed = map(int, numbers)
        print(json.dumps(uvloop.run(_start(Path(path), count, active, seed, float(began)))), flush=True)
    else:
        run_as_child(measure)
