"""Margins grow with what was billed, stay within bounds, and survive a restart."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.contract.errors import Invalid
from fiscus.pricing import Margins, margins
from fiscus.pricing.margins import COUNT_LEAST, KEYS_MAX, MARGIN_MAX_PERMILLE, SAMPLES_MAX

KEY = ("anthropic", "claude-3", "estimated")


def test_the_examples_hold():
    assert doctest.testmod(margins).attempted > 0
    assert doctest.testmod(margins).failed == 0


pair = st.tuples(st.integers(COUNT_LEAST, 10**6), st.integers(0, 3 * 10**6)).filter(lambda pair: pair[1] <= 4 * pair[0])


@given(st.lists(pair, min_size=1, max_size=SAMPLES_MAX))
def test_with_what_it_has_learned_the_bound_covers_all_of_it(pairs):
    learned = Margins()
    for counted, billed in pairs:
        learned.learn(*KEY, counted=counted, billed=billed)
    for counted, billed in pairs:
        assert learned.of(*KEY).over(counted) >= billed


def test_a_margin_never_falls_below_its_floor():
    learned = Margins()
    floor = learned.of(*KEY)
    for _ in range(100):
        learned.learn(*KEY, counted=10_000, billed=5_000)
    assert learned.of(*KEY) == floor
    assert min(floor.permille, floor.constant) > 0


def test_an_old_shortfall_is_forgotten_after_many_calls_without_one():
    learned = Margins()
    floor = learned.of(*KEY).permille
    learned.learn(*KEY, counted=1_000, billed=2_000)
    assert learned.of(*KEY).permille > floor
    for _ in range(SAMPLES_MAX):
        learned.learn(*KEY, counted=1_000, billed=1_000)
    assert learned.of(*KEY).permille == floor


def test_one_absurd_bill_does_not_lock_the_budget():
    learned = Margins()
    learned.learn(*KEY, counted=1_000, billed=10**12)
    assert learned.of(*KEY).permille == MARGIN_MAX_PERMILLE


def test_short_inputs_and_other_keys_teach_nothing():
    learned = Margins()
    learned.learn(*KEY, counted=COUNT_LEAST - 1, billed=10_000)
    learned.learn("bedrock", *KEY[1:], counted=1_000, billed=3_000)
    assert learned.of(*KEY) == Margins().of(*KEY)
    assert learned.of("bedrock", *KEY[1:]).permille > Margins().of(*KEY).permille


def test_so_many_keys_are_kept_and_the_oldest_goes():
    learned = Margins()
    for number in range(KEYS_MAX + 1):
        learned.learn(f"provider-{number}", *KEY[1:], counted=1_000, billed=3_000)
    assert len(learned._shortfalls) == KEYS_MAX
    assert learned.of("provider-0", *KEY[1:]) == Margins().of(*KEY)
    assert learned.of(f"provider-{KEYS_MAX}", *KEY[1:]).permille > 1_000


def test_what_was_learned_survives_a_restart():
    learned = Margins()
    learned.learn(*KEY, counted=1_000, billed=2_000)
    again = Margins.load(learned.dump())
    assert again.of(*KEY) == learned.of(*KEY)
    assert again.dump() == learned.dump()


@pytest.mark.parametrize("text", [b"", b"{}", b'[["a","b","guessed",[1]]]', b'[["a","b","exact",["x"]]]'])
def test_a_file_that_holds_something_else_is_refused(text):
    with pytest.raises(Invalid) as raised:
        Margins.load(text)
    assert raised.value.refused.field == "margins"
