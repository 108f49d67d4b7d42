"""Where a call is charged: the chain of an account, its running windows, and what is carved out of whom."""

from __future__ import annotations

from collections.abc import Iterable

from fiscus.core.answers import balance, no_room
from fiscus.core.commands import CHAIN_LENGTH_MAX, ExhaustionPolicy
from fiscus.core.events import AllocationPut, AllocationResumed, Private, WindowOpened
from fiscus.core.outcomes import Refused
from fiscus.core.state import ENDED, LIVE, NEVER, PARKED, Account, Budget, Cell, Draft, Route
from fiscus.core.units import AMOUNT_MAX, Unit
from fiscus.core.windows import parse_period, window_at, windows_between


def chain(draft: Draft, account: Account) -> list[Account]:
    """The account and everything above it, leaf first, at most 16."""
    accounts = [account]
    while account.parent is not None:
        account = draft.accounts[account.parent]
        accounts.append(account)
    assert len(accounts) <= CHAIN_LENGTH_MAX, "a chain has a bound"
    return accounts


def running_cell(draft: Draft, budget: Budget, now: int) -> Cell:
    """The running window of a plain budget, opened now if it was not."""
    if budget.cell:
        cell = draft.cells[budget.cell]
        if now < cell.end:
            return cell
    return open_window(draft, budget, now)


def open_window(draft: Draft, budget: Budget, now: int) -> Cell:
    """Open the window that contains ``now``, with what is carried from the one before over those that were skipped."""
    number = draft.cells_opened + 1
    if not budget.cell:
        period = parse_period(budget.period)
        window = window_at(period, budget.zone, now, budget.anchor)
        first = window_at(period, budget.zone, budget.anchor, budget.anchor)
        carried = 0
        if budget.carry_over == "unused" and first.end_ms <= window.start_ms:
            skipped = windows_between(period, budget.zone, first.end_ms, window.start_ms, budget.anchor)
            left = budget.limit if budget.carry_max is None else min(budget.limit, budget.carry_max)
            carried = min(carried_over(budget, left, skipped), AMOUNT_MAX - budget.limit)
        draft.emit(
            WindowOpened(
                cell=number,
                budget=budget.number,
                start=window.start_ms,
                end=window.end_ms,
                base=budget.limit,
                period=budget.period,
                zone=budget.zone,
                carried=carried,
            )
        )
        return draft.cells[number]
    previous = draft.cells[budget.cell]
    period_text, zone, anchor = budget.period, budget.zone, budget.anchor
    if budget.next_period is not None and budget.next_zone is not None:
        period_text, zone, anchor = budget.next_period, budget.next_zone, previous.end
    period = parse_period(period_text)
    window = window_at(period, zone, now, anchor)
    start = max(window.start_ms, previous.end)
    skipped = 0
    if previous.end < window.start_ms:
        skipped = windows_between(period, zone, previous.end, window.start_ms, anchor)
        if window_at(period, zone, previous.end, anchor).start_ms != previous.end:
            skipped += 1
    left, debt = left_and_debt(budget, previous)
    carried = carried_over(budget, left - debt, skipped)
    draft.emit(
        WindowOpened(
            cell=number,
            budget=budget.number,
            start=start,
            end=window.end_ms,
            base=budget.limit,
            period=period_text,
            zone=zone,
            carried=min(max(0, carried), AMOUNT_MAX - budget.limit),
            debt=max(0, -carried),
            previous=previous.number,
            carried_out=left,
            debt_out=debt,
        )
    )
    return draft.cells[number]


def left_and_debt(budget: Budget, cell: Cell) -> tuple[int, int]:
    """What a window that ended passes on: unused base and carry (never an adjustment), or what is overdrawn."""
    used = cell.used
    left = max(0, cell.base + cell.carried - cell.lowered - used) if budget.carry_over == "unused" else 0
    if budget.carry_max is not None:
        left = min(left, budget.carry_max)
    debt = min(cell.uncovered, max(0, used - cell.limit)) if budget.carry_debt else 0
    return left, debt


def carried_over(budget: Budget, amount: int, skipped: int) -> int:
    """What arrives after ``skipped`` unused windows, in closed form; negative is debt."""
    limit, carries = budget.limit, budget.carry_over == "unused"
    if amount < 0:
        if limit == 0 or skipped * limit <= -amount:
            return amount + skipped * limit
        windows_in_debt = -(amount // limit)
        amount += windows_in_debt * limit
        skipped -= windows_in_debt
        amount = amount if carries else 0
        if budget.carry_max is not None:
            amount = min(amount, budget.carry_max)
    if not carries:
        return 0
    amount += skipped * limit
    return min(amount, budget.carry_max) if budget.carry_max is not None else amount


def close_ended_windows(draft: Draft, numbers: Iterable[int], now: int, *, ended_by: int | None = None) -> None:
    """Before a cell of an ended window changes, its successor opens, so that what is carried is what was left then.

    Args:
        ended_by: windows that ended at this instant or before; default ``now``. Things that are due at the very end
            of a window still belong to it.
    """
    bound = now if ended_by is None else ended_by
    for number in numbers:
        cell = draft.cells[number]
        if cell.allocated:
            close_ended_windows(draft, cell.pins, now, ended_by=ended_by)
        elif cell.end <= bound:
            budget = draft.budgets[cell.budget]
            if budget.cell == number and not budget.removed:
                open_window(draft, budget, now)


# -- allocations ---------------------------------------------------------------------------------------------------


def lacking_room(draft: Draft, numbers: Iterable[int], amount: int) -> list[tuple[Cell, int]]:
    """The enforcing cells among ``numbers`` that lack room for ``amount``; nothing needs no room.

    A budget that was removed limits nothing; an allocation that was given up still grants no more than it covers.
    """
    if amount <= 0:
        return []
    cells = (draft.cells[number] for number in numbers)
    return [
        (cell, amount)
        for cell in cells
        if cell.enforce
        and amount > cell.granted - cell.used
        and (cell.allocated or not draft.budgets[cell.budget].removed)
    ]


def pins_above(
    draft: Draft, account: Account, unit: Unit, now: int, *, after_the_fact: bool = False
) -> tuple[tuple[int, ...], int] | Refused:
    """The cells that an allocation of ``account`` is held on, leaf first, and the earliest of their ends.

    Budgets with ``match`` hold no allocation; the walk ends with the nearest allocated ancestor.
    """
    pins: list[int] = []
    end = NEVER
    while account.parent is not None:
        account = draft.accounts[account.parent]
        for number in account.budgets:
            budget = draft.budgets[number]
            if budget.unit != unit or budget.match:
                continue
            cell: Cell | Refused
            if not budget.allocated:
                cell = running_cell(draft, budget, now)
            elif after_the_fact:
                cell = booking_cell(draft, budget, now)
            else:
                cell = allocation_cell(draft, budget, now)
            if isinstance(cell, Refused):
                return cell
            pins.append(cell.number)
            end = min(end, cell.end)
        if unit in account.allocations:
            break
    return tuple(pins), end


def allocation_cell(draft: Draft, budget: Budget, now: int) -> Cell | Refused:
    """The live cell of an allocation: resumed, or carved again, if there is room for it."""
    cell = draft.cells[budget.cell]
    if cell.phase == LIVE and now < cell.end:
        return cell
    if has_lapsed(budget, now):
        seen = balance(draft, cell)
        return Refused(
            code="budget_exceeded", detail=f"the allocation of {seen.account} in {seen.unit} has ended", binding=seen
        )
    if cell.phase == PARKED:
        for pin in (draft.cells[number] for number in cell.pins):
            if pin.allocated and pin.phase == PARKED:
                upper = allocation_cell(draft, draft.budgets[pin.budget], now)
                if isinstance(upper, Refused):
                    return upper
        lacking = lacking_room(draft, cell.pins, cell.base - cell.cover)
        if lacking:
            return no_room(draft, lacking)
        draft.emit(AllocationResumed(cell=cell.number))
        return cell
    account = draft.accounts[budget.account]
    return carve(draft, budget, account, budget.unit, budget.limit, now, valid_until=budget.valid_until)


def has_lapsed(budget: Budget, now: int) -> bool:
    """Whether an allocation has ended for good: it is not carved again by itself."""
    return budget.for_good or (budget.valid_until is not None and budget.valid_until <= now)


def booking_cell(draft: Draft, budget: Budget, now: int) -> Cell:
    """The cell of an allocation in the running windows for usage that has to be booked, whatever the room and status.

    Where it cannot be carved again it is opened parked: it covers nothing, so what is booked shows above as O.
    """
    cell = draft.cells[budget.cell]
    if cell.phase != ENDED and now < cell.end:
        return cell
    account = draft.accounts[budget.account]
    if inactive(draft, chain(draft, account)) is None:
        carved = allocation_cell(draft, budget, now)
        if isinstance(carved, Cell):
            return carved
    return carve_parked(draft, account, budget.unit, budget.limit, now, budget)


def carve_parked(draft: Draft, account: Account, unit: Unit, size: int, now: int, budget: Budget | None = None) -> Cell:
    """An allocation in the running windows that covers nothing yet: it is resumed when there is room."""
    above = pins_above(draft, account, unit, now, after_the_fact=True)
    assert not isinstance(above, Refused), "booking after the fact is never refused"
    valid_until = budget.valid_until if budget is not None else None
    return _put(draft, budget, account, unit, size, now, above, valid_until, parked=True)


def carve(
    draft: Draft,
    budget: Budget | None,
    account: Account,
    unit: Unit,
    size: int,
    now: int,
    valid_until: int | None = None,
    actor: str = "",
    on_exhaustion: ExhaustionPolicy | None = None,
    reason: str = "",
    version: int | None = None,
) -> Cell | Refused:
    """Hold ``size`` on the chain above ``account`` and open its cell; refused if a cell above lacks room.

    ``version``: None when it is carved again as it is, which is no change of what was set.
    """
    above = pins_above(draft, account, unit, now)
    if isinstance(above, Refused):
        return above
    lacking = lacking_room(draft, above[0], size)
    if lacking:
        return no_room(draft, lacking)
    return _put(
        draft,
        budget,
        account,
        unit,
        size,
        now,
        above,
        valid_until,
        actor=actor,
        on_exhaustion=on_exhaustion,
        reason=reason,
        version=version,
    )


def _put(
    draft: Draft,
    budget: Budget | None,
    account: Account,
    unit: Unit,
    size: int,
    now: int,
    above: tuple[tuple[int, ...], int],
    valid_until: int | None,
    *,
    parked: bool = False,
    actor: str = "",
    on_exhaustion: ExhaustionPolicy | None = None,
    reason: str = "",
    version: int | None = None,
) -> Cell:
    pins, end = above
    number = draft.cells_opened + 1
    draft.emit(
        AllocationPut(
            budget=budget.number if budget is not None else draft.budgets_made + 1,
            account=account.number,
            unit=unit,
            cell=number,
            size=size,
            start=now,
            end=min(end, valid_until) if valid_until is not None and valid_until > now else end,
            pins=pins,
            valid_until=valid_until,
            on_exhaustion=on_exhaustion or (budget.on_exhaustion if budget is not None else "deny"),
            version=version or (budget.version if budget is not None else 1),
            parked=parked,
            actor=actor,
            private=Private(reason=reason) if reason else None,
        )
    )
    return draft.cells[number]


# -- routes --------------------------------------------------------------------------------------------------------


def inactive(draft: Draft, accounts: Iterable[Account]) -> Refused | None:
    """The refusal by the first account that is not active."""
    for account in accounts:
        if account.status == "suspended":
            return Refused(code="account_suspended", detail=f"{account.display_name} is suspended")
        if account.status == "terminated":
            return Refused(code="account_terminated", detail=f"{account.display_name} is terminated")
        if account.status == "closed":
            return Refused(code="account_closed", detail=f"{account.display_name} is closed")
    return None


def is_shared_up_to(payer_numbers: set[int], also_chain: list[Account]) -> bool:
    """Whether an ``also`` account draws on its parents up to the first account in common with the payer."""
    for account in also_chain:
        if account.number in payer_numbers:
            return True
        if account.allocations:
            return False
    return True


def resolve(
    draft: Draft,
    payer: Account,
    also: list[Account],
    attributes: dict[str, str],
    now: int,
    *,
    after_the_fact: bool = False,
) -> Route | Refused:
    """The cells that a call charges (design.md §1 "Cells of a hold").

    Args:
        after_the_fact: book it whatever the status and room: an allocation that is not live is charged all the same,
            an ``also`` account that is not shared is left out.
    """
    payer_chain = chain(draft, payer)
    payer_numbers = {account.number for account in payer_chain}
    also_chains = [chain(draft, account) for account in also]
    if not after_the_fact:
        refused = inactive(draft, payer_chain)
        for also_chain in also_chains:
            refused = refused or inactive(draft, also_chain)
        if refused is not None:
            return refused
        for index, also_chain in enumerate(also_chains):
            if not is_shared_up_to(payer_numbers, also_chain):
                return Refused(
                    code="also_not_shared",
                    detail=f"{also_chain[0].display_name} has an allocation of its own, so it cannot be charged too",
                    field=f"also[{index}]",
                )
    else:
        also_chains = [also_chain for also_chain in also_chains if is_shared_up_to(payer_numbers, also_chain)]

    left_out: dict[Unit, set[int]] = {}
    for position, account in enumerate(payer_chain):
        for unit in account.allocations:
            if unit not in left_out:
                left_out[unit] = {above.number for above in payer_chain[position + 1 :]}

    cells: dict[Unit, list[int]] = {}
    order: list[int] = []
    enforced: set[Unit] = set()
    valid_until = NEVER
    cacheable = not also and not after_the_fact
    seen: set[int] = set()
    blocked: list[tuple[int, Refused]] = []
    for accounts in (payer_chain, *also_chains):
        for account in accounts:
            if account.number in seen:
                continue
            seen.add(account.number)
            for number in account.budgets:
                budget = draft.budgets[number]
                if budget.match:
                    cacheable = False
                    if any(attributes.get(key) != value for key, value in budget.match.items()):
                        continue
                elif account.number in left_out.get(budget.unit, ()):
                    continue
                cell: Cell | Refused
                if budget.allocated:
                    live = allocation_cell(draft, budget, now) if not after_the_fact else None
                    cell = live if isinstance(live, Cell) else booking_cell(draft, budget, now)
                    if isinstance(live, Refused):
                        blocked.append((cell.number, live))
                else:
                    cell = running_cell(draft, budget, now)
                cells.setdefault(budget.unit, []).append(cell.number)
                order.append(cell.number)
                if cell.enforce:
                    enforced.add(budget.unit)
                valid_until = min(valid_until, cell.end)
    route = Route(
        cells={unit: tuple(numbers) for unit, numbers in cells.items()},
        order=tuple(order),
        enforced=frozenset(enforced),
        valid_until=valid_until,
        blocked=tuple(blocked),
    )
    if cacheable and not blocked:
        draft.routes[payer.number] = route
    return route
