"""What may be written while nodes of older versions follow the same journal."""

from __future__ import annotations

from fiscus.core.events import Event
from fiscus.core.outcomes import Refused
from fiscus.core.state import Draft


def not_yet(draft: Draft, kind: type[Event]) -> Refused | None:
    """The refusal of a command that would write an event which not all nodes can read; None: they can."""
    if kind.since <= draft.format:
        return None
    return Refused(
        code="precondition_failed",
        detail=f"this needs events of format {kind.since}, and nodes may write format {draft.format} only: "
        "run `fiscus migrate --raise-format` once all of them run this version",
    )
