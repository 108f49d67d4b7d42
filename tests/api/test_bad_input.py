"""The section "Bad input" of the service: each a problem that names the field, nothing changed, never a 5xx."""

import asyncio
import json
from typing import Any

import pytest

from tests.api.service import Api, serving

HOLD: dict[str, Any] = {"id": "h1", "account": "agent:x", "amounts": {"tokens": 1}}
ALLOCATION = "/v1/accounts/agent:x/allocations/tokens"
NAMELESS = b'{"operations":[{"op":"reserve","id":"a","account":"","amounts":{"tokens":1}}],"atomic":true}'
BUDGET = "/v1/accounts/team:a/budgets/main"


def hold(**fields: Any) -> bytes:
    """A hold with one thing wrong; JSON as Python writes it, so NaN and Infinity too."""
    return json.dumps(HOLD | fields).encode()


AMOUNTS = [0, -1, 2**53, 2**63, 2**64, -(2**63), 10**400, 1.5, 1.0, 1e300, float("nan"), float("inf"), float("-inf")]
AMOUNTS += ["1", True, None, [], {}]
LONG = "x" * 10_000
CONTROL = ["\x00", "a\nb", "a\x7fb", "a\x1bb", "a\u2028b", "a\u200bb"]

CASES: list[tuple[str, str, bytes, int, str | None]] = [
    # method, address, body, status, field
    *(("POST", "/v1/holds", hold(amounts={"tokens": amount}), 422, "amounts.tokens") for amount in AMOUNTS),
    *(
        ("POST", "/v1/holds", hold(amounts={"cost": amount, "tokens": 1}), 422, "amounts.cost")
        for amount in AMOUNTS[1:]
    ),
    ("POST", "/v1/holds", b'{"id":"h1","account":"agent:x","amounts":{"tokens":1e400}}', 422, "amounts.tokens"),
    ("POST", "/v1/holds", hold(amounts={"euros": 1}), 422, "amounts"),
    ("POST", "/v1/holds", hold(account="agent:nobody"), 404, "account"),
    ("POST", "/v1/holds", hold(parent=5), 422, "parent"),
    *(("POST", "/v1/holds", hold(id=text), 422, "id") for text in ["", LONG, *CONTROL]),
    *(("POST", "/v1/holds", hold(account=text), 422, "account") for text in ["", LONG, "a/b", " a", "a ", *CONTROL]),
    ("POST", "/v1/holds", hold(also=["x"] * 9), 422, "also"),
    ("POST", "/v1/holds", hold(also=[LONG]), 422, "also[0]"),
    ("POST", "/v1/holds", hold(also=["agent:nobody"]), 404, None),
    ("POST", "/v1/holds", hold(lease_s=0), 422, "lease_s"),
    ("POST", "/v1/holds", hold(lease_s=86_401), 422, "lease_s"),
    ("POST", "/v1/holds", hold(attributes={"model": LONG}), 422, "attributes.model"),
    ("POST", "/v1/holds", hold(attributes={str(n): "x" for n in range(33)}), 422, "attributes"),
    ("POST", "/v1/holds", hold(surprise=1), 422, "surprise"),
    ("POST", "/v1/holds", b'{"id":"h1","id":"","account":"agent:x"}', 422, "id"),
    ("POST", "/v1/holds", b'{"id":"\\ud800","account":"agent:x"}', 400, None),
    ("POST", "/v1/holds", b'{"id":"\xff","account":"agent:x"}', 400, None),
    ("POST", "/v1/holds", b"not json", 400, None),
    ("POST", "/v1/holds", b"", 400, None),
    ("POST", "/v1/holds", hold()[:-5], 400, None),
    ("POST", "/v1/holds", b'{"id":' * 50_000, 422, "id"),
    ("POST", "/v1/holds", b"[" * 500_000, 422, None),
    ("POST", "/v1/holds", b" " * 1_048_577, 413, None),
    ("POST", "/v1/holds/h%00/settle", b"{}", 422, "id"),
    ("POST", f"/v1/holds/{LONG}/settle", b"{}", 422, "id"),
    ("POST", "/v1/holds/%zz/settle", b"{}", 400, "id"),
    ("POST", "/v1/holds/%ff/settle", b"{}", 400, "id"),
    ("POST", "/v1/holds/nobody/settle", b"{}", 404, "id"),
    ("POST", "/v1/holds/nobody/extend", b"{}", 404, "id"),
    ("POST", "/v1/holds/nobody/release", b"{}", 404, "id"),
    ("POST", "/v1/holds/open/settle", b'{"total":{"tokens":-1}}', 422, "total.tokens"),
    ("POST", "/v1/holds/open/settle", b'{"total":{"tokens":9007199254740992}}', 422, "total.tokens"),
    ("POST", "/v1/holds/open/settle", b'{"record":{"tokens":{"input":-1}}}', 422, "record.tokens.input"),
    ("POST", "/v1/holds/open/settle", b'{"record":{"value":1e999}}', 422, "record.value"),
    ("POST", "/v1/holds/open/settle", b'{"record":{"confidence":1.5}}', 422, "record.confidence"),
    ("POST", "/v1/holds/open/extend", b'{"to":{"tokens":1e3}}', 422, "to.tokens"),
    ("POST", "/v1/usage", b'{"id":"u1"}', 422, "account"),
    ("POST", "/v1/usage", b'{"id":"u1","account":"agent:nobody"}', 404, "account"),
    ("PUT", "/v1/accounts/a%2Fb", b"{}", 422, "account"),
    ("PUT", "/v1/accounts/a%0Ab", b"{}", 422, "account"),
    ("PUT", "/v1/accounts/%20a", b"{}", 422, "account"),
    ("PUT", "/v1/accounts/new", b'{"parent":"new"}', 422, "parent"),
    ("PUT", "/v1/accounts/new", b'{"parent":"agent:nobody"}', 404, "parent"),
    ("PUT", "/v1/accounts/team:a", b'{"parent":"agent:x"}', 409, "parent"),
    ("PUT", "/v1/accounts/new", b'{"parent":"deep:16"}', 422, "parent"),
    ("PUT", "/v1/accounts/new", b'{"priority":0}', 422, "priority"),
    ("PUT", "/v1/accounts/new", b'{"labels":{"a":1}}', 422, "labels.a"),
    ("PUT", "/v1/accounts/new", b'{"min_reserve":{"tokens":-1}}', 422, "min_reserve.tokens"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":-1}', 422, "limit"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":9007199254740992}', 422, "limit"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":1.5}', 422, "limit"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":NaN}', 422, "limit"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":1,"period":"fortnight"}', 422, "period"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":1,"period":"every:0"}', 422, "period"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":1,"zone":"Mars/Olympus"}', 422, "zone"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":1,"zone":"../../etc/passwd"}', 422, "zone"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":1,"thresholds":{"0":"info"}}', 422, "thresholds"),
    ("PUT", BUDGET, b'{"unit":"tokens","limit":1,"thresholds":{"x":"info"}}', 422, "thresholds"),
    ("PUT", "/v1/accounts/agent:x/allocations/euros", b'{"to":1}', 422, "unit"),
    ("PUT", ALLOCATION, b'{"to":-1}', 422, "to"),
    (
        "PUT",
        ALLOCATION,
        b'{"to":1,"valid_until":"2030-01-01T00:00:00"}',
        422,
        "valid_until",
    ),
    ("PUT", ALLOCATION, b'{"to":1,"valid_until":"soon"}', 422, "valid_until"),
    ("DELETE", ALLOCATION, b"", 404, None),
    ("POST", "/v1/transfers", b'{"source":"agent:x","target":"agent:x","unit":"tokens","amount":1}', 422, "target"),
    ("POST", "/v1/transfers", b'{"source":"agent:x","target":"agent:y","unit":"tokens","amount":0}', 422, "amount"),
    ("POST", "/v1/accounts/team:a/adjustments", b'{"id":"a","budget":"main","amount":0,"reason":"r"}', 422, "amount"),
    ("POST", "/v1/accounts/team:a/adjustments", b'{"id":"a","budget":"main","amount":1,"reason":""}', 422, "reason"),
    ("POST", "/v1/accounts/team:a/adjustments", b'{"id":"a","budget":"nope","amount":1,"reason":"r"}', 404, None),
    ("DELETE", "/v1/accounts/team:a/adjustments/nope", b"", 404, None),
    ("PUT", "/v1/templates/thread", b"{}", 422, "pattern"),
    ("PUT", "/v1/templates/*", b"{}", 422, "pattern"),
    ("PUT", "/v1/templates/t:*", b'{"budgets":[{"unit":"tokens","limit":-1}]}', 422, "budgets[0].limit"),
    ("PUT", "/v1/templates/t:*", b'{"max_children":0}', 422, "max_children"),
    ("POST", "/v1/batch", b'{"operations":[],"atomic":true}', 422, "operations"),
    (
        "POST",
        "/v1/batch",
        NAMELESS,
        422,
        "operations[0].account",
    ),
    ("GET", "/v1/accounts?limit=0", b"", 422, "limit"),
    ("GET", "/v1/accounts?limit=1001", b"", 422, "limit"),
    ("GET", "/v1/accounts?cursor=57", b"", 422, "cursor"),
    ("GET", "/v1/accounts?cursor=" + LONG, b"", 422, "cursor"),
    ("GET", "/v1/accounts?parent=nobody", b"", 404, None),
    ("GET", "/v1/usage?since=then", b"", 422, "since"),
    ("GET", "/v1/usage?account=nobody", b"", 404, None),
    ("GET", "/v1/journal?after=-1", b"", 422, "after"),
    ("GET", "/v1/journal?after=9223372036854775808", b"", 422, "after"),
    ("GET", "/v1/accounts/team:a?min_seq=9007199254740991", b"", 422, "min_seq"),
    ("GET", "/v1/accounts?min_seq=9007199254740991", b"", 422, "min_seq"),
    ("GET", "/v1/events?after=x", b"", 422, "after"),
    ("GET", "/v1/events?account=nobody", b"", 404, None),
    ("GET", "/v1/accounts/team:a?verbose=1", b"", 422, "verbose"),
    ("GET", "/v1/accounts/nobody", b"", 404, "account"),
    ("GET", "/v1/accounts/team:a/budgets/nope", b"", 404, "budget"),
    ("GET", "/v1/holds/nobody", b"", 404, "id"),
    ("GET", "/v1/templates/nope", b"", 404, "pattern"),
    ("GET", "/v1/nowhere", b"", 404, None),
    ("DELETE", "/v1/holds", b"", 405, None),
    ("PATCH", "/v1/accounts/team:a", b"{}", 405, None),
    ("BREW", "/v1/holds", b"", 405, None),
]


@pytest.fixture
async def busy(api: Api) -> Api:
    """A ledger with something in it: accounts, a chain as deep as it may be, an open hold."""
    await api.tree()
    for depth in range(1, 17):
        parent = {"parent": f"deep:{depth - 1}"} if depth > 1 else {}
        assert (await api.put(f"/v1/accounts/deep:{depth}", parent)).status == 200
    assert (await api.post("/v1/holds", HOLD | {"id": "open"})).status == 201
    return api


async def test_bad_input_is_a_problem_that_names_the_field_and_changes_nothing(busy: Api):
    # covers E8
    before = await busy.head()
    wrong = []
    for method, target, body, status, field in CASES:
        answer = await busy.call(method, target, body)
        named = answer.json.get("field")
        if (answer.status, named if field else None) != (status, field) or not answer.code:
            wrong.append((method, target[:60], body[:80], f"wanted {status} {field}", answer.status, named))
    assert wrong == []
    assert await busy.head() == before


async def test_the_same_id_with_another_body_is_a_conflict_and_has_no_effect(busy: Api):
    # covers E7
    before = await busy.head()
    again = await busy.post("/v1/holds", HOLD | {"id": "open"})
    other = await busy.post("/v1/holds", HOLD | {"id": "open", "amounts": {"tokens": 2}})
    assert again.status == 201
    assert (other.status, other.code) == (409, "conflict")
    assert await busy.head() == before


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
async def test_a_condition_on_what_has_no_version_is_refused(busy: Api, name: str):
    """It would not be kept. Reads have none either, and are answered whole."""
    before = await busy.head()
    headers = {name: '"1"'}
    for path, body in (("/v1/accounts/team:a", {}), ("/v1/templates/t%3A*", {"budgets": []})):
        answer = await busy.put(path, body, headers=headers)
        assert (answer.status, answer.code, answer.json["field"]) == (422, "invalid", name), path
    answer = await busy.post("/v1/holds", HOLD | {"id": "new"}, headers=headers)
    assert (answer.status, answer.json["field"]) == (422, name)
    assert (await busy.get("/v1/accounts/team:a", headers=headers)).status == 200
    assert await busy.head() == before


HEADERS = [
    ({"Idempotency-Key": "x" * 129}, 422),
    ({"Idempotency-Key": "a\x01b"}, 422),
    ({"If-Match": "3"}, 422),
    ({"If-None-Match": "nothing"}, 422),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": ""}, 415),
    ({"Content-Encoding": "gzip"}, 415),
    ({"Content-Length": "99999999999999999999"}, 413),
    ({"Content-Length": "x"}, 413),
    ({"Host": "evil.example"}, 403),
    ({"Origin": "https://evil.example"}, 403),
    ({"Authorization": "Bearer " + "x" * 10_000}, 401),
    ({"Authorization": "Basic dXNlcjpwYXNz"}, 401),
]


@pytest.mark.parametrize(("headers", "status"), HEADERS, ids=[str(row[0])[:40] for row in HEADERS])
async def test_bad_headers_are_problems_and_change_nothing(busy: Api, headers: dict[str, str], status: int):
    before = await busy.head()
    answer = await busy.put(BUDGET, {"unit": "tokens", "limit": 7}, headers=headers)
    assert (answer.status, bool(answer.code)) == (status, True)
    assert await busy.head() == before


RAW = [
    b"POST /v1/holds HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/holds HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /v1/accounts/\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /v1/accounts?prefix=\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /v1/accounts/%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET http://127.0.0.1/v1/accounts HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET //v1/accounts HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /v1/../v1/accounts HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /v1/accounts HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"nonsense\r\n\r\n",
]


async def test_what_is_hardly_http_gets_no_5xx_and_changes_nothing(busy: Api):
    before = await busy.head()
    async with serving(busy.app) as url:
        port = int(url.rpartition(":")[2])
        for raw in RAW:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(raw)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(65_536), 10)
            writer.close()
            assert answer == b"" or int(answer.split()[1]) < 500, (raw, answer)
    assert await busy.head() == before


async def test_a_body_that_breaks_off_changes_nothing_and_leaks_nothing(busy: Api):
    before = await busy.head()
    async with serving(busy.app) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        body = hold(id="never")
        head = "POST /v1/holds HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        await writer.drain()
        while not busy.app._metrics.in_flight:
            await asyncio.sleep(0)
        writer.close()
        async with asyncio.timeout(10):
            while busy.app._metrics.in_flight:
                await asyncio.sleep(0.001)
    assert await busy.head() == before
    assert (await busy.get("/v1/holds/never")).status == 404
