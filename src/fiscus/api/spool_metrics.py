"""Shows to a registry what went through the spool of this process; what waits there is told by ``/ready``."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fiscus.spool import Outbox, Spool


class SpoolCollector(Collector):
    """The counters of a spool and its outbox as metrics, made when somebody asks for them."""

    def __init__(self, spool: Spool, outbox: Outbox) -> None:
        self._spool = spool
        self._outbox = outbox

    def register(self, registry: CollectorRegistry) -> None:
        """Take part in what ``registry`` shows."""
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected while registering."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families, made now."""
        yield CounterMetricFamily(
            "fiscus_spool_kept", "Requests put on the disk since the start.", value=self._outbox.kept_count
        )
        yield CounterMetricFamily(
            "fiscus_spool_delivered",
            "Requests booked from the disk since the start.",
            value=self._outbox.delivered_count,
        )
        yield GaugeMetricFamily(
            "fiscus_spool_refused",
            "Requests from the disk that the ledger refused for good, in the file that people look at.",
            value=self._spool.set_aside_count,
        )
