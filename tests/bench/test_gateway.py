"""Every measure of the gateway runs and checks itself, and what they count with counts right."""

import subprocess

import pytest

from bench import gateway, gateway_latency, gateway_rates, gateway_truth, gateway_usage
from bench.bars import measures, run_measures, table
from bench.gateway_load import Connection
from bench.gateway_peers import hardcap_program
from bench.gateway_streams import ASKED_TOKENS, Governor
from bench.gateway_upstream import Produced
from bench.gateway_wire import LAST_CHUNK, STREAM_HEAD, chunked, completion, event, response

QUICK = {
    "gateway_rates": lambda: gateway_rates.measure(0, rounds=1),
    "gateway_latency": lambda: gateway_latency.measure(0, rounds=1, big_body_bytes=500_000),
    "gateway_truth": lambda: gateway_truth.measure(0, streams=(8,), smaller={}),
    "gateway_usage": lambda: gateway_usage.measure(0),
}
MAY_BE_ZERO = {"overshoot_tokens_max", "cut_streams_per_account_mean"}
MAY_BE_NEGATIVE = {"big_body_moves_p99_ms"}


@pytest.fixture(scope="module")
def _hardcap():
    try:
        hardcap_program()
    except subprocess.CalledProcessError:
        pytest.skip("hardcap is not to be had here")


@pytest.mark.slow
@pytest.mark.usefixtures("_hardcap")
@pytest.mark.parametrize("measure", measures(gateway.BARS))
def test_each_measure_runs_and_gives_the_figures_of_its_bars(measure):
    figures = QUICK[measure]()
    for bar in gateway.BARS:
        if bar.measure == measure and bar.name not in MAY_BE_NEGATIVE:
            assert figures[bar.name] >= 0, bar.name
            assert figures[bar.name] > 0 or bar.name in MAY_BE_ZERO, bar.name


def test_the_result_has_a_key_for_every_bar_and_says_which_were_missed():
    named = {bar.bound: 100.0 for bar in gateway.BARS if isinstance(bar.bound, str)}
    bounds = {bar.name: bar.bound_of(named) for bar in gateway.BARS}
    worst = named | {
        bar.name: bounds[bar.name] * 0.99 if bar.at_least else bounds[bar.name] * 1.01 + 0.01 for bar in gateway.BARS
    }
    result = run_measures(gateway.BARS, [bar.name for bar in gateway.BARS], 1.0, lambda measure, scale: worst)
    assert not any(found["met"] for found in result["bars"].values())
    assert table(gateway.BARS, result).count("MISSED") == len(gateway.BARS)


STREAMED = STREAM_HEAD + chunked(event({"content": " a"})) + chunked(event({}, "stop")) + LAST_CHUNK


@pytest.mark.parametrize("answer", [response(completion(20)), STREAMED, response(b"", status="429 Too Many Requests")])
@pytest.mark.parametrize("size", [1, 3, 7, 100, 10_000])
def test_a_response_is_whole_at_its_last_byte_wherever_it_is_split(answer, size):
    ended = []
    connection = Connection(ended.append, keeps=True)
    for at in range(0, len(answer), size):
        assert not ended, at
        connection.data_received(answer[at : at + size])
    assert ended == [connection]
    assert connection.kept == answer
    assert connection.status == answer[9:12]


def test_a_connection_that_is_lost_before_its_answer_is_not_a_success():
    ended = []
    connection = Connection(ended.append)
    connection.due_s = 1.0
    connection.data_received(STREAMED[:-1])
    connection.connection_lost(None)
    assert ended == [connection]
    assert connection.status == b"-"


def test_count_after_admits_until_the_budget_is_used():
    governor = Governor("count_after", 100)
    assert [governor.admit() for _ in range(3)] == ["admitted"] * 3
    governor.settle(99)
    assert governor.admit() == "admitted"
    governor.settle(1)
    assert governor.admit() == "exceeded"


def test_reserve_max_holds_the_whole_bound_of_each_stream():
    governor = Governor("reserve_max", 2 * ASKED_TOKENS)
    assert [governor.admit() for _ in range(3)] == ["admitted", "admitted", "busy"]
    governor.settle(1)
    governor.settle(1)
    assert [governor.admit(), governor.admit()] == ["admitted", "busy"]
    governor.settle(ASKED_TOKENS)
    assert governor.admit() == "exceeded"


def test_running_streams_are_averaged_until_nine_tenths_are_produced():
    one = Produced()
    one.moved(10.0, 1)
    one.moved(12.0, 1)
    one.moved(14.0, 0)
    one.most_s = 14.0
    one.moved(20.0, -1)
    assert gateway_truth._running(one) == pytest.approx((1 * 2 + 2 * 2) / 4)
    assert one.running == 1
