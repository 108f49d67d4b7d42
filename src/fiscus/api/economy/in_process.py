"""The token economy API without a service: the same checks, words and answers, for a ledger that is open here."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import Match

from fiscus.api.economy.routes import economy_routes
from fiscus.api.economy.service import TokenEconomy
from fiscus.api.keys import LOCAL


async def ask_here(
    economy: TokenEconomy, method: str, path: str, body: bytes = b"", idempotency_key: str | None = None
) -> tuple[int, bytes]:
    """Answer one request of the API as a service without keys would.

    Args:
        economy: has been started.
        method: ``GET`` or ``POST``.
        path: ``/api/v1/tokens/…``, not quoted.
        body: JSON.
        idempotency_key: of a write.

    Returns:
        The status and the body of the answer.
    """
    key = idempotency_key
    headers = [(b"idempotency-key", key.encode("latin-1", "replace"))] if key is not None else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "fiscus.caller": LOCAL}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    for route in economy_routes(economy):
        match, matched = route.matches(scope)
        if match is Match.FULL:
            response = await route.endpoint(Request({**scope, **matched}, receive))
            return response.status_code, bytes(response.body)
    return 404, b'{"detail":"Not Found"}'
