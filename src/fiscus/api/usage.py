"""What was used, what it cost, and where it came from: sums, reports, trends, forecasts, advice, lineage; a dry run."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from fiscus.analytics.rendering import to_csv, to_markdown
from fiscus.api.bodies import PageLength, ReadParameters, body_of
from fiscus.api.calls import Call, Handler, Reply
from fiscus.api.handlers import ask, reading
from fiscus.api.problems import Problem, problem, refusal_problem
from fiscus.contract.analysis import (
    HORIZON_DAYS_MAX,
    AggregateUsage,
    AnalyzeTasks,
    Bucket,
    Dimension,
    ForecastUsage,
    MakeReport,
    Measure,
    Period,
    ReadLineage,
    ReadProvenance,
    ReadRecommendations,
    ReadTrends,
    ReadWorkflow,
    ReportKind,
    ReportView,
    Totals,
    UsageGroup,
    UsageTotals,
)
from fiscus.contract.manager import configured
from fiscus.contract.queries import CheckReserve, ReadEnforcement
from fiscus.contract.query import PAGE_LENGTH_DEFAULT
from fiscus.contract.rehearsal import Rehearse
from fiscus.core.commands import PutTemplate, Reserve
from fiscus.core.outcomes import Refused

CURSOR_LENGTH_MAX = 4_096
CSV, MARKDOWN = "text/csv; charset=utf-8", "text/markdown; charset=utf-8"

Time = Annotated[datetime, Meta(tz=True)]
Text = Annotated[str, Meta(min_length=1, max_length=512)]

_keys = msgspec.json.Decoder(tuple[str | None, ...])

CheckBody = body_of(
    Reserve, "CheckBody", without=("id", "lease_s", "leave", "wait_s", "least", "alternatives", "loans")
)


class UsageFilters(ReadParameters):
    """Which calls: all that is given fits. ``period``: a named time, instead of ``since`` and ``until``.

    ``account``: paid by it or one below it; ``user_id`` … ``workflow_id``: as the call's record says, or as follows
    from the accounts that it was charged to.
    """

    period: Period | None = None
    since: Time | None = None
    until: Time | None = None
    account: str | None = None
    provider: Text | None = None
    model: Text | None = None
    user_id: Text | None = None
    project_id: Text | None = None
    team_id: Text | None = None
    feature: Text | None = None
    agent_id: Text | None = None
    task_type: Text | None = None
    workflow_id: Text | None = None


class SumsParameters(UsageFilters):
    """``by``: up to three dimensions, with commas between them. ``top``: the dearest groups, not in pages."""

    by: Annotated[str, Meta(pattern=r"^([a-z_]+(,[a-z_]+){0,2})?$", max_length=100)] = ""
    top: bool = False
    cursor: str | None = None
    limit: PageLength = PAGE_LENGTH_DEFAULT


class TrendsParameters(UsageFilters):
    """``bucket``: what a point is."""

    bucket: Bucket = "day"


class ForecastParameters(UsageFilters):
    """``measure``: of what; ``horizon_days``: how far ahead."""

    measure: Measure = "cost"
    horizon_days: Annotated[int, Meta(ge=1, le=HORIZON_DAYS_MAX)] = 7


class UsageTotalsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Sums by groups; ``next`` is the cursor of the next page, null at the end."""

    as_of_seq: int
    since: datetime | None
    until: datetime | None
    by: tuple[str, ...]
    totals: Totals
    groups: tuple[UsageGroup, ...]
    group_count: int
    next: str | None


def cursor_of_keys(keys: tuple[str | None, ...] | None) -> str | None:
    """The cursor of the page behind a group; None: there is no next page.

    >>> keys_of_cursor(cursor_of_keys(("a", None)) or "")
    ('a', None)
    """
    return None if keys is None else urlsafe_b64encode(msgspec.json.encode(keys)).decode().rstrip("=")


def keys_of_cursor(cursor: str) -> tuple[str | None, ...] | None:
    """The keys in a cursor; None: this is no cursor of ours.

    >>> keys_of_cursor("x") is None
    True
    """
    if len(cursor) > CURSOR_LENGTH_MAX:
        return None
    try:
        return _keys.decode(urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
    except (binascii.Error, UnicodeEncodeError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _filters(call: Call, *without: str) -> dict[str, Any]:
    given = msgspec.structs.asdict(call.parameters)
    return {name: value for name, value in given.items() if name not in without}


async def sum_usage(call: Call) -> Reply | Problem:
    """A page of sums."""
    asked = cast("SumsParameters", call.parameters)
    after = keys_of_cursor(asked.cursor) if asked.cursor is not None else None
    if asked.cursor is not None and after is None:
        return problem("invalid", "cursor: must be what the page before said is next", field="cursor")
    by = cast("tuple[Dimension, ...]", tuple(asked.by.split(",")) if asked.by else ())
    found = await ask(call, AggregateUsage(by=by, after=after, **_filters(call, "by", "cursor")))
    if isinstance(found, Refused):
        field = "cursor" if found.field == "after" else found.field
        return refusal_problem(msgspec.structs.replace(found, field=field))
    assert isinstance(found, UsageTotals)
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    return call.answer(UsageTotalsAnswer(**{**fields, "next": cursor_of_keys(found.next)}))


def _report_of(call: Call) -> MakeReport:
    kind = cast("ReportKind", call.path[0])
    return MakeReport(kind=kind, **_filters(call))


def _rendered(render: Callable[[ReportView], str], content_type: str) -> Handler:
    """A handler that answers a report as text."""

    async def handle(call: Call) -> Reply | Problem:
        found = await ask(call, _report_of(call))
        if isinstance(found, Refused):
            return refusal_problem(found)
        assert isinstance(found, ReportView)
        return Reply(status=200, body=render(found).encode(), content_type=content_type.encode())

    return handle


make_report = reading(_report_of)
report_as_csv = _rendered(to_csv, CSV)
report_as_markdown = _rendered(to_markdown, MARKDOWN)
read_trends = reading(lambda call: ReadTrends(**_filters(call)))
forecast_usage = reading(lambda call: ForecastUsage(**_filters(call)))
read_recommendations = reading(lambda call: ReadRecommendations(**_filters(call)))
analyze_tasks = reading(lambda call: AnalyzeTasks(**_filters(call)))
read_workflow = reading(lambda call: ReadWorkflow(workflow_id=call.path[0]))
read_provenance = reading(lambda call: ReadProvenance(request_id=call.path[0]))
read_lineage = reading(lambda call: ReadLineage(request_id=call.path[0]))
check_reserve = reading(lambda call: CheckReserve(may_open=call.caller.may_open, **msgspec.structs.asdict(call.body)))
read_enforcement = reading(lambda _: ReadEnforcement())


def _rehearsal(call: Call) -> Rehearse:
    body = msgspec.structs.asdict(call.body)
    body["templates"] = tuple(msgspec.convert(one, PutTemplate, from_attributes=True) for one in body["templates"])
    return Rehearse(**body)


rehearse = reading(_rehearsal)


class ConfigureBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be set while the ledger runs.

    Attributes:
        options: by name; none: where each of them is set is answered.
    """

    options: dict[str, Any] = {}


async def configure(call: Call) -> Reply | Problem:
    """Where the options of the token manager are set."""
    found = configured(call.body.options)
    return refusal_problem(found) if isinstance(found, Refused) else call.answer(found)
