from typing import get_args

import pytest

from fiscus.api.problems import STATUSES, TITLES, error_problem, problem, refusal_problem
from fiscus.contract import errors
from fiscus.contract.errors import BudgetUnavailable, TreasuryError
from fiscus.core.outcomes import RefusalCode, Refused


def test_every_code_of_a_refusal_has_a_status_below_500():
    assert all(400 <= STATUSES[code] < 500 for code in get_args(RefusalCode))


def test_every_code_has_a_title_and_every_title_a_code():
    assert STATUSES.keys() == TITLES.keys()


TABLE = {
    400: {"malformed"},
    401: {"unauthorized"},
    402: {"budget_exceeded"},
    403: {"account_suspended", "account_terminated", "account_closed", "forbidden", "gated"},
    409: {
        "conflict",
        "already_settled",
        "other_windows",
        "lower_priority",
        "below_use",
        "idempotency_expired",
        "beyond_policy",
    },
    410: {"gone"},
    412: {"precondition_failed"},
    413: {"too_large"},
    415: {"unsupported_media_type"},
    422: {"invalid", "unit_not_bounded", "also_not_shared"},
    429: {"budget_busy", "too_many_accounts", "too_many_overrides", "rate_limited"},
    503: {"budget_unavailable", "treasury_error", "ledger_busy", "ledger_corrupt", "unknown_format", "drift"},
}


@pytest.mark.parametrize("status", TABLE)
def test_the_statuses_are_what_the_interface_rules_say(status):
    assert {code for code, found in STATUSES.items() if found == status} == TABLE[status]


def test_what_is_unknown_is_404():
    assert all(STATUSES[code] == 404 for code in STATUSES if code.startswith("unknown_") and code != "unknown_format")


def test_every_error_that_a_treasury_may_raise_is_a_problem_of_its_own_code_or_of_the_general_one():
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, TreasuryError):
            assert error_problem(_made(error)).status == (410 if error is errors.EntriesArchived else 503)


def test_what_was_archived_comes_with_the_entry_to_begin_with():
    told = error_problem(errors.EntriesArchived("entries 1 to 6 were archived", 7))
    assert (told.code, told.status, told.first_seq) == ("gone", 410, 7)


def _made(kind: type[TreasuryError]) -> TreasuryError:
    error = kind.__new__(kind)
    Exception.__init__(error, "x")
    if isinstance(error, BudgetUnavailable):
        error.retry_after_s = 3
    if isinstance(error, errors.EntriesArchived):
        error.first_seq = 7
    return error


def test_a_refusal_that_passes_says_when_to_come_back_even_when_the_ledger_does_not():
    assert refusal_problem(Refused(code="too_many_accounts", detail="x")).retry_after_s == 1
    assert refusal_problem(Refused(code="budget_busy", detail="x", retry_after_s=9)).retry_after_s == 9
    assert refusal_problem(Refused(code="conflict", detail="x")).retry_after_s is None


def test_a_detail_is_never_longer_than_its_bound():
    assert len(problem("invalid", "x" * 10_000).detail) == 1_000
    assert len(refusal_problem(Refused(code="invalid", detail="x" * 10_000)).detail) == 1_000
