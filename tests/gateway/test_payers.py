"""Who pays: headers narrow and never widen, keys come in whichever header an SDK sends, and reach only their own."""

import pytest

from fiscus.core.commands import Allocate, Deallocate, PutAccount, SetStatus
from fiscus.gateway.payers import KEPT_BYTES_MAX, KEPT_MAX, Payers, Unnamed, payer_of, secret_of
from tests.api.service import FIRST_SECRET
from tests.gateway import wire
from tests.gateway.gate import PAYER, PLENTY, PROVIDER_KEY, providers, standing

KEY_HEADERS = (
    ("authorization", "Bearer {}"),
    ("authorization", "bearer {}"),
    ("x-api-key", "{}"),
    ("x-goog-api-key", "{}"),
    ("api-key", "{}"),
)


@pytest.fixture
async def keyed(upstream):
    """A gateway that wants keys."""
    async with standing(providers(upstream), keys=True) as found:
        yield found


@pytest.mark.parametrize(("name", "value"), KEY_HEADERS)
async def test_a_key_is_taken_from_the_header_of_every_sdk_and_stays_here(keyed, upstream, name, value):
    upstream.answers(wire.chat_answer())
    secret = await keyed.key(PAYER)
    answer = await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), {name: value.format(secret)})
    assert answer.status == 200, answer
    [asked] = upstream.asked
    assert asked.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert secret not in f"{asked.target} {asked.headers} {asked.body}"
    assert PROVIDER_KEY not in f"{answer.headers} {answer.body}"


async def test_a_key_is_taken_from_the_query_and_not_passed_on(keyed, upstream):
    upstream.answers(wire.gemini_answer())
    secret = await keyed.key(PAYER)
    path = f"/gemini/v1beta/models/test-model:generateContent?key={secret}&prettyPrint=false"
    answer = await keyed.post(path, wire.contents())
    assert answer.status == 200
    [asked] = upstream.asked
    assert asked.target == "/v1beta/models/test-model:generateContent?prettyPrint=false"
    assert asked.headers["x-goog-api-key"] == PROVIDER_KEY
    assert secret not in str(asked.headers)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer fk_nobody"}, {"x-api-key": "wrong"}])
async def test_without_a_key_nothing_is_asked(keyed, upstream, headers):
    for path, body in (
        ("/openai/v1/chat/completions", wire.chat()),
        ("/anthropic/v1/messages", wire.messages()),
        ("/gemini/v1beta/models/test-model:generateContent", wire.contents()),
    ):
        answer = await keyed.ask("POST", path, body, headers)
        assert answer.status == 401
        assert "error" in answer.json
    assert upstream.asked == []


async def test_a_key_that_may_only_read_may_not_spend(keyed, upstream):
    made = await keyed.api.post("/v1/keys", {"role": "viewer"}, key=FIRST_SECRET)
    answer = await keyed.chat(wire.chat(), authorization=f"Bearer {made.json['secret']}")
    assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden")
    assert upstream.asked == []


async def test_the_key_of_one_account_cannot_charge_another(keyed, upstream):
    await keyed.account("team:b", tokens=PLENTY, cost=PLENTY)
    await keyed.account("agent:b1", parent="team:b")
    upstream.answers(wire.chat_answer())
    mine = {"authorization": f"Bearer {await keyed.key(PAYER)}"}
    for header in ({"x-fiscus-charge-to": "team:b"}, {"x-fiscus-agent": "b1"}, {"x-fiscus-team": "b"}):
        answer = await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine | header)
        assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden"), (header, answer)
        assert "available" not in answer.body.decode()
    assert upstream.asked == []
    assert (await keyed.balance("team:b")).spent == 0


async def test_baggage_cannot_charge_another_either(keyed, upstream):
    await keyed.account("team:b", tokens=PLENTY, cost=PLENTY)
    mine = {"authorization": f"Bearer {await keyed.key(PAYER)}", "baggage": "fiscus.team=b"}
    answer = await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)
    assert answer.status == 403
    mine["baggage"] = "fiscus.charge-to=team%3Ab"
    upstream.answers(wire.chat_answer())
    answer = await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)
    assert answer.status == 200, "not a name that baggage has: the key's own account pays"
    assert (await keyed.balance("team:b")).spent == 0
    assert (await keyed.balance()).spent == 18


async def test_headers_narrow_a_key_to_what_is_below_its_account(keyed, upstream):
    await keyed.account("agent:a1", parent=PAYER, tokens=1_000)
    upstream.answers(wire.chat_answer())
    mine = {"authorization": f"Bearer {await keyed.key(PAYER)}", "x-fiscus-agent": "a1"}
    assert (await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)).status == 200
    assert (await keyed.balance("agent:a1")).spent == 18
    assert (await keyed.balance(PAYER)).spent == 18
    assert (await keyed.last()).account == "agent:a1"


# covers R25
async def test_accounts_are_opened_from_templates_and_the_record_says_who_it_was(gate, upstream):
    await gate.template("agent:*", PAYER, tokens=5_000)
    await gate.template("thread:*", tokens=500)
    upstream.answers(wire.chat_answer())
    headers = {
        "x-fiscus-thread": "42",
        "x-fiscus-agent": "planner",
        "x-fiscus-user": "u1",
        "x-fiscus-feature": "search",
        "x-fiscus-workflow": "w9",
        "x-fiscus-task": "plan the day",
        "x-fiscus-parent-request": "req-0",
        "x-request-id": "req-1",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    await gate.account("agent:planner", parent=PAYER, tokens=5_000)
    answer = await gate.ask("POST", "/openai/v1/chat/completions", wire.chat(), headers)
    assert answer.status == 200, answer
    booked = await gate.last()
    assert booked.account == "thread:42"
    assert (await gate.balance("thread:42")).spent == 18
    assert (await gate.balance("agent:planner")).spent == 18
    assert (await gate.balance(PAYER)).spent == 18
    record = booked.record
    assert (record.user_id, record.feature) == ("u1", "search")
    found = record.provenance
    assert (found.request_id, found.parent_request_id, found.workflow_id) == ("req-1", "req-0", "w9")
    assert (found.conversation_id, found.agent_id, found.task_name) == ("42", "planner", "plan the day")
    assert found.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_chain_of_accounts_that_do_not_exist_yet_is_opened_by_one_call(gate, upstream):
    """A thread of an agent, both new: the parent of the thread is opened as well; each above is charged once."""
    await gate.template("agent:*", PAYER, tokens=5_000)
    await gate.template("thread:*", tokens=500)
    upstream.answers(wire.chat_answer())
    headers = {"x-fiscus-thread": "1", "x-fiscus-agent": "new"}
    answer = await gate.ask("POST", "/openai/v1/chat/completions", wire.chat(), headers)
    assert answer.status == 200, answer
    assert (await gate.balance("thread:1")).spent == 18
    assert (await gate.balance("agent:new")).spent == 18
    assert (await gate.balance(PAYER)).spent == 18


async def test_a_key_that_may_not_open_accounts_does_not(keyed, upstream):
    await keyed.template("agent:*", PAYER, tokens=5_000)
    mine = {"authorization": f"Bearer {await keyed.key(PAYER, may_open=False)}", "x-fiscus-agent": "new"}
    answer = await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)
    assert answer.status in (400, 403), answer
    assert upstream.asked == []
    assert not await keyed.exists("agent:new")


async def test_a_template_bounds_what_it_opens(gate, upstream):
    await gate.template("agent:*", PAYER, tokens=120)
    upstream.answers(wire.chat_answer())
    first = await gate.chat(wire.chat(), x_fiscus_agent="small")
    assert first.status == 200
    assert upstream.asked[0].json["max_tokens"] < 40
    upstream.answers(wire.chat_answer(usage={"prompt_tokens": 60, "completion_tokens": 7}))
    assert (await gate.chat(wire.chat(), x_fiscus_agent="small")).status == 200
    second = await gate.chat(wire.chat(), x_fiscus_agent="small")
    assert (second.status, second.json["error"]["code"]) == (402, "budget_exceeded")
    assert (await gate.balance("agent:small")).spent == 18 + 67


async def test_others_are_charged_where_they_exist(gate, upstream):
    await gate.account("agent:a", parent=PAYER)
    await gate.account("user:u", tokens=1_000)
    upstream.answers(wire.chat_answer())
    answer = await gate.chat(wire.chat(), x_fiscus_agent="a", x_fiscus_feature="none", x_fiscus_user="u")
    assert answer.status == 200, answer
    assert (await gate.balance("user:u")).spent == 18


class Bound:
    """A key that is bound to an account, or to none."""

    actor, may_open = "k", True

    def __init__(self, scope):
        self.scope = scope


SENT = (
    {},
    {b"x-fiscus-agent": b"planner"},
    {b"x-fiscus-agent": b"planner", b"x-fiscus-thread": b"42"},
    {b"x-fiscus-agent": b"planner", b"x-request-id": b"req-1"},
    {b"x-fiscus-agent": b"planner", b"x-request-id": b"req-2", b"traceparent": b"00-" + b"4" * 32 + b"-00f0-01"},
    {b"baggage": b"fiscus.agent=planner"},
    {b"x-fiscus-agent": b""},
    {b"x-fiscus-charge-to": b"team:b", b"x-fiscus-metadata": b"a=1&b=2"},
    {b"x-fiscus-charge-to": b"team:b", b"x-fiscus-metadata": b"a=1&b=3"},
    {b"x-fiscus-user": b"u", b"content-length": b"100"},
)


@pytest.mark.parametrize("account", [None, "team:a"])
def test_who_pays_is_the_same_whether_it_is_found_again_or_not(account):
    payers = Payers(account)
    for _ in range(3):
        for headers in SENT:
            for scope in (None, "team:a", "team:b"):
                found = payers.of(headers, Bound(scope))
                assert found == payer_of(headers, Bound(scope), account), (headers, scope)


def test_only_so_many_and_short_answers_are_kept():
    payers, key = Payers(None), Bound("team:a")
    short, long = {b"x-fiscus-agent": b"a"}, {b"x-fiscus-agent": b"a", b"baggage": b"x" * KEPT_BYTES_MAX}
    assert payers.of(short, key) is payers.of(short, key)
    assert payers.of(long, key) is not payers.of(long, key)
    first = payers.of(short, key)
    for number in range(KEPT_MAX):
        payers.of({b"x-fiscus-agent": b"%d" % number}, key)
    assert payers.of(short, key) is not first


async def test_a_key_that_is_revoked_calls_no_more_from_that_moment_on(keyed, upstream):
    admin = {"authorization": f"Bearer {FIRST_SECRET}"}
    made = await keyed.ask("POST", "/v1/keys", {"role": "account", "account": PAYER}, admin)
    mine = {"authorization": f"Bearer {made.json['secret']}"}
    upstream.answers(wire.chat_answer(), wire.chat_answer())
    for _ in range(2):
        assert (await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)).status == 200
    revoked = await keyed.ask("DELETE", f"/v1/keys/{made.json['key']['key']}", None, admin)
    assert revoked.status in (200, 204), revoked
    answer = await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)
    assert answer.status == 401, answer
    assert len(upstream.asked) == 2


async def test_an_account_that_is_suspended_spends_no_more_from_that_moment_on(keyed, upstream):
    mine = {"authorization": f"Bearer {await keyed.key(PAYER)}"}
    upstream.answers(wire.chat_answer(), wire.chat_answer())
    assert (await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)).status == 200
    await keyed.do(SetStatus(account=PAYER, status="suspended"))
    answer = await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)
    assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden"), answer
    await keyed.do(SetStatus(account=PAYER, status="active"))
    assert (await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)).status == 200


async def test_keys_of_two_accounts_that_send_the_same_headers_each_pay_for_themselves(keyed, upstream):
    await keyed.account("team:b", tokens=PLENTY, cost=PLENTY)
    upstream.answers(wire.chat_answer(), wire.chat_answer())
    for account in (PAYER, "team:b"):
        mine = {"authorization": f"Bearer {await keyed.key(account)}"}
        assert (await keyed.ask("POST", "/openai/v1/chat/completions", wire.chat(), mine)).status == 200
    assert [(await keyed.balance(account)).spent for account in (PAYER, "team:b")] == [18, 18]


@pytest.mark.parametrize("value", ["", "a" * 101, "caf\x07"])
async def test_a_header_that_makes_no_sense_is_named(value):
    class Key:
        actor, scope, may_open = "k", None, True

    found = payer_of({b"x-fiscus-agent": value.encode()}, Key(), None)
    assert isinstance(found, Unnamed)
    assert found.field == "X-Fiscus-Agent"


@pytest.mark.parametrize(
    "baggage", ["fiscus.agent=%00", "fiscus.agent=%FF%FE", "fiscus.agent=" + "a" * 5_000, ";;=,=,%"]
)
async def test_baggage_of_any_bytes_is_refused_or_ignored_and_breaks_nothing(gate, upstream, baggage):
    upstream.answers(wire.chat_answer())
    answer = await gate.chat(wire.chat(), baggage=baggage)
    assert answer.status in (200, 400, 403), answer
    assert "error" in answer.json or answer.status == 200


# covers E14
async def test_baggage_that_no_record_takes_keeps_nothing_from_being_booked(gate, upstream):
    upstream.answers(wire.chat_answer())
    assert (await gate.chat(wire.chat(), baggage="fiscus.parent-request=a%00b,fiscus.task=sum")).status == 200
    provenance = (await gate.last()).record.provenance
    assert provenance is not None
    assert (provenance.parent_request_id, provenance.task_name) == (None, "sum")


async def test_a_call_that_nobody_pays_for_is_refused(upstream):
    async with standing(providers(upstream), account=None) as gate:
        answer = await gate.messages(wire.messages())
        assert (answer.status, answer.json["error"]["type"]) == (403, "permission_error")
        assert "X-Fiscus-Agent" in answer.json["error"]["message"]
        assert upstream.asked == []


async def test_a_chain_without_a_budget_is_refused_unless_a_setting_allows_it(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER)
        answer = await gate.chat(wire.chat())
        assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden"), answer
        assert upstream.asked == []
        await gate.limit(PAYER, "tokens", PLENTY, match={"model": "another"})
        await gate.account("team:c")
        assert (await gate.chat(wire.chat(), x_fiscus_charge_to="team:c")).status == 403
    async with standing(providers(upstream), budget=False, unbudgeted=True) as gate:
        await gate.account(PAYER)
        assert (await gate.chat(wire.chat())).status == 200
        assert (await gate.last()).amounts["tokens"] == 18


async def test_what_is_left_above_a_keys_account_is_not_told(keyed, upstream):
    await keyed.account("agent:a1", parent=PAYER, tokens=1_000)
    upstream.answers(wire.chat_answer())
    below = await keyed.chat(wire.chat(), authorization=f"Bearer {await keyed.key('agent:a1')}")
    assert below.headers["x-fiscus-budget"] == "agent:a1/tokens"
    assert "x-fiscus-remaining-cost" not in below.headers
    above = await keyed.chat(wire.chat(), authorization=f"Bearer {await keyed.key(PAYER)}")
    assert "x-fiscus-remaining-cost" in above.headers


def test_secrets_are_found_without_a_server():
    assert secret_of({b"authorization": b"Bearer abc"}, b"") == b"abc"
    assert secret_of({}, b"a=1&key=abc") == b"abc"
    assert secret_of({b"cookie": b"key=abc"}, b"keys=abc") is None


@pytest.mark.parametrize("metadata", ["=1", "=1&b=2", "a=1&=2"])
async def test_metadata_without_a_name_is_refused_before_anything_is_held(gate, upstream, metadata):
    upstream.answers(wire.chat_answer())
    answer = await gate.chat(wire.chat(), **{"x-fiscus-metadata": metadata})
    assert answer.status == 403
    assert "X-Fiscus-Metadata" in answer.json["error"]["message"]
    assert upstream.asked == []
    await gate.assert_nothing_is_held()


async def test_one_account_that_cannot_be_charged_too_leaves_the_others_charged(gate, upstream):
    upstream.answers(wire.chat_answer())
    await gate.account("user:bob", None, tokens=PLENTY)
    await gate.do(PutAccount(account="user:ann", parent="user:bob"))
    await gate.do(Allocate(account="user:ann", unit="tokens", to=1_000))
    await gate.account("project:p", None, tokens=0)
    await gate.account("thread:1", PAYER)
    answer = await gate.chat(wire.chat(), **{"x-fiscus-thread": "1", "x-fiscus-user": "ann", "x-fiscus-project": "p"})
    assert answer.status == 402, answer
    assert "project:p" in answer.json["error"]["message"]
    assert upstream.asked == []
    await gate.do(Deallocate(account="user:ann", unit="tokens"))


@pytest.mark.parametrize(
    "query", ["fields=candidates", "$fields=candidates", "alt=proto", "$alt=media", "callback=x", "$httpHeaders=a:b"]
)
async def test_a_caller_does_not_choose_what_gemini_says_of_usage(gate, upstream, query):
    upstream.answers(wire.gemini_answer())
    answer = await gate.post(f"/gemini/v1beta/models/test-model:generateContent?{query}", wire.contents())
    assert answer.status == 400
    assert answer.json["error"]["status"] == "INVALID_ARGUMENT"
    assert upstream.asked == []


async def test_headers_that_choose_fields_stay_here(gate, upstream):
    upstream.answers(wire.gemini_answer())
    answer = await gate.generate(wire.contents(), **{"x-goog-fieldmask": "candidates", "x-http-method-override": "GET"})
    assert answer.status == 200
    [asked] = upstream.asked
    assert not {"x-goog-fieldmask", "x-http-method-override"} & asked.headers.keys()
