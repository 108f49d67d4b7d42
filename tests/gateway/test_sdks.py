"""The official SDKs, unmodified, with the gateway as their base URL: asynchronous and not, streaming and not."""

import asyncio

import anthropic
import openai
import pytest
from google import genai
from google.genai.types import HttpOptions

from tests.gateway import wire
from tests.gateway.gate import PAYER, PROVIDER_KEY, providers, standing

MODEL, MESSAGES = wire.MODEL, wire.MESSAGES
# google-genai's own: it derives from a class of aiohttp that does not want it.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@pytest.fixture
async def keyed(upstream):
    """A gateway that wants keys, and one."""
    async with standing(providers(upstream), keys=True) as gate:
        yield gate, await gate.key(PAYER)


async def done(is_async, work):
    """What ``work`` returns: a coroutine, or a value that is made in a thread."""
    return await work() if is_async else await asyncio.to_thread(work)


class OpenAI:
    """Both clients behind the same calls."""

    def __init__(self, is_async, url, secret):
        kind = openai.AsyncOpenAI if is_async else openai.OpenAI
        self.is_async = is_async
        self.client = kind(api_key=secret, base_url=f"{url}/openai/v1", max_retries=0)

    async def __call__(self, work, **more):
        """Make a call; all chunks of one that streams."""
        if self.is_async:
            answer = await work(self.client)(**more)
            return [chunk async for chunk in answer] if more.get("stream") else answer
        return await asyncio.to_thread(self._whole, work, more)

    def _whole(self, work, more):
        answer = work(self.client)(**more)
        return list(answer) if more.get("stream") else answer

    async def close(self):
        await done(self.is_async, self.client.close)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
async def client(request, keyed):
    """OpenAI's."""
    gate, secret = keyed
    made = OpenAI(request.param, gate.url, secret)
    yield made
    await made.close()


async def booked(gate, into, out):
    """The one booking is this."""
    found = await gate.last()
    assert (found.amounts["input_tokens"], found.amounts["output_tokens"]) == (into, out)
    assert found.account == PAYER
    assert not found.record.tokens_estimated
    return found


async def test_openai_chat(client, keyed, upstream):
    upstream.answers(wire.chat_answer())
    answer = await client(lambda c: c.chat.completions.create, model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello!"
    await booked(keyed[0], 11, 7)
    assert upstream.asked[0].headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert keyed[1] not in str(upstream.asked[0])


async def test_openai_chat_stream(client, keyed, upstream):
    upstream.answers(wire.streamed(wire.chat_stream(), pieces=11))
    chunks = await client(lambda c: c.chat.completions.create, model=MODEL, messages=MESSAGES, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello!"
    assert all(chunk.usage is None for chunk in chunks)
    await booked(keyed[0], 11, 7)


async def test_openai_chat_stream_with_usage(client, keyed, upstream):
    upstream.answers(wire.streamed(wire.chat_stream(), pieces=11))
    more = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = await client(lambda c: c.chat.completions.create, model=MODEL, messages=MESSAGES, **more)
    assert chunks[-1].usage.total_tokens == 18
    await booked(keyed[0], 11, 7)


async def test_openai_responses(client, keyed, upstream):
    upstream.answers(wire.responses_answer())
    answer = await client(lambda c: c.responses.create, model=MODEL, input="Say hello.")
    assert answer.output_text == "Hello!"
    record = (await booked(keyed[0], 10, 6)).record
    assert (record.tokens.cache_read, record.tokens.reasoning) == (4, 2)


async def test_openai_responses_stream(client, keyed, upstream):
    upstream.answers(wire.streamed(wire.responses_stream(), pieces=13))
    chunks = await client(lambda c: c.responses.create, model=MODEL, input="Say hello.", stream=True)
    assert chunks[-1].response.output_text == "Hello!"
    await booked(keyed[0], 10, 6)


async def test_openai_completions(client, keyed, upstream):
    upstream.answers(wire.completion_answer())
    answer = await client(lambda c: c.completions.create, model=MODEL, prompt="Say hello.", max_tokens=20)
    assert answer.choices[0].text == "Hello!"
    await booked(keyed[0], 11, 7)


async def test_openai_completions_stream(client, keyed, upstream):
    upstream.answers(wire.streamed(wire.completion_stream(), pieces=9))
    chunks = await client(lambda c: c.completions.create, model=MODEL, prompt="Say hello.", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello!"
    await booked(keyed[0], 11, 7)


async def test_openai_embeddings(client, keyed, upstream):
    upstream.answers(wire.embeddings_answer())
    more = {"encoding_format": "float"}
    answer = await client(lambda c: c.embeddings.create, model=MODEL, input=["Say hello."], **more)
    assert answer.data[0].embedding == [0.5, -0.25]
    await booked(keyed[0], 5, 0)


async def test_openai_models(client, keyed, upstream):
    upstream.answers(
        wire.Reply(body=b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"o"}]}')
    )
    if client.is_async:
        models = [model.id async for model in client.client.models.list()]
    else:
        models = await asyncio.to_thread(lambda: [model.id for model in client.client.models.list()])
    assert models == ["m"]


@ASYNC
async def test_azure_openai(keyed, upstream, is_async):
    gate, secret = keyed
    upstream.answers(wire.chat_answer())
    kind = openai.AsyncAzureOpenAI if is_async else openai.AzureOpenAI
    made = kind(api_key=secret, azure_endpoint=gate.url, api_version="2024-10-21", azure_deployment=MODEL)
    answer = await done(is_async, lambda: made.chat.completions.create(model=MODEL, messages=MESSAGES))
    assert answer.choices[0].message.content == "Hello!"
    await done(is_async, made.close)
    await booked(gate, 11, 7)


async def test_openai_raises_its_own_exceptions(client, keyed, upstream):
    gate, _ = keyed
    with pytest.raises(openai.NotFoundError):
        await client(lambda c: c.images.generate, model=MODEL, prompt="A cat.")
    await gate.account("agent:poor", parent=PAYER, tokens=10)
    with pytest.raises(openai.APIStatusError) as raised:
        await client(
            lambda c: c.chat.completions.create,
            model=MODEL,
            messages=MESSAGES,
            extra_headers={"X-Fiscus-Agent": "poor"},
        )
    assert (raised.value.status_code, raised.value.code) == (402, "budget_exceeded")
    assert upstream.asked == []


@pytest.fixture(params=[False, True], ids=["sync", "async"])
async def claude(request, keyed):
    """Anthropic's client, and whether it is asynchronous."""
    gate, secret = keyed
    kind = anthropic.AsyncAnthropic if request.param else anthropic.Anthropic
    made = kind(api_key=secret, base_url=f"{gate.url}/anthropic", max_retries=0)
    yield made, request.param
    await done(request.param, made.close)


async def test_anthropic_messages(claude, keyed, upstream):
    made, is_async = claude
    upstream.answers(wire.anthropic_answer())
    answer = await done(is_async, lambda: made.messages.create(model=MODEL, max_tokens=50, messages=MESSAGES))
    assert answer.content[0].text == "Hello!"
    record = (await booked(keyed[0], 14, 7)).record
    assert (record.tokens.cache_read, record.tokens.cache_write_5m) == (3, 2)
    assert upstream.asked[0].headers["x-api-key"] == PROVIDER_KEY
    assert "authorization" not in upstream.asked[0].headers


async def test_anthropic_messages_stream(claude, keyed, upstream):
    made, is_async = claude
    upstream.answers(wire.streamed(wire.anthropic_stream(), pieces=10))
    asked = {"model": MODEL, "max_tokens": 50, "messages": MESSAGES, "stream": True}
    if is_async:
        kinds = [event.type async for event in await made.messages.create(**asked)]
    else:
        kinds = await asyncio.to_thread(lambda: [event.type for event in made.messages.create(**asked)])
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    await booked(keyed[0], 14, 7)


async def test_anthropic_stream_helper(claude, keyed, upstream):
    made, is_async = claude
    upstream.answers(wire.streamed(wire.anthropic_stream(), pieces=10))
    asked = {"model": MODEL, "max_tokens": 50, "messages": MESSAGES}

    def read():
        with made.messages.stream(**asked) as stream:
            return "".join(stream.text_stream), stream.get_final_message()

    async def read_async():
        async with made.messages.stream(**asked) as stream:
            return "".join([text async for text in stream.text_stream]), await stream.get_final_message()

    said, message = await done(is_async, read_async if is_async else read)
    assert (said, message.usage.output_tokens) == ("Hello!", 7)
    await booked(keyed[0], 14, 7)


async def test_anthropic_counts_tokens_for_nothing(claude, keyed, upstream):
    made, is_async = claude
    upstream.answers(wire.Reply(body=b'{"input_tokens":14}'))
    answer = await done(is_async, lambda: made.messages.count_tokens(model=MODEL, messages=MESSAGES))
    assert answer.input_tokens == 14
    assert await keyed[0].usage() == []


async def test_anthropic_raises_its_own_exceptions(claude, keyed):
    made, is_async = claude
    with pytest.raises(anthropic.PermissionDeniedError):
        await done(
            is_async,
            lambda: made.messages.create(
                model=MODEL, max_tokens=50, messages=MESSAGES, extra_headers={"X-Fiscus-Charge-To": "team:other"}
            ),
        )


@pytest.fixture
async def gemini(keyed):
    """Google's client, which has both."""
    gate, secret = keyed
    made = genai.Client(api_key=secret, http_options=HttpOptions(base_url=f"{gate.url}/gemini"))
    yield made
    await made.aio.aclose()
    made.close()


@ASYNC
async def test_gemini_generates(gemini, keyed, upstream, is_async):
    upstream.answers(wire.gemini_answer())
    models = gemini.aio.models if is_async else gemini.models
    answer = await done(is_async, lambda: models.generate_content(model=MODEL, contents="Say hello."))
    assert answer.text == "Hello!"
    record = (await booked(keyed[0], 8, 7)).record
    assert record.tokens.reasoning == 3
    assert upstream.asked[0].headers["x-goog-api-key"] == PROVIDER_KEY
    assert keyed[1] not in str(upstream.asked[0])


@ASYNC
async def test_gemini_generates_a_stream(gemini, keyed, upstream, is_async):
    upstream.answers(wire.streamed(wire.gemini_stream(), pieces=10))
    asked = {"model": MODEL, "contents": "Say hello."}
    if is_async:
        texts = [chunk.text async for chunk in await gemini.aio.models.generate_content_stream(**asked)]
    else:
        texts = await asyncio.to_thread(lambda: [one.text for one in gemini.models.generate_content_stream(**asked)])
    assert "".join(texts) == "Hello!"
    await booked(keyed[0], 8, 7)


@ASYNC
async def test_gemini_raises_its_own_exceptions(gemini, keyed, upstream, is_async):
    await keyed[0].limit(PAYER, "tokens", 10)
    models = gemini.aio.models if is_async else gemini.models
    with pytest.raises(genai.errors.ClientError) as raised:
        await done(is_async, lambda: models.generate_content(model=MODEL, contents="Say hello."))
    assert raised.value.code == 402
    assert upstream.asked == []
