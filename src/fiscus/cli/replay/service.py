"""A service of one's own: a real ``fiscus serve`` in a process of its own, with a ledger that ends with it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from fiscus.contract.errors import ConfigurationInvalid, TreasuryError
from fiscus.settings import FIXED_NAMES, PREFIX

MODULE = "fiscus.cli"
HOST = "127.0.0.1"
START_S_MAX = 30.0
STOP_S_MAX = 15.0
POLL_S = 0.05
LOG_LINES_SHOWN = 15


def check_port(port: int) -> None:
    """Make sure that the port is free.

    Raises:
        ConfigurationInvalid: something else listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigurationInvalid(
                f"port {port} on {HOST} is busy: stop what listens there, or choose another port with"
                f" `make demo PORT={port + 1}` or `fiscus demo --port {port + 1}`"
            ) from error


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def own_service(port: int, *, gateway: str | None = None) -> AsyncIterator[str]:
    """Run a service on ``port`` over a new ledger in a temporary folder; yields its address.

    It runs in a session of its own, so that Ctrl-C in the terminal reaches us first and it ends when we say so.

    Args:
        port: on 127.0.0.1.
        gateway: what stands in the gateway's file; None: it has none.

    Raises:
        ConfigurationInvalid: the port is busy.
        TreasuryError: it does not start; says what it logged last.
    """
    check_port(port)
    with TemporaryDirectory(prefix="fiscus-") as folder:
        log = Path(folder) / "service.log"
        store = f"sqlite:///{Path(folder) / 'demo.db'}"
        environment = _environment()
        if gateway is not None:
            file = Path(folder) / "gateway.toml"
            file.write_text(gateway, encoding="utf-8")
            environment[f"{PREFIX}GATEWAY_PATH"] = str(file)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", MODULE, "serve", "--port", str(port), "--store", store),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=folder,
                env=environment,
            )
        try:
            address = f"http://{HOST}:{port}"
            await _wait_until_ready(address, process, log)
            yield address
        finally:
            await _stop(process)


async def _wait_until_ready(address: str, process: asyncio.subprocess.Process, log: Path) -> None:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + START_S_MAX
    async with aiohttp.ClientSession() as session:
        while loop.time() < give_up_s and process.returncode is None:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{address}/ready", timeout=aiohttp.ClientTimeout(total=2)) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_S)
    lines = _last_lines(log)
    why = "is not ready" if process.returncode is None else f"ended with code {process.returncode}"
    raise TreasuryError("\n".join((f"the service at {address} {why}; its log ends with:", *lines)))


def _last_lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S_MAX)
    except TimeoutError:
        process.kill()
        await process.wait()


def _environment() -> dict[str, str]:
    """Our environment without settings of Fiscus: they are meant for another service than this one."""
    ours = {*FIXED_NAMES.values()}
    return {
        name: value for name, value in os.environ.items() if name not in ours and not name.upper().startswith(PREFIX)
    }
