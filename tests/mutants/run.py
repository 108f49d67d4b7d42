"""Plant faults in the ledger, one at a time, and see the tests catch each (``make mutants``).

Each fault is applied to a copy of ``src/fiscus`` in a temporary directory; the tests run against that copy and have to
fail, after they were seen to pass against a copy without a fault. The last line is ``N of M killed``; exit code 1 if
one survives. ``--only TEXT`` runs those whose name or file contains it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutants.faults import FAULTS, Fault  # noqa: E402

TIMEOUT_S = 180
"""A fault that makes the tests hang is caught too."""
WORKERS = 2
PASSED, FAILED, INTERRUPTED = 0, 1, 2


class CannotRunError(Exception):
    """The text of a fault does not stand where it should, or the tests fail without any fault: correct that first."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of a fault: ``by`` is the test that caught it."""

    fault: Fault
    killed: bool
    seconds: float
    by: str


def copy(package: Path, source: Path) -> None:
    """A copy of the package in another folder of sources."""
    shutil.copytree(package, source / "fiscus", ignore=shutil.ignore_patterns("__pycache__"))


def plant(fault: Fault, source: Path) -> None:
    """Put the fault into a copy; the text to replace must stand there exactly once."""
    file = source / "fiscus" / fault.file
    file.write_text(faulty(fault, file.read_text(encoding="utf-8")), encoding="utf-8")


def faulty(fault: Fault, text: str) -> str:
    """The text of a file with the fault in it."""
    count = text.count(fault.old)
    if count != 1:
        raise CannotRunError(f"{fault.name}: the text to replace stands {count} times in {fault.file}")
    return text.replace(fault.old, fault.new)


def run_tests(tests: str, source: Path) -> tuple[int, str]:
    """Run tests against a copy: the exit code of pytest, and the test that failed first, or the last line."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    plugins = ["-p", "no:cacheprovider", "-p", "tests.mutants.quick"]
    command = [sys.executable, "-m", "pytest", "-x", "-q", *plugins, *shlex.split(tests)]
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return FAILED, f"{tests} did not end"
    lines = run.stdout.strip().splitlines() or [run.stderr.strip()[-200:]]
    found = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return run.returncode, (found or lines[-1:])[0]


def try_fault(fault: Fault, package: Path) -> Fate:
    """Whether some test fails with the fault in place; the tests that are most likely to catch it run first."""
    began = time.monotonic()
    last = ""
    with tempfile.TemporaryDirectory(prefix="fiscus-mutant-") as directory:
        source = Path(directory)
        copy(package, source)
        plant(fault, source)
        for tests in fault.tests:
            code, last = run_tests(tests, source)
            if code in (FAILED, INTERRUPTED):
                return Fate(fault=fault, killed=True, seconds=time.monotonic() - began, by=last)
            if code != PASSED:
                raise CannotRunError(f"{fault.name}: the tests could not run: {last}")
    return Fate(fault=fault, killed=False, seconds=time.monotonic() - began, by=last)


def check_without_fault(faults: Iterable[Fault], source: Path, pool: ThreadPoolExecutor) -> None:
    """A test that fails by itself catches nothing, so all tests that are used must pass without a fault.

    Raises:
        CannotRunError: they do not, or they do not run against the copy.
    """
    where = subprocess.run(
        [sys.executable, "-c", "import fiscus; print(fiscus.__file__)"],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if not where.startswith(str(source)):
        raise CannotRunError(f"the tests would run against {where.strip()}, not against the copy")
    wanted = list(dict.fromkeys(tests for fault in faults for tests in fault.tests))
    for tests, (code, last) in zip(wanted, pool.map(lambda tests: run_tests(tests, source), wanted), strict=True):
        if code != PASSED:
            raise CannotRunError(f"{tests} fails without any fault: {last}")


def try_all(faults: Sequence[Fault]) -> list[Fate]:
    """Try each fault on the package as it is now, and print what became of it.

    Raises:
        CannotRunError: a text does not stand in its file, or the tests fail without a fault.
    """
    fates: list[Fate] = []
    with tempfile.TemporaryDirectory(prefix="fiscus-mutant-") as directory, ThreadPoolExecutor(WORKERS) as pool:
        source = Path(directory)
        copy(ROOT / "src" / "fiscus", source)
        package = source / "fiscus"
        for fault in faults:
            faulty(fault, (package / fault.file).read_text(encoding="utf-8"))
        check_without_fault(faults, source, pool)
        for fate in pool.map(try_fault, faults, repeat(package)):
            fates.append(fate)
            verdict = "killed  " if fate.killed else "SURVIVED"
            print(
                f"{verdict} {fate.seconds:5.1f} s  {fate.fault.file}: {fate.fault.name}  [{fate.by[:110]}]", flush=True
            )
    return fates


def main() -> int:
    """Run all, print each, end with the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=[""], nargs="+", help="texts that stand in the name or the file of a fault")
    only: list[str] = parser.parse_args().only
    chosen = [fault for fault in FAULTS if any(text in f"{fault.file}: {fault.name}" for text in only)]
    try:
        fates = try_all(chosen)
    except CannotRunError as error:
        print(error)
        return 2
    killed = sum(fate.killed for fate in fates)
    print(f"{killed} of {len(fates)} killed")
    return 0 if killed == len(fates) else 1


if __name__ == "__main__":
    raise SystemExit(main())
