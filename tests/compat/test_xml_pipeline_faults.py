"""The known faults of xml-pipeline's budgets, each by its number, and seen in ``Naive*``: what the faults describe."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiscus.compat.places import ledger_at
from fiscus.compat.xml_pipeline import (
    BudgetExhaustedError,
    LLMRouter,
    ThreadBudget,
    ThreadBudgetRegistry,
    UsageTracker,
    estimate_tokens,
)
from fiscus.compat.xml_pipeline.prices import listed_price

PER_FAULT = settings(
    max_examples=20,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEW = settings(PER_FAULT, max_examples=4)
"""For those that wait for the read model, which follows a moment later."""

HELLO = [{"role": "user", "content": "Say hello."}]


class NaiveRegistry:
    """Check, then call, then consume; a dict of budgets, one for each id."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.budgets: dict[str, ThreadBudget] = {}

    def get_budget(self, thread_id: str) -> ThreadBudget:
        return self.budgets.setdefault(thread_id, ThreadBudget(self.limit))

    def check_budget(self, thread_id: str, estimated_tokens: int = 0) -> bool:
        budget = self.get_budget(thread_id)
        if budget.is_exhausted or not budget.can_consume(estimated_tokens):
            raise BudgetExhaustedError(thread_id, budget.total_tokens, budget.max_tokens)
        return True

    def consume(self, thread_id: str, prompt: int, completion: int):
        budget = self.get_budget(thread_id)
        budget.consume(prompt, completion)
        return budget, budget.check_thresholds()

    def extend_chain(self, thread_id: str, new_thread_id: str) -> ThreadBudget:
        return self.get_budget(new_thread_id)

    def cleanup_thread(self, thread_id: str) -> ThreadBudget | None:
        return self.budgets.pop(thread_id, None)

    def get_usage(self, thread_id: str):
        return self.budgets[thread_id].as_dict() if thread_id in self.budgets else None

    def get_all_usage(self):
        return {name: budget.as_dict() for name, budget in self.budgets.items()}


class NaiveTracker:
    """Floats, rounded each; what a subscriber raises is swallowed."""

    subscriber_errors = 0

    def __init__(self) -> None:
        self.subscribers: list[object] = []
        self.cost = 0.0
        self.count = 0

    def subscribe(self, callback) -> None:
        self.subscribers.append(callback)

    def record(self, thread, agent, model, provider, prompt, completion, latency=0.0):
        prices = {"gpt-4o-mini": (0.15, 0.6), "o1": (15.0, 60.0)}
        name = max((name for name in prices if model.startswith(name)), key=len, default=None)
        cost = round((prompt * prices[name][0] + completion * prices[name][1]) / 1e6, 6) if name else None
        self.cost += cost or 0
        self.count += 1
        event = SimpleNamespace(
            cost_nanousd=None if cost is None else int(cost * 1e9), total_tokens=prompt + completion
        )
        for subscriber in self.subscribers:
            with suppress(Exception):
                subscriber(event)
        return event

    def get_totals(self):
        return {"total_cost_nanousd": int(self.cost * 1e9), "request_count": self.count}


class NaiveRouter:
    """Accounting, warnings and events inside the retry."""

    def __init__(self, backends, *, registry, tracker, pump=None, sleep=None, **_) -> None:
        self.backend, self.registry, self.tracker, self.pump = backends[0], registry, tracker, pump

    async def complete(self, model, messages, *, thread_id, agent_id=None, max_tokens=None):
        self.registry.check_budget(thread_id, max(100, sum(len(m["content"]) // 4 for m in messages)))
        for attempt in range(4):
            try:
                response = await self.backend.complete(model=model, messages=messages, max_tokens=max_tokens)
                usage = getattr(response, "usage", None) or SimpleNamespace(prompt_tokens=0, completion_tokens=0)
                _, crossed = self.registry.consume(thread_id, usage.prompt_tokens, usage.completion_tokens)
                for one in crossed:
                    await self.pump.inject(one)
                self.tracker.record(thread_id, agent_id, model, "", usage.prompt_tokens, usage.completion_tokens)
            except BudgetExhaustedError:
                raise
            except Exception:
                if attempt == 3:
                    raise
            else:
                return response
        return None


@pytest.fixture(scope="module")
def treasury():
    with ledger_at("memory:") as opened:
        yield opened


_numbers = iter(range(10**9))


@pytest.fixture(params=["fiscus", "naive"])
def kind(request):
    """The naive ones have to fail the tests that use this."""
    if request.param == "naive":
        failures = (AssertionError, TypeError, KeyError, AttributeError, ConnectionError, pytest.fail.Exception)
        request.applymarker(pytest.mark.xfail(strict=True, raises=failures))
    return request.param


@pytest.fixture
def make_registry(kind, treasury):
    def made(limit: int):
        if kind == "naive":
            return NaiveRegistry(limit)
        return ThreadBudgetRegistry(limit, place=treasury, namespace=f"ns{next(_numbers)}")

    return made


@pytest.fixture
def make_tracker(kind, treasury):
    def made():
        if kind == "naive":
            return NaiveTracker()
        return UsageTracker(place=treasury, namespace=f"ns{next(_numbers)}")

    return made


@pytest.fixture
def make_router(kind, make_registry, make_tracker):
    async def no_pause(_: float) -> None:
        return None

    def made(backend, limit: int = 10_000, pump=None):
        build = NaiveRouter if kind == "naive" else LLMRouter
        return build(
            [backend],
            registry=make_registry(limit),
            tracker=make_tracker(),
            pump=pump,
            sleep=no_pause,
            wait_for_budget_s=0.0,
        )

    return made


class Backend:
    """Answers with what it is given, the last one again and again; counts how often it was asked."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, object]] = []

    async def complete(self, **request: object) -> object:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def answer(prompt: int, completion: int) -> SimpleNamespace:
    return SimpleNamespace(content="hello", usage=SimpleNamespace(prompt_tokens=prompt, completion_tokens=completion))


# -- X 1 ----------------------------------------------------------------------------------------------------------


@PER_FAULT
@given(limit=st.integers(100, 1_000), calls=st.integers(2, 8))
def test_known_fault_x1_of_calls_at_once_only_those_that_fit_pass_the_check(make_registry, limit, calls):
    # covers X1, X4, E2
    registry = make_registry(limit)
    each = limit * 2 // 3

    async def attempt() -> bool:
        with suppress(BudgetExhaustedError):
            registry.check_budget("t", each)
            await asyncio.sleep(0)  # the call
            registry.consume("t", each, 0)
            return True
        return False

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(attempt() for _ in range(calls)))

    assert sum(asyncio.run(all_at_once())) == 1
    assert registry.get_usage("t")["total_tokens"] == each <= limit


async def test_known_fault_x1_the_router_holds_while_it_asks(make_router):
    # covers X15, E2
    class Obedient(Backend):
        async def complete(self, **request):
            self.asked.append(request)
            await asyncio.sleep(0.05)
            return answer(20, min(request["max_tokens"], 580))

    backend = Obedient()
    router = make_router(backend, limit=1_000)
    results = await asyncio.gather(
        *(router.complete("gpt-4o", HELLO, thread_id="t", max_tokens=600) for _ in range(4)), return_exceptions=True
    )
    used = router.registry.get_usage("t")["total_tokens"]
    assert used <= 1_000
    assert sum(isinstance(one, BudgetExhaustedError) for one in results) == 4 - len(backend.asked) > 0


def test_known_fault_x1_threads_800_and_800_on_1000(treasury):
    # covers X1, E2
    registry = ThreadBudgetRegistry(1_000, place=treasury, namespace=f"ns{next(_numbers)}")

    def attempt(_: int) -> int:
        try:
            registry.check_budget("t", 800)
        except BudgetExhaustedError:
            return 0
        registry.consume("t", 500, 300)
        return 800

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(attempt, range(2))) == 800
    assert registry.get_usage("t")["total_tokens"] == 800


# -- X 2 ----------------------------------------------------------------------------------------------------------


async def test_known_fault_x2_an_answer_cannot_overrun_the_budget(make_router):
    # covers X15, X16, E15
    class Obedient(Backend):
        async def complete(self, **request):
            self.asked.append(request)
            return answer(20, min(request["max_tokens"] or 4_000, 4_000))

    backend = Obedient()
    router = make_router(backend, limit=1_000)
    await router.complete("gpt-4o", HELLO, thread_id="t", max_tokens=4_000)
    assert router.registry.get_usage("t")["total_tokens"] <= 1_000


@pytest.mark.parametrize("content", [None, [{"type": "text", "text": "x" * 4_000}]])
async def test_known_fault_x2_content_of_every_shape_is_counted(make_router, content):
    # covers X16
    backend = Backend(answer(1, 1))
    messages = [{"role": "user", "content": content}, {"role": "user", "content": "long " * 300}]
    router = make_router(backend, limit=600)
    estimated = estimate_tokens(messages)
    if content is None:
        assert (await router.complete("gpt-4o", messages, thread_id="t")).content == "hello"
    else:
        with pytest.raises(BudgetExhaustedError):
            await router.complete("gpt-4o", messages, thread_id="t")
        assert backend.asked == []
    assert estimated >= 100


# -- X 3 ----------------------------------------------------------------------------------------------------------


async def test_known_fault_x3_a_warning_that_cannot_be_delivered_does_not_buy_the_call_again(make_router, caplog):
    # covers X11, X14
    class Pump:
        async def inject(self, *_: object, **__: object) -> None:
            raise ConnectionError("no pump")

    backend = Backend(answer(800, 100))
    router = make_router(backend, limit=1_000, pump=Pump())
    with caplog.at_level(logging.ERROR):
        done = await router.complete("gpt-4o", HELLO, thread_id="t", max_tokens=100)
    assert done.content == "hello"
    assert len(backend.asked) == 1
    assert router.registry.get_usage("t")["total_tokens"] == 900
    assert router.delivery_errors == 1
    assert "after_call_failed" in caplog.text


async def test_known_fault_x3_books_that_fail_do_not_buy_the_call_again(make_router, monkeypatch):
    # covers X19
    backend = Backend(answer(80, 10))
    router = make_router(backend)

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("no tracker")

    monkeypatch.setattr(router.tracker, "record", broken)
    monkeypatch.setattr(router.tracker, "tell", broken, raising=False)
    assert (await router.complete("gpt-4o", HELLO, thread_id="t")).content == "hello"
    assert len(backend.asked) == 1
    assert router.registry.get_usage("t")["total_tokens"] == 90


# -- X 4 ----------------------------------------------------------------------------------------------------------


async def test_known_fault_x4_failed_attempts_are_on_the_books(make_router):
    # covers X17, E14
    backend = Backend(TimeoutError(), TimeoutError(), answer(10, 5))
    router = make_router(backend)
    await router.complete("gpt-4o", [{"role": "user", "content": "word " * 100}], thread_id="t")
    assert len(backend.asked) == 3
    assert router.registry.get_usage("t")["total_tokens"] >= 15 + 2 * 100


async def test_known_fault_x4_a_provider_that_says_nothing_is_not_free(make_router):
    # covers X17, E14
    router = make_router(Backend(SimpleNamespace(content="word " * 200)))
    await router.complete("gpt-4o", HELLO, thread_id="t")
    assert router.registry.get_usage("t")["total_tokens"] >= 200


async def test_known_fault_x4_a_call_that_fails_for_good_is_on_the_books(make_router):
    # covers X17, E14
    backend = Backend(TimeoutError())
    router = make_router(backend)
    with pytest.raises(TimeoutError):
        await router.complete("gpt-4o", [{"role": "user", "content": "word " * 100}], thread_id="t")
    assert len(backend.asked) == 4
    assert router.registry.get_usage("t")["total_tokens"] >= 400


# -- X 5 ----------------------------------------------------------------------------------------------------------


@PER_FAULT
@given(limit=st.integers(100, 10_000), hops=st.integers(1, 30), data=st.data())
def test_known_fault_x5_a_hop_has_no_fresh_budget(make_registry, limit, hops, data):
    # covers X1, X4
    registry = make_registry(limit)
    used, last = 0, "hop0"
    registry.get_budget(last)
    for hop in range(1, hops + 1):
        registry.extend_chain(last, f"hop{hop}")
        last = f"hop{hop}"
        tokens = data.draw(st.integers(1, limit))
        with suppress(BudgetExhaustedError):
            registry.check_budget(last, tokens)
            registry.consume(last, tokens, 0)
            used += tokens
    assert used <= limit
    assert registry.get_budget("hop0").total_tokens == used
    assert registry.get_budget(last).remaining == limit - used


def test_a_hop_that_has_a_budget_of_its_own_cannot_become_a_hop(treasury):
    registry = ThreadBudgetRegistry(100, place=treasury, namespace=f"ns{next(_numbers)}")
    registry.get_budget("other")
    with pytest.raises(ValueError, match="budget of its own"):
        registry.extend_chain("t", "other")
    assert registry.extend_chain("t", "t").max_tokens == 100


# -- X 6 ----------------------------------------------------------------------------------------------------------


@FEW
@given(late=st.integers(1, 500))
def test_known_fault_x6_what_comes_after_the_clean_up_is_booked_and_opens_nothing(make_registry, late):
    # covers X7, E14
    registry = make_registry(1_000)
    registry.consume("t", 600, 0)
    assert registry.cleanup_thread("t").total_tokens == 600
    after, crossed = registry.consume("t", late, 0)
    assert (after.total_tokens, crossed) == (600 + late, [])
    assert registry.get_all_usage() == {}
    with pytest.raises(BudgetExhaustedError):
        registry.check_budget("t", 1)


def test_known_fault_x6_a_clean_up_at_the_same_time_loses_no_usage(treasury):
    # covers X7, E14
    registry = ThreadBudgetRegistry(10**6, place=treasury, namespace=f"ns{next(_numbers)}")
    registry.get_budget("t")
    with ThreadPoolExecutor(4) as pool:
        booked = [pool.submit(registry.booked, "t", 7, 0) for _ in range(20)]
        ended = pool.submit(registry.cleanup_thread, "t")
        for one in booked:
            one.result()
        ended.result()
    assert registry.booked("t", 0, 0).total_tokens == 140


# -- X 7 ----------------------------------------------------------------------------------------------------------


@FEW
@given(hops=st.integers(1, 12))
def test_known_fault_x7_a_clean_up_covers_the_whole_chain(make_registry, hops):
    # covers X7
    registry = make_registry(10_000)
    for hop in range(hops):
        registry.extend_chain("root", f"hop{hop}")
        registry.consume(f"hop{hop}", 10, 1)
    final = registry.cleanup_thread("root")
    assert final.total_tokens == 11 * hops
    assert registry.get_all_usage() == {}


def test_a_hop_that_ends_leaves_the_rest_of_the_chain(treasury):
    # covers X7
    registry = ThreadBudgetRegistry(1_000, place=treasury, namespace=f"ns{next(_numbers)}")
    registry.extend_chain("root", "hop")
    registry.consume("root", 100, 0)
    registry.consume("hop", 20, 5)
    assert registry.cleanup_thread("hop").total_tokens == 25
    assert registry.check_budget("root", 875) is True
    assert list(registry.get_all_usage()) == ["root"]


# -- X 8 ----------------------------------------------------------------------------------------------------------


@PER_FAULT
@given(calls=st.integers(1, 20))
def test_known_fault_x8_the_smallest_calls_add_up(make_tracker, calls):
    # covers X19, X22
    tracker = make_tracker()
    for _ in range(calls):
        assert tracker.record("t", "a", "gpt-4o-mini", "openai", 1, 0).cost_nanousd == 150
    assert tracker.get_totals()["total_cost_nanousd"] == 150 * calls


def test_known_fault_x8_what_has_no_price_is_not_free_without_a_trace(make_tracker):
    # covers X21, X22
    tracker = make_tracker()
    assert tracker.record("t", "a", "mystery", "", 1_000, 0).cost_nanousd is None
    assert tracker.get_totals()["unpriced_count"] == 1


def test_known_fault_x8_one_model_is_not_priced_as_another(make_tracker):
    # covers X22
    tracker = make_tracker()
    assert tracker.record("t", "a", "o1-mini", "openai", 10**6, 0).cost_nanousd != 15 * 10**9
    assert tracker.record("t", "a", "claude-3-5-sonnet-20241022", "anthropic", 10**6, 0).cost_nanousd == 3 * 10**9
    assert listed_price("o1-mini") is None


# -- X 9 ----------------------------------------------------------------------------------------------------------


def test_known_fault_x9_a_subscriber_that_fails_is_seen_and_keeps_nobody_from_it(make_tracker, caplog):
    # covers X20
    tracker = make_tracker()
    seen = []

    def broken(_: object) -> None:
        raise RuntimeError("no billing")

    tracker.subscribe(broken)
    tracker.subscribe(seen.append)
    tracker.record("t", "a", "gpt-4o", "openai", 5, 5)
    assert [one.total_tokens for one in seen] == [10]
    assert tracker.subscriber_errors == 1
    assert "subscriber_failed" in caplog.text


# -- X 10 ---------------------------------------------------------------------------------------------------------


def test_known_fault_x10_a_restart_keeps_budgets_thresholds_and_counts(tmp_path):
    # covers X1, X9, X21
    place = f"sqlite:///{tmp_path}/fiscus.db"
    told = []
    for tokens in (400, 400, 50, 60):
        registry, tracker = ThreadBudgetRegistry(1_000, place=place), UsageTracker(place=place)
        told += [one.threshold_percent for one in registry.consume("t", tokens, 0)[1]]
        tracker.record("t", "a", "gpt-4o", "openai", tokens, 0)
        used = registry.get_usage("t")["total_tokens"], tracker.get_agent_totals("a")["total_tokens"]
        registry.treasury.close()
    assert used == (910, 910)
    assert told == [75, 90], "each once, also by another process"


async def test_known_fault_x10_the_counts_of_agents_and_threads_agree(treasury):
    # covers X18, X23
    class Odd(Backend):
        async def complete(self, **_: object):
            usage = SimpleNamespace(prompt_tokens=10, completion_tokens=5, total_tokens=99)
            return SimpleNamespace(content="hello", usage=usage)

    namespace = f"ns{next(_numbers)}"
    router = LLMRouter(
        [Odd()],
        registry=ThreadBudgetRegistry(place=treasury, namespace=namespace),
        tracker=UsageTracker(place=treasury, namespace=namespace),
    )
    await router.complete("gpt-4o", HELLO, agent_id="a", thread_id="t")
    agent, thread = router.get_agent_usage("a"), router.registry.get_usage("t")
    assert agent.total_tokens == agent.prompt_tokens + agent.completion_tokens == thread["total_tokens"]
