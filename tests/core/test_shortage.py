"""What is held for a reserve that lacks room, within one decision (``fiscus.core.shortage``)."""

import pytest

from fiscus.core.commands import Alternative, Reserve
from fiscus.core.events import ShortageMet
from tests.core.builders import HOUR, folded, rows


@pytest.fixture
def short(ledger):
    """root (100 tokens, 1,000 nano-USD) ← agent."""
    ledger.tree("root", "root/agent")
    ledger.budget("root", 100)
    ledger.budget("root", 1_000, "cost")
    return ledger


def other(model: str, **amounts: int) -> Alternative:
    return Alternative(model=model, amounts=amounts)


def test_what_fits_is_held_if_it_is_no_less_than_least(short):
    held = short.reserve("h", "agent", {"tokens": 150, "cost": 10}, least={"tokens": 100})
    assert (held.reserved, held.steps) == ({"tokens": 100, "cost": 10, "calls": 1}, ("clamp",))
    assert short.cell("root") == (100, 0, 100, 0, 0)
    short.settle("h", 40)
    short.reserve("i", "agent", {"tokens": 150, "cost": 10}, least={"tokens": 61}, refused="budget_exceeded")
    short.reserve("i", "agent", {"tokens": 150, "cost": 2_000}, least={"tokens": 1}, refused="budget_exceeded")
    assert short.reserve("i", "agent", {"tokens": 60, "cost": 10}, least={"tokens": 1}).steps == ()


def test_output_is_lowered_before_input_where_the_bound_on_tokens_follows(short):
    asked = {"input_tokens": 60, "output_tokens": 80, "cost": 1}
    held = short.reserve("h", "agent", asked, least={"output_tokens": 10})
    assert held.reserved == {"input_tokens": 60, "output_tokens": 40, "tokens": 100, "cost": 1, "calls": 1}
    short.release("h")
    short.reserve("i", "agent", asked, least={"output_tokens": 41}, refused="budget_exceeded")
    held = short.reserve("j", "agent", asked, least={"input_tokens": 20, "output_tokens": 1})
    assert held.reserved["output_tokens"] == 40


def test_what_has_to_be_left_is_left_when_less_is_held(short):
    held = short.reserve("h", "agent", {"tokens": 150, "cost": 1}, least={"tokens": 1}, leave={"tokens": 30})
    assert held.reserved["tokens"] == 70


def test_the_first_alternative_that_fits_is_taken_and_budgets_see_its_model(short):
    short.budget("agent", 5, "calls", budget="dear", match={"model": "dear"})
    short.budget("agent", 0, "calls", budget="none", match={"model": "none"})
    alternatives = (
        other("dear", tokens=101, cost=1),
        other("none", tokens=1, cost=1),
        other("cheap", tokens=90, cost=9),
    )
    held = short.reserve("h", "agent", {"tokens": 150, "cost": 10}, alternatives=alternatives)
    assert (held.model, held.reserved["tokens"], held.steps) == ("cheap", 90, ("downgrade",))
    assert short.cell("agent", "dear").held == 0
    short.reserve(
        "i", "agent", {"tokens": 150, "cost": 1}, alternatives=(other("x", tokens=1),), refused="budget_exceeded"
    )


def test_the_same_id_again_gets_what_was_held_whatever_fits_by_then(short):
    # covers E7
    asked = Reserve(id="h", account="agent", amounts={"tokens": 150, "cost": 1}, least={"tokens": 1})
    held = short.do(asked)
    short.settle("h", 10)
    assert short.do(asked) == held
    assert short.do(Reserve(id="h", account="agent", amounts={"tokens": 150, "cost": 1})) == held
    assert rows(folded(short.journal, short.rules)) == rows(short.draft)


def test_a_list_says_what_is_to_be_tried_and_then_only_the_step_that_is_taken_is(short):
    short.account("root", shortage=("reallocate", "clamp"))
    asked = Reserve(id="h", account="agent", amounts={"tokens": 150, "cost": 1}, least={"tokens": 1})
    assert short.do(asked, "budget_exceeded").shortage == ("reallocate", "clamp")
    assert short.do(asked, "budget_exceeded", steps=("reallocate",)).shortage == ()
    held = short.do(asked, steps=("reallocate", "clamp"))
    assert (held.steps, held.reserved["tokens"]) == (("reallocate", "clamp"), 100)
    met = next(event for event in short.last if isinstance(event, ShortageMet))
    assert (met.steps, met.granted["tokens"]) == (("reallocate", "clamp"), 100)


def test_the_nearest_list_counts_and_one_that_begins_with_deny_ends_all(short):
    short.account("root", shortage=("clamp",))
    short.account("agent", shortage=("deny",))
    asked = {"least": {"tokens": 1}, "refused": "budget_exceeded"}
    assert short.reserve("h", "agent", {"tokens": 150, "cost": 1}, **asked).shortage == ()
    short.account("agent", shortage=())
    assert short.reserve("h", "agent", {"tokens": 150, "cost": 1}, **asked).shortage == ("clamp",)


def test_accounts_of_a_template_have_its_list_and_keep_it_when_it_is_put_again(short):
    short.template("t:*", parent="root", shortage=("downgrade",))
    refused = short.reserve("h", "t:1", {"tokens": 150, "cost": 1}, refused="budget_exceeded")
    assert refused.shortage == ("downgrade",)
    short.reserve("g", "t:1", {"tokens": 1, "cost": 1})
    assert short.reserve("h", "t:1", {"tokens": 150, "cost": 1}, refused="budget_exceeded").shortage == ("downgrade",)
    short.template("t:*", parent="root", shortage=("downgrade",), max_children=9)
    assert short.draft.templates["t:*"].shortage == ("downgrade",)
    short.template("t:*", parent="root")
    assert short.draft.templates["t:*"].shortage == ()


def test_what_exhaustion_does_waits_until_the_list_has_been_tried(short):
    short.account("agent", shortage=("clamp",))
    short.budget("agent", 10, on_exhaustion="suspend")
    short.spend("agent", {"tokens": 10, "cost": 1})
    short.reserve("h", "agent", {"tokens": 1, "cost": 1}, refused="budget_exceeded")
    assert short.account("agent").status == "active"
    asked = Reserve(id="h", account="agent", amounts={"tokens": 1, "cost": 1})
    short.do(asked, "budget_exceeded", steps=("clamp",))
    assert short.account("agent").status == "suspended"


def test_nothing_is_written_that_nodes_of_format_1_cannot_read(short):
    short.draft.format = 1
    short.reserve("h", "agent", {"tokens": 150, "cost": 1}, least={"tokens": 1}, refused="budget_exceeded")
    short.wait(HOUR)
