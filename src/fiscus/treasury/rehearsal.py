"""The recorded calls decided anew on a ledger of its own in memory, by the same ``decide``. Nothing is written.

What callers went on to do stays as it is recorded: when they asked, what they used, when they settled. Of what is not
recorded nothing is made up: what a refused call would have done next, or for how long one would have waited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from fiscus.contract.queries import AnyQuery, ReadReallocation, View
from fiscus.contract.rehearsal import (
    ROWS_MAX,
    RehearsalView,
    RehearsedAccount,
    RehearsedBudget,
    RehearsedCalls,
    RehearsedRefusal,
)
from fiscus.core.checks import to_datetime
from fiscus.core.commands import (
    Alternative,
    AnyCommand,
    Extend,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
    ShortageStep,
)
from fiscus.core.decide import LEDGER_ACTOR, bring_due, decide
from fiscus.core.events import (
    Adjusted,
    AllocationResized,
    AnyEvent,
    BudgetPut,
    BudgetRemoved,
    Extended,
    GateReset,
    Held,
    Lent,
    LoanEnded,
    QuarantineClosed,
    Queued,
    Released,
    Settled,
    ShortageMet,
    StatusChanged,
    ThresholdCrossed,
    TicketEnded,
    Transferred,
)
from fiscus.core.outcomes import AnyOutcome, HoldAnswer, Refused
from fiscus.core.state import Draft
from fiscus.core.units import Amounts, completed
from fiscus.treasury.reallocations import reallocation_view
from fiscus.treasury.shortage import run_list
from fiscus.treasury.stage import Stage

ACTOR = "rehearsal"
LATER: frozenset[ShortageStep] = frozenset(("wait", "ask"))
"""Steps of which nobody knows how they would have ended."""

OPEN_ENDED: frozenset[ShortageStep] = LATER | {"deny"}
"""Steps that are not taken once one of the list is of those: a budget's policy on exhaustion would follow."""

LISTED_LOAN = "loan-"
"""How the ids of loans begin that an account's list makes."""


class _Sums:
    """What ``RehearsedCalls`` tells, as it grows."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.eased: Counter[ShortageStep] = Counter()
        self.recorded: Counter[str] = Counter()
        self.rehearsed: Counter[str] = Counter()

    def told(self) -> dict[str, Any]:
        """The fields."""
        booked = {"recorded": dict(self.recorded), "rehearsed": dict(self.rehearsed)}
        return {**self.counts, "eased": dict(self.eased), **booked}


class _Peak(msgspec.Struct):
    """How a budget of the rehearsal fared so far; ``used`` of ``limit``: in the window that came closest to it."""

    used: int = 0
    limit: int = 0
    refused: int = 0
    spared: int = 0
    thresholds: Counter[int] = msgspec.field(default_factory=Counter)


class _Reading(msgspec.Struct):
    """What the record says of one call, as far as it was read. ``open``, ``estimated``: as of a hold."""

    account: int
    reserved: Amounts
    booked: Amounts = {}
    open: bool = True
    estimated: bool = False


class _Waiting(msgspec.Struct):
    """A recorded call that waits, and would not have been admitted so far."""

    at: int
    command: Reserve
    refused: Refused


class Rehearsal:
    """Takes recorded facts in their order, with their times (ms); ``view`` tells what came of it so far.

    Args:
        stage: the ledger in memory.
        refusals: how many are told one by one.
    """

    def __init__(self, stage: Stage, refusals: int) -> None:
        self._stage = stage
        self._draft: Draft = stage.draft
        self._refusals = refusals
        self._sums: dict[str, _Sums] = {}
        self._peaks: dict[int, _Peak] = {}
        self._readings: dict[str, _Reading] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._refused: list[RehearsedRefusal] = []
        self._codes: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter(stage.left_out)
        self._spared = 0
        self._held: tuple[int, Held] | None = None
        self._times: tuple[int, int] | None = None
        self.calls = 0

    def fold(self, at: int, event: AnyEvent) -> None:
        """Take the next fact. Of a hold the facts are complete with the one behind it."""
        self._times = (self._times[0] if self._times is not None else at, at)
        if type(event) is ShortageMet and self._held is not None and self._held[1].id == event.id:
            self._decide_held(event)
            return
        self._decide_held(None)
        if type(event) is Held:
            self.calls += self.begins(event)
            self._held = (at, event)
        elif (take := TAKEN.get(type(event))) is not None:
            take(self, at, event)

    def begins(self, event: AnyEvent) -> bool:
        """Whether a call begins with it that was not counted yet."""
        return isinstance(event, Held | Queued) and event.id not in self._readings

    def view(self, as_of_seq: int, next_seq: int | None) -> RehearsalView:
        """What would have become of the calls; those that still wait would have been refused so far."""
        self._decide_held(None)
        if self._times is not None:
            bring_due(self._draft, self._times[1])
            self._take()
        for id in list(self._waiting):
            self._give_up(id)
        accounts = [RehearsedAccount(account=name, **sums.told()) for name, sums in self._sums.items()]
        accounts.sort(key=lambda one: (-one.refused, one.account))
        budgets = [self._budget(number, peak) for number, peak in self._peaks.items()]
        budgets.sort(key=lambda one: (-one.refused, -one.spared, one.account, one.budget))
        totals = _Sums()
        for sums in self._sums.values():
            for name in ("counts", "eased", "recorded", "rehearsed"):
                getattr(totals, name).update(getattr(sums, name))
        return RehearsalView(
            as_of_seq=as_of_seq,
            first_at=to_datetime(self._times[0]) if self._times is not None else None,
            last_at=to_datetime(self._times[1]) if self._times is not None else None,
            next=next_seq,
            totals=RehearsedCalls(**totals.told()),
            codes=dict(self._codes),
            account_count=len(accounts),
            accounts=tuple(accounts[:ROWS_MAX]),
            budget_count=len(budgets),
            budgets=tuple(budgets[:ROWS_MAX]),
            refusals=tuple(self._refused),
            spared_recorded=self._spared,
            left_out={kind: count for kind, count in self._left_out.items() if count > 0},
        )

    def _budget(self, number: int, peak: _Peak) -> RehearsedBudget:
        budget = self._draft.budgets[number]
        return RehearsedBudget(
            account=self._draft.accounts[budget.account].display_name,
            budget=budget.name,
            unit=budget.unit,
            mode=budget.mode,
            match=budget.match,
            allocated=budget.allocated,
            refused=peak.refused,
            spared=peak.spared,
            peak_used=peak.used,
            peak_limit=peak.limit,
            thresholds=dict(sorted(peak.thresholds.items())),
        )

    # -- deciding ----------------------------------------------------------------------------------------------------

    def decide(self, request: Request, at: int) -> AnyOutcome:
        """One decision, and what it did to the books."""
        outcome = decide(self._draft, request, at)
        self._take()
        return outcome

    def _take(self) -> None:
        """What has happened on the ledger in memory, for the answer."""
        draft = self._draft
        for event in draft.events:
            if type(event) is ThresholdCrossed:
                self._peak(event.budget).thresholds[event.percent] += 1
            elif type(event) is Held:
                for number in event.spared:
                    self._peak(draft.cells[number].budget).spared += 1
        for booking in draft.bookings:
            self._of(draft.accounts[booking.account].display_name).rehearsed.update(booking.amounts)
        for table, key, _ in draft.commit():
            if table is draft.cells:
                self._look_at(key)

    def _ask(self, command: AnyCommand, at: int) -> AnyOutcome:
        return self.decide(Request(command=command, actor=ACTOR), at)

    def _look_at(self, number: int) -> None:
        cell = self._draft.cells[number]
        peak = self._peak(cell.budget)
        used, limit = cell.used, cell.granted
        if used * max(1, peak.limit) >= peak.used * max(1, limit):
            peak.used, peak.limit = used, limit

    def _reserve(self, command: Reserve, at: int) -> HoldAnswer | Refused:
        """What would have become of it, the account's list included."""
        request = Request(command=command, actor=ACTOR)
        outcome = self.decide(request, at)
        if isinstance(outcome, Refused) and outcome.shortage:
            outcome = _finished(run_list(_InMemory(self, self._draft, at, outcome), request, outcome))
        assert isinstance(outcome, HoldAnswer | Refused), "a reserve is held or refused"
        return outcome

    def _decide_held(self, met: ShortageMet | None) -> None:
        """Decide the reserve that was recorded last; ``met``: what was done for it."""
        if self._held is None:
            return
        (at, held), self._held = self._held, None
        self._spared += bool(held.spared)
        reading = self._readings.get(held.id)
        waiting = self._waiting.get(held.id)
        if reading is None:
            self._readings[held.id] = _Reading(account=held.account, reserved=held.amounts)
            command = self._command(held, at, **_sizes(held, met))
            self._count(command, self._reserve(command, at), at)
            return
        reading.reserved, reading.open = held.amounts, True
        if waiting is None:
            return  # it would not have had to wait
        outcome = self._reserve(waiting.command, at)
        if isinstance(outcome, Refused):
            self._give_up(held.id)
            return
        del self._waiting[held.id]
        counts = self._of(waiting.command.account).counts
        counts["waited"] += 1
        counts["waited_ms"] += at - waiting.at
        self._admit(waiting.command, outcome)

    def _command(self, event: Held | Queued, at: int, **conditions: Any) -> Reserve:
        private = event.private
        attributes = (private.attributes if private is not None else None) or {}
        if event.attributes_check and not attributes:
            self._left_out["attributes_erased"] += 1
        account, parent = self._stage.name(event.account, at)
        return Reserve(
            id=event.id,
            account=account,
            parent=parent,
            amounts=event.asked,
            also=tuple(self._stage.name(number, at)[0] for number in event.also),
            lease_s=event.lease_s,
            attributes=attributes,
            **conditions,
        )

    def _count(self, command: Reserve, outcome: HoldAnswer | Refused, at: int) -> None:
        self._of(command.account).counts["calls"] += 1
        if isinstance(outcome, Refused):
            self._refuse(command, outcome, at)
        else:
            self._admit(command, outcome)

    def _admit(self, command: Reserve, outcome: HoldAnswer) -> None:
        sums = self._of(command.account)
        sums.counts["admitted"] += 1
        if outcome.steps:
            sums.eased[outcome.steps[-1]] += 1

    def _refuse(self, command: Reserve, refused: Refused, at: int, *, waited: bool = False) -> None:
        counts = self._of(command.account).counts
        counts["refused"] += 1
        counts["would_wait"] += waited or "wait" in refused.steps
        counts["would_ask"] += "ask" in refused.steps
        self._codes[refused.code] += 1
        binding = refused.binding
        if binding is not None:
            owner = self._draft.accounts[self._draft.names[binding.account]]
            for number in owner.budgets:
                if self._draft.budgets[number].name == binding.budget:
                    self._peak(number).refused += 1
        if len(self._refused) < self._refusals:
            self._refused.append(
                RehearsedRefusal(
                    at=to_datetime(at),
                    id=command.id,
                    account=command.account,
                    code=refused.code,
                    detail=refused.detail,
                    budget_account=binding.account if binding is not None else None,
                    budget=binding.budget if binding is not None else None,
                    unit=binding.unit if binding is not None else None,
                    limit=binding.limit if binding is not None else None,
                    available=binding.available if binding is not None else None,
                    requested=refused.requested,
                    steps=refused.steps,
                )
            )

    def _give_up(self, id: str) -> None:
        waiting = self._waiting.pop(id)
        self._refuse(waiting.command, waiting.refused, waiting.at, waited=True)

    # -- the facts ---------------------------------------------------------------------------------------------------

    def _queued(self, at: int, event: Queued) -> None:
        """It is tried when it was asked for, and again when it was admitted in the record."""
        self.calls += self.begins(event)
        self._readings[event.id] = _Reading(account=event.account, reserved={}, open=False)
        least = {unit: amount for unit, amount in event.least.items() if unit in completed(event.asked)}
        command = self._command(event, at, leave=event.leave, least=least, alternatives=event.alternatives)
        outcome = self._reserve(command, at)
        if isinstance(outcome, Refused):
            self._of(command.account).counts["calls"] += 1
            self._waiting[event.id] = _Waiting(at, command, outcome)
        else:
            self._count(command, outcome, at)

    def _ticket_ended(self, at: int, event: TicketEnded) -> None:
        """It was not admitted in the record, or nobody took it: what it would have used is not known.

        The id may be tried again: that is another call.
        """
        self._readings.pop(event.id, None)
        if event.id in self._waiting:
            self._give_up(event.id)
        elif self._is_held(event.id):
            self._ask(Release(id=event.id), at)

    def _extended(self, at: int, event: Extended) -> None:
        reading = self._readings.get(event.id)
        if reading is None:
            return
        rises = {unit: amount for unit, amount in event.to.items() if amount > reading.reserved.get(unit, 0)}
        reading.reserved = event.to
        if not self._is_held(event.id):
            return
        lease_s = max(1, (event.expires_at - at) // 1000)
        if isinstance(self._ask(Extend(id=event.id, to=rises, lease_s=lease_s), at), Refused) and rises:
            account = self._draft.accounts[self._draft.holds[event.id].account].display_name
            self._of(account).counts["extensions_refused"] += 1
            self._ask(Extend(id=event.id, lease_s=lease_s), at)

    def _settled(self, at: int, event: Settled) -> None:
        known = self._readings.get(event.id)
        if known is None and event.account is None:
            return  # it was reserved before the rehearsal begins
        reading = known or _Reading(account=event.account or 0, reserved={}, open=False)
        self._readings[event.id] = reading
        account, parent = self._stage.name(reading.account, at)
        replaces = event.final and (reading.open or reading.estimated)
        booked = event.total if replaces else _higher(reading.booked, event.total)
        _rise(self._of(account).recorded, reading.booked, booked)
        reading.booked = booked
        if event.final:
            reading.open = reading.estimated = False
        command = Settle(
            id=event.id,
            total=self._as_granted(event, reading),
            final=event.final,
            record=event.private.record if event.private is not None else None,
            account=account if event.account is not None else None,
            also=tuple(self._stage.name(number, at)[0] for number in event.also),
            attributes={"model": event.model} if event.model and event.account is not None else {},
            parent=parent if event.account is not None else None,
        )
        self._ask(command, at)

    def _as_granted(self, event: Settled, reading: _Reading) -> Amounts:
        """What the call would have booked: no more than it holds, where a step has given it less than it had."""
        hold = self._draft.holds.find(event.id)
        if hold is None or not hold.granted:
            return event.total
        less = {unit: held for unit, held in hold.reserved.items() if held < reading.reserved.get(unit, held)}
        return {unit: min(amount, less.get(unit, amount)) for unit, amount in event.total.items()}

    def _released(self, at: int, event: Released) -> None:
        reading = self._readings.get(event.id)
        if reading is not None:
            reading.open = False
            if self._is_open(event.id):
                self._ask(Release(id=event.id), at)
        elif event.account is not None:
            name, _ = self._stage.name(event.account, at)
            self._ask(Release(id=event.id, account=name), at)

    def _quarantine_closed(self, at: int, event: QuarantineClosed) -> None:
        reading = self._readings.get(event.id)
        if reading is None:
            return
        if event.charge:
            booked = _higher(reading.booked, reading.reserved)
            account, _ = self._stage.name(reading.account, at)
            _rise(self._of(account).recorded, reading.booked, booked)
            reading.booked, reading.estimated = booked, True
        reading.open = False

    def _status_changed(self, at: int, event: StatusChanged) -> None:
        """What people did; what an exhausted budget's policy does comes of the rehearsal itself."""
        if event.actor == LEDGER_ACTOR and event.status != "closed":
            return
        name = self._stage.known(event.account)
        if name is not None and name not in self._stage.with_status:
            self._ask(SetStatus(account=name, status=event.status), at)

    def _not_repeated(self, at: int, event: AnyEvent) -> None:
        tag = _tag(type(event))
        if type(event) is BudgetPut and event.version == 1:
            return
        if type(event) is Lent:
            self._left_out["transferred"] -= len(event.parts)
            self._left_out[tag] += not event.id.startswith(LISTED_LOAN)
        elif type(event) is LoanEnded:
            self._left_out["transferred"] -= len(event.returned)
        else:
            self._left_out[tag] += 1

    # -- small things ------------------------------------------------------------------------------------------------

    def _of(self, account: str) -> _Sums:
        found = self._sums.get(account)
        if found is None:
            found = self._sums[account] = _Sums()
        return found

    def _peak(self, budget: int) -> _Peak:
        found = self._peaks.get(budget)
        if found is None:
            found = self._peaks[budget] = _Peak()
        return found

    def _is_held(self, id: str) -> bool:
        hold = self._draft.holds.find(id)
        return hold is not None and hold.state == "held"

    def _is_open(self, id: str) -> bool:
        hold = self._draft.holds.find(id)
        return hold is not None and hold.open


def _tag(kind: type[Any]) -> str:
    return str(kind.__struct_config__.tag)


TAKEN: dict[type[Any], Callable[[Rehearsal, int, Any], None]] = {
    Queued: Rehearsal._queued,
    TicketEnded: Rehearsal._ticket_ended,
    Extended: Rehearsal._extended,
    Settled: Rehearsal._settled,
    Released: Rehearsal._released,
    QuarantineClosed: Rehearsal._quarantine_closed,
    StatusChanged: Rehearsal._status_changed,
    **dict.fromkeys(
        (Adjusted, AllocationResized, BudgetPut, BudgetRemoved, GateReset, Lent, LoanEnded, Transferred),
        Rehearsal._not_repeated,
    ),
}
_LOOKED_AT: tuple[type[Any], ...] = (*TAKEN, Held, ShortageMet)
KINDS_TAKEN = frozenset(_tag(kind).encode() for kind in _LOOKED_AT)
"""Kinds of entries that a rehearsal looks at."""


class _InMemory:
    """The ledger of the rehearsal as the runner of an account's list asks it. Never waits."""

    def __init__(self, rehearsal: Rehearsal, draft: Draft, at: int, refused: Refused) -> None:
        self._rehearsal = rehearsal
        self._draft = draft
        self._at = at
        self._refused = refused

    async def execute(self, request: Request) -> AnyOutcome:
        """See ``Treasury``. What would have been waited for is not refused for good."""
        if LATER.intersection(request.steps) and request.steps[-1] in OPEN_ENDED:
            return msgspec.structs.replace(self._refused, shortage=())
        return self._rehearsal.decide(request, self._at)

    async def read(self, query: AnyQuery) -> View | Refused:
        """See ``Treasury``."""
        assert isinstance(query, ReadReallocation), "the runner of a list asks only who can lend"
        return reallocation_view(self._draft, 0, query, self._at)


def _finished(work: Coroutine[Any, Any, AnyOutcome]) -> AnyOutcome:
    """What comes of work that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        outcome: AnyOutcome = done.value
        return outcome
    raise AssertionError("a rehearsal never waits")


def _sizes(held: Held, met: ShortageMet | None) -> dict[str, Any]:
    """What is known to have been of use instead of what was asked: what was held."""
    if met is not None and met.model is not None:
        amounts = {unit: amount for unit, amount in held.amounts.items() if unit in completed(held.asked)}
        return {"alternatives": (Alternative(model=met.model, amounts=amounts),)}
    least = {
        unit: max(1, held.amounts[unit])
        for unit, amount in held.asked.items()
        if held.amounts.get(unit, amount) < amount
    }
    return {"least": least} if least else {}


def _higher(one: Amounts, other: Amounts) -> Amounts:
    return {**one, **{unit: max(amount, one.get(unit, 0)) for unit, amount in other.items()}}


def _rise(sums: Counter[str], before: Amounts, after: Amounts) -> None:
    for unit, amount in after.items():
        sums[unit] += amount - before.get(unit, 0)
