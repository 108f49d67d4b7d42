from __future__ import annotations

import inspect

import pytest

import fiscus
from fiscus.contract.errors import BudgetExceeded


@pytest.fixture
async def books(treasury):
    await treasury.put_account("agent:x")
    await treasury.put_budget("agent:x", "tokens", 1_000)
    return treasury


async def spent(treasury):
    (found,) = await treasury.balance("agent:x")
    return found.spent, found.held


async def test_every_call_runs_in_a_hold_of_its_own_and_its_result_is_the_reading(books):
    @books.held("agent:x", tokens=400)
    async def ask(question: str) -> dict[str, object]:
        """Ask."""
        return {"text": question, "usage": {"prompt_tokens": 10, "completion_tokens": 5}}

    assert (await ask("why?"))["text"] == "why?"
    assert (await ask("how?"))["text"] == "how?"
    assert await spent(books) == (30, 0)
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    assert list(inspect.signature(ask).parameters) == ["question"]


async def test_a_function_may_have_the_hold_and_give_the_reading_itself(books):
    @books.held("agent:x", tokens=400)
    async def ask(*, hold: fiscus.sdk.Hold) -> str:
        hold.settle({"tokens": hold.output_tokens // 2})
        return "text"

    assert await ask() == "text"
    assert await spent(books) == (200, 0)


async def test_a_call_for_which_there_is_no_budget_is_not_made(books):
    @books.held("agent:x", tokens=2_000)
    async def ask() -> None:
        pytest.fail("must not run")

    with pytest.raises(BudgetExceeded):
        await ask()


async def test_without_any_reading_the_bound_is_booked(books):
    # covers E14
    @books.held("agent:x", tokens=400)
    async def ask() -> str:
        return "text"

    with pytest.warns(RuntimeWarning, match="without a reading"):
        assert await ask() == "text"
    assert await spent(books) == (400, 0)


async def test_an_ordinary_function_is_refused_where_nobody_could_await(books):
    with pytest.raises(TypeError, match="coroutine function"):
        books.held("agent:x", tokens=1)(lambda: None)


def test_without_an_event_loop_it_decorates_ordinary_functions(tmp_path):
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        treasury.put_account("agent:x")
        treasury.put_budget("agent:x", "tokens", 1_000)

        @treasury.held("agent:x", tokens=400)
        def ask(question: str, hold: object) -> dict[str, int]:
            assert hold is not None
            return {"tokens": 7}

        assert ask("why?") == {"tokens": 7}
        assert [found.spent for found in treasury.balance("agent:x")] == [7]

        async def coroutine() -> None: ...

        with pytest.raises(TypeError, match="ordinary function"):
            treasury.held("agent:x", tokens=1)(coroutine)
