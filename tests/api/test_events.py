import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from fiscus.api import ApiOptions, store_first_key
from fiscus.api.events import CHUNK_EVENTS_MAX, QUEUE_LENGTH_MAX, Streams
from fiscus.contract.queries import Entry
from tests.api.service import FIRST_SECRET, PEPPER, Api, ledger, serving


@asynccontextmanager
async def followed(url: str, key: str | None = None, **headers: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The events of a stream, each with ``id``, ``event`` and ``data``; comments as ``{"comment": …}``."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given |= {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=given) as session, session.get(url) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        yield _events(response)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith(":"):
            yield {"comment": line[1:].strip()}
        elif line:
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value
        elif event:
            yield event
            event = {}


async def take(events: AsyncIterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The next events, comments left out."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        async for event in events:
            if "comment" not in event:
                found.append(event)
            if len(found) == count:
                break
    return found


async def test_events_are_the_journal_with_the_sequence_as_their_id(api: Api):
    # covers E9, E12
    await api.tree()
    journal = (await api.get("/v1/journal")).json["entries"]
    async with serving(api.app) as url, followed(f"{url}/v1/events") as events:
        found = await take(events, len(journal))
        assert [event["data"] for event in found] == journal
        assert [event["id"] for event in found] == [str(entry["seq"]) for entry in journal]
        assert [event["event"] for event in found] == [entry["kind"] for entry in journal]
        await api.put("/v1/accounts/live")
        assert list((await take(events, 1))[0]["data"]["names"].values()) == ["live"]


async def test_a_stream_goes_on_after_the_last_event_that_was_seen(api: Api):
    await api.tree()
    async with serving(api.app) as url:
        async with followed(f"{url}/v1/events?after=2") as events:
            assert (await take(events, 1))[0]["id"] == "3"
        async with followed(f"{url}/v1/events?after=1", Last_Event_ID="3") as events:
            assert (await take(events, 1))[0]["id"] == "4"
        head = await api.head()
        async with followed(f"{url}/v1/events", Last_Event_ID=str(head)) as events:
            await api.put("/v1/accounts/later")
            later = (await take(events, 1))[0]
            assert (later["id"], later["event"]) == (str(head + 1), "account_opened")


async def test_reconnecting_at_every_event_loses_none_and_repeats_none(api: Api):
    await api.tree()
    head, seen, last = await api.head(), [], 0
    async with serving(api.app) as url:
        while last < head:
            async with followed(f"{url}/v1/events", Last_Event_ID=str(last)) as events:
                last = int((await take(events, 1))[0]["id"])
                seen.append(last)
    assert seen == list(range(1, head + 1))


async def test_a_stream_is_narrowed_to_an_account_and_those_below_it(api: Api):
    await api.tree()
    async with serving(api.app) as url, followed(f"{url}/v1/events?account=team:a") as events:
        await api.post("/v1/usage", {"id": "other", "account": "team:b", "total": {"tokens": 1}})
        await api.post("/v1/usage", {"id": "mine", "account": "agent:y", "total": {"tokens": 1}})
        found = []
        while not found or found[-1]["data"]["data"].get("id") != "mine":
            found += await take(events, 1)
        assert "other" not in str(found)
        assert "team:b" not in str(found)


async def test_a_key_of_an_account_follows_only_its_own():
    async with ledger() as treasury:
        await store_first_key(treasury, FIRST_SECRET, PEPPER)
        api = Api(treasury, ApiOptions(key_pepper=PEPPER, keys_required=True))
        for account in ("team:a", "team:b"):
            await api.put(f"/v1/accounts/{account}", key=FIRST_SECRET)
        key = (await api.post("/v1/keys", {"role": "account", "account": "team:a"}, key=FIRST_SECRET)).json["secret"]
        async with serving(api.app) as url, followed(f"{url}/v1/events", key) as events:
            for account, usage in (("team:b", "theirs"), ("team:a", "mine")):
                body = {"id": usage, "account": account, "total": {"tokens": 1}}
                assert (await api.post("/v1/usage", body, key=FIRST_SECRET)).status == 201
            found = []
            while not found or found[-1]["data"]["data"].get("id") != "mine":
                found += await take(events, 1)
            assert not any(word in str(found) for word in ("team:b", "theirs", "key_put"))


async def test_silence_is_filled_with_heartbeats():
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(heartbeat_s=0.02))
        async with serving(api.app) as url, followed(f"{url}/v1/events") as events, asyncio.timeout(20):
            assert [await anext(events) for _ in range(3)] == [{"comment": "alive"}] * 3


async def test_there_are_no_more_streams_than_the_bound_and_a_client_that_leaves_frees_its_own():
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(streams_max=1, heartbeat_s=30))
        async with serving(api.app) as url:
            async with followed(f"{url}/v1/events"):
                refused = await api.get("/v1/events")
                assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "rate_limited", "1")
            async with asyncio.timeout(20):
                while api.app._service.streams.count:
                    await asyncio.sleep(0.001)
            async with followed(f"{url}/v1/events"):
                pass
            assert len(treasury._news) <= 1
        assert treasury._news == set()


async def test_streams_end_when_the_service_goes_down(api: Api):
    async with serving(api.app) as url, followed(f"{url}/v1/events") as events:
        await anext(events)
        api.app.drain()
        async with asyncio.timeout(20):
            assert [event async for event in events if "comment" not in event] == []


@pytest.mark.parametrize("header", ["x", "-1", "1.5", "9" * 17])
async def test_a_cursor_that_is_no_sequence_number_is_refused(api: Api, header: str):
    answer = await api.get("/v1/events", headers={"Last-Event-ID": header})
    assert (answer.code, answer.json["field"]) == ("invalid", "Last-Event-ID")


@pytest.mark.parametrize(("value", "status"), [("maybe", 422), ("1", 422), ("", 422)])
async def test_whether_progress_is_shown_is_true_or_false(api: Api, value: str, status: int):
    answer = await api.get(f"/v1/events?progress={value}")
    assert (answer.status, answer.json["field"]) == (status, "progress")


async def test_what_runs_is_told_to_those_who_may_see_it_and_never_waits():
    async def nothing() -> AsyncIterator[Entry]:
        await asyncio.sleep(60)
        yield

    streams = Streams(count_max=9, heartbeat_s=60)
    gone: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(3)]
    everything = streams.chunks(nothing(), gone[0], shows_progress=True)
    below = streams.chunks(nothing(), gone[1], scope="team:a", shows_progress=True)
    journal = streams.chunks(nothing(), gone[2])
    for chunks in (everything, below, journal):
        await anext(chunks)
    assert streams.is_there
    for number in range(QUEUE_LENGTH_MAX + 5):
        streams.tell("call.progress", b"%d" % number, ("agent:x", "team:b"))
    streams.tell("call.progress", b"-1", ("agent:y", "team:a"))
    shown = [await anext(everything) for _ in range(QUEUE_LENGTH_MAX // CHUNK_EVENTS_MAX)]
    told = b"".join(shown)
    assert told.startswith(b"event: call.progress\ndata: 0\n\n")
    assert told.count(b"\n\n") == QUEUE_LENGTH_MAX, "who is behind misses the rest"
    assert await anext(below) == b"event: call.progress\ndata: -1\n\n"
    for chunks in (everything, below, journal):
        await chunks.aclose()
    assert not streams.is_there
