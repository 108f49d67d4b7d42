"""What was used, what it cost, and where it came from: the part of the treasury's face that only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

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
    ProvenanceView,
    ReadLineage,
    ReadProvenance,
    ReadRecommendations,
    ReadTrends,
    ReadWorkflow,
    RecommendationsView,
    ReportKind,
    ReportView,
    TasksView,
    TrendsView,
    UsageGroup,
    UsageTotals,
    WorkflowView,
)
from fiscus.contract.declaration import Origin, check_declaration
from fiscus.contract.errors import Unknown, refusal
from fiscus.contract.manager import ManagerView, configured
from fiscus.contract.queries import (
    PAGE_LENGTH_MAX,
    AccountView,
    AnyQuery,
    CheckReserve,
    CheckView,
    EnforcementView,
    ListUsage,
    ReadAccount,
    ReadEnforcement,
    Usage,
    UsagePage,
    View,
)
from fiscus.contract.rehearsal import REFUSALS_SHOWN_DEFAULT, REHEARSED_CALLS_DEFAULT, RehearsalView, Rehearse
from fiscus.core.outcomes import BudgetView, Refused
from fiscus.core.units import Amounts

V = TypeVar("V", bound=View)


class Analyses:
    """Mixed into ``Treasury``. All is answered as of an entry, from tables that are at most a second behind.

    ``filters`` are the fields of ``contract.analysis.UsageQuery``: ``account``, ``since``, ``until`` or ``period``,
    ``provider``, ``model``, ``user_id``, ``project_id``, ``team_id``, ``feature``, ``agent_id``, ``task_type``,
    ``workflow_id``; with ``min_seq`` the answer has one's own write in it.
    """

    async def read(self, query: AnyQuery) -> View:
        """Answer any query; see ``Treasury``."""
        raise NotImplementedError

    async def records(self, **filters: Any) -> AsyncIterator[Usage]:
        """Records of calls in the order of their booking; filters are ``account``, ``since`` and ``until`` here."""
        query = ListUsage(limit=PAGE_LENGTH_MAX, **filters)
        after: int | None = 0
        while after is not None:
            page = await self._read(UsagePage, msgspec.structs.replace(query, after=after))
            for one in page.usage:
                yield one
            after = page.next

    async def aggregate_usage(
        self, *by: Dimension, top: int | None = None, limit: int = PAGE_LENGTH_MAX, **filters: Any
    ) -> UsageTotals:
        """Sums of usage by up to three dimensions.

        Args:
            by: the dimensions; none: one sum of all.
            top: only so many groups, those that cost most.
            limit: groups of a page; ``after=totals.next`` gives the next one.
            filters: see the class.
        """
        query = AggregateUsage(by=by, top=top is not None, limit=limit if top is None else top, **filters)
        return await self._read(UsageTotals, query)

    async def usage_groups(self, *by: Dimension, **filters: Any) -> AsyncIterator[UsageGroup]:
        """The same, all groups in the order of their keys."""
        after: tuple[str | None, ...] | None = None
        while True:
            page = await self._read(UsageTotals, AggregateUsage(by=by, after=after, limit=PAGE_LENGTH_MAX, **filters))
            for group in page.groups:
                yield group
            after = page.next
            if after is None:
                return

    async def check(
        self,
        account: str,
        amounts: Amounts,
        *,
        also: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> CheckView:
        """Whether a reserve would be admitted now. A dry run: nothing is held, so nothing is promised; ``hold`` is."""
        query = CheckReserve(
            account=account, amounts=amounts, also=tuple(also), attributes=dict(attributes or {}), parent=parent
        )
        return await self._read(CheckView, query)

    async def rehearse(
        self,
        declaration: Mapping[str, Any],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = REHEARSED_CALLS_DEFAULT,
        refusals: int = REFUSALS_SHOWN_DEFAULT,
        min_seq: int = 0,
    ) -> RehearsalView:
        """What would have become of the recorded calls if a declaration had been in force. Nothing is changed.

        Args:
            declaration: ``accounts`` and ``templates``, as a file for ``fiscus apply`` says them.
            since, until, limit, refusals: as in ``Rehearse``.
            min_seq: the entry that it must have in it at least; without it, all but of the last second.

        Raises:
            ConfigurationInvalid: the declaration has faults; the message names the field.
            Invalid: it contradicts the ledger, or a bound is wrong.
        """
        declared = check_declaration(dict(declaration), Origin("", {}))
        query = Rehearse(
            accounts=declared.accounts,
            templates=declared.templates,
            since=since,
            until=until,
            limit=limit,
            refusals=refusals,
            min_seq=min_seq,
        )
        return await self._read(RehearsalView, query)

    async def budget_status(self, account: str, budget: str) -> BudgetView:
        """One budget with its running window, exact now.

        Raises:
            Unknown: the account has no such budget.
        """
        view = await self._read(AccountView, ReadAccount(account=account))
        found = next((one for one in view.account.budgets if one.budget == budget), None)
        if found is None:
            detail = f"{account} has no budget {budget}"
            raise Unknown(Refused(code="unknown_budget", detail=detail, field="budget"))
        return found

    async def enforcement(self) -> EnforcementView:
        """What the node that is asked has decided since it started, and the overrides that were granted."""
        return await self._read(EnforcementView, ReadEnforcement())

    async def configure_manager(self, **options: Any) -> ManagerView:
        """Where the options of the token manager are set; none of them is while the ledger runs.

        Raises:
            Invalid: an option was given; names it, and says where it is set.
        """
        found = configured(options)
        if isinstance(found, Refused):
            raise refusal(found)
        return found

    async def report(self, kind: ReportKind = "usage", **filters: Any) -> ReportView:
        """A report: ``usage``, ``cost`` or ``optimization``; of the last seven days unless said otherwise."""
        return await self._read(ReportView, MakeReport(kind=kind, **filters))

    async def trends(self, *, bucket: Bucket = "day", **filters: Any) -> TrendsView:
        """Usage per day or hour, how it changes, and what stands out."""
        return await self._read(TrendsView, ReadTrends(bucket=bucket, **filters))

    async def forecast(self, measure: Measure = "cost", *, horizon_days: int = 7, **filters: Any) -> ForecastView:
        """What the next days will use, with an interval and how far the same method was off in the past."""
        return await self._read(ForecastView, ForecastUsage(measure=measure, horizon_days=horizon_days, **filters))

    async def recommendations(self, **filters: Any) -> RecommendationsView:
        """What could be saved, each with the figures that say so."""
        return await self._read(RecommendationsView, ReadRecommendations(**filters))

    async def task_costs(self, **filters: Any) -> TasksView:
        """What kinds of tasks cost, and what was asked more than once."""
        return await self._read(TasksView, AnalyzeTasks(**filters))

    async def workflow(self, workflow_id: str, *, min_seq: int = 0) -> WorkflowView:
        """What all requests of a workflow used."""
        return await self._read(WorkflowView, ReadWorkflow(workflow_id=workflow_id, min_seq=min_seq))

    async def provenance(self, request_id: str, *, min_seq: int = 0) -> ProvenanceView:
        """Where a request came from.

        Raises:
            Unknown: there is no record of it.
        """
        return await self._read(ProvenanceView, ReadProvenance(request_id=request_id, min_seq=min_seq))

    async def lineage(self, request_id: str, *, min_seq: int = 0) -> LineageView:
        """The tree of requests that a request belongs to; raises as ``provenance`` does."""
        return await self._read(LineageView, ReadLineage(request_id=request_id, min_seq=min_seq))

    async def _read(self, kind: type[V], query: AnyQuery) -> V:
        view = await self.read(query)
        assert isinstance(view, kind)
        return view
