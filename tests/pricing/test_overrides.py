"""Own prices: checked, with the field that is wrong, and never a float."""

import doctest
from datetime import UTC, date, datetime

import pytest

from fiscus.contract import Tokens
from fiscus.contract.errors import Invalid
from fiscus.pricing import OverrideTier, PriceBook, PriceOverride, overrides

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)


def own(**more):
    return PriceOverride(**{"provider": "local", "model": "m", "input": 1, "output": 2, **more})


def test_the_examples_hold():
    assert doctest.testmod(overrides).attempted > 0
    assert doctest.testmod(overrides).failed == 0


@pytest.mark.parametrize(
    ("override", "field"),
    [
        (own(input=0.1), "prices[1].input"),
        (own(input=True), "prices[1].input"),
        (own(output="-1"), "prices[1].output"),
        (own(output="NaN"), "prices[1].output"),
        (own(output="Infinity"), "prices[1].output"),
        (own(cache_read="cheap"), "prices[1].cache_read"),
        (own(web_searches="1e9"), "prices[1].web_searches"),
        (own(input="1e-400"), "prices[1].input"),
        (own(provider=""), "prices[1].provider"),
        (own(model="x" * 300), "prices[1].model"),
        (own(tiers=(OverrideTier(above_input_tokens=-1),)), "prices[1].tiers[0].above_input_tokens"),
        (own(tiers=(OverrideTier(above_input_tokens=1, input="x"),)), "prices[1].tiers[0].input"),
        (own(valid_from=date(2026, 2, 1), valid_to=date(2026, 1, 1)), "prices[1].valid_to"),
        (own(valid_from=datetime(2026, 2, 1)), "prices[1].valid_from"),  # noqa: DTZ001 - that is what is wrong
    ],
)
def test_a_price_that_is_none_is_refused_by_the_name_of_its_field(override, field):
    with pytest.raises(Invalid) as raised:
        PriceBook([own(), override])
    assert raised.value.refused.field == field


def test_the_first_price_that_fits_is_taken_whatever_the_case():
    book = PriceBook([own(model="llama-3*", input="0.25"), own(model="*"), own(provider="*", model="special", input=9)])
    assert book.price_of("local", "Llama-3-70B", AT).cost(Tokens(input=1_000)) == 250_000
    assert book.price_of("LOCAL", "other", AT).cost(Tokens(input=1_000)) == 1_000_000
    assert book.price_of("anywhere", "special", AT).cost(Tokens(input=1_000)) == 9_000_000


def test_an_own_price_comes_before_the_catalogue_within_its_dates_only():
    book = PriceBook(
        [own(provider="openai", model="gpt-4o*", input="0.5", valid_from=date(2026, 6, 1), valid_to=date(2026, 7, 1))]
    )
    day = {"before": datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC), "first": datetime(2026, 6, 1, tzinfo=UTC)}
    day |= {"last": datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC), "after": datetime(2026, 7, 1, tzinfo=UTC)}
    costs = {name: book.price_of("openai", "gpt-4o", at).cost(Tokens(input=1_000)) for name, at in day.items()}
    assert costs == {"before": 2_500_000, "first": 500_000, "last": 500_000, "after": 2_500_000}


def test_an_own_price_may_begin_in_the_middle_of_a_day():
    begin = datetime(2026, 6, 1, 15, 30, tzinfo=UTC)
    book = PriceBook([own(valid_from=begin, input=7), own(input=5)])
    assert book.price_of("local", "m", AT).cost(Tokens(input=1_000)) == 5_000_000
    assert book.price_of("local", "m", begin).cost(Tokens(input=1_000)) == 7_000_000


def test_an_own_price_for_a_tier_is_for_that_tier_only():
    book = PriceBook([own(service_tier="batch", input="0.5"), own()])
    assert book.price_of("local", "m", AT, "batch").cost(Tokens(input=1_000)) == 500_000
    assert book.price_of("local", "m", AT).cost(Tokens(input=1_000)) == 1_000_000
    assert "+batch@" in book.price_of("local", "m", AT, "batch").price_id


def test_tiers_and_fees_of_an_own_price_are_charged():
    book = PriceBook([own(tiers=(OverrideTier(above_input_tokens=1_000, input=3),), requests=5)])
    price = book.price_of("local", "m", AT)
    assert price.cost(Tokens(input=1_000)) == 1_000_000 + 5_000_000
    assert price.cost(Tokens(input=1_001)) == 3_003_000 + 5_000_000
