"""The longest answers that models give."""

import doctest

import pytest

from fiscus.pricing import limits, output_tokens_max


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-4o", 16_384),
        ("gpt-4o-2024-05-13", 4_096),
        ("ft:gpt-4o-mini-2024-07-18:org::id", 16_384),
        ("GPT-4-turbo", 4_096),
        ("gpt-4.1-nano", 32_768),
        ("gpt-5", 32_768),
        ("gpt-5-chat-latest", 16_384),
        ("claude-3-opus-20240229", 4_096),
        ("claude-3-5-sonnet-20241022", 8_192),
        ("claude-3-7-sonnet-latest", 32_768),
        ("claude-opus-4-20250514", 32_000),
        ("claude-opus-4-5-20251101", 32_768),
        ("us.anthropic.claude-3-haiku-20240307-v1:0", 4_096),
        ("gemini-2.0-flash", 8_192),
        ("models/gemini-2.5-pro", 32_768),
        ("nobody-knows-it", 32_768),
    ],
)
def test_a_model_is_asked_for_no_more_than_it_gives(model, tokens):
    assert output_tokens_max(model) == tokens


def test_no_pattern_is_hidden_behind_an_earlier_one():
    """Each is the first that matches the shortest name of its own."""
    for pattern, limit in limits._LIMITS:
        assert output_tokens_max(pattern.replace("*", "")) == min(limit, 32_768), pattern


def test_examples():
    assert doctest.testmod(limits).failed == 0
