"""Deciding on allocations and transfers (design.md §1, §2 E8, §3 "transfer")."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from fiscus.core.answers import allocation_answer, balance, no_room
from fiscus.core.checks import check, invalid, to_ms
from fiscus.core.commands import Allocate, Deallocate, Request, Transfer
from fiscus.core.events import AllocationEnded, AllocationResized, AllocationResumed, Private, Transferred
from fiscus.core.outcomes import AllocationAnswer, Refused, TransferAnswer
from fiscus.core.routes import (
    allocation_cell,
    carve,
    chain,
    close_ended_windows,
    has_lapsed,
    inactive,
    lacking_room,
)
from fiscus.core.scopes import find_account
from fiscus.core.state import ENDED, LIVE, NEVER, PARKED, Account, Budget, Cell, Draft
from fiscus.core.units import Unit


def carved_within(draft: Draft, account: Account) -> list[Cell]:
    """The allocation cells of an account and of all below it that have not ended, leaf first."""
    numbers = {account.number} if account.allocations else set()
    for number in draft.carved_since.get(account.number, ()):
        other = draft.accounts.find(number)
        if (
            other is not None
            and other.allocations
            and any(above.number == account.number for above in chain(draft, other))
        ):
            numbers.add(number)
    if draft.carved_below is not None:
        numbers.update(draft.carved_below(account.number))
    accounts = sorted((draft.accounts[number] for number in numbers), key=lambda found: (-found.depth, found.number))
    cells = [draft.cells[draft.budgets[budget].cell] for found in accounts for budget in found.allocations.values()]
    return [cell for cell in cells if cell.phase != ENDED]


def live_below(draft: Draft, account: Account, unit: Unit) -> tuple[list[Cell], list[Cell]]:
    """Allocations below an account in a unit: those held on it directly, and those carved from these (leaf first).

    What an allocation was carved from is told by its pins, not by the tree: an account between may have become
    allocated later.
    """
    direct: list[Cell] = []
    nested: list[Cell] = []
    for cell in carved_within(draft, account):
        if cell.unit != unit or cell.account == account.number:
            continue
        carved_from = [draft.cells[pin].account for pin in cell.pins if draft.cells[pin].allocated]
        is_nested = any(draft.accounts[number].depth > account.depth for number in carved_from)
        (nested if is_nested else direct).append(cell)
    return direct, nested


def carved_from(draft: Draft, cell: Cell) -> list[Cell]:
    """Everything carved from an allocation, and from that, leaf first."""
    found: list[Cell] = []
    for below in reversed(carved_within(draft, draft.accounts[cell.account])):
        if cell.number in below.pins or any(upper.number in below.pins for upper in found):
            found.append(below)
    return found[::-1]


def end_allocation(
    draft: Draft, cell: Cell, now: int, *, for_good: bool, shared: bool = False, actor: str = ""
) -> None:
    """End an allocation and, before it, all that was carved from it."""
    for below in carved_from(draft, cell):
        close_ended_windows(draft, below.pins, now)
        draft.emit(AllocationEnded(cell=below.number))
    close_ended_windows(draft, cell.pins, now)
    draft.emit(AllocationEnded(cell=cell.number, for_good=for_good, shared=shared, actor=actor))


def allocate(draft: Draft, request: Request, command: Allocate, now: int) -> AllocationAnswer | Refused:
    """Carve the wanted total out of the chain above, or give back what is free of it."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    if account.parent is None:
        return invalid("account", "has nothing above it to carve from")
    if request.scope is not None and account.name == request.scope:
        return Refused(code="forbidden", detail="this key may not raise its own account", field="account")
    refused = inactive(draft, chain(draft, account))
    if refused is not None:
        return refused
    valid_until = to_ms(command.valid_until) if command.valid_until is not None else None
    if valid_until is not None and valid_until <= now:
        return invalid("valid_until", "has passed already")
    number = account.allocations.get(command.unit)
    budget = draft.budgets[number] if number is not None else None
    version = budget.version if budget is not None else 0
    if command.if_version is not None and command.if_version != version:
        return Refused(
            code="precondition_failed",
            detail=f"the version is {version}, not {command.if_version}",
            field="if_version",
        )
    cell: Cell | Refused
    if budget is not None and has_lapsed(budget, now) and draft.cells[budget.cell].phase != ENDED:
        end_allocation(draft, draft.cells[budget.cell], now, for_good=True)
    if budget is not None and draft.cells[budget.cell].phase != ENDED:
        cell = draft.cells[budget.cell]
        return _resize(draft, request, command, account, cell, valid_until, now)
    cell = carve(
        draft,
        draft.budgets[number] if number is not None else None,
        account,
        command.unit,
        command.to,
        now,
        valid_until=valid_until,
        actor=request.actor,
        on_exhaustion=command.on_exhaustion,
        reason=command.reason,
        version=version + 1,
    )
    if isinstance(cell, Refused):
        return cell
    return allocation_answer(draft, account, command.unit, cell)


def _resize(
    draft: Draft,
    request: Request,
    command: Allocate,
    account: Account,
    cell: Cell,
    valid_until: int | None,
    now: int,
) -> AllocationAnswer | Refused:
    """Another size, and other terms: a new end shortens what was carved from it too."""
    rise = command.to - (cell.base if cell.phase == LIVE else cell.cover)
    if rise > 0:
        close_ended_windows(draft, cell.pins, now)
        lacking = lacking_room(draft, cell.pins, rise)
        if lacking:
            return no_room(draft, lacking)
    if command.to < cell.used and command.to < cell.base:
        seen = balance(draft, cell)
        return Refused(
            code="below_use",
            detail=f"{seen.account}: {cell.used} {seen.unit} are in use, more than {command.to}",
            binding=seen,
            requested=command.to,
        )
    budget = draft.budgets[cell.budget]
    same_terms = budget.valid_until == valid_until and budget.on_exhaustion == command.on_exhaustion
    if command.to != cell.base or not same_terms:
        ends = [draft.cells[pin].end for pin in cell.pins]
        end = min([*ends, valid_until if valid_until is not None else NEVER])
        shortened = [below.number for below in carved_from(draft, cell) if below.end > end]
        draft.emit(
            AllocationResized(
                cell=cell.number,
                size=command.to,
                account=account.number,
                on_exhaustion=None if same_terms else command.on_exhaustion,
                valid_until=None if same_terms else valid_until,
                end=end if end != cell.end else None,
                shortened=tuple(shortened) if end != cell.end else (),
                actor=request.actor,
                private=Private(reason=command.reason) if command.reason else None,
            )
        )
    if draft.cells[cell.number].phase == PARKED:
        draft.emit(AllocationResumed(cell=cell.number))
    return allocation_answer(draft, account, command.unit, draft.cells[cell.number])


def deallocate(draft: Draft, request: Request, command: Deallocate, now: int) -> AllocationAnswer | Refused:
    """End an allocation for good: the account draws on its parent again."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    number = account.allocations.get(command.unit)
    if number is None:
        return _unknown_allocation(account, command.unit)
    cell = draft.cells[draft.budgets[number].cell]
    end_allocation(draft, cell, now, for_good=True, shared=True, actor=request.actor)
    return AllocationAnswer(account=account.display_name, unit=command.unit, size=0, balance=None)


def _unknown_allocation(account: Account, unit: Unit) -> Refused:
    return Refused(
        code="unknown_allocation", detail=f"{account.display_name} has no allocation in {unit}", field="unit"
    )


class Paths(NamedTuple):
    """The live allocations of two accounts and what they are carved from, leaf first, below their common ancestor."""

    source_cells: list[Cell]
    target_cells: list[Cell]
    below_common: set[int]


def transfer(draft: Draft, request: Request, command: Transfer, now: int) -> TransferAnswer | Refused:
    """Move unused allocation between two accounts below a common ancestor; nothing at or above it changes.

    Refused when the donor lacks it, would fall below its ``min_reserve``, or has the higher priority; when a cell
    below the common ancestor on the target's side lacks room; when the two are held on different windows.
    """
    wrong = check(command)
    if wrong is not None:
        return wrong
    unit = command.unit
    source = find_account(draft, command.source, request.scope, "source")
    if isinstance(source, Refused):
        return source
    target = find_account(draft, command.target, request.scope, "target")
    if isinstance(target, Refused):
        return target
    paths = find_paths(draft, source, target, unit, now, never_uphill=True)
    if isinstance(paths, Refused):
        return paths
    refused = lacking_to_move(draft, paths, command.amount, source.min_reserve.get(unit, 0))
    if refused is not None:
        return refused
    move(draft, paths, source, target, command.amount, actor=request.actor, reason=command.reason)
    return TransferAnswer(
        source=allocation_answer(draft, source, unit, draft.cells[paths.source_cells[0].number]),
        target=allocation_answer(draft, target, unit, draft.cells[paths.target_cells[0].number]),
        amount=command.amount,
    )


def find_paths(
    draft: Draft, source: Account, target: Account, unit: Unit, now: int, *, never_uphill: bool = False
) -> Paths | Refused:
    """Between which cells something moves from one account to the other, brought up to date; or why nothing can."""
    source_chain, target_chain = chain(draft, source), chain(draft, target)
    refused = inactive(draft, (*source_chain, *target_chain))
    if refused is not None:
        return refused
    target_numbers = {account.number for account in target_chain}
    source_numbers = {account.number for account in source_chain}
    if target.number in source_numbers or source.number in target_numbers:
        return invalid("target", "stands above or below the source; use allocate")
    common = next((account for account in source_chain if account.number in target_numbers), None)
    if common is None:
        return invalid("target", "has no account in common with the source")
    refused = uphill(source, target) if never_uphill else None
    if refused is not None:
        return refused
    below_common = {account.number for account in (*source_chain, *target_chain)} - {
        account.number for account in chain(draft, common)
    }
    source_cells = _path_cells(draft, source, below_common, unit, now)
    if isinstance(source_cells, Refused):
        return source_cells
    target_cells = _path_cells(draft, target, below_common, unit, now)
    if isinstance(target_cells, Refused):
        return target_cells
    if _pins_above(draft, source_cells[-1], below_common) != _pins_above(draft, target_cells[-1], below_common):
        return Refused(
            code="other_windows",
            detail=f"{source.display_name} and {target.display_name} are held on different windows",
            field="target",
        )
    return Paths(source_cells, target_cells, below_common)


def uphill(source: Account, target: Account) -> Refused | None:
    """Nothing moves from a higher to a lower priority."""
    if source.priority <= target.priority:
        return None
    return Refused(
        code="lower_priority",
        detail=f"{source.display_name} has priority {source.priority}, more than {target.display_name}'s "
        f"{target.priority}",
        field="target",
    )


def lacking_to_move(draft: Draft, paths: Paths, amount: int, kept: int) -> Refused | None:
    """Why ``amount`` cannot move while the source keeps ``kept`` of what it has left."""
    source_cells, target_cells, below_common = paths
    lacking = [(cell, amount) for cell in source_cells[1:] if cell.free < 0]
    if amount + kept > source_cells[0].free or lacking:
        refused = no_room(draft, lacking or [(source_cells[0], amount + kept)])
        if lacking or not kept:
            return refused
        reserve = f"{kept} of the {amount + kept} are what it keeps (min_reserve, what it has borrowed)"
        return msgspec.structs.replace(refused, detail=f"{refused.detail}; {reserve}")
    changed = {cell.number for cell in target_cells}
    overdrawn = [(cell, amount) for cell in target_cells[1:] if cell.free < 0]
    if overdrawn:
        return no_room(draft, overdrawn)
    needs_room = [
        pin
        for cell in target_cells
        for pin in cell.pins
        if pin not in changed and draft.cells[pin].account in below_common
    ]
    lacking = lacking_room(draft, needs_room, amount)
    return no_room(draft, lacking) if lacking else None


def move(
    draft: Draft, paths: Paths, source: Account, target: Account, amount: int, *, actor: str = "", reason: str = ""
) -> None:
    """Record the move of an amount that there is room for."""
    draft.emit(
        Transferred(
            source=source.number,
            target=target.number,
            unit=paths.source_cells[0].unit,
            amount=amount,
            sizes=(
                *((cell.number, cell.base + amount) for cell in reversed(paths.target_cells)),
                *((cell.number, cell.base - amount) for cell in paths.source_cells),
            ),
            actor=actor,
            private=Private(reason=reason) if reason else None,
        )
    )


def _path_cells(draft: Draft, account: Account, below_common: set[int], unit: Unit, now: int) -> list[Cell] | Refused:
    """The live allocation of an account and what it is carved from, as far as that is below the common ancestor.

    The pins say what it is carved from, not the tree: an account between may have become allocated later.
    """
    if unit not in account.allocations:
        return _unknown_allocation(account, unit)
    cells: list[Cell] = []
    budget: Budget | None = draft.budgets[account.allocations[unit]]
    while budget is not None:
        cell = allocation_cell(draft, budget, now)
        if isinstance(cell, Refused):
            return cell
        assert cell.phase == LIVE, "an allocation cell that is handed out is live"
        cells.append(cell)
        above = (draft.cells[pin] for pin in cell.pins)
        budget = next(
            (draft.budgets[pin.budget] for pin in above if pin.allocated and pin.account in below_common), None
        )
    return cells


def _pins_above(draft: Draft, cell: Cell, below_common: set[int]) -> set[int]:
    """The pins of an allocation at or above the common ancestor."""
    return {pin for pin in cell.pins if draft.cells[pin].account not in below_common}
