"""Twenty minutes with a fault every ten seconds, whichever comes."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.faults.conclusion import conclude
from tests.faults.copies import is_current
from tests.faults.finding import Finding
from tests.faults.kills import kill_all
from tests.faults.load import Load, founding
from tests.faults.nodes import Node, ground
from tests.faults.outages import standstill
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.valkey import Server, running

ROUNDS = 120
QUICK = 3
EVERY_S = 10.0
SAMPLE_S = 2.0
WARM_S = 600.0
"""A soak that is shorter ends while memory still fills up: ended holds are kept until there are ten thousand."""

GROWTH_MAX = 0.10
"""How much more resident memory the lasting node may have in the last quarter than in the second."""

MIB = 1 << 20


def finding() -> Finding:
    return Finding(
        "soak",
        "Two nodes, PostgreSQL (fsync on) and Redis for 20 minutes under load, with a random fault every 10 s: kills, "
        "clean restarts and standstills of the second node, kills, restarts, standstills and cut connections of "
        "PostgreSQL, lost replies, Redis flushed, killed and paused. The first node lives through all of it.",
        "all of the above; drift 0; resident memory flat",
    )


@dataclass
class Scene:
    """What faults are done to; ``lasting`` is the node that is never ended."""

    lasting: Node
    other: Node
    postgres: PostgresServer
    database: Proxy
    replies: Proxy
    redis: Server
    pick: random.Random


def _kill_node(scene: Scene) -> None:
    scene.other.kill()
    scene.other.start()


def _restart_node(scene: Scene) -> None:
    assert scene.other.stop() == 0, scene.other.log[-1_000:]
    scene.other.start()


def _node_stands_still(scene: Scene) -> None:
    node = scene.pick.choice((scene.lasting, scene.other))
    node.pause()
    time.sleep(scene.pick.uniform(0.5, 4.0))
    node.resume()


def _kill_postgres(scene: Scene) -> None:
    kill_all(scene.postgres)
    scene.postgres.start()


def _stop_postgres(scene: Scene) -> None:
    scene.postgres.end(scene.pick.choice((signal.SIGINT, signal.SIGQUIT)))
    time.sleep(scene.pick.uniform(0.0, 3.0))
    scene.postgres.start()


def _postgres_stands_still(scene: Scene) -> None:
    standstill(scene.postgres, scene.pick.uniform(0.5, 5.0))


def _cut_connections(scene: Scene) -> None:
    for _ in range(5):
        scene.database.cut()
        time.sleep(0.2)


def _silent_database(scene: Scene) -> None:
    scene.database.lose(*scene.pick.choice((("up",), ("down",), ("up", "down"))))
    time.sleep(scene.pick.uniform(0.5, 4.0))
    scene.database.resume()


def _lose_replies(scene: Scene) -> None:
    scene.replies.lose_replies = 0.3
    time.sleep(2.0)
    scene.replies.lose_replies = 0.0


def _flush_redis(scene: Scene) -> None:
    with scene.redis.client() as client:
        client.flushall()


def _kill_redis(scene: Scene) -> None:
    scene.redis.kill()
    scene.redis.start()


def _pause_redis(scene: Scene) -> None:
    scene.redis.pause()
    time.sleep(2.0)
    scene.redis.resume()


DEEDS: tuple[Callable[[Scene], None], ...] = (
    _kill_node,
    _restart_node,
    _node_stands_still,
    _kill_postgres,
    _stop_postgres,
    _postgres_stands_still,
    _cut_connections,
    _silent_database,
    _lose_replies,
    _flush_redis,
    _kill_redis,
    _pause_redis,
)


def run(rounds: int = ROUNDS, *, every_s: float = EVERY_S, seed: int = 5, judge_memory: bool = True) -> Finding:
    """So many faults, one in each ``every_s`` seconds; every kind comes before one comes again."""
    found = finding()
    pick = random.Random(seed)
    done: Counter[str] = Counter()
    samples: list[tuple[float, int]] = []
    postgres = PostgresServer(durable=True)
    try:
        with (
            TemporaryDirectory(prefix="fiscus-redis-") as folder,
            running("valkey", Path(folder)) as redis,
            ground(founding(), postgres=postgres) as place,
            Proxy(place.database_port) as database,
        ):
            lasting = place.node(url=place.url_at(database.port), REDIS_URL=redis.url)
            other = place.node(REDIS_URL=redis.url)
            with Proxy(lasting.port) as replies:
                scene = Scene(lasting, other, postgres, database, replies, redis, pick)
                urls = [f"http://127.0.0.1:{replies.port}", other.url]
                with Load([lasting, other], "soak", urls=urls, pace_s=0.06) as load:
                    load.wait_for_answers(50)
                    began = time.monotonic()
                    deeds: list[Callable[[Scene], None]] = []
                    for number in range(rounds):
                        deeds = deeds or pick.sample(DEEDS, len(DEEDS))
                        deed = deeds.pop()
                        deed(scene)
                        done[deed.__name__.strip("_")] += 1
                        found.rounds += 1
                        while (now := time.monotonic() - began) < (number + 1) * every_s:
                            samples.append((now, lasting.resident_bytes))
                            time.sleep(min(SAMPLE_S, max(0.05, (number + 1) * every_s - now)))
                        load.wait_for_answers(1)
                    lasted = time.monotonic() - began
                    told = load.stop()
                for node in (lasting, other):
                    node.wait_until(is_current, 60)
                conclude(found, place, told)
    finally:
        postgres.stop()
    found.figures |= {
        "lasted_s": round(lasted),
        "deeds": dict(sorted(done.items())),
        "spooled": told.spooled,
        "failed_attempts": len(told.failed_s),
        "longest_silence_s": round(told.longest_silence_s(began, began + lasted), 1),
    }
    _weigh(found, samples, lasted, judge_memory)
    return found


def _weigh(found: Finding, samples: list[tuple[float, int]], lasted: float, judge_memory: bool) -> None:
    """Resident memory of the lasting node: how it grew, and by the line of least squares from the second quarter on."""
    second = [size for at, size in samples if lasted / 4 <= at < lasted / 2]
    last = [size for at, size in samples if at >= 3 * lasted / 4]
    later = [(at, size) for at, size in samples if at >= lasted / 4]
    if not second or not last:
        return
    growth = median(last) / median(second) - 1
    found.figures |= {
        "resident_mib_second_quarter": round(median(second) / MIB, 1),
        "resident_mib_last_quarter": round(median(last) / MIB, 1),
        "resident_growth": round(growth, 3),
        "resident_slope_mib_per_hour": round(slope(later) * 3_600 / MIB, 1),
    }
    found.expect(
        not judge_memory or lasted < WARM_S or growth <= GROWTH_MAX, f"resident memory grew by {100 * growth:.0f} %"
    )


def slope(points: list[tuple[float, int]]) -> float:
    """Of the line of least squares.

    >>> slope([(0, 1), (1, 3), (2, 5)])
    2.0
    """
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return over / (sum((x - mean_x) ** 2 for x, _ in points) or 1.0)


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, every_s=1.0, judge_memory=False)
