"""Who waits for room gets it: nobody starves in 10,000 rounds, and priorities count as much as the ageing lets them.

One budget is asked for more than it has, by calls of all sizes and four priorities; every second some come, some end.
The same arrivals are tried twice: with ``wait_s``, and as calls that are refused as busy and ask again every second,
in any order. What the ledger does is checked against a list of its own: at each admission nobody who waits may have an
earlier turn (when it came, less the ageing for each level of its priority).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.measuring import Figures, run_as_child, scaled
from fiscus.core.commands import Attend, PutAccount, PutBudget, Release, Request, Reserve
from fiscus.core.decide import bring_due, decide, new_draft
from fiscus.core.events import Held, TicketEnded
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.state import Rules

ROUNDS, SECOND_MS, START_MS = 10_000, 1_000, 1_760_004_000_000
LIMIT = 100
SIZES = (1, 2, 5, 10, 30, 60, 90)
PRIORITIES = (1, 2, 3, 4)
COME_SHARE = 0.45
"""Of each priority comes a call in so many of the seconds: about as much as the budget can bear."""

RUNS_S = (1, 2, 3)
WAIT_S = 3_600
STAY_S = 10
AGEING_S = 30
PASSING_SHARE = 0.3
"""Calls that do not wait, and may slip in where nobody comes first."""


@dataclass
class Arrival:
    """A call: when it comes (in seconds), how important and how large it is, how long it runs, whether it waits."""

    id: str
    at: int
    priority: int
    amount: int
    runs: int
    waits: bool
    served: int | None = None

    @property
    def turn(self) -> int:
        return self.at - AGEING_S * self.priority


def arrivals(rounds: int, seed: int) -> list[Arrival]:
    """What comes, the same for both."""
    draw = random.Random(seed)
    found: list[Arrival] = []
    for at in range(rounds):
        for priority in PRIORITIES:
            if draw.random() < COME_SHARE:
                waits = draw.random() >= PASSING_SHARE
                found.append(Arrival(f"{at}-{priority}", at, priority, draw.choice(SIZES), draw.choice(RUNS_S), waits))
    return found


class Book:
    """A ledger with one budget, and the clock of the simulation."""

    def __init__(self) -> None:
        self.draft = new_draft(Rules(wait_ageing_ms=AGEING_S * SECOND_MS))
        self.at = 0
        self.do(PutAccount(account="pool"))
        self.do(PutBudget(account="pool", unit="tokens", limit=LIMIT))
        for priority in PRIORITIES:
            self.do(PutAccount(account=f"p{priority}", parent="pool", priority=priority))

    @property
    def now(self) -> int:
        return START_MS + self.at * SECOND_MS

    def do(self, command: object) -> tuple[object, list[object]]:
        """The outcome and the events."""
        outcome = decide(self.draft, Request(command=command), self.now)  # type: ignore[arg-type]
        return outcome, self.keep()

    def keep(self) -> list[object]:
        events: list[object] = list(self.draft.events)
        self.draft.commit()
        return events

    def due(self) -> list[object]:
        bring_due(self.draft, self.now)
        return self.keep()

    def reserve(self, call: Arrival, wait_s: int) -> tuple[object, list[object]]:
        account = f"p{call.priority}"
        return self.do(
            Reserve(id=call.id, account=account, amounts={"tokens": call.amount}, lease_s=3_600, wait_s=wait_s)
        )


class InLine:
    """The simulation with waiting."""

    def __init__(self, calls: list[Arrival]) -> None:
        self.book = Book()
        self.calls = {call.id: call for call in calls}
        self.waiting: dict[str, Arrival] = {}
        self.running: dict[str, int] = {}
        self.violations = self.passed = self.refused = self.ended = 0

    def run(self, rounds: int) -> None:
        coming = sorted(self.calls.values(), key=lambda call: call.at)
        position = 0
        for at in range(rounds + WAIT_S):
            self.book.at = at
            self.note(self.book.due())
            for id in [id for id, ends in self.running.items() if ends <= at]:
                del self.running[id]
                self.note(self.book.do(Release(id=id))[1])
            while position < len(coming) and coming[position].at == at:
                self.come(coming[position])
                position += 1
            if at % STAY_S == 0:
                for id in list(self.waiting):
                    self.note(self.book.do(Attend(id=id))[1])
            if at >= rounds and not self.waiting:
                return

    def come(self, call: Arrival) -> None:
        outcome, events = self.book.reserve(call, WAIT_S if call.waits else 0)
        if isinstance(outcome, HoldAnswer) and outcome.state == "waiting":
            self.waiting[call.id] = call
        elif isinstance(outcome, Refused):
            self.refused += call.waits
        self.note(events)

    def note(self, events: list[object]) -> None:
        """What was admitted, and whether anybody who waits should have come before it."""
        for event in events:
            if isinstance(event, TicketEnded):
                self.ended += self.waiting.pop(event.id, None) is not None
            elif isinstance(event, Held):
                call = self.calls[event.id]
                self.waiting.pop(call.id, None)
                # Who does not wait comes after all who wait with the same turn, and who came first of them before.
                self.violations += any((other.turn, other.at) < (call.turn, call.at) for other in self.waiting.values())
                self.passed += not call.waits
                call.served = self.book.at
                self.running[call.id] = self.book.at + call.runs
                if event.unclaimed:
                    self.note(self.book.do(Attend(id=call.id))[1])


class Again:
    """The simulation of calls that ask again."""

    def __init__(self, calls: list[Arrival], seed: int) -> None:
        self.book = Book()
        self.calls = [call for call in calls if call.waits]
        self.passing = [call for call in calls if not call.waits]
        self.draw = random.Random(seed)

    def run(self, rounds: int) -> None:
        asking: list[Arrival] = []
        running: dict[str, int] = {}
        coming = sorted(self.calls + self.passing, key=lambda call: call.at)
        position = 0
        for at in range(rounds):
            self.book.at = at
            for id in [id for id, ends in running.items() if ends <= at]:
                del running[id]
                self.book.do(Release(id=id))
            while position < len(coming) and coming[position].at == at:
                asking.append(coming[position])
                position += 1
            self.draw.shuffle(asking)
            for call in list(asking):
                outcome, _ = self.book.reserve(call, 0)
                if not isinstance(outcome, Refused):
                    running[call.id] = at + call.runs
                    call.served = at
                if not isinstance(outcome, Refused) or not call.waits or at - call.at >= WAIT_S:
                    asking.remove(call)


def longest(calls: list[Arrival], until: int) -> dict[str, int]:
    """The longest wait by size, in seconds; who was never served has waited until the end."""
    return {
        str(size): max(
            ((until if call.served is None else call.served) - call.at for call in calls if call.amount == size),
            default=0,
        )
        for size in SIZES
    }


def mean_by_priority(calls: list[Arrival]) -> dict[str, float]:
    """The mean wait in seconds."""
    found = {}
    for priority in PRIORITIES:
        waits = [call.served - call.at for call in calls if call.priority == priority and call.served is not None]
        found[str(priority)] = round(sum(waits) / max(1, len(waits)), 1)
    return found


def measure(scale: float, seed: int = 5) -> Figures:
    """Both simulations."""
    rounds = scaled(ROUNDS, scale, least=500)
    calls = arrivals(rounds, seed)
    line = InLine(calls)
    line.run(rounds)
    waited = [call for call in calls if call.waits]
    served = sum(call.served is not None for call in waited)
    again = arrivals(rounds, seed)
    Again(again, seed).run(rounds)
    asked = [call for call in again if call.waits]
    return {
        "wait_served": served / (len(waited) - line.refused),
        "wait_order_kept": 1 - line.violations / max(1, sum(call.served is not None for call in calls)),
        "rounds": rounds,
        "calls": len(waited),
        "refused_as_the_line_was_full": line.refused,
        "ended_in_vain": line.ended,
        "passed_without_waiting": line.passed,
        "longest_wait_s_by_size": longest(waited, rounds),
        "mean_wait_s_by_priority": mean_by_priority(waited),
        "asking_again": {
            "served": sum(call.served is not None for call in asked) / len(asked),
            "longest_wait_s_by_size": longest(asked, rounds),
            "mean_wait_s_by_priority": mean_by_priority(asked),
        },
    }


if __name__ == "__main__":
    run_as_child(measure)
