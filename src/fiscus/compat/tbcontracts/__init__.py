"""tbcontracts over a ledger: change the import, keep the calls. The budget is asked before the function runs."""

from importlib import import_module
from typing import Any

from fiscus.compat.tbcontracts.confidence_gate import ConfidenceGate
from fiscus.compat.tbcontracts.contract import BudgetContract
from fiscus.compat.tbcontracts.errors import BudgetExceededError, GateBlockedError, TBCError, UnknownAgentError
from fiscus.compat.tbcontracts.ledger import Ledger, LedgerEntry
from fiscus.compat.tbcontracts.manager import BudgetManager
from fiscus.compat.tbcontracts.reallocator import Reallocator
from fiscus.compat.tbcontracts.telemetry import TelemetryRecorder

# Name of an adapter → its module, imported when it is first asked for.
_ADAPTERS = {
    "TBCCrewGovernor": "fiscus.compat.tbcontracts.adapters",
    "TBCGraphGovernor": "fiscus.compat.tbcontracts.adapters",
    "govern_agent": "fiscus.compat.tbcontracts.adapters",
    "govern_node": "fiscus.compat.tbcontracts.adapters",
}

__all__ = [
    "BudgetContract",
    "BudgetExceededError",
    "BudgetManager",
    "ConfidenceGate",
    "GateBlockedError",
    "Ledger",
    "LedgerEntry",
    "Reallocator",
    "TBCCrewGovernor",
    "TBCError",
    "TBCGraphGovernor",
    "TelemetryRecorder",
    "UnknownAgentError",
    "govern_agent",
    "govern_node",
]


def __getattr__(name: str) -> Any:
    """Import an adapter the first time that it is asked for."""
    if name not in _ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ADAPTERS[name]), name)
    globals()[name] = value
    return value
