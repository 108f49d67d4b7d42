"""Whatever stands in the OpenAPI document or not is answered as it says there, and never with a 5xx."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from fiscus.api.economy import economy_paths, economy_schemas
from tests.api.economy_service import serve

DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Token economy", "version": "0"},
    "paths": economy_paths(),
    "components": {
        "schemas": economy_schemas(),
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        },
    },
}
schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.config.generation.update(codec="ascii")  # beyond it, the generator reads \p{…} in another way


@contextmanager
def served() -> Iterator[str]:
    """The service in a thread of its own."""
    started, stop = threading.Event(), None
    url, loop = "", None

    async def run() -> None:
        nonlocal url, loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with serve() as economy:
            url = economy.url
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(10)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as running:
        yield running


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_described(case, url):
    # covers D21, D22, D25, D28, D30, D36
    case.call_and_validate(base_url=url)
