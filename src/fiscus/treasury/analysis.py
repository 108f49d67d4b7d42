"""Answers to questions about what was used: sums from the store's views, worked on by ``analytics``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import msgspec

from fiscus.analytics import forecast, lineage, periods, recommendations, trends
from fiscus.analytics.shares import average, breakdown, share, total_of
from fiscus.contract.analysis import (
    DIMENSIONS_MAX,
    GROUPS_MAX,
    HORIZON_DAYS_MAX,
    LINEAGE_LENGTH_MAX,
    AggregateUsage,
    AnalysisQuery,
    AnalysisView,
    AnalyzeTasks,
    Anomaly,
    Breakdown,
    Dimension,
    ForecastUsage,
    ForecastView,
    LineageView,
    MakeReport,
    Measure,
    Period,
    ProvenanceView,
    ReadLineage,
    ReadProvenance,
    ReadRecommendations,
    ReadTrends,
    ReadWorkflow,
    Recommendation,
    RecommendationsView,
    Repeated,
    ReportView,
    RequestView,
    Share,
    TasksView,
    Totals,
    TrendPoint,
    TrendsView,
    UsageGroup,
    UsageQuery,
    UsageTotals,
    WorkflowView,
)
from fiscus.contract.query import PAGE_LENGTH_MAX
from fiscus.core.checks import CALENDAR_END_MS, check_time, invalid, to_datetime, to_ms
from fiscus.core.outcomes import Refused
from fiscus.core.records import CallRecord, Provenance
from fiscus.core.units import Amounts
from fiscus.treasury.store import SUM_KEYS_MAX, Store, UsageAsked, UsageRow, UsageSum
from fiscus.treasury.usage_names import Attribution, Names

DIMENSIONS = frozenset(Dimension.__args__)  # type: ignore[attr-defined]  # what a Literal lists
MEASURES = frozenset(Measure.__args__)  # type: ignore[attr-defined]
PERIODS = frozenset(Period.__args__)  # type: ignore[attr-defined]
NAMED: dict[str, str] = {
    "user_id": "user_id",
    "project_id": "project_id",
    "team_id": "team_id",
    "feature": "feature",
    "agent_id": "provenance.agent_id",
}
"""Where the record says what otherwise follows from the accounts that a call was charged to."""

FIELDS: dict[str, str] = {
    **NAMED,
    "task_type": "provenance.task_type",
    "intent": "provenance.intent",
    "tool": "tools",
    "workflow_id": "provenance.workflow_id",
    "prompt_template_id": "provenance.prompt_template_id",
    "input_hash": "provenance.input_hash",
}
"""Where a dimension stands in the record, unless it is a column or is called the same."""

BREAKDOWNS: tuple[Dimension, ...] = ("provider", "model", "user_id", "project_id", "team_id", "feature")
TREND_DAYS, FORECAST_DAYS = 30, 56
POINTS_MAX = 9_000
"""Days or hours of one trend: a year of hours."""

ROWS_OF_REQUESTS_MAX = 20_000
REQUEST_IDS_SHOWN = 100
REPEATS_SHOWN = 20
DAY_MS, HOUR_MS = periods.DAY_MS, periods.HOUR_MS

_amounts: msgspec.json.Decoder[Amounts] = msgspec.json.Decoder(Amounts)
_record = msgspec.json.Decoder(CallRecord)
_texts: msgspec.json.Decoder[tuple[str, ...]] = msgspec.json.Decoder(tuple[str, ...])

Sums = dict[tuple[str | None, ...], Totals]


class _Invalid(Exception):
    """A question that cannot be answered; internal to this module."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.refused = refused


def analysis_view(
    store: Store, tenant: int, query: AnalysisQuery, as_of_seq: int, now: int, within: int | None
) -> AnalysisView | Refused:
    """Answer a question.

    Args:
        store: whose views are read.
        tenant: its number.
        query: the question.
        as_of_seq: the last entry that counts: the views are as of it, or further.
        now: the ledger's time (ms).
        within: the account that it is about, and all below it; None: all.
    """
    asked = _Asked(store, tenant, as_of_seq, now, within)
    try:
        return ANSWERS[type(query)](asked, query)
    except _Invalid as error:
        return error.refused


def check_analysis(query: AnalysisQuery) -> Refused | None:
    """What is wrong with a question, whatever the books say."""
    if isinstance(query, UsageQuery):
        wrong = _check_usage(query)
        if wrong is not None:
            return wrong
    else:
        field = "workflow_id" if isinstance(query, ReadWorkflow) else "request_id"
        wrong = _check_text(field, getattr(query, field))
        if wrong is not None:
            return wrong
    if isinstance(query, AggregateUsage):
        if len(query.by) > DIMENSIONS_MAX or len(set(query.by)) != len(query.by):
            return invalid("by", f"must be at most {DIMENSIONS_MAX} different dimensions")
        unknown = next((name for name in query.by if name not in DIMENSIONS), None)
        if unknown is not None:
            return invalid("by", f"{unknown!r:.50} is none of {', '.join(sorted(DIMENSIONS))}")
        if not 1 <= query.limit <= PAGE_LENGTH_MAX:
            return invalid("limit", f"must be in 1 … {PAGE_LENGTH_MAX}")
        if query.after is not None and (query.top or len(query.after) != len(query.by)):
            return invalid("after", "must be what the page before said is next")
    if isinstance(query, MakeReport) and query.kind not in {"usage", "cost", "optimization"}:
        return invalid("kind", "must be one of usage, cost, optimization")
    if isinstance(query, ReadTrends) and query.bucket not in {"day", "hour"}:
        return invalid("bucket", "must be one of day, hour")
    if isinstance(query, ForecastUsage):
        if query.measure not in MEASURES:
            return invalid("measure", "must be one of cost, tokens, calls")
        if not 1 <= query.horizon_days <= HORIZON_DAYS_MAX:
            return invalid("horizon_days", f"must be in 1 … {HORIZON_DAYS_MAX}")
    return None


def _check_usage(query: UsageQuery) -> Refused | None:
    if query.period is not None:
        if query.period not in PERIODS:
            return invalid("period", f"must be one of {', '.join(Period.__args__)}")  # type: ignore[attr-defined]
        if query.since is not None or query.until is not None:
            return invalid("period", "give a period, or since and until")
    for field in ("since", "until"):
        wrong = check_time(field, getattr(query, field))
        if wrong is not None:
            return wrong
    if query.since is not None and query.until is not None and query.until <= query.since:
        return invalid("until", "must be after since")
    texts = ("provider", "model", *NAMED, "task_type", "workflow_id")
    wrongs = (_check_text(field, getattr(query, field)) for field in texts if getattr(query, field) is not None)
    return next((wrong for wrong in wrongs if wrong is not None), None)


def _check_text(field: str, text: str) -> Refused | None:
    if not 1 <= len(text) <= 512 or "\0" in text:
        return invalid(field, "must have 1 to 512 characters, and no character 0")
    return None


class _TooWide(_Invalid):
    """There are too many groups."""

    def __init__(self) -> None:
        detail = f"there are more than {GROUPS_MAX} groups: ask for a shorter time, fewer dimensions or one account"
        super().__init__(invalid("by", detail))


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Recommendations, and the sums that they follow from."""

    found: tuple[Recommendation, ...]
    models: dict[str | None, Totals]
    tasks: dict[str | None, Totals]


class _Asked:
    """What all answers need."""

    def __init__(self, store: Store, tenant: int, as_of_seq: int, now: int, within: int | None) -> None:
        self.views = store.views
        self.tenant = tenant
        self.as_of_seq = as_of_seq
        self.now = now
        self.within = within
        self.names = Names(store, tenant)

    def times(self, query: UsageQuery, period: Period | None, days: int = 0) -> tuple[int | None, int | None]:
        """The half-open time that a question is about (ms); where it says none, ``period``, or the last whole days."""
        if query.period is not None or (query.since is None and query.until is None and period is not None):
            since, until = periods.bounds(query.period or cast("Period", period), to_datetime(self.now))
            return to_ms(since), to_ms(until)
        if query.since is None and query.until is None and days:
            today = self.now - self.now % DAY_MS
            return today - (days - 1) * DAY_MS, today + DAY_MS
        return (
            to_ms(query.since) if query.since is not None else None,
            to_ms(query.until) if query.until is not None else None,
        )

    def bounded(self, query: UsageQuery, period: Period | None, days: int = 0) -> tuple[int, int]:
        """The same, with both ends."""
        since, until = self.times(query, period, days)
        if since is None:
            raise _Invalid(invalid("since", "must be given with until"))
        if until is None:
            until = max(since + 1, self.now + 1)
        if until > CALENDAR_END_MS:
            raise _Invalid(invalid("since", "must lie before the end of the year 9999"))
        return since, until

    def sums(
        self, query: UsageQuery, by: Sequence[str], times: tuple[int | None, int | None], calls_min: int = 0
    ) -> Sums:
        """Sums by dimensions. A call with several tools is under each of them."""
        since, until = times
        filters = {name: wanted for name in NAMED if (wanted := getattr(query, name)) is not None}
        named = [name for name in (*by, *filters) if name in NAMED]
        keys = [FIELDS.get(name, name) for name in dict.fromkeys((*by, *filters))]
        place = {name: index for index, name in enumerate(dict.fromkeys((*by, *filters)))}
        extra = [key for key in ("account", "also") if named and key not in keys]
        found = self.views.usage_sums(
            self.tenant,
            UsageAsked(
                keys=(*keys, *extra),
                within=self.within,
                since=since,
                until=until,
                upto=self.as_of_seq,
                provider=query.provider,
                model=query.model,
                task_type=query.task_type,
                workflow_id=query.workflow_id,
                calls_min=0 if named else calls_min,
                limit=GROUPS_MAX + 1,
            ),
        )
        if len(found) > GROUPS_MAX:
            raise _TooWide
        place |= {key: len(keys) + index for index, key in enumerate(extra)}
        attribution = self.names.attribution(_charged(found, place), query.scope) if named else None
        sums: Sums = {}
        for one in found:
            if all(_named(one, name, place, attribution) == wanted for name, wanted in filters.items()):
                for group in self._groups(one, by, place, attribution):
                    sums[group] = sums.get(group, Totals()) + _totals(one)
        return {group: totals for group, totals in sums.items() if totals.calls >= calls_min}

    def _groups(
        self, one: UsageSum, by: Sequence[str], place: Mapping[str, int], attribution: Attribution | None
    ) -> Iterable[tuple[str | None, ...]]:
        groups: list[tuple[str | None, ...]] = [()]
        for name in by:
            value = _named(one, name, place, attribution) if name in NAMED else one.keys[place[name]]
            values: Iterable[str | None] = (self._shown(name, value),)
            if name == "tool":
                values = tuple(dict.fromkeys(_texts.decode(value))) if value else (None,)
            groups = [(*group, each) for group in groups for each in values or (None,)]
        return groups

    def _shown(self, name: str, value: str | None) -> str | None:
        if value is None:
            return None
        if name == "account":
            return self.names.name(int(value))
        if name in {"day", "hour"}:
            time = periods.at(int(value), DAY_MS if name == "day" else HOUR_MS)
            return f"{time:%Y-%m-%d}" if name == "day" else f"{time:%Y-%m-%dT%H:00Z}"
        return value

    def parts(
        self, query: UsageQuery, by: Sequence[Dimension], times: tuple[int | None, int | None]
    ) -> dict[Dimension, dict[str | None, Totals]]:
        """Sums by each of some dimensions by itself, in one pass over the usage where there are not too many groups."""
        filters = [name for name in NAMED if getattr(query, name) is not None]
        found: dict[Dimension, dict[str | None, Totals]] = {name: {} for name in by}
        try:
            if len({*by, *filters, "account", "also"}) > SUM_KEYS_MAX:
                raise _TooWide
            together = self.sums(query, by, times)
        except _TooWide:
            return {name: _by_one(self.sums(query, (name,), times)) for name in by}
        for group, totals in together.items():
            for name, value in zip(by, group, strict=True):
                found[name][value] = found[name].get(value, Totals()) + totals
        return found

    def whole(self, query: UsageQuery, times: tuple[int | None, int | None]) -> Totals:
        """One sum of all."""
        return total_of(self.sums(query, (), times).values())

    def points(self, query: UsageQuery, times: tuple[int, int], length_ms: int) -> list[TrendPoint]:
        """Sums per day or hour, also where there is nothing."""
        since, until = times
        numbers = periods.starts(to_datetime(since), to_datetime(until), length_ms)
        if len(numbers) > POINTS_MAX:
            raise _Invalid(invalid("since", f"the time has more than {POINTS_MAX} of the buckets"))
        name = "day" if length_ms == DAY_MS else "hour"
        sums = self.sums(query, (name,), times)
        return [
            TrendPoint(at=periods.at(number, length_ms), totals=sums.get((self._shown(name, str(number)),), Totals()))
            for number in numbers
        ]

    def advice(self, query: UsageQuery, times: tuple[int, int]) -> Advice:
        """See ``analytics.recommendations``; with the sums by model and by task that it follows from."""
        together = self.sums(query, ("task_type", "model"), times)
        parts = self.parts(query, ("prompt_template_id", "outcome"), times)
        models, tasks = _part(together, 1), _part(together, 0)
        found = recommendations.recommendations(
            task_models={(task, model): totals for (task, model), totals in together.items()},
            templates=parts["prompt_template_id"],
            outcomes=parts["outcome"],
            models=models,
            repeated=self.repeated(query, times),
        )
        return Advice(found=found, models=models, tasks=tasks)

    def repeated(self, query: UsageQuery, times: tuple[int | None, int | None]) -> tuple[Repeated, ...]:
        """Inputs that were sent more than once."""
        return recommendations.repeats(_by_one(self.sums(query, ("input_hash",), times, calls_min=2)))

    # -- requests ---------------------------------------------------------------------------------------------------

    def requests(self, rows: Iterable[UsageRow]) -> dict[str, RequestView]:
        """Requests by id, out of all rows that were booked under it; the last record counts."""
        found: dict[str, RequestView] = {}
        for row in rows:
            record = _record.decode(row.record) if row.record is not None else CallRecord()
            provenance = record.provenance or Provenance()
            id = provenance.request_id or row.hold
            known = found.get(id)
            totals = row_totals(row)
            found[id] = RequestView(
                request_id=id,
                at=known.at if known is not None else to_datetime(row.at),
                account=self.names.name(row.account) or str(row.account),
                model=row.model or (known.model if known is not None else None),
                totals=known.totals + totals if known is not None else totals,
                provenance=provenance,
            )
        return found

    def find(self, ids: Sequence[str]) -> dict[str, RequestView]:
        """The requests with these ids."""
        rows = self.views.usage_of(self.tenant, "request_id", ids, self.within, self.as_of_seq, ROWS_OF_REQUESTS_MAX)
        return {id: request for id, request in self.requests(rows).items() if id in ids}

    def children(self, ids: Sequence[str]) -> list[RequestView]:
        """The requests that name one of these as their parent."""
        rows = self.views.usage_of(
            self.tenant, "parent_request_id", ids, self.within, self.as_of_seq, ROWS_OF_REQUESTS_MAX
        )
        return list(self.find(list(self.requests(rows))).values()) if rows else []

    def request(self, id: str) -> RequestView:
        """One request, which has to be there."""
        found = self.find([id]).get(id)
        if found is None:
            raise _Invalid(
                Refused(code="unknown_request", detail=f"Provenance not found for request {id}", field="request_id")
            )
        return found


def row_totals(row: UsageRow) -> Totals:
    """What one reading added.

    >>> row = UsageRow(1, 0, "h", 1, b"[]", b'{"tokens":5,"calls":1}', b"{}", False, None, None, None)
    >>> row_totals(row).unpriced_calls
    1
    """
    amounts = _amounts.decode(row.amounts)
    calls = amounts.get("calls", 0)
    return Totals(
        calls=calls,
        tokens=amounts.get("tokens", 0),
        input_tokens=amounts.get("input_tokens", 0),
        output_tokens=amounts.get("output_tokens", 0),
        cost_nanousd=amounts.get("cost", 0),
        unpriced_calls=calls if "cost" not in amounts else 0,
        estimated_calls=int(row.estimated),
    )


def _totals(one: UsageSum) -> Totals:
    return Totals(
        calls=one.calls,
        tokens=one.tokens,
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        cost_nanousd=one.cost_nanousd,
        unpriced_calls=one.unpriced_calls,
        estimated_calls=one.estimated_calls,
    )


def _charged(found: Iterable[UsageSum], place: Mapping[str, int]) -> set[tuple[str, str]]:
    """The payer and the other accounts of each group, as they stand in its keys."""
    account, also = place["account"], place["also"]
    return {(one.keys[account] or "", one.keys[also] or "[]") for one in found}


def _named(one: UsageSum, name: str, place: Mapping[str, int], attribution: Attribution | None) -> str | None:
    """What the record says, else what follows from the accounts."""
    said = one.keys[place[name]]
    if said is not None or attribution is None:
        return said
    return attribution.of(name, one.keys[place["account"]] or "", one.keys[place["also"]] or "[]")


def _part(sums: Sums, index: int) -> dict[str | None, Totals]:
    """Sums by one of their dimensions."""
    found: dict[str | None, Totals] = {}
    for group, totals in sums.items():
        found[group[index]] = found.get(group[index], Totals()) + totals
    return found


def _by_one(sums: Sums) -> dict[str | None, Totals]:
    return {group[0]: totals for group, totals in sums.items()}


# -- answers ---------------------------------------------------------------------------------------------------------


def _order(group: tuple[str | None, ...]) -> tuple[tuple[bool, str], ...]:
    return tuple((key is not None, key or "") for key in group)


def _aggregate(asked: _Asked, query: AggregateUsage) -> UsageTotals:
    times = asked.times(query, None)
    sums = asked.sums(query, query.by, times)
    totals = total_of(sums.values()) if "tool" not in query.by else asked.whole(query, times)
    if query.top:
        groups = sorted(sums, key=lambda group: (-sums[group].cost_nanousd, -sums[group].tokens, _order(group)))
    else:
        groups = sorted(sums, key=_order)
        if query.after is not None:
            groups = [group for group in groups if _order(group) > _order(query.after)]
    shown = groups[: query.limit] if query.by else ()
    since, until = times
    return UsageTotals(
        as_of_seq=asked.as_of_seq,
        since=to_datetime(since) if since is not None else None,
        until=to_datetime(until) if until is not None else None,
        by=query.by,
        totals=totals,
        groups=tuple(UsageGroup(keys=dict(zip(query.by, group, strict=True)), totals=sums[group]) for group in shown),
        group_count=len(sums) if query.by else 0,
        next=shown[-1] if shown and len(groups) > query.limit and not query.top else None,
    )


def _report(asked: _Asked, query: MakeReport) -> ReportView:
    times = asked.bounded(query, "last_7_days")
    if query.kind == "optimization":
        advice = asked.advice(query, times)
        whole = total_of(advice.models.values())
        parts = (breakdown("model", advice.models, whole), breakdown("task_type", advice.tasks, whole))
        return _written(asked, query, times, whole, breakdowns=parts, recommendations=advice.found)
    if times[1] - times[0] > POINTS_MAX * HOUR_MS:
        raise _Invalid(invalid("since", f"the time of a report has at most {POINTS_MAX} hours"))
    hours = asked.points(query, times, HOUR_MS)
    by_hour, by_day = [Totals()] * 24, dict[datetime, Totals]()
    for point in hours:
        by_hour[point.at.hour] += point.totals
        day = point.at.replace(hour=0)
        by_day[day] = by_day.get(day, Totals()) + point.totals
    whole = total_of(by_hour)
    points = [TrendPoint(at=day, totals=totals) for day, totals in by_day.items()]
    return _written(
        asked,
        query,
        times,
        whole,
        breakdowns=tuple(breakdown(name, part, whole) for name, part in asked.parts(query, BREAKDOWNS, times).items()),
        days=tuple(share(f"{point.at:%Y-%m-%d}", point.totals, whole) for point in points),
        hours_of_day=tuple(by_hour),
        anomalies=trends.anomalies(points),
    )


def _written(
    asked: _Asked,
    query: MakeReport,
    times: tuple[int, int],
    whole: Totals,
    *,
    breakdowns: tuple[Breakdown, ...],
    days: tuple[Share, ...] = (),
    hours_of_day: tuple[Totals, ...] = (),
    anomalies: tuple[Anomaly, ...] = (),
    recommendations: tuple[Recommendation, ...] = (),
) -> ReportView:
    return ReportView(
        as_of_seq=asked.as_of_seq,
        kind=query.kind,
        since=to_datetime(times[0]),
        until=to_datetime(times[1]),
        totals=whole,
        average_tokens=average(whole.tokens, whole.calls),
        average_cost_nanousd=average(whole.cost_nanousd, whole.calls),
        breakdowns=breakdowns,
        days=days,
        hours_of_day=hours_of_day,
        anomalies=anomalies,
        recommendations=recommendations,
    )


def _trends(asked: _Asked, query: ReadTrends) -> TrendsView:
    times = asked.bounded(query, None, TREND_DAYS)
    points = asked.points(query, times, DAY_MS if query.bucket == "day" else HOUR_MS)
    return TrendsView(
        as_of_seq=asked.as_of_seq,
        since=to_datetime(times[0]),
        until=to_datetime(times[1]),
        bucket=query.bucket,
        points=tuple(points),
        changes=trends.changes(points),
        anomalies=trends.anomalies(points),
    )


def _forecast(asked: _Asked, query: ForecastUsage) -> ForecastView:
    since, until = asked.bounded(query, None, FORECAST_DAYS + 1)
    until = min(until, asked.now) // DAY_MS * DAY_MS
    since = -(-since // DAY_MS) * DAY_MS
    points = asked.points(query, (since, until), DAY_MS) if until > since else []
    past = [trends.amount_of(point.totals, query.measure) for point in points]
    first = next((index for index, amount in enumerate(past) if amount), len(past))
    known = past[first:]
    found = forecast.forecast(known, query.horizon_days)
    return ForecastView(
        as_of_seq=asked.as_of_seq,
        measure=query.measure,
        horizon_days=query.horizon_days,
        history_days=len(known),
        method=found.method,
        days=found.days,
        total=found.total,
        low=found.low,
        high=found.high,
        backtests=found.backtests,
        reason=found.reason,
    )


def _recommendations(asked: _Asked, query: ReadRecommendations) -> RecommendationsView:
    times = asked.bounded(query, "last_7_days")
    advice = asked.advice(query, times)
    return RecommendationsView(
        as_of_seq=asked.as_of_seq,
        since=to_datetime(times[0]),
        until=to_datetime(times[1]),
        totals=total_of(advice.models.values()),
        recommendations=advice.found,
    )


def _tasks(asked: _Asked, query: AnalyzeTasks) -> TasksView:
    times = asked.times(query, None)
    parts = asked.parts(query, ("task_type", "model", "intent"), times)
    whole = total_of(parts["model"].values())
    return TasksView(
        as_of_seq=asked.as_of_seq,
        since=to_datetime(times[0]) if times[0] is not None else None,
        until=to_datetime(times[1]) if times[1] is not None else None,
        totals=whole,
        average_tokens=average(whole.tokens, whole.calls),
        average_cost_nanousd=average(whole.cost_nanousd, whole.calls),
        by_task_type=breakdown("task_type", parts["task_type"], whole),
        by_model=breakdown("model", parts["model"], whole),
        by_intent=breakdown("intent", parts["intent"], whole),
        duplicate_patterns=asked.repeated(query, times)[:REPEATS_SHOWN],
    )


def _workflow(asked: _Asked, query: ReadWorkflow) -> WorkflowView:
    rows = asked.views.usage_of(
        asked.tenant, "workflow_id", [query.workflow_id], asked.within, asked.as_of_seq, ROWS_OF_REQUESTS_MAX + 1
    )
    if len(rows) > ROWS_OF_REQUESTS_MAX:
        raise _Invalid(invalid("workflow_id", f"the workflow has more than {ROWS_OF_REQUESTS_MAX} bookings"))
    requests = asked.requests(rows)
    by_task: dict[str | None, Totals] = {}
    for request in requests.values():
        task = request.provenance.task_type
        by_task[task] = by_task.get(task, Totals()) + request.totals
    whole = total_of(by_task.values())
    ids = tuple(requests)
    return WorkflowView(
        as_of_seq=asked.as_of_seq,
        workflow_id=query.workflow_id,
        total_requests=len(ids),
        totals=whole,
        by_task_type=breakdown("task_type", by_task, whole),
        request_ids=ids[:REQUEST_IDS_SHOWN],
        left_out=max(0, len(ids) - REQUEST_IDS_SHOWN),
    )


def _provenance(asked: _Asked, query: ReadProvenance) -> ProvenanceView:
    request = asked.request(query.request_id)
    ascent = lineage.ascend(request, asked.find)
    return ProvenanceView(
        as_of_seq=asked.as_of_seq,
        request=request,
        relationships=lineage.relationships(request),
        lineage_depth=len(ascent.above),
        root_request_id=ascent.above[-1] if ascent.above else request.request_id,
        is_root=lineage.parent_of(request) is None,
        in_cycle=ascent.in_cycle,
        missing_parent=ascent.missing,
    )


def _lineage(asked: _Asked, query: ReadLineage) -> LineageView:
    request = asked.request(query.request_id)
    ascent = lineage.ascend(request, asked.find)
    root = asked.request(ascent.above[-1]) if ascent.above else request
    nodes, cycles, is_whole = lineage.descend(root, asked.children)
    return LineageView(
        as_of_seq=asked.as_of_seq,
        root_requests=(root.request_id,),
        lineage_tree=tuple(nodes),
        total_descendants=len(nodes) - 1,
        totals=lineage.total(nodes),
        cycles=cycles,
        is_whole=is_whole and len(nodes) <= LINEAGE_LENGTH_MAX,
    )


ANSWERS: dict[type, Callable[[_Asked, Any], AnalysisView]] = {
    AggregateUsage: _aggregate,
    MakeReport: _report,
    ReadTrends: _trends,
    ForecastUsage: _forecast,
    ReadRecommendations: _recommendations,
    AnalyzeTasks: _tasks,
    ReadWorkflow: _workflow,
    ReadProvenance: _provenance,
    ReadLineage: _lineage,
}
