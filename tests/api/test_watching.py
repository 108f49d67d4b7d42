"""Ids of requests, the access log, and what of a request stands in neither."""

import asyncio

import pytest
import structlog

from fiscus.api import ApiOptions
from fiscus.api.watching import LENGTH_MAX, add_request, current
from tests.api.service import Api, ledger

GIVEN = {"X-Request-Id": "req-7.of:a/client=1"}


@pytest.fixture
def lines():
    """What is logged, as our processor leaves it."""
    before = structlog.get_config()
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[add_request, structlog.processors.format_exc_info, capture])
    current.set(None)
    yield capture.entries
    structlog.configure(**before)


async def test_an_id_that_the_client_gives_comes_back_with_every_kind_of_answer(api: Api):
    await api.tree()
    for answer in (
        await api.get("/v1/accounts/team:a", headers=GIVEN),
        await api.get("/v1/accounts/nobody", headers=GIVEN),
        await api.get("/nowhere", headers=GIVEN),
        await api.call("DELETE", "/ready", headers=GIVEN),
        await api.call("HEAD", "/v1/events", headers=GIVEN),
    ):
        assert answer.headers["x-request-id"] == GIVEN["X-Request-Id"], answer


@pytest.mark.parametrize("given", ["", "two words", "new\nline", "ü", "x" * (LENGTH_MAX + 1), '"quoted"'])
async def test_a_strange_id_is_not_taken(api: Api, given):
    answer = await api.get("/ready", headers={"X-Request-Id": given})
    assert "x-request-id" not in answer.headers


async def test_an_answer_has_an_id_of_ours_where_the_log_has_a_line_about_it(api: Api, lines, monkeypatch):
    assert "x-request-id" not in (await api.get("/ready")).headers

    async def break_down(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(api.treasury, "read", break_down)
    answer = await api.get("/v1/accounts/team:a")
    assert answer.code == "internal"
    assert [line["event"] for line in lines] == ["request_failed"]
    assert lines[0]["request_id"] == answer.headers["x-request-id"]
    again = await api.get("/v1/accounts/team:a")
    assert again.headers["x-request-id"] != answer.headers["x-request-id"]


async def test_the_access_log_has_one_line_for_each_request_with_its_route_and_no_names(lines):
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(access_log=True))
        await api.put("/v1/accounts/user:secret-name", {"labels": {"mail": "secret-mail"}})
        answer = await api.get("/v1/accounts/user:secret-name?secret=query", headers=GIVEN)
        await api.get("/secret/address")
    assert [(line["event"], line["method"], line["route"], line["status"]) for line in lines] == [
        ("request", "PUT", "/v1/accounts/{account}", 200),
        ("request", "GET", "/v1/accounts/{account}", 422),
        ("request", "GET", "other", 404),
    ]
    assert lines[1]["request_id"] == answer.headers["x-request-id"] == GIVEN["X-Request-Id"]
    assert len({line["request_id"] for line in lines}) == 3
    assert all(0 < line["duration_ms"] < 10_000 for line in lines)
    assert "secret" not in repr(lines)


async def test_a_line_about_one_request_never_has_the_id_of_another(lines):
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(access_log=True))
        ids = [f"id-{number}" for number in range(50)]
        await asyncio.gather(*(api.get("/ready", headers={"X-Request-Id": one}) for one in ids))
    assert sorted(line["request_id"] for line in lines) == sorted(ids)


async def test_nothing_stands_between_server_and_application_unless_it_is_asked_for(api: Api):
    assert api.app._watch is None
