"""By what a repeated request is recognised."""

import msgspec

from fiscus.core.commands import OverridePolicy, PutAccount, PutBudget, Request, SetStatus
from fiscus.treasury.idempotency import request_digest


def digest(command, scope=None):
    return request_digest(Request(command=command, scope=scope))


def budget(**fields):
    return PutBudget(account="a", unit="tokens", limit=5, **fields)


# covers E7
def test_the_same_body_is_the_same_whether_its_defaults_were_written_or_not():
    assert digest(budget()) == digest(budget(mode="enforce", match={}, override=None))
    assert digest(budget()) == digest(msgspec.json.decode(msgspec.json.encode(budget()), type=PutBudget))
    assert digest(PutAccount(account="a")) == digest(PutAccount(account="a", labels=None))


def test_another_body_another_command_or_another_scope_is_another():
    policy = OverridePolicy(max_percent=10)
    bodies = [
        budget(),
        budget(mode="warn"),
        budget(override=OverridePolicy()),
        budget(override=policy),
        PutAccount(account="a"),
        PutAccount(account="a", confidence_threshold=None),
        PutAccount(account="a", confidence_threshold=0.5),
        SetStatus(account="a", status="active"),
    ]
    assert len({digest(body) for body in bodies} | {digest(budget(), scope="a")}) == len(bodies) + 1


# covers E7
def test_what_was_said_of_the_version_counts_and_not_the_version_that_followed():
    said = [Request(command=budget(if_version=version), condition="if-match: *") for version in (1, 2)]
    assert request_digest(said[0]) == request_digest(said[1])
    assert len({request_digest(said[0]), digest(budget(if_version=1)), digest(budget())}) == 3


def test_a_repeat_is_recognised_by_a_version_whose_command_has_more_fields():
    newer = msgspec.defstruct("PutAccount", [("more", int, 0)], bases=(PutAccount,), kw_only=True)
    assert digest(newer(account="a", priority=2)) == digest(PutAccount(account="a", priority=2))
    assert digest(newer(account="a", more=1)) != digest(PutAccount(account="a"))
