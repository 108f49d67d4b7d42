"""Many callers in several processes over HTTP: everything that they saw can have happened, one thing after another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from fiscus.core.commands import Reserve
from fiscus.core.outcomes import Refused
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.clock import HostClock
from fiscus.treasury.verify import verify
from tests.cli.processes import LEDGER, environment, service
from tests.history import calls as written_calls
from tests.history.clients import CALLERS, HARD_LIMIT, founding
from tests.history.replay import broken_order, gather, most_in_use, replay
from tests.treasury.desk import Desk

pytestmark = pytest.mark.slow

PROCESSES = 4
OPERATIONS = int(os.environ.get("FISCUS_HISTORY", "40"))
"""Of each caller."""

WAIT_S = 120 + OPERATIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("history")


@pytest.fixture(scope="module")
def calls(folder):
    """What all callers saw."""
    desk = Desk(SqliteStore(folder / LEDGER), HostClock())
    founded = desk.ask(*founding())
    assert not [answer for answer in founded if isinstance(answer, Refused)]
    desk.engine.close()
    with service(folder, FISCUS_RATE_LIMIT_PER_MINUTE="0") as served:
        clients = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.history.clients", served.url, str(process), str(OPERATIONS), path],
                stdin=subprocess.PIPE,
                env=environment(PYTHONPATH=os.getcwd()),
            )
            for process, path in enumerate(str(folder / f"calls-{number}") for number in range(PROCESSES))
        ]
        for client in clients:
            assert client.stdin is not None
            client.stdin.write(b"go\n")
            client.stdin.close()
        assert [client.wait(WAIT_S) for client in clients] == [0] * PROCESSES
        assert served.stop() == 0
    return [
        call for number in range(PROCESSES) for call in written_calls.read((folder / f"calls-{number}").read_bytes())
    ]


@pytest.fixture(scope="module")
def store(folder, calls):
    """The ledger that they left."""
    store = SqliteStore(folder / LEDGER)
    yield store
    store.close()


@pytest.fixture(scope="module")
def history(store, calls):
    return gather(store, calls)


def test_the_callers_were_at_the_edge_of_their_limits_all_at_once(calls):
    assert len({call.caller for call in calls}) == PROCESSES * CALLERS
    codes = Counter(call.outcome.code if isinstance(call.outcome, Refused) else "answered" for call in calls)
    assert codes["answered"] > 300
    assert codes["budget_exceeded"] > 20
    assert codes["budget_busy"] > 20
    assert codes["account_suspended"] >= 1
    assert not {"conflict", "unknown_hold", "unknown_account", "invalid", "idempotency_expired"} & set(codes)
    starts = sorted((call.sent_ns, 1) for call in calls) + sorted((call.answered_ns, -1) for call in calls)
    at_once = most = 0
    for _, change in sorted(starts):
        at_once += change
        most = max(most, at_once)
    assert most > PROCESSES * CALLERS / 2


# covers E7, E11
def test_the_order_of_the_journal_is_one_that_real_time_allows(history):
    assert broken_order(history) == []


# covers E1, E2, E7, E11
def test_every_answer_is_what_the_journal_says_at_its_place_and_every_refusal_had_its_reason(history):
    findings = replay(history)
    assert findings.limits == []
    assert findings.answers == []
    assert findings.refusals == []
    assert findings.admitted > 200
    assert findings.justified == len(history.traceless) > 40


# covers E2
def test_no_more_than_the_limit_was_ever_in_use_by_what_the_callers_saw_alone(calls):
    most = most_in_use(calls, "agent:hard")
    assert HARD_LIMIT / 2 < most <= HARD_LIMIT


# covers E7
def test_callers_that_raced_with_one_id_have_one_hold_and_one_answer(calls, history):
    raced = [call for call in calls if isinstance(call.command, Reserve) and call.command.id.startswith("race-")]
    answers: dict[str, list[object]] = {}
    for call in raced:
        if not isinstance(call.outcome, Refused):
            answers.setdefault(call.command.id, []).append(call.outcome)
    assert max(len(given) for given in answers.values()) == PROCESSES
    assert [given for given in answers.values() if any(answer != given[0] for answer in given)] == []


# covers E1, E2, E3, E4, E5, E6, E9
def test_the_ledger_that_they_left_holds_what_must_always_hold(store, history):
    report = verify(store, from_start=True)
    assert report.faults == ()
    assert report.entries == len(history.entries) > 1_000
