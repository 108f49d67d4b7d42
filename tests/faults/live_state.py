"""Redis is flushed, restarted empty, restored from an old dump, paused and killed, while calls go on."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from urllib.parse import quote

import redis

from fiscus.core.decide import new_draft
from fiscus.core.fold import fold
from fiscus.core.state import Draft
from fiscus.stores import open_store
from tests.faults.books import cell_of, entries_of
from tests.faults.conclusion import conclude
from tests.faults.copies import is_current, wait_until_copied
from tests.faults.finding import Finding, times
from tests.faults.load import CALLERS, PLENTY, Load, founding
from tests.faults.nodes import Node, ground
from tests.servers.postgres import PostgresServer, server
from tests.servers.valkey import Server, running

ROUNDS = 40
QUICK = 4
PAUSE_S = 1.5
CURRENT_S_MAX = 30
FIELDS = ("limit", "covered", "held", "quarantined", "uncovered")
UNTOUCHED = (PLENTY, 0, 0, 0, 0)
WHAT = ("flushed", "restarted empty", "restored from an old dump", "paused")
ACCOUNTS = tuple(f"agent:{number}" for number in range(CALLERS))


def finding() -> Finding:
    return Finding(
        "redis",
        "Redis is flushed, restarted empty, restored from an old dump, and paused, in turn, under load. A program "
        "reads balances all the time, and each is compared with the journal folded up to the entry that it says.",
        "no decision changes, no call waits or fails; all of it is rebuilt; wrong reads 0",
    )


@dataclass(frozen=True)
class Read:
    """What a plain client has read of an account."""

    account: str
    as_of_seq: int
    seq: int | None
    figures: tuple[int, ...]


class Reader:
    """A program that reads the hash of one account after the other, with the sequence that all have reached."""

    def __init__(self, server: Server) -> None:
        self.reads: list[Read] = []
        self._server = server
        self._end = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[Read]:
        self._end.set()
        self._thread.join()
        return self.reads

    def _run(self) -> None:
        client = redis.Redis(port=self._server.port, decode_responses=True, socket_timeout=0.5)
        number = 0
        while not self._end.wait(0.01):
            number += 1
            account = ACCOUNTS[number % len(ACCOUNTS)]
            try:
                with client.pipeline(transaction=True) as both:
                    seq, found = both.get("fiscus:default:seq").hgetall(f"fiscus:default:account:{account}").execute()
            except redis.RedisError:
                continue
            if found:
                figures = tuple(int(found[f"tokens-lifetime:{field}"]) for field in FIELDS)
                self.reads.append(Read(account, int(found["as_of_seq"]), int(seq) if seq else None, figures))
        client.close()


def run(rounds: int = ROUNDS, *, postgres: PostgresServer | None = None) -> Finding:
    found = finding()
    rebuilt: dict[str, list[float]] = defaultdict(list)
    with (
        TemporaryDirectory(prefix="fiscus-redis-") as folder,
        running("valkey", Path(folder)) as server,
        ground(founding(), postgres=postgres) as place,
    ):
        nodes = [place.node(REDIS_URL=server.url, FISCUS_REDIS_TIMEOUT_MS="300") for _ in range(2)]
        reader = Reader(server)
        with Load(nodes, "redis", pace_s=0.02) as load:
            load.wait_for_answers(50)
            old = server.save()
            for number in range(rounds):
                what = WHAT[number % len(WHAT)]
                _harm(server, what, old)
                rebuilt[what.replace(" ", "_")].append(wait_until_copied(server, nodes[number % 2], CURRENT_S_MAX))
                load.wait_for_answers(20)
                found.rounds += 1
                if number % len(WHAT) == 0:
                    old = server.save()
            told = load.stop()
        for node in nodes:
            node.wait_until(is_current, CURRENT_S_MAX)
        last = _differing(nodes[0], server)
        reads = reader.stop()
        found.expect(not told.failed_s, f"{len(told.failed_s)} calls failed: {dict(told.errors)}")
        conclude(found, place, told)
        wrong = wrong_reads(place.url, reads)
    for what, seconds in rebuilt.items():
        found.figures |= times(f"current_after_{what}", seconds)
    found.figures |= {"reads": len(reads), "wrong_reads": len(wrong) + len(last)}
    found.faults += wrong[:5] + last[:5]
    return found


def _harm(server: Server, what: str, old: bytes) -> None:
    if what == "flushed":
        with server.client() as client:
            client.flushall()
    elif what == "paused":
        server.pause()
        time.sleep(PAUSE_S)
        server.resume()
    else:
        server.kill()
        server.dump.unlink(missing_ok=True)
        if what == "restored from an old dump":
            server.dump.write_bytes(old)
        server.start()


def _differing(node: Node, server: Server) -> list[str]:
    """Accounts that Redis shows otherwise than the service does, when nothing goes on."""
    wrong = []
    with server.client() as client:
        for account in ACCOUNTS:
            _, shown = node.call("GET", f"/v1/accounts/{quote(account)}")
            balance = shown["account"]["budgets"][0]["balance"]
            copied = client.hgetall(f"fiscus:default:account:{account}")
            if any(int(copied.get(f"tokens-lifetime:{field}", -1)) != balance[field] for field in FIELDS):
                wrong.append(f"{account} is {balance} and Redis has {copied}")
    return wrong


def wrong_reads(url: str, reads: list[Read]) -> list[str]:
    """Reads that are not what the journal says at the entry that they say they are as of."""
    wanted: dict[int, set[tuple[str, tuple[int, ...]]]] = defaultdict(set)
    for read in reads:
        wanted[read.as_of_seq].add((read.account, read.figures))
        if read.seq is not None and read.seq > read.as_of_seq:
            wanted[read.seq].add((read.account, read.figures))
    wrong = []
    draft: Draft = new_draft()
    store = open_store(url)
    try:
        for seq, at, event in entries_of(store, store.journal.tenants()["default"]):
            draft.now = at
            fold(draft, event, at)
            draft.alerts.clear()
            draft.commit()
            for account, figures in wanted.get(seq, ()):
                cell = cell_of(draft, account, "tokens-lifetime")
                now = tuple(getattr(cell, field) for field in FIELDS) if cell is not None else UNTOUCHED
                if now != figures:
                    wrong.append(f"{account} was read as {figures} as of {seq}, where it is {now}")
    finally:
        store.close()
    return wrong


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, postgres=server())
