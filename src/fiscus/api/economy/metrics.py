"""The ``dean_*`` metrics, read from the books whenever they are scraped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fiscus.api.economy.books import EFFICIENCY_BUCKETS, SIZE_BUCKETS_TOKENS, Books, Share
from fiscus.api.economy.service import TokenEconomy
from fiscus.core.outcomes import Balance

OTHER = "other"
"""The label of the agents that have none of their own."""


class EconomyMetrics(Collector):
    """Shows what the books hold. Counters go on over a restart, because the journal does; rejections are not in it."""

    def __init__(self, economy: TokenEconomy) -> None:
        self._economy = economy

    def describe(self) -> Iterator[Metric]:
        """Name the metrics for the registry, without samples."""
        for metric in self.collect():
            metric.samples.clear()
            yield metric

    def collect(self) -> Iterator[Metric]:
        """All metrics as of now."""
        economy, books = self._economy, self._economy.books
        allocated = CounterMetricFamily(
            "dean_tokens_allocated", "Tokens handed out to an agent, in all.", labels=["agent_id"]
        )
        consumed = CounterMetricFamily("dean_tokens_consumed", "Tokens an agent has used, in all.", labels=["agent_id"])
        active = GaugeMetricFamily(
            "dean_active_token_allocation", "Tokens an agent has left of its allocation.", labels=["agent_id"]
        )
        for label, share in shares(books):
            allocated.add_metric([label], share.allocated_total)
            consumed.add_metric([label], share.consumed_total)
            active.add_metric([label], share.remaining)
        yield allocated
        yield consumed
        yield active
        yield efficiency_histogram(books)
        yield size_histogram(books)
        yield GaugeMetricFamily(
            "dean_global_budget_remaining",
            "Tokens the pool can still hand out; negative when it is overdrawn.",
            value=economy.pool.available if economy.pool is not None else economy.pool_tokens,
        )
        yield GaugeMetricFamily(
            "dean_budget_utilization",
            "Part of the pool that is handed out or used, 0 to 1; above 1 when it is overdrawn.",
            value=utilization(economy.pool),
        )
        yield CounterMetricFamily(
            "dean_agents_terminated_budget", "Agents terminated for want of tokens.", value=books.terminated
        )
        rejections = CounterMetricFamily(
            "dean_allocation_rejections", "Grants that were refused since the start.", labels=["reason"]
        )
        for reason, count in economy.rejections.items():
            rejections.add_metric([reason], count)
        yield rejections
        yield GaugeMetricFamily(
            "dean_books_seq", "Sequence of the journal up to which these metrics hold.", value=books.seq
        )


def shares(books: Books) -> Iterator[tuple[str, Share]]:
    """What each label stands for: one per agent with a label of its own, and the rest together."""
    rest = Share(
        allocated_total=books.other.allocated_total,
        consumed_total=books.other.consumed_total,
        remaining=books.other.remaining,
    )
    has_rest = books.labelled_count < len(books.agents)
    for book in books.agents.values():
        if not book.labelled:
            continue
        if book.agent_id == OTHER:
            has_rest = True
            rest.allocated_total += book.allocated_total
            rest.consumed_total += book.consumed_total
            rest.remaining += book.remaining
        else:
            yield (
                book.agent_id,
                Share(
                    allocated_total=book.allocated_total,
                    consumed_total=book.consumed_total,
                    remaining=book.remaining,
                ),
            )
    if has_rest:
        yield OTHER, rest


def efficiency_histogram(books: Books) -> HistogramMetricFamily:
    """The efficiencies that were seen at each report."""
    bounds = [*(str(float(bound)) for bound in EFFICIENCY_BUCKETS), "+Inf"]
    return HistogramMetricFamily(
        "dean_token_efficiency",
        "Value per token of an agent's allocation, seen at each report.",
        buckets=list(zip(bounds, accumulate(books.efficiency_counts), strict=True)),
        sum_value=books.efficiency_sum,
    )


def size_histogram(books: Books) -> HistogramMetricFamily:
    """The sizes of what was handed out, each grant by itself."""
    bounds = [*(str(float(bound)) for bound in SIZE_BUCKETS_TOKENS), "+Inf"]
    return HistogramMetricFamily(
        "dean_allocation_size_tokens",
        "Tokens handed out to an agent at once.",
        buckets=list(zip(bounds, accumulate(books.size_counts), strict=True)),
        sum_value=books.size_sum_tokens,
    )


def utilization(pool: Balance | None) -> float:
    """The part of the pool that is gone; 0 where there is none, 1 where its limit is 0."""
    if pool is None:
        return 0.0
    return (pool.limit - pool.available) / pool.limit if pool.limit else 1.0
