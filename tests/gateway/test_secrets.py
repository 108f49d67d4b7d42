"""What the gateway sends to a provider in confidence never reaches a caller, however the provider repeats it."""

import json

import pytest

from fiscus.gateway.options import Upstream as Provider
from fiscus.gateway.upstreams import Target
from tests.gateway import wire
from tests.gateway.gate import PREFIX, PROVIDER_KEY, providers, standing
from tests.gateway.upstream import Reply, named_events, sse

PROXY_SECRET = "proxy-secret-9876543210"
TOLD = f"Incorrect API key provided: {PROVIDER_KEY} (by {PROXY_SECRET})"
HEADERS = {"Proxy-Auth-Token": f"Bearer {PROXY_SECRET}", "X-Title": "a title of ours"}
OPENAI = {"error": {"message": TOLD, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}}
ANTHROPIC = {"type": "error", "error": {"type": "authentication_error", "message": TOLD}}
GEMINI = {"error": {"code": 401, "message": TOLD, "status": "UNAUTHENTICATED"}}
FAILED = wire.response_object("failed", error={"code": "invalid_api_key", "message": TOLD})
GENERATE = "/gemini/v1beta/models/test-model:streamGenerateContent"


@pytest.fixture
async def confiding(upstream):
    """A gateway that sends two secrets."""
    async with standing(providers(upstream, headers=HEADERS)) as gate:
        yield gate


def assert_kept(answer, upstream):
    sent = upstream.asked[-1].headers
    assert (sent["proxy-auth-token"], sent["x-title"]) == (HEADERS["Proxy-Auth-Token"], HEADERS["X-Title"])
    assert PROVIDER_KEY.encode() not in answer.body
    assert PROXY_SECRET.encode() not in answer.body
    assert b"Incorrect API key provided: [key] (by [key])" in answer.body


@pytest.mark.parametrize("status", [200, 401, 400, 500])
async def test_lists_and_counts_keep_the_secrets(confiding, upstream, status):
    for path, error in (("/openai/v1/models", OPENAI), ("/gemini/v1beta/models", GEMINI)):
        upstream.answers(Reply(status=status, body=json.dumps(error).encode()))
        answer = await confiding.ask("GET", path)
        assert answer.status == status
        assert_kept(answer, upstream)
    upstream.answers(Reply(status=status, body=json.dumps(ANTHROPIC).encode()))
    answer = await confiding.post("/anthropic/v1/messages/count_tokens", wire.messages())
    assert_kept(answer, upstream)


async def test_a_list_of_models_passes_as_it_is(upstream):
    body = b'{"data":[{"id":"text-large"},{"id":"text-small"}]}'
    upstream.answers(Reply(body=body))
    async with standing(providers(upstream, headers={"x-key": "text-large"})) as gate:
        assert (await gate.ask("GET", "/openai/v1/models")).body == body


@pytest.mark.parametrize("status", [200, 401])
async def test_whole_answers_keep_the_secrets(confiding, upstream, status):
    upstream.answers(Reply(status=status, body=json.dumps(OPENAI).encode()))
    assert_kept(await confiding.chat(wire.chat()), upstream)


STREAMS = {
    "openai.chat": ("/openai/v1/chat/completions", wire.chat(stream=True), sse(wire.chat_chunk("Hi"), OPENAI)),
    "text": (
        "/openai/v1/chat/completions",
        wire.chat(stream=True),
        sse(wire.chat_chunk("Hi")) + f"data: {TOLD}\n\n".encode(),
    ),
    "openai.responses": (
        "/openai/v1/responses",
        {"model": wire.MODEL, "input": "Hi.", "stream": True},
        named_events({"type": "response.failed", "response": FAILED, "sequence_number": 0}),
    ),
    "anthropic": ("/anthropic/v1/messages", wire.messages(stream=True), named_events(ANTHROPIC)),
    "gemini": (f"{GENERATE}?alt=sse", wire.contents(), sse(GEMINI, done=False)),
}


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("dialect", STREAMS)
async def test_errors_within_streams_keep_the_secrets(confiding, upstream, dialect, grows):
    path, body, stream = STREAMS[dialect]
    if grows:  # events are metered before they are passed on, and not after
        confiding.knows(20)
    for split in ({}, {"pieces": 7}):
        upstream.answers(wire.streamed(stream, **split))
        answer = await confiding.post(path, body)
        assert answer.status == 200
        assert_kept(answer, upstream)


async def test_an_error_in_an_array_that_grows_keeps_the_secrets(confiding, upstream):
    upstream.answers(Reply(body=json.dumps([wire.gemini_chunk("Hi"), GEMINI]).encode(), is_chunked=True))
    assert_kept(await confiding.post(GENERATE, wire.contents()), upstream)


async def test_what_is_no_error_passes_as_it_is(upstream):
    """A key that is a word is still a word in what a model says."""
    stream = wire.chat_stream("a ", "dummy", " test")
    upstream.answers(wire.streamed(stream))
    one = Provider(name="local", family="openai", base_url=upstream.url + PREFIX["openai"], api_key="dummy")
    async with standing((one,)) as gate:
        answer = await gate.chat(wire.chat(stream=True, stream_options={"include_usage": True}))
        assert answer.body == stream


def test_secrets_are_known_by_their_names():
    target = Target(
        Provider(
            name="a",
            family="openai",
            base_url="http://127.0.0.1:9/v1",
            api_key="key-0123456789",
            query="api-version=2024-10-21&subscription-key=sub%2F0123456789",
            headers={
                "Authorization-2": "Basic dXNlcjpwYXNz",
                "cookie": "session=0123456789",
                "api-key": "short",
                "x-region": "westeurope-1",
                "x-tenant": "0123456789abcdef01234567",
                "x-title": "the gateway of the search team",
                "x-signature": 'with "quotes" and more',
            },
        )
    )
    told = b'key-0123456789 sub/0123456789 dXNlcjpwYXNz session=0123456789 with \\"quotes\\" and more'
    assert target.without_key(told) == b"[key] [key] [key] [key] [key]"
    assert target.without_key(b"0123456789abcdef01234567 westeurope-1 short") == b"[key] westeurope-1 short"
