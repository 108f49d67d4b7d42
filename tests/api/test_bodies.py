import msgspec
import pytest

from fiscus.api.bodies import (
    AccountsParameters,
    BatchBody,
    BudgetBody,
    HoldBody,
    SettleBody,
    UsageBody,
    UsageParameters,
    decode_body,
    decode_parameters,
    decode_text,
)
from fiscus.api.problems import Problem
from fiscus.core.commands import PutBudget, Reserve

HOLD = b'{"id": "h", "account": "a", "amounts": %s}'

BODIES = [
    # type, body, code, field
    (HoldBody, b"", "malformed", None),
    (HoldBody, b'{"id": "h"', "malformed", None),
    (HoldBody, b"{'id': 1}", "malformed", None),
    (HoldBody, b'{"id": "h", "account": "a"} x', "malformed", None),
    (HoldBody, b"\xef\xbb\xbf{}", "malformed", None),
    (HoldBody, b'{"id": "\xff", "account": "a"}', "malformed", None),
    (HoldBody, b'{"id": "\\ud800", "account": "a"}', "malformed", None),
    (HoldBody, b'{"id": "a\x01", "account": "a"}', "malformed", None),
    (HoldBody, b'{"id": "h", "account": "a", "amounts": ' + b"[" * 100_000, "invalid", "amounts"),
    (HoldBody, b"[" * 100_000, "invalid", None),
    (HoldBody, b"null", "invalid", None),
    (HoldBody, b"{}", "invalid", "id"),
    (HoldBody, b'{"id": "h"}', "invalid", "account"),
    (HoldBody, b'{"id": "h", "account": 7}', "invalid", "account"),
    (HoldBody, b'{"id": "h", "account": "a", "surprise": 1}', "invalid", "surprise"),
    (HoldBody, b'{"id": "h", "account": "a", "also": ["b", 1]}', "invalid", "also[1]"),
    (HoldBody, b'{"id": "h", "account": "a", "attributes": {"model": "m", "x": 1}}', "invalid", "attributes.x"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": 1.5}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": 1.0}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": 1e3}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": 1e400}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": -1e400}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": "7"}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": true}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": null}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % (b'{"calls": 1, "tokens": ' + b"9" * 5_000 + b"}"), "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": NaN}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": Infinity}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"calls": 1, "tokens": -Infinity}', "invalid", "amounts.tokens"),
    (HoldBody, HOLD % b'{"pennies": 1}', "invalid", "amounts"),
    (HoldBody, HOLD % b"[1]", "invalid", "amounts"),
    (SettleBody, b'{"record": {"tokens": {"input": 1.5}}}', "invalid", "record.tokens.input"),
    (SettleBody, b'{"record": {"value": NaN}}', "invalid", "record.value"),
    (SettleBody, b'{"record": {"value": 1e400}}', "invalid", "record.value"),
    (SettleBody, b'{"record": {"outcome": "odd"}}', "invalid", "record.outcome"),
    (SettleBody, b'{"id": "h"}', "invalid", "id"),
    (UsageBody, b'{"id": "h"}', "invalid", "account"),
    (UsageBody, b'{"id": "h", "account": null}', "invalid", "account"),
    (BudgetBody, b'{"unit": "tokens"}', "invalid", "limit"),
    (BudgetBody, b'{"unit": "euros", "limit": 1}', "invalid", "unit"),
    (BudgetBody, b'{"unit": "tokens", "limit": 1, "thresholds": {"50": "loud"}}', "invalid", "thresholds.50"),
    (BudgetBody, b'{"unit": "tokens", "limit": 1, "if_version": 1}', "invalid", "if_version"),
    (BatchBody, b'{"operations": []}', "invalid", "operations"),
    (BatchBody, b'{"operations": [{"id": "h"}]}', "invalid", "operations[0].op"),
    (BatchBody, b'{"operations": [{"op": "put_key", "key": "k"}]}', "invalid", "operations[0].op"),
    (
        BatchBody,
        b'{"operations": [{"op": "release", "id": "a"}, {"op": "reserve", "id": "h", "account": "a", '
        b'"amounts": {"calls": 1, "cost": 0.5}}]}',
        "invalid",
        "operations[1].amounts.cost",
    ),
    (
        BatchBody,
        b'{"operations": [' + b'{"op": "release", "id": "a"},' * 1000 + b'{"op": "release", "id": "a"}]}',
        "invalid",
        "operations",
    ),
]


@pytest.mark.parametrize(("kind", "body", "code", "field"), BODIES, ids=[str(row[1][:70]) for row in BODIES])
def test_a_bad_body_is_a_problem_that_names_the_field(kind, body, code, field):
    problem = decode_body(body, msgspec.json.Decoder(kind))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.field) == (code, field)
    assert problem.status in (400, 422)
    assert field is None or field in problem.detail
    assert len(problem.detail) <= 1_000


def test_a_body_has_what_the_command_has_except_what_stands_in_the_address():
    assert set(HoldBody.__struct_fields__) == set(Reserve.__struct_fields__)
    assert set(BudgetBody.__struct_fields__) == set(PutBudget.__struct_fields__) - {"account", "budget", "if_version"}


def test_what_is_left_out_of_a_body_is_the_default_of_the_command():
    body = decode_body(b'{"unit": "tokens", "limit": 5}', msgspec.json.Decoder(BudgetBody))
    command = PutBudget(account="a", unit="tokens", limit=5)
    assert all(getattr(body, name) == getattr(command, name) for name in body.__struct_fields__)


QUERIES = [
    # type, query, code, field
    (AccountsParameters, b"limit=0", "invalid", "limit"),
    (AccountsParameters, b"limit=1001", "invalid", "limit"),
    (AccountsParameters, b"limit=-1", "invalid", "limit"),
    (AccountsParameters, b"limit=x", "invalid", "limit"),
    (AccountsParameters, b"limit=1.0", "invalid", "limit"),
    (AccountsParameters, b"limit=1e2", "invalid", "limit"),
    (AccountsParameters, b"limit=", "invalid", "limit"),
    (AccountsParameters, b"limit=" + b"9" * 5_000, "invalid", "limit"),
    (AccountsParameters, b"limit=1&limit=2", "invalid", "limit"),
    (AccountsParameters, b"min_seq=-1", "invalid", "min_seq"),
    (AccountsParameters, b"min_seq=9223372036854775808", "invalid", "min_seq"),
    (AccountsParameters, b"status=asleep", "invalid", "status"),
    (AccountsParameters, b"status=null", "invalid", "status"),
    (AccountsParameters, b"order=name", "invalid", "order"),
    (AccountsParameters, b"prefix=%zz", "malformed", None),
    (AccountsParameters, b"prefix=%", "malformed", None),
    (AccountsParameters, b"prefix=%ff", "malformed", None),
    (AccountsParameters, b"prefix=\xff", "malformed", None),
    (AccountsParameters, b"&".join(b"p%d=1" % n for n in range(100)), "malformed", None),
    (UsageParameters, b"since=yesterday", "invalid", "since"),
    (UsageParameters, b"since=2026-01-01T00:00:00", "invalid", "since"),
    (UsageParameters, b"since=5", "invalid", "since"),
]


@pytest.mark.parametrize(("kind", "query", "code", "field"), QUERIES, ids=[str(row[1][:50]) for row in QUERIES])
def test_a_bad_parameter_is_a_problem_that_names_it(kind, query, code, field):
    problem = decode_parameters(query, kind)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.field) == (code, field)


def test_parameters_are_read_as_what_they_are():
    found = decode_parameters(b"limit=5&prefix=team%3A&status=active&min_seq=12", AccountsParameters)
    assert found == AccountsParameters(limit=5, prefix="team:", status="active", min_seq=12)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"team:a", "team:a"),
        (b"team%3Aa", "team:a"),
        (b"%C3%A9", "é"),
        (b"a+b", "a+b"),
        (b"%00", "\x00"),
        (b"%zz", None),
        (b"%4", None),
        (b"%ff", None),
        (b"\xc3\xa9", None),
        (b"%ED%A0%80", None),
    ],
)
def test_a_part_of_an_address_is_percent_encoded_utf_8_or_nothing(raw, text):
    assert decode_text(raw) == text
