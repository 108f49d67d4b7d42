"""What is read from genai-prices, against its own arithmetic."""

import doctest
import subprocess
import sys
from datetime import UTC, date, datetime

import pytest
from genai_prices import Usage, calc_price

from fiscus.contract import Tokens
from fiscus.pricing import PriceBook, UnknownPrice, catalogue

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
BOOK = PriceBook()
MODELS = [
    ("anthropic", "claude-sonnet-4-5", "anthropic"),
    ("anthropic", "claude-opus-4-6", "anthropic"),
    ("openai", "gpt-4o-mini", "openai"),
    ("openai", "gpt-5.5", "openai"),
    ("openai", "o3", "openai"),
    ("gemini", "gemini-2.5-pro", "google"),
    ("vertex", "gemini-2.5-flash", "google"),
    ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws"),
    ("azure-openai", "gpt-4o", "azure"),
    ("mistral", "mistral-small-latest", "mistral"),
    ("xai", "grok-4", "x-ai"),
    ("groq", "llama-3.3-70b-versatile", "groq"),
    ("deepseek", "deepseek-chat", "deepseek"),
]


def test_the_examples_hold():
    assert doctest.testmod(catalogue).attempted > 0
    assert doctest.testmod(catalogue).failed == 0


@pytest.mark.parametrize(("provider", "model", "theirs"), MODELS)
@pytest.mark.parametrize("input_tokens", [900, 150_000, 250_000, 400_000])
@pytest.mark.parametrize("at", [datetime(2025, 7, 1, tzinfo=UTC), AT, datetime(2026, 11, 1, 17, tzinfo=UTC)])
def test_a_cost_is_that_of_the_catalogue_at_every_size_and_date(provider, model, theirs, input_tokens, at):
    tokens = Tokens(input=input_tokens, cache_read=input_tokens // 3, output=1_234)
    usage = Usage(input_tokens=tokens.input, cache_read_tokens=tokens.cache_read, output_tokens=tokens.output)
    expected = calc_price(usage, model, provider_id=theirs, genai_request_timestamp=at).total_price * 10**9
    cost = BOOK.price_of(provider, model, at).cost(tokens)
    assert 0 <= cost - expected < 1
    assert cost > 0


@pytest.mark.parametrize(
    ("tier", "context"),
    [
        ("flex", {"service_tier": "flex"}),
        ("priority", {"service_tier": "priority"}),
        ("batch", {"processing": "batch"}),
        ("default", {"service_tier": "default"}),
        ("auto", {}),
        (None, {}),
    ],
)
def test_a_service_tier_and_a_batch_have_their_own_price(tier, context):
    expected = calc_price(
        Usage(input_tokens=100_000, output_tokens=1_000),
        "gpt-5.5",
        provider_id="openai",
        genai_request_timestamp=AT,
        price_context=context,
    ).total_price
    assert BOOK.price_of("openai", "gpt-5.5", AT, tier).cost(Tokens(input=100_000, output=1_000)) == expected * 10**9


def test_the_tiers_of_a_maker_are_not_those_of_who_resells_its_models():
    """Azure has no price of its own for this model; OpenAI's is taken with its surcharge and not with its discount."""
    model = "gpt-5.5"
    assert all(price.model != model for price in catalogue.GenaiPrices().prices("azure", AT.date()))
    resold = [BOOK.price_of("azure", model, AT, tier).cost(Tokens(input=1_000)) for tier in (None, "flex", "batch")]
    assert len(set(resold)) == 1
    assert BOOK.price_of("azure", model, AT, "priority").cost(Tokens(input=1_000)) > resold[0]
    assert BOOK.price_of("openai", model, AT, "flex").cost(Tokens(input=1_000)) < resold[0]


def test_the_speed_of_anthropic_is_a_tier():
    usual, fast = (BOOK.price_of("anthropic", "claude-opus-4-8", AT, tier) for tier in (None, "fast"))
    assert fast.cost(Tokens(input=1_000)) > usual.cost(Tokens(input=1_000))


# covers N11, N12
def test_tools_cost_as_the_input_that_they_are_and_dollars_are_not_rounded():
    """Results of tools were billed as output before, and $18 came out as $17.99993."""
    at = datetime(2025, 1, 1, tzinfo=UTC)
    for model, usd_in, usd_out in [("claude-3-5-sonnet-20241022", 3, 15), ("claude-3-opus-20240229", 15, 75)]:
        price = BOOK.price_of("anthropic", model, at)
        with_tools = Tokens(input=1_000, tool_definitions=200, tool_results=300)
        assert price.cost(with_tools) == price.cost(Tokens(input=1_000)) == usd_in * 10**6
        assert price.cost(Tokens(output=1_000)) == usd_out * 10**6


def test_a_price_of_the_past_is_the_one_of_then():
    call = Tokens(input=300_000, output=1_000)
    assert BOOK.price_of("anthropic", "claude-opus-4-6", datetime(2026, 2, 10, tzinfo=UTC)).cost(call) == 3_037_500_000
    assert BOOK.price_of("anthropic", "claude-opus-4-6", AT).cost(call) == 1_525_000_000


def test_the_hour_counts_where_prices_fall_at_night():
    """Each price of DeepSeek's old off-peak list is that of its hour."""
    night, day = datetime(2025, 6, 1, 17, tzinfo=UTC), datetime(2025, 6, 1, 12, tzinfo=UTC)
    cheap, usual = (BOOK.price_of("deepseek", "deepseek-chat", at).cost(Tokens(input=1_000_000)) for at in (night, day))
    for at, cost in ((night, cheap), (day, usual)):
        usage = Usage(input_tokens=1_000_000)
        theirs = calc_price(usage, "deepseek-chat", provider_id="deepseek", genai_request_timestamp=at).total_price
        assert cost == theirs * 10**9


def test_an_hour_of_claudes_cache_costs_twice_the_input_also_where_a_reseller_does_not_list_it():
    price = BOOK.price_of("openrouter", "anthropic/claude-sonnet-4.5", AT)
    assert price.cost(Tokens(input=1_000, cache_write_1h=1_000)) == 2 * price.cost(Tokens(input=1_000))


@pytest.mark.parametrize(
    "model", ["models/gemini-2.5-flash", "projects/p/locations/l/publishers/google/models/gemini-2.5-flash"]
)
def test_a_path_to_a_model_is_that_model(model):
    assert BOOK.price_of("vertex", model, AT).model == "gemini-2.5-flash"


def test_a_listed_model_without_a_price_is_unknown_and_a_free_one_is_free():
    assert isinstance(BOOK.price_of("cerebras", "qwen-3-coder-480b", AT), UnknownPrice)
    assert BOOK.price_of("openrouter", "openai/gpt-oss-20b:free", AT).cost(Tokens(input=9, output=9)) == 0


def test_what_is_sold_by_the_hour_is_not_free_by_the_token():
    price = BOOK.price_of("groq", "whisper-large-v3", AT)
    assert price.cost(Tokens(input=1)) > 0
    assert catalogue.GenaiPrices().segments("nobody", "nothing", date(2026, 1, 1), None) == ()


def test_the_catalogue_is_imported_when_a_price_is_asked_for_and_not_before():
    code = "import sys, fiscus.pricing as p; p.PriceBook(); print({'genai_prices', 'tiktoken'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_no_float_gets_into_a_price():
    for provider, model, _ in MODELS:
        price = BOOK.price_of(provider, model, AT)
        assert all(type(rate) is int for _, row in price.rows for rate in row)
        assert type(price.denominator) is int
