"""The exceptions that programs written for tbcontracts catch; they stand in the tree of Fiscus."""

from __future__ import annotations

from fiscus.contract.errors import FiscusError


class TBCError(FiscusError):
    """Base of all that is raised here; its subclasses say what to do."""

    code = "contract_error"


class BudgetExceededError(TBCError):
    """The agent has not got what the call needs, and others could not give it. Stop, or give it more.

    Attributes:
        agent_name: who.
        requested: how many tokens were needed.
        available: how many there were.
        result: what the function returned, if it has run and used more than there was; all of it is booked.
        has_run: whether it has.
        why: why so much was needed, in a sentence.
    """

    code = "budget_exceeded"

    def __init__(
        self,
        agent_name: str,
        requested: int,
        available: int,
        *,
        result: object = None,
        has_run: bool = False,
        why: str = "",
    ) -> None:
        super().__init__(
            f"Agent '{agent_name}' requested {requested} tokens but only {available} were available "
            "even after attempting reallocation."
        )
        self.agent_name = agent_name
        self.requested = requested
        self.available = available
        self.result = result
        self.has_run = has_run
        self.why = why


class GateBlockedError(BudgetExceededError):
    """The agent's last result of this task was sure enough: no more calls of it, until the gate opens again.

    It is a ``BudgetExceededError`` for programs that catch that; the budget is not exceeded, and nothing was requested.
    """

    code = "gated"

    def __init__(self, agent_name: str, available: int, text: str) -> None:
        super().__init__(agent_name, 0, available)
        self.args = (f"Agent '{agent_name}' is stopped by its confidence gate: {text}",)


class UnknownAgentError(TBCError, KeyError):
    """There is no such agent. Register it first."""

    code = "unknown_account"

    def __init__(self, agent_name: str, text: str | None = None) -> None:
        super().__init__(text or f"Agent '{agent_name}' was never registered.")
        self.agent_name = agent_name

    def __str__(self) -> str:
        """The text, not in quotes as a ``KeyError`` has it."""
        return str(self.args[0])
