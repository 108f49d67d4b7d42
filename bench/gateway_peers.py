"""What the gateway is measured against: hardcap in a virtual environment of its own, pyreqwest for the bare proxy."""

from __future__ import annotations

import fcntl
import importlib.metadata
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench.gateway_wire import MODEL, SECRET
from bench.measuring import SCRATCH, environment, say
from tests.servers.valkey import running

HARDCAP, PYREQWEST = "hardcap==0.1.0", "pyreqwest==0.15.1"
SHARED = ("aiohttp", "hiredis", "prometheus-client", "redis", "uvloop")
"""hardcap runs on the versions that we run on."""

START_S_MAX = 30.0
TENANT_TOKENS = 2**50


def _pip(python: Path | str, *arguments: str) -> None:
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install"]
    subprocess.run([*pip, *arguments], check=True, stdout=sys.stderr, timeout=600)


@contextmanager
def _alone() -> Iterator[None]:
    """Nobody else installs anything meanwhile."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (SCRATCH / "peers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@_alone()
def hardcap_program() -> Path:
    """The program, installed if it is not yet."""
    folder = SCRATCH / "hardcap"
    program = folder / "bin" / "hardcap"
    installed = folder / ".installed"
    if not installed.exists():
        say(f"installing {HARDCAP} in a virtual environment of its own")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=600)
        _pip(folder / "bin" / "python", HARDCAP, *(f"{name}=={importlib.metadata.version(name)}" for name in SHARED))
        installed.touch()
    return program


@_alone()
def pyreqwest_folder() -> Path | None:
    """Where pyreqwest is, installed if it is not yet; None: there is no wheel of it for this machine."""
    folder = SCRATCH / "pyreqwest"
    installed = folder / ".installed"
    if not installed.exists():
        say(f"installing {PYREQWEST} beside the project")
        try:
            _pip(sys.executable, "--upgrade", "--only-binary", ":all:", "--target", str(folder), PYREQWEST)
        except subprocess.CalledProcessError:
            return None
        installed.touch()
    return folder


@contextmanager
def hardcap(folder: Path, upstream: str) -> Iterator[tuple[list[int], int]]:
    """hardcap with one worker on a Valkey of its own; the processes of both, and its port.

    Its settings are its defaults; one tenant has one budget of tokens, which never ends.
    """
    program = hardcap_program()
    (folder / "valkey").mkdir()
    with running("valkey", folder / "valkey") as valkey:
        assert valkey.process is not None
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = {
            "listen": {"host": "127.0.0.1", "port": port},
            "redis_url": valkey.url,
            "upstreams": {"bench": {"kind": "openai", "base_url": upstream}},
            "routes": {MODEL: {"targets": [{"upstream": "bench", "model": MODEL}]}},
            "pricing": {MODEL: {"input": 0.15, "output": 0.6}},
            "tenants": {"bench": {"api_keys": [SECRET], "budget": {"window_s": 86_400, "total": TENANT_TOKENS}}},
        }
        (folder / "hardcap.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        command = [str(program), "serve", "--config", str(folder / "hardcap.yaml")]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
            try:
                _wait_for(port)
                yield [process.pid, valkey.process.pid], port
            finally:
                process.terminate()
                process.wait(START_S_MAX)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "hardcap does not listen"
            time.sleep(0.05)
        else:
            return
