"""Reserve and settle in process, 64 callers, against a bare loop that appends the same rows to the same journal table.

Rounds are interleaved: the treasury's, then the bare one with the very rows that the treasury has written.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.ledgers import Calls, agent, check_books, in_turn, make_accounts, open_treasury, reserve_and_settle
from bench.measuring import Figures, median, run_as_child, say, scaled, scratch, stopwatch
from fiscus.core.commands import Request
from fiscus.stores.sqlite.journal import SqliteJournal
from fiscus.treasury.codec import SealedPrivate
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.store import Row

CALLERS = 64
BARE_BATCH = 64
ROUNDS = 5
PAIRS_PER_ROUND = 128_000
LAG_LOOK_S = 0.1
CATCH_UP_S_MAX = 60.0


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """Pairs per second, and how many of the bare loop's pairs of rows that is."""
    pairs = scaled(PAIRS_PER_ROUND, scale, least=CALLERS)
    figures: Figures = {"inprocess_pairs_per_round": pairs - pairs % CALLERS}
    for name, records in (("", False), ("_with_records", True)):
        for key, value in uvloop.run(_rounds(rounds, pairs // CALLERS, records=records)).items():
            figures[f"inprocess_{key}{name}"] = value
    return figures


async def _rounds(rounds: int, calls_per_caller: int, *, records: bool) -> Figures:
    pairs = CALLERS * calls_per_caller
    rates: list[float] = []
    bare_rates: list[float] = []
    cpu_us: list[float] = []
    bare_cpu_us: list[float] = []
    lags_ms: list[int] = []
    catch_up_s: list[float] = []
    with scratch() as folder:
        path = folder / "treasury.db"
        treasury = open_treasury(path)
        await make_accounts(treasury)
        bare = SqliteJournal(folder / "bare.db")
        copied = _append(bare, rows_after(path, 0))
        callers = [Calls(agent(index), index, records=records) for index in range(CALLERS)]
        for number in range(rounds):
            requests = [
                [Request(command=command) for call in calls for command in call]
                for calls in in_turn(callers, calls_per_caller)
            ]
            gc.freeze()  # what stands ready is not looked through again and again while the clock runs
            watch = asyncio.create_task(_watch_followers(treasury, lags_ms))
            with stopwatch() as taken:
                await asyncio.gather(*(reserve_and_settle(treasury, one) for one in requests))
            watch.cancel()
            gc.unfreeze()
            del requests
            catch_up_s.append(await caught_up(treasury))
            rows = rows_after(path, copied)
            with stopwatch() as bare_taken:
                copied = _append(bare, rows)
            rates.append(pairs / taken["seconds"])
            bare_rates.append(len(rows) / 2 / bare_taken["seconds"])
            cpu_us.append(taken["cpu_s"] / pairs * 1e6)
            bare_cpu_us.append(bare_taken["cpu_s"] / (len(rows) / 2) * 1e6)
            say(
                f"inprocess{' with records' if records else ''}, round {number + 1}: {rates[-1]:,.0f} pairs/s "
                f"({cpu_us[-1]:.0f} µs CPU each), bare {bare_rates[-1]:,.0f} pairs/s ({bare_cpu_us[-1]:.1f} µs)"
            )
        await check_books(treasury, callers)
        statistics = treasury.engine.statistics
        assert not statistics.commit_errors, statistics
        assert not statistics.defects, statistics
        bare.close()
        await treasury.close()
    return {
        "pairs_per_s": median(rates),
        "vs_bare": median([rate / bare_rate for rate, bare_rate in zip(rates, bare_rates, strict=True)]),
        "bare_pairs_per_s": median(bare_rates),
        "cpu_us_per_pair": median(cpu_us),
        "bare_cpu_us_per_pair": median(bare_cpu_us),
        "followers_lag_ms_max": max(lags_ms, default=0),
        "followers_catch_up_s_max": round(max(catch_up_s), 3),
        "batch_size_mean": round(statistics.submissions / max(1, statistics.batches), 1),
        "pairs_per_s_rounds": [round(rate) for rate in rates],
        "bare_pairs_per_s_rounds": [round(rate) for rate in bare_rates],
    }


async def _watch_followers(treasury: LocalTreasury, lags_ms: list[int]) -> None:
    while True:
        lags_ms.append((await treasury.readiness()).followers_lag_ms)
        await asyncio.sleep(LAG_LOOK_S)


async def caught_up(treasury: LocalTreasury) -> float:
    """Wait until the views are as of the head; how long that took, in seconds."""
    started = time.perf_counter()
    while (ready := await treasury.readiness()).followers_seq < ready.head_seq:
        assert time.perf_counter() - started < CATCH_UP_S_MAX, "the followers do not keep up"
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


def rows_after(path: Path, after: int) -> list[Row]:
    """What the treasury has appended after an entry, as the rows that it appended."""
    journal = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = journal.execute(
            "SELECT tenant, journal.seq, at, key, journal.body, hash, account, salt, private.body "
            "FROM journal LEFT JOIN private USING (tenant, seq) WHERE journal.seq > ? ORDER BY tenant, journal.seq",
            (after,),
        ).fetchall()
    finally:
        journal.close()
    return [
        Row(tenant, seq, at, key, body, hash, SealedPrivate(account, salt, private) if account is not None else None)
        for tenant, seq, at, key, body, hash, account, salt, private in found
    ]


def _append(bare: SqliteJournal, rows: Sequence[Row]) -> int:
    """The bare loop: the rows in batches, each a durable commit. Returns the last sequence number."""
    for start in range(0, len(rows), BARE_BATCH):
        bare.append(rows[start : start + BARE_BATCH])
    return rows[-1].seq


if __name__ == "__main__":
    run_as_child(measure)
