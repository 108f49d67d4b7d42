"""Named periods as half-open times in UTC, and days as numbers since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fiscus.contract.analysis import Period

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def bounds(period: Period, now: datetime) -> tuple[datetime, datetime]:
    """Where a period begins, and where it ends; one that is not over ends where it will.

    >>> [f"{time:%d.%m. %H:%M}" for time in bounds("last_month", datetime(2026, 3, 31, 12, tzinfo=UTC))]
    ['01.02. 00:00', '01.03. 00:00']
    >>> [f"{time:%d.%m.}" for time in bounds("last_7_days", datetime(2026, 3, 3, 12, tzinfo=UTC))]
    ['25.02.', '04.03.']
    """
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    tomorrow = today + timedelta(days=1)
    month = today.replace(day=1)
    match period:
        case "today":
            return today, tomorrow
        case "yesterday":
            return today - timedelta(days=1), today
        case "last_7_days":
            return tomorrow - timedelta(days=7), tomorrow
        case "last_30_days":
            return tomorrow - timedelta(days=30), tomorrow
        case "this_month":
            return month, (month + timedelta(days=31)).replace(day=1)
        case "last_month":
            return (month - timedelta(days=1)).replace(day=1), month


def starts(since: datetime, until: datetime, length_ms: int) -> range:
    """The numbers of all days (or hours) that a time touches, in order.

    >>> list(starts(datetime(1970, 1, 2, tzinfo=UTC), datetime(1970, 1, 3, 1, tzinfo=UTC), DAY_MS))
    [1, 2]
    """
    first = int(since.timestamp() * 1_000) // length_ms
    last = -(-int(until.timestamp() * 1_000) // length_ms)
    return range(first, last)


def at(number: int, length_ms: int) -> datetime:
    """When a day (or hour) begins.

    >>> at(1, DAY_MS)
    datetime.datetime(1970, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)
    """
    return datetime.fromtimestamp(number * length_ms // 1_000, UTC)
