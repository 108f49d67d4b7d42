"""Clocks that are wrong: of a node, of the database, of the machine; and the ends of civil periods as they go by."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

from fiscus.contract.treasury import Readiness
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.decide import new_draft
from fiscus.core.events import Held, Settled, WindowOpened
from fiscus.core.fold import fold
from fiscus.core.state import Draft
from fiscus.stores import open_store
from tests.faults.books import entries_of
from tests.faults.conclusion import conclude
from tests.faults.finding import Finding
from tests.faults.load import LEASE_S, PLENTY, Load, Told, founding
from tests.faults.nodes import Ground, Node, ground
from tests.servers.clock import IS_POSSIBLE, WHY_NOT, WallClock
from tests.servers.postgres import PostgresServer

ROUNDS = 30
QUICK = 3
HOUR_S = 3_600.0
MONTH_S = 30 * 86_400.0
STEPS_S = (HOUR_S, -HOUR_S, MONTH_S, -MONTH_S, -MONTH_S, MONTH_S, -HOUR_S, HOUR_S)
"""Their sum is nothing: at last the clock is right again."""

CALLERS = 8
ZONES = ("UTC", "Europe/Vienna", "America/New_York")
PERIODS = ("hour", "day", "week", "month", "quarter", "year", "every:1")
LEAD = 2
"""Nodes are started before an instant by so many times what the slowest start has taken."""

AROUND_S = 1.5
SLACK_MS = 2_000
PARTS = ("node", "database", "machine", "calendar")


def finding() -> Finding:
    return Finding(
        "clock",
        "The wall clock of one node over PostgreSQL, of PostgreSQL itself, and of the machine of a SQLite ledger is "
        "set by an hour and by 30 days, forward and back, under load; a node is started with a wrong clock. The clock "
        "of the database goes past the ends of hours, days, months (29 February too), quarters, years and of daylight "
        "saving time.",
        "no wrong window, none twice, windows as an independent calendar has them; a node's own clock changes nothing; "
        "a step of the clock that counts pauses roll-over and says `clock_stepped` until an operator confirms it",
    )


def founding_of_calendars() -> list[Request]:
    """A team with budgets of every period in several zones, the callers' agents below."""
    commands: list[Any] = [PutAccount(account="team:calendar", parent="global")]
    for zone in ZONES:
        for period in PERIODS if zone == "UTC" else PERIODS[:-1]:
            commands.append(
                PutBudget(
                    account="team:calendar",
                    unit="tokens",
                    limit=PLENTY,
                    budget=f"{period}-{zone.replace('/', '-')}",
                    period=period,
                    zone=zone,
                )
            )
    for caller in range(CALLERS):
        commands.append(PutAccount(account=f"agent:c{caller}", parent="team:calendar"))
        commands.append(PutBudget(account=f"agent:c{caller}", unit="tokens", limit=PLENTY))
    return [*founding(2), *(Request(command=command) for command in commands)]


def plan(run: str, caller: int) -> Iterator[list[Any]]:
    """Holds that are settled, and usage without one."""
    for number in count():
        id, account = f"{run}-{caller}-{number}", f"agent:c{caller}"
        if number % 5 == 4:
            yield [Settle(id=id, account=account, total={"tokens": 7})]
        else:
            reserve = Reserve(id=id, account=account, amounts={"tokens": 9}, lease_s=LEASE_S)
            yield [reserve, Settle(id=id, total={"tokens": 8})]


def run(rounds: int = ROUNDS, *, parts: Sequence[str] = PARTS) -> Finding:
    """So many steps and ends of periods in all."""
    found = finding()
    if not IS_POSSIBLE:
        found.skipped = WHY_NOT
        return found
    found.figures |= {"postings": 0, "wrong_postings": 0, "windows_opened": 0, "windows_twice": 0}
    each = max(1, rounds // len(parts))
    with TemporaryDirectory(prefix="fiscus-clock-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        does: dict[str, Callable[[Finding, Path, int], None]] = {
            "node": _node,
            "database": _database,
            "machine": _machine,
            "calendar": _calendar,
        }
        for part in parts:
            does[part](found, folder / part, each)
    return found


# -- the parts --------------------------------------------------------------------------------------------------------


def _node(found: Finding, folder: Path, steps: int) -> None:
    """The database's clock counts: that of a node changes nothing, whatever it says."""
    clock = WallClock(folder)
    began_ms = _now_ms()
    with ground(founding_of_calendars()) as place:
        wrong, right = place.node(**clock.environment), place.node()
        with _load([wrong], "wrong") as far, _load([right], "right") as near:
            for number in range(steps):
                far.wait_for_answers(20)
                near.wait_for_answers(20)
                clock.step(STEPS_S[number % len(STEPS_S)])
                far.wait_for_answers(20)
                if number % 2 == 0:
                    wrong.kill()
                    wrong.start()
                    far.wait_for_answers(20)
                found.expect(wrong.readiness().ready, f"a node whose own clock is wrong is not ready: {number}")
                found.rounds += 1
            tolds = far.stop(), near.stop()
        conclude(found, place, *tolds)
        _examine(found, place.url, (began_ms - SLACK_MS, _now_ms() + SLACK_MS))
    clock.close()


def _database(found: Finding, folder: Path, steps: int) -> None:
    """All nodes see that the clock that counts has been set, and wait for an operator."""
    clock = WallClock(folder)
    server = PostgresServer(environment=clock.environment)
    try:
        with ground(founding_of_calendars(), postgres=server) as place:
            nodes = [place.node(), place.node()]
            with _load(nodes, "database") as load:
                for number in range(steps):
                    load.wait_for_answers(20)
                    _step(found, place, clock, STEPS_S[number % 2], nodes, load)
                told = load.stop()
            conclude(found, place, told)
            _examine(found, place.url)
    finally:
        server.stop()
        clock.close()


def _machine(found: Finding, folder: Path, steps: int) -> None:
    """The same where there is one node with its ledger beside it."""
    clock = WallClock(folder)
    with ground(founding_of_calendars(), url=f"sqlite:///{folder / 'fiscus.db'}") as place:
        node = place.node(**clock.environment)
        with _load([node], "machine") as load:
            for number in range(steps):
                load.wait_for_answers(20)
                _step(found, place, clock, STEPS_S[number % len(STEPS_S)], [node], load)
            told = load.stop()
        conclude(found, place, told)
        _examine(found, place.url)
    clock.close()


def _step(found: Finding, place: Ground, clock: WallClock, seconds: float, nodes: Sequence[Node], load: Load) -> None:
    """Set the clock that counts; time stands still until an operator confirms, and calls are answered all the same."""
    before_ms = round(1_000 * clock.now_s())
    clock.step(seconds)
    for node in nodes:
        node.wait_until(lambda said: "clock_stepped" in said.reasons, 20)
    load.wait_for_answers(30)
    last_ms = _last_at(place.url)
    found.expect(
        last_ms <= max(before_ms, _highest.get(place.url, 0)) + SLACK_MS,
        f"time went on after a step of {seconds:g} s: {last_ms - before_ms} ms",
    )
    _highest[place.url] = max(last_ms, _highest.get(place.url, 0))
    for node in nodes:
        status, _ = node.call("POST", "/v1/clock/confirm")
        found.expect(status == 200, f"an operator's confirmation was answered {status}")
    for node in nodes:
        node.wait_until(_is_ready, 20)
    load.wait_for_answers(20)
    _highest[place.url] = max(_last_at(place.url), _highest[place.url])
    found.rounds += 1


_highest: dict[str, int] = {}
"""By the ledger's URL: the time of its last entry, which time never falls behind."""


def _calendar(found: Finding, folder: Path, steps: int) -> None:
    """The ends of periods go by, one after the other, while calls go on."""
    clock = WallClock(folder)
    server = PostgresServer(environment=clock.environment)
    try:
        instants = instants_of_interest()[:steps]
        clock.set_to(instants[0].timestamp() - 3_600)
        with ground(founding_of_calendars(), postgres=server) as place:
            nodes = [Node(place.folder / f"node{n}", {"DATABASE_URL": place.url}) for n in range(2)]
            place.nodes += nodes
            told, opening_s = _have_called(nodes, "before", clock, clock.now_s())
            tolds = [told]
            for number, instant in enumerate(instants):
                found.faults += place.stop()
                clock.set_to(instant.timestamp() - LEAD * opening_s)
                told, took_s = _have_called(nodes, f"end{number}", clock, instant.timestamp() + AROUND_S)
                tolds.append(told)
                opening_s = max(opening_s, took_s)
                found.rounds += 1
            conclude(found, place, *tolds)
            _examine(found, place.url)
            _see_all_passed(found, place.url, instants)
    finally:
        server.stop()
        clock.close()


def _have_called(nodes: Sequence[Node], name: str, clock: WallClock, until_s: float) -> tuple[Told, float]:
    """Start the nodes and have them called until an instant; returns also after how many seconds they answered."""
    began = time.monotonic()
    for node in nodes:
        node.start()
    with _load(nodes, name) as load:
        load.wait_for_answers(CALLERS)
        took_s = time.monotonic() - began
        while clock.now_s() < until_s:
            load.wait_for_answers(CALLERS)
        return load.stop(), took_s


def _see_all_passed(found: Finding, url: str, instants: Sequence[datetime]) -> None:
    """Calls were booked right before and right after each of the instants."""
    store = open_store(url)
    try:
        times = [
            at for _, at, event in entries_of(store, store.journal.tenants()["default"]) if isinstance(event, Held)
        ]
    finally:
        store.close()
    for instant in instants:
        at_ms = round(1_000 * instant.timestamp())
        near = [at - at_ms for at in times if abs(at - at_ms) < 1_000 * AROUND_S]
        found.expect(bool(near) and min(near) < 0 <= max(near), f"nothing was booked around {instant}")
    found.figures["ends"] = [f"{instant:%Y-%m-%dT%H:%MZ}" for instant in instants]


def instants_of_interest(year: int = 2031) -> list[datetime]:
    """Ends of periods and of daylight saving time in UTC, the most telling first, each later than the one before.

    >>> instants_of_interest()[0]
    datetime.datetime(2031, 10, 26, 1, 0, tzinfo=datetime.timezone.utc)
    """
    leap = year + 1
    vienna, new_york = "Europe/Vienna", "America/New_York"
    instants = {
        shifts(vienna, year)[1],
        shifts(new_york, year)[1],
        datetime(year, 12, 31, 23, tzinfo=UTC),  # the year ends in Vienna
        datetime(leap, 1, 1, tzinfo=UTC),
        datetime(leap, 2, 29, tzinfo=UTC),
        datetime(leap, 3, 1, tzinfo=UTC),
        shifts(vienna, leap)[0],
        shifts(new_york, leap)[0],
        datetime(leap, 4, 1, 4, tzinfo=UTC),  # the quarter ends in New York
    }
    return sorted(instants)


def shifts(zone: str, year: int) -> list[datetime]:
    """When the clocks of a zone are put forward and back in a year."""
    first = datetime(year, 1, 1, tzinfo=UTC)
    hours = [first + timedelta(hours=hour) for hour in range(366 * 24)]
    local = ZoneInfo(zone)
    return [
        hour
        for hour in hours
        if hour.year == year
        and hour.astimezone(local).utcoffset() != (hour - timedelta(hours=1)).astimezone(local).utcoffset()
    ]


def _load(nodes: Sequence[Node], name: str) -> Load:
    return Load(nodes, name, callers=CALLERS, plan=plan, pace_s=0.005)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _is_ready(said: Readiness) -> bool:
    return said.ready


def _last_at(url: str) -> int:
    """The time of the last entry."""
    if url.startswith("sqlite"):
        import sqlite3

        with sqlite3.connect(url.removeprefix("sqlite:///")) as ledger:
            return int(ledger.execute("SELECT max(at) FROM journal").fetchone()[0])
    import psycopg

    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT at FROM fiscus.journal ORDER BY seq DESC LIMIT 1").fetchone()
        assert row is not None
        return int(row[0])


# -- what is in the journal -------------------------------------------------------------------------------------------


@cache
def window(period: str, zone: str, hour_ms: int) -> tuple[int, int]:
    """Start and end (ms) of the window of an instant, by the calendar of the standard library; zones of whole hours.

    >>> window("month", "UTC", 1_709_164_800_000)  # 2024-02-29
    (1706745600000, 1709251200000)
    """
    if period == "hour":
        return hour_ms, hour_ms + 3_600_000
    today = datetime.fromtimestamp(hour_ms / 1_000, ZoneInfo(zone)).date()
    months = {"month": 1, "quarter": 3, "year": 12}.get(period)
    if months is not None:
        first = date(today.year, today.month - (today.month - 1) % months, 1)
        following = first.month + months
        last = date(first.year + following // 13, (following - 1) % 12 + 1, 1)
    else:
        first = today - timedelta(days=today.weekday() if period == "week" else 0)
        last = first + timedelta(days=7 if period == "week" else 1)
    start, end = (
        round(1_000 * datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp())
        for day in (first, last)
    )
    return start, end


def _examine(found: Finding, url: str, times_ms: tuple[int, int] | None = None) -> None:
    """Every posting stands in the window of its time; no window was opened twice; time never went back."""
    wrong: list[str] = []
    opened: Counter[tuple[int, int]] = Counter()
    draft: Draft = new_draft()
    postings = last = 0
    store = open_store(url)
    try:
        for seq, at, event in entries_of(store, store.journal.tenants()["default"]):
            draft.now = at
            fold(draft, event, at)
            draft.alerts.clear()
            draft.commit()
            if at < last:
                wrong.append(f"entry {seq}: time went back by {last - at} ms")
            if times_ms is not None and not times_ms[0] <= at <= times_ms[1]:
                wrong.append(f"entry {seq}: {at} is not the time of the test")
            last = max(last, at)
            if isinstance(event, WindowOpened):
                opened[event.budget, event.start] += 1
            if not isinstance(event, Held | Settled):
                continue
            for numbers in event.cells.values():
                for number in numbers:
                    postings += 1
                    cell = draft.cells[number]
                    budget = draft.budgets[cell.budget]
                    if not cell.start <= at < cell.end:
                        wrong.append(f"entry {seq} at {at} is posted in {cell.start} … {cell.end}: {budget.name}")
                    if budget.period not in ("lifetime", "every:1", "every:2"):
                        expected = window(budget.period, budget.zone, at - at % 3_600_000)
                        if (cell.start, cell.end) != expected:
                            wrong.append(f"{budget.name} at {at}: {cell.start} … {cell.end}, not {expected}")
    finally:
        store.close()
    twice = [key for key, times in opened.items() if times > 1]
    found.figures["postings"] += postings
    found.figures["wrong_postings"] += len(wrong)
    found.figures["windows_opened"] += len(opened)
    found.figures["windows_twice"] += len(twice)
    found.faults += [*wrong[:5], *(f"window {key} was opened twice" for key in twice[:5])]


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, parts=("node", "machine", "calendar"))
