"""OpenAI's chat completions and legacy completions, as OpenAI and all those speak them who are compatible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from fiscus.core.records import Tokens
from fiscus.dialects.completions_meter import ChatMeter, CompletionsMeter
from fiscus.dialects.dialect import Meter
from fiscus.dialects.facts import Change, Event, Malformed, RequestFacts
from fiscus.dialects.openai import DONE, OpenAIDialect, Tool, tool_facts
from fiscus.dialects.scan import Edit, Member, append_element, append_text, last_element, members, put_members
from fiscus.dialects.wire import (
    CHOICES_MAX,
    NULL,
    anything,
    bounded,
    decoder,
    encoded,
    event,
    given,
    names,
    once,
    read,
    text,
    texts,
)

_BOUNDS = ("max_completion_tokens", "max_tokens")
_SEARCHING = ("-search-preview", "-search-api", ":online")
"""Models that search on their own, by a part of their name."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Function(msgspec.Struct):
    name: Any = None


class _Chat(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: list[Tool] | None = None
    functions: list[_Function] | None = None
    web_search_options: msgspec.Raw = NULL
    search_parameters: msgspec.Raw = NULL
    plugins: list[Tool] | None = None
    service_tier: Any = None
    store: Any = None
    user: Any = None
    metadata: msgspec.Raw = NULL
    preset: Any = None
    models: Any = None
    messages: msgspec.Raw = NULL
    reasoning_effort: Any = None
    reasoning: msgspec.Raw = NULL


class _Completion(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    echo: Any = None
    service_tier: Any = None
    user: Any = None
    prompt: msgspec.Raw = NULL


_CHAT, _COMPLETION = decoder(_Chat), decoder(_Completion)
_CHAT_ONCE = ("model", "stream", "stream_options", "include_usage", *_BOUNDS, "n", "messages", "tools")
_COMPLETION_ONCE = ("model", "stream", "stream_options", "include_usage", "max_tokens", "n", "best_of", "prompt")


OUTPUT_TOKENS_DEFAULT = 16
"""Of a legacy completion that names no bound, by OpenAI's reference; others have others, so that it is always told."""


class Completions(OpenAIDialect):
    """Legacy completions: text in, text out."""

    name: ClassVar[str] = "openai.completions"
    _object: ClassVar[str] = "text_completion"
    _bounds: ClassVar[tuple[str, ...]] = ("max_tokens",)

    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """See ``Dialect``. What is billed is the longer of ``n`` and ``best_of``, for each prompt."""
        request = read(_COMPLETION, body, _COMPLETION_ONCE, ("stream_options",))
        if isinstance(request, Malformed):
            return request
        wrong = (
            bounded("max_tokens", request.max_tokens, 0 if request.echo is True else 1)
            or bounded("n", request.n, 1, CHOICES_MAX)
            or bounded("best_of", request.best_of, 1, CHOICES_MAX)
        )
        return wrong or RequestFacts(
            model=request.model or path_model,
            stream=bool(request.stream) or stream,
            output_tokens_max=request.max_tokens,
            choices=max(request.n or 1, request.best_of or 1),
            prompts=prompts_of(request.prompt),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            service_tier=text(request.service_tier),
            user=text(request.user),
        )

    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """See ``Dialect``. There is no turn that a note could be added to."""
        force_usage = change.force_usage and facts.stream and not facts.include_usage
        if change.output_tokens_max is None and change.model is None and not force_usage:
            return []
        values: dict[str, bytes] = {}
        edits: list[Edit] = []
        found = members(body)
        present = {member.key: member for member in found}
        if change.model is not None:
            values["model"] = encoded(change.model)
        if change.output_tokens_max is not None:
            values |= self._lowered(body, present, change.output_tokens_max, change.output_field)
        if force_usage:
            options = present.get("stream_options")
            if options is not None and body[options.start] == 0x7B:
                edits += put_members(body, options.start, {"include_usage": b"true"})
            else:
                values["stream_options"] = b'{"include_usage":true}'
        return edits + (put_members(body, 0, values, found) if values else [])

    def _lowered(
        self, body: bytes, present: Mapping[str, Member], output_tokens_max: int, output_field: str | None
    ) -> dict[str, bytes]:
        """The fields that bound the output, as far as they have to change."""
        bounds = {
            name: anything(body[present[name].start : present[name].end]) for name in self._bounds if name in present
        }
        asked = {name: value for name, value in bounds.items() if value is not None}
        usual = output_field if output_field in self._bounds else None
        names = asked or (usual or next(iter(bounds), self._bounds[0]),)
        values = {name: asked.get(name) for name in names}
        return {
            name: encoded(output_tokens_max)
            for name, value in values.items()
            if value is None or value > output_tokens_max
        }

    def meter(self, content_type: str = "") -> CompletionsMeter:
        """For one answer."""
        return CompletionsMeter()

    def strip_usage(self, event: Event) -> bytes | None:
        """Without the chunk that only tells usage, and without the ``"usage":null`` of the others."""
        data = event.data
        if data is None or b'"usage"' not in data or not data.lstrip().startswith(b"{"):
            return event.raw
        chunk = anything(data)
        if not isinstance(chunk, dict) or "usage" not in chunk:
            return event.raw
        if chunk["usage"] is not None:
            return None if chunk.get("choices") == [] else event.raw
        if data.count(b'"usage"') == 1 and event.raw.count(b',"usage":null') == 1:
            return event.raw.replace(b',"usage":null', b"")
        at = event.raw.find(data)
        return event.raw if at < 0 else event.raw[:at] + _without(data, "usage") + event.raw[at + len(data) :]

    def ending(self, meter: Meter, *, include_usage: bool = False, tokens: Tokens | None = None) -> bytes:
        """A chunk that ends each open choice at its length, the usage if asked, and ``[DONE]``."""
        assert isinstance(meter, CompletionsMeter)
        if meter.ended:
            return b""
        head = {
            "id": meter.response_id or f"{self._object}-ended",
            "object": meter.kind or self._object,
            "created": meter.created,
            "model": meter.model or "",
        }
        parts = [event({**head, "choices": [self._last(index)]}) for index in meter.open_choices()]
        said = meter.usage()
        tokens = said.tokens if said is not None else tokens
        if include_usage and tokens is not None and not meter.usage_chunk:
            parts.append(event({**head, "choices": [], "usage": _usage(tokens)}))
        return b"".join([*parts, DONE])

    def _last(self, index: int) -> dict[str, object]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": "length"}


class ChatCompletions(Completions):
    """Chat completions."""

    name: ClassVar[str] = "openai.chat"
    _object: ClassVar[str] = "chat.completion.chunk"
    _bounds: ClassVar[tuple[str, ...]] = _BOUNDS

    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """See ``Dialect``. Where both bounds are given, the larger one counts."""
        request = read(_CHAT, body, _CHAT_ONCE, ("stream_options",))
        if isinstance(request, Malformed):
            return request
        wrong = (
            bounded("max_tokens", request.max_tokens, 1)
            or bounded("max_completion_tokens", request.max_completion_tokens, 1)
            or bounded("n", request.n, 1, CHOICES_MAX)
        )
        if wrong is not None:
            return wrong
        bounds = [bound for bound in (request.max_tokens, request.max_completion_tokens) if bound is not None]
        named, server, builtin = tool_facts(request.tools) if request.tools else ([], [], [])
        if request.functions:
            named += [function.name for function in request.functions]
        model = request.model or path_model
        return RequestFacts(
            model=model,
            stream=bool(request.stream) or stream,
            output_tokens_max=max(bounds, default=None),
            choices=request.n or 1,
            thinks=_thinks(request),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            tools=len(named),
            tool_names=names(named),
            server_tools=once([*server, *_searches(request, model or "")]),
            builtin_tools=once(builtin),
            service_tier=text(request.service_tier),
            input_unknown=tuple(name for name in ("preset", "models") if getattr(request, name) is not None),
            store=request.store if isinstance(request.store, bool) else None,
            user=text(request.user),
            metadata=texts(request.metadata),
        )

    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """See ``Dialect``. The note goes to the end of the last user message, or after tool results into its own."""
        edits = super().edits(body, facts, change)
        return edits if change.append_note is None else edits + _note(body, change.append_note)

    def meter(self, content_type: str = "") -> CompletionsMeter:
        """For one answer."""
        return ChatMeter()

    def _last(self, index: int) -> dict[str, object]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"}


def prompts_of(raw: msgspec.Raw) -> int:
    """How many inputs there are: a text, texts, tokens, or lists of tokens."""
    if memoryview(raw)[0] != 0x5B:
        return 1
    values = msgspec.json.decode(raw, type=list[msgspec.Raw])
    return max(1, len(values)) if values and memoryview(values[0])[0] in b'"[{' else 1


def _thinks(request: _Chat) -> bool | None:
    """See ``RequestFacts``."""
    if given(request.reasoning) or request.reasoning_effort not in (None, "none"):
        return True
    return None if request.reasoning_effort is None else False


def _searches(request: _Chat, model: str) -> Iterator[str]:
    """What makes a provider search, other than a tool."""
    if given(request.web_search_options) or any(part in model for part in _SEARCHING):
        yield "web_search"
    if given(request.search_parameters):
        yield "live_search"
    for _ in request.plugins or ():
        yield "plugin"


def _note(body: bytes, note: str) -> list[Edit]:
    messages = next((member for member in members(body) if member.key == "messages"), None)
    if messages is None or body[messages.start] != 0x5B:
        return []
    last = last_element(body, messages.start, messages.end)
    if last is None or body[last.start] != 0x7B:
        return []
    parts = {member.key: member for member in members(body, last.start)}
    role = anything(body[parts["role"].start : parts["role"].end]) if "role" in parts else None
    content = parts.get("content")
    if role == "user" and content is not None:
        if body[content.start] == 0x22:
            return [append_text(content.end, note)]
        if body[content.start] == 0x5B:
            return [append_element(body, content.start, content.end, encoded({"type": "text", "text": note}))]
    if role in ("assistant", None):
        return []
    return [append_element(body, messages.start, messages.end, encoded({"role": "user", "content": note}))]


def _usage(tokens: Tokens) -> dict[str, object]:
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "audio_tokens": tokens.audio_input},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "audio_tokens": tokens.audio_output},
    }


def _without(data: bytes, key: str) -> bytes:
    """An object without one of its members, and the comma that goes with it."""
    found = members(data)
    index = next(number for number, member in enumerate(found) if member.key == key)
    if index > 0:
        return data[: found[index - 1].end] + data[found[index].end :]
    begin = data.index(b'"')
    end = data.index(b'"', found[index].end) if len(found) > 1 else found[index].end
    return data[:begin] + data[end:]
