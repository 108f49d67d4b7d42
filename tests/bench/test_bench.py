"""Every measure of the benchmark runs and checks itself; how fast it is here says nothing."""

import subprocess

import pytest

from bench import (
    accounts,
    against_redis,
    growth,
    inprocess,
    latency,
    on_postgres,
    over_http,
    production,
    threads,
    treasury,
)
from bench.bars import measures, run_measures, table

BARS = treasury.BARS + production.BARS

QUICK = {
    "inprocess": lambda: inprocess.measure(0, rounds=1),
    "over_http": lambda: over_http.measure(0, rounds=1),
    "latency": lambda: latency.measure(0, rounds=1),
    "accounts": lambda: accounts.measure(0, starts=1),
    "threads": lambda: threads.measure(0),
    "on_postgres": lambda: on_postgres.measure(0, rounds=1),
    "against_redis": lambda: against_redis.measure(0, rounds=1),
    "growth": lambda: growth.measure(0, rounds=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("measure", measures(BARS))
def test_each_measure_runs_and_gives_the_figures_of_its_bars(measure):
    figures = QUICK[measure]()
    for bar in BARS:
        if bar.measure == measure:
            assert figures[bar.name] > 0, bar.name


def test_the_result_has_a_key_for_every_bar_and_says_which_were_missed():
    worst = {bar.name: bar.bound * (0.99 if bar.at_least else 1.01) for bar in BARS}
    result = run_measures(BARS, [bar.name for bar in BARS], 1.0, lambda measure, scale: worst)
    assert [name for name in result if name in {bar.name for bar in BARS}] == [bar.name for bar in BARS]
    assert not any(found["met"] for found in result["bars"].values())
    assert table(BARS, result).count("MISSED") == len(BARS)


def test_a_bar_that_is_just_reached_is_met():
    exact = {bar.name: bar.bound for bar in BARS}
    result = run_measures(BARS, [bar.name for bar in BARS], 1.0, lambda measure, scale: exact)
    assert all(found["met"] for found in result["bars"].values())
    assert "MISSED" not in table(BARS, result)


def test_a_measure_that_fails_costs_its_own_figures_only():
    figures = {bar.name: bar.bound for bar in BARS}

    def run(measure, scale):
        if measure == "latency":
            raise subprocess.TimeoutExpired("bench.latency", 1)
        return figures

    result = run_measures(BARS, [bar.name for bar in BARS], 1.0, run)
    assert list(result["failed"]) == ["latency"]
    assert {bar.name for bar in BARS} - set(result["bars"]) == {"reserve_p99_vs_commit_p99"}
    assert table(BARS, result).count(" met ") == len(BARS) - 1


def test_one_figure_can_be_measured_by_itself():
    asked = []

    def run(measure, scale):
        asked.append((measure, scale))
        return {"inprocess_pairs_per_s": 1.0, "inprocess_vs_bare": 1.0}

    result = run_measures(BARS, ["inprocess_vs_bare"], 0.5, run)
    assert asked == [("inprocess", 0.5)]
    assert "inprocess_vs_bare" in result
    assert "inprocess_pairs_per_s" not in result
