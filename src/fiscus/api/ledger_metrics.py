"""Shows what the engine of this process counts to a registry."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fiscus.treasury.drift import Drift
from fiscus.treasury.drift import Statistics as Checks
from fiscus.treasury.engine import Engine
from fiscus.treasury.statistics import Histogram


class LedgerCollector(Collector):
    """The engine's counters as metrics, made when somebody asks for them; the engine knows nothing of it."""

    def __init__(self, engine: Engine, drift: Drift | None = None) -> None:
        self._engine = engine
        self._drift = drift

    def register(self, registry: CollectorRegistry) -> None:
        """Take part in what ``registry`` shows."""
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected while registering."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families, made now."""
        statistics = self._engine.statistics
        for name, text, histogram in (
            ("fiscus_batch_size", "Calls that were decided together in one commit.", statistics.batch_sizes),
            ("fiscus_commit_seconds", "Time of a durable commit to the journal.", statistics.commit_s),
            ("fiscus_head_wait_seconds", "Time until the tenants' locks had been taken.", statistics.head_wait_s),
        ):
            yield _histogram(name, text, histogram)
        for name, text, count in (
            ("fiscus_entries", "Entries that this node has appended to the journal.", statistics.entries),
            ("fiscus_commit_errors", "Commits whose outcome was unknown at first.", statistics.commit_errors),
            ("fiscus_followed_entries", "Entries of other nodes that this node has folded.", statistics.followed),
            ("fiscus_reloads", "Tenants loaded anew, for the views were ahead of this node.", statistics.reloads),
            ("fiscus_snapshots", "Snapshots of what changed that were written to the views.", statistics.snapshots),
            ("fiscus_defects", "Errors that nobody had foreseen; the log has each.", statistics.defects),
        ):
            yield CounterMetricFamily(name, text, value=count)
        yield GaugeMetricFamily(
            "fiscus_epoch", "Rises when the journal turns out to be an older one: restored.", value=statistics.epoch
        )
        yield from self._drift_families()

    def _drift_families(self) -> Iterable[Metric]:
        """Shown as zero where nothing is checked, so that an alert on them never lacks its metric."""
        drift = self._drift
        checks = drift.statistics if drift is not None else Checks()
        yield GaugeMetricFamily(
            "fiscus_drift_cells",
            "Cells of the last samples that are not what the journal says.",
            value=sum(drift.cells.values()) if drift is not None else 0,
        )
        yield GaugeMetricFamily(
            "fiscus_drift_entries_behind", "Entries that the check had still to fold.", value=checks.entries_behind
        )
        yield GaugeMetricFamily(
            "fiscus_drift_last_check_timestamp_seconds",
            "When the last check ended; 0: none has.",
            value=checks.finished_at,
        )
        yield CounterMetricFamily(
            "fiscus_drift_checks", "Checks of one tenant that were finished.", value=checks.rounds
        )
        yield CounterMetricFamily(
            "fiscus_drift_checked_cells", "Cells that were compared with the journal.", value=checks.cells_checked
        )


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    counts, total, below = list(histogram.counts), histogram.total, 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*(str(float(bound)) for bound in histogram.bounds), "+Inf"), counts, strict=True):
        below += count
        buckets.append((bound, below))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)
