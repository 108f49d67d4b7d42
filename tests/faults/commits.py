"""The connection is cut in the middle of a COMMIT: nobody knows the outcome, until it is looked up."""

from __future__ import annotations

import random
import time
from typing import get_args

from tests.faults.conclusion import conclude
from tests.faults.finding import Finding, times
from tests.faults.load import Load, founding
from tests.faults.nodes import ground
from tests.servers.postgres import PostgresServer, server
from tests.servers.proxy import How, Proxy

ROUNDS = 160
QUICK = 8
COMMIT = b"\0commit\0"
"""How the prepared statement of that name is asked for."""


def finding() -> Finding:
    return Finding(
        "commit",
        "The connection is cut where the COMMIT goes by, in a proxy between a node and PostgreSQL: before the server "
        "gets any of it, in the middle of the bytes, after all of them, and after its answer. A second node goes on.",
        "E11, E7: outcomes resolved wrong 0",
    )


def run(rounds: int = ROUNDS, *, seed: int = 2, postgres: PostgresServer | None = None) -> Finding:
    found = finding()
    pick = random.Random(seed)
    hows: tuple[How, ...] = get_args(How)
    resolved: list[float] = []
    with ground(founding(), postgres=postgres) as place, Proxy(place.database_port) as proxy:
        nodes = [place.node(url=place.url_at(proxy.port)), place.node()]
        with Load(nodes[:1], "cut", attempt_s_max=20) as load, Load(nodes[1:], "other", callers=4) as other:
            load.wait_for_answers(20)
            for number in range(rounds):
                time.sleep(pick.uniform(0.0, 0.05))
                cut = proxy.cut_at(COMMIT, hows[number % len(hows)])
                found.expect(cut.hit.wait(30), "no COMMIT came by")
                began = time.monotonic()
                load.wait_for_answers(1)
                resolved.append(time.monotonic() - began)
                found.rounds += 1
            tolds = load.stop(), other.stop()
        conclude(found, place, *tolds)
    found.figures["resolved_wrong"] = found.lost + found.doubled
    found.figures |= times("resolved", resolved)
    found.figures["attempts"] = tolds[0].attempts
    return found


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, postgres=server())
