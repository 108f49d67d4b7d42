"""What programs use: ``open`` and ``connect`` give one and the same treasury, with ``await`` or without."""

from fiscus.sdk.composition import connect, connect_sync, open, open_sync
from fiscus.sdk.governed import govern
from fiscus.sdk.hold import Hold
from fiscus.sdk.sync import SyncTreasury
from fiscus.sdk.tools import BudgetTool, agent_budget_tool
from fiscus.sdk.treasury import Treasury

__all__ = [
    "BudgetTool",
    "Hold",
    "SyncTreasury",
    "Treasury",
    "agent_budget_tool",
    "connect",
    "connect_sync",
    "govern",
    "open",
    "open_sync",
]
