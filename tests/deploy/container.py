"""Runs what an image and a compose file say as plain processes.

As root, where mount namespaces are allowed, each process gets the image's own root file system: its paths, read-only
but for the volume and /tmp, as the image's user, with nothing else of this machine. Elsewhere it runs as whoever runs
the tests, in a read-only folder, with the image's paths replaced by those of temporary folders.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

from tests.deploy import dockerfile
from tests.deploy.tools import ROOT

STAGE = dockerfile.read(ROOT / "Dockerfile")[-1]
BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
ENTER = Path(__file__).parent / "enter.py"
PREFIX, VOLUME = "/opt/fiscus", "/var/lib/fiscus"
UNSHARE = ("unshare", "--mount", "--propagation", "private")
S_MAX = 60


@cache
def has_namespaces() -> bool:
    """Whether this process may give another one a root file system of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    probe = 'mount -t tmpfs tmpfs "$0"'
    return subprocess.run([*UNSHARE, "sh", "-c", probe, "/mnt"], capture_output=True, check=False).returncode == 0


def build(folder: Path) -> Path:
    """Make what the image has at /opt/fiscus, without asking a registry; returns where it is.

    The distributions of requirements.txt are taken from the environment that runs the tests, and no others; the
    project's own wheel is built and installed as the Dockerfile does.
    """
    prefix = folder / "prefix"
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([python, "-m", "venv", "--without-pip", prefix], check=True, timeout=S_MAX)
    site = next(prefix.glob("lib/python*/site-packages"))
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith((" ", "#")) or not line.strip():
            continue
        requirement = Requirement(line.rstrip("\\ "))
        if requirement.marker is None or requirement.marker.evaluate():
            _install(importlib.metadata.distribution(requirement.name), site)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder / "dist", ROOT],
        check=True,
        timeout=S_MAX,
        capture_output=True,
    )
    wheel = next((folder / "dist").glob("fiscus-*.whl"))
    subprocess.run(
        [*pip, "--python", prefix / "bin" / "python", "install", *offline, wheel],
        check=True,
        timeout=S_MAX,
        capture_output=True,
    )
    shutil.copy(ROOT / "deploy" / "healthcheck.py", prefix / "healthcheck.py")
    if has_namespaces():
        script = prefix / "bin" / "fiscus"
        script.write_text(script.read_text(encoding="utf-8").replace(str(prefix), PREFIX), encoding="utf-8")
    return prefix


def _install(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Link the files of a distribution into another environment."""
    for file in distribution.files or ():
        source, target = Path(str(file.locate())), site / file
        if ".." in file.parts or not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


@dataclass
class Container:
    """A process as the image and one service of the compose file describe it.

    Attributes:
        prefix: what ``build`` made.
        folder: for the volume and the log; an empty one of its own.
        command: instead of the image's CMD.
        environment: beside the image's.
    """

    prefix: Path
    folder: Path
    command: list[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        user, _, group = STAGE.last("USER").partition(":")
        self.user, self.group = int(user), int(group)
        for name in ("volume", "root", "tmp", "nowhere"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if has_namespaces():
            os.chown(self.volume, self.user, self.group)
        (self.folder / "nowhere").chmod(0o555)
        self.volume.chmod(0o700)

    @property
    def volume(self) -> Path:
        """What the process sees as /var/lib/fiscus."""
        return self.folder / "volume"

    @property
    def log(self) -> str:
        """What it has written to its standard error."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def arguments(self) -> list[str]:
        """ENTRYPOINT with CMD, or with the command of the compose file."""
        return [*STAGE.exec_form("ENTRYPOINT"), *(STAGE.exec_form("CMD") if self.command is None else self.command)]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self._call(self.arguments()))

    def run(self) -> subprocess.CompletedProcess[str]:
        """Start it and wait for its end."""
        return self.execute(self.arguments())

    def check_health(self) -> subprocess.CompletedProcess[str]:
        """Run the image's health check as the engine does: in the container."""
        return self.execute(STAGE.healthcheck()[1])

    def execute(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """Run another command in the container and wait for its end."""
        return subprocess.run(
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=S_MAX,
            check=False,
            **self._call(arguments),
        )

    def _call(self, arguments: list[str]) -> dict:
        environment = STAGE.environment(BASE_ENVIRONMENT) | self.environment
        if not has_namespaces():

            def here(text: str) -> str:
                return text.replace(PREFIX, str(self.prefix)).replace(VOLUME, str(self.volume))

            nowhere = self.folder / "nowhere"
            environment = {name: here(value) for name, value in environment.items()}
            environment |= {"HOME": str(nowhere), "TMPDIR": str(self.folder / "tmp")}
            program = shutil.which(here(arguments[0]), path=environment["PATH"])
            assert program is not None, arguments
            return {"args": [program, *map(here, arguments[1:])], "env": environment, "cwd": nowhere}
        box = {
            "root": str(self.folder / "root"),
            "binds": [
                ("/usr", "/usr", False),
                ("/etc", "/etc", False),
                ("/proc", "/proc", True),
                ("/dev", "/dev", True),
                (sys.base_prefix, sys.base_prefix, False),
                (str(self.prefix), PREFIX, False),
                (str(self.volume), VOLUME, True),
            ],
            "tmpfs": ["/tmp"],
            "user": self.user,
            "group": self.group,
            "directory": STAGE.last("WORKDIR"),
            "command": arguments,
            "environment": environment,
        }
        return {"args": [*UNSHARE, sys.executable, "-I", str(ENTER), json.dumps(box)], "env": BASE_ENVIRONMENT}
