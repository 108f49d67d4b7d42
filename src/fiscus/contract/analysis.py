"""Questions about what was used: sums, reports, trends, forecasts, advice, and where calls came from.

All are answered from the read model, which is at most a second behind, and say as of which entry. Times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from fiscus.contract.query import PAGE_LENGTH_DEFAULT, Query
from fiscus.core.records import Provenance

Dimension = Literal[
    "provider",
    "model",
    "user_id",
    "project_id",
    "team_id",
    "feature",
    "agent_id",
    "account",
    "task_type",
    "intent",
    "tool",
    "workflow_id",
    "prompt_template_id",
    "input_hash",
    "action",
    "outcome",
    "day",
    "hour",
]
"""What usage can be summed by.

``user_id``, ``project_id``, ``team_id``, ``feature`` and ``agent_id`` are those of the call's record, else follow from
the nearest account ``user:…``, ``project:…``, ``team:…``, ``feature:…``, ``agent:…`` that it was charged to. A call
with several tools counts under each of them.
"""

DIMENSIONS_MAX = 3
GROUPS_MAX = 100_000
"""Groups that one sum may have before it is refused as too wide."""

Period = Literal["today", "yesterday", "last_7_days", "last_30_days", "this_month", "last_month"]
"""``last_7_days`` are today and the six days before it; the others are what they are called."""

ReportKind = Literal["usage", "cost", "optimization"]
Measure = Literal["cost", "tokens", "calls"]
Bucket = Literal["day", "hour"]

HORIZON_DAYS_MAX = 90
LINEAGE_LENGTH_MAX = 1_000
"""Requests that a lineage shows; more are said to have been left out."""


class UsageQuery(Query):
    """A question about the calls that fit all that is given.

    Attributes:
        account: paid by this account or one below it.
        since, until: booked in this half-open time; not together with ``period``.
        provider … workflow_id: as in ``Dimension``.
    """

    account: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    period: Period | None = None
    provider: str | None = None
    model: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    team_id: str | None = None
    feature: str | None = None
    agent_id: str | None = None
    task_type: str | None = None
    workflow_id: str | None = None


class AggregateUsage(UsageQuery, tag="usage_sums"):
    """Sums of usage by up to ``DIMENSIONS_MAX`` dimensions.

    Attributes:
        by: the dimensions; none: one sum of all.
        top: the groups that cost most, at most ``limit`` of them, instead of pages in the order of their keys.
        after: the keys of the last group of the page before.
    """

    by: tuple[Dimension, ...] = ()
    top: bool = False
    after: tuple[str | None, ...] | None = None
    limit: int = PAGE_LENGTH_DEFAULT


class MakeReport(UsageQuery, tag="report"):
    """What was used, what it cost, or what could be saved; of the last seven days unless said otherwise."""

    kind: ReportKind = "usage"


class ReadTrends(UsageQuery, tag="trends"):
    """Usage per day or hour, and how it changes; of the last 30 days unless said otherwise."""

    bucket: Bucket = "day"


class ForecastUsage(UsageQuery, tag="forecast"):
    """What the next days will use, from whole days that are past; of the last 56 unless said otherwise."""

    measure: Measure = "cost"
    horizon_days: int = 7


class ReadRecommendations(UsageQuery, tag="recommendations"):
    """What could be saved, each with the figures that say so; of the last seven days unless said otherwise."""


class AnalyzeTasks(UsageQuery, tag="tasks"):
    """What kinds of tasks cost, by model and intent, and what was asked more than once."""


class ReadWorkflow(Query, tag="workflow"):
    """What all requests of one workflow used."""

    workflow_id: str


class ReadProvenance(Query, tag="provenance"):
    """Where one request came from. Its id is that of its record, else that of its hold."""

    request_id: str


class ReadLineage(Query, tag="lineage"):
    """The tree of requests that one request belongs to."""

    request_id: str


AnalysisQuery = (
    AggregateUsage
    | MakeReport
    | ReadTrends
    | ForecastUsage
    | ReadRecommendations
    | AnalyzeTasks
    | ReadWorkflow
    | ReadProvenance
    | ReadLineage
)


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of usage.

    Attributes:
        cost_nanousd: of all calls whose price was known.
        unpriced_calls: those whose cost is not in it, since nobody knew a price. Never taken for free.
        estimated_calls: those that were never settled and were booked with what they had held.
    """

    calls: int = 0
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0

    def __add__(self, other: Totals) -> Totals:
        """Both together.

        >>> (Totals(calls=1, cost_nanousd=5) + Totals(calls=2)).calls
        3
        """
        mine, more = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Totals(**dict(zip(self.__struct_fields__, map(sum, zip(mine, more, strict=True)), strict=True)))


class UsageGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of one value of each dimension; None: the calls that do not say it."""

    keys: dict[str, str | None]
    totals: Totals


class UsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to AggregateUsage.

    Attributes:
        since, until: the time that it is about; None: without bound.
        totals: of all calls that fit, each counted once.
        group_count: how many groups there are in all.
        next: ``after`` of the next page, None at the end.
    """

    as_of_seq: int
    since: datetime | None
    until: datetime | None
    by: tuple[str, ...]
    totals: Totals
    groups: tuple[UsageGroup, ...]
    group_count: int
    next: tuple[str | None, ...] | None


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a breakdown. Averages are rounded down; ``percent`` is of the cost, or of tokens if nothing costs."""

    name: str | None
    totals: Totals
    average_tokens: int
    average_cost_nanousd: int
    percent: float


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that cost most, and how many are not shown."""

    by: str
    shares: tuple[Share, ...]
    left_out: int


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """A day or hour that used far more than the usual one: ``amount`` against the median of those with usage."""

    at: datetime
    measure: Measure
    amount: int
    usual: int


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that could be saved.

    Attributes:
        kind: ``cheaper_model``, ``cache_repeats``, ``shorten_prompt``, ``expensive_task``, ``failed_calls``,
            ``price_missing``.
        detail: in words.
        figures: what it was worked out from; amounts of money in nano-USD.
        saving_nanousd: of the period, if it can be said.
    """

    kind: str
    subject: str
    detail: str
    figures: dict[str, int]
    saving_nanousd: int | None = None


class ReportView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to MakeReport. ``days`` is empty for ``optimization``; ``recommendations`` only there."""

    as_of_seq: int
    kind: ReportKind
    since: datetime
    until: datetime
    totals: Totals
    average_tokens: int
    average_cost_nanousd: int
    breakdowns: tuple[Breakdown, ...]
    days: tuple[Share, ...]
    hours_of_day: tuple[Totals, ...]
    anomalies: tuple[Anomaly, ...]
    recommendations: tuple[Recommendation, ...]


class TrendPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One day or hour, half-open from ``at``; one without usage is there with zeros."""

    at: datetime
    totals: Totals


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The second half against the first; ``percent`` is None where the first has nothing.

    Attributes:
        direction: ``rising`` and ``falling`` beyond 20 percent, else ``steady``.
    """

    measure: Measure
    first: int
    second: int
    percent: float | None
    direction: Literal["rising", "falling", "steady"]


class TrendsView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadTrends."""

    as_of_seq: int
    since: datetime
    until: datetime
    bucket: Bucket
    points: tuple[TrendPoint, ...]
    changes: tuple[Change, ...]
    anomalies: tuple[Anomaly, ...]


class BackTest(msgspec.Struct, frozen=True, kw_only=True):
    """How a method would have done on the past: the mean of how far it was off, over ``cases`` forecasts.

    Attributes:
        error: mean absolute error of the sum over the horizon, in the measure's unit.
        percent: the same of what was really used; None where nothing was.
    """

    method: str
    cases: int
    error: int
    percent: float | None


class ForecastView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ForecastUsage.

    Attributes:
        method: the one that did best on the past: ``mean``, ``weekday`` or ``line``; None: too little is known.
        days: what each of the next days is expected to use, from the present day on.
        total: over the horizon; ``low`` and ``high``: nine of ten forecasts of the past would have lain within.
        history_days: whole days that it was worked out from.
        backtests: of all methods.
        reason: why there is no forecast, if so.
    """

    as_of_seq: int
    measure: Measure
    horizon_days: int
    history_days: int
    method: str | None
    days: tuple[int, ...]
    total: int | None
    low: int | None
    high: int | None
    backtests: tuple[BackTest, ...]
    reason: str | None = None


class RecommendationsView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadRecommendations; what saves most comes first."""

    as_of_seq: int
    since: datetime
    until: datetime
    totals: Totals
    recommendations: tuple[Recommendation, ...]


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """Calls with the same input; ``wasted_nanousd``: what all but one of them cost."""

    input_hash: str
    calls: int
    cost_nanousd: int
    wasted_nanousd: int


class TasksView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to AnalyzeTasks (R14)."""

    as_of_seq: int
    since: datetime | None
    until: datetime | None
    totals: Totals
    average_tokens: int
    average_cost_nanousd: int
    by_task_type: Breakdown
    by_model: Breakdown
    by_intent: Breakdown
    duplicate_patterns: tuple[Repeated, ...]


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """One request: all that was booked under its id.

    Attributes:
        at: of its first booking.
        provenance: of its last record.
    """

    request_id: str
    at: datetime
    account: str
    model: str | None
    totals: Totals
    provenance: Provenance


class WorkflowView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadWorkflow; ``request_ids`` are the first ones, ``left_out`` says how many more there are."""

    as_of_seq: int
    workflow_id: str
    total_requests: int
    totals: Totals
    by_task_type: Breakdown
    request_ids: tuple[str, ...]
    left_out: int


class Relationship(msgspec.Struct, frozen=True, kw_only=True):
    """``request_id`` came from ``parent_request_id``; how, as its record says."""

    request_id: str
    parent_request_id: str
    relationship: str


class ProvenanceView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadProvenance.

    Attributes:
        lineage_depth: how many requests are above it, as far as they are known.
        root_request_id: the topmost of them.
        is_root: whether it names no parent.
        in_cycle: whether following its parents comes back to a request that was passed already.
        missing_parent: the parent that is named and is not known: not recorded, erased, archived, or not to be seen.
    """

    as_of_seq: int
    request: RequestView
    relationships: tuple[Relationship, ...]
    lineage_depth: int
    root_request_id: str
    is_root: bool
    in_cycle: bool
    missing_parent: str | None


class LineageNode(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a tree; its parent stands before it."""

    request: RequestView
    depth: int
    children: tuple[str, ...]


class LineageView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReadLineage: the whole tree of the root, the nearest to it first.

    Attributes:
        root_requests: where it begins: one request.
        total_descendants: of the root, as far as they are shown.
        cycles: requests whose parents lead back to themselves; each is shown once.
        is_whole: False: there are more requests than a lineage shows.
    """

    as_of_seq: int
    root_requests: tuple[str, ...]
    lineage_tree: tuple[LineageNode, ...]
    total_descendants: int
    totals: Totals
    cycles: tuple[str, ...]
    is_whole: bool


AnalysisView = (
    UsageTotals
    | ReportView
    | TrendsView
    | ForecastView
    | RecommendationsView
    | TasksView
    | WorkflowView
    | ProvenanceView
    | LineageView
)
