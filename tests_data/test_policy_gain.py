"""On recorded traffic, budget that moves is worth more than fixed caps (``bench/policy_gain.py``)."""

import pytest

from bench import policy_gain
from bench.policy_gain import FILES, TRACES, compared, read_calls, simulate


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_budget_that_moves_completes_more_than_fixed_caps_and_no_more_than_there_is(name):
    calls = list(read_calls(TRACES / name))
    runs = [simulate(calls, 250, seed) for seed in range(3)]
    found = compared(runs)
    assert found["gain"] >= 1.05
    for run in runs:
        assert all(run[policy] <= run["oracle"] for policy in policy_gain.POLICIES), "nobody spends more than there is"
