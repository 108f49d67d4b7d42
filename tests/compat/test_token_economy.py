"""The client against the real service, and through a proxy that loses replies."""

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from fiscus.api.keys import digest_of, make_secret
from fiscus.compat.token_economy import (
    TokenAllocationError,
    TokenBudgetExhausted,
    TokenBudgetManager,
    TokenEconomyClient,
)
from fiscus.contract.errors import FiscusError
from fiscus.core.commands import PutKey, Request
from fiscus.core.outcomes import KeyAnswer
from tests.api.economy_service import PEPPER, Economy, serve


@pytest.fixture
async def economy() -> AsyncIterator[Economy]:
    async with serve(pool_tokens=5000) as running:
        yield running


@pytest.fixture
async def client(economy: Economy) -> AsyncIterator[TokenEconomyClient]:
    async with TokenEconomyClient(economy.url) as opened:
        yield opened


# -- the client ----------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_service():
    # covers D40
    parameters = inspect.signature(TokenEconomyClient).parameters
    assert parameters["base_url"].default == "http://token-economy:8091"
    assert parameters["timeout"].default == 30.0


async def test_a_client_is_used_as_a_context_manager():
    # covers D39, D40
    unopened = TokenEconomyClient("http://127.0.0.1:1")
    for call in (
        unopened.allocate_tokens("a", 1),
        unopened.update_consumption("a", 1),
        unopened.get_budget_status(),
        unopened.get_agent_status("a"),
        unopened.health_check(),
    ):
        with pytest.raises(RuntimeError, match=r"^Client not initialized\. Use async context manager\.$"):
            await call


async def test_tokens_are_allocated_and_their_use_reported(client):
    # covers D20, D39
    grant = await client.allocate_tokens("a", 1000, 0.7)
    assert (grant["agent_id"], grant["allocated_tokens"], grant["remaining_global_budget"]) == ("a", 1000, 4000)
    report = await client.update_consumption("a", 100)
    assert (report["consumed"], report["remaining"], report["efficiency"]) == (100, 900, 0.0)
    report = await client.update_consumption("a", 100, 10.0)
    assert (report["consumed"], report["efficiency"]) == (200, 0.05)


async def test_the_pool_and_an_agent_can_be_looked_at(client):
    # covers D40
    await client.allocate_tokens("a/b c".replace("/", "-"), 1000)
    assert (await client.get_budget_status())["active_agents"] == 1
    assert (await client.get_agent_status("a-b c"))["allocated"] == 1000
    assert await client.get_agent_status("nobody") is None


async def test_the_key_is_given_or_found_in_the_environment(monkeypatch):
    # covers D39
    async with serve(keys_required=True, key_pepper=PEPPER) as economy:
        secret = make_secret()
        command = PutKey(key="k1", digest=digest_of(secret, PEPPER), role="operator")
        assert isinstance(await economy.treasury.execute(Request(command=command)), KeyAnswer)
        async with TokenEconomyClient(economy.url) as nobody:
            with pytest.raises(TokenAllocationError, match="401"):
                await nobody.allocate_tokens("a", 10)
        async with TokenEconomyClient(economy.url, api_key=secret) as given:
            assert (await given.allocate_tokens("a", 10))["allocated_tokens"] == 10
        monkeypatch.setenv("FISCUS_API_KEY", secret)
        async with TokenEconomyClient(economy.url) as found:
            assert (await found.allocate_tokens("a", 10))["allocated_tokens"] == 10


async def test_health_is_true_or_false_and_never_an_error(client):
    # covers D31, D40
    assert await client.health_check() is True
    async with TokenEconomyClient(f"http://127.0.0.1:{free_port()}") as lost:
        assert await lost.health_check() is False


async def test_an_empty_pool_is_exhaustion_and_everything_else_an_allocation_error(client):
    # covers D37, D41
    for number in range(5):
        await client.allocate_tokens(f"a{number}", 1000)
    with pytest.raises(TokenBudgetExhausted, match="Global token budget exhausted"):
        await client.allocate_tokens("late", 10)
    with pytest.raises(TokenAllocationError, match="422"):
        await client.allocate_tokens("a0", -1)
    with pytest.raises(TokenBudgetExhausted):
        await client.update_consumption("a0", 1001)
    with pytest.raises(TokenAllocationError, match="Agent a0 terminated"):
        await client.allocate_tokens("a0", 10)


async def test_other_errors_of_a_report_are_raised_as_they_are(client):
    # covers D41
    with pytest.raises(aiohttp.ClientResponseError) as raised:
        await client.update_consumption("nobody", 1)
    assert (raised.value.status, raised.value.message) == (404, "No active allocation found for agent nobody")


async def test_a_service_that_is_away_is_an_allocation_error():
    # covers D41
    async with TokenEconomyClient(f"http://127.0.0.1:{free_port()}") as lost:
        with pytest.raises(TokenAllocationError):
            await lost.allocate_tokens("a", 1)
        with pytest.raises(aiohttp.ClientConnectionError):
            await lost.update_consumption("a", 1)


def test_its_exceptions_stand_in_the_tree_of_fiscus():
    # covers D37
    assert issubclass(TokenBudgetExhausted, FiscusError)
    assert issubclass(TokenAllocationError, FiscusError)
    assert not issubclass(TokenBudgetExhausted, TokenAllocationError)


async def test_known_fault_d12_a_report_whose_answer_is_lost_counts_once(economy):
    async with losing_replies(economy.url, lost=2) as url, TokenEconomyClient(url) as client:
        grant = await client.allocate_tokens("a", 1000)
        assert grant["allocated_tokens"] == 1000
    async with losing_replies(economy.url, lost=2) as url, TokenEconomyClient(url) as client:
        report = await client.update_consumption("a", 100)
        assert report["consumed"] == 100
    assert (await economy.balance("agent:a")).spent == 100
    assert (await economy.balance("agent:a")).limit == 1000


# -- the budget ----------------------------------------------------------------------------------------------------


async def test_use_is_reported_on_exit(client, economy):
    # covers D42
    async with TokenBudgetManager(client, "a", 1000) as budget:
        assert budget.allocated_tokens == 1000
        await budget.consume(tokens=100, value=5)
        await budget.consume(tokens=200)
        assert (await economy.balance("agent:a")).spent == 0
        assert (budget.tokens_consumed, budget.value_generated) == (300, 5)
    assert (await economy.balance("agent:a")).spent == 300


async def test_use_is_reported_at_once_from_nine_tenths_on(client, economy):
    # covers D42
    async with TokenBudgetManager(client, "a", 1000) as budget:
        await budget.consume(tokens=899)
        assert (await economy.balance("agent:a")).spent == 0
        await budget.consume(tokens=1)
        assert (await economy.balance("agent:a")).spent == 900
        await budget.consume(tokens=50)
        assert (await economy.balance("agent:a")).spent == 950


async def test_known_fault_d14_every_token_is_reported_exactly_once(client, economy):
    async with TokenBudgetManager(client, "a", 500) as budget:
        for _ in range(5):
            await budget.consume(tokens=100, value=1)
    assert (await economy.balance("agent:a")).spent == 500
    assert (await economy.status())["top_performers"][0]["value_generated"] == 5


async def test_known_fault_d14_use_beyond_the_grant_is_reported_in_full_and_raised(client, economy):
    async def work() -> None:
        async with TokenBudgetManager(client, "a", 500) as budget:
            for _ in range(10):
                await budget.consume(tokens=102)

    with pytest.raises(TokenBudgetExhausted):
        await work()
    assert (await economy.balance("agent:a")).spent == 510


async def test_known_fault_d14_after_a_kill_the_next_report_says_so_again(client, economy):
    async with TokenBudgetManager(client, "a", 500) as budget:
        with pytest.raises(TokenBudgetExhausted):
            await budget.consume(tokens=501)
        with pytest.raises(TokenBudgetExhausted):
            await budget.consume(tokens=7)
    assert (await economy.balance("global")).spent == 508


async def test_an_exception_in_flight_is_never_hidden(client, economy):
    # covers D42
    await client.allocate_tokens("a", 100)

    async def work() -> None:
        async with TokenBudgetManager(client, "a", 100) as budget:
            await budget.consume(tokens=80)
            with pytest.raises(TokenBudgetExhausted):
                await client.update_consumption("a", 250)
            raise KeyError("the task failed")

    with pytest.raises(KeyError) as raised:
        await work()
    assert "could not be reported" in raised.value.__notes__[0]
    assert (await economy.balance("global")).spent == 330


async def test_a_refused_last_report_is_raised_when_nothing_else_is_wrong(client):
    # covers D42
    async def work() -> None:
        async with TokenBudgetManager(client, "a", 100) as budget:
            await budget.consume(tokens=80)
            await client.update_consumption("a", 50)

    with pytest.raises(TokenBudgetExhausted):
        await work()


async def test_reports_of_many_tasks_add_up(client, economy):
    async with TokenBudgetManager(client, "a", 1000) as budget:
        await asyncio.gather(*(budget.consume(tokens=10, value=0.5) for _ in range(100)))
    assert (await economy.balance("agent:a")).spent == 1000


async def test_a_report_that_failed_is_made_good_by_the_next(economy):
    async with losing_replies(economy.url, lost=0) as url, TokenEconomyClient(url, timeout=5.0) as client:
        budget = TokenBudgetManager(client, "a", 100)
        await budget.__aenter__()
        client.base_url = f"http://127.0.0.1:{free_port()}"
        with pytest.raises(aiohttp.ClientConnectionError):
            await budget.consume(tokens=95)
        client.base_url = url
        await budget.consume(tokens=5)
        await budget.__aexit__(None, None, None)
    assert (await economy.balance("agent:a")).spent == 100


@pytest.mark.parametrize("tokens", [-1, float("nan"), float("inf")])
async def test_an_impossible_amount_is_refused_before_it_counts(client, tokens):
    async with TokenBudgetManager(client, "a", 100) as budget:
        with pytest.raises(ValueError, match="finite"):
            await budget.consume(tokens=tokens)
        assert budget.tokens_consumed == 0


# -- helpers -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@asynccontextmanager
async def losing_replies(url: str, lost: int) -> AsyncIterator[str]:
    """A TCP proxy that passes requests on and drops the first ``lost`` replies, with their connections."""
    port = int(url.rpartition(":")[2])
    left = lost
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, upstream_writer))

        async def requests() -> None:
            while chunk := await reader.read(65_536):
                upstream_writer.write(chunk)

        sending = asyncio.create_task(requests())
        while chunk := await upstream_reader.read(65_536):
            if left > 0:
                left -= 1
                break
            writer.write(chunk)
        sending.cancel()
        writer.close()
        upstream_writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
