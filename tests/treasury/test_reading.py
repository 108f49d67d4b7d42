"""Views of the state: windows that have ended are shown as they would open now."""

from __future__ import annotations

from fiscus.core.commands import Allocate, PutAccount, PutBudget, Reserve
from fiscus.core.outcomes import AllocationAnswer, Refused
from fiscus.stores import open_store
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk

DAY_MS = 86_400_000


def test_an_allocation_keeps_its_version_when_it_is_carved_again_as_it_was():
    clock = ManualClock()
    desk = Desk(open_store("memory:"), clock)
    desk.do(PutAccount(account="global"))
    desk.do(PutBudget(account="global", unit="tokens", limit=10_000, period="day"))
    desk.do(PutAccount(account="agent:a", parent="global"))
    desk.do(Allocate(account="agent:a", unit="tokens", to=1_000))
    clock.advance(DAY_MS)

    def shown():
        (view,) = desk.account("agent:a").budgets
        return view

    assert (shown().version, shown().balance.available) == (1, 1_000)
    refused = desk.do(Allocate(account="agent:a", unit="tokens", to=2_000, if_version=2))
    assert isinstance(refused, Refused)
    assert refused.code == "precondition_failed"
    assert shown().version == 1
    desk.do(Reserve(id="h", account="agent:a", amounts={"tokens": 10}))
    assert (shown().version, shown().balance.available) == (1, 990)
    resized = desk.do(Allocate(account="agent:a", unit="tokens", to=2_000, if_version=shown().version))
    assert isinstance(resized, AllocationAnswer)
    assert shown().version == 2
    desk.engine.close()
