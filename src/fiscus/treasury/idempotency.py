"""Commands without an id of their own are decided once per idempotency key; the answer is kept for 30 days."""

from __future__ import annotations

import hashlib

import msgspec

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
    """A hash of who asked for what, by which the same body is recognised."""
    plain = msgspec.to_builtins((request.scope, request.command), str_keys=True)
    body = msgspec.json.encode(plain, order="deterministic")
    return hashlib.sha256(body).hexdigest()
