"""``treasury.complete`` and ``stream``: in process and over a service, the same answers, refusals and books."""

import asyncio
import doctest
import json

import pytest

import fiscus
from fiscus.contract.errors import (
    AccountNotActive,
    BudgetBusy,
    BudgetExceeded,
    BudgetUnavailable,
    ConfigurationInvalid,
    Forbidden,
    Invalid,
    ProviderFailed,
)
from fiscus.contract.queries import ListEntries, ListUsage
from fiscus.core.records import Tokens
from fiscus.gateway.options import GatewayOptions
from fiscus.sdk import completion
from fiscus.sdk.completion import Completion, ToolCall
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, PAYER, PLENTY, PRICES, providers, standing
from tests.gateway.upstream import JSON, Reply
from tests.gateway.upstream import upstream as running

MODEL = wire.MODEL
SAY_HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
OPTIONS = {"account": PAYER, "prices": PRICES, "backoff_s": 0.01, "busy_wait_s_max": 0}


@pytest.fixture
async def upstream():
    """A provider of all families."""
    async with running() as server:
        yield server


@pytest.fixture(params=["in process", "over a service"])
async def treasury(request, upstream, tmp_path):
    """Both kinds of treasury, with ``team:a`` that has plenty of tokens and money."""
    if request.param == "in process":
        options = GatewayOptions(upstreams=providers(upstream), **OPTIONS)
        async with fiscus.open("memory:", spool_directory=tmp_path, gateway=options) as opened:
            await opened.put_account(PAYER)
            await opened.put_budget(PAYER, "tokens", PLENTY, budget="tokens")
            await opened.put_budget(PAYER, "cost", PLENTY, budget="cost")
            yield opened
    else:
        async with (
            standing(providers(upstream), **OPTIONS) as gate,
            fiscus.connect(gate.url, "", spool_directory=tmp_path) as connected,
        ):
            yield connected


async def usage_of(treasury):
    head = (await treasury.read(ListEntries(limit=1))).as_of_seq
    return list((await treasury.read(ListUsage(limit=100, min_seq=head))).usage)


async def assert_nothing_is_held(treasury):
    async with asyncio.timeout(5):
        while any(balance.held for balance in await treasury.balance(PAYER)):
            await asyncio.sleep(0.01)


# covers X15
async def test_an_answer_comes_with_what_it_used_and_cost(treasury, upstream):
    upstream.answers(wire.chat_answer())
    await treasury.put_account("user:bob", parent=PAYER)
    await treasury.put_template("thread:*", parent=PAYER)
    done = await treasury.complete(
        MODEL, SAY_HELLO, thread="42", metadata={"user": "bob", "org_id": "acme & co"}, max_tokens=50, temperature=0.7
    )
    assert (done.text, done.finish_reason, done.model) == ("Hello!", "stop", MODEL)
    assert (done.tokens, done.cost_nanousd) == (Tokens(input=11, output=7), 11 * IN + 7 * OUT)
    assert PLENTY - 500 < done.remaining["tokens"] <= PLENTY - 18
    assert done.response["id"] == "chatcmpl-1"
    assert upstream.asked[0].json == {"model": MODEL, "messages": SAY_HELLO, "max_tokens": 50, "temperature": 0.7}
    [booked] = await usage_of(treasury)
    assert (booked.hold, booked.account) == (done.hold, "thread:42")
    assert (booked.record.user_id, booked.record.metadata["org_id"]) == ("bob", "acme & co")
    assert booked.record.provenance.conversation_id == "42"


# covers X15
async def test_who_has_no_budget_is_refused_and_the_model_is_not_asked(treasury, upstream):
    upstream.answers(wire.chat_answer())
    await treasury.put_account("agent:poor", parent=PAYER)
    await treasury.put_budget("agent:poor", "tokens", 20, budget="small")
    with pytest.raises(BudgetExceeded) as refused:
        await treasury.complete(MODEL, SAY_HELLO, agent="poor")
    assert refused.value.binding.account == "agent:poor"
    assert (refused.value.binding.budget, refused.value.binding.limit, refused.value.binding.available) == (
        "small",
        20,
        20,
    )
    assert refused.value.refused.requested > 20
    with pytest.raises(BudgetExceeded):
        await anext(treasury.stream(MODEL, SAY_HELLO, agent="poor"))
    await treasury.suspend("agent:poor")
    with pytest.raises(AccountNotActive):
        await treasury.complete(MODEL, SAY_HELLO, agent="poor")
    assert upstream.asked == []
    assert await usage_of(treasury) == []


async def test_what_others_hold_is_busy(treasury, upstream):
    upstream.answers(Reply(body=wire.chat_answer().body, pieces=100, pause_s=0.2))
    await treasury.put_account("agent:one", parent=PAYER)
    await treasury.put_budget("agent:one", "tokens", 250)
    first = asyncio.create_task(treasury.complete(MODEL, SAY_HELLO, agent="one", max_tokens=150))
    await upstream.request()
    with pytest.raises(BudgetBusy) as busy:
        await treasury.complete(MODEL, SAY_HELLO, agent="one", max_tokens=150)
    assert busy.value.refused.retry_after_s > 0
    assert (await first).text == "Hello!"


FAMILIES = {
    "anthropic": (wire.anthropic_answer(), "/v1/messages"),
    "gemini": (wire.gemini_answer(), f"/v1beta/models/{MODEL}:generateContent"),
}


@pytest.mark.parametrize("family", FAMILIES)
async def test_other_wires_get_the_same_question_in_their_own_shape(treasury, upstream, family):
    reply, path = FAMILIES[family]
    upstream.answers(reply)
    messages = [*SAY_HELLO, {"role": "assistant", "content": "Hm."}, {"role": "user", "content": "Well?"}]
    done = await treasury.complete(MODEL, messages, family=family, max_tokens=60, temperature=0.5)
    assert done.text == "Hello!"
    assert done.cost_nanousd == done.tokens.input * IN + done.tokens.output * OUT
    asked = upstream.asked[0]
    assert asked.target == path
    if family == "anthropic":
        assert asked.json == {
            "model": MODEL,
            "messages": messages[1:],
            "system": "Be brief.",
            "max_tokens": 60,
            "temperature": 0.5,
        }
    else:
        assert asked.json["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
        assert [one["role"] for one in asked.json["contents"]] == ["user", "model", "user"]
        assert asked.json["generationConfig"] == {"maxOutputTokens": 60, "temperature": 0.5}


def chat_with_tools():
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return wire.chat_answer(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])


def anthropic_with_tools():
    answer = json.loads(wire.anthropic_answer().body)
    return Reply(
        body=wire.encoded({**answer, "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}}]})
    )


def gemini_with_tools():
    answer = json.loads(wire.gemini_answer().body)
    answer["candidates"][0]["content"]["parts"] = [{"functionCall": {"id": "c1", "name": "look", "args": {"at": 1}}}]
    return Reply(body=wire.encoded(answer))


@pytest.mark.parametrize(
    ("family", "reply"),
    [("openai", chat_with_tools()), ("anthropic", anthropic_with_tools()), ("gemini", gemini_with_tools())],
)
async def test_what_the_model_wants_to_be_called_is_read_from_each_wire(treasury, upstream, family, reply):
    upstream.answers(reply)
    done = await treasury.complete(MODEL, SAY_HELLO, family=family)
    assert done.tool_calls == (ToolCall(id="c1", name="look", arguments='{"at":1}'),)


STREAMS = {"openai": wire.chat_stream(), "anthropic": wire.anthropic_stream(), "gemini": wire.gemini_stream()}


@pytest.mark.parametrize("family", STREAMS)
async def test_a_stream_gives_the_text_as_it_comes_and_the_whole_at_its_end(treasury, upstream, family):
    upstream.answers(wire.streamed(STREAMS[family], pieces=120))
    *texts, done = [piece async for piece in treasury.stream(MODEL, SAY_HELLO, family=family)]
    assert len(texts) > 1
    assert isinstance(done, Completion)
    assert done.text == "".join(texts) == "Hello!"
    assert done.cost_nanousd == done.tokens.input * IN + done.tokens.output * OUT > 0
    [booked] = await usage_of(treasury)
    assert (booked.hold, booked.amounts["cost"]) == (done.hold, done.cost_nanousd)


# covers E14
async def test_who_leaves_a_stream_ends_the_call_and_pays_for_what_came(treasury, upstream):
    texts = [f"word{number} " for number in range(200)]
    upstream.answers(wire.streamed(wire.chat_stream(*texts), pieces=200, pause_s=0.02))
    pieces = treasury.stream(MODEL, SAY_HELLO)
    assert (await anext(pieces)).startswith("word0")
    await pieces.aclose()
    async with asyncio.timeout(3):
        await upstream.asked[0].ended.wait()
    assert upstream.asked[0].was_left
    await assert_nothing_is_held(treasury)
    [booked] = await usage_of(treasury)
    assert booked.record.outcome == "cancelled"
    assert 0 < booked.amounts["output_tokens"] < 200


async def test_who_is_cancelled_while_waiting_ends_the_call(treasury, upstream):
    upstream.answers(Reply(never=True))
    call = asyncio.create_task(treasury.complete(MODEL, SAY_HELLO))
    asked = await upstream.request()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(3):
        await asked.ended.wait()
    await assert_nothing_is_held(treasury)


# covers X17
async def test_one_hold_is_for_all_attempts(treasury, upstream):
    busy = Reply(status=503, headers=JSON, body=b'{"error":{"message":"overloaded"}}')
    upstream.answers(busy, busy, wire.chat_answer())
    assert (await treasury.complete(MODEL, SAY_HELLO)).text == "Hello!"
    assert len(upstream.asked) == 3
    entries = (await treasury.read(ListEntries(limit=1_000))).entries
    assert [entry.kind for entry in entries].count("held") == 1
    assert len(await usage_of(treasury)) == 1


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (429, True), (500, True)])
async def test_an_error_of_the_provider_is_its_own_kind(treasury, upstream, status, retryable):
    upstream.answers(Reply(status=status, headers=JSON, body=b'{"error":{"message":"not like that","code":"x"}}'))
    with pytest.raises(ProviderFailed, match="not like that") as failed:
        await treasury.complete(MODEL, SAY_HELLO)
    assert (failed.value.status, failed.value.retryable) == (status, retryable)
    await upstream.stop()
    with pytest.raises(ProviderFailed, match="cannot be reached") as failed:
        await treasury.complete(MODEL, SAY_HELLO)
    assert (failed.value.status, failed.value.retryable) == (502, True)


async def test_an_error_in_an_answer_of_status_200_is_one(treasury, upstream):
    upstream.answers(Reply(body=b'{"error":{"message":"capacity","code":"overloaded"}}'))
    with pytest.raises(ProviderFailed, match="capacity"):
        await treasury.complete(MODEL, SAY_HELLO)


async def test_what_makes_no_sense_says_which_field(treasury, upstream):
    with pytest.raises(Invalid, match="nobody knows what"):
        await treasury.complete("nobody-knows", SAY_HELLO)
    with pytest.raises(Invalid) as wrong:
        await treasury.complete(MODEL, SAY_HELLO, max_tokens="many")
    assert wrong.value.refused.field == "max_tokens"
    with pytest.raises(Forbidden, match="Metadata"):
        await treasury.complete(MODEL, SAY_HELLO, metadata={"long": "x" * 1_000})


async def test_without_a_gateway_it_says_what_to_do(tmp_path):
    async with fiscus.open("memory:", spool_directory=tmp_path) as treasury:
        with pytest.raises(ConfigurationInvalid, match="no gateway"):
            await treasury.complete(MODEL, SAY_HELLO)
        with pytest.raises(ConfigurationInvalid, match="no gateway"):
            treasury.stream(MODEL, SAY_HELLO)


async def test_a_service_that_is_away_is_no_refusal(tmp_path):
    async with fiscus.connect("http://127.0.0.1:1", "", spool_directory=tmp_path) as treasury:
        with pytest.raises(BudgetUnavailable, match="cannot connect: Connection refused"):
            await treasury.complete(MODEL, SAY_HELLO)


async def test_the_face_without_await_and_the_gateways_file(upstream, tmp_path):
    upstream.answers(wire.chat_answer(), wire.streamed(wire.chat_stream()))
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'account = "{PAYER}"\n[[upstreams]]\nname = "one"\nfamily = "openai"\nbase_url = "{upstream.url}/v1"\n'
        '[[prices]]\nprovider = "*"\nmodel = "*"\ninput = "1"\noutput = "2"\n'
    )

    def work():
        with fiscus.open_sync("memory:", spool_directory=tmp_path / "spool", gateway=file) as treasury:
            treasury.put_account(PAYER)
            treasury.put_budget(PAYER, "tokens", PLENTY)
            whole = treasury.complete(MODEL, SAY_HELLO)
            *texts, last = list(treasury.stream(MODEL, SAY_HELLO))
            return whole, texts, last

    whole, texts, last = await asyncio.to_thread(work)
    assert whole.text == last.text == "".join(texts) == "Hello!"
    assert whole.cost_nanousd == 11 * IN + 7 * OUT
    with pytest.raises(ConfigurationInvalid, match="gateway"):
        fiscus.open("memory:", gateway=tmp_path / "none.toml")


def test_examples():
    assert doctest.testmod(completion).failed == 0
