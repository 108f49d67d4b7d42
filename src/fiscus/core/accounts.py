"""Deciding on accounts, templates and keys."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET

from fiscus.core.allocations import carved_within, end_allocation
from fiscus.core.answers import account_answer, key_answer
from fiscus.core.checks import check, invalid, to_ms
from fiscus.core.commands import (
    EraseName,
    PutAccount,
    PutKey,
    PutTemplate,
    RemoveTemplate,
    Request,
    RevokeKey,
    SetStatus,
)
from fiscus.core.events import (
    AccountChanged,
    AllocationParked,
    GrantStrategySet,
    KeyPut,
    KeyRevoked,
    NameErased,
    Private,
    ShortageSet,
    StatusChanged,
    TemplatePut,
    TemplateRemoved,
)
from fiscus.core.formats import not_yet
from fiscus.core.gates import new_terms, terms_of
from fiscus.core.lending import end_loans, overdue
from fiscus.core.outcomes import AccountAnswer, ErasedAnswer, KeyAnswer, Refused, TemplateAnswer
from fiscus.core.routes import allocation_cell, chain, close_ended_windows, inactive
from fiscus.core.scopes import find_account, forbidden, in_scope, open_account
from fiscus.core.state import LIVE, PARKED, Account, Draft


def put_account(draft: Draft, request: Request, command: PutAccount, now: int) -> AccountAnswer | Refused:
    """Open an account or change what is given. Registering again never mints and never moves it."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    if command.shortage and (wrong := not_yet(draft, ShortageSet)) is not None:
        return wrong
    number = draft.names.find(command.account)
    if number is None:
        return _open(draft, request, command)
    account = draft.accounts[number]
    if not in_scope(draft, account, request.scope):
        return forbidden(command.account)
    if (differ := _labels_differ(command, account.labels)) is not None:
        return differ
    if command.parent is not None:
        parent = draft.accounts[account.parent].name if account.parent is not None else None
        if parent != command.parent:
            return Refused(
                code="conflict",
                detail=f"parent: {command.account} stands below {parent or 'no account'} and cannot be moved",
                field="parent",
            )
    gate = new_terms(command, account.gate)
    if isinstance(gate, Refused):
        return gate
    changed_gate = gate != account.gate
    changed_labels = command.labels is not None and command.labels != account.labels
    changed_priority = command.priority is not None and command.priority != account.priority
    changed_reserve = command.min_reserve is not None and command.min_reserve != account.min_reserve
    if changed_labels or changed_priority or changed_reserve or changed_gate:
        draft.emit(
            AccountChanged(
                account=number,
                priority=command.priority if changed_priority else None,
                min_reserve=command.min_reserve if changed_reserve else None,
                gate=gate if changed_gate else None,
                gate_removed=changed_gate and gate is None,
                private=Private(labels=command.labels) if changed_labels else None,
            )
        )
    return _set_policies(draft, request, command, number)


def _labels_differ(command: PutAccount, labels: Mapping[str, str]) -> Refused | None:
    if command.if_labels is None or command.if_labels == labels:
        return None
    return Refused(
        code="precondition_failed",
        detail=f"if_labels: {command.account} has other labels now: read them again",
        field="if_labels",
    )


def _set_policies(draft: Draft, request: Request, command: PutAccount, number: int) -> AccountAnswer:
    """What is tried for reserves that lack room, and how grants are sized, where it is given."""
    if command.shortage is not None and command.shortage != draft.accounts[number].shortage:
        draft.emit(ShortageSet(account=number, steps=command.shortage, actor=request.actor))
    strategy = command.grant_strategy
    if strategy is not UNSET and strategy != draft.accounts[number].grant_strategy:
        draft.emit(GrantStrategySet(account=number, strategy=strategy, actor=request.actor))
    return account_answer(draft, draft.accounts[number])


def _open(draft: Draft, request: Request, command: PutAccount) -> AccountAnswer | Refused:
    parent: Account | None = None
    if command.parent is not None:
        found = find_account(draft, command.parent, request.scope, "parent")
        if isinstance(found, Refused):
            return found if found.code == "forbidden" else Refused(code=found.code, detail=found.detail, field="parent")
        parent = found
    elif request.scope is not None:
        return forbidden(command.account)
    if request.scope is not None and not request.may_open:
        return forbidden(command.account)
    if (differ := _labels_differ(command, {})) is not None:
        return differ
    gate = new_terms(command, None)
    if isinstance(gate, Refused):
        return gate
    account = open_account(
        draft,
        command.account,
        parent,
        priority=command.priority or 1,
        min_reserve=command.min_reserve or {},
        labels=command.labels or {},
        gate=gate,
    )
    return account if isinstance(account, Refused) else _set_policies(draft, request, command, account.number)


def set_status(draft: Draft, request: Request, command: SetStatus, now: int) -> AccountAnswer | Refused:
    """Suspend, resume, terminate or close. Allocations at and below are parked, resumed, or end for good."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    if account.status == command.status:
        return account_answer(draft, account)
    if account.status in ("terminated", "closed"):
        return Refused(
            code="conflict", detail=f"status: {account.display_name} is {account.status} for good", field="status"
        )
    if command.status in ("terminated", "closed"):
        end_loans(draft, (id for id in account.loans if draft.loans[id].account == account.number), now)
    draft.emit(
        StatusChanged(
            account=account.number,
            status=command.status,
            actor=request.actor,
            private=Private(reason=command.reason) if command.reason else None,
        )
    )
    if command.status == "active":
        _resume_allocations(draft, account, now)
        end_loans(draft, overdue(draft, account, now), now)
    elif command.status == "suspended":
        for cell in carved_within(draft, account):
            if cell.phase == LIVE:
                close_ended_windows(draft, cell.pins, now)
                draft.emit(AllocationParked(cell=cell.number))
    else:
        for cell in carved_within(draft, account):
            end_allocation(draft, cell, now, for_good=True)
    return account_answer(draft, draft.accounts[account.number])


def _resume_allocations(draft: Draft, account: Account, now: int) -> None:
    """Parked allocations go back to their size if there is room, those nearest the root first."""
    for cell in reversed(carved_within(draft, account)):
        if cell.phase != PARKED or inactive(draft, chain(draft, draft.accounts[cell.account])) is not None:
            continue
        close_ended_windows(draft, cell.pins, now)
        allocation_cell(draft, draft.budgets[cell.budget], now)


def erase_name(draft: Draft, request: Request, command: EraseName, now: int) -> ErasedAnswer | Refused:
    """Forget the name, labels and private records of an account that is terminated or closed."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    if account.status not in ("terminated", "closed"):
        return Refused(
            code="conflict", detail=f"account: {account.name} is {account.status}; close it first", field="account"
        )
    private = Private(name=account.name)  # erased with the rest, in the commit of this event
    draft.emit(NameErased(account=account.number, actor=request.actor, private=private))
    return ErasedAnswer(number=account.number)


def put_template(draft: Draft, request: Request, command: PutTemplate, now: int) -> TemplateAnswer | Refused:
    """Store a template; accounts that it opened before stay as they are."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    if request.scope is not None:
        return forbidden(command.pattern)
    if command.shortage and (wrong := not_yet(draft, ShortageSet)) is not None:
        return wrong
    parent: int | None = None
    if command.parent is not None:
        parent = draft.names.find(command.parent)
        if parent is None:
            return Refused(code="unknown_account", detail=f"there is no account {command.parent!r}", field="parent")
        if command.parent.startswith(command.pattern[:-1]):
            return invalid("parent", "matches the pattern itself: the tree would have a cycle")
    event = TemplatePut(
        pattern=command.pattern,
        parent=parent,
        budgets=command.budgets,
        allocations=command.allocations,
        priority=command.priority,
        max_children=command.max_children,
        max_new_per_minute=command.max_new_per_minute,
        idle_close_s=command.idle_close_s,
        gate=terms_of(command.confidence_threshold, command.gate_s),
        actor=request.actor,
    )
    known = draft.templates.find(command.pattern)
    same = known is not None and not known.removed
    if known is None or not same or any(getattr(known, field) != getattr(event, field) for field in TEMPLATE_FIELDS):
        draft.emit(event)
    if command.shortage != draft.templates[command.pattern].shortage:
        draft.emit(ShortageSet(pattern=command.pattern, steps=command.shortage, actor=request.actor))
    if command.grant_strategy != draft.templates[command.pattern].grant_strategy:
        strategy = command.grant_strategy
        draft.emit(GrantStrategySet(pattern=command.pattern, strategy=strategy, actor=request.actor))
    return TemplateAnswer(pattern=command.pattern, active=True)


TEMPLATE_FIELDS = (
    "parent",
    "budgets",
    "allocations",
    "priority",
    "max_children",
    "max_new_per_minute",
    "idle_close_s",
    "gate",
)


def remove_template(draft: Draft, request: Request, command: RemoveTemplate, now: int) -> TemplateAnswer | Refused:
    """Open no more accounts by this pattern."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    if request.scope is not None:
        return forbidden(command.pattern)
    template = draft.templates.find(command.pattern)
    if template is None or template.removed:
        return Refused(code="unknown_template", detail=f"there is no template {command.pattern!r}", field="pattern")
    draft.emit(TemplateRemoved(pattern=command.pattern, actor=request.actor))
    return TemplateAnswer(pattern=command.pattern, active=False)


def put_key(draft: Draft, request: Request, command: PutKey, now: int) -> KeyAnswer | Refused:
    """Store a key by its keyed hash."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    if request.scope is not None:
        return forbidden(command.key)
    known = draft.keys.find(command.key) if command.if_new else None
    if known is not None:
        return key_answer(draft, known)
    account: int | None = None
    if command.account is not None:
        account = draft.names.find(command.account)
        if account is None:
            return Refused(code="unknown_account", detail=f"there is no account {command.account!r}", field="account")
    draft.emit(
        KeyPut(
            key=command.key,
            digest=command.digest,
            role=command.role,
            account=account,
            may_open=command.may_open,
            expires_at=to_ms(command.expires_at) if command.expires_at is not None else None,
            requests_per_minute=command.requests_per_minute,
            actor=request.actor,
            private=Private(name=command.label) if command.label else None,
        )
    )
    return key_answer(draft, draft.keys[command.key])


def revoke_key(draft: Draft, request: Request, command: RevokeKey, now: int) -> KeyAnswer | Refused:
    """Make a key useless."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    key = draft.keys.find(command.key)
    if key is None or request.scope is not None:
        return Refused(code="unknown_key", detail=f"there is no key {command.key!r}", field="key")
    if not key.revoked:
        draft.emit(KeyRevoked(key=command.key, actor=request.actor))
    return key_answer(draft, draft.keys[command.key])
