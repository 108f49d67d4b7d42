"""Whose price it is, what becomes of an unknown one, and how fast it is found again."""

import doctest
import time
from datetime import UTC, datetime

import pytest

from fiscus.contract import Tokens
from fiscus.contract.errors import Invalid
from fiscus.pricing import Price, PriceBook, PriceOverride, UnknownPrice, book
from fiscus.pricing.catalogue import GenaiPrices

AT = datetime(2026, 11, 1, tzinfo=UTC)
CALL = Tokens(input=10_000, output=1_000)


class Counted:
    """A catalogue that counts how often it is asked."""

    def __init__(self):
        self.asked = 0
        self.inner = GenaiPrices()

    def segments(self, *question):
        self.asked += 1
        return self.inner.segments(*question)

    def prices(self, *question):
        return self.inner.prices(*question)


def test_the_examples_hold():
    assert doctest.testmod(book).attempted > 0
    assert doctest.testmod(book).failed == 0


# covers N12
@pytest.mark.parametrize("policy", ["refuse", "tokens_only"])
def test_an_unknown_price_says_what_is_to_be_done(policy):
    answer = PriceBook(unknown_policy=policy).price_of("openai", "no-such-model", AT)
    assert isinstance(answer, UnknownPrice)
    assert answer.policy == policy
    assert "no-such-model" in answer.reason


@pytest.mark.parametrize("provider", ["openai", "anthropic", "nobody", None])
def test_the_dearest_price_is_at_least_that_of_every_known_model(provider):
    answer = PriceBook(unknown_policy="dearest").price_of(provider, "no-such-model", AT)
    assert isinstance(answer, Price)
    assert answer.source == "dearest"
    listed = list(GenaiPrices().prices(None if provider == "nobody" else provider, AT.date()))
    assert len(listed) > 10
    for call in (CALL, Tokens(input=300_000, cache_write_1h=300_000), Tokens(output=5, audio_output=5)):
        assert answer.cost(call) >= max(price.cost(call) for price in listed)


def test_a_name_without_end_is_unknown_and_not_an_error():
    assert isinstance(PriceBook().price_of("openai", "x" * 100_000, AT), UnknownPrice)


def test_a_time_needs_a_zone_and_a_policy_must_be_one():
    with pytest.raises(Invalid) as raised:
        PriceBook().price_of("openai", "gpt-4o", datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is wrong
    assert raised.value.refused.field == "at"
    with pytest.raises(Invalid) as raised:
        PriceBook(unknown_policy="free")
    assert raised.value.refused.field == "unknown_price"


def test_a_price_is_resolved_once_a_day():
    catalogue = Counted()
    prices = PriceBook(catalogue=catalogue)
    for hour in range(24):
        prices.price_of("openai", "gpt-4o", AT.replace(hour=hour))
        prices.price_of("openai", "no-such-model", AT.replace(hour=hour))
    assert catalogue.asked == 2
    prices.price_of("openai", "gpt-4o", AT.replace(day=2))
    assert catalogue.asked == 3


def test_what_is_kept_resolved_has_a_bound():
    prices = PriceBook([PriceOverride(provider="local", model="*", input=1, output=1)])
    for number in range(book.RESOLVED_MAX + 10):
        prices.price_of("local", f"model-{number}", AT)
    assert len(prices._resolved) <= book.RESOLVED_MAX


def test_a_known_price_is_found_and_applied_in_microseconds():
    prices = PriceBook()
    prices.price_of("anthropic", "claude-sonnet-4-5", AT)
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(500):
            prices.price_of("anthropic", "claude-sonnet-4-5", AT).cost(CALL)
        took.append((time.perf_counter() - begin) / 500)
    assert min(took) <= 10e-6


def test_models_are_compared_by_what_one_call_costs_and_unknown_ones_are_not_the_cheapest():
    asked = [("anthropic", "claude-opus-4-6"), ("nobody", "nothing"), ("openai", "gpt-4o-mini"), ("openai", "gpt-4o")]
    compared = PriceBook().compare(CALL, asked, AT)
    assert [one.model for one in compared] == ["gpt-4o-mini", "gpt-4o", "claude-opus-4-6", "nothing"]
    costs = [one.cost_nanousd for one in compared]
    assert costs[:3] == sorted(costs[:3])
    assert costs[3] is None
