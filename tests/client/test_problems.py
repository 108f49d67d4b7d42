from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from fiscus.api.problems import STATUSES, error_problem, refusal_problem
from fiscus.client.problems import decode_problem
from fiscus.contract import Balance, Refused
from fiscus.contract.errors import BudgetUnavailable, LedgerCorrupt, StoreUnavailable, TreasuryError, UnknownFormat
from fiscus.core.outcomes import RefusalCode

BINDING = Balance(
    account="team:a",
    budget="main",
    unit="tokens",
    mode="enforce",
    limit=2**53 - 1,
    covered=1,
    held=2,
    quarantined=3,
    uncovered=4,
    spent=5,
    available=-6,
    overdrawn=6,
    window_start=datetime(2026, 1, 1, tzinfo=UTC),
    window_end=None,
    match={"model": "m"},
)


@pytest.mark.parametrize("code", get_args(RefusalCode))
def test_a_refusal_comes_back_as_it_was_said(code):
    refused = Refused(
        code=code,
        detail="why",
        field="amounts.tokens",
        binding=BINDING,
        requested=7,
        retry_after_s=3,
        resets_at=datetime(2026, 2, 1, tzinfo=UTC),
        index=2,
    )
    body = msgspec.json.encode(refusal_problem(refused))
    assert decode_problem(STATUSES[code], body) == refused


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BudgetUnavailable("later", 7), BudgetUnavailable),
        (StoreUnavailable("disk"), BudgetUnavailable),
        (LedgerCorrupt("gap"), LedgerCorrupt),
        (UnknownFormat("new"), UnknownFormat),
        (TreasuryError("odd"), TreasuryError),
    ],
)
def test_an_error_comes_back_as_an_error_and_never_as_a_refusal(error, kind):
    back = decode_problem(503, msgspec.json.encode(error_problem(error)))
    assert type(back) is kind
    assert str(back) == str(error)
    if kind is BudgetUnavailable:
        assert back.retry_after_s == error.retry_after_s


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_that_finds_nobody_means_unavailable(status):
    back = decode_problem(status, b"<html>", "12")
    assert isinstance(back, BudgetUnavailable)
    assert back.retry_after_s == 12


@pytest.mark.parametrize("retry_after", [None, "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "²", ""])
def test_a_retry_after_that_is_no_number_counts_as_a_second(retry_after):
    back = decode_problem(503, b"", retry_after)
    assert isinstance(back, BudgetUnavailable)
    assert back.retry_after_s == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b'{"code": "internal", "detail": "x"}'), (401, b'{"code": "unauthorized"}'), (404, b"no"), (302, b"")],
)
def test_what_repeating_cannot_cure_is_an_error_that_is_not_retryable(status, body):
    back = decode_problem(status, body)
    assert isinstance(back, TreasuryError)
    assert not back.retryable


def test_too_many_requests_means_later():
    back = decode_problem(429, b'{"code": "rate_limited", "detail": "slow down", "retry_after_s": 4}')
    assert isinstance(back, BudgetUnavailable)
    assert back.retry_after_s == 4
