"""Requests a second through the gateway, a bare proxy and hardcap: closed loop, 32 connections, rounds in turn."""

from __future__ import annotations

from bench.gateway_stand import Stand, stand
from bench.measuring import Figures, median, run_as_child, say, scratch

CONNECTIONS = 32
ROUNDS = 5
ROUND_S = 4.0
PROXIES = ("own", "aiohttp", "pyreqwest")


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """Rates and ratios, of calls that are not streamed and of streams."""
    seconds = max(0.3, ROUND_S * scale)
    with scratch() as folder, stand(folder) as found:
        for name in found.places:
            for stream in (False, True):
                found.order(name, seconds=max(0.3, seconds / 4), connections=CONNECTIONS, stream=stream)
        plain = _rounds(found, rounds, seconds, stream=False)
        streamed = _rounds(found, rounds, seconds, stream=True)
    return {
        **_ratios(plain),
        **{f"streamed_{key}": value for key, value in _ratios(streamed).items()},
        "connections": CONNECTIONS,
        "round_s": seconds,
        "rounds": plain,
        "streamed_rounds": streamed,
    }


def _rounds(found: Stand, rounds: int, seconds: float, *, stream: bool) -> dict[str, list[Figures]]:
    rounds_of: dict[str, list[Figures]] = {name: [] for name in found.places}
    for number in range(rounds):
        for name in found.places:
            result = found.order(name, seconds=seconds, connections=CONNECTIONS, stream=stream)
            rounds_of[name].append(result)
            say(
                f"gateway, {'streams' if stream else 'calls'}, round {number + 1}, {name:9}: {result['rate']:7,.0f} "
                f"requests/s, p99 {result['p99_ms']:5.1f} ms, CPU {result['cpu_us']:5.0f} µs each; load generator "
                f"{result['load_cpu_s']:.1f} of {result['seconds']:.1f} s"
            )
    return rounds_of


def _ratios(rounds_of: dict[str, list[Figures]]) -> Figures:
    """Medians; the bare proxy is the one that was fastest on the whole."""
    rates = {name: median([one["rate"] for one in found]) for name, found in rounds_of.items()}
    bare = max((name for name in PROXIES if name in rates), key=lambda name: rates[name])
    return {
        "vs_bare_proxy": _ratio(rounds_of["fiscus"], rounds_of[bare], "rate"),
        "vs_hardcap": _ratio(rounds_of["fiscus"], rounds_of["hardcap"], "rate"),
        "p99_vs_hardcap": _ratio(rounds_of["fiscus"], rounds_of["hardcap"], "p99_ms"),
        "bare_proxy": bare,
        "vs_metered_proxy": _ratio(rounds_of["fiscus"], rounds_of["metered"], "rate"),
        "metered_vs_bare_proxy": _ratio(rounds_of["metered"], rounds_of[bare], "rate"),
        "metered_vs_hardcap": _ratio(rounds_of["metered"], rounds_of["hardcap"], "rate"),
        **{
            f"{name}_{key}": median([one[key] for one in found])
            for name, found in rounds_of.items()
            for key in ("rate", "p50_ms", "p99_ms", "cpu_us", "load_cpu_s")
        },
    }


def _ratio(ones: list[Figures], others: list[Figures], key: str) -> float:
    return median([one[key] / other[key] for one, other in zip(ones, others, strict=True)])


if __name__ == "__main__":
    run_as_child(measure)
