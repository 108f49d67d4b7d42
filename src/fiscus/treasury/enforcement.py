"""What a node has decided about reserves: counted where the answers go out, by tenant (R51)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from fiscus.analytics.shares import percent
from fiscus.contract.queries import PAGE_LENGTH_MAX, EnforcementView, ListOverrides, OverridesPage, ReadEnforcement
from fiscus.contract.treasury import Treasury
from fiscus.core.outcomes import AnyOutcome, HoldAnswer, Refused

HELD = "held"
OVERRIDES_COUNTED_MAX = 10_000


def count(decided: Counter[str], outcome: AnyOutcome) -> None:
    """One more reserve that was decided; one that waits is not yet."""
    if type(outcome) is Refused:
        decided[outcome.code] += 1
    elif type(outcome) is HoldAnswer and outcome.state != "waiting":
        decided[HELD] += 1


async def enforcement_view(
    treasury: Treasury, query: ReadEnforcement, decided: Mapping[str, int]
) -> EnforcementView | Refused:
    """What was counted, with the overrides that were granted."""
    if query.scope is not None:
        return Refused(code="forbidden", detail="these counts are of the whole ledger")
    granted, seen, after, as_of_seq = 0, 0, "", 0
    while seen < OVERRIDES_COUNTED_MAX:
        listed = ListOverrides(tenant=query.tenant, after=after, limit=PAGE_LENGTH_MAX, min_seq=query.min_seq)
        page = await treasury.read(listed)
        if isinstance(page, Refused):
            return page
        assert isinstance(page, OverridesPage)
        granted += sum(one.amount > 0 for one in page.overrides)
        seen += len(page.overrides)
        as_of_seq = page.as_of_seq
        if page.next is None:
            break
        after = page.next
    refusals = {code: number for code, number in decided.items() if code != HELD}
    checks, blocked = sum(decided.values()), sum(refusals.values())
    readiness = await treasury.readiness()
    return EnforcementView(
        as_of_seq=as_of_seq,
        checks_performed=checks,
        budgets_exceeded=refusals.get("budget_exceeded", 0),
        requests_blocked=blocked,
        refusals=refusals,
        blocked_percent=percent(blocked, checks),
        overrides_granted=granted,
        healthy=readiness.ready and 2 * blocked < max(1, checks),
    )
