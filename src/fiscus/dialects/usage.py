"""What providers say of what a call used, in one shape. Pure.

Understood are the usage of OpenAI (chat completions, responses, embeddings) and of those who speak its dialects,
Anthropic, Gemini and Bedrock, as objects of their SDKs or as dicts, and whole answers that carry such a usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, TypeGuard

from fiscus.contract import AMOUNT_MAX, Refused, Tokens
from fiscus.contract.errors import Invalid
from fiscus.core.units import NANOUSD_PER_USD
from fiscus.dialects.facts import Usage
from fiscus.dialects.wire import text

_USAGE_FIELDS = ("usage", "usage_metadata", "usageMetadata")
_TICKS_PER_NANOUSD = 10
"""xAI counts cost in 1e-10 USD."""
_TICKS_MAX = AMOUNT_MAX * _TICKS_PER_NANOUSD


def tokens_of(usage: object) -> Tokens:
    """Tokens by component from a provider's usage, or from an answer that carries one.

    Input includes cache reads and writes, output includes reasoning, also where a provider counts them apart; where its
    total is larger than the parts that it shows, the rest is output.

    Raises:
        Invalid: the shape is not known, or a count is not an integer in 0 … ``AMOUNT_MAX``.

    >>> tokens_of({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}).output
    74
    """
    return usage_of(usage).tokens


def usage_of(usage: object, *, final: bool = True) -> Usage:
    """All that a provider's usage says.

    Args:
        usage: in any of the shapes; an answer that carries one.
        final: whether it is the provider's last word.

    Raises:
        Invalid: as ``tokens_of``.

    >>> usage_of({"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 163}}).notes
    ('cache_read 163 > 7',)
    """
    if isinstance(usage, Tokens):
        return Usage(tokens=usage, final=final)
    notes: list[str] = []
    if _is_plain(usage):
        tokens = _plain_chat(usage) or _openai_chat(usage, notes)
        return Usage(tokens=tokens, final=final, notes=tuple(notes))
    for name in _USAGE_FIELDS:
        inner = _field(usage, name)
        if inner is not None:
            return usage_of(inner, final=final)
    tokens = _tokens(usage, notes)
    return Usage(
        tokens=_with_compactions(usage, tokens),
        final=final,
        **_media(usage),
        service_tier=_text(_first(usage, "service_tier", "serviceTier", "trafficType")),
        inference_geo=_text(_field(usage, "inference_geo")),
        server_tools=_server_tools(usage),
        cost_nanousd=_cost_nanousd(usage),
        beside=_beside(usage),
        missing=_missing(usage),
        notes=tuple(notes),
    )


def counts_tokens(usage: object) -> bool:
    """Whether a usage counts any tokens: Gemini's first ones may say how they are billed, and nothing else."""
    return any(_field(usage, name) is not None for name in _COUNTS)


def _tokens(usage: object, notes: list[str]) -> Tokens:
    if _first(usage, "prompt_tokens", "completion_tokens") is not None:
        return _openai_chat(usage, notes)
    if _first(usage, *_GEMINI_COUNTS) is not None:
        return _gemini(usage, notes)
    if _field(usage, "input_tokens") is not None and _field(usage, "output_tokens") is not None:
        apart = (_field(usage, "cache_read_input_tokens"), _field(usage, "cache_creation_input_tokens"))
        return _openai_responses(usage, notes) if apart == (None, None) else _anthropic(usage, notes)
    if _field(usage, "inputTokens") is not None and _field(usage, "outputTokens") is not None:
        return _bedrock(usage, notes)
    if _field(usage, "total_tokens") is not None:
        return Tokens(input=_count(usage, "total_tokens"))
    raise _invalid("usage", f"no known shape of usage: {type(usage).__name__}")


_GEMINI_COUNTS = (
    "promptTokenCount",
    "prompt_token_count",
    "candidatesTokenCount",
    "candidates_token_count",
)
_COUNTS = (*_GEMINI_COUNTS, "prompt_tokens", "completion_tokens", "input_tokens", "inputTokens", "total_tokens")


_PLAIN_DETAILS = frozenset(("prompt_tokens_details", "completion_tokens_details"))
_PLAIN = _PLAIN_DETAILS | {"prompt_tokens", "completion_tokens", "total_tokens"}
_PLAIN_PARTS = frozenset(
    (
        "cached_tokens",
        "audio_tokens",
        "reasoning_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    )
)


_NOTHING: dict[str, Any] = {}
_INTO, _OUT = ("cached_tokens", "audio_tokens"), ("reasoning_tokens", "audio_tokens")


def _is_plain(usage: object) -> TypeGuard[dict[str, Any]]:
    """Whether a usage is of a chat completion and says nothing but tokens, as most do: nothing else is looked for."""
    if type(usage) is not dict or not usage.keys() <= _PLAIN:
        return False
    if usage.get("prompt_tokens") is None and usage.get("completion_tokens") is None:
        return False
    for name in _PLAIN_DETAILS & usage.keys():
        details = usage[name]
        if details is not None and not (type(details) is dict and details.keys() <= _PLAIN_PARTS):
            return False
    return True


def _plain_chat(usage: dict[str, Any]) -> Tokens | None:
    """Tokens of a plain usage whose figures fit together; None: it has to be looked at closely."""
    into = usage.get("prompt_tokens_details") or _NOTHING
    out = usage.get("completion_tokens_details") or _NOTHING
    counts: list[Any] = [
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        *(0 if count is None else count for count in (usage.get("total_tokens"), *map(into.get, _INTO))),
        *(0 if count is None else count for count in map(out.get, _OUT)),
    ]
    for count in counts:
        if type(count) is not int or not 0 <= count <= AMOUNT_MAX:
            return None
    input, output, total, read, heard, reasoning, spoken = counts
    if total > input + output or read > input or heard > input or reasoning > output or spoken > output:
        return None
    return Tokens(
        input=input, output=output, cache_read=read, reasoning=reasoning, audio_input=heard, audio_output=spoken
    )


def _openai_chat(usage: object, notes: list[str]) -> Tokens:
    into = _first(usage, "prompt_tokens_details", "prompt_token_details")
    out = _first(usage, "completion_tokens_details", "completion_token_details")
    read = _first_of((into, "cached_tokens"), (usage, "prompt_cache_hit_tokens"), (usage, "num_cached_tokens"))
    output, total = _count(usage, "completion_tokens"), _count(usage, "total_tokens")
    said = _field(usage, "prompt_tokens")
    return _whole(
        notes,
        input=_checked("prompt_tokens", said) if said is not None else max(0, total - output),
        output=output,
        total=total,
        cache_read=read if read is not None else _count(usage, "cached_tokens"),
        **_cache_writes(into),
        reasoning=_count(out, "reasoning_tokens") or _count(usage, "reasoning_tokens"),
        audio_input=_count(into, "audio_tokens"),
        audio_output=_count(out, "audio_tokens"),
        image_input=_count(into, "image_tokens"),
    )


def _openai_responses(usage: object, notes: list[str]) -> Tokens:
    into, out = _field(usage, "input_tokens_details"), _field(usage, "output_tokens_details")
    return _whole(
        notes,
        input=_count(usage, "input_tokens"),
        output=_count(usage, "output_tokens"),
        total=_count(usage, "total_tokens"),
        cache_read=_count(into, "cached_tokens"),
        **_cache_writes(into),
        reasoning=_count(out, "reasoning_tokens"),
        audio_input=_count(into, "audio_tokens"),
        audio_output=_count(out, "audio_tokens"),
        image_input=_count(into, "image_tokens"),
    )


def _cache_writes(into: object) -> dict[str, int]:
    """OpenAI's two lives of a cache write (30 minutes, 12 hours) take the places of the shorter and the longer one."""
    long = _count(_field(into, "cache_write_tokens_details"), "ttl_12h_tokens")
    written = max(_count(into, "cache_write_tokens"), long)
    return {"cache_write_5m": written - long, "cache_write_1h": long}


def _anthropic(usage: object, notes: list[str]) -> Tokens:
    read, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    by_life = _field(usage, "cache_creation")
    written_1h = _count(by_life, "ephemeral_1h_input_tokens")
    written = max(written, written_1h + _count(by_life, "ephemeral_5m_input_tokens"))
    return _whole(
        notes,
        input=_count(usage, "input_tokens") + read + written,
        output=_count(usage, "output_tokens"),
        cache_read=read,
        cache_write_5m=written - written_1h,
        cache_write_1h=written_1h,
        reasoning=_count(_field(usage, "output_tokens_details"), "thinking_tokens"),
    )


def _gemini(usage: object, notes: list[str]) -> Tokens:
    thoughts = _count(usage, "thoughtsTokenCount", "thoughts_token_count")
    tool_results = _count(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count")
    prompt = _first(usage, "promptTokenCount", "prompt_token_count")
    output = _count(usage, "candidatesTokenCount", "candidates_token_count") + thoughts
    total = _count(usage, "totalTokenCount", "total_token_count")
    into = _first(usage, "promptTokensDetails", "prompt_tokens_details")
    out = _first(usage, "candidatesTokensDetails", "candidates_tokens_details")
    said = _checked("promptTokenCount", prompt) + tool_results if prompt is not None else max(0, total - output)
    return _whole(
        notes,
        input=said,
        output=output,
        total=total,
        cache_read=_count(usage, "cachedContentTokenCount", "cached_content_token_count"),
        reasoning=thoughts,
        tool_results=tool_results,
        audio_input=_of_modality(into, "AUDIO"),
        image_input=_of_modality(into, "IMAGE"),
        audio_output=_of_modality(out, "AUDIO"),
    )


MODALITIES = {1: "TEXT", 2: "IMAGE", 3: "VIDEO", 4: "AUDIO", 5: "DOCUMENT"}
"""Google's ``Modality``, by number."""


def _media(usage: object) -> dict[str, int]:
    """Images and film in the output, and film in the input, which are billed at rates of their own."""
    into = _first(usage, "promptTokensDetails", "prompt_tokens_details")
    out = _first(usage, "candidatesTokensDetails", "candidates_tokens_details")
    told = _first(usage, "output_tokens_details", "completion_tokens_details")
    return {
        "image_output": _of_modality(out, "IMAGE") or _count(told, "image_tokens"),
        "video_output": _of_modality(out, "VIDEO"),
        "video_input": _of_modality(into, "VIDEO"),
    }


def _of_modality(details: object, modality: str) -> int:
    """Tokens of one modality; the SDK's enumeration is a string, too, and some clients of Vertex ask for numbers."""
    if not isinstance(details, list):
        return 0
    return sum(_count(part, "tokenCount", "token_count") for part in details if _modality(part) == modality)


def _modality(part: object) -> str:
    told = getattr(_field(part, "modality"), "value", _field(part, "modality"))
    return MODALITIES.get(told, "") if type(told) is int else str(told).upper()


def _bedrock(usage: object, notes: list[str]) -> Tokens:
    read, written = _count(usage, "cacheReadInputTokens"), _count(usage, "cacheWriteInputTokens")
    input, output, total = (
        _count(usage, "inputTokens"),
        _count(usage, "outputTokens"),
        _count(usage, "totalTokens"),
    )
    # Where the total says so, the cache's tokens are inside the input.
    inside = total == input + output
    return _whole(
        notes,
        input=input if inside else input + read + written,
        output=output,
        total=total,
        cache_read=read,
        cache_write_5m=written,
    )


def _whole(notes: list[str], *, input: int, output: int, total: int = 0, **parts: int) -> Tokens:
    """Tokens whose output holds what the total has beyond the input, and no part of which exceeds its whole."""
    if output < total - input:
        notes.append(f"total {total} > {input} + {output}")
        output = total - input
    of_output = ("reasoning", "audio_output")
    for name, count in parts.items():
        whole = output if name in of_output else input
        if count > whole:
            notes.append(f"{name} {count} > {whole}")
            parts[name] = whole
    written = parts.get("cache_write_5m", 0) + parts.get("cache_write_1h", 0)
    if parts.get("cache_read", 0) + written > input:
        notes.append(f"cache_read {parts['cache_read']} + cache_write {written} > {input}")
        # Writes cost more: what is told twice is one.
        parts["cache_write_5m"] = min(parts.get("cache_write_5m", 0), input - parts.get("cache_write_1h", 0))
        parts["cache_read"] = input - parts["cache_write_5m"] - parts.get("cache_write_1h", 0)
    return Tokens(input=input, output=output, **parts)


def _beside(usage: object) -> dict[str, Tokens]:
    """What other models used within an Anthropic call (advisors, fallbacks): it is in none of the sums."""
    found: dict[str, Tokens] = {}
    for part in _iterations(usage):
        model = _text(_field(part, "model"))
        if model is not None and _field(part, "type") != "message":
            found[model] = _sum(found.get(model, Tokens()), _anthropic(part, []))
    return found


def _with_compactions(usage: object, tokens: Tokens) -> Tokens:
    """Tokens with those of compactions, which Anthropic leaves out of its sums."""
    for part in _iterations(usage):
        if _field(part, "type") == "compaction" and _field(part, "model") is None:
            tokens = _sum(tokens, _anthropic(part, []))
    return tokens


def _iterations(usage: object) -> list[Any]:
    parts = _field(usage, "iterations")
    return parts if isinstance(parts, list) else []


def _sum(left: Tokens, right: Tokens) -> Tokens:
    return Tokens(**{name: getattr(left, name) + getattr(right, name) for name in Tokens.__struct_fields__})


def _missing(usage: object) -> tuple[str, ...]:
    """Components that the provider does not tell of, and that nothing else it says determines."""
    if _first(usage, *_GEMINI_COUNTS) is None:
        return ()
    told = (_first(usage, "promptTokenCount", "prompt_token_count", "totalTokenCount", "total_token_count")) is not None
    return () if told else ("input",)


def _server_tools(usage: object) -> dict[str, int]:
    counts = _first(usage, "server_tool_use", "server_tool_use_details", "server_side_tool_usage_details")
    if not isinstance(counts, Mapping):
        counts = {name: getattr(counts, name) for name in _SERVER_TOOLS if hasattr(counts, name)}
    ran = {
        name.removesuffix("_requests").removesuffix("_calls"): count
        for name, count in counts.items()
        if name != "tool_calls_requested" and _is_count(count) and count > 0
    }
    # OpenRouter's sum of all that it ran.
    if len(ran) > 1:
        ran.pop("tool_calls_executed", None)
    return ran


_SERVER_TOOLS = ("web_search_requests", "web_fetch_requests")


def _cost_nanousd(usage: object) -> int | None:
    """What the provider says that the call cost: OpenRouter (``cost``), Perplexity (in parts), xAI (ticks)."""
    ticks = _decimal(_field(usage, "cost_in_usd_ticks"))
    if ticks is not None:
        return _rounded_up(ticks / _TICKS_PER_NANOUSD)
    cost = _field(usage, "cost")
    if isinstance(cost, Mapping) or hasattr(cost, "total_cost"):
        if _field(cost, "currency") not in (None, "USD"):
            return None
        cost = _field(cost, "total_cost")
    usd = _decimal(cost)
    if usd is None:
        return None
    if _field(usage, "is_byok") is True:
        # The caller's own key at the upstream: what that costs comes on top of the fee.
        upstream = _decimal(_field(_field(usage, "cost_details"), "upstream_inference_cost"))
        if upstream is None:
            return None
        usd += upstream
    return _rounded_up(usd * NANOUSD_PER_USD)


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    except InvalidOperation:
        return None
    return exact if exact.is_finite() and 0 <= exact <= _TICKS_MAX else None


def _rounded_up(nanousd: Decimal) -> int | None:
    if nanousd > AMOUNT_MAX:
        return None
    return int(nanousd.to_integral_value(rounding=ROUND_CEILING))


def _field(usage: object, name: str) -> Any:
    if type(usage) is dict:  # as most are; the general question costs ten times as much
        return usage.get(name)
    if usage is None:
        return None
    return usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)


def _first(usage: object, *names: str) -> Any:
    for name in names:
        value = _field(usage, name)
        if value is not None:
            return value
    return None


def _first_of(*places: tuple[object, str]) -> int | None:
    return next((_checked(name, value) for of, name in places if (value := _field(of, name)) is not None), None)


def _text(value: object) -> str | None:
    return text(getattr(value, "value", value))


def _count(usage: object, *names: str) -> int:
    """A count under the first of the names that is there; 0 when there is none."""
    if usage is None:
        return 0
    value = _first(usage, *names)
    return 0 if value is None else _checked(names[0], value)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= AMOUNT_MAX


def _checked(field: str, value: Any) -> int:
    if not _is_count(value):
        raise _invalid(field, f"{field} must be an integer in 0 … {AMOUNT_MAX}, not {value!r:.50}")
    return value


def _invalid(field: str, detail: str) -> Invalid:
    return Invalid(Refused(code="invalid", detail=detail, field=field))
