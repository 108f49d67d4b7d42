"""The disk of the database is full, for PostgreSQL and for SQLite, and has room again later."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.conclusion import conclude
from tests.faults.finding import Finding
from tests.faults.load import Load, founding
from tests.faults.nodes import Node, ground
from tests.servers.postgres import PostgresServer

ROUNDS = 9
QUICK = 2
FULL_S = 3.0
POSTGRES_MIB = 192
SQLITE_MIB = 24
FULL_WITHIN_S = 60
BLOCK = bytes(1 << 16)

WHERE = ("postgresql", "sqlite", "sqlite and spool")


def finding() -> Finding:
    return Finding(
        "disk",
        "A small volume (tmpfs) with PostgreSQL's data, with a SQLite ledger, or with a SQLite ledger and its spool is "
        "filled up under load, and has room again after some seconds. PostgreSQL ends itself when its log finds no "
        "room; it is started again then, as a supervisor would.",
        "503 and nothing else while there is no room; nothing acknowledged and lost; goes on when space returns",
    )


class Volume:
    """A small file system of its own, and what fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Until nothing more can be written."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
            while ballast.write(BLOCK):
                pass

    def clear(self) -> None:
        """Give all of it back."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def volume(mib: int) -> Iterator[Volume]:
    """Raises ``PermissionError`` where mounting is not permitted."""
    folder = Path(tempfile.mkdtemp(prefix="fiscus-volume-"))
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr.strip())
        try:
            yield Volume(folder)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)
    finally:
        folder.rmdir()


def run(rounds: int = ROUNDS, *, full_s: float = FULL_S) -> Finding:
    """In turn where the table says."""
    found = finding()
    if os.geteuid() != 0:
        found.skipped = "mounting a small volume needs root"
        return found
    seen: dict[str, list[int]] = {where: [] for where in WHERE}
    resumed: list[float] = []
    for where in WHERE[: min(rounds, len(WHERE))]:
        count = len(range(WHERE.index(where), rounds, len(WHERE)))
        try:
            with volume(POSTGRES_MIB if where == "postgresql" else SQLITE_MIB) as place:
                (_postgres if where == "postgresql" else _sqlite)(
                    found, place, where, count, full_s, seen[where], resumed
                )
        except PermissionError as error:
            found.skipped = f"mounting a small volume is not permitted: {error}"
            return found
    for where, statuses in seen.items():
        codes = {status: statuses.count(status) for status in sorted(set(statuses))}
        found.figures[f"answers_while_full_{where.replace(' ', '_')}"] = {str(code): n for code, n in codes.items()}
        found.expect(set(statuses) <= {201, 503, 0}, f"{where}: {codes}")
    found.figures |= {"admissions_without_journal": found.lost, "resumed_s_max": round(max(resumed), 2)}
    return found


def _postgres(
    found: Finding, place: Volume, where: str, count: int, full_s: float, statuses: list[int], resumed: list[float]
) -> None:
    settings = {"max_wal_size": "32MB", "min_wal_size": "32MB", "checkpoint_timeout": "30s"}
    (place.folder / "server").mkdir()
    server = PostgresServer(durable=True, directory=place.folder / "server", settings=settings)
    ended = 0
    try:
        with ground(founding(), postgres=server) as here:
            nodes = [here.node() for _ in range(2)]
            with Load(nodes, "disk") as load:
                for number in range(count):
                    load.wait_for_answers(100)
                    _until_full(place, nodes[0], f"{number}", full_s, statuses)
                    ended += not server.is_running
                    place.clear()
                    began = time.monotonic()
                    if not server.is_running:
                        server.start()
                    for node in nodes:
                        node.wait_until_it_admits(f"{number}-{node.port}")
                    resumed.append(time.monotonic() - began)
                    found.rounds += 1
                told = load.stop()
            found.figures["postgresql_ended_itself"] = ended
            conclude(found, here, told)
    finally:
        server.stop()


def _sqlite(
    found: Finding, place: Volume, where: str, count: int, full_s: float, statuses: list[int], resumed: list[float]
) -> None:
    url = f"sqlite:///{place.folder / 'fiscus.db'}"
    with ground(founding(), url=url) as here:
        spool = place.folder / "spool" if where == "sqlite and spool" else here.folder / "spool"
        node = here.node(FISCUS_SPOOL_PATH=str(spool))
        with Load([node], "disk", pace_s=0.005) as load:
            for number in range(count):
                load.wait_for_answers(100)
                _until_full(place, node, f"{number}", full_s, statuses)
                place.clear()
                resumed.append(node.wait_until_it_admits(f"{number}"))
                found.rounds += 1
            told = load.stop()
        conclude(found, here, told)


def _until_full(place: Volume, node: Node, mark: str, full_s: float, statuses: list[int]) -> None:
    """Ask until an admission is refused for want of room, then for some seconds more."""
    began = time.monotonic()
    full_at: float | None = None
    number = 0
    while True:
        now = time.monotonic()
        if full_at is not None and now - full_at > full_s:
            return
        assert full_at is not None or now - began < FULL_WITHIN_S, "the disk does not get full"
        number += 1
        place.fill()  # what was given back meanwhile, too
        status = node.admits(f"probe-full-{mark}-{number}")
        if status != 201 and full_at is None:
            full_at = now
        if full_at is not None:
            statuses.append(status)
        time.sleep(0.02)


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, full_s=0.5)
