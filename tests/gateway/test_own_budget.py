"""An agent reads what is left for it, with the key and the headers of its calls."""

import pytest

from tests.gateway import wire
from tests.gateway.gate import PAYER, providers, standing


async def own(gate, query="", **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gate.ask("GET", f"/v1/budget{query}", headers=given)


async def test_the_headers_of_a_call_say_whose_budget_is_read(upstream):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=1_000)
        await gate.account("agent:x", PAYER, tokens=400)
        for headers, account, left in (({}, PAYER, 1_000), ({"x_fiscus_agent": "x"}, "agent:x", 400)):
            answer = await own(gate, **headers)
            assert (answer.status, answer.json["account"], answer.json["left"]) == (200, account, {"tokens": left})
        assert (await own(gate, "?account=agent:x")).json["account"] == "agent:x"
        assert (await own(gate, "?account=agent:y")).status == 404
        assert (await own(gate, x_fiscus_agent="x" * 200)).status == 422


async def test_what_calls_in_flight_hold_and_what_was_booked_is_seen(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER)
        await gate.limit(PAYER, "tokens", 1_000, period="day")
        await gate.chat(wire.chat(max_tokens=20))
        await gate.booked()
        said = (await own(gate)).json
        assert said["left"] == {"tokens": 982}
        assert (said["binding"]["spent"], said["binding"]["held"]) == (18, 0)
        assert said["resets_at"] == said["binding"]["window_end"]


async def test_of_an_account_that_is_not_there_yet_the_one_below_which_it_will_be_is_read(upstream):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=1_000)
        await gate.account("agent:x", PAYER, tokens=400)
        assert (await own(gate, x_fiscus_thread="7", x_fiscus_agent="x")).json["account"] == "agent:x"
        assert (await own(gate, x_fiscus_thread="7")).json["account"] == PAYER


async def test_a_key_reads_its_own_and_what_is_below_it(upstream):
    async with standing(providers(upstream), keys=True, budget=False) as gate:
        await gate.account(PAYER, tokens=1_000)
        await gate.account("agent:x", PAYER, tokens=400)
        await gate.account("agent:y", PAYER, tokens=300)
        key = {"authorization": f"Bearer {await gate.key('agent:x')}"}
        said = (await own(gate, **key)).json
        assert (said["account"], [one["account"] for one in said["budgets"]]) == ("agent:x", ["agent:x"])
        other = await own(gate, **key, x_fiscus_agent="y")
        assert (other.status, other.json["code"]) == (403, "forbidden")
        assert (await own(gate)).status == 401


@pytest.mark.parametrize("query", ["?account=", "?who=x"])
async def test_what_cannot_be_read_is_said(upstream, query):
    async with standing(providers(upstream), account=None, budget=False) as gate:
        for asked in (query, ""):
            answer = await own(gate, asked)
            assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
