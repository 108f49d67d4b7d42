"""A million threads opened, used and closed, one after the other's place: memory must not grow with what is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psutil
import uvloop

from bench.inprocess import caught_up
from bench.ledgers import LIMIT, must, open_treasury, pair
from bench.measuring import Figures, run_as_child, say, scaled, scratch
from fiscus.core.commands import PutAccount, PutBudget, PutTemplate, Request, SetStatus, TemplateBudget
from fiscus.core.outcomes import Refused
from fiscus.treasury.local import LocalTreasury

THREADS = 1_000_000
FIRST_PART = 10
"""The first look at the memory is after one in so many threads."""

CALLERS = 64
PARENT = "project:threads"


def measure(scale: float = 1.0) -> Figures:
    """Resident memory at the end as a multiple of that after the first tenth."""
    return uvloop.run(_threads(scaled(THREADS, scale, least=FIRST_PART * CALLERS)))


async def _threads(count: int) -> Figures:
    rss_mb: list[float] = []
    started = time.perf_counter()
    with scratch() as folder:
        treasury = open_treasury(folder / "threads.db")
        await must(treasury, PutAccount(account=PARENT))
        await must(treasury, PutBudget(account=PARENT, unit="tokens", limit=LIMIT, period="month"))
        template = PutTemplate(
            pattern="thread:*",
            parent=PARENT,
            budgets=(TemplateBudget(unit="tokens", limit=100_000),),
            max_new_per_minute=count,
        )
        await must(treasury, template)
        part = count // FIRST_PART
        for number in range(FIRST_PART):
            threads = iter(range(number * part, (number + 1) * part))
            await asyncio.gather(*(_live(treasury, threads) for _ in range(CALLERS)))
            await caught_up(treasury)
            rss_mb.append(psutil.Process().memory_info().rss / 1e6)
            say(
                f"threads: {(number + 1) * part:,} opened, used and closed, {rss_mb[-1]:.0f} MB, "
                f"{(number + 1) * part / (time.perf_counter() - started):,.0f} threads/s"
            )
        seconds = time.perf_counter() - started
        await treasury.close()
    return {
        "rss_slope": round(rss_mb[-1] / rss_mb[0], 3),
        "rss_first_mb": round(rss_mb[0]),
        "rss_end_mb": round(rss_mb[-1]),
        "rss_mb_parts": [round(one) for one in rss_mb],
        "threads": count,
        "threads_per_s": round(count / seconds),
    }


async def _live(treasury: LocalTreasury, threads: Iterator[int]) -> None:
    """The lives of threads, one after the other."""
    for number in threads:
        name = f"thread:{number}"
        reserve, settle = pair(name, {"tokens": 1_000, "cost": 15_000_000})
        for command in (reserve, settle, SetStatus(account=name, status="closed")):
            outcome = await treasury.execute(Request(command=command))
            assert not isinstance(outcome, Refused), outcome


if __name__ == "__main__":
    run_as_child(measure)
