"""Rehearsals, the same in process and over HTTP."""

import pytest

from fiscus.contract import Tokens
from fiscus.contract.errors import ConfigurationInvalid, Invalid

LOWER = {"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": 600, "thresholds": {"50": "info"}}]}]}


@pytest.fixture
async def recorded(treasury):
    """org ← agent:x, agent:y, with three calls; the number of the last entry."""
    await treasury.put_account("org")
    for name in ("agent:x", "agent:y"):
        await treasury.put_account(name, parent="org")
    for index, (name, tokens) in enumerate((("agent:x", 250), ("agent:y", 300), ("agent:x", 100))):
        await treasury.reserve(name, tokens=tokens, id=f"h{index}")
        await treasury.settle(f"h{index}", Tokens(input=tokens, output=0))
    return treasury, (await treasury.readiness()).head_seq


async def test_a_declaration_is_rehearsed_on_the_recorded_calls(recorded):
    treasury, seq = recorded
    view = await treasury.rehearse(LOWER, min_seq=seq)
    assert (view.totals.calls, view.totals.admitted, view.totals.refused) == (3, 2, 1)
    assert [(one.id, one.account, one.budget_account, one.available) for one in view.refusals] == [
        ("h2", "agent:x", "org", 50)
    ]
    assert (view.totals.recorded["tokens"], view.totals.rehearsed["tokens"]) == (650, 550)
    assert view.budgets[0].thresholds == {50: 1}
    assert (await treasury.rehearse({}, min_seq=seq)).totals.refused == 0
    assert (await treasury.account("org")).budgets == ()
    assert (await treasury.readiness()).head_seq == seq


async def test_what_is_wrong_is_named_by_its_field(recorded):
    treasury, seq = recorded
    for declaration, field in (
        (
            {"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": -1}]}]},
            "accounts[0].budgets[0].limit",
        ),
        ({"accounts": [{"account": "org", "mode": "warn"}]}, "accounts[0].mode"),
        ({"budgets": []}, "budgets"),
    ):
        with pytest.raises(ConfigurationInvalid) as wrong:
            await treasury.rehearse(declaration)
        assert wrong.value.field == field
        assert field in str(wrong.value)
    with pytest.raises(Invalid) as refused:
        await treasury.rehearse({"accounts": [{"account": "new", "parent": "nowhere"}]}, min_seq=seq)
    assert refused.value.refused.field == "accounts[0].parent"
    with pytest.raises(Invalid) as refused:
        await treasury.rehearse({}, limit=0)
    assert refused.value.refused.field == "limit"
