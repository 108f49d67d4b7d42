"""Gemini's generateContent and streamGenerateContent; the stream comes as events, or as an array that grows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec

from fiscus.contract.errors import Invalid
from fiscus.core.records import Tokens
from fiscus.dialects.dialect import Dialect, Events, Meter
from fiscus.dialects.facts import Change, Delta, Event, Kind, Malformed, Problem, Refusal, RequestFacts, Usage
from fiscus.dialects.scan import Edit, Member, append_element, last_element, members, put_members
from fiscus.dialects.stream import ArrayStream, EventStream
from fiscus.dialects.usage import counts_tokens, usage_of
from fiscus.dialects.wire import (
    CHOICES_MAX,
    NULL,
    WORDINGS,
    anything,
    bounded,
    decoder,
    encoded,
    given,
    names,
    once,
    own,
    provider_error,
    read,
    refusal_headers,
    status_of,
    text,
    texts,
)

_CONFIGS = ("generationConfig", "generation_config")
_BOUNDS = ("maxOutputTokens", "max_output_tokens")
_SPELLINGS = (
    ("generationConfig", "generation_config"),
    ("maxOutputTokens", "max_output_tokens"),
    ("candidateCount", "candidate_count"),
    ("thinkingConfig", "thinking_config"),
    ("thinkingBudget", "thinking_budget"),
)
_ONCE = ("contents", "candidateCount", "candidate_count", *_BOUNDS)
_FUNCTIONS = ("functionDeclarations", "function_declarations")
_BUILTIN_TOOLS = ("computerUse", "computer_use")
_BY_PROMPT = re.compile(r"(?:^|/)gemini-[12]\b")
"""Models whose grounded answers are billed once, however many searches they took."""

_QUERIES = ("webSearchQueries", "imageSearchQueries")
_FOUND = ("web", "maps", "image")
TRAFFIC = {1: "ON_DEMAND", 2: "PROVISIONED_THROUGHPUT"}
"""Google's ``TrafficType``, by number."""

REASON_MAX = 999
"""Largest number that is read as a reason of an end."""


class _ThinkingConfig(msgspec.Struct):
    thinkingBudget: int | None = None
    thinking_budget: int | None = None
    thinkingLevel: msgspec.Raw = NULL
    thinking_level: msgspec.Raw = NULL


class _Config(msgspec.Struct):
    """Each level may be spelt in either way."""

    maxOutputTokens: int | None = None
    max_output_tokens: int | None = None
    candidateCount: int | None = None
    candidate_count: int | None = None
    thinkingConfig: _ThinkingConfig | None = None
    thinking_config: _ThinkingConfig | None = None


class _Function(msgspec.Struct):
    name: Any = None


class _Request(msgspec.Struct):
    generationConfig: _Config | None = None
    generation_config: _Config | None = None
    tools: list[dict[str, msgspec.Raw]] | None = None
    cachedContent: Any = None
    cached_content: Any = None
    labels: msgspec.Raw = NULL
    serviceTier: Any = None
    service_tier: Any = None


_REQUEST, _FUNCTION_LIST = decoder(_Request), decoder(list[_Function])


class Gemini(Dialect):
    """``generateContent`` and ``streamGenerateContent``: the path says which, and the model."""

    name: ClassVar[str] = "gemini.generate"

    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """See ``Dialect``. Thoughts count towards the bound of the output."""
        request = read(_REQUEST, body, _ONCE, _CONFIGS)
        if isinstance(request, Malformed):
            return request
        config = request.generationConfig or request.generation_config or _Config()
        thinking_config = config.thinkingConfig or config.thinking_config or _ThinkingConfig()
        for one, other in _SPELLINGS:
            for of in (request, config, thinking_config):
                if getattr(of, one, None) is not None and getattr(of, other, None) is not None:
                    return Malformed(detail=f"stands twice, also as {one}", field=other)
        bound = config.max_output_tokens if config.maxOutputTokens is None else config.maxOutputTokens
        count = config.candidate_count if config.candidateCount is None else config.candidateCount
        thinking = thinking_config.thinkingBudget
        thinking = thinking_config.thinking_budget if thinking is None else thinking
        wrong = (
            bounded("generationConfig.maxOutputTokens", bound, 1)
            or bounded("generationConfig.candidateCount", count, 1, CHOICES_MAX)
            or bounded("generationConfig.thinkingConfig.thinkingBudget", thinking, -1)
        )
        if wrong is not None:
            return wrong
        named, server, builtin = _tools(request.tools or [])
        cached = request.cachedContent if request.cachedContent is not None else request.cached_content
        return RequestFacts(
            model=path_model,
            stream=stream,
            output_tokens_max=bound,
            thinking_tokens_max=thinking,
            thinks=_thinks(thinking, thinking_config),
            choices=count or 1,
            include_usage=True,
            tools=len(named),
            tool_names=names(named),
            server_tools=once(server),
            builtin_tools=once(builtin),
            service_tier=text(request.serviceTier) or text(request.service_tier),
            input_unknown=("cachedContent",) if cached is not None else (),
            metadata=texts(request.labels),
        )

    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """See ``Dialect``. The path names the model, and streams carry usage."""
        edits: list[Edit] = []
        asked = facts.output_tokens_max
        if change.output_tokens_max is not None and (asked is None or asked > change.output_tokens_max):
            edits += _bound(body, encoded(change.output_tokens_max))
        if change.append_note is not None:
            edits += _note(body, change.append_note)
        return edits

    def events(self, content_type: str) -> Events:
        """Server-Sent Events (``alt=sse``), or the objects of an array that grows."""
        return EventStream() if _is_sse(content_type) else ArrayStream()

    def meter(self, content_type: str = "text/event-stream") -> GeminiMeter:
        """For one answer."""
        return GeminiMeter(array=not _is_sse(content_type))

    def ending(self, meter: Meter, *, include_usage: bool = False, tokens: Tokens | None = None) -> bytes:
        """A chunk that ends each open candidate at ``MAX_TOKENS``; the bracket that ends the array."""
        assert isinstance(meter, GeminiMeter)
        if meter.ended and not meter.array:
            return b""
        chunk = meter.last(tokens)
        if not meter.array:
            return b"data: %s\r\n\r\n" % encoded(chunk)
        if meter.closed:
            return b""
        piece = b"" if meter.ended else encoded(chunk)
        return _array_piece(meter, piece) + b"]"

    def refusal(self, problem: Problem) -> Refusal:
        """``{"error": {"code", "message", "status", "details"}}``."""
        return Refusal(status=status_of(problem), headers=refusal_headers(problem), body=encoded(_error(problem)))

    def error_event(self, problem: Problem, meter: Meter) -> bytes:
        """A chunk that is an error, which the SDK raises."""
        assert isinstance(meter, GeminiMeter)
        if not meter.array:
            return b"data: %s\r\n\r\n" % encoded(_error(problem))
        return _array_piece(meter, encoded(_error(problem))) + b"]"


class GeminiMeter(Meter):
    """Reads an answer of Gemini."""

    def __init__(self, *, array: bool = False) -> None:
        super().__init__()
        self.array = array
        self.begun = False
        self.closed = False
        self._seen: set[int] = set()
        self._usage: dict[str, Any] | None = None
        self._total = -1
        self._queries: set[str] = set()
        self._is_grounded = False

    def feed(self, event: Event) -> list[Delta]:
        """Read one chunk."""
        if self.array:
            stripped = event.raw.strip()
            self.begun = self.begun or stripped.startswith(b"[")
            self.closed = self.closed or (event.data is None and stripped.endswith(b"]"))
        return self._read(event.data) if event.data is not None else []

    def read(self, body: bytes) -> list[Delta]:
        """Read a whole answer; one that should have been a stream may be an array of its chunks."""
        answer = anything(body)
        chunks = answer if isinstance(answer, list) else [answer]
        return [delta for chunk in chunks if isinstance(chunk, dict) for delta in self._chunk(chunk)]

    def usage(self) -> Usage | None:
        """The largest of the cumulative usages, the last of equal ones: a chunk can tell less than the one before."""
        if self._usage is None:
            return None
        try:
            usage = usage_of(self._usage, final=self.ended)
        except Invalid:
            return None
        searches = self._searches()
        return msgspec.structs.replace(usage, server_tools={"google_search": searches}) if searches else usage

    def last(self, tokens: Tokens | None) -> dict[str, Any]:
        """The chunk that ends what is open."""
        still = sorted(self._seen - self.finish_reasons.keys()) if self._seen else [0]
        chunk: dict[str, Any] = {
            "candidates": [
                {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": index}
                for index in still
            ]
        }
        usage = _usage(tokens) if tokens is not None else self._usage
        if usage is not None:
            chunk["usageMetadata"] = usage
        if self.model is not None:
            chunk["modelVersion"] = self.model
        if self.response_id is not None:
            chunk["responseId"] = self.response_id
        return chunk

    def _read(self, data: bytes) -> list[Delta]:
        chunk = anything(data)
        return self._chunk(chunk) if isinstance(chunk, dict) else []

    def _chunk(self, chunk: dict[str, Any]) -> list[Delta]:
        self.response_id = text(chunk.get("responseId")) or self.response_id
        self.model = text(chunk.get("modelVersion")) or self.model
        if chunk.get("error") is not None:
            self.error = provider_error(chunk["error"])
        usage = chunk.get("usageMetadata")
        if isinstance(usage, dict):
            self._told(usage)
        candidates = chunk.get("candidates")
        deltas: list[Delta] = []
        for candidate in candidates if isinstance(candidates, list) else []:
            if isinstance(candidate, dict):
                deltas += self._candidate(candidate)
        feedback = chunk.get("promptFeedback")
        if isinstance(feedback, dict) and (reason := _reason(feedback.get("blockReason"))) and not self._seen:
            self.finish_reasons[0] = reason
        self.ended = bool(self.finish_reasons) and not self._seen - self.finish_reasons.keys()
        return self._count(deltas)

    def _told(self, usage: dict[str, Any]) -> None:
        traffic = usage.get("trafficType")
        traffic = TRAFFIC.get(traffic) if type(traffic) is int else text(traffic)
        self.service_tier = text(usage.get("serviceTier")) or traffic or self.service_tier
        if not counts_tokens(usage):
            return
        try:
            tokens = usage_of(usage).tokens
        except Invalid:
            return
        if tokens.input + tokens.output >= self._total:
            self._usage, self._total = usage, tokens.input + tokens.output

    def _searches(self) -> int:
        """How many searches are billed: each one of newer models, of older ones one for all of an answer."""
        if self._is_grounded and _BY_PROMPT.search(self.model or ""):
            return 1
        return max(len(self._queries), self._is_grounded)

    def _grounded(self, metadata: object) -> None:
        """What an answer is based on; a stream says it in one of its chunks, or in several."""
        if not isinstance(metadata, dict):
            return
        for name in _QUERIES:
            queries = metadata.get(name)
            for query in queries if isinstance(queries, list) else ():
                if isinstance(query, str) and query:
                    self._queries.add(query)
        chunks = metadata.get("groundingChunks")
        found = [chunk for chunk in chunks if isinstance(chunk, dict)] if isinstance(chunks, list) else []
        has_found = any(name in chunk for chunk in found for name in _FOUND)
        self._is_grounded = self._is_grounded or bool(self._queries) or has_found

    def _candidate(self, candidate: dict[str, Any]) -> Iterator[Delta]:
        index = candidate.get("index")
        index = index if isinstance(index, int) else 0
        self._seen.add(index)
        if reason := _reason(candidate.get("finishReason")):
            self.finish_reasons[index] = reason
        self._grounded(candidate.get("groundingMetadata"))
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                for kind, piece in _pieces(part):
                    if piece:
                        yield Delta(index, kind, piece)


def _thinks(budget: int | None, config: _ThinkingConfig) -> bool | None:
    """See ``RequestFacts``: only a budget of 0 leaves thinking out."""
    is_asked = bool(budget) or given(config.thinkingLevel) or given(config.thinking_level)
    return True if is_asked else None if budget is None else False


def _pieces(part: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    if isinstance(part.get("text"), str):
        yield ("reasoning" if part.get("thought") is True else "text"), part["text"]
    if isinstance(part.get("functionCall"), dict):
        yield "tool", encoded(part["functionCall"]).decode()
    code = part.get("executableCode")
    if isinstance(code, dict) and isinstance(code.get("code"), str):
        yield "tool", code["code"]
    if isinstance(part.get("thoughtSignature"), str):
        yield "opaque", part["thoughtSignature"]
    media = part.get("inlineData")
    if isinstance(media, dict) and isinstance(media.get("data"), str):
        is_image = str(media.get("mimeType")).startswith("image/")
        yield ("image" if is_image else "opaque"), media["data"]


def _tools(tools: list[dict[str, msgspec.Raw]]) -> tuple[list[object], list[str], list[str]]:
    named: list[object] = []
    server: list[str] = []
    builtin: list[str] = []
    for tool in tools:
        for kind, value in tool.items():
            if kind in _FUNCTIONS:
                try:
                    named += [function.name for function in _FUNCTION_LIST.decode(value)]
                except msgspec.DecodeError:
                    named.append(None)
            elif kind in _BUILTIN_TOOLS:
                builtin.append(kind)
            else:
                server.append(kind[:64])
    return named, server, builtin


def _bound(body: bytes, value: bytes) -> list[Edit]:
    config = next((member for member in members(body) if member.key in _CONFIGS), None)
    if config is None:
        return put_members(body, 0, {"generationConfig": b'{"maxOutputTokens":%s}' % value})
    if body[config.start] != 0x7B:
        return put_members(body, 0, {config.key: b'{"maxOutputTokens":%s}' % value})
    present = {member.key for member in members(body, config.start)}
    name = next((name for name in _BOUNDS if name in present), _BOUNDS[_CONFIGS.index(config.key)])
    return put_members(body, config.start, {name: value})


def _note(body: bytes, note: str) -> list[Edit]:
    contents = next((member for member in members(body) if member.key == "contents"), None)
    if contents is None or body[contents.start] != 0x5B:
        return []
    last = last_element(body, contents.start, contents.end)
    if last is None or body[last.start] != 0x7B:
        return []
    inside: dict[str, Member] = {member.key: member for member in members(body, last.start)}
    role = anything(body[inside["role"].start : inside["role"].end]) if "role" in inside else "user"
    part = {"text": note}
    if role in ("function", "tool"):
        turn = encoded({"role": "user", "parts": [part]})
        return [append_element(body, contents.start, contents.end, turn)]
    parts = inside.get("parts")
    if role != "user" or parts is None or body[parts.start] != 0x5B:
        return []
    return [append_element(body, parts.start, parts.end, encoded(part))]


def _array_piece(meter: GeminiMeter, piece: bytes) -> bytes:
    if not meter.begun:
        return b"[" + piece
    return b",\r\n" + piece if piece else b""


def _is_sse(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in ("", "text/event-stream")


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "promptTokenCount": tokens.input - tokens.tool_results,
        "toolUsePromptTokenCount": tokens.tool_results,
        "cachedContentTokenCount": tokens.cache_read,
        "candidatesTokenCount": tokens.output - tokens.reasoning,
        "thoughtsTokenCount": tokens.reasoning,
        "totalTokenCount": tokens.input + tokens.output,
    }


def _error(problem: Problem) -> dict[str, object]:
    return {
        "error": {
            "code": status_of(problem),
            "message": problem.message,
            "status": WORDINGS[problem.code].gemini,
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": problem.code.upper(),
                    "domain": "fiscus",
                    "metadata": {name: str(value) for name, value in own(problem).items() if value is not None},
                }
            ],
        }
    }


def _reason(told: object) -> str | None:
    """Why an answer ended, or there is none; some clients of Vertex ask for enumerations as numbers."""
    return str(told) if type(told) is int and 0 < told <= REASON_MAX else text(told)
