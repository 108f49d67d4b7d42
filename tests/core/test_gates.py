"""The confidence gate: its own refusal, per account and task, with expiry and reset (T12, T15, T known fault 8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.core.commands import Compound, EraseName, Extend, Reserve
from fiscus.core.gates import GATES_MAX, millionths, task_key, threshold_millionths
from fiscus.core.records import CallRecord, Provenance
from tests.core.builders import HOUR, MINUTE, Ledger, moment, rows

TASK = {"task": "summarise"}


def record(confidence, **provenance):
    return CallRecord(confidence=confidence, provenance=Provenance(**provenance) if provenance else None)


@pytest.fixture
def agent(pool):
    """a (below root) has a gate at 0.9, which stays closed for a minute."""
    pool.account("a", confidence_threshold=0.9, gate_s=60)
    return pool


def call(ledger, id, confidence=None, account="a", attributes=TASK, **fields):
    """A call from beginning to end."""
    ledger.reserve(id, account, 1, attributes=attributes)
    return ledger.settle(id, 1, record=record(confidence), **fields)


# covers T12
@pytest.mark.parametrize(
    ("threshold", "confidence", "closes"),
    [
        (None, 1.0, False),
        (0.9, None, False),
        (0.9, 0.0, False),
        (0.9, 0.8999999999, False),
        (0.9, 0.9, True),
        (0.9, 1, True),
        (0.29, 0.29, True),
        (0.3, 0.1 + 0.2, True),
        (0.000001, 0.0000009, False),
        (0.1234561, 0.12345605, False),
        (0.1234561, 0.1234562, False),
        (0.1234561, 0.123457, True),
        (1e-300, 0.0, False),
        (1e-300, 0.1, True),
        (0, 0.0, True),
        (0, None, False),
        (1, 0.9999999, False),
        (1, 1.0, True),
    ],
)
def test_the_next_call_is_refused_iff_the_confidence_reached_the_threshold(pool, threshold, confidence, closes):
    pool.account("a", confidence_threshold=threshold)
    call(pool, "h1", confidence)
    assert ("GateClosed" in pool.kinds()) is closes
    pool.reserve("h2", "a", 1, attributes=TASK, refused="gated" if closes else None)


# covers T12
@given(threshold=st.integers(0, 1_000_000), confidence=st.integers(0, 10_000_000))
def test_confidences_are_compared_by_their_decimal_digits_exactly(threshold, confidence):
    closes = millionths(confidence / 10_000_000) >= threshold_millionths(threshold / 1_000_000)
    assert closes is (confidence >= threshold * 10)


# covers T15
def test_a_gate_says_that_it_is_one_and_when_it_opens(agent):
    call(agent, "h1", 0.95)
    refused = agent.reserve("h2", "a", 1, attributes=TASK, refused="gated")
    assert "'summarise'" in refused.detail
    assert "only" not in refused.detail, "T known fault 8: it is no lack of budget"
    assert (refused.binding, refused.requested) == (None, None)
    assert refused.resets_at == moment(MINUTE)
    assert refused.retry_after_s is None


# covers T15
def test_a_gate_is_scoped_to_one_account_and_one_task(agent):
    agent.account("b", confidence_threshold=0.9)
    agent.tree("a/child")
    call(agent, "h1", 0.95)
    agent.reserve("other task", "a", 1, attributes={"task": "translate"})
    agent.reserve("no task", "a", 1)
    agent.reserve("other account", "b", 1, attributes=TASK)
    agent.reserve("below", "child", 1, attributes=TASK)
    agent.reserve("also", "b", 1, also=("a",), attributes=TASK)
    agent.reserve("same", "a", 1, attributes={**TASK, "model": "m"}, refused="gated")


def test_calls_that_name_no_task_are_a_task_of_their_own(agent):
    call(agent, "h1", 0.95, attributes={})
    assert "its work" in agent.reserve("h2", "a", 1, refused="gated").detail
    agent.reserve("h2", "a", 1, attributes={"task": ""}, refused="gated")
    agent.reserve("h3", "a", 1, attributes=TASK)


# covers T12
def test_a_gate_opens_when_its_time_has_passed_and_closes_again(agent):
    call(agent, "h1", 0.95)
    agent.wait(MINUTE - 1).reserve("h2", "a", 1, attributes=TASK, refused="gated")
    agent.wait(1).reserve("h2", "a", 1, attributes=TASK)
    assert agent.account("a").gates == ()
    agent.settle("h2", 1, record=record(0.95))
    agent.reserve("h3", "a", 1, attributes=TASK, refused="gated")
    assert len(agent.draft.accounts[2].gates) == 1


def test_without_a_time_it_stays_closed_until_it_is_reset(pool):
    pool.account("a", confidence_threshold=0.9)
    call(pool, "h1", 0.95)
    refused = pool.wait(1_000 * HOUR).reserve("h2", "a", 1, attributes=TASK, refused="gated")
    assert refused.resets_at is None
    assert "reset" in refused.detail
    pool.reset_gate("a", "summarise")
    pool.reserve("h2", "a", 1, attributes=TASK)


@pytest.mark.parametrize(("task", "open_again"), [("summarise", ["summarise"]), ("", [""]), (None, ["", "summarise"])])
def test_a_reset_opens_the_gate_of_a_task_or_all(agent, task, open_again):
    for number, name in enumerate(("", "summarise")):
        call(agent, f"h{number}", 1.0, attributes={"task": name} if name else {})
    answer = agent.reset_gate("a", task)
    assert agent.kinds() == ["GateReset"]
    assert [gate.key for gate in answer.gates] == [
        task_key(name) for name in ("", "summarise") if name not in open_again
    ]
    for name in ("", "summarise"):
        agent.reserve(
            f"again {name}", "a", 1, attributes={"task": name}, refused=None if name in open_again else "gated"
        )
    agent.reset_gate("a", "never closed")
    assert agent.kinds() == []


def test_a_reset_is_within_the_scope_of_a_key(agent):
    call(agent, "h1", 1.0)
    agent.reset_gate("a", scope="b", refused="forbidden")
    agent.reset_gate("nobody", refused="unknown_account")
    agent.reset_gate("a", scope="root")


# covers T12
@pytest.mark.parametrize(
    ("attributes", "provenance", "task"),
    [
        ({"task": "t"}, {}, "t"),
        ({}, {"task_name": "t"}, "t"),
        ({}, {"task_type": "t"}, "t"),
        ({}, {"task_name": "t", "task_type": "u"}, "t"),
        ({"task": "t"}, {"task_name": "u"}, "t"),
        ({}, {"intent": "x"}, ""),
        ({}, {}, ""),
    ],
)
def test_usage_without_a_hold_says_its_task_by_its_attributes_else_by_its_provenance(
    agent, attributes, provenance, task
):
    agent.use("a", 1, attributes=attributes, record=record(0.95, **provenance))
    assert list(agent.draft.accounts[2].gates) == [task_key(task)]
    agent.reserve("h", "a", 1, attributes={"task": task}, refused="gated")


def test_of_a_held_call_what_it_said_when_it_asked_is_the_task(agent):
    agent.reserve("h1", "a", 1)
    agent.settle("h1", 1, record=record(0.95, task_name="other"), attributes={"task": "another"}, account="a")
    assert list(agent.draft.accounts[2].gates) == [""]


def test_any_reading_closes_the_gate_and_a_repeated_one_does_not_close_it_again(agent):
    agent.reserve("h1", "a", 5, attributes=TASK)
    agent.settle("h1", 1, final=False, record=record(0.95))
    agent.reserve("h2", "a", 1, attributes=TASK, refused="gated")
    agent.reset_gate("a")
    agent.settle("h1", 1, final=False, record=record(0.95))
    assert agent.kinds() == []
    agent.extend("h1", 6)
    agent.settle("h1", 6, record=record(0.95))
    assert "GateClosed" in agent.kinds(), "a gate does not stop a call that runs"


def test_the_gate_is_asked_before_the_budget_and_a_known_id_before_the_gate(agent):
    agent.reserve("h0", "a", 1, attributes=TASK)
    call(agent, "h1", 1.0)
    assert agent.reserve("h0", "a", 1, attributes=TASK).state == "held"
    agent.reserve("h2", "a", 1_000, attributes=TASK, refused="gated")
    agent.reset_gate("a")
    agent.reserve("h2", "a", 1_000, attributes=TASK, refused="budget_exceeded")


def test_a_refused_reserve_leaves_the_gate_and_all_else_as_they_are(agent):
    call(agent, "h1", 1.0)
    before = rows(agent.draft)
    agent.reserve("h2", "a", 1, attributes=TASK, refused="gated")
    agent.do(Compound(commands=(Extend(id="h1"), Reserve(id="h2", account="a", amounts={"tokens": 1}))), "conflict")
    assert rows(agent.draft) == before


def test_the_terms_change_one_by_one(agent):
    answer = agent.account("a", confidence_threshold=0.5)
    assert (answer.confidence_threshold, answer.gate_s) == (0.5, 60)
    answer = agent.account("a", gate_s=None)
    assert (answer.confidence_threshold, answer.gate_s) == (0.5, None)
    agent.account("a", priority=2)
    assert agent.last[0].gate is None
    agent.account("a", confidence_threshold=0.5)
    assert agent.kinds() == []
    answer = agent.account("a", confidence_threshold=None)
    assert (answer.confidence_threshold, answer.gate_s) == (None, None)
    agent.account("a", gate_s=5, refused="invalid")


def test_an_account_without_a_gate_any_more_has_none_that_is_closed(agent):
    call(agent, "h1", 1.0)
    assert agent.account("a").gates[0].task is None, "its settlement did not say the name again"
    assert agent.account("a", confidence_threshold=None).gates == ()
    agent.reserve("h2", "a", 1, attributes=TASK)
    agent.account("a", confidence_threshold=0.9)
    agent.reserve("h3", "a", 1, attributes=TASK)


def test_a_gate_ends_with_its_account_and_its_names_with_the_name(agent):
    agent.reserve("late", "a", 1, attributes=TASK)
    call(agent, "h1", 1.0, attributes={"task": "of Bob"})
    agent.use("a", 1, attributes={"task": "of Ann"}, record=record(1.0))
    account = agent.draft.accounts[2]
    assert list(account.tasks.values()) == ["of Ann"]
    assert [gate.task for gate in agent.account("a").gates] == [None, "of Ann"]
    agent.status("a", "suspended")
    assert len(account.gates) == 2
    agent.status("a", "terminated")
    assert (account.gates, account.tasks) == ({}, {})
    agent.settle("late", 1, record=record(1.0))
    assert account.gates == {}
    agent.do(EraseName(account="a"))


def test_an_account_has_so_many_closed_gates_and_then_the_first_opens(agent):
    agent.account("a", gate_s=None)
    for number in range(GATES_MAX):
        agent.use("a", 0, attributes={"task": f"t{number}"}, record=record(1.0))
    agent.reserve("h", "a", 1, attributes={"task": "t0"}, refused="gated")
    agent.use("a", 0, attributes={"task": "one more"}, record=record(1.0))
    assert agent.last[-1].opened == (task_key("t0"),)
    assert len(agent.draft.accounts[2].gates) == len(agent.draft.accounts[2].tasks) == GATES_MAX
    agent.reserve("h0", "a", 1, attributes={"task": "t0"})
    agent.reserve("h1", "a", 1, attributes={"task": "t1"}, refused="gated")


def test_gates_that_are_open_again_make_room_first(agent):
    agent.use("a", 0, attributes={"task": "brief"}, record=record(1.0))
    agent.account("a", gate_s=3_600)
    for number in range(GATES_MAX - 1):
        agent.use("a", 0, attributes={"task": f"t{number}"}, record=record(1.0))
    agent.wait(MINUTE).use("a", 0, attributes={"task": "one more"}, record=record(1.0))
    assert agent.last[-1].opened == (task_key("brief"),)
    agent.reserve("h", "a", 1, attributes={"task": "t0"}, refused="gated")


def test_a_template_gives_its_gate_to_what_it_opens(ledger):
    ledger.account("root")
    ledger.template("t:*", parent="root", confidence_threshold=0.5, gate_s=60)
    ledger.template("t:*", parent="root", confidence_threshold=0.5, gate_s=60)
    assert ledger.kinds() == []
    ledger.template("t:*", parent="root", confidence_threshold=0.6, gate_s=60)
    assert ledger.kinds() == ["TemplatePut"]
    ledger.reserve("h1", "t:1", 1)
    answer = ledger.account("t:1")
    assert (answer.confidence_threshold, answer.gate_s) == (0.6, 60)
    ledger.settle("h1", 1, record=record(0.6))
    ledger.reserve("h2", "t:1", 1, refused="gated")


def test_the_journal_names_no_task(agent):
    call(agent, "h1", 1.0, attributes={"task": "of Bob"})
    for event in agent.last:
        assert "Bob" not in repr(event).replace(repr(getattr(event, "private", None)), "")
    assert len({task_key(name) for name in ("a", "b", "A", "a ")}) == 4
    assert Ledger().draft.format == 2
