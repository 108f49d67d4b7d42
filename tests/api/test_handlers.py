"""What the routes do, on a real ledger: every status and every code of the table."""

import pytest

from fiscus.api import handlers
from fiscus.api.problems import problem
from fiscus.core.commands import PutAccount, Request
from tests.api.service import Answer, Api

HOLD = {"id": "h1", "account": "agent:x", "amounts": {"tokens": 100}}


async def test_a_hold_lives_from_reserve_to_settlement(api: Api):
    # covers E7
    await api.tree()
    held = await api.post("/v1/holds", HOLD)
    assert held.status == 201
    assert held.json["state"] == "held"
    assert (await api.post("/v1/holds", HOLD)).body == held.body
    view = (await api.get("/v1/holds/h1")).json
    assert view["hold"] == held.json
    assert view["as_of_seq"] == await api.head()
    extended = await api.post("/v1/holds/h1/extend", {"to": {"tokens": 150}})
    assert extended.json["reserved"]["tokens"] == 150
    running = await api.post("/v1/holds/h1/settle", {"total": {"tokens": 20}, "final": False})
    assert (running.json["state"], running.json["booked"]["tokens"]) == ("held", 20)
    settled = await api.post("/v1/holds/h1/settle", {"total": {"tokens": 60}})
    assert (settled.status, settled.json["state"], settled.json["booked"]["tokens"]) == (200, "settled", 60)
    balance = (await api.get("/v1/balances/team:a")).json["balances"][0]
    assert (balance["spent"], balance["held"], balance["available"]) == (60, 0, 940)


async def test_a_release_needs_no_body_and_gives_everything_back(api: Api):
    await api.tree()
    await api.post("/v1/holds", HOLD)
    assert (await api.post("/v1/holds/h1/release")).json["state"] == "released"
    assert (await api.get("/v1/balances/team:a")).json["balances"][0]["available"] == 1_000


async def test_usage_after_the_fact_is_booked_and_listed_with_its_record(api: Api):
    # covers R25, R33
    await api.tree()
    record = {
        "model": "gpt-5",
        "provider": "openai",
        "tokens": {"input": 7, "output": 3},
        "cost_nanousd": 12_345,
        "user_id": "bob",
        "project_id": "p1",
        "team_id": "t1",
        "feature": "chat",
        "provenance": {"request_id": "r1"},
        "metadata": {"ticket": "7"},
    }
    booked = await api.post("/v1/usage", {"id": "u1", "account": "agent:x", "record": record})
    assert (booked.status, booked.json["booked"]["tokens"]) == (201, 10)
    page = (await api.get(f"/v1/usage?account=team:a&min_seq={await api.head()}")).json
    assert [usage["record"] for usage in page["usage"]] == [record]
    assert page["usage"][0]["account"] == "agent:x"


@pytest.mark.parametrize("others", [{"account": "agent:y"}, {"also": ["agent:y"]}], ids=["account", "also"])
async def test_an_id_of_usage_is_not_good_for_usage_of_others_and_tells_nothing_of_them(api: Api, others: dict):
    await api.tree()
    await api.put("/v1/accounts/agent:y", {"parent": "team:a"})
    body = {"id": "u1", "account": "agent:x", "total": {"tokens": 100}}
    first = await api.post("/v1/usage", body)
    again = await api.post("/v1/usage", body)
    assert (again.status, again.json["booked"]) == (201, first.json["booked"])
    other = await api.post("/v1/usage", body | others | {"total": {"tokens": 70}})
    assert (other.status, other.code, other.json["field"]) == (409, "conflict", *others)
    assert "agent:x" not in other.json["detail"]


async def test_more_than_the_budget_is_refused_with_402_and_all_that_explains_it(api: Api):
    # covers E2
    await api.tree(limit=50)
    refused = await api.post("/v1/holds", HOLD)
    assert (refused.status, refused.code) == (402, "budget_exceeded")
    problem = refused.json
    assert problem["requested"] == 100
    assert problem["binding"]["account"] == "team:a"
    assert problem["binding"]["available"] == 50
    assert "team:a" in problem["detail"]


async def test_what_would_fit_without_calls_in_flight_is_refused_with_429_and_when_to_come_back(api: Api):
    await api.tree(limit=100)
    assert (await api.post("/v1/holds", HOLD)).status == 201
    refused = await api.post("/v1/holds", HOLD | {"id": "h2"})
    assert (refused.status, refused.code) == (429, "budget_busy")
    assert int(refused.headers["retry-after"]) == refused.json["retry_after_s"] >= 1


STATUS_CODES = [("suspend", "account_suspended"), ("terminate", "account_terminated"), ("close", "account_closed")]


@pytest.mark.parametrize(("verb", "code"), STATUS_CODES)
async def test_an_account_that_is_not_active_is_refused_with_403(api: Api, verb: str, code: str):
    # covers D4
    await api.tree()
    assert (await api.post(f"/v1/accounts/agent:x/{verb}", {"reason": "because"})).status == 200
    refused = await api.post("/v1/holds", HOLD)
    assert (refused.status, refused.code) == (403, code)


async def test_a_suspended_account_resumes_and_a_terminated_one_does_not(api: Api):
    await api.tree()
    await api.post("/v1/accounts/agent:x/suspend")
    assert (await api.post("/v1/accounts/agent:x/resume")).json["status"] == "active"
    await api.post("/v1/accounts/agent:x/terminate")
    refused = await api.post("/v1/accounts/agent:x/resume")
    assert (refused.status, refused.code) == (409, "conflict")


async def test_a_name_is_erased_once_its_account_is_closed(api: Api):
    await api.tree()
    assert (await api.delete("/v1/accounts/agent:x/name")).code == "conflict"
    await api.post("/v1/accounts/agent:x/close")
    erased = await api.delete("/v1/accounts/agent:x/name")
    assert (erased.status, erased.json) == (200, {"outcome": "erased", "number": 2})
    assert (await api.get("/v1/accounts/agent:x")).code == "unknown_account"


async def test_a_settlement_without_a_hold_that_names_the_payer_outlives_a_late_reserve(api: Api):
    await api.tree()
    early = await api.post("/v1/holds/h1/settle", {"account": "agent:x", "total": {"tokens": 5}})
    assert (early.status, early.json["uncovered"]["tokens"]) == (200, 5)
    late = await api.post("/v1/holds", HOLD)
    assert (late.status, late.code) == (409, "already_settled")


async def test_a_unit_that_is_limited_must_be_bounded(api: Api):
    await api.tree()
    refused = await api.post("/v1/holds", HOLD | {"amounts": {"cost": 5}})
    assert (refused.status, refused.code) == (422, "unit_not_bounded")


async def test_an_account_with_an_allocation_of_its_own_cannot_be_charged_as_well(api: Api):
    await api.tree()
    await api.put("/v1/accounts/agent:y/allocations/tokens", {"to": 100})
    refused = await api.post("/v1/holds", HOLD | {"also": ["agent:y"]})
    assert (refused.status, refused.code) == (422, "also_not_shared")


# Budgets and their versions


async def test_a_budget_is_made_read_changed_and_ended_by_its_version(api: Api):
    await api.put("/v1/accounts/team:a")
    budget, body = "/v1/accounts/team:a/budgets/daily", {"unit": "tokens", "limit": 10, "period": "day"}
    absent = {"If-None-Match": "*"}
    made = await api.put(budget, body, headers=absent)
    assert (made.status, made.headers["etag"], made.json["budget"]["version"]) == (200, '"1"', 1)
    assert (await api.put(budget, body, headers=absent)).code == "precondition_failed"
    read = await api.get(budget)
    assert read.headers["etag"] == '"1"'
    assert read.json["budget"] | {"balance": None} == made.json["budget"] | {"balance": None}
    assert read.json["budget"]["balance"]["available"] == 10
    changed = await api.put(budget, body | {"limit": 20}, headers={"If-Match": '"1"'})
    assert (changed.headers["etag"], changed.json["budget"]["limit"]) == ('"2"', 20)
    stale = await api.put(budget, body | {"limit": 30}, headers={"If-Match": '"1"'})
    assert (stale.status, stale.code) == (412, "precondition_failed")
    assert (await api.delete(budget, headers={"If-Match": '"1"'})).status == 412
    assert [row["limit"] for row in (await api.get("/v1/accounts/team:a/budgets")).json["budgets"]] == [20]
    assert (await api.delete(budget, headers={"If-Match": "*"})).status == 200
    assert (await api.get(budget)).code == "unknown_budget"
    assert (await api.delete(budget)).code == "unknown_budget"


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}], ids=["once", "repeatable"])
@pytest.mark.parametrize(
    ("conditions", "seen"),
    [
        ({"If-Match": '"2"'}, [problem("precondition_failed", "as of a moment ago")]),
        ({"If-Match": "*"}, [1]),
        ({"If-Match": '"1", "2"'}, [1, 1]),
        ({"If-None-Match": '"1"'}, [0]),
    ],
    ids=str,
)
async def test_a_condition_holds_at_the_version_that_the_ledger_has(api: Api, monkeypatch, conditions, seen, key):
    """What is read may be as of a moment ago: another node has written since, or another caller."""
    await api.tree()
    budget, body = "/v1/accounts/team:a/budgets/daily", {"unit": "tokens", "limit": 10, "period": "day"}
    for limit in (10, 20):
        assert (await api.put(budget, body | {"limit": limit})).status == 200
    read, stale = handlers._if_version, list(seen)
    monkeypatch.setattr(handlers, "_if_version", lambda call: _now(stale.pop(0)) if stale else read(call))
    changed = await api.put(budget, body | {"limit": 30}, headers=conditions | key)
    assert (changed.status, changed.headers.get("etag")) == (200, '"3"'), changed


async def _now(value):
    return value


async def test_a_limit_below_what_is_in_use_needs_force(api: Api):
    await api.tree()
    await api.post("/v1/holds", HOLD)
    budget = "/v1/accounts/team:a/budgets/main"
    refused = await api.put(budget, {"unit": "tokens", "limit": 50})
    assert (refused.status, refused.code) == (409, "below_use")
    assert (await api.put(budget, {"unit": "tokens", "limit": 50, "force": True})).status == 200


async def test_an_adjustment_raises_the_limit_until_it_is_ended(api: Api):
    # covers E13
    await api.tree()
    adjusted = await api.post(
        "/v1/accounts/team:a/adjustments", {"id": "a1", "budget": "main", "amount": 500, "reason": "launch"}
    )
    assert (adjusted.status, adjusted.json["balance"]["limit"]) == (201, 1_500)
    ended = await api.delete("/v1/accounts/team:a/adjustments/a1")
    assert (ended.status, ended.json["active"], ended.json["balance"]["limit"]) == (200, False, 1_000)
    assert (await api.delete("/v1/accounts/team:a/adjustments/none")).code == "unknown_adjustment"


async def test_an_allocation_is_carved_moved_and_ended(api: Api):
    # covers E8
    await api.tree()
    for agent, size in (("agent:x", 300), ("agent:y", 100)):
        carved = await api.put(f"/v1/accounts/{agent}/allocations/tokens", {"to": size})
        assert (carved.status, carved.json["size"]) == (200, size)
    moved = await api.post("/v1/transfers", {"source": "agent:x", "target": "agent:y", "unit": "tokens", "amount": 50})
    assert (moved.status, moved.json["source"]["size"], moved.json["target"]["size"]) == (200, 250, 150)
    more = await api.post("/v1/transfers", {"source": "agent:x", "target": "agent:y", "unit": "tokens", "amount": 251})
    assert more.status in (402, 409)
    assert (await api.delete("/v1/accounts/agent:x/allocations/tokens")).json["size"] == 0
    assert (await api.delete("/v1/accounts/agent:x/allocations/tokens")).code == "unknown_allocation"


async def test_budget_moves_up_in_priority_and_never_down(api: Api):
    # covers T8
    await api.tree()
    await api.put("/v1/accounts/agent:x", {"priority": 5})
    for agent in ("agent:x", "agent:y"):
        await api.put(f"/v1/accounts/{agent}/allocations/tokens", {"to": 100})
    refused = await api.post("/v1/transfers", {"source": "agent:x", "target": "agent:y", "unit": "tokens", "amount": 1})
    assert (refused.status, refused.code) == (409, "lower_priority")
    up = await api.post("/v1/transfers", {"source": "agent:y", "target": "agent:x", "unit": "tokens", "amount": 1})
    assert up.status == 200


async def test_a_template_opens_accounts_until_its_bound(api: Api):
    await api.tree()
    template = {"parent": "team:a", "budgets": [{"unit": "calls", "limit": 3}], "max_children": 3}
    assert (await api.put("/v1/templates/thread:*", template)).json == {
        "outcome": "template",
        "pattern": "thread:*",
        "active": True,
    }
    assert (await api.get("/v1/templates/thread:*")).json["template"]["max_children"] == 3
    assert [row["pattern"] for row in (await api.get("/v1/templates")).json["templates"]] == ["thread:*"]
    assert (
        await api.post("/v1/holds", HOLD | {"account": "thread:1"})
    ).status == 201  # team:a has two children already
    refused = await api.post("/v1/holds", HOLD | {"id": "h2", "account": "thread:2"})
    assert (refused.status, refused.code) == (429, "too_many_accounts")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await api.delete("/v1/templates/thread:*")).json["active"] is False
    assert (await api.get("/v1/templates/thread:*")).code == "unknown_template"
    assert (await api.delete("/v1/templates/thread:*")).code == "unknown_template"


# Reading


async def test_pages_of_accounts_follow_each_other_without_gap_or_repeat(api: Api):
    for number in range(25):
        await api.put(f"/v1/accounts/n:{number}")
    target = f"/v1/accounts?limit=10&prefix=n:&min_seq={await api.head()}"
    names, cursor, pages = [], "", 0
    while cursor is not None:
        page = (await api.get(target + (f"&cursor={cursor}" if cursor else ""))).json
        names += [account["account"] for account in page["accounts"]]
        cursor, pages = page["next"], pages + 1
    assert names == [f"n:{number}" for number in range(25)]
    assert pages == 3


async def test_accounts_are_found_by_parent_and_status(api: Api):
    await api.tree()
    await api.post("/v1/accounts/agent:y/suspend")
    page = (await api.get(f"/v1/accounts?parent=team:a&status=suspended&min_seq={await api.head()}")).json
    assert [account["account"] for account in page["accounts"]] == ["agent:y"]


async def test_the_journal_is_read_in_order_after_a_sequence_number(api: Api):
    # covers E9
    await api.tree()
    page = (await api.get("/v1/journal?after=2&limit=2")).json
    assert [entry["seq"] for entry in page["entries"]] == [3, 4]
    assert (page["next"], page["as_of_seq"]) == (4, await api.head())


async def test_an_idempotency_key_makes_a_repeat_answer_the_same(api: Api):
    # covers E7
    await api.tree()
    for agent in ("agent:x", "agent:y"):
        await api.put(f"/v1/accounts/{agent}/allocations/tokens", {"to": 100})
    body, key = {"source": "agent:x", "target": "agent:y", "unit": "tokens", "amount": 10}, {"Idempotency-Key": "t1"}
    first = await api.post("/v1/transfers", body, headers=key)
    assert (await api.post("/v1/transfers", body, headers=key)).body == first.body
    assert (await api.post("/v1/transfers", body | {"amount": 11}, headers=key)).code == "conflict"
    assert (await api.get("/v1/balances/agent:y")).json["balances"][0]["limit"] == 110


# Batch

OPERATIONS = [
    {"op": "reserve", "id": "b1", "account": "agent:x", "amounts": {"tokens": 60}},
    {"op": "reserve", "id": "b2", "account": "agent:x", "amounts": {"tokens": 60}},
    {"op": "reserve", "id": "b3", "account": "agent:y", "amounts": {"tokens": 40}},
]


async def test_a_batch_answers_each_command_with_its_own_status(api: Api):
    await api.tree(limit=100)
    answer = await api.post("/v1/batch", {"operations": [*OPERATIONS, {"op": "release", "id": "b1"}]})
    assert answer.status == 200
    assert [item["status"] for item in answer.json["answers"]] == [201, 429, 201, 200]
    assert answer.json["answers"][1]["answer"]["code"] == "budget_busy"
    assert answer.json["answers"][3]["answer"]["state"] == "released"


async def test_an_atomic_batch_is_all_or_none(api: Api):
    await api.tree(limit=100)
    before = await api.head()
    refused = await api.post("/v1/batch", {"operations": OPERATIONS, "atomic": True})
    assert (refused.status, refused.json["index"]) == (429, 1)
    assert await api.head() == before
    done = await api.post("/v1/batch", {"operations": [OPERATIONS[0], OPERATIONS[2]], "atomic": True})
    assert [item["status"] for item in done.json["answers"]] == [201, 201]


async def test_a_batch_is_repeated_without_a_second_effect(api: Api):
    # covers E7
    await api.tree()
    for agent in ("agent:x", "agent:y"):
        await api.put(f"/v1/accounts/{agent}/allocations/tokens", {"to": 100})
    move = {"op": "transfer", "source": "agent:x", "target": "agent:y", "unit": "tokens", "amount": 10}
    for atomic in (False, True):
        body, key = {"operations": [move, move], "atomic": atomic}, {"Idempotency-Key": f"batch-{atomic}"}
        first = await api.post("/v1/batch", body, headers=key)
        assert (await api.post("/v1/batch", body, headers=key)).body == first.body
    assert (await api.get("/v1/balances/agent:y")).json["balances"][0]["limit"] == 140


async def test_a_batch_of_a_thousand_is_taken_and_one_more_is_not(api: Api):
    await api.tree()
    operations = [{"op": "put_account", "account": f"n:{number}"} for number in range(1_001)]
    assert (await api.post("/v1/batch", {"operations": operations})).json["field"] == "operations"
    done = await api.post("/v1/batch", {"operations": operations[:1_000]})
    assert [item["status"] for item in done.json["answers"]] == [200] * 1_000


async def test_confirming_the_clock_answers_whether_calls_are_admitted_now(api: Api):
    await api.treasury.execute(Request(command=PutAccount(account="a")))
    confirmed = await api.post("/v1/clock/confirm")
    assert (confirmed.status, confirmed.json["ready"]) == (200, True)


async def test_a_conditional_write_that_is_repeated_has_the_same_answer(api: Api):
    await api.put("/v1/accounts/a", {})
    budget, body = "/v1/accounts/a/budgets/b", {"unit": "tokens", "limit": 10}
    for limit, conditions in ((10, {"If-None-Match": "*"}), (20, {"If-Match": '"1"'})):
        headers = {**conditions, "Idempotency-Key": f"k{limit}"}
        first = await api.put(budget, body | {"limit": limit}, headers=headers)
        assert first.status == 200, first
        again = await api.put(budget, body | {"limit": limit}, headers=headers)
        assert (again.status, again.body) == (200, first.body)
    stale = await api.put(budget, body | {"limit": 30}, headers={"If-Match": '"1"', "Idempotency-Key": "k30"})
    assert (stale.status, stale.code) == (412, "precondition_failed")
    headers = {"If-Match": '"2"', "Idempotency-Key": "gone"}
    statuses = [(await api.delete(budget, headers=headers)).status for _ in range(2)]
    assert statuses == [200, 200]


# covers E7
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize(
    "conditions",
    [
        {"If-Match": "*"},
        {"If-Match": '"1"'},
        {"If-Match": '"1", "7"'},
        {"If-None-Match": '"7"'},
        {"If-Match": '"1"', "If-None-Match": '"7"'},
    ],
)
async def test_a_repeat_is_answered_the_same_whatever_its_conditions_say(api: Api, conditions, method):
    await api.put("/v1/accounts/a", {})
    budget, body = "/v1/accounts/a/budgets/b", {"unit": "tokens", "limit": 10}
    await api.put(budget, body)

    async def write(**more: str) -> Answer:
        headers = conditions | {"Idempotency-Key": "k"} | more
        return await (
            api.delete(budget, headers=headers)
            if method == "DELETE"
            else api.put(budget, body | {"limit": 20}, headers=headers)
        )

    first, again = await write(), await write()
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    other = await write(**{"If-Match": '"8"', "If-None-Match": '"9"'})
    assert (other.status, other.code) == (409, "conflict")
    fresh = await write(**{"If-Match": '"8"', "Idempotency-Key": "another"})
    assert (fresh.status, fresh.code) == (412, "precondition_failed")


@pytest.mark.parametrize(("tag", "status"), [('"01"', 412), (f'"{"9" * 30}"', 412), (f'"{"9" * 5_000}"', 422)])
async def test_a_condition_that_names_no_version_does_not_hold(api: Api, tag, status):
    await api.put("/v1/accounts/a", {})
    budget, body = "/v1/accounts/a/budgets/b", {"unit": "tokens", "limit": 10}
    await api.put(budget, body)
    for headers in ({"If-Match": tag}, {"If-Match": tag, "Idempotency-Key": "k"}):
        assert (await api.put(budget, body | {"limit": 20}, headers=headers)).status == status
    assert (await api.get(budget)).json["budget"]["limit"] == 10
