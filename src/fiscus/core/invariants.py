"""What must always hold, as functions of a state (design.md §2). Each yields sentences about what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from fiscus.core.state import ENDED, LIVE, Cell, Draft, Hold, Loan


def broken(draft: Draft) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with the entities in memory, as (id of the invariant, sentence)."""
    for cell in draft.cells.values():
        yield from broken_cell(cell)
    for hold in draft.holds.values():
        yield from broken_hold(hold)
    for loan in draft.loans.values():
        yield from broken_loan(draft, loan)
    yield from broken_sums(draft)
    yield from broken_lines(draft)
    yield from broken_overrides(draft)


def broken_loan(draft: Draft, loan: Loan) -> Iterator[tuple[str, str]]:
    """E8 of one loan: nobody gets back more than it lent, and those that it concerns know of it while it stands."""
    lent, returned = dict(loan.parts), dict(loan.returned)
    for number, amount in returned.items():
        if not 0 < amount <= lent.get(number, 0):
            yield "E8", f"loan {loan.id}: {amount} of {lent.get(number, 0)} went back to account {number}"
    for number in (loan.account, *lent):
        if (loan.id in draft.accounts[number].loans) != loan.active:
            yield "E8", f"loan {loan.id}: account {number} {'does not know' if loan.active else 'still has'} it"


def broken_cell(cell: Cell) -> Iterator[tuple[str, str]]:
    """E1, E2 and E13 of one cell by itself."""
    name = f"cell {cell.number}"
    for field in ("covered", "held", "quarantined", "uncovered"):
        value = getattr(cell, field)
        if value < 0:
            yield "E1", f"{name}: {field} is {value}"
    if cell.free != cell.limit - cell.used:
        yield "E13", f"{name}: free is {cell.free}, not {cell.limit - cell.used}"
    if cell.enforce and not cell.forced and cell.phase == LIVE:
        held = cell.covered + cell.held + cell.quarantined
        if held > cell.limit:
            yield "E2", f"{name}: P + H + Q = {held} > L = {cell.limit}"


def broken_hold(hold: Hold) -> Iterator[tuple[str, str]]:
    """E5 of one hold: reserved = covered + returned + remaining with each part ≥ 0; booked ≥ covered."""
    for unit, covered in hold.covered.items():
        reserved, booked = hold.reserved.get(unit, 0), hold.booked.get(unit, 0)
        if not 0 <= covered <= reserved:
            yield "E5", f"hold {hold.id}: covered {covered} of {reserved} {unit}"
        if booked < covered:
            yield "E5", f"hold {hold.id}: booked {booked} < covered {covered} {unit}"


def broken_lines(draft: Draft) -> Iterator[tuple[str, str]]:
    """E3 of those that wait: each stands once, in the line of the cell that its ticket names, in the order of turns."""
    lined_up = [id for ids in draft.waiting.values() for id in ids]
    waiting = {hold.id for hold in draft.holds.values() if hold.state == "waiting"}
    if len(lined_up) != len(set(lined_up)) or not waiting <= set(lined_up):
        yield "E3", f"{sorted(waiting)} wait, and {lined_up} stand in line"
    for number, ids in draft.waiting.items():
        tickets = [draft.holds[id].ticket for id in ids]
        turns = [(ticket.turn, ticket.order) for ticket in tickets if ticket is not None and ticket.cell == number]
        if len(turns) != len(ids) or turns != sorted(turns):
            yield "E3", f"cell {number}: {ids} do not stand in the order of their turns"


def broken_overrides(draft: Draft) -> Iterator[tuple[str, str]]:
    """E13 of overrides: what was granted is an active adjustment of that amount, and budgets count the pending ones."""
    pending = Counter(override.budget for override in draft.overrides.values() if override.state == "pending")
    for number, budget in draft.budgets.items():
        if budget.asking != pending[number]:
            yield "E13", f"budget {number}: asking is {budget.asking}, and {pending[number]} overrides are pending"
    for override in draft.overrides.values():
        adjustment = draft.adjustments.get(override.id)
        granted = adjustment.amount if adjustment is not None and adjustment.active else 0
        if granted != (override.amount if override.state == "approved" else 0):
            yield "E13", f"override {override.id} is {override.state}, its adjustment adds {granted}"


def broken_sums(draft: Draft) -> Iterator[tuple[str, str]]:
    """E4: H and Q are what open holds and allocations pin; E13: what adjustments say."""
    held: Counter[int] = Counter()
    quarantined: Counter[int] = Counter()
    opened: Counter[int] = Counter()
    standing: Counter[int] = Counter()
    for hold in draft.holds.values():
        if not hold.open:
            continue
        for unit, numbers in hold.cells.items():
            rest = hold.reserved.get(unit, 0) - hold.covered.get(unit, 0)
            for number in numbers:
                opened[number] += 1
                (held if hold.state == "held" else quarantined)[number] += rest
    for cell in draft.cells.values():
        for pin in cell.pins:
            held[pin] += cell.shown_held
            if cell.phase != ENDED or cell.open:
                opened[pin] += 1
            if cell.phase == LIVE:
                standing[pin] += cell.shown_held
    raised, lowered, overridden = _adjusted(draft)
    for number, cell in draft.cells.items():
        for id, field, expected in (
            ("E4", "held", held[number]),
            ("E4", "quarantined", quarantined[number]),
            ("E4", "standing", standing[number]),
            ("E4", "open", opened[number]),
            ("E13", "raised", raised[number]),
            ("E13", "lowered", lowered[number]),
            ("E13", "overridden", overridden[number]),
        ):
            if getattr(cell, field) != expected:
                yield id, f"cell {number}: {field} is {getattr(cell, field)}, its parts add up to {expected}"


def _adjusted(draft: Draft) -> tuple[Counter[int], Counter[int], Counter[int]]:
    raised: Counter[int] = Counter()
    lowered: Counter[int] = Counter()
    overridden: Counter[int] = Counter()
    for adjustment in draft.adjustments.values():
        if adjustment.active:
            if adjustment.amount > 0:
                raised[adjustment.cell] += adjustment.amount
                overridden[adjustment.cell] += adjustment.amount if adjustment.override else 0
            else:
                lowered[adjustment.cell] -= adjustment.amount
    return raised, lowered, overridden


def broken_admission(draft: Draft, numbers: Iterable[int]) -> Iterator[tuple[str, str]]:
    """E2 right after a reserve, extend, allocate or transfer: no cell whose use it raised is overdrawn."""
    for number in numbers:
        cell = draft.cells[number]
        if cell.enforce and cell.free < 0 and not draft.budgets[cell.budget].removed:
            yield "E2", f"cell {number}: overdrawn by {-cell.free} after an admission"
