"""A provider of our own and a gateway before it."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.gate import Gate, providers, standing
from tests.gateway.upstream import Upstream
from tests.gateway.upstream import upstream as running


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A provider of all families."""
    async with running() as server:
        yield server


@pytest.fixture
async def gate(upstream: Upstream) -> AsyncIterator[Gate]:
    """A gateway before it, without keys; ``team:a`` pays and has plenty. Nothing is held afterwards."""
    async with standing(providers(upstream)) as found:
        yield found
