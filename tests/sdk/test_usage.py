from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.contract import AMOUNT_MAX, UNITS, CallRecord, Tokens
from fiscus.contract.errors import Invalid
from fiscus.dialects.usage import tokens_of
from fiscus.sdk.usage import completed_by_bound, reading

SHAPES = {
    "openai chat": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 40, "audio_tokens": 2, "accepted_prediction_tokens": 0},
        },
        Tokens(input=100, output=50, cache_read=64, reasoning=40, audio_input=3, audio_output=2),
    ),
    "openai chat, bare": (
        {"prompt_tokens": 24, "total_tokens": 26, "completion_tokens": 2},
        Tokens(input=24, output=2),
    ),
    "gemini through the openai protocol, thoughts hidden": (
        {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
        Tokens(input=35, output=74),
    ),
    "xai, reasoning beside the completion": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 95,
            "completion_tokens_details": {"reasoning_tokens": 80},
        },
        Tokens(input=10, output=85, reasoning=80),
    ),
    "azure grok, more cached than there was": (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 64}},
        Tokens(input=10, output=5, cache_read=10),
    ),
    "embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Tokens(input=8)),
    "openai responses": (
        {
            "input_tokens": 51,
            "input_tokens_details": {"cached_tokens": 20},
            "output_tokens": 38,
            "output_tokens_details": {"reasoning_tokens": 30},
            "total_tokens": 89,
        },
        Tokens(input=51, output=38, cache_read=20, reasoning=30),
    ),
    "anthropic": (
        {
            "input_tokens": 4,
            "cache_creation_input_tokens": 700,
            "cache_read_input_tokens": 3_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
            "output_tokens": 77,
            "service_tier": "standard",
        },
        Tokens(input=3_704, output=77, cache_read=3_000, cache_write_5m=500, cache_write_1h=200),
    ),
    "anthropic, one hour alone": (
        {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_creation": {"ephemeral_1h_input_tokens": 9},
            "output_tokens": 1,
        },
        Tokens(input=13, output=1, cache_write_1h=9),
    ),
    "anthropic, without cache": (
        {"input_tokens": 4, "cache_creation_input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 1},
        Tokens(input=4, output=1),
    ),
    "gemini": (
        {
            "promptTokenCount": 424,
            "candidatesTokenCount": 42,
            "totalTokenCount": 649,
            "thoughtsTokenCount": 153,
            "toolUsePromptTokenCount": 30,
            "cachedContentTokenCount": 100,
        },
        Tokens(input=454, output=195, cache_read=100, reasoning=153, tool_results=30),
    ),
    "ours": (Tokens(input=1, output=2), Tokens(input=1, output=2)),
}


def as_object(value):
    return SimpleNamespace(**{k: as_object(v) for k, v in value.items()}) if isinstance(value, dict) else value


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_provider_says_is_read_from_a_dict_and_from_an_object_and_from_the_answer_that_carries_it(shape):
    # covers N1, R25
    usage, tokens = SHAPES[shape]
    assert tokens_of(usage) == tokens
    assert tokens_of(as_object(usage)) == tokens
    assert tokens_of({"id": "x", "usage": usage}) == tokens
    assert tokens_of(SimpleNamespace(usage_metadata=as_object(usage))) == tokens
    assert reading(usage).total == {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "tokens": tokens.input + tokens.output,
    }


@given(st.dictionaries(st.sampled_from(UNITS), st.integers(0, AMOUNT_MAX // 2), min_size=1))
def test_amounts_are_taken_as_they_are(amounts):
    total = reading(amounts).total
    assert {unit: total[unit] for unit in amounts} == amounts
    assert set(total) - set(amounts) <= {"tokens"}


def test_a_record_is_a_reading():
    record = CallRecord(model="m", tokens=Tokens(input=3, output=4), cost_nanousd=9)
    read = reading(record)
    assert read.total == {"input_tokens": 3, "output_tokens": 4, "tokens": 7, "cost": 9}
    assert read.record == record


def test_a_cost_that_is_given_outranks_the_records_and_names_its_source():
    read = reading({"tokens": 3}, cost_nanousd=5, record=CallRecord(cost_nanousd=9, model="m"))
    assert read.total["cost"] == 5
    assert (read.record.cost_nanousd, read.record.cost_source, read.record.model) == (5, "caller", "m")


def test_nothing_known_is_an_empty_reading_and_not_zero():
    assert reading(None).total == {}


@pytest.mark.parametrize(
    "usage",
    [
        "120",
        120,
        [],
        {},
        {"total": 3},
        {"totalTokenCount": 1_090},
        {"tokens": 1.0},
        {"tokens": -1},
        {"tokens": 2**53},
        {"tokens": True},
        {"tokens": "5"},
        {"tokens": float("nan")},
        {"prompt_tokens": 10.5, "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"input_tokens": AMOUNT_MAX, "output_tokens": AMOUNT_MAX, "cache_read_input_tokens": 1},
    ],
)
def test_what_cannot_be_read_is_refused_and_never_counted_as_nothing(usage):
    with pytest.raises(Invalid) as caught:
        reading(usage)
    assert caught.value.code == "invalid"
    assert caught.value.refused.field


def test_a_record_cannot_be_given_twice():
    with pytest.raises(Invalid):
        reading(CallRecord(), record=CallRecord())


@pytest.mark.parametrize(
    ("known", "reserved", "booked"),
    [
        ({"tokens": 5}, {"tokens": 10}, {"tokens": 5}),
        ({"tokens": 50}, {"tokens": 10}, {"tokens": 50}),
        (None, {"tokens": 10, "cost": 7, "calls": 1}, {"tokens": 10, "cost": 7}),
        ({"cost": 3}, {"tokens": 10, "cost": 7}, {"cost": 3, "tokens": 10}),
        (
            {"tokens": 5},
            {"tokens": 10, "output_tokens": 4, "input_tokens": 9},
            {"tokens": 5, "output_tokens": 4, "input_tokens": 5},
        ),
        ({"input_tokens": 2, "output_tokens": 3}, {"tokens": 10}, {"input_tokens": 2, "output_tokens": 3, "tokens": 5}),
        ({"tokens": 0, "cost": 0}, {"tokens": 10, "cost": 7}, {"tokens": 0, "cost": 0}),
    ],
)
def test_what_was_held_and_not_read_is_booked_at_its_bound(known, reserved, booked):
    # covers E14
    whole = completed_by_bound(reading(known), reserved)
    assert whole.total == booked
    unread = set(reserved) - set(reading(known).total) - {"calls"}
    assert whole.record.tokens_estimated == bool(unread - {"cost"})
    assert (whole.record.cost_source == "unpriced") == ("cost" in unread)
