"""The service as a process while its database is away: killed, drained and started again, under load."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from tests.cli.processes import LEDGER, Service, answers, fiscus, service
from tests.spool.fleet import Fleet, ask, ready, wait_until

pytestmark = pytest.mark.slow

BALANCE = "/v1/balances/agent:x"


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """The database of a ledger is away: another process writes to it, for as long as this lasts."""
    connection = sqlite3.connect(folder / LEDGER, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``agent:x`` with a budget, and ``h0`` … ``h9`` held."""
    fiscus(tmp_path, "accounts", "put", "agent:x")
    fiscus(tmp_path, "budgets", "put", "agent:x", "tokens", "1_000_000_000")
    with service(tmp_path) as running:
        for n in range(10):
            assert hold(running, f"h{n}") == 201
        assert running.stop() == 0
    return tmp_path


def hold(running: Service, id: str) -> int:
    return ask(f"{running.url}/v1/holds", {"id": id, "account": "agent:x", "amounts": {"tokens": 10}})[0]


def settle(running: Service, id: str, tokens: int) -> int:
    return ask(f"{running.url}/v1/holds/{id}/settle", {"total": {"tokens": tokens}})[0]


def lose_the_database(running: Service) -> None:
    """The service knows that its database is away."""
    assert hold(running, "never") == 503


def balance(running: Service) -> tuple[int, int]:
    found = ask(running.url + BALANCE)[1]["balances"][0]
    return found["spent"], found["held"]


def booked(folder: Path) -> list[tuple[str, int]]:
    """Settlements in the journal, in order."""
    return [
        (entry["data"]["id"], entry["data"]["total"]["tokens"])
        for entry in answers(folder, "events")
        if entry["kind"] == "settled"
    ]


def test_after_kill_9_the_next_start_books_what_was_acknowledged_and_keeps_what_is_refused(folder):
    # covers R53, E11, E14
    with service(folder) as running, taken(folder):
        lose_the_database(running)
        assert [settle(running, f"h{n}", n + 1) for n in range(5)] == [202] * 5
        assert settle(running, "unknown", 99) == 202
        usage = {"id": "u", "account": "agent:x", "total": {"tokens": 100}}
        assert ask(f"{running.url}/v1/usage", usage)[0] == 202
        assert ready(running)["spooled"] == 7
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
    waiting = answers(folder, "spool")
    assert [one["request"]["command"]["id"] for one in waiting] == ["h0", "h1", "h2", "h3", "h4", "unknown", "u"]
    assert {one["state"] for one in waiting} == {"waiting"}
    with service(folder) as running:
        wait_until(lambda: ready(running)["spooled"] == 0)
        assert balance(running) == (115, 50)
        (refused,) = answers(folder, "spool")
        assert (refused["state"], refused["code"]) == ("refused", "unknown_hold")
        assert refused["request"]["command"]["total"] == {"tokens": 99}
        assert "99" in fiscus(folder, "spool").stdout
        metrics = urllib.request.urlopen(f"{running.url}/metrics", timeout=10).read().decode()
        assert "fiscus_spool_refused 1.0" in metrics
        assert "fiscus_spool_delivered_total 6.0" in metrics
        assert running.stop() == 0
    assert booked(folder) == [*((f"h{n}", n + 1) for n in range(5)), ("u", 100)]
    assert "spooled_request_refused" in (folder / "service.log").read_text()
    assert fiscus(folder, "verify").returncode == 0


def test_a_service_whose_database_is_away_stops_in_time_and_leaves_its_spool_to_the_next_one(folder):
    # covers R53, E11
    with service(folder, FISCUS_DRAIN_S_MAX="6") as running, taken(folder):
        lose_the_database(running)
        assert settle(running, "h0", 7) == 202
        began = monotonic()
        assert running.stop() == 0
        assert monotonic() - began < 6
    with service(folder) as running:
        wait_until(lambda: ready(running)["spooled"] == 0)
        assert balance(running) == (7, 90)


def test_a_service_with_a_full_spool_books_it_before_it_stops(folder):
    with service(folder) as running:
        with taken(folder):
            lose_the_database(running)
            for n in range(10):
                assert settle(running, f"h{n}", n + 1) == 202
        assert running.stop() == 0
    assert [id for id, _ in booked(folder)] in ([f"h{n}" for n in range(10)], [])
    with service(folder) as running:
        wait_until(lambda: ready(running)["spooled"] == 0)
        assert balance(running) == (55, 0)


def test_a_spool_that_cannot_be_written_is_told_at_the_start(folder):
    (folder / "file").touch()
    refused = fiscus(folder, "serve", "--port", "0", code=1, FISCUS_SPOOL_PATH="file/spool")
    assert "spool_path: file/spool cannot be written" in refused.stderr


async def test_a_database_that_comes_and_goes_under_load_costs_nothing_that_was_acknowledged(folder):
    # covers R53, E11, E7, E14
    with service(folder) as running:
        fleet = Fleet(running.url)

        async def meanwhile() -> None:
            for _ in range(3):
                await asyncio.sleep(0.5)
                with taken(folder):
                    await asyncio.sleep(0.7)

        await fleet.run(meanwhile)
        assert not fleet.unanswered
        assert max(fleet.slowest_s.values()) < 5
        assert {202, 200} <= fleet.statuses["settle"].keys()
        assert {503, 201} <= fleet.statuses["hold"].keys()
        await asyncio.to_thread(wait_until, lambda: ready(running)["spooled"] == 0)
        assert running.stop() == 0
    found = fleet.check(answers(folder, "events"))
    print(found, fleet.slowest_s, fleet.statuses)
    assert found["acknowledged"] > 100
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert fiscus(folder, "verify").returncode == 0


@pytest.mark.parametrize("is_away", [False, True], ids=["database there", "database away"])
async def test_a_signal_under_load_answers_what_is_in_flight_and_loses_nothing(folder, is_away):
    # covers E11
    with service(folder) as running:
        fleet = Fleet(running.url)
        stream_ended = asyncio.Event()

        async def follow() -> None:
            async with aiohttp.ClientSession() as session, session.get(f"{running.url}/v1/events") as stream:
                async for _ in stream.content.iter_any():
                    pass
            stream_ended.set()

        async def meanwhile() -> None:
            follower = asyncio.create_task(follow())
            await asyncio.sleep(0.5)
            began = monotonic()
            if is_away:
                with taken(folder):
                    await asyncio.sleep(0.5)
                    running.process.send_signal(signal.SIGTERM)
                    assert await asyncio.to_thread(running.process.wait, 30) == 0
            else:
                running.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.process.wait, 30) == 0
            assert monotonic() - began < 20
            await asyncio.wait_for(stream_ended.wait(), 5)
            await follower

        await fleet.run(meanwhile)
        # Where nobody listens any more nothing was promised; an answer that ends in its middle would be a breach.
        assert not [one for one in fleet.unanswered if "Payload" in one], fleet.unanswered
    with service(folder) as running:
        await asyncio.to_thread(wait_until, lambda: ready(running)["spooled"] == 0)
        assert running.stop() == 0
    found = fleet.check(answers(folder, "events"))
    print(found, fleet.slowest_s, fleet.statuses, len(fleet.unanswered))
    assert found["acknowledged"] > 50
    assert (found["lost"], found["doubled"]) == (0, 0)
