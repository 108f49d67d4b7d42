"""What each route does. A handler that runs one command is made by ``executing``; the others stand here in full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

import msgspec
from prometheus_client import exposition

from fiscus.api.answers import (
    AccountsPageAnswer,
    BalancesAnswer,
    BatchAnswer,
    BatchItem,
    BudgetReadAnswer,
    BudgetsAnswer,
    Health,
    KeyIssued,
    TemplateReadAnswer,
    UsagePageAnswer,
)
from fiscus.api.authority import denied
from fiscus.api.calls import Call, Handler, Reply, Stream
from fiscus.api.cursors import after_of, cursor_of
from fiscus.api.etags import CONDITIONAL, etag, matching_version, said_version
from fiscus.api.keys import digest_of, make_key_id, make_secret
from fiscus.api.problems import STATUSES, Problem, problem, refusal_problem
from fiscus.contract.errors import StoreUnavailable, TreasuryError
from fiscus.contract.queries import (
    AccountsPage,
    AccountView,
    AnyQuery,
    EntriesPage,
    KeysView,
    ListAccounts,
    ListEntries,
    ListKeys,
    ListOverrides,
    ListPrices,
    ListTemplates,
    ListUsage,
    ReadAccount,
    ReadHold,
    ReadLoan,
    ReadOverride,
    ReadReallocation,
    ReadSpared,
    TemplatesView,
    UsagePage,
    View,
)
from fiscus.contract.treasury import Readiness
from fiscus.core.checks import check_id, check_name
from fiscus.core.commands import (
    Adjust,
    Allocate,
    AnyCommand,
    ApproveOverride,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    EraseName,
    Extend,
    GiveBack,
    Lend,
    PutAccount,
    PutBudget,
    PutKey,
    PutPrice,
    PutTemplate,
    Release,
    RemoveBudget,
    RemovePrice,
    RemoveTemplate,
    Request,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeKey,
    RevokeOverride,
    SetStatus,
    Settle,
    SingleCommand,
    Status,
    Transfer,
)
from fiscus.core.outcomes import (
    AnyOutcome,
    BudgetAnswer,
    BudgetView,
    CompoundAnswer,
    HoldAnswer,
    KeyAnswer,
    Refused,
    Spooled,
)
from fiscus.core.units import AMOUNT_MAX, Unit

NO_STORE = ((b"cache-control", b"no-store"),)

UNHEALTHY_REASONS = frozenset(("internal_error",))
"""Reasons not to admit calls that speak against the process; the others no new process cures."""
CREATING = (Reserve, Adjust, Lend, RequestOverride)
ACCEPTED_STATUS = 202
NO_VERSION = AMOUNT_MAX
"""A version that no budget ever has."""

CONDITION_AGAIN_S, CONDITION_AGAIN_S_MAX = 0.1, 0.3
"""How much later each time a condition is looked at again of what others change, and how late at last."""

NOT_AT_THIS_VERSION = frozenset(("precondition_failed", "unknown_budget"))
STAY_SHARE = 0.75


def command_from(kind: Any, body: Any, **path: Any) -> Any:
    """A command out of a body and what stands in the address."""
    return kind(**path, **msgspec.structs.asdict(body))


async def execute(call: Call, command: AnyCommand, condition: str = "") -> AnyOutcome:
    """Have one command decided for the caller, and count the outcome; ``condition`` as in ``Request``."""
    service, caller = call.service, call.caller
    refused = denied(caller, command)
    if refused is not None:
        return refused
    outcome = await service.treasury.execute(
        Request(
            command=command,
            tenant=service.options.tenant,
            idempotency_key=_idempotency_key(call),
            actor=caller.actor,
            scope=caller.scope,
            may_open=caller.may_open,
            stay_s=_stay_s(call),
            condition=condition,
        )
    )
    service.metrics.outcome(command, outcome)
    return outcome


def executing(command_of: Callable[[Call], AnyCommand]) -> Handler:
    """A handler that runs one command and answers its outcome as it is."""

    async def handle(call: Call) -> Reply | Problem:
        outcome = await execute(call, command_of(call))
        if type(outcome) is Refused:
            return refusal_problem(outcome)
        reply = call.answer(outcome)
        return msgspec.structs.replace(reply, status=ACCEPTED_STATUS) if _is_open(outcome) else reply

    return handle


def _is_open(outcome: AnyOutcome) -> bool:
    """Whether it is accepted and something is still to become of it."""
    return type(outcome) is Spooled or (type(outcome) is HoldAnswer and outcome.state == "waiting")


def _stay_s(call: Call) -> float:
    """How long a request is kept open for a reserve that waits: it is answered before its time is over."""
    return STAY_SHARE * call.service.options.request_timeout_s


def _idempotency_key(call: Call) -> str | None:
    if "Idempotency-Key" not in call.route.headers:
        return None
    key = call.headers.get(b"idempotency-key")
    return None if key is None else key.decode("latin-1")


# Commands out of calls


def reserve(call: Call) -> Reserve:
    """Body: a reserve."""
    return command_from(Reserve, call.body)  # type: ignore[no-any-return]  # see command_from


def extend(call: Call) -> Extend:
    """Address: the hold."""
    return command_from(Extend, call.body, id=call.path[0])  # type: ignore[no-any-return]  # see command_from


def settle(call: Call) -> Settle:
    """Address: the hold."""
    return command_from(Settle, call.body, id=call.path[0])  # type: ignore[no-any-return]  # see command_from


def release(call: Call) -> Release:
    """Address: the hold."""
    return Release(id=call.path[0], account=call.body.account)


def record_usage(call: Call) -> Settle:
    """Body: a settlement with the account that pays."""
    return command_from(Settle, call.body)  # type: ignore[no-any-return]  # see command_from


def put_account(call: Call) -> PutAccount:
    """Address: the account."""
    return command_from(PutAccount, call.body, account=call.path[0])  # type: ignore[no-any-return]  # see command_from


def set_status(status: Status) -> Callable[[Call], SetStatus]:
    """Address: the account."""
    return lambda call: SetStatus(account=call.path[0], status=status, reason=call.body.reason)


def erase_name(call: Call) -> EraseName:
    """Address: the account."""
    return EraseName(account=call.path[0])


def allocate(call: Call) -> Allocate:
    """Address: the account and the unit, which the ledger checks."""
    return command_from(Allocate, call.body, account=call.path[0], unit=call.path[1])  # type: ignore[no-any-return]  # see command_from


def deallocate(call: Call) -> Deallocate:
    """Address: the account and the unit, which the ledger checks."""
    unit: Unit = call.path[1]  # type: ignore[assignment]  # the ledger refuses what is not a unit
    return Deallocate(account=call.path[0], unit=unit)


def transfer(call: Call) -> Transfer:
    """Body: a transfer."""
    return command_from(Transfer, call.body)  # type: ignore[no-any-return]  # see command_from


def lend(call: Call) -> Lend:
    """Body: a loan."""
    return command_from(Lend, call.body)  # type: ignore[no-any-return]  # see command_from


def give_back(call: Call) -> GiveBack:
    """Address: the loan."""
    return GiveBack(id=call.path[0])


def adjust(call: Call) -> Adjust:
    """Address: the account."""
    return command_from(Adjust, call.body, account=call.path[0])  # type: ignore[no-any-return]  # see command_from


def end_adjustment(call: Call) -> EndAdjustment:
    """Address: the account and the adjustment."""
    return EndAdjustment(account=call.path[0], id=call.path[1])


def request_override(call: Call) -> RequestOverride:
    """Body: the request."""
    return command_from(RequestOverride, call.body)  # type: ignore[no-any-return]  # see command_from


def approve_override(call: Call) -> ApproveOverride:
    """Address: the override."""
    return command_from(ApproveOverride, call.body, id=call.path[0])  # type: ignore[no-any-return]  # see command_from


def deny_override(call: Call) -> DenyOverride:
    """Address: the override."""
    return DenyOverride(id=call.path[0], reason=call.body.reason)


def revoke_override(call: Call) -> RevokeOverride:
    """Address: the override."""
    return RevokeOverride(id=call.path[0], reason=call.body.reason)


def reset_gate(call: Call) -> ResetGate:
    """Address: the account."""
    return ResetGate(account=call.path[0], task=call.body.task)


def put_price(call: Call) -> PutPrice:
    """Address: the price."""
    return command_from(PutPrice, call.body, price=call.path[0])  # type: ignore[no-any-return]  # see command_from


def remove_price(call: Call) -> RemovePrice:
    """Address: the price."""
    return RemovePrice(price=call.path[0])


def put_template(call: Call) -> PutTemplate:
    """Address: the pattern."""
    return command_from(PutTemplate, call.body, pattern=call.path[0])  # type: ignore[no-any-return]  # see command_from


def remove_template(call: Call) -> RemoveTemplate:
    """Address: the pattern."""
    return RemoveTemplate(pattern=call.path[0])


# Budgets, with versions


async def put_budget(call: Call) -> Reply | Problem:
    """Make or change a budget, on condition of its version if the caller says so."""
    account, budget = call.path
    return await _conditionally(call, command_from(PutBudget, call.body, account=account, budget=budget))


async def remove_budget(call: Call) -> Reply | Problem:
    """End a budget, on condition of its version if the caller says so."""
    account, budget = call.path
    return await _conditionally(call, RemoveBudget(account=account, budget=budget))


async def _conditionally(call: Call, command: PutBudget | RemoveBudget) -> Reply | Problem:
    """Run a command if the budget has the version that If-Match and If-None-Match want.

    The ledger judges: one version, or none, as it was said; other conditions as what is read now makes them, and again
    as long as somebody changes it meanwhile. A repeat with its idempotency key is answered as it was, whatever the
    version is by now: the ledger looks for the kept answer first, also where the conditions do not hold any more.
    """
    condition = _condition(call)
    version = said_version(*_conditions(call))
    if version is not None or not condition:
        outcome = await execute(call, msgspec.structs.replace(command, if_version=version), condition)
        if condition and isinstance(outcome, Refused) and outcome.code in NOT_AT_THIS_VERSION:
            found = await _if_version(call)
            return found if isinstance(found, Problem) else refusal_problem(outcome)
        return _answer_of(call, outcome)
    again_s = 0.0
    while True:
        found = await _if_version(call)
        failed = found if isinstance(found, Problem) else None
        if failed is not None and (failed.code != "precondition_failed" or _idempotency_key(call) is None):
            return failed
        wanted = NO_VERSION if isinstance(found, Problem) else found
        outcome = await execute(call, msgspec.structs.replace(command, if_version=wanted), condition)
        is_another = isinstance(outcome, Refused) and outcome.code in NOT_AT_THIS_VERSION
        if is_another and failed is not None:
            return failed
        if not is_another or again_s >= CONDITION_AGAIN_S_MAX:
            return _answer_of(call, outcome)
        again_s += CONDITION_AGAIN_S
        await asyncio.sleep(again_s)


def _answer_of(call: Call, outcome: AnyOutcome) -> Reply | Problem:
    if isinstance(outcome, Refused):
        return refusal_problem(outcome)
    assert isinstance(outcome, BudgetAnswer)
    return call.answer(outcome, (etag(outcome.budget.version),))


def _conditions(call: Call) -> tuple[bytes | None, bytes | None]:
    return call.headers.get(b"if-match"), call.headers.get(b"if-none-match")


def _condition(call: Call) -> str:
    """The conditions as they were said."""
    given = zip(CONDITIONAL, _conditions(call), strict=True)
    return "; ".join(f"{name.lower()}: {said.decode('latin-1')}" for name, said in given if said is not None)


async def _if_version(call: Call) -> int | Problem | None:
    """The version that must be there, from If-Match and If-None-Match as of what is read now; None: any."""
    given = _conditions(call)
    found = check_name("budget", call.path[1]) or await ask(call, ReadAccount(account=call.path[0]))
    if isinstance(found, Refused):
        return refusal_problem(found)
    assert isinstance(found, AccountView)
    budget = _budget_in(found, call.path[1])
    return matching_version(*given, current=None if budget is None else budget.version)


def _budget_in(view: AccountView, name: str) -> BudgetView | None:
    return next((budget for budget in view.account.budgets if budget.budget == name), None)


# Reading

SEQ_MAX = 2**62 - 1
"""After it there is no entry: only where the journal ends is asked for."""


async def ask(call: Call, query: AnyQuery) -> View | Refused:
    """Ask for the caller: within its scope, and not before its own write."""
    treasury, tenant = call.service.treasury, call.service.options.tenant
    min_seq = getattr(call.parameters, "min_seq", 0)
    if min_seq:
        journal = await treasury.read(ListEntries(tenant=tenant, after=SEQ_MAX, limit=1))
        if isinstance(journal, EntriesPage) and journal.as_of_seq < min_seq:
            # Nobody can have been told of it. What is in the journal but not here yet is worth waiting for.
            detail = f"min_seq: the journal ends at {journal.as_of_seq}"
            return Refused(code="invalid", detail=detail, field="min_seq")
    return await treasury.read(msgspec.structs.replace(query, tenant=tenant, scope=call.caller.scope, min_seq=min_seq))


def reading(query_of: Callable[[Call], AnyQuery]) -> Handler:
    """A handler that asks one question and answers the view as it is."""

    async def handle(call: Call) -> Reply | Problem:
        found = await ask(call, query_of(call))
        return refusal_problem(found) if isinstance(found, Refused) else call.answer(found)

    return handle


read_hold = reading(lambda call: ReadHold(id=call.path[0]))
read_override = reading(lambda call: ReadOverride(id=call.path[0]))
read_spared = reading(lambda call: ReadSpared(account=call.path[0]))
read_loan = reading(lambda call: ReadLoan(id=call.path[0]))
read_reallocation = reading(
    lambda call: ReadReallocation(account=call.path[0], unit=call.parameters.unit, amount=call.parameters.amount)
)
read_account = reading(lambda call: ReadAccount(account=call.path[0]))
list_templates = reading(lambda _: ListTemplates())
list_prices = reading(lambda call: ListPrices(unless_version=call.parameters.unless_version))
list_keys = reading(lambda _: ListKeys())
list_journal = reading(
    lambda call: ListEntries(
        after=call.parameters.after,
        limit=call.parameters.limit,
        kinds=tuple(call.parameters.kinds.split(",")) if call.parameters.kinds is not None else (),
    )
)


async def list_budgets(call: Call) -> Reply | Problem:
    """The budgets of one account."""
    found = await ask(call, ReadAccount(account=call.path[0]))
    if isinstance(found, Refused):
        return refusal_problem(found)
    assert isinstance(found, AccountView)
    account = found.account
    return call.answer(BudgetsAnswer(as_of_seq=found.as_of_seq, account=account.account, budgets=account.budgets))


async def read_budget(call: Call) -> Reply | Problem:
    """One budget, with its version as ETag."""
    found = await ask(call, ReadAccount(account=call.path[0]))
    if isinstance(found, Refused):
        return refusal_problem(found)
    assert isinstance(found, AccountView)
    budget = _budget_in(found, call.path[1])
    if budget is None:
        return problem("unknown_budget", f"{call.path[0]} has no budget {call.path[1]}", field="budget")
    return call.answer(BudgetReadAnswer(as_of_seq=found.as_of_seq, budget=budget), (etag(budget.version),))


async def read_balances(call: Call) -> Reply | Problem:
    """The running windows of one account."""
    found = await ask(call, ReadAccount(account=call.path[0]))
    if isinstance(found, Refused):
        return refusal_problem(found)
    assert isinstance(found, AccountView)
    balances = tuple(budget.balance for budget in found.account.budgets if budget.balance is not None)
    return call.answer(BalancesAnswer(as_of_seq=found.as_of_seq, account=found.account.account, balances=balances))


async def list_accounts(call: Call) -> Reply | Problem:
    """A page of accounts."""
    asked = call.parameters
    after = after_of(asked.cursor)
    if after is None:
        return _no_cursor()
    query = ListAccounts(after=after, limit=asked.limit, prefix=asked.prefix, parent=asked.parent, status=asked.status)
    page = await ask(call, query)
    if isinstance(page, Refused):
        return refusal_problem(page)
    assert isinstance(page, AccountsPage)
    return call.answer(AccountsPageAnswer(as_of_seq=page.as_of_seq, accounts=page.accounts, next=cursor_of(page.next)))


async def list_usage(call: Call) -> Reply | Problem:
    """A page of records of calls."""
    asked = call.parameters
    after = after_of(asked.cursor)
    if after is None:
        return _no_cursor()
    query = ListUsage(after=after, limit=asked.limit, account=asked.account, since=asked.since, until=asked.until)
    page = await ask(call, query)
    if isinstance(page, Refused):
        return refusal_problem(page)
    assert isinstance(page, UsagePage)
    return call.answer(UsagePageAnswer(as_of_seq=page.as_of_seq, usage=page.usage, next=cursor_of(page.next)))


async def list_overrides(call: Call) -> Reply | Problem:
    """A page of overrides; the cursor is the id of the last one."""
    asked = call.parameters
    if asked.cursor is not None and check_id("cursor", asked.cursor) is not None:
        return _no_cursor()
    query = ListOverrides(after=asked.cursor or "", limit=asked.limit, state=asked.state, account=asked.account)
    page = await ask(call, query)
    return refusal_problem(page) if isinstance(page, Refused) else call.answer(page)


def _no_cursor() -> Problem:
    return problem("invalid", "cursor: take it from next of the page before, as it is", field="cursor")


async def read_template(call: Call) -> Reply | Problem:
    """One template."""
    found = await ask(call, ListTemplates())
    if isinstance(found, Refused):
        return refusal_problem(found)
    assert isinstance(found, TemplatesView)
    template = next((template for template in found.templates if template.pattern == call.path[0]), None)
    if template is None:
        return problem("unknown_template", f"there is no template {call.path[0]}", field="pattern")
    return call.answer(TemplateReadAnswer(as_of_seq=found.as_of_seq, template=template))


async def follow_events(call: Call) -> Stream | Problem:
    """The journal from a cursor on, for as long as the client stays."""
    service, scope = call.service, call.caller.scope
    after = _last_event_id(call)
    if isinstance(after, Problem):
        return after
    if service.streams.is_full:
        return problem("rate_limited", "as many event streams are open as there may be", retry_after_s=1)
    if call.parameters.account is not None:
        found = await ask(call, ReadAccount(account=call.parameters.account))
        if isinstance(found, Refused):
            return refusal_problem(found)
        assert isinstance(found, AccountView)
        scope = found.account.account
    first = await ask(call, ListEntries(after=after, limit=1))  # says if what comes next was archived
    if isinstance(first, Refused):
        return refusal_problem(first)

    def chunks(gone: Any) -> AsyncIterator[bytes]:
        entries = service.treasury.follow(after=after, tenant=service.options.tenant, scope=scope)
        return service.streams.chunks(entries, gone, scope=scope, shows_progress=call.parameters.progress)

    return Stream(chunks=chunks)


def _last_event_id(call: Call) -> int | Problem:
    """The cursor: what the browser remembers, else the parameter, else the beginning."""
    header = call.headers.get(b"last-event-id")
    if not header:
        return call.parameters.after or 0
    if not header.isdigit() or len(header) > 16:
        return problem("invalid", "Last-Event-ID: must be the id of an event", field="Last-Event-ID")
    return int(header)


# Keys


async def issue_key(call: Call) -> Reply | Problem:
    """Make a key and show its secret, this once."""
    pepper = call.service.options.key_pepper
    if pepper is None:
        return _no_pepper()
    secret = make_secret()
    command = command_from(PutKey, call.body, key=make_key_id(), digest=digest_of(secret, pepper))
    return await _key_reply(call, command, secret)


async def rotate_key(call: Call) -> Reply | Problem:
    """Give a key a new secret; the old one ends at once."""
    pepper = call.service.options.key_pepper
    if pepper is None:
        return _no_pepper()
    found = await ask(call, ListKeys())
    if isinstance(found, Refused):
        return refusal_problem(found)
    assert isinstance(found, KeysView)
    key = next((key for key in found.keys if key.key == call.path[0]), None)
    if key is None:
        return problem("unknown_key", f"there is no key {call.path[0]}", field="key")
    secret = make_secret()
    command = PutKey(
        key=key.key,
        digest=digest_of(secret, pepper),
        role=key.role,
        account=key.account,
        may_open=key.may_open,
        expires_at=key.expires_at,
        requests_per_minute=key.requests_per_minute,
        label=key.label,
    )
    return await _key_reply(call, command, secret)


async def _key_reply(call: Call, command: PutKey, secret: str) -> Reply | Problem:
    outcome = await execute(call, command)
    call.service.keys.forget()
    if isinstance(outcome, Refused):
        return refusal_problem(outcome)
    assert isinstance(outcome, KeyAnswer)
    return call.answer(KeyIssued(key=outcome, secret=secret), NO_STORE)


def _no_pepper() -> Problem:
    return problem("forbidden", "this service runs without keys: it has no pepper to hash them with")


async def revoke_key(call: Call) -> Reply | Problem:
    """Make a key useless."""
    outcome = await execute(call, RevokeKey(key=call.path[0]))
    call.service.keys.forget()
    return refusal_problem(outcome) if isinstance(outcome, Refused) else call.answer(outcome)


# Batch


async def run_batch(call: Call) -> Reply | Problem:
    """Many commands: each by itself, or all or none."""
    operations: tuple[SingleCommand, ...] = call.body.operations
    key = _idempotency_key(call)
    wrong = None if key is None else check_id("Idempotency-Key", key)
    if wrong is not None:
        return refusal_problem(wrong)
    refusals = [denied(call.caller, command) for command in operations]
    if call.body.atomic:
        first = next((index for index, refused in enumerate(refusals) if refused is not None), None)
        if first is not None:
            return _refused_at(first, refusals[first])
        return await _run_compound(call, operations)
    decided = iter(
        await call.service.treasury.execute_many(
            [
                _batch_request(call, key, index, command)
                for index, (command, refused) in enumerate(zip(operations, refusals, strict=True))
                if refused is None
            ]
        )
    )
    return _batch_reply(call, operations, [next(decided) if refused is None else refused for refused in refusals])


def _refused_at(index: int, refused: Any) -> Problem:
    return refusal_problem(msgspec.structs.replace(refused, index=index, field=f"operations[{index}].{refused.field}"))


async def _run_compound(call: Call, operations: tuple[SingleCommand, ...]) -> Reply | Problem:
    outcome = await execute(call, Compound(commands=operations))
    if isinstance(outcome, Refused):
        field = outcome.field.replace("commands", "operations", 1) if outcome.field else None
        return refusal_problem(msgspec.structs.replace(outcome, field=field))
    assert isinstance(outcome, CompoundAnswer)
    return _batch_reply(call, operations, list(outcome.answers))


def _batch_request(call: Call, key: str | None, index: int, command: SingleCommand) -> Request:
    """One command of a batch. Its idempotency key follows from the batch's and its place, and is short enough."""
    return Request(
        command=command,
        tenant=call.service.options.tenant,
        idempotency_key=None if key is None else sha256(f"{index}:{key}".encode()).hexdigest(),
        actor=call.caller.actor,
        scope=call.caller.scope,
        may_open=call.caller.may_open,
        stay_s=_stay_s(call),
    )


def _batch_reply(call: Call, operations: tuple[SingleCommand, ...], outcomes: list[Any]) -> Reply:
    items = []
    for command, outcome in zip(operations, outcomes, strict=True):
        call.service.metrics.outcome(command, outcome)
        if isinstance(outcome, Refused):
            status = STATUSES[outcome.code]
        elif _is_open(outcome):
            status = ACCEPTED_STATUS
        else:
            status = 201 if isinstance(command, CREATING) else 200
        items.append(BatchItem(status=status, answer=outcome))
    return call.answer(BatchAnswer(answers=tuple(items)))


# The service itself


async def confirm_clock(call: Call) -> Reply | Problem:
    """Go on after a step of the host's clock."""
    await call.service.treasury.confirm_clock(call.service.options.tenant, call.caller.actor)
    return call.answer(await call.service.treasury.readiness())


async def read_health(call: Call) -> Reply | Problem:
    """The process is alive and can go on, else 503; ``/ready`` says whether its ledger is away or it drains."""
    readiness = await _readiness(call)
    reasons = [reason for reason in readiness.reasons if reason in UNHEALTHY_REASONS]
    if reasons:
        return problem("budget_unavailable", f"Service unhealthy: {', '.join(reasons)}", retry_after_s=1)
    return call.answer(Health(status="healthy", service="token-economy"))


async def read_readiness(call: Call) -> Reply:
    """Whether calls are admitted, else 503 and why."""
    readiness = await _readiness(call)
    return msgspec.structs.replace(call.answer(readiness, NO_STORE), status=200 if readiness.ready else 503)


async def _readiness(call: Call) -> Readiness:
    try:
        readiness = await call.service.treasury.readiness()
    except StoreUnavailable:
        return Readiness(ready=False, reasons=("store_unavailable",))
    except TreasuryError as error:
        return Readiness(ready=False, reasons=(error.code,))
    reasons = set(readiness.reasons)
    if readiness.tenants:
        # What keeps other tenants from calls is told, and is no reason not to call this one.
        own = readiness.tenants.get(call.service.options.tenant)
        reasons -= {reason for reason in readiness.tenants.values() if reason != own}
    if call.service.draining:
        reasons.add("draining")
    return msgspec.structs.replace(readiness, ready=not reasons, reasons=tuple(sorted(reasons)))


async def read_metrics(call: Call) -> Reply:
    """All metrics of the registry, in the form that the scraper asks for."""
    service = call.service
    service.metrics.readiness = await _readiness(call)
    service.metrics.streams = service.streams.count
    accept = call.headers.get(b"accept", b"").decode("latin-1")
    encode, content_type = exposition.choose_encoder(accept)
    assert service.options.registry is not None
    return Reply(status=200, body=encode(service.options.registry), content_type=content_type.encode())


async def read_openapi(call: Call) -> Reply:
    """The description of all routes."""
    return Reply(status=200, body=await asyncio.to_thread(call.service.openapi))
