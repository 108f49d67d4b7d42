"""An agent is told once for each threshold and window that a budget runs low, behind all that it has said."""

import asyncio
import json

import msgspec
import pytest

from fiscus.core.commands import Adjust, PutBudget, Settle
from fiscus.core.outcomes import AccountAnswer
from fiscus.gateway.notes import Notes, line
from tests.gateway import wire
from tests.gateway.gate import PAYER, PLENTY, providers, standing
from tests.gateway.upstream import JSON, Reply

WARNING = "Note: 76% of token budget used. 24,000 tokens remaining."
CRITICAL = "WARNING: 91% of token budget used. 9,000 tokens remaining. Consider wrapping up your current task soon."
FINAL = (
    "CRITICAL: 96% of token budget used. Only 4,000 tokens remaining. "
    "Wrap up immediately or your next request may fail."
)
ON = {"budget": False, "budget_notes": True}


async def spend(gate, used, name=PAYER, **more):
    """Have so many tokens of an account used in all."""
    balance = await gate.balance(name)
    rest = used - balance.covered - balance.uncovered
    await gate.do(Settle(id=f"spent-{name}-{used}-{rest}", account=name, total={"tokens": rest, **more}))


async def said(gate, upstream, **headers):
    """Whether a call is admitted, and what stands at the end of what the provider is sent."""
    before = len(upstream.asked)
    answer = await gate.chat(wire.chat(max_tokens=20), **headers)
    assert answer.status == 200, answer
    return upstream.asked[before].json["messages"][-1]["content"].removeprefix("Say hello.").strip()


# covers X9, X10, X11, X12, X13
async def test_each_threshold_is_told_once_in_the_words_of_its_severity(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        told = []
        for used in (0, 74_000, 76_000, 76_100, 91_000, 91_100, 96_000, 96_100):
            await spend(gate, max(used, (await gate.balance()).spent))
            told.append(await said(gate, upstream))
        assert told == ["", "", WARNING, "", CRITICAL, "", FINAL, ""]


async def test_of_thresholds_that_were_jumped_over_the_gravest_is_told(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        await spend(gate, 96_000)
        assert [await said(gate, upstream), await said(gate, upstream)] == [FINAL, ""]


async def test_nothing_is_told_unless_that_is_wanted(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), budget=False) as gate:
        await gate.account(PAYER, tokens=100_000)
        await spend(gate, 96_000)
        assert await said(gate, upstream) == ""


async def test_a_limit_that_is_raised_arms_its_thresholds_again(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        await spend(gate, 76_000)
        assert await said(gate, upstream) == WARNING
        await gate.do(Adjust(id="more", account=PAYER, budget="tokens", amount=100_000, reason="more to do"))
        assert await said(gate, upstream) == ""
        await spend(gate, 152_000)
        assert await said(gate, upstream) == "Note: 76% of token budget used. 48,000 tokens remaining."


async def test_a_new_window_arms_the_thresholds_again():
    notes = Notes()
    [first, second] = [account(spent=80, day=day) for day in (1, 2)]
    assert [notes.due([one], {}) is not None for one in (first, first, second, second)] == [True, False, True, False]


async def test_each_payer_is_told_of_the_budgets_above_it_and_whose_they_are(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        for name in ("agent:x", "agent:y"):
            await gate.account(name, PAYER)
        await spend(gate, 76_000)
        told = [await said(gate, upstream, x_fiscus_agent=name) for name in ("x", "y", "x", "y")]
        text = "Note: 76% of token budget used. {} tokens remaining. This is the budget of team:a."
        assert told == [text.format("24,000"), text.format("23,982"), "", ""]


async def test_a_key_is_told_nothing_of_what_it_may_not_see(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), keys=True, **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        await gate.account("agent:x", PAYER, tokens=200_000)
        await spend(gate, 76_000, "agent:x")
        key = await gate.key("agent:x")
        assert await said(gate, upstream, authorization=f"Bearer {key}") == ""
        await spend(gate, 85_000)
        assert await said(gate, upstream, authorization=f"Bearer {await gate.key(PAYER)}") == (
            "Note: 85% of token budget used. 15,000 tokens remaining."
        )


async def test_money_calls_and_budgets_for_some_calls_are_told_of_the_gravest_last(upstream):
    upstream.answers(wire.chat_answer())
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=PLENTY)
        await gate.limit(PAYER, "cost", 10_000_000_000)
        await gate.limit(PAYER, "calls", 100)
        other = {"account": PAYER, "limit": 10, "thresholds": {75: "warning"}}
        await gate.do(PutBudget(unit="tokens", budget="other", match={"model": "else"}, **other))
        await gate.do(PutBudget(unit="tokens", budget="watched", mode="observe", **other))
        await spend(gate, 1_000, cost=9_123_456_789, calls=78)
        assert (await said(gate, upstream)).splitlines() == [
            "Note: 78% of call budget used. 22 calls remaining.",
            "WARNING: 91% of cost budget used. $0.8765 remaining. Consider wrapping up your current task soon.",
        ]


async def test_who_was_refused_or_got_an_error_is_told_the_next_time(upstream):
    async with standing(providers(upstream), attempts_max=1, **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        await spend(gate, 96_000)
        refused = await gate.chat(wire.chat(max_tokens=20, messages=[{"role": "user", "content": "word " * 9_000}]))
        assert refused.status == 402
        upstream.answers(Reply(status=400, body=b'{"error": {"message": "no"}}'), wire.chat_answer())
        assert (await gate.chat(wire.chat(max_tokens=20))).status == 400
        assert upstream.asked[0].json["messages"][-1]["content"].endswith(FINAL)
        assert [await said(gate, upstream), await said(gate, upstream)] == [FINAL, ""]


async def test_of_calls_at_once_one_is_told(upstream):
    upstream.answers(Reply(body=wire.chat_answer().body, pieces=30, pause_s=0.02))
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        await spend(gate, 76_000)
        told = await asyncio.gather(*(gate.chat(wire.chat(max_tokens=20)) for _ in range(5)))
        assert [answer.status for answer in told] == [200] * 5
        ends = [asked.json["messages"][-1]["content"].endswith(WARNING) for asked in upstream.asked]
        assert sorted(ends) == [False] * 4 + [True]


def use(id):
    return {"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "f", "input": {}}]}


RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "4"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "t1", "type": "function", "function": {}}]}
NOTE = {"type": "text", "text": WARNING}
TURNS = {
    "a tool's result of OpenAI": (
        "/openai/v1/chat/completions",
        {"messages": [*wire.MESSAGES, CALLED, {"role": "tool", "tool_call_id": "t1", "content": "4"}]},
        lambda body: body["messages"][3:] == [{"role": "user", "content": WARNING}],
        wire.chat_answer(),
    ),
    "parts of OpenAI": (
        "/openai/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        lambda body: body["messages"][0]["content"][1:] == [NOTE],
        wire.chat_answer(),
    ),
    "a text of responses": (
        "/openai/v1/responses",
        {"input": "Hi"},
        lambda body: body["input"] == f"Hi\n\n{WARNING}",
        wire.responses_answer(),
    ),
    "a function's output of responses": (
        "/openai/v1/responses",
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "4"}]},
        lambda body: body["input"][1:] == [{"type": "message", "role": "user", "content": WARNING}],
        wire.responses_answer(),
    ),
    "a tool's result of Anthropic": (
        "/anthropic/v1/messages",
        {"max_tokens": 20, "messages": [*wire.MESSAGES, use("t1"), {"role": "user", "content": [RESULT]}]},
        lambda body: body["messages"][2:] == [{"role": "user", "content": [RESULT, NOTE]}],
        wire.anthropic_answer(),
    ),
    "a text of Anthropic": (
        "/anthropic/v1/messages",
        {"max_tokens": 20, "messages": wire.MESSAGES},
        lambda body: body["messages"] == [{"role": "user", "content": f"Say hello.\n\n{WARNING}"}],
        wire.anthropic_answer(),
    ),
    "parts of Gemini": (
        "/gemini/v1beta/models/test-model:generateContent",
        wire.contents(),
        lambda body: body["contents"][0]["parts"][1:] == [{"text": WARNING}],
        wire.gemini_answer(),
    ),
}


@pytest.mark.parametrize("case", TURNS)
async def test_the_note_stands_at_the_end_in_the_shape_of_the_dialect_and_changes_nothing_else(upstream, case):
    path, body, has_note, answer = TURNS[case]
    upstream.answers(answer)
    asked = {"model": wire.MODEL, **body}
    limited = {"max_tokens": 20} if "chat" in path else {}
    raw = json.dumps({**asked, **limited}, indent=1).encode()
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        await gate.post(path, raw)
        plain = upstream.asked[0].body
        await spend(gate, 76_000)
        assert (await gate.post(path, raw)).status == 200
        noted = upstream.asked[1].body
        assert has_note(json.loads(noted))
        more = len(noted) - len(plain)
        same = next(at for at in range(len(noted)) if plain[at : at + 1] != noted[at : at + 1])
        assert plain[same:] == noted[same + more :], "something is put in, and nothing else"


async def test_what_does_not_end_with_the_caller_gets_no_note_and_is_not_counted_as_told(upstream):
    upstream.answers(wire.anthropic_answer())
    prefilled = [*wire.MESSAGES, {"role": "assistant", "content": "Hel"}]
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        await spend(gate, 76_000)
        for sent, is_told in ((prefilled, False), (wire.MESSAGES, True)):
            assert (await gate.messages(wire.messages(max_tokens=20, messages=sent))).status == 200
            assert (b"76% of token budget used" in upstream.asked[-1].body) is is_told


# covers E15
async def test_the_note_is_held_as_input(upstream):
    upstream.answers(Reply(headers=JSON, body=wire.chat_answer().body, pieces=40, pause_s=0.05))
    async with standing(providers(upstream), **ON) as gate:
        await gate.account(PAYER, tokens=100_000)
        held = []
        for number, used in enumerate((74_000, 76_000), 1):
            await spend(gate, used)
            call = asyncio.create_task(gate.chat(wire.chat(max_tokens=20)))
            await upstream.request(number)
            held.append((await gate.balance()).held)
            await call
        assert held[1] - held[0] >= 15, "tokens of the note"


def account(*, spent, limit=100, day=1):
    """An account with a budget of tokens, as the ledger shows it."""
    balance = {
        "account": "agent:x",
        "budget": "tokens",
        "unit": "tokens",
        "mode": "enforce",
        "limit": limit,
        "covered": spent,
        "held": 0,
        "quarantined": 0,
        "uncovered": 0,
        "spent": spent,
        "available": limit - spent,
        "overdrawn": 0,
        "window_start": f"2026-01-0{day}T00:00:00Z",
        "window_end": None,
    }
    budget = {
        "budget": "tokens",
        "account": "agent:x",
        "unit": "tokens",
        "version": 1,
        "limit": limit,
        "period": "day",
        "zone": "UTC",
        "thresholds": {"50": "info", "75": "warning", "90": "critical", "95": "final", "100": "exhausted"},
        "mode": "enforce",
        "match": {},
        "on_exhaustion": "deny",
        "carry_over": "none",
        "carry_max": None,
        "carry_debt": False,
        "allocated": False,
        "balance": balance,
    }
    head = {"number": 1, "parent": None, "status": "active", "status_effective": "active", "labels": {}, "priority": 1}
    whole = {"account": "agent:x", **head, "min_reserve": {}, "budgets": [budget]}
    return msgspec.convert(whole, AccountAnswer, strict=False)


@pytest.mark.parametrize(
    ("spent", "limit", "text"),
    [
        (75, 100, "Note: 75% of token budget used. 25 tokens remaining."),
        (755, 1_000, "Note: 76% of token budget used. 245 tokens remaining."),
        (101, 100, "Note: 101% of token budget used. 0 tokens remaining."),
    ],
)
def test_percent_is_rounded_and_what_is_overdrawn_leaves_nothing(spent, limit, text):
    [budget] = account(spent=spent, limit=limit).budgets
    assert line("warning", budget.balance, "agent:x") == text
