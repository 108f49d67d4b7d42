"""The difference between what is declared and what the ledger has, as steps in an order that works. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from fiscus.contract.declaration import (
    Declaration,
    DeclaredAccount,
    DeclaredAllocation,
    Faults,
    FieldPath,
    allocate,
    budget_name,
    check_tree,
    put_account,
)
from fiscus.contract.queries import TemplateView
from fiscus.core.commands import (
    Deallocate,
    PutBudget,
    PutTemplate,
    RemoveBudget,
    SetStatus,
    SingleCommand,
    TemplateBudget,
)
from fiscus.core.outcomes import AccountAnswer, BudgetView
from fiscus.core.windows import parse_period

Action = Literal["add", "change", "remove"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One field; ``before`` is None for what is new, ``after`` for what goes."""

    field: str
    before: Any = None
    after: Any = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One difference and the command that removes it.

    Attributes:
        subject: ``account``, ``budget``, ``allocation``, ``status`` or ``template``.
        name: of the subject, for people.
        path: where it is declared.
    """

    action: Action
    subject: str
    name: str
    changes: tuple[Change, ...]
    command: SingleCommand
    path: FieldPath


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger has: the declared accounts that exist with all above them, and its templates."""

    accounts: Mapping[str, AccountAnswer]
    templates: Mapping[str, TemplateView]


def make_plan(declaration: Declaration, known: Known, *, force: bool = False) -> list[Step]:
    """The steps from what is known to what is declared; none when they agree.

    What shrinks comes before what grows, leaves before roots when shrinking and after them when growing, so that room
    that one step frees is there for the next.

    Raises:
        ConfigurationInvalid: the declaration contradicts the ledger: an unknown parent, another parent than the account
            has, a terminated or closed account, a cycle or a chain that is too long when both are seen together, a
            budget that would count something else.
    """
    check_against(declaration, known)
    order = _roots_first(declaration.accounts)
    positions = {account.account: index for index, account in enumerate(declaration.accounts)}

    statuses = {account.account: account.status for account in declaration.accounts}

    def each(steps: Callable[[DeclaredAccount, AccountAnswer | None, FieldPath], Iterator[Step]]) -> Iterator[Step]:
        for account in order:
            path: FieldPath = ("accounts", positions[account.account])
            yield from steps(account, known.accounts.get(account.account), path)

    def allocating(account: DeclaredAccount, found: AccountAnswer | None, path: FieldPath) -> Iterator[Step]:
        return _allocation_steps(account, found, path, may_carve=_stays_active(found, known, statuses))

    allocations = list(each(allocating))
    status_steps = list(each(_status_steps))
    return [
        *(step for step in status_steps if step.changes[0].after == "active"),
        *each(_account_steps),
        *reversed([step for step in allocations if _shrinks(step)]),
        *each(lambda account, found, path: _budget_steps(account, found, path, force=force)),
        *(step for step in allocations if not _shrinks(step)),
        *(step for step in status_steps if step.changes[0].after != "active"),
        *_template_steps(declaration.templates, known),
    ]


def _stopped(parent: str | None, known: Known, statuses: Mapping[str, str | None]) -> AccountAnswer | None:
    """Who keeps an account from being opened there: one above that is not active, nor declared to be."""
    while parent is not None and (found := known.accounts.get(parent)) is not None:
        if found.status != "active" and (found.status != "suspended" or statuses.get(parent) != "active"):
            return found
        parent = found.parent
    return None


def check_against(declaration: Declaration, known: Known) -> None:
    """Compare a declaration's tree with the ledger's.

    Raises:
        ConfigurationInvalid: they contradict each other.
    """
    faults = Faults(declaration.origin)
    declared = {account.account for account in declaration.accounts}
    parents = {name: account.parent for name, account in known.accounts.items()}
    statuses = {account.account: account.status for account in declaration.accounts}
    for index, account in enumerate(declaration.accounts):
        path: FieldPath = ("accounts", index)
        found = known.accounts.get(account.account)
        if account.parent is not None and account.parent not in declared and account.parent not in known.accounts:
            faults.add((*path, "parent"), f"unknown parent {account.parent}: neither declared nor in the ledger")
        if found is None:
            parents[account.account] = account.parent
            stopped = _stopped(account.parent, known, statuses)
            if stopped is not None:
                faults.add((*path, "parent"), f"{stopped.account} is {stopped.status}; nothing is opened below it")
            continue
        if account.parent is not None and account.parent != found.parent:
            stands = f"below {found.parent}" if found.parent else "a root"
            faults.add((*path, "parent"), f"{account.account} stands {stands}; an account is never moved")
        if found.status in {"terminated", "closed"}:
            faults.add((*path, "account"), f"{account.account} is {found.status}, which is final")
        _check_budgets(account, found, path, faults)
    check_tree(parents, enumerate(declaration.accounts), faults)
    for index, template in enumerate(declaration.templates):
        if template.parent is not None and template.parent not in declared and template.parent not in known.accounts:
            path = ("templates", index, "parent")
            faults.add(path, f"unknown parent {template.parent}: neither declared nor in the ledger")
    faults.check()


def _check_budgets(account: DeclaredAccount, found: AccountAnswer, path: FieldPath, faults: Faults) -> None:
    """What a budget counts, and for which calls, does not change, nor does it begin or cease to be for a lifetime."""
    existing = {view.budget: view for view in found.budgets if not view.allocated}
    for index, budget in enumerate(account.budgets or ()):
        name, period = budget_name(budget), parse_period(budget.period).text
        view = existing.get(name)
        if view is None:
            continue
        place = (*path, "budgets", index)
        if budget.unit != view.unit:
            faults.add((*place, "unit"), f"{name} counts {view.unit}, which does not change; {_ANOTHER_NAME}")
        if budget.match != view.match:
            faults.add((*place, "match"), f"{name} is for other calls, which does not change; {_ANOTHER_NAME}")
        if period != view.period and "lifetime" in (period, view.period):
            detail = f"{name} has the period {view.period}, which does not change to {period}; {_ANOTHER_NAME}"
            faults.add((*place, "period"), detail)


_ANOTHER_NAME = "give this one another name"


# -- the steps of one account -------------------------------------------------------------------------------------


def _account_steps(account: DeclaredAccount, found: AccountAnswer | None, path: FieldPath) -> Iterator[Step]:
    """Open an account, or change what is declared of it."""
    command = put_account(account)
    wanted = {
        "priority": account.priority,
        "min_reserve": account.min_reserve,
        "labels": account.labels,
        "confidence_threshold": account.confidence_threshold,
        "gate_s": account.gate_s,
        "shortage": account.shortage,
        "grant_strategy": account.grant_strategy,
    }
    if found is None:
        changes = _changes({}, {"parent": account.parent, **wanted})
        yield Step(action="add", subject="account", name=account.account, changes=changes, command=command, path=path)
        return
    before = {name: getattr(found, name) for name in wanted}
    changes = _changes(before, {name: value for name, value in wanted.items() if value is not None})
    if changes:
        yield Step(
            action="change", subject="account", name=account.account, changes=changes, command=command, path=path
        )


def _status_steps(account: DeclaredAccount, found: AccountAnswer | None, path: FieldPath) -> Iterator[Step]:
    """Suspend or resume an account."""
    before = found.status if found else "active"
    if account.status is None or account.status == before:
        return
    yield Step(
        action="change",
        subject="status",
        name=account.account,
        changes=(Change(field="status", before=before, after=account.status),),
        command=SetStatus(account=account.account, status=account.status, reason="declared"),
        path=(*path, "status"),
    )


_BUDGET_FIELDS = tuple(field for field in TemplateBudget.__struct_fields__ if field not in {"budget", "unit"})


def _budget_steps(
    account: DeclaredAccount, found: AccountAnswer | None, path: FieldPath, *, force: bool
) -> Iterator[Step]:
    """Make, change and remove budgets until the account has those that are declared, and no other."""
    if account.budgets is None:
        return
    existing = {view.budget: view for view in found.budgets if not view.allocated} if found else {}
    declared = {budget_name(budget): (index, budget) for index, budget in enumerate(account.budgets)}
    for name, view in existing.items():
        if name not in declared:
            yield Step(
                action="remove",
                subject="budget",
                name=f"{account.account} / {name}",
                changes=(Change(field="limit", before=view.limit),),
                command=RemoveBudget(account=account.account, budget=name, if_version=view.version),
                path=(*path, "budgets"),
            )
    for name, (index, budget) in declared.items():
        found_budget = existing.get(name)
        changes = _changes(_budget_before(found_budget), _budget_after(budget))
        if changes:
            yield Step(
                action="change" if found_budget else "add",
                subject="budget",
                name=f"{account.account} / {name}",
                changes=changes,
                command=_put_budget(account.account, name, budget, found_budget, force=force),
                path=(*path, "budgets", index),
            )


def _put_budget(account: str, name: str, budget: TemplateBudget, found: BudgetView | None, *, force: bool) -> PutBudget:
    """The command for a declared budget, refused if somebody else has changed the budget meanwhile."""
    fields = {field: getattr(budget, field) for field in _BUDGET_FIELDS}
    return PutBudget(
        account=account,
        budget=name,
        unit=budget.unit,
        force=force,
        if_version=found.version if found else 0,
        **fields,
    )


def _budget_before(view: BudgetView | None) -> dict[str, Any]:
    """The fields of a budget in the ledger that can be declared."""
    return {field: getattr(view, field) for field in ("unit", *_BUDGET_FIELDS)} if view else {}


def _budget_after(budget: TemplateBudget) -> dict[str, Any]:
    """The fields of a declared budget, as the ledger writes them."""
    fields = {field: getattr(budget, field) for field in ("unit", *_BUDGET_FIELDS)}
    return {**fields, "period": parse_period(budget.period).text}


def _stays_active(found: AccountAnswer | None, known: Known, statuses: Mapping[str, str | None]) -> bool:
    """Whether an account and all above it are active when everything is as declared."""
    while found is not None:
        if (statuses.get(found.account) or found.status) != "active":
            return False
        found = known.accounts.get(found.parent) if found.parent is not None else None
    return True


def _allocation_steps(
    account: DeclaredAccount, found: AccountAnswer | None, path: FieldPath, *, may_carve: bool
) -> Iterator[Step]:
    """Carve, resize and end allocations until the account has those that are declared, and no other.

    What is declared has no end: one that has, or is over, differs by that, unless nothing can be carved here.
    """
    if account.allocations is None:
        return
    existing = {view.unit: view for view in found.budgets if view.allocated} if found else {}
    for unit, view in existing.items():
        if unit not in account.allocations:
            yield Step(
                action="remove",
                subject="allocation",
                name=f"{account.account} / {unit}",
                changes=(Change(field="size", before=view.limit),),
                command=Deallocate(account=account.account, unit=unit),
                path=(*path, "allocations"),
            )
    for unit, size in account.allocations.items():
        view_now = existing.get(unit)
        wanted = size if isinstance(size, DeclaredAllocation) else _plain(size, view_now)
        before = {"size": view_now.limit, "on_exhaustion": view_now.on_exhaustion} if view_now else {}
        changes = _changes(before, {"size": wanted.to, "on_exhaustion": wanted.on_exhaustion})
        if view_now and may_carve:
            changes += _changes(
                {"valid_until": view_now.valid_until, "lapsed": view_now.lapsed}, {"valid_until": None, "lapsed": False}
            )
        if changes:
            yield Step(
                action="change" if view_now else "add",
                subject="allocation",
                name=f"{account.account} / {unit}",
                changes=changes,
                command=msgspec.structs.replace(
                    allocate(account.account, unit, wanted), if_version=view_now.version if view_now else 0
                ),
                path=(*path, "allocations", unit),
            )


def _plain(size: int, found: BudgetView | None) -> DeclaredAllocation:
    """An allocation declared by its size only: the rest stays as it is."""
    return DeclaredAllocation(to=size, on_exhaustion=found.on_exhaustion if found else "deny")


def _shrinks(step: Step) -> bool:
    """Whether an allocation's step frees room above it: one that is over holds none."""
    changes = {change.field: change for change in step.changes}
    size = changes.get("size")
    if size is None or size.before is None or "lapsed" in changes:
        return False
    return size.after is None or bool(size.after < size.before)


def _template_steps(templates: Sequence[PutTemplate], known: Known) -> Iterator[Step]:
    """Put the declared templates; others are left alone."""
    fields = tuple(field for field in PutTemplate.__struct_fields__ if field != "pattern")
    for index, template in enumerate(templates):
        found = known.templates.get(template.pattern)
        before = {field: getattr(found, field) for field in fields} if found else {}
        changes = _changes(before, {field: getattr(template, field) for field in fields})
        if changes:
            yield Step(
                action="change" if found else "add",
                subject="template",
                name=template.pattern,
                changes=changes,
                command=template,
                path=("templates", index),
            )


# -- differences --------------------------------------------------------------------------------------------------

_UNSAID: tuple[Any, ...] = (None, "", (), {})


def _changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[Change, ...]:
    """The fields that differ; of something new, those that say something."""
    if not before:
        return tuple(Change(field=name, after=value) for name, value in after.items() if value not in _UNSAID)
    return tuple(
        Change(field=name, before=before[name], after=value) for name, value in after.items() if before[name] != value
    )


def _roots_first(accounts: Sequence[DeclaredAccount]) -> list[DeclaredAccount]:
    """Parents before children, otherwise in the order of the file; there is no cycle any more."""
    by_name = {account.account: account for account in accounts}
    depths: dict[str, int] = {}

    def depth(account: DeclaredAccount) -> int:
        if account.account not in depths:
            parent = by_name.get(account.parent) if account.parent else None
            depths[account.account] = depth(parent) + 1 if parent else 0
        return depths[account.account]

    return sorted(accounts, key=depth)
