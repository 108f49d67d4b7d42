"""The read model of the token economy: who got which grants, and what was made of them. A pure fold of the journal.

What it holds is a function of the journal up to ``seq`` alone (design.md E12), so it survives nothing and needs to
survive nothing: a restart folds the journal again. An agent is an account ``agent:…`` that was once allocated tokens.
Balances that decide are never taken from here; the ledger has them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from heapq import nlargest
from math import fsum
from sys import float_info
from typing import Any

import msgspec

from fiscus.api.economy.bodies import ACCOUNT_PREFIX, Performer
from fiscus.contract.queries import Entry
from fiscus.core.commands import GrantStrategy
from fiscus.policy.efficiency import HISTORY_LENGTH, efficiency, historical_efficiency
from fiscus.policy.grants import History, Past, smoothed_efficiency

EFFICIENCY_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histogram of efficiencies (D45)."""

SIZE_BUCKETS_TOKENS = (100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
"""Upper bounds of the histogram of what is handed out at once (D59)."""

PERFORMERS_MAX = 5

READINGS_MAX = 65_536
"""Calls of agents whose last reading is remembered, for a later one; the oldest are forgotten."""

GRANTS_MAX = 65_536
"""Grants whose answer can be given again; the oldest are forgotten."""

EXHAUSTED_REASON = "Token budget exhausted"
INSUFFICIENT_REASON = "Insufficient budget for meaningful allocation"

HOUR = timedelta(hours=1)

Data = dict[str, Any]


class GrantNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an allocation grew, as it stands in the journal beside it. ``grant`` identifies the request."""

    grant: str
    requested_tokens: float
    task_complexity: float
    multiplier: float
    parent_agent_id: str | None = None
    strategy: GrantStrategy = "classic"


class GrantMade(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that was made: its note, and how many tokens it was."""

    note: GrantNote
    tokens: int


@dataclass(slots=True, kw_only=True)
class AgentBook:
    """One agent.

    Attributes:
        active: whether it has a live allocation.
        cell: number of its allocation's balance.
        allocated, consumed, value: of the running allocation, which is all of its grants together.
        grant_consumed, grant_value: of the latest grant.
        uncounted: tokens of an allocation that began parked and was never handed out.
        past: efficiencies above 0 of the grants before, newest first.
        before: the grants before of which something was used, newest first.
        used_at: when something was last booked; None: never.
        allocated_total, consumed_total: over all allocations; they only rise.
        labelled: whether it has a metric label of its own.
    """

    agent_id: str
    active: bool = False
    cell: int = 0
    allocated: int = 0
    consumed: int = 0
    value: Fraction = Fraction(0)
    grant_consumed: int = 0
    grant_value: Fraction = Fraction(0)
    uncounted: int = 0
    past: tuple[Fraction, ...] = ()
    before: tuple[Past, ...] = ()
    used_at: datetime | None = None
    allocated_total: int = 0
    consumed_total: int = 0
    labelled: bool = False

    @property
    def remaining(self) -> int:
        """Tokens that are left of a live allocation."""
        return max(0, self.allocated - self.consumed) if self.active else 0

    @property
    def efficiency(self) -> float:
        """Value per token of the running allocation."""
        return to_float(efficiency(self.value, self.consumed))

    def historical_efficiency(self) -> Fraction:
        """What the next grant is sized by."""
        return historical_efficiency((efficiency(self.grant_value, self.grant_consumed), *self.past))

    def history(self, now: datetime) -> History:
        """What strategies look at: the classic one at efficiencies above 0 only, as long as there were any."""
        latest = Past(value=self.grant_value, tokens=self.grant_consumed)
        idle_h = max(0, (now - self.used_at) // HOUR) if self.used_at is not None else 0
        return History(grants=(latest, *self.before), consumed_tokens=self.consumed_total, idle_h=idle_h)

    def begin_grant(self) -> None:
        """What comes now belongs to a new grant."""
        ended = efficiency(self.grant_value, self.grant_consumed)
        if ended > 0:
            self.past = (ended, *self.past)[:HISTORY_LENGTH]
        if self.grant_consumed > 0:
            latest = Past(value=self.grant_value, tokens=self.grant_consumed)
            self.before = (latest, *self.before)[:HISTORY_LENGTH]
        self.grant_consumed, self.grant_value = 0, Fraction(0)


@dataclass(slots=True, kw_only=True)
class Reading:
    """The last reading of one call of an agent, in tokens; ``is_open`` until its hold has ended."""

    account: int
    tokens: int = 0
    value: Fraction = Fraction(0)
    reserved: int = 0
    is_open: bool = True


@dataclass(slots=True, kw_only=True)
class Share:
    """What one metric label stands for."""

    allocated_total: int = 0
    consumed_total: int = 0
    remaining: int = 0


@dataclass(slots=True)
class Books:
    """All agents as of journal sequence ``seq``.

    Args:
        labels_max: agents with a metric label of their own. Beyond it, those that have ended longest give theirs up.
    """

    labels_max: int = 1_000
    seq: int = 0
    at: datetime | None = None
    agents: dict[int, AgentBook] = field(default_factory=dict)
    terminated: int = 0
    efficiency_counts: list[int] = field(default_factory=lambda: [0] * (len(EFFICIENCY_BUCKETS) + 1))
    efficiency_sum: float = 0.0
    size_counts: list[int] = field(default_factory=lambda: [0] * (len(SIZE_BUCKETS_TOKENS) + 1))
    size_sum_tokens: int = 0
    labelled_count: int = 0
    other: Share = field(default_factory=Share)
    _numbers: dict[str, int] = field(default_factory=dict)
    _cells: dict[int, int] = field(default_factory=dict)
    _readings: OrderedDict[str, Reading] = field(default_factory=OrderedDict)
    _grants: OrderedDict[str, GrantMade] = field(default_factory=OrderedDict)
    _retired: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def fold(self, entry: Entry) -> None:
        """Apply one fact; facts come in order, and one that is here already is passed over."""
        if entry.seq <= self.seq:
            return
        apply = FOLDS.get(entry.kind)
        self.at = entry.at
        if apply is not None:
            apply(self, entry.data, entry.names)
        self.seq = entry.seq

    def begin_behind(self, seq: int, entries: Iterable[Entry]) -> None:
        """Begin with what stood when the entries up to ``seq`` were archived."""
        for entry in entries:
            self.at = entry.at
            apply = FOLDS.get(entry.kind)
            if apply is not None:
                apply(self, entry.data, entry.names)
        self.seq = seq

    def agent(self, agent_id: str) -> AgentBook | None:
        """The agent with this name, if it ever got a grant."""
        number = self._numbers.get(agent_id)
        return self.agents[number] if number is not None else None

    def grant(self, grant: str) -> GrantMade | None:
        """A grant by the id of its request."""
        return self._grants.get(grant)

    def active(self) -> Iterator[AgentBook]:
        """The agents that have a live allocation."""
        return (book for book in self.agents.values() if book.active)

    def others(self, agent_id: str) -> Iterator[tuple[Fraction, int]]:
        """What all other agents made of their grants, and with how many tokens."""
        for book in self.agents.values():
            if book.agent_id != agent_id:
                grants = (Past(value=book.grant_value, tokens=book.grant_consumed), *book.before)
                yield smoothed_efficiency(grants, None), book.consumed_total

    def average_efficiency(self) -> float:
        """Mean over the active agents with an efficiency above 0; 0 without any."""
        counted = [worth for book in self.active() if (worth := book.efficiency) > 0]
        return fsum(worth / len(counted) for worth in counted)

    def top_performers(self) -> tuple[Performer, ...]:
        """The most efficient active agents, best first; who made nothing is none of them."""
        rated = ((book.efficiency, book) for book in self.active())
        best = nlargest(PERFORMERS_MAX, (pair for pair in rated if pair[0] > 0), key=lambda pair: pair[0])
        return tuple(
            Performer(
                agent_id=book.agent_id,
                efficiency=worth,
                value_generated=to_float(book.value),
                tokens_consumed=book.consumed,
            )
            for worth, book in best
        )

    # -- what facts do --------------------------------------------------------------------------------------------

    def _allocation_put(self, data: Data, names: dict[str, str]) -> None:
        number: int = data["account"]
        book = self._book(number, names) if data["unit"] == "tokens" else None
        if book is None:
            return
        self._cells.pop(book.cell, None)
        self._cells[data["cell"]] = number
        book.cell = data["cell"]
        book.begin_grant()
        book.value = Fraction(0)
        is_parked = data.get("parked", False)
        self._size(number, book, allocated=data["size"], active=not is_parked, consumed=0)
        book.uncounted = data["size"]
        if not is_parked:
            self._hand_out(book)
            self._note(data, data["size"])

    def _allocation_resized(self, data: Data, names: dict[str, str]) -> None:
        if (number := self._cells.get(data["cell"])) is None:
            return
        book = self.agents[number]
        rise = data["size"] - book.allocated
        self._size(number, book, allocated=data["size"], active=book.active)
        if rise > 0:
            book.begin_grant()
            book.allocated_total += rise
            self._count(book, allocated=rise)
            self._observe_size(rise)
            self._note(data, rise)

    def _transferred(self, data: Data, names: dict[str, str]) -> None:
        for cell, size in data["sizes"]:
            if (number := self._cells.get(cell)) is not None:
                book = self.agents[number]
                rise = max(0, size - book.allocated)
                self._size(number, book, allocated=size, active=book.active)
                book.allocated_total += rise
                self._count(book, allocated=rise)

    def _allocation_parked(self, data: Data, names: dict[str, str]) -> None:
        self._set_active(data["cell"], active=False)

    def _allocation_resumed(self, data: Data, names: dict[str, str]) -> None:
        self._set_active(data["cell"], active=True)
        if (number := self._cells.get(data["cell"])) is not None:
            self._hand_out(self.agents[number])

    def _allocation_ended(self, data: Data, names: dict[str, str]) -> None:
        self._set_active(data["cell"], active=False)
        self._cells.pop(data["cell"], None)

    def _status_changed(self, data: Data, names: dict[str, str]) -> None:
        reason = str(_private(data).get("reason") or "")
        if data["status"] == "terminated" and reason.startswith((EXHAUSTED_REASON, INSUFFICIENT_REASON)):
            self.terminated += 1

    def _name_erased(self, data: Data, names: dict[str, str]) -> None:
        if (book := self.agents.get(data["account"])) is not None:
            self._numbers.pop(book.agent_id, None)
            book.agent_id = erased_id(data["account"])
            self._numbers[book.agent_id] = data["account"]

    def _held(self, data: Data, names: dict[str, str]) -> None:
        if data["account"] in self.agents:
            self._remember(
                data["id"], Reading(account=data["account"], reserved=data.get("amounts", {}).get("tokens", 0))
            )

    def _extended(self, data: Data, names: dict[str, str]) -> None:
        if (reading := self._readings.get(data["id"])) is not None:
            reading.reserved = data["to"].get("tokens", reading.reserved)

    def _settled(self, data: Data, names: dict[str, str]) -> None:
        reading = self._readings.get(data["id"])
        is_first = reading is None
        if reading is None:
            if data.get("account") not in self.agents:
                return
            reading = Reading(account=data["account"], is_open=False)
            self._remember(data["id"], reading)
        is_final = data.get("final", True)
        tokens = data["total"].get("tokens", reading.tokens)
        if not (is_final and reading.is_open) and not is_first:
            tokens = max(tokens, reading.tokens)
        record = _private(data).get("record") or {}
        value = _to_fraction(record["value"]) if record.get("value") is not None else reading.value
        self._book_use(reading, tokens, value)
        if is_final:
            reading.is_open = False

    def _released(self, data: Data, names: dict[str, str]) -> None:
        if (reading := self._readings.get(data["id"])) is not None:
            reading.is_open = False

    def _quarantine_closed(self, data: Data, names: dict[str, str]) -> None:
        reading = self._readings.get(data["id"])
        if reading is None:
            return
        if data["charge"]:
            self._book_use(reading, max(reading.tokens, reading.reserved), reading.value)
        else:
            reading.is_open = False

    # -- parts of it ----------------------------------------------------------------------------------------------

    def _book(self, number: int, names: dict[str, str]) -> AgentBook | None:
        """The book of an account, opened if it is an agent's; one whose name was erased is taken for an agent."""
        book = self.agents.get(number)
        if book is not None:
            return book
        name = names.get(str(number))
        if name is not None and not name.startswith(ACCOUNT_PREFIX):
            return None
        book = AgentBook(agent_id=name.removeprefix(ACCOUNT_PREFIX) if name is not None else erased_id(number))
        self.agents[number] = book
        self._numbers[book.agent_id] = number
        self._label(book)
        return book

    def _label(self, book: AgentBook) -> None:
        """Give a new agent a label: a free one, or that of the agent that ended longest ago."""
        if self.labelled_count >= self.labels_max:
            if not self._retired:
                return
            oldest = self.agents[self._retired.popitem(last=False)[0]]
            oldest.labelled = False
            self.other.allocated_total += oldest.allocated_total
            self.other.consumed_total += oldest.consumed_total
            self.labelled_count -= 1
        book.labelled = True
        self.labelled_count += 1

    def _set_active(self, cell: int, *, active: bool) -> None:
        if (number := self._cells.get(cell)) is not None:
            book = self.agents[number]
            self._size(number, book, allocated=book.allocated, active=active)

    def _size(self, number: int, book: AgentBook, *, allocated: int, active: bool, consumed: int | None = None) -> None:
        """Set what an agent may use; keeps the sums of ``other`` and the order of retirement."""
        before = book.remaining
        book.allocated, book.active = allocated, active
        if consumed is not None:
            book.consumed = consumed
        if not book.labelled:
            self.other.remaining += book.remaining - before
        elif active:
            self._retired.pop(number, None)
        else:
            self._retired[number] = None

    def _hand_out(self, book: AgentBook) -> None:
        """Count an allocation as handed out, once; one that began parked counts when it is resumed."""
        book.allocated_total += book.uncounted
        self._count(book, allocated=book.uncounted)
        if book.uncounted:
            self._observe_size(book.uncounted)
        book.uncounted = 0

    def _observe_size(self, tokens: int) -> None:
        self.size_counts[bisect_left(SIZE_BUCKETS_TOKENS, tokens)] += 1
        self.size_sum_tokens += tokens

    def _count(self, book: AgentBook, *, allocated: int = 0, consumed: int = 0) -> None:
        if not book.labelled:
            self.other.allocated_total += allocated
            self.other.consumed_total += consumed

    def _book_use(self, reading: Reading, tokens: int, value: Fraction) -> None:
        """Book what a reading adds to the one before."""
        book = self.agents[reading.account]
        rise, gain = tokens - reading.tokens, value - reading.value
        reading.tokens, reading.value = tokens, value
        before = book.remaining
        book.consumed += rise
        book.value += gain
        book.grant_consumed += rise
        book.grant_value += gain
        book.consumed_total += max(0, rise)
        if rise > 0:
            book.used_at = self.at
        self._count(book, consumed=max(0, rise))
        if not book.labelled:
            self.other.remaining += book.remaining - before
        worth = book.efficiency
        self.efficiency_counts[bisect_left(EFFICIENCY_BUCKETS, worth)] += 1
        self.efficiency_sum = min(float_info.max, self.efficiency_sum + worth)

    def _remember(self, call: str, reading: Reading) -> None:
        self._readings[call] = reading
        if len(self._readings) > READINGS_MAX:
            self._readings.popitem(last=False)

    def _note(self, data: Data, tokens: int) -> None:
        """Keep a grant that was asked for with an id."""
        try:
            note = msgspec.json.decode(_private(data).get("reason") or "", type=GrantNote)
        except msgspec.DecodeError:
            return
        self._grants[note.grant] = GrantMade(note=note, tokens=tokens)
        if len(self._grants) > GRANTS_MAX:
            self._grants.popitem(last=False)


def erased_id(number: int) -> str:
    """What an agent is called whose name was erased."""
    return f"erased:{number}"


def to_float(ratio: Fraction) -> float:
    """The nearest float; the largest one for what is beyond it.

    >>> to_float(Fraction(1, 20))
    0.05
    """
    try:
        return float(ratio)
    except OverflowError:
        return float_info.max


def _to_fraction(value: float) -> Fraction:
    """A number exactly as it is written: 0.1 is a tenth."""
    return Fraction(str(value))


def _private(data: Data) -> Data:
    """The part of a fact that can be erased; empty when it was."""
    return data.get("private") or {}


FOLDS: dict[str, Callable[[Books, Data, dict[str, str]], None]] = {
    "allocation_put": Books._allocation_put,
    "allocation_resized": Books._allocation_resized,
    "allocation_parked": Books._allocation_parked,
    "allocation_resumed": Books._allocation_resumed,
    "allocation_ended": Books._allocation_ended,
    "transferred": Books._transferred,
    "status_changed": Books._status_changed,
    "name_erased": Books._name_erased,
    "held": Books._held,
    "extended": Books._extended,
    "settled": Books._settled,
    "released": Books._released,
    "ticket_ended": Books._released,
    "quarantine_closed": Books._quarantine_closed,
}
"""Kind of fact → what it does; other kinds mean nothing here."""
