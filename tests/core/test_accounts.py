"""Accounts, their status, templates as stored, and keys (design.md §3 "suspend, terminate, close")."""

import pytest

from fiscus.core.commands import EraseName, PutKey, PutTemplate, RemoveTemplate, RevokeKey, TemplateBudget
from tests.core.builders import HOUR, moment


def test_an_account_is_opened_below_another_and_answers_with_what_is_known(ledger):
    ledger.account("root")
    answer = ledger.account("user:bob", "root", priority=3, labels={"name": "Bob"}, min_reserve={"tokens": 10})
    assert (answer.account, answer.number, answer.parent, answer.status) == ("user:bob", 2, "root", "active")
    assert (answer.priority, answer.labels, answer.min_reserve) == (3, {"name": "Bob"}, {"tokens": 10})
    assert ledger.account("agent:x").priority == 1
    ledger.account("orphan", "nobody", refused="unknown_account")


# covers T6
def test_known_faults_t5_d4_registering_again_changes_only_what_is_given_and_mints_nothing(pool):
    pool.allocate("a", 60)
    pool.spend("a", 25)
    pool.account("a", "root", priority=5)
    assert pool.kinds() == ["AccountChanged"]
    pool.account("a")
    assert pool.last == []
    assert pool.carved("a") == (60, 25, 0, 0, 0)
    pool.allocate("a", 60)
    assert pool.carved("a") == (60, 25, 0, 0, 0)
    assert pool.account("a").priority == 5


@pytest.mark.parametrize("parent", ["b", "nobody", "a2"])
def test_an_account_is_never_moved_so_the_tree_has_no_cycle(pool, parent):
    pool.account("a2", "a")
    assert pool.account("a", parent, refused="conflict").field == "parent"
    pool.account("root", "a", refused="conflict")


def test_labels_are_changed_only_by_who_has_read_them(pool):
    assert (
        pool.account("a", labels={"k": "v"}, if_labels={"k": "w"}, refused="precondition_failed").field == "if_labels"
    )
    pool.account("a", labels={"k": "v"}, if_labels={})
    refused = pool.account("a", labels={"k": "w"}, priority=3, if_labels={}, refused="precondition_failed")
    assert "v" not in refused.detail.replace("have", "").replace("labels", "").split()
    assert pool.last == []
    assert pool.account("a", labels={"k": "w"}, if_labels={"k": "v"}).labels == {"k": "w"}
    pool.account("new", "root", if_labels={"k": "v"}, refused="precondition_failed")
    assert pool.account("new", "root", if_labels={}).priority == 1
    assert pool.account("new", if_labels={"k" * 129: "v"}, refused="invalid").field == "if_labels"


def test_labels_are_replaced_and_stand_in_the_private_part(pool):
    pool.account("a", labels={"k": "v"})
    assert pool.account("a", labels={"other": "w"}).labels == {"other": "w"}
    assert pool.last[0].private.labels == {"other": "w"}
    assert pool.account("a", labels={}).labels == {}


@pytest.mark.parametrize("status", ["suspended", "terminated", "closed"])
def test_no_new_holds_and_no_new_children_but_what_is_open_still_works(pool, status):
    pool.reserve("settled", "a", 10)
    pool.reserve("released", "a", 10)
    pool.reserve("dying", "a", 10, lease_s=3_600)
    pool.status("a", status)
    pool.reserve("h", "a", 1, refused=f"account_{status}")
    pool.account("child", "a", refused=f"account_{status}")
    pool.settle("settled", 10)
    pool.release("released")
    pool.wait(HOUR)
    assert pool.cell("root") == (100, 10, 0, 10, 0)


def test_status_counts_down_the_tree_and_resumes(pool):
    pool.account("leaf", "a")
    pool.status("root", "suspended", reason="holidays")
    assert pool.last[0].private.reason == "holidays"
    answer = pool.account("leaf")
    assert (answer.status, answer.status_effective) == ("active", "suspended")
    pool.status("root", "active")
    assert pool.account("leaf").status_effective == "active"
    pool.reserve("h", "leaf", 1)


@pytest.mark.parametrize("last", ["terminated", "closed"])
@pytest.mark.parametrize("wanted", ["active", "suspended", "terminated", "closed"])
def test_terminated_and_closed_are_for_good_and_nothing_is_deleted(pool, last, wanted):
    pool.status("a", "suspended")
    pool.status("a", last)
    pool.status("a", wanted, refused=None if wanted == last else "conflict")
    assert pool.account("a").status == last


def test_the_same_status_again_changes_nothing(pool):
    pool.status("a", "active")
    assert pool.last == []
    pool.status("nobody", "active", refused="unknown_account")


# covers X7
def test_known_faults_x6_x7_a_closed_thread_keeps_its_final_figures_and_never_starts_at_zero(ledger):
    ledger.tree("root", "root/thread:1", "thread:1/thread:1.1")
    ledger.budget("thread:1", 100)
    ledger.spend("thread:1.1", 70)
    answer = ledger.status("thread:1", "closed")
    assert answer.budgets[0].balance.spent == 70
    ledger.use("thread:1.1", 5)
    assert ledger.cell("thread:1") == (100, 70, 0, 0, 5)
    ledger.reserve("h", "thread:1", 1, refused="account_closed")
    ledger.reserve("h", "thread:1.1", 1, refused="account_closed")


def test_known_fault_x5_child_threads_share_the_budget_of_their_root(ledger):
    ledger.account("thread:1")
    ledger.budget("thread:1", 100)
    for hop in range(2, 6):
        ledger.account(f"thread:{hop}", f"thread:{hop - 1}")
        ledger.spend(f"thread:{hop}", 20)
    assert ledger.reserve("h", "thread:5", 21, refused="budget_exceeded").binding.account == "thread:1"
    ledger.reserve("h", "thread:5", 20)


# -- names ---------------------------------------------------------------------------------------------------------


def test_a_name_is_erased_once_the_account_has_ended(pool):
    pool.account("user:bob", "root", labels={"mail": "bob@example.org"})
    number = pool.account("user:bob").number
    pool.do(EraseName(account="user:bob"), "conflict")
    pool.spend("user:bob", 10)
    pool.status("user:bob", "closed")
    assert pool.do(EraseName(account="user:bob")).number == number
    account = pool.draft.accounts[number]
    assert (account.name, account.labels, account.display_name) == (None, {}, f"erased:{number}")
    pool.do(EraseName(account="user:bob"), "unknown_account")
    assert pool.cell("root") == (100, 10, 0, 0, 0), "the numbers stay"
    assert pool.account("user:bob", "root").number > number, "the name may be given again"


# -- templates and keys as stored ----------------------------------------------------------------------------------


def test_a_template_is_stored_changed_and_removed(pool):
    pool.template("t:*", parent="root", budgets=(TemplateBudget(unit="tokens", limit=5),))
    pool.template("t:*", parent="root", budgets=(TemplateBudget(unit="tokens", limit=5),))
    assert pool.last == []
    pool.template("t:*", parent="root", max_children=3)
    assert pool.draft.templates["t:*"].budgets == ()
    assert pool.do(RemoveTemplate(pattern="t:*")).active is False
    pool.do(RemoveTemplate(pattern="t:*"), "unknown_template")
    assert pool.template("t:*").active is True
    pool.template("u:*", parent="nobody", refused="unknown_account")


def test_a_template_whose_parent_matches_itself_is_a_cycle(pool):
    pool.account("t:1")
    assert pool.template("t:*", parent="t:1", refused="invalid").field == "parent"


def test_a_key_is_known_by_its_digest_only_and_revoked_for_good(pool):
    answer = pool.do(
        PutKey(key="k1", digest="ab12", role="account", account="a", expires_at=moment(HOUR), label="Bob's")
    )
    assert (answer.account, answer.role, answer.active, answer.label) == ("a", "account", True, "Bob's")
    assert answer.expires_at == moment(HOUR)
    assert "ab12" not in str(answer)
    assert pool.do(RevokeKey(key="k1")).active is False
    pool.do(RevokeKey(key="k1"))
    assert pool.last == []
    pool.do(RevokeKey(key="k2"), "unknown_key")
    pool.do(PutKey(key="k3", digest="cd", role="account", account="nobody"), "unknown_account")


def test_only_a_caller_without_a_scope_manages_templates_and_keys(pool):
    for command in (
        PutKey(key="k1", digest="ab", role="admin"),
        RemoveTemplate(pattern="t:*"),
        PutTemplate(pattern="t:*"),
    ):
        pool.do(command, "forbidden", scope="root")
    pool.do(PutKey(key="k1", digest="ab", role="admin"))
    pool.do(RevokeKey(key="k1"), "unknown_key", scope="root")
