"""Strategies for sizing grants: the classic formula exactly, and one that cures known fault 9 of D."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.policy.efficiency import HISTORY_LENGTH, Grant, efficiency, historical_efficiency, size_grant
from fiscus.policy.grants import PROVEN_TOKENS, History, Past, decay, middle_of, smoothed_efficiency, standing

VALUES = st.fractions(min_value=0, max_value=Fraction(10**6), max_denominator=1000)
PASTS = st.lists(st.builds(Past, value=VALUES, tokens=st.integers(0, 5_000)), max_size=7)
MIDDLES = st.none() | st.fractions(min_value=Fraction(1, 10**6), max_value=Fraction(10**3), max_denominator=10**6)
HISTORIES = st.builds(History, grants=PASTS, consumed_tokens=st.integers(0, 50_000), idle_h=st.integers(0, 2_000))


def past(value: float | str, tokens: int) -> Past:
    return Past(value=Fraction(str(value)), tokens=tokens)


# covers D5, D6, D11
@given(HISTORIES, MIDDLES)
def test_classic_is_the_formula_of_the_service_exactly(history: History, middle: Fraction | None) -> None:
    expected = historical_efficiency([efficiency(one.value, one.tokens) for one in history.grants])
    assert standing("classic", history, middle).historical == expected


# covers D9
@given(HISTORIES, MIDDLES)
def test_known_fault_d9_a_fresh_name_never_gets_more_than_anybody_proven(
    history: History, middle: Fraction | None
) -> None:
    fresh = standing("proven", History(), middle).historical
    assert fresh == 0
    assert 0 <= standing("proven", history, middle).historical <= 1


# covers D9
@given(HISTORIES, MIDDLES, st.integers(0, 6), VALUES)
def test_known_fault_d9_more_value_never_makes_a_grant_smaller(
    history: History, middle: Fraction | None, index: int, more: Fraction
) -> None:
    if index >= len(history.grants):
        return
    grants = list(history.grants)
    grants[index] = Past(value=grants[index].value + more, tokens=grants[index].tokens)
    better = History(grants=grants, consumed_tokens=history.consumed_tokens, idle_h=history.idle_h)
    assert standing("proven", better, middle).historical >= standing("proven", history, middle).historical


@given(HISTORIES, st.fractions(min_value=Fraction(1, 1000), max_value=100, max_denominator=1000), VALUES)
def test_known_fault_d9_the_unit_of_value_means_nothing(history: History, middle: Fraction, scale: Fraction) -> None:
    factor = scale + 1
    scaled = History(
        grants=[Past(value=one.value * factor, tokens=one.tokens) for one in history.grants],
        consumed_tokens=history.consumed_tokens,
        idle_h=history.idle_h,
    )
    assert standing("proven", scaled, middle * factor).historical == standing("proven", history, middle).historical


@pytest.mark.parametrize("value", [1e9, 1e308])
def test_known_fault_d9_a_huge_value_for_one_token_is_worth_next_to_nothing(value: float) -> None:
    boaster = History(grants=[Past(value=Fraction(value), tokens=1)], consumed_tokens=1)
    honest = History(grants=[past(50, 1_000)], consumed_tokens=1_000)
    middle = Fraction(1, 20)
    assert standing("proven", boaster, middle).historical < Fraction(1, 100)
    assert standing("proven", honest, middle).historical == Fraction(1, 2)
    assert standing("classic", boaster, middle).historical == 1, "the fault"
    assert standing("classic", honest, middle).historical < standing("classic", History(), middle).historical


def test_an_agent_as_good_as_the_middle_that_has_shown_enough_gets_exactly_its_base() -> None:
    history = History(grants=[past(50, 1_000)], consumed_tokens=PROVEN_TOKENS)
    sized = size_grant(
        requested=Fraction(800),
        historical=standing("proven", history, Fraction(1, 20)).historical,
        available_tokens=9_999,
    )
    assert isinstance(sized, Grant)
    assert sized.tokens == 800


def test_newer_grants_weigh_more_and_only_the_latest_count() -> None:
    rising = [past(100, 100), past(0, 100)]
    assert smoothed_efficiency(rising, None) == Fraction(100) / 170
    assert smoothed_efficiency(list(reversed(rising)), None) == Fraction(70) / 170
    assert smoothed_efficiency([*([past(0, 100)] * HISTORY_LENGTH), past(100, 100)], None) == 0


def test_who_is_idle_is_trusted_less_hour_by_hour_and_never_less_than_an_unknown_name() -> None:
    # covers D57
    history = [past(50, 1_000)]
    worth = [
        standing("proven", History(grants=history, consumed_tokens=1_000, idle_h=hours), Fraction(1, 20)).historical
        for hours in (0, 1, 2, 24, 10**9)
    ]
    assert worth == sorted(worth, reverse=True)
    assert worth[0] == worth[1]
    assert round(float(worth[2] / worth[1]), 6) == 0.95
    assert decay(10**9) < Fraction(1, 10**6)


def test_the_middle_is_weighed_by_tokens_so_that_many_new_names_do_not_move_it() -> None:
    honest = [(Fraction(1, 20), 10_000), (Fraction(1, 10), 8_000), (Fraction(1, 40), 9_000)]
    swarm = [(Fraction(1, 10**6), 1)] * 1_000
    assert middle_of(honest) == middle_of([*honest, *swarm]) == Fraction(1, 20)
    assert middle_of([]) is None
    assert middle_of([(Fraction(0), 50), (Fraction(3), 0)]) is None


def test_every_standing_says_its_terms() -> None:
    found = standing("proven", History(grants=[past(10, 100)], consumed_tokens=100), Fraction(1, 10))
    assert found.terms == {
        "smoothed_efficiency": 0.1,
        "middle_of_others": 0.1,
        "score": 0.5,
        "evidence": 0.1,
        "freshness": 1.0,
    }
