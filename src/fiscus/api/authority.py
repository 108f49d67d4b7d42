"""What a caller may do beyond the role that its route asks for. What belongs to whom is decided in the ledger."""

from __future__ import annotations

from fiscus.api.keys import ALLOWED, Caller
from fiscus.core.commands import (
    Adjust,
    Allocate,
    AnyCommand,
    Deallocate,
    EndAdjustment,
    PutAccount,
    PutBudget,
    PutTemplate,
    RemoveBudget,
    RemoveTemplate,
    ResetGate,
    SetStatus,
)
from fiscus.core.outcomes import Refused

SETTING_LIMITS = (
    PutBudget,
    RemoveBudget,
    Adjust,
    EndAdjustment,
    Allocate,
    Deallocate,
    SetStatus,
    PutAccount,
    ResetGate,
)


def denied(caller: Caller, command: AnyCommand) -> Refused | None:
    """Why this caller may not give this command, or None.

    A key that is bound to an account spends within what others gave it, and shares it out below; it neither raises
    its own limits nor ends its own suspension. Templates are for operators, also inside a batch.
    """
    if caller.scope is not None and isinstance(command, SETTING_LIMITS) and command.account == caller.scope:
        return Refused(
            code="forbidden", detail=f"this key is bound by {caller.scope} and may not change it", field="account"
        )
    if isinstance(command, PutTemplate | RemoveTemplate) and caller.role not in ALLOWED["operate"]:
        return Refused(code="forbidden", detail="this key may not change templates", field="pattern")
    return None
