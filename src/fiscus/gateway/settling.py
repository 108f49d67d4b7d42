"""After a call: what the provider says that it used, priced; or what is known of it, marked as estimated."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from fiscus.core.records import CallRecord, CostSource, Outcome, Provenance, Tokens
from fiscus.core.units import AMOUNT_MAX, Amounts
from fiscus.dialects import Meter, RequestFacts, Usage
from fiscus.gateway.payers import Payer
from fiscus.pricing import NO_EXTRAS, Count, Extras, Price, PriceBook

SERVER_TOOLS = {
    "web_search": "web_searches",
    "google_search": "web_searches",
    "file_search": "file_searches",
    "code_interpreter": "code_executions",
    "code_execution": "code_executions",
}
"""Beginning of a provider's name for its tool → what a price calls its uses."""


NO_PROVENANCE = Provenance()


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended.

    Attributes:
        outcome, error_code: for the record.
        was_cut: whether the gateway ended it for want of budget.
        is_whole: whether the answer came in one piece, so that a usage in it is the last word.
        is_unread: whether an answer may have been produced as a whole, and billed, and was not or cannot be read.
        duration_ms, first_ms: milliseconds, to the end and to the first piece.
    """

    outcome: Outcome
    error_code: str | None = None
    was_cut: bool = False
    is_whole: bool = False
    is_unread: bool = False
    duration_ms: int = 0
    first_ms: int | None = None


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What is settled, and its record."""

    total: Amounts
    record: CallRecord


def booked(
    *,
    facts: RequestFacts,
    counted: Count,
    meter: Meter,
    usage: Usage | None,
    produced: int,
    ended: Ended,
    payer: Payer,
    prices: PriceBook,
    provider: str,
    asked_model: str,
    at: datetime,
    otherwise: Price | None,
) -> Booked:
    """What is booked for a call that was sent to a provider.

    The provider's own usage is the truth, as soon as it is its last word. Without it: what was counted as input, and
    what has come as output. What a call costs is never taken for 0 because nobody said it, nor because a provider says
    that what it shows was nothing.

    Args:
        usage: as ``meter`` tells it. ``produced``: tokens of output that have come, as counted here.
        provider, asked_model, at: whose price of which model, when.
        otherwise: the price that was held for, where the model that answered is not known.
    """
    if usage is not None and sum(one.input + one.output for one in _used(usage)) > AMOUNT_MAX:
        usage = None  # that is no usage
    is_last_word = usage is not None and (usage.final or ended.is_whole)
    shown = any(one.utf8_bytes for (_, kind), one in meter.produced.items() if kind != "opaque")
    is_shown = shown and facts.output_tokens_max != 0  # what a prompt is scored with is its own text
    tokens, is_known = _tokens(usage, counted, produced, is_last_word=is_last_word, is_shown=is_shown)
    model = meter.model or asked_model
    tier = (usage.service_tier if usage is not None else None) or meter.service_tier
    geo = (usage.inference_geo if usage is not None else None) or facts.inference_geo
    found = prices.price_of(provider, model, at, tier, inference_geo=geo)
    price = found if isinstance(found, Price) else otherwise
    cost, source, price_id = _cost(usage, tokens, price, prices, provider, at, geo, is_known=is_known)
    used = [tokens, *_used(usage)[1:]]
    into, out = sum(one.input for one in used), sum(one.output for one in used)
    total: Amounts = {"input_tokens": into, "output_tokens": out, "tokens": into + out, "calls": 1}
    if cost is not None:
        total["cost"] = cost
    labels = payer.labels
    record = CallRecord(
        model=model,
        requested_model=facts.model or asked_model,
        provider=provider,
        service_tier=tier,
        tokens=msgspec.structs.replace(
            tokens,
            tool_definitions=min(counted.tool_definitions, tokens.input),
            tool_results=min(max(tokens.tool_results, counted.tool_results), tokens.input),
        ),
        tokens_estimated=not is_known,
        cost_nanousd=cost,
        cost_source=source,
        price_id=price_id,
        action="stream" if facts.stream else "generate",
        tools=facts.tool_names,
        duration_ms=ended.duration_ms,
        time_to_first_token_ms=ended.first_ms,
        outcome=ended.outcome,
        error_code=ended.error_code,
        user_id=labels.get("user"),
        project_id=labels.get("project"),
        team_id=labels.get("team"),
        feature=labels.get("feature"),
        provenance=payer.provenance if payer.provenance != NO_PROVENANCE else None,
        metadata={
            **payer.metadata,
            "counted_input_tokens": str(counted.tokens),
            "counted_as": counted.label,
            **({"cut": "budget"} if ended.was_cut else {}),
            **({"notes": "; ".join(usage.notes)[:512]} if usage is not None and usage.notes else {}),
        },
    )
    return Booked(total=total, record=record)


def together(what: Booked, earlier: Sequence[Booked]) -> Booked:
    """A call, and attempts before it that failed and were billed as well: one call, at what all come to."""
    every = (what, *earlier)
    units = dict.fromkeys(unit for one in every for unit in one.total)
    total: Amounts = {unit: min(AMOUNT_MAX, sum(one.total.get(unit, 0) for one in every)) for unit in units}
    record = msgspec.structs.replace(
        what.record,
        tokens=_sum([one.record.tokens or Tokens() for one in every]),
        tokens_estimated=any(one.record.tokens_estimated for one in every),
        cost_nanousd=total.get("cost"),
        metadata={**what.record.metadata, "attempts_billed": str(len(every))},
    )
    return Booked(total={**total, "calls": 1}, record=record)


def _sum(tokens: Sequence[Tokens]) -> Tokens:
    fields = zip(*map(msgspec.structs.astuple, tokens), strict=True)
    return Tokens(**dict(zip(Tokens.__struct_fields__, (min(AMOUNT_MAX, sum(one)) for one in fields), strict=True)))


def bare_record(record: CallRecord) -> CallRecord:
    """What a record cannot do without: which model of whom used what, at what cost, and how the call ended."""
    return CallRecord(
        model=record.model,
        provider=record.provider,
        tokens=record.tokens,
        tokens_estimated=record.tokens_estimated,
        cost_nanousd=record.cost_nanousd,
        cost_source=record.cost_source,
        price_id=record.price_id,
        outcome=record.outcome,
    )


def _used(usage: Usage | None) -> list[Tokens]:
    """What the model used, and what others did beside it."""
    return [] if usage is None else [usage.tokens, *usage.beside.values()]


def _tokens(
    usage: Usage | None, counted: Count, produced: int, *, is_last_word: bool, is_shown: bool
) -> tuple[Tokens, bool]:
    """What was used, and whether the provider has said all of it; what it has not said is what was counted.

    An output of 0 is not said of an answer that shows something, nor is an input of 0 beside it.
    """
    if usage is None:
        return Tokens(input=counted.tokens, output=produced), False
    said = usage.tokens
    unsaid = {"input", "output"} & set(usage.missing) if is_last_word else {"input", "output"}
    if is_shown and not said.output:
        unsaid |= {"output"} if said.input else {"input", "output"}
    if "input" in unsaid:
        said = msgspec.structs.replace(said, input=max(said.input, counted.tokens))
    if "output" in unsaid:
        said = msgspec.structs.replace(said, output=max(said.output, produced))
    return said, not unsaid


def _cost(
    usage: Usage | None,
    tokens: Tokens,
    price: Price | None,
    prices: PriceBook,
    provider: str,
    at: datetime,
    geo: str | None,
    *,
    is_known: bool,
) -> tuple[int | None, CostSource | None, str | None]:
    """Nano-USD, no more than an amount can be, who says so, by which price; None, when nobody knows."""
    if is_known and usage is not None and usage.cost_nanousd is not None:
        return usage.cost_nanousd, "provider", None
    if price is None:
        return None, "unpriced", None
    cost = price.cost(tokens, extras_of(usage))
    for model, used in (usage.beside if usage is not None else {}).items():
        other = prices.price_of(provider, model, at, inference_geo=geo)
        cost += (other if isinstance(other, Price) else price).cost(used)
    return min(cost, AMOUNT_MAX), price.source, price.price_id


def extras_of(usage: Usage | None) -> Extras:
    """What is billed beside the tokens."""
    if usage is None or not (usage.server_tools or usage.image_output or usage.video_output or usage.video_input):
        return NO_EXTRAS
    uses: dict[str, int] = {}
    for tool, count in usage.server_tools.items():
        name = next((kind for begin, kind in SERVER_TOOLS.items() if tool.startswith(begin)), None)
        if name is not None:
            uses[name] = uses.get(name, 0) + count
    return Extras(
        image_output=usage.image_output, video_output=usage.video_output, video_input=usage.video_input, **uses
    )
