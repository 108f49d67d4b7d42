"""Which strategy sizes the grants of an account: its own, else its template's, else the same of those above it."""

from __future__ import annotations

from typing import NamedTuple

from fiscus.core.commands import GrantStrategy
from fiscus.core.outcomes import StrategySource
from fiscus.core.patterns import best_pattern
from fiscus.core.state import Account, Draft, Template


class Granting(NamedTuple):
    """The strategy that counts, and who says so. None: nobody does."""

    strategy: GrantStrategy | None = None
    source: StrategySource | None = None


def granting_of(draft: Draft, account: Account) -> Granting:
    """The strategy of the nearest account up the chain that has one, by itself or by its template.

    The template is the one that has opened it. The token economy opens agents without one: for these it is the one that
    matches their name, so that a template counts for all agents of a kind, whoever was the first to use them.
    """
    above: Account | None = account
    while above is not None:
        is_own = above.number == account.number
        if above.grant_strategy is not None:
            return Granting(above.grant_strategy, "account" if is_own else "above")
        template = _template_of(draft, above)
        if template is not None and template.grant_strategy is not None and not template.removed:
            return Granting(template.grant_strategy, "template" if is_own else "above")
        above = draft.accounts[above.parent] if above.parent is not None else None
    return Granting()


def _template_of(draft: Draft, account: Account) -> Template | None:
    if account.template is not None:
        return draft.templates.find(account.template)
    if account.name is None:
        return None
    pattern = best_pattern(account.name, (key for key, found in draft.templates.items() if not found.removed))
    return draft.templates[pattern] if pattern is not None else None
