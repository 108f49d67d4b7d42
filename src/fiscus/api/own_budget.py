"""What is left for whoever asks: an agent that reads its own budget."""

from __future__ import annotations

from collections.abc import Sequence

from fiscus.api.bodies import Parameters
from fiscus.api.calls import Call, Reply
from fiscus.api.problems import Problem, problem, refusal_problem
from fiscus.contract.chains import own_budget, read_chain
from fiscus.core.outcomes import Refused


class OwnBudgetParameters(Parameters):
    """``account``: whose; without it the one that the headers name, else the one that the key is bound to."""

    account: str | None = None


async def read_own_budget(call: Call) -> Reply | Problem:
    """What the next call of an account may use, with all budgets of its chain that the key may see.

    Of an account that opens with its first call those are the budgets of the one below which it will open.
    """
    names = _names(call)
    if isinstance(names, Problem):
        return names
    service = call.service
    refused: Refused | None = None
    for name in names:
        views = await read_chain(service.treasury, name, tenant=service.options.tenant, scope=call.caller.scope)
        if not isinstance(views, Refused):
            return call.answer(own_budget(views))
        refused = refused or views
        if views.code != "unknown_account":
            break
    return refusal_problem(refused) if refused is not None else _unnamed()


def _names(call: Call) -> Sequence[str] | Problem:
    """Who may be meant, the first that exists is."""
    if call.parameters.account is not None:
        return (call.parameters.account,)
    payers = call.service.options.payers
    if payers is not None:
        return payers(call.headers, call.caller)
    return () if call.caller.scope is None else (call.caller.scope,)


def _unnamed() -> Problem:
    return problem("invalid", "account: name one, or use a key that is bound to an account", field="account")
