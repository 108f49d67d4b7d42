"""Own prices: dated, named, never edited; a bad one names its field; kept in a bounded state (R12, R15, R36)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fiscus.core.commands import PriceTier, PutPrice, RemovePrice, Request
from fiscus.core.decide import decide, new_draft
from fiscus.core.events import PricePut, PriceRemoved
from fiscus.core.fold import fold
from fiscus.core.outcomes import PriceAnswer, Refused
from fiscus.core.prices import AHEAD_MAX
from fiscus.core.state import PRICE_TERMS_MAX
from tests.core.builders import DAY, START, START_MS

RATES = {"input": 250_000_000, "output": 1_250_000_000}


def put(**fields):
    return PutPrice(**{"price": "p", "provider": "vllm", "model": "llama-*", "rates": RATES, **fields})


class Prices:
    def __init__(self):
        self.draft = new_draft()

    def ask(self, command, now=START_MS, scope=None):
        return decide(self.draft, Request(command=command, scope=scope, actor="k1"), now)

    def said(self, command, now=START_MS):
        answer = self.ask(command, now)
        assert isinstance(answer, PriceAnswer), answer
        return answer


@pytest.fixture
def prices():
    return Prices()


def in_days(days):
    return START + timedelta(days=days)


# covers R12
def test_a_new_price_is_appended_and_the_old_one_holds_until_then(prices):
    prices.said(put())
    prices.said(put(rates={**RATES, "input": 1}, valid_from=in_days(2)))
    answer = prices.said(put(rates={**RATES, "input": 2}, valid_from=in_days(1)), START_MS + 1)
    assert [(one.valid_from, one.rates["input"]) for one in answer.terms] == [(START, 250_000_000), (in_days(1), 2)]
    [first, _, third] = prices.draft.events
    assert isinstance(first, PricePut)
    assert (first.actor, first.order, third.order) == ("k1", 1, 3)


def test_the_same_again_changes_nothing_and_a_name_keeps_its_model(prices):
    for _ in range(2):
        prices.said(put())
        prices.said(put(valid_from=START))
    prices.said(put(valid_from=START), START_MS + DAY)
    assert len(prices.draft.events) == 1
    refused = prices.ask(put(model="other"))
    assert (refused.code, refused.field) == ("conflict", "price")


def test_a_removed_price_ends_now_and_its_name_can_be_used_again(prices):
    prices.said(put())
    prices.said(put(rates={**RATES, "input": 1}, valid_from=in_days(2)))
    ended = prices.said(RemovePrice(price="p"), START_MS + DAY)
    assert not ended.active
    assert [(one.valid_from, one.valid_to) for one in ended.terms] == [(START, in_days(1))]
    assert prices.said(RemovePrice(price="p"), START_MS + DAY) == ended
    assert [type(event) for event in prices.draft.events] == [PricePut, PricePut, PriceRemoved]
    again = prices.said(put(), START_MS + 3 * DAY)
    assert again.active
    assert [one.valid_from for one in again.terms] == [START, in_days(3)]
    assert prices.ask(RemovePrice(price="q")).code == "unknown_price"


def test_what_is_kept_is_bounded_and_what_holds_now_is_kept(prices):
    for number in range(3 * PRICE_TERMS_MAX):
        prices.said(put(rates={**RATES, "input": number}), START_MS + number)
    assert len(prices.draft.prices["p"].terms) == PRICE_TERMS_MAX
    last = START_MS + 3 * PRICE_TERMS_MAX
    for number in range(1, AHEAD_MAX + 1):
        prices.said(put(rates={**RATES, "input": number}, valid_from=in_days(number)), last)
    refused = prices.ask(put(valid_from=in_days(99)), last)
    assert (refused.code, refused.field) == ("invalid", "valid_from")
    assert prices.draft.prices["p"].terms[0].start <= last


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"price": ""}, "price"),
        ({"provider": ""}, "provider"),
        ({"model": "x" * 257}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"service_tier": ""}, "service_tier"),
        ({"rates": {"input": 1}}, "rates.output"),
        ({"rates": {"output": 1}}, "rates.input"),
        ({"rates": {**RATES, "inptu": 1}}, "rates.inptu"),
        ({"rates": {**RATES, "input": -1}}, "rates.input"),
        ({"rates": {**RATES, "input": 10**15 + 1}}, "rates.input"),
        ({"rates": {**RATES, "input": 0.25}}, "rates.input"),
        ({"rates": {**RATES, "input": float("nan")}}, "rates.input"),
        ({"rates": {**RATES, "input": 1e308}}, "rates.input"),
        ({"rates": {**RATES, "input": True}}, "rates.input"),
        ({"rates": {**RATES, "input": "0.25"}}, "rates.input"),
        ({"fees": {"planets": 1}}, "fees.planets"),
        ({"fees": {"requests": -1}}, "fees.requests"),
        ({"tiers": (PriceTier(above_input_tokens=-1, rates={}),)}, "tiers[0].above_input_tokens"),
        ({"tiers": (PriceTier(above_input_tokens=1, rates={"reasoning": 1}),)}, "tiers[0].rates.reasoning"),
        ({"tiers": (PriceTier(above_input_tokens=1, rates={}),) * 2}, "tiers[1].above_input_tokens"),
        ({"tiers": (PriceTier(above_input_tokens=1, rates={}),) * 17}, "tiers"),
        ({"valid_from": in_days(-1)}, "valid_from"),
        ({"valid_from": START.replace(tzinfo=None)}, "valid_from"),
        ({"valid_to": in_days(-1)}, "valid_to"),
        ({"valid_from": in_days(2), "valid_to": in_days(2)}, "valid_to"),
    ],
)
def test_a_bad_price_is_refused_with_the_name_of_the_field_and_nothing_is_written(prices, fields, field):
    refused = prices.ask(put(**fields))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("invalid", field)
    assert not prices.draft.events


def test_a_key_that_is_bound_states_no_price_and_nothing_is_written_before_all_nodes_read_it(prices):
    for command in (put(), RemovePrice(price="p")):
        assert prices.ask(command, scope="team:a").code == "forbidden"
    prices.draft.format = 1
    assert prices.ask(put()).code == "precondition_failed"
    assert not prices.draft.events


def test_the_fold_of_what_was_written_is_the_same_state(prices):
    prices.said(put(tiers=(PriceTier(above_input_tokens=9, rates={"input": 1}),), fees={"requests": 5}))
    prices.said(put(rates={**RATES, "input": 1}), START_MS + 5)
    prices.said(RemovePrice(price="p"), START_MS + 9)
    again = new_draft()
    for event in prices.draft.events:
        fold(again, event, START_MS + 9)
    for draft in (again, prices.draft):
        draft.prices["p"].stamp = 0
    assert again.prices == prices.draft.prices
