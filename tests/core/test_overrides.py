"""Overrides: asked for by one key, decided on by another, bounded, expiring, revocable (R8, R31, R known fault 15)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.core.commands import (
    Adjust,
    ApproveOverride,
    Compound,
    EraseName,
    OverridePolicy,
    PutKey,
    RemoveBudget,
    Request,
    RequestOverride,
    RevokeKey,
    TemplateBudget,
)
from fiscus.core.decide import decide
from fiscus.core.fold import REASONS_MAX
from fiscus.core.outcomes import Refused
from fiscus.core.overrides import PENDING_MAX, is_pending, policy_of, room_in
from fiscus.core.records import CallRecord
from fiscus.core.units import AMOUNT_MAX
from tests.core.builders import DAY, HOUR, MINUTE, SECOND, START_MS, Ledger, moment, rows

BUDGET = "tokens-lifetime"


@pytest.fixture
def court(pool):
    """root (100 tokens) above a and b, and who may do what there."""
    return pool.keys(
        boss="admin",
        asker="operator",
        other="operator",
        looker="viewer",
        of_root=("account", "root"),
        of_a=("account", "a"),
    )


def limit(ledger, account="root", budget=BUDGET):
    return ledger.cell(account, budget).limit


# covers R8, R31
def test_what_one_key_asks_another_grants_and_it_is_an_adjustment_that_ends(court):
    asked = court.ask("o", "root", 40, valid_s=3_600)
    assert (asked.state, asked.asked, asked.amount, asked.requested_by) == ("pending", 40, 0, "asker")
    assert (asked.reason, asked.decided_by, asked.decision) == ("because", None, None)
    assert is_pending(court.find("root", BUDGET))
    assert limit(court) == 100
    granted = court.wait(MINUTE).approve("o", 30)
    assert (granted.state, granted.amount, granted.decided_by, granted.decision) == ("approved", 30, "boss", "so be it")
    assert granted.valid_until == moment(HOUR + MINUTE)
    assert court.kinds() == ["OverrideApproved", "Adjusted"]
    assert not is_pending(court.find("root", BUDGET))
    assert limit(court) == 130
    court.wait(HOUR).due()
    assert court.draft.overrides["o"].state == "ended"
    assert limit(court) == 100


# covers R31
@pytest.mark.parametrize(
    "who",
    [
        pytest.param("", id="no key"),
        pytest.param("asker", id="who asked"),
        pytest.param("admin", id="somebody who calls himself admin"),
        pytest.param("nobody", id="a key that there is not"),
        pytest.param("looker", id="a role that the policy does not name"),
        pytest.param("of_root", id="a key that is bound, by default"),
        pytest.param("revoked", id="a key that was revoked"),
        pytest.param("expired", id="a key that has expired"),
    ],
)
def test_who_may_not_decide_is_refused_and_nothing_changes(court, who):
    court.keys(revoked="admin").do(RevokeKey(key="revoked"))
    court.do(PutKey(key="expired", digest="e", role="admin", expires_at=moment(MINUTE)))
    court.wait(MINUTE).ask("o", "root", 10)
    before = rows(court.draft)
    for decide_on in (court.approve, court.deny):
        assert decide_on("o", by=who, refused="forbidden").field == "id"
    if who != "asker":
        court.revoke("o", by=who, refused="forbidden")
    assert rows(court.draft) == before
    court.approve("o")


def test_a_key_without_a_role_that_the_policy_names_by_its_id_may(court):
    court.budget("root", 100, override=OverridePolicy(approvers=(), approver_keys=("looker",)))
    court.ask("o", "root", 10)
    refused = court.approve("o", refused="forbidden")
    assert "looker" in refused.detail
    court.approve("o", by="looker")


def test_where_nobody_may_the_refusal_says_so(court):
    court.budget("root", 100, override=OverridePolicy(approvers=()))
    court.ask("o", "root", 10)
    assert "nobody" in court.approve("o", refused="forbidden").detail


# covers R31
def test_a_bound_key_decides_only_below_its_own_account(court):
    court.keys(of_b=("account", "b"))
    policy = OverridePolicy(approvers=("account",))
    for account in ("root", "a"):
        court.budget(account, 100, override=policy)
        court.ask(f"for {account}", account, 10)
    court.approve("for root", by="of_root", refused="forbidden")
    court.approve("for a", by="of_a", refused="forbidden")
    court.approve("for a", by="of_b", refused="forbidden")
    court.approve("for a", by="of_a", scope="a", refused="forbidden")
    court.approve("for a", by="of_root", scope="root")
    court.approve("for root", refused="forbidden")


# covers R8
def test_a_bound_key_asks_for_its_account_and_below_and_sees_nothing_else(court):
    for account in ("a", "b"):
        court.budget(account, 100)
    court.ask("own", "a", 10, by="of_a", scope="a")
    court.ask("o", "b", 10, by="of_a", scope="a", refused="forbidden")
    court.ask("o", "root", 10, by="of_a", scope="a", refused="forbidden")
    court.ask("below", "b", 10, by="of_root", scope="root")
    for act in (court.approve, court.deny, court.revoke):
        assert act("own", scope="b", refused="unknown_override").code == "unknown_override"
        act("no such", refused="unknown_override")


@pytest.mark.parametrize("again", ["approve", "deny"])
@pytest.mark.parametrize("first", ["approve", "deny", "revoke", "expire", "end"])
def test_what_was_decided_or_is_over_is_not_decided_again(court, first, again):
    court.ask("o", "root", 10, valid_s=60, open_s=60)
    if first == "expire":
        court.wait(60 * SECOND)
    elif first == "revoke":
        court.revoke("o", by="asker")
    elif first == "end":
        court.approve("o")
        court.wait(60 * SECOND)
    else:
        getattr(court, first)("o")
    assert "already" in getattr(court, again)("o", by="other", refused="conflict").detail
    assert limit(court) == (110 if first == "approve" else 100)


# covers R31
def test_a_request_is_open_until_its_time_or_the_window_ends(court):
    court.budget("root", 100, period="hour", budget="hourly")
    assert court.ask("o1", "root", 10, open_s=600).closes_at == moment(10 * MINUTE)
    assert court.ask("o2", "root", 10, budget="hourly", open_s=86_400).closes_at == moment(HOUR)
    assert court.ask("o3", "root", 10, valid_until=moment(5 * MINUTE)).closes_at == moment(5 * MINUTE)
    court.wait(5 * MINUTE - 1).due()
    assert court.kinds() == []
    court.wait(1).due()
    assert [(type(event).__name__, event.id) for event in court.last] == [("OverrideExpired", "o3")]
    court.wait(5 * MINUTE).due()
    assert court.draft.overrides["o1"].state == "expired"
    court.wait(50 * MINUTE).due()
    assert court.draft.overrides["o2"].state == "expired"
    assert not is_pending(court.find("root", BUDGET))
    assert not is_pending(court.find("root", "hourly"))


# covers R31
def test_all_overrides_of_a_window_together_add_half_of_the_base_limit_at_most(court):
    assert court.ask("o", "root", 51, refused="beyond_policy").requested == 51
    court.ask("o1", "root", 30)
    court.ask("o2", "root", 30)
    court.approve("o1")
    assert "20 at most" in court.approve("o2", refused="beyond_policy").detail
    court.approve("o2", 20)
    assert limit(court) == 150
    court.ask("o3", "root", 1)
    court.approve("o3", refused="beyond_policy")
    court.revoke("o1")
    court.approve("o3")
    assert limit(court) == 121


def test_asking_again_after_the_end_covers_what_is_in_use_first_and_raises_nothing_more(court):
    court.ask("o1", "root", 50, valid_s=60)
    court.approve("o1")
    court.spend("root", 140)
    court.wait(60 * SECOND).due()
    assert limit(court) == 140
    court.ask("o2", "root", 50)
    court.approve("o2")
    assert limit(court) == 150
    court.ask("o3", "root", 1)
    court.approve("o3", refused="beyond_policy")


def test_a_plain_adjustment_neither_takes_nor_makes_room_for_overrides(court):
    court.adjust("plain", "root", 1_000)
    cell, policy = court.draft.cells[1], policy_of(court.find("root", BUDGET))
    assert room_in(cell, policy) == 50
    court.ask("o", "root", 50)
    court.approve("o")
    assert (room_in(cell, policy), limit(court)) == (0, 1_150)


def test_the_share_is_rounded_down_and_of_nothing_is_nothing(court):
    court.budget("root", 3, budget="odd")
    court.budget("root", 0, budget="none")
    court.ask("o", "root", 2, budget="odd", refused="beyond_policy")
    court.ask("o", "root", 1, budget="odd")
    court.ask("p", "root", 1, budget="none", refused="beyond_policy")


def test_a_policy_may_allow_more_or_nothing(court):
    court.budget("root", 100, override=OverridePolicy(max_percent=200))
    court.ask("o", "root", 200)
    court.approve("o")
    assert limit(court) == 300
    court.budget("root", 100, override=OverridePolicy(max_percent=0))
    court.ask("p", "root", 1, refused="beyond_policy")


def test_what_counts_is_the_policy_at_the_time_of_the_decision(court):
    court.ask("o", "root", 50)
    court.budget("root", 100, override=OverridePolicy(max_percent=10))
    court.approve("o", refused="beyond_policy")
    court.approve("o", 10)


# covers R31
def test_an_override_lasts_no_longer_than_the_policy_allows(court):
    court.budget("root", 100, override=OverridePolicy(max_duration_s=600))
    assert court.ask("o1", "root", 1, valid_s=601, refused="beyond_policy").field == "valid_s"
    late = court.ask("o1", "root", 1, valid_until=moment(10 * MINUTE + 1), refused="beyond_policy")
    assert late.field == "valid_until"
    court.ask("o1", "root", 1)
    assert court.approve("o1").valid_until == moment(10 * MINUTE)
    court.ask("o2", "root", 1, valid_until=moment(9 * MINUTE))
    assert court.wait(MINUTE).approve("o2").valid_until == moment(9 * MINUTE)
    court.ask("o3", "root", 1, valid_s=600)
    assert court.wait(MINUTE).approve("o3").valid_until == moment(12 * MINUTE)
    court.ask("o4", "root", 1, valid_until=moment(2 * MINUTE), refused="invalid")


# covers R31
def test_where_no_approval_is_needed_it_is_granted_at_once_within_the_bounds(court):
    court.budget("root", 100, override=OverridePolicy(requires_approval=False, max_percent=20))
    granted = court.ask("o1", "root", 15, by="")
    assert (granted.state, granted.amount, granted.decided_by, granted.requested_by) == ("approved", 15, "fiscus", "")
    assert court.kinds() == ["OverrideRequested", "OverrideApproved", "Adjusted"]
    assert limit(court) == 115
    assert "5 at most" in court.ask("o2", "root", 6, by="", refused="beyond_policy").detail
    court.ask("o2", "root", 5, by="")
    assert court.revoke("o2", by="").state == "revoked"
    assert limit(court) == 115
    assert not is_pending(court.find("root", BUDGET))


# covers R31
def test_without_keys_nobody_can_be_told_apart_and_so_nobody_decides(pool):
    pool.ask("o", "root", 10, by="")
    assert "key" in pool.approve("o", by="", refused="forbidden").detail
    pool.deny("o", by="", refused="forbidden")
    assert pool.revoke("o", by="").state == "withdrawn"


# covers R31
@pytest.mark.parametrize("who", ["asker", "boss", "other"])
def test_what_was_granted_is_revoked_and_what_is_in_use_stays_covered(court, who):
    court.ask("o", "root", 50)
    court.approve("o")
    court.spend("root", 120)
    ended = court.revoke("o", by=who)
    assert (ended.state, ended.decision) == ("revoked", "enough")
    assert court.kinds() == ["OverrideRevoked", "AdjustmentEnded"]
    assert court.cell("root") == (120, 120, 0, 0, 0)
    assert court.revoke("o", by=who).state == "revoked"
    assert court.kinds() == [], "a second time changes nothing"
    court.revoke("o", by="looker", refused="forbidden")


def test_only_who_asked_withdraws_a_request_others_deny_it(court):
    court.ask("o", "root", 10)
    assert "deny" in court.revoke("o", by="boss", refused="conflict").detail
    assert court.revoke("o", by="asker").state == "withdrawn"
    assert court.revoke("o", by="asker").state == "withdrawn"
    court.ask("p", "root", 10)
    denied = court.deny("p")
    assert (denied.state, denied.decided_by, denied.decision, denied.amount) == ("denied", "boss", "no", 0)
    for who in ("asker", "boss"):
        court.revoke("p", by=who, refused="conflict")
    court.ask("q", "root", 10, open_s=1)
    court.wait(SECOND).revoke("q", by="asker", refused="conflict")


def test_an_approval_grants_no_more_than_was_asked(court):
    court.ask("o", "root", 10)
    assert court.approve("o", 11, refused="invalid").field == "amount"
    court.approve("o", 10)


# covers E7
def test_the_same_request_again_tells_what_has_become_of_it_and_another_is_a_conflict(court):
    court.ask("o", "root", 10, valid_s=60, open_s=60)
    court.approve("o")
    assert court.ask("o", "root", 10, valid_s=60, open_s=60).state == "approved"
    assert court.kinds() == []
    court.ask("o", "root", 11, valid_s=60, open_s=60, refused="conflict")
    court.ask("o", "root", 10, valid_s=61, open_s=60, refused="conflict")
    court.ask("o", "root", 10, valid_s=60, open_s=61, refused="conflict")
    court.ask("o", "root", 10, open_s=60, valid_until=moment(HOUR), refused="conflict")
    court.ask("o", "root", 10, valid_s=60, open_s=60, by="other", refused="conflict")
    court.budget("a", 10)
    court.ask("o", "a", 10, valid_s=60, open_s=60, refused="conflict")
    assert limit(court) == 110


def test_overrides_and_adjustments_share_their_ids(court):
    court.adjust("x", "root", 5)
    court.ask("x", "root", 5, refused="conflict")
    court.ask("o", "root", 5)
    court.adjust("o", "root", 5, refused="conflict")
    court.deny("o")
    court.adjust("o", "root", 5, refused="conflict")
    assert limit(court) == 105


def test_ending_the_adjustment_ends_the_override(court):
    court.ask("o", "root", 10)
    court.approve("o")
    court.end_adjustment("o", "root")
    assert court.draft.overrides["o"].state == "ended"
    assert (limit(court), court.draft.cells[1].overridden) == (100, 0)
    court.revoke("o")
    assert court.kinds() == []


def test_a_window_takes_its_overrides_with_it(court):
    court.budget("root", 100, period="hour", budget="hourly")
    court.ask("o", "root", 50, budget="hourly", valid_s=7_200)
    court.approve("o")
    court.wait(HOUR).spend("root", 1)
    assert court.draft.overrides["o"].state == "ended"
    assert limit(court, budget="hourly") == 100
    court.ask("p", "root", 50, budget="hourly")
    court.approve("p")
    assert limit(court, budget="hourly") == 150


def test_what_cannot_be_raised_so_is_refused(court):
    court.budget("a", 10)
    court.allocate("b", 10)
    assert court.ask("o", "b", 5, budget="allocation-tokens", refused="conflict").field == "budget"
    court.ask("o", "root", 5, budget="no such", refused="unknown_budget")
    court.ask("o", "nobody", 5, refused="unknown_account")
    court.ask("o", "a", 5, valid_until=moment(0), refused="invalid")
    court.ask("o", "a", 5)
    court.do(RemoveBudget(account="a", budget=BUDGET))
    court.approve("o", refused="unknown_budget")
    court.deny("o")
    court.status("a", "suspended")
    court.budget("a", 10, budget="again")
    court.ask("p", "a", 5, budget="again")
    court.status("root", "suspended")
    court.ask("p2", "a", 5, budget="again")
    court.status("a", "terminated")
    court.ask("q", "a", 5, budget="again", refused="account_terminated")
    court.budget("b", 10)
    court.status("b", "suspended")
    court.status("root", "closed")
    court.ask("q", "b", 5, refused="account_closed")


def test_a_limit_is_not_raised_beyond_the_largest_number(court):
    court.budget("a", AMOUNT_MAX - 10, override=OverridePolicy(max_percent=1))
    court.ask("o", "a", 11)
    assert court.approve("o", refused="invalid").field == "amount"
    court.approve("o", 10)
    assert limit(court, "a") == AMOUNT_MAX


def test_so_many_requests_wait_for_one_budget_and_no_more(court):
    for number in range(PENDING_MAX):
        court.ask(f"o{number}", "root", 1)
    assert court.ask("more", "root", 1, refused="too_many_overrides").retry_after_s
    court.budget("a", 10)
    court.ask("elsewhere", "a", 1)
    court.deny("o3")
    court.ask("more", "root", 1)


def test_why_is_known_of_the_newest_and_forgotten_with_the_name(court):
    for number in range(REASONS_MAX + 1):
        court.ask(f"o{number}", "root", 1, reason=f"reason {number}")
        court.deny(f"o{number}")
    account = court.draft.accounts[1]
    assert list(account.asked) == list(account.decided) == [f"o{number}" for number in range(1, REASONS_MAX + 1)]
    assert account.asked["o1"] == "reason 1"
    court.status("root", "closed")
    court.do(EraseName(account="root"))
    assert (account.asked, account.decided) == ({}, {})


def test_a_template_gives_its_policy_to_what_it_opens(court):
    policy = OverridePolicy(requires_approval=False, max_percent=100)
    court.template("t:*", parent="root", budgets=(TemplateBudget(unit="calls", limit=2, override=policy),))
    court.reserve("h", "t:1", 1)
    assert court.ask("o", "t:1", 2, budget="calls-lifetime").state == "approved"
    assert limit(court, "t:1", "calls-lifetime") == 4
    view = court.account("t:1").budgets[0]
    assert view.override == policy


def test_a_changed_policy_is_a_new_version_of_the_budget_and_the_same_is_none(court):
    policy = OverridePolicy(max_percent=10)
    assert court.budget("root", 100, override=policy).budget.version == 2
    assert court.budget("root", 100, override=OverridePolicy(max_percent=10)).budget.version == 2
    assert court.budget("root", 100).budget.override is None
    assert policy_of(court.find("root", BUDGET)) == OverridePolicy()


def test_within_a_compound_all_or_none_is_decided(court):
    court.ask("o", "root", 10)
    compound = Compound(
        commands=(ApproveOverride(id="o"), Adjust(id="x", account="root", budget="no", amount=1, reason="r"))
    )
    assert court.do(compound, "unknown_budget", actor="boss").index == 1
    assert court.draft.overrides["o"].state == "pending"
    both = (RequestOverride(id="p", account="root", budget=BUDGET, amount=1, reason="r"), ApproveOverride(id="o"))
    assert [answer.state for answer in court.do(Compound(commands=both), actor="boss").answers] == [
        "pending",
        "approved",
    ]


@pytest.mark.parametrize("override", [OverridePolicy(max_percent=10), None])
def test_nothing_of_it_is_written_before_all_nodes_can_read_it(court, override):
    """A cluster that is being upgraded still writes the format of the older nodes."""
    court.ask("o", "root", 10)
    court.draft.format = 1
    before = rows(court.draft)
    assert "raise-format" in court.approve("o", refused="precondition_failed").detail
    court.ask("p", "root", 10, refused="precondition_failed")
    compound = Compound(
        commands=(Adjust(id="x", account="root", budget=BUDGET, amount=1, reason="r"), ApproveOverride(id="o"))
    )
    assert court.do(compound, "precondition_failed", actor="boss").index == 1
    assert rows(court.draft) == before
    court.budget("root", 100, budget="new", override=override, refused="precondition_failed" if override else None)
    court.reserve("h", "root", 10, attributes={"task": "t"})
    assert court.draft.holds["h"].task == ""
    court.settle("h", 10)
    court.draft.format = 2
    court.approve("o")


STEP = st.sampled_from(["ask", "approve", "deny", "revoke", "end", "use", "wait", "limit"])


# covers R31, E13
@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.tuples(STEP, st.integers(0, 5), st.integers(1, 80)), max_size=16))
def test_overrides_never_raise_a_window_beyond_its_share_and_ends_give_it_back(steps):
    """R known fault 15, whatever is asked, granted, used and revoked in whatever order."""
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", 100)
    ledger.keys(boss="admin", asker="operator")
    base = 100
    for what, number, amount in steps:
        id = f"o{number}"
        if what == "ask":
            command = RequestOverride(
                id=id, account="root", budget=BUDGET, amount=amount, reason="r", valid_s=60 * amount
            )
            ledger.decide(command, actor="asker")
        elif what == "approve":
            before = limit(ledger)
            outcome = ledger.decide(ApproveOverride(id=id, amount=amount), actor="boss")
            rise = limit(ledger) - before
            assert 0 <= rise <= (0 if isinstance(outcome, Refused) else amount)
        elif what == "use":
            ledger.use("root", amount)
        elif what == "limit":
            base = max(base, 100 + amount)
            ledger.budget("root", base)
        elif what == "wait":
            ledger.wait(amount * MINUTE).due()
        elif what in ("deny", "revoke"):
            (ledger.deny if what == "deny" else ledger.revoke)(id, refused=_expected(ledger, what, id))
        else:
            ledger.wait(DAY).due()
        cell = ledger.draft.cells.get(1)
        if cell is not None:
            assert cell.limit <= base + base // 2
            active = sum(o.amount for o in ledger.draft.overrides.values() if o.state == "approved")
            assert cell.overridden == cell.raised == active
    pending = sum(o.state == "pending" for o in ledger.draft.overrides.values())
    assert ledger.find("root", BUDGET).asking == pending
    ledger.check_replay()


def _expected(ledger, what, id):
    """With which code it is refused, said from the state alone."""
    override = ledger.draft.overrides.get(id)
    if override is None:
        return "unknown_override"
    is_over = override.closes_at <= ledger.now and override.state == "pending"
    if what == "deny":
        return None if override.state == "pending" and not is_over else "conflict"
    return "conflict" if override.state in ("pending", "denied", "expired") else None


def test_the_clock_of_the_ledger_decides_and_not_the_request(court):
    court.ask("o", "root", 10, open_s=1)
    outcome = decide(court.draft, _request(ApproveOverride(id="o"), "boss"), START_MS + 1_000)
    assert isinstance(outcome, Refused)
    assert outcome.code == "conflict"
    court.now = START_MS + 1_000
    court.due()


def _request(command, actor):
    return Request(command=command, actor=actor)


# -- a call that waits for the decision --------------------------------------------------------------------------------


@pytest.fixture
def blocked(court):
    """root is exhausted by 90 of 100, and more was asked for it."""
    court.spend("a", 90)
    court.ask("o", "root", 50, open_s=600)
    return court


# covers R8, R31
def test_a_call_that_is_blocked_waits_for_the_decision_and_goes_on(blocked):
    blocked.reserve("now", "a", 40, refused="budget_exceeded")
    blocked.queue("h", "a", 40, wait_s=300)
    assert blocked.wait(9 * SECOND).reserve("h", "a", 40, wait_s=300).state == "waiting"
    blocked.approve("o", 30)
    assert blocked.kinds() == ["OverrideApproved", "Adjusted", "Held"]
    assert blocked.attend("h").state == "held"
    assert blocked.cell("root") == (130, 90, 40, 0, 0)


def test_where_nothing_was_asked_for_nobody_waits_for_a_decision(court):
    court.spend("a", 90)
    court.reserve("h", "a", 40, wait_s=300, refused="budget_exceeded")


@pytest.mark.parametrize("how", ["deny", "withdraw", "expire"])
def test_a_call_that_waits_for_a_decision_in_vain_is_refused_with_it(blocked, how):
    blocked.queue("h", "a", 40, wait_s=3_600)
    blocked.queue("too much", "a", 80, wait_s=3_600)
    if how == "deny":
        blocked.deny("o")
    elif how == "withdraw":
        blocked.revoke("o", by="asker")
    else:
        for _ in range(29):
            blocked.wait(20 * SECOND).attend("h")
            blocked.attend("too much")
        blocked.wait(20 * SECOND).due()
    for id in ("h", "too much"):
        assert blocked.draft.holds[id].state == "refused"
        assert blocked.draft.holds[id].ended == "budget_exceeded"
    blocked.reserve("h", "a", 40, refused="budget_exceeded")


def test_what_was_granted_for_too_little_lets_wait_who_may_still_hope(blocked):
    blocked.ask("o2", "root", 40)
    blocked.queue("h", "a", 40, wait_s=300)
    blocked.approve("o", 10)
    assert blocked.draft.holds["h"].state == "waiting"
    blocked.approve("o2", 40)
    assert blocked.draft.holds["h"].state == "held"


def test_who_hoped_for_more_than_was_granted_is_refused_with_the_last_decision(blocked):
    blocked.queue("h", "a", 40, wait_s=300)
    blocked.approve("o", 10)
    assert blocked.draft.holds["h"].state == "refused"


# covers T12
def test_a_gate_that_closes_ends_the_waiting_for_its_task(court):
    court.account("a", confidence_threshold=0.9)
    court.reserve("h1", "a", 100, attributes={"task": "t"})
    court.queue("h2", "a", 60, attributes={"task": "t"})
    court.queue("h3", "a", 60, attributes={"task": "other"})
    court.settle("h1", 1, record=CallRecord(confidence=0.95))
    assert (court.draft.holds["h2"].state, court.draft.holds["h2"].ended) == ("refused", "gated")
    assert court.draft.holds["h3"].state == "held"
