"""Keys: who may do what, and that a key of one account can neither spend nor see another's."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from fiscus.api import ApiOptions, store_first_key
from fiscus.api.keys import UNKNOWN_KEYS_PER_MINUTE, caller_of, digest_of, make_secret
from fiscus.contract.queries import KeysView, ListEntries, ListKeys
from fiscus.core.outcomes import KeyAnswer
from tests.api.service import FIRST_SECRET, PEPPER, Api, ledger


async def issued(api: Api, **fields: Any) -> dict[str, Any]:
    """A new key by the administrator: its id and secret."""
    answer = await api.post("/v1/keys", fields, key=FIRST_SECRET)
    assert answer.status == 201, answer
    return {"id": answer.json["key"]["key"], "secret": answer.json["secret"]}


@pytest.fixture
async def teams(keyed: Api) -> Api:
    """Two teams with an agent, a budget, a hold and a booked call each; made by the administrator."""
    for team, agent in (("team:a", "agent:x"), ("team:b", "agent:z")):
        for target, body in (
            (f"/v1/accounts/{team}", {"labels": {"owner": f"owner of {team}"}}),
            (f"/v1/accounts/{agent}", {"parent": team}),
            (f"/v1/accounts/{team}/budgets/main", {"unit": "tokens", "limit": 1_000}),
        ):
            assert (await keyed.put(target, body, key=FIRST_SECRET)).status == 200
        held = {"id": f"hold-{agent}", "account": agent, "amounts": {"tokens": 10}}
        assert (await keyed.post("/v1/holds", held, key=FIRST_SECRET)).status == 201
        used = {"id": f"use-{agent}", "account": agent, "total": {"tokens": 5}, "record": {"model": f"model of {team}"}}
        assert (await keyed.post("/v1/usage", used, key=FIRST_SECRET)).status == 201
    return keyed


# Secrets


async def test_a_secret_is_shown_once_and_stored_nowhere(keyed: Api):
    key = await issued(keyed, role="viewer", label="for the page")
    assert key["secret"].startswith("fk_")
    assert len(key["secret"]) == 46
    listed = await keyed.get("/v1/keys", key=FIRST_SECRET)
    journal = await keyed.get("/v1/journal?limit=1000", key=FIRST_SECRET)
    for answer in (listed, journal):
        assert key["id"].encode() in answer.body
        assert key["secret"].encode() not in answer.body
    page = await keyed.treasury.read(ListEntries(limit=1_000))
    stored = [entry.data["digest"] for entry in page.entries if entry.kind == "key_put"]  # type: ignore[union-attr]
    assert stored == [digest_of(FIRST_SECRET, PEPPER), digest_of(key["secret"], PEPPER)]


async def test_an_answer_with_a_secret_is_not_to_be_kept(keyed: Api):
    answer = await keyed.post("/v1/keys", {"role": "viewer"}, key=FIRST_SECRET)
    assert answer.headers["cache-control"] == "no-store"


def test_a_secret_is_32_random_bytes_and_its_hash_is_keyed():
    assert len({make_secret() for _ in range(100)}) == 100
    assert digest_of("secret", b"one pepper") != digest_of("secret", b"another pepper")


async def test_the_first_key_is_stored_once(keyed: Api):
    before = await keyed.head()
    await store_first_key(keyed.treasury, FIRST_SECRET, PEPPER)
    assert await keyed.head() == before
    view = await keyed.treasury.read(ListKeys())
    assert isinstance(view, KeysView)
    assert [(key.key, key.role) for key in view.keys] == [("first", "admin")]


async def test_both_headers_carry_a_key(keyed: Api):
    assert (await keyed.get("/v1/accounts", headers={"Authorization": f"bearer {FIRST_SECRET}"})).status == 200
    assert (await keyed.get("/v1/accounts", headers={"X-Api-Key": FIRST_SECRET})).status == 200


@pytest.mark.parametrize("wrong", ["fk_" + "A" * 43, "x", FIRST_SECRET + "x", "x" * 100_000, "é", ""])
async def test_no_key_and_a_wrong_key_are_401_and_say_how_to_send_one(keyed: Api, wrong: str):
    answer = await keyed.get("/v1/accounts", headers={"X-Api-Key": wrong} if wrong else {})
    assert (answer.status, answer.code, answer.headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
    assert not wrong or wrong not in answer.json["detail"] or len(wrong) == 1


async def test_what_needs_no_key_needs_none(keyed: Api):
    for target in ("/health", "/ready", "/v1/openapi.json"):
        assert (await keyed.get(target)).status == 200
    assert (await keyed.get("/metrics")).status == 401
    assert (await keyed.get("/metrics", key=FIRST_SECRET)).status == 200


async def test_a_rotated_key_has_a_new_secret_and_the_old_one_ends_at_once(keyed: Api):
    key = await issued(keyed, role="operator", label="robot", requests_per_minute=500)
    assert (await keyed.get("/v1/accounts", key=key["secret"])).status == 200
    rotated = (await keyed.post(f"/v1/keys/{key['id']}/rotate", key=FIRST_SECRET)).json
    assert rotated["key"]["key"] == key["id"]
    assert (rotated["key"]["role"], rotated["key"]["label"]) == ("operator", "robot")
    assert (await keyed.get("/v1/accounts", key=key["secret"])).status == 401
    assert (await keyed.get("/v1/accounts", key=rotated["secret"])).status == 200


async def test_a_revoked_key_ends_at_once(keyed: Api):
    key = await issued(keyed, role="operator")
    assert (await keyed.get("/v1/accounts", key=key["secret"])).status == 200
    assert (await keyed.delete(f"/v1/keys/{key['id']}", key=FIRST_SECRET)).json["active"] is False
    assert (await keyed.get("/v1/accounts", key=key["secret"])).status == 401
    assert key["id"] not in str((await keyed.get("/v1/keys", key=FIRST_SECRET)).json)
    assert (await keyed.post(f"/v1/keys/{key['id']}/rotate", key=FIRST_SECRET)).code == "unknown_key"
    assert (await keyed.delete("/v1/keys/nobody", key=FIRST_SECRET)).code == "unknown_key"


class Clocks:
    """The time of day and a clock that never steps, both by hand."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_key_ends_when_it_expires():
    clock = Clocks()
    async with ledger() as treasury:
        await store_first_key(treasury, FIRST_SECRET, PEPPER)
        api = Api(treasury, ApiOptions(key_pepper=PEPPER, keys_required=True, clock_s=clock))
        expires = datetime.fromtimestamp(clock.now_s, UTC) + timedelta(seconds=10)
        key = await issued(api, role="viewer", expires_at=expires.isoformat())
        assert (await api.get("/v1/accounts", key=key["secret"])).status == 200
        clock.now_s += 10
        assert (await api.get("/v1/accounts", key=key["secret"])).status == 401


async def test_a_service_without_keys_asks_for_one_once_there_is_an_administrators():
    clock = Clocks()
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(key_pepper=PEPPER, monotonic_s=clock))
        assert (await api.get("/v1/accounts")).status == 200
        await store_first_key(treasury, FIRST_SECRET, PEPPER)  # by another node
        clock.now_s += 1
        assert (await api.get("/v1/accounts")).status == 401
        assert (await api.get("/v1/accounts", key=FIRST_SECRET)).status == 200


async def test_a_service_without_keys_stays_open_until_somebody_can_make_others():
    async with ledger() as treasury:
        api = Api(treasury, ApiOptions(key_pepper=PEPPER))
        assert (await api.post("/v1/keys", {"role": "viewer"})).status == 201
        assert (await api.get("/v1/accounts")).status == 200
        made = await api.post("/v1/keys", {"role": "admin"})
        assert made.status == 201
        assert (await api.get("/v1/accounts")).status == 401
        assert (await api.get("/v1/accounts", key=made.json["secret"])).status == 200


async def test_a_key_that_another_node_revoked_ends_within_a_second():
    clock = Clocks()
    async with ledger() as treasury:
        await store_first_key(treasury, FIRST_SECRET, PEPPER)
        options = ApiOptions(key_pepper=PEPPER, keys_required=True, monotonic_s=clock)
        api, other = Api(treasury, options), Api(treasury, options)
        key = await issued(api, role="viewer")
        assert (await api.get("/v1/accounts", key=key["secret"])).status == 200
        await other.delete(f"/v1/keys/{key['id']}", key=FIRST_SECRET)
        clock.now_s += 1.0
        assert (await api.get("/v1/accounts", key=key["secret"])).status == 401


async def test_a_key_may_make_only_so_many_requests_a_minute():
    clock = Clocks()
    async with ledger() as treasury:
        await store_first_key(treasury, FIRST_SECRET, PEPPER)
        options = ApiOptions(
            key_pepper=PEPPER, keys_required=True, monotonic_s=clock, requests_per_minute_default=1_000
        )
        api = Api(treasury, options)
        slow, fast = await issued(api, role="viewer", requests_per_minute=2), await issued(api, role="viewer")
        statuses = [(await api.get("/v1/accounts", key=slow["secret"])).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        limited = await api.get("/v1/accounts", key=slow["secret"])
        assert (limited.code, limited.headers["retry-after"]) == ("rate_limited", "30")
        assert (await api.get("/v1/accounts", key=fast["secret"])).status == 200
        clock.now_s += 30
        assert (await api.get("/v1/accounts", key=slow["secret"])).status == 200


async def test_one_address_may_guess_only_so_often_and_keys_in_use_go_on():
    clock = Clocks()
    async with ledger() as treasury:
        await store_first_key(treasury, FIRST_SECRET, PEPPER)
        api = Api(treasury, ApiOptions(key_pepper=PEPPER, keys_required=True, monotonic_s=clock))
        assert (await api.get("/v1/accounts", key=FIRST_SECRET)).status == 200
        guesses = [(await api.get("/v1/accounts", key=f"guess {n}")).status for n in range(UNKNOWN_KEYS_PER_MINUTE + 1)]
        assert guesses == [401] * UNKNOWN_KEYS_PER_MINUTE + [429]
        assert (await api.get("/v1/accounts", key=FIRST_SECRET)).status == 200
        assert (await api.get("/v1/accounts", key="guess", client="203.0.113.1")).status == 401


async def test_without_keys_a_key_that_is_sent_still_counts(api: Api):
    assert (await api.get("/v1/accounts")).status == 200
    assert (await api.get("/v1/accounts", key="x")).status == 401
    refused = await api.post("/v1/keys", {"role": "viewer"})
    assert (refused.status, refused.code) == (403, "forbidden")


# Roles

WRITES = [
    ("PUT", "/v1/accounts/agent:new", {"parent": "team:a"}),
    ("PUT", "/v1/accounts/agent:x/budgets/b", {"unit": "tokens", "limit": 5}),
    ("POST", "/v1/holds", {"id": "h", "account": "agent:x", "amounts": {"tokens": 1}}),
    ("POST", "/v1/holds/hold-agent:x/settle", {"total": {"tokens": 1}}),
    ("POST", "/v1/usage", {"id": "u", "account": "agent:x", "total": {"tokens": 1}}),
    ("POST", "/v1/accounts/agent:x/suspend", {}),
    ("POST", "/v1/accounts/agent:x/resume", {}),
    ("POST", "/v1/batch", {"operations": [{"op": "put_account", "account": "agent:x"}]}),
]
OPERATING = [
    ("PUT", "/v1/templates/thread:*", {}),
    ("DELETE", "/v1/templates/thread:*", None),
    ("POST", "/v1/clock/confirm", None),
    ("POST", "/v1/accounts/agent:x/close", {}),
    ("DELETE", "/v1/accounts/agent:x/name", None),
]
ADMINISTERING = [("GET", "/v1/keys", None), ("POST", "/v1/keys", {"role": "viewer"})]
READS = ["/v1/accounts", "/v1/accounts/team:a", "/v1/balances/team:a", "/v1/journal", "/v1/usage", "/v1/templates"]


async def test_an_operator_does_everything_but_keys(teams: Api):
    key = (await issued(teams, role="operator"))["secret"]
    for method, target, body in [*WRITES, *OPERATING]:
        assert (await teams.call(method, target, body, key=key)).status in (200, 201), target
    for target in READS:
        assert (await teams.get(target, key=key)).status == 200
    for method, target, body in ADMINISTERING:
        assert (await teams.call(method, target, body, key=key)).code == "forbidden"


async def test_a_viewer_only_reads(teams: Api):
    key = (await issued(teams, role="viewer"))["secret"]
    before = await teams.head()
    for target in READS:
        assert (await teams.get(target, key=key)).status == 200
    for method, target, body in [*WRITES, *OPERATING, *ADMINISTERING]:
        assert (await teams.call(method, target, body, key=key)).code == "forbidden", target
    assert await teams.head() == before


# A key that is bound to an account


async def test_a_key_of_an_account_spends_and_sees_there_and_below(teams: Api):
    key = (await issued(teams, role="account", account="team:a", may_open=True))["secret"]
    for method, target, body in WRITES:
        assert (await teams.call(method, target, body, key=key)).status in (200, 201), target
    assert (await teams.get("/v1/accounts/team:a", key=key)).status == 200
    assert (await teams.get("/v1/holds/hold-agent:x", key=key)).status == 200


async def test_a_key_of_one_account_can_neither_spend_nor_see_anothers(teams: Api):
    key = (await issued(teams, role="account", account="team:a", may_open=True))["secret"]
    before = await teams.head()
    spend = {"account": "agent:z", "amounts": {"tokens": 1}}
    attempts: list[tuple[str, str, Any]] = [
        ("POST", "/v1/holds", spend | {"id": "mine"}),
        ("POST", "/v1/holds", spend | {"id": "hold-agent:z", "amounts": {"tokens": 10}}),
        ("POST", "/v1/holds", {"id": "mine", "account": "agent:x", "also": ["agent:z"], "amounts": {"tokens": 1}}),
        ("POST", "/v1/holds/hold-agent:z/extend", {"to": {"tokens": 20}}),
        ("POST", "/v1/holds/hold-agent:z/settle", {"total": {"tokens": 1}}),
        ("POST", "/v1/holds/hold-agent:z/settle", {"total": {"tokens": 1}, "account": "agent:x"}),
        ("POST", "/v1/holds/hold-agent:z/release", {}),
        ("POST", "/v1/holds/hold-agent:z/release", {"account": "agent:x"}),
        ("POST", "/v1/usage", {"id": "mine", "account": "agent:z", "total": {"tokens": 1}}),
        ("POST", "/v1/usage", {"id": "use-agent:z", "account": "agent:x", "total": {"tokens": 9}}),
        ("PUT", "/v1/accounts/agent:z", {"priority": 9}),
        ("PUT", "/v1/accounts/agent:new", {"parent": "team:b"}),
        ("PUT", "/v1/accounts/agent:new", {}),
        ("PUT", "/v1/accounts/agent:z/budgets/b", {"unit": "tokens", "limit": 5}),
        ("DELETE", "/v1/accounts/team:b/budgets/main", None),
        ("PUT", "/v1/accounts/agent:z/allocations/tokens", {"to": 1}),
        ("DELETE", "/v1/accounts/agent:z/allocations/tokens", None),
        ("POST", "/v1/transfers", {"source": "agent:z", "target": "agent:x", "unit": "tokens", "amount": 1}),
        ("POST", "/v1/transfers", {"source": "agent:x", "target": "agent:z", "unit": "tokens", "amount": 1}),
        ("POST", "/v1/accounts/team:b/adjustments", {"id": "a", "budget": "main", "amount": 1, "reason": "r"}),
        ("POST", "/v1/accounts/agent:z/suspend", {}),
        ("DELETE", "/v1/accounts/agent:x/name", None),
        ("GET", "/v1/accounts/team:b", None),
        ("GET", "/v1/accounts/agent:z", None),
        ("GET", "/v1/accounts/agent:z/budgets", None),
        ("GET", "/v1/accounts/team:b/budgets/main", None),
        ("GET", "/v1/balances/team:b", None),
        ("GET", "/v1/holds/hold-agent:z", None),
        ("GET", "/v1/holds/use-agent:z", None),
        ("GET", "/v1/usage?account=team:b", None),
        ("GET", f"/v1/accounts?parent=team:b&min_seq={before}", None),
        ("GET", "/v1/events?account=team:b", None),
        ("GET", "/v1/templates", None),
        ("GET", "/metrics", None),
        ("PUT", "/v1/templates/agent:*", {"parent": "team:b"}),
        ("POST", "/v1/keys", {"role": "admin"}),
        ("GET", "/v1/keys", None),
        ("DELETE", "/v1/keys/first", None),
        ("POST", "/v1/keys/first/rotate", None),
        ("POST", "/v1/clock/confirm", None),
    ]
    for method, target, body in attempts:
        answer = await teams.call(method, target, body, key=key)
        assert answer.status in (403, 404, 409), (target, answer)
        assert b"team:b" not in answer.body or "team:b" in target or "team:b" in str(body), (target, answer)
        assert b"model of team:b" not in answer.body
    assert await teams.head() == before


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_batch_reaches_no_further_than_the_key_that_sends_it(teams: Api, atomic: bool):
    key = (await issued(teams, role="account", account="team:a", may_open=True))["secret"]
    before = await teams.head()
    for operation in (
        {"op": "reserve", "id": "mine", "account": "agent:z", "amounts": {"tokens": 1}},
        {"op": "settle", "id": "hold-agent:z", "total": {"tokens": 1}},
        {"op": "put_budget", "account": "agent:z", "unit": "tokens", "limit": 5},
        {"op": "set_status", "account": "team:b", "status": "suspended"},
    ):
        answer = await teams.post("/v1/batch", {"operations": [operation], "atomic": atomic}, key=key)
        status = answer.status if atomic else answer.json["answers"][0]["status"]
        assert status in (403, 404), (operation, answer)
    assert await teams.head() == before


def test_a_key_of_an_account_that_has_none_is_no_key():
    key = KeyAnswer(
        key="k",
        role="account",
        account=None,
        active=True,
        may_open=True,
        expires_at=None,
        requests_per_minute=None,
        label="",
    )
    assert caller_of(key) is None
    assert caller_of(msgspec.structs.replace(key, account="team:a", active=False)) is None
    bound = caller_of(msgspec.structs.replace(key, account="team:a"))
    assert bound is not None
    assert bound.scope == "team:a"


async def test_what_is_not_there_and_what_is_anothers_look_the_same(teams: Api):
    key = (await issued(teams, role="account", account="team:a"))["secret"]
    for there, nowhere in (
        ("/v1/accounts/agent:z", "/v1/accounts/agent:0"),
        ("/v1/holds/hold-agent:z", "/v1/holds/hold-agent:0"),
        ("/v1/balances/team:b", "/v1/balances/team:0"),
    ):
        one, other = await teams.get(there, key=key), await teams.get(nowhere, key=key)
        name, missing = (target.rpartition("/")[2].encode() for target in (there, nowhere))
        assert one.body.replace(name, missing) == other.body


async def test_lists_and_the_journal_show_a_key_of_an_account_its_own_and_nothing_else(teams: Api):
    key = (await issued(teams, role="account", account="team:a"))["secret"]
    seen = f"min_seq={await teams.head()}&limit=1000"
    for target in (f"/v1/accounts?{seen}", f"/v1/usage?{seen}", f"/v1/journal?{seen}"):
        mine, everything = await teams.get(target, key=key), await teams.get(target, key=FIRST_SECRET)
        for word in (b"team:b", b"agent:z", b"model of team:b"):
            assert word not in mine.body, target
        assert b"agent:z" in everything.body
        assert b"agent:x" in mine.body
    page = (await teams.get(f"/v1/journal?{seen}", key=key)).json
    assert not {entry["kind"] for entry in page["entries"]} & {"key_put", "template_put"}


async def test_a_key_of_an_account_does_not_change_what_binds_it(teams: Api):
    key = (await issued(teams, role="account", account="agent:x", may_open=True))["secret"]
    await teams.put("/v1/accounts/agent:x/budgets/own", {"unit": "tokens", "limit": 20}, key=FIRST_SECRET)
    await teams.put("/v1/accounts/agent:x/allocations/tokens", {"to": 100}, key=FIRST_SECRET)
    await teams.post("/v1/accounts/agent:x/suspend", key=FIRST_SECRET)
    before = await teams.head()
    for method, target, body in (
        ("PUT", "/v1/accounts/agent:x/budgets/own", {"unit": "tokens", "limit": 2_000}),
        ("DELETE", "/v1/accounts/agent:x/budgets/own", None),
        ("POST", "/v1/accounts/agent:x/adjustments", {"id": "a", "budget": "own", "amount": 1, "reason": "r"}),
        ("PUT", "/v1/accounts/agent:x/allocations/tokens", {"to": 500}),
        ("DELETE", "/v1/accounts/agent:x/allocations/tokens", None),
        ("POST", "/v1/accounts/agent:x/resume", None),
        ("PUT", "/v1/accounts/agent:x", {"priority": 9}),
    ):
        assert (await teams.call(method, target, body, key=key)).code == "forbidden", target
    operation = {"op": "put_budget", "account": "agent:x", "budget": "own", "unit": "tokens", "limit": 2_000}
    single = await teams.post("/v1/batch", {"operations": [operation]}, key=key)
    assert single.json["answers"][0]["status"] == 403
    atomic = await teams.post("/v1/batch", {"operations": [operation], "atomic": True}, key=key)
    assert (atomic.status, atomic.code, atomic.json["index"]) == (403, "forbidden", 0)
    template = {"op": "put_template", "pattern": "t:*"}
    assert (await teams.post("/v1/batch", {"operations": [template]}, key=key)).json["answers"][0]["status"] == 403
    assert await teams.head() == before


async def test_only_a_key_that_may_opens_accounts_from_templates(teams: Api):
    await teams.put("/v1/templates/thread:*", {"parent": "agent:x"}, key=FIRST_SECRET)
    hold = {"id": "h", "account": "thread:1", "amounts": {"tokens": 1}}
    for may_open, status in ((False, 403), (True, 201)):
        key = (await issued(teams, role="account", account="agent:x", may_open=may_open))["secret"]
        assert (await teams.post("/v1/holds", hold, key=key)).status == status


async def test_an_idempotency_key_does_not_reveal_another_keys_answer(teams: Api):
    # covers E7
    body, idempotency = {"labels": {"a": "secret of team:b"}}, {"Idempotency-Key": "shared"}
    await teams.put("/v1/accounts/agent:z", body, key=FIRST_SECRET, headers=idempotency)
    key = (await issued(teams, role="account", account="team:a"))["secret"]
    for attempt in (body, {}):
        answer = await teams.put("/v1/accounts/agent:z", attempt, key=key, headers=idempotency)
        assert answer.status in (403, 409)
        assert b"secret of team:b" not in answer.body


async def test_a_first_key_that_was_rotated_or_revoked_does_not_come_back_with_the_settings(keyed: Api):
    rotated = (await keyed.post("/v1/keys/first/rotate", key=FIRST_SECRET)).json["secret"]
    await store_first_key(keyed.treasury, FIRST_SECRET, PEPPER)
    assert (await keyed.get("/v1/accounts", key=FIRST_SECRET)).status == 401
    assert (await keyed.get("/v1/accounts", key=rotated)).status == 200
    other = (await keyed.post("/v1/keys", {"role": "admin"}, key=rotated)).json["secret"]
    assert (await keyed.delete("/v1/keys/first", key=other)).status == 200
    before = await keyed.head()
    await store_first_key(keyed.treasury, FIRST_SECRET, PEPPER)
    assert await keyed.head() == before
    assert (await keyed.get("/v1/accounts", key=FIRST_SECRET)).status == 401


async def test_of_nodes_that_start_at_once_one_stores_the_first_key(api: Api):
    secrets = [FIRST_SECRET, FIRST_SECRET, "another secret altogether"]
    await asyncio.gather(*(store_first_key(api.treasury, secret, PEPPER) for secret in secrets))
    page = await api.treasury.read(ListEntries(limit=1_000, kinds=("key_put",)))
    assert [entry.data["digest"] for entry in page.entries] == [digest_of(FIRST_SECRET, PEPPER)]  # type: ignore[union-attr]


@pytest.fixture
async def red(keyed: Api) -> tuple[Api, str]:
    """A key of an account below a team that lends, warns and stands beside another one."""

    async def put(target: str, body: dict[str, Any]) -> None:
        assert (await keyed.put(target, body, key=FIRST_SECRET)).status == 200

    for account, parent in (
        ("project:top", None),
        ("team:red", "project:top"),
        ("agent:r", "team:red"),
        ("team:blue", "project:top"),
    ):
        await put(f"/v1/accounts/{account}", {"parent": parent} if parent else {})
    await put("/v1/accounts/project:top/budgets/soft", {"unit": "tokens", "limit": 5, "mode": "warn"})
    await put("/v1/templates/thread:*", {"max_children": 100})
    bound = await issued(keyed, role="account", account="team:red", may_open=True)
    return keyed, bound["secret"]


async def test_a_bound_key_is_not_told_which_other_accounts_there_are(red):
    api, key = red
    answers = []
    for parent in ("team:blue", "project:top", "team:nobody"):
        body = {"account": "thread:9", "parent": parent, "amounts": {"tokens": 1}}
        answers.append((await api.post("/v1/checks", body, key=key)).json)
    assert [{**one, "as_of_seq": 0} for one in answers[1:]] == [{**answers[0], "as_of_seq": 0}] * 2


async def test_a_bound_key_is_not_told_whether_a_parent_is_there_that_a_template_would_open(red):
    api, key = red
    assert (await api.put("/v1/accounts/thread:1", {"parent": "team:blue"}, key=FIRST_SECRET)).status == 200
    for target, more in (("/v1/checks", {}), ("/v1/holds", {"id": "h1"})):
        answers = []
        for parent in ("thread:1", "thread:2"):
            body = {"account": "thread:9", "parent": parent, "amounts": {"tokens": 1}} | more
            answers.append(await api.post(target, body, key=key))
        assert (answers[0].status, answers[0].code) == (403, "forbidden")
        assert answers[0].body == answers[1].body


async def test_a_bound_key_is_told_of_no_budget_and_no_status_above_it(red):
    api, key = red
    body = {"id": "h1", "account": "agent:r", "amounts": {"tokens": 9}}
    assert "warnings" not in (await api.post("/v1/holds", body, key=key)).json
    assert "warnings" not in (await api.post("/v1/holds", body, key=key)).json
    told = (await api.post("/v1/holds", {**body, "id": "h2"}, key=FIRST_SECRET)).json
    assert told["warnings"] == ["project:top/soft"]
    assert (await api.post("/v1/accounts/project:top/suspend", {}, key=FIRST_SECRET)).status == 200
    refused = await api.post("/v1/holds", {**body, "id": "h3"}, key=key)
    assert (refused.status, refused.code) == (403, "account_suspended")
    checked = await api.post("/v1/checks", {"account": "agent:r", "amounts": {"tokens": 1}}, key=key)
    assert "project:top" not in f"{refused.body} {checked.body}"


async def test_a_bound_key_is_told_of_no_lender_and_no_other_payer(red):
    api, key = red

    async def put(target: str, body: dict[str, Any]) -> None:
        assert (await api.put(target, body, key=FIRST_SECRET)).status == 200

    await put("/v1/accounts/team:red/allocations/cost", {"to": 0})
    await put("/v1/accounts/team:blue/allocations/cost", {"to": 100})
    loan = {"id": "l1", "account": "team:red", "unit": "cost", "parts": [{"source": "team:blue", "amount": 30}]}
    assert (await api.post("/v1/loans", loan, key=FIRST_SECRET)).status == 201
    used = {"id": "u1", "account": "agent:r", "also": ["team:blue"], "total": {"tokens": 5}}
    assert (await api.post("/v1/usage", used, key=FIRST_SECRET)).status == 201
    for target in (
        "/v1/loans/l1",
        "/v1/accounts/team:red",
        "/v1/accounts?limit=10",
        "/v1/usage?limit=10",
        "/v1/usage/sums?by=team_id,project_id",
        "/v1/journal?limit=1000",
    ):
        beside = "&" if "?" in target else "?"
        answer = await api.get(f"{target}{beside}min_seq={await api.head()}", key=key)
        assert answer.status == 200, answer
        assert b"blue" not in answer.body, answer
        assert b'"top"' not in answer.body, answer
    assert (await api.get("/v1/loans/l1", key=key)).json["loan"]["amount"] == 30
    journal = (await api.get("/v1/journal?limit=1000", key=key)).json["entries"]
    assert [one["data"]["parts"] for one in journal if one["kind"] == "lent"] == [[]]
    assert [one["data"]["also"] for one in journal if one["kind"] == "settled" and one["data"].get("also")] == []
    assert b"blue" in (await api.get("/v1/loans/l1", key=FIRST_SECRET)).body


async def test_a_bound_key_of_a_lender_is_not_told_who_has_borrowed(red):
    api, _ = red
    for target, body in (
        ("/v1/accounts/team:red/allocations/cost", {"to": 0}),
        ("/v1/accounts/team:blue/allocations/cost", {"to": 100}),
    ):
        assert (await api.put(target, body, key=FIRST_SECRET)).status == 200
    loan = {"id": "l1", "account": "team:red", "unit": "cost", "parts": [{"source": "team:blue", "amount": 30}]}
    assert (await api.post("/v1/loans", loan, key=FIRST_SECRET)).status == 201
    key = (await issued(api, role="account", account="team:blue"))["secret"]
    assert (await api.get("/v1/loans/l1", key=key)).code == "unknown_loan"
    for target in ("/v1/accounts/team:blue", "/v1/accounts", "/v1/journal?limit=1000"):
        answer = await api.get(target, key=key)
        assert (answer.status, b"team:red" in answer.body, b"l1" in answer.body) == (200, False, False), answer
    told = (await api.get("/v1/accounts/team:red", key=FIRST_SECRET)).json["account"]["loans"]
    assert [one["id"] for one in told] == ["l1"]


async def test_the_journal_tells_a_bound_key_what_its_own_budgets_warn_of_and_no_others(red):
    api, key = red
    own = {"unit": "tokens", "limit": 2, "mode": "warn"}
    assert (await api.put("/v1/accounts/team:red/budgets/own", own, key=FIRST_SECRET)).status == 200
    body = {"id": "h1", "account": "agent:r", "amounts": {"tokens": 9}}
    assert (await api.post("/v1/holds", body, key=key)).json["warnings"] == ["team:red/own"]
    target = f"/v1/journal?limit=1000&min_seq={await api.head()}"
    told, all_of_it = [
        next(entry["data"] for entry in (await api.get(target, key=whose)).json["entries"] if entry["kind"] == "held")
        for whose in (key, FIRST_SECRET)
    ]
    assert (len(all_of_it["warned"]), len(all_of_it["spared"])) == (2, 2)
    assert (len(told["warned"]), list(told["spared"].values())) == (1, [7])
    assert set(told["warned"]) < set(all_of_it["warned"])


async def test_a_bound_key_is_told_of_no_lender_of_what_a_list_for_shortage_borrows(red):
    api, key = red
    for target, body in (
        ("/v1/accounts/project:top/budgets/main", {"unit": "cost", "limit": 1_000}),
        ("/v1/accounts/team:red/allocations/cost", {"to": 10}),
        ("/v1/accounts/team:blue/allocations/cost", {"to": 100}),
        ("/v1/accounts/team:red", {"shortage": ["reallocate", "deny"]}),
    ):
        assert (await api.put(target, body, key=FIRST_SECRET)).status == 200
    body = {"id": "h1", "account": "agent:r", "amounts": {"cost": 30}}
    held = await api.post("/v1/holds", body, key=key)
    assert (held.status, held.json["steps"], held.json["loans"][0]["amount"]) == (201, ["reallocate"], 20)
    assert held.json["loans"][0]["parts"] == []
    assert (await api.post("/v1/holds", body, key=key)).body == held.body
    assert b"team:blue" in (await api.get("/v1/holds/h1", key=FIRST_SECRET)).body
