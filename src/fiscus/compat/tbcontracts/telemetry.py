"""Spans of what is governed, if somebody wants them. They never change a decision, and never raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from fiscus.contract.logs import get_logger

log = get_logger(__name__)


class TelemetryRecorder:
    """Makes spans with a tracer of OpenTelemetry; without one it does nothing.

    Args:
        tracer: such as ``fiscus.integrations.tracing.Tracing(...).tracer``, or any other.
    """

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer

    @classmethod
    def of_service(cls, service_name: str) -> TelemetryRecorder:
        """One that uses the process's tracer provider, as far as OpenTelemetry is installed."""
        try:
            from opentelemetry import trace
        except ImportError:
            return cls()
        return cls(trace.get_tracer(service_name))

    @property
    def enabled(self) -> bool:
        """Whether spans are made."""
        return self._tracer is not None

    def register_agent(self, agent: str, priority: int, max_tokens: int) -> None:
        """An agent was registered."""
        self._make("tbc.register_agent", {"tbc.agent": agent, "tbc.priority": priority, "tbc.max_tokens": max_tokens})

    def record_usage(self, agent: str, tokens: int, note: str, error: BaseException | None = None) -> None:
        """Usage was recorded."""
        self._make("tbc.record_usage", {"tbc.agent": agent, "tbc.tokens_used": tokens, "tbc.note": note}, error)

    def reallocate(self, needy: str, donor: str, moved: int, shortfall: int) -> None:
        """Tokens were moved."""
        self._make(
            "tbc.reallocate",
            {
                "tbc.needy_agent": needy,
                "tbc.donor_agent": donor,
                "tbc.tokens_moved": moved,
                "tbc.shortfall": shortfall,
            },
        )

    def gate_block(self, agent: str, confidence: float | None, threshold: float | None) -> None:
        """The gate has stopped a call."""
        known = {"tbc.confidence": confidence, "tbc.threshold": threshold}
        attributes = {name: value for name, value in known.items() if value is not None}
        self._make("tbc.confidence_gate_block", {"tbc.agent": agent, **attributes})

    def start_call(self, agent: str, function: str) -> Callable[[int, bool, BaseException | None], None]:
        """A governed call begins; call what is returned with (tokens, was it stopped by the gate, error) at its end."""
        span: Any = None
        if self._tracer is not None:
            with _quietly():
                span = self._tracer.start_span("tbc.govern_call")

        def end(tokens: int, gate_blocked: bool, error: BaseException | None) -> None:
            if span is None:
                return
            with _quietly():
                span.set_attribute("tbc.agent", agent)
                span.set_attribute("tbc.function", function)
                span.set_attribute("tbc.tokens_used", tokens)
                span.set_attribute("tbc.gate_blocked", gate_blocked)
                _end(span, error)

        return end

    def _make(self, name: str, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        if self._tracer is None:
            return
        with _quietly():
            span = self._tracer.start_span(name)
            for key, value in attributes.items():
                span.set_attribute(key, value)
            _end(span, error)


class _quietly(suppress):
    """Whatever a tracer raises is logged and goes no further."""

    def __init__(self) -> None:
        super().__init__(Exception)

    def __exit__(self, kind: Any, failure: Any, trace: Any) -> bool:
        if failure is not None:
            log.warning("span_not_made", error=repr(failure))
        return bool(super().__exit__(kind, failure, trace))


def _end(span: Any, error: BaseException | None) -> None:
    if error is not None:
        span.record_exception(error)
    span.end()


def recorder_of(telemetry: Any) -> TelemetryRecorder:
    """A recorder for what a manager is given: None, a recorder, or a tracer."""
    return telemetry if isinstance(telemetry, TelemetryRecorder) else TelemetryRecorder(telemetry)
