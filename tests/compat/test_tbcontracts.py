"""The surface of tbcontracts, line by line, over a ledger."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import subprocess
import sys
import time

import pytest

from fiscus.compat import places, tbcontracts
from fiscus.compat.places import account_name, ledger_at
from fiscus.compat.tbcontracts import (
    BudgetContract,
    BudgetExceededError,
    BudgetManager,
    ConfidenceGate,
    GateBlockedError,
    Ledger,
    LedgerEntry,
    Reallocator,
    TBCError,
    UnknownAgentError,
    confidence_gate,
    contract,
    tokenizer,
)
from fiscus.contract.errors import FiscusError
from fiscus.sdk import SyncTreasury


@pytest.fixture(scope="module")
def treasury():
    with ledger_at("memory:") as opened:
        yield opened


@pytest.fixture
def namespace(request) -> str:
    return request.node.name


@pytest.fixture
def manager(treasury: SyncTreasury, namespace: str) -> BudgetManager:
    return BudgetManager(place=treasury, namespace=namespace, wait_s=2)


@pytest.fixture
def ledger(treasury: SyncTreasury, namespace: str) -> Ledger:
    return Ledger(treasury, namespace=namespace)


@pytest.mark.parametrize("module", [places, contract, tokenizer, confidence_gate], ids=lambda found: found.__name__)
def test_the_examples_are_true(module):
    assert doctest.testmod(module).failed == 0


# -- contracts ----------------------------------------------------------------------------------------------------


def test_a_contract_has_the_defaults_of_the_original():
    # covers T1, T3
    made = BudgetContract("a")
    assert (made.priority, made.max_tokens, made.min_reserve) == (1, 1000, 100)
    assert made.confidence_threshold is made.last_confidence is None
    assert abs(made.created_at - time.time()) < 5
    assert "last_confidence" not in repr(made)
    assert BudgetContract("a", max_tokens=1_999).min_reserve == 199


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({"priority": 0}, "priority must be >= 1"),
        ({"max_tokens": -1}, "max_tokens must be >= 0"),
        ({"max_tokens": 10, "min_reserve": 11}, "min_reserve must be between 0 and max_tokens"),
        ({"min_reserve": -1}, "min_reserve must be between 0 and max_tokens"),
        ({"confidence_threshold": 1.1}, "confidence_threshold must be between 0 and 1"),
        ({"confidence_threshold": float("nan")}, "confidence_threshold must be between 0 and 1"),
        ({"max_tokens": 0.8}, "max_tokens must be an integer"),
        ({"priority": True}, "priority must be an integer"),
    ],
)
def test_a_contract_says_what_is_wrong_with_it(terms, text):
    # covers T2, T3, T4
    with pytest.raises(ValueError) as error:
        BudgetContract("a", **terms)
    assert str(error.value) == text
    for name in ("", None, 5):
        with pytest.raises(ValueError, match="agent_name must be a text that is not empty"):
            BudgetContract(name)  # type: ignore[arg-type]


# -- the ledger ---------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_added_up_and_kept_in_order(ledger):
    # covers T5, T6
    ledger.register("a", 100)
    ledger.register("b", 50)
    entry = ledger.record("a", 30, "first")
    ledger.record("b", 5)
    ledger.record("a", 10, "second")
    assert (entry.agent_name, entry.tokens, entry.note) == ("a", 30, "first")
    assert (ledger.allocated("a"), ledger.consumed("a"), ledger.remaining("a")) == (100, 40, 60)
    assert ledger.snapshot() == {
        "a": {"allocated": 100, "consumed": 40, "remaining": 60},
        "b": {"allocated": 50, "consumed": 5, "remaining": 45},
    }
    assert [(one.agent_name, one.tokens, one.note) for one in ledger.history()] == [
        ("a", 30, "first"),
        ("b", 5, ""),
        ("a", 10, "second"),
    ]
    assert [one.tokens for one in ledger.history("a")] == [30, 10]
    ledger.history().clear()
    assert len(ledger.history()) == 3, "a copy"
    with pytest.raises(AttributeError):
        entry.tokens = 1  # type: ignore[misc]
    assert isinstance(entry, LedgerEntry)


def test_registering_again_keeps_what_was_consumed(ledger):
    # covers T6
    ledger.register("a", 100)
    ledger.record("a", 30)
    ledger.register("a", 100)
    ledger.register("a", 150)
    assert (ledger.allocated("a"), ledger.consumed("a")) == (150, 30)
    ledger.register("a", 40)
    assert (ledger.allocated("a"), ledger.consumed("a")) == (40, 30)
    with pytest.raises(ValueError, match="max_tokens"):
        ledger.register("a", 29)
    assert ledger.allocated("a") == 40


def test_an_allocation_is_adjusted_by_a_difference(ledger):
    # covers T6
    ledger.register("a", 100)
    ledger.adjust_allocation("a", 20)
    ledger.adjust_allocation("a", -50)
    assert ledger.allocated("a") == 70


@pytest.mark.parametrize("call", ["record", "remaining", "consumed", "allocated", "adjust_allocation", "history"])
def test_who_is_not_registered_is_named(ledger, call):
    # covers T6
    rest = {"record": (1,), "adjust_allocation": (1,)}.get(call, ())
    with pytest.raises(KeyError) as error:
        getattr(ledger, call)("nobody", *rest)
    assert str(error.value) == "Unknown agent 'nobody'. Register it first."


# -- moving -------------------------------------------------------------------------------------------------------


def fleet(manager: BudgetManager, **agents: tuple[int, int, int]) -> BudgetManager:
    """Agents by name: priority, tokens, reserve."""
    for name, (priority, tokens, reserve) in agents.items():
        manager.register_agent(name, priority=priority, max_tokens=tokens, min_reserve=reserve)
    return manager


def allocated(manager: BudgetManager) -> dict[str, int]:
    return {name: figures["allocated"] for name, figures in manager.report().items()}


def test_donors_give_above_their_reserve_the_least_important_and_most_idle_first(manager):
    # covers T7, T8, T9, T10, T11
    fleet(manager, needy=(2, 100, 0), idle=(1, 300, 50), busy=(1, 300, 50), equal=(2, 100, 10), above=(3, 900, 0))
    manager.record_usage("busy", 100)
    reallocator = manager.reallocator
    assert [donor.agent_name for donor in reallocator.find_donors(exclude="needy")] == ["idle", "busy", "equal"]
    assert reallocator.reallocate("needy", 300) == 300
    assert allocated(manager) == {"needy": 400, "idle": 50, "busy": 250, "equal": 100, "above": 900}
    assert reallocator.reallocate("needy", 10_000) == 100 + 90, "what is there, and no more"
    assert allocated(manager) == {"needy": 590, "idle": 50, "busy": 150, "equal": 10, "above": 900}
    assert sum(allocated(manager).values()) == 1_700


def test_nothing_is_moved_for_nothing(manager):
    # covers T10
    fleet(manager, a=(1, 100, 0), b=(1, 100, 0))
    assert manager.reallocator.reallocate("a", 0) == manager.reallocator.reallocate("a", -5) == 0
    for call in (manager.reallocator.reallocate, lambda agent, _: manager.reallocator.find_donors(agent)):
        with pytest.raises(KeyError):
            call("nobody", 5)
    assert isinstance(manager.reallocator, Reallocator)


# -- the gate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "last", "allowed"),
    [(None, 0.99, True), (0.8, None, True), (0.8, 0.79, True), (0.8, 0.8, False), (0.8, 0.9, False)],
)
def test_the_gate_stops_who_is_sure_enough(threshold, last, allowed):
    # covers T12
    contract = BudgetContract("a", confidence_threshold=threshold, last_confidence=last)
    assert ConfidenceGate().allow(contract) is allowed


def test_who_was_sure_enough_is_stopped_by_the_ledger_with_an_error_of_its_own(treasury, namespace):
    # covers T12, T15, T22
    tracer = Tracer()
    manager = BudgetManager(tracer, place=treasury, namespace=namespace)
    manager.register_agent("a", max_tokens=1_000, confidence_threshold=0.8)
    answers = iter([0.5, 0.9, 0.1])

    @manager.govern("a", confidence_fn=lambda result: result["sure"], usage_fn=lambda _: 10)
    def answer() -> dict[str, float]:
        return {"sure": next(answers)}

    assert [answer()["sure"], answer()["sure"]] == [0.5, 0.9]
    with pytest.raises(GateBlockedError) as blocked:
        answer()
    assert isinstance(blocked.value, BudgetExceededError)
    assert (blocked.value.requested, blocked.value.available) == (0, 980)
    assert "confidence gate" in str(blocked.value)
    assert "only 980 were available" not in str(blocked.value)
    spans = {span.name: span for span in tracer.spans}
    assert spans["tbc.confidence_gate_block"].attributes == {
        "tbc.agent": "a",
        "tbc.confidence": 0.9,
        "tbc.threshold": 0.8,
    }
    assert spans["tbc.govern_call"].attributes["tbc.gate_blocked"] is True
    manager.record_usage("a", 5)
    assert manager.remaining("a") == 975, "what was used is recorded, gate or not"
    manager.reset_gate("a")
    assert answer()["sure"] == 0.1


def test_the_gate_of_one_task_stops_no_other_and_it_outlives_the_manager(treasury, namespace):
    # covers T12, T15
    manager = BudgetManager(place=treasury, namespace=namespace)
    manager.register_agent("a", max_tokens=1_000, confidence_threshold=0.8)

    def review(chapter: str) -> float:
        return 0.9

    def governed(manager: BudgetManager):
        return manager.govern("a", confidence_fn=lambda sure: sure, task=lambda chapter: chapter)(review)

    assert governed(manager)("one") == governed(manager)("two") == 0.9
    again = BudgetManager(place=treasury, namespace=namespace)
    again.register_agent("a", max_tokens=1_000, confidence_threshold=0.8)
    with pytest.raises(GateBlockedError):
        governed(again)("one")
    assert governed(again)("three") == 0.9
    again.reset_gate("a", "one")
    assert governed(again)("one") == 0.9
    with pytest.raises(GateBlockedError):
        governed(again)("two")


def test_a_confidence_that_is_recorded_closes_the_gate_and_time_opens_it(manager):
    # covers T12, T17
    manager.register_agent("a", confidence_threshold=0.8, gate_s=1)
    work = manager.govern("a")(lambda: "done")
    manager.record_usage("a", 5, confidence=0.95)
    with pytest.raises(GateBlockedError):
        work()
    for _ in range(100):
        try:
            assert work() == "done"
            break
        except GateBlockedError:
            time.sleep(0.05)
    assert work() == "done"
    with pytest.raises(ValueError, match="gate_s goes with confidence_threshold"):
        manager.register_agent("a", gate_s=1)


# -- the manager --------------------------------------------------------------------------------------------------


def test_an_agent_is_registered_with_its_terms(manager):
    # covers T13
    made = manager.register_agent("a", 3, 500, 20, 0.9)
    assert (made.agent_name, made.priority, made.max_tokens, made.min_reserve) == ("a", 3, 500, 20)
    assert made.confidence_threshold == 0.9
    assert list(inspect.signature(BudgetManager.register_agent).parameters)[1:6] == [
        "name",
        "priority",
        "max_tokens",
        "min_reserve",
        "confidence_threshold",
    ]
    assert manager.remaining("a") == 500


def test_a_governed_function_is_estimated_recorded_and_otherwise_as_it_was(manager):
    # covers T14, T16
    manager.register_agent("a", max_tokens=1_000)

    @manager.govern("a")
    def answer(question: str, *, style: str = "short") -> str:
        """Answer."""
        return "one two three four"

    assert answer("five six", style="seven") == "one two three four"
    assert (answer.__name__, answer.__doc__) == ("answer", "Answer.")
    assert manager.report() == {"a": {"allocated": 1_000, "consumed": 7, "remaining": 993}}
    (entry,) = manager.ledger.history("a")
    assert (entry.note, entry.tokens) == ("answer", 7)


def test_the_shortfall_is_moved_and_not_a_token_more(manager):
    # covers T14, T10
    fleet(manager, a=(2, 100, 0), b=(1, 1_000, 100))

    @manager.govern("a", usage_fn=lambda _: 250)
    def work() -> str:
        return "done"

    assert work() == "done"
    assert allocated(manager) == {"a": 250, "b": 850}
    assert manager.remaining("a") == 0


@pytest.mark.parametrize("bound", [0, -5, 0.5, True, "100", 2**60])
def test_a_bound_that_is_none_is_found_out_at_decoration(manager, bound):
    # covers T14
    manager.register_agent("a")
    with pytest.raises(ValueError, match="tokens must be an integer in 1"):
        manager.govern("a", max_tokens=bound)(lambda: None)


def test_an_error_says_why_so_much_was_needed(manager):
    # covers T14
    manager.register_agent("a", max_tokens=100, min_reserve=0)
    work = manager.govern("a", usage_fn=lambda _: 30)(lambda: None)
    for _ in range(3):
        work()
    with pytest.raises(BudgetExceededError) as error:
        work()
    assert (error.value.requested, error.value.available) == (30, 10)
    assert "95 % of its last 3 calls used at most 30 tokens" in error.value.why


def test_a_method_and_what_calls_itself_are_governed(manager):
    # covers T14
    manager.register_agent("a", max_tokens=1_000)

    class Agent:
        name = "should not be counted"

        @manager.govern("a")
        def count_down(self, steps: int) -> str:
            return "x " + self.count_down(steps - 1) if steps else "end"

    assert Agent().count_down(3).endswith("end")
    assert manager.report()["a"]["consumed"] > 0


def test_an_agent_that_is_not_registered_is_found_out_at_decoration(manager):
    # covers T14, T17, T19
    for call in (
        lambda: manager.govern("nobody"),
        lambda: manager.record_usage("nobody", 1),
        lambda: manager.remaining("nobody"),
    ):
        with pytest.raises(UnknownAgentError) as error:
            call()
        assert str(error.value) == "Agent 'nobody' was never registered."


def test_an_exact_count_is_recorded_by_the_same_rules(manager):
    # covers T17
    fleet(manager, a=(2, 100, 0), b=(1, 100, 10))
    assert manager.record_usage("a", 60) is None
    manager.record_usage("a", 100, note="embedding", confidence=0.5)
    assert manager.report()["a"] == {"allocated": 160, "consumed": 160, "remaining": 0}
    assert manager.contracts["a"].last_confidence == 0.5
    assert [(one.tokens, one.note) for one in manager.ledger.history("a")] == [(60, "usage"), (100, "embedding")]
    with pytest.raises(ValueError, match="tokens must be >= 0"):
        manager.record_usage("a", -1)
    manager.record_usage("a", 0)
    with pytest.raises(BudgetExceededError) as error:
        manager.record_usage("a", 31)
    assert (error.value.requested, error.value.available) == (31, 0)


def test_what_is_recorded_inside_a_governed_function_is_what_it_used(manager):
    # covers T17
    manager.register_agent("a", max_tokens=1_000)

    @manager.govern("a")
    def answer(question: str) -> str:
        manager.record_usage("a", 123, note="provider")
        return "a text that is not counted"

    answer("why?")
    assert manager.report()["a"]["consumed"] == 123


def test_the_errors_have_their_texts_and_stand_in_both_trees():
    # covers T19
    error = BudgetExceededError("a", 10, 4)
    assert str(error) == ("Agent 'a' requested 10 tokens but only 4 were available even after attempting reallocation.")
    assert (error.agent_name, error.requested, error.available, error.result) == ("a", 10, 4, None)
    for kind in (BudgetExceededError, UnknownAgentError):
        assert issubclass(kind, TBCError)
        assert issubclass(kind, FiscusError)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("hello world", 2), ("a" * 10_000, 1_250)])
def test_tokens_are_those_of_the_vocabulary(text, tokens):
    # covers T20
    assert tokenizer.count_tokens(text) == tokens


def test_without_a_vocabulary_words_are_counted(monkeypatch):
    # covers T20
    def broken(_: str) -> int:
        raise ImportError("tiktoken")

    monkeypatch.setattr(tokenizer.texts, "count_tokens", broken)
    assert [tokenizer.count_tokens(text) for text in ("", "!", "one two three four")] == [0, 1, 5]


def test_everything_is_exported_and_nothing_is_imported_that_is_not_there():
    # covers T21, T25
    code = (
        "import sys; import fiscus.compat.tbcontracts as t; "
        "assert 'fiscus.compat.tbcontracts.adapters' not in sys.modules; "
        "[getattr(t, name) for name in t.__all__]; "
        "found = {'langgraph', 'crewai', 'langchain_core'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    wanted = {"BudgetContract", "Ledger", "Reallocator", "ConfidenceGate", "BudgetManager", "TelemetryRecorder"}
    wanted |= {"TBCError", "BudgetExceededError", "UnknownAgentError"}
    assert wanted <= set(tbcontracts.__all__)
    with pytest.raises(AttributeError):
        tbcontracts.nothing  # noqa: B018


# -- telemetry ----------------------------------------------------------------------------------------------------


class Span:
    def __init__(self, name: str) -> None:
        self.name = name
        self.attributes: dict[str, object] = {}
        self.exceptions: list[BaseException] = []
        self.ended = False

    def set_attribute(self, key: str, value: object) -> None:
        self.attributes[key] = value

    def record_exception(self, error: BaseException) -> None:
        self.exceptions.append(error)

    def end(self) -> None:
        self.ended = True


class Tracer:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def start_span(self, name: str) -> Span:
        self.spans.append(Span(name))
        return self.spans[-1]


def test_spans_are_made_if_somebody_wants_them(treasury, namespace):
    # covers T22, T18
    tracer = Tracer()
    manager = BudgetManager(tracer, place=treasury, namespace=namespace)
    fleet(manager, a=(2, 100, 0), b=(1, 1_000, 100))

    @manager.govern("a", usage_fn=lambda _: 150)
    def work() -> None:
        return None

    work()
    with pytest.raises(BudgetExceededError):
        manager.record_usage("a", 5_000, note="n")
    spans = {span.name: span for span in tracer.spans}
    assert spans["tbc.register_agent"].attributes == {"tbc.agent": "b", "tbc.priority": 1, "tbc.max_tokens": 1_000}
    assert spans["tbc.govern_call"].attributes == {
        "tbc.agent": "a",
        "tbc.function": "work",
        "tbc.tokens_used": 150,
        "tbc.gate_blocked": False,
    }
    assert spans["tbc.reallocate"].attributes == {
        "tbc.needy_agent": "a",
        "tbc.donor_agent": "b",
        "tbc.tokens_moved": 50,
        "tbc.shortfall": 50,
    }
    assert spans["tbc.record_usage"].attributes == {"tbc.agent": "a", "tbc.tokens_used": 5_000, "tbc.note": "n"}
    assert isinstance(spans["tbc.record_usage"].exceptions[0], BudgetExceededError)
    assert all(span.ended for span in tracer.spans)


def test_a_tracer_that_fails_changes_nothing(treasury, namespace):
    # covers T22
    class Broken:
        def start_span(self, name: str) -> Span:
            raise RuntimeError("no collector")

    manager = BudgetManager(Broken(), place=treasury, namespace=namespace)
    manager.register_agent("a")
    assert manager.govern("a")(lambda: "fine")() == "fine"


def test_telemetry_is_off_until_it_is_asked_for(manager):
    # covers T18, T22
    assert manager.telemetry.enabled is False
    assert manager.enable_telemetry() is True, "OpenTelemetry is installed here"
    assert manager.telemetry.enabled is True
    manager.register_agent("a")


# -- where the books are ------------------------------------------------------------------------------------------


def test_managers_of_one_namespace_share_their_books_and_others_do_not(treasury, namespace):
    first, second = (BudgetManager(place=treasury, namespace=namespace) for _ in range(2))
    other = BudgetManager(place=treasury, namespace=f"{namespace}-other")
    for manager in (first, second, other):
        manager.register_agent("a", max_tokens=100)
    first.record_usage("a", 30)
    assert [manager.remaining("a") for manager in (first, second, other)] == [70, 70, 100]


def test_all_managers_of_a_process_find_the_one_ledger_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = BudgetManager(), BudgetManager(namespace="two")
    assert one.ledger.books.treasury is two.ledger.books.treasury
    assert (tmp_path / "fiscus.db").exists()
    one.ledger.books.treasury.close()


def test_a_restart_keeps_the_books(tmp_path):
    place = f"sqlite:///{tmp_path}/fiscus.db"
    for expected in (900, 800, 700):
        manager = BudgetManager(place=place)
        manager.register_agent("a", max_tokens=1_000)
        manager.govern("a", usage_fn=lambda _: 100)(lambda: None)()
        assert manager.remaining("a") == expected
        manager.ledger.books.treasury.close()


def test_agents_may_stand_below_a_budget_that_binds_them_all(treasury, namespace):
    treasury.put_account("team:t")
    treasury.put_budget("team:t", "tokens", 150)
    manager = BudgetManager(place=treasury, namespace=namespace, parent="team:t")
    manager.register_agent("a", max_tokens=100)
    with pytest.raises(ValueError, match="max_tokens: team:t"):
        manager.register_agent("b", max_tokens=100)


@pytest.mark.parametrize("name", ["Research Agent", "a/b", "ä", " padded ", "x" * 400, "a%2Fb", "new\nline"])
def test_an_agent_may_be_called_anything(manager, name):
    manager.register_agent(name, max_tokens=10)
    assert manager.report() == {name: {"allocated": 10, "consumed": 0, "remaining": 10}}
    assert account_name("p:", "a/b") != account_name("p:", "a%2Fb")


async def test_a_manager_works_beside_a_running_loop(manager):
    manager.register_agent("a", max_tokens=1_000)

    @manager.govern("a")
    async def answer(question: str) -> str:
        await asyncio.sleep(0)
        return "one two three four"

    assert await asyncio.gather(*(answer("five") for _ in range(5))) == ["one two three four"] * 5
    assert manager.report()["a"]["consumed"] == 25
