"""Reads an answer of OpenAI's responses, and knows what is open in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fiscus.contract.errors import Invalid
from fiscus.core.records import Tokens
from fiscus.dialects.dialect import Meter
from fiscus.dialects.facts import Delta, Event, Kind, ProviderError, Usage
from fiscus.dialects.usage import usage_of
from fiscus.dialects.wire import anything, provider_error, text

_DELTAS: Mapping[str, Kind] = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "tool",
    "response.custom_tool_call_input.delta": "tool",
    "response.mcp_call_arguments.delta": "tool",
    "response.code_interpreter_call_code.delta": "tool",
    "response.audio.transcript.delta": "audio",
    "response.output_audio_transcript.delta": "audio",
}
_FIELDS = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}
"""Where an item carries what came in deltas; parts of messages and of reasoning apart."""

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_CALLER_ITEMS = frozenset(
    {"message", "reasoning", "function_call", "custom_tool_call", "computer_call", "local_shell_call", "compaction"}
)

_LOOKS_ON = ("open_page", "find", "find_in_page")
"""Actions of a search that look into what was found: they are items of their own, and no searches."""


class _Part:
    """A part of a message or of reasoning."""

    __slots__ = ("done", "kind", "pieces", "text_done")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.text_done = False
        self.done = False


class _Item:
    """An item of the output, as it began or, once done, as it ended."""

    __slots__ = ("done", "item", "parts", "pieces")

    def __init__(self, item: dict[str, Any]) -> None:
        self.item = item
        self.parts: dict[tuple[str, int], _Part] = {}
        self.pieces: dict[str, list[str]] = {}
        self.done = False


class ResponsesMeter(Meter):
    """Reads an answer of responses."""

    def __init__(self) -> None:
        super().__init__()
        self.sequence_number = -1
        self.response: dict[str, Any] | None = None
        self._items: dict[int, _Item] = {}
        self._usage: Any = None
        self._ran: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def feed(self, event: Event) -> list[Delta]:
        """Read one event."""
        given = anything(event.data) if event.data is not None else None
        if not isinstance(given, dict):
            return []
        name = text(given.get("type"))
        number = given.get("sequence_number")
        self.sequence_number = number if isinstance(number, int) else self.sequence_number + 1
        response = given.get("response")
        if isinstance(response, dict):
            self._response(response)
        if name == "error" or (name is None and given.get("error") is not None):
            inner = given.get("error")
            self.error = provider_error(inner if isinstance(inner, dict) else given)
        self.ended = self.ended or name in _ENDS
        index = given.get("output_index")
        if name is not None and isinstance(index, int):
            return self._count(list(self._item(name, index, given)))
        return []

    def read(self, body: bytes) -> list[Delta]:
        """Read a whole answer."""
        answer = anything(body)
        if not isinstance(answer, dict):
            return []
        self._response(answer)
        self.ended = text(answer.get("status")) in {"completed", "incomplete", "failed", "cancelled"}
        output = answer.get("output")
        items = output if isinstance(output, list) else []
        for item in items:
            if isinstance(item, dict):
                self._ran_tool(item)
        return self._count([delta for item in items if isinstance(item, dict) for delta in _whole_item(item)])

    def usage(self) -> Usage | None:
        """What the end of the response says."""
        if self._usage is None:
            return None
        try:
            usage = usage_of(self._usage, final=self.ended)
        except Invalid:
            return None
        return msgspec.structs.replace(
            usage,
            service_tier=usage.service_tier or self.service_tier,
            server_tools={**self._ran, **self._told, **usage.server_tools},
        )

    def endings(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and fields of the events that end each open item."""
        for index, item in sorted(self._items.items()):
            if item.done:
                continue
            at = {"item_id": item.item.get("id") or "", "output_index": index}
            for (place, number), part in sorted(item.parts.items()):
                yield from _part_endings(part, at, place, number)
            yield "response.output_item.done", {"output_index": index, "item": _as_far(item)}

    def incomplete(self, tokens: Tokens | None) -> dict[str, Any]:
        """The response as it ends at the bound of its output."""
        begun = self.response or {
            "id": self.response_id or "resp_ended",
            "object": "response",
            "created_at": 0,
            "model": self.model or "",
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "instructions": None,
            "metadata": {},
            "temperature": None,
            "top_p": None,
        }
        return {
            **begun,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [_as_far(item) for _, item in sorted(self._items.items())],
            "usage": self._usage if self._usage is not None else _usage(tokens),
        }

    def _response(self, response: dict[str, Any]) -> None:
        self.response = response
        self.response_id = text(response.get("id")) or self.response_id
        self.model = text(response.get("model")) or self.model
        self.service_tier = text(response.get("service_tier")) or self.service_tier
        if isinstance(response.get("usage"), dict):
            self._usage = response["usage"]
        if response.get("error") is not None:
            self.error = provider_error(response["error"]) or ProviderError(message="")
        searched = response.get("tool_usage")
        for name, used in searched.items() if isinstance(searched, dict) else ():
            number = used.get("num_requests") if isinstance(used, dict) else None
            if isinstance(number, int) and number > 0:
                self._told[name] = number
        status = text(response.get("status"))
        if status in {"completed", "incomplete", "failed", "cancelled"}:
            details = response.get("incomplete_details")
            self.finish_reasons[0] = (isinstance(details, dict) and text(details.get("reason"))) or status

    def _item(self, name: str, index: int, given: dict[str, Any]) -> Iterator[Delta]:
        whole = given.get("item")
        if name == "response.output_item.added" and isinstance(whole, dict):
            self._items[index] = _Item(whole)
            if isinstance(whole.get("name"), str):
                yield Delta(0, "tool", whole["name"])
            return
        item = self._items.get(index)
        if item is None:
            item = self._items[index] = _Item(
                {"type": "message", "role": "assistant", "id": given.get("item_id") or ""}
            )
        if name == "response.output_item.done" and isinstance(whole, dict):
            item.item, item.done = whole, True
            self._ran_tool(whole)
            if isinstance(whole.get("encrypted_content"), str):
                yield Delta(0, "opaque", whole["encrypted_content"])
            return
        delta, kind = given.get("delta"), _DELTAS.get(name)
        part = self._part(item, name, given)
        if isinstance(delta, str) and kind is not None and delta:
            if part is not None:
                part.pieces.append(delta)
            else:
                item.pieces.setdefault(_FIELDS.get(name, "text"), []).append(delta)
            yield Delta(0, kind, delta)

    def _part(self, item: _Item, name: str, given: dict[str, Any]) -> _Part | None:
        """The part that an event is of, with what the event says of it; None: of the item itself."""
        place = "summary" if "reasoning_summary" in name else "content"
        number = given.get("summary_index" if place == "summary" else "content_index")
        if not isinstance(number, int) or (name not in _DELTAS and ("part" not in name and "text" not in name)):
            return None
        part = item.parts.get((place, number))
        if part is None:
            shown = given.get("part")
            kind = shown.get("type") if isinstance(shown, dict) else _part_kind(name)
            part = item.parts[place, number] = _Part(kind if isinstance(kind, str) else "output_text")
        if name.endswith("part.done"):
            part.done = part.text_done = True
        elif name.endswith(".done"):
            part.text_done = True
        return part

    def _ran_tool(self, item: dict[str, Any]) -> None:
        """Count a call of a tool of the provider's: until it says itself how many it bills."""
        kind, action = item.get("type"), item.get("action")
        if isinstance(action, dict) and action.get("type") in _LOOKS_ON:
            return
        if isinstance(kind, str) and kind not in _CALLER_ITEMS and kind.endswith("_call") and len(kind) <= 64:
            tool = kind.removesuffix("_call")
            self._ran[tool] = self._ran.get(tool, 0) + 1


def _part_kind(name: str) -> str:
    for part, kind in (("refusal", "refusal"), ("summary", "summary_text"), ("reasoning_text", "reasoning_text")):
        if part in name:
            return kind
    return "output_text"


def _part_as_far(part: _Part) -> dict[str, Any]:
    said = "".join(part.pieces)
    if part.kind == "refusal":
        return {"type": "refusal", "refusal": said}
    if part.kind == "output_text":
        return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}
    return {"type": part.kind, "text": said}


def _part_endings(part: _Part, at: dict[str, Any], place: str, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    where = {**at, "summary_index" if place == "summary" else "content_index": number}
    said = "".join(part.pieces)
    if not part.text_done:
        if part.kind == "refusal":
            yield "response.refusal.done", {**where, "refusal": said}
        elif part.kind == "output_text":
            yield "response.output_text.done", {**where, "text": said, "logprobs": []}
        elif part.kind == "summary_text":
            yield "response.reasoning_summary_text.done", {**where, "text": said}
        elif part.kind == "reasoning_text":
            yield "response.reasoning_text.done", {**where, "text": said}
    if not part.done:
        name = "response.reasoning_summary_part.done" if place == "summary" else "response.content_part.done"
        yield name, {**where, "part": _part_as_far(part)}


def _as_far(item: _Item) -> dict[str, Any]:
    """The item as it ended, or with what it has so far."""
    if item.done:
        return item.item
    made = {**item.item, "status": "incomplete"}
    for place in ("content", "summary"):
        parts = [_part_as_far(part) for (of, _), part in sorted(item.parts.items()) if of == place]
        if parts:
            made[place] = parts
    for field, pieces in item.pieces.items():
        made[field] = "".join(pieces)
    return made


def _whole_item(item: dict[str, Any]) -> Iterator[Delta]:
    for field in ("name", "arguments", "input", "code"):
        if item.get("type") != "message" and isinstance(item.get(field), str) and item[field]:
            yield Delta(0, "tool", item[field])
    if isinstance(item.get("encrypted_content"), str):
        yield Delta(0, "opaque", item["encrypted_content"])
    kind: Kind = "reasoning" if item.get("type") == "reasoning" else "text"
    for place in ("content", "summary"):
        parts = item.get(place)
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                if isinstance(part.get("text"), str) and part["text"]:
                    yield Delta(0, kind, part["text"])
                if isinstance(part.get("refusal"), str) and part["refusal"]:
                    yield Delta(0, "refusal", part["refusal"])


def _usage(tokens: Tokens | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cache_read},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }
