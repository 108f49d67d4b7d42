"""Reads answers of chat completions and of legacy completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from fiscus.contract.errors import Invalid
from fiscus.dialects.dialect import Meter
from fiscus.dialects.facts import Delta, Event, Kind, Usage
from fiscus.dialects.openai import is_done
from fiscus.dialects.usage import usage_of
from fiscus.dialects.wire import anything, encoded, provider_error, text

_PLAIN = frozenset(("role", "content"))
"""What a message has that is a text."""


class CompletionsMeter(Meter):
    """Reads an answer of legacy completions."""

    def __init__(self) -> None:
        super().__init__()
        self.created = 0
        self.kind: str | None = None
        self.usage_chunk = False
        self._streamed = False
        self._usage: Any = None
        self._seen: set[int] = set()

    def open_choices(self) -> list[int]:
        """Choices that have begun and have no reason of an end; the first one where none has begun."""
        return sorted(self._seen - self.finish_reasons.keys()) if self._seen else [0]

    def feed(self, event: Event) -> list[Delta]:
        """Read one event."""
        if is_done(event):
            self.ended = True
            return []
        self._streamed = True
        return self._read(event.data) if event.data is not None else []

    def read(self, body: bytes) -> list[Delta]:
        """Read a whole answer."""
        deltas = self._read(body)
        self.ended = self.error is None and bool(self.finish_reasons)
        return deltas

    def usage(self) -> Usage | None:
        """The last usage that was told."""
        if self._usage is None:
            return None
        try:
            usage = usage_of(self._usage, final=self.ended or self.usage_chunk or bool(self.finish_reasons))
        except Invalid:
            return None
        return msgspec.structs.replace(usage, service_tier=usage.service_tier or self.service_tier)

    def _read(self, data: bytes) -> list[Delta]:
        chunk = anything(data)
        return self._count(self._take(chunk)) if isinstance(chunk, dict) else []

    def _take(self, chunk: dict[str, Any]) -> list[Delta]:
        # The chunks of a stream say nearly all of this again and again.
        if (said := chunk.get("id")) != self.response_id:
            self.response_id = text(said) or self.response_id
        if (said := chunk.get("model")) != self.model:
            self.model = text(said) or self.model
        if (said := chunk.get("service_tier")) != self.service_tier:
            self.service_tier = text(said) or self.service_tier
        if (said := chunk.get("object")) != self.kind:
            self.kind = text(said) or self.kind
        if isinstance(chunk.get("created"), int):
            self.created = chunk["created"] or self.created
        if chunk.get("error") is not None:
            self.error = provider_error(chunk["error"])
        extra = chunk.get("x_groq")
        usage = chunk.get("usage") or (extra.get("usage") if isinstance(extra, dict) else None)
        choices = chunk.get("choices")
        if isinstance(usage, dict):
            self._usage = usage
            self.usage_chunk = choices == []
        found: list[Delta] = []
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                found += self._choice(choice)
        return found

    def _choice(self, choice: dict[str, Any]) -> list[Delta]:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        self._seen.add(index)
        reason = choice.get("finish_reason")
        if reason is not None and (reason := text(reason)):
            self.finish_reasons[index] = reason
        return [Delta(index, kind, piece) for kind, piece in self._pieces(choice) if piece]

    def _pieces(self, choice: dict[str, Any]) -> Iterable[tuple[Kind, str]]:
        return (("text", choice["text"]),) if isinstance(choice.get("text"), str) else ()


class ChatMeter(CompletionsMeter):
    """Reads an answer of chat completions."""

    def _pieces(self, choice: dict[str, Any]) -> Iterable[tuple[Kind, str]]:
        # Perplexity sends both, and in a stream the whole message so far with each delta.
        message = choice.get("delta" if self._streamed else "message") or choice.get("delta")
        if not isinstance(message, dict):
            return ()
        if message.keys() <= _PLAIN and isinstance(content := message.get("content"), str):  # as nearly all are
            return (("text", content),)
        return _pieces_of(message)


def _pieces_of(message: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    """All that a message may have."""
    yield from _content(message.get("content"))
    if isinstance(message.get("refusal"), str):
        yield "refusal", message["refusal"]
    # Some say the same under both names.
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str):
        yield "reasoning", thought
    calls = message.get("tool_calls")
    called = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions = [call.get("function") or call.get("custom") for call in called]
    for function in [*functions, message.get("function_call")]:
        if isinstance(function, dict):
            for name in ("name", "arguments", "input"):
                if isinstance(function.get(name), str):
                    yield "tool", function[name]
                elif name == "arguments" and isinstance(function.get(name), dict):
                    yield "tool", encoded(function[name]).decode()
    images = message.get("images")  # OpenRouter
    for image in images if isinstance(images, list) else ():
        place = image.get("image_url") if isinstance(image, dict) else None
        if isinstance(place, dict) and isinstance(place.get("url"), str):
            yield "image", place["url"]
    audio = message.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
        yield "audio", audio["transcript"]


def _content(content: object) -> Iterator[tuple[Kind, str]]:
    """A text, or parts of it (Mistral: with thinking)."""
    if isinstance(content, str):
        yield "text", content
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("text"), str):
            yield "text", part["text"]
        for _, piece in _content(part.get("thinking")):
            yield "reasoning", piece
