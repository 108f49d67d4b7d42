from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fiscus
from fiscus.api import create_app
from fiscus.contract.errors import BudgetExceeded, ConfigurationInvalid, LedgerBusy, Refusal, TreasuryError
from fiscus.sdk import SyncTreasury
from tests.api.service import ledger, serving


class Served:
    """A real server on a thread of its own, for tests that have no event loop."""

    def __init__(self) -> None:
        self.url = ""
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._up.wait()

    async def _serve(self) -> None:
        self._loop, self._down = asyncio.get_running_loop(), asyncio.Event()
        async with ledger() as treasury, serving(create_app(treasury)) as self.url:
            self._up.set()
            await self._down.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join()


@pytest.fixture(params=["in_process", "remote"])
def treasury(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncTreasury]:
    if request.param == "in_process":
        with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
            yield treasury
    else:
        served = Served()
        with fiscus.connect_sync(served.url, "", spool_directory=tmp_path) as treasury:
            yield treasury
        served.stop()


@pytest.fixture
def books(treasury: SyncTreasury) -> SyncTreasury:
    treasury.put_account("agent:x")
    treasury.put_budget("agent:x", "tokens", 1_000)
    return treasury


def spent_and_held(treasury: SyncTreasury) -> tuple[int, int]:
    (found,) = treasury.balance("agent:x")
    return found.spent, found.held


def test_a_call_in_a_hold(books):
    with books.hold("agent:x", tokens=400) as hold:
        assert hold.output_tokens == 400
        assert hold.amounts == {"tokens": 400, "calls": 1}
        hold.extend(tokens=500)
        hold.reading({"tokens": 10})
        hold.settle({"tokens": 20})
    assert hold.answer.state == "settled"
    assert spent_and_held(books) == (20, 0)


def test_it_is_refused_before_the_body_runs(books):
    with pytest.raises(BudgetExceeded), books.hold("agent:x", tokens=2_000):
        pytest.fail("the body must not run")


def test_a_failure_in_the_body_comes_out_and_the_hold_goes_back(books):
    with pytest.raises(KeyError, match="mine"), books.hold("agent:x", tokens=400):
        raise KeyError("mine")
    assert spent_and_held(books) == (0, 0)


def test_iterating(books):
    assert [account.account for account in books.accounts()] in (["agent:x"], [])
    kinds = []
    for entry in books.events():
        kinds.append(entry.kind)
        if len(kinds) == 2:
            break
    assert kinds == ["account_opened", "budget_set"] or len(kinds) == 2


def test_properties_and_attributes_are_those_of_the_async_treasury(books):
    assert books.spooled == 0
    assert "put_budget" in dir(books)
    assert "carve" in books.allocate.__doc__.lower()
    with pytest.raises(AttributeError):
        _ = books.no_such_method
    with pytest.raises(AttributeError):
        _ = books._teller_of_another


def test_many_threads_share_one_and_never_break_the_limit(books):
    # covers E2
    def agent(number: int) -> int:
        try:
            with books.hold("agent:x", tokens=30) as hold:
                hold.settle({"tokens": 20})
        except Refusal:
            return 0
        return 20

    with ThreadPoolExecutor(16) as pool:
        spent = sum(pool.map(agent, range(100)))
    assert spent_and_held(books) == (spent, 0)
    assert 0 < spent <= 1_000


def test_it_closes_once_and_says_so_afterwards(books):
    books.close()
    books.close()
    with pytest.raises(TreasuryError, match="closed"):
        books.account("agent:x")
    assert not [thread for thread in threading.enumerate() if thread.name == "fiscus-sync"]


def test_what_opening_raises_comes_out_and_no_thread_stays(tmp_path):
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db"), pytest.raises(LedgerBusy):
        fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db")
    with pytest.raises(ConfigurationInvalid):
        fiscus.connect_sync("no url", "")
    assert not [thread for thread in threading.enumerate() if thread.name == "fiscus-sync"]


def test_one_that_is_forgotten_is_closed_by_the_garbage_collector(tmp_path):
    url = f"sqlite:///{tmp_path}/fiscus.db"
    treasury = fiscus.open_sync(url)
    treasury.put_account("agent:x")
    del treasury
    gc.collect()
    with fiscus.open_sync(url) as again:
        assert again.account("agent:x").status == "active"


def test_one_that_is_forgotten_at_the_end_of_a_program_has_written_everything(tmp_path):
    # covers E11
    url = f"sqlite:///{tmp_path}/fiscus.db"
    script = f"""
import fiscus
treasury = fiscus.open_sync({url!r})
treasury.put_account("agent:x")
treasury.usage("agent:x", {{"tokens": 5}}, id="u")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with fiscus.open_sync(url) as treasury:
        assert treasury.hold_answer("u").booked["tokens"] == 5


async def test_it_works_beside_a_running_loop_as_in_a_notebook(tmp_path):
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        treasury.put_account("agent:x")
        with treasury.hold("agent:x", tokens=5) as hold:
            hold.settle({"tokens": 3})
        assert hold.answer.booked["tokens"] == 3


def test_its_own_thread_is_told_not_to_wait_for_itself(tmp_path):
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:

        async def from_within() -> None:
            treasury.readiness()

        with pytest.raises(RuntimeError, match="async treasury"):
            treasury._thread.wait(from_within())


def test_interrupting_the_waiting_gives_the_hold_back(tmp_path):
    """Ctrl-C while the reserve is under way: the hold does not stay behind."""
    script = f"""
import os, signal, threading, fiscus
treasury = fiscus.open_sync("sqlite:///{tmp_path}/fiscus.db")
treasury.put_account("agent:x")
treasury.put_budget("agent:x", "tokens", 1_000)
try:
    with treasury.hold("agent:x", tokens=100):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(30)
except KeyboardInterrupt:
    print([(b.spent, b.held) for b in treasury.balance("agent:x")])
treasury.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[(0, 0)]\n", "")


def test_interrupting_the_waiting_ends_the_work_that_was_waited_for(tmp_path):
    """Ctrl-C while a service does not answer: the request is given up, not left running."""
    script = f"""
import os, signal, socket, threading, fiscus
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    connection, _ = listener.accept()
    connection.recv(65_536)
    os.kill(os.getpid(), signal.SIGINT)
    connection.settimeout(5)
    print("given up" if connection.recv(1) == b"" else "?")
    connection.close()
server = threading.Thread(target=serve)
server.start()
treasury = fiscus.connect_sync(f"http://127.0.0.1:{{listener.getsockname()[1]}}", "", spool_directory={str(tmp_path)!r})
try:
    treasury.account("agent:x")
except KeyboardInterrupt:
    server.join()
treasury.close()
listener.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")
