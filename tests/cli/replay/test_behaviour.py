"""Who misbehaves."""

from collections import Counter

from fiscus.cli.replay.behaviour import Kind, behaviour


def test_a_call_has_the_same_fate_whenever_it_is_replayed():
    assert [behaviour(1, row, 0.3) for row in range(200)] == [behaviour(1, row, 0.3) for row in range(200)]
    assert [behaviour(1, row, 0.3) for row in range(200)] != [behaviour(2, row, 0.3) for row in range(200)]


def test_chaos_is_the_part_that_misbehaves_in_all_three_ways_alike():
    kinds = Counter(behaviour(1, row, 0.3).kind for row in range(10_000))
    for kind in (Kind.KILLED, Kind.RETRIES, Kind.LATE):
        assert 850 < kinds[kind] < 1_150


def test_without_chaos_all_behave_and_with_all_of_it_none_does():
    assert {behaviour(1, row, 0.0).kind for row in range(500)} == {Kind.WELL}
    assert Kind.WELL not in {behaviour(1, row, 1.0).kind for row in range(500)}


def test_only_the_killed_leave_their_answer_unfinished():
    for row in range(1_000):
        fate = behaviour(1, row, 0.5)
        assert 0 <= fate.share < 1 if fate.kind is Kind.KILLED else fate.share == 1
