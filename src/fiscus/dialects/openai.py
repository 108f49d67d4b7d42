"""What OpenAI's dialects share: tools, errors, how a bound and a choice are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fiscus.dialects.dialect import Dialect, Events, Meter
from fiscus.dialects.facts import Event, Problem, Refusal
from fiscus.dialects.stream import EventStream
from fiscus.dialects.wire import WORDINGS, encoded, event, own, refusal_headers, status_of

CALLER_TOOLS = frozenset({"function", "custom"})
BUILTIN_TOOLS = frozenset({"computer_use_preview", "computer", "local_shell", "apply_patch"})
DONE = b"data: [DONE]\n\n"


class Function(msgspec.Struct):
    """A function of a tool."""

    name: Any = None


class Tool(msgspec.Struct):
    """A tool, in the spelling of chat completions (``function``) or of responses (``name``)."""

    type: Any = None
    name: Any = None
    function: Any = None
    server_label: Any = None


def tool_facts(tools: Sequence[Tool]) -> tuple[list[object], list[str], list[str]]:
    """Names of the caller's functions, tools that the provider runs, and tools that it only defines."""
    named: list[object] = []
    server: list[str] = []
    builtin: list[str] = []
    for tool in tools:
        kind = tool.type
        if kind is not None and not isinstance(kind, str):
            server.append("unknown")
        elif kind is None or kind in CALLER_TOOLS:
            function = tool.function
            named.append(function.get("name") if isinstance(function, dict) else tool.name)
        elif kind in BUILTIN_TOOLS:
            builtin.append(kind)
        else:
            server.append(kind[:64])
    return named, server, builtin


class OpenAIDialect(Dialect):
    """Streams and errors of OpenAI."""

    def events(self, content_type: str) -> Events:
        """Server-Sent Events."""
        return EventStream()

    def refusal(self, problem: Problem) -> Refusal:
        """``{"error": {"message", "type", "param", "code"}}``."""
        return Refusal(
            status=status_of(problem),
            headers=refusal_headers(problem),
            body=encoded({"error": _error(problem)}),
        )

    def error_event(self, problem: Problem, meter: Meter) -> bytes:
        """A chunk with an error, which the SDK raises."""
        return event({"error": _error(problem)})


def _error(problem: Problem) -> dict[str, object]:
    return {
        "message": problem.message,
        "type": WORDINGS[problem.code].openai,
        "param": problem.field,
        "code": "model_not_found" if problem.code == "unknown_model" else problem.code,
        "fiscus": own(problem),
    }


def is_done(given: Event) -> bool:
    """Whether this is the event that ends a stream."""
    return given.data is not None and given.data.strip() == b"[DONE]"
