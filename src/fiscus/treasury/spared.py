"""What budgets that do not enforce would have refused: so a team sees a limit before it binds."""

from __future__ import annotations

from fiscus.contract.queries import ReadSpared, Spared, SparedView
from fiscus.core.checks import check_name, to_datetime
from fiscus.core.outcomes import Refused
from fiscus.core.routes import running_cell
from fiscus.core.scopes import find_account
from fiscus.core.state import Draft
from fiscus.core.windows import LIFETIME_END_MS


def spared_view(draft: Draft, as_of_seq: int, query: ReadSpared, now: int) -> SparedView | Refused:
    """Each budget of the account that warns or observes; a window that has ended is shown as it would open now."""
    account = check_name("account", query.account) or find_account(draft, query.account, query.scope)
    if isinstance(account, Refused):
        return account
    mark = draft.mark()
    draft.isolate()
    draft.now = now
    found: list[Spared] = []
    for budget in (draft.budgets[number] for number in account.budgets):
        if budget.mode == "enforce":
            continue
        cell = running_cell(draft, budget, now)
        found.append(
            Spared(
                budget=budget.name,
                unit=budget.unit,
                mode=budget.mode,
                limit=cell.limit,
                calls=cell.spared,
                amount=cell.spared_amount,
                window_start=to_datetime(cell.start),
                window_end=to_datetime(cell.end) if cell.end < LIFETIME_END_MS else None,
                match=budget.match,
            )
        )
    draft.rollback(mark)
    return SparedView(as_of_seq=as_of_seq, account=account.display_name, budgets=tuple(found))
