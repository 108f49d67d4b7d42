"""Loans: moved with the hold that needs it, remembered, given back as far as unused (``fiscus.core.lending``)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.core.commands import Compound, GiveBack, Lend, LoanPart, Reserve
from fiscus.core.events import LoanEnded, Transferred
from fiscus.core.lending import seats
from fiscus.core.outcomes import Refused
from fiscus.policy.reallocation import Seat, reallocate
from tests.core.builders import HOUR, MINUTE, Ledger, folded, moment, rows

PEERS = ("a", "b", "c")


@pytest.fixture
def peers(ledger):
    """root (10,000) ← a, b, c with 100 each; a is the most important."""
    ledger.account("root")
    ledger.budget("root", 10_000)
    for name, priority in zip(PEERS, (3, 1, 1), strict=True):
        ledger.account(name, "root", priority=priority)
        ledger.allocate(name, 100)
    return ledger


def sizes(ledger: Ledger) -> dict[str, int]:
    return {name: ledger.carved(name).limit for name in PEERS}


DAY = 24 * HOUR


def with_hold(ledger: Ledger, id: str, account: str, amount: int, *parts: tuple[str, int], refused=None):
    """The compound of a loan and the hold that needs it."""
    shares = tuple(LoanPart(source=source, amount=lent) for source, lent in parts)
    loan = Lend(id=f"loan-{id}", account=account, unit="tokens", parts=shares)
    return ledger.compound(
        loan, Reserve(id=id, account=account, amounts={"tokens": amount}, loans=(loan.id,)), refused=refused
    )


def test_what_is_lent_moves_with_the_hold_and_goes_back_as_far_as_it_was_not_used(peers):
    # covers E8, T11
    answer = with_hold(peers, "h", "a", 250, ("b", 60), ("c", 90)).answers[1]
    assert [(loan.amount, loan.active) for loan in answer.loans] == [(150, True)]
    assert sizes(peers) == {"a": 250, "b": 40, "c": 10}
    root = peers.cell("root")
    settled = peers.settle("h", 130)
    assert sizes(peers) == {"a": 130, "b": 70, "c": 100}
    assert peers.cell("root").held + peers.cell("root").covered == root.held + root.covered
    (loan,) = settled.loans
    assert (loan.active, loan.returned, loan.used) == (False, 120, 30)
    assert {share.account: share.returned for share in loan.parts} == {"c": 90, "b": 30}


def test_own_budget_is_used_before_what_was_borrowed(peers):
    peers.spend("a", 80)
    with_hold(peers, "h", "a", 50, ("b", 30))
    peers.settle("h", 20)
    assert sizes(peers) == {"a": 100, "b": 100, "c": 100}


def test_all_of_it_goes_back_when_the_hold_is_released(peers):
    with_hold(peers, "h", "a", 150, ("b", 50))
    assert peers.release("h").loans[0].returned == 50
    assert sizes(peers) == {"a": 100, "b": 100, "c": 100}


def test_what_an_expired_hold_may_have_used_stays_until_its_quarantine_is_closed(peers):
    with_hold(peers, "h", "a", 150, ("b", 50))
    peers.wait(11 * MINUTE).due()
    assert sizes(peers)["b"] == 50
    peers.wait(24 * HOUR).due()
    assert peers.draft.loans["loan-h"].active is False
    assert sizes(peers) == {"a": 150, "b": 50, "c": 100}


def test_an_expired_hold_that_turns_out_unused_gives_all_back():
    ledger = Ledger(quarantine="release")
    ledger.tree("root", "root/a", "root/b")
    ledger.budget("root", 1_000)
    ledger.allocate("a", 100)
    ledger.allocate("b", 100)
    with_hold(ledger, "h", "a", 150, ("b", 50))
    ledger.wait(25 * HOUR).due()
    ledger.wait(24 * HOUR).due()
    assert ledger.carved("b").limit == 100


def test_a_refusal_moves_nothing(peers):
    # covers E8
    before = rows(peers.draft)
    assert with_hold(peers, "h", "a", 251, ("b", 60), ("c", 90), refused="budget_exceeded").index == 1
    with_hold(peers, "h", "a", 120, ("b", 20), ("c", 101), refused="budget_exceeded")
    assert rows(peers.draft) == before


def test_known_fault_t2_usage_beyond_is_booked_and_what_moved_is_told(peers):
    with_hold(peers, "h", "a", 150, ("b", 50))
    settled = peers.settle("h", 400)
    assert settled.uncovered == {"tokens": 250}
    assert (settled.loans[0].used, settled.loans[0].returned) == (50, 0)
    assert sizes(peers) == {"a": 150, "b": 50, "c": 100}


def test_several_loans_of_one_pair_end_each_by_itself(peers):
    with_hold(peers, "h1", "a", 130, ("b", 30))
    with_hold(peers, "h2", "a", 20, ("b", 20))
    assert sizes(peers)["b"] == 50
    peers.settle("h1", 110)
    assert sizes(peers)["b"] == 70
    peers.settle("h2", 0)
    assert sizes(peers) == {"a": 110, "b": 90, "c": 100}


def test_a_loan_ends_at_its_time_and_can_be_given_back_before(peers):
    peers.lend("l", "a", ("b", 50), valid_until=moment(HOUR))
    peers.spend("a", 120)
    peers.wait(HOUR).due()
    assert (sizes(peers)["a"], sizes(peers)["b"]) == (120, 80)
    peers.lend("m", "a", ("c", 40))
    assert peers.give_back("m").returned == 40
    assert peers.give_back("m").returned == 40
    assert sizes(peers)["c"] == 100
    peers.give_back("n", refused="unknown_loan")
    peers.lend("o", "a", ("c", 40), valid_until=moment(0), refused="invalid")


def test_the_most_important_lender_gets_its_share_first(peers):
    peers.account("b", priority=2)
    with_hold(peers, "h", "a", 160, ("c", 30), ("b", 30))
    assert {share.account: share.returned for share in peers.settle("h", 120).loans[0].parts} == {"b": 30, "c": 10}


def test_a_lender_keeps_its_reserve_and_lends_nothing_downhill(peers):
    # covers T7, T8
    peers.account("b", min_reserve={"tokens": 30})
    peers.lend("l", "a", ("b", 71), refused="budget_exceeded")
    peers.lend("l", "a", ("b", 70))
    assert peers.lend("m", "b", ("a", 1), refused="lower_priority").field == "parts[0].source"


def test_known_fault_t9_equals_lend_neither_to_whom_they_owe_nor_what_they_borrowed(peers):
    peers.lend("l", "b", ("c", 40))
    assert peers.lend("m", "c", ("b", 1), refused="conflict").field == "parts[0].source"
    peers.account("d", "root")
    peers.allocate("d", 0)
    peers.lend("m", "d", ("b", 101), refused="budget_exceeded")
    peers.lend("m", "d", ("b", 100))
    peers.lend("n", "a", ("b", 40))  # a is more important: it may have what was lent, too
    peers.give_back("l")
    assert sizes(peers) == {"a": 140, "b": 0, "c": 60}


def test_a_lender_that_is_gone_gets_nothing_and_a_suspended_one_when_it_is_back(peers):
    with_hold(peers, "h", "a", 200, ("b", 50), ("c", 50))
    peers.status("b", "terminated")
    peers.status("c", "suspended")
    assert peers.settle("h", 0).loans[0].active
    assert peers.account("a").loans[0].id == "loan-h"
    peers.give_back("loan-h", refused="account_suspended")
    peers.status("c", "active")
    assert peers.draft.loans["loan-h"].active is False
    assert sizes(peers)["c"] == 100
    assert sizes(peers)["a"] == 150


def test_a_borrower_that_is_terminated_gives_back_first(peers):
    # covers D58
    peers.lend("l", "a", ("b", 60))
    peers.spend("a", 130)
    peers.status("a", "terminated")
    assert sizes(peers)["b"] == 70


def test_a_loan_is_known_by_its_id_and_body(peers):
    # covers E7
    first = peers.lend("l", "a", ("b", 60))
    assert peers.lend("l", "a", ("b", 60)) == first
    assert peers.last == []
    peers.lend("l", "a", ("b", 61), refused="conflict")
    peers.lend("l", "a", ("c", 60), refused="conflict")


def test_a_hold_takes_only_loans_that_are_free_and_were_made_for_its_chain(peers):
    peers.lend("l", "a", ("b", 10))
    assert peers.reserve("h", "b", 5, loans=("l",), refused="unknown_loan").field == "loans[0]"
    peers.reserve("h", "a", 5, loans=("x",), refused="unknown_loan")
    peers.reserve("h", "a", 5, loans=("l",))
    peers.reserve("i", "a", 5, loans=("l",), refused="unknown_loan")
    answered = peers.reserve("h", "a", 5, loans=("l",))
    peers.settle("h", 5)
    assert peers.reserve("h", "a", 5) == answered, "the same id again gets the same answer, whatever became of it"


def test_a_key_lends_and_gives_back_only_within_its_account(peers):
    command = Lend(id="l", account="a", unit="tokens", parts=(LoanPart(source="b", amount=10),))
    assert peers.do(command, "forbidden", scope="a").field == "parts[0].source"
    peers.do(command)
    peers.do(GiveBack(id="l"), "unknown_loan", scope="b")
    peers.do(GiveBack(id="l"), scope="root")


def test_nodes_that_cannot_read_loans_yet_are_not_given_any(peers):
    peers.draft.format = 1
    assert "raise-format" in peers.lend("l", "a", ("b", 10), refused="precondition_failed").detail
    assert "raise-format" in peers.account("a", shortage=("clamp",), refused="precondition_failed").detail
    assert "raise-format" in peers.template("t:*", shortage=("clamp",), refused="precondition_failed").detail


def test_through_several_levels_every_allocation_on_both_paths_follows(ledger):
    # covers E8
    ledger.tree("root", "root/left", "root/right", "left/x", "right/y")
    ledger.budget("root", 1_000)
    for name, size in (("left", 300), ("right", 300), ("x", 200), ("y", 200)):
        ledger.allocate(name, size)
    ledger.lend("l", "x", ("y", 150))
    assert [ledger.carved(name).limit for name in ("left", "x", "right", "y")] == [450, 350, 150, 50]
    ledger.spend("x", 250)
    ledger.give_back("l")
    assert [ledger.carved(name).limit for name in ("left", "x", "right", "y")] == [350, 250, 250, 150]


def test_seats_are_those_below_the_same_parent_that_could_lend(peers):
    peers.account("poor", "root")
    peers.account("other")
    peers.lend("l", "a", ("b", 10))
    found = {seat.account.name: (seat.cell.free, seat.borrowed, len(seat.owed)) for seat in figures(peers, "a")}
    assert found == {"a": (110, 10, 1), "b": (90, 0, 0), "c": (100, 0, 0)}
    assert figures(peers, "poor") == []


def figures(ledger: Ledger, account: str):
    draft = ledger.draft
    return seats(draft, draft.accounts[draft.names[account]], "tokens", ledger.now)


def test_nothing_is_in_the_state_that_is_not_in_the_journal(peers):
    # covers E3
    with_hold(peers, "h", "a", 250, ("b", 60), ("c", 90))
    peers.lend("l", "b", ("c", 5), valid_until=moment(HOUR))
    peers.settle("h", 130)
    peers.wait(2 * HOUR).due()
    peers.account("a", shortage=("reallocate", "clamp"))
    assert rows(folded(peers.journal, peers.rules)) == rows(peers.draft)


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 90), st.integers(0, 120), st.booleans()), min_size=1, max_size=25
)


# covers E8, T7, T8, T11
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 2), min_size=4, max_size=4), st.lists(st.integers(0, 40), min_size=4, max_size=4), STEPS)
def test_known_fault_t9_any_reallocations_conserve_the_total_keep_reserves_and_end(priorities, reserves, steps):
    """Each step: somebody needs more than it has, is lent it, and settles some of it now or at the end."""
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", 1_000)
    names = [f"s{i}" for i in range(4)]
    for name, priority, reserve in zip(names, priorities, reserves, strict=True):
        ledger.account(name, "root", priority=priority, min_reserve={"tokens": reserve})
        ledger.allocate(name, 100)
    open_holds: list[tuple[str, int]] = []
    for number, (who, need, used, at_once) in enumerate(steps):
        needy = names[who]
        wanted = ledger.carved(needy).limit - sum(ledger.carved(needy)[1:]) + need
        plan = reallocate(policy_seats(ledger, needy), needy=needy, shortfall=need)
        if plan.recovered < need:
            continue
        before = {name: ledger.carved(name) for name in names}
        parts = tuple(LoanPart(source=move.donor, amount=move.amount) for move in plan.moves)
        outcome = ledger.decide(
            Compound(
                commands=(
                    Lend(id=f"l{number}", account=needy, unit="tokens", parts=parts),
                    Reserve(id=f"h{number}", account=needy, amounts={"tokens": wanted}, loans=(f"l{number}",)),
                )
            )
        )
        assert not isinstance(outcome, Refused), (plan, outcome)
        assert sum(ledger.carved(name).limit for name in names) == 400
        for move in plan.moves:
            left = ledger.carved(move.donor)
            assert left.limit - sum(left[1:]) >= reserves[names.index(move.donor)]
            assert left.limit == before[move.donor].limit - move.amount
        if at_once:
            ledger.settle(f"h{number}", min(used, wanted))
        else:
            open_holds.append((f"h{number}", min(used, wanted)))
    for id, used in open_holds:
        ledger.settle(id, used)
    assert sum(ledger.carved(name).limit for name in names) == 400
    assert not any(loan.active for loan in ledger.draft.loans.values()), "every loan ends"
    assert not any(account.loans for account in ledger.draft.accounts.values())
    made = sum(isinstance(event, Transferred) for event, _ in ledger.journal)
    assert made <= 2 * sum(len(loan.parts) for loan in ledger.draft.loans.values()), "each part moves once each way"
    assert sum(isinstance(event, LoanEnded) for event, _ in ledger.journal) == len(ledger.draft.loans)


def policy_seats(ledger: Ledger, needy: str) -> list[Seat]:
    return [
        Seat(
            account=seat.account.name,
            priority=seat.account.priority,
            allocation=seat.cell.limit,
            available=seat.cell.free,
            min_reserve=seat.account.min_reserve.get("tokens", 0),
            borrowed=seat.borrowed,
            lenders=frozenset(ledger.draft.accounts[number].name for number in seat.owed),
        )
        for seat in figures(ledger, needy)
    ]


@pytest.mark.parametrize("used", [0, 130])
def test_a_loan_whose_time_was_over_before_its_window_is_given_back_in_that_window_whoever_looks_when(ledger, used):
    ledger.account("root")
    ledger.budget("root", 1_000, period="day")
    for name in ("a", "b"):
        ledger.account(name, "root")
        ledger.allocate(name, 100)
    ledger.lend("l", "a", ("b", 50), valid_until=moment(HOUR))
    if used:
        ledger.spend("a", used)
    ledger.wait(30 * HOUR).due()
    kinds = [type(event).__name__ for event in ledger.last]
    assert kinds.index("LoanEnded") < kinds.index("AllocationEnded")
    assert "AllocationPut" not in kinds
    assert (ledger.draft.loans["l"].active, dict(ledger.draft.loans["l"].returned)) == (
        False,
        {ledger.draft.names["b"]: 20 if used else 50},
    )
    ledger.reserve("h", "a", 1)
    assert ledger.carved("a").limit == (130 if used else 100)


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_a_quarantine_that_closes_at_the_end_of_a_day_gives_back_in_that_day_whoever_looks_when(is_looked_at):
    ledger = Ledger(quarantine="release")
    ledger.account("root")
    ledger.budget("root", 1_000, period="day")
    ledger.wait(DAY - ledger.now % DAY)
    for name in ("a", "b"):
        ledger.account(name, "root")
        ledger.allocate(name, 100)
    ledger.lend("l", "a", ("b", 50))
    ledger.reserve("h", "a", 150, loans=("l",), lease_s=DAY // 1_000)
    ledger.wait(DAY + 1).due()
    if is_looked_at:
        ledger.spend("root", 1)
    ledger.wait(DAY - 1).due()
    assert ledger.draft.loans["l"].active is False
    assert ledger.cell("root", "tokens-day").held == 0, "nobody has asked for an allocation of the new day"
    ledger.reserve("i", "a", 1)
    ledger.reserve("j", "b", 1)
    assert (ledger.carved("a").limit, ledger.carved("b").limit) == (100, 100)


@pytest.mark.parametrize("hours", [25, 49, 80])
def test_what_is_lent_for_a_hold_that_expires_is_closed_with_its_quarantine_in_windows_that_ended_meanwhile(hours):
    ledger = Ledger(quarantine="release")
    ledger.account("root")
    ledger.budget("root", 1_000, period="day")
    for name in ("a", "b"):
        ledger.account(name, "root")
        ledger.allocate(name, 100)
    with_hold(ledger, "h", "a", 150, ("b", 50))
    ledger.wait(hours * HOUR).due()
    ledger.reserve("i", "b", 1)
    assert ledger.draft.loans["loan-h"].active is False
    ledger.reserve("j", "a", 1)
    assert (ledger.carved("a").limit, ledger.carved("b").limit) == (100, 100)
