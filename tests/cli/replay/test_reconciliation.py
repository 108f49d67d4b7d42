"""What counts as a difference and as overspend, on books made by hand."""

from datetime import UTC, datetime

import pytest

from fiscus.cli.replay.driver import Lost
from fiscus.cli.replay.fleet import COUNTED, LIMITED, Names, paths, plan_fleet
from fiscus.cli.replay.provider import Provider, upper_bound
from fiscus.cli.replay.reconciliation import reconcile
from fiscus.cli.traces import Call
from fiscus.core.outcomes import Balance

CALL = Call(
    row=1, at_s=0.0, session="a", model="claude-haiku-4-5", input_tokens=1_000, output_tokens=100, duration_s=1.0
)
NAMES = Names(agents=1)
FLEET = plan_fleet([CALL], NAMES, in_flight=1, seed=1)
[(_, PATH)] = paths([CALL], NAMES)
[AGENT] = [account for account in FLEET.accounts.values() if account.allocated]


def books(spent: dict, **fields) -> dict:
    """The books after calls that used ``spent`` in every account, the agent's allocation included."""
    return {
        (account.name, unit): balance(account, unit, spent[unit], **fields)
        for account in FLEET.accounts.values()
        for unit in (*LIMITED, *(COUNTED if account is FLEET.root else ()))
    }


def balance(account, unit, spent: int, **fields) -> Balance:
    above_allocation = unit in AGENT.allocated and account in list(FLEET.upward(AGENT))[1:]
    values = {
        "limit": account.limits[unit],
        "covered": spent,
        "held": AGENT.limits[unit] - spent if above_allocation else 0,
        "quarantined": 0,
        "uncovered": 0,
        "spent": spent,
    } | fields
    return Balance(
        account=account.name,
        budget=f"{unit}-lifetime",
        unit=unit,
        mode="enforce",
        available=0,
        overdrawn=0,
        window_start=datetime(2026, 1, 1, tzinfo=UTC),
        window_end=None,
        **values,
    )


def produced(times: int = 1):
    provider = Provider()
    used = {}
    for _ in range(times):
        used = provider.produce(CALL, PATH)
    return provider, {unit: times * amount for unit, amount in used.items()}


def test_books_that_say_what_was_produced_differ_in_nothing():
    provider, used = produced()
    found = reconcile(FLEET, provider, (), books(used))
    assert {line.account for line in found.lines} == set(FLEET.accounts)
    assert all(line.difference == line.overspend == 0 for line in found.lines)


def test_errors_of_two_accounts_do_not_cancel_each_other():
    provider, used = produced()
    wrong = books(used)
    for name, error in ((PATH[1], 5), (PATH[2], -5)):
        account = FLEET.accounts[name]
        wrong[name, "cost"] = balance(account, "cost", used["cost"] + error)
    assert reconcile(FLEET, provider, (), wrong).difference("cost") == 10


@pytest.mark.parametrize("fields", [{"quarantined": 3}, {"held": 10**9}, {"limit": 1}], ids=str)
def test_what_is_held_quarantined_or_limited_otherwise_is_a_difference_too(fields):
    provider, used = produced()
    assert reconcile(FLEET, provider, (), books(used, **fields)).difference("tokens") > 0


def test_a_limit_that_was_passed_in_truth_is_overspend_though_the_books_hide_it():
    provider, _ = produced(times=500)
    _, little = produced()
    found = reconcile(FLEET, provider, (), books(little))
    assert found.overspend("tokens") > 0
    assert found.overspend("cost") > 0


def test_a_limit_that_was_passed_on_the_books_is_overspend_though_little_was_produced():
    provider, used = produced()
    found = reconcile(FLEET, provider, (), books(used, covered=10**12))
    assert found.overspend("tokens") > 0


def test_a_killed_call_must_stand_in_quarantine_at_its_bound_and_inside_the_allocation_above_it():
    provider, used = produced()
    bound = upper_bound(CALL)
    lost = [Lost(call=CALL, path=PATH, bound=bound, used=used, expires_at=datetime(2026, 1, 1, tzinfo=UTC))]
    nothing = dict.fromkeys(used, 0)
    right = books(nothing)
    for name in PATH:
        for unit in (*LIMITED, *(COUNTED if name == PATH[0] else ())):
            inside = unit in AGENT.allocated and FLEET.accounts[name] in list(FLEET.upward(AGENT))[1:]
            right[name, unit] = balance(
                FLEET.accounts[name], unit, 0, **({} if inside else {"quarantined": bound[unit]})
            )
    assert all(line.difference == 0 for line in reconcile(FLEET, provider, lost, right).lines)
    assert reconcile(FLEET, provider, (), right).difference("tokens") > 0, "reported, and still not spent"
