"""``@govern`` at the edge of a limit: many at once, left early, cancelled, in each other, and what cannot be seen."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import fiscus
from fiscus.contract.errors import BudgetExceeded, BudgetUnavailable
from fiscus.sdk import SyncTreasury

ACCOUNT = "agent:x"
LIMIT = 1_000
WORDS = "many words that are counted one by one " * 20


def used(tokens: int) -> dict[str, object]:
    return {"usage": {"prompt_tokens": 0, "completion_tokens": tokens}}


@pytest.fixture
def books(tmp_path) -> Iterator[SyncTreasury]:
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        treasury.put_account(ACCOUNT)
        treasury.put_budget(ACCOUNT, "tokens", LIMIT)
        yield treasury


def state(treasury: SyncTreasury) -> tuple[int, int, int]:
    (found,) = treasury.balance(ACCOUNT)
    return found.covered, found.uncovered, found.held


def outcome(function) -> str:
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return "done"


# covers T14, E2
def test_known_fault_t3_of_200_threads_at_the_edge_as_many_run_as_fit(books):
    ran = []

    @fiscus.govern(books, ACCOUNT, tokens=10)
    def ask() -> dict[str, object]:
        ran.append(1)
        return used(10)

    with ThreadPoolExecutor(200) as pool:
        outcomes = list(pool.map(lambda _: outcome(ask), range(200)))
    assert (outcomes.count("done"), outcomes.count("BudgetExceeded")) == (100, 100)
    assert len(ran) == 100
    assert state(books) == (LIMIT, 0, 0)


# covers T14, E2
async def test_known_fault_t3_of_200_tasks_at_the_edge_as_many_run_as_fit(treasury):
    await treasury.put_account(ACCOUNT)
    await treasury.put_budget(ACCOUNT, "tokens", LIMIT)

    @fiscus.govern(treasury, ACCOUNT, tokens=10)
    async def ask() -> dict[str, object]:
        await asyncio.sleep(0)
        return used(10)

    outcomes = await asyncio.gather(*(ask() for _ in range(200)), return_exceptions=True)
    assert sum(isinstance(one, BudgetExceeded) for one in outcomes) == 100
    (found,) = await treasury.balance(ACCOUNT)
    assert (found.covered, found.uncovered, found.held) == (LIMIT, 0, 0)


# covers T14, E14
async def test_calls_that_are_cancelled_at_any_instant_hold_nothing_and_what_began_is_booked(treasury):
    await treasury.put_account(ACCOUNT)
    await treasury.put_budget(ACCOUNT, "tokens", 100_000)
    began = 0

    @fiscus.govern(treasury, ACCOUNT, tokens=10)
    async def ask() -> dict[str, object]:
        nonlocal began
        began += 1
        await asyncio.sleep(0.002)
        return used(10)

    for index in range(100):
        task = asyncio.ensure_future(ask())
        await asyncio.sleep(index * 0.0001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        while (found := (await treasury.balance(ACCOUNT))[0]).held:
            await asyncio.sleep(0.01)
    assert found.uncovered == 0
    assert began <= found.covered <= 10 * began


def test_calls_inside_each_other_share_one_hold_however_deep_and_in_however_many_threads(books):
    # covers T14
    @fiscus.govern(books, ACCOUNT, tokens=10)
    def deep(left: int) -> dict[str, object]:
        if left:
            deep(left - 1)
        return used(2)

    deep(50)
    assert state(books) == (102, 0, 0)

    @fiscus.govern(books, ACCOUNT, tokens=50)
    def inner() -> dict[str, object]:
        return used(50)

    @fiscus.govern(books, ACCOUNT, tokens=500)
    def outer() -> dict[str, object]:
        with ThreadPoolExecutor(10) as pool:
            running = [pool.submit(contextvars.copy_context().run, inner) for _ in range(12)]
        assert all(one.exception() is None for one in running)
        return used(0)

    outer()
    assert state(books) == (702, 0, 0)


def test_a_generator_that_a_function_returns_is_never_free(books):
    # covers T14
    @fiscus.govern(books, ACCOUNT, tokens=400)
    def ask(items: int) -> Iterator[str]:
        return (WORDS for _ in range(items))

    stream = ask(3)
    assert state(books) == (0, 0, 400)
    assert list(stream) == [WORDS] * 3
    whole, _, held = state(books)
    assert whole > 300
    assert held == 0
    left = ask(3)
    next(left)
    left.close()
    assert state(books)[0] == whole + whole // 3
    assert state(books)[2] == 0


async def test_an_async_generator_that_a_function_returns_is_never_free(tmp_path):
    # covers T14
    books = await asyncio.to_thread(fiscus.open_sync, f"sqlite:///{tmp_path}/fiscus.db")
    books.put_account(ACCOUNT)
    books.put_budget(ACCOUNT, "tokens", 2 * LIMIT)

    async def items(count: int):
        for _ in range(count):
            yield WORDS
        if not count:
            raise OSError("the line is broken")

    ask = fiscus.govern(books, ACCOUNT, tokens=400)(lambda count: items(count))
    assert [item async for item in ask(2)] == [WORDS] * 2
    whole, _, held = state(books)
    assert (whole > 200, held) == (True, 0)
    with pytest.raises(OSError, match="broken"):
        await anext(ask(0))
    assert state(books)[0] > whole
    assert state(books)[2] == 0
    left = ask(2)
    await anext(left)
    await left.aclose()
    assert state(books)[2] == 0
    await asyncio.to_thread(books.close)


class Stream:
    """As SDKs of providers have them: an object of its own, whose items nobody else sees."""

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        raise StopIteration


def test_a_stream_whose_items_are_not_seen_is_booked_by_what_such_calls_use_at_most(books):
    # covers T14
    bounded = fiscus.govern(books, ACCOUNT, tokens=77)(Stream)
    assert isinstance(bounded(), Stream)
    assert state(books) == (77, 0, 0)
    known = fiscus.govern(books, ACCOUNT, note="known")
    for _ in range(3):
        known(lambda: used(40))()
    before = state(books)[0]
    known(Stream)()
    assert state(books)[0] - before == 40
    assert state(books)[2] == 0


def test_a_generator_that_is_forgotten_is_booked_whatever_thread_the_garbage_collector_runs_on(books):
    # covers T14, E14
    @fiscus.govern(books, ACCOUNT, tokens=100)
    def ask() -> Iterator[str]:
        yield WORDS
        yield WORDS

    def forget() -> None:
        cycle: list[object] = [stream := ask()]
        cycle.append(cycle)
        next(stream)

    async def collect() -> None:
        gc.collect()

    gc.collect()
    gc.disable()
    try:
        forget()
        assert state(books)[2] == 100
        books.thread.wait(collect())
    finally:
        gc.enable()
    pause = threading.Event()
    for _ in range(500):
        if not state(books)[2]:
            break
        pause.wait(0.01)
    covered, uncovered, held = state(books)
    assert (covered + uncovered > 100, held) == (True, 0)


async def test_while_the_ledger_is_away_nothing_runs(tmp_path):
    # covers T14
    async with fiscus.connect("http://127.0.0.1:1", "", timeout_s=0.2, spool_directory=tmp_path) as away:

        @fiscus.govern(away, ACCOUNT)
        async def ask() -> None:
            pytest.fail("must not run")

        with pytest.raises(BudgetUnavailable):
            await ask()
