"""From what a provider or a caller says about a call to what is booked for it. Pure.

Understood are the usage of OpenAI (chat completions and responses), Anthropic and Gemini, as objects of their SDKs or
as dicts, whole answers that carry such a usage, and our own ``Tokens``, ``CallRecord`` and amounts per unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from fiscus.contract import AMOUNT_MAX, UNITS, Amounts, CallRecord, Refused, Tokens
from fiscus.contract.errors import Invalid

_USAGE_FIELDS = ("usage", "usage_metadata", "usageMetadata")


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a call has used so far.

    Attributes:
        total: cumulative amounts; only what is known.
        record: the record to be kept with them.
    """

    total: Amounts
    record: CallRecord


def reading(usage: object, *, cost_nanousd: int | None = None, record: CallRecord | None = None) -> Reading:
    """Read usage in any of the known shapes.

    Args:
        usage: see the module; None: nothing but ``record`` and ``cost_nanousd`` is known.
        cost_nanousd: what the call cost (nano-USD), if known; outranks ``record``.
        record: what else is known of the call.

    Raises:
        Invalid: the shape is not known, or a count is not an integer in 0 … ``AMOUNT_MAX``.

    >>> reading({"prompt_tokens": 10, "completion_tokens": 5}).total
    {'input_tokens': 10, 'output_tokens': 5, 'tokens': 15}
    """
    if isinstance(usage, CallRecord):
        if record is not None:
            raise _invalid("record", "the usage is a whole record already")
        usage, record = None, usage
    record = record if record is not None else CallRecord()
    total: Amounts = {}
    if _is_amounts(usage):
        total = {unit: _checked(unit, amount) for unit, amount in usage.items()}
        if record.tokens is None and "input_tokens" in total and "output_tokens" in total:
            tokens = Tokens(input=total["input_tokens"], output=total["output_tokens"])
            record = msgspec.structs.replace(record, tokens=tokens)
    elif usage is not None:
        record = msgspec.structs.replace(record, tokens=tokens_of(usage))
    if record.tokens is not None:
        total = {**_amounts_of(record.tokens), **total}
    if cost_nanousd is not None:
        record = msgspec.structs.replace(
            record, cost_nanousd=_checked("cost_nanousd", cost_nanousd), cost_source=record.cost_source or "caller"
        )
    if record.cost_nanousd is not None:
        total.setdefault("cost", record.cost_nanousd)
    if "tokens" not in total and "input_tokens" in total and "output_tokens" in total:
        total["tokens"] = total["input_tokens"] + total["output_tokens"]
    return Reading(total=total, record=record)


def completed_by_bound(known: Reading, reserved: Amounts) -> Reading:
    """Fill what was held but not read with its bound: what is not known is never taken for 0.

    A component of the tokens is at most what was read of all tokens. The record is marked as estimated (tokens) or
    unpriced (cost).

    >>> completed_by_bound(reading({"tokens": 80}), {"tokens": 100, "output_tokens": 90, "cost": 7}).total
    {'tokens': 80, 'output_tokens': 80, 'cost': 7}
    """
    total, record = dict(known.total), known.record
    for unit, bound in reserved.items():
        if unit in total or unit == "calls":
            continue
        if unit == "cost":
            record = msgspec.structs.replace(record, cost_source="unpriced")
        else:
            record = msgspec.structs.replace(record, tokens_estimated=True)
        total[unit] = min(bound, total["tokens"]) if unit != "cost" and "tokens" in total else bound
    return Reading(total=total, record=record)


def tokens_of(usage: object) -> Tokens:
    """Tokens by component from a provider's usage, or from an answer that carries one.

    Input includes cache reads and writes, output includes reasoning, also where a provider counts them apart; where its
    total is larger than the parts that it shows, the rest is output.

    Raises:
        Invalid: the shape is not known, or a count is not an integer in 0 … ``AMOUNT_MAX``.
    """
    if isinstance(usage, Tokens):
        return usage
    for name in _USAGE_FIELDS:
        inner = _field(usage, name)
        if inner is not None:
            return tokens_of(inner)
    if _field(usage, "prompt_tokens") is not None:
        return _openai_chat(usage)
    if _first(usage, "promptTokenCount", "prompt_token_count") is not None:
        return _gemini(usage)
    if _field(usage, "input_tokens") is not None and _field(usage, "output_tokens") is not None:
        apart = (_field(usage, "cache_read_input_tokens"), _field(usage, "cache_creation_input_tokens"))
        return _openai_responses(usage) if apart == (None, None) else _anthropic(usage)
    raise _invalid("usage", f"no known shape of usage: {type(usage).__name__}")


def _openai_chat(usage: object) -> Tokens:
    into, out = _field(usage, "prompt_tokens_details"), _field(usage, "completion_tokens_details")
    return _whole(
        input=_count(usage, "prompt_tokens"),
        output=_count(usage, "completion_tokens"),
        total=_count(usage, "total_tokens"),
        cache_read=_count(into, "cached_tokens"),
        cache_write_5m=_count(into, "cache_write_tokens"),
        reasoning=_count(out, "reasoning_tokens"),
        audio_input=_count(into, "audio_tokens"),
        audio_output=_count(out, "audio_tokens"),
    )


def _openai_responses(usage: object) -> Tokens:
    into, out = _field(usage, "input_tokens_details"), _field(usage, "output_tokens_details")
    return _whole(
        input=_count(usage, "input_tokens"),
        output=_count(usage, "output_tokens"),
        total=_count(usage, "total_tokens"),
        cache_read=_count(into, "cached_tokens"),
        cache_write_5m=_count(into, "cache_write_tokens"),
        reasoning=_count(out, "reasoning_tokens"),
    )


def _anthropic(usage: object) -> Tokens:
    read, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    by_life = _field(usage, "cache_creation")
    written_1h = _count(by_life, "ephemeral_1h_input_tokens")
    written = max(written, written_1h + _count(by_life, "ephemeral_5m_input_tokens"))
    return _whole(
        input=_count(usage, "input_tokens") + read + written,
        output=_count(usage, "output_tokens"),
        cache_read=read,
        cache_write_5m=written - written_1h,
        cache_write_1h=written_1h,
    )


def _gemini(usage: object) -> Tokens:
    thoughts = _count(usage, "thoughtsTokenCount", "thoughts_token_count")
    tool_results = _count(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count")
    return _whole(
        input=_count(usage, "promptTokenCount", "prompt_token_count") + tool_results,
        output=_count(usage, "candidatesTokenCount", "candidates_token_count") + thoughts,
        total=_count(usage, "totalTokenCount", "total_token_count"),
        cache_read=_count(usage, "cachedContentTokenCount", "cached_content_token_count"),
        reasoning=thoughts,
        tool_results=tool_results,
    )


def _whole(*, input: int, output: int, total: int = 0, **parts: int) -> Tokens:
    """Tokens whose output holds what the total has beyond the input, and no part of which exceeds its whole."""
    output = max(output, total - input)
    of_output = ("reasoning", "audio_output")
    kept = {name: min(count, output if name in of_output else input) for name, count in parts.items()}
    return Tokens(input=input, output=output, **kept)


def _amounts_of(tokens: Tokens) -> Amounts:
    return {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "tokens": _checked("tokens", tokens.input + tokens.output),
    }


def _is_amounts(usage: object) -> TypeGuard[Amounts]:
    return isinstance(usage, Mapping) and bool(usage) and all(key in UNITS for key in usage)


def _field(usage: object, name: str) -> Any:
    return usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)


def _first(usage: object, *names: str) -> Any:
    return next((value for name in names if (value := _field(usage, name)) is not None), None)


def _count(usage: object, *names: str) -> int:
    """A count under the first of the names that is there; 0 when there is none."""
    value = _first(usage, *names)
    return 0 if value is None else _checked(names[0], value)


def _checked(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= AMOUNT_MAX:
        raise _invalid(field, f"{field} must be an integer in 0 … {AMOUNT_MAX}, not {value!r:.50}")
    return value


def _invalid(field: str, detail: str) -> Invalid:
    return Invalid(Refused(code="invalid", detail=detail, field=field))
