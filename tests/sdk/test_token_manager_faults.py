"""Known faults of the token manager that its other tests do not have by number: prices, reports and advice."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fiscus
from fiscus.analytics.recommendations import CALLS_MIN, recommendations, repeats
from fiscus.analytics.shares import breakdown
from fiscus.contract import CallRecord, Tokens
from fiscus.contract.analysis import Totals
from fiscus.contract.errors import Invalid
from fiscus.pricing import PriceBook, PriceOverride

AT = datetime(2026, 11, 1, tzinfo=UTC)
FEW = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
USD_PER_MILLION = st.decimals(min_value=0, max_value=1_000, places=6, allow_nan=False, allow_infinity=False)
MODELS = ("large", "small", "tiny")
COUNTS = st.integers(min_value=0, max_value=10**7)
COSTS = st.dictionaries(
    st.sampled_from(("a", "b", "c", "a::b", "d")), st.integers(min_value=1, max_value=10**13), min_size=2
)


# covers R1, R4
@given(st.lists(st.tuples(USD_PER_MILLION, USD_PER_MILLION), min_size=3, max_size=3), COUNTS, COUNTS)
@settings(deadline=None)
def test_known_faults_r1_r5_a_call_costs_what_its_own_model_says_to_the_last_nanodollar(rates, prompt, completion):
    book = PriceBook(
        overrides=[
            PriceOverride(provider="acme", model=model, input=str(input), output=str(output))
            for model, (input, output) in zip(MODELS, rates, strict=True)
        ]
    )
    for model, (input, output) in zip(MODELS, rates, strict=True):
        usd = (Fraction(input) * prompt + Fraction(output) * completion) / 10**6
        cost = book.price_of("acme", model, AT).cost(Tokens(input=prompt, output=completion))
        assert cost == ceil(usd * 10**9)


def test_known_fault_r5_a_thousand_tokens_at_three_cents_fit_ten_dollars_with_room_for_more():
    book = PriceBook(overrides=[PriceOverride(provider="acme", model="large", input="30", output="60")])
    assert book.price_of("acme", "large", AT).cost(Tokens(input=1_000)) == 30_000_000


@pytest.mark.parametrize("price", [0.03, float("nan"), "0,03", Decimal("0.03"), -1, True])
def test_known_fault_r1_money_never_starts_as_a_float(price):
    with pytest.raises(Invalid) as invalid:
        PriceBook(overrides=[PriceOverride(provider="acme", model="large", input=price, output=1)])
    assert invalid.value.refused.field == "prices[0].input"


# covers R2, R9
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**12)), min_size=1, max_size=30), st.data())
@FEW
def test_known_fault_r9_what_was_written_is_in_every_report_whenever_it_is_asked_for(calls, data):
    at = sorted(data.draw(st.sets(st.integers(1, len(calls)), max_size=1)) | {len(calls)})
    with fiscus.open_sync("memory:") as treasury:
        treasury.put_account("team:a")
        for index, (tokens, cost) in enumerate(calls, start=1):
            record = CallRecord(tokens=Tokens(input=tokens), model="m")
            treasury.usage("team:a", record, cost_nanousd=cost, id=f"call-{index}")
            if index not in at:
                continue
            seq = treasury.readiness().head_seq
            sums = [treasury.report("usage", min_seq=seq).totals, treasury.aggregate_usage("model", min_seq=seq).totals]
            for totals in (*sums, treasury.aggregate_usage("model", min_seq=seq).groups[0].totals):
                assert (totals.calls, totals.tokens, totals.cost_nanousd) == (
                    index,
                    sum(tokens for tokens, _ in calls[:index]),
                    sum(cost for _, cost in calls[:index]),
                )


# covers R9
@given(COSTS)
def test_known_fault_r12_parts_of_a_report_are_ranked_by_what_they_cost_and_add_up(costs):
    parts = {name: Totals(calls=1, cost_nanousd=cost) for name, cost in costs.items()}
    shares = breakdown("model", parts, Totals(calls=len(costs), cost_nanousd=sum(costs.values()))).shares
    assert all(first.totals.cost_nanousd >= second.totals.cost_nanousd for first, second in pairwise(shares))
    assert {one.name: one.totals.cost_nanousd for one in shares} == costs
    assert abs(sum(one.percent for one in shares) - 100) < 0.1


# covers R11
@given(COSTS)
def test_known_faults_r12_r13_the_cheapest_model_is_the_cheapest_and_advice_is_not_thrown_away(costs):
    calls = {
        ("plan", name): Totals(calls=CALLS_MIN, tokens=CALLS_MIN * 10, cost_nanousd=cost * CALLS_MIN)
        for name, cost in costs.items()
    }
    found = recommendations(task_models=calls, templates={}, outcomes={}, models={}, repeated=())
    cheaper = [one for one in found if one.kind == "cheaper_model"]
    least = min(costs.values())
    expected = sum((cost - least) * CALLS_MIN for cost in costs.values() if cost > least)
    assert sum(one.saving_nanousd for one in cheaper) == expected
    assert len(cheaper) == sum(cost > least for cost in costs.values())


# covers R14
@given(st.dictionaries(st.text(alphabet="ab:", min_size=1, max_size=5), st.integers(3, 9), min_size=1))
def test_known_fault_r19_inputs_that_only_look_alike_are_not_the_same(inputs):
    sums = {name: Totals(calls=calls, cost_nanousd=calls) for name, calls in inputs.items()}
    assert {one.input_hash: one.calls for one in repeats(sums)} == inputs
