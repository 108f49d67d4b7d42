"""What is kept for a call that wraps up is there for it, whatever others do at the same time."""

import asyncio

import pytest

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.gateway.options import read_options
from tests.gateway import wire
from tests.gateway.gate import PAYER, PLENTY, providers, standing
from tests.gateway.upstream import Reply

KEPT = {"budget": False, "wrap_up": {"tokens": 300}}
LAST = {"x_fiscus_wrap_up": "1"}


async def test_calls_leave_what_is_kept_and_the_last_one_gets_it(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **KEPT) as gate:
        await gate.account(PAYER, tokens=330)
        refused = await gate.chat(wire.chat(max_tokens=20))
        assert refused.status == 402
        assert "300 of it would be left for a call that wraps up" in refused.json["error"]["message"]
        assert upstream.asked == []
        last = await gate.chat(wire.chat(max_tokens=200), **LAST)
        assert (last.status, upstream.asked[0].json["max_tokens"]) == (200, 200)
        assert (await gate.chat(wire.chat(max_tokens=20), x_fiscus_wrap_up="0")).status == 402


async def test_the_output_is_clamped_to_what_may_be_used(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **KEPT) as gate:
        await gate.account(PAYER, tokens=460)
        assert (await gate.chat(wire.chat(max_tokens=100))).status == 200
        assert 16 <= upstream.asked[0].json["max_tokens"] < 80


async def test_of_money_as_much_is_kept(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False, wrap_up={"cost": 1_000_000}) as gate:
        await gate.account(PAYER, tokens=PLENTY, cost=1_150_000)
        assert (await gate.chat(wire.chat(max_tokens=20))).status == 200
        assert (await gate.chat(wire.chat(max_tokens=200))).status == 200
        assert upstream.asked[1].json["max_tokens"] < 50
        assert (await gate.chat(wire.chat(max_tokens=200), **LAST)).status == 200
        assert upstream.asked[2].json["max_tokens"] == 200


# covers E2
async def test_many_calls_at_once_do_not_get_what_is_kept(upstream):
    upstream.answers(Reply(body=wire.chat_answer().body, pieces=20, pause_s=0.02))
    async with standing(providers(upstream), **KEPT) as gate:
        await gate.account(PAYER, tokens=1_000)
        calls = [asyncio.create_task(gate.chat(wire.chat(max_tokens=90))) for _ in range(30)]
        await upstream.request(4)
        assert (await gate.balance()).available >= 300
        last = await gate.chat(wire.chat(max_tokens=200), **LAST)
        statuses = {(await call).status for call in calls}
        assert last.status == 200
        assert 200 in statuses
        assert statuses <= {200, 402, 429}
        assert [asked.json["max_tokens"] for asked in upstream.asked].count(200) == 1


async def test_a_stream_does_not_grow_into_what_is_kept(upstream):
    texts = ["eight words are in this piece of text. "] * 100
    usage = {"prompt_tokens": 11, "completion_tokens": 900, "total_tokens": 911}
    upstream.answers(wire.streamed(wire.chat_stream(*texts, usage=usage), pieces=400, pause_s=0.002))
    async with standing(providers(upstream), **KEPT) as gate:
        await gate.account(PAYER, tokens=600)
        gate.knows(20)
        answer = await gate.chat(wire.chat(max_tokens=500, stream=True))
        assert answer.status == 200
        assert b'"finish_reason":"length"' in answer.body.replace(b" ", b"")
        assert (await gate.balance()).available >= 300
        upstream.answers(wire.chat_answer())
        assert (await gate.chat(wire.chat(max_tokens=200), **LAST)).status == 200


async def test_headers_show_what_most_calls_may_use(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **KEPT) as gate:
        await gate.account(PAYER, tokens=1_000)
        answer = await gate.chat(wire.chat(max_tokens=20))
        left = int(answer.headers["x-fiscus-remaining-tokens"])
        assert left <= 1_000 - 300


@pytest.mark.parametrize("line", ["tokens = -1", "pages = 1", 'tokens = "1"'])
def test_what_is_kept_is_an_amount(line):
    with pytest.raises(ConfigurationInvalid, match="wrap_up"):
        read_options(f"[wrap_up]\n{line}\n".encode(), "gateway.toml")
