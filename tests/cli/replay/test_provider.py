"""Prices, upper bounds and the provider's own count."""

import pytest

from fiscus.cli.replay.provider import DEAREST, Provider, amounts, cost_nanousd, price_of, upper_bound
from fiscus.cli.traces import Call

CALL = Call(row=1, at_s=0.0, model="claude-opus-4-5-20251101", input_tokens=1_000, output_tokens=200, duration_s=1.0)


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("gpt-35-turbo-16k", "gpt-35-turbo-16k"),
    ],
)
def test_the_longest_beginning_of_a_name_makes_the_price(model, price):
    assert price_of(model).model == price


def test_a_model_nobody_knows_costs_as_much_as_the_dearest_and_never_nothing():
    assert price_of("new-model-9") == DEAREST
    assert cost_nanousd("new-model-9", 1, 1) == 15_000 + 75_000


def test_a_cost_is_an_integer_rounded_up_once():
    assert cost_nanousd("claude-opus-4-5", 1_000, 200) == 1_000 * 5_000 + 200 * 25_000
    assert cost_nanousd("claude-opus-4-5", 0, 0) == 0
    assert isinstance(cost_nanousd("claude-opus-4-5", 3, 7), int)


def test_the_upper_bound_covers_what_the_call_uses_and_does_not_look_at_its_output():
    bound, used = upper_bound(CALL), amounts(CALL.model, CALL.input_tokens, CALL.output_tokens)
    assert all(bound[unit] >= used[unit] for unit in used)
    assert bound["output_tokens"] == 32_000
    assert bound["input_tokens"] == 1_000 + 20 + 64


def test_the_provider_counts_every_account_of_the_path_and_bills_what_was_produced_before_a_kill():
    provider = Provider()
    used = provider.produce(CALL, ("global", "team:1"), share=0.5)
    assert used["output_tokens"] == 100
    assert used["input_tokens"] == 1_000, "the input is billed whole"
    provider.produce(CALL, ("global", "team:2"))
    assert provider.produced["global"]["tokens"] == 1_100 + 1_200
    assert provider.produced["team:1"]["tokens"] == 1_100
    assert provider.produced["global"]["calls"] == provider.calls == 2


def test_what_goes_beyond_the_bound_is_counted_apart():
    provider = Provider()
    long_answer = Call(row=1, at_s=0, model="gpt-35-turbo-16k", input_tokens=10, output_tokens=5_000, duration_s=1)
    provider.produce(long_answer, ("global",))
    assert provider.produced["global"]["output_tokens"] == 5_000
    assert provider.produced_within_bounds["global"]["output_tokens"] == 4_096
