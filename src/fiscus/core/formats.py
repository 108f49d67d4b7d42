"""What may be written while nodes of older versions follow the same journal."""

from __future__ import annotations

from fiscus.core.events import Event, format_of
from fiscus.core.outcomes import Refused
from fiscus.core.state import Draft


def not_yet(draft: Draft, kind: type[Event]) -> Refused | None:
    """The refusal of a command that would write an event which not all nodes can read; None: they can."""
    return None if kind.since <= draft.format else _refused(draft, kind.since)


def too_new(draft: Draft, first: int) -> Refused | None:
    """The same for what was decided already: the events since ``first``, with their newer fields."""
    needed = max((format_of(event) for event in draft.events[first:]), default=0)
    return None if needed <= draft.format else _refused(draft, needed)


def _refused(draft: Draft, needed: int) -> Refused:
    return Refused(
        code="precondition_failed",
        detail=f"this needs events of format {needed}, and nodes may write format {draft.format} only: "
        "run `fiscus migrate --raise-format` once all of them run this version",
    )
