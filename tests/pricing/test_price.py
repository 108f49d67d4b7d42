"""Costs are exact, rounded up once; a bound holds for every way in which a call may be billed."""

import doctest
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.contract import Tokens
from fiscus.pricing import Extras, price
from fiscus.pricing.price import FEES_UNLESS_KNOWN, INPUT_RATES, OUTPUT_RATES, Row, price_from

CLAUDE = {
    "input": Decimal(3),
    "cache_read": Decimal("0.3"),
    "cache_write_5m": Decimal("3.75"),
    "cache_write_1h": Decimal(6),
    "output": Decimal(15),
}
CLIFF = [(200_000, {"input": Decimal(6), "output": Decimal("22.5")})]


def made(rates, **more):
    return price_from(rates, provider="p", model="m", source_name="test", **more)


def test_the_examples_hold():
    assert doctest.testmod(price).attempted > 0
    assert doctest.testmod(price).failed == 0


@pytest.mark.parametrize(
    ("tokens", "nanousd"),
    [
        (Tokens(input=100_000, output=0), 300_000_000),
        (Tokens(input=0, output=1), 15_000),
        (Tokens(input=100, cache_read=100), 30_000),
        (Tokens(input=100, cache_write_5m=60, cache_write_1h=40), 60 * 3_750 + 40 * 6_000),
        (
            Tokens(input=100, cache_read=40, cache_write_5m=30, cache_write_1h=20),
            10 * 3_000 + 12_000 + 112_500 + 120_000,
        ),
        (Tokens(input=100, cache_read=900), 30_000),  # some hosts report more cached than there was
        (Tokens(input=0, output=10, reasoning=10), 150_000),  # reasoning is output
        (Tokens(input=200_000), 600_000_000),  # at the cliff, not above it
        (Tokens(input=200_001, output=1), 200_001 * 6_000 + 22_500),  # above it all tokens pay
        (Tokens(), 0),
    ],
)
def test_a_cost_is_the_sum_of_its_parts(tokens, nanousd):
    assert made(CLAUDE, tiers=CLIFF).cost(tokens) == nanousd


def test_a_cost_is_rounded_up_once():
    """One token of a model at $0.0000001 a million is a ten-millionth of a nano-dollar: one nano-dollar, once."""
    tiny = made({"input": Decimal("0.0000001"), "output": Decimal("0.0000001")})
    assert tiny.cost(Tokens(input=1)) == 1
    assert tiny.cost(Tokens(input=5_000, output=5_000)) == 1
    assert tiny.cost(Tokens(input=5_000, output=5_001)) == 2


def test_audio_and_images_pay_their_own_rates_cached_or_not():
    heard = made(
        {**CLAUDE, "audio_input": Decimal(40), "audio_cache_read": Decimal("2.5"), "audio_output": Decimal(80)}
    )
    assert heard.cost(Tokens(input=100, audio_input=60)) == 60 * 40_000 + 40 * 3_000
    assert heard.cost(Tokens(input=100, audio_input=60, cache_read=80)) == 20 * 40_000 + 40 * 2_500 + 40 * 300
    assert heard.cost(Tokens(input=0, output=10, audio_output=4)) == 4 * 80_000 + 6 * 15_000
    drawn = made({**CLAUDE, "image_output": Decimal(120), "image_input": Decimal(10)})
    assert (
        drawn.cost(Tokens(input=10, image_input=10, output=10), Extras(image_output=10)) == 10 * 10_000 + 10 * 120_000
    )


def test_a_picture_that_is_made_of_a_text_is_within_the_worst_case():
    drawn = made({**CLAUDE, "image_output": Decimal(120), "audio_output": Decimal(80)})
    bound = drawn.worst_case_cost(
        input_tokens_max=10, output_tokens_max=10, may_have_audio=False, may_have_images=False
    )
    assert bound >= drawn.cost(Tokens(input=10, output=10), Extras(image_output=10))


def test_a_server_tool_costs_its_fee_and_one_without_a_price_is_not_free():
    searched = made(CLAUDE, fees={"web_searches": Fraction(10_000_000), "requests": Fraction(5_000_000)})
    assert searched.cost(Tokens(), Extras(web_searches=3)) == 35_000_000
    assert searched.unpriced(Extras(web_searches=3)) == ()
    assert searched.cost(Tokens(), Extras(file_searches=1)) == 5_000_000 + FEES_UNLESS_KNOWN["file_searches"]
    assert searched.unpriced(Extras(web_searches=3, file_searches=1)) == ("file_searches",)


def test_what_is_not_stated_follows_from_what_is_and_is_never_free():
    bare = made({"input": Decimal(2), "output": Decimal(8)})
    everything = Tokens(
        input=6, cache_read=1, cache_write_5m=1, cache_write_1h=1, audio_input=1, image_input=1, output=1
    )
    assert bare.cost(everything) == 6 * 2_000 + 8_000
    embedding = made({"input": Decimal(2)})
    assert embedding.cost(Tokens(input=1, output=1)) == 4_000


def test_the_id_of_a_price_is_stable_and_changes_with_the_price():
    first, again = made(CLAUDE, valid_from="2025-09-29"), made(CLAUDE, valid_from="2025-09-29")
    other = made({**CLAUDE, "output": Decimal(16)}, valid_from="2025-09-29")
    assert first.price_id == again.price_id
    assert first.price_id.startswith("test:p/m@2025-09-29#")
    assert first.price_id != other.price_id


usd = st.decimals(min_value=0, max_value=200, places=4)
rates = st.builds(
    lambda known, chosen: {name: known[name] for name in Row._fields if name in ("input", "output") or name in chosen},
    st.fixed_dictionaries(dict.fromkeys(Row._fields, usd)),
    st.sets(st.sampled_from(Row._fields)),
)
prices = st.builds(
    lambda base, tiers, fee: made(
        base, tiers=tiers, fees={"requests": Fraction(fee), "web_searches": Fraction(fee, 3)}
    ),
    rates,
    st.lists(st.tuples(st.integers(0, 3_000), rates), max_size=3, unique_by=lambda tier: tier[0]),
    st.integers(0, 10**7),
)
count = st.integers(0, 5_000)


@st.composite
def bounded_calls(draw):
    """Bounds, and a call within them with any split, also one whose parts exceed their whole."""
    input_max, output_max, n = draw(count), draw(count), draw(st.integers(1, 4))
    parts = {
        name: draw(count) for name in ("cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input")
    }
    parts |= {name: draw(count) for name in ("reasoning", "audio_output")}
    tokens = Tokens(input=draw(st.integers(0, input_max)), output=draw(st.integers(0, n * output_max)), **parts)
    names = ("image_output", "video_output", "video_input", "web_searches", "file_searches")
    return input_max, output_max, n, tokens, Extras(**{name: draw(count) for name in names})


@given(prices, bounded_calls())
def test_no_call_within_its_bounds_costs_more_than_the_worst_case(price, call):
    input_max, output_max, n, tokens, extras = call
    bound = price.worst_case_cost(input_tokens_max=input_max, output_tokens_max=output_max, n=n, extras_max=extras)
    assert price.cost(tokens, extras) <= bound


@given(prices, bounded_calls())
def test_without_cache_writes_sound_and_pictures_the_smaller_bound_still_holds(price, call):
    input_max, output_max, n, tokens, _ = call
    plain = Tokens(input=tokens.input, output=tokens.output, cache_read=tokens.cache_read, reasoning=tokens.reasoning)
    bounds = {"input_tokens_max": input_max, "output_tokens_max": output_max, "n": n}
    bound = price.worst_case_cost(**bounds, may_write_cache=False, may_have_audio=False, may_have_images=False)
    assert price.cost(plain) <= bound <= price.worst_case_cost(**bounds)


def test_the_worst_case_is_reached():
    """Each of these ways is dearer than plain input, so a bound that forgets one is broken by it."""
    sold = made({**CLAUDE, "reasoning": Decimal(30)}, tiers=CLIFF)
    bound = {"input_tokens_max": 100, "output_tokens_max": 10}
    assert sold.worst_case_cost(**bound) == sold.cost(Tokens(input=100, cache_write_1h=100, output=10, reasoning=10))
    long = {"input_tokens_max": 200_001, "output_tokens_max": 10}
    assert sold.worst_case_cost(**long) >= sold.cost(Tokens(input=200_001, output=10))
    assert sold.worst_case_cost(**bound, n=3) > sold.worst_case_cost(**bound)


def test_the_rates_of_input_and_output_are_all_rates():
    assert Row._fields == INPUT_RATES + OUTPUT_RATES
