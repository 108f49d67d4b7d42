"""Refusals are raised by the providers' own SDKs as their own exceptions, and repeated only where that can help."""

import json
from typing import get_args

import anthropic
import httpx2
import openai
import pytest
from google import genai

from fiscus.dialects import DIALECTS, Code, Problem

CODES = get_args(Code)
RETRIED = ("budget_busy", "unavailable")
STATUSES = {
    "budget_exceeded": 402,
    "budget_busy": 429,
    "forbidden": 403,
    "unauthenticated": 401,
    "unknown_model": 404,
    "unknown_route": 404,
    "invalid": 400,
    "too_large": 413,
    "unavailable": 503,
    "upstream_error": 502,
    "upstream_timeout": 504,
}
OPENAI = {
    401: openai.AuthenticationError,
    402: openai.APIStatusError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    400: openai.BadRequestError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}
ANTHROPIC = {
    401: anthropic.AuthenticationError,
    402: anthropic.APIStatusError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    400: anthropic.BadRequestError,
    413: anthropic.APIStatusError,
    429: anthropic.RateLimitError,
    502: anthropic.InternalServerError,
    503: anthropic.InternalServerError,
    504: anthropic.InternalServerError,
}


def problem(code):
    return Problem(
        code=code,
        message="no room: ask for less",
        retry_after_s=0 if code in RETRIED else None,
        field="max_tokens" if code == "invalid" else None,
        detail={"budget": "tokens-day", "resets_at": "2026-11-26T00:00:00Z"},
    )


class Refusing:
    """A transport that refuses, and counts."""

    def __init__(self, dialect, code):
        self.refusal = DIALECTS[dialect].refusal(problem(code))
        self.calls = 0

    def client(self):
        return httpx2.Client(transport=httpx2.MockTransport(self.handle))

    def handle(self, request):
        self.calls += 1
        return httpx2.Response(self.refusal.status, headers=list(self.refusal.headers), content=self.refusal.body)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("dialect", ["openai.chat", "openai.responses"])
def test_openai_raises_its_own_exception(dialect, code):
    refusing = Refusing(dialect, code)
    client = openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=refusing.client(), max_retries=1)
    asked = {"openai.chat": {"messages": [{"role": "user", "content": "?"}]}, "openai.responses": {"input": "?"}}
    create = {"openai.chat": client.chat.completions.create, "openai.responses": client.responses.create}
    with pytest.raises(OPENAI[STATUSES[code]]) as caught:
        create[dialect](model="m", **asked[dialect])
    assert caught.value.status_code == STATUSES[code]
    assert "no room: ask for less" in str(caught.value)
    assert caught.value.code == ("model_not_found" if code == "unknown_model" else code)
    assert caught.value.param == ("max_tokens" if code == "invalid" else None)
    assert caught.value.body["fiscus"]["budget"] == "tokens-day"
    assert refusing.calls == (2 if code in RETRIED else 1)


@pytest.mark.parametrize("code", CODES)
def test_anthropic_raises_its_own_exception(code):
    refusing = Refusing("anthropic.messages", code)
    client = anthropic.Anthropic(api_key="k", base_url="http://x", http_client=refusing.client(), max_retries=1)
    with pytest.raises(ANTHROPIC[STATUSES[code]]) as caught:
        client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}])
    assert caught.value.status_code == STATUSES[code]
    assert caught.value.body["error"]["message"] == "no room: ask for less"
    assert caught.value.body["error"]["fiscus"]["code"] == code
    assert refusing.calls == (2 if code in RETRIED else 1)


@pytest.mark.parametrize("code", CODES)
def test_gemini_raises_its_own_exception(code):
    refusing = Refusing("gemini.generate", code)
    options = genai.types.HttpOptions(base_url="http://x", httpx_client=refusing.client())
    raised = genai.errors.ServerError if STATUSES[code] >= 500 else genai.errors.ClientError
    with pytest.raises(raised, match="no room") as caught:
        genai.Client(api_key="k", http_options=options).models.generate_content(model="m", contents="?")
    assert caught.value.code == STATUSES[code]
    assert caught.value.details["error"]["details"][0]["reason"] == code.upper()
    assert caught.value.details["error"]["details"][0]["metadata"]["budget"] == "tokens-day"


def test_a_status_can_be_said_and_the_time_to_wait_is_a_header():
    refusal = DIALECTS["openai.chat"].refusal(Problem(code="invalid", message="no", status=422, retry_after_s=7))
    assert refusal.status == 422
    headers = dict(refusal.headers)
    assert (headers["retry-after"], headers["x-should-retry"], headers["x-fiscus-code"]) == ("7", "true", "invalid")
    assert json.loads(refusal.body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_refuses_and_breaks_off_for_every_reason(dialect):
    for code in CODES:
        spoken = DIALECTS[dialect]
        refusal = spoken.refusal(problem(code))
        assert refusal.status == STATUSES[code]
        assert dict(refusal.headers)["x-should-retry"] == ("true" if code in RETRIED else "false")
        last = spoken.error_event(problem(code), spoken.meter("text/event-stream"))
        assert b"no room: ask for less" in last
        assert last.endswith((b"\n\n", b"\r\n\r\n"))
