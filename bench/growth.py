"""The cost of a reserve on PostgreSQL with ten million usage events in the tables, against a million.

One caller at a time, nothing else running, a few reserves on one ledger and a few on the other in turn.
"""

from __future__ import annotations

import signal
import time

import psycopg
import uvloop

from bench.databases import durable_postgres
from bench.history import History, check_rows, make_ledger
from bench.inprocess import caught_up
from bench.latency import reserve
from bench.ledgers import treasury_at
from bench.measuring import Figures, median, p99, run_as_child, say, scaled, scratch
from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.treasury.local import LocalTreasury
from tests.servers.postgres import PostgresServer

EVENTS = {"1m": 1_000_000, "10m": 10_000_000}
ROUNDS = 10
RESERVES_PER_ROUND = 1_000
IN_TURN = 20
"""Reserves on one ledger before it is the other's turn."""

LOADING = {"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "'16GB'"}
"""While the tables are filled; everything is as it is by default when the clock runs."""


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """Medians of a reserve on both, and the ratio."""
    with scratch() as folder, durable_postgres() as postgres:
        urls = {name: postgres.migrated_database() for name in EVENTS}
        _set(postgres, LOADING)
        histories: dict[str, History] = {}
        build_s: dict[str, float] = {}
        for name, events in EVENTS.items():
            started = time.perf_counter()
            histories[name] = make_ledger(urls[name], scaled(events, scale, least=10_000), folder)
            build_s[name] = time.perf_counter() - started
            say(f"growth: {histories[name].calls:,} usage events loaded in {build_s[name]:.0f} s ({_size(urls[name])})")
        _set(postgres, dict.fromkeys(LOADING))
        for name, url in urls.items():
            check_rows(url, histories[name])
        return (
            uvloop.run(_rounds(urls, histories, scaled(RESERVES_PER_ROUND, scale, least=100), rounds))
            | {f"build_s_{name}": round(seconds) for name, seconds in build_s.items()}
            | {f"size_{name}": _size(url) for name, url in urls.items()}
        )


async def _rounds(urls: dict[str, str], histories: dict[str, History], count: int, rounds: int) -> Figures:
    treasuries = {name: treasury_at(url) for name, url in urls.items()}
    taken_ms: dict[str, list[list[float]]] = {name: [] for name in urls}
    for name, treasury in treasuries.items():
        await _check_books(treasury, histories[name])
        await _reserves_ms(treasury, count)
    for number in range(rounds):
        round_ms: dict[str, list[float]] = {name: [] for name in urls}
        for turn in range(count // IN_TURN):
            # The one that goes first changes: what it leaves behind in the machine is not always the other's.
            for name in sorted(treasuries, reverse=turn % 2 == 1):
                round_ms[name] += await _reserves_ms(treasuries[name], IN_TURN)
        for name, one in round_ms.items():
            taken_ms[name].append(sorted(one))
        say(f"growth, round {number + 1}: " + ", ".join(_words(name, one[-1]) for name, one in taken_ms.items()))
        for treasury in treasuries.values():
            await caught_up(treasury)
    for treasury in treasuries.values():
        await treasury.close()
    p50_ms = {name: [one[len(one) // 2] for one in of_rounds] for name, of_rounds in taken_ms.items()}
    return {
        "reserve_growth_10m": median([big / small for big, small in zip(p50_ms["10m"], p50_ms["1m"], strict=True)]),
        **{f"reserve_p50_ms_{name}": median(values) for name, values in p50_ms.items()},
        **{f"reserve_p99_ms_{name}": median([p99(one) for one in found]) for name, found in taken_ms.items()},
        **{f"reserve_p50_ms_{name}_rounds": [round(one, 3) for one in values] for name, values in p50_ms.items()},
        **{f"events_{name}": history.calls for name, history in histories.items()},
    }


async def _reserves_ms(treasury: LocalTreasury, count: int) -> list[float]:
    return [await reserve(treasury, index) * 1e3 for index in range(count)]


def _words(name: str, taken_ms: list[float]) -> str:
    return f"{name} p50 {taken_ms[len(taken_ms) // 2]:.3f} ms, p99 {p99(taken_ms):.2f} ms"


async def _check_books(treasury: LocalTreasury, history: History) -> None:
    """The node has folded the end of the history onto views of the rest: the books are those of all calls."""
    view = await treasury.read(ReadAccount(account="global"))
    assert isinstance(view, AccountView), view
    expected = sum(history.tokens(call) for call in range(history.calls))
    balance = next(one.balance for one in view.account.budgets if one.unit == "tokens")
    assert balance is not None
    assert (balance.covered, balance.held, balance.uncovered) == (expected, 0, 0), (balance, expected)


def _set(postgres: PostgresServer, settings: dict[str, str | None]) -> None:
    """Have the server run with settings, or without them again."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = {value}" if value else f"ALTER SYSTEM RESET {name}")
    postgres.end(signal.SIGINT)
    postgres.start()


def _size(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
    assert row is not None
    return str(row[0])


if __name__ == "__main__":
    run_as_child(measure)
