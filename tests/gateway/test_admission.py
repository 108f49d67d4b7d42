"""Before a call: the worst case is held, the output is clamped to what is left, or the call is refused."""

import asyncio
from datetime import datetime

import anthropic
import pytest

from fiscus.core.commands import Allocate, Deallocate, SetStatus
from fiscus.pricing import PriceOverride
from tests.gateway import wire
from tests.gateway.gate import IN, OUT, PAYER, PLENTY, providers, standing
from tests.gateway.upstream import Reply


def asking(gate, family, **more):
    """A call of each family, with a bound of 100 tokens."""
    if family == "openai":
        return gate.chat(wire.chat(**more))
    return gate.messages(wire.messages(**more)) if family == "anthropic" else gate.generate(wire.contents(**more))


ANSWERS = {"openai": wire.chat_answer(), "anthropic": wire.anthropic_answer(), "gemini": wire.gemini_answer()}


def bound_of(family, body):
    return body["generationConfig"]["maxOutputTokens"] if family == "gemini" else body["max_tokens"]


def refusal_of(family, answer):
    """Code of a refusal, after its shape was checked."""
    said = answer.json
    if family == "gemini":
        assert set(said["error"]) >= {"code", "message", "status", "details"}
        assert said["error"]["code"] == answer.status
        return answer.headers["x-fiscus-code"]
    if family == "anthropic":
        assert said["type"] == "error"
        assert set(said["error"]) >= {"type", "message"}
        return answer.headers["x-fiscus-code"]
    assert set(said["error"]) >= {"message", "type", "param", "code"}
    return said["error"]["code"]


# covers E2, E14
async def test_while_a_call_runs_its_worst_case_is_held_in_tokens_and_money(gate, upstream):
    upstream.answers(wire.streamed(wire.chat_stream(), pause_s=0.05, pieces=200))
    call = asyncio.create_task(gate.chat(wire.chat(stream=True)))
    await upstream.request()
    held, cost = await gate.balance(), await gate.balance(unit="cost")
    counted = held.held - 100
    assert 11 <= counted <= 100, "an upper bound of 11 tokens"
    assert cost.held >= counted * IN + 100 * OUT
    await call
    after = await gate.balances()
    assert (after["tokens"].held, after["cost"].held) == (0, 0)
    assert (after["tokens"].spent, after["cost"].spent) == (18, 11 * IN + 7 * OUT)


@pytest.mark.parametrize("family", ANSWERS)
async def test_the_output_is_clamped_to_what_is_left(upstream, family):
    upstream.answers(ANSWERS[family])
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=130)
        answer = await asking(gate, family)
        assert (answer.status, answer.body) == (200, ANSWERS[family].body)
        [asked] = upstream.asked
        assert 16 <= bound_of(family, asked.json) < 100


async def test_the_output_is_clamped_to_what_is_left_of_money(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, cost=250 * IN)
        assert (await gate.chat(wire.chat())).status == 200
        bound = upstream.asked[0].json["max_tokens"]
        assert 16 <= bound < 100
        assert bound * OUT < 250 * IN


async def test_a_request_without_a_bound_gets_one(gate, upstream):
    upstream.answers(wire.chat_answer())
    assert (await gate.chat({"model": wire.MODEL, "messages": wire.MESSAGES})).status == 200
    assert (await gate.chat(wire.chat(max_tokens=None))).status == 200
    upstream.answers(wire.gemini_answer())
    assert (await gate.generate({"contents": wire.contents()["contents"]})).status == 200
    first, second, third = (asked.json for asked in upstream.asked)
    assert (first["max_completion_tokens"], second["max_tokens"]) == (200, 200)
    assert bound_of("gemini", third) == 200


@pytest.mark.parametrize("family", ANSWERS)
async def test_a_budget_that_is_spent_refuses_in_the_words_of_the_dialect(upstream, family):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER)
        await gate.limit(PAYER, "tokens", 20, period="day")
        answer = await asking(gate, family)
        assert (answer.status, refusal_of(family, answer)) == (402, "budget_exceeded")
        assert "retry-after" not in answer.headers
        assert PAYER in answer.body.decode()
        assert upstream.asked == []


@pytest.mark.parametrize("family", ANSWERS)
async def test_a_budget_that_others_hold_is_busy_and_says_when_to_come_again(upstream, family):
    async with standing(providers(upstream), budget=False, busy_wait_s_max=0) as gate:
        await gate.account(PAYER, tokens=220)
        upstream.answers(Reply(body=ANSWERS[family].body, pieces=30, pause_s=0.05))
        first = asyncio.create_task(asking(gate, family))
        await upstream.request()
        second = await asking(gate, family)
        assert (second.status, refusal_of(family, second)) == (429, "budget_busy")
        assert int(second.headers["retry-after"]) >= 1
        assert (await first).status == 200


async def test_a_smaller_bound_than_is_of_use_is_refused_instead(upstream):
    upstream.answers(wire.chat_answer())
    for least, status in ((16, 200), (60, 402)):
        async with standing(providers(upstream), budget=False, output_tokens_least=least) as gate:
            await gate.account(PAYER, tokens=130)
            assert (await gate.chat(wire.chat())).status == status
    async with standing(providers(upstream), budget=False, output_tokens_least=60) as gate:
        await gate.account(PAYER, tokens=130)
        assert (await gate.chat(wire.chat(max_tokens=30))).status == 200, "it asked for no more"


async def test_a_bound_is_never_lowered_below_what_the_provider_takes(upstream):
    """Thinking needs 1,024 tokens of its own: with less left the call is refused here, not by the provider."""
    upstream.answers(wire.anthropic_answer())
    thinking = wire.messages(max_tokens=4_000, thinking={"type": "enabled", "budget_tokens": 2_000})
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=900)
        answer = await gate.messages(thinking)
        assert (answer.status, answer.headers["x-fiscus-code"]) == (402, "budget_exceeded")
        assert upstream.asked == []
        await gate.limit(PAYER, "tokens", 2_500)
        assert (await gate.messages(thinking)).status == 200
        sent = upstream.asked[0].json
        assert 1_024 <= sent["thinking"]["budget_tokens"] < sent["max_tokens"] < 2_500


async def test_several_choices_are_held_each(gate, upstream):
    upstream.answers(Reply(body=wire.chat_answer().body, pieces=50, pause_s=0.05))
    call = asyncio.create_task(gate.chat(wire.chat(n=5)))
    await upstream.request()
    assert 500 < (await gate.balance()).held < 700
    await call


async def test_limits_of_calls_and_of_input_are_not_met_by_clamping(upstream):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, input_tokens=5, tokens=PLENTY)
        assert (await gate.chat(wire.chat())).status == 402
        await gate.account("team:c", calls=1)
        upstream.answers(wire.chat_answer())
        assert (await gate.chat(wire.chat(), x_fiscus_charge_to="team:c")).status == 200
        assert (await gate.chat(wire.chat(), x_fiscus_charge_to="team:c")).status == 402
        assert len(upstream.asked) == 1


@pytest.mark.parametrize(("status", "code"), [("suspended", 403), ("terminated", 403)])
async def test_a_suspended_account_may_not_call(gate, upstream, status, code):
    await gate.do(SetStatus(account=PAYER, status=status))
    answer = await gate.chat(wire.chat())
    assert (answer.status, answer.json["error"]["fiscus"]["reason"]) == (code, f"account_{status}")
    assert upstream.asked == []


async def test_headers_say_what_is_left_of_the_tightest_budget(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, cost=PLENTY)
        await gate.limit(PAYER, "tokens", 10_000, period="day")
        answer = await gate.chat(wire.chat())
        assert answer.headers["x-fiscus-budget"] == f"{PAYER}/tokens"
        assert 9_000 < int(answer.headers["x-fiscus-remaining-tokens"]) <= 10_000
        resets_at = datetime.fromisoformat(answer.headers["x-fiscus-resets-at"])
        assert resets_at == (await gate.balance()).window_end


# -- prices ---------------------------------------------------------------------------------------------------------


async def test_a_model_without_a_price_is_refused_by_default(upstream):
    async with standing(providers(upstream), prices=()) as gate:
        answer = await gate.chat(wire.chat())
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
        assert "price" in answer.json["error"]["message"]
        assert upstream.asked == []


async def test_a_model_without_a_price_can_be_held_in_tokens_only(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), prices=(), unknown_price="tokens_only", budget=False) as gate:
        await gate.account(PAYER, tokens=PLENTY)
        assert (await gate.chat(wire.chat())).status == 200
        booked = await gate.last()
        assert "cost" not in booked.amounts
        assert (booked.record.cost_nanousd, booked.record.cost_source) == (None, "unpriced")
        assert booked.amounts["tokens"] == 18
        await gate.account("team:money", cost=PLENTY)
        answer = await gate.chat(wire.chat(), x_fiscus_charge_to="team:money")
        assert (answer.status, answer.json["error"]["param"]) == (400, "amounts.cost"), "money is never unbounded"
        assert len(upstream.asked) == 1


async def test_a_model_without_a_price_can_be_held_at_the_dearest(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), prices=(), unknown_price="dearest") as gate:
        assert (await gate.chat(wire.chat())).status == 200
        booked = await gate.last()
        assert booked.amounts["cost"] > 18 * IN
        assert booked.record.price_id


async def test_the_model_that_answered_is_what_is_priced(upstream):
    dear = PriceOverride(provider="openai", model="test-dear", input="10", output="20")
    cheap = PriceOverride(provider="openai", model="test-model", input="1", output="2")
    upstream.answers(wire.chat_answer(model="test-dear"))
    async with standing(providers(upstream), prices=(dear, cheap)) as gate:
        await gate.chat(wire.chat())
        booked = await gate.last()
        assert (booked.record.requested_model, booked.record.model) == (wire.MODEL, "test-dear")
        assert booked.amounts["cost"] == 10 * (11 * IN + 7 * OUT)


# -- input that nobody can count ------------------------------------------------------------------------------------

UNSEEN = (
    ("/openai/v1/responses", {"model": wire.MODEL, "input": "Hi.", "tools": [{"type": "web_search"}]}, "web_search"),
    ("/openai/v1/responses", {"model": wire.MODEL, "input": "Hi.", "previous_response_id": "resp_0"}, "previous_resp"),
    ("/openai/v1/chat/completions", wire.chat(web_search_options={}), "web_search"),
    (
        "/anthropic/v1/messages",
        wire.messages(tools=[{"type": "web_search_20250305", "name": "web_search"}]),
        "web_search",
    ),
    (
        "/gemini/v1beta/models/test-model:generateContent",
        wire.contents(tools=[{"googleSearch": {}}]),
        "google",
    ),
)


@pytest.mark.parametrize(("path", "body", "named"), UNSEEN)
async def test_input_that_nobody_can_count_is_refused_without_a_bound(gate, upstream, path, body, named):
    answer = await gate.post(path, body)
    assert answer.status == 400
    assert named in answer.body.decode()
    assert "unseen_input_tokens_max" in answer.body.decode()
    assert upstream.asked == []


async def test_with_a_bound_it_is_held_and_what_was_billed_is_booked(upstream):
    usage = {"input_tokens": 40_000, "output_tokens": 9, "server_tool_use": {"web_search_requests": 2}}
    upstream.answers(Reply(body=wire.anthropic_answer(usage=usage).body, pieces=50, pause_s=0.05))
    async with standing(providers(upstream), unseen_input_tokens_max=50_000) as gate:
        call = asyncio.create_task(gate.post(*UNSEEN[3][:2]))
        await upstream.request()
        assert (await gate.balance()).held > 50_000
        assert (await call).status == 200
        booked = await gate.last()
        assert booked.amounts["input_tokens"] == 40_000
        assert booked.uncovered == {}


async def test_a_call_in_the_background_is_refused(gate, upstream):
    answer = await gate.post("/openai/v1/responses", {"model": wire.MODEL, "input": "Hi.", "background": True})
    assert (answer.status, answer.json["error"]["param"]) == (400, "background")
    assert upstream.asked == []


async def test_an_official_sdk_raises_its_own_exception_and_asks_once(upstream):
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=20)
        async with anthropic.AsyncAnthropic(api_key="any", base_url=f"{gate.url}/anthropic") as client:
            with pytest.raises(anthropic.APIStatusError) as raised:
                await client.messages.create(model=wire.MODEL, max_tokens=50, messages=wire.MESSAGES)
        assert raised.value.status_code == 402
        assert upstream.asked == []


# covers E2
async def test_many_calls_at_once_never_hold_more_than_there_is(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=1_000)
        answers = await asyncio.gather(*(gate.chat(wire.chat()) for _ in range(60)))
        assert {one.status for one in answers} <= {200, 402, 429}
        served = sum(one.status == 200 for one in answers)
        balance = await gate.balance()
        assert served == len(upstream.asked) > 0
        assert balance.spent == 18 * served
        assert balance.overdrawn == 0


async def test_an_allocation_is_a_budget_too(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream)) as gate:
        await gate.account("agent:a", parent=PAYER)
        await gate.do(Allocate(account="agent:a", unit="tokens", to=130))
        assert (await gate.chat(wire.chat(), x_fiscus_agent="a")).status == 200
        assert upstream.asked[0].json["max_tokens"] < 100
        await gate.do(Deallocate(account="agent:a", unit="tokens"))


THINKING = (
    ("messages", wire.messages(stream=True, max_tokens=200, thinking={"type": "adaptive"})),
    ("chat", wire.chat(stream=True, max_tokens=200, reasoning_effort="high")),
)


@pytest.mark.parametrize(("way", "body"), THINKING)
async def test_a_stream_that_is_asked_to_think_holds_its_bound(gate, upstream, way, body):
    """What it thinks may be billed unseen, whatever other answers of the model have shown."""
    for thinks in (None, False, True):
        gate.knows(10, thinks=thinks)
    upstream.answers(wire.streamed(b""))
    await getattr(gate, way)(body)
    [held] = [entry.data["amounts"] for entry in await gate.entries() if entry.kind == "held"]
    assert held["output_tokens"] == 200


async def held_output(gate):
    """Tokens of output that each hold was for at first."""
    return [entry.data["amounts"]["output_tokens"] for entry in await gate.entries() if entry.kind == "held"]


# covers E15
@pytest.mark.parametrize(("config", "thinks"), [({}, None), ({"thinkingConfig": {"thinkingBudget": 0}}, False)])
async def test_what_was_asked_not_to_think_says_nothing_of_what_may(gate, upstream, config, thinks):
    """A model that decides for itself thinks unseen, whatever its answers without thinking have shown."""
    upstream.answers(wire.streamed(wire.gemini_stream()))
    path = f"/gemini/v1beta/models/{wire.MODEL}:streamGenerateContent?alt=sse"
    body = wire.contents(generationConfig={"maxOutputTokens": 20_000, **config})
    gate.knows(10, thinks=False if thinks is None else None)
    assert (await gate.post(path, body)).status == 200
    gate.knows(10, thinks=thinks)
    assert (await gate.post(path, body)).status == 200
    before, after = await held_output(gate)
    assert (before, after < 1_000) == (20_000, True)
