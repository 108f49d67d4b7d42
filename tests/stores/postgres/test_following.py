"""A node that follows another one, which has written the views further than it has come itself."""

from __future__ import annotations

import pytest

from fiscus.core.commands import Allocate, PutAccount, Reserve, Transfer
from fiscus.core.outcomes import HoldAnswer
from fiscus.treasury.clock import HostClock
from tests.stores.postgres.conftest import OpenNode
from tests.treasury.desk import Desk

POOLS = ("pool:a", "pool:b")


def transfer(desk: Desk) -> None:
    desk.do(Transfer(source=POOLS[0], target=POOLS[1], unit="tokens", amount=1))


@pytest.fixture
def desks(open_node: OpenNode):
    """One node that has made two allocations and written the views; another that has loaded nothing of them."""
    one, two = (Desk(open_node(), HostClock()) for _ in range(2))
    one.do(PutAccount(account="global"))
    for pool in POOLS:
        one.do(PutAccount(account=pool, parent="global"))
        one.do(Allocate(account=pool, unit="tokens", to=100))
    one.write_views()
    two.engine.ledger("default")
    transfer(one)
    two.engine._look_around()  # the cells change here too, and their accounts are not in memory
    transfer(one)
    one.write_views()
    yield one, two
    one.engine.close()
    two.engine.close()


# covers E12
def test_a_node_whose_views_are_ahead_of_it_goes_on(desks):
    _, two = desks
    two.after_batch()
    assert two.engine.readiness().ready
    assert two.engine.statistics.defects == 0
    assert isinstance(two.do(Reserve(id="x", account=POOLS[0], amounts={"tokens": 98})), HoldAnswer)


def test_a_node_whose_views_are_ahead_of_it_can_be_sealed(desks):
    _, two = desks
    assert two.engine.checkpoint() > 0
    assert two.engine.statistics.defects == 0


def test_what_cannot_be_handed_over_keeps_nobody_waiting(desks, monkeypatch):
    _, two = desks

    def fail() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(two.engine.ledger("default"), "snapshot", fail)
    two.engine.after_batch()
    assert two.engine.statistics.defects == 1
    assert isinstance(two.do(Reserve(id="x", account=POOLS[0], amounts={"tokens": 98})), HoldAnswer)
