"""A short sample of every fault; ``make faults`` is all of it. And that what judges them sees what is wrong."""

from __future__ import annotations

import psycopg
import pytest

from fiscus.core.commands import Reserve, Settle
from fiscus.core.decide import new_draft
from fiscus.core.outcomes import HoldAnswer
from fiscus.core.state import Cell
from tests.faults import FAULTS
from tests.faults.books import Judgement, beyond, judge
from tests.faults.load import founding
from tests.faults.nodes import ground
from tests.history.calls import Call
from tests.servers.postgres import server

pytestmark = pytest.mark.slow


# covers E2, E3, E7, E10, E11, E12
@pytest.mark.parametrize("fault", FAULTS)
def test_what_must_hold_holds(fault):
    found = FAULTS[fault].quick()
    if found.skipped is not None:
        pytest.skip(found.skipped)
    if not found.holds:
        pytest.fail("\n".join([*found.faults, repr(found.as_json())]))
    assert found.rounds > 0


@pytest.fixture(scope="module")
def calls_and_url():
    """A ledger in which two holds were settled, and what its caller was told."""
    with ground(founding(2), postgres=server()) as place:
        node = place.node()
        for number in range(2):
            hold = {"id": f"h{number}", "account": "agent:0", "amounts": {"tokens": 10}}
            assert node.call("POST", "/v1/holds", hold)[0] == 201
            assert node.call("POST", f"/v1/holds/h{number}/settle", {"total": {"tokens": 7}})[0] == 200
        assert place.stop() == []
        yield [call for number in range(2) for call in told(f"h{number}", 7)], place.url


def told(id: str, tokens: int) -> list[Call]:
    """What the caller of a hold of 10 tokens is told, who settles some."""
    held = HoldAnswer(id=id, account="agent:0", state="held", reserved={"tokens": 10})
    commands = (
        Reserve(id=id, account="agent:0", amounts={"tokens": 10}),
        Settle(id=id, total={"tokens": tokens}),
    )
    return [Call(caller="0", sent_ns=0, answered_ns=1, command=command, outcome=held) for command in commands]


def kinds(found: Judgement) -> set[str]:
    return {kind for kind in ("lost", "doubled", "overspend", "drift", "faults") if getattr(found, kind)}


def test_what_was_answered_and_is_on_the_books_is_judged_clean(calls_and_url):
    calls, url = calls_and_url
    assert judge(url, calls).is_clean


def test_an_answered_operation_that_is_not_in_the_journal_is_lost(calls_and_url):
    calls, url = calls_and_url
    assert kinds(judge(url, [*calls, *told("h2", 7)])) == {"lost"}
    assert kinds(judge(url, [*calls[:2], *told("h1", 8)])) == {"lost"}


def test_what_nobody_asked_for_or_what_was_booked_twice_is_doubled(calls_and_url):
    calls, url = calls_and_url
    assert kinds(judge(url, calls[:2])) == {"doubled"}
    assert kinds(judge(url, [*calls[:2], *told("h1", 6)])) == {"doubled"}


@pytest.mark.parametrize(
    ("parts", "sentences"),
    [
        ({"covered": 6, "held": 4}, 0),
        ({"covered": 6, "held": 5}, 2),
        ({"covered": 6, "held": 4, "uncovered": 1}, 1),
        ({"covered": 5, "held": -1}, 1),
    ],
)
def test_a_cell_beyond_its_limit_is_overspend(parts, sentences):
    draft = new_draft()
    draft.cells[1] = Cell(number=1, budget=1, account=1, unit="tokens", start=0, end=1, base=10, alert_at=0, **parts)
    assert len(list(beyond(draft, [1], [1], 7))) == sentences


def test_views_that_say_otherwise_than_the_journal_are_drift(calls_and_url):
    calls, url = calls_and_url
    with psycopg.connect(url, autocommit=True) as connection:
        changed = "convert_to(replace(convert_from(body, 'UTF8'), '14', '15'), 'UTF8')"
        done = connection.execute(
            f"UPDATE fiscus.entities SET body = {changed} WHERE kind = 2 AND convert_from(body, 'UTF8') LIKE '%:14%'"
        )
        assert done.rowcount > 0
    assert kinds(judge(url, calls)) == {"drift", "faults"}
