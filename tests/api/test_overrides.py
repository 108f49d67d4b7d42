"""Overrides and gates over HTTP: who asks, who decides, what is listed, and how it is refused."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fiscus.contract.queries import ListOverrides
from tests.api.service import FIRST_SECRET, Api, ledger
from tests.api.test_keys import issued

ASK = {"account": "team:a", "budget": "main", "amount": 300, "reason": "the index is rebuilt"}


@pytest.fixture
async def court(keyed: Api) -> Any:
    """The tree with a budget of 1,000 tokens, and keys: an operator, a viewer, one of team:a, one of agent:x."""
    made = {
        name: await issued(keyed, **fields)
        for name, fields in (("asker", {"role": "operator"}), ("looker", {"role": "viewer"}))
    }
    for account, parent in (("team:a", None), ("agent:x", "team:a"), ("team:b", None)):
        assert (await keyed.put(f"/v1/accounts/{account}", {"parent": parent}, key=FIRST_SECRET)).status == 200
    budget = {"unit": "tokens", "limit": 1_000}
    assert (await keyed.put("/v1/accounts/team:a/budgets/main", budget, key=FIRST_SECRET)).status == 200
    made["of_x"] = await issued(keyed, role="account", account="agent:x")
    made["of_a"] = await issued(keyed, role="account", account="team:a")
    return keyed, {name: key["secret"] for name, key in made.items()}, {name: key["id"] for name, key in made.items()}


async def available(api: Api) -> int:
    answer = await api.get("/v1/balances/team:a", key=FIRST_SECRET)
    return answer.json["balances"][0]["available"]


# covers R8, R31
async def test_an_override_is_asked_for_granted_seen_and_revoked(court):
    api, secrets, ids = court
    asked = await api.post("/v1/overrides", {"id": "o", **ASK, "valid_s": 600}, key=secrets["asker"])
    assert (asked.status, asked.json["state"], asked.json["requested_by"]) == (201, "pending", ids["asker"])
    refused = await api.post(
        "/v1/holds", {"id": "h", "account": "agent:x", "amounts": {"tokens": 1_200}}, key=FIRST_SECRET
    )
    assert refused.status == 402
    granted = await api.post("/v1/overrides/o/approve", {"amount": 250, "reason": "for today"}, key=FIRST_SECRET)
    assert (granted.status, granted.json["amount"], granted.json["decided_by"]) == (200, 250, "first")
    assert await available(api) == 1_250
    held = await api.post(
        "/v1/holds", {"id": "h", "account": "agent:x", "amounts": {"tokens": 1_200}}, key=FIRST_SECRET
    )
    assert held.status == 201
    seen = await api.get("/v1/overrides/o", key=secrets["asker"])
    assert (seen.json["override"]["state"], seen.json["override"]["decision"]) == ("approved", "for today")
    revoked = await api.post("/v1/overrides/o/revoke", {"reason": "enough"}, key=FIRST_SECRET)
    assert (revoked.json["state"], revoked.json["balance"]["limit"]) == ("revoked", 1_200)
    journal = (await api.get("/v1/journal?limit=1000", key=FIRST_SECRET)).json["entries"]
    kinds = [entry["kind"] for entry in journal if entry["data"].get("id") == "o"]
    assert kinds == ["override_requested", "override_approved", "adjusted", "override_revoked", "adjustment_ended"]
    told = next(entry for entry in journal if entry["kind"] == "override_requested")
    assert told["names"] == {str(told["data"]["account"]): "team:a"}
    assert (told["data"]["amount"], told["data"]["limit"], told["data"]["used"]) == (300, 1_000, 0)
    assert told["data"]["private"] == {"reason": ASK["reason"]}


# covers R31
async def test_an_approval_that_is_not_for_this_key_is_refused(court):
    api, secrets, _ = court
    await api.post("/v1/overrides", {"id": "o", **ASK}, key=secrets["asker"])
    for name in ("asker", "looker", "of_a"):
        for verb in ("approve", "deny"):
            answer = await api.post(f"/v1/overrides/o/{verb}", key=secrets[name])
            assert (answer.status, answer.code) == (403, "forbidden"), name
    foreign = await api.post("/v1/overrides/o/approve", key=secrets["of_x"])
    assert (foreign.status, foreign.code) == (404, "unknown_override")
    assert (await api.post("/v1/overrides/o/approve")).status == 401
    assert (await api.post("/v1/overrides/o/deny", {"reason": "no"}, key=FIRST_SECRET)).json["state"] == "denied"
    again = await api.post("/v1/overrides/o/approve", key=FIRST_SECRET)
    assert (again.status, again.code) == (409, "conflict")
    assert await available(api) == 1_000


async def test_a_repeat_with_the_same_idempotency_key_is_answered_the_same(court):
    api, secrets, _ = court
    body = {"id": "o", **ASK}
    first = await api.post("/v1/overrides", body, key=secrets["asker"])
    assert (await api.post("/v1/overrides", body, key=secrets["asker"])).json == first.json
    assert (await api.post("/v1/overrides", {**body, "amount": 1}, key=secrets["asker"])).code == "conflict"
    answers = [
        await api.post("/v1/overrides/o/approve", key=FIRST_SECRET, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert answers[0].json == answers[1].json
    assert await available(api) == 1_300


async def test_a_bound_key_asks_below_its_account_and_sees_no_others(court):
    api, secrets, _ = court
    await api.put("/v1/accounts/agent:x/budgets/own", {"unit": "tokens", "limit": 10}, key=FIRST_SECRET)
    own = {"id": "o", **ASK, "account": "agent:x", "budget": "own", "amount": 5}
    assert (await api.post("/v1/overrides", own, key=secrets["of_x"])).status == 201
    assert (await api.post("/v1/overrides", {**own, "id": "p", "account": "team:b"}, key=secrets["of_x"])).status == 403
    await api.post("/v1/overrides", {"id": "q", **ASK}, key=FIRST_SECRET)

    async def listed(secret, query=""):
        head = await api.head()
        page = await api.get(f"/v1/overrides?min_seq={head}{query}", key=secret)
        return [override["id"] for override in page.json["overrides"]]

    assert await listed(secrets["of_x"]) == ["o"]
    assert await listed(FIRST_SECRET) == ["o", "q"]
    assert await listed(FIRST_SECRET, "&account=agent:x") == ["o"]
    assert (await api.get("/v1/overrides/q", key=secrets["of_x"])).code == "unknown_override"
    assert (await api.get("/v1/overrides?account=team:b", key=secrets["of_x"])).status == 403


async def test_overrides_are_listed_in_pages_by_state():
    async with ledger() as treasury:
        api = Api(treasury)
        await api.tree()
        for number in range(5):
            body = {"id": f"o{number}", **ASK, "amount": 1 + number}
            assert (await api.post("/v1/overrides", body)).status == 201
        await api.post("/v1/overrides/o3/revoke")
        head = await api.head()
        found, cursor = [], ""
        while cursor is not None:
            page = (
                await api.get(f"/v1/overrides?limit=2&min_seq={head}" + (f"&cursor={cursor}" if cursor else ""))
            ).json
            found += [override["id"] for override in page["overrides"]]
            cursor = page["next"]
        assert found == ["o0", "o1", "o2", "o3", "o4"]
        pending = (await api.get(f"/v1/overrides?state=pending&limit=3&min_seq={head}")).json
        assert [override["id"] for override in pending["overrides"]] == ["o0", "o1", "o2"]
        rest = (await api.get(f"/v1/overrides?state=pending&cursor={pending['next']}")).json
        assert ([override["id"] for override in rest["overrides"]], rest["next"]) == (["o4"], None)
        gone = (await api.get("/v1/overrides?state=withdrawn")).json["overrides"]
        assert [override["id"] for override in gone] == ["o3"]
        assert gone[0]["balance"]["limit"] == 1_000
        for query in ("state=asleep", "limit=0", "cursor=", "cursor=a%0Ab", "cursor=" + "x" * 129, "account=a/b"):
            answer = await api.get(f"/v1/overrides?{query}")
            assert answer.status in (404, 422), query
        page = await treasury.read(ListOverrides(after="\n"))
        assert page.code == "invalid"


# covers R31
async def test_without_keys_requests_wait_and_nobody_decides():
    async with ledger() as treasury:
        api = Api(treasury)
        await api.tree()
        assert (await api.post("/v1/overrides", {"id": "o", **ASK})).json["requested_by"] == ""
        assert (await api.post("/v1/overrides/o/approve")).code == "forbidden"
        policy = {"requires_approval": False}
        answer = await api.put(
            "/v1/accounts/team:a/budgets/main", {"unit": "tokens", "limit": 1_000, "override": policy}
        )
        assert answer.json["budget"]["override"] == policy
        granted = await api.post("/v1/overrides", {"id": "p", **ASK})
        assert (granted.json["state"], granted.json["decided_by"]) == ("approved", "fiscus")


SOON = (datetime.now(UTC) + timedelta(days=3)).isoformat()
WRONG = [
    ({"amount": -5}, 422, "amount"),
    ({"amount": 1e308}, 422, "amount"),
    ({"amount": "many"}, 422, "amount"),
    ({"amount": 501}, 409, "amount"),
    ({"reason": ""}, 422, "reason"),
    ({"reason": None}, 422, "reason"),
    ({"valid_s": 86_401}, 409, "valid_s"),
    ({"valid_until": SOON}, 409, "valid_until"),
    ({"valid_until": "2020-01-01T00:00:00Z"}, 422, "valid_until"),
    ({"valid_until": SOON, "valid_s": 5}, 422, "valid_s"),
    ({"open_s": 0}, 422, "open_s"),
    ({"approved_by": "me"}, 422, "approved_by"),
    ({"requested_by": "me"}, 422, "requested_by"),
    ({"budget": "no such"}, 404, "budget"),
    ({"account": "nobody"}, 404, "account"),
]


@pytest.mark.parametrize(("fields", "status", "field"), WRONG, ids=lambda value: str(value).replace(SOON, "soon")[:40])
async def test_what_is_wrong_with_a_request_is_named(fields, status, field):
    async with ledger() as treasury:
        api = Api(treasury)
        await api.tree()
        answer = await api.post("/v1/overrides", {"id": "o", **ASK, **fields})
        assert (answer.status, answer.json["field"]) == (status, field), answer
        assert answer.code in ("invalid", "beyond_policy", "unknown_account", "unknown_budget")


POLICIES = [
    ({"approvers": ["king"]}, "override.approvers"),
    ({"max_percent": -1}, "override.max_percent"),
    ({"max_duration_s": 0}, "override.max_duration_s"),
    ({"approver_keys": [""]}, "override.approver_keys"),
    ({"nobody": True}, "override.nobody"),
]


@pytest.mark.parametrize(("policy", "field"), POLICIES, ids=lambda value: str(value))
async def test_a_wrong_policy_is_named(policy, field):
    async with ledger() as treasury:
        api = Api(treasury)
        await api.tree()
        body = {"unit": "tokens", "limit": 1_000, "override": policy}
        answer = await api.put("/v1/accounts/team:a/budgets/main", body)
        assert (answer.status, answer.code) == (422, "invalid")
        assert answer.json["field"].startswith(field)


# covers T15
async def test_a_gate_is_a_refusal_of_its_own_and_is_reset():
    async with ledger() as treasury:
        api = Api(treasury)
        await api.tree()
        put = await api.put("/v1/accounts/agent:x", {"confidence_threshold": 0.9, "gate_s": 600})
        assert (put.json["confidence_threshold"], put.json["gate_s"]) == (0.9, 600)
        call = {"account": "agent:x", "amounts": {"tokens": 10}, "attributes": {"task": "review"}}
        assert (await api.post("/v1/holds", {"id": "h1", **call})).status == 201
        record = {"confidence": 0.93}
        settled = {"total": {"tokens": 5}, "record": record, "attributes": call["attributes"]}
        assert (await api.post("/v1/holds/h1/settle", settled)).status == 200
        refused = await api.post("/v1/holds", {"id": "h2", **call})
        assert (refused.status, refused.code) == (403, "gated")
        assert "binding" not in refused.json
        assert datetime.fromisoformat(refused.json["resets_at"]) > datetime.now(UTC)
        gates = (await api.get("/v1/accounts/agent:x")).json["account"]["gates"]
        assert [gate["task"] for gate in gates] == ["review"]
        assert (await api.post("/v1/holds", {"id": "h2", **call, "attributes": {}})).status == 201
        reset = await api.post("/v1/accounts/agent:x/gates/reset", {"task": "review"})
        assert "gates" not in reset.json
        assert (await api.post("/v1/holds", {"id": "h3", **call})).status == 201
        unset = await api.put("/v1/accounts/agent:x", {"confidence_threshold": None})
        assert "confidence_threshold" not in unset.json
        assert (await api.put("/v1/accounts/agent:x", {"priority": 2})).status == 200
        for body in ({"confidence_threshold": 1.5}, {"gate_s": -1}, {"confidence_threshold": "high"}):
            answer = await api.put("/v1/accounts/agent:x", body)
            assert (answer.status, answer.json["field"]) == (422, next(iter(body)))
        nan = await api.put("/v1/accounts/agent:x", b'{"confidence_threshold": NaN}')
        assert (nan.status, nan.json["field"]) == (422, "confidence_threshold")


async def test_a_bound_key_does_not_open_its_own_gate(court):
    api, secrets, _ = court
    answer = await api.post("/v1/accounts/agent:x/gates/reset", key=secrets["of_x"])
    assert (answer.status, answer.code) == (403, "forbidden")
    assert (await api.post("/v1/accounts/agent:x/gates/reset", key=secrets["of_a"])).status == 200
    put = await api.put("/v1/accounts/agent:x", {"confidence_threshold": None}, key=secrets["of_x"])
    assert put.status == 403


# covers R8, R31
async def test_a_blocked_call_waits_until_another_key_approves_and_goes_on(court):
    api, secrets, _ = court
    await api.post("/v1/usage", {"id": "u", "account": "agent:x", "total": {"tokens": 900}}, key=FIRST_SECRET)
    call = {"account": "agent:x", "amounts": {"tokens": 300}, "wait_s": 30}
    assert (await api.post("/v1/holds", {"id": "h0", **call}, key=secrets["of_x"])).status == 402
    assert (await api.post("/v1/overrides", {"id": "o", **ASK}, key=secrets["asker"])).status == 201
    waiting = asyncio.create_task(api.post("/v1/holds", {"id": "h1", **call}, key=secrets["of_x"]))
    while (await api.get("/v1/holds/h1", key=FIRST_SECRET)).status != 200:
        await asyncio.sleep(0)
    seen = (await api.get("/v1/holds/h1", key=FIRST_SECRET)).json["hold"]
    assert (seen["state"], seen["place"]) == ("waiting", 1)
    assert (await api.get("/v1/overrides/o", key=secrets["asker"])).json["override"]["state"] == "pending"
    assert not waiting.done()
    assert (await api.post("/v1/overrides/o/approve", key=FIRST_SECRET)).status == 200
    held = await waiting
    assert (held.status, held.json["state"]) == (201, "held")
    settled = await api.post("/v1/holds/h1/settle", {"total": {"tokens": 290}}, key=secrets["of_x"])
    assert "uncovered" not in settled.json
    assert await available(api) == 1_300 - 900 - 290


# covers R31
async def test_a_call_that_waits_for_a_decision_is_refused_when_it_is_no(court):
    api, secrets, _ = court
    await api.post("/v1/usage", {"id": "u", "account": "agent:x", "total": {"tokens": 900}}, key=FIRST_SECRET)
    await api.post("/v1/overrides", {"id": "o", **ASK}, key=secrets["asker"])
    call = {"id": "h", "account": "agent:x", "amounts": {"tokens": 300}, "wait_s": 30}
    waiting = asyncio.create_task(api.post("/v1/holds", call, key=secrets["of_x"]))
    while (await api.get("/v1/holds/h", key=FIRST_SECRET)).status != 200:
        await asyncio.sleep(0)
    assert (await api.post("/v1/overrides/o/deny", key=FIRST_SECRET)).status == 200
    refused = await waiting
    assert (refused.status, refused.code) == (402, "budget_exceeded")
