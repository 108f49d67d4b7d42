"""A node that is cut off from the database in the kernel: one way, the other way, both, and flapping."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import psycopg

from tests.faults.conclusion import conclude
from tests.faults.finding import Finding, times
from tests.faults.load import Load, founding
from tests.faults.nodes import Ground, Node, ground
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

ROUNDS = 24
QUICK = 3
CUT_S = 4.0
BLOCKED_S_MAX = 8.0
"""How long a node that is cut off may keep the others waiting."""

HOWS = ("to the database", "from the database", "both ways", "flapping")
NOBODY = "02:00:00:00:00:01"
KEY = "a key for tests of the network"
_numbers = itertools.count(os.getpid() % 200)


def finding() -> Finding:
    return Finding(
        "network",
        "A node in a network namespace of its own is cut off from PostgreSQL in the kernel for some seconds under "
        "load: packets to the database vanish, those from it, both, and now and then (flapping). Its callers reach it "
        "all the time, and another node goes on.",
        "E2, E10: split writes 0; the other node waits for a bounded time",
    )


class Link:
    """A pair of network interfaces, one here and one in a namespace; packets vanish where they are told to."""

    def __init__(self, namespace: str, name: str, number: int, third: int) -> None:
        self._namespace = namespace
        self._here, self._there = f"{name}h", f"{name}n"
        self.here, self.there = f"198.18.{number}.{4 * third + 1}", f"198.18.{number}.{4 * third + 2}"
        _ip("link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", namespace)
        _ip("addr", "add", f"{self.here}/30", "dev", self._here)
        _ip("link", "set", self._here, "up")
        self._inside("addr", "add", f"{self.there}/30", "dev", self._there)
        self._inside("link", "set", self._there, "up")

    def _inside(self, *arguments: str) -> None:
        _ip("-n", self._namespace, *arguments)

    def lose_outgoing(self) -> None:
        """What the namespace sends goes to nobody's address."""
        self._inside("neigh", "replace", self.here, "lladdr", NOBODY, "dev", self._there, "nud", "permanent")

    def lose_incoming(self) -> None:
        """What is sent to the namespace goes to nobody's address."""
        _ip("neigh", "replace", self.there, "lladdr", NOBODY, "dev", self._here, "nud", "permanent")

    def heal(self) -> None:
        """Both ends learn each other's address again."""
        _ip("neigh", "flush", "dev", self._here, "nud", "permanent")
        self._inside("neigh", "flush", "dev", self._there, "nud", "permanent")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def namespace() -> Iterator[tuple[str, Link, Link]]:
    """A namespace with a link for callers and one to the database.

    Raises:
        PermissionError: it is not permitted here, or there is no ``ip``.
    """
    number = next(_numbers) % 250
    name = f"fiscus{os.getpid()}n{number}"
    try:
        _ip("netns", "add", name)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise PermissionError(getattr(error, "stderr", b"").decode().strip() or str(error)) from None
    try:
        try:
            _ip("-n", name, "link", "set", "lo", "up")
            links = Link(name, f"fc{number}", number, 0), Link(name, f"fd{number}", number, 1)
        except subprocess.CalledProcessError as error:
            raise PermissionError(error.stderr.decode().strip()) from None
        yield (name, *links)
    finally:
        _ip("netns", "del", name)


class Detour:
    """The same by a proxy, where the kernel may not be told."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def lose_outgoing(self) -> None:
        self._proxy.lose("up")

    def lose_incoming(self) -> None:
        self._proxy.lose("down")

    def heal(self) -> None:
        self._proxy.resume()


class Surroundings(NamedTuple):
    """A node that can be cut off, and another one."""

    place: Ground
    cut_off: Node
    other: Node
    link: Link | Detour
    means: str


@contextmanager
def in_a_namespace() -> Iterator[Surroundings]:
    """Raises ``PermissionError`` where there are none."""
    key = {"FISCUS_BOOTSTRAP_KEY": KEY, "FISCUS_KEY_PEPPER": "the same at both nodes"}
    with namespace() as (name, callers, database):
        postgres = PostgresServer(settings={"listen_addresses": f"127.0.0.1,{database.here}"})
        try:
            _trust(postgres, database.there)
            with ground(founding(), postgres=postgres) as place:
                cut_off = Node(
                    place.folder / "cut-off",
                    {"DATABASE_URL": place.url_at(postgres.port, database.here), **key},
                    host=callers.there,
                    listen="0.0.0.0",
                    prefix=["ip", "netns", "exec", name],
                    key=KEY,
                )
                place.add(cut_off)
                other = place.node(**key)
                other.key = KEY
                yield Surroundings(place, cut_off, other, database, "network namespaces and veth")
        finally:
            postgres.stop()


@contextmanager
def behind_a_proxy() -> Iterator[Surroundings]:
    """Without any rights."""
    with ground(founding()) as place, Proxy(place.database_port) as proxy:
        cut_off = place.node(url=place.url_at(proxy.port))
        yield Surroundings(place, cut_off, place.node(), Detour(proxy), "a proxy that loses bytes")


def run(rounds: int = ROUNDS, *, cut_s: float = CUT_S, seed: int = 3) -> Finding:
    """In turn in each of the ways."""
    found = finding()
    pick = random.Random(seed)
    with ExitStack() as stack:
        try:
            around = stack.enter_context(in_a_namespace())
        except PermissionError as error:
            found.figures["namespaces"] = f"not permitted: {error}"
            around = stack.enter_context(behind_a_proxy())
        _cut_many(found, around, rounds, cut_s, pick)
    return found


def _cut_many(found: Finding, around: Surroundings, rounds: int, cut_s: float, pick: random.Random) -> None:
    back: dict[str, list[float]] = defaultdict(list)
    blocked: list[float] = []
    with (
        Load([around.cut_off], "cut", callers=8, stay=True, pace_s=0.005) as far,
        Load([around.other], "near", callers=8, stay=True, pace_s=0.005) as near,
    ):
        for number in range(rounds):
            how = HOWS[number % len(HOWS)]
            far.wait_for_answers(30)
            near.wait_for_answers(30)
            began = time.monotonic()
            _cut(around.link, how, cut_s, pick)
            healed = time.monotonic()
            back[how].append(around.cut_off.wait_until_it_admits(f"{number}"))
            blocked.append(near.told.longest_silence_s(began, healed))
            found.rounds += 1
        tolds = far.stop(), near.stop()
    conclude(found, around.place, *tolds)
    for how, seconds in back.items():
        found.figures |= times(f"recovery_{how.replace(' ', '_')}", seconds)
    found.figures |= {
        "split_writes": found.lost + found.doubled + found.overspend,
        "other_node_blocked_s_max": round(max(blocked), 2),
        "spooled": tolds[0].spooled,
        "means": around.means,
    }
    found.expect(max(blocked) <= BLOCKED_S_MAX, f"the other node stood still for {max(blocked):.1f} s")


def _cut(link: Link | Detour, how: str, cut_s: float, pick: random.Random) -> None:
    ways: Sequence[str] = {"flapping": HOWS[:3]}.get(how, (how,))
    until = time.monotonic() + cut_s
    while True:
        way = pick.choice(ways)
        if way != "from the database":
            link.lose_outgoing()
        if way != "to the database":
            link.lose_incoming()
        left = until - time.monotonic()
        time.sleep(max(0.0, min(left, pick.uniform(0.05, 0.8)) if how == "flapping" else left))
        link.heal()
        if time.monotonic() >= until:
            return
        time.sleep(pick.uniform(0.02, 0.3))


def _trust(postgres: PostgresServer, address: str) -> None:
    """Let one more address in."""
    with (postgres.data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {address}/32 trust\n")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, cut_s=0.8)
