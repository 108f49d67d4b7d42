"""The addresses of the token economy API, with the statuses and bodies that its clients expect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fiscus.api.economy.bodies import (
    AgentStatus,
    AllocateBody,
    Allocated,
    Body,
    BudgetStatus,
    ConsumeBody,
    Consumed,
    Denied,
    Faults,
    PauseBody,
    Paused,
    Problem,
    fault,
    read_body,
)
from fiscus.api.economy.service import TokenEconomy
from fiscus.api.keys import Caller
from fiscus.api.problems import STATUSES
from fiscus.contract.errors import BudgetUnavailable, FiscusError, Refusal
from fiscus.core.commands import ID_LENGTH_MAX, Status
from fiscus.core.outcomes import Refused

log = structlog.get_logger()

BODY_BYTES_MAX = 65_536
"""Longest body that is read."""

Answer = msgspec.Struct
Handler = Callable[[TokenEconomy, Request], Awaitable[Answer]]


class EconomyRoute(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One address: it drives routing and the OpenAPI document. ``refusals`` are the statuses of ``Problem``."""

    method: str
    path: str
    summary: str
    handle: Handler
    answer: type[Answer]
    body: type[Answer] | None = None
    refusals: tuple[int, ...] = (401, 403, 429, 503)


def economy_routes(economy: TokenEconomy) -> tuple[Route, ...]:
    """Routes for ``ApiOptions.extra_routes``; they find the caller in ``scope["fiscus.caller"]``."""
    return tuple(Route(row.path, answering(row.handle, economy), methods=[row.method]) for row in ROUTES)


async def allocate(economy: TokenEconomy, request: Request) -> Answer:
    """Ask for a grant (D21)."""
    body, key = await read_write(request, AllocateBody)
    if not isinstance(body, AllocateBody):
        return body
    return key if isinstance(key, Faults) else await economy.allocate(caller_of(request), body, key)


async def consume(economy: TokenEconomy, request: Request) -> Answer:
    """Report tokens that were used (D25)."""
    body, key = await read_write(request, ConsumeBody)
    if not isinstance(body, ConsumeBody):
        return body
    return key if isinstance(key, Faults) else await economy.consume(caller_of(request), body, key)


def pausing(status: Status) -> Handler:
    """Pause or resume one agent, or all (D63)."""

    async def handle(economy: TokenEconomy, request: Request) -> Answer:
        body, key = await read_write(request, PauseBody)
        if not isinstance(body, PauseBody):
            return body
        return key if isinstance(key, Faults) else await economy.set_paused(caller_of(request), body, status)

    return handle


async def status(economy: TokenEconomy, request: Request) -> Answer:
    """The pool and the active agents (D28)."""
    return await economy.status(caller_of(request))


async def agent_status(economy: TokenEconomy, request: Request) -> Answer:
    """One agent's allocation (D30)."""
    return await economy.agent_status(caller_of(request), request.path_params["agent_id"])


ROUTES = (
    EconomyRoute(
        method="POST",
        path="/api/v1/tokens/allocate",
        summary="Ask for a grant of tokens, sized by the agent's history.",
        handle=allocate,
        body=AllocateBody,
        answer=Allocated,
        refusals=(401, 403, 409, 413, 415, 429, 503),
    ),
    EconomyRoute(
        method="POST",
        path="/api/v1/tokens/consume",
        summary="Report tokens that were used; an agent that used more than it had is terminated.",
        handle=consume,
        body=ConsumeBody,
        answer=Consumed,
        refusals=(401, 403, 404, 409, 413, 415, 429, 503),
    ),
    EconomyRoute(
        method="POST",
        path="/api/v1/tokens/pause",
        summary="Pause one agent, or all of them: they get no grants and no calls until they are resumed.",
        handle=pausing("suspended"),
        body=PauseBody,
        answer=Paused,
        refusals=(401, 403, 404, 413, 415, 429, 503),
    ),
    EconomyRoute(
        method="POST",
        path="/api/v1/tokens/resume",
        summary="Resume one agent, or all that are paused.",
        handle=pausing("active"),
        body=PauseBody,
        answer=Paused,
        refusals=(401, 403, 404, 413, 415, 429, 503),
    ),
    EconomyRoute(
        method="GET",
        path="/api/v1/tokens/status",
        summary="Read the pool, the active agents and the most efficient of them.",
        handle=status,
        answer=BudgetStatus,
    ),
    EconomyRoute(
        method="GET",
        path="/api/v1/tokens/agent/{agent_id}",
        summary="Read one agent's allocation.",
        handle=agent_status,
        answer=AgentStatus,
        refusals=(401, 403, 404, 429, 503),
    ),
)


def answering(handle: Handler, economy: TokenEconomy) -> Callable[[Request], Awaitable[Response]]:
    """Turn what a handler returns, or an error of the treasury, into a response."""

    async def answer(request: Request) -> Response:
        try:
            return respond(await handle(economy, request))
        except Refusal as refusal:
            return respond(refusal.refused)
        except FiscusError as error:
            log.warning("token_economy_unavailable", path=request.url.path, error=str(error))
            retry_after_s = error.retry_after_s if isinstance(error, BudgetUnavailable) else 1
            return respond(Denied(status=503, detail=unavailable(error), retry_after_s=retry_after_s))

    return answer


async def read_write(request: Request, kind: type[Body]) -> tuple[Body | Faults | Denied, str | Faults | None]:
    """The body of a write, or what is wrong with it, and the caller's key for it."""
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_BYTES_MAX:
            return Denied(status=413, detail=f"The body may be {BODY_BYTES_MAX} bytes long"), None
    return read_body(raw, kind), idempotency_key(request)


def idempotency_key(request: Request) -> str | Faults | None:
    """The caller's key for a write, if it sent one."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= ID_LENGTH_MAX and key.isprintable()):
        wanted = f"Expected 1 to {ID_LENGTH_MAX} printable characters"
        return fault("value_error", ("header", "Idempotency-Key"), wanted)
    return key


def caller_of(request: Request) -> Caller:
    """Who calls, as the application found out."""
    caller = request.scope["fiscus.caller"]
    assert isinstance(caller, Caller), "the application says who calls"
    return caller


def respond(outcome: Answer) -> Response:
    """An answer, or what is wrong, as JSON."""
    if isinstance(outcome, Faults):
        return json_response(outcome, 422)
    if isinstance(outcome, Refused):
        return respond(refused_answer(outcome))
    if isinstance(outcome, Denied):
        return json_response(Problem(detail=outcome.detail), outcome.status, outcome.retry_after_s)
    return json_response(outcome, 200)


def refused_answer(refused: Refused) -> Faults | Denied:
    """A refusal of the ledger that the economy has no words of its own for."""
    if refused.code == "invalid":
        return fault("value_error", ("body", "agent_id"), refused.detail)
    return Denied(status=STATUSES[refused.code], detail=refused.detail, retry_after_s=refused.retry_after_s)


def unavailable(error: FiscusError) -> str:
    """The words for a service that cannot answer now (D36)."""
    text = str(error)
    return text if text.startswith("Service ") else f"Service unhealthy: {text}"


def json_response(body: Any, status_code: int, retry_after_s: int | None = None) -> Response:
    """A body as JSON."""
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    return Response(msgspec.json.encode(body), status_code, headers, media_type="application/json")
