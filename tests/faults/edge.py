"""Two and four nodes, 64 callers at each, budgets at the edge: what they saw is one history."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from fiscus.core.outcomes import Refused
from fiscus.stores import open_store
from fiscus.treasury.verify import verify
from tests.cli.processes import environment
from tests.faults.finding import Finding
from tests.faults.nodes import Ground, ground
from tests.history import calls as written_calls
from tests.history.calls import Call
from tests.history.clients import HARD_LIMIT, founding
from tests.history.replay import broken_order, gather, most_in_use, replay
from tests.servers.postgres import PostgresServer, server

ROUNDS = 2
QUICK = 1
NODES = (2, 4)
SECONDS = 60.0
CALLERS = 64
WAIT_S = 120
ROOT = Path(__file__).parents[2]


def finding() -> Finding:
    return Finding(
        "edge",
        "Two, then four nodes on one budget tree, 64 callers at each, for 60 s: limits that are reached exactly, "
        "windows of one and two seconds, transfers, suspensions, the same id at all nodes at once. Each caller notes "
        "every call and answer; the journal is folded, and at each entry the pure core is asked again.",
        "E2, E13: overspend 0; each answer is what the journal says at its place, in an order that real time allows, "
        "and each refusal had its reason",
    )


def run(
    rounds: int = ROUNDS, *, seconds: float = SECONDS, callers: int = CALLERS, postgres: PostgresServer | None = None
) -> Finding:
    """The first so many of ``NODES``."""
    found = finding()
    found.figures |= {"operations": 0, "entries": 0}
    for count in NODES[:rounds]:
        with ground(founding(), postgres=postgres) as place:
            for _ in range(count):
                place.node()
            calls = _work(place, seconds, callers)
            found.faults += place.stop()
            _examine(found, place.url, calls)
        found.rounds += 1
        found.figures[f"operations_{count}_nodes"] = len(calls)
        codes = Counter(call.outcome.code if isinstance(call.outcome, Refused) else "granted" for call in calls)
        found.figures[f"answers_{count}_nodes"] = dict(codes)
    found.figures["history_clean"] = found.holds
    return found


def _work(place: Ground, seconds: float, callers: int) -> list[Call]:
    """One process of callers at each node."""
    paths = [place.folder / f"calls-{number}" for number in range(len(place.nodes))]
    clients = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.history.clients",
                node.url,
                str(number),
                "0",
                path,
                str(callers),
                str(seconds),
            ],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
        )
        for number, (node, path) in enumerate(zip(place.nodes, paths, strict=True))
    ]
    try:
        for client in clients:
            assert client.stdin is not None
            client.stdin.write(b"go\n")
            client.stdin.close()
        assert [client.wait(seconds + WAIT_S) for client in clients] == [0] * len(clients)
    finally:
        for client in clients:
            client.kill()
            client.wait()
    return [call for path in paths for call in written_calls.read(path.read_bytes())]


def _examine(found: Finding, url: str, calls: list[Call]) -> None:
    store = open_store(url)
    try:
        try:
            history = gather(store, calls)
        except AssertionError as error:
            found.lost += 1
            found.faults.append(str(error)[:500])
            return
        found.figures["operations"] += len(calls)
        found.figures["entries"] += len(history.entries)
        findings = replay(history)
        found.overspend += len(findings.limits)
        found.doubled += len(findings.answers)
        found.faults += [*findings.limits[:5], *findings.answers[:5], *findings.refusals[:5]]
        found.faults += broken_order(history)[:5]
        most = most_in_use(calls, "agent:hard")
        found.overspend += most > HARD_LIMIT
        for fault in verify(store, from_start=True).faults:
            found.drift += fault.invariant in ("E3", "E12")
            found.faults.append(f"{fault.invariant} at {fault.seq}: {fault.detail}")
    finally:
        store.close()


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, postgres=server(), seconds=3.0, callers=16)
