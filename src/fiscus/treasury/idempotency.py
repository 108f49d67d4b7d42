"""Commands without an id of their own are decided once per idempotency key; the answer is kept for 30 days."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import UNSET

from fiscus.core.commands import Request
from fiscus.core.outcomes import AnyOutcome, Refused

IDEMPOTENCY_MS = 30 * 86_400_000
EXPIRED = Refused(code="idempotency_expired", detail="id: was used before; its answer is not kept any more", field="id")
IN_USE = Refused(code="conflict", detail="Idempotency-Key: is in use for another request", field="Idempotency-Key")


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept with an idempotency key: which request it was, and what was answered."""

    digest: str
    outcome: AnyOutcome


def request_digest(request: Request) -> str:
    """A hash of who asked for what, by which the same body is recognised, whether its defaults were written or not."""
    body = msgspec.json.encode(_plain((request.scope, request.command)), order="deterministic")
    return hashlib.sha256(body).hexdigest()


def _plain(value: Any) -> Any:
    """With every field of every struct: an encoder leaves a default out or not by where the value came from."""
    if isinstance(value, msgspec.Struct):
        given = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return {type(value).__name__: {name: _plain(part) for name, part in given if part is not UNSET}}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
