"""Whether what many callers saw can have happened: in the order of the journal, and in the order of real time.

The journal is folded entry by entry. At the place of each operation that took effect the pure core is asked again:
it must give the very answer that the caller got, and the entry that stands there. A refusal leaves no entry, nor does a
command that changes nothing; it must be the core's answer at some point between call and answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from fiscus.core.checks import to_datetime
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Extend,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.decide import decide, is_valid, new_draft
from fiscus.core.events import AnyEvent
from fiscus.core.fold import fold
from fiscus.core.outcomes import Balance, Refused
from fiscus.core.state import LIVE, Cell, Draft
from fiscus.treasury.codec import decode_event, encode_event
from fiscus.treasury.store import Store
from fiscus.treasury.verify import raised_by
from tests.history.calls import Call

TENANT = "default"
SWEEP_EVERY = 20


@dataclass
class Placed:
    """A call that took effect at an entry, or that repeated one that had."""

    call: Call
    seq: int
    repeated: bool = False


@dataclass
class History:
    """The journal and the calls, matched. ``traceless``: refused, or answered with what was so already."""

    entries: list[tuple[int, AnyEvent, bytes]] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    traceless: list[Call] = field(default_factory=list)

    def at(self, seq: int) -> int:
        """When an entry was written, ms; after the last one: as the last one."""
        return self.entries[min(seq, len(self.entries)) - 1][0]


def gather(store: Store, calls: Sequence[Call]) -> History:
    """Find the entry of each call that was not refused.

    Raises:
        AssertionError: an answered call has no entry.
    """
    history = History()
    number = store.journal.tenants()[TENANT]
    places: dict[Any, list[int]] = defaultdict(list)
    for stored in store.journal.entries(number, 0, 10**9):
        event = decode_event(stored.body, stored.private)
        history.entries.append((stored.at, event, stored.body))
        places[_trace(event)].append(stored.seq)
    first: dict[str, int] = {}
    for call in sorted(calls, key=lambda call: call.sent_ns):
        if isinstance(call.outcome, Refused):
            history.traceless.append(call)
            continue
        mark = _mark(call.command)
        left = places[mark]
        if isinstance(call.command, SetStatus | Allocate) and not left:
            history.traceless.append(call)
            continue
        if isinstance(call.command, Reserve | Settle) and call.command.id.startswith("race-"):
            # Several callers with one id: there is one entry, whoever was first.
            assert len(left) == 1, f"{mark} stands in the journal {len(left)} times"
            history.placed.append(Placed(call, left[0], repeated=True))
            continue
        assert left, f"answered and not in the journal: {call}"
        seq = left.pop(0)
        assert first.setdefault(repr((mark, seq)), seq) == seq
        history.placed.append(Placed(call, seq))
    left_over = [mark for mark, seqs in places.items() if mark is not None and seqs and not _is_race(mark)]
    assert left_over == [], "in the journal and never asked for"
    return history


def _is_race(mark: Any) -> bool:
    return str(mark[1]).startswith("race-")


def _mark(command: Any) -> Any:
    """By what the entry of a command is known."""
    if isinstance(command, Reserve):
        return "Held", command.id
    if isinstance(command, Extend):
        return "Extended", command.id
    if isinstance(command, Settle):
        return "Settled", command.id, command.total["tokens"], command.final
    if isinstance(command, Release):
        return "Released", command.id
    if isinstance(command, Adjust):
        return "Adjusted", command.id
    assert isinstance(command, Transfer | SetStatus | Allocate)
    return "reason", command.reason


def _trace(event: AnyEvent) -> Any:
    """The same of an entry; None for what happens by itself."""
    kind = type(event).__name__
    if kind in ("Held", "Extended", "Released", "Adjusted"):
        return kind, event.id  # type: ignore[union-attr]
    if kind == "Settled":
        return kind, event.id, event.total["tokens"], event.final  # type: ignore[union-attr]
    private = getattr(event, "private", None)
    if private is not None and private.reason:
        return "reason", private.reason
    return None


# -- the order of real time ---------------------------------------------------------------------------------------


def broken_order(history: History) -> list[str]:
    """Pairs of calls of which the first had ended before the second began, and which the journal has the other way."""
    ended = sorted((placed.call.answered_ns, placed.seq) for placed in history.placed)
    begun = sorted((placed.call.sent_ns, placed.seq, placed) for placed in history.placed if not placed.repeated)
    wrong, highest, index = [], 0, 0
    for sent_ns, seq, placed in begun:
        while index < len(ended) and ended[index][0] < sent_ns:
            highest = max(highest, ended[index][1])
            index += 1
        if seq < highest:
            wrong.append(f"{placed.call.command} stands at {seq}, though the call at {highest} had been answered")
    return wrong


def intervals(history: History) -> Iterator[tuple[Call, int, int]]:
    """Each call without an entry, with the first and the last state (by sequence) at which it can have been decided."""
    ended = sorted((placed.call.answered_ns, placed.seq) for placed in history.placed)
    answered = [at for at, _ in ended]
    highest = [0]
    for _, seq in ended:
        highest.append(max(highest[-1], seq))
    begun = sorted((placed.call.sent_ns, placed.seq) for placed in history.placed if not placed.repeated)
    sent = [at for at, _ in begun]
    lowest = [len(history.entries) + 1]
    for _, seq in reversed(begun):
        lowest.append(min(lowest[-1], seq))
    lowest.reverse()
    for call in history.traceless:
        yield call, highest[bisect_left(answered, call.sent_ns)], lowest[bisect_left(sent, call.answered_ns)] - 1


# -- the order of the journal -------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What does not fit."""

    answers: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    admitted: int = 0
    justified: int = 0


def replay(history: History) -> Findings:
    """Fold the journal and ask the core again at every place."""
    findings = Findings()
    draft = new_draft()
    at_place: dict[int, list[Placed]] = defaultdict(list)
    for placed in history.placed:
        at_place[placed.seq].append(placed)
    opening: dict[int, list[tuple[Call, int]]] = defaultdict(list)
    for call, first, last in intervals(history):
        opening[first].append((call, last))
    waiting: list[tuple[Call, int]] = []
    for seq, (at, event, body) in enumerate(history.entries, start=1):
        waiting = _judge(history, draft, seq - 1, [*waiting, *opening.pop(seq - 1, ())], findings)
        for placed in at_place.get(seq, ()):
            _ask_again(draft, placed, at, body, findings)
        raised = list(raised_by(draft, event))
        draft.now = at
        fold(draft, event, at)
        touched = {key for table, key, _ in draft.commit() if table is draft.cells}
        if seq % SWEEP_EVERY == 0:
            draft.sweep(partial(is_valid, draft))  # else each question would pass by all that have gone by
        findings.admitted += bool(raised)
        findings.limits += _over(draft, touched, raised, seq)
    waiting = _judge(history, draft, len(history.entries), [*waiting, *opening.pop(len(history.entries), ())], findings)
    findings.refusals += [f"nothing justifies {call}" for call, _ in waiting]
    assert not opening
    return findings


def _over(draft: Draft, touched: set[int], raised: list[int], seq: int) -> Iterator[str]:
    """E1 and E2 after an entry, by the words of the design."""
    for number in touched:
        cell: Cell = draft.cells[number]
        parts = cell.covered, cell.held, cell.quarantined, cell.uncovered
        if min(parts) < 0:
            yield f"E1 at {seq}: {cell}"
        if cell.enforce and cell.phase == LIVE and not cell.forced and sum(parts[:3]) > cell.limit:
            yield f"E2 at {seq}: P + H + Q > L: {cell}"
    for number in raised:
        cell = draft.cells[number]
        if cell.enforce and cell.covered + cell.held + cell.quarantined + cell.uncovered > cell.limit:
            yield f"E2 at {seq}: an admission made a deficit: {cell}"


def _outcome(draft: Draft, call: Call, now: int) -> tuple[Any, list[AnyEvent]]:
    """What the core answers in this state, which stays as it is."""
    mark = draft.mark()
    draft.isolate()
    outcome = decide(draft, Request(command=call.command), now)
    events = list(draft.events[mark[1] :])
    draft.rollback(mark)
    return outcome, events


def _ask_again(draft: Draft, placed: Placed, at: int, body: bytes, findings: Findings) -> None:
    """The core, in the state before the entry, gives the answer that the caller got, and this entry."""
    outcome, events = _outcome(draft, placed.call, at)
    if placed.repeated and isinstance(placed.call.command, Settle):
        # The meter of a call that several callers settle alike shows the same to all of them.
        outcome = msgspec.structs.replace(outcome, expires_at=placed.call.outcome.expires_at)
    if outcome != placed.call.outcome:
        findings.answers.append(f"{placed.call} but the journal at {placed.seq} says {outcome}")
    elif not any(_body(draft, event) == _without_commitment(body) for event in events):
        findings.answers.append(f"{placed.call} is not what stands at {placed.seq}: {body!r}")


def _body(draft: Draft, event: AnyEvent) -> Any:
    encoded, _ = encode_event(event, lambda _: 0, lambda: b"")
    return _without_commitment(encoded)


def _without_commitment(body: bytes) -> Any:
    fields = msgspec.json.decode(body)
    fields.pop("commitment", None)
    return fields


def _judge(
    history: History, draft: Draft, seq: int, waiting: list[tuple[Call, int]], findings: Findings
) -> list[tuple[Call, int]]:
    """Which calls without an entry this state justifies; those that no later state can justify are findings."""
    still: list[tuple[Call, int]] = []
    times = sorted({history.at(max(seq, 1)), history.at(seq + 1)})
    for call, last in waiting:
        if _justifies(draft, call, times):
            findings.justified += 1
        elif seq >= last:
            findings.refusals.append(f"nothing justifies {call} (looked up to entry {seq})")
        else:
            still.append((call, last))
    return still


def _justifies(draft: Draft, call: Call, times: list[int]) -> bool:
    binding = call.outcome.binding if isinstance(call.outcome, Refused) else None
    if binding is not None:
        if _fits(call.outcome, binding):
            return False
        if not _can_bind(draft, binding, times):
            return False
        start_ms = int(binding.window_start.timestamp() * 1_000)
        if times[0] < start_ms < times[-1]:
            times = [*times, start_ms]
    return any(_leaves_no_trace(draft, call, now) for now in times)


def _fits(outcome: Any, binding: Balance) -> bool:
    """Whether what was refused fits by the very figures that the refusal names."""
    use = binding.covered + binding.held + binding.quarantined + binding.uncovered
    if outcome.requested is None:
        return False
    if outcome.code == "below_use":
        return outcome.requested >= use  # what was asked for is a limit, not an amount
    return outcome.requested <= binding.limit - use


def _leaves_no_trace(draft: Draft, call: Call, now: int) -> bool:
    """Whether the core gives this answer in this state, and writes nothing for it."""
    outcome, events = _outcome(draft, call, now)
    return outcome == call.outcome and (isinstance(outcome, Refused) or not events)


def _can_bind(draft: Draft, binding: Balance, times: list[int]) -> bool:
    """A quick look whether the cell has these figures; other windows than the running one are left to the core."""
    number = draft.names.find(binding.account)
    if number is None:
        return False
    for budget in (draft.budgets[found] for found in draft.accounts[number].budgets):
        if budget.name == binding.budget:
            if not budget.cell:
                return True
            cell = draft.cells[budget.cell]
            if binding.window_start != to_datetime(cell.start):
                return True  # a hold stays in the window that it was made in
            figures = cell.covered, cell.held, cell.quarantined, cell.uncovered
            wanted = binding.covered, binding.held, binding.quarantined, binding.uncovered
            return cell.end <= times[-1] or figures == wanted
    return False


# -- without the journal ------------------------------------------------------------------------------------------


def most_in_use(calls: Sequence[Call], account: str) -> int:
    """The most that was certainly held or spent at once of an account, by what its callers saw alone.

    A hold counts from its answer on; what it gives back counts until the settlement or release is sent.
    """
    held: dict[str, int] = {}
    changes: list[tuple[int, int]] = []
    for call in sorted(calls, key=lambda call: call.sent_ns):
        command = call.command
        if isinstance(call.outcome, Refused):
            continue
        if isinstance(command, Reserve) and command.account == account:
            held[command.id] = command.amounts["tokens"]
            changes.append((call.answered_ns, held[command.id]))
        elif isinstance(command, Settle | Release) and command.id in held:
            total = command.total["tokens"] if isinstance(command, Settle) else 0
            changes.append((call.sent_ns, total - held[command.id]))
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
