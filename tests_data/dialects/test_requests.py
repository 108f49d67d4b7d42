"""Recorded requests are read, and edited byte for byte."""

import json
from collections import Counter

import pytest

from fiscus.dialects import DIALECTS, RequestFacts
from tests_data.dialects.recorded import exchanges

REQUESTS = {one.request: one for one in exchanges() if one.request}.values()
FIELDS = {
    "openai.chat": ("max_completion_tokens", "max_tokens"),
    "openai.completions": ("max_tokens",),
    "openai.responses": ("max_output_tokens",),
    "anthropic.messages": ("max_tokens",),
}
NOTE = "WARNING: 90.2% of token budget used."


def is_json_object(body):
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


READ = [one for one in REQUESTS if is_json_object(one.request)]


def facts_of(one):
    return DIALECTS[one.dialect].read_request(one.request, "m", stream="streamGenerate" in one.path)


def outside(before, after):
    """Length of what is common at the front and at the back."""
    front = 0
    while front < min(len(before), len(after)) and before[front] == after[front]:
        front += 1
    back = 0
    while back < min(len(before), len(after)) - front and before[-1 - back] == after[-1 - back]:
        back += 1
    return front, back


def last_text(value):
    """The text at the end of a conversation, whatever it is made of."""
    while not isinstance(value, str):
        if isinstance(value, dict):
            value = next(value[name] for name in ("content", "parts", "text") if name in value)
        else:
            value = value[-1]
    return value


def test_there_are_as_many_as_the_data_has():
    assert len(READ) > 1_500


def test_every_request_is_read_and_says_what_its_body_says():
    kinds = Counter()
    for one in READ:
        facts, body = facts_of(one), json.loads(one.request)
        assert isinstance(facts, RequestFacts), (one.id, facts)
        if one.dialect != "gemini.generate":
            assert facts.model == body.get("model", "m"), one.id
            assert facts.stream == bool(body.get("stream")), one.id
        if one.dialect in FIELDS:
            given = [body[name] for name in FIELDS[one.dialect] if body.get(name) is not None]
            assert facts.output_tokens_max == max(given, default=None), one.id
        if one.dialect == "gemini.generate":
            assert facts.output_tokens_max == body.get("generationConfig", {}).get("maxOutputTokens"), one.id
        assert facts.include_usage == (bool((body.get("stream_options") or {}).get("include_usage"))) or (
            not one.dialect.startswith(("openai.chat", "openai.completions"))
        )
        defined = [tool for tool in body.get("tools") or () if isinstance(tool, dict)]
        assert bool(facts.tools or facts.server_tools or facts.builtin_tools) >= bool(defined), one.id
        kinds.update(facts.server_tools)
        kinds.update(facts.input_unknown)
    assert {"web_search", "file_search", "code_interpreter", "mcp", "googleSearch", "codeExecution"} <= set(kinds)
    assert {"web_search_20250305", "advisor_20260301", "previous_response_id", "conversation"} <= set(kinds)
    assert "cachedContent" in kinds


def test_what_is_not_edited_is_the_same_object():
    for one in READ:
        assert DIALECTS[one.dialect].patch_request(one.request, facts_of(one)) is one.request


@pytest.mark.parametrize("most", [17, 2_000, 10**9])
def test_a_bound_changes_only_the_bound(most):
    for one in READ:
        facts, body = facts_of(one), json.loads(one.request)
        if facts.output_tokens_max == 0 or (facts.thinking_tokens_max or 0) > 0:
            continue
        edited = DIALECTS[one.dialect].patch_request(one.request, facts, output_tokens_max=most)
        asked = facts.output_tokens_max
        if asked is not None and asked <= most:
            assert edited is one.request
            continue
        again = DIALECTS[one.dialect].read_request(edited, "m", stream="streamGenerate" in one.path)
        assert again.output_tokens_max == most, one.id
        front, back = outside(one.request, edited)
        assert len(one.request) - front - back <= len(str(asked)) + (asked is None and 4), one.id
        if one.dialect == "gemini.generate":
            body["generationConfig"] = {**(body.get("generationConfig") or {}), "maxOutputTokens": most}
        else:
            fields = FIELDS[one.dialect]
            names = [name for name in fields if body.get(name) is not None]
            names = names or [name for name in fields if name in body] or fields[:1]
            body.update(dict.fromkeys(names, most))
        assert json.loads(edited) == body, one.id


def test_usage_is_forced_where_it_has_to_be_asked_for():
    forced = 0
    for one in READ:
        facts, body = facts_of(one), json.loads(one.request)
        edited = DIALECTS[one.dialect].patch_request(one.request, facts, force_usage=True)
        if facts.include_usage or not facts.stream:
            assert edited is one.request
            continue
        forced += 1
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        assert json.loads(edited) == body
    assert forced > 50


def test_a_note_stands_at_the_end_and_changes_nothing_before_it():
    noted = Counter()
    for one in READ:
        facts = facts_of(one)
        edited = DIALECTS[one.dialect].patch_request(one.request, facts, append_note=NOTE)
        noted[one.dialect, edited is not one.request] += 1
        if edited is one.request:
            continue
        front, back = outside(one.request, edited)
        assert front + back == len(one.request), "only inserted"
        body, before = json.loads(edited), json.loads(one.request)
        name = next(name for name in ("messages", "input", "contents") if name in body)
        assert {key: value for key, value in body.items() if key != name} == {
            key: value for key, value in before.items() if key != name
        }
        assert last_text(body[name]).endswith(NOTE), one.id
        if isinstance(body[name], list):
            assert body[name][-1]["role"] == "user", one.id
            assert body[name][: len(before[name]) - 1] == before[name][:-1]
    assert noted["openai.chat", True] > 10 * noted["openai.chat", False]
    assert noted["gemini.generate", True] > 10 * noted["gemini.generate", False]
    assert noted["anthropic.messages", True] > 10 * noted["anthropic.messages", False]
    assert noted["openai.responses", True] > 10 * noted["openai.responses", False]


def test_another_model_is_all_that_changes():
    for one in READ:
        facts, body = facts_of(one), json.loads(one.request)
        edited = DIALECTS[one.dialect].patch_request(one.request, facts, model="other-model")
        if one.dialect == "gemini.generate":
            assert edited is one.request
            continue
        body["model"] = "other-model"
        assert json.loads(edited) == body
