"""Somebody reads in one long transaction: PostgreSQL can tidy up nothing that it might still see."""

from __future__ import annotations

import time
from functools import partial

import psycopg

from tests.faults.conclusion import conclude
from tests.faults.finding import Finding
from tests.faults.load import CALLERS, Load, founding, spending
from tests.faults.nodes import ground
from tests.servers.postgres import PostgresServer, server

ROUNDS = 1
HELD_S = 60.0
BESIDES_S = 20.0
RATIO_MIN = 0.6


def finding() -> Finding:
    return Finding(
        "snapshot",
        "A reader holds one REPEATABLE READ snapshot open for 60 s while 32 callers reserve and settle as fast as they "
        "can.",
        f"the rate does not collapse: in the last third at least {RATIO_MIN:g} of what it was before",
    )


def run(
    rounds: int = ROUNDS,
    *,
    held_s: float = HELD_S,
    besides_s: float = BESIDES_S,
    judge_rate: bool = True,
    postgres: PostgresServer | None = None,
) -> Finding:
    found = finding()
    callers = 2 * CALLERS
    own = postgres or PostgresServer(durable=True)
    try:
        for _ in range(rounds):
            with ground(founding(callers), postgres=own) as place:
                with Load([place.node()], "snapshot", callers=callers, plan=spending) as load:
                    load.wait_for_answers(500)
                    began = time.monotonic()
                    time.sleep(besides_s)
                    with psycopg.connect(place.url) as connection:
                        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                        connection.execute("SELECT count(*) FROM fiscus.entities").fetchone()
                        opened = time.monotonic()
                        time.sleep(held_s)
                        closed = time.monotonic()
                    time.sleep(besides_s)
                    ended = time.monotonic()
                    told = load.stop()
                conclude(found, place, told)
            found.rounds += 1
            rate = partial(_rate, told)
            found.figures |= {
                "rate_before": rate(began, opened),
                "rate_during_first_third": rate(opened, opened + held_s / 3),
                "rate_during_last_third": rate(closed - held_s / 3, closed),
                "rate_after": rate(closed, ended),
            }
            ratio = found.figures["rate_during_last_third"] / found.figures["rate_before"]
            found.figures["last_third_to_before"] = round(ratio, 2)
            found.expect(not judge_rate or ratio >= RATIO_MIN, f"the rate fell to {ratio:.2f} of what it was")
    finally:
        if postgres is None:
            own.stop()
    return found


def _rate(told, since_s: float, until_s: float) -> int:
    """Operations per second."""
    return round(told.rate(since_s, until_s))


def quick() -> Finding:
    """A short sample; seconds say nothing about rates."""
    return run(held_s=2.0, besides_s=1.0, judge_rate=False, postgres=server())
