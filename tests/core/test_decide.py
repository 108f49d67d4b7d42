"""What happens around a decision: what is due, thresholds, policies on exhaustion, compounds (design.md §3)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.core.commands import (
    COMPOUND_LENGTH_MAX,
    Adjust,
    Allocate,
    Compound,
    Extend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.decide import bring_due, decide, is_valid, new_draft
from fiscus.core.fold import RANK_EXPIRY
from fiscus.core.outcomes import Refused
from tests.core.builders import DAY, HOUR, MINUTE, SECOND, START_MS, Ledger, moment, rows

# -- what is due ---------------------------------------------------------------------------------------------------


def test_what_is_due_at_one_instant_happens_in_the_order_of_the_design():
    """Expiry, closing of quarantine, ends of adjustments, ends of allocations (leaf first), ends of windows."""
    ledger = Ledger(quarantine_ms=10 * MINUTE)
    ledger.tree("root", "root/team", "team/leaf", "root/other")
    ledger.budget("root", 1_000, period="hour")
    ledger.allocate("team", 100)
    ledger.allocate("leaf", 50)
    ledger.adjust("more", "root", 10, budget="tokens-hour", valid_until=moment(HOUR))
    ledger.reserve("lost", "other", 10, lease_s=3_000)
    ledger.reserve("dying", "leaf", 5, lease_s=3_600)
    ledger.wait(50 * MINUTE).due()
    ledger.wait(10 * MINUTE).reserve("h", "other", 1)
    kinds = ledger.kinds()
    assert kinds == [
        "Expired",
        "QuarantineClosed",
        "AdjustmentEnded",
        "AllocationEnded",
        "AllocationEnded",
        "WindowOpened",
        "Held",
    ]
    ended = [ledger.draft.cells[event.cell].account for event in ledger.last if hasattr(event, "for_good")]
    assert [ledger.draft.accounts[number].name for number in ended] == ["leaf", "team"]
    ledger.check_replay()


def test_things_due_at_the_very_end_of_a_window_still_belong_to_it():
    """The expiry at the end comes before the successor opens, so what it leaves in quarantine is not carried."""
    ledger = Ledger(quarantine_ms=0, quarantine="release")
    ledger.account("root")
    ledger.budget("root", 100, period="hour", carry_over="unused")
    ledger.reserve("h", "root", 30, lease_s=3_600)
    ledger.wait(HOUR + MINUTE)
    assert ledger.cell("root", "tokens-hour") == (200, 0, 0, 0, 0)


def test_earlier_things_are_due_before_later_ones_whatever_their_rank(pool):
    pool.adjust("more", "root", 10, valid_until=moment(MINUTE))
    pool.reserve("h", "a", 5, lease_s=120)
    pool.wait(HOUR).due()
    assert pool.kinds() == ["AdjustmentEnded", "Expired"]


def test_due_things_happen_before_the_command_is_decided(pool):
    pool.reserve("h", "a", 100, lease_s=60)
    pool.wait(MINUTE)
    pool.reserve("h2", "a", 1, refused="budget_exceeded")
    assert pool.kinds() == ["Expired", "ThresholdCrossed", "ThresholdCrossed", "ThresholdCrossed",
                            "ThresholdCrossed", "ThresholdCrossed"]  # fmt: skip


def test_a_deadline_that_was_overtaken_does_nothing(pool):
    pool.reserve("h", "a", 5, lease_s=60)
    pool.extend("h", lease_s=3_600)
    pool.reserve("h2", "a", 5, lease_s=60)
    pool.settle("h2", 5)
    assert pool.wait(MINUTE).due() == []
    assert not is_valid(pool.draft, (START_MS, RANK_EXPIRY, 0, "hold", "nobody"))


def test_bring_due_says_how_many_things_it_did(pool):
    for n in range(3):
        pool.reserve(f"h{n}", "a", 5, lease_s=60)
    assert bring_due(pool.draft, START_MS + MINUTE - 1) == 0
    assert bring_due(pool.draft, START_MS + MINUTE) == 3
    pool.draft.rollback((0, 0, 0, pool.draft.accounts_opened, pool.draft.budgets_made, pool.draft.cells_opened))
    assert bring_due(pool.draft, START_MS + MINUTE) == 3, "a batch that was undone is due again"
    pool.now += MINUTE
    pool._keep()


def test_a_decision_is_the_same_whenever_it_is_made():
    """No clock, no randomness: two ledgers that were told the same are the same."""

    def tell():
        ledger = Ledger()
        ledger.tree("root", "root/a")
        ledger.budget("root", 100, period="hour")
        ledger.allocate("a", 50)
        ledger.spend("a", 30)
        ledger.wait(2 * HOUR).spend("a", 10)
        return ledger

    assert tell().journal == tell().journal


# -- thresholds ----------------------------------------------------------------------------------------------------


@pytest.fixture
def thread(ledger):
    ledger.account("thread:1")
    ledger.budget("thread:1", 100)
    return ledger


# covers X5, X9
def test_thresholds_fire_in_order_also_when_jumped_over_and_each_once(thread):
    thread.use("thread:1", 49)
    assert thread.fired() == []
    thread.use("thread:1", 1)
    assert thread.fired() == [50]
    thread.use("thread:1", 46)
    assert thread.fired() == [75, 90, 95]
    thread.use("thread:1", 1)
    assert thread.fired() == []
    thread.use("thread:1", 300)
    assert thread.fired() == [100]
    thread.use("thread:1", 300)
    assert thread.fired() == []


# covers X10
def test_a_crossing_says_percent_severity_use_and_limit(thread):
    thread.use("thread:1", 76)
    crossed = [(e.percent, e.severity, e.used, e.limit) for e in thread.last if type(e).__name__ == "ThresholdCrossed"]
    assert crossed == [(50, "info", 76, 100), (75, "warning", 76, 100)]
    thread.use("thread:1", 24)
    crossed = [(e.percent, e.severity) for e in thread.last if type(e).__name__ == "ThresholdCrossed"]
    assert crossed == [(90, "critical"), (95, "final"), (100, "exhausted")]


def test_what_is_only_held_fires_nothing_and_quarantine_does(thread):
    thread.reserve("h", "thread:1", 80, lease_s=60)
    assert thread.fired() == []
    thread.wait(MINUTE).due()
    assert thread.fired() == [50, 75]
    thread.settle("h", 80)
    assert thread.fired() == []


# covers R30, X9
def test_a_new_window_arms_the_thresholds_again(ledger):
    ledger.account("root")
    ledger.budget("root", 100, period="day", thresholds={50: "info", 80: "warning", 90: "critical"})
    ledger.use("root", 95)
    assert ledger.fired() == [50, 80, 90]
    ledger.wait(DAY).use("root", 50)
    assert ledger.fired() == [50]


def test_a_raised_limit_arms_the_thresholds_again(thread):
    thread.use("thread:1", 96)
    thread.adjust("more", "thread:1", 100)
    thread.use("thread:1", 4)
    assert thread.fired() == [50], "100 of 200"
    thread.budget("thread:1", 300)
    thread.use("thread:1", 100)
    assert thread.fired() == [50], "200 of 400, which the new limit has armed again"


def test_thresholds_fire_on_a_rise_of_use_not_when_the_limit_falls(thread):
    thread.use("thread:1", 45)
    thread.budget("thread:1", 60)
    assert thread.fired() == []
    thread.use("thread:1", 1)
    assert thread.fired() == [50, 75]


def test_thresholds_do_not_fire_in_a_window_that_has_ended(ledger):
    ledger.account("root")
    ledger.budget("root", 100, period="hour")
    ledger.wait(50 * MINUTE).reserve("h", "root", 90, lease_s=7_200)
    ledger.wait(20 * MINUTE).settle("h", 90)
    assert ledger.fired() == []


# covers R30
def test_known_fault_r2_r16_a_threshold_is_a_percent_and_never_a_fraction(ledger):
    ledger.account("root")
    ledger.budget("root", 9_000_000_000, "cost", thresholds={33: "info", 34: "warning", 100: "exhausted"})
    ledger.use("root", {"cost": 90_000_000})
    assert ledger.fired() == [], "one percent is not 100 times as much"
    ledger.use("root", {"cost": 2_910_000_000})
    assert ledger.fired() == [33], "3 of 9 dollars are 33.3 %"


@pytest.mark.parametrize("modes", ["enforce", "warn", "observe"])
def test_thresholds_fire_in_every_mode(ledger, modes):
    ledger.account("root")
    ledger.budget("root", 10, mode=modes)
    ledger.use("root", 5)
    assert ledger.fired() == [50]


def test_every_level_fires_for_itself_and_an_allocation_seen_from_above_too(pool):
    pool.allocate("a", 60)
    pool.spend("a", 50)
    crossed = [
        (pool.draft.accounts[e.account].name, e.percent) for e in pool.last if type(e).__name__ == "ThresholdCrossed"
    ]
    assert sorted(crossed) == [("a", 50), ("a", 75), ("root", 50)]


# covers X9, R30
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.lists(st.integers(0, 90), max_size=8), st.sets(st.integers(1, 250), max_size=6))
def test_each_threshold_fires_once_when_the_use_reaches_it(limit, uses, percents):
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", limit, thresholds=dict.fromkeys(percents, "info"))
    fired, total = [], 0
    for use in uses:
        ledger.use("root", use)
        total += use
        fired += ledger.fired()
        assert fired == sorted(percent for percent in percents if total * 100 >= percent * limit and total)


# -- exhaustion ----------------------------------------------------------------------------------------------------


# covers D1, D3, D4
@pytest.mark.parametrize(("policy", "status"), [("suspend", "suspended"), ("terminate", "terminated")])
def test_known_fault_d8_exact_use_exhausts_and_only_the_next_request_is_what_the_policy_acts_on(ledger, policy, status):
    ledger.tree("global", "global/agent")
    ledger.budget("agent", 100, on_exhaustion=policy)
    ledger.spend("agent", 100)
    agent = ledger.draft.accounts[2]
    assert agent.status == "active", "exact use does not kill"
    ledger.reserve("h", "agent", {"tokens": 0, "cost": 1})
    assert agent.status == "active", "nothing was asked of it"
    refused = ledger.reserve("h2", "agent", 1, refused="budget_exceeded")
    assert refused.requested == 1
    assert ledger.kinds() == ["StatusChanged"], "a recorded command of its own"
    assert ledger.last[0].actor == "fiscus"
    assert ledger.last[0].private.reason == "Budget tokens-lifetime exhausted: 100 of 100 tokens"
    ledger.reserve("h3", "agent", 1, refused=f"account_{status}")


def test_without_a_policy_exhaustion_only_refuses(thread):
    thread.spend("thread:1", 100)
    thread.reserve("h", "thread:1", 1, refused="budget_exceeded")
    assert thread.kinds() == []


@pytest.mark.parametrize(
    ("spent", "held", "asked", "code"), [(90, 0, 11, "budget_exceeded"), (90, 10, 5, "budget_busy")]
)
def test_a_budget_that_is_not_exhausted_yet_does_not_act(ledger, spent, held, asked, code):
    ledger.account("root")
    ledger.budget("root", 100, on_exhaustion="terminate")
    ledger.spend("root", spent)
    if held:
        ledger.reserve("flight", "root", held)
    ledger.reserve("h", "root", asked, refused=code)
    assert ledger.draft.accounts[1].status == "active"


def test_the_policy_acts_on_the_account_of_the_budget_that_bound(ledger):
    ledger.tree("root", "root/a")
    ledger.budget("root", 10, on_exhaustion="suspend")
    ledger.budget("a", 100, on_exhaustion="terminate")
    ledger.spend("a", 10)
    ledger.reserve("h", "a", 1, refused="budget_exceeded")
    assert [account.status for account in ledger.draft.accounts.values()] == ["suspended", "active"]


# covers D3, D4
def test_an_exhausted_allocation_ends_its_agent_and_gives_back_the_rest(pool):
    pool.allocate("a", 40, on_exhaustion="terminate")
    pool.spend("a", 40)
    pool.reserve("h", "a", 1, refused="budget_exceeded")
    assert pool.draft.accounts[2].status == "terminated"
    assert pool.cell("root") == (100, 40, 0, 0, 0)


# covers D4
def test_known_fault_d6_a_terminated_agent_gets_no_new_money(pool):
    pool.allocate("a", 40)
    pool.status("a", "terminated")
    pool.allocate("a", 50, refused="account_terminated")
    pool.account("a", "root")
    pool.reserve("h", "a", 1, refused="account_terminated")
    pool.status("a", "active", refused="conflict")


# covers E2, X1
def test_known_faults_d2_t3_of_twenty_claims_on_one_allocation_only_those_that_fit_pass(pool):
    pool.budget("root", 1_000)
    pool.allocate("a", 1_000)
    admitted = [
        n for n in range(20)
        if not isinstance(pool.decide(Reserve(id=f"h{n}", account="a", amounts={"tokens": 90})), Refused)
    ]  # fmt: skip
    assert len(admitted) == 11
    for n in admitted:
        pool.settle(f"h{n}", 90)
    assert pool.carved("a") == (1_000, 990, 0, 0, 0)


# -- compounds -----------------------------------------------------------------------------------------------------


def test_a_compound_is_all_or_none(pool):
    before = rows(pool.draft)
    refused = pool.compound(
        PutAccount(account="c", parent="root"),
        Reserve(id="h", account="c", amounts={"tokens": 60}),
        Reserve(id="h2", account="a", amounts={"tokens": 41}),
        refused="budget_busy",
    )
    assert refused.index == 2
    assert rows(pool.draft) == before
    answers = pool.compound(
        PutAccount(account="c", parent="root"),
        Reserve(id="h", account="c", amounts={"tokens": 60}),
        Reserve(id="h2", account="a", amounts={"tokens": 40}),
    ).answers
    assert [type(answer).__name__ for answer in answers] == ["AccountAnswer", "HoldAnswer", "HoldAnswer"]


def test_in_a_compound_each_sees_what_came_before_it(pool):
    pool.reserve("h", "a", 100)
    pool.compound(
        Settle(id="h", total={"tokens": 40}),
        Reserve(id="h2", account="a", amounts={"tokens": 60}),
        Extend(id="h2", to={"tokens": 60}),
        Release(id="h2"),
        Allocate(account="b", unit="tokens", to=60),
    )
    assert pool.cell("root") == (100, 40, 60, 0, 0)


# covers E14
def test_settlements_and_usage_are_booked_by_themselves_and_never_undone_with_others(pool):
    pool.reserve("h", "a", 30)
    refused = pool.compound(
        Settle(id="h", total={"tokens": 25}),
        Reserve(id="h2", account="a", amounts={"tokens": 500}),
        Settle(id="used", account="b", total={"tokens": 30}),
        Settle(id="unknown", total={"tokens": 30}),
        refused="budget_exceeded",
    )
    assert refused.index == 1
    assert pool.cell("root") == (100, 25, 0, 0, 30)
    assert pool.fired() == [50], "and their thresholds fire"


def test_a_compound_fires_thresholds_and_checks_every_part_before_any_is_decided(pool):
    pool.compound(Settle(id="x", account="a", total={"tokens": 30}), Settle(id="y", account="a", total={"tokens": 30}))
    assert pool.fired() == [50]
    refused = pool.compound(
        Settle(id="z", account="a", total={"tokens": 30}),
        Allocate(account="b", unit="tokens", to=-1),
        refused="invalid",
    )
    assert (refused.index, refused.field) == (1, "commands[1].to")
    assert pool.cell("root") == (100, 0, 0, 0, 60), "a request that cannot be read does nothing"


def test_a_refused_compound_still_makes_the_policy_act(ledger):
    ledger.account("root")
    ledger.budget("root", 10, on_exhaustion="suspend")
    ledger.spend("root", 10)
    ledger.compound(Reserve(id="h", account="root", amounts={"tokens": 1}), refused="budget_exceeded")
    assert ledger.draft.accounts[1].status == "suspended"


def test_a_refused_compound_exhausts_nothing_by_what_it_would_have_done(ledger):
    ledger.account("root")
    ledger.budget("root", 100, on_exhaustion="terminate")
    ledger.spend("root", 50)
    budget = ledger.draft.budgets[1].name
    ledger.compound(
        Adjust(id="j", account="root", budget=budget, amount=-50, reason="less"),
        Reserve(id="h", account="root", amounts={"tokens": 1}),
        refused="budget_exceeded",
    )
    assert ledger.draft.accounts[1].status == "active"
    ledger.account("a", parent="root")
    ledger.account("b", parent="root")
    ledger.do(Allocate(account="a", unit="tokens", to=20, on_exhaustion="terminate"))
    ledger.do(Allocate(account="b", unit="tokens", to=20))
    ledger.compound(
        Transfer(source="a", target="b", unit="tokens", amount=20),
        Reserve(id="i", account="a", amounts={"tokens": 1}),
        refused="budget_exceeded",
    )
    assert ledger.draft.accounts[2].status == "active"


def test_a_refused_compound_makes_no_policy_act_of_a_budget_that_does_not_enforce(ledger):
    ledger.account("root")
    ledger.budget("root", 100, mode="warn", on_exhaustion="terminate")
    ledger.spend("root", 100)
    ledger.compound(
        PutBudget(account="root", unit="tokens", limit=100, on_exhaustion="terminate"),
        Reserve(id="h", account="root", amounts={"tokens": 1}),
        refused="budget_exceeded",
    )
    assert ledger.find("root", "tokens-lifetime").mode == "warn"
    assert ledger.draft.accounts[1].status == "active"


def test_the_reason_of_a_policy_after_a_refused_compound_says_what_is_used(ledger):
    ledger.account("root")
    ledger.budget("root", 100, on_exhaustion="suspend")
    ledger.spend("root", 100)
    ledger.compound(
        Adjust(id="j", account="root", budget="tokens-lifetime", amount=-50, reason="less", force=True),
        Reserve(id="h", account="root", amounts={"tokens": 1}),
        refused="budget_exceeded",
    )
    assert ledger.kinds() == ["StatusChanged"]
    assert ledger.last[-1].private.reason == "Budget tokens-lifetime exhausted: 100 of 100 tokens"


def test_a_refused_compound_opens_no_window_of_another_budget(ledger):
    ledger.account("root")
    ledger.budget("root", 0, "calls", period="hour", budget="calls", mode="observe")
    ledger.budget("root", 100, on_exhaustion="suspend")
    ledger.spend("root", 100)
    ledger.wait(2 * HOUR)
    ledger.compound(Reserve(id="h", account="root", amounts={"tokens": 1}), refused="budget_exceeded")
    assert ledger.kinds() == ["StatusChanged"]


@pytest.mark.parametrize("count", [0, COMPOUND_LENGTH_MAX + 1])
def test_a_compound_has_one_to_a_thousand_commands(pool, count):
    commands = [SetStatus(account="a", status="active") for _ in range(count)]
    assert pool.compound(*commands, refused="invalid").field == "commands"


# -- a draft -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_command_can_be_undone_exactly(data):
    ledger = Ledger()
    ledger.tree("root", "root/a", "a/leaf")
    ledger.budget("root", 100, period="hour", carry_over="unused")
    ledger.allocate("a", 50)
    ledger.adjust("adj", "root", 20, budget="tokens-hour", valid_until=moment(90 * SECOND))
    ledger.reserve("h", "leaf", 20, lease_s=60)
    ledger.running("h", 5)
    before = rows(ledger.draft)
    deadlines = sorted(ledger.draft.deadlines)
    commands = st.sampled_from(
        [
            Reserve(id="h2", account="leaf", amounts={"tokens": 30}),
            Settle(id="h", total={"tokens": 70}),
            Settle(id="h9", account="leaf", total={"tokens": 70}),
            Extend(id="h", to={"tokens": 25}),
            Release(id="h"),
            Allocate(account="a", unit="tokens", to=60),
            Allocate(account="leaf", unit="tokens", to=10),
            PutBudget(account="root", unit="tokens", limit=300, budget="other"),
            PutAccount(account="new", parent="a"),
            SetStatus(account="a", status="suspended"),
            SetStatus(account="root", status="closed"),
            Compound(commands=(Release(id="h"), Allocate(account="a", unit="tokens", to=0))),
        ]
    )
    mark = ledger.draft.mark()
    for command in data.draw(st.lists(commands, max_size=5)):
        ledger.draft.isolate()
        decide(ledger.draft, Request(command=command), ledger.now + data.draw(st.integers(0, 3 * HOUR)))
    ledger.draft.rollback(mark)
    assert rows(ledger.draft) == before
    assert set(deadlines) <= set(ledger.draft.deadlines)
    assert ledger.draft.events == []


def test_a_new_ledger_is_empty():
    draft = new_draft()
    assert all(not table for table in rows(draft).values())
    assert isinstance(decide(draft, Request(command=Release(id="h")), 0), Refused)
