"""What a key that is bound to an account is told: nothing of the accounts above and beside it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fiscus.core.outcomes import AccountAnswer, CompoundAnswer, HoldAnswer, LoanAnswer, Refused
from fiscus.core.scopes import in_scope
from fiscus.core.state import Draft

T = TypeVar("T")
STATUS_CODES = frozenset(("account_suspended", "account_terminated", "account_closed"))


def within_sight(draft: Draft, outcome: T, scope: str | None) -> T:
    """An outcome without the names and figures of accounts that the scope does not reach; None: it reaches all."""
    if scope is None:
        return outcome
    seen: object = outcome
    if isinstance(outcome, Refused):
        seen = _refused(draft, outcome, scope)
    elif isinstance(outcome, HoldAnswer):
        if outcome.warnings or outcome.loans:
            warnings = tuple(one for one in outcome.warnings if sees(draft, one.partition("/")[0], scope))
            seen = msgspec.structs.replace(outcome, warnings=warnings, loans=_loans(draft, outcome.loans, scope))
    elif isinstance(outcome, AccountAnswer):
        own = tuple(loan for loan in outcome.loans if sees(draft, loan.account, scope))
        seen = msgspec.structs.replace(outcome, loans=_loans(draft, own, scope))
    elif isinstance(outcome, LoanAnswer):
        [seen] = _loans(draft, (outcome,), scope)
    elif isinstance(outcome, CompoundAnswer):
        answers = tuple(within_sight(draft, answer, scope) for answer in outcome.answers)
        seen = msgspec.structs.replace(outcome, answers=answers)
    return seen  # type: ignore[return-value]  # of the same type


def sees(draft: Draft, name: str, scope: str) -> bool:
    """Whether an account is within a scope; one without a name is not."""
    number = draft.names.find(name)
    return number is not None and in_scope(draft, draft.accounts[number], scope)


def _refused(draft: Draft, refused: Refused, scope: str) -> Refused:
    binding = refused.binding
    if binding is not None and not sees(draft, binding.account, scope):
        return msgspec.structs.replace(refused, detail=f"a budget above {scope} lacks room", binding=None)
    name, _, status = refused.detail.rpartition(" is ")
    if refused.code in STATUS_CODES and not sees(draft, name, scope):
        return msgspec.structs.replace(refused, detail=f"an account above {scope} is {status}")
    return refused


def _loans(draft: Draft, loans: tuple[LoanAnswer, ...], scope: str) -> tuple[LoanAnswer, ...]:
    """Loans of which the shares of lenders outside are not told; their sums are."""
    return tuple(
        msgspec.structs.replace(loan, parts=tuple(part for part in loan.parts if sees(draft, part.account, scope)))
        for loan in loans
    )
