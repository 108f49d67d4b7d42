"""The known faults of tbcontracts, each by its number, and seen in ``Naive``: a manager as the faults describe it."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiscus.compat.places import ledger_at
from fiscus.compat.tbcontracts import (
    BudgetExceededError,
    BudgetManager,
    GateBlockedError,
    UnknownAgentError,
    govern_agent,
    govern_node,
)
from fiscus.compat.tbcontracts.tokenizer import words_estimate

PER_FAULT = settings(
    max_examples=25,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Naive:
    """What the faults say of the original, in the fewest lines: run, estimate, then look at the budget."""

    def __init__(self) -> None:
        self.agents: dict[str, dict[str, int]] = {}
        self.contracts: dict[str, SimpleNamespace] = {}
        self.ledger = SimpleNamespace(record=self._record, remaining=self.remaining, adjust_allocation=self._adjust)

    def _record(self, agent: str, tokens: int, note: str = "") -> None:
        self.agents[agent]["consumed"] += tokens

    def _adjust(self, agent: str, delta: int) -> None:
        self.agents[agent]["allocated"] += delta

    def register_agent(self, name: str, priority: int = 1, max_tokens: int = 1000, min_reserve: int = 0, **_) -> None:
        self.contracts[name] = SimpleNamespace(last_confidence=None)
        known = self.agents.setdefault(name, {"consumed": 0})
        known |= {"allocated": max_tokens, "priority": priority, "min_reserve": min_reserve}

    def remaining(self, name: str) -> int:
        return self.agents[name]["allocated"] - self.agents[name]["consumed"]

    def govern(self, agent: str, confidence_fn=None, usage_fn=None, **_):
        def decorate(function):
            @functools.wraps(function)
            def run(*args, **kwargs):
                result = function(*args, **kwargs)
                texts = [*args, *kwargs.values(), result]
                tokens = usage_fn(result) if usage_fn else sum(words_estimate(t) for t in texts if isinstance(t, str))
                self.record_usage(agent, tokens, "", confidence_fn and confidence_fn(result))
                return result

            return run

        return decorate

    def record_usage(self, agent: str, tokens: int, note: str = "", confidence: float | None = None) -> None:
        self.contracts[agent].last_confidence = confidence
        short = tokens - self.remaining(agent)
        for donor, terms in self.agents.items():
            give = min(max(0, self.remaining(donor) - terms["min_reserve"]), max(0, short))
            if donor != agent and give and terms["priority"] <= self.agents[agent]["priority"]:
                terms["allocated"] -= give
                self.agents[agent]["allocated"] += give
                short -= give
        if tokens > self.remaining(agent):
            raise BudgetExceededError(agent, tokens, self.remaining(agent))
        self.agents[agent]["consumed"] += tokens

    def report(self):
        return {
            name: {key: known[key] for key in ("allocated", "consumed")} | {"remaining": self.remaining(name)}
            for name, known in self.agents.items()
        }


@pytest.fixture(scope="module")
def treasury():
    with ledger_at("memory:") as opened:
        yield opened


_numbers = iter(range(10**9))


@pytest.fixture(params=["fiscus", "naive"])
def make(request, treasury):
    """Makes managers; the naive one has to fail the tests that use it."""
    if request.param == "naive":
        request.applymarker(pytest.mark.xfail(strict=True, raises=(AssertionError, TypeError, AttributeError)))
        return Naive
    return lambda: BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}", wait_s=5)


@PER_FAULT
@given(left=st.integers(0, 50), used=st.integers(51, 5_000), calls=st.integers(2, 6))
def test_known_fault_t1_an_agent_without_budget_makes_one_call_at_most_and_its_result_is_not_lost(
    make, left, used, calls
):
    # covers T14, E14
    manager = make()
    manager.register_agent("a", max_tokens=left, min_reserve=0)
    made, results = [], []
    work = manager.govern("a", usage_fn=lambda _: used)(lambda: made.append(1) or "answer")
    for _ in range(calls):
        with pytest.raises(BudgetExceededError) as error:
            work()
        results.append(error.value.result)
    assert len(made) <= 1
    assert results == (["answer"] if made else [None]) + [None] * (calls - 1)
    assert manager.report()["a"]["consumed"] == used * len(made)


@PER_FAULT
@given(donated=st.integers(0, 200), missing=st.integers(1, 500))
def test_known_fault_t2_usage_that_nobody_can_cover_moves_nothing_and_is_on_the_books(make, donated, missing):
    # covers T17, T10, E8, E14
    manager = make()
    manager.register_agent("needy", priority=2, max_tokens=150, min_reserve=0)
    manager.register_agent("donor", max_tokens=100 + donated, min_reserve=100)
    with pytest.raises(BudgetExceededError):
        manager.record_usage("needy", 150 + donated + missing)
    report = manager.report()
    assert report["donor"]["allocated"] == 100 + donated
    assert report["needy"] == {
        "allocated": 150,
        "consumed": 150 + donated + missing,
        "remaining": -donated - missing,
    }


def test_known_fault_t3_of_two_threads_with_800_each_on_1000_one_is_refused(make):
    # covers T14, E2
    manager = make()
    manager.register_agent("a", max_tokens=1_000, min_reserve=0)
    inside, go_on = [], threading.Event()

    @manager.govern("a", max_tokens=800, usage_fn=lambda _: 800)
    def work() -> str:
        inside.append(1)
        go_on.wait(timeout=0.3)  # the other looks at the budget meanwhile
        return "answer"

    def attempt() -> str:
        try:
            return work()
        except BudgetExceededError:
            return "refused"
        finally:
            go_on.set()

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(lambda _: attempt(), range(2)))
    assert len(inside) == 1
    assert outcomes == ["answer", "refused"]
    assert manager.report()["a"] == {"allocated": 1_000, "consumed": 800, "remaining": 200}


@PER_FAULT
@given(calls=st.lists(st.integers(1, 200), min_size=2, max_size=12))
def test_known_fault_t3_threads_never_use_more_than_there_is(treasury, calls):
    # covers T14, E2
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}", wait_s=5)
    manager.register_agent("a", max_tokens=400, min_reserve=0)

    def attempt(tokens: int) -> int:
        try:
            return manager.govern("a", max_tokens=tokens, usage_fn=lambda _: tokens)(lambda: tokens)()
        except BudgetExceededError:
            return 0

    with ThreadPoolExecutor(4) as pool:
        used = sum(pool.map(attempt, calls))
    report = manager.report()["a"]
    assert report["consumed"] == used <= 400


@PER_FAULT
@given(tokens=st.integers(101, 10_000), negative=st.integers(-1_000, -1))
def test_known_fault_t4_the_books_cannot_be_written_past_the_limits_or_backwards(make, tokens, negative):
    # covers T5, T6
    manager = make()
    manager.register_agent("a", max_tokens=100, min_reserve=0)
    with suppress(ValueError):
        manager.ledger.record("a", negative)
    assert manager.remaining("a") == 100
    with pytest.raises(BudgetExceededError):
        manager.ledger.record("a", tokens)
    assert manager.report()["a"]["consumed"] == tokens, "what was spent is on the books"


@PER_FAULT
@given(moved=st.integers(1, 400), repeats=st.integers(1, 3))
def test_known_fault_t5_registering_again_mints_nothing(make, moved, repeats):
    # covers T6, T11, T13
    manager = make()
    manager.register_agent("a", priority=2, max_tokens=100, min_reserve=0)
    manager.register_agent("b", max_tokens=1_000, min_reserve=0)
    manager.record_usage("a", 100 + moved)
    for _ in range(repeats):
        manager.register_agent("b", max_tokens=1_000, min_reserve=0)
        manager.register_agent("a", priority=2, max_tokens=100, min_reserve=0)
    assert sum(one["allocated"] for one in manager.report().values()) == 1_100
    assert manager.report()["a"]["remaining"] == 0


def test_known_fault_t5_a_changed_contract_counts_once_however_many_register_it(treasury):
    # covers T13
    namespace = f"ns{next(_numbers)}"
    managers = [BudgetManager(place=treasury, namespace=namespace) for _ in range(8)]
    managers[0].register_agent("a", max_tokens=1_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda manager: manager.register_agent("a", max_tokens=1_500), managers))
    assert managers[0].report()["a"]["allocated"] == 1_500


WORDS = "word " * 500


def test_known_fault_t6_what_stands_in_a_mapping_is_counted(make):
    # covers T14, T20
    manager = make()
    manager.register_agent("a", max_tokens=5_000)
    scores = []

    def sure(result: dict[str, object]) -> float:
        scores.append(result["confidence"])
        return 0.4

    governed = manager.govern("a", confidence_fn=sure)
    governed(lambda: {"text": WORDS, "confidence": 0.4})()
    assert manager.report()["a"]["consumed"] >= 500
    assert scores == [0.4]
    assert manager.contracts["a"].last_confidence == 0.4


async def test_known_fault_t6_coroutines_are_counted_by_what_they_return(make):
    # covers T14
    manager = make()
    manager.register_agent("a", max_tokens=5_000)
    seen = []

    @manager.govern("a", confidence_fn=lambda result: seen.append(result) or 0.5)
    async def answer(question: str) -> str:
        return WORDS

    assert await answer("why?") == WORDS
    assert manager.report()["a"]["consumed"] >= 500
    assert seen == [WORDS]


def test_known_fault_t6_generators_are_counted_by_what_comes_out(make):
    # covers T14
    manager = make()
    manager.register_agent("a", max_tokens=5_000)

    @manager.govern("a")
    def tell(question: str):
        got = yield "one two three four"
        yield f"got {got}"
        return "end"

    telling = tell("why?")
    assert next(telling) == "one two three four"
    assert telling.send("this") == "got this"
    with pytest.raises(StopIteration) as end:
        next(telling)
    assert end.value.value == "end"
    assert manager.report()["a"]["consumed"] == 9


def test_a_generator_that_is_left_or_fails_is_booked_by_what_came(treasury):
    # covers T14, E14
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}")
    manager.register_agent("a", max_tokens=5_000)

    @manager.govern("a")
    def tell(fails: bool):
        yield "one two three four"
        if fails:
            raise ValueError("cut off")
        yield "more"

    left = tell(False)
    next(left)
    left.close()
    assert manager.report()["a"] == {"allocated": 5_000, "consumed": 4, "remaining": 4_996}
    with pytest.raises(ValueError, match="cut off"):
        list(tell(True))
    assert manager.report()["a"]["consumed"] == 8


@PER_FAULT
@given(words=st.integers(1, 50), usage=st.none() | st.integers(1, 400))
def test_known_fault_t7_an_exception_inside_is_never_free(make, words, usage):
    # covers T14, E14
    manager = make()
    manager.register_agent("a", max_tokens=1_000)

    @manager.govern("a")
    def work(prompt: str) -> None:
        error = TimeoutError("provider")
        if usage is not None:
            error.usage = SimpleNamespace(prompt_tokens=usage, completion_tokens=0)
        raise error

    with pytest.raises(TimeoutError, match="provider"):
        work("word " * words)
    assert manager.report()["a"]["consumed"] >= (usage if usage is not None else words)


@pytest.mark.parametrize("confidence", [float("nan"), float("inf"), -0.1, 1.5, True])
def test_known_fault_t8_a_confidence_out_of_range_is_not_taken(make, confidence):
    # covers T12, T17
    manager = make()
    manager.register_agent("a", confidence_threshold=0.8)
    with suppress(ValueError):
        manager.record_usage("a", 5, confidence=confidence)
    assert manager.remaining("a") == 1_000, "nothing is booked"
    assert manager.govern("a", lambda _: confidence)(lambda: "answer")() == "answer"
    assert manager.contracts["a"].last_confidence is None


@PER_FAULT
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), max_size=12))
def test_known_fault_t9_no_donor_falls_below_its_reserve_and_what_is_allocated_stays_the_same(treasury, wishes):
    # covers T7, T11, E8
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}")
    for name, priority in (("a", 1), ("b", 1), ("c", 2)):
        manager.register_agent(name, priority=priority, max_tokens=300, min_reserve=60)
    own = dict.fromkeys("abc", 0)
    for name, tokens in wishes:
        before = manager.report()
        moved = manager.reallocator.reallocate(name, tokens)
        after = manager.report()
        assert 0 <= moved <= tokens
        assert sum(one["allocated"] for one in after.values()) == 900
        for other in set("abc") - {name}:
            if after[other]["allocated"] < before[other]["allocated"]:
                assert after[other]["remaining"] >= 60
        own[name] += moved


@pytest.mark.parametrize("said", [float("nan"), float("inf"), -5, True, None, "12"])
def test_known_fault_t10_usage_that_is_no_number_is_estimated_and_the_result_is_kept(treasury, said):
    # covers T23, T24
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}")
    manager.register_agent("a", max_tokens=1_000)
    node = govern_node(manager, "a", lambda state: {"text": "one two three four", "used": said}, usage_key="used")
    assert node({"question": "five"})["used"] is said
    assert manager.report()["a"]["consumed"] >= 5
    crew = govern_agent(manager, "a", lambda prompt: SimpleNamespace(raw="one two"), usage_fn=lambda _: said)
    assert crew("three").raw == "one two"
    assert manager.report()["a"]["consumed"] >= 8


def test_known_fault_t10_fractions_are_rounded_up_and_allocations_stay_above_what_is_used(treasury):
    # covers T6, T23
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}")
    manager.register_agent("a", max_tokens=100, min_reserve=0)
    govern_node(manager, "a", lambda state: {"used": 0.8}, usage_key="used")({})
    assert manager.report()["a"]["consumed"] == 1
    for delta in (-100, -(10**6)):
        with pytest.raises(ValueError, match="delta"):
            manager.ledger.adjust_allocation("a", delta)
    assert manager.report()["a"]["allocated"] == 100
    for value in (0.8, True, "5"):
        with pytest.raises(ValueError, match="must be an integer"):
            manager.record_usage("a", value)  # type: ignore[arg-type]


def test_known_fault_t11_one_error_says_that_an_agent_is_not_known(make):
    # covers T19
    manager = make()
    for call in (lambda: manager.remaining("x"), lambda: manager.ledger.remaining("x")):
        with pytest.raises(KeyError) as error:
            call()
        assert isinstance(error.value, UnknownAgentError)


def test_known_fault_t11_the_books_outlive_the_process_and_are_not_kept_in_memory(tmp_path):
    # covers T5
    place = f"sqlite:///{tmp_path}/fiscus.db"
    for round_ in (1, 2):
        manager = BudgetManager(place=place)
        manager.register_agent("a", max_tokens=1_000)
        manager.record_usage("a", 10, note=f"round {round_}")
        notes = [entry.note for entry in manager.ledger.history("a")]
        manager.ledger.books.treasury.close()
    assert notes == ["round 1", "round 2"]


def test_known_fault_t8_the_gate_is_of_a_task_opens_again_and_does_not_lie(treasury):
    # covers T12, T15
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}")
    manager.register_agent("a", max_tokens=999, confidence_threshold=0.8)
    for task in ("x", "y"):
        manager.govern("a", lambda _: 0.9, task=task)(lambda: "done")()
    with pytest.raises(GateBlockedError) as blocked:
        manager.govern("a", task="x")(lambda: "done")()
    assert "requested" not in str(blocked.value)
    assert manager.govern("a", task="z")(lambda: "done")() == "done"
    manager.reset_gate("a", "x")
    assert manager.govern("a", task="x")(lambda: "done")() == "done"


def test_known_fault_t9_what_was_lent_and_not_used_goes_back(treasury):
    # covers T7, T11
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}")
    for name in ("a", "b"):
        manager.register_agent(name, max_tokens=100, min_reserve=10)
    for needy in "abab":
        manager.govern(needy, max_tokens=120, usage_fn=lambda _: 5)(lambda: None)()
    report = manager.report()
    assert [report[name]["allocated"] for name in "ab"] == [100, 100], "nothing goes to and fro"
    assert [report[name]["consumed"] for name in "ab"] == [10, 10]


async def test_a_governed_coroutine_that_is_cancelled_while_it_waits_for_budget_holds_nothing(treasury):
    # covers T14
    manager = BudgetManager(place=treasury, namespace=f"ns{next(_numbers)}", wait_s=30)
    manager.register_agent("a", max_tokens=100, min_reserve=0)
    go_on = asyncio.Event()

    @manager.govern("a", max_tokens=100, usage_fn=lambda _: 10)
    async def work() -> None:
        await go_on.wait()

    first = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    second = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    books = manager.ledger.books
    for _ in range(100):
        if books.figures(books.account_of("a")).available == 90:
            break
        await asyncio.sleep(0.02)
    assert books.figures(books.account_of("a")).available == 90
