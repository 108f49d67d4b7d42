"""Who may see and open what: scopes of keys, and templates (design.md §3, §7 "Bounds on everything", "Keys")."""

import pytest

from fiscus.core.commands import (
    CHAIN_LENGTH_MAX,
    Adjust,
    Allocate,
    Deallocate,
    EraseName,
    PutAccount,
    PutBudget,
    Release,
    RemoveBudget,
    RemoveTemplate,
    Reserve,
    SetStatus,
    Settle,
    TemplateBudget,
    Transfer,
)
from tests.core.builders import HOUR, MINUTE, SECOND, moment

# -- scopes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def teams(ledger):
    """root ← red ← red:1; root ← blue ← blue:1."""
    ledger.tree("root", "root/red", "root/blue", "red/red:1", "blue/blue:1")
    ledger.budget("root", 1_000)
    ledger.allocate("red", 100)
    ledger.allocate("blue", 100)
    ledger.allocate("blue:1", 10)
    return ledger


COMMANDS = {
    "reserve": lambda name: Reserve(id="h", account=name, amounts={"tokens": 1}),
    "usage": lambda name: Settle(id="h", account=name, total={"tokens": 1}),
    "tombstone": lambda name: Release(id="h", account=name),
    "put_account": lambda name: PutAccount(account=name, priority=9),
    "open_below": lambda name: PutAccount(account="new", parent=name),
    "set_status": lambda name: SetStatus(account=name, status="suspended"),
    "put_budget": lambda name: PutBudget(account=name, unit="tokens", limit=1),
    "remove_budget": lambda name: RemoveBudget(account=name, budget="tokens-lifetime"),
    "allocate": lambda name: Allocate(account=name, unit="tokens", to=1),
    "deallocate": lambda name: Deallocate(account=name, unit="tokens"),
    "adjust": lambda name: Adjust(id="x", account=name, budget="tokens-lifetime", amount=1, reason="r"),
    "transfer_from": lambda name: Transfer(source=name, target="red", unit="tokens", amount=1),
    "transfer_to": lambda name: Transfer(source="red", target=name, unit="tokens", amount=1),
    "erase_name": lambda name: EraseName(account=name),
    "also": lambda name: Reserve(id="h", account="red:1", amounts={"tokens": 1}, also=(name,)),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["blue", "blue:1", "nobody"])
def test_a_key_of_one_account_can_neither_act_for_another_nor_learn_whether_it_exists(teams, command, name):
    refused = teams.do(COMMANDS[command](name), "forbidden", scope="red")
    assert refused.detail == f"this key may not act for {name!r}" or command == "open_below"
    assert teams.last == []


@pytest.mark.parametrize("command", ["reserve", "usage", "tombstone", "put_account", "open_below", "put_budget"])
@pytest.mark.parametrize("name", ["red", "red:1"])
def test_a_key_acts_for_its_account_and_all_below(teams, command, name):
    teams.do(COMMANDS[command](name), scope="red")


def test_a_key_may_not_raise_its_own_account(teams):
    teams.do(Allocate(account="red", unit="tokens", to=900), "forbidden", scope="red")
    teams.do(Allocate(account="red:1", unit="tokens", to=50), scope="red")


def test_a_payers_ancestors_may_be_named_as_also_for_they_are_charged_anyhow(teams):
    teams.do(Reserve(id="h", account="red:1", amounts={"tokens": 1}, also=("root",)), scope="red")


def test_a_key_opens_no_roots_and_none_at_all_without_permission(teams):
    teams.do(PutAccount(account="mine"), "forbidden", scope="red")
    teams.do(PutAccount(account="mine", parent="red"), "forbidden", scope="red", may_open=False)
    teams.do(PutAccount(account="mine", parent="red"), scope="red")


# -- templates -----------------------------------------------------------------------------------------------------


# covers X1
def test_an_account_is_opened_from_its_template_when_it_is_first_used(ledger):
    ledger.account("root")
    ledger.template("thread:*", parent="root", budgets=(TemplateBudget(unit="tokens", limit=100),), priority=4)
    ledger.reserve("h", "thread:1", 60)
    assert ledger.cell("thread:1") == (100, 0, 60, 0, 0)
    answer = ledger.account("thread:1")
    assert (answer.parent, answer.priority) == ("root", 4)
    ledger.use("thread:2", 30)
    assert ledger.cell("thread:2") == (100, 0, 0, 0, 30)
    assert "thread:3" not in ledger.draft.names, "looking opens nothing"


# covers X4
def test_a_changed_template_holds_for_new_accounts_only(ledger):
    ledger.template("thread:*", budgets=(TemplateBudget(unit="tokens", limit=100),))
    ledger.reserve("h", "thread:1", 1)
    ledger.template("thread:*", budgets=(TemplateBudget(unit="tokens", limit=7),))
    ledger.reserve("h2", "thread:2", 1)
    assert (ledger.cell("thread:1").limit, ledger.cell("thread:2").limit) == (100, 7)


def test_the_longest_pattern_wins_and_the_star_is_for_at_least_one_character(ledger):
    ledger.template("t:*", priority=1)
    ledger.template("t:vip:*", priority=2)
    ledger.reserve("h1", "t:1", 1)
    ledger.reserve("h2", "t:vip:1", 1)
    assert (ledger.account("t:1").priority, ledger.account("t:vip:1").priority) == (1, 2)
    ledger.reserve("h3", "t:", 1, refused="unknown_account")
    ledger.do(RemoveTemplate(pattern="t:vip:*"))
    ledger.reserve("h4", "t:vip:2", 1)
    assert ledger.account("t:vip:2").priority == 1


def test_the_opener_may_name_the_parent_and_a_missing_parent_is_opened_first(ledger):
    ledger.account("root")
    ledger.template("team:*", parent="root", budgets=(TemplateBudget(unit="tokens", limit=50),))
    ledger.template("agent:*")
    ledger.reserve("h", "agent:1", 20, parent="team:a")
    assert ledger.account("agent:1").parent == "team:a"
    assert ledger.account("team:a").parent == "root"
    assert ledger.cell("team:a") == (50, 0, 20, 0, 0)
    ledger.reserve("h2", "agent:2", 1)
    assert ledger.account("agent:2").parent is None
    assert ledger.reserve("h3", "agent:3", 1, parent="nobody", refused="unknown_account").field == "parent"
    ledger.reserve("h4", "agent:4", 1, parent="agent:4", refused="unknown_account")


def test_a_parent_that_is_named_for_an_account_that_exists_changes_nothing(pool):
    pool.template("t:*")
    pool.reserve("h", "a", 1, parent="b")
    assert pool.account("a").parent == "root"


def test_a_refused_opener_leaves_no_account_behind(ledger):
    ledger.account("root")
    ledger.budget("root", 100)
    ledger.template("team:*", parent="root")
    ledger.template("agent:*", allocations={"tokens": 60})
    ledger.reserve("h", "agent:1", 61, parent="team:a", refused="budget_exceeded")
    assert set(ledger.draft.names) == {"root"}
    ledger.reserve("h", "agent:1", 60, parent="team:a")
    ledger.reserve("h2", "agent:2", 1, parent="team:a", refused="budget_exceeded")
    assert set(ledger.draft.names) == {"root", "team:a", "agent:1"}
    assert ledger.cell("root") == (100, 0, 60, 0, 0)


def test_a_template_opens_at_most_max_children_below_one_parent_at_once(ledger):
    ledger.tree("root", "other")
    ledger.template("t:*", max_children=2)
    ledger.reserve("h1", "t:1", 1, parent="root")
    ledger.reserve("h2", "t:2", 1, parent="root")
    assert ledger.reserve("h3", "t:3", 1, parent="root", refused="too_many_accounts").retry_after_s
    ledger.reserve("h3", "t:3", 1, parent="other")
    ledger.status("t:1", "closed")
    ledger.reserve("h4", "t:4", 1, parent="root")
    ledger.reserve("h5", "t:5", 1, parent="root", refused="too_many_accounts")
    ledger.status("t:1", "closed")
    ledger.reserve("h5", "t:5", 1, parent="root", refused="too_many_accounts")


def test_a_template_opens_at_most_max_new_per_minute(ledger):
    ledger.wait(20 * SECOND)
    ledger.template("t:*", max_new_per_minute=2)
    ledger.reserve("h1", "t:1", 1)
    ledger.reserve("h2", "t:2", 1)
    assert ledger.reserve("h3", "t:3", 1, refused="too_many_accounts").retry_after_s == 40
    ledger.reserve("h1b", "t:1", 1)
    ledger.template("t:*", max_new_per_minute=2, priority=2)
    ledger.reserve("h3", "t:3", 1, refused="too_many_accounts")
    ledger.wait(39 * SECOND + 999).reserve("h3", "t:3", 1, refused="too_many_accounts")
    ledger.wait(1).reserve("h3", "t:3", 1)
    ledger.wait(MINUTE).reserve("h4", "t:4", 1)


# covers E14
def test_usage_opens_its_account_whatever_bounds_and_room_the_template_has(ledger):
    ledger.account("root")
    ledger.budget("root", 15)
    ledger.template("t:*", parent="root", max_children=1, max_new_per_minute=1, allocations={"tokens": 10})
    ledger.reserve("h", "t:1", 5)
    ledger.settle("h2", 7, account="t:2")
    assert ledger.cell("root") == (15, 0, 10, 0, 7)
    ledger.reserve("h3", "t:3", 1, refused="too_many_accounts")


def test_a_template_does_not_pass_the_bound_on_chains_nor_a_parent_that_is_not_active(ledger):
    ledger.account("d1")
    for depth in range(2, CHAIN_LENGTH_MAX + 1):
        ledger.account(f"d{depth}", f"d{depth - 1}")
    ledger.template("t:*")
    ledger.reserve("h", "t:1", 1, parent="d16", refused="invalid")
    ledger.reserve("h", "t:1", 1, parent="d15")
    ledger.status("d1", "suspended")
    ledger.reserve("h2", "t:2", 1, parent="d1", refused="account_suspended")


def test_budgets_of_a_template_begin_with_the_account(ledger):
    ledger.template(
        "t:*",
        budgets=(
            TemplateBudget(unit="tokens", limit=10, period="every:5400"),
            TemplateBudget(unit="cost", limit=70, budget="money", mode="warn"),
        ),
    )
    ledger.wait(7 * MINUTE).reserve("h", "t:1", {"tokens": 10, "cost": 1})
    refused = ledger.reserve("h2", "t:1", {"tokens": 1}, refused="budget_busy")
    assert refused.binding.window_end == moment(HOUR + 37 * MINUTE)
    assert ledger.cell("t:1", "money") == (70, 0, 1, 0, 0)


def test_a_key_opens_only_below_its_own_account_and_only_if_it_may(ledger):
    ledger.tree("root", "root/red", "root/blue")
    ledger.template("t:*")
    ledger.template("b:*", parent="blue")

    def opening(name, parent=None):
        return Reserve(id=f"h-{name}", account=name, amounts={"tokens": 1}, parent=parent)

    ledger.do(opening("t:1", "red"), scope="red")
    ledger.do(opening("t:2", "red"), "forbidden", scope="red", may_open=False)
    ledger.do(opening("t:2", "blue"), "forbidden", scope="red")
    ledger.do(opening("t:2"), "forbidden", scope="red")
    ledger.do(opening("b:1"), "forbidden", scope="red")
    ledger.do(opening("b:1", "red"), scope="red")
    ledger.do(opening("nothing:1", "red"), "forbidden", scope="red")
    assert ledger.account("t:1").parent == "red"


def test_a_key_of_one_account_is_refused_by_a_budget_above_without_seeing_its_figures(ledger):
    ledger.tree("root", "root/red", "root/blue")
    ledger.budget("root", 100)
    ledger.reserve("other", "blue", 90)
    refused = ledger.do(Reserve(id="h", account="red", amounts={"tokens": 20}), "budget_busy", scope="red")
    assert refused.binding is None
    assert "100" not in refused.detail
    assert "root" not in refused.detail
    assert refused.retry_after_s
    whole = ledger.do(Reserve(id="h", account="red", amounts={"tokens": 20}), "budget_busy")
    assert whole.binding.account == "root"
