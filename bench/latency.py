"""One caller, nothing else running: how long a durable reserve takes, against one bare commit of one such row."""

from __future__ import annotations

import time

import uvloop

from bench.inprocess import caught_up, rows_after
from bench.ledgers import agent, make_accounts, open_treasury, pair
from bench.measuring import Figures, median, p99, run_as_child, say, scaled, scratch
from fiscus.core.commands import Request
from fiscus.core.outcomes import HoldAnswer
from fiscus.stores.sqlite.journal import SqliteJournal
from fiscus.treasury.local import LocalTreasury

ROUNDS = 7
RESERVES_PER_ROUND = 3_000


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """The 99th percentiles of both, in ms, and their ratio."""
    return uvloop.run(_rounds(scaled(RESERVES_PER_ROUND, scale, least=100), rounds))


async def _rounds(count: int, rounds: int) -> Figures:
    reserve_p99s: list[float] = []
    commit_p99s: list[float] = []
    reserve_medians: list[float] = []
    commit_medians: list[float] = []
    with scratch() as folder:
        path = folder / "treasury.db"
        treasury = open_treasury(path)
        await make_accounts(treasury)
        bare = SqliteJournal(folder / "bare.db")
        bare.append(rows_after(path, 0))
        for number in range(rounds):
            before = (await treasury.readiness()).head_seq
            reserves = sorted([await reserve(treasury, index) for index in range(count)])
            await caught_up(treasury)
            rows = rows_after(path, before)
            commits: list[float] = []
            for row in rows:
                started = time.perf_counter()
                bare.append([row])
                commits.append(time.perf_counter() - started)
            reserve_p99s.append(p99(reserves) * 1e3)
            commit_p99s.append(p99(commits) * 1e3)
            reserve_medians.append(reserves[count // 2] * 1e3)
            commit_medians.append(sorted(commits)[len(commits) // 2] * 1e3)
            say(
                f"latency, round {number + 1}: p50 {reserve_medians[-1]:.3f} ms, p99 {reserve_p99s[-1]:.3f} ms; "
                f"bare commit p50 {commit_medians[-1]:.3f} ms, p99 {commit_p99s[-1]:.3f} ms"
            )
        bare.close()
        await treasury.close()
    return {
        "reserve_p99_vs_commit_p99": median(
            [one / other for one, other in zip(reserve_p99s, commit_p99s, strict=True)]
        ),
        "reserve_p99_ms": median(reserve_p99s),
        "commit_p99_ms": median(commit_p99s),
        "reserve_p50_ms": median(reserve_medians),
        "commit_p50_ms": median(commit_medians),
        "reserve_p99_ms_rounds": [round(one, 3) for one in reserve_p99s],
        "commit_p99_ms_rounds": [round(one, 3) for one in commit_p99s],
    }


async def reserve(treasury: LocalTreasury, index: int) -> float:
    """Reserve once; how long that took, in seconds."""
    request = Request(command=pair(agent(index), {})[0])
    started = time.perf_counter()
    outcome = await treasury.execute(request)
    taken = time.perf_counter() - started
    assert type(outcome) is HoldAnswer, outcome
    return taken


if __name__ == "__main__":
    run_as_child(measure)
