"""The exceptions that programs written for the token economy service catch; they stand in the tree of Fiscus."""

from fiscus.contract.errors import FiscusError


class TokenBudgetExhausted(FiscusError):
    """The agent may not spend any more: it was terminated, or the pool is empty. Stop the agent."""

    code = "budget_exceeded"


class TokenAllocationError(FiscusError):
    """No grant was made: refused, invalid, or the service could not be reached. The message says which."""

    code = "allocation_failed"
