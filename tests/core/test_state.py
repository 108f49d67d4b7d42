"""The draft: what is changed can be undone exactly, what is absent is loaded once."""

import pytest

from fiscus.core.commands import PutAccount, Request
from fiscus.core.decide import decide, new_draft
from fiscus.core.state import ENTITY_TYPES, KINDS, NEVER, Account, Draft, Names, Table
from tests.core.builders import MINUTE, Ledger, rows


def account(number, name="a"):
    return Account(number=number, name=name)


def test_an_entity_is_copied_before_its_first_change_only():
    draft = Draft()
    draft.add(draft.accounts, 1, account(1))
    draft.commit()
    mark = draft.mark()
    first = draft.edit(draft.accounts, 1)
    first.priority = 5
    assert draft.edit(draft.accounts, 1) is first
    first.priority = 6
    draft.rollback(mark)
    assert draft.accounts[1].priority == 1


def test_after_isolate_a_change_is_remembered_again():
    draft = Draft()
    draft.add(draft.accounts, 1, account(1))
    draft.edit(draft.accounts, 1).priority = 2
    mark = draft.mark()
    draft.isolate()
    draft.edit(draft.accounts, 1).priority = 3
    draft.rollback(mark)
    assert draft.accounts[1].priority == 2


def test_a_rollback_takes_new_entities_names_and_counts_with_it():
    ledger = Ledger()
    ledger.account("root")
    before = rows(ledger.draft)
    mark = ledger.draft.mark()
    ledger.draft.isolate()
    decide(ledger.draft, Request(command=PutAccount(account="x", parent="root")), ledger.now)
    assert ledger.draft.accounts_opened == 2
    ledger.draft.rollback(mark)
    assert rows(ledger.draft) == before
    assert dict(ledger.draft.names) == {"root": 1}
    assert (ledger.draft.accounts_opened, ledger.draft.events) == (1, [])


def test_a_name_that_was_bound_or_forgotten_comes_back():
    draft = Draft()
    draft.name("a", 1)
    mark = draft.mark()
    draft.name("a", None)
    draft.name("b", 2)
    assert dict(draft.names) == {"b": 2}
    draft.rollback(mark)
    assert dict(draft.names) == {"a": 1}


def test_a_deadline_that_was_taken_comes_back_with_a_rollback_and_not_after_a_commit():
    draft = Draft()
    draft.due(10, 0, 0, "hold", "h")
    mark = draft.mark()
    assert draft.pop_deadline() == (10, 0, 0, "hold", "h")
    assert draft.next_deadline() is None
    draft.rollback(mark)
    assert draft.next_deadline() == (10, 0, 0, "hold", "h")
    draft.pop_deadline()
    draft.commit()
    draft.rollback(draft.mark())
    assert draft.next_deadline() is None


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ((9, 3, 0), (10, 0, 0)),
        ((10, 0, 0), (10, 1, 0)),
        ((10, 3, 5), (10, 3, 4)),
    ],
)
def test_deadlines_come_by_time_then_rank_then_leaf_first(earlier, later):
    draft = Draft()
    draft.due(*later, "cell", 1)
    draft.due(*earlier, "cell", 2)
    assert draft.pop_deadline()[4] == 2
    assert draft.pop_deadline()[4] == 1


def test_stale_deadlines_are_swept():
    draft = Draft()
    for at in (30, 10, 20):
        draft.due(at, 0, 0, "hold", str(at))
    draft.sweep(lambda deadline: deadline[0] != 10)
    assert [draft.pop_deadline()[0], draft.pop_deadline()[0]] == [20, 30]


def test_deadlines_of_holds_that_have_ended_are_swept_and_those_of_others_with_the_same_id_are_not():
    ledger = Ledger()
    ledger.account("root")
    ledger.reserve("ended", "root", 1)
    ledger.reserve("open", "root", 1)
    ledger.settle("ended", 1)
    draft = ledger.draft
    draft.due(NEVER, 2, 0, "adjustment", "ended")
    draft.sweep(lambda deadline: True)
    assert {(kind, key) for _, _, _, kind, key in draft.deadlines} == {("hold", "open"), ("adjustment", "ended")}


def test_commit_tells_what_was_touched_and_ends_the_transaction():
    ledger = Ledger()
    ledger.account("root")
    draft = ledger.draft
    draft.edit(draft.accounts, 1).priority = 3
    assert [(table.kind, key) for table, key, _ in draft.commit()] == [("account", 1)]
    draft.rollback(draft.mark())
    assert draft.accounts[1].priority == 3


def test_what_is_not_in_memory_is_loaded_once_when_it_is_needed():
    asked = []

    def load(key):
        asked.append(key)
        return account(key) if key == 1 else None

    table = Table("account")
    table.load = load
    assert table[1].number == 1
    assert table[1].number == 1
    assert asked == [1]
    table.absent.add(3)
    assert (table.find(2), table.find(3)) == (None, None)
    assert asked == [1, 2]
    with pytest.raises(KeyError, match="account 2 is not in the ledger"):
        table[2]


def test_names_are_loaded_on_need_too():
    names = Names()
    assert names.find("a") is None
    names.load = {"a": 7}.get
    assert (names.find("a"), names.get("a"), names.find("b")) == (7, 7, None)


def test_an_erased_account_keeps_a_stand_in_for_its_name():
    assert account(7, None).display_name == "erased:7"
    assert account(7).display_name == "a"


def test_every_kind_of_entity_has_a_type():
    assert set(ENTITY_TYPES) == set(KINDS)
    assert NEVER > 2**61


def test_a_draft_without_a_fold_cannot_emit():
    with pytest.raises(AssertionError):
        Draft().emit(None)


def test_a_refused_command_costs_what_it_found_out_and_nothing_else():
    """A window that had to be opened to refuse is opened again: nothing of the refused command stays."""
    ledger = Ledger()
    ledger.account("root")
    ledger.budget("root", 10, period="hour")
    ledger.spend("root", 10)
    ledger.wait(61 * MINUTE)
    before = rows(ledger.draft)
    ledger.reserve("h", "root", 11, refused="budget_exceeded")
    assert rows(ledger.draft) == before
    assert new_draft().events == []
