"""``fiscus usage``, ``report``, ``trends``, ``forecast`` and others: what was used, and where it came from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints

import typer

from fiscus.cli.connection import connected
from fiscus.cli.invocation import Invocation
from fiscus.cli.output import amount_text, read_amounts, read_pairs, time_text
from fiscus.cli.times import FORMATS, in_utc
from fiscus.contract.analysis import (
    AggregateUsage,
    AnalyzeTasks,
    Bucket,
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
    ReportKind,
    ReportView,
    TasksView,
    Totals,
    TrendsView,
    UsageTotals,
    WorkflowView,
)
from fiscus.contract.queries import CheckReserve, CheckView

Format = Literal["markdown", "csv", "json"]
R = TypeVar("R")

PANEL = "Which calls"
TOTALS_COLUMNS = ("calls>", "tokens>", "cost>", "unpriced>")
Limit = Annotated[int, typer.Option(min=1, max=1_000, help="At most so many groups.")]
Request = Annotated[str, typer.Argument(help="Id of the request; of its hold, where its record says none.")]


def _filter(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL)


FILTERS: dict[str, Any] = {
    "period": Annotated[Period | None, _filter("A named time, in UTC; instead of --since and --until.")],
    "since": Annotated[
        datetime | None, typer.Option(formats=FORMATS, help="From then on, in UTC.", rich_help_panel=PANEL)
    ],
    "until": Annotated[datetime | None, typer.Option(formats=FORMATS, help="Before then.", rich_help_panel=PANEL)],
    "account": Annotated[str | None, _filter("Paid by this account or one below it.")],
    "provider": Annotated[str | None, _filter("Of this provider.")],
    "model": Annotated[str | None, _filter("Of this model.")],
    "user_id": Annotated[str | None, _filter("Of this user.", "--user")],
    "project_id": Annotated[str | None, _filter("Of this project.", "--project")],
    "team_id": Annotated[str | None, _filter("Of this team.", "--team")],
    "feature": Annotated[str | None, _filter("Of this feature.")],
    "agent_id": Annotated[str | None, _filter("Of this agent.", "--agent")],
    "task_type": Annotated[str | None, _filter("Of this kind of task.", "--task-type")],
    "workflow_id": Annotated[str | None, _filter("Of this workflow.", "--workflow")],
}


def filtered(function: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[R]]:
    """Give a command the options that say which calls it is about; it gets them as ``filters``."""

    @functools.wraps(function)
    async def run(invocation: Invocation, **values: Any) -> R:
        filters = {name: values.pop(name) for name in FILTERS}
        for name in ("since", "until"):
            filters[name] = in_utc(filters[name])
        return await function(invocation, filters=filters, **values)

    hints = get_type_hints(function, include_extras=True)
    own = [one for one in inspect.signature(function).parameters.values() if one.name not in ("filters",)]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in FILTERS.items()
    ]
    kept = [one.replace(annotation=hints[one.name]) for one in own]
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in kept[1:]]
    parameters = [kept[0], *keyword, *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__  # or the parameters of the function itself would be read
    return run


@filtered
async def sum_usage(
    invocation: Invocation,
    by: Annotated[list[str] | None, typer.Option(help="What to sum by, as model or user_id; up to three.")] = None,
    limit: Limit = 100,
    *,
    filters: dict[str, Any],
) -> None:
    """Sum usage, by up to three dimensions; the dearest groups first."""
    async with connected(invocation) as connection:
        query = AggregateUsage(
            tenant=connection.tenant,
            by=cast("tuple[Dimension, ...]", tuple(by or ())),
            top=True,
            limit=limit,
            **filters,
        )
        found = await connection.read(UsageTotals, query)
    if invocation.json or not by:
        invocation.output.answer(found, _totals_text(found.totals))
        return
    rows = [(*(group.keys[name] or "(not said)" for name in by), *_totals(group.totals)) for group in found.groups]
    invocation.output.rows(found.groups, (*by, *TOTALS_COLUMNS), [*rows, (*_all_of(by), *_totals(found.totals))])
    if found.group_count > limit:
        typer.echo(f"{found.group_count - limit} more groups are not shown; ask for them with --limit", err=True)


@filtered
async def make_report(
    invocation: Invocation,
    kind: Annotated[ReportKind, typer.Argument(help="What it is about.")] = "usage",
    format: Annotated[Format, typer.Option(help="How it is written.")] = "markdown",
    *,
    filters: dict[str, Any],
) -> None:
    """Make a report of usage, of cost, or of what could be saved; of the last seven days unless said otherwise."""
    from fiscus.analytics.rendering import to_csv, to_markdown

    async with connected(invocation) as connection:
        found = await connection.read(ReportView, MakeReport(tenant=connection.tenant, kind=kind, **filters))
    if invocation.json or format == "json":
        Invocation(json=True).output.answer(found, "")
    elif format == "csv":
        invocation.output.answer(found, to_csv(found).removesuffix("\r\n"))
    else:
        invocation.output.answer(found, to_markdown(found).removesuffix("\n"))


@filtered
async def read_trends(
    invocation: Invocation,
    bucket: Annotated[Bucket, typer.Option(help="What a row is.")] = "day",
    *,
    filters: dict[str, Any],
) -> None:
    """Show usage per day or hour, and how it changes; of the last 30 days unless said otherwise."""
    async with connected(invocation) as connection:
        found = await connection.read(TrendsView, ReadTrends(tenant=connection.tenant, bucket=bucket, **filters))
    if invocation.json:
        invocation.output.answer(found, "")
        return
    rows = [(time_text(point.at), *_totals(point.totals)) for point in found.points if point.totals.calls]
    invocation.output.rows((), (bucket, *TOTALS_COLUMNS), rows)
    for change in found.changes:
        percent = "" if change.percent is None else f" ({change.percent:+} %)"
        typer.echo(f"{change.measure}: {change.direction}{percent}")
    for one in found.anomalies:
        typer.echo(f"{time_text(one.at)}: {_amount(one.measure, one.amount)}, usual {_amount(one.measure, one.usual)}")


@filtered
async def forecast_usage(
    invocation: Invocation,
    measure: Annotated[Measure, typer.Argument(help="Of what.")] = "cost",
    horizon_days: Annotated[int, typer.Option("--days", min=1, max=90, help="How far ahead.")] = 7,
    *,
    filters: dict[str, Any],
) -> None:
    """Forecast the next days, from whole days that are past; says how far the same method was off before."""
    async with connected(invocation) as connection:
        query = ForecastUsage(tenant=connection.tenant, measure=measure, horizon_days=horizon_days, **filters)
        found = await connection.read(ForecastView, query)
    if found.method is None or found.total is None or found.low is None or found.high is None:
        invocation.output.answer(found, f"no forecast: {found.reason}")
        return
    best = next(one for one in found.backtests if one.method == found.method)
    total, low, high, error = (_amount(measure, amount) for amount in (found.total, found.low, found.high, best.error))
    text = (
        f"{total} in the next {horizon_days} days, {low} to {high} (method {found.method}; "
        f"{best.cases} forecasts of the past were off by {error} on average)"
    )
    invocation.output.answer(found, text)


@filtered
async def read_recommendations(invocation: Invocation, *, filters: dict[str, Any]) -> None:
    """Show what could be saved, with the figures that say so; of the last seven days unless said otherwise."""
    async with connected(invocation) as connection:
        query = ReadRecommendations(tenant=connection.tenant, **filters)
        found = await connection.read(RecommendationsView, query)
    columns = ("saves>", "what", "of", "why", "figures")
    invocation.output.rows(found.recommendations, columns, map(_advice, found.recommendations))


@filtered
async def analyze_tasks(invocation: Invocation, *, filters: dict[str, Any]) -> None:
    """Show what kinds of tasks cost, and what was asked more than once."""
    async with connected(invocation) as connection:
        found = await connection.read(TasksView, AnalyzeTasks(tenant=connection.tenant, **filters))
    if invocation.json:
        invocation.output.answer(found, "")
        return
    shares = [
        (part.by, share.name or "(not said)", *_totals(share.totals), f"{share.average_tokens:,}")
        for part in (found.by_task_type, found.by_model, found.by_intent)
        for share in part.shares
    ]
    invocation.output.rows((), ("by", "what", *TOTALS_COLUMNS, "average tokens>"), shares)
    for one in found.duplicate_patterns:
        typer.echo(f"{one.input_hash}: {one.calls} calls, {amount_text('cost', one.wasted_nanousd)} of it for nothing")


async def read_workflow(
    invocation: Invocation, workflow: Annotated[str, typer.Argument(help="Id of the workflow.")]
) -> None:
    """Sum what all requests of a workflow used."""
    async with connected(invocation) as connection:
        query = ReadWorkflow(tenant=connection.tenant, workflow_id=workflow)
        found = await connection.read(WorkflowView, query)
    invocation.output.answer(found, f"{workflow}: {found.total_requests} requests, {_totals_text(found.totals)}")


async def read_provenance(invocation: Invocation, request: Request) -> None:
    """Show where a request came from."""
    async with connected(invocation) as connection:
        query = ReadProvenance(tenant=connection.tenant, request_id=request)
        found = await connection.read(ProvenanceView, query)
    said = found.request.provenance
    lines = [
        f"{request}: {_totals_text(found.request.totals)}, paid by {found.request.account}",
        f"root {found.root_request_id}, depth {found.lineage_depth}" + (", in a cycle" if found.in_cycle else ""),
    ]
    lines += [f"{one.relationship} {one.parent_request_id}" for one in found.relationships]
    if found.missing_parent is not None:
        lines.append(f"nothing is known of its ancestor {found.missing_parent}")
    named = {"agent": said.agent_id, "task": said.task_type, "intent": said.intent, "workflow": said.workflow_id}
    lines += [f"{name} {value}" for name, value in named.items() if value is not None]
    invocation.output.answer(found, "\n".join(lines))


async def read_lineage(invocation: Invocation, request: Request) -> None:
    """Show the tree of requests that a request belongs to."""
    async with connected(invocation) as connection:
        query = ReadLineage(tenant=connection.tenant, request_id=request)
        found = await connection.read(LineageView, query)
    lines = [*_tree(found), f"{found.total_descendants} descendants, {_totals_text(found.totals)}"]
    if found.cycles:
        lines.append(f"parents lead round in a circle at {', '.join(found.cycles)}")
    if not found.is_whole:
        lines.append("there are more requests than are shown")
    invocation.output.answer(found, "\n".join(lines))


async def check_budget(
    invocation: Invocation,
    account: Annotated[str, typer.Argument(help="Who would pay.")],
    amounts: Annotated[list[str], typer.Argument(help="tokens=4000, cost=$0.02 …", metavar="UNIT=AMOUNT...")],
    also: Annotated[list[str] | None, typer.Option(help="Who would be charged besides.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="model=… and others that budgets look at.")] = None,
) -> int:
    """Say whether a call would be admitted now: a dry run, nothing is held. Exit code 1 if it would not."""
    async with connected(invocation) as connection:
        query = CheckReserve(
            tenant=connection.tenant,
            account=account,
            amounts=read_amounts(amounts),
            also=tuple(also or ()),
            attributes=read_pairs(attribute or ()),
        )
        found = await connection.read(CheckView, query)
    refused = found.refused
    text = "would be admitted now; nothing is held" if refused is None else f"would be refused: {refused.detail}"
    invocation.output.answer(found, text)
    return 0 if found.admitted else 1


def _tree(found: LineageView) -> Iterable[str]:
    """The requests, each below its parent."""
    nodes = {node.request.request_id: node for node in found.lineage_tree}
    left = list(found.root_requests)
    while left:
        node = nodes[left.pop()]
        left += reversed(node.children)
        cost = amount_text("cost", node.request.totals.cost_nanousd)
        task = node.request.provenance.task_type or ""
        yield f"{'  ' * node.depth}{node.request.request_id} {task} {cost}".rstrip()


def _all_of(by: list[str]) -> tuple[str, ...]:
    return ("all", *("",) * (len(by) - 1))


def _totals(totals: Totals) -> tuple[str, ...]:
    """The cells of ``TOTALS_COLUMNS``."""
    unpriced = f"{totals.unpriced_calls:,}" if totals.unpriced_calls else ""
    return f"{totals.calls:,}", f"{totals.tokens:,}", amount_text("cost", totals.cost_nanousd), unpriced


def _totals_text(totals: Totals) -> str:
    text = f"{totals.calls:,} calls, {totals.tokens:,} tokens, {amount_text('cost', totals.cost_nanousd)}"
    return f"{text}; the cost of {totals.unpriced_calls:,} of them is not known" if totals.unpriced_calls else text


def _amount(measure: Measure, amount: int) -> str:
    return amount_text("cost", amount) if measure == "cost" else f"{amount:,} {measure}"


def _advice(one: Recommendation) -> tuple[str, ...]:
    saving = "" if one.saving_nanousd is None else amount_text("cost", one.saving_nanousd)
    figures = ", ".join(
        f"{name.removesuffix('_nanousd')} {amount_text('cost', value)}" if "nanousd" in name else f"{name} {value:,}"
        for name, value in one.figures.items()
    )
    return saving, one.kind, one.subject, one.detail, figures


COMMANDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("usage", sum_usage),
    ("report", make_report),
    ("trends", read_trends),
    ("forecast", forecast_usage),
    ("recommendations", read_recommendations),
    ("tasks", analyze_tasks),
    ("workflow", read_workflow),
    ("provenance", read_provenance),
    ("lineage", read_lineage),
    ("check", check_budget),
)
"""What is registered below ``fiscus``."""
