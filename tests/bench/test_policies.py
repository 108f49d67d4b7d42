"""The measures of the policies, short: what they claim holds at any length."""

from dataclasses import replace

import pytest

from bench import fairness, lending_peers, policies, policy_cost
from bench.bars import measures
from fiscus.core import lending
from fiscus.treasury import reallocations


def test_nobody_starves_and_the_order_is_kept():
    figures = fairness.measure(0.1)
    assert figures["wait_served"] == figures["wait_order_kept"] == 1
    assert figures["ended_in_vain"] == 0
    means = list(figures["mean_wait_s_by_priority"].values())
    assert means == sorted(means, reverse=True), "the more important, the sooner"


def test_the_check_of_the_order_sees_who_overtakes(monkeypatch):
    """The same with the ledger's order turned round: the simulation has a list of its own."""
    monkeypatch.setattr("fiscus.core.tickets.turn_of", lambda draft, account, since: -since)
    monkeypatch.setattr("fiscus.core.holds.turn_of", lambda draft, account, since: -since)
    assert fairness.measure(0.05)["wait_order_kept"] < 1


def test_every_bar_has_its_measure():
    assert set(measures(policies.BARS)) == {"fairness", "policy_gain", "policy_cost", "lending_peers"}


@pytest.mark.slow
def test_reallocations_at_once_mint_nothing_and_end_on_both_stores():
    # covers E8
    figures = lending_peers.measure(0.005)
    assert figures["reallocations_wrong"] == 0
    assert figures["reallocations_made"] >= 1
    for store in ("sqlite", "postgres"):
        assert figures[store]["loans"] == figures[store]["loans_ended"] > 0


@pytest.mark.slow
async def test_the_look_at_the_journal_sees_a_lender_below_its_reserve(tmp_path, monkeypatch):
    """The same with a ledger that forgets reserves."""
    lacking = lending.lacking_to_move
    monkeypatch.setattr(lending, "lacking_to_move", lambda draft, paths, amount, kept: lacking(draft, paths, amount, 0))
    monkeypatch.setattr("fiscus.treasury.reallocations.as_seat", without_reserve(reallocations.as_seat))
    figures = await lending_peers._run(f"sqlite:///{tmp_path / 'lending.db'}", 50)
    assert figures["lenders_below_reserve"] > 0


def without_reserve(as_seat):
    return lambda draft, seat, unit: replace(as_seat(draft, seat, unit), min_reserve=0, borrowed=0)


def test_policies_cost_a_decision_what_is_told():
    figures = policy_cost.measure(0.001)
    assert figures["policies_vs_plain"] == figures["ratios"]["fits"] > 0
