"""The tests by the names under which the documentation of the token economy lists them."""

import pytest

from fiscus.compat.token_economy import TokenBudgetExhausted, TokenBudgetManager, TokenEconomyClient
from tests.api.economy_service import serve


class TestTokenEconomy:
    # covers D56

    async def test_hard_stop_on_budget_exhaustion(self):
        # covers D1, D3, D4, D56
        async with serve(pool_tokens=10_000) as economy, TokenEconomyClient(economy.url) as client:
            await client.allocate_tokens("agent_001", 100)
            await client.update_consumption("agent_001", 100)
            with pytest.raises(TokenBudgetExhausted, match="Agent agent_001 terminated: Token budget exhausted"):
                await client.update_consumption("agent_001", 1)
            with pytest.raises(TokenBudgetExhausted):
                await client.update_consumption("agent_001", 1)
            assert await client.get_agent_status("agent_001") is None

    async def test_efficiency_decides_on_the_next_allocation(self):
        # covers D6, D9
        async with serve(pool_tokens=10_000) as economy, TokenEconomyClient(economy.url) as client:
            async with TokenBudgetManager(client, "agent_001", 1000) as budget:
                await budget.consume(tokens=1000, value=350)
            grant = await client.allocate_tokens("agent_001", 1000)
            assert (grant["efficiency_multiplier"], grant["allocated_tokens"]) == (0.85, 850)

    async def test_global_budget_is_never_exceeded(self):
        # covers D7, D33
        async with serve(pool_tokens=1500) as economy, TokenEconomyClient(economy.url) as client:
            await client.allocate_tokens("agent_001", 1000)
            assert (await client.allocate_tokens("agent_002", 1000))["allocated_tokens"] == 500
            with pytest.raises(TokenBudgetExhausted, match="Global token budget exhausted"):
                await client.allocate_tokens("agent_003", 100)
