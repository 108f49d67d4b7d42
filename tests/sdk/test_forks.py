"""A forked process never waits for ever, and never writes where its parent does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiscus.contract.forks import OF_PARENT
from tests.sdk.test_sync import Served

pytestmark = pytest.mark.slow

FORK = """
import asyncio, os, sys
import fiscus

def child(work):
    '''Do something in a fork; what it prints is the child's, and what it raises is printed.'''
    if pid := os.fork():
        return pid
    try:
        print(work(), flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
    finally:
        os._exit(0)

def wait(pid):
    os.waitpid(pid, 0)
"""


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


def run(script: str, *arguments: object, folder: Path) -> list[str]:
    """What a program prints that may fork as it likes: it has no other threads than those of Fiscus."""
    path = folder / "script.py"
    path.write_text(FORK + script)
    done = subprocess.run(
        [sys.executable, path, *map(str, arguments)], capture_output=True, text=True, timeout=60, cwd=folder, check=True
    )
    told = [line for line in done.stderr.splitlines() if not line.startswith("event=settlement_spooled")]
    assert not told, told
    return done.stdout.splitlines()


def test_a_copy_of_a_ledger_in_process_says_at_once_that_it_is_none(tmp_path):
    script = """
treasury = fiscus.open_sync(sys.argv[1])
treasury.put_account("a")
treasury.put_budget("a", "tokens", 100)

def use():
    with treasury.hold("a", tokens=10) as hold:
        hold.settle({"tokens": 10})

use()
wait(child(use))
wait(child(treasury.close))
use()
print(treasury.balance("a")[0].spent)
"""
    for place in ("memory:", f"sqlite:///{tmp_path}/fiscus.db"):
        assert run(script, place, folder=tmp_path) == [f"TreasuryError {OF_PARENT}", "None", "20"]


def test_an_async_copy_says_so_too(tmp_path):
    script = """
async def begin():
    treasury = fiscus.open()
    await treasury.put_account("a")
    return treasury

async def use():
    await asyncio.wait_for(treasury.usage("a", {"tokens": 1}), 20)

async def ask():
    await asyncio.wait_for(treasury.put_account("b"), 20)

treasury = asyncio.run(begin())
wait(child(lambda: asyncio.run(ask())))
"""
    assert run(script, folder=tmp_path) == [f"TreasuryError {OF_PARENT}"]


def test_a_copy_that_was_not_used_before_the_fork_starts_nothing(tmp_path):
    script = """
import threading

treasury = fiscus.open()

async def use():
    try:
        await treasury.put_account("a")
    except fiscus.contract.errors.TreasuryError as error:
        print(error, flush=True)
    return [thread.name for thread in threading.enumerate()]

async def look():
    try:
        print([one async for one in treasury.accounts()])
    except fiscus.contract.errors.TreasuryError as error:
        print(error, flush=True)

import fiscus.contract.errors
wait(child(lambda: asyncio.run(use())))
wait(child(lambda: asyncio.run(look())))
"""
    assert run(script, folder=tmp_path) == [OF_PARENT, "['MainThread']", OF_PARENT, "None"]


def test_a_child_that_lives_on_does_not_keep_the_ledger_of_its_parent_locked(tmp_path):
    script = """
treasury = fiscus.open_sync()
reading, writing = os.pipe()
pid = child(lambda: os.read(reading, 1))
treasury.close()
fiscus.open_sync().close()
os.write(writing, b"!")
wait(pid)
print("opened again")
"""
    assert run(script, folder=tmp_path) == ["b'!'", "opened again"]


def test_parent_and_children_go_on_with_a_service(served, tmp_path):
    script = """
treasury = fiscus.connect_sync(sys.argv[1])
treasury.put_account("a")
treasury.put_budget("a", "tokens", 1_000)

def use():
    for _ in range(20):
        with treasury.hold("a", tokens=10) as hold:
            hold.settle({"tokens": 1})

use()
children = [child(use) for _ in range(3)]
use()
for pid in children:
    wait(pid)
wait(child(treasury.close))
print(treasury.balance("a")[0].spent, treasury.balance("a")[0].held)
treasury.close()
"""
    assert run(script, served.url, folder=tmp_path) == ["None", "None", "None", "None", "100 0"]


def test_an_async_treasury_of_a_service_goes_on_in_the_child(served, tmp_path):
    script = """
treasury = fiscus.connect(sys.argv[1])

async def use(name):
    await treasury.put_account(name)
    await treasury.usage(name, {"tokens": 1})
    return (await treasury.account(name)).account

async def both():
    '''The parent's connection stays open while the child makes its own.'''
    await use("a")
    pid = child(lambda: in_a_loop_of_its_own(use("b")))
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        await use("a")
    await treasury.close()

def in_a_loop_of_its_own(work):
    asyncio._set_running_loop(None)
    return asyncio.run(work)

asyncio.run(both())
"""
    assert run(script, served.url, folder=tmp_path) == ["b"]


def test_what_parent_and_child_spool_stands_in_files_of_their_own(tmp_path):
    script = """
treasury = fiscus.connect_sync("http://127.0.0.1:9", timeout_s=0.2, spool_directory=sys.argv[1])
treasury.usage("parent", {"tokens": 1})
wait(child(lambda: treasury.usage("child", {"tokens": 1})))
treasury.usage("parent", {"tokens": 2})
os._exit(0)
"""
    assert run(script, tmp_path / "spool", folder=tmp_path) == ["None"]
    files = sorted((tmp_path / "spool").glob("*.spool"))
    found = [[name for name in ("parent", "child") if f'"{name}"' in file.read_text()] for file in files]
    assert found == [["parent"], ["child"]]
    assert [file.read_text().count("\n") for file in files] == [2, 1]


def test_governed_functions_run_in_a_pool_of_forks_on_a_service(served, tmp_path):
    script = """
import multiprocessing
from fiscus.compat.tbcontracts import BudgetManager

manager = BudgetManager(place=sys.argv[1])
manager.register_agent("reader", max_tokens=1_000)

@manager.govern("reader")
def read(number):
    return {"number": number, "usage": {"prompt_tokens": 10, "completion_tokens": 5}}

if __name__ == "__main__":
    read(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(sorted(one["number"] for one in pool.map(read, range(4), chunksize=1)))
    print(manager.remaining("reader"))
"""
    assert run(script, served.url, folder=tmp_path) == ["[0, 1, 2, 3]", "925"]


def test_who_opens_the_same_file_in_the_child_is_told_who_has_it(tmp_path):
    script = """
from fiscus.compat.places import ledger_at

here = ledger_at()
wait(child(ledger_at))
"""
    (line,) = run(script, folder=tmp_path)
    assert line.startswith("LedgerBusy ")
