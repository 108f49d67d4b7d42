"""``treasury.complete(...)``: one call of a model as its caller sees it, whichever provider's wire it takes.

What is held, asked, tried again and booked is the gateway's: one in this process, or that of a service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote, urlencode

import msgspec

from fiscus.contract import UNITS, Balance, Refused, Tokens, Unit
from fiscus.contract.errors import REFUSALS, BudgetUnavailable, FiscusError, ProviderFailed, refusal
from fiscus.dialects import DIALECTS, Meter

Family = Literal["openai", "anthropic", "gemini"]

ATTRIBUTION = ("user", "feature", "project", "team", "workflow", "task", "parent-request")
"""Keys of ``metadata`` that the gateway knows; the others stand in the record as they are."""

_DIALECTS: Mapping[Family, str] = {
    "openai": "openai.chat",
    "anthropic": "anthropic.messages",
    "gemini": "gemini.generate",
}
_CODES = {
    "unauthenticated": "forbidden",
    "unknown_model": "invalid",
    "unknown_route": "invalid",
    "too_large": "invalid",
}


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model wants to be called; ``arguments`` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, and what it cost.

    Attributes:
        text: of the first choice.
        tool_calls: of the first choice; not read from streams.
        finish_reason: as the provider words it; the bound of the output may be what was left of the budget.
        model: that answered.
        tokens: as the provider says; None: it has not said.
        cost_nanousd: as booked; None: nobody knows what it costs, or it is not booked yet.
        hold: its id.
        remaining: what is left of the tightest budget in each unit, as of half a second ago at most.
        response: the whole answer, decoded; None of a stream.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    model: str
    tokens: Tokens | None = None
    cost_nanousd: int | None = None
    hold: str
    remaining: dict[Unit, int] = {}
    response: Any = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A call as it is sent to a gateway: the address behind it, headers and body."""

    family: Family
    model: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def dialect(self) -> str:
        """Name of the wire format."""
        return _DIALECTS[self.family]


class Response(NamedTuple):
    """An answer that has begun; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Models(Protocol):
    """Where models are asked."""

    def ask(self, question: Question) -> AbstractAsyncContextManager[Response]:
        """Ask; to leave the context before the answer's end ends the call, at the provider too."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


CostOf = Callable[[str], Awaitable[int | None]]
"""What a hold's call cost, as booked (nano-USD)."""


async def complete(models: Models, asked: Question, cost_of: CostOf) -> Completion:
    """Ask, and wait for the whole answer."""
    async with models.ask(asked) as response:
        body = b"".join([piece async for piece in response.pieces])
    if response.status != 200:
        raise failure(response.status, response.headers, body)
    meter = meter_of(asked, response.headers)
    text = "".join(piece for choice, kind, piece in meter.read(body) if (choice, kind) == (0, "text"))
    if meter.error is not None:
        raise ProviderFailed(meter.error.message, status=response.status)
    return completion(asked, response.headers, meter, text, body, await cost_of(response.headers["x-fiscus-hold"]))


async def stream(models: Models, asked: Question, cost_of: CostOf) -> AsyncIterator[str | Completion]:
    """Ask, and give the text as it comes; the last item is the whole."""
    async with models.ask(asked) as response:
        if response.status != 200:
            raise failure(response.status, response.headers, b"".join([piece async for piece in response.pieces]))
        meter = meter_of(asked, response.headers)
        events = DIALECTS[asked.dialect].events(response.headers.get("content-type", ""))
        texts: list[str] = []
        async for piece in response.pieces:
            for event in events.feed(piece):
                text = "".join(said for choice, kind, said in meter.feed(event) if (choice, kind) == (0, "text"))
                if text:
                    texts.append(text)
                    yield text
        if meter.error is not None:
            raise ProviderFailed(meter.error.message, status=response.status)
    cost = await cost_of(response.headers["x-fiscus-hold"])
    yield completion(asked, response.headers, meter, "".join(texts), b"", cost)


def question(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    stream: bool = False,
    account: str | None = None,
    thread: str | None = None,
    agent: str | None = None,
    metadata: Mapping[str, str] | None = None,
    family: Family | None = None,
    **more: Any,
) -> Question:
    """What is sent; arguments as of ``Treasury.complete``.

    >>> question("claude-sonnet-4-5", [{"role": "user", "content": "Hi."}], thread="7").path
    '/anthropic/v1/messages'
    """
    given = dict(metadata or {})
    headers = {f"x-fiscus-{name}": given.pop(name) for name in ATTRIBUTION if name in given}
    named = {"charge-to": account, "thread": thread, "agent": agent}
    headers |= {f"x-fiscus-{name}": value for name, value in named.items() if value is not None}
    if given:
        headers["x-fiscus-metadata"] = urlencode(given)
    family = family if family is not None else family_of(model)
    path, body = _BODIES[family](model, messages, stream, {name: one for name, one in more.items() if one is not None})
    return Question(family=family, model=model, path=path, headers=headers, body=msgspec.json.encode(body))


def family_of(model: str) -> Family:
    """Whose wire a model is asked over unless one says it.

    >>> family_of("claude-opus-4-5"), family_of("gemini-2.5-pro"), family_of("anthropic/claude-opus-4-5")
    ('anthropic', 'gemini', 'openai')
    """
    if model.startswith("claude"):
        return "anthropic"
    return "gemini" if model.startswith("gemini") else "openai"


def _openai(
    model: str, messages: Sequence[Mapping[str, Any]], stream: bool, more: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return "/openai/v1/chat/completions", {"model": model, "messages": messages, **options, **more}


def _anthropic(
    model: str, messages: Sequence[Mapping[str, Any]], stream: bool, more: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    system = [str(one["content"]) for one in messages if one.get("role") == "system"]
    said = [one for one in messages if one.get("role") != "system"]
    options: dict[str, Any] = {"system": "\n\n".join(system)} if system else {}
    return "/anthropic/v1/messages", {
        "model": model,
        "messages": said,
        **options,
        **({"stream": True} if stream else {}),
        **more,
    }


def _gemini(
    model: str, messages: Sequence[Mapping[str, Any]], stream: bool, more: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    names = {"max_tokens": "maxOutputTokens", "temperature": "temperature"}
    config = {there: more[here] for here, there in names.items() if here in more}
    rest = {name: value for name, value in more.items() if name not in names}
    system = [{"text": str(one["content"])} for one in messages if one.get("role") == "system"]
    body: dict[str, Any] = {"contents": [_content(one) for one in messages if one.get("role") != "system"], **rest}
    if system:
        body["systemInstruction"] = {"parts": system}
    if config:
        body["generationConfig"] = {**config, **rest.get("generationConfig", {})}
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/gemini/v1beta/models/{quote(model, safe='')}:{verb}", body


def _content(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message in Gemini's shape; one that has it already stays as it is."""
    if "parts" in message:
        return message
    role = "model" if message.get("role") == "assistant" else "user"
    return {"role": role, "parts": [{"text": message["content"]}]}


_BODIES: Mapping[
    Family, Callable[[str, Sequence[Mapping[str, Any]], bool, Mapping[str, Any]], tuple[str, dict[str, Any]]]
] = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}


# -- answers ------------------------------------------------------------------------------------------------------


def completion(
    asked: Question, headers: Mapping[str, str], meter: Meter, text: str, body: bytes, cost_nanousd: int | None
) -> Completion:
    """What came.

    Args:
        headers: of the answer, in lower case.
        meter: has read it.
        text: that was in it.
        body: of a whole answer; empty: it was streamed.
    """
    usage = meter.usage()
    response = msgspec.json.decode(body) if body else None
    remaining = {unit: headers.get(f"x-fiscus-remaining-{unit.replace('_', '-')}") for unit in UNITS}
    return Completion(
        text=text,
        tool_calls=_tool_calls(asked.family, response),
        finish_reason=meter.finish_reasons.get(0),
        model=meter.model or headers.get("x-fiscus-model", asked.model),
        tokens=usage.tokens if usage is not None else None,
        cost_nanousd=cost_nanousd,
        hold=headers.get("x-fiscus-hold", ""),
        remaining={unit: int(left) for unit, left in remaining.items() if left is not None},
        response=response,
    )


def _tool_calls(family: Family, response: Any) -> tuple[ToolCall, ...]:
    """What the first choice wants to be called; what has another shape than its provider's is none."""
    found: list[ToolCall] = []
    for part in _parts(family, response):
        call = part.get({"openai": "function", "anthropic": "input", "gemini": "functionCall"}[family])
        if not isinstance(call, Mapping):
            continue
        if family == "openai":
            found.append(_tool_call(part.get("id"), call.get("name"), call.get("arguments")))
        elif family == "anthropic":
            found.append(_tool_call(part.get("id"), part.get("name"), call))
        else:
            found.append(_tool_call(call.get("id"), call.get("name"), call.get("args") or {}))
    return tuple(found)


def _parts(family: Family, response: Any) -> list[Mapping[str, Any]]:
    if family == "anthropic":
        parts = _at(response, "content")
    elif family == "gemini":
        parts = _at(response, "candidates", 0, "content", "parts")
    else:
        parts = _at(response, "choices", 0, "message", "tool_calls")
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _at(value: Any, *path: str | int) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _tool_call(id: object, name: object, arguments: object) -> ToolCall:
    written = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return ToolCall(id=str(id or ""), name=str(name or ""), arguments=written)


# -- refusals -----------------------------------------------------------------------------------------------------


def failure(status: int, headers: Mapping[str, str], body: bytes) -> FiscusError:
    """What is raised for an answer that is an error: the ledger's refusal, or the provider's error."""
    code = headers.get("x-fiscus-code")
    said = _error(body)
    message = str(said.get("message") or f"status {status}")
    wait_s = _seconds(headers.get("retry-after"))
    if code == "unavailable":
        return BudgetUnavailable(message, wait_s or 1)
    if code is None or code in ("upstream_error", "upstream_timeout"):
        return ProviderFailed(message, status=status, retry_after_s=wait_s)
    own = said.get("fiscus") or {}
    reason = own.get("reason", _CODES.get(code, code))
    return refusal(
        Refused(
            code=reason if reason in REFUSALS else "invalid",
            detail=message,
            field=own.get("field") or said.get("param"),
            binding=_binding(own),
            requested=_integer(own.get("requested")),
            retry_after_s=wait_s,
            resets_at=datetime.fromisoformat(own["resets_at"]) if own.get("resets_at") else None,
        )
    )


def _error(body: bytes) -> dict[str, Any]:
    """The error of an answer, with what is our own of it under ``fiscus`` in every dialect."""
    try:
        error = msgspec.json.decode(body)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return {"message": body[:200].decode("utf-8", "replace")}
    if not isinstance(error, dict):
        return {"message": str(error)}
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():  # Gemini's shape
        if isinstance(detail, dict) and detail.get("domain") == "fiscus":
            error["fiscus"] = detail.get("metadata")
    return error


def _binding(own: Mapping[str, Any]) -> Balance | None:
    """The window that binds, where the key may see it."""
    try:
        return msgspec.convert({**own, "match": {}}, Balance, strict=False)
    except msgspec.ValidationError:
        return None


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, int | str) and str(value).isdigit() else None


def _seconds(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


def meter_of(asked: Question, headers: Mapping[str, str]) -> Meter:
    """What reads the answer."""
    return DIALECTS[asked.dialect].meter(headers.get("content-type", ""))
