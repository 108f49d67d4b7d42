"""What the gateway counts. Calls only add to plain integers; Prometheus' form is made when somebody asks for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fiscus.core.records import CallRecord, Outcome, Tokens
from fiscus.dialects import Problem
from fiscus.gateway.notes import TEXTS
from fiscus.gateway.upstreams import Target
from fiscus.pricing import Count
from fiscus.treasury.statistics import Histogram

ANSWER_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets of the time until an answer begins, in seconds."""

ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of the buckets of the error of a count, as a part of what was billed."""

KINDS = ("input", "cache_read", "cache_write", "output", "reasoning")
FAILURES = ("unreachable", "timeout", "broke_off", "status")
"""How an upstream fails: nobody there, no answer in time, an answer that breaks off, one that speaks against it."""

NO_STATUS = "none"


class GatewayMetrics:
    """The counters of one gateway, from its start. Every label is bounded by the file of the gateway or by a list."""

    def __init__(self, upstreams: Iterable[str]) -> None:
        """``upstreams``: their names."""
        names = tuple(upstreams)
        self.calls: dict[tuple[str, Outcome, str], int] = {}
        self.refusals: dict[tuple[str, str], int] = {}
        self.tokens = dict.fromkeys(KINDS, 0)
        self.cost_nanousd = 0
        self.unpriced = 0
        self.clamped = 0
        self.cut = 0
        self.notes = dict.fromkeys((str(severity) for severity in TEXTS), 0)
        self.retries = dict.fromkeys(names, 0)
        self.failures = {(name, kind): 0 for name in names for kind in FAILURES}
        self.answers = {name: Histogram(ANSWER_S) for name in names}
        self.first_tokens = {name: Histogram(ANSWER_S) for name in names}
        self.count_errors: dict[str, Histogram] = {}
        self.undercounts: dict[str, int] = {}

    def refused(self, dialect: str, problem: Problem) -> None:
        """A call was not made: the ledger's reason, or the gateway's own."""
        reason = problem.detail.get("reason", problem.code)
        key = (dialect, str(reason))
        self.refusals[key] = self.refusals.get(key, 0) + 1

    def asked_again(self, upstream: str) -> None:
        """A call is asked of another upstream, or once more."""
        self.retries[upstream] += 1

    def failed(self, upstream: str, *, was_sent: bool, is_timeout: bool) -> None:
        """It gave no answer."""
        kind = "timeout" if is_timeout else "broke_off" if was_sent else "unreachable"
        self.failures[upstream, kind] += 1

    def answered(self, upstream: str, seconds: float, *, is_broken: bool) -> None:
        """Its answer has begun; ``is_broken``: with a status that speaks against it."""
        self.answers[upstream].add(seconds)
        if is_broken:
            self.failures[upstream, "status"] += 1

    def released(self, dialect: str, status: int | None, outcome: Outcome) -> None:
        """A call has come to nothing, and cost nothing."""
        self._called(dialect, outcome, status)

    def settled(self, dialect: str, status: int | None, record: CallRecord, upstream: str, *, was_cut: bool) -> None:
        """A call was booked.

        Args:
            dialect: of its caller.
            status: of the provider's answer; None: there was none.
            record: what was booked.
            upstream: who was asked last.
            was_cut: whether the gateway ended it for want of budget.
        """
        self._called(dialect, record.outcome or "success", status)
        used = record.tokens or Tokens()
        tokens = self.tokens
        tokens["input"] += used.input
        tokens["cache_read"] += used.cache_read
        tokens["cache_write"] += used.cache_write_5m + used.cache_write_1h
        tokens["output"] += used.output
        tokens["reasoning"] += used.reasoning
        if record.cost_nanousd is None:
            self.unpriced += 1
        else:
            self.cost_nanousd += record.cost_nanousd
        self.cut += was_cut
        if record.time_to_first_token_ms is not None:
            self.first_tokens[upstream].add(record.time_to_first_token_ms / 1_000)

    def counted(self, provider: str, counted: Count, billed: int) -> None:
        """An input of which all was counted was billed as so many tokens."""
        if billed > 0:
            errors = self.count_errors.setdefault(provider, Histogram(ERRORS))
            errors.add(abs(counted.tokens - billed) / billed)
            self.undercounts[provider] = self.undercounts.get(provider, 0) + (billed > counted.upper_bound)

    def _called(self, dialect: str, outcome: Outcome, status: int | None) -> None:
        key = (dialect, outcome, NO_STATUS if status is None else str(status))
        self.calls[key] = self.calls.get(key, 0) + 1


class GatewayCollector(Collector):
    """Shows ``GatewayMetrics``, and how the upstreams are doing, to a registry."""

    def __init__(self, metrics: GatewayMetrics, targets: Sequence[Target]) -> None:
        self._metrics = metrics
        self._targets = targets

    def register(self, registry: CollectorRegistry) -> None:
        """Take part in what ``registry`` shows."""
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected while registering."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families, made now."""
        yield from self._calls()
        yield from self._use()
        yield from self._upstreams()
        yield _histogram(
            "fiscus_gateway_count_error_ratio",
            "How far the count of an input was from what was billed, as a part of that.",
            "provider",
            self._metrics.count_errors,
        )
        yield _counter(
            "fiscus_gateway_undercounts",
            "Inputs of which more was billed than the bound that was held for.",
            ("provider",),
            _keyed(self._metrics.undercounts),
        )

    def _calls(self) -> Iterable[Metric]:
        metrics = self._metrics
        yield _counter(
            "fiscus_gateway_calls",
            "Calls that were made, by dialect, outcome and the status of the provider's answer.",
            ("dialect", "outcome", "status"),
            metrics.calls.items(),
        )
        yield _counter(
            "fiscus_gateway_refusals",
            "Calls that were not made, by dialect and reason.",
            ("dialect", "reason"),
            metrics.refusals.items(),
        )
        for name, text, value in (
            ("fiscus_gateway_clamped", "Calls whose output was bounded lower than they asked.", metrics.clamped),
            ("fiscus_gateway_cut", "Streams that were ended for want of budget.", metrics.cut),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield _counter("fiscus_gateway_notes", "Notes to agents, by severity.", ("severity",), _keyed(metrics.notes))

    def _use(self) -> Iterable[Metric]:
        metrics = self._metrics
        yield _counter("fiscus_gateway_tokens", "Tokens that were booked, by kind.", ("kind",), _keyed(metrics.tokens))
        for name, text, value in (
            ("fiscus_gateway_cost_nanousd", "Cost that was booked, in nano-USD.", metrics.cost_nanousd),
            ("fiscus_gateway_unpriced", "Calls that were booked without a cost: nobody knows it.", metrics.unpriced),
        ):
            yield CounterMetricFamily(name, text, value=value)

    def _upstreams(self) -> Iterable[Metric]:
        metrics = self._metrics
        now_s = time.monotonic()
        broken = GaugeMetricFamily(
            "fiscus_gateway_upstream_broken", "1 while an upstream is left alone, else 0.", labels=("upstream",)
        )
        in_flight = GaugeMetricFamily(
            "fiscus_gateway_upstream_in_flight", "Calls that an upstream is working on.", labels=("upstream",)
        )
        for target in self._targets:
            broken.add_metric((target.upstream.name,), int(target.broken_until_s > now_s))
            in_flight.add_metric((target.upstream.name,), target.in_flight)
        yield broken
        yield in_flight
        yield _counter(
            "fiscus_gateway_retries",
            "Calls that were asked of an upstream after another attempt had failed.",
            ("upstream",),
            _keyed(metrics.retries),
        )
        yield _counter(
            "fiscus_gateway_upstream_failures",
            "Attempts that an upstream failed, by how.",
            ("upstream", "kind"),
            metrics.failures.items(),
        )
        for name, text, histograms in (
            ("fiscus_gateway_answer_seconds", "Time until an upstream's answer began.", metrics.answers),
            ("fiscus_gateway_first_token_seconds", "Time until the first piece of an answer.", metrics.first_tokens),
        ):
            yield _histogram(name, text, "upstream", histograms)


def _keyed(counts: Mapping[str, int]) -> Iterable[tuple[tuple[str, ...], int]]:
    return (((key,), count) for key, count in counts.items())


def _counter(
    name: str, text: str, labels: Sequence[str], counts: Iterable[tuple[tuple[str, ...], int]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts:
        family.add_metric(values, count)
    return family


def _histogram(name: str, text: str, label: str, histograms: Mapping[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=(label,))
    for value, histogram in histograms.items():
        below, buckets = 0, []
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric((value,), buckets, sum_value=histogram.total)
    return family
