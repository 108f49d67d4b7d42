"""A drop-in finds its ledger without being told, one for each place, and works over a service as well."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fiscus.api import create_app
from fiscus.compat.places import ledger_at
from fiscus.compat.tbcontracts import BudgetExceededError, BudgetManager
from fiscus.compat.xml_pipeline import BudgetExhaustedError, ThreadBudgetRegistry, UsageTracker
from fiscus.contract.errors import BudgetExceeded, BudgetUnavailable
from fiscus.sdk import connect_sync
from tests.api.service import ledger, serving


class Served:
    """A real server on a thread of its own."""

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


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[str]:
    monkeypatch.setenv("HOME", str(tmp_path))
    served = Served()
    monkeypatch.setenv("FISCUS_URL", served.url)
    yield served.url
    ledger_at().close()
    served.stop()


def test_everything_works_over_the_service_that_the_environment_names(service):
    # covers T13, T14, T17, X4, X5, X7, X21
    assert ledger_at() is ledger_at(service)
    manager = BudgetManager()
    manager.register_agent("a", priority=2, max_tokens=100, min_reserve=0)
    manager.register_agent("b", max_tokens=500)
    work = manager.govern("a", usage_fn=lambda _: 250)(lambda: "done")
    assert work() == "done"
    with pytest.raises(BudgetExceededError):
        manager.record_usage("a", 5_000)
    assert manager.report()["a"]["consumed"] == 5_250
    assert [entry.tokens for entry in manager.ledger.history("a")] == [250, 5_000]

    registry, tracker = ThreadBudgetRegistry(1_000), UsageTracker()
    registry.check_budget("t", 800)
    assert [one.severity for one in registry.consume("t", 700, 100)[1]] == ["warning"]
    registry.extend_chain("t", "hop")
    with pytest.raises(BudgetExhaustedError):
        registry.check_budget("hop", 201)
    tracker.record("t", "a", "gpt-4o", "openai", 10, 1)
    assert tracker.get_agent_totals("a")["total_tokens"] == 11
    assert registry.cleanup_thread("t").total_tokens == 800


def test_two_processes_that_use_one_service_share_their_budgets(service):
    # covers T14, X1
    first, second = (BudgetManager(place=place) for place in (ledger_at(), _another(service)))
    for manager in (first, second):
        manager.register_agent("a", max_tokens=1_000)
    first.record_usage("a", 600)
    with pytest.raises(BudgetExceededError) as error:
        second.govern("a", max_tokens=500)(lambda: pytest.fail("must not run"))()
    assert error.value.available == 400
    second.ledger.books.treasury.close()


@pytest.fixture
def two(service) -> Iterator[list[ThreadBudgetRegistry]]:
    """As two processes have them."""
    other = _another(service)
    yield [ThreadBudgetRegistry(1_000, place=place) for place in (ledger_at(), other)]
    other.close()


def test_two_processes_tell_each_threshold_once_between_them(two):
    # covers X9, X11
    told: list[int] = []

    def spend(registry: ThreadBudgetRegistry) -> None:
        for _ in range(12):
            crossed = registry.consume("t", 5, 5)[1] + registry.get_budget("t").check_thresholds()
            told.extend(one.threshold_percent for one in crossed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(spend, two * 4))
    assert two[0].get_usage("t")["total_tokens"] == 960
    assert sorted(told) == [75, 90, 95]
    assert two[1].get_budget("t").triggered_thresholds == {75, 90, 95}


def test_what_one_process_crossed_and_told_nobody_the_other_one_tells(two):
    # covers X9
    two[1].get_budget("t")
    two[1].consume("t", 100, 0)
    two[0].booked("t", 700, 0)  # and here it ended
    assert [one.threshold_percent for one in two[1].consume("t", 1, 0)[1]] == [75]
    assert two[0].crossed("t")[1] == []


def test_two_processes_that_reset_a_thread_at_once_give_back_what_it_used_once(two):
    # covers X6
    for index in range(5):
        thread = f"t{index}"
        two[0].consume(thread, 600, 0)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda registry: registry.reset_thread(thread), two * 2))  # noqa: B023  (done at once)
        assert two[0].get_usage(thread)["max_tokens"] == 1_000
        assert two[0].get_usage(thread)["remaining"] == 1_000


def test_what_was_used_while_the_service_is_away_waits_on_the_disk(monkeypatch, tmp_path):
    # covers T14, E11, E14
    monkeypatch.setenv("HOME", str(tmp_path))
    served = Served()
    treasury = connect_sync(served.url, "", timeout_s=0.5, spool_directory=tmp_path)
    manager = BudgetManager(place=treasury)
    manager.register_agent("a", max_tokens=1_000)

    @manager.govern("a", usage_fn=lambda _: 100)
    def work() -> str:
        served.stop()
        return "done"

    assert work() == "done"
    assert treasury.spooled == 1
    with pytest.raises(BudgetUnavailable):
        manager.govern("a")(lambda: pytest.fail("must not run"))()
    treasury.close()


def _another(url: str):
    return connect_sync(url)


def test_a_place_is_opened_once_and_again_when_it_was_closed(tmp_path):
    place = f"sqlite:///{tmp_path}/fiscus.db"
    first = ledger_at(place)
    assert ledger_at(place) is first
    assert ledger_at(first) is first
    first.close()
    second = ledger_at(place)
    assert second is not first
    second.put_account("agent:x")
    second.close()


def test_memory_is_one_s_own(monkeypatch):
    monkeypatch.setenv("FISCUS_STORE_URL", "memory:")
    one, two = ledger_at(), ledger_at()
    assert one is not two
    for opened in (one, two):
        opened.put_account("agent:x")
        opened.put_budget("agent:x", "tokens", 5)
        with pytest.raises(BudgetExceeded):
            opened.reserve("agent:x", tokens=6)
        opened.close()
