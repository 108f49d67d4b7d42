"""Nodes of LangGraph within the budgets of their agents. LangGraph is not imported: a node is what can be called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fiscus.sdk.calls import usage_in, whole

NOTE = "langgraph:{name}"


class Governing(Protocol):
    """What decorates a function so that its agent is asked before each call, such as a ``BudgetManager``."""

    def govern(
        self,
        agent: str,
        confidence_fn: Callable[[Any], Any] | None = None,
        /,
        *,
        usage_fn: Callable[[Any], Any],
        input_fn: Callable[[Sequence[Any], Mapping[str, Any]], Any],
        note: str,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """See ``BudgetManager``."""
        ...


def govern_node(
    manager: Governing,
    agent: str,
    node: Any,
    usage_key: str | None = None,
    confidence_key: str | None = None,
) -> Callable[..., Any]:
    """A node whose agent is asked before it runs; what it returns is not touched.

    What it used is ``result[usage_key]`` if that is a number ≥ 0, else what the messages in the result say themselves,
    else the texts of the state and of the result are counted.

    Args:
        manager: who governs.
        agent: who pays.
        node: a function of the state, sync or async, or what has ``invoke`` (a runnable, a graph).
        usage_key, confidence_key: of the result, where a node says what it used and how sure it is.

    Raises:
        UnknownAgentError: the agent is not registered.
    """
    function = _function(node)
    confidence_of = None if confidence_key is None else functools.partial(_at, confidence_key)
    decorate = manager.govern(
        agent,
        confidence_of,
        usage_fn=functools.partial(_usage, usage_key),
        input_fn=_state,
        note=NOTE.format(name=_name(node)),
    )
    return decorate(function)


def _function(node: Any) -> Callable[..., Any]:
    invoke = getattr(node, "invoke", None)
    if invoke is None:
        if not callable(node):
            raise TypeError("a node must be callable, or have invoke")
        return node  # type: ignore[no-any-return]  # it is callable

    def run(state, config=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  (LangGraph knows it by its name)
        return invoke(state, config)

    return run


def _name(node: Any) -> str:
    name = getattr(node, "__name__", None) or getattr(node, "name", None) or type(node).__name__
    return str(name)


def _state(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The state; what else a node is given (its configuration, its runtime) goes to no model."""
    return args[0] if args else kwargs.get("state", kwargs.get("input"))


def _update(result: Any) -> Mapping[str, Any]:
    """What changes in the state: the result, or that of a ``Command``."""
    update = result if isinstance(result, Mapping) else getattr(result, "update", None)
    return update if isinstance(update, Mapping) else {}


def _at(key: str, result: Any) -> Any:
    return _update(result).get(key)


def _usage(usage_key: str | None, result: Any) -> int | None:
    if usage_key is not None:
        said = whole(_at(usage_key, result))
        if said is not None:
            return said
    messages = _update(result).get("messages")
    said_by = [usage_in(message) for message in messages] if isinstance(messages, list) else [usage_in(messages)]
    known = [tokens for tokens in said_by if tokens]
    return sum(known) if known else None
