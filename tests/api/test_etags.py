import pytest

from fiscus.api.etags import etag, matching_version
from fiscus.api.problems import Problem

TABLE = [
    # If-Match, If-None-Match, version that is there, what the ledger must insist on (or the code of the problem)
    (b'"3"', None, 3, 3),
    (b"*", None, 3, 3),
    (b'"2", "3"', None, 3, 3),
    (b'"2"', None, 3, "precondition_failed"),
    (b'W/"3"', None, 3, "precondition_failed"),
    (b"*", None, None, "precondition_failed"),
    (b'"3"', None, None, "precondition_failed"),
    (None, b"*", None, 0),
    (None, b"*", 3, "precondition_failed"),
    (None, b'"3"', 3, "precondition_failed"),
    (None, b'W/"3"', 3, "precondition_failed"),
    (None, b'"2"', 3, 3),
    (b'"3"', b'"2"', 3, 3),
    (b'"*"', None, 3, "precondition_failed"),
    (b'"2"', b"x", 3, "invalid"),
    (b"3", None, 3, "invalid"),
    (b"", None, 3, "invalid"),
    (b'"3', None, 3, "invalid"),
    (None, b"x", 3, "invalid"),
    (b'"' + b"x" * 2_000 + b'"', None, 3, "invalid"),
]


@pytest.mark.parametrize(("if_match", "if_none_match", "current", "expected"), TABLE)
def test_conditions_become_the_version_that_must_be_there(if_match, if_none_match, current, expected):
    result = matching_version(if_match, if_none_match, current)
    if isinstance(expected, str):
        assert isinstance(result, Problem)
        assert result.code == expected
        assert result.field in ("If-Match", "If-None-Match")
    else:
        assert result == expected


def test_a_version_is_a_strong_etag():
    assert etag(7) == (b"etag", b'"7"')
