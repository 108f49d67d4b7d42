"""Commands without an id of their own are decided once per idempotency key; the answer is kept for 30 days."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

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
    """A hash of who asked for what, by which the same body is recognised, whether its defaults were written or not.

    What is by default is left out, so that a version whose commands have more fields recognises a repeat too.
    """
    asked: tuple[Any, ...] = (request.scope, request.command)
    if request.condition:
        asked = (request.scope, msgspec.structs.replace(request.command, if_version=None), request.condition)
    return hashlib.sha256(msgspec.json.encode(_plain(asked), order="deterministic")).hexdigest()


def _plain(value: Any) -> Any:
    """Without the fields of structs that hold their default."""
    if isinstance(value, msgspec.Struct):
        defaults = _defaults(type(value))
        given = ((name, getattr(value, name)) for name in value.__struct_fields__)
        fields = {name: _plain(part) for name, part in given if name not in defaults or part != defaults[name]}
        return {type(value).__name__: fields}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """What the optional fields of a struct are by default."""
    defaults: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default_factory is not msgspec.NODEFAULT:
            defaults[field.name] = field.default_factory()
        elif field.default is not msgspec.NODEFAULT:
            defaults[field.name] = field.default
    return defaults
