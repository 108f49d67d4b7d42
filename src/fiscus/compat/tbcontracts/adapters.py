"""The adapters of tbcontracts for LangGraph and CrewAI, with the managers that they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fiscus.compat.tbcontracts.contract import BudgetContract
from fiscus.compat.tbcontracts.manager import BudgetManager
from fiscus.integrations.crewai import govern_agent
from fiscus.integrations.langgraph import govern_node

__all__ = ["TBCCrewGovernor", "TBCGraphGovernor", "govern_agent", "govern_node"]


class TBCGraphGovernor:
    """Registers agents and wraps their nodes; see ``govern_node``.

    Args:
        manager: one that is there; by default a new one.
    """

    def __init__(self, manager: BudgetManager | None = None) -> None:
        self.manager = manager if manager is not None else BudgetManager()

    def register(self, name: str, **terms: Any) -> BudgetContract:
        """See ``BudgetManager.register_agent``."""
        return self.manager.register_agent(name, **terms)

    def wrap(
        self, agent: str, node: Any, usage_key: str | None = None, confidence_key: str | None = None
    ) -> Callable[..., Any]:
        """See ``govern_node``."""
        return govern_node(self.manager, agent, node, usage_key, confidence_key)

    def report(self) -> dict[str, dict[str, int]]:
        """See ``BudgetManager.report``."""
        return self.manager.report()


class TBCCrewGovernor:
    """Registers agents and wraps their runners; see ``govern_agent``.

    Args:
        manager: one that is there; by default a new one.
    """

    def __init__(self, manager: BudgetManager | None = None) -> None:
        self.manager = manager if manager is not None else BudgetManager()

    def register(self, name: str, **terms: Any) -> BudgetContract:
        """See ``BudgetManager.register_agent``."""
        return self.manager.register_agent(name, **terms)

    def wrap(
        self,
        agent: str,
        runner: Any,
        usage_fn: Callable[[Any], Any] | None = None,
        confidence_fn: Callable[[Any], Any] | None = None,
    ) -> Callable[..., Any]:
        """See ``govern_agent``."""
        return govern_agent(self.manager, agent, runner, usage_fn, confidence_fn)

    def report(self) -> dict[str, dict[str, int]]:
        """See ``BudgetManager.report``."""
        return self.manager.report()
