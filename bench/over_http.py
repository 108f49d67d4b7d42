"""Reserve and settle over HTTP, one worker and 32 connections, against a bare JSON echo under the same load.

Rounds are interleaved: Fiscus, echo, Fiscus, echo …; the load generator and both servers are processes of their own.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import psutil
import uvloop

from bench.ledgers import make_accounts, open_treasury
from bench.measuring import Figures, median, run_as_child, say, scaled, scratch
from bench.processes import order, process, server

CONNECTIONS = 32
ROUNDS = 5
PAIRS_PER_CONNECTION = 600


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """Requests per second of both, and the ratio of them."""
    pairs = scaled(PAIRS_PER_CONNECTION, scale, least=2)
    with scratch() as folder, ExitStack() as stack:
        path = folder / "service.db"
        uvloop.run(_prepare(path))
        fiscus, fiscus_port = stack.enter_context(server("fiscus", f"sqlite:///{path}"))
        echo, echo_port = stack.enter_context(server("echo"))
        load = stack.enter_context(process("load", CONNECTIONS))
        fiscus_cpu, echo_cpu = psutil.Process(fiscus.pid), psutil.Process(echo.pid)
        for port in (fiscus_port, echo_port):
            order(load, [port], max(1, pairs // 10), seed=0)
        rounds_of: dict[str, list[Figures]] = {"fiscus": [], "echo": []}
        for number in range(rounds):
            for name, port, cpu in (("fiscus", fiscus_port, fiscus_cpu), ("echo", echo_port, echo_cpu)):
                before = cpu.cpu_times()
                result = order(load, [port], pairs, seed=number + 1)
                after = cpu.cpu_times()
                result["cpu_us"] = (after.user + after.system - before.user - before.system) / result["requests"] * 1e6
                result["rate"] = result["requests"] / result["seconds"]
                rounds_of[name].append(result)
                say(
                    f"http, round {number + 1}, {name}: {result['rate']:,.0f} requests/s "
                    f"({result['cpu_us']:.0f} µs CPU each; load generator {result['load_cpu_s']:.1f} of "
                    f"{result['seconds']:.1f} s)"
                )
    rates = [one["rate"] for one in rounds_of["fiscus"]]
    echo_rates = [one["rate"] for one in rounds_of["echo"]]
    return {
        "http_requests_per_s": median(rates),
        "http_pairs_per_s": median(rates) / 2,
        "http_vs_echo": median([rate / echo_rate for rate, echo_rate in zip(rates, echo_rates, strict=True)]),
        "echo_requests_per_s": median(echo_rates),
        "http_cpu_us_per_request": median([one["cpu_us"] for one in rounds_of["fiscus"]]),
        "echo_cpu_us_per_request": median([one["cpu_us"] for one in rounds_of["echo"]]),
        "http_requests_per_round": rounds_of["fiscus"][0]["requests"],
        "http_requests_per_s_rounds": [round(rate) for rate in rates],
        "echo_requests_per_s_rounds": [round(rate) for rate in echo_rates],
    }


async def _prepare(path: Path) -> None:
    treasury = open_treasury(path)
    await make_accounts(treasury)
    await treasury.close()


if __name__ == "__main__":
    run_as_child(measure)
