"""Counting the input of a call before it is made, offline: an estimate, how far to trust it, and an upper bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fiscus.contract import Refused
from fiscus.contract.errors import Invalid
from fiscus.pricing.definitions import as_json, as_typescript
from fiscus.pricing.framing import framing_of
from fiscus.pricing.margins import Margin, Margins
from fiscus.pricing.prompt import DIALECTS, DialectName, Prompt, Unseen
from fiscus.pricing.read_anthropic import read_messages
from fiscus.pricing.read_gemini import read_contents
from fiscus.pricing.read_openai import read_chat, read_completions, read_embeddings, read_responses
from fiscus.pricing.tokenizers import Counted, Label, Tokenizer, family_of, tokenizer_for

CHARACTERS_MAX = 8_000_000
"""So much text of a request is tokenized unless said; the rest counts by its bytes, which no tokenizer exceeds."""

MODEL_LENGTH_MAX = 256

DEFINITIONS_PERMILLE = 250
"""More of the definitions of tools in the upper bound: how they are put into a prompt is not published anywhere."""

_READERS: Mapping[DialectName, Callable[[Prompt, Mapping[str, Any]], None]] = {
    "openai.chat": read_chat,
    "openai.responses": read_responses,
    "openai.completions": read_completions,
    "openai.embeddings": read_embeddings,
    "anthropic.messages": read_messages,
    "anthropic.count_tokens": read_messages,
    "gemini.generate": read_contents,
}
_NO_MARGINS = Margins()


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """What a request will probably be billed as input.

    Attributes:
        tokens: all of it.
        tool_definitions, tool_results, media: parts of ``tokens``.
        images: how many images there are.
        family: of models that share a tokenizer; key of the margin.
        label: how ``tokens`` was found.
        margin: what makes it an upper bound.
        upper_bound: not exceeded by what is billed for what is in the request.
        unseen: kinds of input that will be billed and are not in the request; bound them by other means.
    """

    tokens: int
    tool_definitions: int
    tool_results: int
    media: int
    images: int
    family: str
    label: Label
    margin: Margin
    upper_bound: int
    unseen: tuple[Unseen, ...]


def count_body(
    body: Mapping[str, Any],
    dialect: DialectName,
    *,
    model: str | None = None,
    provider: str | None = None,
    margins: Margins = _NO_MARGINS,
    characters_max: int = CHARACTERS_MAX,
) -> Count:
    """Count a decoded request body. A pure function, up to seconds for megabytes: call it off the event loop.

    Args:
        body: as decoded from JSON; anything in it may be of a wrong type.
        dialect: whose shape it has.
        model: unless the body names it.
        provider: who is called; key of the margin.
        margins: what was learned so far.
        characters_max: text beyond so many characters counts by its bytes.

    Raises:
        Invalid: the dialect is not known, or there is no model.

    >>> body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello world"}]}
    >>> counted = count_body(body, "openai.chat")
    >>> counted.tokens, counted.label
    (9, 'exact')
    """
    if dialect not in DIALECTS:
        raise _invalid("dialect", f"dialect must be one of {', '.join(DIALECTS)}")
    name = model if model is not None else body.get("model")
    if not isinstance(name, str) or not name:
        raise _invalid("model", "model must be a text that is not empty")
    name = name[:MODEL_LENGTH_MAX]
    prompt = Prompt(family=family_of(name), model=name)
    _READERS[dialect](prompt, body)
    return _counted(prompt, dialect, provider, margins, characters_max)


def count(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    system: Any = None,
    tools: Sequence[Mapping[str, Any]] = (),
    dialect: DialectName = "openai.chat",
    provider: str | None = None,
    margins: Margins = _NO_MARGINS,
    characters_max: int = CHARACTERS_MAX,
) -> Count:
    """Count messages, a system prompt and tools, each in the shape of ``dialect`` (see ``count_body``).

    >>> count("gpt-4o", [{"role": "user", "content": "hello world"}], system="Be brief.").tokens
    16
    """
    body: dict[str, Any] = {"model": model, "tools": list(tools)}
    if dialect == "gemini.generate":
        body |= {"contents": list(messages), "systemInstruction": system}
    elif dialect in ("anthropic.messages", "anthropic.count_tokens"):
        body |= {"messages": list(messages), "system": system}
    elif dialect == "openai.responses":
        body |= {"input": list(messages), "instructions": system}
    elif dialect == "openai.chat":
        first = [] if system is None else [{"role": "system", "content": system}]
        body |= {"messages": [*first, *messages]}
    else:
        raise _invalid("dialect", f"{dialect} has no messages; use count_body")
    return count_body(body, dialect, provider=provider, margins=margins, characters_max=characters_max)


def count_tokens_with_tools(request: Mapping[str, Any], *, provider: str = "anthropic") -> dict[str, int]:
    """Input tokens of a request of Anthropic's shape, with the tools told apart inside them.

    ``inputTokens`` is the whole; the other two are parts of it and are never added to it. A request that cannot be
    counted is estimated: a token for 4 characters of its text, 200 for a tool's definition, 300 for a tool's result.

    Source: requirements N6, N8, N9; where this differs from them, docs/guides/prices.md.

    >>> sorted(count_tokens_with_tools({"model": "claude-3-haiku", "messages": []}))
    ['estimatedToolResultsTokens', 'inputTokens', 'toolDefinitionsTokens']
    """
    try:
        counted = count_body(request, "anthropic.messages", provider=provider)
    except (Invalid, OSError, ValueError, ImportError):
        return _without_tokenizer(request)
    return {
        "inputTokens": counted.tokens,
        "toolDefinitionsTokens": counted.tool_definitions,
        "estimatedToolResultsTokens": counted.tool_results,
    }


TOKENS_PER_DEFINITION = 200
TOKENS_PER_RESULT = 300


def estimate_tokens(text: str) -> int:
    """A token for 4 characters, rounded up: the last resort (N7).

    >>> estimate_tokens("hello")
    2
    """
    return -(-len(text) // 4)


def total_tokens(
    *, input: int, output: int, tool_definitions: int = 0, tool_results: int = 0, input_excludes_tools: bool = False
) -> int:
    """All tokens of a call. Tools are added only for records that say that their input excludes them (N3).

    >>> total_tokens(input=1_000, output=50, tool_definitions=200, tool_results=300)
    1050
    >>> total_tokens(input=500, output=50, tool_definitions=200, tool_results=300, input_excludes_tools=True)
    1050
    """
    return input + output + (tool_definitions + tool_results if input_excludes_tools else 0)


def _without_tokenizer(request: Mapping[str, Any]) -> dict[str, int]:
    prompt = Prompt(family=family_of("unknown"), model="unknown")
    read_messages(prompt, request)
    offered = request.get("tools")
    definitions = TOKENS_PER_DEFINITION * (len(offered) if isinstance(offered, list) else 0)
    results = TOKENS_PER_RESULT * len(prompt.results)
    text = sum(estimate_tokens(text) for text in (*prompt.texts, *prompt.unknown))
    media = sum(medium.upper for medium in prompt.media)
    return {
        "inputTokens": text + media + definitions + results,
        "toolDefinitionsTokens": definitions,
        "estimatedToolResultsTokens": results,
    }


NOTHING = Counted(0, 0)


class _Room:
    """How many characters may still be tokenized; what is beyond counts by its bytes."""

    def __init__(self, tokenizer: Tokenizer, characters: int) -> None:
        self._tokenizer = tokenizer
        self._left = characters
        self.exceeded = False

    def count(self, texts: Sequence[str]) -> Counted:
        if not texts:
            return NOTHING
        beyond = 0
        within = []
        for text in texts:
            within.append(text[: self._left])
            if len(text) > self._left:
                self.exceeded = True
                beyond += _bytes_of(text[self._left :])
            self._left -= len(within[-1])
        counted = self._tokenizer.count(within)
        return Counted(counted.tokens + beyond, counted.upper + beyond)


def _counted(
    prompt: Prompt, dialect: DialectName, provider: str | None, margins: Margins, characters_max: int
) -> Count:
    family = prompt.family
    tokenizer = tokenizer_for(family)
    framing = framing_of(family.name, prompt.model)
    room = _Room(tokenizer, characters_max)
    texts = room.count(prompt.texts)
    results = room.count(prompt.results)
    defined = room.count(_definition_texts(prompt))
    definitions = defined.tokens + framing.of_tools(prompt, chat=dialect == "openai.chat")
    framed = 0 if dialect in ("openai.completions", "openai.embeddings") else framing.of_messages(prompt)
    unknown = sum(map(_bytes_of, prompt.unknown))
    media = sum([medium.tokens for medium in prompt.media])
    media_upper = sum([medium.upper for medium in prompt.media])
    label = _label(prompt, tokenizer.label, exceeded=room.exceeded)
    margin = margins.of(provider, family.name, label)
    counted = texts.tokens + results.tokens + definitions + framed
    spread = sum([part.upper - part.tokens for part in (texts, results, defined)])
    bound = counted + spread + margin.constant
    upper = max(margin.over(counted), bound) + -(-definitions * DEFINITIONS_PERMILLE // 1_000)
    return Count(
        tokens=counted + unknown + media,
        tool_definitions=definitions,
        tool_results=results.tokens,
        media=media,
        images=sum([medium.kind == "image" for medium in prompt.media]),
        family=family.name,
        label=label,
        margin=margin,
        upper_bound=upper + unknown + media_upper,
        unseen=tuple(sorted(prompt.unseen)) if prompt.unseen else (),
    )


def _label(prompt: Prompt, label: Label, *, exceeded: bool) -> Label:
    """How far the whole is to be trusted; tools and media are known from counts only."""
    if exceeded or prompt.unknown:
        return "estimated"
    tools = prompt.definitions or prompt.other_definitions or prompt.calls or prompt.results
    return "reconstructed" if label == "exact" and (tools or prompt.media) else label


def _definition_texts(prompt: Prompt) -> list[str]:
    if not prompt.definitions:
        return prompt.other_definitions
    if prompt.family.name.startswith(("openai", "gpt-oss")):
        chosen = [] if prompt.choice is None else [prompt.choice]
        return [as_typescript(prompt.definitions), *chosen, *prompt.other_definitions]
    return [*as_json(prompt.definitions), *prompt.other_definitions]


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _invalid(field: str, detail: str) -> Invalid:
    return Invalid(Refused(code="invalid", detail=detail, field=field))
