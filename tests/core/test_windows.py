import doctest
import io
import struct
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from itertools import combinations, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fiscus.core import windows
from fiscus.core.windows import (
    EVERY_S_MAX,
    LIFETIME_END_MS,
    PERIODS,
    Window,
    parse_period,
    window_after,
    window_at,
    windows_between,
    zone,
    zone_names,
)

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NAIVE_WINDOWS_MAX = 200
CALENDAR = ("day", "week", "month", "quarter", "year")
LONGEST_DAYS = {"hour": 0.1, "day": 3, "week": 8, "month": 32, "quarter": 93, "year": 367}
# Zones with a rare kind of shift: by 30 or 45 minutes, at midnight, over the date line, to offsets with seconds.
ODD_ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Caracas",
    "America/Havana",
    "America/New_York",
    "America/Santo_Domingo",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Pyongyang",
    "Asia/Singapore",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
    "Pacific/Rarotonga",
    "UTC",
)


def ms(text):
    """RFC 3339 with an offset → ms."""
    return int(datetime.fromisoformat(text).timestamp()) * SECOND


def reading(zone_name, at_ms):
    """What the local clock shows, without its offset."""
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms))
        .astimezone(zone(zone_name))
        .replace(tzinfo=None)
    )


def at(period, zone_name, at_ms, anchor_ms=0):
    return window_at(parse_period(period), zone_name, at_ms, anchor_ms)


def after(period, zone_name, window, anchor_ms=0):
    return window_after(parse_period(period), zone_name, window, anchor_ms)


def between(period, zone_name, start_ms, end_ms, anchor_ms=0):
    return windows_between(parse_period(period), zone_name, start_ms, end_ms, anchor_ms)


def bounds(window):
    return window.start_ms, window.end_ms


def count_naively(period, zone_name, start_ms, end_ms, anchor_ms=0):
    if start_ms == end_ms:
        return 0
    window = at(period, zone_name, start_ms, anchor_ms)
    count = int(window.start_ms == start_ms)
    while window.end_ms < end_ms:
        window = after(period, zone_name, window, anchor_ms)
        count += 1
    return count


@cache
def shifts(zone_name):
    """Every shift that the zone data lists since 1970, read from the file (RFC 9636): (ms, offset before, after; s)."""
    data = resources.files("tzdata").joinpath("zoneinfo").joinpath(zone_name).read_bytes()

    def counts(start):
        assert data[start : start + 4] == b"TZif"
        return struct.unpack(">6I", data[start + 20 : start + 44])

    is_ut, is_std, leaps, times, types, letters = counts(0)
    start = 44 + times * 5 + types * 6 + letters + leaps * 8 + is_std + is_ut
    _, _, _, times, types, _ = counts(start)
    start += 44
    instants = struct.unpack(f">{times}q", data[start : start + times * 8])
    kinds = data[start + times * 8 : start + times * 9]
    start += times * 9
    offsets = [struct.unpack(">i", data[start + kind * 6 : start + kind * 6 + 4])[0] for kind in range(types)]
    before = [0, *kinds][: len(kinds)]
    return [
        (instant * SECOND, offsets[old], offsets[new])
        for instant, old, new in zip(instants, before, kinds, strict=True)
        if instant >= 0
    ]


def zone_file(shift_s, before_s, after_s):
    """A zone with one shift."""
    empty = struct.pack(">4sc15x6I", b"TZif", b"2", 0, 0, 0, 0, 1, 1) + struct.pack(">iBBx", 0, 0, 0)
    header = struct.pack(">4sc15x6I", b"TZif", b"2", 0, 0, 0, 1, 2, 1)
    kinds = struct.pack(">iBBiBBx", before_s, 0, 0, after_s, 0, 0)
    return ZoneInfo.from_file(io.BytesIO(empty + header + struct.pack(">qB", shift_s, 1) + kinds + b"\n\n"))


def one_of_each():
    """One of the zones that have the same shifts, since many are links of each other."""
    return {tuple(shifts(name)): name for name in sorted(zone_names())}.values()


# Periods


# covers R28
@pytest.mark.parametrize("text", [*PERIODS, "every:1", "every:90", f"every:{EVERY_S_MAX}"])
def test_a_period_reads_back_what_it_writes(text):
    assert parse_period(text).text == text
    assert parse_period(text) == parse_period(parse_period(text).text)


@pytest.mark.parametrize("seconds", [1, 90, EVERY_S_MAX])
def test_every_n_seconds_in_words_is_the_same_period(seconds):
    assert parse_period(f"every {seconds} seconds") == parse_period(f"every:{seconds}")


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "Day", "days", "day ", "day\n", "daily", "every", "every:", "every:0", "every:-1", "every:+1",
        "every:1.5", "every:1e3", "every:007", "every: 5", "every:5 ", "every:5\n", "every:1_000", "every:٣", "every 5",
        "every 5 s", "every  5 seconds", "every 0 seconds", "every 07 seconds", "every five seconds",
        f"every:{EVERY_S_MAX + 1}", f"every {EVERY_S_MAX + 1} seconds",
        pytest.param("every:" + "9" * 10_000, id="over-long"),
    ],
)  # fmt: skip
def test_anything_else_is_no_period_and_the_message_says_what_is(text):
    with pytest.raises(ValueError, match=r"^period must be hour, .*every:N") as raised:
        parse_period(text)
    assert len(str(raised.value)) < 250


# Zones


@pytest.fixture
def system_says_tokyo_for_berlin(tmp_path):
    (tmp_path / "Europe").mkdir()
    tokyo = resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    (tmp_path / "Europe" / "Berlin").write_bytes(tokyo)
    zoneinfo.reset_tzpath(to=[str(tmp_path)])
    ZoneInfo.clear_cache()
    zone.cache_clear()
    yield
    zoneinfo.reset_tzpath()
    ZoneInfo.clear_cache()
    zone.cache_clear()


@pytest.mark.usefixtures("system_says_tokyo_for_berlin")
def test_zones_come_from_the_pinned_package_and_not_from_the_system():
    noon = datetime(2024, 7, 1, 12, tzinfo=UTC)
    assert noon.astimezone(ZoneInfo("Europe/Berlin")).hour == 21
    assert noon.astimezone(zone("Europe/Berlin")).hour == 14


def test_every_zone_of_the_package_loads():
    assert len(zone_names()) > 500
    assert all(zone(name).key == name for name in zone_names())


def test_a_zone_is_loaded_once():
    assert zone("Asia/Kathmandu") is zone("Asia/Kathmandu")


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", "/", "../etc/passwd", "../../../../etc/passwd", "/etc/passwd", "Europe/../../etc/passwd",
        "/usr/share/zoneinfo/UTC", "Europe", "Europe/", "Europe/Berlin/", "Europe//Berlin", "./UTC", "europe/berlin",
        "Utc", "UTC\n", "UTC\0", "Europe\\Berlin", "zone.tab", "tzdata.zi", "__init__.py", "Mars/Olympus",
        pytest.param("A" * 1_000_000, id="over-long"),
    ],
)  # fmt: skip
def test_an_unknown_or_malicious_zone_name_is_refused_and_no_file_is_opened(name, monkeypatch):
    zone_names()
    monkeypatch.setattr("importlib.resources.files", lambda _: pytest.fail("a path was made of the name"))
    for refuses in (zone, lambda name: at("day", name, 0), lambda name: between("lifetime", name, 0, 1)):
        with pytest.raises(ValueError, match="unknown time zone") as raised:
            refuses(name)
        assert len(str(raised.value)) < 150


# Tables of calendar windows


# covers R28, R29
@pytest.mark.parametrize(
    ("period", "instant", "start", "end"),
    [
        ("day", "2024-02-29T12:00Z", "2024-02-29T00:00Z", "2024-03-01T00:00Z"),
        ("day", "2023-02-28T12:00Z", "2023-02-28T00:00Z", "2023-03-01T00:00Z"),
        ("week", "2024-02-29T12:00Z", "2024-02-26T00:00Z", "2024-03-04T00:00Z"),
        ("week", "2024-03-03T23:59:59Z", "2024-02-26T00:00Z", "2024-03-04T00:00Z"),
        ("month", "2024-02-29T12:00Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
        ("month", "2024-12-31T12:00Z", "2024-12-01T00:00Z", "2025-01-01T00:00Z"),
        ("quarter", "2024-03-31T23:59:59Z", "2024-01-01T00:00Z", "2024-04-01T00:00Z"),
        ("quarter", "2024-04-01T00:00Z", "2024-04-01T00:00Z", "2024-07-01T00:00Z"),
        ("quarter", "2024-09-30T23:59:59Z", "2024-07-01T00:00Z", "2024-10-01T00:00Z"),
        ("quarter", "2024-12-31T23:59:59Z", "2024-10-01T00:00Z", "2025-01-01T00:00Z"),
        ("year", "2024-12-31T23:59:59Z", "2024-01-01T00:00Z", "2025-01-01T00:00Z"),
        ("year", "2100-02-28T12:00Z", "2100-01-01T00:00Z", "2101-01-01T00:00Z"),
        ("hour", "2024-02-29T12:34:56Z", "2024-02-29T12:00Z", "2024-02-29T13:00Z"),
    ],
)
def test_utc_windows_follow_the_calendar(period, instant, start, end):
    assert bounds(at(period, "UTC", ms(instant))) == (ms(start), ms(end))


# covers R28, R29
@pytest.mark.parametrize(
    ("instant", "start"),
    [
        ("2020-12-31T12:00Z", "2020-12-28T00:00Z"),  # 2020 has an ISO week 53
        ("2021-01-03T23:59:59Z", "2020-12-28T00:00Z"),
        ("2021-01-04T00:00Z", "2021-01-04T00:00Z"),
        ("2016-01-03T12:00Z", "2015-12-28T00:00Z"),  # week 53 of 2015
        ("2018-12-31T12:00Z", "2018-12-31T00:00Z"),  # week 1 of 2019
        ("2024-12-30T00:00Z", "2024-12-30T00:00Z"),  # week 1 of 2025
        ("2024-12-29T23:59:59Z", "2024-12-23T00:00Z"),  # week 52 of 2024
    ],
)
def test_a_week_is_an_iso_week_also_over_the_end_of_the_year(instant, start):
    window = at("week", "UTC", ms(instant))
    assert bounds(window) == (ms(start), ms(start) + 7 * DAY)
    assert reading("UTC", window.start_ms).isocalendar()[:2] == reading("UTC", ms(instant)).isocalendar()[:2]
    assert reading("UTC", window.start_ms).isoweekday() == 1


# covers R28, R29
@pytest.mark.parametrize("period", ["hour", *CALENDAR])
def test_the_last_millisecond_of_a_period_lies_inside_and_the_next_one_does_not(period):
    # Fault 18 of the token manager: its periods ended at 23:59:59, and the last second was in none of them.
    first, midnight = at(period, "UTC", ms("2024-12-31T23:59:59Z") + 999), ms("2025-01-01T00:00Z")
    if period == "week":
        midnight = ms("2025-01-06T00:00Z")
        first = at(period, "UTC", midnight - 1)
    assert first.end_ms == midnight
    assert at(period, "UTC", midnight - SECOND) == first
    assert at(period, "UTC", midnight).start_ms == midnight


DAYS = [
    # The clock goes forward: a short day.
    ("Europe/Berlin", "2024-03-31T12:00+02:00", "2024-03-31T00:00+01:00", "2024-04-01T00:00+02:00", 23),
    ("America/New_York", "2024-03-10T12:00-04:00", "2024-03-10T00:00-05:00", "2024-03-11T00:00-04:00", 23),
    ("Australia/Lord_Howe", "2024-10-06T12:00+11:00", "2024-10-06T00:00+10:30", "2024-10-07T00:00+11:00", 23.5),
    # The clock goes back: a long day.
    ("Europe/Berlin", "2024-10-27T12:00+01:00", "2024-10-27T00:00+02:00", "2024-10-28T00:00+01:00", 25),
    ("America/New_York", "2024-11-03T12:00-05:00", "2024-11-03T00:00-04:00", "2024-11-04T00:00-05:00", 25),
    ("Australia/Lord_Howe", "2024-04-07T12:00+10:30", "2024-04-07T00:00+11:00", "2024-04-08T00:00+10:30", 24.5),
    # Long after the last year that the zone data lists.
    ("Europe/Berlin", "2999-03-31T12:00+02:00", "2999-03-31T00:00+01:00", "2999-04-01T00:00+02:00", 23),
    # Offsets of no whole hour.
    ("Asia/Kathmandu", "2024-06-01T12:00+05:45", "2024-06-01T00:00+05:45", "2024-06-02T00:00+05:45", 24),
    ("Asia/Kathmandu", "1986-01-01T12:00+05:45", "1985-12-31T18:30+00:00", "1986-01-02T00:00+05:45", 23.75),
    ("Asia/Kolkata", "2024-06-01T12:00+05:30", "2024-06-01T00:00+05:30", "2024-06-02T00:00+05:30", 24),
    # Midnight does not exist: the day starts at 01:00, the first instant after the jump.
    ("America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00", 23),
    ("America/Sao_Paulo", "2018-11-03T12:00-03:00", "2018-11-03T00:00-03:00", "2018-11-04T01:00-02:00", 24),
    ("Africa/Cairo", "2024-04-26T12:00+03:00", "2024-04-26T01:00+03:00", "2024-04-27T00:00+03:00", 23),
    ("Asia/Beirut", "2024-03-31T12:00+03:00", "2024-03-31T01:00+03:00", "2024-04-01T00:00+03:00", 23),
    ("Africa/Monrovia", "1972-01-07T12:00+00:00", "1972-01-07T00:44:30+00:00", "1972-01-08T00:00+00:00", 23.2583),
    # The clock goes back from midnight to 23:00: the evening is long, midnight comes once.
    ("America/Sao_Paulo", "2018-02-17T12:00-02:00", "2018-02-17T00:00-02:00", "2018-02-18T00:00-03:00", 25),
    # The clock goes back from 00:01 to 23:01: midnight comes twice, and the first counts.
    ("America/St_Johns", "2010-11-07T12:00-03:30", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30", 25),
    ("America/St_Johns", "2010-11-06T12:00-02:30", "2010-11-06T00:00-02:30", "2010-11-07T00:00-02:30", 24),
    # The clock goes back from 01:00 to 00:00: midnight comes twice, and the first counts.
    ("America/Havana", "2024-11-03T12:00-05:00", "2024-11-03T00:00-04:00", "2024-11-04T00:00-05:00", 25),
    # 2011-12-30 was left out.
    ("Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00", 24),
    ("Pacific/Apia", "2011-12-31T12:00+14:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00", 24),
]


# covers R28
@pytest.mark.parametrize(("zone_name", "instant", "start", "end", "hours"), DAYS)
def test_a_day_lasts_from_local_midnight_to_local_midnight(zone_name, instant, start, end, hours):
    window = at("day", zone_name, ms(instant))
    assert bounds(window) == (ms(start), ms(end))
    assert (window.end_ms - window.start_ms) / HOUR == pytest.approx(hours, abs=1e-4)
    for inside in bounds(Window(start_ms=window.start_ms, end_ms=window.end_ms - 1)):
        assert at("day", zone_name, inside) == window


def test_the_evening_that_the_clock_shows_again_after_midnight_belongs_to_the_new_day():
    again = ms("2010-11-06T23:30-03:30")
    assert reading("America/St_Johns", again).day == 6
    assert at("day", "America/St_Johns", again).start_ms == ms("2010-11-07T00:00-02:30")


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("week", "2011-12-26T00:00-10:00", "2012-01-02T00:00+14:00"),
        ("month", "2011-12-01T00:00-10:00", "2012-01-01T00:00+14:00"),
        ("quarter", "2011-10-01T00:00-10:00", "2012-01-01T00:00+14:00"),
        ("year", "2011-01-01T00:00-10:00", "2012-01-01T00:00+14:00"),
    ],
)
def test_a_day_that_was_left_out_shortens_what_contains_it(period, start, end):
    assert bounds(at(period, "Pacific/Apia", ms("2011-12-31T12:00+14:00"))) == (ms(start), ms(end))


@pytest.mark.parametrize(
    ("zone_name", "start", "end"),
    [
        ("Europe/Berlin", "2024-03-01T00:00+01:00", "2024-04-01T00:00+02:00"),
        ("Asia/Kathmandu", "2024-03-01T00:00+05:45", "2024-04-01T00:00+05:45"),
        ("America/New_York", "2024-03-01T00:00-05:00", "2024-04-01T00:00-04:00"),
    ],
)
def test_a_month_starts_and_ends_with_the_offsets_of_its_ends(zone_name, start, end):
    assert bounds(at("month", zone_name, ms("2024-03-15T12:00Z"))) == (ms(start), ms(end))


def test_a_day_whose_midnight_lies_inside_a_jump_starts_with_the_jump():
    # From 23:30 to 00:30, as Toronto did in 1919; no zone has since 1970, but one may.
    jump_s = int(datetime(2024, 3, 31, 22, 30, tzinfo=UTC).timestamp())
    where = zone_file(jump_s, 3_600, 7_200)
    day = windows.number_of("day", date(2024, 4, 1))
    assert windows.opening("day", where, day) == jump_s * SECOND
    assert windows.number_at("day", where, jump_s * SECOND - 1) == day - 1
    assert windows.number_at("day", where, jump_s * SECOND) == day


# Tables of hours


@pytest.mark.parametrize(
    ("zone_name", "instant", "start", "minutes"),
    [
        ("UTC", "2024-06-01T12:34Z", "2024-06-01T12:00Z", 60),
        ("Asia/Kolkata", "2024-06-01T12:15+05:30", "2024-06-01T12:00+05:30", 60),
        ("Asia/Kathmandu", "2024-06-01T12:50+05:45", "2024-06-01T12:00+05:45", 60),
        # Whole hours: nothing happens to the windows.
        ("Europe/Berlin", "2024-03-31T01:59+01:00", "2024-03-31T01:00+01:00", 60),
        ("Europe/Berlin", "2024-03-31T03:00+02:00", "2024-03-31T03:00+02:00", 60),
        ("Europe/Berlin", "2024-10-27T02:30+02:00", "2024-10-27T02:00+02:00", 60),
        ("Europe/Berlin", "2024-10-27T02:30+01:00", "2024-10-27T02:00+01:00", 60),
        # 02:00 → 02:30: the clock shows no 02:00.
        ("Australia/Lord_Howe", "2024-10-06T01:10+10:30", "2024-10-06T01:00+10:30", 90),
        ("Australia/Lord_Howe", "2024-10-06T02:40+11:00", "2024-10-06T01:00+10:30", 90),
        ("Australia/Lord_Howe", "2024-10-06T03:00+11:00", "2024-10-06T03:00+11:00", 60),
        # 02:00 → 01:30: half of the hour from 01:00 comes twice.
        ("Australia/Lord_Howe", "2024-04-07T01:45+11:00", "2024-04-07T01:00+11:00", 90),
        ("Australia/Lord_Howe", "2024-04-07T01:45+10:30", "2024-04-07T01:00+11:00", 90),
        ("Australia/Lord_Howe", "2024-04-07T02:00+10:30", "2024-04-07T02:00+10:30", 60),
        ("Asia/Pyongyang", "2018-05-04T23:10+08:30", "2018-05-04T23:00+08:30", 30),  # 23:30 → 00:00
        ("Asia/Pyongyang", "2018-05-05T00:00+09:00", "2018-05-05T00:00+09:00", 60),
        ("Asia/Kathmandu", "1986-01-01T00:20+05:45", "1985-12-31T23:00+05:30", 105),  # 00:00 → 00:15
    ],
)
def test_an_hour_starts_when_the_local_clock_reads_a_full_hour(zone_name, instant, start, minutes):
    assert bounds(at("hour", zone_name, ms(instant))) == (ms(start), ms(start) + minutes * MINUTE)


@pytest.mark.parametrize(
    ("zone_name", "day", "hours"),
    [
        ("Europe/Berlin", "2024-03-31T12:00Z", 23),
        ("Europe/Berlin", "2024-10-27T12:00Z", 25),
        ("America/New_York", "2024-11-03T12:00Z", 25),
        ("Asia/Kolkata", "2024-11-03T12:00Z", 24),
        ("Australia/Lord_Howe", "2024-10-06T00:00Z", 23),
        ("Australia/Lord_Howe", "2024-04-07T00:00Z", 24),
    ],
)
def test_a_day_has_as_many_hours_as_the_clock_strikes(zone_name, day, hours):
    assert between("hour", zone_name, *bounds(at("day", zone_name, ms(day)))) == hours


@pytest.mark.parametrize(
    ("period", "zone_name", "shift"),
    [
        ("hour", "Australia/Lord_Howe", "2024-10-06T02:30+11:00"),
        ("hour", "Australia/Lord_Howe", "2024-04-07T01:30+10:30"),
        ("hour", "Asia/Pyongyang", "2018-05-05T00:00+09:00"),
        ("hour", "Asia/Pyongyang", "2015-08-14T23:30+08:30"),
        ("hour", "Africa/Monrovia", "1972-01-07T00:44:30+00:00"),
        ("hour", "Europe/Berlin", "2024-10-27T02:00+01:00"),
        ("day", "Pacific/Apia", "2011-12-31T00:00+14:00"),
        ("day", "America/St_Johns", "2010-11-06T23:01-03:30"),
        ("day", "America/Sao_Paulo", "2018-11-04T01:00-02:00"),
    ],
)
def test_counts_around_a_shift_are_those_of_the_windows_there(period, zone_name, shift):
    row = [at(period, zone_name, ms(shift) - 4 * (DAY if period == "day" else HOUR))]
    while len(row) < 9:
        row.append(after(period, zone_name, row[-1]))
    assert row[0].end_ms < ms(shift) < row[-1].start_ms
    for low, high in combinations(range(len(row)), 2):
        assert between(period, zone_name, row[low].start_ms, row[high].start_ms) == high - low
        assert between(period, zone_name, row[low].start_ms + 1, row[high].start_ms + 1) == high - low
        assert between(period, zone_name, row[low].end_ms - 1, row[high].end_ms - 1) == high - low
        assert between(period, zone_name, row[low].start_ms, row[high].end_ms) == high - low + 1


@pytest.mark.parametrize("zone_name", ["Australia/Lord_Howe", "Europe/Berlin", "Asia/Pyongyang", "Pacific/Apia"])
@pytest.mark.parametrize("period", ["hour", "day"])
def test_the_count_of_millennia_is_the_sum_of_their_years(period, zone_name):
    years = [ms(f"{year}-06-15T00:00Z") for year in range(1970, 3000)]
    parts = [between(period, zone_name, start_ms, end_ms) for start_ms, end_ms in pairwise(years)]
    assert between(period, zone_name, years[0], years[-1]) == sum(parts)
    assert between(period, zone_name, years[200], years[-1]) == sum(parts[200:])
    assert parts[-1] == count_naively(period, zone_name, *years[-2:])


# Every N seconds, lifetime


@pytest.mark.parametrize(
    ("seconds", "anchor_ms", "at_ms", "start_ms"),
    [
        (60, 0, 0, 0),
        (60, 0, 59_999, 0),
        (60, 0, 60_000, 60_000),
        (60, 1_000_500, 1_000_499, 940_500),
        (60, 1_000_500, 1_000_500, 1_000_500),
        (60, 1_000_500, 500_000, 460_500),
        (EVERY_S_MAX, 5, 5 + EVERY_S_MAX * SECOND, 5 + EVERY_S_MAX * SECOND),
    ],
)
def test_every_counts_elapsed_time_from_its_anchor_in_both_directions(seconds, anchor_ms, at_ms, start_ms):
    for zone_name in ("UTC", "Australia/Lord_Howe"):
        window = at(f"every:{seconds}", zone_name, at_ms, anchor_ms)
        assert bounds(window) == (start_ms, start_ms + seconds * SECOND)


def test_a_lifetime_is_one_window_and_none_follows():
    window = at("lifetime", "Europe/Berlin", ms("2024-06-01T00:00Z"))
    assert bounds(window) == (0, LIFETIME_END_MS) == (0, ms("9999-12-31T00:00Z"))
    with pytest.raises(ValueError, match="lifetime"):
        after("lifetime", "Europe/Berlin", window)
    assert between("lifetime", "UTC", 0, LIFETIME_END_MS) == 1
    assert between("lifetime", "UTC", 1, LIFETIME_END_MS) == 0


# The range of times


@pytest.mark.parametrize("period", [*PERIODS, "every:60"])
@pytest.mark.parametrize("time_ms", [-1, LIFETIME_END_MS, LIFETIME_END_MS + 1, -(10**30), 10**30])
def test_a_time_out_of_range_is_refused_by_name(period, time_ms):
    with pytest.raises(ValueError, match=r"^at_ms must be in 0 … "):
        at(period, "UTC", time_ms)
    with pytest.raises(ValueError, match=r"^anchor_ms must be in 0 … "):
        at(period, "UTC", 0, time_ms)
    with pytest.raises(ValueError, match=r"^anchor_ms must be in 0 … "):
        between(period, "UTC", 0, 0, time_ms)
    if time_ms != LIFETIME_END_MS:
        with pytest.raises(ValueError, match=r"^start_ms must be in 0 … "):
            between(period, "UTC", time_ms, LIFETIME_END_MS)
        with pytest.raises(ValueError, match=r"^end_ms must be in 0 … "):
            between(period, "UTC", 0, time_ms)


def test_a_span_that_runs_backwards_is_refused():
    with pytest.raises(ValueError, match="after end_ms"):
        between("day", "UTC", 2, 1)


@pytest.mark.parametrize("zone_name", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Africa/Monrovia", "Asia/Kolkata"])
@pytest.mark.parametrize("period", [*PERIODS, "every:86399"])
def test_the_first_and_the_last_window_are_cut_to_the_range(period, zone_name):
    first, last = at(period, zone_name, 0, 12_345), at(period, zone_name, LIFETIME_END_MS - 1, 12_345)
    assert first.start_ms == 0
    assert at(period, zone_name, first.end_ms - 1, 12_345) == first
    assert last.end_ms == LIFETIME_END_MS
    assert at(period, zone_name, last.start_ms, 12_345) == last
    assert between(period, zone_name, last.start_ms, LIFETIME_END_MS, 12_345) == 1
    with pytest.raises(ValueError, match=r"lifetime|last one"):
        after(period, zone_name, last, 12_345)


def test_a_window_of_another_zone_or_period_has_none_after_it():
    berlin = at("day", "Europe/Berlin", ms("2024-06-01T12:00Z"))
    for period, zone_name in (("day", "UTC"), ("month", "Europe/Berlin"), ("every:86400", "UTC")):
        with pytest.raises(ValueError, match="does not end where"):
            after(period, zone_name, berlin)


# Properties

zone_name_strategy = st.sampled_from(ODD_ZONES) | st.sampled_from(sorted(zone_names()))
period_strategy = st.sampled_from(["hour", *CALENDAR]) | st.integers(1, EVERY_S_MAX).map(lambda n: f"every:{n}")
anchors = st.just(0) | st.integers(0, LIFETIME_END_MS - 1)


@st.composite
def places(draw):
    """A zone and an instant: anywhere, near a shift of the clock of this zone, or near an end of the range."""
    zone_name = draw(zone_name_strategy)
    near = [shift_ms for shift_ms, _, _ in shifts(zone_name)] + [0, LIFETIME_END_MS]
    anywhere = st.integers(0, LIFETIME_END_MS - 1) | st.integers(0, ms("2100-01-01T00:00Z"))
    away = st.integers(-2 * DAY, 2 * DAY) | st.integers(-90, 90).map(lambda minutes: minutes * MINUTE)
    at_ms = draw(anywhere | st.builds(int.__add__, st.sampled_from(near), away))
    return zone_name, min(max(at_ms, 0), LIFETIME_END_MS - 1)


@given(period_strategy | st.just("lifetime"), places(), anchors)
@settings(max_examples=300, deadline=None)
def test_a_window_contains_its_instant_and_is_the_same_from_each_of_its_ends(period, place, anchor_ms):
    zone_name, at_ms = place
    window = at(period, zone_name, at_ms, anchor_ms)
    assert 0 <= window.start_ms <= at_ms < window.end_ms <= LIFETIME_END_MS
    assert at(period, zone_name, window.start_ms, anchor_ms) == window
    assert at(period, zone_name, window.end_ms - 1, anchor_ms) == window


@given(period_strategy, places(), anchors)
@settings(max_examples=300, deadline=None)
def test_windows_follow_each_other_without_gap_or_overlap(period, place, anchor_ms):
    zone_name, at_ms = place
    window = at(period, zone_name, at_ms, anchor_ms)
    for _ in range(5):
        if window.end_ms == LIFETIME_END_MS:
            break
        following = after(period, zone_name, window, anchor_ms)
        assert following.start_ms == window.end_ms < following.end_ms
        window = following


@given(period_strategy, places(), anchors, st.data())
@settings(max_examples=300, deadline=None)
def test_the_count_of_windows_is_that_of_going_through_them(period, place, anchor_ms, data):
    zone_name, start_ms = place
    window = at(period, zone_name, start_ms, anchor_ms)
    length_ms = window.end_ms - window.start_ms
    span_ms = data.draw(st.integers(0, NAIVE_WINDOWS_MAX * length_ms) | st.integers(0, 2 * length_ms))
    end_ms = min(start_ms + span_ms, LIFETIME_END_MS)
    # Ends that are starts of windows, where being off by one shows.
    for low_ms in {start_ms, window.start_ms}:
        for high_ms in {end_ms, at(period, zone_name, max(end_ms - 1, 0), anchor_ms).start_ms}:
            if low_ms <= high_ms:
                span = (period, zone_name, low_ms, high_ms, anchor_ms)
                assert between(*span) == count_naively(*span)


@given(period_strategy | st.just("lifetime"), zone_name_strategy, st.data(), anchors)
@example("hour", "Australia/Lord_Howe", None, 0)
@settings(max_examples=200, deadline=None)
def test_counts_of_adjacent_spans_of_any_length_add_up(period, zone_name, data, anchor_ms):
    times = st.integers(0, LIFETIME_END_MS)
    cuts = [0, 10**12, LIFETIME_END_MS] if data is None else sorted(data.draw(st.tuples(times, times, times)))
    parts = [between(period, zone_name, low_ms, high_ms, anchor_ms) for low_ms, high_ms in pairwise(cuts)]
    assert sum(parts) == between(period, zone_name, cuts[0], cuts[-1], anchor_ms)


@given(places())
@example(("Australia/Lord_Howe", ms("2024-10-06T02:40+11:00")))
@settings(max_examples=150, deadline=None)
def test_hours_start_exactly_where_the_clock_shows_no_minutes(place):
    zone_name, at_ms = place
    window = at("hour", zone_name, at_ms)
    inside = range(window.start_ms, window.end_ms, 30 * SECOND)
    full = [instant for instant in inside if reading(zone_name, instant).strftime("%M:%S.%f") == "00:00.000000"]
    assert full == [window.start_ms] or (window.start_ms == 0 and full == [])
    if window.end_ms < LIFETIME_END_MS:
        assert reading(zone_name, window.end_ms).strftime("%M:%S.%f") == "00:00.000000"


@given(st.sampled_from(CALENDAR), places())
@settings(max_examples=150, deadline=None)
def test_calendar_windows_start_when_the_clock_first_reaches_their_first_day(period, place):
    """Another way to the same: the latest date that the clock has shown so far, instant by instant."""

    def first_day(day):
        return {
            "day": day,
            "week": day - timedelta(days=day.weekday()),
            "month": day.replace(day=1),
            "quarter": date(day.year, (day.month - 1) // 3 * 3 + 1, 1),
            "year": date(day.year, 1, 1),
        }[period]

    def latest_date(instant):
        # A clock that goes back does so by three hours at most: the dates of the hours before tell.
        return max(reading(zone_name, max(instant - back, -DAY)).date() for back in range(0, 3 * HOUR, 30 * SECOND))

    zone_name, at_ms = place
    window = at(period, zone_name, at_ms)
    days = [first_day(latest_date(instant)) for instant in (window.start_ms, at_ms, window.end_ms - 1)]
    assert days == [days[0]] * 3
    if window.start_ms > 0:
        assert first_day(latest_date(window.start_ms - 1)) < days[0]
    if window.end_ms < LIFETIME_END_MS:
        assert first_day(latest_date(window.end_ms)) > days[0]


# What the closed forms take for granted about the pinned zone data


def test_no_zone_lists_single_shifts_beyond_the_year_from_which_rules_are_multiplied():
    last_ms = max(shift_ms for name in zone_names() for shift_ms, _, _ in shifts(name))
    assert last_ms < ms(f"{windows.RULES_YEAR}-01-01T00:00Z")


def test_a_zone_crosses_the_date_line_once_at_most_and_leaves_a_day_out():
    crossings = {
        name: [new - old for _, old, new in shifts(name) if abs(new - old) > 12 * 3_600] for name in zone_names()
    }
    assert {name for name, jumps in crossings.items() if jumps} >= {"Pacific/Apia", "Pacific/Kwajalein"}
    assert all(jumps in ([], [86_400]) for jumps in crossings.values())
    for name in sorted(zone_names()):
        offsets = [offset for _, old, new in shifts(name) for offset in (old, new)]
        assert crossings[name] or max(offsets, default=0) - min(offsets, default=0) < 12 * 3_600


@pytest.mark.slow
def test_every_uneven_shift_of_every_zone_is_found():
    for name in one_of_each():
        expected = [shift_ms for shift_ms, old, new in shifts(name) if (new - old) % 3_600]
        last_ms = max((shift_ms for shift_ms, _, _ in shifts(name)), default=0)
        found = [shift_ms for year in range(1970, 2100) for shift_ms, _ in windows.uneven_shifts(name, year)]
        assert [shift_ms for shift_ms in found if shift_ms <= last_ms] == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("period", ["hour", *CALENDAR])
def test_around_every_shift_of_every_zone_windows_tile_the_time_and_are_counted(period):
    for zone_name in one_of_each():
        for shift_ms, _, _ in shifts(zone_name):
            start_ms = max(shift_ms - int(LONGEST_DAYS[period] * DAY), 0)
            end_ms = shift_ms + int(LONGEST_DAYS[period] * DAY)
            window = at(period, zone_name, start_ms)
            while window.end_ms < end_ms:
                following = after(period, zone_name, window)
                assert window.start_ms < following.start_ms == window.end_ms < following.end_ms
                window = following
            assert between(period, zone_name, start_ms, end_ms) == count_naively(period, zone_name, start_ms, end_ms)


def test_the_examples_in_the_docstrings_run():
    outcome = doctest.testmod(windows)
    assert outcome.attempted > 8
    assert outcome.failed == 0
