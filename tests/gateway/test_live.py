"""Who follows events sees within a second what streams have used so far; the journal has none of it."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import aiohttp

from fiscus.gateway.live import Live, Running
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, PAYER, providers, standing

TEXTS = ["twelve bytes"] * 40


@asynccontextmanager
async def following(gate, query="?progress=true", **headers):
    """The events of a stream as pairs of their fields and what they say."""
    async with aiohttp.ClientSession() as session:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with session.get(f"{gate.url}/v1/events{query}", headers=given) as answer:
            assert answer.status == 200
            found = []

            async def read():
                fields = {}
                async for line in answer.content:
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    if not name and fields:
                        found.append((fields, json.loads(fields.pop("data")), time.monotonic()))
                        fields = {}
                    elif name:
                        fields[name] = value

            reading = asyncio.create_task(read())
            try:
                yield found
            finally:
                reading.cancel()


def progress_in(found):
    return [said for fields, said, _ in found if fields.get("event") == "call.progress"]


async def stream(gate, upstream, pause_s=0.06, **headers):
    upstream.answers(wire.streamed(wire.chat_stream(*TEXTS), pieces=200, pause_s=pause_s))
    answer = await gate.chat(wire.chat(stream=True), **headers)
    assert answer.status == 200
    return answer.headers["x-fiscus-hold"]


async def test_tokens_and_cost_so_far_are_shown_while_a_stream_runs(gate, upstream):
    async with following(gate) as found:
        began = time.monotonic()
        hold = await stream(gate, upstream)
        seen = progress_in(found)
        assert len(seen) >= 3
        assert next(at for fields, _, at in found if fields.get("event") == "call.progress") - began < 1.2
        for said in seen:
            assert (said["hold"], said["account"], said["model"]) == (hold, PAYER, wire.MODEL)
            assert said["cost_nanousd"] == said["input_tokens"] * IN + said["output_tokens"] * OUT
        outputs = [said["output_tokens"] for said in seen]
        assert outputs == sorted(set(outputs)), "only what has grown is shown"
        assert 0 < outputs[-1] <= 160
        assert all("id" not in fields for fields, said, _ in found if said["kind"] == "call.progress")
        await asyncio.sleep(0.1)
        assert "settled" in [said["kind"] for _, said, _ in found]


async def test_a_replay_has_nothing_of_it_and_who_did_not_ask_sees_nothing(gate, upstream):
    async with following(gate, "") as found:
        await stream(gate, upstream, pause_s=0.03)
        await asyncio.sleep(0.1)
        assert progress_in(found) == []
        assert {said["seq"] for _, said, _ in found} == {entry.seq for entry in await gate.entries()}
    async with following(gate) as found:
        await asyncio.sleep(0.2)
        assert progress_in(found) == []


async def test_a_key_sees_what_runs_at_and_below_its_account_only(upstream):
    async with standing(providers(upstream), keys=True) as gate:
        await gate.account("agent:x", PAYER)
        await gate.account("agent:y", PAYER)
        keys = {name: {"authorization": f"Bearer {await gate.key(name)}"} for name in (PAYER, "agent:x", "agent:y")}
        async with (
            following(gate, **keys[PAYER]) as team,
            following(gate, **keys["agent:x"]) as own,
            following(gate, **keys["agent:y"]) as other,
            following(gate, "?progress=true&account=agent:y", **keys[PAYER]) as narrowed,
        ):
            await stream(gate, upstream, pause_s=0.03, **keys["agent:x"])
            seen = [len(progress_in(found)) for found in (team, own, other, narrowed)]
            assert seen[0] == seen[1] > 0
            assert seen[2:] == [0, 0]


async def test_it_ends_with_the_last_stream_and_begins_with_the_next(gate, upstream):
    async with following(gate) as found:
        for _ in range(2):
            before = len(progress_in(found))
            await stream(gate, upstream, pause_s=0.03)
            assert len(progress_in(found)) > before
            await asyncio.sleep(0.6)
            assert gate.gateway.live._ticking is None


async def test_a_stream_that_ends_meanwhile_is_shown_no_more():
    told = []

    class Audience:
        is_there = True

        def tell(self, kind, data, accounts):
            told.append((json.loads(data)["output_tokens"], set(accounts)))

    async def above(account):
        live.ended(ended)
        return [account, "team"]

    live = Live(above)
    live.show_to(Audience())
    common = {"account": "a", "model": "m", "input_tokens": 1, "price": None, "started_s": 0.0}
    ended, runs = (Running(hold=hold, **common) for hold in ("1", "2"))
    for running in (ended, runs):
        live.began(running)
        running.output_tokens = 7
    await asyncio.sleep(0.7)
    assert told == [(7, {"a", "team"})]
    await live.close()
