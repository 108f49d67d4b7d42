"""What of an address's query goes to the provider: nothing that keeps its answer from being metered."""

import doctest

import pytest

from fiscus.gateway import query
from fiscus.gateway.query import passed_query
from tests.gateway import wire
from tests.gateway.upstream import Reply

GENERATE = "/gemini/v1beta/models/test-model:generateContent"
PASS = {
    "gemini": (
        "alt=sse",
        "%24alt=sse",
        "alt=json",
        "%24alt=json%3Benum-encoding%3Dint",
        "alt=",
        "prettyPrint=false",
        "%24.xgafv=2",
        "pageSize=5&pageToken=a%2Fb",
        "alt=sse&prettyPrint=",
    ),
    "openai": ("api-version=2024-10-21", "limit=5&after=m", "alt=json"),
    "anthropic": ("beta=true", "limit=5&after_id=m"),
}
REFUSED = {
    "fields": "fields=candidates",
    "$fields": "%24fields=candidates%28content%29",
    "callback": "callback=steal",
    "$callback": "$callback=steal",
    "alt": "alt=proto",
    "$alt": "%24alt=proto",
    "$httpMethod": "$httpMethod=GET",
    "$httpHeaders": "%24httpHeaders=x-goog-fieldmask%3Acandidates",
    "access_token": "access_token=ya29",
}


# covers E14
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest.mark.parametrize("field", REFUSED)
async def test_a_parameter_that_leaves_usage_out_of_an_answer_is_refused(gate, upstream, field, method):
    path = f"/gemini/v1beta/models/test-model:{method}"
    for asked in (REFUSED[field], f"alt=sse&{REFUSED[field]}", f"{REFUSED[field]}&alt=json&key=none"):
        answer = await gate.post(f"{path}?{asked}", wire.contents())
        assert answer.status == 400
        assert repr(field) in answer.json["error"]["message"]
    assert upstream.asked == []


async def test_it_is_refused_of_other_families_and_of_lists_too(gate, upstream):
    """Google speaks OpenAI's dialect, too."""
    for path in ("/openai/v1/chat/completions", "/anthropic/v1/messages"):
        for asked in REFUSED.values():
            assert (await gate.post(f"{path}?{asked}", wire.chat())).status == 400
    assert (await gate.ask("GET", "/gemini/v1beta/models?fields=models")).status == 400
    assert upstream.asked == []


@pytest.mark.parametrize(("family", "asked"), [(family, asked) for family, all in PASS.items() for asked in all])
def test_what_is_harmless_passes_without_the_secret(family, asked):
    passed = passed_query(f"key=fk_1&{asked}".encode(), family)
    assert isinstance(passed, str)
    assert passed.replace("%2F", "/") == asked.replace("%2F", "/")
    assert passed_query(b"key=fk_1", family) == passed_query(b"", family) == ""


async def test_headers_that_leave_usage_out_of_an_answer_stay_here(gate, upstream):
    upstream.answers(wire.gemini_answer())
    headers = {
        "X-Goog-FieldMask": "candidates",
        "x-goog-field-mask": "candidates",
        "X-HTTP-Method-Override": "GET",
        "X-Goog-Api-Client": "genai/1",
    }
    answer = await gate.ask("POST", GENERATE, wire.contents(), headers)
    assert answer.status == 200
    sent = upstream.asked[0].headers
    assert not {"x-goog-fieldmask", "x-goog-field-mask", "x-http-method-override"} & sent.keys()
    assert sent["x-goog-api-client"] == "genai/1"


async def test_a_list_is_paged(gate, upstream):
    upstream.answers(Reply(body=b'{"models":[]}'))
    assert (await gate.ask("GET", "/gemini/v1beta/models?pageSize=2&pageToken=x")).status == 200
    assert upstream.asked[0].target == "/v1beta/models?pageSize=2&pageToken=x"


def test_examples():
    assert doctest.testmod(query).failed == 0
