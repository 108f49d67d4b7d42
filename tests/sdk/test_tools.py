"""An agent asks for its own budget, whichever provider's tools it is given."""

import json

import jsonschema
import pytest

import fiscus
from fiscus.contract.errors import Refusal
from fiscus.sdk import BudgetTool, SyncTreasury, Treasury, agent_budget_tool


async def test_the_tool_tells_what_is_left_on_the_whole_chain(treasury: Treasury):
    await treasury.put_account("team:a")
    await treasury.put_account("agent:x", parent="team:a")
    await treasury.put_budget("team:a", "tokens", 1_000, period="day")
    await treasury.put_budget("agent:x", "cost", 2_500_000_000)
    await treasury.usage("agent:x", {"tokens": 250, "cost": 1_000_000})
    await treasury.reserve("agent:x", tokens=100, cost_nanousd=1_000_000)
    own = await treasury.own_budget("agent:x")
    assert own.left == {"tokens": 650, "cost": 2_498_000_000}
    assert [one.account for one in own.budgets] == ["agent:x", "team:a"]
    told = json.loads(await agent_budget_tool(treasury, "agent:x")())
    assert told["left"] == {"tokens": 650, "cost": "$2.4980"}
    tightest = told["tightest_budget"]
    assert (tightest["name"], tightest["used_percent"], tightest["held_by_calls_in_flight"]) == (
        "team:a/tokens-day",
        25,
        100,
    )
    assert tightest["resets_at"] is not None


async def test_an_account_that_is_not_there_is_refused(treasury: Treasury):
    with pytest.raises(Refusal):
        await agent_budget_tool(treasury, "agent:nobody")()


def test_without_an_event_loop_it_is_a_function(tmp_path):
    with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        assert isinstance(treasury, SyncTreasury)
        treasury.put_account("agent:x")
        tool = fiscus.agent_budget_tool(treasury, "agent:x")
        assert json.loads(tool()) == {"account": "agent:x", "status": "active", "left": {}}
        assert (tool.__name__, tool.__doc__) == (tool.name, tool.description)


def test_its_definitions_have_the_shapes_that_the_providers_take():
    tool = BudgetTool(None, "agent:x")
    chat, responses = tool.definition("openai.chat"), tool.definition("openai.responses")
    assert {**chat.pop("function"), **chat} == responses
    assert tool.definition("anthropic.messages")["input_schema"] == responses["parameters"] == tool.schema
    [declared] = tool.definition("gemini.generate")["functionDeclarations"]
    assert set(declared) == {"name", "description"}, "Gemini takes no object without properties"
    jsonschema.Draft202012Validator.check_schema(tool.schema)
    jsonschema.validate({}, tool.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"account": "agent:other"}, tool.schema)
