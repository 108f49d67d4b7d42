"""Problems (RFC 9457), and the one table from codes to HTTP statuses."""

from __future__ import annotations

from datetime import datetime

import msgspec

from fiscus.contract.errors import BudgetUnavailable, EntriesArchived, TreasuryError
from fiscus.core.commands import ShortageStep
from fiscus.core.outcomes import Balance, Refused

CONTENT_TYPE = "application/problem+json"
DETAIL_LENGTH_MAX = 1_000

STATUSES: dict[str, int] = {
    # The request cannot be read, or may not be made
    "malformed": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "unsupported_media_type": 415,
    "rate_limited": 429,
    # The ledger said no
    "budget_exceeded": 402,
    "gated": 403,
    "account_suspended": 403,
    "account_terminated": 403,
    "account_closed": 403,
    "forbidden": 403,
    "unknown_account": 404,
    "unknown_hold": 404,
    "unknown_budget": 404,
    "unknown_allocation": 404,
    "unknown_adjustment": 404,
    "unknown_loan": 404,
    "unknown_override": 404,
    "unknown_request": 404,
    "unknown_template": 404,
    "unknown_price": 404,
    "unknown_key": 404,
    "gone": 410,
    "conflict": 409,
    "already_settled": 409,
    "other_windows": 409,
    "lower_priority": 409,
    "below_use": 409,
    "idempotency_expired": 409,
    "beyond_policy": 409,
    "precondition_failed": 412,
    "invalid": 422,
    "unit_not_bounded": 422,
    "also_not_shared": 422,
    "budget_busy": 429,
    "too_many_accounts": 429,
    "too_many_overrides": 429,
    # The ledger could not be asked
    "internal": 500,
    "budget_unavailable": 503,
    "drift": 503,
    "treasury_error": 503,
    "ledger_busy": 503,
    "ledger_corrupt": 503,
    "unknown_format": 503,
}
"""Every ``code`` of a problem with its status."""

TITLES: dict[str, str] = {
    "malformed": "The request cannot be read",
    "unauthorized": "A key is needed",
    "not_found": "There is no such address",
    "method_not_allowed": "This address does not take this method",
    "too_large": "The body is too long",
    "unsupported_media_type": "The body must be JSON",
    "rate_limited": "Too many requests",
    "budget_exceeded": "It does not fit the budget",
    "budget_busy": "It would fit once calls in flight have ended",
    "gated": "The task has been done with enough confidence",
    "account_suspended": "The account is suspended",
    "account_terminated": "The account is terminated",
    "account_closed": "The account is closed",
    "forbidden": "This caller may not do that",
    "unknown_account": "There is no such account",
    "unknown_hold": "There is no such hold",
    "unknown_budget": "There is no such budget",
    "unknown_allocation": "There is no such allocation",
    "unknown_adjustment": "There is no such adjustment",
    "unknown_loan": "There is no such loan",
    "unknown_override": "There is no such override",
    "unknown_request": "There is no record of such a request",
    "unknown_template": "There is no such template",
    "unknown_price": "There is no such price",
    "unknown_key": "There is no such key",
    "gone": "What was there was archived",
    "conflict": "It contradicts what is there",
    "already_settled": "The hold has ended",
    "other_windows": "The allocations belong to different windows",
    "lower_priority": "Budget does not move to a lower priority",
    "below_use": "More than that is in use",
    "idempotency_expired": "The first answer is no longer kept",
    "beyond_policy": "The policy of the budget does not allow so much",
    "precondition_failed": "It was changed by somebody else",
    "invalid": "A field is wrong",
    "unit_not_bounded": "A unit that is limited has no bound in the request",
    "also_not_shared": "An account to charge as well has an allocation of its own",
    "too_many_accounts": "The template may not open more accounts now",
    "too_many_overrides": "As many requests as there may be wait for a decision",
    "internal": "A fault of the service",
    "budget_unavailable": "The ledger cannot be asked",
    "drift": "The ledger's figures are in doubt",
    "treasury_error": "The ledger cannot answer",
    "ledger_busy": "The ledger is open in another process",
    "ledger_corrupt": "The ledger contradicts itself",
    "unknown_format": "The ledger was written by a newer version",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457). ``code`` is stable and for programs, ``detail`` is a sentence for people.

    Attributes:
        type: ``urn:fiscus:problem:`` and the code.
        field: path of the field, parameter or header that is wrong.
        binding: the window of the budget that lacks room, as it was when the call was decided.
        requested: what was asked of it.
        retry_after_s: seconds after which the same request may succeed; also in ``Retry-After``.
        resets_at: when the binding window ends; absent: never.
        index: position of the command that was refused in an atomic batch.
        steps: what the account's list had tried for it in vain.
        first_seq: the oldest entry of the journal that is still there.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    binding: Balance | None = None
    requested: int | None = None
    retry_after_s: int | None = None
    resets_at: datetime | None = None
    index: int | None = None
    steps: tuple[ShortageStep, ...] = ()
    first_seq: int | None = None


def problem(code: str, detail: str, *, field: str | None = None, retry_after_s: int | None = None) -> Problem:
    """A problem by its code.

    >>> problem("invalid", "limit: must be an integer", field="limit").status
    422
    """
    return Problem(
        type=f"urn:fiscus:problem:{code}",
        title=TITLES[code],
        status=STATUSES[code],
        detail=detail[:DETAIL_LENGTH_MAX],
        code=code,
        field=field,
        retry_after_s=retry_after_s,
    )


def refusal_problem(refused: Refused) -> Problem:
    """A refusal of the ledger as a problem, with everything that explains it."""
    code = refused.code
    return Problem(
        type=f"urn:fiscus:problem:{code}",
        title=TITLES[code],
        status=STATUSES[code],
        detail=refused.detail[:DETAIL_LENGTH_MAX],
        code=code,
        field=refused.field,
        binding=refused.binding,
        requested=refused.requested,
        retry_after_s=refused.retry_after_s if refused.retry_after_s is not None or STATUSES[code] != 429 else 1,
        resets_at=refused.resets_at,
        index=refused.index,
        steps=refused.steps,
    )


def error_problem(error: TreasuryError) -> Problem:
    """An error of the treasury as a problem: nothing was admitted, and the caller may ask again with the same id."""
    code = error.code if error.code in STATUSES else "treasury_error"
    retry_after_s = error.retry_after_s if isinstance(error, BudgetUnavailable) else None
    told = problem(code, str(error), retry_after_s=retry_after_s)
    if isinstance(error, EntriesArchived):
        return msgspec.structs.replace(told, first_seq=error.first_seq)
    return told
