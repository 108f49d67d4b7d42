import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from starlette.requests import Request as WebRequest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from fiscus.api import ApiOptions, store_first_key
from fiscus.contract.errors import BudgetUnavailable, LedgerBusy, LedgerCorrupt, StoreUnavailable, TreasuryError
from fiscus.contract.treasury import Readiness
from fiscus.core.commands import Request
from tests.api.service import FIRST_SECRET, PEPPER, Api, ledger, serving

HOLD = {"id": "h1", "account": "agent:x", "amounts": {"tokens": 100}}


class Broken:
    """A treasury whose ledger is away."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def execute(self, request: Request) -> Any:
        raise self.error

    execute_many = read = execute  # type: ignore[assignment]  # all the same here

    async def readiness(self) -> Readiness:
        raise self.error


class Stuck(Broken):
    """A treasury that does not answer."""

    def __init__(self) -> None:
        super().__init__(RuntimeError())
        self.asked = asyncio.Event()

    async def execute(self, request: Request) -> Any:
        self.asked.set()
        await asyncio.get_running_loop().create_future()


ERRORS = [
    (BudgetUnavailable("away", retry_after_s=7), 503, "budget_unavailable", "7"),
    (StoreUnavailable("away"), 503, "budget_unavailable", "1"),
    (LedgerBusy("/x", None), 503, "ledger_busy", None),
    (LedgerCorrupt("gap"), 503, "ledger_corrupt", None),
    (TreasuryError("odd"), 503, "treasury_error", None),
    (RuntimeError("a secret of ours"), 500, "internal", None),
]


@pytest.mark.parametrize(("error", "status", "code", "retry_after"), ERRORS, ids=[row[2] for row in ERRORS])
async def test_an_error_of_the_treasury_is_never_reported_as_a_refusal(error, status, code, retry_after):
    api = Api(Broken(error))  # type: ignore[arg-type]  # what is called here
    for answer in (await api.post("/v1/holds", HOLD), await api.get("/v1/accounts/a")):
        assert (answer.status, answer.code) == (status, code)
        assert answer.headers.get("retry-after") == retry_after
        assert b"a secret of ours" not in answer.body


async def test_a_request_that_takes_too_long_is_answered_503_and_may_be_repeated():
    api = Api(Stuck(), ApiOptions(request_timeout_s=0.05))  # type: ignore[arg-type]  # what is called here
    answer = await api.post("/v1/holds", HOLD)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "budget_unavailable", "1")
    assert api.app._metrics.in_flight == 0


async def test_no_more_requests_are_worked_on_at_once_than_the_bound():
    stuck = Stuck()
    api = Api(stuck, ApiOptions(in_flight_max=1))  # type: ignore[arg-type]  # what is called here
    first = asyncio.create_task(api.post("/v1/holds", HOLD))
    await stuck.asked.wait()
    second = await api.post("/v1/holds", HOLD)
    assert (second.status, second.code, second.headers["retry-after"]) == (503, "budget_unavailable", "1")
    assert "in flight" in second.json["detail"]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert api.app._metrics.in_flight == 0


async def test_a_client_that_leaves_while_its_request_is_decided_leaks_nothing():
    stuck = Stuck()
    api = Api(stuck, ApiOptions(request_timeout_s=0.2))  # type: ignore[arg-type]  # what is called here
    async with serving(api.app) as url, aiohttp.ClientSession() as session:
        request = asyncio.create_task(session.post(f"{url}/v1/holds", json=HOLD))
        await stuck.asked.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        async with asyncio.timeout(10):
            while api.app._metrics.in_flight:
                await asyncio.sleep(0.001)


async def test_a_method_that_an_address_does_not_take_is_told_which_it_does(api: Api):
    answer = await api.delete("/v1/accounts/a")
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "method_not_allowed", "GET, PUT")


async def test_head_is_get_without_the_body(api: Api):
    await api.tree()
    get, head = await api.get("/v1/accounts/team:a"), await api.call("HEAD", "/v1/accounts/team:a")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert (await api.call("HEAD", "/v1/events")).status == 200
    assert (await api.call("HEAD", "/v1/accounts/nobody")).status == 404


async def test_a_body_of_many_pieces_is_read_whole_and_not_beyond_its_bound(api: Api):
    await api.tree()

    async def pieces(count: int) -> AsyncIterator[bytes]:
        yield b'{"id":"h1","account":"agent:x","amounts":{"tokens":1}'
        for _ in range(count):
            yield b" " * 1_024
        yield b"}"

    async with serving(api.app) as url, aiohttp.ClientSession() as session:
        json_type = {"Content-Type": "application/json"}
        async with session.post(f"{url}/v1/holds", data=pieces(100), headers=json_type) as answer:
            assert answer.status == 201
        async with session.post(f"{url}/v1/holds", data=pieces(1_100), headers=json_type) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (413, "too_large")


async def test_a_body_without_end_is_read_up_to_its_bound_and_no_further(api: Api):
    sent: list[dict[str, Any]] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 65_536, "more_body": read < 100}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/v1/holds", "raw_path": b"/v1/holds", "query_string": b""}
    await api.app(scope | {"headers": headers, "client": ("127.0.0.1", 1)}, receive, send)
    assert sent[0]["status"] == 413
    assert read == 17


async def test_only_a_batch_may_be_longer_than_other_bodies(api: Api):
    small = Api(api.treasury, ApiOptions(body_bytes_max=100, batch_bytes_max=1_000))
    operations = {"operations": [{"op": "put_account", "account": "a" * 100}]}
    assert (await small.post("/v1/holds", {"id": "x" * 100, "account": "a"})).status == 413
    assert (await small.post("/v1/batch", operations)).status == 200
    assert (await small.post("/v1/batch", {"operations": operations["operations"] * 10})).status == 413


async def test_alive_and_ready_are_two_questions(api: Api):
    # covers D31
    assert (await api.get("/health")).status == 200
    ready = await api.get("/ready")
    assert (ready.status, ready.json["ready"], ready.json["reasons"]) == (200, True, [])
    assert {"head_seq", "followers_seq", "followers_lag_ms", "queue_depth"} <= ready.json.keys()
    api.app.drain()
    draining = await api.get("/ready")
    assert (draining.status, draining.json["reasons"]) == (503, ["draining"])
    assert (await api.get("/health")).status == 200


async def test_a_service_whose_ledger_is_away_is_not_ready_but_alive():
    # covers R53  (a restart would not bring the database back, and would cost what is in flight)
    away = Api(Broken(StoreUnavailable("the disk is gone")))  # type: ignore[arg-type]  # what is called here
    ready = await away.get("/ready")
    assert (ready.status, ready.json["ready"], ready.json["reasons"]) == (503, False, ["store_unavailable"])
    assert (await away.get("/health")).status == 200


async def test_a_read_waits_for_the_callers_own_write(api: Api):
    await api.tree()
    for number in range(3):
        await api.put(f"/v1/accounts/n:{number}", {"parent": "team:b"})
        page = (await api.get(f"/v1/accounts?parent=team:b&limit=1000&min_seq={await api.head()}")).json
        assert len(page["accounts"]) == number + 1
        assert page["as_of_seq"] >= await api.head()


# Routes of others


async def _whoami(request: WebRequest) -> JSONResponse:
    caller = request.scope["fiscus.caller"]
    return JSONResponse(msgspec.to_builtins(caller))


async def _slow(request: WebRequest) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        await asyncio.sleep(0.1)
        yield b"two"

    return StreamingResponse(parts())


async def _broken(request: WebRequest) -> JSONResponse:
    raise RuntimeError("a secret of ours")


EXTRA = (
    Route("/extra/whoami", _whoami, methods=["GET", "POST"]),
    Route("/extra/slow", _slow),
    Route("/extra/broken", _broken),
)


async def test_the_routes_of_others_stand_behind_the_same_guard():
    async with ledger() as treasury:
        await store_first_key(treasury, FIRST_SECRET, PEPPER)
        options = ApiOptions(extra_routes=EXTRA, key_pepper=PEPPER, keys_required=True)
        api = Api(treasury, options)
        assert (await api.get("/extra/whoami")).code == "unauthorized"
        assert (await api.get("/extra/whoami", key=FIRST_SECRET)).json["role"] == "admin"
        assert (
            await api.get("/extra/whoami", key=FIRST_SECRET, headers={"Origin": "https://evil.example"})
        ).status == 403
        assert (
            await api.post("/extra/whoami", b"x=1", key=FIRST_SECRET, headers={"Content-Type": "text/plain"})
        ).status == 415
        assert (await api.delete("/extra/whoami", key=FIRST_SECRET)).headers["allow"] == "GET, HEAD, POST"
        assert (await api.get("/extra/nothing", key=FIRST_SECRET)).code == "not_found"


async def test_calls_without_a_key_are_bound_to_the_anonymous_account_only_where_others_routes_are():
    async with ledger() as treasury:
        options = ApiOptions(extra_routes=EXTRA, key_pepper=PEPPER, keys_required=True, anonymous_account="agent:guest")
        api = Api(treasury, options)
        guest = (await api.get("/extra/whoami")).json
        assert (guest["role"], guest["scope"]) == ("account", "agent:guest")
        assert (await api.get("/v1/accounts")).code == "unauthorized"
        assert (await api.get("/extra/whoami", key="not a key of ours")).code == "unauthorized"


async def test_a_route_of_others_may_stream_beyond_the_time_of_a_request_and_may_not_break_the_service():
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(extra_routes=EXTRA, request_timeout_s=0.05))
        assert (await api.get("/extra/slow")).body == b"one two"
        broken = await api.get("/extra/broken")
        assert (broken.status, broken.code) == (500, "internal")
        assert b"a secret of ours" not in broken.body
