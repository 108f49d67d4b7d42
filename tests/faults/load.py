"""Callers in a thread of their own, at several nodes: each repeats an operation with the same id until it is answered.

Everything that they were told is written down. What must be on the books afterwards follows from that alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from threading import Event, Thread
from typing import Any

from fiscus.client import RemoteTreasury
from fiscus.contract.errors import BudgetUnavailable, TreasuryError
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Extend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    Reserve,
    Settle,
    Transfer,
)
from fiscus.core.outcomes import AnyOutcome, Refused, Spooled
from fiscus.core.records import CallRecord, Tokens
from tests.faults.nodes import Node
from tests.history.calls import Call

CALLERS = 16
PLENTY = 10**12
POOL = 10**9
EDGE_LIMIT = 400
"""Of ``team:edge`` in each second; all callers together want more."""

LEASE_S = 86_400
ATTEMPT_S_MAX = 15.0
UNANSWERED_S_MAX = 150.0
"""How long a caller repeats an operation before that is a fault in itself."""

EXPECTED = frozenset({"budget_exceeded", "budget_busy"})
"""Refusals that callers who compete for an edge may be given."""

Plan = Callable[[str, int], Iterator[list[Any]]]
"""(run, caller) → chains of commands without end; after a refusal the rest of a chain is left out."""


def founding(callers: int = CALLERS) -> list[Request]:
    """Each caller has an account and a pool of its own; all compete for an edge."""
    commands: list[Any] = [
        PutAccount(account="global"),
        PutBudget(account="global", unit="tokens", limit=PLENTY),
        PutAccount(account="agent:probe", parent="global"),
        PutAccount(account="team:edge", parent="global"),
        PutBudget(account="team:edge", unit="tokens", limit=EDGE_LIMIT, period="every:1"),
        PutBudget(account="team:edge", unit="calls", limit=60, period="every:2"),
    ]
    for caller in range(callers):
        commands += [
            PutAccount(account=f"agent:{caller}", parent="global"),
            PutBudget(account=f"agent:{caller}", unit="tokens", limit=PLENTY),
            PutAccount(account=f"agent:edge-{caller}", parent="team:edge"),
            PutBudget(account=f"agent:edge-{caller}", unit="tokens", limit=PLENTY),
            PutAccount(account=f"pool:{caller}", parent="global"),
            Allocate(account=f"pool:{caller}", unit="tokens", to=POOL),
        ]
    return [Request(command=command) for command in commands]


def plan(run: str, caller: int, callers: int = CALLERS) -> Iterator[list[Any]]:
    """Holds that are extended, settled within, beyond and in parts, released; usage without a hold; transfers."""
    mine, edge = f"agent:{caller}", f"agent:edge-{caller}"
    for number in count():
        id = f"{run}-{caller}-{number}"
        size = 10 + (number * 7 + caller * 13) % 90
        record = CallRecord(model="gpt", tokens=Tokens(input=size, output=1), user_id=f"user of {id}")
        match (number + caller) % 8:
            case 0:
                yield [
                    _hold(id, mine, size),
                    Extend(id=id, to={"tokens": size + 5}, lease_s=LEASE_S),
                    Settle(id=id, total={"tokens": size + 9}, record=record),
                ]
            case 1:
                yield [
                    _hold(id, mine, size),
                    Settle(id=id, total={"tokens": size // 2}, final=False),
                    Settle(id=id, total={"tokens": size - 3}),
                ]
            case 2:
                yield [_hold(id, mine, size), Release(id=id)]
            case 3:
                yield [Settle(id=id, account=mine, total={"tokens": size}, record=record)]
            case 4:
                pools = f"pool:{caller}", f"pool:{(caller + callers // 2) % callers}"
                yield [
                    Transfer(source=pools[0], target=pools[1], unit="tokens", amount=size, reason=id),
                    Adjust(id=id, account=mine, budget="tokens-lifetime", amount=size, reason="more"),
                ]
            case _:
                yield [_hold(id, edge, size), Settle(id=id, total={"tokens": size - 5})]


def spending(run: str, caller: int) -> Iterator[list[Any]]:
    """Reserve and settle, and nothing else."""
    for number in count():
        id = f"{run}-{caller}-{number}"
        yield [_hold(id, f"agent:{caller}", 50), Settle(id=id, total={"tokens": 40})]


def metering(run: str, caller: int) -> Iterator[list[Any]]:
    """Usage after the fact, and nothing else."""
    for number in count():
        yield [Settle(id=f"{run}-{caller}-{number}", account=f"agent:{caller}", total={"tokens": 3})]


def _hold(id: str, account: str, size: int) -> Reserve:
    """A hold that does not expire while the test runs."""
    return Reserve(id=id, account=account, amounts={"tokens": size}, lease_s=LEASE_S)


@dataclass(frozen=True)
class Wait:
    """In a chain: nothing is asked for so long."""

    seconds: float


@dataclass
class Told:
    """What the callers were told.

    Attributes:
        calls: every answered operation.
        failed_s: how long each attempt took that was answered with an error or not at all.
        answered_at_s: when operations were answered, in seconds of the monotonic clock, by the node's number.
        refusals: how many of each code.
        wrong: answers that nobody should get.
    """

    calls: list[Call] = field(default_factory=list)
    failed_s: list[float] = field(default_factory=list)
    unavailable_s: list[float] = field(default_factory=list)
    answered_at_s: list[float] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    attempts: int = 0
    spooled: int = 0

    def rate(self, since_s: float, until_s: float) -> float:
        """Operations per second that were answered in a span of the monotonic clock."""
        answered = sum(since_s <= at < until_s for at in self.answered_at_s)
        return answered / (until_s - since_s)

    def longest_silence_s(self, since_s: float, until_s: float) -> float:
        """The longest time in a span in which nobody was answered."""
        inside = [since_s, *(at for at in self.answered_at_s if since_s <= at < until_s), until_s]
        inside.sort()
        return max(later - earlier for earlier, later in pairwise(inside))


class Load:
    """``callers`` at ``nodes`` from ``start`` until ``stop``; whoever gets no answer asks the next node.

    Args:
        run: sets the ids apart from those of other loads of the same ledger.
        pace_s: how long a caller waits between two operations; 0: not at all.
        stay: a caller asks one node only.
        urls: where the nodes are reached, if it is not directly.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        run: str,
        *,
        callers: int = CALLERS,
        pace_s: float = 0.0,
        plan: Plan = plan,
        stay: bool = False,
        urls: Sequence[str] | None = None,
        attempt_s_max: float = ATTEMPT_S_MAX,
    ) -> None:
        self.told = Told()
        self.callers = callers
        self._keys = [node.key for node in nodes]
        self._urls = urls or [node.url for node in nodes]
        self._run_name = run
        self._pace_s = pace_s
        self._plan = plan
        self._stay = stay
        self._attempt_s_max = attempt_s_max
        self._stopping = False
        self._answered = Event()
        self._failures: list[BaseException] = []
        self._thread = Thread(target=self._work, name="callers", daemon=True)

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Told:
        """No new operations; those under way are repeated until they are answered."""
        self._stopping = True
        self._thread.join(UNANSWERED_S_MAX + ATTEMPT_S_MAX)
        if self._thread.is_alive():
            self.told.wrong.append("callers that never ended")
        for failure in self._failures:
            raise failure
        return self.told

    def wait_for_answers(self, number: int, within_s: float = 60) -> float:
        """Wait until so many more operations are answered; returns after how many seconds."""
        began, wanted = time.monotonic(), len(self.told.calls) + number
        while len(self.told.calls) < wanted:
            assert time.monotonic() - began < within_s, f"no {number} answers in {within_s} s: {self.told.errors}"
            self._answered.wait(0.05)
            self._answered.clear()
        return time.monotonic() - began

    # -- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as failure:
            self._failures.append(failure)

    async def _all(self) -> None:
        treasuries = [
            RemoteTreasury(url, key, attempts_max=1, attempt_s_max=self._attempt_s_max, timeout_s=self._attempt_s_max)
            for url, key in zip(self._urls, self._keys, strict=True)
        ]
        await asyncio.gather(*(self._caller(number, treasuries) for number in range(self.callers)))
        for treasury in treasuries:
            await treasury.close()

    async def _caller(self, number: int, treasuries: Sequence[RemoteTreasury]) -> None:
        at = [number % len(treasuries)]
        pick = random.Random(f"{self._run_name}-{number}")
        for chain in self._plan(self._run_name, number):
            for index, command in enumerate(chain):
                if self._stopping and index == 0:
                    return
                if isinstance(command, Wait):
                    await asyncio.sleep(command.seconds)
                    continue
                outcome = await self._ask(number, command, index, at, treasuries, pick)
                if outcome is None or isinstance(outcome, Refused):
                    break
                if self._pace_s and not self._stopping:
                    await asyncio.sleep(self._pace_s * pick.uniform(0.5, 1.5))

    async def _ask(
        self,
        caller: int,
        command: Any,
        index: int,
        at: list[int],
        treasuries: Sequence[RemoteTreasury],
        pick: random.Random,
    ) -> AnyOutcome | None:
        """Until it is answered; None: it never was."""
        told = self.told
        has_id = isinstance(command, Reserve | Extend | Settle | Release)
        key = None if has_id else f"{getattr(command, 'id', None) or command.reason}-{index}"
        request = Request(command=command, idempotency_key=key)
        sent_ns = time.monotonic_ns()
        failures = 0
        while True:
            began = time.monotonic()
            told.attempts += 1
            try:
                outcome = await treasuries[at[0]].execute(request)
            except TreasuryError as error:
                took_s = time.monotonic() - began
                told.failed_s.append(took_s)
                if isinstance(error, BudgetUnavailable):
                    answered = treasuries[at[0]]._base not in str(error)
                    if answered:
                        told.unavailable_s.append(took_s)
                    told.errors["unavailable" if answered else "no answer"] += 1
                else:
                    told.errors[error.code] += 1
                    told.wrong.append(f"{type(error).__name__} for {command}: {error}")
                failures += 1
                if time.monotonic_ns() - sent_ns > UNANSWERED_S_MAX * 1e9:
                    told.wrong.append(f"never answered: {command}: {error}")
                    return None
                if not self._stay:
                    at[0] = (at[0] + 1) % len(treasuries)
                await asyncio.sleep(min(0.5, 0.01 * 2**failures) * pick.uniform(0.5, 1.0))
                continue
            break
        answered_ns = time.monotonic_ns()
        call = Call(
            caller=str(caller), sent_ns=sent_ns, answered_ns=answered_ns, command=command, outcome=outcome, key=key
        )
        told.calls.append(call)
        told.answered_at_s.append(answered_ns / 1e9)
        if isinstance(outcome, Refused):
            told.refusals[outcome.code] += 1
            if outcome.code not in EXPECTED:
                told.wrong.append(f"{outcome.code} for {command}: {outcome.detail}")
        elif isinstance(outcome, Spooled):
            told.spooled += 1
        self._answered.set()
        return outcome
