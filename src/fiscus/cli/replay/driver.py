"""Sends the calls of a fleet to a treasury, as their callers would: reserve, call, settle; some of them misbehave."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from fiscus.cli.replay.behaviour import Behaviour, Kind, behaviour
from fiscus.cli.replay.provider import Provider, upper_bound
from fiscus.cli.traces import Call
from fiscus.contract.errors import BudgetUnavailable, TreasuryError, refusal
from fiscus.contract.queries import HoldView, ReadHold
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import AnyCommand, Extend, Release, Request, Reserve, Settle
from fiscus.core.outcomes import AnyOutcome, HoldAnswer, Refused
from fiscus.core.records import CallRecord, Provenance, Tokens
from fiscus.core.units import Amounts

LEASE_S = 5
"""Short, because a replay does not wait ten minutes to see a lease end. Calls that last longer renew it."""

HEARTBEATS_PER_LEASE = 3
BUSY_TRIES = 3
BUSY_WAIT_S = 0.05
"""A busy budget is asked again after this, twice as long each time: calls in flight end faster than in real life."""

UNAVAILABLE_TRIES = 5
EXPIRY_WAIT_S_MAX = 20.0
EXPIRY_POLL_S = 0.2
REPORT_LENGTH_MAX = 500

REFUSED_FOR_GOOD = frozenset({"budget_exceeded", "budget_busy", "account_suspended", "account_terminated"})
"""What a caller takes for a no. Any other refusal of a reserve is a fault of the replay itself, and raised."""

T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay is run.

    Attributes:
        run: begins the id of every hold; with the row of the call it makes the id.
        seed: decides who misbehaves, and how.
        chaos: the part of the callers that does, 0 … 1.
        speed: how many seconds of the trace pass in one second; None: as fast as it goes, and calls take no time.
        in_flight: how many calls may be under way at once.
        resuming: the same replay was run before, perhaps not to its end.
    """

    run: str
    seed: int
    chaos: float
    speed: float | None
    in_flight: int
    lease_s: int
    resuming: bool = False


class Tally:
    """What has happened so far.

    Attributes:
        retried: calls that were sent twice. repeated: those that had been settled by an earlier run.
        contradictions: answers that are not what the caller must get.
        refused_by: per account, the calls that its budgets refused.
        admitted_by: per account, the calls of it and those below it that were admitted.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.admitted = 0
        self.refused = 0
        self.killed = 0
        self.late = 0
        self.retried = 0
        self.repeated = 0
        self.contradictions = 0
        self.in_flight = 0
        self.in_flight_max = 0
        self.behind_s_max = 0.0
        self.refused_by: Counter[str] = Counter()
        self.admitted_by: Counter[str] = Counter()


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose caller was killed: held by the ledger, used by nobody's word but the provider's."""

    call: Call
    path: tuple[str, ...]
    bound: Amounts
    used: Amounts
    expires_at: datetime


class Driver:
    """Runs the calls of one replay against ``treasury``; ``provider`` produces them, ``tally`` follows."""

    def __init__(self, treasury: Treasury, provider: Provider, options: Options) -> None:
        self.tally = Tally()
        self.lost: list[Lost] = []
        self._treasury = treasury
        self._provider = provider
        self._options = options
        self._slots = asyncio.Semaphore(options.in_flight)

    async def run(self, calls: Iterable[tuple[Call, Sequence[str]]]) -> None:
        """Send all calls, each at its time; returns when everyone but the killed has settled."""
        started_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as group:
                for call, path in calls:
                    await self._wait_until(started_s, call.at_s)
                    await self._slots.acquire()
                    group.create_task(self._call(group, call, tuple(path)))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def wait_for_expiry(self) -> None:
        """Wait until the lease of every killed call has ended in the ledger."""
        for lost in self.lost:
            await self._wait_for_expiry(self._id(lost.call), lost.expires_at)

    async def report(self) -> None:
        """Book the killed calls from the provider's report, which comes when their leases have long ended."""
        settlements = [self._settlement(lost.call, lost.path, lost.used, "cancelled") for lost in self.lost]
        for start in range(0, len(settlements), REPORT_LENGTH_MAX):
            batch = settlements[start : start + REPORT_LENGTH_MAX]
            answers = await self._execute_many(batch)
            for lost, answer in zip(self.lost[start:], answers, strict=False):
                self._check_booked(answer, lost.used)

    async def _call(self, group: asyncio.TaskGroup, call: Call, path: tuple[str, ...]) -> None:
        tally = self.tally
        tally.calls += 1
        tally.in_flight += 1
        tally.in_flight_max = max(tally.in_flight, tally.in_flight_max)
        try:
            await self._live(group, call, path)
        finally:
            tally.in_flight -= 1
            self._slots.release()

    async def _live(self, group: asyncio.TaskGroup, call: Call, path: tuple[str, ...]) -> None:
        """The life of one call, from its reserve to its end."""
        options, tally = self._options, self.tally
        fate = behaviour(options.seed, call.row, options.chaos)
        bound = upper_bound(call)
        outcome = await self._reserve(call, path, bound, fate)
        if isinstance(outcome, Refused):
            tally.refused += 1
            tally.refused_by[outcome.binding.account if outcome.binding else path[-1]] += 1
            return
        tally.admitted += 1
        tally.admitted_by.update(path)
        if outcome.reserved != bound:
            tally.contradictions += 1
        tally.killed += fate.kind is Kind.KILLED
        used = self._provider.produce(call, path, fate.share)
        if options.resuming and await self._has_ended(call, used):
            tally.repeated += 1
            tally.late += fate.kind is Kind.LATE
            return
        await self._wait_for_provider(call, fate)
        assert outcome.expires_at is not None, "a hold that is granted has a lease"
        if fate.kind is Kind.KILLED:
            self.lost.append(Lost(call=call, path=path, bound=bound, used=used, expires_at=outcome.expires_at))
        elif fate.kind is Kind.LATE:
            group.create_task(self._settle_late(call, path, used, outcome.expires_at))
        else:
            await self._settle(call, path, used, twice=fate.kind is Kind.RETRIES)

    async def _reserve(
        self, call: Call, path: tuple[str, ...], bound: Amounts, fate: Behaviour
    ) -> HoldAnswer | Refused:
        """Ask for the call's upper bound; a busy budget several times. A caller that gives up says so.

        Giving up is a release before the reserve: it bars the id, so that a copy of the reserve that is still under
        way, or comes with another run, is not admitted when nobody makes the call any more.
        """
        command = Reserve(
            id=self._id(call),
            account=path[-1],
            amounts={unit: bound[unit] for unit in ("input_tokens", "output_tokens", "cost")},
            lease_s=self._options.lease_s,
            attributes={"model": call.model},
        )
        outcome = await self._ask(command, twice=fate.kind is Kind.RETRIES)
        for attempt in range(1, BUSY_TRIES):
            if not isinstance(outcome, Refused) or outcome.code != "budget_busy":
                break
            await asyncio.sleep(BUSY_WAIT_S * 2**attempt)
            outcome = await self._ask(command)
        if isinstance(outcome, Refused) and outcome.code in REFUSED_FOR_GOOD:
            await self._execute(Release(id=command.id, account=path[-1]))
        elif isinstance(outcome, Refused) and outcome.code != "already_settled":
            raise refusal(outcome)
        return outcome

    async def _ask(self, command: Reserve, *, twice: bool = False) -> HoldAnswer | Refused:
        outcomes = [await self._execute(command)] if not twice else await self._execute_twice(command)
        granted = [outcome for outcome in outcomes if isinstance(outcome, HoldAnswer)]
        if any(outcome != granted[0] for outcome in granted):
            self.tally.contradictions += 1
        outcome = granted[0] if granted else outcomes[-1]
        assert isinstance(outcome, HoldAnswer | Refused), "a reserve is answered by a hold or a refusal"
        return outcome

    async def _settle(self, call: Call, path: tuple[str, ...], used: Amounts, *, twice: bool = False) -> None:
        command = self._settlement(call, path, used, "success")
        answers = [await self._execute(command)] if not twice else await self._execute_twice(command)
        for answer in answers:
            self._check_booked(answer, used)

    async def _settle_late(self, call: Call, path: tuple[str, ...], used: Amounts, expires_at: datetime) -> None:
        await self._wait_for_expiry(self._id(call), expires_at)
        self.tally.late += 1
        await self._settle(call, path, used)

    async def _wait_for_expiry(self, id: str, expires_at: datetime) -> None:
        """Wait until the ledger, by its own clock, has ended the lease of a hold."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, (expires_at - datetime.now(UTC)).total_seconds()))
        give_up_s = loop.time() + EXPIRY_WAIT_S_MAX
        while (hold := await self._read_hold(id)).state == "held":
            if loop.time() > give_up_s:
                raise TreasuryError(f"the lease of {id} ended {EXPIRY_WAIT_S_MAX:.0f} s ago and it is still held")
            left_s = (hold.expires_at - datetime.now(UTC)).total_seconds() if hold.expires_at else 0.0
            await asyncio.sleep(max(EXPIRY_POLL_S, left_s))

    async def _wait_for_provider(self, call: Call, fate: Behaviour) -> None:
        """Let the call take its time, renewing its lease; at full speed it takes none."""
        if self._options.speed is None:
            return
        left_s = call.duration_s * fate.share / self._options.speed
        beat_s = self._options.lease_s / HEARTBEATS_PER_LEASE
        while left_s > 0:
            await asyncio.sleep(min(left_s, beat_s))
            left_s -= beat_s
            if left_s > 0:
                await self._execute(Extend(id=self._id(call), lease_s=self._options.lease_s))

    async def _has_ended(self, call: Call, used: Amounts) -> bool:
        """Whether an earlier run has settled the call, which must then be on the books as it was produced."""
        hold = await self._read_hold(self._id(call))
        if hold.state != "settled":
            return False
        self._check_booked(hold, used)
        return True

    def _settlement(self, call: Call, path: tuple[str, ...], used: Amounts, outcome: str) -> Settle:
        return Settle(
            id=self._id(call),
            record=CallRecord(
                model=call.model,
                tokens=Tokens(input=used["input_tokens"], output=used["output_tokens"]),
                cost_nanousd=used["cost"],
                cost_source="price_book",
                duration_ms=round(call.duration_s * 1000),
                outcome="success" if outcome == "success" else "cancelled",
                provenance=Provenance(session_id=call.session or None, agent_id=path[3], depth=len(path)),
            ),
        )

    def _check_booked(self, answer: AnyOutcome, used: Amounts) -> None:
        booked = answer.booked if isinstance(answer, HoldAnswer) else {}
        if any(booked.get(unit, 0) != amount for unit, amount in used.items()):
            self.tally.contradictions += 1

    def _id(self, call: Call) -> str:
        return f"{self._options.run}-{call.row}"

    async def _wait_until(self, started_s: float, at_s: float) -> None:
        if self._options.speed is None:
            return
        wait_s = started_s + at_s / self._options.speed - asyncio.get_running_loop().time()
        self.tally.behind_s_max = max(self.tally.behind_s_max, -wait_s)
        await asyncio.sleep(max(0.0, wait_s))

    async def _read_hold(self, id: str) -> HoldAnswer:
        view = await self._patiently(lambda: self._treasury.read(ReadHold(id=id)))
        if isinstance(view, Refused):
            raise refusal(view)
        assert isinstance(view, HoldView), "a hold is answered by a hold"
        return view.hold

    async def _execute(self, command: AnyCommand) -> AnyOutcome:
        request = Request(command=command)
        return await self._patiently(lambda: self._treasury.execute(request))

    async def _execute_twice(self, command: AnyCommand) -> list[AnyOutcome]:
        self.tally.retried += isinstance(command, Reserve)
        return list(await asyncio.gather(self._execute(command), self._execute(command)))

    async def _execute_many(self, commands: Sequence[AnyCommand]) -> list[AnyOutcome]:
        requests = [Request(command=command) for command in commands]
        return await self._patiently(lambda: self._treasury.execute_many(requests))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again with the same ids while the service is overloaded or starting."""
        for _ in range(UNAVAILABLE_TRIES - 1):
            with suppress(BudgetUnavailable):
                return await ask()
            await asyncio.sleep(1)
        return await ask()
