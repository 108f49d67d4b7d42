"""Deciding on holds: reserve, extend, settle, release, and usage after the fact."""

from __future__ import annotations

from itertools import chain as joined
from zlib import crc32

import msgspec

from fiscus.core.answers import hold_answer, is_exceeded, loans_of, no_room, warnings
from fiscus.core.checks import check_extend, check_release, check_reserve, check_settle, invalid, to_datetime
from fiscus.core.commands import Extend, Release, Request, Reserve, Settle, ShortageStep
from fiscus.core.events import Extended, Held, Private, Released, Settled, ShortageMet
from fiscus.core.gates import TASK, gate_refusal, note_confidence, task_key, task_name, task_of
from fiscus.core.lending import end_loans
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.records import CallRecord
from fiscus.core.routes import (
    booking_cell,
    chain,
    close_ended_windows,
    inactive,
    lacking_room,
    resolve,
    running_cell,
)
from fiscus.core.scopes import find_account, find_or_open, in_scope
from fiscus.core.shortage import LACKING_ROOM, Eased, ease, offered, smallest
from fiscus.core.state import Account, Cell, Draft, Hold, Route, Ticket
from fiscus.core.tickets import begin_to_wait, behind_others, renew, turn_of
from fiscus.core.units import Amounts, completed

NOT_ADMITTED = frozenset({"waiting", "refused"})
"""States of a reserve that stands in line, or has in vain: what it uses all the same was never held."""

TOTAL_MAX = 2**62
"""No balance may pass this, so that every sum stays a machine integer."""


def reserve(draft: Draft, request: Request, command: Reserve, now: int) -> HoldAnswer | Refused:
    """Hold ``command.amounts`` on every cell of the payer's and the ``also`` chains, or on none.

    Returns:
        The hold; the same answer for the same id and body; ``Refused`` by the first cell (leaf first) that lacks room.

    Source: design.md §1 "Cells of a hold", §2 E2, E7, §3 "reserve", "ids".
    """
    wrong = check_reserve(command)
    if wrong is not None:
        return wrong
    known = draft.holds.find(command.id)
    if known is not None:
        repeated = _repeated(draft, request, command, known, now)
        if repeated is not None:
            return repeated
    outcome = admission(draft, request, command, now)
    eased: Eased | None = None
    if type(outcome) is Refused:
        found: Eased | Refused = outcome
        if outcome.code in LACKING_ROOM:
            found = ease(draft, request, command, outcome, now, lambda other: admission(draft, request, other, now))
        check = attributes_check(command.attributes) if command.attributes else 0
        if isinstance(found, Refused):
            is_time = not found.shortage and request.steps[-1:] in ((), ("wait",), ("ask",))
            if not command.wait_s or command.loans or not is_time:
                return found
            wanted = offered(command, request.steps)
            found = waited_for(draft, request, wanted, found, now)
            return begin_to_wait(draft, request, wanted, found, now, check=check, again=known is not None)
        eased = found
        private = Private(attributes=command.attributes) if command.attributes else None
        outcome = msgspec.structs.replace(eased.held, asked=command.amounts, attributes_check=check, private=private)
    assert type(outcome) is Held, "it is admitted or refused"
    if command.loans and (wrong := _foreign_loan(draft, command, outcome.account)) is not None:
        return wrong
    draft.emit(outcome if known is None else msgspec.structs.replace(outcome, again=True))
    if eased is not None or command.loans or request.steps:
        return _helped(draft, request, command, outcome.account, eased)
    return HoldAnswer(
        id=command.id,
        account=command.account,
        state="held",
        reserved=outcome.amounts,
        expires_at=to_datetime(outcome.expires_at),
        warnings=warnings(draft, outcome.warned) if outcome.warned else (),
    )


def admission(
    draft: Draft, request: Request, command: Reserve, now: int, ticket: Ticket | None = None
) -> Held | Refused:
    """The fact that would hold what a reserve asks for; nothing is held yet.

    Args:
        ticket: of the reserve, if it waits: who stands behind it in a line does not come first.
    """
    number = draft.names.get(command.account)
    route: Route | None = None
    if number is not None and (request.scope is None or in_scope(draft, draft.accounts[number], request.scope)):
        route = draft.routes.get(number)
    also: list[Account] = []
    if number is None or route is None or command.also or now >= route.valid_until:
        draft.isolate()
        payer = find_or_open(draft, command.account, command.parent, request)
        if isinstance(payer, Refused):
            return payer
        number = payer.number
        for index, name in enumerate(command.also):
            account = find_or_open_also(draft, name, request, payer, f"also[{index}]")
            if isinstance(account, Refused):
                return account
            also.append(account)
        resolved = resolve(draft, payer, also, command.attributes, now)
        if isinstance(resolved, Refused):
            return resolved
        route = resolved
    if draft.accounts[number].gates:
        refused = gate_refusal(draft.accounts[number], command.attributes, now)
        if refused is not None:
            return refused
    amounts = completed(command.amounts)
    needed = amounts if not command.leave else leaving(amounts, command.leave)
    cells = draft.cells
    lacks = False
    for unit, numbers in route.cells.items():
        amount = needed.get(unit)
        if amount is None:
            if unit in route.enforced:
                return Refused(
                    code="unit_not_bounded",
                    detail=f"amounts.{unit}: a budget limits {unit}, so the hold must bound it",
                    field=f"amounts.{unit}",
                )
            continue
        for cell_number in numbers:
            if amount > cells[cell_number].free:
                lacks = True
    warned: tuple[int, ...] = ()
    spared: dict[int, int] = {}
    if lacks or route.blocked:
        refused = _refusal(draft, route, needed)
        if refused is not None:
            return refused
        if any(cells[cell_number].free < -TOTAL_MAX for cell_number in route.order):
            return _beyond("amounts")
        warned = _warned(draft, route, needed)
        spared = spared_by(draft, route, needed) if draft.format > 1 else {}
    if draft.waiting:
        behind = behind_others(draft, route, needed, turn_of(draft, draft.accounts[number], now), ticket)
        if behind is not None:
            return behind
    return Held(
        id=command.id,
        account=number,
        cells=route.cells,
        amounts=amounts,
        asked=command.amounts,
        expires_at=now + command.lease_s * 1000,
        lease_s=command.lease_s,
        attributes_check=attributes_check(command.attributes) if command.attributes else 0,
        also=tuple(account.number for account in also),
        warned=warned,
        spared=spared,
        task=task_of(command.attributes) if TASK in command.attributes and draft.format > 1 else "",
        private=Private(attributes=command.attributes) if command.attributes else None,
    )


def waited_for(
    draft: Draft, request: Request, command: Reserve, refused: Refused, now: int, ticket: Ticket | None = None
) -> Refused:
    """The refusal that says what a reserve waits for: of the least that it would do with."""
    least = smallest(command)
    if least is command or refused.code not in LACKING_ROOM:
        return refused
    found = admission(draft, request, least, now, ticket)
    return found if isinstance(found, Refused) and found.code in LACKING_ROOM else refused


def _foreign_loan(draft: Draft, command: Reserve, payer: int) -> Refused | None:
    """The refusal of a loan that is not there, is another hold's, or was not made for anybody on the payer's chain."""
    numbers = {account.number for account in chain(draft, draft.accounts[payer])}
    for index, id in enumerate(command.loans):
        loan = draft.loans.find(id)
        if loan is None or not loan.active or loan.hold is not None or loan.account not in numbers:
            detail = f"loans[{index}]: {command.account} has no loan {id!r} that is free"
            return Refused(code="unknown_loan", detail=detail, field=f"loans[{index}]")
    return None


def _helped(draft: Draft, request: Request, command: Reserve, payer: int, eased: Eased | None) -> HoldAnswer:
    """Record what was done so that the hold could be made."""
    draft.emit(
        ShortageMet(
            id=command.id,
            account=payer,
            steps=tried_for(request, eased),
            loans=command.loans,
            granted=eased.held.amounts if eased is not None else {},
            model=eased.model if eased is not None else None,
        )
    )
    return hold_answer(draft, draft.holds[command.id])


def tried_for(request: Request, eased: Eased | None) -> tuple[ShortageStep, ...]:
    """The steps that were taken for a hold, the one that made it last."""
    if request.steps and eased is not None and eased.step != request.steps[-1]:
        return (*request.steps, eased.step)
    if request.steps:
        return request.steps if request.steps[-1] != "deny" else request.steps[:-1]
    return (eased.step,) if eased is not None else ()


def leaving(amounts: Amounts, leave: Amounts) -> Amounts:
    """What has to be free for amounts of which some is left; of what nothing is asked, nothing has to be left.

    >>> leaving({"tokens": 10, "calls": 1, "cost": 0}, {"tokens": 5, "cost": 7})
    {'tokens': 15, 'calls': 1, 'cost': 0}
    """
    return {unit: amount + leave.get(unit, 0) if amount else 0 for unit, amount in amounts.items()}


def _beyond(field: str) -> Refused:
    return invalid(field, "the balance would pass the largest number that is kept")


def find_or_open_also(
    draft: Draft, name: str, request: Request, payer: Account, field: str, *, after_the_fact: bool = False
) -> Account | Refused:
    """An ``also`` account: in scope, or above the payer (then it is charged anyhow)."""
    number = draft.names.find(name)
    if number is not None and any(above.number == number for above in chain(draft, payer)):
        return draft.accounts[number]
    account = find_or_open(draft, name, None, request, after_the_fact=after_the_fact)
    if isinstance(account, Refused):
        return msgspec.structs.replace(account, field=field)
    return account


def attributes_check(attributes: dict[str, str]) -> int:
    """A short check sum by which a repeated body is recognised; it identifies nothing."""
    return crc32(msgspec.json.encode(attributes, order="deterministic"))


def _refusal(draft: Draft, route: Route, amounts: Amounts) -> Refused | None:
    """The refusal of the cells that lack room: *exceeded* outranks *busy*, then the first in the order of the route."""
    blocked = dict(route.blocked)
    first: Refused | Cell | None = None
    for number in route.order:
        cell = draft.cells[number]
        amount = amounts.get(cell.unit, 0)
        if number in blocked:
            if amount:
                if blocked[number].code == "budget_exceeded":
                    return blocked[number]
                first = first or blocked[number]
        elif cell.enforce and amount > max(0, cell.free):
            if is_exceeded(cell, amount):
                return no_room(draft, [(cell, amount)])
            first = first or cell
    return no_room(draft, [(first, amounts.get(first.unit, 0))]) if isinstance(first, Cell) else first


def _warned(draft: Draft, route: Route, amounts: Amounts) -> tuple[int, ...]:
    """Cells of budgets in mode ``warn`` that enforcement would have refused."""
    cells = (draft.cells[number] for number in route.order)
    return tuple(
        cell.number
        for cell in cells
        if amounts.get(cell.unit, 0) > cell.free and draft.budgets[cell.budget].mode == "warn"
    )


def spared_by(draft: Draft, route: Route, amounts: Amounts) -> dict[int, int]:
    """Cells of budgets that warn or observe and enforcement would have refused → by how much it did not fit."""
    cells = (draft.cells[number] for number in route.order)
    return {
        cell.number: amount - max(0, cell.free)
        for cell in cells
        if not cell.enforce and (amount := amounts.get(cell.unit, 0)) > max(0, cell.free)
    }


def _repeated(draft: Draft, request: Request, command: Reserve, hold: Hold, now: int) -> HoldAnswer | Refused | None:
    """The same id again: the same answer for the same body, else a conflict that says nothing of the other body.

    None: it has waited in vain, and may be tried again.
    """
    if not in_scope(draft, draft.accounts[hold.account], request.scope):
        return Refused(code="conflict", detail="id: is in use for another request", field="id")
    if hold.state == "refused":
        return None
    if hold.tombstone:
        return Refused(
            code="already_settled", detail="id: was settled or released before it was reserved; do not call", field="id"
        )
    same = (
        draft.accounts[hold.account].name == command.account
        and hold.asked == command.amounts
        and hold.lease_s == command.lease_s
        and tuple(draft.accounts[number].name for number in hold.also) == command.also
        and hold.attributes_check == (attributes_check(command.attributes) if command.attributes else 0)
    )
    if not same:
        return Refused(code="conflict", detail="id: is in use for another request", field="id")
    if hold.state == "waiting" or (hold.unclaimed and hold.state == "held"):
        renew(draft, hold, now)
        hold = draft.holds[hold.id]
        if hold.state == "waiting":
            return hold_answer(draft, hold)
    return HoldAnswer(
        id=hold.id,
        account=command.account,
        state="held",
        reserved=hold.granted or completed(hold.asked),
        expires_at=to_datetime(hold.first_expires_at),
        warnings=warnings(draft, hold.warned),
        steps=hold.steps,
        loans=loans_of(draft, hold, as_lent=True) if hold.loans else (),
        model=hold.model,
    )


def find_hold(draft: Draft, id: str, scope: str | None) -> Hold | Refused:
    """The hold with this id; one outside the scope is as unknown as one that is not there."""
    hold = draft.holds.find(id)
    if hold is None or (scope is not None and not in_scope(draft, draft.accounts[hold.account], scope)):
        return Refused(code="unknown_hold", detail=f"there is no hold {id!r}", field="id")
    return hold


def extend(draft: Draft, request: Request, command: Extend, now: int) -> HoldAnswer | Refused:
    """Raise an open hold to the totals ``to`` in its pinned cells, or not at all, and renew its lease."""
    wrong = check_extend(command)
    if wrong is not None:
        return wrong
    hold = find_hold(draft, command.id, request.scope)
    if isinstance(hold, Refused):
        return hold
    if hold.state != "held":
        return Refused(code="conflict", detail=f"id: the hold is {hold.state} already", field="id")
    to = dict(hold.reserved)
    rises: Amounts = {}
    wanted = dict(command.to)
    if "tokens" not in wanted and "tokens" not in hold.asked:
        parts = [max(wanted.get(part, 0), to.get(part, -1)) for part in ("input_tokens", "output_tokens")]
        if min(parts) >= 0:
            wanted["tokens"] = sum(parts)
    for unit, amount in wanted.items():
        rise = amount - to.get(unit, 0)
        if rise > 0:
            to[unit] = amount
            rises[unit] = rise
    if rises:
        draft.isolate()
        accounts = list(
            joined.from_iterable(chain(draft, draft.accounts[number]) for number in (hold.account, *hold.also))
        )
        refused = inactive(draft, accounts)
        if refused is not None:
            return refused
        lacking: list[tuple[Cell, int]] = []
        for unit, needed in leaving(rises, command.leave).items():
            numbers = hold.cells.get(unit, ())
            close_ended_windows(draft, numbers, now)
            lacking += lacking_room(draft, numbers, needed)
            if any(draft.cells[number].free < -TOTAL_MAX for number in numbers):
                return _beyond("to")
        if lacking:
            order = [account.number for account in accounts]
            lacking.sort(key=lambda found: (order.index(found[0].account), found[0].budget))
            own = {unit: amount - hold.covered.get(unit, 0) for unit, amount in hold.reserved.items()}
            return no_room(draft, lacking, own)
    expires_at = max(hold.expires_at, now + command.lease_s * 1000)
    if rises or expires_at > hold.expires_at:
        draft.emit(Extended(id=hold.id, to=to, expires_at=expires_at))
    return hold_answer(draft, draft.holds[hold.id])


def reading(command: Settle, hold: Hold | None) -> Amounts:
    """The totals of a settlement: as given, else from the record, else (final) what is known without it.

    A unit that was held and of which the final reading of an open hold says nothing is booked at its bound: an unknown
    amount is never 0. ``calls`` is 1.
    """
    total: Amounts = dict(command.total)
    record = command.record
    if record is not None:
        if record.tokens is not None:
            total.setdefault("input_tokens", record.tokens.input)
            total.setdefault("output_tokens", record.tokens.output)
        if record.cost_nanousd is not None:
            total.setdefault("cost", record.cost_nanousd)
    if "tokens" not in total and "input_tokens" in total and "output_tokens" in total:
        total["tokens"] = total["input_tokens"] + total["output_tokens"]
    total.setdefault("calls", 1)
    if command.final and hold is not None and hold.open:
        for unit, bound in hold.reserved.items():
            if unit not in total:
                total[unit] = max(bound, hold.booked.get(unit, 0))
    return total


def settle(draft: Draft, request: Request, command: Settle, now: int) -> HoldAnswer | Refused:
    """Book a reading of a hold, or (with ``account``) of a call that was never held. Never refused for lack of room.

    Source: design.md §2 E5, E6, E14, §3 "settle", "O", "settle or release before reserve arrives", "expiry".
    """
    wrong = check_settle(command)
    if wrong is not None:
        return wrong
    hold = draft.holds.find(command.id)
    if hold is None:
        return _book(draft, request, command, now)
    if request.scope is not None and not in_scope(draft, draft.accounts[hold.account], request.scope):
        return Refused(code="unknown_hold", detail=f"there is no hold {command.id!r}", field="id")
    if hold.tombstone and command.account is not None:
        wrong = _others_usage(draft, command, hold)
        if wrong is not None:
            return wrong
    if hold.state in NOT_ADMITTED:
        return _book(draft, request, _as_asked(draft, command, hold), now, hold)
    total = reading(command, hold)
    replaces = command.final and (hold.open or hold.estimated)
    if not replaces and not _is_news(hold, total, command.record):
        return hold_answer(draft, hold)
    moves: dict[int, int] = {}
    cells, lowest = draft.cells, -TOTAL_MAX
    for numbers in hold.cells.values():
        for number in numbers:
            cell = cells[number]
            if cell.end <= now or cell.allocated:
                draft.isolate()
                close_ended_windows(draft, (number,), now)
                _find_moves(draft, cell, now, moves)
            if cell.free < lowest:
                return _beyond("total")
    record = command.record
    draft.emit(
        Settled(
            id=hold.id,
            total=total,
            final=command.final,
            moves=moves,
            recorded=record is not None,
            model=record.model if record is not None else None,
            provider=record.provider if record is not None else None,
            tokens=record.tokens if record is not None else None,
            cost_nanousd=record.cost_nanousd if record is not None else None,
            private=_private(record),
        )
    )
    if record is not None and record.confidence is not None:
        note_confidence(draft, hold.account, hold.task, command, now)
    if hold.loans and not draft.holds[hold.id].open:
        end_loans(draft, hold.loans, now)
    return hold_answer(draft, draft.holds[hold.id])


def _as_asked(draft: Draft, command: Settle, hold: Hold) -> Settle:
    """The usage of a reserve that was not admitted, charged to whom that has named; what it leaves out is as given."""
    also = tuple(name for number in hold.also if (name := draft.accounts[number].name) is not None)
    return msgspec.structs.replace(
        command, account=draft.accounts[hold.account].name or command.account, also=also or command.also
    )


def _others_usage(draft: Draft, command: Settle, hold: Hold) -> Refused | None:
    """The refusal of usage that would be booked to others than it names, because its id is known from a call of theirs.

    What is left out contradicts nothing. Erased names are not known again; of a call that was given back nobody knows
    whom it would also have been charged to.
    """
    payer = draft.accounts[hold.account].name
    if payer is not None and payer != command.account:
        return Refused(code="conflict", detail="account: the id is in use for usage of another", field="account")
    if hold.state == "settled" and command.also:
        names = {draft.accounts[number].name for number in hold.also} - {None}
        if len(command.also) != len(hold.also) or not names.issubset(command.also):
            return Refused(code="conflict", detail="also: the id is in use for usage of others", field="also")
    return None


def _is_news(hold: Hold, total: Amounts, record: CallRecord | None) -> bool:
    """Whether a reading that replaces nothing adds anything: a higher amount, or the first record.

    A cost that follows from prices, or is a bound because nobody knows one, adds nothing by itself: for the same tokens
    what is booked keeps its cost.
    """
    if record is not None and not hold.recorded:
        return True
    follows = record is not None and record.cost_source in COSTS_THAT_FOLLOW
    return any(amount > hold.booked.get(unit, 0) for unit, amount in total.items() if not (follows and unit == "cost"))


def _private(record: CallRecord | None) -> Private | None:
    """The erasable part of a record; what is only numbers and model stands in the event itself."""
    if record is None:
        return None
    rest = msgspec.structs.replace(record, model=None, provider=None, tokens=None, cost_nanousd=None)
    return Private(record=rest) if rest != EMPTY_RECORD else None


EMPTY_RECORD = CallRecord()
COSTS_THAT_FOLLOW = frozenset({"price_book", "dearest", "unpriced"})
"""Sources of a cost that nobody has stated for this very call."""


def has_ended_window(draft: Draft, cell: Cell, now: int) -> bool:
    """Whether a window has ended, or for an allocation: one that it is held on, through what it is carved from."""
    if not cell.allocated:
        return cell.end <= now
    return any(has_ended_window(draft, draft.cells[pin], now) for pin in cell.pins)


def _find_moves(draft: Draft, cell: Cell, now: int, moves: dict[int, int]) -> None:
    """Where a rise goes whose window is gone (ended, and nothing pins it): the running window of the same budget.

    Of an allocation that was given up, the windows above it are looked at one by one.
    """
    if cell.open or not has_ended_window(draft, cell, now):
        return
    budget = draft.budgets[cell.budget]
    if budget.removed:
        for pin in cell.pins:
            _find_moves(draft, draft.cells[pin], now, moves)
        return
    running = booking_cell(draft, budget, now) if budget.allocated else running_cell(draft, budget, now)
    if running.number != cell.number:
        moves[cell.number] = running.number


def _book(draft: Draft, request: Request, command: Settle, now: int, known: Hold | None = None) -> HoldAnswer | Refused:
    """Usage without a hold: all of it beyond any hold (O), in the running windows, whatever the status and room.

    ``known``: its reserve has waited, and was not admitted; or was, and nobody has claimed it: then it is booked where
    it was held.
    """
    if command.account is None:
        return Refused(code="unknown_hold", detail=f"there is no hold {command.id!r}", field="id")
    draft.isolate()
    payer = find_or_open(draft, command.account, command.parent, request, after_the_fact=True)
    if isinstance(payer, Refused):
        return payer
    also: list[Account] = []
    for index, name in enumerate(command.also):
        account = find_or_open_also(draft, name, request, payer, f"also[{index}]", after_the_fact=True)
        if isinstance(account, Refused):
            return account
        also.append(account)
    route = resolve(draft, payer, also, command.attributes, now, after_the_fact=True)
    assert isinstance(route, Route), "usage after the fact is never refused"
    total = reading(command, None)
    cells = route.cells
    moves: dict[int, int] = {}
    if known is not None and known.cells:
        cells = known.cells
        for number in joined.from_iterable(cells.values()):
            close_ended_windows(draft, (number,), now)
            _find_moves(draft, draft.cells[number], now, moves)
    if any(draft.cells[number].free < -TOTAL_MAX for number in joined.from_iterable(cells.values())):
        return _beyond("total")
    record = command.record
    draft.emit(
        Settled(
            id=command.id,
            total=total,
            final=True,
            account=payer.number,
            also=tuple(account.number for account in also),
            cells=cells,
            moves=moves,
            recorded=record is not None,
            model=record.model if record is not None else None,
            provider=record.provider if record is not None else None,
            tokens=record.tokens if record is not None else None,
            cost_nanousd=record.cost_nanousd if record is not None else None,
            again=known is not None,
            private=_private(record),
        )
    )
    if record is not None and record.confidence is not None:
        note_confidence(draft, payer.number, task_key(task_name(command)), command, now)
    return hold_answer(draft, draft.holds[command.id])


def release(draft: Draft, request: Request, command: Release, now: int) -> HoldAnswer | Refused:
    """Give an open hold back; what running readings booked stays booked."""
    wrong = check_release(command)
    if wrong is not None:
        return wrong
    hold = draft.holds.find(command.id)
    if hold is None and command.account is not None:
        account = find_account(draft, command.account, request.scope)
        if isinstance(account, Refused):
            return account
        route = resolve(draft, account, [], {}, now, after_the_fact=True)
        assert isinstance(route, Route), "what is booked after the fact is never refused"
        draft.emit(Released(id=command.id, account=account.number, cells=route.cells))
        return hold_answer(draft, draft.holds[command.id])
    found = find_hold(draft, command.id, request.scope)
    if isinstance(found, Refused):
        return found
    if found.state == "released":
        return hold_answer(draft, found)
    if not found.open and found.state != "refused":
        return Refused(code="conflict", detail=f"id: the hold is {found.state} already", field="id")
    for numbers in found.cells.values():
        close_ended_windows(draft, numbers, now)
    if found.state in NOT_ADMITTED and not found.cells:
        draft.isolate()
        also = [draft.accounts[number] for number in found.also]
        attributes = found.ticket.attributes if found.ticket is not None else {}
        route = resolve(draft, draft.accounts[found.account], also, attributes, now, after_the_fact=True)
        assert isinstance(route, Route), "what is booked after the fact is never refused"
        draft.emit(Released(id=found.id, account=found.account, cells=route.cells, again=True))
    else:
        draft.emit(Released(id=found.id))
    if found.loans:
        end_loans(draft, found.loans, now)
    return hold_answer(draft, draft.holds[found.id])
