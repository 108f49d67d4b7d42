"""Own prices between the ledger and the price book: exact both ways."""

import doctest
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiscus.contract import Tokens
from fiscus.contract.errors import Invalid
from fiscus.core.outcomes import PriceAnswer, PriceTermsAnswer
from fiscus.pricing import Price, PriceBook, stated
from fiscus.pricing.stated import overrides_of, put_price

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def answer(*terms, **fields):
    return PriceAnswer(
        **{"price": "p", "provider": "vllm", "model": "m", "service_tier": None, "active": True, **fields}, terms=terms
    )


def terms(start, input, end=None, **more):
    given = {"fees": {}, "tiers": (), **more}
    return PriceTermsAnswer(valid_from=start, valid_to=end, rates={"input": input, "output": 3_000_000}, **given)


def cost(book, at):
    price = book.price_of("vllm", "m", at)
    return price.cost(Tokens(input=1_000_000)) if isinstance(price, Price) else None


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_what_the_ledger_keeps_is_what_a_million_tokens_cost(nanousd):
    assert cost(PriceBook(overrides_of([answer(terms(AT, nanousd))])), AT) == nanousd


def test_each_terms_hold_until_the_next_or_their_end_and_the_last_change_comes_first():
    hour = timedelta(hours=1)
    prices = [
        answer(terms(AT, 1), terms(AT + hour, 2), terms(AT + 3 * hour, 3, AT + 4 * hour)),
        answer(terms(AT - hour, 9), price="older"),
    ]
    book = PriceBook(overrides_of(prices))
    assert [cost(book, AT + hour * index / 2) for index in range(-4, 10)] == [
        *(None, None, 9, 9, 1, 1, 2, 2, 2, 2, 3, 3, 9, 9),
    ]


def test_prices_can_be_stated_anew_and_a_wrong_one_changes_nothing():
    book = PriceBook(overrides_of([answer(terms(AT, 1))]))
    assert cost(book, AT) == 1
    wrong = overrides_of([answer(terms(AT, 10**16))])
    with pytest.raises(Invalid):
        book.restate(wrong)
    assert cost(book, AT) == 1
    book.restate(overrides_of([answer(terms(AT, 2))]))
    assert cost(book, AT) == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rates": {"input": 0.25, "output": 1}}, "rates.input"),
        ({"rates": {"input": "x", "output": 1}}, "rates.input"),
        ({"rates": {"input": "nan", "output": 1}}, "rates.input"),
        ({"rates": {"input": "1e308", "output": 1}}, "rates.input"),
        ({"rates": {"input": 1, "output": "0.0000000001"}}, "rates.output"),
        ({"rates": {"input": 1, "output": True}}, "rates.output"),
        ({"rates": {"input": 1, "output": 1}, "fees": {"requests": "-1"}}, "fees.requests"),
        ({"rates": {"input": 1, "output": 1}, "tiers": {5: {"input": "x"}}}, "tiers[0].rates.input"),
    ],
)
def test_a_price_that_is_none_names_the_field(fields, field):
    with pytest.raises(Invalid) as refused:
        put_price(None, "vllm", "m", **fields)
    assert refused.value.refused.field == field


def test_the_examples_hold():
    assert doctest.testmod(stated).failed == 0
