"""Overrides and gates in a ledger: after a restart, in seals, when a name is erased, and in what is verified."""

from __future__ import annotations

import pytest

from fiscus.contract.queries import OverridesPage, OverrideView, ReadOverride
from fiscus.core.commands import (
    ApproveOverride,
    EraseName,
    PutAccount,
    PutBudget,
    PutKey,
    RequestOverride,
    Reserve,
    SetStatus,
    Settle,
)
from fiscus.core.outcomes import HoldAnswer, OverrideAnswer, Refused
from fiscus.core.records import CallRecord
from fiscus.stores import open_store
from fiscus.treasury import reading
from fiscus.treasury.reading import list_view
from fiscus.treasury.verify import verify
from tests.stores.places import PLACES
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk, entities

BUDGET = "tokens-lifetime"


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    return PLACES[request.param](tmp_path)


@pytest.fixture
def clock():
    return ManualClock()


def founded(desk: Desk) -> Desk:
    for command in (
        PutAccount(account="root"),
        PutAccount(account="a", parent="root", confidence_threshold=0.9, gate_s=3_600),
        PutBudget(account="root", unit="tokens", limit=100),
        PutKey(key="boss", digest="b", role="admin"),
        PutKey(key="asker", digest="a", role="operator"),
    ):
        assert not isinstance(desk.do(command), Refused)
    return desk


def ask(desk: Desk, id: str, amount: int = 10, **fields) -> OverrideAnswer:
    command = RequestOverride(id=id, account="root", budget=BUDGET, amount=amount, reason=f"why {id}", **fields)
    answer = desk.do(command, actor="asker")
    assert isinstance(answer, OverrideAnswer), answer
    return answer


def shown(desk: Desk, id: str) -> OverrideAnswer:
    view = desk.ask(ReadOverride(id=id))[0]
    assert isinstance(view, OverrideView), view
    return view.override


def page(desk: Desk, **query) -> OverridesPage:
    desk.write_views()
    store = desk.engine.store
    found = list_view(store, store.journal.tenants()["default"], reading.ListOverrides(**query))
    assert isinstance(found, OverridesPage)
    return found


def gated(desk: Desk, id: str) -> bool:
    answer = desk.do(Reserve(id=id, account="a", amounts={"tokens": 1}, attributes={"task": "t"}))
    assert isinstance(answer, HoldAnswer) or answer.code == "gated", answer
    return isinstance(answer, Refused)


# covers E3, E12
def test_what_is_asked_granted_and_closed_is_there_after_a_restart(place, clock):
    desk = founded(Desk(place.open(), clock))
    ask(desk, "late", open_s=7_200)
    ask(desk, "short", open_s=60)
    ask(desk, "granted", 30, valid_s=600)
    assert not isinstance(desk.do(ApproveOverride(id="granted", reason="yes"), actor="boss"), Refused)
    assert not gated(desk, "h1")
    record = CallRecord(confidence=0.95)
    desk.do(Settle(id="h1", total={"tokens": 1}, record=record, account="a", attributes={"task": "t"}))
    before = [shown(desk, id) for id in ("late", "short", "granted")]
    desk.write_views()
    desk.engine.close()

    desk = Desk(place.open(), clock)
    assert [shown(desk, id) for id in ("late", "short", "granted")] == before
    assert before[2].decision == "yes"
    assert desk.balance("root").limit == 130
    assert gated(desk, "h2")
    assert [gate.task for gate in desk.account("a").gates] == ["t"]
    assert [one.id for one in page(desk, state="pending").overrides] == ["late", "short"]
    assert [one.id for one in page(desk, account="root", limit=2).overrides] == ["granted", "late"]
    assert not isinstance(desk.do(ApproveOverride(id="late"), actor="boss"), Refused)
    assert verify(desk.engine.store, "default").faults == ()
    desk.engine.close()


# covers E3, E12
def test_what_is_due_is_done_after_a_restart_too(tmp_path, clock):
    url = f"sqlite:///{tmp_path}/fiscus.db"
    desk = founded(Desk(open_store(url), clock))
    ask(desk, "late", open_s=7_200)
    ask(desk, "short", open_s=60)
    ask(desk, "granted", 30, valid_s=600)
    desk.do(ApproveOverride(id="granted"), actor="boss")
    desk.do(
        Settle(id="u", total={"tokens": 1}, account="a", record=CallRecord(confidence=1.0), attributes={"task": "t"})
    )
    desk.write_views()
    desk.engine.close()
    desk = Desk(open_store(url), clock)
    clock.advance(59_999)
    assert gated(desk, "h1")
    assert shown(desk, "short").state == "pending"
    clock.advance(1)
    assert gated(desk, "h1")
    assert (shown(desk, "short").state, shown(desk, "granted").state) == ("expired", "approved")
    clock.advance(540_000)
    assert gated(desk, "h1")
    assert (shown(desk, "granted").state, desk.balance("root").limit) == ("ended", 100)
    assert [one.state for one in page(desk).overrides] == ["ended", "pending", "expired"]
    clock.advance(3_000_000)
    assert not gated(desk, "h1")
    assert isinstance(desk.do(ApproveOverride(id="short"), actor="boss"), Refused)
    assert verify(desk.engine.store, "default").faults == ()
    desk.engine.close()


# covers E3, E12
def test_a_seal_holds_them_and_what_names_somebody_stands_apart(place, clock):
    desk = founded(Desk(place.open(), clock))
    ask(desk, "o")
    desk.do(
        Settle(id="u", total={"tokens": 1}, account="a", record=CallRecord(confidence=1.0), attributes={"task": "Bob"})
    )
    desk.write_views()
    desk.engine.checkpoint()
    store = desk.engine.store
    number = store.journal.tenants()["default"]
    sealed = store.journal.checkpoint(number, store.journal.checkpoints(number)[-1])
    public = b"".join(body for kind, _, body in sealed if kind >= 0)
    private = b"".join(body for kind, _, body in sealed if kind < 0)
    for text in (b"why o", b"Bob"):
        assert text in private
        assert text not in public
    assert verify(store, "default").faults == ()
    ask(desk, "p")
    desk.write_views()
    assert verify(store, "default").faults == ()
    desk.engine.close()


def test_with_the_name_the_reasons_and_tasks_are_forgotten_everywhere(place, clock):
    desk = founded(Desk(place.open(), clock))
    ask(desk, "o")
    desk.do(ApproveOverride(id="o", reason="for Ann"), actor="boss")
    desk.do(Settle(id="u", total={"tokens": 1}, account="root", record=CallRecord(confidence=1.0)))
    desk.write_views()
    desk.engine.checkpoint()
    desk.do(SetStatus(account="root", status="closed"))
    assert not isinstance(desk.do(EraseName(account="root")), Refused)
    desk.write_views()
    store = desk.engine.store
    kept = b"".join(body for _, _, body in entities(store))
    number = store.journal.tenants()["default"]
    kept += b"".join(entry.private or b"" for entry in store.journal.entries(number, 0, 1_000))
    for seq in store.journal.checkpoints(number):
        kept += b"".join(body for _, _, body in store.journal.checkpoint(number, seq))
    for text in (b"why o", b"for Ann"):
        assert text not in kept
    override = shown(desk, "o")
    assert (override.account, override.reason, override.decision) == ("erased:1", None, None)
    assert verify(store, "default", from_start=True).faults == ()
    desk.engine.close()


def test_views_that_are_lost_are_made_again_with_them(tmp_path, clock):
    url = f"sqlite:///{tmp_path}/fiscus.db"
    desk = founded(Desk(open_store(url), clock))
    ask(desk, "o")
    desk.write_views()
    desk.engine.close()
    (tmp_path / "fiscus.db-views").unlink()
    desk = Desk(open_store(url), clock)
    assert shown(desk, "o").reason == "why o"
    assert [one.id for one in page(desk).overrides] == ["o"]
    desk.engine.close()
