"""A commit that fails at any step: its outcome is found out, nothing is lost or doubled, and later calls work."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest

from fiscus.contract.errors import BudgetUnavailable, StoreUnavailable, TreasuryError
from fiscus.contract.queries import ReadAccount
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.outcomes import AnyOutcome, HoldAnswer
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury import engine as engine_module
from fiscus.treasury.clock import HostClock
from fiscus.treasury.engine import Engine, Submission
from fiscus.treasury.local import LocalTreasury
from tests.treasury.callers import CALLERS, TENANTS, books, founding, plan
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk, entities, journal, usage
from tests.treasury.examination import Report, compare, faults, lost_or_doubled
from tests.treasury.faults import APPEND_STEPS, Faults, points, watched_store

ROUNDS = 24
TRIES_MAX = 50
TOOK_EFFECT = ("journal: after commit", "journal: after entries")
"""After these the entries may stand in the journal: a batch without private parts is a single statement."""


def rounds() -> list[list[Request]]:
    """Batches of all callers: one operation of each, in the order of the callers."""
    plans = [plan("c", caller) for caller in range(CALLERS)]
    return [[next(one) for one in plans] for _ in range(ROUNDS)]


def ask_until_answered(desk: Desk, batch: list[Request]) -> list[Any]:
    """As callers do: those that are told to come again come again, with the same ids."""
    answers: dict[int, Any] = {}
    for _ in range(TRIES_MAX):
        waiting = [index for index in range(len(batch)) if index not in answers]
        if not waiting:
            return [answers[index] for index in range(len(batch))]
        for index, answer in zip(waiting, desk.ask(*(batch[index] for index in waiting)), strict=True):
            if isinstance(answer, TreasuryError):
                assert isinstance(answer, StoreUnavailable)
                assert answer.retry_after_s >= 1
                assert not desk.engine.readiness().ready
            else:
                answers[index] = answer
    raise AssertionError("it never came back")


def seen(desk: Desk) -> list[Any]:
    """Everything of both tenants."""
    desk.write_views()
    store = desk.engine.store
    return [(journal(store, tenant), entities(store, tenant), usage(store, tenant)) for tenant in TENANTS]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Answers and ledger of the same batches when nothing fails."""
    desk = Desk(SqliteStore(tmp_path_factory.mktemp("undisturbed") / "fiscus.db"), ManualClock())
    desk.ask(*founding())
    answers = [desk.ask(*batch) for batch in rounds()]
    result = answers, seen(desk)
    desk.engine.close()
    return result


# covers E7, E9, E11
@pytest.mark.parametrize("away", [0, 1, 3], ids=["reopens at once", "reopens later", "is away for long"])
@pytest.mark.parametrize("point", points("journal", APPEND_STEPS))
def test_whatever_step_of_a_commit_fails_the_ledger_is_as_if_none_had(tmp_path, undisturbed, point, away):
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.ask(*founding())
    answers = []
    for number, batch in enumerate(rounds()):
        if number % 3 == 1:
            faults_hook.arm(point)
            faults_hook.arm("journal: before open", away)
        answers.append(ask_until_answered(desk, batch))
        faults_hook.arm(point, 0)
        faults_hook.arm("journal: before open", 0)
    assert faults_hook.raised[point] >= 2
    assert desk.engine.statistics.commit_errors == faults_hook.raised[point]
    assert (answers, seen(desk)) == undisturbed
    assert faults(desk.engine.store) == []
    desk.engine.close()


# covers E11
@pytest.mark.parametrize("point", TOOK_EFFECT)
def test_a_commit_that_took_effect_though_it_failed_is_answered_as_any_other(tmp_path, point):
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=100))
    wishes = [Request(command=Reserve(id="h", account="agent:a", amounts={"tokens": 60}))]
    if point == "journal: after commit":
        wishes.append(Request(command=PutAccount(account="agent:b"), idempotency_key="k"))
    faults_hook.arm(point)
    answers = desk.ask(*wishes)
    assert faults_hook.raised[point] == 1
    assert isinstance(answers[0], HoldAnswer)
    assert desk.engine.readiness().ready
    assert desk.balance("agent:a").held == 60
    assert faults(desk.engine.store) == []
    desk.engine.close()


def test_while_the_ledger_is_away_nothing_is_admitted_and_nothing_is_called_a_refusal(tmp_path):
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=100))
    before = journal(desk.engine.store)
    faults_hook.arm("journal: before entries", 1_000)
    faults_hook.arm("journal: before open", 1_000)
    for number in range(5):
        answers = desk.ask(
            Request(command=Reserve(id=f"h{number}", account="agent:a", amounts={"tokens": 60})),
            Request(command=Reserve(id=f"x{number}", account="agent:a", amounts={"tokens": 600})),
            ReadAccount(account="agent:a"),
        )
        errors = answers if number else answers[:2]
        assert {type(answer) for answer in errors} == {StoreUnavailable}
        assert desk.engine.readiness().reasons == ("store_unavailable",)
    assert journal(desk.engine.store) == before
    faults_hook.arm("journal: before open", 0)
    faults_hook.arm("journal: before entries", 0)
    assert isinstance(desk.do(Reserve(id="h", account="agent:a", amounts={"tokens": 60})), HoldAnswer)
    assert desk.engine.readiness().ready
    assert desk.balance("agent:a").held == 60
    desk.engine.close()


SEAL_POINTS = [
    *points("journal", ("forgetting the old seal", "sealed entities")),
    "journal: before entries",
    "journal: after entries",
]


@pytest.mark.parametrize("away", [0, 1], ids=["reopens at once", "reopens later"])
@pytest.mark.parametrize("point", SEAL_POINTS)
def test_a_seal_whose_commit_fails_leaves_no_trace_and_can_be_made_again(tmp_path, point, away):
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.do(PutAccount(account="agent:a"))
    desk.do(PutBudget(account="agent:a", unit="tokens", limit=100))
    faults_hook.arm(point)
    faults_hook.arm("journal: before open", away)
    took_effect = point == "journal: after entries"
    if took_effect and not away:
        assert desk.engine.checkpoint() == 2
    else:
        with pytest.raises(StoreUnavailable):
            desk.engine.checkpoint()
    assert faults_hook.raised[point] == 1
    faults_hook.arm("journal: before open", 0)
    assert isinstance(ask_until_answered(desk, [hold("h")])[0], HoldAnswer)
    assert isinstance(desk.ask(hold("h2"))[0], HoldAnswer)
    assert desk.balance("agent:a").held == 20
    assert desk.engine.checkpoint() > 0
    seals = sum(b'"kind":"checkpoint"' in body for _, _, body, _ in journal(desk.engine.store))
    assert seals == (2 if took_effect else 1)
    assert faults(desk.engine.store) == []
    desk.engine.close()


def hold(id: str) -> Request:
    return Request(command=Reserve(id=id, account="agent:a", amounts={"tokens": 10}))


def test_nobody_goes_without_an_answer_whose_call_came_while_a_batch_had_failed_before_its_turn(tmp_path):
    """Such a batch is tried again in parts: what waits takes part in the next whole batch, not in one of these."""
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.do(PutAccount(account="agent:a"))
    engine = desk.engine
    engine._growing = [Submission(desk, "failed", hold("failed"))]  # of a batch that never came to its turn
    engine._queue.put(Submission(desk, "waiting", hold("later")))
    faults_hook.arm("journal: before entries")
    assert isinstance(desk.do(hold("now").command), StoreUnavailable)
    answered = [token for token, _ in desk.delivered]
    assert "waiting" in answered or not engine._queue.empty()
    engine.close()


class Caller:
    """A token that keeps what it is answered, as a future does."""

    def deliver(self, answers: list) -> None:
        for caller, answer in answers:
            caller.answer = answer


def test_an_error_that_was_answered_keeps_nothing_alive_of_what_went_on(tmp_path):
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.do(PutAccount(account="agent:a"))
    caller = Caller()
    faults_hook.arm("journal: before entries")
    faults_hook.arm("journal: before open")
    desk.engine.run_batch([Submission(caller, caller, hold("h"))])
    error = caller.answer
    assert isinstance(error, StoreUnavailable)
    assert error.__cause__ is not None
    assert (error.__traceback__, error.__cause__.__traceback__) == (None, None)
    left = weakref.ref(caller)
    del caller
    assert left() is None, gc.get_referrers(left())
    desk.engine.close()


@pytest.mark.parametrize("point", ["journal: before entries", "journal: after entries"])
def test_what_was_in_memory_before_the_store_was_away_goes_without_a_search_for_cycles(tmp_path, point):
    """A service looks for cycles rarely: a ledger that is one would stay until then, after each fault another one."""
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.do(PutAccount(account="agent:a"))
    desk.write_views()  # from now on what is not in memory is loaded
    left = weakref.ref(desk.engine.ledger("default"))
    gc.disable()
    try:
        faults_hook.arm(point)
        faults_hook.arm("journal: before open")
        assert isinstance(desk.do(Reserve(id="h", account="agent:a", amounts={"tokens": 1})), StoreUnavailable)
        assert left() is None, gc.get_referrers(left())
    finally:
        gc.enable()
    desk.engine.close()


def test_a_ledger_that_was_repaired_leaves_nothing_behind(tmp_path):
    desk = Desk(watched_store(tmp_path / "fiscus.db", Faults()), ManualClock())
    desk.do(PutAccount(account="agent:a"))
    desk.write_views()
    left = weakref.ref(desk.engine.ledger("default"))
    gc.disable()
    try:
        desk.engine.repair("default")
        assert left() is None, gc.get_referrers(left())
    finally:
        gc.enable()
    desk.engine.close()


def test_a_call_whose_token_leads_back_to_it_is_collected(tmp_path):
    caller = Caller()
    caller.submission = Submission(caller, caller, hold("h"))
    left = weakref.ref(caller)
    del caller
    gc.collect()
    assert left() is None


def test_a_new_tenant_whose_registration_fails_comes_into_being_later(tmp_path):
    faults_hook = Faults()
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    for point in points("journal", ["tenant"]):
        faults_hook.arm(point)
        batch = [Request(tenant=point, command=PutAccount(account="agent:a"), idempotency_key="k")]
        answer = ask_until_answered(desk, batch)[0]
        assert answer.number == 1
        assert faults_hook.raised[point] == 1
    desk.engine.close()


# covers E7, E9, E11
@pytest.mark.parametrize("seed", range(3))
def test_errors_at_random_moments_leave_the_ledger_as_if_there_had_been_none(tmp_path, undisturbed, seed):
    faults_hook = Faults(seed)
    desk = Desk(watched_store(tmp_path / "fiscus.db", faults_hook), ManualClock())
    desk.ask(*founding())
    faults_hook.probability = 0.03
    moments = random.Random(seed)
    for batch in rounds():
        ask_until_answered(desk, batch)
        if moments.random() < 0.3:
            desk.engine._snapshot_at = 0
            desk.after_batch()
    faults_hook.probability = 0.0
    assert len(faults_hook.raised) >= 10
    desk.ask(ReadAccount(account="global"))
    desk.ask(ReadAccount(account="global"))
    assert seen(desk) == undisturbed[1]
    assert faults(desk.engine.store) == []
    desk.engine.close()


# covers E7, E9, E11, E12
@pytest.mark.parametrize("seed", range(2))
async def test_callers_of_a_running_engine_lose_and_double_nothing_when_its_store_fails(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(engine_module, "SNAPSHOT_MS", 5)
    monkeypatch.setattr(engine_module, "TICK_S", 0.01)
    faults_hook = Faults(seed)
    treasury = LocalTreasury(Engine(watched_store(tmp_path / "fiscus.db", faults_hook)))
    for request in founding():
        await treasury.execute(request)
    report = Report("c")

    async def insist(request: Request) -> AnyOutcome:
        for _ in range(1_000):
            try:
                return await treasury.execute(request)
            except BudgetUnavailable:
                await asyncio.sleep(0)
        raise AssertionError("it never came back")

    async def call(caller: int) -> None:
        operations = plan("c", caller)
        for _ in range(60):
            request = next(operations)
            report.answered.append((request, await insist(request)))

    faults_hook.probability = 0.02
    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))
    faults_hook.probability = 0.0
    await insist(Request(command=Settle(id="the last", account="agent:0", total={"tokens": 0})))
    assert len(faults_hook.raised) >= 10
    assert treasury.engine.statistics.defects == 0
    await treasury.close()
    examine_books(tmp_path / "fiscus.db", report)


def examine_books(path: Path, report: Report) -> None:
    store = SqliteStore(path)
    assert faults(store) == []
    assert lost_or_doubled(store, [report]) == []
    desk = Desk(store, HostClock())
    for tenant, expected in books(report.answered).items():
        compare(desk, tenant, expected)
    desk.engine.close()
