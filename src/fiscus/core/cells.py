"""What happens to the balance of a window, and to every window above it that an allocation is held on.

Only ``fold`` calls the functions that change something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fiscus.core.state import ENDED, LIVE, NEVER, Budget, Cell, Draft

NOTHING_MOVED: Mapping[int, int] = {}


def threshold_reached(cell: Cell, budget: Budget, counted: int) -> int:
    """The highest threshold (percent) that ``counted`` reaches in this window; 0 if none."""
    limit = cell.limit
    return max((percent for percent in budget.thresholds if counted >= threshold_at(percent, limit)), default=0)


def threshold_at(percent: int, limit: int) -> int:
    """The use at which a threshold fires: the smallest integer ≥ percent of the limit, and not 0.

    >>> threshold_at(75, 9), threshold_at(50, 0)
    (7, 1)
    """
    return max(1, -(-percent * limit // 100))


def set_alert(cell: Cell, budget: Budget) -> None:
    """Work out at which use the next threshold fires."""
    limit = cell.limit
    cell.alert_at = min(
        (threshold_at(percent, limit) for percent in budget.thresholds if percent > cell.fired), default=NEVER
    )


def set_limit(draft: Draft, cell: Cell, limit_before: int) -> None:
    """After base or adjustments of a cell changed: work out what is free, and arm the thresholds anew if it rose."""
    budget = draft.budgets[cell.budget]
    limit = cell.limit
    cell.free = limit - cell.used
    if limit > limit_before:
        cell.fired = min(cell.fired, threshold_reached(cell, budget, cell.covered + cell.quarantined + cell.uncovered))
    set_alert(cell, budget)


def lapse(cell: Cell) -> None:
    """What ended adjustments still cover shrinks with the use above the rest of the limit, and never grows."""
    rest = max(0, cell.base + cell.carried + cell.raised - cell.lowered)
    cell.lapsing = min(cell.lapsing, max(0, cell.used - rest))
    cell.free = rest + cell.lapsing - cell.used


def post(
    draft: Draft,
    numbers: Iterable[int],
    covered: int,
    held: int,
    quarantined: int,
    uncovered: int,
    moves: Mapping[int, int] = NOTHING_MOVED,
    *,
    leaving: bool = False,
) -> None:
    """Add to P, H, Q and O of cells, and to every cell above one as an allocation is seen from there.

    ``leaving``: what pinned the cells pins them no longer.
    """
    cells, stamp = draft.cells, draft.stamp
    counted_rise = covered + quarantined + uncovered
    taken = counted_rise + held
    for number in numbers:
        cell = cells[number]
        if cell.stamp != stamp:
            cell = draft.edit(cells, number)
        cell.covered += covered
        cell.held += held
        cell.free -= taken
        if quarantined:
            cell.quarantined += quarantined
        if uncovered:
            cell.uncovered += uncovered
            if cell.uncovered < 0:
                _take_back_debt(draft, cell)
        if cell.lapsing:
            lapse(cell)
            set_alert(cell, draft.budgets[cell.budget])
        if counted_rise > 0 and cell.covered + cell.quarantined + cell.uncovered >= cell.alert_at:
            draft.alerts.append(number)
        if cell.allocated:
            show(draft, cell, moves)
        if leaving:
            if cell.phase == ENDED:
                unpin(draft, number)
            else:
                cell.open -= 1


def _take_back_debt(draft: Draft, cell: Cell) -> None:
    """What was carried on as debt and turns out not to be one leaves the window that it was carried to."""
    too_much = -cell.uncovered
    cell.uncovered = 0
    cell.free -= too_much
    heir = draft.edit(draft.cells, cell.heir)
    back = min(too_much, heir.debt)
    heir.debt -= back
    if back:
        post(draft, (heir.number,), 0, 0, 0, -back)


def show(draft: Draft, cell: Cell, moves: Mapping[int, int] = NOTHING_MOVED) -> None:
    """Bring the cells above an allocation in line with it (design.md §1, the three equations)."""
    if cell.phase != LIVE:
        cell.cover = min(cell.cover, cell.used)
    spent = cell.covered + cell.uncovered
    shown_covered = min(cell.cover, spent)
    shown_held = cell.cover - shown_covered
    shown_uncovered = spent - shown_covered
    covered = shown_covered - cell.shown_covered
    held = shown_held - cell.shown_held
    uncovered = shown_uncovered - cell.shown_uncovered
    if not (covered or held or uncovered):
        return
    cell.shown_covered = shown_covered
    cell.shown_held = shown_held
    cell.shown_uncovered = shown_uncovered
    for pin in cell.pins:
        if pin in moves:
            rise = covered + uncovered
            if rise > 0:
                post(draft, (moves[pin],), 0, 0, 0, rise, moves)
            continue
        post(draft, (pin,), covered, held, 0, uncovered, moves)
        if cell.phase == LIVE and held:
            draft.edit(draft.cells, pin).standing += held


def unpin(draft: Draft, number: int) -> None:
    """One hold or allocation less pins this cell; an ended allocation that nothing pins leaves the cells above."""
    cell = draft.edit(draft.cells, number)
    cell.open -= 1
    if cell.open == 0 and cell.phase == ENDED:
        for pin in cell.pins:
            unpin(draft, pin)


def set_phase(draft: Draft, cell: Cell, phase: int) -> None:
    """Park, resume or end an allocation. What live allocations hold is counted apart (*exceeded*, not *busy*)."""
    if cell.phase == LIVE and phase != LIVE:
        for pin in cell.pins:
            draft.edit(draft.cells, pin).standing -= cell.shown_held
    was = cell.phase
    cell.phase = phase
    if phase == LIVE:
        for pin in cell.pins:
            draft.edit(draft.cells, pin).standing += cell.shown_held
        cell.cover = cell.base
    show(draft, cell)
    if phase == ENDED and was != ENDED and cell.open == 0:
        for pin in cell.pins:
            unpin(draft, pin)


def resize(draft: Draft, cell: Cell, size: int) -> None:
    """Give an allocation another size; the cells above follow."""
    limit_before = cell.limit
    cell.base = size
    if cell.phase == LIVE:
        cell.cover = size
    set_limit(draft, cell, limit_before)
    show(draft, cell)
