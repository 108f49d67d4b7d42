"""Finding the account that a command names, within what the asking key may see, and opening it from a template."""

from __future__ import annotations

from fiscus.core.commands import CHAIN_LENGTH_MAX, Request
from fiscus.core.events import AccountOpened, BudgetPut, GateTerms, Private
from fiscus.core.outcomes import Refused
from fiscus.core.patterns import best_pattern
from fiscus.core.routes import carve, carve_parked, chain, inactive
from fiscus.core.state import Account, Draft, Template
from fiscus.core.units import Amounts

MINUTE_MS = 60_000


def unknown(name: str) -> Refused:
    """There is no such account (or none that this key may know of)."""
    return Refused(code="unknown_account", detail=f"there is no account {name!r}", field="account")


def forbidden(name: str) -> Refused:
    """The key's account does not cover this one."""
    return Refused(code="forbidden", detail=f"this key may not act for {name!r}", field="account")


def in_scope(draft: Draft, account: Account, scope: str | None) -> bool:
    """Whether an account is the scope's account or below it."""
    if scope is None:
        return True
    number = draft.names.find(scope)
    return any(above.number == number for above in chain(draft, account))


def find_account(draft: Draft, name: str, scope: str | None, field: str = "account") -> Account | Refused:
    """The account with this name; outside the scope it is ``forbidden`` whether it exists or not."""
    number = draft.names.find(name)
    if number is None:
        return unknown(name) if scope is None else forbidden(name)
    account = draft.accounts[number]
    if scope is not None and not in_scope(draft, account, scope):
        return forbidden(name)
    return account


def find_or_open(
    draft: Draft, name: str, parent: str | None, request: Request, *, after_the_fact: bool = False
) -> Account | Refused:
    """The account with this name, opened now from the template that matches best if there is none.

    ``after_the_fact``: there is something to book, so neither status nor bounds nor room keep it from being opened.
    """
    number = draft.names.find(name)
    if number is not None:
        account = draft.accounts[number]
        if request.scope is not None and not in_scope(draft, account, request.scope):
            return forbidden(name)
        return account
    template = template_for(draft, name)
    if template is None:
        return unknown(name) if request.scope is None else forbidden(name)
    if not request.may_open:
        return forbidden(name)
    return open_by_template(draft, name, parent, template, request, CHAIN_LENGTH_MAX, after_the_fact=after_the_fact)


def template_for(draft: Draft, name: str) -> Template | None:
    """The template with the longest pattern that matches."""
    pattern = best_pattern(name, (key for key, template in draft.templates.items() if not template.removed))
    return draft.templates[pattern] if pattern is not None else None


def open_by_template(
    draft: Draft,
    name: str,
    parent_name: str | None,
    template: Template,
    request: Request,
    depth_left: int,
    *,
    after_the_fact: bool = False,
) -> Account | Refused:
    """Open an account with the template's budgets and allocations, its parent first if that is missing too."""
    parent: Account | None = None
    if parent_name is not None:
        parent_number = draft.names.find(parent_name)
        if parent_number is not None:
            parent = draft.accounts[parent_number]
        else:
            above = template_for(draft, parent_name)
            if above is None or depth_left <= 1 or parent_name == name:
                if request.scope is not None:
                    return forbidden(name)
                return Refused(code="unknown_account", detail=f"there is no account {parent_name!r}", field="parent")
            opened = open_by_template(
                draft, parent_name, None, above, request, depth_left - 1, after_the_fact=after_the_fact
            )
            if isinstance(opened, Refused):
                return forbidden(name) if opened.code == "forbidden" else opened
            parent = opened
    elif template.parent is not None:
        parent = draft.accounts[template.parent]
    if request.scope is not None and (parent is None or not in_scope(draft, parent, request.scope)):
        return forbidden(name)
    if parent is not None and parent.open_children >= template.max_children and not after_the_fact:
        return Refused(
            code="too_many_accounts",
            detail=f"{parent.display_name} has {parent.open_children} open accounts below it, as many as "
            f"{template.pattern} allows",
            retry_after_s=60,
        )
    minute = draft.now // MINUTE_MS
    if template.minute == minute and template.opened_in_minute >= template.max_new_per_minute and not after_the_fact:
        return Refused(
            code="too_many_accounts",
            detail=f"{template.pattern} has opened {template.opened_in_minute} accounts this minute, as many as it may",
            retry_after_s=60 - (draft.now % MINUTE_MS) // 1000,
        )
    account = open_account(
        draft,
        name,
        parent,
        priority=template.priority,
        min_reserve={},
        labels={},
        template=template.pattern,
        gate=template.gate,
        after_the_fact=after_the_fact,
    )
    if isinstance(account, Refused):
        return account
    for budget in template.budgets:
        draft.emit(
            BudgetPut(
                budget=draft.budgets_made + 1,
                account=account.number,
                name=budget.budget or f"{budget.unit}-{budget.period}",
                unit=budget.unit,
                version=1,
                limit=budget.limit,
                period=budget.period,
                zone=budget.zone,
                anchor=draft.now,
                thresholds=budget.thresholds,
                mode=budget.mode,
                match=budget.match,
                on_exhaustion=budget.on_exhaustion,
                carry_over=budget.carry_over,
                carry_max=budget.carry_max,
                carry_debt=budget.carry_debt,
                override=budget.override,
            )
        )
    for unit, size in template.allocations.items():
        carved = inactive(draft, chain(draft, account)) or carve(draft, None, account, unit, size, draft.now)
        if isinstance(carved, Refused):
            if not after_the_fact:
                return carved
            carve_parked(draft, account, unit, size, draft.now)
    return account


def open_account(
    draft: Draft,
    name: str,
    parent: Account | None,
    *,
    priority: int,
    min_reserve: Amounts,
    labels: dict[str, str],
    template: str | None = None,
    gate: GateTerms | None = None,
    after_the_fact: bool = False,
) -> Account | Refused:
    """Open an account below an active parent, within the bound on chains."""
    if parent is not None:
        refused = inactive(draft, chain(draft, parent))
        if refused is not None and not after_the_fact:
            return refused
        if parent.depth >= CHAIN_LENGTH_MAX:
            return Refused(
                code="invalid",
                detail=f"parent: {parent.display_name} is {parent.depth} levels deep; chains have at most "
                f"{CHAIN_LENGTH_MAX}",
                field="parent",
            )
    number = draft.accounts_opened + 1
    draft.emit(
        AccountOpened(
            account=number,
            parent=parent.number if parent is not None else None,
            depth=parent.depth + 1 if parent is not None else 1,
            priority=priority,
            min_reserve=min_reserve,
            template=template,
            gate=gate,
            private=Private(name=name, labels=labels or None),
        )
    )
    return draft.accounts[number]
