"""Reserve and settle over HTTP, one worker and 32 connections, against a bare JSON echo under the same load.

Rounds are interleaved: Fiscus, echo, Fiscus, echo …; the load generator and both servers are processes of their own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import psutil
import uvloop

from bench.ledgers import make_accounts, open_treasury
from bench.measuring import ROOT, Figures, child, environment, median, run_as_child, say, scaled, scratch

CONNECTIONS = 32
ROUNDS = 5
PAIRS_PER_CONNECTION = 600
STOP_S_MAX = 30.0


def measure(scale: float = 1.0, *, rounds: int = ROUNDS) -> Figures:
    """Requests per second of both, and the ratio of them."""
    pairs = scaled(PAIRS_PER_CONNECTION, scale, least=2)
    with scratch() as folder, ExitStack() as stack:
        path = folder / "service.db"
        uvloop.run(_prepare(path))
        fiscus, fiscus_port = stack.enter_context(_server("fiscus", path))
        echo, echo_port = stack.enter_context(_server("echo"))
        load = stack.enter_context(_process("load", CONNECTIONS))
        fiscus_cpu, echo_cpu = psutil.Process(fiscus.pid), psutil.Process(echo.pid)
        for port in (fiscus_port, echo_port):
            _order(load, port, max(1, pairs // 10), seed=0)
        rounds_of: dict[str, list[Figures]] = {"fiscus": [], "echo": []}
        for number in range(rounds):
            for name, port, process in (("fiscus", fiscus_port, fiscus_cpu), ("echo", echo_port, echo_cpu)):
                before = process.cpu_times()
                result = _order(load, port, pairs, seed=number + 1)
                after = process.cpu_times()
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


async def _prepare(path: Any) -> None:
    treasury = open_treasury(path)
    await make_accounts(treasury)
    await treasury.close()


@contextmanager
def _process(module: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        child(module, *arguments),
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(STOP_S_MAX)


@contextmanager
def _server(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with _process("serving", *arguments) as process:
        yield process, int(_pipe(process.stdout).readline())


def _order(load: subprocess.Popen[str], port: int, pairs: int, seed: int) -> Figures:
    """Have a round done; every response must have had the expected status."""
    orders = _pipe(load.stdin)
    orders.write(json.dumps({"port": port, "pairs": pairs, "seed": seed}) + "\n")
    orders.flush()
    result: Figures = json.loads(_pipe(load.stdout).readline())
    assert not result["unexpected"], f"{result['unexpected']} responses were not as expected"
    return result


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


if __name__ == "__main__":
    run_as_child(measure)
