"""``fiscus demo``: a service, a fleet of agents that calls it, and the books against what the calls really used."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from rich.console import Console

from fiscus.cli.output import write_json
from fiscus.cli.replay.performance import BuiltIn, Settings, Source, TraceFile, perform
from fiscus.cli.replay.screen import console, screen, tell
from fiscus.cli.replay.service import own_service

PORT = 8091
SEED = 1
CALLS = 6_000
AGENTS = 12
IN_FLIGHT = 64
CHAOS = 0.06
SPEED = 25.0
"""The built-in workload's 6,000 calls are about eight minutes of traffic: they take some twenty seconds."""

TERMINATED = 143
"""Exit code after SIGTERM, as shells have it."""


def run_demo(
    trace: Path | None, wait: bool, port: int = PORT, seed: int = SEED, calls: int = CALLS, speed: float | None = SPEED
) -> int:
    """Start a service with an embedded ledger, send it a fleet's calls over HTTP, show balances, reconcile.

    Args:
        trace: a recorded trace to replay at full speed instead of the built-in workload.
        wait: stay up until Ctrl-C, so that one can look; else the last line is one JSON object.
        port: where the service listens on 127.0.0.1.
        seed: of the built-in workload, and of who misbehaves.
        calls: how many the built-in workload has.
        speed: how many times faster than real the built-in workload runs; None: as fast as it goes.

    Returns:
        0 if nothing was overspent and the books are exactly what the calls produced, else 1; 143 after SIGTERM.

    Raises:
        ConfigurationInvalid: the port is busy. FiscusError: the trace is wrong, or the service does not start.
    """
    source: Source = TraceFile(trace) if trace is not None else BuiltIn(seed, calls)
    settings = Settings(
        agents=AGENTS,
        in_flight=IN_FLIGHT,
        seed=seed,
        chaos=CHAOS,
        speed=None if trace is not None else speed,
        id_seed="demo",
        own_ledger=True,
    )
    try:
        return asyncio.run(_demo(source, settings, port, wait))
    except asyncio.CancelledError:
        return TERMINATED


async def _demo(source: Source, settings: Settings, port: int, wait: bool) -> int:
    from fiscus.client import RemoteTreasury

    output = console()
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with own_service(port) as address:
        output.print(f"Fiscus serves {address}", markup=False)
        shown = screen(output)
        treasury = RemoteTreasury(address)
        try:
            summary, rows = await perform(treasury, source, settings, shown)
        finally:
            shown.close()
            await treasury.close()
        tell(output, summary, rows)
        if wait:
            await _stay(output, address)
    if not wait:
        write_json(summary)
    return 0 if summary.right else 1


async def _stay(output: Console, address: str) -> None:
    """Keep the service up until somebody stops the demo."""
    output.print(
        f"\nThe service stays up at {address} until Ctrl-C. Look at it with\n"
        f"  curl {address}/v1/accounts/global\n"
        f"  curl '{address}/v1/accounts?prefix=team:'\n"
        f"  curl '{address}/v1/usage?account=global&limit=3'",
        markup=False,
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
