"""Gemini's generateContent and streamGenerateContent."""

import json

import pytest

from fiscus.core.records import Tokens
from fiscus.dialects import DIALECTS, Delta, Event

GEMINI = DIALECTS["gemini.generate"]


def body_of(**fields):
    return json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], **fields}).encode()


def fed(*chunks):
    meter = GEMINI.meter("text/event-stream")
    for chunk in chunks:
        data = json.dumps(chunk).encode()
        meter.feed(Event(raw=data, data=data))
    return meter


def usage(prompt, candidates=None, thoughts=None, total=None):
    named = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": total,
    }
    return {"usageMetadata": {name: count for name, count in named.items() if count is not None}}


@pytest.mark.parametrize(
    "config",
    [
        {"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2, "thinkingConfig": {"thinkingBudget": -1}}},
        {
            "generation_config": {
                "max_output_tokens": 9,
                "candidate_count": 2,
                "thinking_config": {"thinking_budget": -1},
            }
        },
        {"generation_config": {"maxOutputTokens": 9, "candidate_count": 2, "thinkingConfig": {"thinking_budget": -1}}},
    ],
)
def test_what_decides_the_cost_is_read_in_either_spelling(config):
    facts = GEMINI.read_request(
        body_of(
            **config,
            tools=[
                {"functionDeclarations": [{"name": "f"}, {"name": "g"}], "googleSearch": {}},
                {"urlContext": {}},
                {"computerUse": {"environment": "x"}},
            ],
            cachedContent="cachedContents/1",
            labels={"team": "a"},
            serviceTier="flex",
        ),
        "gemini-3",
        stream=True,
    )
    assert (facts.model, facts.stream, facts.output_tokens_max, facts.choices) == ("gemini-3", True, 9, 2)
    assert facts.thinking_tokens_max == -1
    assert (facts.tools, facts.tool_names) == (2, ("f", "g"))
    assert (facts.server_tools, facts.builtin_tools) == (("googleSearch", "urlContext"), ("computerUse",))
    assert (facts.input_unknown, facts.metadata, facts.service_tier) == (("cachedContent",), {"team": "a"}, "flex")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"generationConfig": {"maxOutputTokens": "9"}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"maxOutputTokens": -9}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 0}}, "generationConfig.candidateCount"),
        ({"generationConfig": {}, "generation_config": {}}, "generation_config"),
        ({"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}}, "max_output_tokens"),
        ({"tools": {}}, "tools"),
    ],
)
def test_a_wrong_request_names_its_field(fields, field):
    assert GEMINI.read_request(body_of(**fields), "m").field == field


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"generationConfig": {"maxOutputTokens": 5}}),
        ({"generationConfig": None}, {"generationConfig": {"maxOutputTokens": 5}}),
        ({"generationConfig": {}}, {"generationConfig": {"maxOutputTokens": 5}}),
        (
            {"generationConfig": {"maxOutputTokens": 9, "topK": 1}},
            {"generationConfig": {"maxOutputTokens": 5, "topK": 1}},
        ),
        ({"generation_config": {"topK": 1}}, {"generation_config": {"topK": 1, "max_output_tokens": 5}}),
        ({"generation_config": {"maxOutputTokens": 8}}, {"generation_config": {"maxOutputTokens": 5}}),
        ({"generationConfig": {"maxOutputTokens": 3}}, {"generationConfig": {"maxOutputTokens": 3}}),
    ],
)
def test_a_bound_is_only_lowered_where_it_stands(given, expected):
    body = body_of(**given)
    edited = GEMINI.patch_request(body, GEMINI.read_request(body, "m"), output_tokens_max=5)
    assert json.loads(edited) == {**json.loads(body), **expected}


@pytest.mark.parametrize(
    ("turn", "last"),
    [
        ({"role": "user", "parts": [{"text": "a"}]}, {"role": "user", "parts": [{"text": "a"}, {"text": "Warning"}]}),
        ({"parts": [{"text": "a"}]}, {"parts": [{"text": "a"}, {"text": "Warning"}]}),
        (
            {"role": "user", "parts": [{"functionResponse": {"name": "f"}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f"}}, {"text": "Warning"}]},
        ),
        ({"role": "function", "parts": []}, {"role": "user", "parts": [{"text": "Warning"}]}),
        ({"role": "model", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "a"}]}),
    ],
)
def test_a_note_goes_to_the_end(turn, last):
    body = body_of(contents=[{"role": "user", "parts": [{"text": "x"}]}, turn])
    edited = GEMINI.patch_request(body, GEMINI.read_request(body, "m"), append_note="Warning")
    assert json.loads(edited)["contents"][-1] == last


@pytest.mark.parametrize(
    ("told", "tokens"),
    [
        ([usage(165, total=165), usage(163, 13, total=176)], Tokens(input=163, output=13)),
        ([usage(46, 51, 101, 198), usage(46, total=46)], Tokens(input=46, output=152, reasoning=101)),
        (
            [usage(16, 7, 552, 575), usage(16, 54, 552, 622), usage(16, 54, 552, 622)],
            Tokens(input=16, output=606, reasoning=552),
        ),
        ([{"usageMetadata": {"trafficType": "ON_DEMAND"}}, usage(9, 2, total=11)], Tokens(input=9, output=2)),
        ([usage(9, 2, total=11), usage("x")], Tokens(input=9, output=2)),
    ],
)
def test_of_cumulative_usages_that_fall_the_largest_counts(told, tokens):
    assert fed(*told).usage().tokens == tokens


def test_usage_that_counts_nothing_is_none():
    assert fed({"usageMetadata": {"trafficType": "ON_DEMAND"}}).usage() is None
    assert fed({"usageMetadata": {"totalTokenCount": 1_090}}).usage() is None


def test_each_kind_of_output_is_counted():
    meter = fed(
        {
            "candidates": [
                {
                    "content": {
                        "parts": [
                            {"text": "hm", "thought": True},
                            {"text": "abc", "thoughtSignature": "sig"},
                            {"functionCall": {"name": "f", "args": {}}},
                            {"executableCode": {"code": "1+1"}},
                            {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
                            {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "QUI="}},
                        ]
                    }
                }
            ]
        }
    )
    assert {key: one.characters for key, one in meter.produced.items()} == {
        (0, "reasoning"): 2,
        (0, "text"): 3,
        (0, "image"): 4,
        (0, "opaque"): 7,
        (0, "tool"): 25,
    }


def test_a_whole_answer_is_read_and_one_in_pieces_too():
    chunk = {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}], **usage(1, 2, total=3)}
    for body in (chunk, [chunk]):
        meter = GEMINI.meter("application/json")
        assert meter.read(json.dumps(body).encode()) == [Delta(0, "text", "a")]
        assert (meter.ended, meter.usage().tokens, meter.usage().final) == (True, Tokens(input=1, output=2), True)


def test_a_prompt_that_was_blocked_has_ended():
    meter = fed({"promptFeedback": {"blockReason": "SAFETY"}, **usage(9, total=9)})
    assert (meter.ended, meter.finish_reasons) == (True, {0: "SAFETY"})


def test_each_open_candidate_is_ended():
    meter = fed(
        {
            "candidates": [
                {"index": 0, "content": {"parts": [{"text": "a"}]}},
                {"index": 1, "content": {"parts": [{"text": "b"}]}, "finishReason": "STOP"},
            ],
            "modelVersion": "m",
            "responseId": "r",
        }
    )
    last = json.loads(GEMINI.ending(meter, tokens=Tokens(input=5, output=3, reasoning=1))[6:])
    assert [(one["index"], one["finishReason"]) for one in last["candidates"]] == [(0, "MAX_TOKENS")]
    assert (last["modelVersion"], last["responseId"]) == ("m", "r")
    assert last["usageMetadata"]["totalTokenCount"] == 8


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=UTF-8"])
def test_an_array_that_has_not_begun_is_begun_and_ended(content_type):
    meter = GEMINI.meter(content_type)
    assert json.loads(GEMINI.ending(meter))[0]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    whole = b'[{"candidates": [{"finishReason": "STOP"}]}]'
    for event in GEMINI.events(content_type).feed(whole):
        meter.feed(event)
    assert (meter.closed, GEMINI.ending(meter)) == (True, b"")


QUERIES = {"webSearchQueries": ["who won", "when"]}
FOUND = {"groundingChunks": [{"web": {"uri": "https://a"}}, {"web": {"uri": "https://b"}}]}
GROUNDED = {
    "of an older model, once": ("gemini-2.5-flash", [QUERIES], 1),
    "of an older model, by its path": ("models/gemini-2.0-flash-001", [QUERIES, FOUND], 1),
    "of a newer model, each": ("gemini-3-pro-preview", [QUERIES], 2),
    "told in two chunks": ("gemini-3-pro-preview", [QUERIES, {**QUERIES, **FOUND}], 2),
    "told in parts": (
        "gemini-3.5-flash",
        [QUERIES, {"webSearchQueries": ["where"]}, {"imageSearchQueries": ["cat"]}],
        4,
    ),
    "of nobody knows which model": ("", [QUERIES], 2),
    "of another family": ("gemini-20-pro", [QUERIES], 2),
    "by what was found": ("gemini-3-pro-preview", [FOUND], 1),
    "on a map": ("gemini-2.5-flash", [{"groundingChunks": [{"maps": {"placeId": "p"}}]}], 1),
    "by documents of the caller": ("gemini-2.5-flash", [{"groundingChunks": [{"retrievedContext": {}}]}], 0),
    "by nothing": ("gemini-2.5-flash", [{}, {"webSearchQueries": []}, {"webSearchQueries": [""]}], 0),
    "of wrong types": ("gemini-2.5-flash", [5, {"webSearchQueries": 5, "groundingChunks": [5, "web"]}], 0),
}


@pytest.mark.parametrize(("model", "told", "searches"), GROUNDED.values(), ids=GROUNDED)
def test_searches_are_counted_as_they_are_billed(model, told, searches):
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 2}
    chunks = [
        {"candidates": [{"index": 0, "groundingMetadata": one}], "modelVersion": model, "usageMetadata": usage}
        for one in told
    ]
    streamed, whole = GEMINI.meter("text/event-stream"), GEMINI.meter("application/json")
    for chunk in chunks:
        data = json.dumps(chunk).encode()
        streamed.feed(Event(raw=data, data=data))
    whole.read(json.dumps(chunks).encode())
    for meter in (streamed, whole):
        assert meter.usage().server_tools == ({"google_search": searches} if searches else {})
        assert meter.usage().tokens == Tokens(input=3, output=2)


def test_enumerations_may_come_as_numbers():
    """As clients of Vertex ask for them: what they say of modalities, traffic and an end is read all the same."""
    details = [{"modality": 2, "tokenCount": 1_290}, {"modality": 1, "tokenCount": 10}]
    told = {
        "promptTokenCount": 20,
        "candidatesTokenCount": 1_300,
        "totalTokenCount": 1_320,
        "promptTokensDetails": [{"modality": 4, "tokenCount": 15}, {"modality": 5, "tokenCount": 5}],
        "candidatesTokensDetails": details,
        "trafficType": 2,
    }
    meter = GEMINI.meter("application/json")
    candidate = {"content": {"parts": [{"text": "A"}]}, "finishReason": 1, "index": 0}
    meter.read(json.dumps({"candidates": [candidate], "usageMetadata": told}).encode())
    usage = meter.usage()
    assert (usage.image_output, usage.tokens.audio_input, usage.tokens.image_input) == (1_290, 15, 0)
    assert (meter.service_tier, meter.ended) == ("PROVISIONED_THROUGHPUT", True)
    blocked = GEMINI.meter("text/event-stream")
    blocked.read(json.dumps({"promptFeedback": {"blockReason": 1}, "usageMetadata": {"promptTokenCount": 9}}).encode())
    assert (blocked.ended, blocked.finish_reasons) == (True, {0: "1"})
