"""Whatever a caller or a provider sends: a value comes back, never an exception, and what is made of it is valid."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.core.records import Tokens
from fiscus.dialects import DIALECTS, Event, Malformed, Problem, RequestFacts, Usage

NAMES = st.sampled_from(
    re.findall(
        r"\S+",
        """
        model stream stream_options include_usage max_tokens max_completion_tokens n best_of tools functions
        type function name messages role content text input prompt thinking budget_tokens metadata user_id
        contents parts generationConfig maxOutputTokens generation_config max_output_tokens thinkingConfig
        thinkingBudget functionDeclarations cachedContent choices index delta message usage prompt_tokens
        completion_tokens total_tokens finish_reason tool_calls arguments id created object error code x_groq
        response output item output_index content_index summary_index part item_id sequence_number
        incomplete_details reason status tool_usage web_search num_requests input_tokens output_tokens
        cache_creation cache_read_input_tokens iterations content_block stop_reason candidates usageMetadata
        promptTokenCount candidatesTokenCount promptTokensDetails modality tokenCount finishReason thought
        functionCall inlineData data promptFeedback blockReason cost cost_details is_byok service_tier summary
        encrypted_content audio transcript
        """,
    )
)
WORDS = st.sampled_from(
    re.findall(
        r"\S+",
        """
        user assistant tool text output_text summary_text enabled adaptive function custom web_search message
        reasoning message_start message_delta message_stop content_block_start content_block_delta
        content_block_stop error text_delta input_json_delta response.created response.output_item.added
        response.output_item.done response.output_text.delta response.content_part.added
        response.reasoning_summary_text.delta response.function_call_arguments.delta response.completed
        response.failed completed incomplete stop STOP TEXT AUDIO function_call compaction
        """,
    )
)
SCALARS = st.none() | st.booleans() | st.integers(-2, 2**54) | st.floats(allow_nan=False) | WORDS | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=25
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=8)
PROBLEM = Problem(code="upstream_error", message="broke off")


def written(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(body=OBJECTS.map(written) | st.binary(max_size=30))
def test_a_request_is_read_or_malformed_and_what_is_edited_stays_json(name, body):
    dialect = DIALECTS[name]
    facts = dialect.read_request(body, "m")
    if isinstance(facts, Malformed):
        assert facts.detail
        return
    assert isinstance(facts, RequestFacts)
    assert dialect.patch_request(body, facts) is body
    most = max(facts.output_tokens_least, 5_000)
    edited = dialect.patch_request(
        body, facts, output_tokens_max=most, force_usage=True, append_note='note "x" \\', model="other"
    )
    again = dialect.read_request(edited, "m")
    assert isinstance(again, RequestFacts)
    assert again.output_tokens_max is not None
    assert again.output_tokens_max <= most
    assert set(json.loads(body)) <= set(json.loads(edited))


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(chunks=st.lists(OBJECTS | VALUES, max_size=6))
def test_a_stream_is_metered_and_can_be_ended_whatever_it_says(name, chunks):
    dialect = DIALECTS[name]
    meter = dialect.meter("text/event-stream")
    for chunk in chunks:
        data = written(chunk)
        event = Event(raw=b"data: " + data + b"\n\n", data=data)
        meter.feed(event)
        stripped = dialect.strip_usage(event)
        assert stripped is None or stripped == event.raw or b'"usage"' in event.raw
    assert isinstance(meter.usage(), Usage | None)
    for last in (
        dialect.ending(meter, include_usage=True, tokens=Tokens(input=4, output=2)),
        dialect.error_event(PROBLEM, meter),
    ):
        events = dialect.events("text/event-stream").feed(last)
        assert b"".join(event.raw for event in events) == last
        for event in events:
            if event.data != b"[DONE]":
                json.loads(event.data)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(body=VALUES.map(written) | st.binary(max_size=30))
def test_a_whole_answer_is_read_whatever_it_is(name, body):
    meter = DIALECTS[name].meter("application/json")
    meter.read(body)
    assert isinstance(meter.usage(), Usage | None)
    assert all(one.deltas > 0 for one in meter.produced.values())
