"""Passing on what is not billed: lists of models, counts of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from fiscus.dialects import Change, Problem, RequestFacts
from fiscus.gateway.asgi import send_whole
from fiscus.gateway.bodies import Body
from fiscus.gateway.connection import UpstreamFailed
from fiscus.gateway.order import Incoming, Tools
from fiscus.gateway.upstreams import Target
from fiscus.gateway.whole import ANSWER_BYTES_MAX


async def pass_list(tools: Tools, incoming: Incoming) -> Problem | None:
    """A list of models, as the first upstream of the family has it."""
    family = incoming.route.family
    targets = tools.upstreams.targets(family)
    if not targets:
        return Problem(code="unknown_route", message=f"no provider of the family {family} is configured")
    return await _pass(tools, targets[0], incoming, "GET", None, "")


async def pass_unmetered(
    tools: Tools, incoming: Incoming, targets: Sequence[Target], facts: RequestFacts, body: Body, model: str
) -> Problem | None:
    """A call that produces nothing, as the best of these upstreams answers it."""
    target = targets[0]
    renamed = target.model_for(model)
    change = Change(model=renamed if renamed != model else None)
    sent = await tools.reader.changed(body, incoming.dialect, facts, change)
    return await _pass(tools, target, incoming, "POST", sent, model)


async def _pass(
    tools: Tools, target: Target, incoming: Incoming, method: str, body: Body | None, model: str
) -> Problem | None:
    tools.upstreams.began(target)
    failed = True
    try:
        answer = await target.ask(method, incoming.route.path, incoming.query, incoming.headers, body, model=model)
        content = await answer.read(ANSWER_BYTES_MAX)
        failed = False
    except UpstreamFailed as error:
        return Problem(code="upstream_error", message=f"the provider gave no answer: {error}", retry_after_s=1)
    finally:
        tools.upstreams.ended(target, failed=failed)
    if not 200 <= answer.status < 300 or b'"error"' in content:
        content = target.without_key(content)
    content_type = answer.header(b"content-type") or "application/json"
    await send_whole(incoming.send, answer.status, [(b"content-type", content_type.encode("latin-1"))], content)
    return None
