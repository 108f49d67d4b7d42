"""Requests of each dialect: what is in them is counted, told apart, and never exceeds its bound."""

import base64
import doctest
import struct
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.contract.errors import Invalid
from fiscus.pricing import (
    Margins,
    count,
    count_body,
    count_tokens_with_tools,
    counting,
    definitions,
    estimate_tokens,
    total_tokens,
)
from fiscus.pricing.prompt import DIALECTS

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480)
IMAGE = base64.b64encode(PNG).decode()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Name of the city"}},
    "required": ["city"],
}
WEATHER = {"name": "weather", "description": "The weather in a city", "parameters": SCHEMA}


def chat(*messages, model="gpt-4o", **more):
    return count_body({"model": model, "messages": list(messages), **more}, "openai.chat")


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize("module", [counting, definitions])
def test_the_examples_hold(module):
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


def test_a_chat_of_texts_is_exact():
    """Three tokens for the answer's beginning, four around each message, one for a name."""
    counted = chat({"role": "system", "content": "hello"}, {**user("world"), "name": "bob"})
    assert (counted.tokens, counted.label) == (3 + 4 + 1 + 4 + 1 + 1 + 1, "exact")
    assert counted.upper_bound > counted.tokens


# covers N8
def test_tools_are_told_apart_inside_the_input():
    before = chat(user("hi"))
    offered = chat(user("hi"), tools=[{"type": "function", "function": WEATHER}])
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    answered = chat(
        user("hi"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "hello big world"},
        tools=[{"type": "function", "function": WEATHER}],
    )
    assert offered.tokens == before.tokens + offered.tool_definitions
    assert answered.tool_definitions == offered.tool_definitions > 20
    assert answered.tool_results == 3
    assert answered.tokens > offered.tokens + answered.tool_results
    assert before.label == "exact"
    assert offered.label == answered.label == "reconstructed"


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("openai.chat", {"messages": [user("hello world")], "tools": [{"type": "function", "function": WEATHER}]}),
        ("openai.chat", {"messages": [user("hello world")], "functions": [WEATHER]}),
        ("openai.responses", {"input": "hello world", "tools": [{"type": "function", **WEATHER}]}),
        (
            "openai.responses",
            {
                "input": [user([{"type": "input_text", "text": "hello world"}])],
                "tools": [{"type": "function", **WEATHER}],
            },
        ),
        (
            "anthropic.messages",
            {
                "messages": [user("hello world")],
                "tools": [{"name": "weather", "description": "The weather in a city", "input_schema": SCHEMA}],
            },
        ),
        (
            "gemini.generate",
            {"contents": [{"parts": [{"text": "hello world"}]}], "tools": [{"functionDeclarations": [WEATHER]}]},
        ),
        (
            "gemini.generate",
            {"contents": {"parts": {"text": "hello world"}}, "tools": [{"function_declarations": [WEATHER]}]},
        ),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash", "nobody-knows"])
def test_every_dialect_counts_text_and_definitions_for_every_model(dialect, body, model):
    counted = count_body(body, dialect, model=model)
    assert counted.tool_definitions > 15
    assert counted.tokens >= counted.tool_definitions + 2
    assert counted.unseen == ()


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (
            "openai.chat",
            {"messages": [user([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}])]},
        ),
        (
            "openai.responses",
            {"input": [user([{"type": "input_image", "image_url": f"data:image/png;base64,{IMAGE}"}])]},
        ),
        (
            "anthropic.messages",
            {
                "messages": [
                    user([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}])
                ]
            },
        ),
        (
            "anthropic.messages",
            {
                "messages": [
                    user(
                        [
                            {
                                "type": "tool_result",
                                "tool_use_id": "1",
                                "content": [{"type": "image", "source": {"type": "base64", "data": IMAGE}}],
                            }
                        ]
                    )
                ]
            },
        ),
        ("gemini.generate", {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": IMAGE}}]}]}),
        (
            "gemini.generate",
            {
                "contents": [
                    {
                        "parts": [
                            {
                                "functionResponse": {
                                    "name": "f",
                                    "response": {},
                                    "parts": [{"inlineData": {"mimeType": "image/png", "data": IMAGE}}],
                                }
                            }
                        ]
                    }
                ]
            },
        ),
    ],
)
def test_an_image_counts_by_its_size_wherever_it_stands(dialect, body):
    model = {"a": "claude-sonnet-4-5", "g": "gemini-2.5-flash", "o": "gpt-4o"}[dialect[0]]
    counted = count_body(body, dialect, model=model)
    assert counted.images == 1
    assert counted.media == {"a": 410, "g": 258, "o": 425}[dialect[0]]
    assert counted.unseen == ()


@pytest.mark.parametrize(
    ("dialect", "body", "unseen"),
    [
        ("openai.responses", {"input": "x", "previous_response_id": "resp_1"}, "earlier_context"),
        ("openai.responses", {"input": "x", "conversation": "conv_1"}, "earlier_context"),
        ("openai.responses", {"input": "x", "prompt": {"id": "pmpt_1"}}, "earlier_context"),
        ("openai.chat", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "earlier_context"),
        ("openai.responses", {"input": [{"type": "compaction", "encrypted_content": "x"}]}, "earlier_context"),
        ("openai.responses", {"input": [{"type": "item_reference", "id": "x"}]}, "earlier_context"),
        ("openai.responses", {"input": "x", "tools": [{"type": "web_search"}]}, "server_tools"),
        ("anthropic.messages", {"messages": [], "container": "container_1"}, "earlier_context"),
        ("anthropic.messages", {"messages": [user([{"type": "server_tool_use", "id": "1"}])]}, "server_tools"),
        ("openai.responses", {"input": [user([{"type": "input_file", "file_id": "file_1"}])]}, "files"),
        ("openai.chat", {"messages": [user("x")], "web_search_options": {}}, "server_tools"),
        (
            "anthropic.messages",
            {"messages": [user("x")], "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "server_tools",
        ),
        ("anthropic.messages", {"messages": [user("x")], "mcp_servers": [{"url": "u"}]}, "server_tools"),
        (
            "anthropic.messages",
            {"messages": [user([{"type": "image", "source": {"type": "url", "url": "u"}}])]},
            "files",
        ),
        ("gemini.generate", {"contents": [], "cachedContent": "cachedContents/1"}, "earlier_context"),
        (
            "gemini.generate",
            {"contents": [{"parts": [{"fileData": {"fileUri": "u", "mimeType": "video/mp4"}}]}]},
            "files",
        ),
        ("gemini.generate", {"contents": [], "tools": [{"googleSearch": {}}]}, "server_tools"),
    ],
)
def test_what_will_be_billed_and_is_not_in_the_request_is_named(dialect, body, unseen):
    assert unseen in count_body(body, dialect, model="gpt-4o").unseen


def test_a_shape_that_nobody_knows_counts_by_its_bytes():
    unknown = {"type": "hologram", "data": "x" * 1_000}
    for dialect, body in [
        ("openai.chat", {"messages": [user([unknown])]}),
        ("openai.chat", {"messages": [{**user("a"), "aura": unknown}]}),
        ("openai.chat", {"messages": [], "documents": [unknown]}),
        ("openai.responses", {"input": [user([unknown])]}),
        ("gemini.generate", {"contents": [{"parts": [{"hologram": unknown}]}]}),
    ]:
        counted = count_body(body, dialect, model="gpt-4o")
        assert counted.tokens >= 1_000
        assert counted.label == "estimated"


def test_text_beyond_the_limit_counts_by_its_bytes():
    text = "word " * 1_000
    whole = chat(user(text))
    cut = count_body({"model": "gpt-4o", "messages": [user(text)]}, "openai.chat", characters_max=1_000)
    assert cut.label == "estimated"
    assert cut.tokens == pytest.approx(whole.tokens - 800 + 4_000, abs=2)
    assert cut.upper_bound > whole.upper_bound


def test_a_megabyte_is_counted_within_a_second():
    messages = [user("The quick brown fox, número 42, jumps.\n" * 250) for _ in range(100)]
    chat(user("warm"))
    begin = time.perf_counter()
    assert chat(*messages).tokens > 200_000
    assert time.perf_counter() - begin < 1


def test_references_in_a_schema_that_multiply_without_end_are_cut():
    """Ten kinds, each with ten members of the next and of itself: written out they would be billions."""
    kinds = {
        f"k{n}": {"type": "object", "properties": {f"p{m}": {"$ref": f"#/$defs/k{(n + m) % 10}"} for m in range(10)}}
        for n in range(10)
    }
    tool = {"name": "f", "parameters": {"type": "object", "$defs": kinds, "properties": {"a": {"$ref": "#/$defs/k0"}}}}
    for model in ("gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro"):
        begin = time.perf_counter()
        counted = chat(user("x"), model=model, tools=[{"type": "function", "function": tool}])
        assert 100 < counted.tool_definitions < 100_000
        assert time.perf_counter() - begin < 5


def test_thousands_of_tools_are_counted():
    tools = [{"type": "function", "function": {**WEATHER, "name": f"weather_{n}"}} for n in range(3_000)]
    assert chat(user("x"), tools=tools).tool_definitions > 60_000


@pytest.mark.parametrize("dialect", ["openai.completions", "openai.embeddings"])
def test_completions_and_embeddings_take_texts_or_tokens(dialect):
    field = "prompt" if dialect == "openai.completions" else "input"
    for one, tokens in [("hello world", 2), (["hello", "world"], 2), ([1, 2, 3], 3), ([[1, 2], [3]], 3)]:
        assert count_body({"model": "text-embedding-3-small", field: one}, dialect).tokens == tokens


def test_messages_are_counted_alike_by_either_way():
    body = {"model": "claude-sonnet-4-5", "system": "Be brief.", "messages": [user("hi")], "tools": []}
    assert count("claude-sonnet-4-5", [user("hi")], system="Be brief.", dialect="anthropic.messages") == count_body(
        body, "anthropic.messages"
    )


@pytest.mark.parametrize(
    ("body", "dialect", "field"),
    [({"model": "gpt-4o"}, "morse", "dialect"), ({}, "openai.chat", "model"), ({"model": 7}, "openai.chat", "model")],
)
def test_bad_input_is_refused_by_the_name_of_its_field(body, dialect, field):
    with pytest.raises(Invalid) as raised:
        count_body(body, dialect)
    assert raised.value.refused.field == field


def test_a_learned_margin_widens_the_bound():
    margins, body = Margins(), {"model": "claude-sonnet-4-5", "messages": [user("word " * 1_000)]}
    before = count_body(body, "anthropic.messages", provider="anthropic", margins=margins)
    margins.learn("anthropic", before.family, before.label, counted=before.tokens, billed=before.tokens * 2)
    after = count_body(body, "anthropic.messages", provider="anthropic", margins=margins)
    assert after.tokens == before.tokens
    assert after.upper_bound >= before.tokens * 2 > before.upper_bound


# covers N6, N8
def test_the_tool_aware_count_has_its_parts_inside_the_whole():
    """Known fault 2 of the tool-aware tracker: definitions were counted twice."""
    request = {
        "model": "claude-sonnet-4-5",
        "messages": [user("hi"), user([{"type": "tool_result", "tool_use_id": "1", "content": "warm " * 50}])],
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
    }
    counted = count_tokens_with_tools(request)
    assert counted["toolDefinitionsTokens"] > 300
    assert counted["estimatedToolResultsTokens"] >= 50
    assert counted["inputTokens"] >= counted["toolDefinitionsTokens"] + counted["estimatedToolResultsTokens"]


# covers N7, N8, N9
def test_without_a_model_the_tool_aware_count_is_the_old_estimate():
    """200 and 300, and a token for four characters, only where nothing can be counted."""
    request = {
        "system": "x" * 9,
        "messages": [user("y" * 8), user([{"type": "tool_result", "tool_use_id": "1", "content": "z" * 4_000}])],
        "tools": [{"name": "a"}, {"name": "b"}],
    }
    counted = count_tokens_with_tools(request)
    assert counted == {
        "inputTokens": 3 + 2 + 400 + 300,
        "toolDefinitionsTokens": 400,
        "estimatedToolResultsTokens": 300,
    }
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


# covers N3
def test_tools_are_added_only_to_an_input_that_excludes_them():
    parts = {"input": 1_000, "output": 100, "tool_definitions": 200, "tool_results": 300}
    assert total_tokens(**parts) == 1_100
    assert total_tokens(**parts, input_excludes_tools=True) == 1_600


# covers N10
def test_thoughts_of_earlier_turns_do_not_count_and_those_of_this_turn_do():
    thought = {"type": "thinking", "thinking": "word " * 500, "signature": "x"}
    used = {"role": "assistant", "content": [thought, {"type": "tool_use", "id": "1", "name": "f", "input": {}}]}
    result = user([{"type": "tool_result", "tool_use_id": "1", "content": "ok"}])

    def counted(*messages):
        return count_body({"messages": list(messages)}, "anthropic.messages", model="claude-sonnet-4-5")

    within, after = counted(user("a"), used, result), counted(user("a"), used, result, user("b"))
    assert within.tokens > 500 > after.tokens
    assert after.upper_bound > 500, "some models keep them"


scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=20)
KEYS = (
    "messages input contents system systemInstruction instructions tools functions role content parts "
    "text type tool_calls function name arguments parameters properties input_schema source data "
    "image_url url inlineData functionCall response functionResponse functionDeclarations tool_choice "
    "response_format json_schema thinking prompt items anyOf $ref $defs "
)
keys = st.sampled_from(KEYS.split())
KINDS = "text image tool_use tool_result document input_text input_image function message object array "
kinds = st.sampled_from(KINDS.split())
values = st.recursive(
    scalars | kinds, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)


@settings(max_examples=300)
@given(
    st.dictionaries(keys, values, max_size=6),
    st.sampled_from(DIALECTS),
    st.sampled_from(["gpt-4o", "claude-3-opus", "gemini-2.0-flash"]),
)
def test_whatever_a_body_holds_it_is_counted_and_within_its_bound(body, dialect, model):
    counted = count_body(body, dialect, model=model)
    assert 0 <= counted.tool_definitions + counted.tool_results + counted.media <= counted.tokens <= counted.upper_bound
    assert msgspec.json.encode(counted)
    count_tokens_with_tools(body)


def test_content_that_is_nested_without_end_is_counted():
    content = "deep"
    for _ in range(200):
        content = [{"type": "tool_result", "content": content}]
    assert count_body({"messages": [user(content)]}, "anthropic.messages", model="claude-3-haiku").tokens > 1


@pytest.mark.parametrize("kind", [None, 7, {}])
def test_an_item_whose_kind_is_no_text_is_counted(kind):
    body = {"model": "gpt-5", "input": [{"type": kind, "role": "user", "content": "hello world"}]}
    assert count_body(body, "openai.responses").tokens > 0
