"""A call that is booked without its cost costs what the prices say, in process and over a service (R1, R12)."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest

import fiscus
from fiscus.contract import AMOUNT_MAX, CallRecord, PutAccount, Request, Settle, Tokens
from fiscus.contract.errors import Invalid
from fiscus.contract.queries import HoldView, ReadHold
from fiscus.core.commands import PutBudget, Reserve
from fiscus.core.records import Provenance
from fiscus.gateway.options import GatewayOptions
from fiscus.pricing import PriceBook, PriceOverride, own_prices
from fiscus.pricing.catalogue import GenaiPrices
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.priced import Pricing

USED = {"prompt_tokens": 1_000, "completion_tokens": 500}
GPT_4O = 1_000 * 2_500 + 500 * 10_000
"""Nano-USD: $2.50 and $10 for a million tokens."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Stated prices are looked at with each call."""
    monkeypatch.setattr(own_prices, "FRESH_S", 0.0)


async def cost(treasury, usage=USED, **fields):
    answer = await treasury.usage("agent:a", usage, **fields)
    assert answer is not None
    return answer.booked.get("cost")


async def last(treasury):
    seq = (await treasury.readiness()).head_seq
    return [usage async for usage in treasury.records(account="agent:a", min_seq=seq)][-1].record


# covers R1, R12, N2
async def test_it_costs_what_its_model_costs_and_the_record_says_by_which_price(treasury):
    await treasury.put_account("agent:a")
    assert await cost(treasury, model="gpt-4o") == GPT_4O
    seq = (await treasury.readiness()).head_seq
    sums = await treasury.aggregate_usage("model", min_seq=seq)
    assert (sums.totals.cost_nanousd, sums.totals.unpriced_calls) == (GPT_4O, 0)
    record = await last(treasury)
    assert (record.cost_nanousd, record.cost_source) == (GPT_4O, "price_book")
    assert record.price_id.startswith("genai-prices:openai/gpt-4o")
    assert await cost(treasury, {"input_tokens": 1_000, "output_tokens": 500}, model="gpt-4o") == GPT_4O
    whole = CallRecord(model="gpt-4o", provider="openai", tokens=Tokens(input=1_000, cache_read=1_000, output=500))
    assert await cost(treasury, whole) == GPT_4O - 1_000 * 1_250


async def test_a_hold_gives_back_what_the_call_did_not_cost(treasury):
    await treasury.put_account("agent:a")
    await treasury.put_budget("agent:a", "cost", 100_000_000, period="month")
    async with treasury.hold("agent:a", tokens=4_000, cost_nanousd=40_000_000, model="gpt-4o") as hold:
        hold.settle(USED)
    assert hold.answer.booked["cost"] == GPT_4O
    [balance] = await treasury.balance("agent:a")
    assert (balance.spent, balance.held) == (GPT_4O, 0)


# covers R12
async def test_a_stated_price_comes_first_also_where_only_the_model_is_named(treasury):
    await treasury.put_account("agent:a")
    await treasury.update_pricing("openai", "gpt-4o", input=100, output=200)
    assert await cost(treasury, model="gpt-4o") == 1_000 * 100_000 + 500 * 200_000
    await treasury.remove_price("openai:gpt-4o")
    assert await cost(treasury, model="gpt-4o") == GPT_4O


# covers R12
async def test_what_is_booked_keeps_its_cost_when_it_is_told_again_at_another_price(treasury):
    await treasury.put_account("agent:a")
    assert await cost(treasury, model="gpt-4o", id="call") == GPT_4O
    await treasury.update_pricing("openai", "gpt-4o", input=100, output=200)
    assert await cost(treasury, model="gpt-4o", id="call") == GPT_4O
    assert await cost(treasury, model="gpt-9-mystery", id="other") is None
    await treasury.update_pricing("openai", "gpt-9-mystery", input=100, output=200)
    assert await cost(treasury, CallRecord(model="gpt-9-mystery", provider="openai"), id="other") is None


async def test_a_settlement_that_comes_twice_does_not_raise_the_cost_to_the_bound(treasury):
    await treasury.put_account("agent:a")
    async with treasury.hold("agent:a", tokens=4_000, cost_nanousd=40_000_000, model="gpt-4o") as hold:
        hold.settle(USED)
    again = Settle(
        id=hold.id,
        total={"input_tokens": 1_000, "output_tokens": 500, "cost": 40_000_000},
        record=CallRecord(model="gpt-4o", tokens=Tokens(input=1_000, output=500), cost_source="unpriced"),
    )
    answer = await treasury.execute(again)
    assert answer.booked["cost"] == GPT_4O


async def test_what_the_caller_says_it_cost_it_cost(treasury):
    await treasury.put_account("agent:a")
    assert await cost(treasury, model="gpt-4o", cost_nanousd=7) == 7
    assert await cost(treasury, model="gpt-4o", cost_nanousd=0) == 0
    assert (await last(treasury)).cost_source == "caller"
    record = CallRecord(model="gpt-4o", tokens=Tokens(input=1_000, output=500), cost_nanousd=9)
    answer = await treasury.execute(Settle(id="as-it-comes", account="agent:a", record=record))
    assert answer.booked["cost"] == 9


async def test_what_nobody_can_price_stays_without_a_cost(treasury):
    await treasury.put_account("agent:a")
    for usage, model in ((USED, None), (USED, "gpt-9-mystery"), ({"tokens": 1_500}, "gpt-4o")):
        assert await cost(treasury, usage, model=model) is None
    huge = {"input_tokens": AMOUNT_MAX - 1, "output_tokens": 1}
    assert await cost(treasury, huge, model="gpt-4o") is None
    async with treasury.hold("agent:a", tokens=4_000, cost_nanousd=40_000_000, model="gpt-4o") as hold:
        hold.settle({"tokens": 1_500})
    assert hold.answer.booked["cost"] == 40_000_000


async def test_a_batch_is_priced_like_single_calls(treasury):
    await treasury.put_account("agent:a")
    record = CallRecord(model="gpt-4o", tokens=Tokens(input=1_000, output=500))
    calls = [Settle(id=f"call-{index}", account="agent:a", record=record) for index in range(3)]
    answers = await treasury.execute_many([*calls, calls[0]])
    assert [answer.booked["cost"] for answer in answers] == [GPT_4O] * 4


async def test_the_prices_of_the_gateways_file_hold_for_what_is_reported_too(tmp_path):
    own = GatewayOptions(account="agent:a", prices=(PriceOverride(provider="*", model="mine", input="1", output="2"),))
    async with fiscus.open(f"sqlite:///{tmp_path}/fiscus.db", gateway=own) as treasury:
        await treasury.put_account("agent:a")
        record = CallRecord(model="mine", provider="x", tokens=Tokens(input=10, output=10))
        assert await cost(treasury, record) == 30_000


async def test_the_catalogue_is_read_beside_the_event_loop(monkeypatch):
    where = []
    read = GenaiPrices.segments

    def seen(*arguments):
        where.append(threading.current_thread())
        return read(*arguments)

    monkeypatch.setattr(GenaiPrices, "segments", seen)
    ledger = LocalTreasury(Engine(open_store("memory:")), Pricing())
    record = CallRecord(model="gpt-4o", provider="openai", tokens=Tokens(input=1_000, output=500))
    try:
        await ledger.execute(Request(command=PutAccount(account="a")))
        answer = await ledger.execute(Request(command=Settle(id="call", account="a", record=record)))
        assert answer.booked["cost"] == GPT_4O
    finally:
        await ledger.close()
    assert where
    assert threading.main_thread() not in where


async def test_a_catalogue_that_fails_keeps_nothing_from_the_books(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no catalogue")

    monkeypatch.setattr(GenaiPrices, "segments", broken)
    async with fiscus.open("memory:") as treasury:
        await treasury.put_account("agent:a")
        answer = await treasury.usage("agent:a", USED, model="gpt-4o")
    assert answer is not None
    assert answer.booked == {"input_tokens": 1_000, "output_tokens": 500, "tokens": 1_500, "calls": 1}


@pytest.mark.parametrize("at_once", [1, 3])
async def test_who_no_longer_waits_while_the_price_is_looked_up_is_booked_all_the_same(monkeypatch, at_once):
    looking, found = asyncio.Event(), asyncio.Event()
    refresh = own_prices.OwnPrices.refresh

    async def slow(self):
        looking.set()
        await found.wait()
        await refresh(self)

    ledger = LocalTreasury(Engine(open_store("memory:")), Pricing())
    record = CallRecord(model="gpt-4o", tokens=Tokens(input=1_000, output=500))
    calls = [Request(command=Settle(id=f"call-{index}", account="a", record=record)) for index in range(at_once)]
    try:
        await ledger.execute(Request(command=PutAccount(account="a")))
        monkeypatch.setattr(own_prices.OwnPrices, "refresh", slow)
        asked = ledger.execute(calls[0]) if at_once == 1 else ledger.execute_many(calls)
        waiting = asyncio.ensure_future(asked)
        await looking.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        found.set()
        monkeypatch.setattr(own_prices.OwnPrices, "refresh", refresh)
        for call in calls:
            async with asyncio.timeout(5):
                while not isinstance(view := await ledger.read(ReadHold(id=call.command.id)), HoldView):
                    await asyncio.sleep(0.01)
            assert view.hold.booked["cost"] == GPT_4O
    finally:
        await ledger.close()


async def test_what_was_released_and_used_all_the_same_keeps_its_cost(treasury):
    await treasury.put_account("agent:a")
    call = CallRecord(model="gpt-4o", tokens=Tokens(input=1_000, output=500))
    await treasury.reserve("agent:a", tokens=4_000, id="call")
    await treasury.release("call")
    assert (await treasury.execute(Settle(id="call", record=call))).booked["cost"] == GPT_4O
    await treasury.update_pricing("openai", "gpt-4o", input=100, output=200)
    assert (await treasury.execute(Settle(id="call", record=call))).booked["cost"] == GPT_4O
    more = Settle(id="call", record=CallRecord(model="gpt-4o", tokens=Tokens(input=2_000, output=500)))
    assert (await treasury.execute(more)).booked["cost"] == 2_000 * 100_000 + 500 * 200_000


async def test_told_at_once_at_two_prices_the_first_counts():
    cheap, dear = (Pricing((PriceOverride(provider="*", model="mine", input=usd, output=usd),)) for usd in ("1", "9"))
    engine = Engine(open_store("memory:"))
    ledgers = [LocalTreasury(engine, cheap), LocalTreasury(engine, dear)]
    call = Settle(
        id="call", account="a", record=CallRecord(model="mine", provider="x", tokens=Tokens(input=1_000, output=500))
    )
    try:
        await ledgers[0].execute(Request(command=PutAccount(account="a")))
        answers = [await ledger.execute(Request(command=call)) for ledger in ledgers]
    finally:
        await ledgers[0].close()
    assert [answer.booked["cost"] for answer in answers] == [1_500_000] * 2


async def test_parts_that_do_not_make_the_whole_are_not_priced(treasury):
    await treasury.put_account("agent:a")
    for total, tokens in (
        ({"tokens": 1_500}, Tokens()),
        ({"tokens": 1_500}, Tokens(tool_results=700)),
        ({"input_tokens": 10**6, "output_tokens": 10**6}, Tokens(input=1, output=1)),
        ({}, Tokens()),
    ):
        record = CallRecord(model="gpt-4o", tokens=tokens)
        booked = (await treasury.execute(Settle(id=f"c{total}{tokens.tool_results}", account="agent:a", total=total, record=record))).booked  # fmt: skip  # noqa: E501
        assert "cost" not in booked


async def test_what_is_billed_beside_the_tokens_stays_at_the_bound_or_is_what_the_provider_says(treasury):
    await treasury.put_account("agent:a")
    searched = {"input_tokens": 1_000, "output_tokens": 500, "server_tool_use": {"web_search_requests": 20}}
    for usage, expected in ((searched, 900_000_000), ({**USED, "cost": 0.5}, 500_000_000)):
        async with treasury.hold("agent:a", tokens=4_000, cost_nanousd=900_000_000, model="claude-sonnet-4-5") as hold:
            hold.settle(usage)
        assert hold.answer.booked["cost"] == expected
    assert await cost(treasury, {**USED, "service_tier": "priority"}, model="gpt-5") > await cost(
        treasury, USED, model="gpt-5"
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"provider": 7}, "record.provider"),
        ({"service_tier": 3}, "record.service_tier"),
        ({"tools": ["search"]}, "record.tools"),
        ({"duration_ms": "7"}, "record.duration_ms"),
        ({"tokens": {"input": 1}}, "record.tokens"),
        ({"value": "much"}, "record.value"),
        ({"tokens_estimated": "no"}, "record.tokens_estimated"),
        ({"provenance": {}}, "record.provenance"),
        ({"metadata": []}, "record.metadata"),
        ({"provenance": Provenance(depth="x")}, "record.provenance.depth"),
        ({"provenance": Provenance(task_type=5)}, "record.provenance.task_type"),
    ],
)
async def test_a_record_of_wrong_types_is_refused_and_not_written(tmp_path, fields, field):
    async with fiscus.open(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
        await treasury.put_account("agent:a")
        with pytest.raises(Invalid) as refused:
            await treasury.execute(
                Settle(id="call", account="agent:a", record=CallRecord(**{"model": "gpt-4o", **fields}))
            )
        assert refused.value.refused.field == field
        assert await cost(treasury, model="gpt-4o") == GPT_4O


async def test_many_stated_prices_and_those_of_a_file_fit_into_a_book():
    book = PriceBook([PriceOverride(provider="x", model="y", input="1", output="1")])
    book.restate([PriceOverride(provider="x", model=f"m{index}", input="1", output="1") for index in range(10_001)])
    assert book.price_of("x", "m10000", datetime.now(UTC)).cost(Tokens(input=1)) == 1_000


async def test_what_is_looked_up_when_the_ledger_closes_is_booked_first(tmp_path, monkeypatch):
    looking, found = asyncio.Event(), asyncio.Event()
    refresh = own_prices.OwnPrices.refresh

    async def slow(self):
        looking.set()
        await found.wait()
        await refresh(self)

    url = f"sqlite:///{tmp_path}/fiscus.db"
    ledger = LocalTreasury(Engine(open_store(url)), Pricing())
    record = CallRecord(model="gpt-4o", tokens=Tokens(input=1_000, output=500))
    await ledger.execute(Request(command=PutAccount(account="a")))
    monkeypatch.setattr(own_prices.OwnPrices, "refresh", slow)
    settling = asyncio.ensure_future(ledger.execute(Request(command=Settle(id="call", account="a", record=record))))
    await looking.wait()
    closing = asyncio.ensure_future(ledger.close())
    asyncio.get_running_loop().call_later(0.1, found.set)
    await asyncio.gather(settling, closing)
    async with fiscus.open(url) as treasury:
        assert (await treasury.hold_answer("call")).booked["cost"] == GPT_4O


async def test_who_waits_in_a_batch_beside_an_unpriced_call_leaves_the_line_when_its_caller_goes():
    ledger = LocalTreasury(Engine(open_store("memory:")), Pricing())
    record = CallRecord(model="gpt-4o", tokens=Tokens(input=1_000, output=500))

    async def done(command):
        return await ledger.execute(Request(command=command))

    try:
        await done(PutAccount(account="a"))
        await done(PutBudget(account="a", budget="all", unit="tokens", limit=2_000, period="day"))
        await done(Reserve(id="first", account="a", amounts={"tokens": 2_000}))
        batch = [
            Request(command=Settle(id="call", account="a", record=record)),
            Request(command=Reserve(id="second", account="a", amounts={"tokens": 100}, wait_s=60)),
        ]
        asked = asyncio.ensure_future(ledger.execute_many(batch))
        async with asyncio.timeout(5):
            while not isinstance(await ledger.read(ReadHold(id="second")), HoldView):
                await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        async with asyncio.timeout(5):
            while (await ledger.read(ReadHold(id="second"))).hold.state == "waiting":
                await asyncio.sleep(0.01)
        assert (await ledger.read(ReadHold(id="second"))).hold.state == "refused"
    finally:
        await ledger.close()
