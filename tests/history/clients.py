"""A client process: callers at the edge of their limits, over HTTP, each noting what it saw.

``python -m tests.history.clients URL PROCESS OPERATIONS FILE [CALLERS SECONDS]``; begins when a line comes in on
standard input. With ``SECONDS`` each caller goes on for so long, however many operations that are.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fiscus.client import RemoteTreasury
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Extend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.outcomes import AnyOutcome, HoldAnswer
from tests.history.calls import Call, written

CALLERS = 16
SECONDS_MIN = 2.5
HARD_LIMIT = 700
"""Of ``agent:hard``, for good; nobody spends there beyond a hold."""

AGENTS = ("agent:a1", "agent:a2", "agent:a3", "agent:b1", "agent:b2", "agent:b3")


def founding() -> list[Request]:
    """Three levels: one limit for good at the top, short windows below, two carved agents, and a hard one."""
    commands: list[Any] = [
        PutAccount(account="global"),
        PutBudget(account="global", unit="tokens", limit=60_000),
        PutAccount(account="team:a", parent="global"),
        PutBudget(account="team:a", unit="tokens", limit=900, period="every:1", carry_over="unused", carry_max=300),
        PutAccount(account="team:b", parent="global"),
        PutBudget(account="team:b", unit="tokens", limit=1_500, period="every:2"),
        PutBudget(account="team:b", unit="calls", limit=40, period="every:1"),
    ]
    for agent in AGENTS:
        commands.append(PutAccount(account=agent, parent=f"team:{agent[6]}"))
    commands += [
        PutBudget(account="agent:a1", unit="tokens", limit=250, period="every:1"),
        PutBudget(account="agent:b1", unit="tokens", limit=300, period="every:1", carry_debt=True),
        Allocate(account="agent:a2", unit="tokens", to=200),
        Allocate(account="agent:a3", unit="tokens", to=200),
        PutAccount(account="agent:hard", parent="global"),
        PutBudget(account="agent:hard", unit="tokens", limit=HARD_LIMIT),
    ]
    return [Request(command=command) for command in commands]


class Caller:
    """One caller with a plan that depends on its seed and on the answers."""

    def __init__(self, treasury: RemoteTreasury, process: int, number: int, calls: list[Call]) -> None:
        self._treasury = treasury
        self._name = f"{process}-{number}"
        self._number = number
        self._calls = calls
        self._random = random.Random(f"{process}-{number}")
        self._count = 0

    async def ask(self, *commands: Any) -> Sequence[AnyOutcome]:
        """One call with one or several commands; each is noted with the time of the whole call."""
        keys = [None if isinstance(one, Reserve | Extend | Settle | Release) else self._id() for one in commands]
        requests = [Request(command=command, idempotency_key=key) for command, key in zip(commands, keys, strict=True)]
        sent_ns = time.monotonic_ns()
        if len(requests) == 1:
            outcomes = [await self._treasury.execute(requests[0])]
        else:
            outcomes = await self._treasury.execute_many(requests)
        answered_ns = time.monotonic_ns()
        for command, key, outcome in zip(commands, keys, outcomes, strict=True):
            self._calls.append(
                Call(
                    caller=self._name,
                    sent_ns=sent_ns,
                    answered_ns=answered_ns,
                    command=command,
                    outcome=outcome,
                    key=key,
                )
            )
        return outcomes

    def _id(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    async def run(self, operations: int, seconds: float | None) -> None:
        """At least so many operations, and for long enough that short windows end meanwhile; or for so many seconds."""
        kinds = {0: self._manage, 1: self._race, 2: self._spend_many} | dict.fromkeys((3, 4, 5), self._spend_hard)
        act = kinds.get(self._number, self._spend)
        began, count = time.monotonic(), 0
        while True:
            elapsed_s = time.monotonic() - began
            if seconds is None:
                if count >= operations and (elapsed_s >= SECONDS_MIN or count >= 5 * operations):
                    return
            elif elapsed_s >= seconds:
                return
            before = len(self._calls)
            await act()
            count += sum(call.caller == self._name for call in self._calls[before:])

    def _reserve(self, account: str, most: int) -> Reserve:
        pick = self._random
        also = ("agent:b2",) if account == "agent:b3" and pick.random() < 0.3 else ()
        return Reserve(
            id=self._id(),
            account=account,
            amounts={"tokens": pick.randint(1, most)},
            also=also,
            lease_s=pick.choice((1, 60, 60, 60)),
        )

    async def _spend(self) -> None:
        pick = self._random
        if pick.random() < 0.06:
            await self.ask(Settle(id=self._id(), account=pick.choice(AGENTS), total={"tokens": pick.randint(0, 30)}))
            return
        hold = self._reserve(pick.choice(AGENTS), 90)
        (outcome,) = await self.ask(hold)
        if not isinstance(outcome, HoldAnswer):
            return
        amount = hold.amounts["tokens"]
        what = pick.random()
        if what < 0.1:
            await self.ask(Release(id=hold.id))
        elif what < 0.25:
            await self.ask(Extend(id=hold.id, to={"tokens": amount + 20}))
            await self.ask(Settle(id=hold.id, total={"tokens": amount + pick.randint(0, 20)}))
        elif what < 0.4:
            await self.ask(Settle(id=hold.id, total={"tokens": amount // 3}, final=False))
            await self.ask(Settle(id=hold.id, total={"tokens": amount}))
        elif what < 0.95:
            await self.ask(Settle(id=hold.id, total={"tokens": pick.randint(0, amount + 3)}))

    async def _spend_many(self) -> None:
        holds = [self._reserve(self._random.choice(AGENTS), 60) for _ in range(4)]
        outcomes = await self.ask(*holds)
        held = [hold for hold, outcome in zip(holds, outcomes, strict=True) if isinstance(outcome, HoldAnswer)]
        if held:
            await self.ask(*(Settle(id=hold.id, total={"tokens": hold.amounts["tokens"] // 2}) for hold in held))

    async def _spend_hard(self) -> None:
        """At an account that is soon exhausted for good, and only in flight once it is."""
        hold = Reserve(id=self._id(), account="agent:hard", amounts={"tokens": self._random.randint(20, 200)})
        (outcome,) = await self.ask(hold)
        if isinstance(outcome, HoldAnswer):
            await self._spend()
            if self._random.random() < 0.7:
                await self.ask(Release(id=hold.id))
            else:
                await self.ask(Settle(id=hold.id, total={"tokens": min(4, hold.amounts["tokens"])}))

    async def _race(self) -> None:
        """The first callers of all processes send the same id with the same body at about the same time."""
        self._count += 1
        number = self._count
        hold = Reserve(id=f"race-{number}", account=AGENTS[number % 6], amounts={"tokens": 1 + number % 50}, lease_s=60)
        (outcome,) = await self.ask(hold)
        if isinstance(outcome, HoldAnswer):
            await self.ask(Settle(id=hold.id, total={"tokens": 1}))

    async def _manage(self) -> None:
        pick = self._random
        agent, reason = pick.choice(AGENTS), self._id()
        what = pick.random()
        if what < 0.25:
            await self.ask(SetStatus(account=agent, status="suspended", reason=reason))
            await self.ask(SetStatus(account=agent, status="active", reason=f"{reason} over"))
        elif what < 0.5:
            source, target = pick.sample(("agent:a2", "agent:a3"), 2)
            await self.ask(
                Transfer(source=source, target=target, unit="tokens", amount=pick.randint(1, 60), reason=reason)
            )
        elif what < 0.75:
            await self.ask(Adjust(id=reason, account="team:a", budget="tokens-every:1", amount=40, reason=reason))
        else:
            await self.ask(Allocate(account="agent:a3", unit="tokens", to=pick.randint(100, 300), reason=reason))


async def work(
    url: str, process: int, operations: int, callers: int = CALLERS, seconds: float | None = None
) -> list[Call]:
    """All callers of this process."""
    treasury = RemoteTreasury(url)
    calls: list[Call] = []
    await treasury.readiness()
    await asyncio.to_thread(sys.stdin.readline)
    everybody = (Caller(treasury, process, number, calls) for number in range(callers))
    await asyncio.gather(*(caller.run(operations, seconds) for caller in everybody))
    await treasury.close()
    return calls


def main() -> None:
    """See the module."""
    url, process, operations, path, *more = sys.argv[1:]
    callers, seconds = (int(more[0]), float(more[1])) if more else (CALLERS, None)
    Path(path).write_bytes(written(asyncio.run(work(url, int(process), int(operations), callers, seconds))))


if __name__ == "__main__":
    main()
