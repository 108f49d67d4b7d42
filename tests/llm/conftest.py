"""A real language model and a gateway before it; without its wheels (``make llm``) nothing here is collected."""

from collections.abc import AsyncIterator

import pytest

from fiscus.gateway.options import Upstream
from fiscus.pricing import PriceOverride
from scripts.llm_server import MODEL, is_there, model_server
from tests.gateway.gate import Gate, standing

collect_ignore_glob = [] if is_there() else ["test_*.py"]

PRICES = (PriceOverride(provider="local", model=f"{MODEL}*", input="1", cache_read="0.1", output="2"),)


@pytest.fixture
async def model() -> AsyncIterator[str]:
    """Address of a server that has answered nobody yet."""
    async with model_server() as address:
        yield address


@pytest.fixture
async def gate(model: str) -> AsyncIterator[Gate]:
    """A gateway before it, for both of its wires; ``team:a`` pays and has plenty. Nothing is held afterwards."""
    upstreams = (
        Upstream(name="chat", family="openai", base_url=f"{model}/v1", provider="local"),
        Upstream(name="messages", family="anthropic", base_url=model, provider="local"),
    )
    async with standing(upstreams, prices=PRICES) as found:
        yield found
