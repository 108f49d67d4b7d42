"""The thread budgets, usage tracker and router of xml-pipeline over a ledger: change the import, keep the calls."""

from fiscus.compat.xml_pipeline.budget import BudgetThresholdCrossed, ThreadBudget
from fiscus.compat.xml_pipeline.errors import BudgetExhaustedError, ThreadEndedError
from fiscus.compat.xml_pipeline.registry import (
    ThreadBudgetRegistry,
    configure_budget_registry,
    get_budget_registry,
    reset_budget_registry,
)
from fiscus.compat.xml_pipeline.router import AgentUsage, LLMRouter, estimate_tokens
from fiscus.compat.xml_pipeline.usage import UsageEvent, UsageTracker, get_usage_tracker, reset_usage_tracker
from fiscus.compat.xml_pipeline.warning import BudgetWarning

__all__ = [
    "AgentUsage",
    "BudgetExhaustedError",
    "BudgetThresholdCrossed",
    "BudgetWarning",
    "LLMRouter",
    "ThreadBudget",
    "ThreadBudgetRegistry",
    "ThreadEndedError",
    "UsageEvent",
    "UsageTracker",
    "configure_budget_registry",
    "estimate_tokens",
    "get_budget_registry",
    "get_usage_tracker",
    "reset_budget_registry",
    "reset_usage_tracker",
]
