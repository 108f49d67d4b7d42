"""What the API counts. Requests only add to plain integers; Prometheus' form is made when somebody asks for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fiscus.contract.treasury import REASONS, LiveState, Readiness
from fiscus.core.commands import AnyCommand, Reserve, Settle
from fiscus.core.outcomes import AnyOutcome, HoldAnswer, Refused, Spooled

DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of the duration of a request, in seconds."""

OTHER = "other"


class Labels:
    """Counts by a label that anybody may make up values of: at most ``values_max`` of them, the rest is ``other``."""

    def __init__(self, values_max: int) -> None:
        self._values_max = values_max
        self.counts: dict[str, int] = {}

    def add(self, value: str) -> None:
        """Count one."""
        counts = self.counts
        if value not in counts and len(counts) >= self._values_max:
            value = OTHER
        counts[value] = counts.get(value, 0) + 1


class Metrics:
    """The counters of one application, from its start.

    Args:
        routes: method and path of each route; the index of one is how it is known here.
    """

    def __init__(self, routes: Sequence[tuple[str, str]], labels_max: int) -> None:
        self.routes = [*routes, (OTHER, OTHER)]
        self.buckets = [[0] * (len(DURATIONS_S) + 1) for _ in self.routes]
        self.seconds = [0.0] * len(self.routes)
        self.statuses: dict[tuple[int, int], int] = {}
        self.holds: dict[str, int] = {}
        self.settlements: dict[str, int] = {}
        self.settled_amounts: dict[str, int] = {}
        self.keys = Labels(labels_max)
        self.in_flight = 0
        self.streams = 0
        self.readiness = Readiness(ready=False)

    def request(self, route: int, status: int, duration_s: float) -> None:
        """Count one answered request; −1 is the route of addresses that do not exist."""
        self.buckets[route][bisect_left(DURATIONS_S, duration_s)] += 1
        self.seconds[route] += duration_s
        key = (route, status)
        self.statuses[key] = self.statuses.get(key, 0) + 1

    def outcome(self, command: AnyCommand, outcome: AnyOutcome) -> None:
        """Count what became of a reserve or a settle."""
        result: str
        if type(command) is Reserve:
            result = outcome.code if type(outcome) is Refused else "held"
            if type(outcome) is HoldAnswer and outcome.state == "waiting":
                result = "waiting"
            self.holds[result] = self.holds.get(result, 0) + 1
        elif type(command) is Settle:
            if type(outcome) is Refused:
                result = outcome.code
            elif type(outcome) is Spooled:
                result = "spooled"
            else:
                result = "final" if command.final else "running"
            self.settlements[result] = self.settlements.get(result, 0) + 1
            if command.final and type(outcome) is HoldAnswer:
                settled = self.settled_amounts
                for unit, amount in outcome.booked.items():
                    settled[unit] = settled.get(unit, 0) + amount


class ApiCollector(Collector):
    """Shows ``Metrics`` to a registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def register(self, registry: CollectorRegistry) -> None:
        """Take part in what ``registry`` shows."""
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected while registering."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families, made now."""
        metrics = self._metrics
        yield self._durations()
        yield _counter(
            "fiscus_requests",
            "Requests answered, by route and status.",
            ("method", "route", "status"),
            {(*metrics.routes[route], str(status)): count for (route, status), count in metrics.statuses.items()},
        )
        yield _counter("fiscus_key_requests", "Requests by key.", ("key",), _keyed(metrics.keys.counts))
        yield _counter(
            "fiscus_holds",
            "Answers to reserve: held, waiting (202), or the code of the refusal.",
            ("result",),
            _keyed(metrics.holds),
        )
        yield _counter(
            "fiscus_settlements",
            "Answers to settle: final, running, spooled, or the code of the refusal.",
            ("result",),
            _keyed(metrics.settlements),
        )
        yield _counter(
            "fiscus_settled_amount",
            "Amounts in final settlements as they were answered (a repeated one counts again).",
            ("unit",),
            _keyed(metrics.settled_amounts),
        )
        readiness = metrics.readiness
        for name, text, value in (
            ("fiscus_requests_in_flight", "Requests being worked on.", metrics.in_flight),
            ("fiscus_event_streams", "Event streams that are open.", metrics.streams),
            ("fiscus_ready", "1 when reserves are decided, else 0.", int(readiness.ready)),
            ("fiscus_queue_depth", "Commands that wait for the ledger.", readiness.queue_depth),
            ("fiscus_journal_seq", "Sequence number of the journal's head.", readiness.head_seq),
            ("fiscus_follower_lag_seconds", "Age of the read models.", readiness.followers_lag_ms / 1_000),
            ("fiscus_spool_requests", "Settlements, usage and releases that wait on the disk.", readiness.spooled),
            ("fiscus_spool_bytes", "Their length.", readiness.spooled_bytes),
            ("fiscus_spool_age_seconds", "How long the oldest of them has waited.", readiness.spooled_age_s),
            ("fiscus_store_up", "1 while the ledger's database answers, else 0.", int(_reaches_store(readiness))),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        unready = GaugeMetricFamily(
            "fiscus_unready", "1 for each reason why reserves are not decided, else 0.", labels=("reason",)
        )
        for reason in REASONS:
            unready.add_metric((reason,), int(reason in readiness.reasons))
        yield unready
        if readiness.live_state is not None:
            yield from _live_state(readiness.live_state)

    def _durations(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "fiscus_request_duration_seconds", "Time from the request to its answer.", labels=("method", "route")
        )
        for labels, counts, seconds in zip(
            self._metrics.routes, self._metrics.buckets, self._metrics.seconds, strict=True
        ):
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, DURATIONS_S), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            if total:
                family.add_metric(labels, buckets, sum_value=seconds)
        return family


def _reaches_store(readiness: Readiness) -> bool:
    return not {"store_unavailable", "budget_unavailable"} & set(readiness.reasons)


def _live_state(live: LiveState) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "fiscus_live_state_current",
        "1 when Redis has all that the read models have.",
        value=int(live.state == "current"),
    )
    yield GaugeMetricFamily(
        "fiscus_live_state_seq", "Entry of the journal that Redis has reached.", value=live.as_of_seq
    )
    yield GaugeMetricFamily(
        "fiscus_live_state_lag_entries", "Entries that the read models have and Redis lacks.", value=live.lag_entries
    )
    yield GaugeMetricFamily(
        "fiscus_live_state_lag_seconds", "For how long Redis has lacked something.", value=live.lag_ms / 1_000
    )
    yield CounterMetricFamily(
        "fiscus_live_state_rebuilds", "How often all of Redis was written anew.", value=live.rebuilds
    )
    yield CounterMetricFamily("fiscus_live_state_failures", "How often Redis did not answer.", value=live.failures)


def _keyed(counts: dict[str, int]) -> dict[tuple[str, ...], int]:
    return {(key,): count for key, count in counts.items()}


def _counter(name: str, text: str, labels: Sequence[str], counts: dict[tuple[str, ...], int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family
