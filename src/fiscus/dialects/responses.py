"""OpenAI's responses."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from fiscus.core.records import Tokens
from fiscus.dialects.dialect import Meter
from fiscus.dialects.facts import Change, Malformed, Problem, RequestFacts
from fiscus.dialects.openai import OpenAIDialect, Tool, tool_facts
from fiscus.dialects.responses_meter import ResponsesMeter
from fiscus.dialects.scan import Edit, append_element, append_text, last_element, members, put_members
from fiscus.dialects.wire import (
    NULL,
    WORDINGS,
    anything,
    bounded,
    decoder,
    encoded,
    event,
    given,
    names,
    once,
    own,
    read,
    text,
    texts,
)

OUTPUT_TOKENS_LEAST = 16
"""OpenAI takes no smaller bound."""

_ELSEWHERE = ("previous_response_id", "conversation", "prompt")
_ONCE = ("model", "stream", "max_output_tokens", "input", "tools", "background", *_ELSEWHERE)


class _Responses(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    tools: list[Tool] | None = None
    service_tier: Any = None
    previous_response_id: msgspec.Raw = NULL
    conversation: msgspec.Raw = NULL
    prompt: msgspec.Raw = NULL
    background: bool | None = None
    store: Any = None
    user: Any = None
    metadata: msgspec.Raw = NULL
    reasoning: msgspec.Raw = NULL


_REQUEST = decoder(_Responses)


class Responses(OpenAIDialect):
    """Responses."""

    name: ClassVar[str] = "openai.responses"

    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """See ``Dialect``."""
        request = read(_REQUEST, body, _ONCE)
        if isinstance(request, Malformed):
            return request
        named, server, builtin = tool_facts(request.tools or [])
        return bounded("max_output_tokens", request.max_output_tokens, 1) or RequestFacts(
            model=request.model or path_model,
            stream=bool(request.stream) or stream,
            output_tokens_max=request.max_output_tokens,
            output_tokens_least=OUTPUT_TOKENS_LEAST,
            thinks=b'"none"' not in bytes(request.reasoning) if given(request.reasoning) else None,
            include_usage=True,
            tools=len(named),
            tool_names=names(named),
            server_tools=once(server),
            builtin_tools=once(builtin),
            service_tier=text(request.service_tier),
            input_unknown=tuple(name for name in _ELSEWHERE if given(getattr(request, name))),
            background=bool(request.background),
            store=request.store if isinstance(request.store, bool) else None,
            user=text(request.user),
            metadata=texts(request.metadata),
        )

    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """See ``Dialect``. Streams always carry usage."""
        values: dict[str, bytes] = {}
        asked = facts.output_tokens_max
        if change.output_tokens_max is not None and (asked is None or asked > change.output_tokens_max):
            values["max_output_tokens"] = encoded(change.output_tokens_max)
        if change.model is not None:
            values["model"] = encoded(change.model)
        edits = put_members(body, 0, values) if values else []
        if change.append_note is not None:
            edits += _note(body, change.append_note)
        return edits

    def meter(self, content_type: str = "") -> ResponsesMeter:
        """For one answer."""
        return ResponsesMeter()

    def ending(self, meter: Meter, *, include_usage: bool = False, tokens: Tokens | None = None) -> bytes:
        """Ends what is open, each with what it has, and the response as incomplete at its bound.

        The arguments of a function that are cut are not called done: nobody should call it.
        """
        assert isinstance(meter, ResponsesMeter)
        if meter.ended:
            return b""
        events = [*meter.endings(), ("response.incomplete", {"response": meter.incomplete(tokens)})]
        if meter.response is None:
            begun = {**meter.incomplete(None), "status": "in_progress", "incomplete_details": None}
            events.insert(0, ("response.created", {"response": begun}))
        return b"".join(
            event({"type": name, **fields, "sequence_number": number}, name)
            for number, (name, fields) in enumerate(events, meter.sequence_number + 1)
        )

    def error_event(self, problem: Problem, meter: Meter) -> bytes:
        """An error in both shapes: as the reference has it, and as the SDK raises it."""
        assert isinstance(meter, ResponsesMeter)
        error = {
            "type": "error",
            "code": problem.code,
            "message": problem.message,
            "param": problem.field,
            "sequence_number": meter.sequence_number + 1,
            "error": {
                "type": WORDINGS[problem.code].openai,
                "code": problem.code,
                "message": problem.message,
                "param": problem.field,
                "fiscus": own(problem),
            },
        }
        return event(error, "error")


def _note(body: bytes, note: str) -> list[Edit]:
    items = next((member for member in members(body) if member.key == "input"), None)
    if items is None:
        return []
    if body[items.start] == 0x22:
        return [append_text(items.end, note)]
    if body[items.start] != 0x5B:
        return []
    last = last_element(body, items.start, items.end)
    if last is None or body[last.start] != 0x7B:
        return []
    parts = {member.key: member for member in members(body, last.start)}
    role = anything(body[parts["role"].start : parts["role"].end]) if "role" in parts else None
    content = parts.get("content")
    if role == "assistant":
        return []
    if role == "user" and content is not None:
        if body[content.start] == 0x22:
            return [append_text(content.end, note)]
        if body[content.start] == 0x5B:
            part = encoded({"type": "input_text", "text": note})
            return [append_element(body, content.start, content.end, part)]
    message = encoded({"type": "message", "role": "user", "content": note})
    return [append_element(body, items.start, items.end, message)]
