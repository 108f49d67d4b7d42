"""What providers say that a call used, in every shape that was recorded."""

from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.contract import AMOUNT_MAX, Tokens
from fiscus.contract.errors import Invalid
from fiscus.dialects.usage import tokens_of, usage_of

SHAPES = {
    "openai chat, hidden thoughts": (
        {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
        Tokens(input=35, output=74),
        ("total 109 > 35 + 12",),
    ),
    "openai chat, all parts": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {
                "cached_tokens": 30,
                "audio_tokens": 10,
                "image_tokens": 20,
                "cache_write_tokens": 40,
                "cache_write_tokens_details": {"ttl_30m_tokens": 15, "ttl_12h_tokens": 25},
            },
            "completion_tokens_details": {"reasoning_tokens": 11, "audio_tokens": 7},
        },
        Tokens(
            input=100,
            output=50,
            cache_read=30,
            cache_write_5m=15,
            cache_write_1h=25,
            reasoning=11,
            audio_input=10,
            audio_output=7,
            image_input=20,
        ),
        (),
    ),
    "grok on azure: more cached than there is": (
        {
            "prompt_tokens": 7,
            "completion_tokens": 1,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 163},
        },
        Tokens(input=7, output=1, cache_read=7),
        ("cache_read 163 > 7",),
    ),
    "openrouter: more reasoning than output": (
        {"prompt_tokens": 43, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 11}},
        Tokens(input=43, output=10, reasoning=10),
        ("reasoning 11 > 10",),
    ),
    "openrouter: the same tokens written and read": (
        {
            "prompt_tokens": 2_168,
            "completion_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 2_161, "cache_write_tokens": 2_161},
        },
        Tokens(input=2_168, output=100, cache_read=7, cache_write_5m=2_161),
        ("cache_read 2161 + cache_write 2161 > 2168",),
    ),
    "deepseek": (
        {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5},
        Tokens(input=9, output=1, cache_read=4),
        (),
    ),
    "mistral": (
        {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, "num_cached_tokens": 8},
        Tokens(input=9, output=1, cache_read=8),
        (),
    ),
    "embeddings": ({"prompt_tokens": 4, "total_tokens": 4}, Tokens(input=4), ()),
    "embeddings that tell a total only": ({"total_tokens": 12}, Tokens(input=12), ()),
    "responses": (
        {
            "input_tokens": 4_020,
            "input_tokens_details": {"cache_write_tokens": 4_012, "cached_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 4_025,
        },
        Tokens(input=4_020, output=5, cache_write_5m=4_012, reasoning=2),
        (),
    ),
    "anthropic with thinking": (
        {
            "input_tokens": 598,
            "cache_read_input_tokens": 10,
            "output_tokens": 92,
            "output_tokens_details": {"thinking_tokens": 53},
        },
        Tokens(input=608, output=92, cache_read=10, reasoning=53),
        (),
    ),
    "anthropic with a compaction, which is in no sum": (
        {
            "input_tokens": 10,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
            "iterations": [
                {"type": "compaction", "input_tokens": 900, "output_tokens": 80},
                {"type": "message", "input_tokens": 10, "output_tokens": 2},
            ],
        },
        Tokens(input=910, output=82),
        (),
    ),
    "gemini, by modality": (
        {
            "promptTokenCount": 300,
            "candidatesTokenCount": 20,
            "totalTokenCount": 320,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 10},
                {"modality": "IMAGE", "tokenCount": 258},
                {"modality": "AUDIO", "tokenCount": 32},
            ],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 20}],
        },
        Tokens(input=300, output=20, image_input=258, audio_input=32, audio_output=20),
        (),
    ),
    "bedrock": (
        {
            "inputTokens": 5,
            "outputTokens": 7,
            "totalTokens": 1_012,
            "cacheReadInputTokens": 600,
            "cacheWriteInputTokens": 400,
        },
        Tokens(input=1_005, output=7, cache_read=600, cache_write_5m=400),
        (),
    ),
    "bedrock, cache inside the total": (
        {"inputTokens": 1_005, "outputTokens": 7, "totalTokens": 1_012, "cacheReadInputTokens": 600},
        Tokens(input=1_005, output=7, cache_read=600),
        (),
    ),
}


def as_object(value):
    if isinstance(value, list):
        return [as_object(one) for one in value]
    return SimpleNamespace(**{k: as_object(v) for k, v in value.items()}) if isinstance(value, dict) else value


@pytest.mark.parametrize("shape", SHAPES)
def test_usage_is_read_from_a_dict_and_from_an_object_and_what_does_not_fit_is_noted(shape):
    usage, tokens, notes = SHAPES[shape]
    for given_usage in (usage, as_object(usage), {"usage": usage}, as_object({"usage_metadata": usage})):
        read = usage_of(given_usage)
        assert (read.tokens, read.notes) == (tokens, notes)
        assert tokens_of(given_usage) == tokens


def test_images_and_film_are_told_apart_from_text():
    drawn = {
        "promptTokenCount": 2_000,
        "candidatesTokenCount": 1_300,
        "promptTokensDetails": [{"modality": "VIDEO", "tokenCount": 1_990}, {"modality": "TEXT", "tokenCount": 10}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}, {"modality": "VIDEO", "tokenCount": 4}],
    }
    for said in (drawn, as_object({"usage_metadata": drawn})):
        read = usage_of(said)
        assert (read.image_output, read.video_output, read.video_input) == (1_290, 4, 1_990)
    details = {"output_tokens_details": {"image_tokens": 272, "text_tokens": 8}}
    assert usage_of({"input_tokens": 13, "output_tokens": 280, **details}).image_output == 272


@pytest.mark.parametrize(
    ("said", "nanousd"),
    [
        ({"cost": Decimal("0.0004970133333333333")}, 497_014),
        ({"cost": 0.0000113}, 11_300),
        ({"cost": 0}, 0),
        (
            {"cost": Decimal("0.01"), "is_byok": True, "cost_details": {"upstream_inference_cost": Decimal("0.2")}},
            210_000_000,
        ),
        ({"cost": Decimal("0.01"), "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, None),
        ({"cost": {"input_tokens_cost": 1e-05, "total_cost": 0.00507}}, 5_070_000),
        ({"cost": {"currency": "EUR", "total_cost": 1}}, None),
        ({"cost_in_usd_ticks": 37_756_001}, 3_775_601),
        ({"cost": "1"}, None),
        ({"cost": True}, None),
        ({"cost": -1}, None),
        ({"cost": float("nan")}, None),
        ({"cost": Decimal("1e300")}, None),
        ({}, None),
    ],
)
def test_what_the_provider_says_it_cost_is_exact_and_rounded_up_once(said, nanousd):
    assert usage_of({"prompt_tokens": 1, "completion_tokens": 1, **said}).cost_nanousd == nanousd


def test_server_tools_tier_and_other_models_are_told():
    usage = usage_of(
        {
            "input_tokens": 2_390,
            "cache_creation_input_tokens": 0,
            "output_tokens": 121,
            "service_tier": "standard",
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
            "iterations": [
                {"type": "message", "input_tokens": 1_128, "output_tokens": 110},
                {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2_518, "output_tokens": 22},
                {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2, "output_tokens": 1},
                {"type": "message", "input_tokens": 1_262, "output_tokens": 11},
            ],
        }
    )
    assert usage.tokens == Tokens(input=2_390, output=121)
    assert usage.beside == {"claude-opus-4-8": Tokens(input=2_520, output=23)}
    assert usage.server_tools == {"web_search": 2}
    assert usage.service_tier == "standard"


@pytest.mark.parametrize(
    ("counts", "ran"),
    [
        (
            {"server_tool_use_details": {"tool_calls_requested": 3, "tool_calls_executed": 2}},
            {"tool_calls_executed": 2},
        ),
        ({"server_tool_use_details": {"tool_calls_executed": 2, "web_search_requests": 2}}, {"web_search": 2}),
        ({"server_side_tool_usage_details": {"x_search_calls": 1, "mcp_calls": 0}}, {"x_search": 1}),
        ({"server_tool_use": {"web_search_requests": "many"}}, {}),
    ],
)
def test_tools_of_the_provider_are_counted(counts, ran):
    assert usage_of({"prompt_tokens": 1, "completion_tokens": 1, **counts}).server_tools == ran


def test_input_that_is_not_told_is_missing_and_not_zero():
    assert usage_of({"candidatesTokenCount": 18, "thoughtsTokenCount": 58}).missing == ("input",)
    assert usage_of({"candidatesTokenCount": 18, "totalTokenCount": 58}).missing == ()
    assert usage_of({"candidatesTokenCount": 18, "totalTokenCount": 58}).tokens == Tokens(input=40, output=18)


@pytest.mark.parametrize("wrong", [-1, 1.5, "7", True, AMOUNT_MAX + 1, [], Decimal("1.5")])
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens", "total_tokens"])
def test_a_count_that_is_none_is_refused_by_name(field, wrong):
    with pytest.raises(Invalid) as caught:
        usage_of({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, field: wrong})
    assert caught.value.refused.field == field


COUNTS = st.integers(0, 10**6)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "num_cached_tokens",
                "reasoning_tokens",
                "cached_tokens",
            ),
            COUNTS,
        ),
    ),
    COUNTS,
    COUNTS,
    COUNTS,
)
def test_no_part_is_larger_than_its_whole_and_nothing_that_was_told_is_lost(told, cached, written, reasoning):
    usage = {
        **told,
        "prompt_tokens": told.get("prompt_tokens", 1),
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    tokens = tokens_of(usage)
    assert tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h <= tokens.input
    assert tokens.reasoning <= tokens.output
    assert tokens.input == usage["prompt_tokens"]
    assert tokens.output >= told.get("completion_tokens", 0)
    assert tokens.input + tokens.output >= told.get("total_tokens", 0)
