from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.client.backoff import Backoff

BACKOFF = Backoff(first_s=0.1, delay_s_max=2.0)


@given(failures=st.integers(1, 10_000), draw=st.floats(0, 1))
def test_a_delay_is_at_least_half_of_its_range_and_never_beyond_the_bound(failures, draw):
    whole = min(2.0, 0.1 * 2 ** min(failures - 1, 60))
    assert whole / 2 <= BACKOFF.delay_s(failures, draw) <= whole <= 2.0


@pytest.mark.parametrize("failures", [1, 5, 100])
def test_it_is_never_shorter_than_what_the_other_side_asked_for(failures):
    assert BACKOFF.delay_s(failures, 0.5, asked_for_s=30) == 30


def test_it_doubles_until_the_bound():
    assert [BACKOFF.delay_s(n, 1.0) for n in (1, 2, 3, 4, 5, 6)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
