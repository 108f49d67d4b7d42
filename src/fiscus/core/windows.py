"""Where the windows of a budget begin and end: calendar arithmetic, without a clock.

Times are integer milliseconds since 1970-01-01T00:00:00Z, from 0 to ``LIFETIME_END_MS``. Windows are half-open and
tile that range without a gap: each instant lies in exactly one. The first and the last window are cut to the range.

Local time follows the pinned ``tzdata`` package, so that every node sees the same windows whatever its system knows.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Literal, get_args
from zoneinfo import ZoneInfo

import msgspec

CalendarPeriod = Literal["day", "week", "month", "quarter", "year"]
PeriodName = Literal["hour", "day", "week", "month", "quarter", "year", "lifetime"]

PERIODS: tuple[PeriodName, ...] = get_args(PeriodName)
"""The periods that have a name of their own; ``every:N`` (seconds) is the other kind."""

EVERY_S_MAX = 31_622_400
"""366 days."""

LIFETIME_END_MS = 253_402_214_400_000
"""9999-12-31T00:00:00Z, the end of all windows and of the times that are accepted."""

ZONES_MAX = 1_024
"""Zones kept in memory; tzdata has about 600."""

RULES_YEAR = 2100
"""From this year on each zone follows one rule, the same every year: the zone data lists no single dates beyond it."""

UNEVEN_YEARS_MAX = 8_192
"""Years (of a zone) whose uneven shifts are kept in memory."""

SECOND_MS = 1_000
HOUR_MS = 3_600 * SECOND_MS
DAY_MS = 24 * HOUR_MS

_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVERY = re.compile(r"every:([1-9][0-9]{0,7})|every ([1-9][0-9]{0,7}) seconds")
_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_SHOWN_LENGTH_MAX = 40


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """How long the windows of a budget are. Made by ``parse_period``.

    Attributes:
        name: one of ``PERIODS``, or ``every``.
        every_s: for ``every``, the length in seconds, 1 … ``EVERY_S_MAX``; otherwise 0.
    """

    name: PeriodName | Literal["every"]
    every_s: int = 0

    @property
    def text(self) -> str:
        """The period as it is written and stored; ``parse_period`` reads it back."""
        return f"every:{self.every_s}" if self.name == "every" else self.name


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One period of one budget: ``[start_ms, end_ms)``, 0 ≤ start < end ≤ ``LIFETIME_END_MS``."""

    start_ms: int
    end_ms: int


def parse_period(text: str) -> Period:
    """Read a period: a name in ``PERIODS``, ``every:N`` or ``every N seconds``, N in 1 … ``EVERY_S_MAX``.

    >>> parse_period("every 90 seconds").text
    'every:90'

    Raises:
        ValueError: anything else, other spellings included.
    """
    for name in PERIODS:
        if text == name:
            return Period(name=name)
    found = _EVERY.fullmatch(text)
    every_s = int(found[1] or found[2]) if found else 0
    if not 1 <= every_s <= EVERY_S_MAX:
        names = ", ".join(PERIODS)
        raise ValueError(f"period must be {names} or every:N with N in 1 … {EVERY_S_MAX} seconds, not {shown(text)}")
    return Period(name="every", every_s=every_s)


def window_at(period: Period, zone_name: str, at_ms: int, anchor_ms: int = 0) -> Window:
    """Find the window that contains ``at_ms``.

    - day, week (ISO, from Monday), month, quarter, year: from local midnight to local midnight. A midnight that the
      clock jumps over is replaced by the first instant after the jump; of a midnight that occurs twice the first
      counts. A local day that a zone left out (Pacific/Apia, 2011-12-30) has no window.
    - hour: a window starts whenever the local clock reads a full hour. It lasts one hour of elapsed time, also when
      the clock is put forward or back by whole hours: a day of 25 hours has 25 windows. Where the shift is uneven,
      the window around it still lasts from one full hour that the clock shows to the next, which is more than nothing
      and less than two hours: 90 minutes at both shifts of Lord Howe, 30 when Pyongyang went from 23:30 to 00:00.
    - every N seconds: elapsed time, counted from ``anchor_ms`` in both directions, in no zone.
    - lifetime: the whole range.

    >>> window = window_at(parse_period("day"), "Europe/Berlin", 1_711_843_200_000)  # 2024-03-31, an hour is missing
    >>> (window.end_ms - window.start_ms) // HOUR_MS
    23

    Args:
        period: from ``parse_period``.
        zone_name: IANA name.
        at_ms: 0 ≤ at < ``LIFETIME_END_MS``.
        anchor_ms: where a window of ``every`` starts, in the same range; the other periods ignore it.

    Raises:
        ValueError: a time out of range, or an unknown zone.

    Source: design.md §1 "budget", "window".
    """
    check_time("at_ms", at_ms)
    check_time("anchor_ms", anchor_ms)
    where = zone(zone_name)
    match period.name:
        case "lifetime":
            start_ms, end_ms = 0, LIFETIME_END_MS
        case "every":
            start_ms = at_ms - (at_ms - anchor_ms) % (period.every_s * SECOND_MS)
            end_ms = start_ms + period.every_s * SECOND_MS
        case "hour":
            start_ms, end_ms = hour_start(where, at_ms), hour_end(where, at_ms)
        case name:
            number = number_at(name, where, at_ms)
            start_ms, end_ms = opening(name, where, number), opening(name, where, number + 1)
    return Window(start_ms=max(start_ms, 0), end_ms=min(end_ms, LIFETIME_END_MS))


def window_after(period: Period, zone_name: str, window: Window, anchor_ms: int = 0) -> Window:
    """Find the window that starts where ``window`` ends.

    >>> window_after(parse_period("every:60"), "UTC", Window(start_ms=0, end_ms=60_000))
    Window(start_ms=60000, end_ms=120000)

    Raises:
        ValueError: there is none (lifetime, the end of the range), or ``window`` is none of this period, zone and
            anchor, so that its end is not the start of another.
    """
    if period.name == "lifetime":
        raise ValueError("a lifetime has one window, and none after it")
    if window.end_ms >= LIFETIME_END_MS:
        raise ValueError("window is the last one before 9999-12-31")
    following = window_at(period, zone_name, window.end_ms, anchor_ms)
    if following.start_ms != window.end_ms:
        raise ValueError(f"window does not end where a window of {period.text} in {zone_name} starts")
    return following


def windows_between(period: Period, zone_name: str, start_ms: int, end_ms: int, anchor_ms: int = 0) -> int:
    """Count the windows that start in ``[start_ms, end_ms)``, in closed form and not by going through them.

    >>> windows_between(parse_period("month"), "UTC", 0, LIFETIME_END_MS)
    96360

    Args:
        period: from ``parse_period``.
        zone_name: IANA name.
        start_ms: a window that starts here counts; 0 ≤ start ≤ end.
        end_ms: a window that starts here does not; at most ``LIFETIME_END_MS``.
        anchor_ms: as in ``window_at``.

    Raises:
        ValueError: a time out of range, the end before the start, or an unknown zone.

    Source: design.md §3 "roll-over": skipped windows in closed form.
    """
    check_time("start_ms", start_ms, LIFETIME_END_MS)
    check_time("end_ms", end_ms, LIFETIME_END_MS)
    check_time("anchor_ms", anchor_ms)
    if start_ms > end_ms:
        raise ValueError(f"start_ms {start_ms} is after end_ms {end_ms}")
    where = zone(zone_name)
    if start_ms == end_ms:
        return 0
    starts_here = window_at(period, zone_name, start_ms, anchor_ms).start_ms == start_ms
    last_ms = end_ms - 1
    match period.name:
        case "lifetime":
            steps = 0
        case "every":
            length_ms = period.every_s * SECOND_MS
            steps = (last_ms - anchor_ms) // length_ms - (start_ms - anchor_ms) // length_ms
        case "hour":
            first_hour_ms, last_hour_ms = hour_start(where, start_ms), hour_start(where, last_ms)
            longer_ms = uneven_ms_between(zone_name, first_hour_ms, last_hour_ms)
            steps = (last_hour_ms - first_hour_ms - longer_ms) // HOUR_MS
        case name:
            steps = number_at(name, where, last_ms) - number_at(name, where, start_ms)
            if name == "day":
                steps -= days_left_out(where, start_ms, last_ms)
    return steps + starts_here


@lru_cache(maxsize=ZONES_MAX)
def zone(name: str) -> ZoneInfo:
    """Load a zone from the pinned ``tzdata`` package, never from the system's files.

    >>> zone("Europe/Berlin").key
    'Europe/Berlin'

    Args:
        name: IANA name as tzdata spells it (``Europe/Berlin``, ``UTC``).

    Raises:
        ValueError: not in tzdata's list of names. Only names in that list ever become a path.
    """
    if name not in zone_names():
        raise ValueError(f"unknown time zone {shown(name)}; an IANA name like Europe/Berlin is needed")
    with resources.files("tzdata").joinpath("zoneinfo").joinpath(name).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """List the names that ``zone`` knows.

    >>> "Pacific/Apia" in zone_names()
    True
    """
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


def check_time(field: str, time_ms: int, largest_ms: int = LIFETIME_END_MS - 1) -> None:
    """Raise ValueError, naming ``field``, unless 0 ≤ ``time_ms`` ≤ ``largest_ms``."""
    if not 0 <= time_ms <= largest_ms:
        raise ValueError(f"{field} must be in 0 … {largest_ms} (1970-01-01 … 9999-12-31), not {time_ms}")


def shown(text: str) -> str:
    """Quote input for a message, cut to a bounded length."""
    return repr(text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "…")


def local(where: ZoneInfo, at_ms: int) -> datetime:
    """Read the local clock at an instant."""
    return (_EPOCH + at_ms * _MILLISECOND).astimezone(where)


def offset_ms(where: ZoneInfo, at_ms: int) -> int:
    """Return how far local time is ahead of UTC at an instant, −24 h … +24 h, whole seconds."""
    offset = local(where, at_ms).utcoffset()
    assert offset is not None
    return offset // _MILLISECOND


# Days and what is made of them. They are numbered: days and weeks from 0001-01-01 (a Monday), the others from year 0.


def number_at(name: CalendarPeriod, where: ZoneInfo, at_ms: int) -> int:
    """Number the window that contains an instant."""
    number = number_of(name, local(where, at_ms))
    # When the clock goes back over midnight, it shows the evening again after the next window has begun.
    return number + (opening(name, where, number + 1) <= at_ms)


def number_of(name: CalendarPeriod, day: date) -> int:
    """Number the period that a date belongs to.

    >>> number_of("quarter", date(2024, 6, 30)) - number_of("quarter", date(2023, 12, 31))
    2
    """
    if name in _DAYS:
        return (day.toordinal() - 1) // _DAYS[name]
    return (day.year * 12 + day.month - 1) // _MONTHS[name]


def first_day(name: CalendarPeriod, number: int) -> date:
    """Return the date on which the period with this number begins.

    >>> first_day("week", number_of("week", date(2021, 1, 3)))
    datetime.date(2020, 12, 28)
    """
    if name in _DAYS:
        return date.fromordinal(number * _DAYS[name] + 1)
    year, month = divmod(number * _MONTHS[name], 12)
    return date(year, month + 1, 1)


def opening(name: CalendarPeriod, where: ZoneInfo, number: int) -> int:
    """Return the first instant (ms) at which the local clock has reached the first day of a numbered period.

    It never falls when the number rises, and stays the same over a day that is left out. Past the year 9999 it is
    ``LIFETIME_END_MS``.
    """
    if number > number_of(name, date.max):
        return LIFETIME_END_MS
    day = first_day(name, number)
    midnight = datetime(day.year, day.month, day.day, tzinfo=where)
    first_ms = (midnight - _EPOCH) // _MILLISECOND
    if local(where, first_ms) == midnight:
        return first_ms
    # The clock jumps over midnight, which lies before the jump if read with the offset after it, and vice versa.
    before_ms = (midnight.replace(fold=1) - _EPOCH) // _MILLISECOND
    return first_change(before_ms, first_ms, lambda at_ms: offset_ms(where, at_ms))


def days_left_out(where: ZoneInfo, start_ms: int, end_ms: int) -> int:
    """Count the local days left out between two instants: 1 if the zone has moved west over the date line, else 0.

    That raises the offset by 24 h; nothing else moves it by more than a few. No zone has crossed the line twice since
    1970, nor gone the other way, which the tests check in the zone data.
    """
    return int(offset_ms(where, end_ms) - offset_ms(where, start_ms) > DAY_MS // 2)


# Hours. A shift of the clock is uneven if it is not by whole hours. There are few, and never two within a week.


def past_hour_ms(where: ZoneInfo, at_ms: int) -> int:
    """Return how much (ms) the local clock shows past the full hour."""
    return (at_ms + offset_ms(where, at_ms)) % HOUR_MS


def hour_start(where: ZoneInfo, at_ms: int) -> int:
    """Return the last instant ≤ ``at_ms`` at which the local clock reads a full hour."""
    start_ms = at_ms - past_hour_ms(where, at_ms)
    if past_hour_ms(where, start_ms) == 0:
        return start_ms
    before_ms = first_uneven_shift(where, start_ms, at_ms) - SECOND_MS
    return before_ms - past_hour_ms(where, before_ms)


def hour_end(where: ZoneInfo, at_ms: int) -> int:
    """Return the first instant > ``at_ms`` at which the local clock reads a full hour."""
    past_ms = past_hour_ms(where, at_ms)
    end_ms = at_ms - past_ms + HOUR_MS
    if past_hour_ms(where, end_ms) == 0:
        return end_ms
    shift_ms = first_uneven_shift(where, at_ms - past_ms % SECOND_MS, end_ms)
    return shift_ms + -past_hour_ms(where, shift_ms) % HOUR_MS


def first_uneven_shift(where: ZoneInfo, low_ms: int, high_ms: int) -> int:
    """Find the uneven shift in ``(low_ms, high_ms]``, where there is one."""
    return first_change(low_ms, high_ms, lambda at_ms: offset_ms(where, at_ms) % HOUR_MS)


def first_change(low_ms: int, high_ms: int, reading: Callable[[int], int]) -> int:
    """Find by bisection, in whole seconds from ``low_ms``, where a reading that changes once has changed.

    >>> first_change(0, 10_000, lambda at_ms: at_ms // 7_000)
    7000
    """
    instants = range(low_ms, high_ms + 1, SECOND_MS)
    before = reading(low_ms)
    return instants[bisect_left(instants, True, key=lambda at_ms: reading(at_ms) != before)]


def uneven_ms_between(zone_name: str, start_ms: int, end_ms: int) -> int:
    """Sum by how much (ms) the windows between two full hours of the local clock are longer than an hour each.

    It lists the shifts of at most about 130 years, and multiplies for those that one rule governs.
    """
    first, last = local(zone("UTC"), start_ms).year, local(zone("UTC"), end_ms).year
    listed = {first, *range(first, min(last, RULES_YEAR) + 1), last}
    ruled = last - first + 1 - len(listed)
    return sum(
        longer_ms
        for year in listed
        for shift_ms, longer_ms in uneven_shifts(zone_name, year)
        if start_ms < shift_ms <= end_ms
    ) + ruled * sum(longer_ms for _, longer_ms in uneven_shifts(zone_name, RULES_YEAR))


@lru_cache(maxsize=UNEVEN_YEARS_MAX)
def uneven_shifts(zone_name: str, year: int) -> tuple[tuple[int, int], ...]:
    """List the uneven shifts of a zone in a year of UTC.

    >>> [longer_ms // 60_000 for _, longer_ms in uneven_shifts("Australia/Lord_Howe", 2024)]
    [30, 30]

    Returns:
        Pairs in order of time: the instant of the shift (ms), and by how much (ms, −1 h … +1 h) the window that it
        falls into, or ends, is longer than an hour.
    """
    where, utc = zone(zone_name), zone("UTC")
    next_year_ms = opening("year", utc, year + 1)
    weeks = [*range(opening("year", utc, year), next_year_ms, 7 * DAY_MS), next_year_ms]
    shifts = [
        first_uneven_shift(where, low_ms, high_ms)
        for low_ms, high_ms in pairwise(weeks)
        if (offset_ms(where, high_ms) - offset_ms(where, low_ms)) % HOUR_MS
    ]
    return tuple(
        (shift_ms, hour_end(where, before_ms) - hour_start(where, before_ms) - HOUR_MS)
        for shift_ms, before_ms in ((shift_ms, shift_ms - SECOND_MS) for shift_ms in shifts)
    )
