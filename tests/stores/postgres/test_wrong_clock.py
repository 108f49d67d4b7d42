"""A node whose own clock is wrong, beside others: the database's clock is the one that counts."""

from __future__ import annotations

import time

from fiscus.core.commands import Adjust, PutAccount, PutBudget
from fiscus.core.outcomes import AdjustmentAnswer
from fiscus.treasury.clock import HostClock
from tests.stores.postgres.conftest import OpenNode
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk

MONTHS_MS = 62 * 86_400_000


# covers E7
def test_an_idle_node_with_a_clock_far_ahead_forgets_no_answer_before_its_time(open_node: OpenNode):
    one = Desk(open_node(), HostClock())
    one.do(PutAccount(account="global"))
    one.do(PutBudget(account="global", unit="tokens", limit=100))
    command = Adjust(id="a", account="global", budget="tokens-lifetime", amount=5, reason="more")
    first = one.do(command, idempotency_key="k")
    assert isinstance(first, AdjustmentAnswer)
    idle = Desk(open_node(), ManualClock(time.time_ns() // 1_000_000 + MONTHS_MS))
    for _ in range(3):
        idle.ask()
        idle.after_batch()
    assert one.do(command, idempotency_key="k") == first
    for desk in (one, idle):
        desk.engine.close()
