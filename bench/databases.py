"""PostgreSQL 18 from the wheel, set as it is in production: durable, on the disk that the project stands on."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.measuring import SCRATCH
from tests.servers.postgres import PostgresServer

SETTINGS = {"shared_buffers": "128MB", "log_min_messages": "warning", "autovacuum_naptime": "60s"}
"""What PostgreSQL has by default, where servers for tests are set otherwise."""


@contextmanager
def durable_postgres(settings: dict[str, str] | None = None) -> Iterator[PostgresServer]:
    """A server that syncs every commit; it is ended, and its files deleted, afterwards."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    # The server runs as somebody else where we are root; whoever it is must get there.
    is_open = all(parent.stat().st_mode & stat.S_IXOTH for parent in (SCRATCH.resolve(), *SCRATCH.resolve().parents))
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=SCRATCH if is_open else None) as folder:
        os.chmod(folder, 0o755)
        server = PostgresServer(durable=True, directory=Path(folder), settings={**SETTINGS, **(settings or {})})
        try:
            yield server
        finally:
            server.stop()


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """CPU time (user and system) of processes and of those that they started, ended ones too, so far, in seconds."""
    total = 0.0
    for process in processes:
        ended = process.cpu_times()
        total += ended.children_user + ended.children_system
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    return total
