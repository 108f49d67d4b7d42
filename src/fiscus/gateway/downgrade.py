"""When money is short: a cheaper model is asked instead, if the gateway's file says which.

    asked, if enough output fits ▸ the cheaper ones in their order, likewise ▸ the last one, clamped ▸ the asked one,
    clamped, or refused

Only money is a reason, or a budget for some models alone: of other budgets a cheaper model takes as much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from fiscus.dialects import Change, Dialect, Malformed, Problem, RequestFacts
from fiscus.gateway.bodies import Body
from fiscus.gateway.options import GatewayOptions
from fiscus.gateway.reading import Reader
from fiscus.gateway.routes import Route
from fiscus.pricing import output_tokens_known

SHORT = frozenset(("budget_exceeded", "budget_busy"))

REFUSED = frozenset((400, 404, 422))
"""Answers of a provider that say that a cheaper model cannot do what was asked of another: the next one is asked."""

Attempt = Callable[[Body, RequestFacts, str, int], Awaitable[Problem | None]]
"""Make a call of (body, facts, model), whose output is not clamped below so many tokens; None: it was made.

Of a model that was not asked for it was not made, if its provider answers it as ``REFUSED``.
"""


async def first_affordable(
    attempt: Attempt,
    options: GatewayOptions,
    reader: Reader,
    route: Route,
    dialect: Dialect,
    facts: RequestFacts,
    body: Body,
) -> Problem | None:
    """Make a call with the model that was asked for, or with the first cheaper one that there is money for.

    Returns:
        None when it was made; else why it was not, of the model that was asked for.
    """
    asked, least = facts.model or "", options.output_tokens_least
    cheaper = cheaper_than(asked, options.downgrade)
    if not cheaper:
        return await attempt(body, facts, asked, least)
    useful = max(least, options.downgrade_below_tokens)
    problem = await attempt(body, facts, asked, useful)
    if problem is None or problem.code not in SHORT:
        return problem
    if may_help(problem):
        for model in cheaper:
            longest = longest_of(model, options, route)
            other_body, other_facts = await asking_for(model, reader, route, dialect, facts, body, longest)
            is_last = model == cheaper[-1]
            if await attempt(other_body, other_facts, model, least if is_last else useful) is None:
                return None
    return await attempt(body, facts, asked, least)


def cheaper_than(model: str, chains: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The models of the first chain whose pattern fits, without the model itself.

    >>> cheaper_than("gpt-4o-2024-08-06", {"gpt-4o*": ["gpt-4o-mini", "gpt-4.1-nano"]})
    ['gpt-4o-mini', 'gpt-4.1-nano']
    """
    found = next((models for pattern, models in chains.items() if fnmatchcase(model, pattern)), ())
    return [other for other in found if other != model]


def may_help(problem: Problem) -> bool:
    """Whether another model may fit where this one did not; so it may where nobody says what binds.

    >>> may_help(Problem(code="budget_exceeded", message="", detail={"unit": "tokens"}))
    False
    """
    return problem.detail.get("unit") in (None, "cost") or "model" in str(problem.detail.get("match") or "")


def longest_of(model: str, options: GatewayOptions, route: Route) -> int | None:
    """The longest answer of a model as all who serve it call it; None: it is not known.

    A bound that is larger is an error at its provider, and no longer answer.
    """
    serving = [one for one in options.upstreams if one.family == route.family and one.serves(model)]
    known = [output_tokens_known(one.renames.get(model, model)) for one in serving]
    return min((limit for limit in known if limit is not None), default=None)


async def asking_for(
    model: str,
    reader: Reader,
    route: Route,
    dialect: Dialect,
    facts: RequestFacts,
    body: Body,
    longest: int | None = None,
) -> tuple[Body, RequestFacts]:
    """The same request for another model; its facts still name the one that was asked for, for the record.

    Args:
        longest: answer of that model; a larger bound is lowered to it. None: that is not known.
    """
    asked = facts.output_tokens_max
    is_too_long = asked is not None and longest is not None and asked > longest
    changed = await reader.changed(
        body, dialect, facts, Change(model=model, output_tokens_max=longest if is_too_long else None)
    )
    if changed is body:  # the path names it
        return body, facts
    read = await reader.facts(changed, dialect, route)
    assert not isinstance(read, Malformed), "it could be read with the other name"
    return changed, msgspec.structs.replace(read, model=facts.model)
