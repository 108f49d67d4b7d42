"""A stream that is ended after any of its events is one that the provider's own SDK reads to its end."""

import asyncio
import json
import warnings
from functools import cache

import anthropic
import httpx2
import openai
import pytest
from google import genai

from fiscus.core.records import Tokens
from fiscus.dialects import DIALECTS, Problem
from tests_data.dialects.recorded import exchanges

PREFIXES_MAX = 12
COUNTED = Tokens(input=40, output=33, reasoning=3)
SAMPLE = {
    name: [one for one in exchanges() if one.stream and one.dialect == name and len(one.body) < 60_000]
    for name in ("openai.chat", "openai.completions", "openai.responses", "anthropic.messages", "gemini.generate")
}
PROBLEM = Problem(code="upstream_error", message="the provider broke off")


class Answers(httpx2.BaseTransport):
    """Answers each call with the same bytes as a stream of events."""

    body = b""

    def handle_request(self, request):
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=self.body)


ANSWERS = Answers()
HTTP = httpx2.Client(transport=ANSWERS)
OPENAI = openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=HTTP)
ANTHROPIC = anthropic.Anthropic(api_key="k", base_url="http://x", http_client=HTTP)
GEMINI = genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url="http://x", httpx_client=HTTP))


def events_of(one):
    stream = DIALECTS[one.dialect].events("text/event-stream")
    return [*stream.feed(one.body), *stream.flush()]


def prefixes(one):
    """Numbers of events to stop after, spread over the stream, its last events among them."""
    count = len(events_of(one))
    step = max(1, count // PREFIXES_MAX)
    return sorted({*range(0, count + 1, step), count, max(0, count - 1), max(0, count - 2)})


def cut(one, length, *, tokens=COUNTED, include_usage=False, problem=None):
    """The first events with the ending, and the meter that read them."""
    dialect = DIALECTS[one.dialect]
    meter = dialect.meter("text/event-stream")
    kept = events_of(one)[:length]
    for event in kept:
        meter.feed(event)
    last = (
        dialect.ending(meter, tokens=tokens, include_usage=include_usage)
        if problem is None
        else dialect.error_event(problem, meter)
    )
    return b"".join(event.raw for event in kept) + last, meter


def read_chat(body):
    ANSWERS.body = body
    asked = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    chunks = list(OPENAI.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    with OPENAI.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        # What the SDK makes of any answer that was cut, also by the provider.
        try:
            stream.get_final_completion()
        except openai.LengthFinishReasonError:
            assert any(choice.finish_reason == "length" for chunk in chunks for choice in chunk.choices)
    return chunks


def read_completions(body):
    ANSWERS.body = body
    return list(OPENAI.completions.create(model="m", prompt="?", stream=True))


def read_responses(body):
    ANSWERS.body = body
    events = list(OPENAI.responses.create(model="m", input="?", stream=True))
    with OPENAI.responses.stream(model="m", input="?") as stream:
        for _ in stream:
            pass
    return events


def read_messages(body):
    ANSWERS.body = body
    with ANTHROPIC.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}]) as stream:
        for _ in stream:
            pass
        return stream.get_final_message()


def read_gemini(body):
    ANSWERS.body = body
    return list(GEMINI.models.generate_content_stream(model="m", contents="?"))


READERS = {
    "openai.chat": read_chat,
    "openai.completions": read_completions,
    "openai.responses": read_responses,
    "anthropic.messages": read_messages,
    "gemini.generate": read_gemini,
}


def endings(name, every):
    """Streams of a dialect, each ended after some of its events; without those that failed by themselves."""
    for one in SAMPLE[name][::every]:
        if not readable(name, one):
            continue
        whole = DIALECTS[name].meter("text/event-stream")
        for event in events_of(one):
            whole.feed(event)
        if whole.error is None:
            for length in prefixes(one):
                yield one, length, *cut(one, length)


@cache
def readable(name, one):
    """Whether the SDK reads the stream as it was recorded: some are not its own provider's."""
    try:
        READERS[name](one.body)
    except Exception:
        return False
    return True


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("name", "every", "least"),
    [
        ("openai.chat", 12, 100),
        ("openai.completions", 3, 40),
        ("openai.responses", 6, 120),
        ("anthropic.messages", 4, 120),
        ("gemini.generate", 2, 40),
    ],
)
def test_the_sdk_reads_a_stream_that_is_ended_anywhere(name, every, least):
    count = 0
    sample = SAMPLE[name][::every]
    assert sum(readable(name, one) for one in sample) > 0.9 * len(sample)
    for one, length, body, _ in endings(name, every):
        try:
            READERS[name](body)
        except Exception as error:
            raise AssertionError((one.id, length, body[-1500:])) from error
        count += 1
    assert count > least


def test_every_open_choice_of_a_chat_ends_at_its_length_with_the_id_of_the_stream():
    for _, length, body, meter in endings("openai.chat", 20):
        chunks = read_chat(body)
        reasons = {
            choice.index: choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason
        }
        assert set(reasons) == {index for index, _ in meter.produced} | meter.finish_reasons.keys() or set(reasons) == {
            0
        }
        for index, reason in reasons.items():
            assert reason == meter.finish_reasons.get(index, "length")
        if length > 1 and chunks[0].id:
            assert len({chunk.id for chunk in chunks if chunk.id}) == 1
        assert body.endswith(b"data: [DONE]\n\n")


def test_the_usage_of_a_chat_is_what_the_gateway_counted_when_the_caller_asked():
    one = SAMPLE["openai.chat"][0]
    chunks = read_chat(cut(one, 3, include_usage=True)[0])
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (40, 33)
    assert read_chat(cut(one, 3)[0])[-1].usage is None
    assert read_chat(cut(one, 3, include_usage=True, tokens=None)[0])[-1].usage is None


def test_a_message_ends_at_max_tokens_with_cumulative_usage():
    for _, length, body, meter in endings("anthropic.messages", 4):
        message = read_messages(body)
        assert message.stop_reason == meter.finish_reasons.get(0, "max_tokens")
        if not meter.finish_reasons:
            assert message.usage.output_tokens >= 33
        if length > 1:
            assert message.id == meter.response_id
        texts = "".join(block.text for block in message.content if block.type == "text")
        produced = meter.produced.get((0, "text"))
        assert len(texts) == (produced.characters if produced else 0)


def test_a_response_ends_incomplete_with_its_text_and_numbers_that_go_on():
    for _, _, body, meter in endings("openai.responses", 8):
        events = read_responses(body)
        numbers = [event.sequence_number for event in events]
        assert numbers == list(range(len(numbers)))
        if meter.ended:
            continue
        assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "incomplete")
        assert events[-1].response.incomplete_details.reason == "max_output_tokens"
        assert events[-1].response.usage.output_tokens == 33
        said = "".join(
            part.text
            for item in events[-1].response.output
            if item.type == "message"
            for part in item.content or ()
            if part.type == "output_text"
        )
        assert said == "".join(event.delta for event in events if event.type == "response.output_text.delta")
        added = [event.output_index for event in events if event.type == "response.output_item.added"]
        assert added == [event.output_index for event in events if event.type == "response.output_item.done"] or sorted(
            added
        ) == sorted(event.output_index for event in events if event.type == "response.output_item.done")


def test_a_gemini_stream_ends_at_max_tokens():
    for _, _, body, meter in endings("gemini.generate", 2):
        last = read_gemini(body)[-1]
        if not meter.ended:
            assert last.candidates[0].finish_reason == "MAX_TOKENS"
            assert last.usage_metadata.total_token_count == 73


def test_an_array_that_grows_is_ended_with_its_bracket():
    dialect = DIALECTS["gemini.generate"]
    for one in SAMPLE["gemini.generate"]:
        chunks = [event.data for event in events_of(one) if event.data]
        body = b"[" + b",\r\n".join(chunks) + b"\n]\n"
        stream = dialect.events("application/json")
        events = [*stream.feed(body), *stream.flush()]
        assert b"".join(event.raw for event in events) == body
        assert [event.data for event in events if event.data] == chunks
        for length in range(len(events) + 1):
            meter = dialect.meter("application/json")
            for event in events[:length]:
                meter.feed(event)
            kept = b"".join(event.raw for event in events[:length])
            read = json.loads(kept + dialect.ending(meter, tokens=COUNTED))
            assert read[: min(length, len(chunks))] == [json.loads(chunk) for chunk in chunks[:length]]
            assert read[-1]["candidates"][0]["finishReason"]
            if not meter.closed:
                assert json.loads(kept + dialect.error_event(PROBLEM, meter))[-1]["error"]["code"] == 502


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("openai.chat", openai.APIError),
        ("openai.completions", openai.APIError),
        ("openai.responses", openai.APIError),
        ("anthropic.messages", anthropic.APIStatusError),
        ("gemini.generate", genai.errors.APIError),
    ],
)
def test_an_error_within_a_stream_is_raised_by_the_sdk(name, raised):
    for one in SAMPLE[name][:3]:
        length = len(events_of(one)) // 2
        with pytest.raises(raised, match="broke off"):
            READERS[name](cut(one, length, problem=PROBLEM)[0])


def test_what_has_ended_gets_no_second_ending():
    for name, streams in SAMPLE.items():
        for one in streams[:5]:
            last, meter = cut(one, 10**6)
            assert meter.ended
            assert last == one.body, name


def test_the_async_sdks_read_them_too():
    async def read():
        body = cut(SAMPLE["openai.chat"][0], 5)[0]
        answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda request: answer))
        client = openai.AsyncOpenAI(api_key="k", base_url="http://x/v1", http_client=http)
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "?"}], stream=True
        )
        return [chunk async for chunk in stream]

    assert asyncio.run(read())[-1].choices[0].finish_reason == "length"
