"""The checks themselves, seen red: a state that is broken by hand is reported under the right id."""

import pytest

from fiscus.core.invariants import broken, broken_admission
from tests.core.builders import Ledger, moment


@pytest.fixture
def whole(pool):
    pool.allocate("b", 30)
    pool.adjust("more", "root", 10)
    pool.adjust("less", "root", -5)
    pool.keys(boss="admin", asker="operator")
    pool.ask("granted", "root", 2)
    pool.ask("pending", "root", 3)
    pool.approve("granted")
    pool.reserve("h", "a", 20)
    pool.running("h", 5)
    pool.reserve("lost", "a", 7, lease_s=1)
    pool.wait(1_000).due()
    return pool


def test_a_ledger_that_was_only_decided_on_is_whole(whole):
    assert list(broken(whole.draft)) == []
    assert whole.cell("root") == (107, 5, 45, 7, 0)


@pytest.mark.parametrize(
    ("field", "by", "expected"),
    [
        ("covered", -6, {"E1", "E13"}),
        ("uncovered", -1, {"E1", "E13"}),
        ("quarantined", -8, {"E1", "E4", "E13"}),
        ("held", 60, {"E2", "E4", "E13"}),
        ("held", -1, {"E4", "E13"}),
        ("free", 1, {"E13"}),
        ("base", 1, {"E13"}),
        ("raised", 1, {"E13"}),
        ("lowered", 1, {"E13"}),
        ("overridden", 1, {"E13"}),
        ("standing", 1, {"E4"}),
        ("open", 1, {"E4"}),
    ],
)
def test_a_cell_that_is_wrong_is_found(whole, field, by, expected):
    number = whole.find("root", "tokens-lifetime").cell
    cell = whole.draft.cells[number]
    setattr(cell, field, getattr(cell, field) + by)
    assert {id for id, _ in broken(whole.draft)} == expected
    setattr(cell, field, getattr(cell, field) - by)


@pytest.mark.parametrize(("field", "value"), [("state", "ended"), ("amount", 3)])
def test_an_override_that_is_not_what_was_granted_is_found(whole, field, value):
    override = whole.draft.overrides["granted"]
    right = getattr(override, field)
    setattr(override, field, value)
    assert {id for id, _ in broken(whole.draft)} == {"E13"}
    setattr(override, field, right)


def test_a_budget_that_counts_the_pending_overrides_wrong_is_found(whole):
    budget = whole.find("root", "tokens-lifetime")
    assert budget.asking == 1
    budget.asking = 2
    assert {id for id, _ in broken(whole.draft)} == {"E13"}
    budget.asking = 1


@pytest.mark.parametrize(("covered", "booked"), [(21, 30), (-1, 0), (5, 4)])
def test_a_hold_that_is_wrong_is_found(whole, covered, booked):
    hold = whole.draft.holds["h"]
    right = hold.covered, hold.booked
    hold.covered, hold.booked = {"tokens": covered}, {"tokens": booked}
    assert "E5" in {id for id, _ in broken(whole.draft)}
    hold.covered, hold.booked = right


def test_a_forced_cut_is_not_spoken_of(pool):
    pool.reserve("h", "a", 60)
    pool.budget("root", 10, force=True)
    assert list(broken(pool.draft)) == []


@pytest.mark.parametrize(("overdrawn", "mode", "count"), [(0, "enforce", 0), (1, "enforce", 1), (1, "observe", 0)])
def test_an_admission_that_made_a_deficit_is_found(ledger, overdrawn, mode, count):
    ledger.account("root")
    ledger.budget("root", 10, mode=mode)
    ledger.use("root", 10 + overdrawn)
    number = ledger.find("root", "tokens-lifetime").cell
    assert len(list(broken_admission(ledger.draft, [number]))) == count


def test_the_moment_of_the_harness_is_its_clock(pool):
    assert moment(0).timestamp() * 1000 == pool.now


def test_a_loan_that_gives_back_more_than_was_lent_or_is_not_known_is_seen():
    # covers E8
    ledger = Ledger()
    ledger.tree("root", "root/a", "root/b")
    ledger.budget("root", 100)
    ledger.allocate("a", 50)
    ledger.allocate("b", 50)
    ledger.lend("l", "a", ("b", 20))
    assert list(broken(ledger.draft)) == []
    draft = ledger.draft
    lender, loan = draft.accounts[draft.names["b"]], draft.loans["l"]
    loan.returned = ((lender.number, 21),)
    assert [invariant for invariant, _ in broken(draft)] == ["E8"]
    loan.returned = ()
    lender.loans = ()
    assert [invariant for invariant, _ in broken(draft)] == ["E8"]
