"""The client of the token economy service, for programs that already use it: change the import, keep the calls."""

from fiscus.compat.token_economy.budget import TokenBudgetManager
from fiscus.compat.token_economy.client import TokenEconomyClient
from fiscus.compat.token_economy.errors import TokenAllocationError, TokenBudgetExhausted

__all__ = ["TokenAllocationError", "TokenBudgetExhausted", "TokenBudgetManager", "TokenEconomyClient"]
