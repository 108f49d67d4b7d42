"""OpenAI's responses: requests, answers, and endings of everything that can be open."""

import json

import pytest

from fiscus.core.records import Tokens
from fiscus.dialects import DIALECTS, Delta, Event, Malformed

RESPONSES = DIALECTS["openai.responses"]
HI = {"type": "input_text", "text": "Hi"}


def body_of(**fields):
    return json.dumps({"model": "gpt-5", "input": "Hi", **fields}).encode()


def fed(*events):
    meter = RESPONSES.meter()
    for number, given in enumerate(events):
        data = json.dumps({"sequence_number": number, **given}).encode()
        meter.feed(Event(raw=data, data=data))
    return meter


def added(index, **item):
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def part_event(name, index, item_id, **fields):
    return {"type": f"response.{name}", "output_index": index, "item_id": item_id, **fields}


def ended(meter, **named):
    text = RESPONSES.ending(meter, **named).decode()
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]


CREATED = {
    "type": "response.created",
    "response": {"id": "resp_1", "model": "gpt-5", "status": "in_progress", "output": [], "temperature": 1.0},
}


def test_what_decides_the_cost_is_read():
    facts = RESPONSES.read_request(
        body_of(
            stream=True,
            max_output_tokens=500,
            tools=[
                {"type": "function", "name": "f"},
                {"type": "web_search"},
                {"type": "mcp", "server_label": "s"},
                {"type": "computer_use_preview"},
                {"type": "web_search"},
            ],
            previous_response_id="resp_0",
            conversation={"id": "conv"},
            prompt=None,
            background=True,
            store=False,
            service_tier="priority",
            metadata={"a": "b"},
        )
    )
    assert (facts.model, facts.stream, facts.output_tokens_max, facts.output_tokens_least) == ("gpt-5", True, 500, 16)
    assert (facts.tools, facts.tool_names) == (1, ("f",))
    assert facts.server_tools == ("web_search", "mcp")
    assert facts.builtin_tools == ("computer_use_preview",)
    assert facts.input_unknown == ("previous_response_id", "conversation")
    assert (facts.background, facts.store, facts.service_tier, facts.metadata) == (True, False, "priority", {"a": "b"})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (body_of(max_output_tokens="x"), "max_output_tokens"),
        (b'{"conversation": "a", "conversation": "b"}', "conversation"),
    ],
)
def test_a_wrong_request_names_its_field(body, field):
    assert RESPONSES.read_request(body).field == field
    assert isinstance(RESPONSES.read_request(body), Malformed)


@pytest.mark.parametrize(
    ("given", "last"),
    [
        ("Hi", "Hi\n\nWarning"),
        ([{"role": "user", "content": "Hi"}], {"role": "user", "content": "Hi\n\nWarning"}),
        (
            [{"role": "user", "content": [HI]}],
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "Warning"}],
            },
        ),
        (
            [{"type": "function_call_output", "call_id": "c", "output": "7"}],
            {"type": "message", "role": "user", "content": "Warning"},
        ),
        ([{"role": "assistant", "content": "So"}], {"role": "assistant", "content": "So"}),
        ([], []),
        (None, None),
    ],
)
def test_a_note_goes_to_the_end(given, last):
    body = body_of(input=given)
    edited = json.loads(RESPONSES.patch_request(body, RESPONSES.read_request(body), append_note="Warning"))["input"]
    assert (edited[-1] if isinstance(edited, list) and edited else edited) == last


def test_a_message_that_is_cut_is_ended_with_the_text_so_far():
    meter = fed(
        CREATED,
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "message", "id": "m", "role": "assistant", "content": []},
        },
        {
            "type": "response.content_part.added",
            "output_index": 0,
            "item_id": "m",
            "content_index": 0,
            "part": {"type": "output_text", "text": ""},
        },
        part_event("output_text.delta", 0, "m", content_index=0, delta="Hel"),
        part_event("output_text.delta", 0, "m", content_index=0, delta="lo"),
    )
    events = ended(meter, tokens=Tokens(input=9, output=2))
    assert [one["type"] for one in events] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [one["sequence_number"] for one in events] == [5, 6, 7, 8]
    assert events[0]["text"] == "Hello"
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    assert events[2]["item"] == {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "content": [part],
        "status": "incomplete",
    }
    response = events[3]["response"]
    assert response["temperature"] == 1.0, "what the response says of itself stays as it was"
    assert (response["id"], response["status"]) == ("resp_1", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"] == [events[2]["item"]]
    assert response["usage"]["total_tokens"] == 11


def test_a_function_that_is_cut_is_not_called_done():
    meter = fed(
        CREATED,
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "function_call", "id": "f", "name": "g", "arguments": ""},
        },
        {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "f", "delta": '{"a'},
    )
    events = ended(meter)
    assert [one["type"] for one in events] == ["response.output_item.done", "response.incomplete"]
    assert (events[0]["item"]["arguments"], events[0]["item"]["status"]) == ('{"a', "incomplete")
    assert events[1]["response"]["usage"] is None
    assert {key: one.characters for key, one in meter.produced.items()} == {(0, "tool"): 4}


def test_reasoning_that_is_cut_is_ended_and_what_was_done_stays_as_it_was():
    done = {"type": "web_search_call", "id": "w", "status": "completed"}
    meter = fed(
        CREATED,
        added(0, type="web_search_call", id="w"),
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {
            "type": "response.output_item.added",
            "output_index": 1,
            "item": {"type": "reasoning", "id": "r", "summary": []},
        },
        {
            "type": "response.reasoning_summary_part.added",
            "output_index": 1,
            "item_id": "r",
            "summary_index": 0,
            "part": {"type": "summary_text", "text": ""},
        },
        {
            "type": "response.reasoning_summary_text.delta",
            "output_index": 1,
            "item_id": "r",
            "summary_index": 0,
            "delta": "so",
        },
    )
    events = ended(meter)
    assert [one["type"] for one in events] == [
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert events[-1]["response"]["output"][0] == done
    assert events[-1]["response"]["output"][1]["summary"] == [{"type": "summary_text", "text": "so"}]


@pytest.mark.parametrize("name", ["response.completed", "response.incomplete", "response.failed"])
def test_the_end_tells_usage_tier_and_tools(name):
    meter = fed(
        CREATED,
        {"type": "response.output_item.done", "output_index": 0, "item": {"type": "web_search_call"}},
        {
            "type": name,
            "response": {
                "id": "resp_1",
                "model": "gpt-5-2026",
                "status": name.removeprefix("response."),
                "service_tier": "flex",
                "incomplete_details": {"reason": "content_filter"} if name == "response.incomplete" else None,
                "error": {"code": "server_error", "message": "broke"} if name == "response.failed" else None,
                "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
                "tool_usage": {"web_search": {"num_requests": 3}},
            },
        },
    )
    usage = meter.usage()
    assert (meter.ended, meter.model, usage.final) == (True, "gpt-5-2026", True)
    assert (usage.tokens, usage.service_tier, usage.server_tools) == (
        Tokens(input=5, output=6),
        "flex",
        {"web_search": 3},
    )
    expected = {"response.completed": "completed", "response.incomplete": "content_filter", "response.failed": "failed"}
    assert meter.finish_reasons == {0: expected[name]}
    assert (meter.error is not None) == (name == "response.failed")
    assert ended(meter) == []


def test_a_whole_answer_is_read():
    meter = RESPONSES.meter()
    deltas = meter.read(
        json.dumps(
            {
                "id": "r",
                "status": "completed",
                "output": [
                    {"type": "reasoning", "summary": [{"text": "hm"}], "encrypted_content": "xyz"},
                    {"type": "function_call", "name": "f", "arguments": "{}"},
                    {"type": "file_search_call"},
                    {
                        "type": "message",
                        "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
                    },
                ],
                "usage": {"input_tokens": 1, "output_tokens": 2},
            }
        ).encode()
    )
    assert deltas == [
        Delta(0, "opaque", "xyz"),
        Delta(0, "reasoning", "hm"),
        Delta(0, "tool", "f"),
        Delta(0, "tool", "{}"),
        Delta(0, "text", "a"),
        Delta(0, "refusal", "b"),
    ]
    assert meter.usage().server_tools == {"file_search": 1}
    assert meter.ended


def search(action=None, **more):
    return {"type": "web_search_call", "id": "w", "status": "completed", "action": action, **more}


SEARCHES = {
    "an item, told as one": ([search({"type": "search", "query": "q"})], 1, 1),
    "an item, told as two": ([search({"type": "search", "queries": ["q", "r"]})], 2, 2),
    "three items, told as one": ([search({"type": "search"})] * 3, 1, 1),
    "two items, not told": ([search({"type": "search"}), search()], None, 2),
    "an item, told as none": ([search({"type": "search"})], 0, 1),
    "looking on": (
        [search({"type": "search"}), *(search({"type": one}) for one in ("open_page", "find", "find_in_page"))],
        None,
        1,
    ),
    "only looking on": ([search({"type": "open_page"})], None, 0),
    "actions of wrong types": ([search(5), search({"type": 5}), search([])], None, 3),
}


@pytest.mark.parametrize(("items", "told", "searches"), SEARCHES.values(), ids=SEARCHES)
def test_searches_are_counted_once_streamed_or_not(items, told, searches):
    answer = {"id": "r", "status": "completed", "output": items, "usage": {"input_tokens": 1, "output_tokens": 2}}
    if told is not None:
        answer["tool_usage"] = {"web_search": {"num_requests": told}}
    whole = RESPONSES.meter()
    whole.read(json.dumps(answer).encode())
    done = [{"type": "response.output_item.done", "output_index": at, "item": item} for at, item in enumerate(items)]
    begun = {
        "type": "response.created",
        "response": {"id": "r", "status": "in_progress", "tool_usage": {"web_search": {"num_requests": 0}}},
    }
    streamed = fed(begun, *done, {"type": "response.completed", "response": answer})
    for meter in (whole, streamed):
        assert meter.usage().server_tools == ({"web_search": searches} if searches else {})


def test_an_error_event_is_told():
    assert fed({"type": "error", "code": "rate_limit_exceeded", "message": "slow"}).error.code == "rate_limit_exceeded"


def test_what_has_not_begun_is_begun_and_ended():
    assert [one["type"] for one in ended(RESPONSES.meter())] == ["response.created", "response.incomplete"]
