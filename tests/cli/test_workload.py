"""The built-in workload; how well it fits the traces is measured in ``tests_data``."""

from itertools import islice
from random import Random

from fiscus.cli import workload_fit as fit
from fiscus.cli.replay.fleet import Names, paths
from fiscus.cli.workload import CONTEXT_TOKENS_MAX, draw, generate


def test_the_same_seed_gives_the_same_calls_and_another_one_others():
    assert list(generate(7, 500)) == list(generate(7, 500))
    assert list(generate(7, 500)) != list(generate(8, 500))


def test_a_longer_workload_begins_like_a_shorter_one():
    assert list(islice(generate(3, 2000), 500)) == list(generate(3, 500))


def test_calls_come_in_time_order_numbered_from_one():
    calls = list(generate(1, 3000))
    assert [call.row for call in calls] == list(range(1, 3001))
    assert [call.at_s for call in calls] == sorted(call.at_s for call in calls)
    assert calls[0].at_s >= 0


def test_every_service_and_every_level_of_the_tree_is_in_it():
    calls = list(generate(1, 3000))
    assert {call.team for call in calls} == {"support", "assist", "coding"}
    depths = {len(path) for _, path in paths(calls, Names(agents=4))}
    assert depths == {5, 6}, "threads, and sub-agents of threads"


def test_sizes_stay_in_the_range_of_the_traces():
    for call in generate(2, 3000):
        assert 0 <= call.input_tokens <= max(CONTEXT_TOKENS_MAX.values())
        assert 0 <= call.output_tokens <= max(fit.FRESH_OUTPUT_TOKENS)
        assert call.duration_s > 0


def test_draws_follow_the_quantiles_they_are_given():
    quantiles = tuple(round(1000 * probability) for probability in fit.PROBABILITIES)
    random = Random(1)
    drawn = sorted(draw(random, quantiles) for _ in range(20_000))
    for probability in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs(drawn[int(probability * len(drawn))] - 1000 * probability) < 15
