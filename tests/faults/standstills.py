"""A node stands still (SIGSTOP), at any moment, for a moment or for a minute; then it goes on where it was."""

from __future__ import annotations

import random
import time

from tests.faults.conclusion import conclude
from tests.faults.finding import Finding, times
from tests.faults.load import Load, founding
from tests.faults.nodes import ground
from tests.servers.postgres import PostgresServer, server

ROUNDS = 25
QUICK = 2
LONG_S = 60.0
SHORT_S = (0.3, 4.0)
BLOCKED_S_MAX = 8.0
"""How long a node that stands still may keep the others waiting."""


def finding() -> Finding:
    return Finding(
        "standstill",
        "SIGSTOP of one of two nodes at random moments under load, mostly for 0.3 to 4 s, at last for 60 s; SIGCONT.",
        "E10: nothing is written from a stale view; the others wait for a bounded time",
    )


def run(
    rounds: int = ROUNDS, *, long_s: float = LONG_S, seed: int = 4, postgres: PostgresServer | None = None
) -> Finding:
    """Short ones, and a long one as the last."""
    found = finding()
    pick = random.Random(seed)
    blocked: list[float] = []
    back: list[float] = []
    with ground(founding(), postgres=postgres) as place:
        still, other = place.node(), place.node()
        with (
            Load([still], "still", callers=8, stay=True, pace_s=0.01) as far,
            Load([other], "near", callers=8, stay=True, pace_s=0.01) as near,
        ):
            for number in range(rounds):
                far.wait_for_answers(20)
                near.wait_for_answers(20)
                time.sleep(pick.uniform(0.0, 0.05))
                began = time.monotonic()
                still.pause()
                time.sleep(long_s if number == rounds - 1 else pick.uniform(*SHORT_S))
                until = time.monotonic()
                still.resume()
                back.append(still.wait_until_it_admits(f"{number}"))
                blocked.append(near.told.longest_silence_s(began, until))
                found.rounds += 1
            tolds = far.stop(), near.stop()
        conclude(found, place, *tolds)
    found.figures |= times("recovery", back)
    found.figures |= {"other_node_blocked_s_max": round(max(blocked), 2), "longest_s": long_s}
    found.expect(max(blocked) <= BLOCKED_S_MAX, f"the other node stood still for {max(blocked):.1f} s")
    return found


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, long_s=1.5, postgres=server())
