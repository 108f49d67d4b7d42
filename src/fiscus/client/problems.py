"""From the service's problems (RFC 9457) back to the values and errors that they were made of."""

from __future__ import annotations

from datetime import datetime

import msgspec

from fiscus.contract import Balance, Refused, ShortageStep
from fiscus.contract.errors import (
    REFUSALS,
    BudgetUnavailable,
    EntriesArchived,
    LedgerCorrupt,
    LedgerDrift,
    TreasuryError,
    UnknownFormat,
)

RETRY_AFTER_S_MAX = 3_600
TEXT_LENGTH_MAX = 200

PASSING_STATUSES = frozenset((502, 503, 504))
"""A service, or a proxy before it, that is away for a moment."""

_ERRORS: dict[str, type[TreasuryError]] = {"ledger_corrupt": LedgerCorrupt, "unknown_format": UnknownFormat}
_FOR_GOOD = frozenset(("ledger_busy", "ledger_corrupt", "treasury_error", "unknown_format"))


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    detail: str = ""
    field: str | None = None
    binding: Balance | None = None
    requested: int | None = None
    retry_after_s: int | None = None
    resets_at: datetime | None = None
    index: int | None = None
    steps: tuple[ShortageStep, ...] = ()
    first_seq: int | None = None


_decoder = msgspec.json.Decoder(_Problem)


def decode_problem(status: int, body: bytes, retry_after: str | None = None) -> Refused | TreasuryError:
    """What an answer that is not a success says.

    Args:
        status: of the answer, not 2xx.
        body: of the answer; it may come from a proxy that knows nothing of us.
        retry_after: the header of that name.

    Returns:
        The refusal as the ledger gave it, or an error to be raised; ``BudgetUnavailable`` if the same request may
        succeed later.

    >>> decode_problem(402, b'{"code": "budget_exceeded", "detail": "no"}').code
    'budget_exceeded'
    """
    wait_s = _seconds(retry_after)
    try:
        problem = _decoder.decode(body)
    except msgspec.DecodeError:
        if status in PASSING_STATUSES:
            return BudgetUnavailable(f"the service is away: {_excerpt(status, body)}", wait_s or 1)
        return _error("treasury_error", f"no answer of Fiscus: {_excerpt(status, body)}")
    if problem.code in REFUSALS:
        return Refused(
            code=problem.code,  # type: ignore[arg-type]  # the keys of REFUSALS are the codes
            detail=problem.detail,
            field=problem.field,
            binding=problem.binding,
            requested=problem.requested,
            retry_after_s=problem.retry_after_s,
            resets_at=problem.resets_at,
            index=problem.index,
            steps=problem.steps,
        )
    detail = f"{problem.detail} ({problem.field})" if problem.field else problem.detail
    if problem.code == EntriesArchived.code:
        return EntriesArchived(detail, problem.first_seq)
    if problem.code == "drift":
        return LedgerDrift(detail, problem.retry_after_s or wait_s or 1)
    if problem.code == "rate_limited" or (status in PASSING_STATUSES and problem.code not in _FOR_GOOD):
        return BudgetUnavailable(detail, problem.retry_after_s or wait_s or 1)
    return _error(problem.code, detail)


def _error(code: str, detail: str) -> TreasuryError:
    error = _ERRORS.get(code, TreasuryError)(detail)
    error.code = code
    return error


def _seconds(retry_after: str | None) -> int | None:
    """Whole seconds of a ``Retry-After``; None for a date, which we do not read."""
    if retry_after is None or not retry_after.isascii() or not retry_after.isdigit():
        return None
    return min(int(retry_after[:9]), RETRY_AFTER_S_MAX)


def _excerpt(status: int, body: bytes) -> str:
    return f"status {status} {body[:TEXT_LENGTH_MAX].decode('utf-8', 'replace')}".strip()
