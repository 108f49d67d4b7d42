"""Which strategy sizes the grants of an account (``fiscus.core.granting``)."""

import pytest

from fiscus.core.commands import EraseName, PutAccount, RemoveTemplate, SetStatus
from fiscus.core.granting import granting_of
from tests.core.builders import Ledger


@pytest.fixture
def tree():
    return Ledger().tree("global", "global/team", "team/agent:ab", "global/agent:b")


def counts(ledger, account):
    answer = ledger.account(account)
    return answer.grant_strategy_effective, answer.grant_strategy_from


# covers D6
def test_the_nearest_strategy_up_the_tree_counts(tree):
    assert counts(tree, "agent:ab") == (None, None)
    tree.account("global", grant_strategy="proven")
    assert counts(tree, "global") == ("proven", "account")
    assert counts(tree, "agent:ab") == counts(tree, "agent:b") == ("proven", "above")
    tree.account("team", grant_strategy="classic")
    assert counts(tree, "agent:ab") == ("classic", "above")
    assert counts(tree, "agent:b") == ("proven", "above")
    tree.account("agent:ab", grant_strategy="proven")
    assert counts(tree, "agent:ab") == ("proven", "account")
    tree.account("agent:ab", priority=3)
    assert counts(tree, "agent:ab") == ("proven", "account"), "what is left out stays"
    tree.account("agent:ab", grant_strategy=None)
    assert counts(tree, "agent:ab") == ("classic", "above")


# covers D6
def test_a_template_says_it_for_the_accounts_that_it_has_opened_and_for_agents_that_match_it(tree):
    tree.template("agent:*", parent="team", grant_strategy="proven")
    tree.spend("agent:new", 1)
    assert counts(tree, "agent:new") == counts(tree, "agent:ab") == ("proven", "template")
    tree.account("agent:new", grant_strategy="classic")
    assert counts(tree, "agent:new") == ("classic", "account")
    tree.template("agent:*", parent="team", grant_strategy="classic", max_children=9)
    assert counts(tree, "agent:ab") == ("classic", "template")
    tree.template("agent:a*", parent="team", grant_strategy="proven")
    assert counts(tree, "agent:ab") == ("proven", "template"), "the longest pattern"
    tree.spend("agent:a2", 1)
    tree.account("thread:1", "agent:ab")
    assert counts(tree, "thread:1") == ("proven", "above")
    tree.do(RemoveTemplate(pattern="agent:a*"))
    assert counts(tree, "agent:a2") == (None, None), "the template that has opened it is gone"
    assert counts(tree, "agent:ab") == ("classic", "template")


def test_a_template_without_it_takes_it_back(tree):
    tree.template("agent:*", grant_strategy="proven")
    assert counts(tree, "agent:ab") == ("proven", "template")
    tree.template("agent:*", max_children=5)
    assert counts(tree, "agent:ab") == (None, None)


def test_an_account_whose_name_was_erased_matches_nothing(tree):
    tree.template("agent:*", grant_strategy="proven")
    number = tree.account("agent:b").number
    tree.do(SetStatus(account="agent:b", status="closed"))
    tree.do(EraseName(account="agent:b"))
    assert granting_of(tree.draft, tree.draft.accounts[number]) == (None, None)


def test_the_same_again_writes_nothing_and_each_change_one_event(tree):
    tree.account("agent:ab", grant_strategy="proven")
    written = len(tree.journal)
    tree.account("agent:ab", grant_strategy="proven")
    tree.account("agent:ab")
    assert len(tree.journal) == written
    tree.account("agent:ab", grant_strategy=None)
    assert [type(event).__name__ for event, _ in tree.journal[written:]] == ["GrantStrategySet"]


def test_nothing_is_written_that_nodes_of_format_1_cannot_read(tree):
    tree.draft.format = 1
    tree.account("agent:ab", grant_strategy="proven", refused="precondition_failed")
    tree.account("agent:x", "global", grant_strategy="proven", refused="precondition_failed")
    tree.template("agent:*", grant_strategy="proven", refused="precondition_failed")
    tree.compound(PutAccount(account="agent:ab", grant_strategy="proven"), refused="precondition_failed")
    assert tree.draft.names.find("agent:x") is None
    tree.account("agent:ab", grant_strategy=None)
