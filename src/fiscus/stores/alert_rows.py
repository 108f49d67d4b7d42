"""Rows of the outbox of alerts, the same in all databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fiscus.contract.alerts import Count, Delivery, Progress


def progress(row: Sequence[Any]) -> Progress:
    """How far the journal was read, as it is read."""
    version, seq, memory, measures = row
    return Progress(version=version, seq=seq, memory=memory, measures=measures)


def delivery_row(one: Delivery) -> tuple[object, ...]:
    """A delivery as it is put."""
    return (
        one.id,
        one.channel,
        one.account,
        one.body,
        one.state,
        one.attempts,
        one.made_at,
        one.due_at,
        one.error,
    )


def delivery(row: Sequence[Any]) -> Delivery:
    """A delivery as it is read."""
    number, id, channel, account, body, state, attempts, made_at, due_at, error = row
    return Delivery(
        number=number,
        id=id,
        channel=channel,
        account=account,
        body=body,
        state=state,
        attempts=attempts,
        made_at=made_at,
        due_at=due_at,
        error=error,
    )


def count(row: Sequence[Any]) -> Count:
    """What a channel has."""
    channel, waiting, dead, oldest_at = row
    return Count(channel=channel, waiting=waiting, dead=dead, oldest_at=oldest_at)
