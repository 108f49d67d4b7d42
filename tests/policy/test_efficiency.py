from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.policy.efficiency import (
    BASE_TOKENS_MAX,
    HISTORY_LENGTH,
    Grant,
    Insufficient,
    PoolExhausted,
    efficiency,
    grant_multiplier,
    historical_efficiency,
    is_low,
    size_grant,
)

RICH = 10**9
ratios = st.fractions(min_value=0, max_value=1, max_denominator=10**6)
requests = st.fractions(min_value=Fraction(1, 1000), max_value=10_000, max_denominator=1000)


def granted(requested, historical="0.5", available_tokens=RICH) -> Grant:
    grant = size_grant(
        requested=Fraction(requested), historical=Fraction(historical), available_tokens=available_tokens
    )
    assert isinstance(grant, Grant)
    return grant


@pytest.mark.parametrize(
    ("requested", "historical", "tokens", "multiplier"),
    [
        ("1000", "0.35", 850, 0.85),  # the worked example
        ("1000", "0.5", 1000, 1.0),
        ("1000", "0", 500, 0.5),
        ("1000", "1", 1500, 1.5),
        ("400", "0.5", 400, 1.0),
        ("5000", "0.5", 1000, 1.0),
        ("10000", "0.5", 1000, 1.0),
        ("100.9", "0.5", 100, 1.0),
        ("1000", "0.07", 570, 0.57),  # in floats 569.9999999999999
    ],
)
def test_the_grant_is_the_base_times_the_multiplier_rounded_down(requested, historical, tokens, multiplier):
    # covers D5, D6, D9, D32a
    grant = granted(requested, historical)
    assert grant.tokens == tokens
    assert float(grant.multiplier) == multiplier


def test_the_grant_is_at_most_what_the_pool_has():
    # covers D7
    assert granted("1000", "1", available_tokens=900) == Grant(tokens=900, multiplier=Fraction(3, 2), reduced=True)


@pytest.mark.parametrize("available_tokens", [0, -1])
def test_an_empty_pool_hands_out_nothing(available_tokens):
    # covers D12
    assert (
        size_grant(requested=Fraction(1), historical=Fraction(1), available_tokens=available_tokens) == PoolExhausted()
    )


def test_less_than_a_tenth_of_what_was_asked_is_insufficient_and_a_tenth_is_not():
    # covers D12
    short = size_grant(requested=Fraction(1000), historical=Fraction(1, 2), available_tokens=99)
    assert short == Insufficient(offered=Fraction(99), needed=Fraction(100))
    assert granted("1000", available_tokens=100).tokens == 100


def test_a_grant_is_reduced_exactly_when_it_is_less_than_what_was_asked():
    # covers D24
    assert granted("1000", "0.499").reduced
    assert not granted("1000", "0.5").reduced
    assert not granted("1000", "1").reduced
    assert granted("100.5").reduced


@pytest.mark.parametrize(
    ("grants", "expected"),
    [
        ([], "0.5"),
        ([0, 0], "0.5"),
        (["0.2"], "0.2"),
        (["0.1", "0.3"], "0.2"),
        (["3"], "1"),
        ([0, "0.1", 0, "0.2", "0.3", "0.4", "0.5", "9"], "0.3"),
    ],
)
def test_history_is_the_mean_of_the_last_five_efficiencies_above_zero_capped_at_one(grants, expected):
    # covers D11
    assert historical_efficiency([Fraction(grant) for grant in grants]) == Fraction(expected)


def test_efficiency_is_value_per_token_and_nothing_before_anything_is_consumed():
    # covers D8
    assert efficiency(Fraction(5), 100) == Fraction("0.05")
    assert efficiency(Fraction(5), 0) == 0


def test_an_allocation_is_low_below_a_fifth():
    # covers D16
    assert not is_low(200, 1000)
    assert is_low(199, 1000)
    assert not is_low(0, 0)


@given(requested=requests, historical=ratios, available_tokens=st.integers(-5, 20_000))
def test_no_grant_exceeds_the_pool_or_one_and_a_half_bases(requested, historical, available_tokens):
    # covers D5, D6, D7, D11
    outcome = size_grant(requested=requested, historical=historical, available_tokens=available_tokens)
    if isinstance(outcome, Grant):
        assert 0 <= outcome.tokens <= min(available_tokens, BASE_TOKENS_MAX * Fraction(3, 2))
        assert Fraction(1, 2) <= outcome.multiplier <= Fraction(3, 2)


@given(requested=requests, low=ratios, high=ratios)
def test_who_was_more_efficient_never_gets_less(requested, low, high):
    # covers D9
    low, high = sorted((low, high))

    def tokens(historical: Fraction) -> int:
        outcome = size_grant(requested=requested, historical=historical, available_tokens=RICH)
        return outcome.tokens if isinstance(outcome, Grant) else 0

    assert tokens(low) <= tokens(high)


@given(st.lists(st.fractions(min_value=0, max_value=10, max_denominator=1000), max_size=12))
def test_only_the_last_five_above_zero_matter(grants):
    # covers D11
    counted = [grant for grant in grants if grant > 0][:HISTORY_LENGTH]
    assert historical_efficiency(grants) == historical_efficiency(counted)
    assert 0 < grant_multiplier(historical_efficiency(grants)) <= Fraction(3, 2)
