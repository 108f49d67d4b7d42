"""What becomes of reserves that wait: room that frees admits them in their order, in the same command.

Order is kept for each cell: the first that does not fit keeps all behind it waiting, however small they are, so that
nobody starves. Only who would not fit even with no call in flight lets others pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from heapq import merge

import msgspec

from fiscus.core.answers import hold_answer, is_exceeded
from fiscus.core.checks import check
from fiscus.core.commands import Attend, Request, Reserve
from fiscus.core.events import Held, Private, ShortageMet, StatusChanged, TicketChanged, TicketEnded
from fiscus.core.holds import admission, find_hold, waited_for
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.routes import chain, close_ended_windows, inactive
from fiscus.core.shortage import OWN_STEPS, Eased, eased_by
from fiscus.core.state import Draft, Hold, Mark, Ticket
from fiscus.core.tickets import (
    CLAIM_MS,
    GONE,
    ROOM,
    binding_cell,
    code_now,
    is_worth_waiting,
    may_fit,
    renew,
    why_in_vain,
)


def admit_waiting(draft: Draft, mark: Mark, now: int) -> None:
    """Admit who fits now, after what has happened since ``mark``; refuse who cannot be admitted any more."""
    if any(type(event) is StatusChanged and event.status != "active" for event in draft.events[mark[1] :]):
        _end_stopped(draft)
    touched = draft.touched_cells(mark) & draft.waiting.keys()
    if touched and draft.admits:
        _admit(draft, touched, now)


def _admit(draft: Draft, cells: Set[int], now: int) -> None:
    """Look at those who wait for these cells, in their order."""
    blocked: set[int] = set()
    lines = [_line(draft, number, blocked) for number in sorted(cells)]
    for hold in merge(*lines, key=_place) if len(lines) > 1 else lines[0]:
        ticket = _ticket(hold)
        if not _try(draft, hold, ticket, now) and not is_exceeded(draft.cells[ticket.cell], ticket.needed):
            blocked.add(ticket.cell)


def _line(draft: Draft, number: int, blocked: set[int]) -> Iterator[Hold]:
    """Those that wait for a cell, in order, until one of them has to go on waiting."""
    for id in draft.waiting[number]:
        if number in blocked:
            return
        yield draft.holds[id]


def _place(hold: Hold) -> tuple[int, int]:
    ticket = _ticket(hold)
    return ticket.turn, ticket.order


def _ticket(hold: Hold) -> Ticket:
    assert hold.ticket is not None, "what waits has a ticket"
    return hold.ticket


def _try(draft: Draft, hold: Hold, ticket: Ticket, now: int) -> bool:
    """Whether it has left the line of its cell: admitted, refused, or for another cell that has no room either."""
    draft.isolate()
    if not may_fit(draft, ticket, now):
        if is_worth_waiting(draft, draft.cells[ticket.cell], ticket.needed, ticket.until):
            return False
        draft.emit(TicketEnded(id=hold.id, code="budget_exceeded"))
        return True
    command = _command(draft, hold, ticket)
    request = Request(command=command, may_open=False)
    outcome = admission(draft, request, command, now, ticket)
    if isinstance(outcome, Held):
        draft.emit(msgspec.structs.replace(outcome, again=True, unclaimed=True, expires_at=now + CLAIM_MS))
        if ticket.steps:
            draft.emit(ShortageMet(id=hold.id, account=hold.account, steps=ticket.steps))
        return True
    if (ticket.least or ticket.alternatives) and outcome.code in ROOM:
        eased = eased_by(
            draft,
            ticket.steps or OWN_STEPS,
            command,
            outcome,
            now,
            lambda other: admission(draft, request, other, now, ticket),
        )
        if isinstance(eased, Eased):
            _admit_eased(draft, hold, ticket, eased, now)
            return True
        outcome = waited_for(draft, request, command, outcome, now, ticket)
    cell = binding_cell(draft, outcome) if outcome.code in ROOM else None
    if cell is None or outcome.requested is None or not is_worth_waiting(draft, cell, outcome.requested, ticket.until):
        draft.emit(TicketEnded(id=hold.id, code=outcome.code))
        return True
    if cell.number == ticket.cell and outcome.requested == ticket.needed:
        return False
    draft.emit(TicketChanged(id=hold.id, cell=cell.number, needed=outcome.requested, expires_at=hold.expires_at))
    return cell.number != ticket.cell


def _admit_eased(draft: Draft, hold: Hold, ticket: Ticket, eased: Eased, now: int) -> None:
    """Hold less than was asked, or for another model."""
    draft.emit(
        msgspec.structs.replace(
            eased.held,
            asked=hold.asked,
            attributes_check=hold.attributes_check,
            private=Private(attributes=ticket.attributes) if ticket.attributes else None,
            again=True,
            unclaimed=True,
            expires_at=now + CLAIM_MS,
        )
    )
    draft.emit(
        ShortageMet(
            id=hold.id,
            account=hold.account,
            steps=(*ticket.steps, eased.step),
            granted=eased.held.amounts,
            model=eased.model,
        )
    )


def _command(draft: Draft, hold: Hold, ticket: Ticket) -> Reserve:
    """What the reserve asked for."""
    return Reserve(
        id=hold.id,
        account=draft.accounts[hold.account].display_name,
        amounts=hold.asked,
        also=tuple(draft.accounts[number].display_name for number in hold.also),
        lease_s=hold.lease_s,
        attributes=ticket.attributes,
        leave=ticket.leave,
        least=ticket.least,
        alternatives=ticket.alternatives,
    )


def _end_stopped(draft: Draft) -> None:
    """Refuse those whose account, or one above it, is not active any more."""
    waiting = [draft.holds[id] for ids in draft.waiting.values() for id in ids]
    for hold in sorted(waiting, key=_place):
        numbers = (hold.account, *hold.also)
        refused = inactive(draft, [one for number in numbers for one in chain(draft, draft.accounts[number])])
        if refused is not None:
            draft.isolate()
            draft.emit(TicketEnded(id=hold.id, code=refused.code))


def end_or_move(draft: Draft, hold: Hold, at: int, now: int) -> None:
    """The window that a ticket waits for has ended, so that its line moves to the next one; or its lease is over."""
    number = _ticket(hold).cell
    if at >= _ticket(hold).window_end:
        blocked: set[int] = set()
        for other in _line(draft, number, blocked):
            if not _try(draft, other, _ticket(other), now):
                blocked.add(number)
    hold = draft.holds[hold.id]
    if hold.state == "waiting" and at >= hold.expires_at:
        ticket = _ticket(hold)
        draft.emit(TicketEnded(id=hold.id, code=code_now(draft, ticket) if at >= ticket.until else GONE))


def attend(draft: Draft, request: Request, command: Attend, now: int) -> HoldAnswer | Refused:
    """The caller of a reserve that waits, or has waited, is still there, or has gone.

    Returns:
        Where it stands; the hold once it was admitted, from now on the caller's own; the refusal if it waited in vain.
    """
    wrong = check(command)
    if wrong is not None:
        return wrong
    hold = find_hold(draft, command.id, request.scope)
    if isinstance(hold, Refused):
        return hold
    if hold.state == "refused":
        return why_in_vain(draft, hold)
    if hold.state == "waiting" and not command.gone and draft.admits:
        _admit(draft, {_ticket(hold).cell}, now)  # there is none, unless nobody was admitted for a while
        hold = draft.holds[hold.id]
    if hold.state == "waiting" or (hold.unclaimed and hold.state == "held"):
        if not command.gone:
            renew(draft, hold, now)
        elif not hold.booked:  # else somebody calls with it
            give_up(draft, hold, now)
    return hold_answer(draft, draft.holds[hold.id])


def give_up(draft: Draft, hold: Hold, now: int, *, ended_by: int | None = None) -> None:
    """Nobody waits for it: the ticket ends, or what was admitted goes back."""
    for numbers in hold.cells.values():
        close_ended_windows(draft, numbers, now, ended_by=ended_by)
    draft.emit(TicketEnded(id=hold.id, code=GONE))
