"""Anthropic's messages."""

import json

import pytest

from fiscus.core.records import Tokens
from fiscus.dialects import DIALECTS, Delta, Event

MESSAGES, COUNT = DIALECTS["anthropic.messages"], DIALECTS["anthropic.count_tokens"]


def body_of(**fields):
    return json.dumps(
        {"model": "claude", "max_tokens": 4_000, "messages": [{"role": "user", "content": "Hi"}], **fields}
    ).encode()


def fed(*events):
    meter = MESSAGES.meter()
    for given in events:
        data = json.dumps(given).encode()
        meter.feed(Event(raw=data, data=data, name=given["type"]))
    return meter


def ended(meter, **named):
    text = MESSAGES.ending(meter, **named).decode()
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "model": "claude-1",
        "usage": {
            "input_tokens": 2_479,
            "cache_creation_input_tokens": 10,
            "cache_creation": {"ephemeral_1h_input_tokens": 4, "ephemeral_5m_input_tokens": 6},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}


def test_what_decides_the_cost_is_read():
    facts = MESSAGES.read_request(
        body_of(
            stream=True,
            thinking={"type": "enabled", "budget_tokens": 2_000},
            tools=[
                {"name": "f", "input_schema": {}},
                {"type": "custom", "name": "g"},
                {"type": "web_search_20250305", "name": "web_search"},
                {"type": "bash_20250124", "name": "bash"},
                {"type": "computer_20250124", "name": "computer"},
            ],
            mcp_servers=[{"type": "url", "name": "s"}],
            container="c",
            service_tier="auto",
            metadata={"user_id": "u"},
        )
    )
    assert (facts.model, facts.stream, facts.output_tokens_max) == ("claude", True, 4_000)
    assert (facts.thinking_tokens_max, facts.output_tokens_least) == (2_000, 1_025)
    assert facts.tool_names == ("f", "g")
    assert facts.server_tools == ("mcp", "web_search_20250305")
    assert facts.builtin_tools == ("bash_20250124", "computer_20250124")
    assert (facts.input_unknown, facts.service_tier, facts.user) == (("container",), "auto", "u")
    assert MESSAGES.read_request(body_of(speed="fast")).service_tier == "fast"
    assert MESSAGES.read_request(body_of(thinking={"type": "adaptive"})).thinking_tokens_max == -1
    assert MESSAGES.read_request(body_of(thinking={"type": "disabled"})).thinking_tokens_max is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": "1"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": []}}, "thinking.budget_tokens"),
        ({"tools": [3]}, "tools[0]"),
    ],
)
def test_a_wrong_request_names_its_field(fields, field):
    assert MESSAGES.read_request(body_of(**fields)).field == field


@pytest.mark.parametrize(("most", "budget"), [(2_000, 1_024), (3_000, 1_500), (1_025, 1_024)])
def test_a_budget_of_thinking_stays_below_the_bound(most, budget):
    body = body_of(thinking={"type": "enabled", "budget_tokens": 2_000})
    edited = json.loads(MESSAGES.patch_request(body, MESSAGES.read_request(body), output_tokens_max=most))
    assert (edited["max_tokens"], edited["thinking"]["budget_tokens"]) == (most, budget)


@pytest.mark.parametrize(
    ("message", "last"),
    [
        ({"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi\n\nWarning"}),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "7"}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "7"},
                    {"type": "text", "text": "Warning"},
                ],
            },
        ),
        ({"role": "assistant", "content": "{"}, {"role": "assistant", "content": "{"}),
    ],
)
def test_a_note_goes_to_the_end_after_results_of_tools(message, last):
    body = body_of(messages=[{"role": "user", "content": "a"}, message])
    edited = MESSAGES.patch_request(body, MESSAGES.read_request(body), append_note="Warning")
    assert json.loads(edited)["messages"][-1] == last


def test_usage_is_told_twice_and_never_added():
    meter = fed(START)
    first = meter.usage()
    assert (first.tokens, first.final) == (Tokens(input=2_489, output=1, cache_write_5m=6, cache_write_1h=4), False)
    meter = fed(
        START,
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {
                "input_tokens": 404_500,
                "cache_creation_input_tokens": None,
                "cache_creation": None,
                "output_tokens": 341,
                "server_tool_use": {"web_search_requests": 1},
            },
        },
        {"type": "message_stop"},
    )
    usage = meter.usage()
    assert usage.tokens == Tokens(input=404_510, output=341, cache_write_5m=6, cache_write_1h=4)
    assert (usage.final, usage.service_tier, usage.server_tools) == (True, "standard", {"web_search": 1})
    assert (meter.response_id, meter.model, meter.ended) == ("msg_1", "claude-1", True)
    assert ended(meter) == []


def test_what_was_written_before_the_input_is_known_says_that_it_is_missing():
    meter = fed({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}})
    assert (meter.usage().tokens, meter.usage().missing) == (Tokens(output=7), ("input",))


@pytest.mark.parametrize(
    ("block", "delta", "kind"),
    [
        ({"type": "text", "text": ""}, {"type": "text_delta", "text": "abc"}, "text"),
        ({"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "abc"}, "reasoning"),
        ({"type": "thinking", "thinking": ""}, {"type": "signature_delta", "signature": "abc"}, "opaque"),
        ({"type": "tool_use", "id": "t", "input": {}}, {"type": "input_json_delta", "partial_json": "abc"}, "tool"),
    ],
)
def test_a_block_that_is_open_is_ended_with_the_message(block, delta, kind):
    meter = fed(
        START,
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": block},
        {"type": "content_block_delta", "index": 1, "delta": delta},
    )
    assert {key: one.characters for key, one in meter.produced.items()} == {(0, kind): 3}
    assert ended(meter, tokens=Tokens(input=2_489, output=12)) == [
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": 12},
        },
        {"type": "message_stop"},
    ]
    assert ended(meter)[1]["usage"] == {"output_tokens": 1}


def test_results_of_the_providers_tools_are_not_output():
    meter = fed(
        START,
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "web_search_tool_result", "content": [{"title": "long"}]},
        },
    )
    assert meter.produced == {}


def test_a_whole_answer_is_read():
    meter = MESSAGES.meter()
    deltas = meter.read(
        json.dumps(
            {
                "id": "m",
                "type": "message",
                "stop_reason": "tool_use",
                "content": [{"type": "text", "text": "a"}, {"type": "tool_use", "name": "f", "input": {"b": 1}}],
                "usage": {"input_tokens": 1, "output_tokens": 2},
            }
        ).encode()
    )
    assert deltas == [Delta(0, "text", "a"), Delta(0, "tool", "f"), Delta(0, "tool", '{"b":1}')]
    assert (meter.ended, meter.finish_reasons, meter.usage().tokens) == (
        True,
        {0: "tool_use"},
        Tokens(input=1, output=2),
    )


def test_an_error_is_told_within_a_stream_and_as_an_answer():
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    whole = MESSAGES.meter()
    whole.read(json.dumps(error).encode())
    for meter in (fed(START, error), whole):
        assert (meter.error.code, meter.error.message, meter.ended) == ("overloaded_error", "Overloaded", False)


def test_counting_produces_nothing_and_nothing_but_the_model_is_edited():
    body = b'{"model": "claude", "messages": [{"role": "user", "content": "Hi"}]}'
    facts = COUNT.read_request(body)
    assert (facts.output_tokens_max, facts.stream, COUNT.metered) == (0, False, False)
    assert COUNT.patch_request(body, facts, output_tokens_max=0, append_note="x") is body
    assert json.loads(COUNT.patch_request(body, facts, model="m"))["model"] == "m"
    meter = COUNT.meter()
    meter.read(b'{"input_tokens": 12}')
    assert meter.usage() is None
    assert COUNT.read_request(b"[]").field is None
