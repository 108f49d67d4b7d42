"""Reserves that wait, over HTTP: the request stays open, a client that leaves waits no longer."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from fiscus.api import ApiOptions, create_app
from tests.api.service import Api, ledger, serving

SOON_S = 10


def hold(id: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"id": id, "account": "agent:x", "amounts": {"tokens": tokens}, **more}


async def until(api: Api, id: str, state: str) -> Any:
    async with asyncio.timeout(SOON_S):
        while True:
            answer = await api.get(f"/v1/holds/{id}")
            if answer.status == 200 and answer.json["hold"]["state"] == state:
                return answer.json["hold"]
            await asyncio.sleep(0.005)


@pytest.fixture
async def busy(api: Api) -> Api:
    await api.tree(100)
    assert (await api.post("/v1/holds", hold("first", 100))).status == 201
    return api


async def test_the_request_stays_open_until_there_is_room(busy: Api) -> None:
    asked = asyncio.create_task(busy.post("/v1/holds", hold("x", 40, wait_s=60)))
    seen = await until(busy, "x", "waiting")
    assert (seen["place"], seen["reserved"]) == (1, {})
    assert seen["waits_until"].endswith("Z")
    await busy.post("/v1/holds/first/release")
    answer = await asyncio.wait_for(asked, SOON_S)
    assert (answer.status, answer.json["state"]) == (201, "held")


async def test_the_end_of_waiting_is_the_refusal(busy: Api) -> None:
    answer = await asyncio.wait_for(busy.post("/v1/holds", hold("x", 40, wait_s=1)), SOON_S)
    assert (answer.status, answer.code) == (429, "budget_busy")
    assert answer.json["binding"]["account"] == "team:a"


async def test_what_waits_longer_than_a_request_may_take_is_told_so_and_keeps_its_place() -> None:
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(request_timeout_s=0.4))
        await api.tree(100)
        await api.post("/v1/holds", hold("first", 100))
        answer = await api.post("/v1/holds", hold("x", 40, wait_s=60))
        assert (answer.status, answer.json["state"], answer.json["place"]) == (202, "waiting", 1)
        assert (await api.post("/v1/holds", hold("y", 40, wait_s=60))).json["place"] == 2
        assert (await api.post("/v1/holds", hold("x", 40, wait_s=60))).json["place"] == 1
        await api.post("/v1/holds/first/release")
        assert (await api.post("/v1/holds", hold("x", 40, wait_s=60))).status == 201


async def test_a_client_that_leaves_waits_no_longer() -> None:
    async with ledger() as treasury, serving(create_app(treasury)) as url:
        api = Api(treasury)
        await api.tree(100)
        await api.post("/v1/holds", hold("first", 100))
        place = urlsplit(url)
        _, writer = await asyncio.open_connection(place.hostname, place.port)
        body = json.dumps(hold("x", 40, wait_s=600)).encode()
        head = f"POST /v1/holds HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        await until(api, "x", "waiting")
        writer.close()
        await until(api, "x", "refused")
        assert (await api.post("/v1/holds/first/release")).status == 200
        assert (await api.post("/v1/holds", hold("x", 100))).status == 201


async def test_in_a_batch_each_waits_by_itself(busy: Api) -> None:
    operations = [
        {"op": "reserve", **hold("x", 40, wait_s=60)},
        {"op": "release", "id": "first"},
        {"op": "reserve", **hold("y", 70, wait_s=1)},
    ]
    answer = await asyncio.wait_for(busy.post("/v1/batch", {"operations": operations}), SOON_S)
    assert [item["status"] for item in answer.json["answers"]] == [201, 200, 429]


async def test_all_or_none_does_not_wait(busy: Api) -> None:
    answer = await busy.post(
        "/v1/batch", {"atomic": True, "operations": [{"op": "reserve", **hold("x", 40, wait_s=60)}]}
    )
    assert (answer.status, answer.json["field"]) == (422, "operations[0].wait_s")


@pytest.mark.parametrize("wait_s", [-1, 3_601, 1.5, "1", True, None])
async def test_wait_s_has_bounds(busy: Api, wait_s: Any) -> None:
    answer = await busy.post("/v1/holds", hold("x", 40, wait_s=wait_s))
    assert (answer.status, answer.json["field"]) == (422, "wait_s")


async def test_nobody_says_for_another_that_he_is_there(busy: Api) -> None:
    answer = await busy.post("/v1/batch", {"operations": [{"op": "attend", "id": "first"}]})
    assert answer.status == 422


async def test_the_journal_tells_of_it(busy: Api) -> None:
    asked = asyncio.create_task(busy.post("/v1/holds", hold("x", 40, wait_s=60)))
    await until(busy, "x", "waiting")
    await busy.post("/v1/holds/first/release")
    await asyncio.wait_for(asked, SOON_S)
    entries = (await busy.get("/v1/journal?limit=1000")).json["entries"]
    mine = [entry for entry in entries if entry["data"].get("id") == "x"]
    assert [entry["kind"] for entry in mine] == ["queued", "held", "extended"]
    assert mine[0]["data"]["needed"] == 40
    assert "agent:x" in mine[0]["names"].values()
