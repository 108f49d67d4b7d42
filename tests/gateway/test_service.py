"""The gateway in the real service: configured by a file, with keys, stopped in the middle of a stream."""

import asyncio
import json
import sys

import aiohttp
import anthropic
import openai
import pytest

from fiscus.gateway.application import Gateway
from fiscus.gateway.options import GatewayOptions
from fiscus.pricing.tokenizers import tokenizer_for, vocabulary
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.cli.processes import answer, fiscus, service
from tests.gateway import wire
from tests.gateway.gate import PROVIDER_KEY
from tests.gateway.upstream import Reply

GATEWAY = """
account = "team:a"

[[upstreams]]
name = "openai"
family = "openai"
base_url = "{url}/v1"
api_key_variable = "THE_PROVIDERS_KEY"

[[upstreams]]
name = "anthropic"
family = "anthropic"
base_url = "{url}"
api_key_variable = "THE_PROVIDERS_KEY"

[[prices]]
provider = "*"
model = "test-*"
input = "1"
output = "2"
"""


@pytest.fixture
def folder(tmp_path, upstream):
    """With a ledger in which ``team:a`` has a budget, and the gateway's file."""
    (tmp_path / "gateway.toml").write_text(GATEWAY.format(url=upstream.url))
    fiscus(tmp_path, "accounts", "put", "team:a")
    fiscus(tmp_path, "budgets", "put", "team:a", "tokens", "5000")
    return tmp_path


SETTINGS = {"FISCUS_GATEWAY_PATH": "gateway.toml", "THE_PROVIDERS_KEY": PROVIDER_KEY}


def spent(folder):
    """What ``team:a`` has spent and holds, as the command line shows it when the service is down."""
    [budget] = answer(folder, "accounts", "show", "team:a")["budgets"]
    return budget["balance"]["spent"], budget["balance"]["held"]


@pytest.mark.slow
async def test_official_sdks_call_through_the_service_and_it_is_on_the_books(folder, upstream):
    with service(folder, **SETTINGS) as running:
        upstream.answers(wire.chat_answer())
        async with openai.AsyncOpenAI(api_key="sk-whatever", base_url=f"{running.url}/openai/v1") as client:
            said = await client.chat.completions.create(model=wire.MODEL, messages=wire.MESSAGES)
            assert said.choices[0].message.content == "Hello!"
        upstream.answers(wire.streamed(wire.anthropic_stream(), pieces=10))
        async with (
            anthropic.AsyncAnthropic(api_key="sk-whatever", base_url=f"{running.url}/anthropic") as client,
            client.messages.stream(model=wire.MODEL, max_tokens=50, messages=wire.MESSAGES) as stream,
        ):
            assert "".join([text async for text in stream.text_stream]) == "Hello!"
        assert upstream.asked[0].headers["authorization"] == f"Bearer {PROVIDER_KEY}"
        assert upstream.asked[1].headers["x-api-key"] == PROVIDER_KEY
        assert "sk-whatever" not in str(upstream.asked)
        assert await asyncio.to_thread(running.stop) == 0
    assert spent(folder) == (18 + 21, 0)
    assert PROVIDER_KEY not in (folder / "service.log").read_text()


@pytest.mark.slow
async def test_a_service_with_keys_wants_one_and_never_logs_it(folder, upstream):
    secret = answer(folder, "keys", "create", "--role", "account", "--account", "team:a")["secret"]
    with service(folder, **SETTINGS, FISCUS_ACCESS_LOG="true") as running:
        assert running.keys_required
        upstream.answers(wire.chat_answer())
        async with openai.AsyncOpenAI(api_key="sk-whatever", base_url=f"{running.url}/openai/v1") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model=wire.MODEL, messages=wire.MESSAGES)
        async with openai.AsyncOpenAI(api_key=secret, base_url=f"{running.url}/openai/v1") as client:
            await client.chat.completions.create(model=wire.MODEL, messages=wire.MESSAGES)
        async with aiohttp.ClientSession() as session:
            url = f"{running.url}/gemini/v1beta/models/test-model:generateContent?key={secret}"
            async with session.post(url, json=wire.contents()) as refused:
                assert refused.status == 404, "no provider of this family is configured"
        await asyncio.to_thread(running.stop)
    assert spent(folder) == (18, 0)
    log = (folder / "service.log").read_text()
    assert secret not in log
    assert PROVIDER_KEY not in log


@pytest.mark.slow
async def test_a_stream_in_flight_is_answered_and_settled_while_the_service_stops(folder, upstream):
    stream = wire.chat_stream(*"abcdefghij")
    upstream.answers(wire.streamed(stream, pieces=170, pause_s=0.1))
    with service(folder, **SETTINGS) as running:
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{running.url}/openai/v1/chat/completions",
                json=wire.chat(stream=True, stream_options={"include_usage": True}),
            ) as got,
        ):
            first = await got.content.readany()
            stopping = asyncio.create_task(asyncio.to_thread(running.stop))
            assert first + await got.read() == stream
        assert await stopping == 0
    assert spent(folder) == (18, 0)


@pytest.mark.slow
async def test_a_stream_that_does_not_end_in_time_is_settled_as_far_as_it_came(folder, upstream):
    upstream.answers(wire.streamed(wire.chat_stream(*"abcdefghij" * 20), pieces=170, pause_s=0.2))
    with service(folder, **SETTINGS, FISCUS_DRAIN_S_MAX="3") as running:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{running.url}/openai/v1/chat/completions", json=wire.chat(stream=True)) as got,
        ):
            await got.content.readany()
            assert await asyncio.to_thread(running.stop) == 0
    assert upstream.asked[0].was_left
    tokens, held = spent(folder)
    assert held == 0
    assert 0 < tokens < 100


def test_a_file_that_makes_no_sense_stops_the_service_with_the_name_of_the_field(tmp_path):
    (tmp_path / "gateway.toml").write_text('[[upstreams]]\nname = "a"\nfamily = "other"\nbase_url = "http://x"\n')
    done = fiscus(tmp_path, "serve", "--port", "0", code=1, FISCUS_GATEWAY_PATH="gateway.toml")
    assert "gateway.toml" in done.stderr
    assert "upstreams[0].family" in done.stderr


async def test_replies_of_the_upstream_are_what_they_say(upstream):
    """The tests' own provider: bytes, status and headers as given, however they are split."""
    body = json.dumps({"a": "é" * 50}).encode()
    async with aiohttp.ClientSession() as session:
        for pieces in (0, 1, 7):
            upstream.answers(
                Reply(status=418, headers=(("content-type", "a/b"), ("x-y", "z")), body=body, pieces=pieces)
            )
            async with session.get(upstream.url + "/some?where") as got:
                assert (got.status, got.headers["x-y"], await got.read()) == (418, "z", body)
    assert [asked.target for asked in upstream.asked] == ["/some?where"] * 3
    assert all(asked.is_whole for asked in upstream.asked)


async def test_prices_and_the_usual_vocabulary_are_there_before_the_first_call(tmp_path):
    tokenizer_for.cache_clear()
    vocabulary.cache_clear()
    treasury = LocalTreasury(Engine(open_store("memory:")))
    gateway = Gateway(treasury, GatewayOptions())
    await gateway.warm_up()
    assert vocabulary.cache_info().currsize == 1
    assert "genai_prices" in sys.modules
    await gateway.close()
    await treasury.close()
