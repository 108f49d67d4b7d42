from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.sdk import sizing
from fiscus.sdk.sizing import LATELY_MAX, LEARNED_FROM, OUTPUT_TOKENS_UNKNOWN, Lately


def test_the_examples_are_true():
    assert doctest.testmod(sizing).failed == 0


def test_a_function_that_is_not_known_asks_others_for_no_more_than_its_input():
    need = Lately([9_000] * (LEARNED_FROM - 1)).need(input_tokens=30)
    assert (need.wanted, need.needed, need.least) == (30 + OUTPUT_TOKENS_UNKNOWN, 31, 31)


def test_a_known_function_is_held_for_what_nearly_all_its_calls_used():
    need = Lately(range(1, 101)).need(input_tokens=1)
    assert (need.wanted, need.needed, need.least) == (95 + 95 // 4, 50, 1)
    assert "95 % of its last 100 calls used at most 95 tokens" in need.why


def test_a_bound_is_held_whole_or_not_at_all():
    need = Lately([5] * 10).need(input_tokens=1, bound=700)
    assert need.wanted == need.needed == need.least == 700


def test_what_is_remembered_is_bounded_and_follows_what_changes():
    lately = Lately([1_000] * 500)
    for _ in range(LATELY_MAX):
        lately.add(10)
    assert len(lately) == LATELY_MAX
    assert lately.need(input_tokens=0).wanted == 12


@given(st.lists(st.integers(0, 10**6), max_size=300), st.integers(0, 10**5))
def test_the_least_is_never_more_than_what_others_give_nor_that_more_than_what_is_held(used, input_tokens):
    need = Lately(used).need(input_tokens)
    assert 1 <= need.least <= need.needed <= need.wanted


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2), (75, 3), (100, 4)])
def test_a_quantile_is_a_value_that_was_seen(percent, expected):
    assert Lately([4, 1, 3, 2]).quantile(percent) == expected
