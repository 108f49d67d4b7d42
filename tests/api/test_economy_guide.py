from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from fiscus.api.economy import EconomyMetrics, TokenEconomy
from fiscus.api.economy.bodies import AgentStatus, AllocateBody, Allocated, BudgetStatus, ConsumeBody, Consumed
from fiscus.api.economy.routes import ROUTES
from fiscus.api.economy.service import KEY_IN_USE, NOT_STARTED, POOL_EXHAUSTED
from tests.api.economy_service import serve

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "token-economy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_the_guide_names_every_address(route):
    assert f"`{route.method} {route.path}`" in GUIDE


@pytest.mark.parametrize("kind", [AllocateBody, ConsumeBody, Allocated, Consumed, BudgetStatus, AgentStatus])
def test_the_guide_names_every_field(kind):
    assert [field for field in kind.__struct_fields__ if f"`{field}`" not in GUIDE] == []


@pytest.mark.parametrize("text", [POOL_EXHAUSTED, KEY_IN_USE, NOT_STARTED, "Service unhealthy:"])
def test_the_guide_names_every_error(text):
    # covers D38
    assert text in GUIDE
    assert "DATABASE_URL" in GUIDE


async def test_the_guide_names_every_metric_and_how_to_scrape_them():
    # covers D50
    async with serve() as economy:
        registry = CollectorRegistry()
        registry.register(EconomyMetrics(TokenEconomy(economy.treasury, pool_tokens=1)))
        assert [family.name for family in registry.collect() if family.name not in GUIDE] == []
    assert "job_name: token-economy" in GUIDE
    assert "scrape_interval: 5s" in GUIDE
    assert '"token-economy:8091"' in GUIDE


@pytest.mark.parametrize("command", ["/health", "/metrics | grep dean_", "/api/v1/tokens/agent/agent_001"])
def test_the_guide_has_the_commands_for_looking_into_it(command):
    # covers D55
    assert f"curl -s http://127.0.0.1:8091{command}" in GUIDE
