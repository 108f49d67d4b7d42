"""Reserves that wait: who comes before whom, and whether waiting is of use. A ticket is a place in a line, not room.

The turn of a ticket is the time at which it began to wait, earlier by ``wait_ageing_ms`` for each level of its
account's priority. So it gains one level for each ``wait_ageing_ms`` that it has waited, and who comes before whom
never changes while they wait: nobody is overtaken but by those who come within a time that is known.
"""

from __future__ import annotations

from fiscus.core.answers import balance, hold_answer, is_exceeded
from fiscus.core.commands import Request, Reserve
from fiscus.core.events import Extended, Private, Queued, TicketChanged
from fiscus.core.outcomes import HoldAnswer, Refused
from fiscus.core.overrides import is_pending
from fiscus.core.routes import chain, inactive
from fiscus.core.state import LIVE, Account, Cell, Draft, Hold, Route, Ticket
from fiscus.core.units import Amounts

LEASE_MS = 30_000
"""A ticket ends that nobody has asked for since so long: who waited has died."""

CLAIM_MS = 10_000
"""How long what was admitted waits for its caller to take it over, before it is given back."""

ROOM = frozenset({"budget_busy", "budget_exceeded"})
"""Refusals for lack of room, which may come."""

GONE = "gone"
"""Why a ticket ended whose caller has gone."""

RETRY_AFTER_S = 1


def turn_of(draft: Draft, account: Account, since: int) -> int:
    """The turn of a reserve of this account that has waited since then."""
    return since - account.priority * draft.rules.wait_ageing_ms


def behind_others(draft: Draft, route: Route, needed: Amounts, turn: int, ticket: Ticket | None) -> Refused | None:
    """The refusal of a reserve that would overtake, in one of its cells, somebody who waits there and comes first.

    Who would not fit even with no call in flight is not overtaken: it waits for a window or a decision, not for room.

    Args:
        ticket: of the reserve, if it waits already.
    """
    for number in route.order:
        ids = draft.waiting.get(number)
        if not ids:
            continue
        cell = draft.cells[number]
        amount = needed.get(cell.unit, 0)
        for id in ids if amount else ():
            other = draft.holds[id].ticket
            assert other is not None, "what waits has a ticket"
            if other is ticket or (other.turn > turn if ticket is None else ticket.is_before(other)):
                break
            if not is_exceeded(cell, other.needed):
                return _busy(draft, cell, amount, len(ids))
    return None


def _busy(draft: Draft, cell: Cell, amount: int, waiting: int) -> Refused:
    seen = balance(draft, cell)
    return Refused(
        code="budget_busy",
        detail=f"{seen.account}: {amount} {seen.unit} asked, and others wait for {seen.budget}: {waiting}",
        binding=seen,
        requested=amount,
        retry_after_s=RETRY_AFTER_S,
    )


def binding_cell(draft: Draft, refused: Refused) -> Cell | None:
    """The cell that a refusal for lack of room names."""
    binding = refused.binding
    number = draft.names.find(binding.account) if binding is not None else None
    if binding is None or number is None:
        return None
    for budget in (draft.budgets[found] for found in draft.accounts[number].budgets):
        if budget.name == binding.budget and budget.allocated == binding.allocated:
            return draft.cells[budget.cell] if budget.cell else None
    return None


def is_worth_waiting(draft: Draft, cell: Cell, needed: int, until: int) -> bool:
    """Whether room may come by then: calls end or are settled late, the window ends, or somebody decides."""
    if not is_exceeded(cell, needed - cell.quarantined):
        return True
    budget = draft.budgets[cell.budget]
    if is_pending(budget):
        return True
    fits_anew = needed <= budget.limit or budget.carry_over != "none"
    return not cell.allocated and cell.end <= until and fits_anew and not budget.removed


def begin_to_wait(
    draft: Draft, request: Request, command: Reserve, refused: Refused, now: int, *, check: int, again: bool
) -> HoldAnswer | Refused:
    """Let a reserve wait that was refused for lack of room, if that may help and not too many wait already.

    Args:
        check: sum of its attributes.
        again: its id has waited before, in vain.
    """
    cell = binding_cell(draft, refused) if refused.code in ROOM and refused.requested else None
    number = draft.names.find(command.account)
    if cell is None or number is None or refused.requested is None:
        return refused
    until = now + command.wait_s * 1000
    rules, waiting = draft.rules, draft.waiting
    is_full = (
        len(waiting.get(cell.number, ())) >= rules.waiting_per_budget_max
        or sum(map(len, waiting.values())) >= rules.waiting_max
    )
    if is_full or not is_worth_waiting(draft, cell, refused.requested, until):
        return refused
    draft.emit(
        Queued(
            id=command.id,
            account=number,
            asked=command.amounts,
            lease_s=command.lease_s,
            cell=cell.number,
            needed=refused.requested,
            turn=turn_of(draft, draft.accounts[number], now),
            order=_next_order(draft),
            until=until,
            expires_at=min(until, now + LEASE_MS),
            attributes_check=check,
            also=tuple(found for name in command.also if (found := draft.names.find(name)) is not None),
            leave=command.leave,
            least=command.least,
            alternatives=command.alternatives,
            steps=request.steps,
            again=again,
            private=Private(attributes=command.attributes) if command.attributes else None,
        )
    )
    return hold_answer(draft, draft.holds[command.id])


def _next_order(draft: Draft) -> int:
    """Who comes later has a higher one."""
    tickets = (draft.holds[id].ticket for ids in draft.waiting.values() for id in ids)
    return 1 + max((ticket.order for ticket in tickets if ticket is not None), default=0)


def why_in_vain(draft: Draft, hold: Hold) -> Refused:
    """The refusal of a reserve that has waited in vain, with the budget that it waited for as it is now."""
    name, ticket = draft.accounts[hold.account].display_name, hold.ticket
    if hold.ended == GONE or ticket is None:
        detail = f"{name}: nobody waited for the answer any more; ask again"
        return Refused(code="budget_busy", detail=detail, retry_after_s=RETRY_AFTER_S)
    if hold.ended not in ROOM:
        numbers = (hold.account, *hold.also)
        accounts = (account for number in numbers for account in chain(draft, draft.accounts[number]))
        detail = f"{name}: refused while it waited"
        return inactive(draft, accounts) or Refused(code=hold.ended, detail=detail)  # type: ignore[arg-type]
    cell = draft.cells[ticket.cell]
    seen = balance(draft, cell)
    busy = hold.ended == "budget_busy"
    wanted = "needed at least" if ticket.least or ticket.alternatives else "asked"
    return Refused(
        code="budget_busy" if busy else "budget_exceeded",
        detail=f"{seen.account}: {ticket.needed} {seen.unit} {wanted} and waited for in vain, "
        f"{max(0, seen.available)} of {seen.limit} left in {seen.budget}",
        binding=seen,
        requested=ticket.needed,
        retry_after_s=RETRY_AFTER_S if busy else None,
        resets_at=None if busy else seen.window_end,
    )


def renew(draft: Draft, hold: Hold, now: int) -> None:
    """The caller is there: a ticket lives on, and what was admitted after waiting becomes his hold."""
    ticket = hold.ticket
    if hold.state == "held":
        draft.emit(Extended(id=hold.id, to=hold.reserved, expires_at=now + hold.lease_s * 1000))
    elif ticket is not None and hold.expires_at - now < LEASE_MS // 2 and hold.expires_at < ticket.until:
        expires_at = min(ticket.until, now + LEASE_MS)
        draft.emit(TicketChanged(id=hold.id, cell=ticket.cell, needed=ticket.needed, expires_at=expires_at))


def code_now(draft: Draft, ticket: Ticket) -> str:
    """How a reserve is refused that waits no longer."""
    return "budget_exceeded" if is_exceeded(draft.cells[ticket.cell], ticket.needed) else "budget_busy"


def may_fit(draft: Draft, ticket: Ticket, now: int) -> bool:
    """Whether it is worth asking: it has room in its cell, or the cell limits it no longer."""
    cell = draft.cells[ticket.cell]
    limits = cell.enforce and cell.phase == LIVE and now < cell.end and not draft.budgets[cell.budget].removed
    return not limits or ticket.needed <= cell.free
