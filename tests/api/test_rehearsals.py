"""``POST /v1/rehearsals``: who may ask, and what is wrong with a body."""

from __future__ import annotations

import pytest

from tests.api.service import FIRST_SECRET, Api
from tests.api.test_keys import issued


async def test_a_rehearsal_is_for_operators(keyed: Api) -> None:
    await keyed.put("/v1/accounts/org", {}, key=FIRST_SECRET)
    body = {"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": 10}]}]}
    for role, status in (("operator", 200), ("viewer", 403), ("account", 403)):
        account = {"account": "org"} if role == "account" else {}
        key = (await issued(keyed, role=role, **account))["secret"]
        assert (await keyed.post("/v1/rehearsals", body, key=key)).status == status


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"limit": 50_001}, "limit"),
        ({"since": "2026-11-01T00:00:00"}, "since"),
        (
            {"accounts": [{"account": "a", "budgets": [{"unit": "tokens", "limit": 1.5}]}]},
            "accounts[0].budgets[0].limit",
        ),
        (
            {"accounts": [{"account": "a", "budgets": [{"unit": "tokens", "limit": -1}]}]},
            "accounts[0].budgets[0].limit",
        ),
        ({"accounts": [{"account": "a"}, {"account": "a"}]}, "accounts[1].account"),
        ({"accounts": [{"account": "a", "parent": "a"}]}, "accounts[0].parent"),
        ({"templates": [{"pattern": "no star"}]}, "templates[0].pattern"),
        ({"accounts": [{"account": "a", "owner": "ada"}]}, "accounts[0].owner"),
    ],
)
async def test_what_is_wrong_with_a_declaration_is_named_by_its_field(api: Api, body, field) -> None:
    answer = await api.post("/v1/rehearsals", body)
    assert (answer.status, answer.json["field"]) == (422, field), answer.json
