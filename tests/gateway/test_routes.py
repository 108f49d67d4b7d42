"""Addresses: what is metered is served, everything else is refused in the dialect's own shape and never asked."""

import pytest
from yarl import URL

from fiscus.gateway.routes import family_at, route_at
from fiscus.pricing import PriceOverride
from tests.gateway import wire
from tests.gateway.gate import PROVIDER_KEY, providers, standing
from tests.gateway.upstream import Reply

SERVED = (
    ("/openai/v1/chat/completions", wire.chat(), wire.chat_answer(), "/v1/chat/completions"),
    ("/openai/v1/responses", {"model": wire.MODEL, "input": "Hi."}, wire.responses_answer(), "/v1/responses"),
    ("/openai/v1/completions", {"model": wire.MODEL, "prompt": "Hi."}, wire.completion_answer(), "/v1/completions"),
    ("/openai/v1/embeddings", {"model": wire.MODEL, "input": "Hi."}, wire.embeddings_answer(), "/v1/embeddings"),
    (
        "/openai/deployments/test-model/chat/completions?api-version=1",
        {"messages": wire.MESSAGES},
        wire.chat_answer(),
        "/v1/chat/completions?api-version=1",
    ),
    ("/anthropic/v1/messages?beta=true", wire.messages(), wire.anthropic_answer(), "/v1/messages?beta=true"),
    (
        "/gemini/v1beta/models/test-model:generateContent",
        wire.contents(),
        wire.gemini_answer(),
        "/v1beta/models/test-model:generateContent",
    ),
    (
        "/gemini/v1/models/test-model:generateContent",
        wire.contents(),
        wire.gemini_answer(),
        "/v1/models/test-model:generateContent",
    ),
)
UNMETERED = (
    ("POST", "/openai/v1/images/generations"),
    ("POST", "/openai/v1/audio/speech"),
    ("POST", "/openai/v1/files"),
    ("POST", "/openai/v1/batches"),
    ("GET", "/openai/v1/files"),
    ("GET", "/openai/v1/responses/resp_1"),
    ("DELETE", "/openai/v1/models/test-model"),
    ("PUT", "/openai/v1/chat/completions"),
    ("POST", "/openai/v1/chat/completions/"),
    ("POST", "/openai/v1//chat/completions"),
    ("POST", "/openai/v1/chat/completions%2F..%2Ffiles"),
    ("GET", "/openai/v1/models/..%2Ffiles"),
    ("POST", "/anthropic/v1/messages/batches"),
    ("POST", "/anthropic/v1/complete"),
    ("GET", "/anthropic/v1/files"),
    ("POST", "/gemini/v1beta/models/test-model:batchEmbedContents"),
    ("POST", "/gemini/v1beta/models/test-model:countTokens"),
    ("POST", "/gemini/v1beta/models/..%2F..%2Ffiles:generateContent"),
    ("POST", "/gemini/upload/v1beta/files"),
    ("GET", "/gemini/v1beta/files"),
)


@pytest.mark.parametrize(("path", "body", "reply", "target"), SERVED, ids=[one[0] for one in SERVED])
async def test_what_is_metered_is_passed_through_and_booked(gate, upstream, path, body, reply, target):
    upstream.answers(reply)
    answer = await gate.post(path, body)
    assert (answer.status, answer.body) == (200, reply.body)
    assert upstream.asked[0].target == target
    booked = await gate.last()
    assert booked.record.outcome == "success"
    assert not booked.record.tokens_estimated
    assert booked.amounts["tokens"] == booked.record.tokens.input + booked.record.tokens.output > 0
    assert booked.hold == answer.headers["x-fiscus-hold"]


@pytest.mark.parametrize(("method", "path"), UNMETERED)
async def test_what_is_not_metered_is_refused_in_the_words_of_the_dialect_and_never_asked(gate, upstream, method, path):

    raw = URL(gate.url + path, encoded=True)
    async with gate.session.request(method, raw, data=b"{}", headers={"content-type": "application/json"}) as answer:
        said = await answer.json()
    assert answer.status == 404
    if path.startswith("/openai"):
        assert said["error"]["code"] == "unknown_route"
    elif path.startswith("/anthropic"):
        assert (said["type"], said["error"]["type"]) == ("error", "not_found_error")
    else:
        assert (said["error"]["code"], said["error"]["status"]) == (404, "NOT_FOUND")
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/openai/v1/models", "/v1/models"),
        ("/openai/v1/models/test-model", "/v1/models/test-model"),
        ("/anthropic/v1/models?limit=5", "/v1/models?limit=5"),
        ("/gemini/v1beta/models?pageSize=2&key=mine", "/v1beta/models?pageSize=2"),
    ],
)
async def test_lists_of_models_are_passed_through_and_cost_nothing(gate, upstream, path, target):
    upstream.answers(Reply(body=b'{"data":  [ ]}'))
    answer = await gate.ask("GET", path)
    assert (answer.status, answer.body) == (200, b'{"data":  [ ]}')
    assert upstream.asked[0].target == target
    assert PROVIDER_KEY in str(upstream.asked[0].headers)
    assert await gate.usage() == []


async def test_counting_tokens_costs_nothing(gate, upstream):
    upstream.answers(Reply(body=b'{"input_tokens": 14}'))
    body = {"model": wire.MODEL, "messages": wire.MESSAGES}
    answer = await gate.post("/anthropic/v1/messages/count_tokens", body)
    assert (answer.status, answer.json) == (200, {"input_tokens": 14})
    assert upstream.asked[0].json == body
    assert await gate.usage() == []


async def test_the_request_is_the_callers_own_bytes(gate, upstream):
    """Order, white space, unknown fields, spelling of numbers and of characters: all as it was."""
    body = (
        b'{"zzz":{"deep":[1.0e2,null]},  "model":"test-model","max_tokens":50,\n'
        b'"messages":[{"role":"user","content":"\\u00e9\xc3\xa9"}],"temperature":1.50}'
    )
    upstream.answers(wire.chat_answer())
    assert (await gate.chat(body)).status == 200
    assert upstream.asked[0].body == body


async def test_headers_of_the_caller_reach_the_provider_and_the_other_way_round(gate, upstream):
    more = (("x-ratelimit-remaining-tokens", "99"), ("request-id", "req_1"))
    upstream.answers(Reply(headers=(("content-type", "application/json"), *more), body=wire.anthropic_answer().body))
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "tools", "x-fiscus-agent": "x", "cookie": "a=b"}
    answer = await gate.ask("POST", "/anthropic/v1/messages", wire.messages(), headers)
    assert answer.status == 400, "agent:x has no template to be opened from"
    del headers["x-fiscus-agent"]
    answer = await gate.ask("POST", "/anthropic/v1/messages", wire.messages(), {**headers, "X-Fiscus-Task": "t"})
    assert answer.status == 200, answer
    sent = upstream.asked[0].headers
    assert (sent["anthropic-version"], sent["anthropic-beta"]) == ("2023-06-01", "tools")
    assert not [name for name in sent if name.startswith("x-fiscus") or name == "cookie"]
    assert (answer.headers["x-ratelimit-remaining-tokens"], answer.headers["request-id"]) == ("99", "req_1")


async def test_a_model_that_nobody_serves_is_unknown(upstream):
    async with standing(providers(upstream, models=("gpt-*",))) as gate:
        answer = await gate.chat(wire.chat())
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
        assert upstream.asked == []


async def test_a_model_goes_by_another_name_at_a_provider(upstream):
    async with standing(providers(upstream, renames={"mine": "test-model"})) as gate:
        upstream.answers(wire.chat_answer())
        assert (await gate.chat(wire.chat(model="mine"))).status == 200
        assert upstream.asked[0].json["model"] == "test-model"
        upstream.answers(wire.gemini_answer())
        assert (await gate.generate(wire.contents(), model="mine")).status == 200
        assert upstream.asked[1].target == "/v1beta/models/test-model:generateContent"
        first, second = await gate.usage()
        assert {first.record.requested_model, second.record.requested_model} == {"mine"}
        assert first.record.price_id.startswith("own:*/test-*")


async def test_a_picture_is_held_and_billed_at_its_own_rate(upstream):
    details = [{"modality": "IMAGE", "tokenCount": 90}]
    usage = {"promptTokenCount": 8, "candidatesTokenCount": 95, "candidatesTokensDetails": details}
    picture = wire.gemini_chunk("There:", {**usage, "totalTokenCount": 103}, finishReason="STOP")
    upstream.answers(Reply(body=wire.encoded(picture)))
    prices = (PriceOverride(provider="*", model="test-*", input="1", output="2", image_output="30"),)
    async with standing(providers(upstream), prices=prices) as gate:
        answer = await gate.generate(wire.contents())
        booked = await gate.last()
    assert answer.status == 200
    assert booked.amounts["cost"] == 8 * 1_000 + 90 * 30_000 + 5 * 2_000
    assert booked.uncovered.get("cost", 0) == 0, "no more was billed than was held"


def test_addresses_are_told_apart_without_a_server():
    assert family_at(b"/v1/holds") is None
    assert route_at("POST", b"/openai/v1/chat/completions", "openai").dialect == "openai.chat"
    found = route_at("POST", b"/gemini/v1beta/models/a%2Eb:streamGenerateContent", "gemini")
    assert (found.model, found.stream, found.path) == ("a.b", True, "/v1beta/models/{model}:streamGenerateContent")
