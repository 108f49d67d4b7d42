"""Which of several providers is asked, how long is waited for one, and how much of one is used."""

import asyncio
import doctest
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fiscus.gateway import upstreams
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.options import Upstream as Provider
from fiscus.gateway.upstreams import backoff_s, retry_after_s
from tests.gateway import wire
from tests.gateway.gate import PROVIDER_KEY, providers, standing
from tests.gateway.upstream import JSON, Reply
from tests.gateway.upstream import upstream as running


@pytest.fixture
async def other():
    """A second provider."""
    async with running() as server:
        yield server


def both(one, two, **more):
    """Two providers of one priority, with whatever each has of its own."""
    return tuple(
        Provider(name=name, family="openai", base_url=f"{server.url}/v1", api_key=PROVIDER_KEY, **more)
        for name, server in (("one", one), ("two", two))
    )


def slow():
    return Reply(body=wire.chat_answer().body, pieces=60, pause_s=0.05)


async def asked_while_one_is_busy(gate, one, two):
    """Five calls of the first provider's, one after the other, while it has a long one; how many each was asked."""
    one.answers_by(lambda asked: slow() if len(one.asked) == 1 else wire.chat_answer())
    two.answers(wire.chat_answer())
    long = asyncio.create_task(gate.chat(wire.chat()))
    await one.request()
    for _ in range(5):
        assert (await gate.chat(wire.chat())).status == 200
    assert not long.done()
    assert (await long).status == 200
    return len(one.asked), len(two.asked)


# covers X17
@pytest.mark.parametrize(
    ("strategy", "asked"), [("least_loaded", (1, 5)), ("round_robin", (3, 3)), ("failover", (6, 0))]
)
async def test_equal_providers_are_asked_by_the_strategy(upstream, other, strategy, asked):
    async with standing(both(upstream, other), strategy=strategy) as gate:
        assert await asked_while_one_is_busy(gate, upstream, other) == asked


# covers X17
@pytest.mark.parametrize("strategy", ["least_loaded", "round_robin", "failover"])
async def test_a_lower_priority_comes_first_whatever_the_strategy(upstream, other, strategy):
    for server in (upstream, other):
        server.answers(wire.chat_answer())
    later, sooner = both(upstream, other)
    ordered = (Provider(**{**as_dict(later), "priority": 2}), Provider(**{**as_dict(sooner), "priority": 1}))
    async with standing(ordered, strategy=strategy) as gate:
        for _ in range(4):
            assert (await gate.chat(wire.chat())).status == 200
    assert (len(upstream.asked), len(other.asked)) == (0, 4)


def as_dict(provider):
    return {name: getattr(provider, name) for name in provider.__struct_fields__}


# covers X17
def test_waits_double_up_to_a_bound_with_a_quarter_of_jitter():
    options = GatewayOptions(backoff_s=1, backoff_s_max=60)
    for attempt, seconds in ((0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (10, 60)):
        waits = [backoff_s(options, attempt) for _ in range(200)]
        assert 0.75 * seconds <= min(waits) < 0.85 * seconds
        assert 1.15 * seconds < max(waits) <= 1.25 * seconds


# covers X17
async def test_a_provider_is_asked_again_when_it_says_so(upstream):
    refused = Reply(status=429, headers=(*JSON, ("retry-after", "1")), body=b'{"error":{"message":"slow down"}}')
    upstream.answers(refused, wire.chat_answer())
    async with standing(providers(upstream)) as gate:
        began_s = time.monotonic()
        assert (await gate.chat(wire.chat())).status == 200
        assert time.monotonic() - began_s >= 1
    assert len(upstream.asked) == 2


# covers X17
async def test_a_provider_whose_minute_is_used_up_is_left_to_others_and_then_busy(upstream, other):
    for server in (upstream, other):
        server.answers(wire.chat_answer())  # 18 tokens
    async with standing(both(upstream, other, tokens_per_minute_max=30), strategy="failover") as gate:
        answers = Counter([(await gate.chat(wire.chat())).status for _ in range(6)])
        assert answers == {200: 4, 503: 2}
        assert (len(upstream.asked), len(other.asked)) == (2, 2)


async def test_a_request_without_a_bound_gets_what_the_model_gives_at_most(upstream):
    upstream.answers(wire.chat_answer(model="gpt-4o-2024-08-06"))
    for own, told in ((None, 16_384), (500, 500)):
        async with standing(providers(upstream, output_tokens_max=own)) as gate:
            body = {"model": "gpt-4o", "messages": wire.MESSAGES}
            assert (await gate.chat(body)).status == 200
        assert upstream.asked[-1].json["max_completion_tokens"] == told


def test_examples():
    assert doctest.testmod(upstreams).failed == 0


def _says(**headers):
    class Says:
        def header(self, name):
            return headers.get(name.decode().replace("-", "_"), "")

    return Says()


def test_how_long_to_wait_is_said_in_seconds_or_as_a_date():
    assert retry_after_s(_says(retry_after="1.5")) == 1.5
    assert retry_after_s(_says(retry_after_ms="250")) == 0.25
    in_20_s = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 18 < retry_after_s(_says(retry_after=in_20_s)) <= 20
    assert retry_after_s(_says(retry_after="Thu, 01 Jan 1970 00:00:00 GMT")) == 0
    for nothing in ("", "soon", "\xb2", "-3", "nan"):
        assert retry_after_s(_says(retry_after=nothing)) is None


async def test_callers_who_leave_do_not_speak_for_a_provider_that_hangs(upstream):
    upstream.answers(Reply(never=True))
    async with standing(providers(upstream)) as gate:
        [target] = gate.gateway._tools.upstreams.targets("openai", "test-model")
        target.failures = 2
        asking = asyncio.create_task(gate.chat(wire.chat()))
        await upstream.request()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(5):
            while target.in_flight:
                await asyncio.sleep(0.01)
        assert target.failures == 2


@pytest.mark.parametrize("attempts_max", [1, 3])
async def test_callers_who_leave_do_not_speak_for_a_provider_that_has_said_that_it_fails(upstream, attempts_max):
    upstream.answers(Reply(status=503, body=b"x" * 100, pieces=10, pause_s=0.3))
    async with standing(providers(upstream), attempts_max=attempts_max, broken_after=9) as gate:
        [target] = gate.gateway._tools.upstreams.targets("openai", "test-model")
        target.failures = 2
        asking = asyncio.create_task(gate.chat(wire.chat()))
        await upstream.request()
        await asyncio.sleep(0.2)
        asking.cancel()
        async with asyncio.timeout(5):
            while target.in_flight:
                await asyncio.sleep(0.01)
        assert target.failures == 3


async def test_the_input_is_counted_as_the_provider_names_the_model(upstream):
    upstream.answers(wire.chat_answer())
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    body = wire.chat(messages=[{"role": "user", "content": [picture]}])
    held = []
    for renames, model in (({}, "gpt-4o-mini"), ({"vision": "gpt-4o-mini"}, "vision")):
        async with standing(providers(upstream, renames=renames)) as gate:
            answer = await gate.chat({**body, "model": model})
            assert answer.status == 200, answer
            held.append(
                [entry.data["amounts"]["input_tokens"] for entry in await gate.entries() if entry.kind == "held"]
            )
    assert held[0] == held[1]


async def test_a_legacy_completion_without_a_bound_gets_what_the_api_says(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream, output_field="max_completion_tokens")) as gate:
        body = {"model": "test-model", "prompt": "Hi"}
        assert (await gate.post("/openai/v1/completions", body)).status == 200
    assert upstream.asked[0].json == {**body, "max_tokens": 16}
