"""What a ledger must be by what its callers were told: the journal is read again and folded from the start."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fiscus.core.commands import Adjust, Extend, Release, Reserve, Settle, Transfer
from fiscus.core.decide import new_draft
from fiscus.core.events import Adjusted, AnyEvent, Held, Settled, Transferred
from fiscus.core.fold import fold
from fiscus.core.outcomes import Refused
from fiscus.core.state import ENTITY_TYPES, KINDS, LIVE, Cell, Draft, Hold
from fiscus.stores import open_store
from fiscus.treasury.codec import decode_event
from fiscus.treasury.store import Store
from fiscus.treasury.verify import raised_by, verify
from tests.history.calls import Call

PAGE = 5_000
TENANT = "default"


@dataclass
class Judgement:
    """What was found; sentences about what does not hold, by kind."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    overspend: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    operations: int = 0
    entries: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.overspend or self.drift or self.faults)


@dataclass
class Expected:
    """A hold, or usage without one, as it must be by the answers."""

    account: str
    has_hold: bool
    reserved: int = 0
    booked: int = 0
    state: str = "held"


def judge(url: str, calls: Iterable[Call], *, others: tuple[str, ...] = ("probe-",)) -> Judgement:
    """Read the ledger that nodes have left, after all of them have stopped.

    Args:
        url: of the store.
        calls: every operation that was answered; none is under way any more.
        others: how ids begin that somebody else used, and that are only counted.
    """
    store = open_store(url)
    try:
        return _judge(store, list(calls), others)
    finally:
        store.close()


def _judge(store: Store, calls: list[Call], others: tuple[str, ...]) -> Judgement:
    found = Judgement(operations=len(calls))
    number = store.journal.tenants()[TENANT]
    draft, counts = _read(store, number, found)
    _compare_holds(draft, counts, calls, others, found)
    _compare_changes(draft, counts, calls, found)
    found.drift += drifted(store, number, draft)
    found.faults += [
        f"{fault.invariant} at {fault.seq}: {fault.detail}" for fault in verify(store, TENANT, from_start=True).faults
    ]
    return found


# -- the journal ----------------------------------------------------------------------------------------------------


def entries_of(store: Store, number: int) -> Iterator[tuple[int, int, AnyEvent]]:
    """Sequence, time (ms) and event of every entry."""
    after = 0
    while True:
        page = store.journal.entries(number, after, PAGE)
        for entry in page:
            after = entry.seq
            yield entry.seq, entry.at, decode_event(entry.body, entry.private)
        if len(page) < PAGE:
            return


def _read(store: Store, number: int, found: Judgement) -> tuple[Draft, Counter[tuple[str, str]]]:
    """Fold the journal; counts by kind and id; E1 and E2 at every entry."""
    draft = new_draft()
    counts: Counter[tuple[str, str]] = Counter()
    for seq, at, event in entries_of(store, number):
        raised = list(raised_by(draft, event))
        draft.now = at
        fold(draft, event, at)
        draft.alerts.clear()
        touched = {key for table, key, _ in draft.commit() if table is draft.cells}
        found.overspend += beyond(draft, touched, raised, seq)
        found.entries += 1
        if isinstance(event, Held):
            counts["held", event.id] += 1
        elif isinstance(event, Settled) and event.account is not None:
            counts["usage", event.id] += 1
        elif isinstance(event, Adjusted):
            counts["adjusted", event.id] += 1
        elif isinstance(event, Transferred) and event.private is not None:
            counts["transferred", event.private.reason or ""] += 1
    return draft, counts


def beyond(draft: Draft, touched: Iterable[int], raised: Iterable[int], seq: int) -> Iterator[str]:
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


def drifted(store: Store, number: int, draft: Draft) -> list[str]:
    """Cells of the views that are not what the fold says, and those that are missing."""
    watermark, head = store.views.watermark(number), store.journal.head(number)
    if watermark is None or head is None or watermark.seq != head.seq:
        return [f"the views are as of {watermark and watermark.seq}, the journal ends at {head and head.seq}"]
    wrong = []
    missing = set(draft.cells)
    with store.views.sealed(number) as (_, rows):
        for kind_number, key, body in rows:
            if KINDS[kind_number] != "cell":
                continue
            missing.discard(int(key))
            cell = draft.cells.get(int(key))
            if cell is not None:
                cell.stamp = 0
            if msgspec.json.decode(body, type=ENTITY_TYPES["cell"]) != cell:
                wrong.append(f"the views say {body!r}, the fold {cell}")
    return wrong + [f"the views lack {draft.cells[key]}" for key in missing]


# -- what the callers were told ---------------------------------------------------------------------------------------


def expectations(calls: Iterable[Call]) -> tuple[dict[str, Expected], set[str]]:
    """Each call of a model that must be on the books; and ids whose last word was a refusal."""
    expected: dict[str, Expected] = {}
    refused: set[str] = set()
    for call in calls:
        command = call.command
        if isinstance(call.outcome, Refused):
            if isinstance(command, Reserve):
                refused.add(command.id)
        elif isinstance(command, Reserve):
            expected[command.id] = Expected(command.account, True, command.amounts["tokens"])
        elif isinstance(command, Settle) and command.account is not None:
            expected[command.id] = Expected(command.account, False, 0, command.total["tokens"], "settled")
        elif isinstance(command, Settle):
            one = expected[command.id]
            one.booked, one.state = command.total["tokens"], "settled" if command.final else one.state
        elif isinstance(command, Extend):
            one = expected[command.id]
            one.reserved = max(one.reserved, command.to["tokens"])
        elif isinstance(command, Release):
            expected[command.id].state = "released"
    return expected, refused


def _compare_holds(
    draft: Draft, counts: Counter[tuple[str, str]], calls: list[Call], others: tuple[str, ...], found: Judgement
) -> None:
    expected, refused = expectations(calls)
    for id, one in expected.items():
        times = counts["held" if one.has_hold else "usage", id]
        hold: Hold | None = draft.holds.get(id)
        if times > 1:
            found.doubled.append(f"{id} is in the journal {times} times")
        if times == 0 or hold is None:
            found.lost.append(f"{id} was answered and is not in the journal: {one}")
            continue
        booked, reserved = hold.booked.get("tokens", 0), hold.reserved.get("tokens", 0)
        if booked < one.booked or reserved < one.reserved or (hold.state == "held" and one.state != "held"):
            found.lost.append(f"{id} was answered as {one} and is {hold}")
        elif booked > one.booked or reserved > one.reserved or hold.state != one.state:
            found.doubled.append(f"{id} was answered as {one} and is {hold}")
    for kind, id in counts:
        if kind not in ("held", "usage") or id in expected or id.startswith(others):
            continue
        found.doubled.append(f"{id} was {'refused' if id in refused else 'never asked for'} and is in the journal")
    sums: Counter[str] = Counter()
    for one in expected.values():
        sums[one.account] += one.booked
    for account, spent in sums.items():
        cell = cell_of(draft, account, "tokens-lifetime")
        if cell is None:
            continue
        booked = cell.covered + cell.uncovered
        if booked != spent:
            (found.lost if booked < spent else found.doubled).append(
                f"{account} has spent {spent} and is charged {booked}"
            )


def cell_of(draft: Draft, account: str, budget: str) -> Cell | None:
    """The window of a budget that is touched last."""
    number = draft.names.find(account)
    if number is None:
        return None
    for one in (draft.budgets[key] for key in draft.accounts[number].budgets):
        if one.name == budget and one.cell:
            return draft.cells[one.cell]
    return None


def _compare_changes(draft: Draft, counts: Counter[tuple[str, str]], calls: list[Call], found: Judgement) -> None:
    raised: Counter[tuple[str, str]] = Counter()
    moved: dict[str, int] = defaultdict(int)
    for call in calls:
        command: Any = call.command
        if isinstance(call.outcome, Refused) or not isinstance(command, Adjust | Transfer):
            continue
        is_adjustment = isinstance(command, Adjust)
        mark = ("adjusted", command.id) if is_adjustment else ("transferred", command.reason)
        if counts[mark] != 1:
            (found.doubled if counts[mark] else found.lost).append(f"{mark} is in the journal {counts[mark]} times")
        if is_adjustment:
            raised[command.account, command.budget] += command.amount
        else:
            moved[command.source] -= command.amount
            moved[command.target] += command.amount
    for (account, budget), amount in raised.items():
        cell = cell_of(draft, account, budget)
        if cell is None or cell.raised != amount:
            found.faults.append(f"{account} was raised by {amount}: {cell}")
    total = sum(moved.values())
    assert total == 0
    from tests.faults.load import POOL

    for account, amount in moved.items():
        cell = cell_of(draft, account, "allocation-tokens")
        if cell is None or cell.limit != POOL + amount:
            found.faults.append(f"E8: {account} should have {POOL + amount}: {cell}")
