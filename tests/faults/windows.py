"""Windows of one second, and holds that stay open across several of their ends."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from fiscus.core.commands import Extend, PutAccount, PutBudget, Release, Request, Reserve, Settle
from fiscus.core.decide import new_draft
from fiscus.core.events import Held, WindowOpened
from fiscus.core.fold import fold
from fiscus.core.outcomes import Refused
from fiscus.core.state import Draft
from fiscus.stores import open_store
from tests.faults.books import entries_of
from tests.faults.conclusion import conclude
from tests.faults.finding import Finding
from tests.faults.load import LEASE_S, Load, Wait, founding
from tests.faults.nodes import ground
from tests.history.calls import Call
from tests.servers.postgres import PostgresServer, server

ROUNDS = 60
QUICK = 3
CALLERS = 48
TEAMS = 3
LIMIT = 300
CARRY_MAX = 100


def finding() -> Finding:
    return Finding(
        "windows",
        "Budgets with windows of one second (with and without carry-over) on three teams; 48 callers at two nodes keep "
        "holds open for up to four seconds, extend, settle and release them when their windows are long over.",
        "E3, E4 for each window: what is held and spent there is what its holds add up to; lost or negative holds 0",
    )


def founding_of_windows() -> list[Request]:
    """Three teams with short windows, the callers' agents below."""
    commands: list[Any] = []
    for team in range(TEAMS):
        carry: dict[str, Any] = {"carry_over": "unused", "carry_max": CARRY_MAX} if team == 1 else {}
        debt = {"carry_debt": True} if team == 2 else {}
        commands += [
            PutAccount(account=f"team:{team}", parent="global"),
            PutBudget(account=f"team:{team}", unit="tokens", limit=LIMIT, period="every:1", **carry, **debt),
        ]
    for caller in range(CALLERS):
        commands.append(PutAccount(account=f"agent:w{caller}", parent=f"team:{caller % TEAMS}"))
    return [*founding(2), *(Request(command=command) for command in commands)]


def plan(run: str, caller: int) -> Iterator[list[Any]]:
    """Holds across the ends of their windows."""
    pick = random.Random(f"{run} {caller}")
    account = f"agent:w{caller}"
    for number in count():
        id, size = f"{run}-{caller}-{number}", pick.randint(5, 60)
        reserve = Reserve(id=id, account=account, amounts={"tokens": size}, lease_s=LEASE_S)
        wait = Wait(pick.choice((0.0, 0.02, 0.3, 1.1, 2.3, 4.0)))
        settle = Settle(id=id, total={"tokens": pick.randint(0, size + 4)})
        match number % 4:
            case 0:
                yield [reserve, wait, Extend(id=id, to={"tokens": size}, lease_s=LEASE_S), settle]
            case 1:
                yield [reserve, Settle(id=id, total={"tokens": size // 2}, final=False), wait, settle]
            case 2:
                yield [reserve, wait, Release(id=id)]
            case _:
                yield [reserve, wait, settle]
        if pick.random() < 0.5:
            yield [Wait(pick.uniform(0.0, 0.5))]


def run(rounds: int = ROUNDS, *, callers: int = CALLERS, postgres: PostgresServer | None = None) -> Finding:
    """For so many seconds, which are windows of each team."""
    found = finding()
    with ground(founding_of_windows(), postgres=postgres) as place:
        nodes = [place.node() for _ in range(2)]
        with Load(nodes, "window", callers=callers, plan=plan) as load:
            load.wait_for_answers(50)
            time.sleep(rounds)
            told = load.stop()
        conclude(found, place, told)
        windows, wrong = _examine(place.url, told.calls)
    found.rounds = rounds
    found.figures |= {"windows": windows, "lost_or_negative_holds": len(wrong), "refusals": sum(told.refusals.values())}
    found.faults += wrong[:5]
    return found


def _examine(url: str, calls: Sequence[Call]) -> tuple[int, list[str]]:
    """How many windows of a second there were, and those that are not what their holds add up to."""
    draft: Draft = new_draft()
    pinned: dict[int, list[str]] = {}
    carried_out: Counter[int] = Counter()  # debt that left a window at its end
    carried_in: Counter[int] = Counter()  # what of it came to the next one; windows between, unused, pay the rest
    store = open_store(url)
    try:
        for _, at, event in entries_of(store, store.journal.tenants()["default"]):
            draft.now = at
            fold(draft, event, at)
            draft.alerts.clear()
            draft.commit()
            if isinstance(event, Held):
                for number in event.cells.get("tokens", ()):
                    pinned.setdefault(number, []).append(event.id)
            elif isinstance(event, WindowOpened) and event.previous is not None and event.debt_out:
                carried_out[event.previous] += event.debt_out
                carried_in[event.cell] += event.debt
    finally:
        store.close()
    booked: dict[str, int] = {}
    reserved: dict[str, int] = {}
    for call in calls:
        command = call.command
        if isinstance(call.outcome, Refused):
            continue
        if isinstance(command, Reserve):
            reserved[command.id], booked[command.id] = command.amounts["tokens"], 0
        elif isinstance(command, Settle):
            booked[command.id] = command.total["tokens"]
    wrong, windows = [], 0
    starts: Counter[tuple[int, int]] = Counter()
    for cell in draft.cells.values():
        if draft.budgets[cell.budget].period != "every:1":
            continue
        windows += 1
        starts[cell.budget, cell.start] += 1
        holds = [id for id in pinned.get(cell.number, ()) if id in reserved]
        covered = sum(min(booked[id], reserved[id]) for id in holds)
        uncovered = sum(max(0, booked[id] - reserved[id]) for id in holds)
        if cell.end - cell.start != 1_000:
            wrong.append(f"a window of {cell.end - cell.start} ms: {cell}")
        taken_back = carried_in[cell.heir] - draft.cells[cell.heir].debt if carried_out[cell.number] else 0
        paid_between = carried_out[cell.number] - carried_in[cell.heir]
        booked_there = cell.uncovered - cell.debt + carried_out[cell.number] - taken_back
        if cell.held or cell.quarantined or cell.covered != covered:
            wrong.append(f"its holds add up to {covered} and {uncovered}: {cell}")
        elif not uncovered <= booked_there <= uncovered + max(0, paid_between):
            wrong.append(f"its holds are {uncovered} beyond what they held, not {booked_there}: {cell}")
    wrong += [
        f"budget {budget} has {times} windows from {start}" for (budget, start), times in starts.items() if times > 1
    ]
    return windows, wrong


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, callers=16, postgres=server())
