"""Nodes of LangGraph and crews of CrewAI, as objects of the shapes that their documentation states."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace

import pytest

from fiscus.compat.places import ledger_at
from fiscus.compat.tbcontracts import (
    BudgetExceededError,
    BudgetManager,
    TBCCrewGovernor,
    TBCGraphGovernor,
    UnknownAgentError,
    govern_agent,
    govern_node,
)


@pytest.fixture(scope="module")
def treasury():
    with ledger_at("memory:") as opened:
        yield opened


@pytest.fixture
def manager(treasury, request) -> BudgetManager:
    made = BudgetManager(place=treasury, namespace=request.node.name)
    made.register_agent("a", max_tokens=1_000, confidence_threshold=0.9)
    return made


def consumed(manager: BudgetManager) -> int:
    return manager.report()["a"]["consumed"]


class Message:
    """As LangChain has it: content, and usage_metadata of the provider's answer."""

    def __init__(self, content: str, usage_metadata: dict[str, int] | None = None) -> None:
        self.content = content
        self.usage_metadata = usage_metadata


def test_a_node_says_what_it_used_and_how_sure_it_is(manager):
    # covers T23
    def plan(state: dict[str, object], config: dict[str, object]) -> dict[str, object]:
        return {"used": 321, "sure": 0.5, "plan": "a text that is not counted"}

    node = govern_node(manager, "a", plan, usage_key="used", confidence_key="sure")
    assert node({"question": "why?"}, {"tags": ["x"]}) == plan({}, {})
    assert consumed(manager) == 321
    assert manager.contracts["a"].last_confidence == 0.5
    assert [entry.note for entry in manager.ledger.history("a")] == ["langgraph:plan"]
    assert list(inspect.signature(node).parameters) == ["state", "config"], "LangGraph looks at them"


def test_without_a_key_texts_of_state_and_result_are_counted_and_nothing_else(manager):
    # covers T23
    node = govern_node(manager, "a", lambda state, config: {"answers": ["two three", "four"], "n": 7}, usage_key="used")
    node({"question": "one", "notes": ["five six"]}, {"configurable": {"thread_id": "a long identifier " * 50}})
    assert consumed(manager) == 6


def test_what_the_messages_in_a_result_say_is_exact(manager):
    # covers T23
    def chat(state: dict[str, object]) -> dict[str, object]:
        answer = Message("yes", {"input_tokens": 40, "output_tokens": 8, "total_tokens": 48})
        return {"messages": [Message("why?"), answer]}

    govern_node(manager, "a", chat)({"messages": []})
    assert consumed(manager) == 48


def test_a_node_may_be_async_a_runnable_or_return_a_command(manager):
    # covers T23
    async def plan(state: dict[str, object]) -> SimpleNamespace:
        return SimpleNamespace(update={"used": 10}, goto="next")

    class Runnable:
        name = "search"

        def invoke(self, state: dict[str, object], config: object = None) -> dict[str, int]:
            return {"used": 5}

    assert asyncio.run(govern_node(manager, "a", plan, "used")({})).goto == "next"
    assert govern_node(manager, "a", Runnable(), "used")({}) == {"used": 5}
    assert consumed(manager) == 15
    assert [entry.note for entry in manager.ledger.history("a")] == ["langgraph:plan", "langgraph:search"]
    with pytest.raises(TypeError, match="invoke"):
        govern_node(manager, "a", 5)


def test_adapters_make_the_spans_of_governed_calls(treasury):
    # covers T22, T23, T24
    class Tracer:
        def __init__(self) -> None:
            self.names: list[str] = []
            self.functions: list[object] = []

        def start_span(self, name: str) -> SimpleNamespace:
            self.names.append(name)

            def set_attribute(key: str, value: object) -> None:
                if key == "tbc.function":
                    self.functions.append(value)

            return SimpleNamespace(set_attribute=set_attribute, record_exception=lambda _: None, end=lambda: None)

    tracer = Tracer()
    manager = BudgetManager(tracer, place=treasury, namespace="spans")
    manager.register_agent("a", max_tokens=1_000, confidence_threshold=0.5)
    node = govern_node(manager, "a", lambda state: {"sure": 0.9}, confidence_key="sure")
    node({})
    for call in (node, govern_agent(manager, "a", Crew(5))):
        with pytest.raises(BudgetExceededError):
            call({})
    assert tracer.names.count("tbc.govern_call") == 3
    assert tracer.names.count("tbc.confidence_gate_block") == 2
    assert tracer.functions == ["langgraph:<lambda>", "langgraph:<lambda>", "crewai:writers"]


def test_a_node_without_budget_is_not_run(manager):
    # covers T23, E14
    manager.record_usage("a", 1_000)
    with pytest.raises(BudgetExceededError):
        govern_node(manager, "a", lambda state: pytest.fail("must not run"))({})


class Crew:
    """As CrewAI has it: kickoff, and an output with raw and token_usage."""

    name = "writers"

    def __init__(self, total_tokens: int) -> None:
        self.total_tokens = total_tokens

    def kickoff(self, inputs: dict[str, str]) -> SimpleNamespace:
        usage = SimpleNamespace(total_tokens=self.total_tokens, prompt_tokens=self.total_tokens, completion_tokens=0)
        return SimpleNamespace(raw="two three four", tasks_output=[], token_usage=usage)


def test_a_crew_is_booked_by_its_own_count(manager):
    # covers T24
    result = govern_agent(manager, "a", Crew(250))(inputs={"topic": "one"})
    assert result.raw == "two three four"
    assert consumed(manager) == 250
    assert [entry.note for entry in manager.ledger.history("a")] == ["crewai:writers"]


@pytest.mark.parametrize("name", ["raw", "output", "result"])
def test_a_crew_that_counts_nothing_is_booked_by_its_text(manager, name):
    # covers T24
    govern_agent(manager, "a", lambda prompt: SimpleNamespace(**{name: "two three four"}))("one")
    assert consumed(manager) == 4


def test_a_crew_whose_provider_said_nothing_was_not_free(manager):
    # covers T24
    govern_agent(manager, "a", Crew(0))(inputs={"topic": "one"})
    assert consumed(manager) == 4


def test_what_the_functions_of_a_user_raise_costs_nobody_the_result(manager):
    # covers T24
    def broken(result: object) -> int:
        raise RuntimeError("no usage")

    run = govern_agent(manager, "a", lambda prompt: "two three", usage_fn=broken, confidence_fn=broken)
    assert run("one") == "two three"
    assert consumed(manager) == 3
    assert manager.contracts["a"].last_confidence is None
    exact = govern_agent(manager, "a", lambda prompt: "x", usage_fn=lambda _: 100, confidence_fn=lambda _: 0.25)
    exact("one")
    assert consumed(manager) == 103
    assert manager.contracts["a"].last_confidence == 0.25
    with pytest.raises(TypeError, match="kickoff"):
        govern_agent(manager, "a", 5)


@pytest.mark.parametrize("kind", [TBCGraphGovernor, TBCCrewGovernor])
def test_a_governor_registers_wraps_and_reports(manager, kind):
    # covers T23, T24
    governor = kind(manager)
    governor.register("b", priority=2, max_tokens=50)
    assert governor.wrap("b", lambda given: "two")("one") == "two"
    assert governor.report()["b"] == {"allocated": 50, "consumed": 2, "remaining": 48}
    with pytest.raises(UnknownAgentError):
        governor.wrap("nobody", lambda given: None)


@pytest.mark.parametrize("kind", [TBCGraphGovernor, TBCCrewGovernor])
def test_a_governor_makes_a_manager_of_its_own(kind, tmp_path, monkeypatch):
    # covers T23, T24
    monkeypatch.chdir(tmp_path)
    governor = kind()
    governor.register("a", max_tokens=10)
    assert governor.report()["a"]["remaining"] == 10
    governor.manager.ledger.books.treasury.close()
