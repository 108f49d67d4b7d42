"""Entities as rows of the views, with what the views look them up by."""

from __future__ import annotations

import msgspec

from fiscus.core.fold import (
    RANK_ADJUSTMENT,
    RANK_ALLOCATION,
    RANK_EXPIRY,
    RANK_LOAN,
    RANK_OVERRIDE,
    RANK_QUARANTINE,
    RANK_TICKET,
)
from fiscus.core.state import ENDED, Account, Adjustment, AnyEntity, Cell, Draft, Hold, Kind, Loan, Override
from fiscus.treasury.store import EntityRow

_encode = msgspec.json.Encoder().encode


def entity_row(draft: Draft, kind: Kind, key: int | str, entity: AnyEntity) -> EntityRow:
    """The row of an entity as it is now; the draft's mark is not part of it."""
    entity.stamp = 0
    body = _encode(entity)
    if isinstance(entity, Hold):
        if entity.state == "waiting":
            return EntityRow(kind, key, body, owner=entity.account, due_at=entity.ticket_due, due_rank=RANK_TICKET)
        if entity.state == "held":
            return EntityRow(kind, key, body, owner=entity.account, due_at=entity.expires_at, due_rank=RANK_EXPIRY)
        if entity.state == "expired" and entity.open:
            return EntityRow(kind, key, body, owner=entity.account, due_at=entity.closes_at, due_rank=RANK_QUARANTINE)
        return EntityRow(kind, key, body, owner=entity.account)
    if isinstance(entity, Cell):
        if entity.phase != ENDED and draft.budgets[entity.budget].allocated:
            depth = draft.accounts[entity.account].depth
            return EntityRow(
                kind, key, body, owner=entity.account, due_at=entity.end, due_rank=RANK_ALLOCATION, due_depth=depth
            )
        return EntityRow(kind, key, body, owner=entity.account)
    if isinstance(entity, Account):
        return EntityRow(
            kind,
            key,
            body,
            name=entity.name,
            owner=entity.parent,
            carved=bool(entity.allocations),
            live=entity.status in ("active", "suspended"),
        )
    if isinstance(entity, Adjustment) and entity.active and entity.ends_at is not None:
        return EntityRow(kind, key, body, due_at=entity.ends_at, due_rank=RANK_ADJUSTMENT)
    if isinstance(entity, Override):
        due_at = entity.closes_at if entity.state == "pending" else None
        return EntityRow(kind, key, body, owner=entity.account, due_at=due_at, due_rank=RANK_OVERRIDE)
    if isinstance(entity, Loan) and entity.active and entity.ends_at is not None:
        return EntityRow(kind, key, body, due_at=entity.ends_at, due_rank=RANK_LOAN)
    return EntityRow(kind, key, body)
