"""Chat completions and legacy completions: what their requests and answers say."""

import json

import pytest

from fiscus.core.records import Tokens
from fiscus.dialects import DIALECTS, Delta, Event, Malformed

CHAT, LEGACY, EMBEDDINGS = DIALECTS["openai.chat"], DIALECTS["openai.completions"], DIALECTS["openai.embeddings"]


def body_of(**fields):
    return json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


def event(**chunk):
    data = json.dumps(chunk, separators=(",", ":")).encode()
    return Event(raw=b"data: " + data + b"\n\n", data=data)


def test_what_decides_the_cost_is_read():
    facts = CHAT.read_request(
        body_of(
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=100,
            max_completion_tokens=200,
            n=3,
            tools=[
                {"type": "function", "function": {"name": "look"}},
                {"type": "openrouter:web_search"},
                {"type": "custom", "custom": {"name": "x"}, "name": "x"},
            ],
            functions=[{"name": "old"}],
            web_search_options={},
            plugins=[{"id": "web"}],
            service_tier="flex",
            user="u",
            store=True,
            metadata={"team": "a", "n": 1, "long": "x" * 600},
            models=["a", "b"],
        )
    )
    assert (facts.model, facts.stream, facts.include_usage, facts.choices) == ("gpt-5", True, True, 3)
    assert facts.output_tokens_max == 200, "the larger one counts"
    assert (facts.tools, facts.tool_names) == (3, ("look", "x", "old"))
    assert facts.server_tools == ("openrouter:web_search", "web_search", "plugin")
    assert (facts.service_tier, facts.user, facts.store) == ("flex", "u", True)
    assert facts.metadata == {"team": "a"}
    assert facts.input_unknown == ("models",)


@pytest.mark.parametrize("model", ["gpt-4o-search-preview", "openai/gpt-5:online"])
def test_a_model_that_searches_is_known_by_its_name(model):
    assert CHAT.read_request(body_of(model=model)).server_tools == ("web_search",)


def test_the_path_names_the_model_where_the_body_does_not():
    assert CHAT.read_request(b'{"messages": []}', "deployment").model == "deployment"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"model": "m", "messages": [', None),
        (b'{"model": NaN}', None),
        (b"\xff", None),
        (body_of(model=3), "model"),
        (body_of(max_tokens="9"), "max_tokens"),
        (body_of(max_tokens=-1), "max_tokens"),
        (body_of(max_tokens=2**40), "max_tokens"),
        (body_of(n=0), "n"),
        (body_of(n=10**6), "n"),
        (body_of(stream="yes"), "stream"),
        (body_of(tools=[{"type": "function"}, 3]), "tools[1]"),
        (b'{"model": "a", "max_tokens": 1, "max_tokens": 9}', "max_tokens"),
        (
            b'{"model": "a", "stream_options": {"include_usage": true, "include_usage": false}}',
            "stream_options.include_usage",
        ),
    ],
)
def test_a_wrong_request_names_its_field(body, field):
    wrong = CHAT.read_request(body)
    assert isinstance(wrong, Malformed)
    assert wrong.field == field
    assert wrong.detail


def test_a_tool_of_no_known_kind_is_one_of_the_provider():
    assert CHAT.read_request(body_of(tools=[{"type": ["function"]}])).server_tools == ("unknown",)


def test_thousands_of_tools_are_counted_and_the_first_named():
    tools = [{"type": "function", "function": {"name": f"tool{number}"}} for number in range(5_000)]
    facts = CHAT.read_request(body_of(tools=tools))
    assert (facts.tools, len(facts.tool_names)) == (5_000, 64)


@pytest.mark.parametrize(
    ("given", "most", "expected"),
    [
        ({}, 50, {"max_completion_tokens": 50}),
        ({"max_tokens": None}, 50, {"max_tokens": 50}),
        ({"max_tokens": 100}, 50, {"max_tokens": 50}),
        ({"max_tokens": 10}, 50, {"max_tokens": 10}),
        ({"max_tokens": 100, "max_completion_tokens": 20}, 50, {"max_tokens": 50, "max_completion_tokens": 20}),
        ({"max_tokens": 100, "max_completion_tokens": None}, 50, {"max_tokens": 50, "max_completion_tokens": None}),
    ],
)
def test_a_bound_is_only_lowered(given, most, expected):
    body = body_of(**given)
    edited = CHAT.patch_request(body, CHAT.read_request(body), output_tokens_max=most)
    assert json.loads(edited) == {**json.loads(body), **expected}


def test_the_field_of_a_bound_that_was_not_asked_can_be_chosen():
    body = body_of()
    edited = CHAT.patch_request(body, CHAT.read_request(body), output_tokens_max=9, output_field="max_tokens")
    assert edited == body[:-1] + b',"max_tokens":9}'


@pytest.mark.parametrize(
    ("message", "last"),
    [
        ({"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi\n\nWarning"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "Warning"}]},
        ),
        ({"role": "tool", "tool_call_id": "c", "content": "7"}, {"role": "user", "content": "Warning"}),
        ({"role": "assistant", "content": "So"}, {"role": "assistant", "content": "So"}),
    ],
)
def test_a_note_goes_to_the_end(message, last):
    body = body_of(messages=[{"role": "system", "content": "Be"}, message])
    edited = CHAT.patch_request(body, CHAT.read_request(body), append_note="Warning")
    assert json.loads(edited)["messages"][-1] == last
    assert json.loads(edited)["messages"][0] == {"role": "system", "content": "Be"}


@pytest.mark.parametrize("messages", [None, "x", [], [3]])
def test_what_is_no_conversation_gets_no_note(messages):
    body = body_of(messages=messages)
    assert CHAT.patch_request(body, CHAT.read_request(body), append_note="Warning") is body


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}),
    ],
)
def test_usage_is_forced(options, expected):
    body = body_of(stream=True, **options)
    edited = CHAT.patch_request(body, CHAT.read_request(body), force_usage=True)
    assert json.loads(edited) == {**json.loads(body), "stream_options": expected}


def test_what_was_forced_is_stripped_and_nothing_else():
    text = event(id="c", choices=[{"index": 0, "delta": {"content": "a"}}], usage=None, obfuscation="x")
    assert CHAT.strip_usage(text) == text.raw.replace(b',"usage":null', b"")
    first = Event(raw=b'event: m\r\ndata:{"usage": null, "id": "c"}\r\n\r\n', data=b'{"usage": null, "id": "c"}')
    assert CHAT.strip_usage(first) == b'event: m\r\ndata:{"id": "c"}\r\n\r\n'
    only = Event(raw=b'data: {"usage":null}\n\n', data=b'{"usage":null}')
    assert CHAT.strip_usage(only) == b"data: {}\n\n"
    assert CHAT.strip_usage(event(choices=[], usage={"prompt_tokens": 1})) is None
    for untouched in (
        event(choices=[], prompt_filter_results=[]),
        event(choices=[{"index": 0, "delta": {"content": '"usage"'}}]),
        event(choices=[{"index": 0, "delta": {}}], usage={"prompt_tokens": 1}),
        Event(raw=b": ping\n\n"),
        Event(raw=b"data: [DONE]\n\n", data=b"[DONE]"),
        Event(raw=b'data: "usage"\n\n', data=b'"usage"'),
    ):
        assert CHAT.strip_usage(untouched) == untouched.raw


def test_each_kind_of_output_is_counted_by_choice():
    meter = CHAT.meter()
    assert meter.feed(event(choices=[{"index": 1, "delta": {"content": "né", "reasoning": "hm"}}])) == [
        Delta(1, "text", "né"),
        Delta(1, "reasoning", "hm"),
    ]
    meter.feed(event(choices=[{"index": 0, "delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}]))
    meter.feed(event(choices=[{"index": 0, "delta": {"refusal": "no", "audio": {"transcript": "la"}}}]))
    meter.feed(
        event(choices=[{"index": 0, "delta": {"content": [{"type": "thinking", "thinking": [{"text": "so"}]}]}}])
    )
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUI="}}
    meter.feed(event(choices=[{"index": 0, "delta": {"images": [image]}}]))
    counted = {key: (one.characters, one.utf8_bytes, one.deltas) for key, one in meter.produced.items()}
    assert counted == {
        (1, "text"): (2, 3, 1),
        (1, "reasoning"): (2, 2, 1),
        (0, "tool"): (3, 3, 2),
        (0, "refusal"): (2, 2, 1),
        (0, "audio"): (2, 2, 1),
        (0, "reasoning"): (2, 2, 1),
        (0, "image"): (26, 26, 1),
    }


def test_half_a_character_does_not_stop_the_meter():
    meter = CHAT.meter()
    data = b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    assert [delta.kind for delta in meter.feed(Event(raw=data, data=data))] == ["text"]
    assert meter.usage().tokens == Tokens(input=1, output=2)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b"\xff", b'{"choices": 3}', b'{"choices": [3, {"delta": 4}]}', b"[" * 9_999]
)
def test_what_cannot_be_read_counts_for_nothing(data):
    for dialect in DIALECTS.values():
        meter = dialect.meter()
        assert meter.feed(Event(raw=data, data=data)) == []
        assert meter.read(data) == []
        assert meter.usage() is None


def test_usage_that_makes_no_sense_is_none():
    meter = CHAT.meter()
    meter.feed(event(choices=[], usage={"prompt_tokens": -1, "completion_tokens": 2}))
    assert meter.usage() is None


def test_an_error_within_a_stream_of_status_200_is_told():
    meter = CHAT.meter()
    meter.feed(event(error={"message": "Token limit reached", "code": 400}))
    assert (meter.error.message, meter.error.code, meter.ended) == ("Token limit reached", "400", False)


def test_every_open_choice_is_ended_and_those_that_ended_are_not():
    meter = CHAT.meter()
    meter.feed(event(id="c", created=7, model="m", choices=[{"index": 0, "delta": {"content": "a"}}]))
    meter.feed(event(id="c", choices=[{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]))
    chunks = CHAT.ending(meter, include_usage=True, tokens=Tokens(input=3, output=2)).split(b"\n\n")
    first, usage, done, empty = chunks
    assert json.loads(first[6:]) == {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}],
    }
    assert json.loads(usage[6:])["usage"]["total_tokens"] == 5
    assert (done, empty) == (b"data: [DONE]", b"")


@pytest.mark.parametrize(
    ("fields", "choices", "prompts"),
    [
        ({"prompt": "a"}, 1, 1),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 5}, 5, 2),
        ({"prompt": [1, 2, 3]}, 1, 1),
        ({"prompt": [[1, 2], [3]]}, 1, 2),
        ({}, 1, 1),
    ],
)
def test_legacy_completions_are_billed_for_each_prompt_and_the_best_of_many(fields, choices, prompts):
    facts = LEGACY.read_request(json.dumps({"model": "m", "max_tokens": 9, **fields}).encode())
    assert (facts.choices, facts.prompts, facts.output_tokens_max) == (choices, prompts, 9)


def test_embeddings_have_no_output():
    body = b'{"model": "e", "input": ["a", "b"], "user": "u"}'
    facts = EMBEDDINGS.read_request(body)
    assert (facts.model, facts.prompts, facts.output_tokens_max, facts.user) == ("e", 2, 0, "u")
    assert EMBEDDINGS.patch_request(body, facts, output_tokens_max=0, append_note="x", force_usage=True) is body
    meter = EMBEDDINGS.meter()
    meter.read(
        b'{"data": [{"embedding": [0.1]}], "model": "e-1", '
        b'"usage": {"prompt_tokens": 4, "total_tokens": 4, "cost": 1.2e-8}}'
    )
    assert (meter.model, meter.usage().tokens, meter.usage().cost_nanousd) == ("e-1", Tokens(input=4), 12)
    assert EMBEDDINGS.ending(meter) == b""


@pytest.mark.parametrize(
    ("beside", "kind", "piece"),
    [
        ({"refusal": "no"}, "refusal", "no"),
        ({"reasoning_content": "hm"}, "reasoning", "hm"),
        ({"tool_calls": [{"function": {"arguments": "{}"}}]}, "tool", "{}"),
        ({"function_call": {"name": "f"}}, "tool", "f"),
        ({"images": [{"image_url": {"url": "data:x"}}]}, "image", "data:x"),
        ({"audio": {"transcript": "ah"}}, "audio", "ah"),
    ],
)
def test_what_stands_beside_a_text_is_read_as_well(beside, kind, piece):
    message = {"role": "assistant", "content": "Hi", **beside}
    found = [Delta(0, "text", "Hi"), Delta(0, kind, piece)]
    assert CHAT.meter().feed(event(choices=[{"index": 0, "delta": message}])) == found
    assert CHAT.meter().read(json.dumps({"choices": [{"index": 0, "message": message}]}).encode()) == found


def test_what_a_stream_says_of_itself_last_counts():
    meter = CHAT.meter()
    for said in (
        {"id": "1", "model": "a", "service_tier": "auto"},
        {},
        {"id": "2", "model": "b", "service_tier": "flex"},
    ):
        meter.feed(event(**said, choices=[{"index": 0, "delta": {"content": "x"}}]))
    assert (meter.response_id, meter.model, meter.service_tier) == ("2", "b", "flex")
    meter.feed(event(model=None, id=7, choices=[]))
    assert (meter.response_id, meter.model, meter.service_tier) == ("2", "b", "flex")
