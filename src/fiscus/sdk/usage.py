"""From what a provider or a caller says about a call to what is booked for it. Pure.

Understood are the usages of providers (``fiscus.dialects.usage``), and our own ``Tokens``, ``CallRecord`` and amounts
per unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from fiscus.contract import AMOUNT_MAX, UNITS, Amounts, CallRecord, Refused, Tokens
from fiscus.contract.errors import Invalid
from fiscus.dialects.usage import usage_of

BESIDE_TOKENS = ("server_tools", "image_output", "video_output", "video_input", "beside", "missing")
"""Fields of a usage that make its cost more than what its tokens cost."""


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
        record = _told(usage, record)
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
            record = msgspec.structs.replace(record, cost_source=record.cost_source or "unpriced")
        else:
            record = msgspec.structs.replace(record, tokens_estimated=True)
        total[unit] = min(bound, total["tokens"]) if unit != "cost" and "tokens" in total else bound
    return Reading(total=total, record=record)


def _told(usage: object, record: CallRecord) -> CallRecord:
    """The record with what a usage says of tokens, tier and cost.

    What is billed beside the tokens that are told, only the provider can price: ``cost_source`` says so.
    """
    said = usage_of(usage)
    source, cost = record.cost_source, record.cost_nanousd
    if cost is None and said.cost_nanousd is not None:
        source, cost = "provider", said.cost_nanousd
    elif cost is None and any(getattr(said, field) for field in BESIDE_TOKENS):
        source = source or "provider"
    tier = record.service_tier or said.service_tier
    return msgspec.structs.replace(record, tokens=said.tokens, service_tier=tier, cost_nanousd=cost, cost_source=source)


def _amounts_of(tokens: Tokens) -> Amounts:
    return {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "tokens": _checked("tokens", tokens.input + tokens.output),
    }


def _is_amounts(usage: object) -> TypeGuard[Amounts]:
    return isinstance(usage, Mapping) and bool(usage) and all(key in UNITS for key in usage)


def _checked(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= AMOUNT_MAX:
        raise _invalid(field, f"{field} must be an integer in 0 … {AMOUNT_MAX}, not {value!r:.50}")
    return value


def _invalid(field: str, detail: str) -> Invalid:
    return Invalid(Refused(code="invalid", detail=detail, field=field))
