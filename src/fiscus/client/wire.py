"""What goes over the wire for each command and query, and what comes back. Pure."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from fiscus.contract import (
    AccountAnswer,
    AdjustmentAnswer,
    AllocationAnswer,
    AnyCommand,
    BudgetAnswer,
    Compound,
    CompoundAnswer,
    ErasedAnswer,
    EraseName,
    Extend,
    HoldAnswer,
    KeyAnswer,
    LoanAnswer,
    OverrideAnswer,
    PriceAnswer,
    PutAccount,
    PutKey,
    PutPrice,
    PutTemplate,
    Refused,
    Release,
    RemovePrice,
    Reserve,
    RevokeKey,
    Settle,
    Spooled,
    TemplateAnswer,
    TransferAnswer,
)
from fiscus.contract.analysis import (
    AggregateUsage,
    AnalysisQuery,
    AnalyzeTasks,
    ForecastUsage,
    ForecastView,
    LineageView,
    MakeReport,
    ProvenanceView,
    ReadLineage,
    ReadProvenance,
    ReadRecommendations,
    ReadTrends,
    ReadWorkflow,
    RecommendationsView,
    ReportView,
    TasksView,
    Totals,
    TrendsView,
    UsageGroup,
    UsageQuery,
    UsageTotals,
    WorkflowView,
)
from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import (
    AccountsPage,
    AccountView,
    AnyQuery,
    CheckReserve,
    CheckView,
    EnforcementView,
    EntriesPage,
    FindKey,
    HoldView,
    KeysView,
    ListAccounts,
    ListEntries,
    ListKeys,
    ListOverrides,
    ListPrices,
    ListTemplates,
    ListUsage,
    LoanView,
    OverridesPage,
    OverrideView,
    PricesView,
    ReadAccount,
    ReadEnforcement,
    ReadHold,
    ReadLoan,
    ReadOverride,
    ReadReallocation,
    ReadSpared,
    ReallocationView,
    SparedView,
    TemplatesView,
    Usage,
    UsagePage,
    View,
)
from fiscus.contract.query import Query
from fiscus.contract.rehearsal import RehearsalView, Rehearse

_BatchOutcome = (
    HoldAnswer
    | AccountAnswer
    | BudgetAnswer
    | AllocationAnswer
    | TransferAnswer
    | LoanAnswer
    | AdjustmentAnswer
    | OverrideAnswer
    | TemplateAnswer
    | Spooled
    | Refused
)
_encode = msgspec.json.Encoder().encode


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request, and how to read the answer to it.

    Attributes:
        target: path and query, percent-encoded.
        decode: from the body of a 2xx answer to an outcome or a view.
    """

    method: str
    target: str
    decode: Callable[[bytes], Any]
    body: bytes | None = None
    idempotency_key: str | None = None


class _BatchItem(msgspec.Struct, frozen=True, kw_only=True):
    answer: _BatchOutcome


class _BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    answers: tuple[_BatchItem, ...]


class _AccountsPage(msgspec.Struct, frozen=True, kw_only=True):
    as_of_seq: int
    accounts: tuple[AccountAnswer, ...]
    next: str | None


class _UsagePage(msgspec.Struct, frozen=True, kw_only=True):
    as_of_seq: int
    usage: tuple[Usage, ...]
    next: str | None


class _UsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    as_of_seq: int
    since: datetime | None
    until: datetime | None
    by: tuple[str, ...]
    totals: Totals
    groups: tuple[UsageGroup, ...]
    group_count: int
    next: str | None


_FILTERS = tuple(name for name in UsageQuery.__struct_fields__ if name not in Query.__struct_fields__)
_REHEARSED = tuple(name for name in Rehearse.__struct_fields__ if name not in Query.__struct_fields__)
_NO_FIELDS: tuple[str, ...] = ()
_SUMMED: dict[type, tuple[str, tuple[str, ...], Any]] = {
    AggregateUsage: ("/v1/usage/sums", ("limit",), None),
    ReadTrends: ("/v1/usage/trends", ("bucket",), TrendsView),
    ForecastUsage: ("/v1/usage/forecast", ("measure", "horizon_days"), ForecastView),
    ReadRecommendations: ("/v1/usage/recommendations", (), RecommendationsView),
    AnalyzeTasks: ("/v1/usage/tasks", (), TasksView),
}
"""Where a question is asked, with what besides the filters, and what is answered."""

_decode_hold = msgspec.json.Decoder(HoldAnswer | Spooled).decode
_decode_batch = msgspec.json.Decoder(_BatchAnswer).decode


def is_batchable(command: AnyCommand) -> bool:
    """Whether a batch may hold it."""
    return not isinstance(command, Compound | PutPrice | RemovePrice | PutKey | RevokeKey | EraseName)


def is_unsayable(command: AnyCommand) -> bool:
    """Whether a number in it is none that JSON has: it would be written as null, which means something else."""
    if isinstance(command, Compound):
        return any(map(is_unsayable, command.commands))
    numbers: tuple[Any, ...] = ()
    if isinstance(command, Settle) and command.record is not None:
        numbers = (command.record.value, command.record.confidence)
    elif isinstance(command, PutAccount | PutTemplate):
        numbers = (command.confidence_threshold,)
    return any(isinstance(number, float) and not isfinite(number) for number in numbers)


def exchange_for(command: AnyCommand, idempotency_key: str) -> Exchange:
    """The request for one command. The frequent ones have routes of their own, most others go as a batch of one.

    Args:
        command: any but ``PutKey``: the service makes the secrets of keys itself.
        idempotency_key: for commands without an id of their own.

    Raises:
        TreasuryError: it cannot be said over HTTP.
    """
    if isinstance(command, Reserve):
        return Exchange(method="POST", target="/v1/holds", body=_body(command), decode=_decode_hold)
    if isinstance(command, Extend | Settle | Release) and _is_segment(command.id):
        verb = type(command).__name__.lower()
        target = f"/v1/holds/{_segment(command.id)}/{verb}"
        return Exchange(method="POST", target=target, body=_body(command, without="id"), decode=_decode_hold)
    if isinstance(command, EraseName) and _is_segment(command.account):
        target = f"/v1/accounts/{_segment(command.account)}/name"
        return Exchange(method="DELETE", target=target, decode=_decoder(ErasedAnswer), idempotency_key=idempotency_key)
    if isinstance(command, RevokeKey) and _is_segment(command.key):
        return Exchange(method="DELETE", target=f"/v1/keys/{_segment(command.key)}", decode=_decoder(KeyAnswer))
    if isinstance(command, PutPrice | RemovePrice) and _is_segment(command.price):
        return _for_price(command, idempotency_key)
    if isinstance(command, Compound):
        return _batch(command.commands, idempotency_key, lambda body: CompoundAnswer(answers=_outcomes(body)), True)
    if is_batchable(command):
        return _batch((command,), idempotency_key, lambda body: _outcomes(body)[0], False)
    raise TreasuryError(f"{type(command).__name__} cannot be asked of a service")


def _for_price(command: PutPrice | RemovePrice, idempotency_key: str) -> Exchange:
    is_put = isinstance(command, PutPrice)
    return Exchange(
        method="PUT" if is_put else "DELETE",
        target=f"/v1/prices/{_segment(command.price)}",
        body=_body(command, without="price") if is_put else None,
        decode=_decoder(PriceAnswer),
        idempotency_key=idempotency_key,
    )


def exchange_for_many(commands: Sequence[AnyCommand], idempotency_key: str) -> Exchange:
    """The request for commands that are independent of each other; each must be batchable."""
    return _batch(commands, idempotency_key, lambda body: list(_outcomes(body)), False)


def exchange_for_query(query: AnyQuery) -> Exchange:
    """The request for a query.

    Raises:
        TreasuryError: it cannot be asked over HTTP: keys are not found by what they are made of.
    """
    shared: dict[str, Any] = {"min_seq": query.min_seq or None}
    match query:
        case ReadAccount():
            return _get(f"/v1/accounts/{_segment(query.account)}", shared, _decoder(AccountView))
        case ReadHold():
            return _get(f"/v1/holds/{_segment(query.id)}", shared, _decoder(HoldView))
        case ReadSpared():
            return _get(f"/v1/accounts/{_segment(query.account)}/spared", shared, _decoder(SparedView))
        case ReadEnforcement():
            return _get("/v1/enforcement", shared, _decoder(EnforcementView))
        case ReadLoan():
            return _get(f"/v1/loans/{_segment(query.id)}", shared, _decoder(LoanView))
        case ReadReallocation():
            wanted = {"unit": query.unit, "amount": query.amount}
            path = f"/v1/accounts/{_segment(query.account)}/reallocation"
            return _get(path, shared | wanted, _decoder(ReallocationView))
        case ListAccounts():
            asked: dict[str, Any] = {
                "cursor": cursor_of(query.after),
                "limit": query.limit,
                "prefix": query.prefix,
                "parent": query.parent,
                "status": query.status,
            }
            return _get("/v1/accounts", shared | asked, _decode_accounts)
        case ListUsage():
            asked = {
                "cursor": cursor_of(query.after),
                "limit": query.limit,
                "account": query.account,
                "since": query.since,
                "until": query.until,
            }
            return _get("/v1/usage", shared | asked, _decode_usage)
        case ReadOverride():
            return _get(f"/v1/overrides/{_segment(query.id)}", shared, _decoder(OverrideView))
        case ListOverrides():
            asked = {
                "cursor": query.after or None,
                "limit": query.limit,
                "state": query.state,
                "account": query.account,
            }
            return _get("/v1/overrides", shared | asked, _decoder(OverridesPage))
        case ListEntries():
            asked = {"after": query.after, "limit": query.limit, "kinds": ",".join(query.kinds) or None}
            return _get("/v1/journal", shared | asked, _decoder(EntriesPage))
        case ListPrices():
            return _get("/v1/prices", shared | {"unless_version": query.unless_version or None}, _decoder(PricesView))
        case ListTemplates():
            return _get("/v1/templates", shared, _decoder(TemplatesView))
        case ListKeys():
            return _get("/v1/keys", shared, _decoder(KeysView))
        case FindKey():
            raise TreasuryError("FindKey cannot be asked of a service")
        case CheckReserve():
            return Exchange(method="POST", target="/v1/checks", body=_check_body(query), decode=_decoder(CheckView))
        case Rehearse():
            target = f"/v1/rehearsals?min_seq={query.min_seq}" if query.min_seq else "/v1/rehearsals"
            asked = {name: getattr(query, name) for name in _REHEARSED}
            asked["templates"] = [msgspec.structs.asdict(template) for template in query.templates]
            return Exchange(method="POST", target=target, body=_encode(asked), decode=_decoder(RehearsalView))
        case _:
            return _exchange_for_analysis(query, shared)


def _exchange_for_analysis(query: AnalysisQuery, shared: dict[str, Any]) -> Exchange:
    match query:
        case ReadWorkflow():
            return _get(f"/v1/workflows/{_segment(query.workflow_id)}", shared, _decoder(WorkflowView))
        case ReadProvenance():
            return _get(f"/v1/requests/{_segment(query.request_id)}", shared, _decoder(ProvenanceView))
        case ReadLineage():
            return _get(f"/v1/requests/{_segment(query.request_id)}/lineage", shared, _decoder(LineageView))
        case MakeReport():
            path, own, view = f"/v1/reports/{_segment(query.kind)}", _NO_FIELDS, ReportView
        case _:
            path, own, view = _SUMMED[type(query)]
    asked = {name: getattr(query, name) for name in (*_FILTERS, *own)}
    if isinstance(query, AggregateUsage):
        asked["by"] = ",".join(query.by)
        asked["top"] = "true" if query.top else None
        asked["cursor"] = cursor_of_keys(query.after)
        return _get(path, shared | asked, _decode_sums)
    return _get(path, shared | asked, _decoder(view))


def cursor_of_keys(keys: tuple[str | None, ...] | None) -> str | None:
    """The service's cursor for the page of sums behind a group; None for the first one."""
    return urlsafe_b64encode(msgspec.json.encode(keys)).decode().rstrip("=") if keys is not None else None


def like_local(refused: Refused, *, is_single: bool) -> Refused:
    """A refusal of a batch of one, or of a compound, with its field as the ledger itself names it."""
    field = refused.field
    if field is None or not field.startswith("operations"):
        return refused
    field = field.partition("].")[2] or None if is_single else field.replace("operations", "commands", 1)
    return msgspec.structs.replace(refused, field=field)


def cursor_of(after: int) -> str | None:
    """The service's cursor for the page behind a number; None for the first one.

    The contract counts pages by numbers where the service gives words. Both ends of it are ours.
    """
    return urlsafe_b64encode(b"after:%d" % after).decode().rstrip("=") if after else None


def after_of(cursor: str | None) -> int | None:
    """The number in a cursor.

    Raises:
        TreasuryError: it is not one of ours.

    >>> after_of(cursor_of(57))
    57
    """
    if cursor is None:
        return None
    try:
        mark, _, number = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).partition(b":")
        if mark == b"after":
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise TreasuryError(f"the service gave a cursor of another kind: {cursor:.50}")


def _batch(commands: Sequence[AnyCommand], key: str, decode: Callable[[bytes], Any], atomic: bool) -> Exchange:
    body = _encode({"operations": list(commands), "atomic": atomic})
    return Exchange(method="POST", target="/v1/batch", body=body, decode=decode, idempotency_key=key)


def _outcomes(body: bytes) -> tuple[Any, ...]:
    return tuple(item.answer for item in _decode_batch(body).answers)


def _get(path: str, parameters: Mapping[str, Any], decode: Callable[[bytes], View]) -> Exchange:
    given = {name: _text(value) for name, value in parameters.items() if value is not None}
    return Exchange(method="GET", target=f"{path}?{urlencode(given)}" if given else path, decode=decode)


def _text(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def _decode_accounts(body: bytes) -> AccountsPage:
    page = msgspec.json.decode(body, type=_AccountsPage)
    return AccountsPage(as_of_seq=page.as_of_seq, accounts=page.accounts, next=after_of(page.next))


def _decode_usage(body: bytes) -> UsagePage:
    page = msgspec.json.decode(body, type=_UsagePage)
    return UsagePage(as_of_seq=page.as_of_seq, usage=page.usage, next=after_of(page.next))


def _decode_sums(body: bytes) -> UsageTotals:
    page = msgspec.json.decode(body, type=_UsageTotals)
    fields = {name: getattr(page, name) for name in page.__struct_fields__}
    after = None if page.next is None else urlsafe_b64decode(page.next + "=" * (-len(page.next) % 4))
    keys = None if after is None else msgspec.json.decode(after, type=tuple[str | None, ...])
    return UsageTotals(**{**fields, "next": keys})


def _check_body(query: CheckReserve) -> bytes:
    fields = ("account", "amounts", "also", "attributes", "parent")
    return _encode({name: getattr(query, name) for name in fields})


def _decoder(kind: type[Any]) -> Callable[[bytes], Any]:
    return lambda body: msgspec.json.decode(body, type=kind)


def _body(command: AnyCommand, without: str = "") -> bytes:
    return _encode({name: getattr(command, name) for name in command.__struct_fields__ if name != without})


def _is_segment(name: str) -> bool:
    """Whether a name can stand in a path: some can not, or would mean another one."""
    return name not in ("", ".", "..")


def _segment(name: str) -> str:
    return quote(name, safe="")
