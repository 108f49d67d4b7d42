"""Anthropic's messages, and the counting of their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec

from fiscus.contract.errors import Invalid
from fiscus.core.records import Tokens
from fiscus.dialects.dialect import Dialect, Events, Meter
from fiscus.dialects.facts import Change, Delta, Event, Kind, Malformed, Problem, Refusal, RequestFacts, Usage
from fiscus.dialects.scan import Edit, append_element, append_text, last_element, members, put_members
from fiscus.dialects.stream import EventStream
from fiscus.dialects.usage import usage_of
from fiscus.dialects.wire import (
    WORDINGS,
    anything,
    bounded,
    decoder,
    encoded,
    event,
    names,
    once,
    own,
    provider_error,
    read,
    refusal_headers,
    status_of,
    text,
)

THINKING_TOKENS_LEAST = 1_024
"""Anthropic takes no smaller budget of thinking, and it must be smaller than the bound of the output."""

_BUILTIN_TOOLS = ("bash_", "computer_", "memory_", "text_editor_")
_ONCE = ("model", "stream", "max_tokens", "messages", "tools", "thinking", "budget_tokens")
_DELTAS: dict[str, tuple[str, Kind]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "reasoning"),
    "input_json_delta": ("partial_json", "tool"),
    "signature_delta": ("signature", "opaque"),
}


class _Thinking(msgspec.Struct):
    type: Any = None
    budget_tokens: int | None = None


class _Tool(msgspec.Struct):
    type: Any = None
    name: Any = None


class _User(msgspec.Struct):
    user_id: Any = None


class _Messages(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    thinking: _Thinking | None = None
    tools: list[_Tool] | None = None
    mcp_servers: list[_Tool] | None = None
    container: Any = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None
    metadata: _User | None = None


_REQUEST, _OBJECT = decoder(_Messages), decoder(dict[str, msgspec.Raw])


class AnthropicDialect(Dialect):
    """Messages."""

    name: ClassVar[str] = "anthropic.messages"

    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """See ``Dialect``."""
        request = read(_REQUEST, body, _ONCE, ("thinking",))
        if isinstance(request, Malformed):
            return request
        thinking = request.thinking
        budget = thinking.budget_tokens if thinking is not None and thinking.type == "enabled" else None
        wrong = bounded("max_tokens", request.max_tokens) or bounded("thinking.budget_tokens", budget)
        if wrong is not None:
            return wrong
        named, server, builtin = _tools(request)
        return RequestFacts(
            model=request.model or path_model,
            stream=bool(request.stream) or stream,
            output_tokens_max=request.max_tokens,
            output_tokens_least=THINKING_TOKENS_LEAST + 1 if budget is not None else 1,
            thinking_tokens_max=-1 if thinking is not None and thinking.type == "adaptive" else budget,
            thinks=thinking.type in ("enabled", "adaptive") if thinking is not None else None,
            include_usage=True,
            tools=len(named),
            tool_names=names(named),
            server_tools=once(server),
            builtin_tools=once(builtin),
            service_tier="fast" if request.speed == "fast" else text(request.service_tier),
            inference_geo=text(request.inference_geo),
            input_unknown=("container",) if request.container is not None else (),
            user=text(request.metadata.user_id) if request.metadata is not None else None,
        )

    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """See ``Dialect``. A budget of thinking keeps its share of a bound that is lowered; streams carry usage."""
        values: dict[str, bytes] = {}
        edits: list[Edit] = []
        asked = facts.output_tokens_max
        if change.output_tokens_max is not None and (asked is None or asked > change.output_tokens_max):
            values["max_tokens"] = encoded(change.output_tokens_max)
            budget = facts.thinking_tokens_max
            if budget is not None and budget > 0 and asked:
                share = encoded(max(THINKING_TOKENS_LEAST, budget * change.output_tokens_max // asked))
                thinking = next(member for member in members(body) if member.key == "thinking")
                edits += put_members(body, thinking.start, {"budget_tokens": share})
        if change.model is not None:
            values["model"] = encoded(change.model)
        if values:
            edits += put_members(body, 0, values)
        if change.append_note is not None:
            edits += _note(body, change.append_note)
        return edits

    def events(self, content_type: str) -> Events:
        """Server-Sent Events."""
        return EventStream()

    def meter(self, content_type: str = "") -> AnthropicMeter:
        """For one answer."""
        return AnthropicMeter()

    def ending(self, meter: Meter, *, include_usage: bool = False, tokens: Tokens | None = None) -> bytes:
        """Ends the block that is open, then the message as cut at ``max_tokens``."""
        assert isinstance(meter, AnthropicMeter)
        if meter.ended:
            return b""
        parts: list[bytes] = []
        if not meter.begun:
            parts.append(event({"type": "message_start", "message": meter.message()}, "message_start"))
        parts += [
            event({"type": "content_block_stop", "index": index}, "content_block_stop") for index in meter.open_blocks
        ]
        if not meter.finish_reasons:
            parts.append(
                event(
                    {
                        "type": "message_delta",
                        "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
                        "usage": meter.cumulative(tokens),
                    },
                    "message_delta",
                )
            )
        parts.append(event({"type": "message_stop"}, "message_stop"))
        return b"".join(parts)

    def refusal(self, problem: Problem) -> Refusal:
        """``{"type": "error", "error": {"type", "message"}}``."""
        return Refusal(status=status_of(problem), headers=refusal_headers(problem), body=encoded(_error(problem)))

    def error_event(self, problem: Problem, meter: Meter) -> bytes:
        """An ``error`` event, which the SDK raises."""
        return event(_error(problem), "error")


class CountTokens(AnthropicDialect):
    """Counting the tokens of a message: nothing is produced and nothing billed."""

    name: ClassVar[str] = "anthropic.count_tokens"
    metered: ClassVar[bool] = False

    def read_request(
        self, body: bytes, path_model: str | None = None, *, stream: bool = False
    ) -> RequestFacts | Malformed:
        """See ``Dialect``."""
        facts = super().read_request(body, path_model)
        if isinstance(facts, Malformed):
            return facts
        return msgspec.structs.replace(facts, stream=False, output_tokens_max=0, output_tokens_least=0)

    def edits(self, body: bytes, facts: RequestFacts, change: Change) -> list[Edit]:
        """See ``Dialect``. Only the model can be changed: the count is of what the caller sent."""
        return super().edits(body, facts, Change(model=change.model))


class AnthropicMeter(Meter):
    """Reads an answer of messages."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = False
        self.open_blocks: list[int] = []
        self._usage: dict[str, Any] = {}

    def feed(self, event: Event) -> list[Delta]:
        """Read one event. Usage is told twice, the second time cumulative: what it says anew replaces, nothing adds."""
        given = anything(event.data) if event.data is not None else None
        if not isinstance(given, dict):
            return []
        match given.get("type"):
            case "message_start" if isinstance(given.get("message"), dict):
                self.begun = True
                self._message(given["message"])
            case "content_block_start" | "content_block_delta" if isinstance(given.get("index"), int):
                return self._count(list(self._block(given)))
            case "content_block_stop" if given.get("index") in self.open_blocks:
                self.open_blocks.remove(given["index"])
            case "message_delta":
                self._delta(given)
            case "message_stop":
                self.ended = True
            case "error":
                self.error = provider_error(given.get("error"))
        return []

    def read(self, body: bytes) -> list[Delta]:
        """Read a whole answer."""
        answer = anything(body)
        if not isinstance(answer, dict):
            return []
        if answer.get("type") == "error" or answer.get("error") is not None:
            self.error = provider_error(answer.get("error"))
            return []
        self._message(answer)
        self.ended = bool(self.finish_reasons)
        content = answer.get("content")
        blocks = content if isinstance(content, list) else []
        return self._count([delta for block in blocks if isinstance(block, dict) for delta in _whole_block(block)])

    def usage(self) -> Usage | None:
        """What was told last of each component."""
        if self._usage.get("input_tokens") is None and self._usage.get("output_tokens") is None:
            return None
        told = {"input_tokens": 0, "output_tokens": 0, **{k: v for k, v in self._usage.items() if v is not None}}
        try:
            usage = usage_of(told, final=bool(self.finish_reasons))
        except Invalid:
            return None
        missing = ("input",) if self._usage.get("input_tokens") is None else ()
        return msgspec.structs.replace(usage, missing=missing)

    def cumulative(self, tokens: Tokens | None) -> dict[str, Any]:
        """The usage of a last ``message_delta``."""
        said = self._usage.get("output_tokens")
        told = said if isinstance(said, int) else 0
        return {"output_tokens": max(told, tokens.output) if tokens is not None else told}

    def message(self) -> dict[str, Any]:
        """A message that has not begun."""
        return {
            "id": self.response_id or "msg_ended",
            "type": "message",
            "role": "assistant",
            "model": self.model or "",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }

    def _message(self, message: dict[str, Any]) -> None:
        self.response_id = text(message.get("id")) or self.response_id
        self.model = text(message.get("model")) or self.model
        self._told(message.get("usage"))
        if text(message.get("stop_reason")):
            self.finish_reasons[0] = message["stop_reason"]

    def _delta(self, given: dict[str, Any]) -> None:
        delta = given.get("delta")
        if isinstance(delta, dict) and text(delta.get("stop_reason")):
            self.finish_reasons[0] = delta["stop_reason"]
        self._told(given.get("usage"))

    def _told(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._usage.update({name: value for name, value in usage.items() if value is not None})
            self.service_tier = text(usage.get("speed")) or text(usage.get("service_tier")) or self.service_tier

    def _block(self, given: dict[str, Any]) -> Iterator[Delta]:
        block, delta = given.get("content_block"), given.get("delta")
        if isinstance(block, dict):
            self.open_blocks.append(given["index"])
            yield from _whole_block(block)
        elif isinstance(delta, dict):
            field, kind = _DELTAS.get(str(delta.get("type")), ("", "text"))
            if isinstance(delta.get(field), str) and delta[field]:
                yield Delta(0, kind, delta[field])


def _whole_block(block: dict[str, Any]) -> Iterator[Delta]:
    """What the model wrote of a block; results of tools are not its output."""
    for field, kind in (("text", "text"), ("thinking", "reasoning"), ("signature", "opaque"), ("data", "opaque")):
        if isinstance(block.get(field), str) and block[field]:
            yield Delta(0, kind, block[field])  # type: ignore[arg-type] # the pairs stand above
    if isinstance(block.get("name"), str):
        yield Delta(0, "tool", block["name"])
        if block.get("input"):
            yield Delta(0, "tool", encoded(block["input"]).decode())


def _tools(request: _Messages) -> tuple[list[object], list[str], list[str]]:
    named: list[object] = []
    server: list[str] = ["mcp"] if request.mcp_servers else []
    builtin: list[str] = []
    for tool in request.tools or ():
        if tool.type is None or tool.type == "custom":
            named.append(tool.name)
        elif not isinstance(tool.type, str):
            server.append("unknown")
        elif tool.type.startswith(_BUILTIN_TOOLS):
            builtin.append(tool.type)
        else:
            server.append(tool.type[:64])
    return named, server, builtin


def _note(body: bytes, note: str) -> list[Edit]:
    messages = next((member for member in members(body) if member.key == "messages"), None)
    if messages is None or body[messages.start] != 0x5B:
        return []
    last = last_element(body, messages.start, messages.end)
    if last is None or body[last.start] != 0x7B:
        return []
    parts = {member.key: member for member in members(body, last.start)}
    content = parts.get("content")
    if content is None or "role" not in parts or anything(body[parts["role"].start : parts["role"].end]) != "user":
        return []
    if body[content.start] == 0x22:
        return [append_text(content.end, note)]
    if body[content.start] != 0x5B:
        return []
    return [append_element(body, content.start, content.end, encoded({"type": "text", "text": note}))]


def _error(problem: Problem) -> dict[str, object]:
    return {
        "type": "error",
        "error": {
            "type": WORDINGS[problem.code].anthropic,
            "message": problem.message,
            "fiscus": {**own(problem), "field": problem.field},
        },
    }
