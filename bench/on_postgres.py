"""Reserve and settle over HTTP: the embedded store, one node on PostgreSQL, two nodes on one PostgreSQL ledger.

Rounds are interleaved: embedded, one node, two nodes, embedded …, each with the same number of connections.
"""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import ExitStack
from typing import Any

import psutil
import psycopg
import uvloop

from bench.databases import cpu_s, durable_postgres
from bench.ledgers import make_accounts, treasury_at
from bench.measuring import Figures, median, run_as_child, say, scaled, scratch
from bench.processes import order, process, server

CONNECTIONS = 32
ROUNDS = 5
PAIRS_PER_CONNECTION = 500
CATCH_UP_S_MAX = 60.0
WAL_BYTES = "SELECT pg_current_wal_insert_lsn() - '0/0'"


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """Requests per second of the three, and the ratios between them."""
    pairs = scaled(PAIRS_PER_CONNECTION, scale, least=4)
    with scratch() as folder, durable_postgres() as postgres, ExitStack() as stack:
        alone, shared = postgres.migrated_database(), postgres.migrated_database()
        stores = {"embedded": [f"sqlite:///{folder}/service.db"], "one": [alone], "two": [shared, shared]}
        for urls in stores.values():
            uvloop.run(_prepare(urls[0]))
        load = stack.enter_context(process("load", CONNECTIONS))
        ports: dict[str, list[int]] = {}
        nodes: dict[str, list[psutil.Process]] = {}
        for name, urls in stores.items():
            started = [stack.enter_context(server("fiscus", url)) for url in urls]
            ports[name] = [port for _, port in started]
            nodes[name] = [psutil.Process(node.pid) for node, _ in started]
        database = psutil.Process(postgres.pid)
        look = stack.enter_context(psycopg.connect(postgres.url("postgres"), autocommit=True))
        for name in stores:
            order(load, ports[name], max(1, pairs // 4), seed=0)
        rounds_of: dict[str, list[Figures]] = {name: [] for name in stores}
        for number in range(rounds):
            for name in stores:
                _catch_up(ports[name])
                before, database_before, wal = cpu_s(nodes[name]), cpu_s([database]), _wal_bytes(look)
                result = order(load, ports[name], pairs, seed=number + 1)
                _catch_up(ports[name])
                done = result["requests"] / 2
                result["cpu_us"] = (cpu_s(nodes[name]) - before) / done * 1e6
                result["database_cpu_us"] = (cpu_s([database]) - database_before) / done * 1e6
                result["wal_bytes"] = (_wal_bytes(look) - wal) / done
                result["rate"] = done / result["seconds"]
                rounds_of[name].append(result)
                say(
                    f"postgres, round {number + 1}, {name:8}: {result['rate']:6,.0f} pairs/s, p99 "
                    f"{result['p99_ms']:5.1f} ms; CPU of a pair {result['cpu_us']:.0f} µs in the nodes, "
                    f"{result['database_cpu_us']:.0f} µs in PostgreSQL, {result['wal_bytes']:,.0f} bytes of WAL; load "
                    f"generator {result['load_cpu_s']:.1f} of {result['seconds']:.1f} s"
                )
    return {
        "postgres_vs_embedded": _ratio(rounds_of["one"], rounds_of["embedded"], "rate"),
        "two_nodes_vs_one": _ratio(rounds_of["two"], rounds_of["one"], "rate"),
        "two_nodes_p99_vs_one": _ratio(rounds_of["two"], rounds_of["one"], "p99_ms"),
        "connections": CONNECTIONS,
        "pairs_per_round": pairs * CONNECTIONS,
        **{
            f"{name}_{key}": median([one[key] for one in found])
            for name, found in rounds_of.items()
            for key in ("rate", "p50_ms", "p99_ms", "cpu_us", "database_cpu_us", "wal_bytes", "load_cpu_s")
        },
        **{f"{name}_rounds": [round(one["rate"]) for one in found] for name, found in rounds_of.items()},
        **{f"{name}_p99_ms_rounds": [round(one["p99_ms"], 1) for one in found] for name, found in rounds_of.items()},
    }


def _ratio(of: list[Figures], to: list[Figures], key: str) -> float:
    return median([one[key] / other[key] for one, other in zip(of, to, strict=True)])


async def _prepare(store_url: str) -> None:
    treasury = treasury_at(store_url)
    await make_accounts(treasury)
    await treasury.close()


def _catch_up(ports: list[int]) -> None:
    """Wait until each node's views are as of its head: no round pays for what the one before has left."""
    deadline = time.monotonic() + CATCH_UP_S_MAX
    while any((ready := _ready(port))["followers_seq"] < ready["head_seq"] for port in ports):
        assert time.monotonic() < deadline, "the followers do not keep up"
        time.sleep(0.05)


def _ready(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as response:
        return json.load(response)


def _wal_bytes(look: psycopg.Connection[Any]) -> int:
    row = look.execute(WAL_BYTES).fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    run_as_child(measure)
