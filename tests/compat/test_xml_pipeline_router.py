"""The router of xml-pipeline over backends and over the gateway."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from fiscus.compat.places import ledger_at
from fiscus.compat.xml_pipeline import (
    AgentUsage,
    BudgetExhaustedError,
    BudgetWarning,
    LLMRouter,
    ThreadBudgetRegistry,
    ThreadEndedError,
    UsageTracker,
    estimate_tokens,
)
from fiscus.compat.xml_pipeline.backends import Target, Targets, may_be_billed, may_be_repeated, wait_s
from fiscus.gateway.options import GatewayOptions
from fiscus.sdk import SyncTreasury, open_sync
from tests.gateway import wire
from tests.gateway.gate import providers
from tests.gateway.upstream import upstream as running

HELLO = [{"role": "user", "content": "Say hello."}]


class Fake:
    """A backend that answers, or raises, what it is told to, in turn."""

    def __init__(self, *answers: object, **attributes: object) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, object]] = []
        for name, value in attributes.items():
            setattr(self, name, value)

    async def complete(self, **request: object) -> object:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def answer(prompt: int = 10, completion: int = 5) -> SimpleNamespace:
    usage = SimpleNamespace(prompt_tokens=prompt, completion_tokens=completion)
    return SimpleNamespace(content="hello", usage=usage)


class Status(Exception):
    def __init__(self, status: int, **more: object) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        for name, value in more.items():
            setattr(self, name, value)


@pytest.fixture(scope="module")
def treasury():
    with ledger_at("memory:") as opened:
        yield opened


@pytest.fixture
def make(treasury: SyncTreasury, request):
    def made(*backends: object, limit: int = 10_000, **options: object) -> LLMRouter:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        router = LLMRouter(
            list(backends),
            registry=ThreadBudgetRegistry(limit, place=treasury, namespace=request.node.name),
            tracker=UsageTracker(place=treasury, namespace=request.node.name),
            wait_for_budget_s=0.2,
            sleep=sleep,
            **options,
        )
        router.slept = slept
        return router

    return made


async def test_a_call_is_held_asked_booked_counted_and_told(make):
    # covers X15, X18, X19, X23
    backend = Fake(answer(11, 7), name="openai")
    router = make(backend)
    events = []
    router.tracker.subscribe(events.append)
    done = await router.complete("gpt-4o", HELLO, agent_id="a", thread_id="t", metadata={"org_id": "o"})
    assert done.content == "hello"
    assert backend.requests == [{"model": "gpt-4o", "messages": HELLO, "temperature": 0.7, "max_tokens": 4_096}]
    assert router.registry.get_usage("t")["total_tokens"] == 18
    assert router.get_agent_usage("a") == AgentUsage(18, 11, 7, 1)
    assert router.tracker.get_model_totals("gpt-4o")["prompt_tokens"] == 11
    (event,) = events
    assert (event.thread_id, event.agent_id, event.model, event.provider) == ("t", "a", "gpt-4o", "openai")
    assert event.cost_nanousd == 11 * 2_500 + 7 * 10_000
    assert event.metadata == {"org_id": "o"}
    assert event.latency_ms > 0
    await router.complete("gpt-4o", HELLO, agent_id="a", thread_id="t", temperature=0.1, max_tokens=50, tools=[])
    assert backend.requests[1]["max_tokens"] == 50
    assert router.get_all_usage() == {"a": AgentUsage(36, 22, 14, 2)}
    router.reset_agent_usage("a")
    assert router.get_agent_usage("a") == AgentUsage()


async def test_a_thread_without_budget_is_not_answered(make):
    # covers X15
    backend = Fake(answer())
    router = make(backend, limit=1_000)
    router.registry.consume("t", 1_000, 0)
    with pytest.raises(BudgetExhaustedError, match="1000/1000 tokens used"):
        await router.complete("gpt-4o", HELLO, thread_id="t")
    assert backend.requests == []
    router.registry.cleanup_thread("t")
    with pytest.raises(ThreadEndedError):
        await router.complete("gpt-4o", HELLO, thread_id="t")
    assert backend.requests == []
    await router.complete("gpt-4o", HELLO)
    assert len(backend.requests) == 1, "without a thread nothing limits it"


async def test_an_answer_may_not_be_longer_than_what_is_left(make):
    # covers X15
    backend = Fake(answer())
    router = make(backend, limit=1_000)
    await router.complete("gpt-4o", HELLO, thread_id="t", max_tokens=5_000)
    assert 900 < backend.requests[0]["max_tokens"] < 1_000


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [([], 100), ([{"content": "x" * 1_000}], 250), ([{"content": None}, {"content": [{"text": "y" * 800}]}], 200)],
)
def test_the_estimate_of_the_original_is_there_to_be_asked(messages, tokens):
    # covers X16
    assert estimate_tokens(messages) == tokens


@pytest.mark.parametrize(
    ("strategy", "order"),
    [("failover", ["b", "b", "b", "b"]), ("round-robin", ["a", "b", "c", "a"]), ("least-loaded", ["a", "b", "c", "a"])],
)
def test_backends_are_chosen_by_the_strategy(strategy, order):
    # covers X17
    backends = [Fake(1, name=name, priority=priority) for name, priority in (("a", 5), ("b", 1), ("c", 5))]
    targets = Targets(backends, strategy)
    assert [targets.next("m", ()).name for _ in range(4)] == order


def test_a_backend_that_is_busy_used_up_or_lacks_the_model_is_passed_over():
    # covers X17
    targets = Targets([Fake(1, name="a"), Fake(1, name="b"), Fake(1, name="c", models=["other"])], "least-loaded")
    first = targets.next("m", ())
    first.in_flight = 3
    assert {targets.next("m", ()).name for _ in range(4)} == {"b"}
    assert targets.next("other", [first]).name in ("b", "c")
    with pytest.raises(ValueError, match="no backend has 'm'"):
        Targets([Fake(1, models=["other"])], "failover").next("m", ())
    with pytest.raises(ValueError, match="strategy"):
        Targets([], "random")  # type: ignore[arg-type]
    full = Targets([Fake(1, name="a", rate_limit_tpm=100), Fake(1, name="b", priority=9)], "failover")
    full.next("m", ()).rate.took(200)
    assert full.next("m", ()).name == "b"


async def test_no_more_calls_run_at_once_than_a_backend_takes_and_none_for_longer():
    # covers X17
    running_now: list[int] = []

    class Slow:
        max_concurrent = 2
        timeout = 0.05

        async def complete(self, **_: object) -> None:
            running_now.append(1)
            assert len(running_now) <= 2
            await asyncio.sleep(0.01)
            running_now.pop()

    target = Target(Slow())
    await asyncio.gather(*(target.ask({}) for _ in range(6)))
    assert target.in_flight == 0
    with pytest.raises(TimeoutError):
        await Target(SimpleNamespace(complete=lambda **_: asyncio.sleep(5), timeout=0.01)).ask({})
    defaults = Target(Fake(1))
    assert (defaults.timeout_s, defaults.name, defaults.priority) == (120.0, "Fake", 0)


async def test_a_backend_whose_tokens_of_the_minute_are_used_up_is_waited_for():
    # covers X17
    target = Target(Fake("done", rate_limit_tpm=60_000))
    target.rate.took(60_100)
    began_s = asyncio.get_running_loop().time()
    assert await target.ask({}) == "done"
    assert asyncio.get_running_loop().time() - began_s >= 0.05


async def test_calls_go_round_and_are_counted_as_priced_or_not(make):
    # covers X17, X22
    first, second = Fake(answer(), name="a"), Fake(answer(), name="b")
    router = make(first, second, strategy="round-robin")
    for _ in range(4):
        await router.complete("gpt-4o", HELLO, thread_id="t")
    assert (len(first.requests), len(second.requests)) == (2, 2)
    await router.complete("mystery", HELLO, agent_id="x")
    totals = router.tracker.get_totals()
    assert (totals["request_count"], totals["unpriced_count"]) == (5, 1)
    with pytest.raises(ValueError, match="no backend has 'other'"):
        await make(Fake(answer(), models=["gpt-4o"])).complete("other", HELLO)


async def test_a_failed_attempt_is_tried_again_elsewhere_after_a_pause(make):
    # covers X17
    first, second = Fake(TimeoutError(), name="a"), Fake(answer(), name="b", priority=2)
    router = make(first, second)
    await router.complete("gpt-4o", HELLO, agent_id="x", thread_id="t")
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert len(router.slept) == 1
    assert 0.75 <= router.slept[0] <= 1.25


async def test_a_call_is_not_tried_again_beyond_what_its_thread_has(make):
    # covers X15, X17
    backend = Fake(TimeoutError(), answer())
    router = make(backend, limit=500)
    with pytest.raises(BudgetExhaustedError) as error:
        await router.complete("gpt-4o", [{"role": "user", "content": "word " * 300}], thread_id="t")
    assert isinstance(error.value.__cause__, TimeoutError)
    assert len(backend.requests) == 1
    assert 300 <= router.registry.get_usage("t")["total_tokens"] < 350, "what the first attempt may have cost"


async def test_an_attempt_after_a_failed_one_has_what_is_left_for_its_answer(make):
    # covers X15, X17
    backend = Fake(TimeoutError(), answer())
    router = make(backend, limit=1_000)
    await router.complete("gpt-4o", [{"role": "user", "content": "word " * 300}], thread_id="t", max_tokens=600)
    first, second = (request["max_tokens"] for request in backend.requests)
    assert first == 600
    assert 300 < second < 400


@pytest.mark.parametrize(
    ("error", "billed", "repeated"),
    [
        (TimeoutError(), True, True),
        (Status(500), True, True),
        (Status(429), False, True),
        (Status(400), False, False),
        (ConnectionRefusedError(), False, True),
    ],
)
def test_what_a_provider_rejected_was_not_billed_and_all_else_may_have_been(error, billed, repeated):
    # covers X17
    assert (may_be_billed(error), may_be_repeated(error)) == (billed, repeated)


def test_pauses_double_up_to_a_minute_and_a_provider_may_ask_for_its_own():
    # covers X17
    for attempt, seconds in ((0, 1), (3, 8), (20, 60)):
        assert 0.75 * seconds <= wait_s(attempt, TimeoutError()) <= 1.25 * seconds
    assert wait_s(0, Status(429, retry_after=7)) == 7.0
    assert wait_s(0, Status(429, retry_after=-7)) <= 1.25


async def test_a_request_that_is_wrong_is_not_repeated_and_costs_nothing(make):
    # covers X17
    backend = Fake(Status(400))
    router = make(backend)
    with pytest.raises(Status):
        await router.complete("gpt-4o", HELLO, thread_id="t")
    assert len(backend.requests) == 1
    assert router.registry.get_usage("t")["total_tokens"] == 0


async def test_warnings_go_to_the_agent_once_each(make):
    # covers X11, X13
    injected: list[tuple[BudgetWarning, dict[str, str]]] = []

    class Pump:
        async def inject(self, warning: BudgetWarning, **address: str) -> None:
            injected.append((warning, address))

    router = make(Fake(answer(700, 60), answer(130, 20), answer(40, 5)), limit=1_000, pump=Pump())
    for agent in ("a", None, "a"):
        await router.complete("gpt-4o", HELLO, agent_id=agent, thread_id="t", max_tokens=20)
    assert [(one.severity, address["to_id"]) for one, address in injected] == [
        ("warning", "a"),
        ("critical", "system"),
        ("final", "a"),
    ]
    assert injected[0][1] == {"thread_id": "t", "from_id": "system.budget", "to_id": "a"}
    assert injected[0][0].message == "Note: 76% of token budget used. 240 tokens remaining."


async def test_without_a_pump_a_warning_is_logged_and_the_call_goes_on(make, caplog):
    # covers X14
    router = make(Fake(answer(800, 0)), limit=1_000)
    assert (await router.complete("gpt-4o", HELLO, thread_id="t", max_tokens=20)).content == "hello"
    assert "budget_warning_without_pump" in caplog.text


async def test_a_cancelled_call_is_booked_and_holds_nothing(make):
    # covers X15
    started = asyncio.Event()

    class Hanging:
        async def complete(self, **_: object) -> None:
            started.set()
            await asyncio.Event().wait()

    router = make(Hanging())
    task = asyncio.create_task(router.complete("gpt-4o", HELLO, thread_id="t"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    used = router.registry.get_usage("t")["total_tokens"]
    assert 0 < used < 50, "its input, as an estimate"
    assert router.registry.check_budget("t", 10_000 - used) is True


async def test_without_backends_the_gateway_asks(tmp_path):
    # covers X15, X18
    async with running() as provider:
        provider.answers(wire.chat_answer(), wire.chat_answer())
        options = GatewayOptions(upstreams=providers(provider))
        treasury = await asyncio.to_thread(open_sync, f"sqlite:///{tmp_path}/fiscus.db", gateway=options)
        router = LLMRouter(registry=ThreadBudgetRegistry(5_000, place=treasury))
        done = await router.complete("gpt-4o", HELLO, agent_id="a", thread_id="t", max_tokens=50)
        assert done.text == "Hello!"
        assert router.registry.get_usage("t")["total_tokens"] == done.tokens.input + done.tokens.output
        assert router.get_agent_usage("a").total_tokens == router.registry.get_usage("t")["total_tokens"]
        await router.complete("gpt-4o", HELLO, max_tokens=50)
        router.registry.consume("t", 5_000, 0)
        with pytest.raises(BudgetExhaustedError):
            await router.complete("gpt-4o", HELLO, thread_id="t")
        await asyncio.to_thread(treasury.close)
