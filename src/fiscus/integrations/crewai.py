"""Crews and agents of CrewAI within their budgets. CrewAI itself is not imported: a runner is what can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fiscus.contract.logs import get_logger
from fiscus.integrations.langgraph import Governing
from fiscus.sdk.calls import usage_in, whole

log = get_logger(__name__)

NOTE = "crewai:{name}"


def govern_agent(
    manager: Governing,
    agent: str,
    runner: Any,
    usage_fn: Callable[[Any], Any] | None = None,
    confidence_fn: Callable[[Any], Any] | None = None,
) -> Callable[..., Any]:
    """A runner whose agent is asked before it runs; what it returns is not touched.

    What it used is what ``usage_fn`` says, if that is a number ≥ 0, else ``token_usage`` of the result, else the texts
    of the arguments and of the result are counted. What these functions raise is logged and costs nobody the result.

    Args:
        manager: who governs.
        agent: who pays.
        runner: a function, sync or async, or what has ``kickoff`` (a crew, an agent, a flow).
        usage_fn, confidence_fn: from a result to its tokens, and to how sure it is (0 … 1).

    Raises:
        UnknownAgentError: the agent is not registered.
    """
    function = runner if callable(runner) else getattr(runner, "kickoff", None)
    if not callable(function):
        raise TypeError("a runner must be callable, or have kickoff")
    name = str(getattr(runner, "__name__", None) or getattr(runner, "name", None) or type(runner).__name__)

    def usage_of(result: Any) -> int | None:
        said = None
        if usage_fn is not None:
            try:
                said = whole(usage_fn(result))
            except Exception as error:  # noqa: BLE001  (a user's function; the work is done and must not be lost)
                log.warning("usage_not_read", agent=agent, note=name, error=type(error).__name__)
        if said is not None:
            return said
        # CrewAI counts 0 where the provider of a model has not said anything.
        return usage_in(getattr(result, "token_usage", None)) or usage_in(result)

    decorate = manager.govern(agent, confidence_fn, usage_fn=usage_of, input_fn=_given, note=NOTE.format(name=name))
    return decorate(function)


def _given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return (args, kwargs)
