"""Prices stated while the ledger runs, in process and over a service; who may, and what stays (R12)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import fiscus
from fiscus.contract.errors import Invalid, Unknown
from fiscus.contract.queries import EntriesPage, ListEntries, ListPrices, PricesView


# covers R12
async def test_a_price_is_stated_listed_changed_and_removed(treasury):
    made = await treasury.update_pricing(
        "vllm", "llama", input="0.25", output=1, rates={"cache_read": "0.025"}, fees={"requests": 5},
        tiers={200_000: {"input": "0.5"}},
    )  # fmt: skip
    assert made.price == "vllm:llama"
    assert made.terms[0].rates == {"input": 250_000_000, "output": 1_000_000_000, "cache_read": 25_000_000}
    assert made.terms[0].fees == {"requests": 5_000_000_000}
    assert made.terms[0].tiers[0].rates == {"input": 500_000_000}
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    changed = await treasury.update_pricing("vllm", "llama", input="0.3", output=1, valid_from=tomorrow)
    assert len(changed.terms) == 2
    assert await treasury.prices() == (changed,)
    view = await treasury.read(ListPrices())
    assert isinstance(view, PricesView)
    assert (await treasury.read(ListPrices(unless_version=view.version))).prices == ()
    await treasury.remove_price("vllm:llama")
    assert await treasury.prices() == ()
    page = await treasury.read(ListEntries())
    assert isinstance(page, EntriesPage)
    assert [entry.kind for entry in page.entries] == ["price_put", "price_put", "price_removed"]


async def test_a_bad_price_names_its_field(treasury):
    for fields, field in (
        ({"input": 0.25, "output": 1}, "rates.input"),
        ({"input": 1, "output": 1, "rates": {"planet": 1}}, "rates.planet"),
        ({"input": 1, "output": 1, "valid_from": datetime(2020, 1, 1, tzinfo=UTC)}, "valid_from"),
    ):
        with pytest.raises(Invalid) as refused:
            await treasury.update_pricing("vllm", "llama", **fields)
        assert refused.value.refused.field == field
    with pytest.raises(Unknown):
        await treasury.remove_price("nobody's")


def test_without_await_and_after_a_restart(tmp_path):
    for times in range(2):
        with fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
            assert len(treasury.prices()) == times
            made = treasury.update_pricing("vllm", "llama", input="0.25", output="1.25")
            assert len(made.terms) == 1
            [found] = treasury.prices()
            assert found.terms[0].rates == {"input": 250_000_000, "output": 1_250_000_000}
