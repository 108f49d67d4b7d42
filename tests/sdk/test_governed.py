"""``fiscus.govern``: the budget is asked before the function runs, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import doctest
import sys
from types import SimpleNamespace

import pytest

import fiscus
from fiscus.contract.errors import BudgetExceeded, BudgetOverrun, Gated, Refusal
from fiscus.sdk import calls
from fiscus.sdk.calls import Call, call_of, usage_in, whole
from fiscus.sdk.governed import SameLoop, governed
from fiscus.sdk.governor import Governor, Terms

ACCOUNT = "agent:x"


@pytest.fixture
async def books(treasury):
    await treasury.put_account(ACCOUNT)
    await treasury.put_budget(ACCOUNT, "tokens", 1_000)
    return treasury


async def state(treasury):
    (found,) = await treasury.balance(ACCOUNT)
    return found.covered, found.uncovered, found.held


def used(tokens: int) -> dict[str, object]:
    return {"usage": {"prompt_tokens": 0, "completion_tokens": tokens}}


def test_the_examples_are_true():
    assert doctest.testmod(calls).failed == doctest.testmod(sys.modules["fiscus.sdk.governed"]).failed == 0


async def test_a_call_is_held_before_and_booked_by_what_it_used(books):
    @fiscus.govern(books, ACCOUNT)
    async def ask(question: str) -> dict[str, object]:
        """Ask."""
        _, _, held = await state(books)
        assert held == 1_000, "of what is not known all that is left is held"
        return used(120)

    assert await ask("why?") == used(120)
    assert await state(books) == (120, 0, 0)
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")


async def test_a_function_with_a_bound_is_not_run_when_it_does_not_fit(books):
    @fiscus.govern(books, ACCOUNT, tokens=600)
    async def ask() -> dict[str, object]:
        return used(600)

    await ask()
    with pytest.raises(BudgetExceeded) as refused:
        await ask()
    assert refused.value.refused.requested == 600
    assert await state(books) == (600, 0, 0)


async def test_what_such_calls_use_is_learned_and_held(books):
    helds = []

    @fiscus.govern(books, ACCOUNT)
    async def ask() -> dict[str, object]:
        helds.append((await state(books))[2])
        return used(40)

    for _ in range(5):
        await ask()
    assert helds == [1_000, 960, 920, 50, 50]


async def test_what_was_learned_comes_back_from_the_records_after_a_restart(tmp_path):
    url = f"sqlite:///{tmp_path}/fiscus.db"

    def made(treasury, helds):
        @fiscus.govern(treasury, ACCOUNT)
        async def ask() -> dict[str, object]:
            helds.append((await state(treasury))[2])
            return used(40)

        return ask

    async with fiscus.open(url) as treasury:
        await treasury.put_account(ACCOUNT)
        await treasury.put_budget(ACCOUNT, "tokens", 1_000)
        ask = made(treasury, [])
        for _ in range(4):
            await ask()
    helds: list[int] = []
    async with fiscus.open(url) as treasury:
        await made(treasury, helds)()
    assert helds == [50]


async def test_a_known_function_is_not_run_with_less_than_it_ever_used(books):
    runs = []

    @fiscus.govern(books, ACCOUNT)
    async def ask() -> dict[str, object]:
        runs.append(1)
        return used(300)

    for _ in range(3):
        await ask()
    with pytest.raises(BudgetExceeded):
        await ask()
    assert len(runs) == 3
    assert await state(books) == (900, 0, 0)


async def test_more_than_there_was_is_booked_and_then_raised_with_the_result(books):
    @fiscus.govern(books, ACCOUNT)
    async def ask() -> dict[str, object]:
        return used(1_500)

    with pytest.raises(BudgetOverrun) as overrun:
        await ask()
    assert (overrun.value.result, overrun.value.used, overrun.value.available) == (used(1_500), 1_500, 1_000)
    covered, uncovered, held = await state(books)
    assert (covered + uncovered, held) == (1_500, 0)


async def test_more_than_was_held_but_not_more_than_there_is_raises_nothing(books):
    sizes = iter([10, 10, 10, 700])

    @fiscus.govern(books, ACCOUNT)
    async def ask() -> dict[str, object]:
        return used(next(sizes))

    for _ in range(4):
        await ask()
    assert await state(books) == (730, 0, 0)


async def test_an_exception_is_never_free_and_is_not_hidden(books):
    @fiscus.govern(books, ACCOUNT)
    async def ask(question: str) -> None:
        raise KeyError("provider")

    with pytest.raises(KeyError, match="provider"):
        await ask("one two three four")
    covered, _, held = await state(books)
    assert covered == 4, "its input, as an estimate"
    assert held == 0


async def test_an_exception_that_carries_a_usage_is_booked_by_it(books):
    @fiscus.govern(books, ACCOUNT)
    async def ask() -> None:
        error = RuntimeError("cut off")
        error.usage = {"prompt_tokens": 20, "completion_tokens": 5}
        raise error

    with pytest.raises(RuntimeError, match="cut off"):
        await ask()
    assert await state(books) == (25, 0, 0)


async def test_a_cancelled_call_is_booked_and_holds_nothing(books):
    started = asyncio.Event()

    @fiscus.govern(books, ACCOUNT)
    async def ask(question: str) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ask("one two three four"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await state(books) == (4, 0, 0)


async def test_an_async_generator_is_booked_by_what_came_out_of_it(books):
    @fiscus.govern(books, ACCOUNT)
    async def tell(question: str):
        for _ in range(5):
            yield "one two three four"

    assert len([piece async for piece in tell("five")]) == 5
    assert await state(books) == (21, 0, 0)


async def test_an_async_generator_that_is_left_early_is_booked_by_what_came(books):
    @fiscus.govern(books, ACCOUNT)
    async def tell():
        try:
            while True:
                yield "one two three four"
        finally:
            ended.append(1)

    ended: list[int] = []
    telling = tell()
    assert await anext(telling) == "one two three four"
    await telling.aclose()
    assert await state(books) == (4, 0, 0)
    assert ended == [1]


async def test_the_usage_at_the_end_of_a_stream_counts_instead_of_its_text(books):
    @fiscus.govern(books, ACCOUNT)
    async def tell():
        yield "one two three four"
        yield used(77)

    assert [piece async for piece in tell()] == ["one two three four", used(77)]
    assert await state(books) == (77, 0, 0)


async def test_values_and_exceptions_go_into_an_async_generator(books):
    @fiscus.govern(books, ACCOUNT)
    async def tell():
        got = yield "first"
        try:
            yield f"got {got}"
        except ValueError:
            yield "caught"

    telling = tell()
    assert await telling.asend(None) == "first"
    assert await telling.asend("this") == "got this"
    assert await telling.athrow(ValueError()) == "caught"
    with pytest.raises(StopAsyncIteration):
        await anext(telling)


async def test_a_call_inside_a_call_takes_its_part_of_the_outer_hold(books):
    @fiscus.govern(books, ACCOUNT)
    async def inner() -> dict[str, object]:
        return used(30)

    @fiscus.govern(books, ACCOUNT)
    async def outer() -> dict[str, object]:
        await asyncio.gather(inner(), inner())
        return used(200)

    async with asyncio.timeout(5):
        await outer()
    assert await state(books) == (260, 0, 0)


async def test_calls_inside_a_call_cannot_use_more_than_there_is(books):
    @fiscus.govern(books, ACCOUNT, tokens=400)
    async def inner() -> dict[str, object]:
        return used(400)

    @fiscus.govern(books, ACCOUNT, tokens=300)
    async def outer() -> list[object]:
        return await asyncio.gather(*(inner() for _ in range(4)), return_exceptions=True)

    with_results = await outer()
    assert sum(isinstance(one, dict) for one in with_results) == 2, (
        "of 1,000 in all, what the outer call holds included"
    )
    assert sum(isinstance(one, Refusal) for one in with_results) == 2
    _, uncovered, held = await state(books)
    assert (uncovered, held) == (0, 0)


async def test_calls_at_the_same_time_wait_for_each_other_and_never_use_more_than_there_is(books):
    running: list[int] = []

    @fiscus.govern(books, ACCOUNT)
    async def ask() -> dict[str, object]:
        running.append(1)
        await asyncio.sleep(0)
        return used(100)

    results = await asyncio.gather(*(ask() for _ in range(14)), return_exceptions=True)
    assert sum(isinstance(one, dict) for one in results) == len(running) == 10
    assert sum(isinstance(one, Refusal) for one in results) == 4
    assert await state(books) == (1_000, 0, 0)


async def test_a_task_that_is_done_well_enough_is_gated(books):
    # covers T12
    await books.put_account(ACCOUNT, confidence_threshold=0.9)

    async def ask(sure: float) -> float:
        return sure

    first, second = (
        fiscus.govern(books, ACCOUNT, task=task, confidence_of=lambda sure: sure)(ask) for task in ("one", "two")
    )
    assert await first(0.5) == 0.5
    assert await first(0.95) == 0.95
    with pytest.raises(Gated):
        await first(0.1)
    assert await second(float("nan")) is not None
    assert await second(0.1) == 0.1


async def test_an_ordinary_function_cannot_be_governed_on_a_loop(books):
    with pytest.raises(TypeError, match="coroutine function"):
        fiscus.govern(books, ACCOUNT)(lambda: None)


async def test_what_others_lend_comes_in_one_step_with_the_hold_and_goes_back_unused(books):
    await books.put_account("team:t")
    for name in ("agent:needy", "agent:donor"):
        await books.put_account(name, parent="team:t")
    await books.allocate("agent:needy", "tokens", 10)
    await books.allocate("agent:donor", "tokens", 500)
    told = []

    async def ask() -> dict[str, object]:
        (during,) = await books.balance("agent:needy")
        assert (during.limit, during.held) == (300, 300)
        return used(120)

    governor = Governor(books, borrows=True, on_moved=lambda *moved: told.append(moved))
    await governed(ask, governor, Terms(account="agent:needy", note="ask", tokens=300), SameLoop())()
    ((account, lacked, (move,)),) = told
    assert (account, lacked, move.source, move.amount) == ("agent:needy", 290, "agent:donor", 290)
    (needy,), (donor,) = await books.balance("agent:needy"), await books.balance("agent:donor")
    assert (needy.covered, needy.available) == (120, 0), "what was not used went back"
    assert (needy.limit, donor.limit) == (120, 390)


async def test_a_call_that_is_given_up_while_it_begins_holds_nothing(books):
    call = call_of(Governor(books), Terms(account=ACCOUNT, note="x"), (), {})
    await call.begin(None)
    await call.abandon()
    assert await state(books) == (0, 0, 0)
    assert isinstance(call, Call)


async def test_a_call_whose_booking_is_cancelled_is_booked_all_the_same(books, monkeypatch):
    # covers E14
    booking, go_on = asyncio.Event(), asyncio.Event()
    governor = Governor(books)
    raise_to = governor.raise_to

    async def slow(*args):
        booking.set()
        await go_on.wait()
        return await raise_to(*args)

    monkeypatch.setattr(governor, "raise_to", slow)

    async def ask() -> dict[str, object]:
        return used(120)

    task = asyncio.create_task(governed(ask, governor, Terms(account=ACCOUNT, note="ask"), SameLoop())())
    await booking.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    async with asyncio.timeout(5):
        while await state(books) != (120, 0, 0):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("said", [float("nan"), float("inf"), -1, True, "12", None, 2**60])
def test_what_is_no_number_of_tokens_counts_as_not_said(said):
    assert whole(said) is None


def test_usage_is_read_from_objects_and_mappings_and_nowhere_else():
    assert usage_in(SimpleNamespace(usage=SimpleNamespace(prompt_tokens=3, completion_tokens=4))) == 7
    assert usage_in({"total_tokens": 9}) == 9
    assert usage_in({"answer": 42}) is None
    assert usage_in([1, 2]) is None
