"""The command ``fiscus replay FILE``."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fiscus.cli.output import write_json
from fiscus.cli.replay.performance import Settings, TraceFile, perform
from fiscus.cli.replay.screen import Silent, console, screen, tell
from fiscus.cli.replay.service import free_port, own_service
from fiscus.contract.errors import ConfigurationInvalid

SPEED_MAX = "max"


def run_replay(
    file: Path,
    url: str | None,
    speed: str,
    agents: int,
    in_flight: int,
    seed: int,
    json_output: bool,
    limit: int | None,
    chaos: float,
    id_seed: str | None,
    api_key: str | None = None,
) -> int:
    """Replay a trace in time order through the HTTP API, then compare the books with what the calls really used.

    Args:
        file: an Azure or Claude Code trace, gzipped or not.
        url: a running service; None: one of its own, with a ledger that ends with it.
        speed: seconds of the trace per second, or ``max``.
        agents: how many agents the calls are dealt to.
        in_flight: how many calls may be under way at once.
        seed: decides who misbehaves, and which budgets are too small.
        json_output: one JSON object for each account and a last one that sums up, instead of tables.
        limit: only the first calls of the trace.
        chaos: the part of the callers that misbehaves, 0 … 1.
        id_seed: with the file, makes the ids: again with the same, nothing changes. None: new ids.
        api_key: for the service.

    Returns:
        0 if nothing was overspent and the books are exactly what the calls produced, else 1.

    Raises:
        FiscusError: the file or an option is wrong, or the service cannot be reached.
    """
    settings = Settings(
        agents=agents,
        in_flight=in_flight,
        seed=seed,
        chaos=chaos,
        speed=read_speed(speed),
        id_seed=id_seed or secrets.token_hex(4),
        own_ledger=url is None,
    )
    settings.check()
    if limit is not None and limit < 1:
        raise ConfigurationInvalid(f"--limit {limit}: at least one call is replayed")
    return asyncio.run(_replay(TraceFile(file, limit), settings, url, api_key, json_output))


def read_speed(text: str) -> float | None:
    """A speed as people write it; None for ``max``.

    Raises:
        ConfigurationInvalid: it is neither a number nor ``max``.
    """
    try:
        return None if text == SPEED_MAX else float(text)
    except ValueError as error:
        raise ConfigurationInvalid(f"--speed {text}: a speed is a number like 1 or 60, or max") from error


async def _replay(
    source: TraceFile, settings: Settings, url: str | None, api_key: str | None, json_output: bool
) -> int:
    from fiscus.client import RemoteTreasury

    output = console()
    shown = Silent() if json_output else screen(output)
    async with _service(url) as address:
        treasury = RemoteTreasury(address, api_key)
        try:
            summary, rows = await perform(treasury, source, settings, shown)
        finally:
            shown.close()
            await treasury.close()
    if json_output:
        for line in (*rows, summary):
            write_json(line)
    else:
        tell(output, summary, rows)
        output.print(f"ids from --id-seed {settings.id_seed}", markup=False)
    return 0 if summary.right else 1


@asynccontextmanager
async def _service(url: str | None) -> AsyncIterator[str]:
    if url is not None:
        yield url
    else:
        async with own_service(free_port()) as address:
            yield address
