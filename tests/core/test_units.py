import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.core.units import AMOUNT_MAX, NANOUSD_PER_USD, UNITS, completed


def test_the_units_are_these_five():
    assert UNITS == ("tokens", "input_tokens", "output_tokens", "cost", "calls")


def test_the_largest_amount_is_the_largest_that_a_float_keeps_exactly():
    assert AMOUNT_MAX == 9_007_199_254_740_991
    assert float(AMOUNT_MAX) == AMOUNT_MAX
    assert float(AMOUNT_MAX + 1) == float(AMOUNT_MAX + 2), "one more is where exactness ends"


def test_a_dollar_has_a_thousand_million_nanodollars():
    assert NANOUSD_PER_USD == 1_000_000_000


@pytest.mark.parametrize(
    ("given_amounts", "whole"),
    [
        ({}, {"calls": 1}),
        ({"calls": 0}, {"calls": 0}),
        ({"calls": 3}, {"calls": 3}),
        ({"cost": 7}, {"cost": 7, "calls": 1}),
        ({"input_tokens": 4}, {"input_tokens": 4, "calls": 1}),
        ({"output_tokens": 4}, {"output_tokens": 4, "calls": 1}),
        (
            {"input_tokens": 4, "output_tokens": 6},
            {"input_tokens": 4, "output_tokens": 6, "tokens": 10, "calls": 1},
        ),
        (
            {"input_tokens": 4, "output_tokens": 6, "tokens": 12},
            {"input_tokens": 4, "output_tokens": 6, "tokens": 12, "calls": 1},
        ),
    ],
)
def test_calls_are_one_and_tokens_are_input_and_output_unless_said(given_amounts, whole):
    before = dict(given_amounts)
    assert completed(given_amounts) == whole
    assert given_amounts == before, "what was given is not changed"


@given(st.dictionaries(st.sampled_from(UNITS), st.integers(0, AMOUNT_MAX)))
def test_completing_twice_changes_nothing_more(amounts):
    assert completed(completed(amounts)) == completed(amounts)
