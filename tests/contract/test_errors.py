"""Every refusal has an exception and a status, and every example in a docstring is true."""

import doctest
import importlib
import pkgutil
from typing import get_args

import pytest

import fiscus.contract
import fiscus.core
import fiscus.treasury
from fiscus.api.problems import STATUSES, TITLES, refusal_problem
from fiscus.contract import errors
from fiscus.contract.errors import REFUSALS, FiscusError, Refusal, TreasuryError, refusal
from fiscus.core.outcomes import RefusalCode, Refused

CODES = get_args(RefusalCode)
PACKAGES = (fiscus.core, fiscus.contract, fiscus.treasury)
MODULES = sorted(
    f"{package.__name__}.{found.name}" for package in PACKAGES for found in pkgutil.iter_modules(package.__path__)
)
EXCEPTIONS = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, FiscusError)]


def test_there_is_an_exception_for_every_code_and_no_other():
    assert set(REFUSALS) == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_refusal_has_an_exception_that_keeps_its_code_and_a_status(code):
    refused = Refused(code=code, detail="because")
    error = refusal(refused)
    assert isinstance(error, Refusal)
    assert (error.code, error.refused, str(error), error.binding) == (code, refused, "because", None)
    problem = refusal_problem(refused)
    assert 400 <= problem.status < 500, "a refusal is never an error of the service"
    assert problem.code == code
    assert TITLES[code] == problem.title


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("budget_exceeded", 402),
        ("budget_busy", 429),
        ("account_suspended", 403),
        ("account_terminated", 403),
        ("forbidden", 403),
        ("conflict", 409),
        ("unknown_account", 404),
        ("invalid", 422),
    ],
)
def test_statuses_are_those_of_the_design(code, status):
    assert STATUSES[code] == status


PASSING = ("budget_busy", "too_many_accounts", "too_many_overrides")


@pytest.mark.parametrize("code", CODES)
def test_only_what_may_pass_by_itself_is_retryable(code):
    assert refusal(Refused(code=code, detail="x")).retryable is (code in PASSING)


def test_a_retryable_refusal_says_when():
    assert refusal_problem(Refused(code="budget_busy", detail="x")).retry_after_s == 1
    assert refusal_problem(Refused(code="budget_exceeded", detail="x")).retry_after_s is None


def test_an_error_is_never_a_refusal_nor_a_refusal_an_error():
    assert not issubclass(TreasuryError, Refusal)
    assert not issubclass(Refusal, TreasuryError)
    for error in EXCEPTIONS:
        assert not (issubclass(error, TreasuryError) and issubclass(error, Refusal))
        if issubclass(error, TreasuryError):
            assert error.code not in CODES
            # What was archived is not here any more, however often one asks again.
            assert STATUSES.get(error.code, 503) == (410 if error is errors.EntriesArchived else 503)


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: error.__name__)
def test_every_exception_says_what_to_do_next(error):
    assert error.__doc__
    assert len(error.__doc__.split()) > 5


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_are_true(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_there_are_examples():
    assert len(MODULES) > 15
    assert sum(doctest.testmod(importlib.import_module(module)).attempted for module in MODULES) >= 10
