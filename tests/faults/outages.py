"""PostgreSQL is stopped at once, started again, away for a minute, and hangs (SIGSTOP)."""

from __future__ import annotations

import signal
import time

import psutil

from tests.faults.conclusion import conclude
from tests.faults.finding import Finding, times
from tests.faults.load import Load, founding, metering
from tests.faults.nodes import Node, ground
from tests.servers.postgres import PostgresServer, server

ROUNDS = 6
QUICK = 2
AWAY_S = 60.0
SHORT_S = 1.0
METERS = 4
"""Callers that only say what was used: all of it is spooled while the database is away."""

BOUND_S = 6.0
"""Within how many seconds everybody has an answer while the database is away, also if it hangs."""


def finding() -> Finding:
    return Finding(
        "outage",
        "PostgreSQL is stopped without waiting for anybody (SIGQUIT) and started again; stays away for 60 s; stands "
        "still for 60 s (SIGSTOP of all its processes). 16 callers at two nodes go on asking; one node is killed while "
        "the database is away, with what it has spooled.",
        f"admissions are answered 503 within {BOUND_S:g} s; settlements are spooled and on the books afterwards; then "
        "all is as before; nothing lost",
    )


def run(rounds: int = ROUNDS, *, away_s: float = AWAY_S, postgres: PostgresServer | None = None) -> Finding:
    """Restarts, then one outage and one standstill of ``away_s`` each."""
    found = finding()
    recoveries: list[float] = []
    drained: list[float] = []
    kept = 0
    server = postgres or PostgresServer(durable=True)
    try:
        with ground(founding(), postgres=server) as place:
            nodes = [place.node() for _ in range(2)]
            with (
                Load(nodes, "away", pace_s=0.01) as load,
                Load(nodes, "meter", callers=METERS, plan=metering, pace_s=0.05) as meters,
            ):
                load.wait_for_answers(50)
                for number in range(rounds):
                    is_long = number >= rounds - 2
                    if number == rounds - 1:
                        standstill(server, away_s)
                    else:
                        kept += _stop(server, away_s if is_long else SHORT_S, nodes[1] if is_long else None)
                    began = time.monotonic()
                    for node in nodes:
                        node.wait_until_it_admits(f"{number}-{node.port}")
                    recoveries.append(time.monotonic() - began)
                    drained.append(max(node.wait_until(lambda found: found.spooled == 0) for node in nodes))
                    load.wait_for_answers(100)
                    found.rounds += 1
                told, metered = load.stop(), meters.stop()
            conclude(found, place, told, metered)
    finally:
        if postgres is None:
            server.stop()
    found.figures |= times("recovery", recoveries)
    found.figures |= times("unavailable", told.unavailable_s)
    found.figures |= {
        "spooled": told.spooled + metered.spooled,
        "spooled_at_a_node_that_was_killed": kept,
        "spool_drained_s_max": round(max(drained), 2),
        "away_s": away_s,
    }
    slowest_s = max([*told.failed_s, *metered.failed_s], default=0.0)
    found.figures["unavailable_s_max"] = round(slowest_s, 2)
    found.expect(slowest_s <= BOUND_S, f"somebody waited {slowest_s:.1f} s for a 503")
    found.expect(told.spooled > 0, "nothing was spooled")
    return found


def _stop(server: PostgresServer, away_s: float, victim: Node | None) -> int:
    """Stop it and start it later; a node that is killed meanwhile starts when it is back.

    Returns:
        How many requests waited on the disk of that node when it died.
    """
    server.end(signal.SIGQUIT)
    time.sleep(away_s / 2)
    kept = 0
    if victim is not None:
        kept = victim.readiness().spooled
        victim.kill()
    time.sleep(away_s / 2)
    server.start()
    if victim is not None:
        victim.start()
    return kept


def standstill(server: PostgresServer, away_s: float) -> None:
    """All processes of the server stand still: connections stay open and nobody answers."""
    main = psutil.Process(server.pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.suspend()
    time.sleep(away_s)
    for process in processes:
        process.resume()


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, postgres=server(), away_s=1.0)
