"""The real core beside the independent model of waiting, command by command, instant by instant."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fiscus.core.commands import (
    Adjust,
    Alternative,
    Attend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
    ShortageStep,
)
from fiscus.core.decide import bring_due, decide, new_draft
from fiscus.core.fold import fold
from fiscus.core.invariants import broken
from fiscus.core.outcomes import Refused
from fiscus.core.state import Rules
from fiscus.treasury.ledger import journal_key
from tests.model.harness import rows
from tests.model.lines import Limit, Lines

EXAMPLES, STEPS = {"deep": (2_000, 60)}.get(os.environ.get("HYPOTHESIS_PROFILE", ""), (150, 40))
START_MS = 1_760_004_000_000
HOUR_MS, QUARANTINE_MS, AGEING_MS = 3_600_000, 45_000, 10_000
TREE = (("root", None, 1), ("team", "root", 1), ("a", "team", 1), ("b", "team", 2), ("c", "root", 4))
LEAVES = ("a", "b", "c")
LEASES_S, WAITS_S = (20, 300), (0, 5, 40, 600)
Offer = tuple[int, tuple[int, ...], tuple[ShortageStep, ...]]
"""What a call would do with instead: the least, other amounts; and the steps of a list that were taken before."""

OFFERS: tuple[Offer, ...] = (
    (0, (), ()),
    (0, (), ("wait",)),
    (1, (), ()),
    (5, (), ()),
    (0, (3,), ()),
    (0, (5, 2), ()),
    (0, (2, 5), ()),
    (4, (2,), ()),
    (2, (1,), ("wait",)),
    (3, (1,), ("clamp", "wait")),
    (3, (2,), ("downgrade", "wait")),
)
STEPS_MS = (1_000, 4_000, 10_000, 16_000, 31_000, 60_000)


class Pair:
    """The core and the model under one clock."""

    def __init__(self, limits: dict[str, tuple[int, str]], start_ms: int) -> None:
        rules = Rules(
            quarantine_ms=QUARANTINE_MS,
            quarantine="release",
            wait_ageing_ms=AGEING_MS,
            waiting_max=6,
            waiting_per_budget_max=4,
        )
        self.draft = new_draft(rules)
        self.model = Lines(AGEING_MS, QUARANTINE_MS, 4, 6)
        self.now = self.model.now = start_ms
        self.journal: list[tuple[Any, int]] = []
        for name, parent, priority in TREE:
            self.decide(PutAccount(account=name, parent=parent, priority=priority))
            self.model.parents[name], self.model.priorities[name] = parent, priority
        for account, (limit, period) in limits.items():
            self.decide(PutBudget(account=account, unit="tokens", limit=limit, period=period, budget="x"))
            self.model.limits[account] = Limit(account, limit, HOUR_MS if period == "hour" else 0)

    def decide(self, command: Any, steps: tuple[ShortageStep, ...] = ()) -> Any:
        outcome = decide(self.draft, Request(command=command, steps=steps), self.now)
        self.keep()
        return outcome

    def keep(self) -> None:
        self.journal += [(event, self.now) for event in self.draft.events]
        self.draft.commit()
        assert [*broken(self.draft)] == []

    def pass_to(self, now: int) -> None:
        """Time goes on, from one instant at which something is due to the next."""
        while (due := self.model.next_due()) <= now:
            self.now = due
            self.model.pass_to(due)
            bring_due(self.draft, due)
            self.keep()
            self.compare()
        self.now = self.model.now = now

    def compare(self) -> None:
        model, draft = self.model, self.draft
        expected = {call.id: call.state for call in model.calls}
        seen = {id: hold.state for id, hold in draft.holds.items()}
        states = {"closed": "expired"}
        assert seen == {id: states.get(state, state) for id, state in expected.items()}
        for call in model.calls:
            hold = draft.holds[call.id]
            if call.state == "held":
                assert (hold.expires_at, not hold.unclaimed) == (call.expires, call.claimed), call
                assert hold.reserved["tokens"] == call.got, call
                assert hold.steps[-1:] == ((call.by,) if call.by else hold.steps[-1:]), call
                assert hold.model == (f"m{call.others.index(call.got)}" if call.by == "downgrade" else None), call
            elif call.state == "waiting":
                assert hold.expires_at == call.expires, call
                assert hold.ticket is not None
                assert hold.ticket.needed == call.needed, call
                cell = draft.cells[hold.ticket.cell]
                assert draft.accounts[cell.account].name == call.line, call
            elif call.state == "refused":
                assert hold.ended == call.why, call
        lined_up = [id for ids in draft.waiting.values() for id in ids]
        assert sorted(lined_up) == sorted(call.id for call in model.in_order())
        for ids in draft.waiting.values():
            assert list(ids) == [call.id for call in model.in_order() if call.id in ids]

        for cell in draft.cells.values():
            account = draft.accounts[cell.account].name
            if cell.end > self.now:
                assert cell.free == model.free(account), account

    def check_fold(self) -> None:
        fresh = new_draft(self.draft.rules)
        for event, at in self.journal:
            fold(fresh, event, at)
        assert rows(fresh) == rows(self.draft)
        assert fresh.waiting == self.draft.waiting
        keyed = [id for event, _ in self.journal if (id := journal_key(event)) is not None]
        assert len(keyed) == len(set(keyed)), "an id stands in the journal's index once"


class Waiting(RuleBasedStateMachine):
    """Hypothesis chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.offers: dict[str, Offer] = {}

    @initialize(
        root=st.sampled_from((20, 30, 12)),
        team=st.sampled_from((None, 15, 10)),
        leaf=st.sampled_from((None, 8)),
        period=st.sampled_from(("lifetime", "hour")),
        start=st.sampled_from((0, HOUR_MS - 100_000)),
    )
    def found(self, root: int, team: int | None, leaf: int | None, period: str, start: int) -> None:
        limits = {"root": (root, period)}
        if team is not None:
            limits["team"] = (team, "lifetime")
        if leaf is not None:
            limits["a"] = (leaf, period)
        self.pair = Pair(limits, START_MS + start)

    def ids(self, *states: str) -> list[str]:
        return [call.id for call in self.pair.model.calls if call.state in states]

    @rule(
        account=st.sampled_from(LEAVES),
        amount=st.sampled_from((1, 2, 4, 6, 9, 14, 25)),
        wait_s=st.sampled_from(WAITS_S),
        lease_s=st.sampled_from(LEASES_S),
        offer=st.sampled_from(OFFERS),
    )
    def reserve(self, account: str, amount: int, wait_s: int, lease_s: int, offer: Offer) -> None:
        self.count += 1
        self._reserve(f"call{self.count:03}", account, amount, wait_s, lease_s, offer)

    @rule(
        account=st.sampled_from(LEAVES),
        amount=st.sampled_from((6, 9)),
        wait_s=st.sampled_from((40, 600)),
        offer=st.sampled_from(OFFERS),
    )
    def reserve_and_wait(self, account: str, amount: int, wait_s: int, offer: Offer) -> None:
        self.count += 1
        self._reserve(f"call{self.count:03}", account, amount, wait_s, 300, offer)

    def _reserve(self, id: str, account: str, amount: int, wait_s: int, lease_s: int, offer: Offer) -> None:
        self.offers[id] = offer
        least, others, steps = offer
        command = Reserve(
            id=id,
            account=account,
            amounts={"tokens": amount},
            lease_s=lease_s,
            wait_s=wait_s,
            least={"tokens": min(least, amount)} if least else {},
            alternatives=tuple(
                Alternative(model=f"m{index}", amounts={"tokens": other}) for index, other in enumerate(others)
            ),
        )
        real = self.pair.decide(command, steps)
        clamps, downgrades = not steps or "clamp" in steps, not steps or "downgrade" in steps
        expected = self.pair.model.reserve(
            id,
            account,
            amount,
            lease_s * 1000,
            wait_s * 1000,
            min(least, amount) if clamps else 0,
            others if downgrades else (),
        )
        assert (real.code if isinstance(real, Refused) else real.state) == expected, (command, real)
        self.pair.compare()

    @precondition(lambda self: self.ids("refused", "waiting", "held"))
    @rule(data=st.data())
    def ask_again(self, data: Any) -> None:
        id = data.draw(st.sampled_from(self.ids("refused", "waiting", "held")))
        known = self.pair.model.find(id)
        self._reserve(id, known.account, known.amount, 40, known.lease_ms // 1000, self.offers[id])

    @precondition(lambda self: self.ids("waiting", "held"))
    @rule(data=st.data(), gone=st.sampled_from((False, False, True)))
    def attend(self, data: Any, gone: bool) -> None:
        id = data.draw(st.sampled_from(self.ids("waiting", "held")))
        self.pair.decide(Attend(id=id, gone=gone))
        self.pair.model.attend(id, gone=gone)
        self.pair.compare()

    @precondition(lambda self: self.ids("held"))
    @rule(data=st.data(), share=st.sampled_from((0, 1, 2)))
    def settle(self, data: Any, share: int) -> None:
        id = data.draw(st.sampled_from(self.ids("held")))
        amount = self.pair.model.find(id).got * share // 2
        self._settle(id, amount)

    @precondition(lambda self: self.not_held())
    @rule(data=st.data(), amount=st.sampled_from((0, 1, 4)))
    def settle_what_was_not_held(self, data: Any, amount: int) -> None:
        self._settle(data.draw(st.sampled_from(self.not_held())), amount)

    def not_held(self) -> list[str]:
        """Calls that may have used something all the same, of which nothing is booked yet."""
        ids = self.ids("waiting", "refused", "released")
        return [id for id in ids if not self.pair.model.find(id).booked]

    def _settle(self, id: str, amount: int) -> None:
        self.pair.decide(Settle(id=id, total={"tokens": amount}))
        self.pair.model.settle(id, amount)
        self.pair.compare()

    @precondition(lambda self: self.ids("held", "waiting", "refused"))
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        id = data.draw(st.sampled_from(self.ids("held", "waiting", "refused")))
        self.pair.decide(Release(id=id))
        self.pair.model.release(id)
        self.pair.compare()

    @rule(data=st.data(), amount=st.sampled_from((3, 10)))
    def raise_a_limit(self, data: Any, amount: int) -> None:
        self.count += 1
        account = data.draw(st.sampled_from(sorted(self.pair.model.limits)))
        self.pair.decide(Adjust(id=f"more{self.count}", account=account, budget="x", amount=amount, reason="more"))
        self.pair.model.adjust(account, amount)
        self.pair.compare()

    @rule(account=st.sampled_from(("team", "c")), stopped=st.booleans())
    def stop(self, account: str, stopped: bool) -> None:
        self.pair.decide(SetStatus(account=account, status="suspended" if stopped else "active"))
        self.pair.model.stop(account, stopped=stopped)
        self.pair.compare()

    @rule(ms=st.sampled_from(STEPS_MS))
    def wait(self, ms: int) -> None:
        self.pair.pass_to(self.pair.now + ms)
        self.pair.compare()

    @rule(steps=st.sampled_from((2, 5)))
    def stay(self, steps: int) -> None:
        """Time goes on while all who wait say that they are there."""
        for _ in range(steps):
            self.pair.pass_to(self.pair.now + 10_000)
            for id in self.ids("waiting"):
                self.pair.decide(Attend(id=id))
                self.pair.model.attend(id)
        self.pair.compare()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check_fold()


@pytest.mark.slow
# covers E2, E3, E7
class TestWaiting(Waiting.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
