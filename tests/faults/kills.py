"""kill −9 of a node, of PostgreSQL, of Redis, at random, under load."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.faults.conclusion import conclude
from tests.faults.copies import is_current, wait_until_copied
from tests.faults.finding import Finding, times
from tests.faults.load import Load, founding
from tests.faults.nodes import Ground, Node, ground
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import Server, running

ROUNDS = 510
QUICK = 3
PER_LEDGER = 170
"""Kills of one ledger before its journal is read and a new one begins."""

WHO = ("node", "postgresql", "redis", "node", "node")


def finding() -> Finding:
    return Finding(
        "kill",
        "SIGKILL of a node, of PostgreSQL with all its processes, or of Redis, at a random moment under load; "
        "started again at once. Two nodes, PostgreSQL with fsync on.",
        "E11, E3: acknowledged lost 0, doubled 0",
    )


def run(rounds: int = ROUNDS, *, seed: int = 1) -> Finding:
    """So many kills in all."""
    found = finding()
    recoveries: dict[str, list[float]] = defaultdict(list)
    pick = random.Random(seed)
    left = rounds
    while left:
        count = min(left, PER_LEDGER)
        left -= count
        postgres = PostgresServer(durable=True)
        try:
            with (
                TemporaryDirectory(prefix="fiscus-redis-") as folder,
                running("valkey", Path(folder)) as redis,
                ground(founding(), postgres=postgres) as place,
            ):
                _kill_many(place, postgres, redis, count, pick, recoveries, found, len(recoveries))
        finally:
            postgres.stop()
    for who, seconds in sorted(recoveries.items()):
        found.figures |= times(f"recovery_{who}", seconds)
    found.figures |= times("recovery", [one for seconds in recoveries.values() for one in seconds])
    return found


def _kill_many(
    place: Ground,
    postgres: PostgresServer,
    redis: Server,
    count: int,
    pick: random.Random,
    recoveries: dict[str, list[float]],
    found: Finding,
    group: int,
) -> None:
    nodes = [place.node(REDIS_URL=redis.url) for _ in range(2)]
    with Load(nodes, "kill", pace_s=0.03) as load:
        load.wait_for_answers(20)
        for number in range(count):
            time.sleep(pick.uniform(0.0, 0.25))
            who = WHO[number % len(WHO)]
            seconds = _kill(who, postgres, nodes, redis, pick, f"{group}-{number}")
            recoveries[who].append(seconds)
            found.rounds += 1
            load.wait_for_answers(5)
        told = load.stop()
    for node in nodes:
        node.wait_until(is_current, 30)
    conclude(found, place, told)


def _kill(
    who: str, postgres: PostgresServer, nodes: list[Node], redis: Server, pick: random.Random, mark: str
) -> float:
    """Kill, start again, and wait until what was killed is of use again; returns after how many seconds."""
    began = time.monotonic()
    if who == "node":
        node = pick.choice(nodes)
        node.kill()
        node.start()
        node.wait_until_it_admits(mark)
    elif who == "postgresql":
        kill_all(postgres)
        postgres.start()
        for node in nodes:
            node.wait_until_it_admits(f"{mark}-{node.port}")
    else:
        redis.kill()
        redis.start()
        wait_until_copied(redis, nodes[0])
    return time.monotonic() - began


def kill_all(postgres: PostgresServer) -> None:
    """SIGKILL the server with all its processes: what it had not made durable is gone."""
    backends = psutil.Process(postgres.pid).children(recursive=True)
    postgres.end(signal.SIGKILL)
    for backend in backends:
        with contextlib.suppress(psutil.NoSuchProcess):
            backend.kill()
    psutil.wait_procs(backends, timeout=10)


def quick() -> Finding:
    """A short sample."""
    return run(QUICK)
