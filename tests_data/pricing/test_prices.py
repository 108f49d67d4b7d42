"""Prices against costs that somebody really booked, and against two tables of prices."""

import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from fiscus.contract import Tokens
from fiscus.pricing import Price, PriceBook, UnknownPrice

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BOOK = PriceBook()


def opened(path):
    return gzip.open(DATA / path, "rt", encoding="utf-8")


def nanousd(usd):
    """Floats of the recording to whole nano-dollars; they are sums of exact list prices."""
    return int((Decimal(str(usd)) * 10**9).to_integral_value())


def booked_messages():
    with opened("trajectories/pi_session_large-session.jsonl.gz") as lines:
        for line in lines:
            entry = json.loads(line)
            message = entry.get("message") or {}
            if message.get("usage", {}).get("cost", {}).get("total"):
                yield datetime.fromisoformat(entry["timestamp"]), message


def test_every_cost_of_a_real_coding_session_is_reproduced_to_the_nano_dollar():
    compared, cached = 0, 0
    for at, message in booked_messages():
        usage = message["usage"]
        read, written = usage["cacheRead"], usage["cacheWrite"]
        tokens = Tokens(
            input=usage["input"] + read + written, output=usage["output"], cache_read=read, cache_write_5m=written
        )
        price = BOOK.price_of(message["provider"], message["model"], at)
        assert price.cost(tokens) == nanousd(usage["cost"]["total"]), message["usage"]
        compared, cached = compared + 1, cached + bool(read and written)
    assert compared > 400
    assert cached > 300


def plain_prices():
    """(provider, model, USD per million of input and output) of another copy of genai-prices' data."""
    with opened("prices/genai_prices_data.json.gz") as text:
        for provider in json.load(text):
            for model in provider["models"]:
                prices = model["prices"]
                rates = prices if isinstance(prices, dict) else None
                if rates and all(isinstance(rates.get(name), int | float) for name in ("input_mtok", "output_mtok")):
                    yield provider["id"], model["id"], rates


def test_the_catalogue_agrees_with_another_copy_of_its_data():
    """Equal but for what changed between the two; a model that is gone is unknown, never another one's price of 0."""
    at, equal, other = datetime(2026, 11, 1, tzinfo=UTC), 0, []
    for provider, model, rates in plain_prices():
        price = BOOK.price_of(provider, model, at)
        if isinstance(price, UnknownPrice):
            continue
        expected = nanousd(rates["input_mtok"]) + nanousd(rates["output_mtok"])
        cost = price.cost(Tokens(input=1_000)) * 1_000 + price.cost(Tokens(output=1_000)) * 1_000
        free = price.fees["requests"] == 0
        equal += free and cost == expected
        if free and cost != expected:
            other.append((provider, model, cost, expected))
    assert equal > 500
    assert len(other) < 0.15 * (equal + len(other)), other[:20]


@pytest.mark.parametrize(
    ("prefix", "provider"),
    [("openai", "openai"), ("anthropic", "anthropic"), ("gemini", "gemini"), ("mistral", "mistral")],
)
def test_the_catalogue_agrees_with_litellms_table_for_most_models(prefix, provider):
    at, equal, compared = datetime(2026, 11, 1, tzinfo=UTC), 0, 0
    with opened("prices/litellm-1.109.1.json.gz") as text:
        table = json.load(text)
    for name, entry in table.items():
        if not isinstance(entry, dict) or entry.get("litellm_provider") != prefix or entry.get("mode") != "chat":
            continue
        price = BOOK.price_of(provider, name.removeprefix(f"{prefix}/"), at)
        rates = (entry.get("input_cost_per_token"), entry.get("output_cost_per_token"))
        if isinstance(price, Price) and all(rates):
            compared += 1
            theirs = [nanousd(Decimal(str(rate)) * 1_000) for rate in rates]
            equal += [price.cost(Tokens(input=1_000)), price.cost(Tokens(output=1_000))] == theirs
    assert compared >= 10
    assert equal >= 0.75 * compared, f"{equal} of {compared}"
