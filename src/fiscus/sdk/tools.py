"""A tool by which an agent reads its own budget, in the shapes in which the providers take tools."""

from __future__ import annotations

from typing import Any, Literal, overload

import msgspec

from fiscus.contract.chains import OwnBudget
from fiscus.core.units import dollars
from fiscus.sdk.sync import SyncTreasury
from fiscus.sdk.treasury import Treasury

ToolDialect = Literal["openai.chat", "openai.responses", "anthropic.messages", "gemini.generate"]

NAME = "read_own_budget"
DESCRIPTION = (
    "Reads what is left of your own budget: tokens and money that your next calls may still use, what calls in flight "
    "hold of it, and when it is renewed. Ask before long or expensive work, and when you were told that it runs low."
)
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


class BudgetTool:
    """The budget of one account, as a function for an agent: ``await tool()`` gives JSON for the model to read.

    It takes no arguments, so an agent can only ask for its own.
    """

    name = NAME
    description = DESCRIPTION

    def __init__(self, treasury: Any, account: str) -> None:
        self.__name__ = NAME
        self.__doc__ = DESCRIPTION
        self._treasury = treasury
        self._account = account

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of its arguments: there are none."""
        return {**SCHEMA, "properties": {}, "required": []}

    def definition(self, dialect: ToolDialect) -> dict[str, Any]:
        """What to put into ``tools`` of a request.

        >>> BudgetTool(None, "agent:x").definition("anthropic.messages")["name"]
        'read_own_budget'
        """
        function = {"name": NAME, "description": DESCRIPTION}
        match dialect:
            case "openai.chat":
                return {"type": "function", "function": {**function, "parameters": self.schema, "strict": True}}
            case "openai.responses":
                return {"type": "function", **function, "parameters": self.schema, "strict": True}
            case "anthropic.messages":
                return {**function, "input_schema": self.schema}
            case "gemini.generate":  # which takes no object without properties
                return {"functionDeclarations": [function]}

    async def __call__(self) -> str:
        """What is left now.

        Raises:
            Refusal: the account is not known, or the key may not read it.
            TreasuryError: nobody can be asked.
        """
        return told(await self._treasury.own_budget(self._account))


class SyncBudgetTool(BudgetTool):
    """The same without ``await``."""

    def __call__(self) -> str:  # type: ignore[override]  # that is the difference
        """What is left now; see ``BudgetTool``."""
        return told(self._treasury.own_budget(self._account))


@overload
def agent_budget_tool(treasury: Treasury, account: str) -> BudgetTool: ...


@overload
def agent_budget_tool(treasury: SyncTreasury, account: str) -> SyncBudgetTool: ...


def agent_budget_tool(treasury: Treasury | SyncTreasury, account: str) -> BudgetTool:
    """A tool by which an agent reads the budget of ``account``, its own."""
    kind = SyncBudgetTool if isinstance(treasury, SyncTreasury) else BudgetTool
    return kind(treasury, account)


def told(own: OwnBudget) -> str:
    """A budget for a model: money in dollars, and of all budgets only the one that binds."""
    binding = own.binding
    said: dict[str, Any] = {
        "account": own.account,
        "status": own.status,
        "left": {unit: dollars(amount) if unit == "cost" else amount for unit, amount in own.left.items()},
    }
    if binding is not None:
        used = binding.limit - binding.available - binding.held
        said["tightest_budget"] = {
            "name": f"{binding.account}/{binding.budget}",
            "unit": binding.unit,
            "used_percent": 100 * used // binding.limit if binding.limit else 100,
            "held_by_calls_in_flight": dollars(binding.held) if binding.unit == "cost" else binding.held,
            "resets_at": own.resets_at,
        }
    return msgspec.json.encode(said).decode()
