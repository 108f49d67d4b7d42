"""Whatever the OpenAPI document allows or not, alone and in sequence, is answered as it says, and never with a 5xx."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from schemathesis.specs.openapi.checks import negative_data_rejection

from fiscus.api.openapi import document
from fiscus.api.routes import ROUTES
from tests.api.service import Api, ledger, serving

EXAMPLES_PER_OPERATION = 10
SEQUENCES = 25
STEPS_PER_SEQUENCE = 15

schema = schemathesis.openapi.from_dict(document(ROUTES, "0")).exclude(path="/v1/events")  # it never ends
# What the schema allows may still be refused: for lack of budget, or for what no schema says, like a name given twice.
REFUSED = ["2xx", "402", "403", "404", "409", "412", "415", "422"]
schema.config.checks.positive_data_acceptance.expected_statuses = REFUSED
schema.config.generation.update(codec="ascii")  # beyond it, the generator reads \p{…} in another way


class Service:
    """The service in a thread of its own, on a ledger that can be exchanged for a new one."""

    def __init__(self) -> None:
        self.url = ""
        self._app: Any = None
        self._ledgers: AsyncExitStack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self.session = requests.Session()

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        self.session.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def begin_anew(self) -> None:
        asyncio.run_coroutine_threadsafe(self._renew(), self._loop).result(10)

    async def _run(self) -> None:
        await self._renew()
        async with serving(self._call) as self.url:
            self._started.set()
            await self._stop.wait()
        await self._ledgers.aclose()

    async def _renew(self) -> None:
        await self._ledgers.aclose()
        self._treasury = await self._ledgers.enter_async_context(ledger())
        api = Api(self._treasury)
        await api.tree()
        self._app = api.app

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        """Lists follow what was written; they are asked when they have, so that a sequence can be repeated."""
        if scope.get("method") == "GET" and scope["path"] in ("/v1/accounts", "/v1/usage"):
            while (ready := await self._treasury.readiness()).followers_seq < ready.head_seq:
                await asyncio.sleep(0.01)
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service()
    running.start()
    yield running
    running.stop()


@pytest.mark.slow
@schema.parametrize()
@settings(derandomize=True, max_examples=EXAMPLES_PER_OPERATION, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_described(case, service):
    excluded = [negative_data_rejection] if case.operation.label == "POST /v1/batch" else []  # each has its own status
    case.validate_response(case.call(base_url=service.url, session=service.session), excluded_checks=excluded)


@pytest.mark.slow
def test_every_sequence_of_requests_is_answered_as_described(service):
    class Sequence(schema.as_state_machine()):  # type: ignore[misc]  # made at run time
        def setup(self):
            service.begin_anew()

        def get_call_kwargs(self, case):
            return {"base_url": service.url, "session": service.session}

        def validate_response(self, response, case, additional_checks=(), **kwargs):
            excluded = [negative_data_rejection] if case.operation.label == "POST /v1/batch" else []
            case.validate_response(response, additional_checks=list(additional_checks), excluded_checks=excluded)

    run_state_machine_as_test(
        Sequence,
        settings=settings(
            derandomize=True,
            max_examples=SEQUENCES,
            stateful_step_count=STEPS_PER_SEQUENCE,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
