"""What a dialect tells of a request, of an answer and of a refusal, whichever provider's wire it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from fiscus.core.records import Tokens

Kind = Literal["text", "reasoning", "tool", "refusal", "audio", "image", "opaque"]
"""What a piece of output is; ``tool``: arguments of a call; ``audio``: a transcript; ``opaque``: signatures, sound."""

Code = Literal[
    "budget_exceeded",
    "budget_busy",
    "forbidden",
    "unauthenticated",
    "unknown_model",
    "unknown_route",
    "invalid",
    "too_large",
    "unavailable",
    "upstream_error",
    "upstream_timeout",
]
"""Why the gateway itself answers, in place of the provider."""


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how much a request may cost, as far as its body says.

    Attributes:
        model: as asked; in the path for Gemini.
        stream: whether the answer comes in events.
        output_tokens_max: bound of the output of one choice as asked; None: the provider's own bound holds; 0: none.
        output_tokens_least: the smallest bound that the provider takes for this request.
        thinking_tokens_max: budget of thinking within the output, if one is asked; -1: the model decides.
        thinks: whether thinking, which may be billed unseen, is asked for, or asked to be left out; None: neither.
        choices: how many outputs are produced, and billed, of one input.
        prompts: how many inputs there are (legacy completions, embeddings).
        include_usage: whether the caller wants the chunk with the usage at the end of a stream.
        tools, tool_names: functions that the caller defines, and the names of the first 64.
        server_tools: tools that the provider runs itself, by type, each once: their results are input nobody can count.
        builtin_tools: tools that the caller runs and the provider defines (computer use, shells): their definitions
            are input that is not in the body.
        service_tier: as asked. ``inference_geo``: region that inference is to be kept to (Anthropic), as asked.
        input_unknown: fields that add input which is not in the body, such as ``previous_response_id``.
        background, store: of Responses.
        user, metadata: as the caller names them; texts only.
    """

    model: str | None = None
    stream: bool = False
    output_tokens_max: int | None = None
    output_tokens_least: int = 1
    thinking_tokens_max: int | None = None
    thinks: bool | None = None
    choices: int = 1
    prompts: int = 1
    include_usage: bool = False
    tools: int = 0
    tool_names: tuple[str, ...] = ()
    server_tools: tuple[str, ...] = ()
    builtin_tools: tuple[str, ...] = ()
    service_tier: str | None = None
    inference_geo: str | None = None
    input_unknown: tuple[str, ...] = ()
    background: bool = False
    store: bool | None = None
    user: str | None = None
    metadata: Mapping[str, str] = {}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be changed in a request.

    Attributes:
        output_tokens_max: bound of the output of one choice, ≥ ``output_tokens_least``; only ever lowers.
        force_usage: have a stream carry its usage, where that has to be asked for.
        append_note: a text at the end of the caller's last turn, so that the provider's prompt cache still hits; left
            out where the request does not end with a turn of the caller.
        model: to be asked instead; nothing where the path names it.
        output_field: which field bounds the output when the request has none (OpenAI's chat completions:
            ``max_completion_tokens``, or ``max_tokens`` for providers that know only this one).
    """

    output_tokens_max: int | None = None
    force_usage: bool = False
    append_note: str | None = None
    model: str | None = None
    output_field: str | None = None


class Malformed(msgspec.Struct, frozen=True, kw_only=True):
    """A body that is not a request of this dialect.

    Attributes:
        detail: for a person.
        field: the field that is wrong, as a path (``tools[2].name``); None: the body as a whole.
    """

    detail: str
    field: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a streamed answer.

    Attributes:
        raw: its bytes as they came, with what stands before the next one: all ``raw`` of a stream make up its bytes.
        data: what it says; None when it says nothing (comments, ends of arrays) or is larger than is kept.
        name: the ``event:`` field.
        oversized: part of an event that was too large to be read.
    """

    raw: bytes
    data: bytes | None = None
    name: str | None = None
    oversized: bool = False


class Delta(NamedTuple):
    """Output that one event added."""

    choice: int
    kind: Kind
    text: str


class Produced(msgspec.Struct, kw_only=True):
    """How much output of one kind has come so far."""

    characters: int = 0
    utf8_bytes: int = 0
    deltas: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says that a call used.

    Attributes:
        tokens: by component.
        final: whether the provider has said its last word; while a stream runs, figures can still grow.
        image_output, video_output, video_input: tokens of these kinds, parts of output and input that have rates of
            their own.
        service_tier: which one the call was really served with. ``inference_geo``: where (Anthropic).
        server_tools: how often the provider ran each of its own tools.
        cost_nanousd: what the provider says that it cost, rounded up; None when it says nothing.
        beside: what other models used within the call, by model; in none of the sums of ``tokens``.
        missing: components of ``tokens`` that the provider does not tell of; they stand at 0 and are not 0.
        notes: what does not fit together in the provider's own figures.
    """

    tokens: Tokens
    final: bool = True
    image_output: int = 0
    video_output: int = 0
    video_input: int = 0
    service_tier: str | None = None
    inference_geo: str | None = None
    server_tools: Mapping[str, int] = {}
    cost_nanousd: int | None = None
    beside: Mapping[str, Tokens] = {}
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_something(self) -> bool:
        """Whether anything was used."""
        tokens = sum(one.input + one.output for one in (self.tokens, *self.beside.values()))
        return bool(tokens or self.cost_nanousd) or any(self.server_tools.values())


class ProviderError(msgspec.Struct, frozen=True, kw_only=True):
    """An error that a provider reports, also within an answer of status 200."""

    message: str
    code: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why the gateway answers in place of the provider.

    Attributes:
        code: decides status and exception.
        message: for a person; says what to do.
        status: None: the status of ``code``.
        retry_after_s: when the same call may succeed, in seconds; None: it will not by itself.
        field: the field of the request that is wrong.
        detail: more, for programs, such as the budget that binds and when it is renewed.
    """

    code: Code
    message: str
    status: int | None = None
    retry_after_s: int | None = None
    field: str | None = None
    detail: Mapping[str, str | int | None] = {}


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in place of the provider's."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
