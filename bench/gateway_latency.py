"""What the gateway adds to a call that is made when it is due: 500 requests a second, open loop, rounds in turn."""

from __future__ import annotations

import subprocess

from bench.gateway_stand import Stand, begin, finish, stand
from bench.measuring import Figures, median, run_as_child, say, scratch
from bench.processes import process

RATE, STREAM_RATE = 500, 100
CONNECTIONS = 64
ROUNDS = 5
ROUND_S = 6.0
BIG_BODY_BYTES = 20_000_000
FLOORS = ("own", "metered")
"""A bare proxy, and one with a hold and a settlement and nothing else: no gateway on this ledger can add less."""

NAMES = ("direct", *FLOORS, "fiscus", "hardcap")


def measure(scale: float = 1.0, *, rounds: int = ROUNDS, big_body_bytes: int = BIG_BODY_BYTES) -> Figures:
    """Added milliseconds of whole calls and of first tokens, and what a large body does to others."""
    seconds = max(0.5, ROUND_S * scale)
    with scratch() as folder, stand(folder, proxies=FLOORS) as found, process("gateway_load") as beside:
        for name in NAMES:
            for stream in (False, True):
                found.order(name, seconds=seconds / 4, connections=CONNECTIONS, rate=STREAM_RATE, stream=stream)
        plain = _rounds(found, rounds, seconds, stream=False)
        streamed = _rounds(found, rounds, seconds, stream=True)
        moves = {
            name: _big_bodies(found, beside, name, rounds, seconds, big_body_bytes)
            for name in ("direct", "own", "fiscus")
        }
    added = {name: _added(plain, name, "p50_ms") for name in NAMES}
    return {
        "added_ms_p50": added["fiscus"],
        "added_ms_p99": _added(plain, "fiscus", "p99_ms"),
        "added_vs_hardcap": added["fiscus"] / added["hardcap"],
        "first_token_added_ms_p50": _added(streamed, "fiscus", "first_p50_ms"),
        "big_body_moves_p99_ms": moves["fiscus"]["moves_p99_ms"],
        **{
            f"{name}_{key}": value
            for name in (*FLOORS, "hardcap")
            for key, value in {
                "added_ms_p50": added[name],
                "added_ms_p99": _added(plain, name, "p99_ms"),
                "first_token_added_ms_p50": _added(streamed, name, "first_p50_ms"),
            }.items()
        },
        "metered_added_vs_hardcap": added["metered"] / added["hardcap"],
        "rate": RATE,
        "stream_rate": STREAM_RATE,
        "round_s": seconds,
        "big_bodies": moves,
        "rounds": plain,
        "streamed_rounds": streamed,
    }


def _rounds(found: Stand, rounds: int, seconds: float, *, stream: bool) -> dict[str, list[Figures]]:
    rounds_of: dict[str, list[Figures]] = {name: [] for name in NAMES}
    for number in range(rounds):
        for name in NAMES:
            rate = STREAM_RATE if stream else RATE
            result = found.order(name, seconds=seconds, connections=CONNECTIONS, rate=rate, stream=stream)
            rounds_of[name].append(result)
            say(
                f"gateway, {'first token' if stream else 'latency'}, round {number + 1}, {name:7}: "
                f"p50 {result['first_p50_ms' if stream else 'p50_ms']:5.2f} ms, "
                f"p99 {result['first_p99_ms' if stream else 'p99_ms']:6.2f} ms; CPU {result['cpu_us']:5.0f} µs each, "
                f"load generator {result['load_cpu_s']:.1f} of {result['seconds']:.1f} s"
            )
    return rounds_of


def _added(rounds_of: dict[str, list[Figures]], name: str, key: str) -> float:
    """Milliseconds over the direct call, median of the rounds."""
    return median([one[key] - direct[key] for one, direct in zip(rounds_of[name], rounds_of["direct"], strict=True)])


def _big_bodies(
    found: Stand, beside: subprocess.Popen[str], name: str, rounds: int, seconds: float, body_bytes: int
) -> Figures:
    """The p99 of others, alone and with one large body after the other in flight there; how many were answered."""
    alone: list[float] = []
    moved: list[float] = []
    answered = 0
    load = {"seconds": seconds, "connections": CONNECTIONS, "rate": RATE}
    finish(begin(beside, found.made(name, seconds=0.1, connections=1, body_bytes=body_bytes)))
    for number in range(rounds):
        alone.append(found.order(name, **load)["p99_ms"])
        begin(beside, found.made(name, seconds=seconds, connections=1, body_bytes=body_bytes))
        moved.append(found.order(name, **load)["p99_ms"])
        answered += finish(beside)["requests"]
        say(
            f"gateway, large bodies, round {number + 1}, {name:7}: p99 of others {alone[-1]:.2f} ms alone, "
            f"{moved[-1]:.2f} ms beside them"
        )
    return {
        "moves_p99_ms": median([two - one for one, two in zip(alone, moved, strict=True)]),
        "alone_p99_ms": median(alone),
        "beside_p99_ms": median(moved),
        "answered": answered,
    }


if __name__ == "__main__":
    run_as_child(measure)
