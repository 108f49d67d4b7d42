"""Everybody who is compared, before the same upstream: each a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop

from bench.databases import cpu_s
from bench.gateway_load import Order
from bench.gateway_peers import hardcap, pyreqwest_folder
from bench.ledgers import make_accounts, treasury_at
from bench.measuring import Figures
from bench.processes import pipe, process

GATEWAY_PATH = "/openai/v1/chat/completions"
PATH = "/v1/chat/completions"


class Stand:
    """Who is there, and the load.

    Attributes:
        places: name → port and path.
        upstream: port of the upstream.
    """

    def __init__(self, load: subprocess.Popen[str], upstream: int) -> None:
        self.places: dict[str, tuple[int, str]] = {}
        self.upstream = upstream
        self.processes: dict[str, list[psutil.Process]] = {}
        self._load = load

    def add(self, name: str, port: int, path: str, pids: list[int]) -> None:
        """Somebody is there."""
        self.places[name] = (port, path)
        self.processes[name] = [psutil.Process(pid) for pid in pids]

    def order(self, name: str, **what: Any) -> Figures:
        """Have a round of load done, and measure the CPU time of a request; each answer must be a success."""
        before = cpu_s(self.processes[name])
        result = finish(begin(self._load, self.made(name, **what)))
        result["cpu_us"] = (cpu_s(self.processes[name]) - before) / max(1, result["requests"]) * 1e6
        return result

    def made(self, name: str, **what: Any) -> Order:
        """An order for somebody."""
        port, path = self.places[name]
        return Order(port=port, path=path, **what)


def begin(load: subprocess.Popen[str], order: Order) -> subprocess.Popen[str]:
    """Give an order."""
    orders = pipe(load.stdin)
    orders.write(msgspec.json.encode(order).decode() + "\n")
    orders.flush()
    return load


def finish(load: subprocess.Popen[str]) -> Figures:
    """What became of it."""
    result: Figures = json.loads(pipe(load.stdout).readline())
    assert not result["unexpected"], f"responses were not as expected: {result['unexpected']}"
    assert not result["unanswered"], f"{result['unanswered']} requests were not answered"
    return result


@contextmanager
def started(module: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of this folder, and the port that it prints."""
    with process(module, *arguments) as one:
        yield one, int(pipe(one.stdout).readline())


async def prepare(store_url: str) -> None:
    """Five levels of accounts, with budgets of tokens and of cost on each."""
    treasury = treasury_at(store_url)
    await make_accounts(treasury)
    await treasury.close()


PROXIES = ("metered", "own", "aiohttp", "pyreqwest")
"""Proxies that do less; see ``bench.gateway_proxy``."""


@contextmanager
def stand(folder: Path, *, proxies: Sequence[str] = PROXIES) -> Iterator[Stand]:
    """The upstream, the gateway on the embedded ledger, hardcap, and the proxies that are wanted and can be had."""
    store_url = f"sqlite:///{folder}/service.db"
    uvloop.run(prepare(store_url))
    with ExitStack() as stack:
        upstream, port = stack.enter_context(started("gateway_upstream"))
        address = f"http://127.0.0.1:{port}"
        found = Stand(stack.enter_context(process("gateway_load")), port)
        found.add("direct", port, PATH, [upstream.pid])
        service, at = stack.enter_context(started("gateway_serving", store_url, f"{address}/v1"))
        found.add("fiscus", at, GATEWAY_PATH, [service.pid])
        pids, at = stack.enter_context(hardcap(folder, address))
        found.add("hardcap", at, PATH, pids)
        for name in proxies:
            what: list[object] = []
            if name == "metered":
                what = [f"sqlite:///{folder}/metered.db"]
                uvloop.run(prepare(str(what[0])))
            elif name == "pyreqwest":
                there = pyreqwest_folder()
                if there is None:
                    continue
                what = [there]
            proxy, at = stack.enter_context(started("gateway_proxy", name, address, *what))
            found.add(name, at, PATH, [proxy.pid])
        yield found
