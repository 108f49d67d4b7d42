"""The whole record of one model call, as it is carried by a settlement and kept for good."""

from __future__ import annotations

from typing import Literal

import msgspec

TEXT_LENGTH_MAX = 512
LIST_LENGTH_MAX = 64

CostSource = Literal["provider", "price_book", "caller", "dearest", "unpriced"]
Outcome = Literal["success", "error", "cancelled", "timeout", "refused"]


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Tokens of one call by component, all integers ≥ 0.

    ``input`` includes cache reads and writes, tool definitions and tool results; ``output`` includes reasoning. The
    other fields are parts of these two and are never added to them.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    tool_definitions: int = 0
    tool_results: int = 0


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a call came from (R42, R47): ids, agent, task, and hashes of content, never the content."""

    request_id: str | None = None
    parent_request_id: str | None = None
    root_request_id: str | None = None
    relationship: str | None = None
    workflow_id: str | None = None
    session_id: str | None = None
    conversation_id: str | None = None
    trace_id: str | None = None
    depth: int | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    signal_type: str | None = None
    signal_trail: tuple[str, ...] = ()
    task_type: str | None = None
    task_name: str | None = None
    intent: str | None = None
    purpose: str | None = None
    prompt_template_id: str | None = None
    prompt_version: str | None = None
    input_hash: str | None = None
    output_hash: str | None = None
    input_size: int | None = None
    output_size: int | None = None
    code_references: tuple[str, ...] = ()
    document_references: tuple[str, ...] = ()
    cache_hit_id: str | None = None
    system_version: str | None = None
    environment: str | None = None
    tags: tuple[str, ...] = ()


class CallRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is known of one model call (R25, N1, N2, X19).

    Attributes:
        tokens: by component.
        cost_nanousd: what the call cost; None when it is not known, which is never the same as 0.
        cost_source, price_id: who says so, and by which price.
        action, request_type: what kind of call (N1: generate, stream, analyze, test; host, producer, editor).
        tools: names of the tools used, at most ``LIST_LENGTH_MAX``.
        duration_ms, time_to_first_token_ms: milliseconds.
        value: what the caller says the result was worth, any finite number; with it, ``confidence`` in 0 … 1.
        user_id … feature: attribution for reports; it does not decide who pays.
        metadata: free text values, at most ``LIST_LENGTH_MAX`` keys.
    """

    model: str | None = None
    requested_model: str | None = None
    provider: str | None = None
    service_tier: str | None = None
    tokens: Tokens | None = None
    tokens_estimated: bool = False
    cost_nanousd: int | None = None
    cost_source: CostSource | None = None
    price_id: str | None = None
    action: str | None = None
    request_type: str | None = None
    tools: tuple[str, ...] = ()
    duration_ms: int | None = None
    time_to_first_token_ms: int | None = None
    outcome: Outcome | None = None
    error_code: str | None = None
    error_message: str | None = None
    value: float | None = None
    confidence: float | None = None
    user_id: str | None = None
    project_id: str | None = None
    team_id: str | None = None
    feature: str | None = None
    organisation_id: str | None = None
    source_post_id: str | None = None
    provenance: Provenance | None = None
    metadata: dict[str, str] = {}
