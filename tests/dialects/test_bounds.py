"""Fields that bound the output: those that a dialect has, and those that servers take for them all the same."""

import json

import pytest

from fiscus.dialects import DIALECTS, Malformed, RequestFacts

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
REQUESTS = {
    "openai.chat": CHAT,
    "openai.completions": {"model": "m", "prompt": "Hi", "max_tokens": 10},
    "openai.responses": {"model": "m", "input": "Hi", "max_output_tokens": 10},
    "openai.embeddings": {"model": "m", "input": "Hi"},
    "anthropic.messages": CHAT,
    "gemini.generate": {"contents": [], "generationConfig": {"maxOutputTokens": 10}},
}
RESPELT = {
    "openai.chat": [
        "Max_Tokens",
        "MAX_COMPLETION_TOKENS",
        "max_to\u212aens",
        "max_token\u017f",
        "N",
        "Messages",
        "Model",
    ],
    "openai.completions": ["MAX_TOKENS", "Best_Of", "Prompt", "Stream_Options"],
    "openai.responses": ["Max_output_tokens", "Input"],
    "openai.embeddings": ["Input", "Model"],
    "anthropic.messages": ["Max_tokens", "Thinking"],
    "gemini.generate": ["GenerationConfig", "generation_Config", "Contents"],
}


def read(name, request):
    return DIALECTS[name].read_request(json.dumps(request).encode(), "m")


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in RESPELT.items() for field in fields])
def test_a_field_that_decides_the_cost_cannot_be_spelt_otherwise(name, field):
    assert isinstance(read(name, REQUESTS[name]), RequestFacts)
    for value in (100_000, None):
        found = read(name, {**REQUESTS[name], field: value})
        assert isinstance(found, Malformed)
        assert found.field == field


def test_it_cannot_within_the_field_that_has_it_either():
    for config in ("generationConfig", "generation_config"):
        found = read("gemini.generate", {config: {"maxOutputTokens": 10, "MaxOutputTokens": 90}})
        assert isinstance(found, Malformed)
        assert found.field == "MaxOutputTokens"
    found = read("anthropic.messages", {**CHAT, "thinking": {"type": "enabled", "Budget_Tokens": 5}})
    assert isinstance(found, Malformed)
    assert found.field == "Budget_Tokens"


def test_names_within_other_fields_are_the_callers_own():
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"Max_Tokens": {}, "n_predict": {}}}},
    }
    request = {**CHAT, "tools": [tool], "metadata": {"N": "1", "Model": "x"}, "Temperature": 1}
    assert isinstance(read("openai.chat", request), RequestFacts)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("value", [-1, 5, None])
def test_a_bound_of_another_dialect_is_refused(name, value):
    found = read(name, {**REQUESTS[name], "n_predict": value})
    assert isinstance(found, Malformed)
    assert found.field == "n_predict"


ZEROS = [
    ("openai.chat", "max_tokens", {"max_tokens": 0}),
    ("openai.chat", "max_completion_tokens", {"max_completion_tokens": 0}),
    ("openai.completions", "max_tokens", {"max_tokens": 0}),
    ("openai.responses", "max_output_tokens", {"max_output_tokens": 0}),
    ("gemini.generate", "generationConfig.maxOutputTokens", {"generationConfig": {"maxOutputTokens": 0}}),
]


@pytest.mark.parametrize(("name", "field", "more"), ZEROS, ids=[f"{name} {field}" for name, field, _ in ZEROS])
def test_a_bound_of_0_which_some_servers_take_for_none_is_refused(name, field, more):
    found = read(name, {**REQUESTS[name], **more})
    assert isinstance(found, Malformed)
    assert found.field == field


def test_a_bound_of_0_is_one_where_the_api_has_a_use_for_it():
    """Anthropic's fills the prompt cache, the other one only tells the probabilities of the prompt."""
    for name, more in (("anthropic.messages", {}), ("openai.completions", {"echo": True})):
        facts = read(name, {**REQUESTS[name], "max_tokens": 0, **more})
        assert isinstance(facts, RequestFacts)
        assert facts.output_tokens_max == 0
