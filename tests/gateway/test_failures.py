"""What goes wrong: callers that leave, providers that break, refuse or say nonsense. Nothing is held afterwards."""

import asyncio
import contextlib
import gzip
import json
import logging
from contextlib import asynccontextmanager

import aiohttp
import pytest
from msgspec.structs import replace

from fiscus.core.units import AMOUNT_MAX
from fiscus.gateway import attempts, books
from fiscus.gateway.client import Client
from fiscus.gateway.options import Upstream as Provider
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, PAYER, PROVIDER_KEY, providers, standing
from tests.gateway.upstream import EVENTS, JSON, Reply, sse
from tests.gateway.upstream import upstream as running
from tests.gateway.wire import MODEL

FAMILIES = {
    "openai": ("/openai/v1/chat/completions", wire.chat, wire.chat_answer(), wire.chat_stream()),
    "anthropic": ("/anthropic/v1/messages", wire.messages, wire.anthropic_answer(), wire.anthropic_stream()),
}
ERROR = {
    "openai": b'{"error":{"message":"no","type":"server_error","param":null,"code":null}}',
    "anthropic": b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
}
HTML = (("content-type", "text/html"),)


def failing(status, family="openai", **headers):
    more = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status=status, headers=(*JSON, *more), body=ERROR[family])


async def left_after(gate, path, body, bytes_least):
    """Call, and go away as soon as so many bytes have come."""
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession() as session:
        answer = await session.post(gate.url + path, data=json.dumps(body).encode(), headers=headers)
        came = b""
        while len(came) < bytes_least:
            came += await answer.content.readany()
        answer.close()
    return came


async def settled(gate, number=1):
    """What was booked, once it is."""
    async with asyncio.timeout(3):
        while len(found := await gate.usage()) < number:
            await asyncio.sleep(0.01)
    return found[number - 1]


# -- the caller leaves ----------------------------------------------------------------------------------------------


# covers E14
@pytest.mark.parametrize("family", FAMILIES)
async def test_who_leaves_in_the_middle_stops_the_provider_and_pays_for_what_came(gate, upstream, family):
    path, make, _, _ = FAMILIES[family]
    texts = [f"word{number} " for number in range(60)]
    stream = wire.chat_stream(*texts) if family == "openai" else wire.anthropic_stream(*texts)
    upstream.answers(wire.streamed(stream, pieces=200, pause_s=0.02))
    came = await left_after(gate, path, make(stream=True, max_tokens=1_000), 1_500)
    asked = upstream.asked[0]
    async with asyncio.timeout(1):
        await asked.ended.wait()
    assert asked.was_left
    booked = await settled(gate)
    assert (booked.record.outcome, booked.record.error_code) == ("cancelled", "client_left")
    assert booked.record.tokens_estimated
    assert came.count(b"word") <= booked.amounts["output_tokens"] <= 2 * 60
    assert booked.amounts["cost"] == booked.amounts["input_tokens"] * IN + booked.amounts["output_tokens"] * OUT
    usual = gate.gateway._tools.lengths.longer(PAYER, asked.json["model"], 0)
    assert usual == booked.amounts["output_tokens"], "no more will be used of it"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_before_the_first_byte_stops_the_provider_and_pays_for_the_input(gate, upstream, stream):
    upstream.answers(Reply(never=True))
    call = asyncio.create_task(gate.chat(wire.chat(stream=stream)))
    asked = await upstream.request()
    assert (await gate.balance()).held > 100
    call.cancel()
    async with asyncio.timeout(1):
        await asked.ended.wait()
    booked = await settled(gate)
    assert (booked.record.outcome, booked.record.error_code) == ("cancelled", "client_left")
    assert booked.amounts["output_tokens"] == (0 if stream else 100)
    assert booked.amounts["input_tokens"] > 0
    assert booked.record.tokens_estimated


@asynccontextmanager
async def thinking(seconds, reply):
    """A provider that says nothing of an answer before it has all of it, as most do of one that is not streamed."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(seconds)
        [(_, kind)] = reply.headers
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(reply.body)}\r\n\r\n"
        writer.write(head.encode())
        for part in reply.parts():
            writer.write(part)
            await asyncio.sleep(reply.pause_s)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def at_port(port):
    """One provider there."""
    return (Provider(name="openai", family="openai", base_url=f"http://127.0.0.1:{port}/v1", api_key=PROVIDER_KEY),)


@pytest.mark.parametrize(("drain_s_max", "tokens", "is_estimated"), [(5.0, 18, False), (0.2, None, True)])
async def test_a_whole_answer_that_nobody_waits_for_is_read_before_it_has_begun(drain_s_max, tokens, is_estimated):
    async with (
        thinking(0.5, wire.chat_answer()) as port,
        standing(at_port(port), on_disconnect="drain", drain_s_max=drain_s_max) as gate,
    ):
        call = asyncio.create_task(gate.chat(wire.chat()))
        await asyncio.sleep(0.2)
        call.cancel()
        booked = await settled(gate)
        assert booked.record.tokens_estimated == is_estimated
        assert booked.amounts["tokens"] == (tokens or booked.amounts["input_tokens"] + 100)


# covers E14
async def test_a_stream_that_nobody_waits_for_is_read_before_it_has_begun():
    async with (
        thinking(0.5, wire.streamed(wire.chat_stream())) as port,
        standing(at_port(port), on_disconnect="drain") as gate,
    ):
        call = asyncio.create_task(gate.chat(wire.chat(stream=True)))
        await asyncio.sleep(0.2)
        call.cancel()
        booked = await settled(gate)
        assert (booked.amounts["tokens"], booked.record.tokens_estimated) == (18, False)


async def test_the_time_in_which_it_is_read_begins_when_the_caller_leaves():
    slow = wire.streamed(wire.chat_stream(*"abcdefgh" * 30), pieces=100, pause_s=0.1)
    async with thinking(0.9, slow) as port, standing(at_port(port), on_disconnect="drain", drain_s_max=1.0) as gate:
        call = asyncio.create_task(gate.chat(wire.chat(stream=True)))
        await asyncio.sleep(0.2)
        call.cancel()
        left_s = asyncio.get_running_loop().time()
        assert (await settled(gate)).record.tokens_estimated
        assert asyncio.get_running_loop().time() - left_s < 1.5


async def test_nobody_else_is_asked_for_a_caller_who_has_left(upstream):
    upstream.answers(failing(503), wire.chat_answer())
    async with standing(providers(upstream), on_disconnect="drain", backoff_s=0.5) as gate:
        call = asyncio.create_task(gate.chat(wire.chat()))
        await upstream.request()
        await asyncio.sleep(0.2)
        call.cancel()
        async with asyncio.timeout(2):
            while (await gate.balance()).held:
                await asyncio.sleep(0.01)
        assert len(upstream.asked) == 1
        assert await gate.usage() == []


class Anyone:
    actor, scope, may_open = "key_1", None, True


# covers E14
async def test_a_call_that_is_interrupted_is_booked_as_held(gate, upstream):
    """As when the service stops: the provider goes on, and bills."""
    upstream.answers(Reply(never=True))
    sent = [{"type": "http.request", "body": json.dumps(wire.chat()).encode(), "more_body": False}]

    async def receive():
        return sent.pop() if sent else await asyncio.get_running_loop().create_future()

    async def admitted(_):
        return Anyone()

    scope = {"method": "POST", "path": "/openai/v1/chat/completions", "headers": [], "query_string": b""}
    call = asyncio.create_task(gate.gateway(scope, receive, lambda _: asyncio.sleep(0), admitted))
    await upstream.request()
    call.cancel()
    booked = await settled(gate)
    assert (booked.record.error_code, booked.record.tokens_estimated) == ("interrupted", True)
    assert booked.amounts["output_tokens"] == 100


async def test_who_leaves_while_a_whole_answer_comes_stops_the_provider(gate, upstream):
    upstream.answers(Reply(body=wire.chat_answer().body, pieces=10, pause_s=0.1))
    call = asyncio.create_task(gate.chat(wire.chat()))
    asked = await upstream.request()
    await asyncio.sleep(0.15)
    call.cancel()
    async with asyncio.timeout(1):
        await asked.ended.wait()
    assert asked.was_left
    assert (await settled(gate)).record.outcome == "cancelled"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_can_be_read_to_its_usage_when_its_caller_has_left(upstream, stream):
    body = wire.chat_stream() if stream else wire.chat_answer().body
    reply = wire.streamed(body, pieces=150, pause_s=0.05) if stream else Reply(body=body, pieces=100, pause_s=0.05)
    upstream.answers(reply)
    async with standing(providers(upstream), on_disconnect="drain") as gate:
        call = asyncio.create_task(gate.chat(wire.chat(stream=stream)))
        await upstream.request()
        await asyncio.sleep(0.08)
        call.cancel()
        booked = await settled(gate)
        async with asyncio.timeout(1):
            await upstream.asked[0].ended.wait()
        assert upstream.asked[0].is_whole
        assert booked.amounts["tokens"] == 18
        assert not booked.record.tokens_estimated


@pytest.mark.parametrize("stream", [False, True])
async def test_reading_to_the_usage_has_a_bound(upstream, stream):
    body = wire.chat_stream(*"abcdefgh" * 30) if stream else wire.chat_answer().body * 1
    more = {"pieces": 100 if stream else 5, "pause_s": 0.1}
    upstream.answers(wire.streamed(body, **more) if stream else Reply(body=body, **more))
    async with standing(providers(upstream), on_disconnect="drain", drain_s_max=0.3) as gate:
        call = asyncio.create_task(gate.chat(wire.chat(stream=stream)))
        asked = await upstream.request()
        await asyncio.sleep(0.15)
        call.cancel()
        async with asyncio.timeout(1):
            await asked.ended.wait()
        assert asked.was_left
        assert (await settled(gate)).record.tokens_estimated


async def test_who_leaves_between_two_attempts_pays_nothing(upstream):
    upstream.answers(failing(429, retry_after="5"))
    async with standing(providers(upstream)) as gate:
        call = asyncio.create_task(gate.chat(wire.chat()))
        await upstream.request()
        await asyncio.sleep(0.2)
        call.cancel()
        async with asyncio.timeout(1):
            while (await gate.balance()).held:
                await asyncio.sleep(0.01)
        assert (await gate.balance()).spent == 0


# -- the provider breaks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_stream_that_breaks_off_ends_with_an_error_and_what_came_is_booked(gate, upstream, family):
    path, make, _, stream = FAMILIES[family]
    cut = stream.index(b'"lo"') - 20
    upstream.answers(wire.streamed(stream, broken_after=cut))
    answer = await gate.post(path, make(stream=True))
    assert answer.status == 200
    whole, _, last = answer.body.rstrip().rpartition(b"\n\n")
    assert stream.startswith(whole)
    assert b'"Hel"' in whole
    error = json.loads(last[last.index(b"data: ") + 6 :])["error"]
    assert "broke off" in error["message"]
    booked = await gate.last()
    assert (booked.record.outcome, booked.record.error_code) == ("error", "upstream_broke_off")
    assert booked.record.tokens_estimated
    assert booked.amounts["output_tokens"] >= 1
    assert booked.amounts["input_tokens"] > 0


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_whole_answer_that_breaks_off_is_an_error_in_the_dialect(gate, upstream, family):
    path, make, answered, _ = FAMILIES[family]
    upstream.answers(Reply(body=answered.body, broken_after=40))
    answer = await gate.post(path, make())
    assert answer.status == 502
    assert "broke off" in answer.json["error"]["message"]
    booked = await gate.last()
    assert booked.record.tokens_estimated
    assert booked.amounts["input_tokens"] > 0, "it was sent, and may have been billed"


async def test_a_provider_that_never_answers_is_left_and_not_asked_again(upstream):
    upstream.answers(Reply(never=True))
    async with standing(providers(upstream, answer_s_max=0.2)) as gate:
        answer = await gate.chat(wire.chat())
        assert (answer.status, answer.json["error"]["code"]) == (504, "upstream_timeout")
        assert "retry-after" not in answer.headers
        assert len(upstream.asked) == 1
        booked = await gate.last()
        assert booked.record.outcome == "timeout"
        assert booked.amounts["input_tokens"] > 0


async def test_a_provider_that_goes_silent_within_a_stream_is_left(upstream):
    upstream.answers(wire.streamed(wire.chat_stream(), pieces=200, pause_s=1))
    async with standing(providers(upstream, silence_s_max=0.2)) as gate:
        answer = await gate.chat(wire.chat(stream=True))
        assert b"broke off" in answer.body
        assert upstream.asked[0].was_left
        assert (await gate.last()).record.error_code == "upstream_broke_off"


@pytest.mark.parametrize("status", [200, 403, 503])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_page_for_people_becomes_an_error_of_the_dialect(gate, upstream, family, stream, status):
    path, make, _, _ = FAMILIES[family]
    upstream.answers(Reply(status=status, headers=HTML, body=b"<html>Checking your browser</html>"))
    answer = await gate.post(path, make(stream=stream))
    assert answer.status == (502 if status == 200 else status)
    assert "no answer of its API" in answer.json["error"]["message"]
    assert b"<html>" not in answer.body
    booked = await gate.usage()
    assert [one.record.tokens_estimated for one in booked] == ([True] if status == 200 else [])
    assert all(one.amounts["output_tokens"] == 0 for one in booked), "no model has written it"


async def test_an_answer_that_leads_elsewhere_is_not_followed(gate, upstream):
    upstream.answers(Reply(status=307, headers=(*JSON, ("location", "http://127.0.0.1:9/elsewhere")), body=b"{}"))
    answer = await gate.chat(wire.chat())
    assert answer.status == 502
    assert "location" not in answer.headers
    assert len(upstream.asked) == 1
    assert await gate.usage() == []


async def test_an_answer_that_is_cut_json_is_an_error(gate, upstream):
    upstream.answers(Reply(body=wire.chat_answer().body[:60]))
    assert (await gate.chat(wire.chat())).status == 502
    booked = await gate.last()
    assert booked.record.error_code == "not_an_answer"
    assert booked.amounts["output_tokens"] == 100, "it was produced, and nobody can read how much"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_in_an_answer_of_status_200_passes_and_is_booked_as_one(gate, upstream, stream):
    body = b'{"error":{"message":"capacity","code":"overloaded"}}'
    upstream.answers(Reply(body=body))
    answer = await gate.chat(wire.chat(stream=stream))
    assert (answer.status, answer.body) == (200, body)
    booked = await gate.last()
    assert (booked.record.outcome, booked.record.error_code) == ("error", "overloaded")
    assert booked.record.tokens_estimated


async def test_an_error_within_a_stream_passes_and_is_booked_as_one(gate, upstream):
    stream = wire.anthropic_stream(whole=False) + wire.named_events(
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    )
    upstream.answers(wire.streamed(stream))
    answer = await gate.messages(wire.messages(stream=True))
    assert answer.body == stream
    booked = await gate.last()
    assert (booked.record.outcome, booked.record.error_code) == ("error", "overloaded_error")
    assert booked.amounts["input_tokens"] >= 14


async def test_a_whole_answer_without_usage_is_booked_as_counted(gate, upstream):
    upstream.answers(wire.chat_answer(usage=None))
    assert (await gate.chat(wire.chat())).status == 200
    booked = await gate.last()
    assert booked.record.tokens_estimated
    assert booked.amounts["output_tokens"] >= 1
    assert booked.amounts["cost"] > 0


UNFIT = {
    "NUL": {"model": "test-\x00"},
    "half a character": {"model": "\ud800", "service_tier": "\udfff"},
    "a long tier": {"usage": {**wire.CHAT_USAGE, "service_tier": "t" * 5_000}},
    "a long code": {"error": {"message": "no", "code": "c" * 5_000}},
    "a code that is none": {"error": {"message": "no", "code": {"deep": "x" * 5_000}, "type": "a\x00"}},
}


# covers E14
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", UNFIT.values(), ids=UNFIT)
async def test_texts_of_a_provider_that_no_record_takes_keep_nothing_from_being_booked(gate, upstream, more, stream):
    last = wire.chat_chunk(**{"choices": [], "usage": wire.CHAT_USAGE, **more})
    body = sse(wire.chat_chunk("Hello"), wire.chat_stop(), last)
    upstream.answers(wire.streamed(body) if stream else wire.chat_answer(**more))
    assert (await gate.chat(wire.chat(stream=stream))).status == 200
    booked = await gate.last()
    assert booked.amounts["tokens"] == 18
    assert booked.record.model == MODEL
    assert booked.record.error_code is None or len(booked.record.error_code) < 50


# covers E14
@pytest.mark.parametrize("stream", [False, True])
async def test_a_usage_that_is_more_than_can_be_is_none(gate, upstream, stream):
    usage = {"prompt_tokens": AMOUNT_MAX, "completion_tokens": 7}
    upstream.answers(wire.streamed(wire.chat_stream(usage=usage)) if stream else wire.chat_answer(usage=usage))
    assert (await gate.chat(wire.chat(stream=stream))).status == 200
    booked = await gate.last()
    assert booked.record.tokens_estimated
    assert 0 < booked.amounts["tokens"] < 100


# covers E14
async def test_what_costs_more_than_an_amount_can_be_is_booked_as_the_most(gate, upstream):
    upstream.answers(wire.chat_answer(usage={"prompt_tokens": AMOUNT_MAX - 7, "completion_tokens": 7}))
    assert (await gate.chat(wire.chat())).status == 200
    booked = await gate.last()
    assert (booked.amounts["tokens"], booked.amounts["cost"]) == (AMOUNT_MAX, AMOUNT_MAX)
    assert not booked.record.tokens_estimated


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_compressed_all_the_same_is_not_passed_on_unmetered(gate, upstream, stream):
    headers = EVENTS if stream else JSON
    body = wire.chat_stream() if stream else wire.chat_answer().body
    upstream.answers(Reply(headers=(*headers, ("content-encoding", "gzip")), body=gzip.compress(body), is_chunked=True))
    answer = await gate.chat(wire.chat(stream=stream))
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_error")
    booked = await gate.last()
    assert (booked.record.error_code, booked.record.tokens_estimated) == ("not_an_answer", True)
    assert booked.amounts["input_tokens"] > 0
    assert booked.amounts["output_tokens"] == 100, "it was produced, and nobody can read how much"


async def test_a_stream_that_nobody_asked_for_passes_and_is_booked(gate, upstream):
    upstream.answers(wire.streamed(wire.chat_stream()))
    answer = await gate.chat(wire.chat())
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert (await gate.last()).amounts["tokens"] == 18


async def test_a_stream_that_comes_as_a_whole_answer_passes_and_is_booked(gate, upstream):
    """Some providers do not stream with tools."""
    upstream.answers(wire.chat_answer())
    answer = await gate.chat(wire.chat(stream=True))
    assert answer.body == wire.chat_answer().body
    assert (await gate.last()).amounts["tokens"] == 18


# covers E14
async def test_more_than_was_held_is_on_the_books_all_the_same(upstream):
    upstream.answers(wire.chat_answer(usage={"prompt_tokens": 11, "completion_tokens": 5_000}))
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=300)
        assert (await gate.chat(wire.chat())).status == 200
        balance = await gate.balance()
        assert (balance.spent, balance.held) == (5_011, 0)
        assert balance.uncovered > 0
        assert (await gate.chat(wire.chat())).status == 402


# -- refused by the provider ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_what_a_provider_refuses_passes_as_it_is_and_costs_nothing(gate, upstream, family, status):
    path, make, _, _ = FAMILIES[family]
    upstream.answers(failing(status, family))
    answer = await gate.post(path, make(stream=True))
    assert (answer.status, answer.body) == (status, ERROR[family])
    assert len(upstream.asked) == 1
    assert await gate.usage() == []


@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_what_may_pass_is_asked_again_so_often_and_then_passes_on(gate, upstream, status):
    upstream.answers(failing(status, retry_after="0"))
    answer = await gate.chat(wire.chat())
    assert (answer.status, answer.body) == (status, ERROR["openai"])
    assert answer.headers["retry-after"] == "0"
    assert len(upstream.asked) == 3
    assert await gate.usage() == []


async def test_a_second_attempt_that_succeeds_is_booked_once(gate, upstream):
    upstream.answers(failing(503), wire.chat_answer())
    assert (await gate.chat(wire.chat())).status == 200
    assert len(upstream.asked) == 2
    assert (await gate.last()).amounts["tokens"] == 18


def billed_failure(status=503, **more):
    """An error that names a usage: 18 tokens."""
    return Reply(status=status, body=wire.encoded({"error": {"message": "no"}, "usage": wire.CHAT_USAGE}), **more)


# covers E14
@pytest.mark.parametrize(
    ("replies", "status", "tokens", "outcome"),
    [
        ((billed_failure(), wire.chat_answer()), 200, 36, "success"),
        ((billed_failure(500), billed_failure(), wire.chat_answer()), 200, 54, "success"),
        ((billed_failure(), failing(503)), 503, 18, "error"),
        ((billed_failure(), failing(400)), 400, 18, "error"),
        ((billed_failure(),), 503, 54, "error"),
    ],
    ids=["answered", "answered at last", "failed", "refused", "billed each time"],
)
async def test_each_attempt_that_was_billed_is_on_the_books(gate, upstream, replies, status, tokens, outcome):
    upstream.answers(*replies)
    assert (await gate.chat(wire.chat())).status == status
    booked = await gate.last()
    times = tokens // 18
    assert (booked.amounts["tokens"], booked.amounts["calls"]) == (tokens, 1)
    assert booked.amounts["cost"] == booked.record.cost_nanousd == times * (11 * IN + 7 * OUT)
    assert (booked.record.tokens.input, booked.record.tokens.output) == (times * 11, times * 7)
    assert (booked.record.outcome, booked.record.tokens_estimated) == (outcome, False)


async def test_nobody_is_asked_again_once_what_failed_has_used_up_the_budget(upstream, other):
    """What a failed attempt has used is held besides; only as long as there is room for that somebody else is asked."""
    body = wire.chat(max_tokens=20)
    upstream.answers(billed_failure())
    other.answers(wire.chat_answer())
    async with standing(two(upstream, other), budget=False) as gate:
        await gate.account(PAYER, output_tokens=26)
        assert (await gate.chat(body)).status == 502
        assert (len(upstream.asked), len(other.asked)) == (1, 0)
        assert (await gate.balance(unit="output_tokens")).spent == 7
        await gate.limit(PAYER, "output_tokens", 7 + 27)
        assert (await gate.chat(body)).status == 200
        balance = await gate.balance(unit="output_tokens")
        assert (balance.spent, balance.uncovered) == (7 + 14, 0)


async def test_a_failure_that_used_nothing_is_no_attempt_that_was_billed(gate, upstream):
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    free = Reply(status=503, body=wire.encoded({"error": {"message": "no"}, "usage": nothing}))
    upstream.answers(free, wire.chat_answer())
    assert (await gate.chat(wire.chat())).status == 200
    assert "attempts_billed" not in (await gate.last()).record.metadata
    upstream.answers(free)
    assert (await gate.chat(wire.chat())).status == 503
    assert (await gate.balance(unit="tokens")).spent == 18


# covers E14
async def test_an_attempt_that_was_billed_is_booked_when_nobody_else_can_be_reached(upstream, other):
    upstream.answers(billed_failure())
    await other.stop()
    async with standing(two(upstream, other), attempts_max=2) as gate:
        assert (await gate.chat(wire.chat())).status == 502
        assert (await gate.last()).amounts["tokens"] == 18


@pytest.mark.parametrize("body", [b"x" * 300_000, ERROR["openai"]])
async def test_an_answer_that_failed_holds_up_the_next_attempt_for_a_moment_only(gate, upstream, monkeypatch, body):
    monkeypatch.setattr(attempts, "FAILED_S_MAX", 0.1)
    upstream.answers(Reply(status=503, body=body, pieces=len(body) // 5, pause_s=1), wire.chat_answer())
    async with asyncio.timeout(3):
        assert (await gate.chat(wire.chat())).status == 200
    assert upstream.asked[0].was_left
    assert (await gate.last()).amounts["tokens"] == 18


async def test_a_call_that_somebody_on_the_way_gave_up_waiting_for_is_not_sent_again(upstream, other):
    """Who answers 504 has sent it on, and it may have been billed there."""
    upstream.answers(failing(504))
    other.answers(wire.chat_answer())
    async with standing(two(upstream, other)) as gate:
        assert (await gate.chat(wire.chat(max_tokens=50))).status == 504
        assert (len(upstream.asked), len(other.asked)) == (1, 0)
        booked = await gate.last()
        assert (booked.amounts["output_tokens"], booked.record.tokens_estimated) == (50, True)
        assert (booked.record.outcome, booked.record.error_code) == ("timeout", "504")


async def test_a_provider_that_wants_a_long_pause_is_not_waited_for(gate, upstream):
    upstream.answers(failing(429, retry_after="30"))
    async with asyncio.timeout(2):
        answer = await gate.chat(wire.chat())
    assert (answer.status, answer.headers["retry-after"]) == (429, "30")
    assert len(upstream.asked) == 1


# -- several providers ----------------------------------------------------------------------------------------------


def two(first, second, **more):
    return tuple(
        Provider(name=name, family="openai", base_url=f"{one.url}/v1", api_key=PROVIDER_KEY, priority=number, **more)
        for number, (name, one) in enumerate((("first", first), ("second", second)))
    )


@pytest.fixture
async def other():
    """A second provider."""
    async with running() as server:
        yield server


@pytest.mark.parametrize("status", [429, 500, 529])
async def test_another_provider_is_asked_under_the_same_hold(upstream, other, status):
    upstream.answers(failing(status, retry_after="60"))
    other.answers(wire.chat_answer())
    async with standing(two(upstream, other)) as gate:
        answer = await gate.chat(wire.chat())
        assert answer.status == 200
        assert (len(upstream.asked), len(other.asked)) == (1, 1)
        assert (await gate.last()).amounts["tokens"] == 18
        assert [entry.kind for entry in await gate.entries()].count("held") == 1


async def test_another_provider_is_asked_when_one_refuses_connections(upstream, other):
    await upstream.stop()
    other.answers(wire.chat_answer())
    async with standing(two(upstream, other)) as gate:
        assert (await gate.chat(wire.chat())).status == 200
        assert (await gate.last()).amounts["tokens"] == 18


async def test_who_leaves_while_a_connection_is_made_pays_nothing(upstream, monkeypatch):
    """Not a byte was sent."""
    reached = asyncio.Event()

    async def connect(self):
        reached.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(Client, "_connect", connect)
    async with standing(providers(upstream)) as gate:
        call = asyncio.create_task(gate.chat(wire.chat()))
        await reached.wait()
        call.cancel()
        async with asyncio.timeout(5):
            while (await gate.balance()).held:
                await asyncio.sleep(0.01)
        assert (await gate.balance()).spent == 0


async def test_nobody_who_can_be_reached_is_an_error_that_costs_nothing(upstream):
    await upstream.stop()
    async with standing(providers(upstream)) as gate:
        for family, (path, make, _, _) in FAMILIES.items():
            answer = await gate.post(path, make(stream=True))
            assert answer.status == 502, family
            assert "cannot be reached" in answer.json["error"]["message"]
            assert answer.headers["retry-after"] == "1"
        assert await gate.usage() == []


async def test_a_call_that_was_sent_and_broke_off_is_not_sent_to_another(upstream, other):
    upstream.answers_by(lambda asked: Reply(headers=JSON, body=b"{}", broken_after=0))
    other.answers(wire.chat_answer())
    async with standing(two(upstream, other)) as gate:
        assert (await gate.chat(wire.chat())).status == 502
        assert other.asked == []


async def test_a_provider_that_fails_again_and_again_is_left_alone_for_a_while(upstream, other):
    upstream.answers(failing(500))
    other.answers(wire.chat_answer())
    async with standing(two(upstream, other), broken_after=2, broken_s=0.5) as gate:
        for _ in range(6):
            assert (await gate.chat(wire.chat())).status == 200
        assert (len(upstream.asked), len(other.asked)) == (2, 6)
        await asyncio.sleep(0.5)
        upstream.answers(wire.chat_answer())
        assert (await gate.chat(wire.chat())).status == 200
        assert len(upstream.asked) == 3


async def test_equal_providers_take_turns(upstream, other):
    upstream.answers(wire.chat_answer())
    other.answers(wire.chat_answer())
    both = tuple(
        Provider(name=name, family="openai", base_url=f"{one.url}/v1")
        for name, one in (("one", upstream), ("two", other))
    )
    async with standing(both) as gate:
        for _ in range(6):
            assert (await gate.chat(wire.chat())).status == 200
        assert (len(upstream.asked), len(other.asked)) == (3, 3)


async def test_no_more_calls_are_in_flight_than_may_be(upstream):
    upstream.answers(Reply(body=wire.chat_answer().body, pieces=50, pause_s=0.1))
    async with standing(providers(upstream, in_flight_max=1)) as gate:
        call = asyncio.create_task(gate.chat(wire.chat()))
        await upstream.request()
        busy = await gate.chat(wire.chat())
        assert (busy.status, busy.headers["retry-after"]) == (503, "1")
        assert (await call).status == 200
        assert len(upstream.asked) == 1


# -- what callers send ----------------------------------------------------------------------------------------------

WRONG = (
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"null", None),
    (b'"text"', None),
    (b"\xff\xfe{}", None),
    (b'{"model":"test-model","messages":' + b"[" * 100_000, None),
    (b'{"model":"test-model"', None),
    (b'{"messages":[]}', "model"),
    (b'{"model":7,"messages":[]}', "model"),
    (b'{"model":"test-%b","messages":[]}' % (b"x" * 600), "model"),
    (b'{"model":"test-model","messages":[],"max_tokens":"many"}', "max_tokens"),
    (b'{"model":"test-model","messages":[],"max_tokens":-1}', "max_tokens"),
    (b'{"model":"test-model","messages":[],"max_tokens":1e99}', "max_tokens"),
    (b'{"model":"test-model","messages":[],"max_tokens":5,"max_tokens":5000}', "max_tokens"),
    (b'{"model":"test-model","messages":[],"n":100000}', "n"),
    (b'{"model":"test-model","messages":[],"stream":"yes"}', "stream"),
    (b'{"model":"test-model","messages":{}}', None),
    (b'{"model":"test-model","messages":[7]}', None),
)


@pytest.mark.parametrize(("body", "field"), WRONG, ids=[one[0][:50].decode("latin-1") for one in WRONG])
async def test_a_body_that_makes_no_sense_is_refused_here_or_by_the_provider(gate, upstream, body, field):
    upstream.answers(failing(400))
    answer = await gate.chat(body)
    assert answer.status == 400
    error = answer.json["error"]
    assert "Traceback" not in error["message"]
    if field is not None:
        assert error["param"] == field
    assert await gate.usage() == []


async def test_a_long_body_is_taken_and_a_longer_one_is_refused(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), body_bytes_max=2_000_000) as gate:
        long = wire.chat(messages=[{"role": "user", "content": "word " * 300_000}])
        answer = await gate.chat(long)
        assert answer.status == 200, answer
        assert upstream.asked[0].json["messages"] == long["messages"]
        answer = await gate.chat(wire.chat(messages=[{"role": "user", "content": "word " * 500_000}]))
        assert (answer.status, answer.json["error"]["code"]) == (413, "too_large")
        assert len(upstream.asked) == 1


async def test_a_body_that_is_too_long_is_refused_also_without_a_length(upstream):
    async def pieces():
        for _ in range(40):
            yield b"x" * 1_000

    async with standing(providers(upstream), body_bytes_max=10_000) as gate:
        url = f"{gate.url}/openai/v1/chat/completions"
        async with gate.session.post(url, data=pieces(), headers={"content-type": "application/json"}) as answer:
            assert answer.status == 413


async def test_thousands_of_tools_are_counted_and_held(gate, upstream):
    upstream.answers(wire.chat_answer())
    parameters = {"type": "object", "properties": {"place": {"type": "string"}}}
    tools = [
        {"type": "function", "function": {"name": f"tool_{number}", "parameters": parameters}}
        for number in range(3_000)
    ]
    answer = await gate.chat(wire.chat(tools=tools))
    assert answer.status == 200
    booked = await gate.last()
    assert int(booked.record.metadata["counted_input_tokens"]) > 30_000
    assert len(booked.record.tools) == 64


# -- secrets --------------------------------------------------------------------------------------------------------


async def test_no_secret_is_in_any_log_message_or_answer(upstream, caplog):
    """The provider even repeats the key that it was sent; whatever fails, neither key is told to anybody."""
    caplog.set_level(logging.DEBUG)
    said = f'{{"error":{{"message":"Incorrect key {PROVIDER_KEY}","code":"invalid_api_key"}}}}'.encode()
    replies = (
        Reply(status=401, body=said),
        Reply(status=500, body=said),
        Reply(body=said),
        Reply(headers=HTML, body=said),
        Reply(body=said, broken_after=5),
        failing(503),
    )
    async with standing(providers(upstream), keys=True) as gate:
        secret = await gate.key(PAYER)
        seen = []
        for reply in replies:
            upstream.answers(reply)
            for stream in (False, True):
                seen.append(await gate.chat(wire.chat(stream=stream), authorization=f"Bearer {secret}"))
        await upstream.stop()
        seen.append(await gate.chat(wire.chat(), authorization=f"Bearer {secret}"))
        told = f"{seen} {await gate.usage()} {caplog.text}"
    assert "upstream_failed" in told
    assert PROVIDER_KEY not in told
    assert secret not in told
    assert "Say hello" not in told


async def test_no_secret_is_in_a_stream_a_list_or_a_count_and_no_header_of_ours_is(upstream):
    other = "a-secret-of-a-proxy-in-front"
    said = f'{{"error":{{"message":"Incorrect keys {PROVIDER_KEY} {other}","code":"invalid_api_key"}}}}'
    seen = []
    async with standing(providers(upstream, headers={"x-proxy-key": other})) as gate:
        upstream.answers(wire.streamed(f"data: {said}\n\n".encode()))
        seen.append(await gate.chat(wire.chat(stream=True)))
        gate.knows(20)
        seen.append(await gate.chat(wire.chat(stream=True)))
        upstream.answers(Reply(status=401, body=said.encode()))
        seen.append(await gate.ask("GET", "/openai/v1/models"))
        seen.append(await gate.post("/anthropic/v1/messages/count_tokens", wire.messages()))
        seen.append(await gate.chat(wire.chat()))
    assert all("Incorrect keys [key] [key]" in str(answer.body) for answer in seen), seen


@contextlib.contextmanager
def said_of_calls(monkeypatch, **fields):
    """What a record says besides, whatever call it is of."""
    known = books.booked

    def booked(**of):
        what = known(**of)
        return replace(what, record=replace(what.record, **fields))

    with monkeypatch.context() as patched:
        patched.setattr(books, "booked", booked)
        yield


async def until_spent(gate, tokens):
    async with asyncio.timeout(5):
        while (await gate.balance()).spent != tokens:
            await gate.booked()


# covers E14
async def test_what_cannot_be_said_of_a_call_keeps_nothing_from_the_books(gate, upstream, monkeypatch, caplog):
    upstream.answers(wire.chat_answer())
    with said_of_calls(monkeypatch, metadata={"": "1"}):
        assert (await gate.chat(wire.chat())).status == 200
        await until_spent(gate, 18)
    booked = await gate.last()
    assert (booked.record.model, booked.record.provider, booked.record.outcome) == (MODEL, "openai", "success")
    assert (booked.record.tokens.input, booked.record.tokens.output) == (11, 7)
    assert booked.record.cost_nanousd == booked.amounts["cost"] == 11 * IN + 7 * OUT
    assert booked.record.metadata == {}
    assert "settlement_refused" in caplog.text
    await gate.assert_nothing_is_held()


# covers E14
async def test_a_call_of_which_nothing_can_be_said_is_booked_all_the_same(gate, upstream, monkeypatch):
    upstream.answers(wire.chat_answer())
    with said_of_calls(monkeypatch, model="m" * 5_000):
        assert (await gate.chat(wire.chat())).status == 200
        await until_spent(gate, 18)
    await gate.assert_nothing_is_held()


@pytest.mark.parametrize("calls", [5, True, "x", {}, [None, 7], [{"function": 3}]])
@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_of_a_wrong_type_cost_what_the_usage_says(gate, upstream, calls, stream):
    if stream:
        chunk = wire.chat_chunk(choices=[{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}])
        body = sse(chunk, wire.chat_stop(), wire.chat_chunk(choices=[], usage=wire.CHAT_USAGE))
        upstream.answers(wire.streamed(body))
    else:
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        upstream.answers(wire.chat_answer(choices=[{"index": 0, "message": message, "finish_reason": "stop"}]))
    assert (await gate.chat(wire.chat(stream=stream))).status == 200
    assert (await gate.last()).amounts["tokens"] == 18


# -- the gateway makes a mistake --------------------------------------------------------------------------------------


async def test_a_mistake_in_what_is_learned_of_a_call_costs_no_settlement(gate, upstream, monkeypatch):
    def learn(self, *args, **kwargs):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("fiscus.gateway.produced.Shares.learn", learn)
    upstream.answers(wire.chat_answer())
    assert (await gate.chat(wire.chat())).status == 200
    booked = await settled(gate)
    assert (booked.record.outcome, booked.record.tokens_estimated) == ("success", False)
    assert (booked.amounts["input_tokens"], booked.amounts["output_tokens"]) == (11, 7)
